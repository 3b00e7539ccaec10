use std::sync::Mutex;

use tonic::Code;

use super::node_server::Node as _;
use super::*;
use crate::proto::csi::VolumeCapability;
use crate::proto::csi::volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume};

/// Remembers what it was asked for, and answers as it was told.
#[derive(Default)]
struct Remembers {
    asked: Mutex<Vec<PluginRequest>>,
    refuses: Option<(i32, &'static str)>,
}

impl Hands for Remembers {
    fn ask(&self, request: &PluginRequest) -> Result<(), ClientError> {
        self.asked.lock().expect("nobody panics").push(request.clone());
        match self.refuses {
            None => Ok(()),
            Some((errno, why)) => Err(ClientError::Refused { errno, why: why.into() }),
        }
    }
}

const TARGET: &str = "/var/lib/kubelet/pods/p/volumes/kubernetes.io~csi/v/mount";

fn capability(access_type: AccessType) -> Option<VolumeCapability> {
    let access_mode = Some(AccessMode { mode: 5 });
    Some(VolumeCapability { access_mode, access_type: Some(access_type) })
}

fn request() -> NodePublishVolumeRequest {
    let attributes = [
        ("namespace", "team"),
        ("volume", "data"),
        ("volumeUID", "u"),
        ("csi.storage.k8s.io/pod.namespace", "team"),
        ("csi.storage.k8s.io/pod.name", "p"),
    ];
    NodePublishVolumeRequest {
        volume_id: "pvc-1".into(),
        target_path: TARGET.into(),
        volume_capability: capability(AccessType::Mount(MountVolume::default())),
        volume_context: attributes.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        ..NodePublishVolumeRequest::default()
    }
}

/// What becomes of a request: the code, and what the mounter was asked.
async fn published(hands: Remembers, request: NodePublishVolumeRequest) -> (Code, String, Vec<PluginRequest>) {
    let hands = Arc::new(hands);
    let node = Node::new("n1", hands.clone());
    let (code, said) = match node.node_publish_volume(Request::new(request)).await {
        Ok(_) => (Code::Ok, String::new()),
        Err(status) => (status.code(), status.message().to_owned()),
    };
    let asked = hands.asked.lock().expect("nobody panics").clone();
    (code, said, asked)
}

#[tokio::test]
async fn a_volume_is_asked_for_by_its_name_and_always_read_only() {
    let (code, said, asked) = published(Remembers::default(), request()).await;
    assert_eq!(code, Code::Ok, "{said}");
    let publish = PluginRequest::Publish { volume: "team/data".into(), target: TARGET.into(), is_read_only: true };
    assert_eq!(asked, [publish]);
}

#[tokio::test]
async fn what_cant_be_given_is_refused_before_the_mounter_is_asked() {
    let with = |key: &str, value: &str| {
        let mut request = request();
        request.volume_context.insert(key.into(), value.into());
        request
    };
    let without = |key: &str| {
        let mut request = request();
        request.volume_context.remove(key);
        request
    };
    let block = capability(AccessType::Block(BlockVolume::default()));
    let flags = MountVolume { mount_flags: vec!["dev".into()], ..MountVolume::default() };
    let cases = [
        (NodePublishVolumeRequest { volume_id: String::new(), ..request() }, Code::InvalidArgument, "volume_id"),
        (NodePublishVolumeRequest { target_path: String::new(), ..request() }, Code::InvalidArgument, "target_path"),
        (NodePublishVolumeRequest { target_path: "a/b".into(), ..request() }, Code::InvalidArgument, "target_path"),
        (NodePublishVolumeRequest { target_path: "/a\0b".into(), ..request() }, Code::InvalidArgument, "target_path"),
        (NodePublishVolumeRequest { volume_capability: None, ..request() }, Code::InvalidArgument, "capability"),
        (NodePublishVolumeRequest { volume_capability: block, ..request() }, Code::InvalidArgument, "Filesystem"),
        (
            NodePublishVolumeRequest { volume_capability: capability(AccessType::Mount(flags)), ..request() },
            Code::InvalidArgument,
            "mountOptions",
        ),
        (without("volume"), Code::InvalidArgument, "volume is missing"),
        (without("csi.storage.k8s.io/pod.namespace"), Code::InvalidArgument, "pod.namespace"),
        (with("volume", "../etc"), Code::InvalidArgument, "volume"),
        (with("volume", &"v".repeat(300)), Code::InvalidArgument, "volume"),
        (with("prefix", "a/b"), Code::InvalidArgument, "whole volumes"),
        (with("prefx", "a/b"), Code::InvalidArgument, "prefx"),
        (with("csi.storage.k8s.io/pod.namespace", "other"), Code::PermissionDenied, "this pod is of other"),
    ];
    for (request, wanted, words) in cases {
        let (code, said, asked) = published(Remembers::default(), request).await;
        assert_eq!((code, asked), (wanted, Vec::new()), "{words}: {said}");
        assert!(said.contains(words), "{words}: {said}");
    }
}

#[tokio::test]
async fn what_the_mounter_refuses_has_a_code_that_says_whether_to_wait() {
    let cases = [
        (larder_mounter::NOT_SERVED, Code::Unavailable, "node n1 has no agent"),
        (larder_mounter::BAD_TARGET, Code::InvalidArgument, "its words"),
        (1, Code::Internal, "its words"),
        (0, Code::Internal, "its words"),
    ];
    for (errno, wanted, words) in cases {
        let hands = Remembers { refuses: Some((errno, "its words")), ..Remembers::default() };
        let (code, said, asked) = published(hands, request()).await;
        assert_eq!((code, asked.len()), (wanted, 1), "{said}");
        assert!(said.contains(words), "{said}");
    }
}

#[tokio::test]
async fn a_mounter_that_isnt_there_is_waited_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let node = Node::new("n1", Arc::new(PluginClient::new(&folder.path().join("nobody"))));
    let refused = node.node_publish_volume(Request::new(request())).await.expect_err("nobody is there");
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
}

#[tokio::test]
async fn what_isnt_implemented_says_so_and_isnt_a_capability() {
    let node = Node::new("n1", Arc::new(Remembers::default()));
    let unpublish = NodeUnpublishVolumeRequest { volume_id: "pvc-1".into(), target_path: String::new() };
    let refused = node.node_unpublish_volume(Request::new(unpublish)).await.expect_err("no target");
    assert_eq!(refused.code(), Code::InvalidArgument);
    let capabilities = node.node_get_capabilities(Request::new(NodeGetCapabilitiesRequest {})).await.expect("answered");
    assert_eq!(capabilities.into_inner().capabilities, Vec::new());
    let staged = node.node_stage_volume(Request::new(NodeStageVolumeRequest::default())).await;
    let stats = node.node_get_volume_stats(Request::new(NodeGetVolumeStatsRequest::default())).await;
    let expanded = node.node_expand_volume(Request::new(NodeExpandVolumeRequest::default())).await;
    let codes = [staged.err(), stats.err(), expanded.err()].map(|status| status.expect("refused").code());
    assert_eq!(codes, [Code::Unimplemented; 3]);
}
