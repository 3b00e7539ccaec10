//! Larder on a real Kubernetes with three kubelets, as a user installs it: `make test-k8s` runs these.
//!
//! Every program is in a pod of its own, from an image; nothing of Larder runs outside. The bucket is this machine's.

#[path = "kubelets/claims.rs"]
mod claims;
#[path = "kubelets/deletion.rs"]
mod deletion;
#[path = "kubelets/ends.rs"]
mod ends;
#[path = "kubelets/growth.rs"]
mod growth;
#[path = "kubelets/install.rs"]
mod install;
#[path = "kubelets/readers.rs"]
mod readers;
#[path = "kubelets/refusals.rs"]
mod refusals;
#[path = "kubelets/upgrades.rs"]
mod upgrades;
#[path = "kubelets/world.rs"]
mod world;
