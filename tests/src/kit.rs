//! A real Kubernetes for a test: etcd, the API server, the controller-manager and the scheduler as processes.
//!
//! `tests/kit/build` builds them once from their Go modules and prints where; here they are started, each test's on ports
//! and in a folder of its own, and end with it. Nodes are objects that no kubelet stands behind: pods are created and
//! bound to them by the real controllers, and run nowhere. Nothing else is pretended.

mod control_plane;
mod operator;
mod pki;

pub use control_plane::{ControlPlane, Kubectl};
pub use operator::{NAMESPACE, Operator};
