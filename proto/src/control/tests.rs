use super::*;
use crate::glob::Glob;
use crate::limits::GLOBS_MAX;
use crate::object::ChunkSize;
use crate::volume::{
    Attributes, Azure, AzureCredentials, Credentials, Freshness, Keeping, LocalCopies, Origin, S3, Secret,
};
use std::time::Duration;

fn report() -> NodeReport {
    NodeReport {
        epoch: Epoch(7),
        addresses: vec!["10.0.0.1".parse().expect("v4"), "fd00::1".parse().expect("v6")],
        ports: Ports { peer: 7710, s3: 0, redis: 0 },
        admin_port: 7711,
        domain: "a".into(),
        stores: vec![StoreReport {
            name: "d0".into(),
            id: StoreId::from_bytes([1; 16]),
            capacity_bytes: 1 << 40,
            used_bytes: 5,
            health: StoreHealth::Slow,
        }],
        unreachable: vec![NodeId(3)],
        volumes: vec![VolumeReport {
            id: VolumeId::from_bytes([2; 16]),
            mounted: true,
            origin: OriginState::Fails(ErrorKind::AccessDenied),
            cached_bytes: 1,
            origin_bytes: 2,
            read_bytes: 3,
            objects: 4,
        }],
        began_ms: 1_763_700_000_000,
        unmet: vec![NodeId(5)],
        passthrough: Some(Passthrough::NoDescriptors),
        offers: OffersReport { settled: Epoch(6), lacking: 2, all: 10, done: 4 },
        former_epoch: Epoch(5),
        trusted: vec![[1; 8], [2; 8]],
    }
}

#[test]
fn offers_have_their_fields() {
    use prost::Message as _;
    let offers = OffersReport { settled: Epoch(6), lacking: 2, all: 10, done: 4 };
    let message = NodeReport { offers, ..NodeReport::default() }.to_message();
    let fields = message::Report { ports: None, ..message }.encode_to_vec();
    assert_eq!(fields, [11 << 3, 6, 12 << 3, 2, 13 << 3, 10, 14 << 3, 4]);
    let huge = message::Report { settled_epoch: u64::MAX, ..report().to_message() };
    assert_eq!(NodeReport::parse(huge), Err(BadMessage(Field::Epoch)));
}

#[test]
fn the_former_epoch_and_the_trusted_have_their_fields() {
    use prost::Message as _;
    let said = NodeReport { former_epoch: Epoch(5), trusted: vec![[7; 8]], ..NodeReport::default() };
    let fields = message::Report { ports: None, ..said.to_message() }.encode_to_vec();
    assert_eq!(fields, [&[15 << 3, 5, 0x82, 1, 8][..], &[7; 8]].concat());
    let huge = message::Report { former_epoch: u64::MAX, ..report().to_message() };
    assert_eq!(NodeReport::parse(huge), Err(BadMessage(Field::Epoch)));
    for trusted in [vec![vec![1; 7].into()], vec![vec![1; 8].into(); TRUST_ANCHORS_MAX + 1]] {
        let bad = message::Report { trusted, ..report().to_message() };
        assert_eq!(NodeReport::parse(bad), Err(BadMessage(Field::Trusted)));
    }
}

#[test]
fn what_a_newer_agent_says_of_passthrough_is_not_said() {
    for passthrough in [
        None,
        Some(Passthrough::Active),
        Some(Passthrough::NoKernel),
        Some(Passthrough::NoCapability),
        Some(Passthrough::NoDescriptors),
        Some(Passthrough::Stacked),
    ] {
        let sent = NodeReport { passthrough, ..report() };
        assert_eq!(NodeReport::parse(sent.to_message()), Ok(sent));
    }
    let newer = message::Report { passthrough: 77, ..report().to_message() };
    assert_eq!(NodeReport::parse(newer).map(|report| report.passthrough), Ok(None));
}

fn volume(origin: Origin, freshness: Freshness) -> Volume {
    Volume {
        id: VolumeId::from_bytes([9; 16]),
        namespace: "default".into(),
        name: "data".into(),
        chunk_size: ChunkSize::new(4 << 20).expect("4 MiB"),
        origin,
        replicas: Some(2),
        read_ahead_bytes: 1 << 20,
        read_deadline: Duration::from_secs(30),
        freshness,
        attributes: Attributes { uid: 1, gid: 2, file_mode: 0o644, dir_mode: 0o755 },
        local_copies: LocalCopies::Always,
        keeping: Keeping {
            after_reads: 2,
            exclude: vec![Glob::parse("*.tmp").expect("a pattern")],
            max_object_bytes: Some(0),
            ttl: Some(Duration::from_secs(60)),
            quota_bytes: Some(1 << 40),
            pin: vec![Glob::parse("models/**").expect("a pattern")],
        },
    }
}

