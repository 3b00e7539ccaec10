//! A real Kubernetes for a test: etcd, the API server, the controller-manager and the scheduler as processes.
//!
//! `tests/kit/build` builds them once from their Go modules and prints where; here they are started, each test's on ports
//! and in a folder of its own, and end with it. A [`ControlPlane`] alone has nodes that are objects only: pods are created
//! and bound to them by the real controllers, and run nowhere. A [`Kubernetes`] has nodes with kubelets that run them.

use std::time::Duration;

mod control_plane;
mod faulty;
mod network;
mod nodes;
mod operator;
mod pki;
mod service;

pub use control_plane::{ControlPlane, Kubectl, programs};
pub use faulty::FaultyServer;
pub use nodes::Kubernetes;
pub use operator::{NAMESPACE, Operator};
pub use service::serve_service;

/// Between two looks with kubectl, each of which takes a tenth of a second of a processor.
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// Waits until `condition`, which asks kubectl, gives something.
///
/// # Panics
/// With `what`, when it hasn't by the deadline.
pub fn wait_for<T>(deadline: Duration, what: &str, condition: impl FnMut() -> Option<T>) -> T {
    crate::harness::wait_looking_every(LOOK_EVERY, deadline, what, condition)
}

/// Waits until `condition`, which asks kubectl, holds.
///
/// # Panics
/// With `what`, when it doesn't by the deadline.
pub fn wait_until(deadline: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    wait_for(deadline, what, || condition().then_some(()));
}
