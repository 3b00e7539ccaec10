use super::*;

/// The small map one epoch later: node 9 came and leads slots 2 and 3, node 7 is Suspect, a hand-over ended, one began.
fn next() -> ClusterMap {
    let before = small();
    let mut nodes = before.nodes().to_vec();
    nodes[1].state = NodeState::Suspect;
    nodes.push(node(9, "n9"));
    let mut owners: Vec<Vec<NodeId>> = Slot::all().map(|slot| before.owners(slot).to_vec()).collect();
    owners[2..4].fill(vec![NodeId(9), NodeId(1)]);
    let handover = vec![Handover { slot: Slot::new(2).expect("below"), from: NodeId(7) }];
    ClusterMap::new(Epoch(4), before.cluster(), nodes, &owners, handover).expect("consistent")
}

fn delta(from: &ClusterMap, to: &ClusterMap, key: &MapKey) -> MapDelta {
    MapDelta::between(from, to, &SignedMap::sign(to, key).expect("small"))
}

/// A delta's bytes with any body behind any signature.
fn wire(signature: &[u8], body: &[u8]) -> Bytes {
    [b"LMAD\x01", &signed::put_signature(signature)[..], &packed::pack(body)].concat().into()
}

#[test]
fn the_bytes_never_change() {
    let (key, _) = key();
    let addresses = "02040a0000010600000000000000000000000000000001";
    let node = |id: &str, state: &str, name: &str| format!("{id}64000000{state}1e1e2823eb18{name}0161{addresses}");
    let expected = [
        "59e0c4538f635ea1825b8faaa9a24873".to_owned() + "0300000000000000" + "0400000000000000",
        "00000000".to_owned(),
        "02000000".to_owned() + &node("07000000", "03", "026e37") + &node("09000000", "02", "026e39"),
        "01000000".to_owned() + "02000200" + "020900000001000000",
        "01000000".to_owned() + "050007000000",
        "01000000".to_owned() + "020007000000",
    ]
    .concat();
    let delta = delta(&small(), &next(), &key);
    assert_eq!(hex::encode(delta.encode_body()), expected);
    let bytes = delta.encode().expect("small");
    assert_eq!(bytes, wire(&delta.signature, &hex::decode(&expected).expect("hex")));
    assert_eq!(MapDelta::decode(bytes), Ok(delta));
}

#[test]
fn what_comes_out_is_the_signed_map_itself() {
    let (key, trusted) = key();
    let signed = SignedMap::sign(&next(), &key).expect("small");
    let sent = MapDelta::between(&small(), &next(), &signed).encode().expect("small");
    let (map, again) = MapDelta::decode(sent).expect("ours").apply(&small(), &trusted).expect("over its base");
    assert_eq!(map, next());
    assert_eq!(again, signed, "it can be passed on, and stored");
    assert_eq!(again.verify(&trusted), Ok(next()));
    // And one that takes things away.
    let fewer = ClusterMap::new(
        Epoch(5),
        map.cluster(),
        map.nodes()[..2].to_vec(),
        &vec![vec![NodeId(1)]; usize::from(SLOTS)],
        Vec::new(),
    );
    let fewer = fewer.expect("consistent");
    let (after, _) = delta(&map, &fewer, &key).apply(&map, &trusted).expect("over its base");
    assert_eq!(after, fewer);
}

#[test]
fn a_delta_fits_only_the_map_that_it_was_made_over() {
    let ((key, trusted), (stranger, others)) = (key(), key());
    let ours = delta(&small(), &next(), &key);
    assert_eq!(ours.apply(&next(), &trusted).map(drop), Err(MapError::OtherBase(Epoch(3))));
    assert_eq!(ours.apply(&small(), &others).map(drop), Err(MapError::Forged));
    assert_eq!(delta(&small(), &next(), &stranger).apply(&small(), &trusted).map(drop), Err(MapError::Forged));
    // The same epoch, another map: what comes out isn't what was signed.
    let base = small();
    let mut nodes = base.nodes().to_vec();
    nodes[0].weight += 1;
    let owners: Vec<Vec<NodeId>> = Slot::all().map(|slot| base.owners(slot).to_vec()).collect();
    let twin = ClusterMap::new(Epoch(3), base.cluster(), nodes, &owners, base.handover().to_vec());
    assert_eq!(ours.apply(&twin.expect("consistent"), &trusted).map(drop), Err(MapError::Forged));
    let foreign = ClusterMap::new(Epoch(3), ClusterId::of("b/b"), base.nodes().to_vec(), &owners, Vec::new());
    let foreign = foreign.expect("consistent");
    assert_eq!(ours.apply(&foreign, &trusted).map(drop), Err(MapError::WrongCluster(base.cluster())));
}

