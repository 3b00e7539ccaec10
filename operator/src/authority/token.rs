//! Who may join: a token proves that its bearer runs on a node. Local mode has one random token per node.

use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock};

use async_trait::async_trait;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use larder_proto::ids::NodeName;

/// Decides whether a token belongs to an agent of this node. The operator asks Kubernetes, local mode its table.
#[async_trait]
pub trait TokenVerifier: Send + Sync {
    /// Whether the bearer of `token` may join as `node`.
    async fn verify(&self, node: &NodeName, token: &str) -> bool;
}

/// One token per node, compared in constant time.
#[derive(Default)]
pub struct NodeTokens {
    tokens: RwLock<BTreeMap<NodeName, String>>,
}

impl NodeTokens {
    /// No tokens yet: nobody may join.
    pub fn new() -> Self {
        Self::default()
    }

    /// From now on `node` joins with this token only.
    pub fn set(&self, node: NodeName, token: String) {
        self.tokens.write().unwrap_or_else(PoisonError::into_inner).insert(node, token);
    }

    /// `node` can't join any more.
    pub fn remove(&self, node: &NodeName) {
        self.tokens.write().unwrap_or_else(PoisonError::into_inner).remove(node);
    }

    /// 256 random bits in hex.
    pub fn random() -> String {
        let mut bytes = [0; 32];
        aws_lc_rs::rand::fill(&mut bytes).expect("the system has random numbers once it has booted");
        hex::encode(bytes)
    }
}

#[async_trait]
impl TokenVerifier for NodeTokens {
    async fn verify(&self, node: &NodeName, token: &str) -> bool {
        let tokens = self.tokens.read().unwrap_or_else(PoisonError::into_inner);
        let Some(expected) = tokens.get(node) else { return false };
        !expected.is_empty() && verify_slices_are_equal(expected.as_bytes(), token.as_bytes()).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_token_is_good_for_its_node_only() {
        let (n1, n2) = (NodeName::parse("n1").expect("a name"), NodeName::parse("n2").expect("a name"));
        let tokens = NodeTokens::new();
        let (first, second) = (NodeTokens::random(), NodeTokens::random());
        tokens.set(n1.clone(), first.clone());
        tokens.set(n2.clone(), second.clone());
        assert!(tokens.verify(&n1, &first).await && tokens.verify(&n2, &second).await);
        assert!(
            !tokens.verify(&n1, &second).await
                && !tokens.verify(&n1, "").await
                && !tokens.verify(&n1, &first[1..]).await
        );
        tokens.remove(&n1);
        assert!(!tokens.verify(&n1, &first).await);
    }
}
