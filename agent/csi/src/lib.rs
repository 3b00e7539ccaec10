//! The CSI node plugin: identity and node service of spec 1.13, and the registration with the kubelet.
//!
//! It decides what may be bound where and says no in words that people read in a pod's Events; binding is the mounter's,
//! which this asks. It has no capabilities, no API token, and never touches a mount. Imports nothing of Larder but the
//! mounter's messages. What isn't implemented answers UNIMPLEMENTED and isn't in the capabilities.

mod dispatch;
mod identity;
mod listen;
mod node;
mod registration;

pub use dispatch::Plugin;
pub use identity::Identity;
pub use listen::{ListenError, Socket};
pub use node::{Hands, Node};
pub use registration::{REGISTRATION, Registrar, Verdict};

/// The name under which Kubernetes knows the driver.
pub const DRIVER: &str = "csi.larder.dev";

/// What is generated from `proto/`.
#[allow(missing_docs, clippy::all)]
pub mod proto {
    /// CSI, spec 1.13.
    pub mod csi {
        tonic::include_proto!("csi.v1");
    }
    /// The kubelet's registration of plugins, v1.
    pub mod registration {
        tonic::include_proto!("pluginregistration");
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    #[test]
    fn vendored_protocols_are_as_their_table_says() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
        let table = std::fs::read_to_string(folder.join("README.md")).expect("the table");
        for name in ["csi.proto", "pluginregistration.proto"] {
            let bytes = std::fs::read(folder.join(name)).expect("vendored");
            let digest = hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &bytes));
            let row = table.lines().find(|line| line.contains(&format!("`{name}`"))).expect("a row");
            assert!(row.contains(&digest), "{name} is {digest}");
        }
    }
}
