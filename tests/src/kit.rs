//! A real Kubernetes for a test: etcd, the API server, the controller-manager and the scheduler as processes.
//!
//! `tests/kit/build` builds them once from their Go modules and prints where; here they are started, each test's on ports
//! and in a folder of its own, and end with it. A [`ControlPlane`] alone has nodes that are objects only: pods are created
//! and bound to them by the real controllers, and run nowhere. A [`Kubernetes`] has nodes with kubelets that run them.

mod control_plane;
mod faulty;
mod network;
mod nodes;
mod operator;
mod pki;
mod service;

pub use control_plane::{ControlPlane, Kubectl};
pub use faulty::FaultyServer;
pub use nodes::Kubernetes;
pub use operator::{NAMESPACE, Operator};
pub use service::serve_service;
