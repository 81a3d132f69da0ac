//! The gRPC services. Each checks what comes in, asks the store or the board, and answers.

mod action_cache;
mod byte_stream;
mod capabilities;
mod cas;
mod execution;
mod http_cache;
mod inline;
mod upload;

pub(crate) use action_cache::{ActionCacheService, record};
pub(crate) use byte_stream::ByteStreamService;
pub(crate) use capabilities::CapabilitiesService;
pub(crate) use cas::CasService;
pub(crate) use execution::{ExecutionService, OperationsService};
pub(crate) use http_cache::router as http_router;
pub(crate) use upload::Uploads;
