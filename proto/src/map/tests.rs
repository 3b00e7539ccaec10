use super::*;
use bytes::Bytes;
use rcgen::{KeyPair, PublicKeyData};

fn node(id: u32, name: &str) -> Node {
    Node {
        id: NodeId(id),
        name: NodeName::parse(name).expect("a name"),
        addresses: vec!["10.0.0.1".parse().expect("v4"), "::1".parse().expect("v6")],
        ports: Ports { peer: 7710, s3: 9000, redis: 6379 },
        domain: "a".into(),
        weight: 100,
        state: NodeState::Serving,
    }
}

/// Two nodes; the first half of the slots is led by 1, the rest by 7.
fn small() -> ClusterMap {
    let half = usize::from(SLOTS) / 2;
    let owners = [vec![vec![NodeId(1), NodeId(7)]; half], vec![vec![NodeId(7)]; half]].concat();
    let handover = vec![Handover { slot: Slot::new(5).expect("below"), from: NodeId(7) }];
    ClusterMap::new(Epoch(3), ClusterId::of("a/a"), vec![node(7, "n7"), node(1, "n1")], &owners, handover)
        .expect("consistent")
}

fn key() -> (MapKey, TrustedKeys) {
    let key = KeyPair::generate().expect("entropy");
    let public = TrustedKeys::from_spkis([key.subject_public_key_info()]);
    (MapKey::from_pkcs8(key.serialized_der()).expect("P-256"), public)
}

#[test]
fn a_map_answers_by_slot_node_and_name() {
    let map = small();
    let (first, last) = (Slot::new(0).expect("below"), Slot::new(SLOTS - 1).expect("below"));
    assert_eq!(map.owners(first), [NodeId(1), NodeId(7)]);
    assert_eq!((map.lead(first), map.lead(last)), (Some(NodeId(1)), Some(NodeId(7))));
    assert_eq!(map.node(NodeId(7)).map(|node| node.name.as_str()), Some("n7"));
    assert_eq!(map.node(NodeId(2)), None);
    assert_eq!(map.node_named(&NodeName::parse("n1").expect("a name")).map(|node| node.id), Some(NodeId(1)));
    assert_eq!(map.shares()[&NodeId(7)], Share { owned: 16_384, led: 8_192 });
    assert_eq!(map.nodes()[0].peer_address(), Some("10.0.0.1:7710".parse().expect("an address")));
}

#[test]
fn the_bytes_never_change() {
    let node = |id: &str, name: &str| {
        format!("{id}6400000002{}{}{}{}0161{}", "1e1e", "2823", "eb18", name, "02040a000001").to_owned()
            + "0600000000000000000000000000000001"
    };
    let expected = [
        "59e0c4538f635ea1825b8faaa9a24873".to_owned(),
        "0300000000000000".to_owned(),
        "02000000".to_owned(),
        node("01000000", "026e31"),
        node("07000000", "026e37"),
        "02000000020100000007000000".to_owned() + "0107000000",
        "0200000000200000".to_owned() + "00200100",
        "01000000050007000000".to_owned(),
    ]
    .concat();
    assert_eq!(hex::encode(small().encode()), expected);
    assert_eq!(ClusterMap::decode(&small().encode()), Ok(small()));
}

#[test]
fn a_signed_map_comes_back_only_with_the_right_key() {
    let ((key, trusted), (_, others)) = (key(), key());
    let signed = SignedMap::sign(&small(), &key).expect("small");
    let bytes = signed.encode();
    assert_eq!(&bytes[..5], b"LMAP\x02");
    let decoded = SignedMap::decode(bytes.clone()).expect("ours");
    assert_eq!(decoded.verify(&trusted), Ok(small()));
    assert_eq!(decoded.encode(), bytes);
    assert_eq!(decoded.verify(&others), Err(MapError::Forged));
    assert_eq!(decoded.verify(&TrustedKeys::from_spkis([])), Err(MapError::Forged));
    assert_eq!(decoded.verify(&TrustedKeys::from_spkis([vec![1, 2, 3]])), Err(MapError::Forged));
    for at in 6..bytes.len() {
        let mut bent = bytes.to_vec();
        bent[at] ^= 0x10;
        let verdict = SignedMap::decode(bent.into()).and_then(|signed| signed.verify(&trusted));
        // Some bits of a zstd frame mean nothing: then it is the very map that was signed.
        assert!(verdict.is_err() || verdict == Ok(small()), "byte {at}");
    }
}

