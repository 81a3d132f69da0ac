//! The HTTP cache protocol: `/cas/HASH` and `/ac/HASH`, below any prefix, by GET, HEAD and PUT.
//!
//! It serves the same store as the gRPC services, so what one protocol put the other gets. `blake3/` before the hash
//! names the other digest function.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt as _;
use minibuild_core::{Digest, DigestFunction};
use minibuild_reapi::Compressor;
use minibuild_reapi::proto::{Message, execution as proto, read};
use tonic::{Code, Status};

use super::action_cache::{checked, lookup, record};
use super::byte_stream::Download;
use super::upload::Sink;
use crate::answer::{blocking, store_error};
use crate::front::is_grpc;
use crate::shared::Shared;
use crate::store::{Ingest, Space};

/// The size of an upload before it was compressed, as other caches of this protocol name it.
const SIZE: HeaderName = HeaderName::from_static("x-digest-sizebytes");
/// A result larger than this is none.
const MAX_RESULT: usize = 64 << 20;

/// Answers whatever no gRPC service answers.
pub(crate) fn router(shared: Arc<Shared>) -> Router {
    Router::new().fallback(serve).with_state(shared)
}

/// What a path names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    space: Space,
    function: DigestFunction,
    hash: [u8; 32],
}

impl Place {
    fn parse(path: &str) -> Option<Self> {
        let mut segments = path.rsplit('/');
        let hex = segments.next()?;
        let (function, space) = match segments.next()? {
            "blake3" => (DigestFunction::Blake3, segments.next()?),
            space => (DigestFunction::Sha256, space),
        };
        let space = match space {
            "cas" => Space::Cas,
            "ac" => Space::Results,
            _ => return None,
        };
        let digest: Digest = format!("{hex}/0").parse().ok()?;
        Some(Self { space, function, hash: digest.hash })
    }
}

async fn serve(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    if is_grpc(request.headers()) {
        return Status::unimplemented("this service is not served here").into_http::<Body>();
    }
    let Some(place) = Place::parse(request.uri().path()) else {
        return (StatusCode::NOT_FOUND, "expected /cas/HASH or /ac/HASH\n").into_response();
    };
    let method = match *request.method() {
        Method::GET => "HTTP GET",
        Method::HEAD => "HTTP HEAD",
        Method::PUT => "HTTP PUT",
        _ => return StatusCode::METHOD_NOT_ALLOWED.into_response(),
    };
    let coding = Coding::of(request.headers());
    let body = request.into_body();
    let work = async {
        match (method, place.space) {
            ("HTTP PUT", Space::Cas) => put_blob(&shared, place, coding, body).await,
            ("HTTP PUT", Space::Results) => put_result(&shared, place, body).await,
            (_, Space::Cas) => get_blob(&shared, place, coding, method).await,
            (_, Space::Results) => get_result(&shared, place, method).await,
        }
    };
    match shared.call(method, shared.any_instance(), work).await {
        Ok(response) => response.into_inner(),
        Err(status) => (http_code(status.code()), format!("{}\n", status.message())).into_response(),
    }
}

