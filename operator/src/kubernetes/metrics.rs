//! What the operator counts, under controller-runtime's names, so that the dashboards and alerts people have fit.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Counters; never labelled by object.
#[derive(Default)]
pub struct Metrics {
    /// Reconciles that ended well.
    pub(super) successes: AtomicU64,
    /// Reconciles that failed.
    pub(super) errors: AtomicU64,
    /// Statuses that were written.
    pub(super) statuses: AtomicU64,
    /// Whether this replica leads.
    pub(super) leads: AtomicBool,
}

impl Metrics {
    /// In the text format of Prometheus.
    pub fn text(&self) -> String {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (successes, errors) = (read(&self.successes), read(&self.errors));
        let mut text = String::new();
        let mut add = |name: &str, kind: &str, help: &str, samples: &[(&str, u64)]| {
            // Writing to a String can't fail.
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
            for (labels, value) in samples {
                let _ = writeln!(text, "{name}{labels} {value}");
            }
        };
        let total = "controller_runtime_reconcile_total";
        add(
            total,
            "counter",
            "Reconciles by result",
            &[
                ("{controller=\"cachecluster\",result=\"success\"}", successes),
                ("{controller=\"cachecluster\",result=\"error\"}", errors),
            ],
        );
        let name = "controller_runtime_reconcile_errors_total";
        add(name, "counter", "Reconciles that failed", &[("{controller=\"cachecluster\"}", errors)]);
        let name = "larder_operator_status_writes_total";
        add(name, "counter", "Statuses written to the API server", &[("", read(&self.statuses))]);
        let leads = u64::from(self.leads.load(Ordering::Relaxed));
        let name = "leader_election_master_status";
        add(name, "gauge", "1 on the replica that leads", &[("{name=\"larder-operator\"}", leads)]);
        text
    }
}