#[test]
fn reports_come_back_as_they_went() {
    assert_eq!(NodeReport::parse(report().to_message()), Ok(report()));
    for origin in [OriginState::NotAsked, OriginState::Answers, OriginState::Fails(ErrorKind::OriginUnreachable)] {
        let mut report = report();
        report.volumes[0].origin = origin;
        assert_eq!(NodeReport::parse(report.to_message()), Ok(report));
    }
    let mut newer = report().to_message();
    newer.volumes[0].origin = 9_999;
    assert_eq!(
        NodeReport::parse(newer).map(|report| report.volumes[0].origin),
        Ok(OriginState::Fails(ErrorKind::Internal))
    );
}

#[test]
fn hostile_reports_are_refused_by_field() {
    let good = report().to_message();
    let check = |change: &dyn Fn(&mut message::Report), field: Field| {
        let mut bad = good.clone();
        change(&mut bad);
        assert_eq!(NodeReport::parse(bad), Err(BadMessage(field)));
    };
    check(&|m| m.epoch = u64::MAX, Field::Epoch);
    check(&|m| m.addresses = vec!["here".into()], Field::Addresses);
    check(&|m| m.addresses = vec!["10.0.0.1".into(); ADDRESSES_MAX + 1], Field::Addresses);
    check(&|m| m.ports = Some(message::Ports { peer: 65_536, ..Default::default() }), Field::Ports);
    check(&|m| m.unmet = vec![1; NODES_MAX + 1], Field::Unmet);
    check(&|m| m.domain = "x".repeat(DOMAIN_BYTES_MAX + 1), Field::Domain);
    check(&|m| m.stores[0].id = vec![1; 15].into(), Field::Store);
    check(&|m| m.stores[0].health = 99, Field::Store);
    check(&|m| m.stores[0].health = 0, Field::Store);
    check(&|m| m.stores = vec![m.stores[0].clone(); STORES_MAX + 1], Field::Store);
    check(&|m| m.volumes[0].id = Default::default(), Field::Volume);
    check(&|m| m.volumes = vec![m.volumes[0].clone(); VOLUMES_MAX + 1], Field::Volume);
}

#[test]
fn whereabouts_come_back_as_they_went_or_are_refused() {
    let address = NodeAddress {
        node: NodeName::parse("n1").expect("a name"),
        addresses: vec!["10.0.0.1".parse().expect("v4"), "fd00::1".parse().expect("v6")],
        ports: Ports { peer: 7710, s3: 1, redis: 2 },
        began_ms: 7,
    };
    let good = whereabouts_message([&address]);
    assert_eq!(parse_whereabouts(good.clone()), Ok(vec![address]));
    let check = |change: &dyn Fn(&mut message::Whereabouts), field: Field| {
        let mut bad = good.clone();
        change(&mut bad);
        assert_eq!(parse_whereabouts(bad), Err(BadMessage(field)));
    };
    check(&|m| m.nodes[0].node = "../x".into(), Field::Node);
    check(&|m| m.nodes[0].addresses = vec!["10.0.0.1:80".into()], Field::Addresses);
    check(&|m| m.nodes[0].addresses = vec!["10.0.0.1".into(); ADDRESSES_MAX + 1], Field::Addresses);
    check(&|m| m.nodes[0].ports = Some(message::Ports { s3: 1 << 16, ..Default::default() }), Field::Ports);
    check(&|m| m.nodes = vec![m.nodes[0].clone(); NODES_MAX + 1], Field::Node);
}

#[test]
fn volumes_come_back_as_they_went_with_their_secrets() {
    let s3 = Origin::S3(S3 {
        bucket: "b".into(),
        prefix: "p/".into(),
        region: "us-east-1".into(),
        endpoint: Some("http://x".into()),
        path_style: true,
        credentials: Some(Credentials {
            access_key_id: Secret::new("id"),
            secret_access_key: Secret::new("key"),
            session_token: None,
        }),
    });
    assert_eq!(s3.identity(), "s3\0http://x\0b\0p/");
    let key = Origin::Azure(azure(AzureCredentials::AccountKey(Secret::new("a2V5")), Some("http://x/lake")));
    assert_eq!(key.identity(), "azure\0http://x/lake\0lake\0models\0p/");
    let token = Origin::Azure(azure(AzureCredentials::SasToken(Secret::new("sv=1&sig=x")), None));
    assert_eq!(token.identity(), "azure\0\0lake\0models\0p/");
    let local = Origin::Local { path: "/srv".into() };
    let volumes = vec![
        volume(key, Freshness::OnOpen),
        volume(token, Freshness::OnOpen),
        volume(s3, Freshness::Within(Duration::from_secs(60))),
        volume(local.clone(), Freshness::OnOpen),
        volume(local, Freshness::Forever),
    ];
    assert_eq!(parse_volumes(volumes_message(&volumes)), Ok(volumes));
}

