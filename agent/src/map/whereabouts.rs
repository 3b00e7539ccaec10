//! Where nodes are that moved since the map was made: placement isn't address, and moving makes no epoch.
//!
//! What a node says of itself (its certificate was checked) counts at once; what others say of it only if it began later
//! than what is known. A map that has another address for a node than the map before is newer than what was said. Wrong
//! answers cost a vain attempt: whoever is connected must prove by its certificate who it is, and the map's own addresses
//! are tried too. Sans-IO.

use std::collections::BTreeMap;

use larder_proto::control::NodeAddress;
use larder_proto::ids::NodeName;
use larder_proto::map::{ClusterMap, Node};

/// Who says where a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// The node itself.
    ByItself,
    /// The authority, or another node.
    ByOthers,
}

/// At most one address per node of the map.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Whereabouts {
    moved: BTreeMap<NodeName, NodeAddress>,
}

impl Whereabouts {
    pub(super) fn of(&self, node: &NodeName) -> Option<&NodeAddress> {
        self.moved.get(node)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &NodeAddress> {
        self.moved.values()
    }

    /// Takes in what is said of a node; whether that is news. Nodes that aren't in the map are nobody's business.
    pub(super) fn hear(&mut self, map: &ClusterMap, told: Told, said: NodeAddress) -> bool {
        let Some(node) = map.node_named(&said.node) else { return false };
        let known = self.moved.get(&said.node);
        let outdated = known.is_some_and(|known| known.began_ms >= said.began_ms);
        if (told == Told::ByOthers && outdated) || known == Some(&said) {
            return false;
        }
        if is_there(node, &said) {
            return self.moved.remove(&said.node).is_some();
        }
        self.moved.insert(said.node.clone(), said);
        true
    }

    /// Forgets what a new map knows better; whether there was anything.
    pub(super) fn adopt(&mut self, before: Option<&ClusterMap>, map: &ClusterMap) -> bool {
        let count = self.moved.len();
        self.moved.retain(|name, said| {
            let Some(node) = map.node_named(name) else { return false };
            let was = before.and_then(|before| before.node_named(name));
            let has_moved_on_the_map =
                was.is_some_and(|was| (&was.addresses, was.ports) != (&node.addresses, node.ports));
            !has_moved_on_the_map && !is_there(node, said)
        });
        self.moved.len() != count
    }
}

fn is_there(node: &Node, said: &NodeAddress) -> bool {
    (&node.addresses, node.ports) == (&said.addresses, said.ports)
}

#[cfg(test)]
mod tests {
    use larder_proto::ids::{ClusterId, Epoch, NodeId, Slot};
    use larder_proto::map::{NodeState, Ports};

    use super::*;

    fn name() -> NodeName {
        NodeName::parse("n1").expect("a name")
    }

    fn map(port: u16) -> ClusterMap {
        let node = Node {
            id: NodeId(1),
            name: name(),
            addresses: vec!["10.0.0.1".parse().expect("an address")],
            ports: Ports { peer: port, s3: 0, redis: 0 },
            domain: "a".into(),
            weight: 1,
            state: NodeState::Serving,
        };
        let owners: Vec<_> = Slot::all().map(|_| vec![NodeId(1)]).collect();
        ClusterMap::new(Epoch(1), ClusterId::of("test"), vec![node], &owners, Vec::new()).expect("consistent")
    }

    fn at(port: u16, began_ms: u64) -> NodeAddress {
        let addresses = vec!["10.0.0.1".parse().expect("an address")];
        NodeAddress { node: name(), addresses, ports: Ports { peer: port, s3: 0, redis: 0 }, began_ms }
    }

    #[test]
    fn a_node_is_believed_about_itself_and_others_only_with_later_news() {
        let (map, mut known) = (map(1), Whereabouts::default());
        assert!(!known.hear(&map, Told::ByOthers, at(1, 9)), "where the map has it");
        assert!(known.hear(&map, Told::ByOthers, at(2, 5)));
        assert!(!known.hear(&map, Told::ByOthers, at(3, 4)), "older");
        assert_eq!(known.of(&name()), Some(&at(2, 5)));
        assert!(known.hear(&map, Told::ByItself, at(3, 4)), "its clock was set back");
        assert!(known.hear(&map, Told::ByItself, at(1, 6)), "back where the map has it");
        assert_eq!(known.of(&name()), None);
        let stranger = NodeAddress { node: NodeName::parse("n9").expect("a name"), ..at(2, 5) };
        assert!(!known.hear(&map, Told::ByItself, stranger));
    }

    #[test]
    fn a_map_that_knows_better_counts() {
        let mut known = Whereabouts::default();
        known.hear(&map(1), Told::ByItself, at(2, 5));
        assert!(!known.adopt(Some(&map(1)), &map(1)), "a map made before it moved");
        assert!(known.of(&name()).is_some());
        let mut same = known.clone();
        assert!(same.adopt(Some(&map(1)), &map(2)), "the map has it there too");
        assert!(known.adopt(Some(&map(1)), &map(3)), "it has moved again");
        assert_eq!((known.of(&name()), same.of(&name())), (None, None));
    }
}
