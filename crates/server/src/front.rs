//! The front door, where a fault wants one: credentials, and answers that come from no service.
//!
//! It does not know what the calls are about; whoever comes through is served as always.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use tonic::Status;
use tonic::service::Routes;

use crate::faults::Occasion;
use crate::inject::{FaultKind, split_header};
use crate::shared::Shared;

/// One gRPC message that is none of any kind: its first tag does not end.
const GARBAGE: [u8; 21] = {
    let mut frame = [0xff; 21];
    (frame[0], frame[1], frame[2], frame[3], frame[4]) = (0, 0, 0, 0, 16);
    frame
};
const PAGE: &str = "<html><body><h1>502 Bad Gateway</h1></body></html>\n";

/// Puts the door before everything, if it has anything to do.
pub(crate) fn guard(routes: Routes, shared: &Arc<Shared>) -> Routes {
    let has_faults = shared.faults.has(FaultKind::Garbage) || shared.faults.has(FaultKind::Proxy);
    if !has_faults && shared.pretence.require.is_empty() {
        return routes;
    }
    Routes::from(routes.into_axum_router().layer(from_fn_with_state(Arc::clone(shared), pass)))
}

async fn pass(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let is_grpc = is_grpc(request.headers());
    if !shared.pretence.require.iter().all(|required| has_header(request.headers(), required)) {
        return match is_grpc {
            true => Status::unauthenticated("injected: a header is missing or wrong").into_http::<Body>(),
            false => StatusCode::UNAUTHORIZED.into_response(),
        };
    }
    let method = method(&request, is_grpc);
    let occasion = Occasion { method: &method, ..Default::default() };
    if shared.faults.strike(FaultKind::Proxy, occasion).is_some() {
        return (StatusCode::BAD_GATEWAY, [(header::CONTENT_TYPE, "text/html")], PAGE).into_response();
    }
    if shared.faults.strike(FaultKind::Garbage, occasion).is_some() {
        let kind = if is_grpc { "application/grpc" } else { "application/octet-stream" };
        return ([(header::CONTENT_TYPE, kind)], GARBAGE.to_vec()).into_response();
    }
    next.run(request).await
}

pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

fn has_header(headers: &HeaderMap, required: &str) -> bool {
    let Some((name, value)) = split_header(required) else { return false };
    headers.get_all(name).iter().any(|got| got.as_bytes() == value.as_bytes())
}

/// As counts and faults name it: `Read`, `HTTP GET`.
fn method(request: &Request, is_grpc: bool) -> String {
    match is_grpc {
        true => request.uri().path().rsplit('/').next().unwrap_or_default().to_owned(),
        false => format!("HTTP {}", request.method()),
    }
}
