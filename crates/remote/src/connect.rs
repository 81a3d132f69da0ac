//! TCP connections of both protocols, on which data that came is acknowledged at once.
//!
//! A server that leaves Nagle's algorithm on holds a small segment back until the one before it is acknowledged. Linux
//! delays that acknowledgement by 40 ms on a connection that looks interactive, as one with short calls does. So each
//! answer could take 40 ms longer than the network. It does not know what is said over the connections.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::TokioIo;
use rustix::net::sockopt::set_tcp_quickack;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tonic::codegen::Service;
use tonic::codegen::http::Uri;

/// Longest time to a connection.
pub(crate) const CONNECT: Duration = Duration::from_secs(10);

/// Work that is under way, by itself on the heap.
type Boxed<T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send>>;

/// Where connections lead.
#[derive(Clone)]
pub(crate) enum Destination {
    /// To the host of the URI.
    OfUri,
    /// To this host and port, whatever the URI names: the name in a certificate may be another.
    Fixed(String, u16),
}

/// A maker of TCP connections.
#[derive(Clone)]
pub(crate) struct TcpConnector(HttpConnector<Resolver>);

impl TcpConnector {
    /// Returns a connector whose connections ask after `keepalive` whether a silent peer still lives.
    pub(crate) fn new(destination: Destination, timeout: Duration) -> Self {
        let mut http = HttpConnector::new_with_resolver(Resolver(destination));
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_keepalive(Some(timeout.max(Duration::from_secs(1))));
        http.set_connect_timeout(Some(CONNECT.min(timeout)));
        Self(http)
    }
}

impl Service<Uri> for TcpConnector {
    type Response = TokioIo<PromptStream>;
    type Error = <HttpConnector<Resolver> as Service<Uri>>::Error;
    type Future = Boxed<Self::Response, Self::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = self.0.call(uri);
        Box::pin(async move { Ok(TokioIo::new(PromptStream::new(connecting.await?.into_inner()))) })
    }
}

/// A look-up of the addresses of a destination.
#[derive(Clone)]
pub(crate) struct Resolver(Destination);

impl Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Boxed<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let place = match &self.0 {
            Destination::OfUri => (name.as_str().to_owned(), 0),
            Destination::Fixed(host, port) => (host.clone(), *port),
        };
        Box::pin(async move { Ok(tokio::net::lookup_host(place).await?.collect::<Vec<_>>().into_iter()) })
    }
}

/// A connection whose reader acknowledges what it read before it waits for more.
pub(crate) struct PromptStream {
    tcp: TcpStream,
    /// Whether something was read since the last acknowledgement that was asked for.
    has_read: bool,
}

impl PromptStream {
    fn new(tcp: TcpStream) -> Self {
        Self { tcp, has_read: false }
    }

    /// Has the kernel send an acknowledgement that it holds back. The option does not stick: the next answer to a call
    /// makes the connection look interactive again, so it is set after each burst.
    fn acknowledge(&self) {
        // Without it the connection is slower, and as good otherwise.
        let _ = set_tcp_quickack(&self.tcp, true);
        #[cfg(test)]
        tests::count(&self.tcp);
    }
}

impl AsyncRead for PromptStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.tcp).poll_read(context, buffer);
        match polled {
            Poll::Ready(_) => self.has_read |= buffer.filled().len() > before,
            // One call for all that came in a burst, and none if the next bytes are here already.
            Poll::Pending if std::mem::take(&mut self.has_read) => self.acknowledge(),
            Poll::Pending => {}
        }
        polled
    }
}

impl AsyncWrite for PromptStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(context)
    }
}

impl Connection for PromptStream {
    fn connected(&self) -> Connected {
        self.tcp.connected()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::HashMap;
    use std::sync::Mutex;

    use rustix::net::sockopt::tcp_quickack;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    /// How often acknowledgements were asked for, by the address of the peer.
    static ASKED: Mutex<Option<HashMap<SocketAddr, usize>>> = Mutex::new(None);

    pub(super) fn count(tcp: &TcpStream) {
        let Ok(peer) = tcp.peer_addr() else { return };
        let mut asked = ASKED.lock().expect("not poisoned");
        *asked.get_or_insert_default().entry(peer).or_default() += 1;
    }

    /// Returns how often connections to `peer` asked for an acknowledgement.
    pub(crate) fn asked(peer: SocketAddr) -> usize {
        let asked = ASKED.lock().expect("not poisoned");
        asked.as_ref().and_then(|asked| asked.get(&peer).copied()).unwrap_or_default()
    }

    /// A connection of which the other end keeps Nagle's algorithm, and that other end.
    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let client = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("connects");
        client.set_nodelay(true).expect("set");
        let (server, _) = listener.accept().await.expect("accepts");
        assert!(!server.nodelay().expect("told"), "Nagle's algorithm is on unless it is turned off");
        (client, server)
    }

    /// Reads all that is there.
    fn drain(stream: &mut (impl AsyncRead + Unpin)) -> usize {
        let mut context = Context::from_waker(std::task::Waker::noop());
        let (mut bytes, mut length) = ([0; 16], 0);
        loop {
            let mut buffer = ReadBuf::new(&mut bytes);
            match Pin::new(&mut *stream).poll_read(&mut context, &mut buffer) {
                Poll::Ready(read) => {
                    read.expect("reads");
                    assert!(!buffer.filled().is_empty(), "the other end is open");
                    length += buffer.filled().len();
                }
                Poll::Pending => return length,
            }
        }
    }

    /// Lets client and server take turns until the kernel takes the connection for an interactive one.
    async fn converse(client: &mut (impl AsyncRead + AsyncWrite + Unpin), server: &mut TcpStream) {
        for _ in 0..4 {
            client.write_all(b"q").await.expect("sends");
            server.read_exact(&mut [0]).await.expect("comes");
            server.write_all(b"a").await.expect("sends");
            client.read_exact(&mut [0]).await.expect("comes");
        }
    }

    #[tokio::test]
    async fn an_interactive_connection_without_the_stream_delays_acknowledgements() {
        let (mut client, mut server) = pair().await;
        converse(&mut client, &mut server).await;
        client.write_all(b"q").await.expect("sends");
        assert!(!tcp_quickack(&client).expect("told"), "otherwise the tests below prove nothing");
    }

    #[tokio::test]
    async fn a_drained_connection_has_acknowledged_what_it_read() {
        let (client, mut server) = pair().await;
        let mut client = PromptStream::new(client);
        converse(&mut client, &mut server).await;
        client.write_all(b"q").await.expect("sends");
        server.read_exact(&mut [0]).await.expect("comes");
        server.write_all(b"first").await.expect("sends");
        client.tcp.readable().await.expect("comes");
        assert!(drain(&mut client) > 0);
        assert!(tcp_quickack(&client.tcp).expect("told"), "the server waits 40 ms for its acknowledgement");
        server.write_all(b"second").await.expect("is not held back");
    }

    #[tokio::test]
    async fn a_burst_asks_for_one_acknowledgement_and_silence_for_none() {
        let (client, mut server) = pair().await;
        let peer = client.peer_addr().expect("connected");
        let mut client = PromptStream::new(client);
        assert_eq!((drain(&mut client), asked(peer)), (0, 0), "nothing came");
        server.write_all(&[0; 100]).await.expect("sends");
        client.tcp.readable().await.expect("comes");
        assert_eq!((drain(&mut client), asked(peer)), (100, 1));
        assert_eq!((drain(&mut client), asked(peer)), (0, 1));
    }
}
