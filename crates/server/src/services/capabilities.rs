//! `GetCapabilities`.

use std::sync::Arc;

use minibuild_reapi::decode::function_number;
use minibuild_reapi::proto::SemVer;
use minibuild_reapi::proto::execution as proto;
use proto::capabilities_server::Capabilities;
use tonic::{Request, Response, Status};

use crate::shared::Shared;

pub(crate) struct CapabilitiesService(pub(crate) Arc<Shared>);

#[tonic::async_trait]
impl Capabilities for CapabilitiesService {
    async fn get_capabilities(
        &self,
        request: Request<proto::GetCapabilitiesRequest>,
    ) -> Result<Response<proto::ServerCapabilities>, Status> {
        let instance = &request.get_ref().instance_name;
        self.0.call("GetCapabilities", instance, async { Ok(self.capabilities()) }).await
    }
}

impl CapabilitiesService {
    fn capabilities(&self) -> proto::ServerCapabilities {
        let can_execute = self.0.board.workers() > 0 && !self.0.pretence.cache_only;
        proto::ServerCapabilities {
            cache_capabilities: Some(self.cache()),
            execution_capabilities: can_execute.then(|| self.execution()),
            deprecated_api_version: None,
            // Clients that speak 2.0 refuse a server that says more.
            low_api_version: Some(version(0)),
            high_api_version: Some(version(11)),
        }
    }

    fn functions(&self) -> Vec<i32> {
        self.0.functions().iter().map(|function| function_number(*function)).collect()
    }

    fn cache(&self) -> proto::CacheCapabilities {
        let zstd = if self.0.pretence.no_zstd { vec![] } else { vec![proto::compressor::Value::Zstd as i32] };
        proto::CacheCapabilities {
            digest_functions: self.functions(),
            action_cache_update_capabilities: Some(proto::ActionCacheUpdateCapabilities { update_enabled: true }),
            cache_priority_capabilities: None,
            max_batch_total_size_bytes: i64::try_from(self.0.batch_limit()).unwrap_or(i64::MAX),
            symlink_absolute_path_strategy: proto::symlink_absolute_path_strategy::Value::Allowed as i32,
            supported_compressors: zstd.clone(),
            supported_batch_update_compressors: zstd,
            ..Default::default()
        }
    }

    fn execution(&self) -> proto::ExecutionCapabilities {
        let range = proto::priority_capabilities::PriorityRange { min_priority: i32::MIN, max_priority: i32::MAX };
        proto::ExecutionCapabilities {
            digest_function: self.functions().first().copied().unwrap_or_default(),
            exec_enabled: true,
            execution_priority_capabilities: Some(proto::PriorityCapabilities { priorities: vec![range] }),
            supported_node_properties: Vec::new(),
            digest_functions: self.functions(),
        }
    }
}

fn version(minor: i32) -> SemVer {
    SemVer { major: 2, minor, patch: 0, prerelease: String::new() }
}