#[test]
fn a_state_folders_older_format_is_read() {
    let (key, trusted) = key();
    let signed = SignedMap::sign(&small(), &key).expect("small");
    let older = [b"LMAP\x01", &signed::put_signature(signed.signature())[..], &small().encode()].concat();
    let decoded = SignedMap::decode(older.clone().into()).expect("known");
    assert_eq!((decoded.verify(&trusted), decoded.encode()), (Ok(small()), older.into()));
}

/// A frame that says 3 bytes, made by zstd's command: `printf abc | zstd --no-check`.
const ABC: &str = "28b52ffd0058190000616263";

#[test]
fn unpacking_is_bounded_by_what_was_said_and_by_the_limit() {
    let abc = |len: u32| packed::unpack(&[&len.to_le_bytes()[..], &hex::decode(ABC).expect("hex")].concat());
    assert_eq!(abc(3), Ok(b"abc".to_vec()));
    assert_eq!([abc(2), abc(4)], [Err(MapError::Packed), Err(MapError::Packed)]);
    let too_large = |value: u32| Err(MapError::TooLarge { field: Field::Bytes, value: value.into() });
    assert_eq!(abc(u32::MAX), too_large(u32::MAX), "4 GiB are never allocated");
    assert_eq!(abc(4 * 1024 * 1024 + 1), too_large(4 * 1024 * 1024 + 1));
    assert_eq!(packed::unpack(b"abc"), Err(MapError::Truncated { at: 3 }));
    let zeros = vec![0; 4 * 1024 * 1024];
    let mut bomb = packed::pack(&zeros);
    assert!(bomb.len() < 1024);
    bomb[..4].copy_from_slice(&100u32.to_le_bytes());
    assert_eq!(packed::unpack(&bomb), Err(MapError::Packed), "it stops at what was said");
}

#[test]
fn hostile_envelopes_are_refused() {
    let decode = |bytes: &[u8]| SignedMap::decode(Bytes::copy_from_slice(bytes)).map(drop);
    assert_eq!(decode(b""), Err(MapError::Format));
    assert_eq!(decode(b"LMAP\x03\x00"), Err(MapError::Format));
    assert_eq!(decode(b"LMAP\x02\x00"), Err(MapError::Truncated { at: 0 }));
    assert_eq!(decode(b"LMAP\x02"), Err(MapError::Truncated { at: 5 }));
    assert_eq!(decode(b"LMAP\x01"), Err(MapError::Truncated { at: 5 }));
    assert_eq!(decode(b"LMAP\x01\xff"), Err(MapError::TooLarge { field: Field::Signature, value: 255 }));
    assert_eq!(decode(b"LMAP\x01\x08abc"), Err(MapError::Truncated { at: 9 }));
    let huge = vec![0; crate::limits::MAP_BYTES_MAX + 100];
    assert!(matches!(decode(&huge), Err(MapError::TooLarge { field: Field::Bytes, .. })));
}

/// The small map's bytes with `new` at `at`.
fn bent(at: usize, new: &[u8]) -> Result<ClusterMap, MapError> {
    let mut bytes = small().encode();
    bytes[at..at + new.len()].copy_from_slice(new);
    ClusterMap::decode(&bytes)
}

/// Offsets in the small map.
const EPOCH: usize = 16;
const NODES: usize = 24;
const NODE: usize = 28;
const NODE_LEN: usize = 43;
const ROWS: usize = NODE + 2 * NODE_LEN;
const RUNS: usize = ROWS + 4 + 9 + 5;
const HANDOVERS: usize = RUNS + 4 + 8;

#[test]
fn hostile_counts_never_allocate() {
    let huge = u32::MAX.to_le_bytes();
    let too_large = |field| Err(MapError::TooLarge { field, value: u32::MAX.into() });
    assert_eq!(bent(NODES, &huge), too_large(Field::Nodes));
    assert_eq!(bent(ROWS, &huge), too_large(Field::Rows));
    assert_eq!(bent(RUNS, &huge), too_large(Field::Slot));
    assert_eq!(bent(HANDOVERS, &huge), too_large(Field::Handovers));
    assert_eq!(bent(ROWS + 4, &[200]), Err(MapError::TooLarge { field: Field::Owners, value: 200 }));
    assert_eq!(bent(EPOCH, &[0xff; 8]), Err(MapError::TooLarge { field: Field::Epoch, value: u64::MAX }));
    let last = EPOCH_MAX.0 - 1;
    assert_eq!(bent(EPOCH, &last.to_le_bytes()).map(|map| map.epoch()), Ok(Epoch(last)));
}

