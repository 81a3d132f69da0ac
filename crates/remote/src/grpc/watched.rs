//! A connection that tells of whatever comes over it, parts of messages too: on a slow link one message may take longer
//! than a call may be silent. It does not know what comes.

use std::sync::Arc;
use std::task::{Context, Poll};

use http_body_util::BodyExt as _;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::transport::{Channel, Error};

use super::progress::Progress;

/// The connection of one attempt.
#[derive(Clone)]
pub(crate) struct Watched {
    channel: Channel,
    progress: Arc<Progress>,
}

impl Watched {
    pub(super) fn new(channel: Channel, progress: Arc<Progress>) -> Self {
        Self { channel, progress }
    }
}

impl Service<http::Request<Body>> for Watched {
    type Response = http::Response<Body>;
    type Error = Error;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.channel.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let (answer, progress) = (self.channel.call(request), Arc::clone(&self.progress));
        Box::pin(async move {
            let watch = |body: Body| {
                Body::new(body.map_frame(move |frame| {
                    progress.received(frame.data_ref().map_or(0, |bytes| bytes.len()));
                    frame
                }))
            };
            Ok(answer.await?.map(watch))
        })
    }
}
