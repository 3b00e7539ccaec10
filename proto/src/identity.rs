//! Who speaks: the SPIFFE identities in certificates and, with feature `tls`, what trusts and checks them.
//!
//! Every certificate of a cluster carries exactly one URI name, `spiffe://larder/<cluster uuid>/node/<name>` or
//! `spiffe://larder/<cluster uuid>/authority`, and is signed by the cluster's CA. A certificate with another form, of
//! another cluster, or with several URI names has no identity and is refused. Host names and addresses prove nothing.

use std::fmt;

use crate::ids::{ClusterId, NodeName};

#[cfg(feature = "tls")]
mod tls;
#[cfg(feature = "tls")]
pub use tls::{ClientVerifier, Joiners, NoIdentity, ServerVerifier, Trust, identity_of, server_name};

const PREFIX: &str = "spiffe://larder/";

/// Who speaks, as its certificate says.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Identity {
    /// An agent: `spiffe://larder/<cluster>/node/<name>`.
    Node(ClusterId, NodeName),
    /// The map authority: `spiffe://larder/<cluster>/authority`.
    Authority(ClusterId),
}

impl Identity {
    /// The identity of a URI name; nothing when it isn't exactly what `Display` prints.
    pub fn parse(uri: &str) -> Option<Self> {
        let (cluster, role) = uri.strip_prefix(PREFIX)?.split_once('/')?;
        let cluster = ClusterId::parse(cluster).filter(|id| id.to_string() == cluster)?;
        match role.split_once('/') {
            Some(("node", name)) => NodeName::parse(name).map(|name| Self::Node(cluster, name)),
            Some(_) => None,
            None => (role == "authority").then_some(Self::Authority(cluster)),
        }
    }

    /// Whose cluster it belongs to.
    pub fn cluster(&self) -> ClusterId {
        match self {
            Self::Node(cluster, _) | Self::Authority(cluster) => *cluster,
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(cluster, name) => write!(f, "{PREFIX}{cluster}/node/{name}"),
            Self::Authority(cluster) => write!(f, "{PREFIX}{cluster}/authority"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: &str = "75f83916-399c-5d55-ab38-eab123e3805f";

    #[test]
    fn identities_are_uris_and_back() {
        let cluster = ClusterId::parse(CLUSTER).expect("a uuid");
        let node = Identity::Node(cluster, NodeName::parse("n1").expect("a name"));
        assert_eq!(node.to_string(), format!("spiffe://larder/{CLUSTER}/node/n1"));
        assert_eq!(Identity::parse(&node.to_string()), Some(node));
        let authority = Identity::Authority(cluster);
        assert_eq!(Identity::parse(&authority.to_string()), Some(authority));
    }

    #[test]
    fn other_forms_have_no_identity() {
        for uri in [
            "",
            "spiffe://larder/",
            "https://larder/75f83916-399c-5d55-ab38-eab123e3805f/authority",
            "spiffe://other/75f83916-399c-5d55-ab38-eab123e3805f/authority",
            "spiffe://larder/75f83916-399c-5d55-ab38-eab123e3805f/authority/",
            "spiffe://larder/75F83916-399C-5D55-AB38-EAB123E3805F/authority",
            "spiffe://larder/75f83916399c5d55ab38eab123e3805f/authority",
            "spiffe://larder/75f83916-399c-5d55-ab38-eab123e3805f/node/",
            "spiffe://larder/75f83916-399c-5d55-ab38-eab123e3805f/node/n1/x",
            "spiffe://larder/75f83916-399c-5d55-ab38-eab123e3805f/node/N1",
            "spiffe://larder/75f83916-399c-5d55-ab38-eab123e3805f/operator",
        ] {
            assert_eq!(Identity::parse(uri), None, "{uri}");
        }
    }
}
