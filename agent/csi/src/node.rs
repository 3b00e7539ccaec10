//! The node service: publish and unpublish, asked of the mounter.
//!
//! Nothing is staged, nothing is kept: what is bound where stands in mountinfo alone, which is the mounter's to read. Each
//! call may come again and says the same. Every volume is mounted read-only, whatever is asked for.

use std::sync::Arc;

use larder_mounter::{ClientError, PluginClient, PluginRequest};
use tonic::{Request, Response, Status, async_trait};

use crate::proto::csi::node_server;
use crate::proto::csi::{
    NodeExpandVolumeRequest, NodeExpandVolumeResponse, NodeGetCapabilitiesRequest, NodeGetCapabilitiesResponse,
    NodeGetInfoRequest, NodeGetInfoResponse, NodeGetStorageHealthRequest, NodeGetStorageHealthResponse,
    NodeGetVolumeHealthRequest, NodeGetVolumeHealthResponse, NodeGetVolumeStatsRequest, NodeGetVolumeStatsResponse,
    NodePublishVolumeRequest, NodePublishVolumeResponse, NodeStageVolumeRequest, NodeStageVolumeResponse,
    NodeUnpublishVolumeRequest, NodeUnpublishVolumeResponse, NodeUnstageVolumeRequest, NodeUnstageVolumeResponse,
};

mod status;
mod wanted;

use status::{of_mounter, of_refusal};
use wanted::{Wanted, target_of};

/// Who binds: the mounter, or a test's.
pub trait Hands: Send + Sync + 'static {
    /// Does it, or says why not. May block for half a minute.
    fn ask(&self, request: &PluginRequest) -> Result<(), ClientError>;
}

impl Hands for PluginClient {
    fn ask(&self, request: &PluginRequest) -> Result<(), ClientError> {
        self.ask(request)
    }
}

/// The node service.
#[derive(Clone)]
pub struct Node {
    name: Arc<str>,
    hands: Arc<dyn Hands>,
}

impl Node {
    /// On the Kubernetes node of this name.
    pub fn new(name: &str, hands: Arc<dyn Hands>) -> Self {
        Self { name: name.into(), hands }
    }

    /// Asks, apart from everything that must not wait. `volume` is for the words of a refusal.
    async fn ask(&self, request: PluginRequest, volume: &str) -> Result<(), Status> {
        let hands = self.hands.clone();
        let asked = tokio::task::spawn_blocking(move || hands.ask(&request)).await;
        let answered = asked.map_err(|error| Status::internal(format!("asking the mounter: {error}")))?;
        answered.map_err(|error| {
            tracing::warn!(volume, %error, "the mounter hasn't done it");
            of_mounter(&error, &self.name, volume)
        })
    }
}

#[async_trait]
impl node_server::Node for Node {
    async fn node_publish_volume(
        &self,
        request: Request<NodePublishVolumeRequest>,
    ) -> Result<Response<NodePublishVolumeResponse>, Status> {
        let wanted = Wanted::parse(&request.into_inner()).map_err(|refusal| of_refusal(&refusal))?;
        let Wanted { volume, target } = wanted;
        // No volume can be written yet.
        let publish = PluginRequest::Publish { volume: volume.clone(), target: target.clone(), is_read_only: true };
        self.ask(publish, &volume).await?;
        tracing::info!(volume, target, "published");
        Ok(Response::new(NodePublishVolumeResponse {}))
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<NodeUnpublishVolumeRequest>,
    ) -> Result<Response<NodeUnpublishVolumeResponse>, Status> {
        let request = request.into_inner();
        let target = target_of(&request.volume_id, &request.target_path).map_err(|refusal| of_refusal(&refusal))?;
        self.ask(PluginRequest::Unpublish { target: target.clone() }, &request.volume_id).await?;
        tracing::info!(target, "unpublished");
        Ok(Response::new(NodeUnpublishVolumeResponse {}))
    }

    async fn node_get_capabilities(
        &self,
        _: Request<NodeGetCapabilitiesRequest>,
    ) -> Result<Response<NodeGetCapabilitiesResponse>, Status> {
        Ok(Response::new(NodeGetCapabilitiesResponse { capabilities: Vec::new() }))
    }

    async fn node_get_info(&self, _: Request<NodeGetInfoRequest>) -> Result<Response<NodeGetInfoResponse>, Status> {
        Ok(Response::new(NodeGetInfoResponse {
            node_id: self.name.to_string(),
            // No limit of ours.
            max_volumes_per_node: 0,
            accessible_topology: None,
        }))
    }

    async fn node_stage_volume(
        &self,
        _: Request<NodeStageVolumeRequest>,
    ) -> Result<Response<NodeStageVolumeResponse>, Status> {
        Err(Status::unimplemented("nothing is staged"))
    }

    async fn node_unstage_volume(
        &self,
        _: Request<NodeUnstageVolumeRequest>,
    ) -> Result<Response<NodeUnstageVolumeResponse>, Status> {
        Err(Status::unimplemented("nothing is staged"))
    }

    async fn node_get_volume_stats(
        &self,
        _: Request<NodeGetVolumeStatsRequest>,
    ) -> Result<Response<NodeGetVolumeStatsResponse>, Status> {
        Err(Status::unimplemented("the agents' reports don't come here"))
    }

    async fn node_get_volume_health(
        &self,
        _: Request<NodeGetVolumeHealthRequest>,
    ) -> Result<Response<NodeGetVolumeHealthResponse>, Status> {
        Err(Status::unimplemented("the agents' reports don't come here"))
    }

    async fn node_get_storage_health(
        &self,
        _: Request<NodeGetStorageHealthRequest>,
    ) -> Result<Response<NodeGetStorageHealthResponse>, Status> {
        Err(Status::unimplemented("the agents' reports don't come here"))
    }

    async fn node_expand_volume(
        &self,
        _: Request<NodeExpandVolumeRequest>,
    ) -> Result<Response<NodeExpandVolumeResponse>, Status> {
        Err(Status::unimplemented("a bucket has no size"))
    }
}

#[cfg(test)]
mod tests;