fn azure(credentials: AzureCredentials, endpoint: Option<&str>) -> Azure {
    Azure {
        account: "lake".into(),
        container: "models".into(),
        prefix: "p/".into(),
        endpoint: endpoint.map(Into::into),
        credentials,
    }
}

/// Field numbers are a contract between an operator and agents of another version: these bytes may never change.
#[test]
fn an_azure_origin_has_its_bytes() {
    let of = |credentials, endpoint| {
        let volume = volume(Origin::Azure(azure(credentials, endpoint)), Freshness::Forever);
        prost::Message::encode_to_vec(&volumes_message(&[volume]).volumes[0])
    };
    let key = of(AzureCredentials::AccountKey(Secret::new("a2V5")), Some("http://x"));
    let expected: &[u8] = b"\x7a\x22\x0a\x04lake\x12\x06models\x1a\x02p/\x22\x08http://x\x2a\x04a2V5";
    assert!(key.windows(expected.len()).any(|bytes| bytes == expected), "{key:02x?}");
    let token = of(AzureCredentials::SasToken(Secret::new("sig=x")), None);
    let expected: &[u8] = b"\x7a\x19\x0a\x04lake\x12\x06models\x1a\x02p/\x32\x05sig=x";
    assert!(token.windows(expected.len()).any(|bytes| bytes == expected), "{token:02x?}");
}

#[test]
fn a_bad_volume_spoils_the_list() {
    let good = volumes_message(&[volume(Origin::Local { path: "/srv".into() }, Freshness::Forever)]);
    let check = |change: &dyn Fn(&mut message::Volume), field: Field| {
        let mut bad = good.clone();
        change(&mut bad.volumes[0]);
        assert_eq!(parse_volumes(bad), Err(BadMessage(field)));
    };
    check(&|v| v.id = vec![0; 17].into(), Field::Volume);
    check(&|v| v.chunk_bytes = 5, Field::ChunkSize);
    check(&|v| v.origin = None, Field::Origin);
    check(&|v| v.origin = Some(message::volume::Origin::Local(message::Local { path: "srv".into() })), Field::Origin);
    let azure = |change: &dyn Fn(&mut message::Azure)| {
        let credentials = Some(message::azure::Credentials::AccountKey("a2V5".into()));
        let (account, container) = ("lake".into(), "models".into());
        let mut azure = message::Azure { account, container, credentials, ..Default::default() };
        change(&mut azure);
        Some(message::volume::Origin::Azure(azure))
    };
    check(&|v| v.origin = azure(&|a| a.account.clear()), Field::Origin);
    check(&|v| v.origin = azure(&|a| a.container.clear()), Field::Origin);
    check(&|v| v.origin = azure(&|a| a.credentials = None), Field::Origin);
    check(&|v| v.freshness = Some(message::volume::Freshness::OnOpen(false)), Field::Freshness);
    check(&|v| v.attributes = None, Field::Attributes);
    let keeping = |pin: Vec<String>| Some(message::Keeping { pin, ..Default::default() });
    check(&|v| v.keeping = keeping(vec!["[a]".into()]), Field::Keeping);
    check(&|v| v.keeping = keeping(vec!["a".into(); GLOBS_MAX + 1]), Field::Keeping);
    let mut many = good.clone();
    many.volumes = vec![many.volumes[0].clone(); VOLUMES_MAX + 1];
    assert_eq!(parse_volumes(many), Err(BadMessage(Field::Volume)));
}

proptest::proptest! {
    #[test]
    fn no_damage_makes_a_message_panic(place in 0usize..2_000, byte: u8, cut in 0usize..2_000) {
        use prost::Message as _;
        let sas = AzureCredentials::SasToken(Secret::new("sig=x"));
        let volume = volume(Origin::Azure(azure(sas, None)), Freshness::Forever);
        let (report, volumes) = (report().to_message(), volumes_message([&volume]));
        for (kind, mut bytes) in [report.encode_to_vec(), volumes.encode_to_vec()].into_iter().enumerate() {
            let place = place % bytes.len();
            bytes[place] = byte;
            bytes.truncate(cut.max(1));
            match kind {
                0 => drop(message::Report::decode(&*bytes).map(NodeReport::parse)),
                _ => drop(message::Volumes::decode(&*bytes).map(parse_volumes)),
            }
        }
    }
}