/// The delta's body with `new` at `at`, decoded.
fn bent(at: usize, new: &[u8]) -> Result<MapDelta, MapError> {
    let (key, _) = key();
    let ours = delta(&small(), &next(), &key);
    let mut body = ours.encode_body();
    body[at..at + new.len()].copy_from_slice(new);
    MapDelta::decode(wire(&ours.signature, &body))
}

/// Offsets in the body.
const BASE: usize = 16;
const LEFT: usize = 32;
const CHANGED: usize = 36;
const STRETCHES: usize = CHANGED + 4 + 2 * NODE_LEN;
const ENDED: usize = STRETCHES + 4 + 4 + 9;
const BEGAN: usize = ENDED + 4 + 6;

#[test]
fn hostile_deltas_never_allocate_and_never_reach_a_map() {
    let huge = u32::MAX.to_le_bytes();
    let too_large = |field| Err(MapError::TooLarge { field, value: u32::MAX.into() });
    assert_eq!(bent(LEFT, &huge), too_large(Field::Nodes));
    assert_eq!(bent(CHANGED, &huge), too_large(Field::Nodes));
    assert_eq!(bent(STRETCHES, &huge), too_large(Field::Stretches));
    assert_eq!(bent(ENDED, &huge), too_large(Field::Handovers));
    assert_eq!(bent(BEGAN, &huge), too_large(Field::Handovers));
    assert_eq!(bent(BASE, &[4]), Err(MapError::Invalid(Field::Epoch)), "it must lead forward");
    assert_eq!(bent(STRETCHES + 4, &[0, 0x40]), Err(MapError::Invalid(Field::Slot)));
    assert_eq!(bent(STRETCHES + 6, &[0, 0]), Err(MapError::Invalid(Field::Slot)));
    assert_eq!(bent(STRETCHES + 6, &[0xff, 0x3f]), Err(MapError::Invalid(Field::Slot)), "beyond the last slot");
    assert_eq!(bent(STRETCHES + 8, &[200]), Err(MapError::TooLarge { field: Field::Owners, value: 200 }));
    let (_, trusted) = key();
    let applied = |at, new: &[u8]| bent(at, new).expect("well formed").apply(&small(), &trusted).map(drop);
    assert_eq!(
        applied(STRETCHES + 9, &[1]).err(),
        Some(MapError::DuplicateOwner { slot: Slot::new(2).expect("below"), node: NodeId(1) })
    );
    assert_eq!(applied(STRETCHES + 9, &[200]), Err(MapError::UnknownNode(NodeId(200))));
    assert_eq!(applied(BEGAN + 6, &[200]), Err(MapError::UnknownNode(NodeId(200))));
    assert_eq!(applied(BASE + 8, &[0xff; 8]), Err(MapError::TooLarge { field: Field::Epoch, value: u64::MAX }));
    assert_eq!(applied(BASE + 8, &[9]), Err(MapError::Forged));
}

#[test]
fn hostile_envelopes_are_refused() {
    let decode = |bytes: &[u8]| MapDelta::decode(Bytes::copy_from_slice(bytes)).map(drop);
    assert_eq!(decode(b""), Err(MapError::Format));
    assert_eq!(decode(b"LMAP\x02\x00"), Err(MapError::Format), "a map isn't a delta");
    assert_eq!(decode(b"LMAD\x01\xff"), Err(MapError::TooLarge { field: Field::Signature, value: 255 }));
    assert_eq!(
        decode(b"LMAD\x01\x00\xff\xff\xff\xff"),
        Err(MapError::TooLarge { field: Field::Bytes, value: u32::MAX.into() })
    );
    let huge = vec![0; crate::limits::MAP_BYTES_MAX + 100];
    assert!(matches!(decode(&huge), Err(MapError::TooLarge { field: Field::Bytes, .. })));
    let (key, _) = key();
    let body = delta(&small(), &next(), &key).encode_body();
    for len in 0..body.len() {
        assert!(matches!(decode(&wire(b"", &body[..len])), Err(MapError::Truncated { .. })), "{len}");
    }
    assert_eq!(decode(&wire(b"", &[&body[..], b"x"].concat())), Err(MapError::Trailing { bytes: 1 }));
}