#[test]
fn inconsistent_maps_are_refused() {
    let seven = 7u32.to_le_bytes();
    let slot = Slot::new(0).expect("below");
    assert_eq!(bent(ROWS + 5, &seven), Err(MapError::DuplicateOwner { slot, node: NodeId(7) }));
    assert_eq!(bent(ROWS + 5, &9u32.to_le_bytes()), Err(MapError::UnknownNode(NodeId(9))));
    assert_eq!(bent(HANDOVERS + 6, &9u32.to_le_bytes()), Err(MapError::UnknownNode(NodeId(9))));
    assert_eq!(bent(HANDOVERS + 4, &[0, 0x40]), Err(MapError::Invalid(Field::Slot)));
    assert_eq!(bent(NODE, &seven), Err(MapError::DuplicateNode(NodeId(7))), "ids must rise");
    assert_eq!(bent(NODE + NODE_LEN + 17, b"1"), Err(MapError::DuplicateNode(NodeId(7))), "two of one name");
    assert_eq!(bent(NODE + 8, &[0]), Err(MapError::Invalid(Field::State)));
    assert_eq!(bent(NODE + 16, b"/"), Err(MapError::Invalid(Field::Name)));
    assert_eq!(bent(NODE + 19, &[0xff]), Err(MapError::Invalid(Field::Domain)));
    assert_eq!(bent(NODE + 21, &[5]), Err(MapError::Invalid(Field::Addresses)));
    assert_eq!(bent(RUNS + 4, &[0xff, 0x1f]), Err(MapError::Slots(16_383)));
    assert_eq!(bent(RUNS + 4, &[0x01, 0x20]), Err(MapError::Slots(16_385)));
    assert_eq!(bent(RUNS + 4, &[0, 0]), Err(MapError::Invalid(Field::Slot)));
    assert_eq!(bent(RUNS + 6, &[2, 0]), Err(MapError::Invalid(Field::Rows)));
}

#[test]
fn every_cut_and_every_tail_is_refused() {
    let bytes = small().encode();
    for len in 0..bytes.len() {
        assert!(matches!(ClusterMap::decode(&bytes[..len]), Err(MapError::Truncated { .. })), "{len}");
    }
    let longer = [bytes.as_slice(), b"x"].concat();
    assert_eq!(ClusterMap::decode(&longer), Err(MapError::Trailing { bytes: 1 }));
}

proptest::proptest! {
    #[test]
    fn no_damage_makes_a_map_panic(place in 0usize..4_096, bytes: [u8; 4], cut in 0usize..4_096) {
        let mut map = small().encode();
        let place = place % (map.len() - bytes.len());
        map[place..place + bytes.len()].copy_from_slice(&bytes);
        map.truncate(cut.max(1));
        drop(ClusterMap::decode(&map));
    }

    #[test]
    fn no_bytes_make_an_envelope_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
        for format in [b"LMAP\x01", b"LMAP\x02"] {
            drop(SignedMap::decode([&format[..], &bytes].concat().into()));
        }
        drop(MapDelta::decode(bytes.into()));
    }
}

#[test]
fn owners_must_cover_all_slots() {
    let map = |owners: &[Vec<NodeId>]| ClusterMap::new(Epoch(1), ClusterId::of("a/a"), Vec::new(), owners, Vec::new());
    assert_eq!(map(&[]), Err(MapError::Slots(0)));
    assert_eq!(map(&vec![Vec::new(); 16_385]), Err(MapError::Slots(16_385)));
    assert_eq!(map(&vec![Vec::new(); 16_384]).map(|map| map.lead(Slot::of_hash(1))), Ok(None));
}

#[test]
fn states_keep_their_numbers() {
    for (position, state) in (1u8..).zip(NodeState::ALL) {
        assert_eq!((state.code(), NodeState::from_code(position)), (position, Some(state)));
    }
    assert_eq!((NodeState::from_code(0), NodeState::from_code(8)), (None, None));
}

mod delta;