fn http_code(code: Code) -> StatusCode {
    match code {
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::InvalidArgument | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::FailedPrecondition => StatusCode::PRECONDITION_FAILED,
        Code::ResourceExhausted => StatusCode::INSUFFICIENT_STORAGE,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// How a blob goes over the line, as headers say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Coding {
    /// Whether the client takes zstd.
    accepts_zstd: bool,
    /// Whether what it sends is zstd; an error of the client where it is something else.
    sends_zstd: bool,
    is_unknown: bool,
    /// The size as it says, uncompressed.
    size: Option<u64>,
}

impl Coding {
    fn of(headers: &HeaderMap) -> Self {
        let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let is_zstd = |item: &str| {
            let (name, weight) = item.split_once(';').unwrap_or((item, ""));
            name.trim().eq_ignore_ascii_case("zstd") && !matches!(weight.trim(), "q=0" | "q=0.0" | "q=0.00" | "q=0.000")
        };
        let sent = text(header::CONTENT_ENCODING).trim().to_ascii_lowercase();
        Self {
            accepts_zstd: text(header::ACCEPT_ENCODING).split(',').any(is_zstd),
            sends_zstd: sent == "zstd",
            is_unknown: !matches!(&*sent, "" | "identity" | "zstd"),
            size: headers.get(SIZE).and_then(|value| value.to_str().ok()?.parse().ok()),
        }
    }

    /// How an upload comes, and how long it may be: what is compressed has to say that before.
    fn of_upload(self, shared: &Shared) -> Result<(Compressor, u64), Status> {
        if self.is_unknown || (self.sends_zstd && shared.pretence.no_zstd) {
            return Err(Status::invalid_argument("this `Content-Encoding` is not served here"));
        }
        match (self.sends_zstd, self.size) {
            (true, Some(size)) => Ok((Compressor::Zstd, size)),
            (true, None) => Err(Status::invalid_argument("a compressed upload needs `X-Digest-SizeBytes`")),
            (false, size) => Ok((Compressor::Identity, size.unwrap_or(shared.store.limit()))),
        }
    }
}

async fn get_blob(
    shared: &Arc<Shared>,
    place: Place,
    coding: Coding,
    method: &'static str,
) -> Result<Response, Status> {
    let owner = Arc::clone(shared);
    let found = blocking(move || {
        let digest = owner.store.digest_of(place.function, place.hash);
        let Some(digest) = digest else { return Ok(None) };
        owner.maybe_lose(method, place.function, &digest);
        let file = owner.store.open_blob(place.function, &digest).map_err(store_error)?;
        Ok(file.map(|file| (file, digest)))
    });
    let (file, digest) = found.await?.ok_or_else(|| Status::not_found("there is no such blob"))?;
    if method == "HTTP HEAD" {
        return Ok(([(header::CONTENT_LENGTH, digest.size)], Body::empty()).into_response());
    }
    let packs = coding.accepts_zstd && !shared.pretence.no_zstd;
    let compressor = if packs { Compressor::Zstd } else { Compressor::Identity };
    let download = Download::begin(Arc::clone(shared), method, (file, digest), compressor, (0, digest.size))?;
    let body = Body::from_stream(download.pieces().map(|piece| piece.map(|message| message.data)));
    // How long it is compressed nobody knows before.
    Ok(match packs {
        true => ([(header::CONTENT_ENCODING, "zstd")], body).into_response(),
        false => ([(header::CONTENT_LENGTH, digest.size)], body).into_response(),
    })
}

async fn put_blob(shared: &Arc<Shared>, place: Place, coding: Coding, body: Body) -> Result<Response, Status> {
    shared.check_full("HTTP PUT", &Digest { hash: place.hash, size: 0 })?;
    let (compressor, limit) = coding.of_upload(shared)?;
    let store = Arc::clone(&shared.store);
    let begin = move || Sink::new(Ingest::new(&store, place.function, limit).map_err(store_error)?, compressor);
    let mut sink = blocking(begin).await?;
    let mut stream = body.into_data_stream();
    while let Some(piece) = stream.next().await {
        let piece = piece.map_err(|e| Status::invalid_argument(format!("the upload broke off: {e}")))?;
        shared.counters.of_method("HTTP PUT", |count| count.bytes_in += piece.len() as u64);
        sink = blocking(move || sink.write(&piece).map(|()| sink)).await?;
    }
    blocking(move || {
        let ingest = sink.finish()?;
        let expected = Digest { hash: place.hash, size: ingest.written() };
        ingest.finish(Some(&expected)).map_err(store_error)
    })
    .await?;
    Ok(StatusCode::OK.into_response())
}

async fn get_result(shared: &Arc<Shared>, place: Place, method: &'static str) -> Result<Response, Status> {
    let owner = Arc::clone(shared);
    // Results are named by the hash of their action alone.
    let action = Digest { hash: place.hash, size: 0 };
    let found = blocking(move || lookup(&owner, method, place.function, &action)).await?;
    let bytes = found.ok_or_else(|| Status::not_found("there is no such result"))?.encode_to_vec();
    let length = bytes.len();
    let body = if method == "HTTP HEAD" { Body::empty() } else { Body::from(bytes) };
    Ok(([(header::CONTENT_LENGTH, length)], body).into_response())
}

/// Clients of this protocol upload in any order, so what is missing is not asked before somebody wants the result.
async fn put_result(shared: &Arc<Shared>, place: Place, body: Body) -> Result<Response, Status> {
    let bytes = axum::body::to_bytes(body, MAX_RESULT).await;
    let bytes = bytes.map_err(|e| Status::invalid_argument(format!("the upload broke off: {e}")))?;
    let shared = Arc::clone(shared);
    blocking(move || {
        let bad = |e: minibuild_reapi::DecodeError| Status::invalid_argument(e.to_string());
        let result: proto::ActionResult = read("ActionResult", &bytes).map_err(bad)?;
        if !shared.pretence.unchecked {
            checked(&result, place.function)?;
        }
        let action = Digest { hash: place.hash, size: 0 };
        record(&shared.store, place.function, &action, &result).map_err(store_error)
    })
    .await?;
    Ok(StatusCode::OK.into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_places() {
        let digest = DigestFunction::Sha256.digest(b"x");
        let hex = digest.hex();
        let check = |path: String, expected: Option<(Space, DigestFunction)>| {
            let expected = expected.map(|(space, function)| Place { space, function, hash: digest.hash });
            assert_eq!(Place::parse(&path), expected, "{path}");
        };
        check(format!("/cas/{hex}"), Some((Space::Cas, DigestFunction::Sha256)));
        check(format!("/ac/{hex}"), Some((Space::Results, DigestFunction::Sha256)));
        check(format!("/some/prefix/ac/{hex}"), Some((Space::Results, DigestFunction::Sha256)));
        check(format!("/cas/blake3/{hex}"), Some((Space::Cas, DigestFunction::Blake3)));
        for bad in ["/", "/cas/", "/cas/../x", "/x/y"] {
            check(bad.to_owned(), None);
        }
        check(format!("/{hex}"), None);
        check(format!("/cas/{}", hex.to_uppercase()), None);
        check(format!("/cas/{hex}/"), None);
        check(format!("/cas/{}", &hex[1..]), None);
    }
}
