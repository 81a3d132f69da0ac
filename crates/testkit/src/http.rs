//! A small HTTP server, the answers of which a test makes. One request a connection.
//!
//! It does not know what is stored where.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

use crate::loopback::free_port;

/// A request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpRequest {
    /// `GET /path HTTP/1.1`.
    pub line: String,
    /// Names in lower case, and values, in the order in which they came.
    pub headers: Vec<(String, String)>,
    /// As long as `content-length` said.
    pub body: Vec<u8>,
}

impl HttpRequest {
    /// The first value of a header; its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The path of the request line; empty where it has none.
    pub fn path(&self) -> &str {
        self.line.split(' ').nth(1).unwrap_or_default()
    }
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpAnswer {
    /// `404 Not Found`.
    pub status: &'static str,
    /// Headers beside those of the connection, each with its line end.
    pub headers: String,
    /// Empty for an answer to HEAD.
    pub body: Vec<u8>,
}

impl HttpAnswer {
    /// An answer that is nothing but a status.
    pub fn status(status: &'static str) -> Self {
        Self { status, headers: String::new(), body: Vec::new() }
    }
}

/// Answers requests on a free port of this machine until the test's process ends.
///
/// # Panics
/// Where there is no free port.
pub fn serve_http(answer: impl Fn(&HttpRequest) -> HttpAnswer + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind(free_port()).expect("a free port");
    let address = listener.local_addr().expect("is bound");
    let answer = Arc::new(answer);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let answer = Arc::clone(&answer);
            // A client that goes in between is its test's affair.
            std::thread::spawn(move || serve(stream, &*answer).ok());
        }
    });
    address
}

fn serve(mut stream: TcpStream, answer: &dyn Fn(&HttpRequest) -> HttpAnswer) -> io::Result<()> {
    let request = read(&stream)?;
    let HttpAnswer { status, headers, body } = answer(&request);
    let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n{headers}\r\n", body.len());
    stream.write_all(&[head.as_bytes(), &body].concat())
}

fn read(stream: &TcpStream) -> io::Result<HttpRequest> {
    let mut reader = BufReader::new(stream);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        let length = reader.read_line(&mut line)?;
        match line.trim_end() {
            "" if length == 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let mut lines = lines.into_iter();
    let line = lines.next().unwrap_or_default();
    let pairs = lines.filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_ascii_lowercase(), value.trim().to_owned()))
    });
    let mut request = HttpRequest { line, headers: pairs.collect(), body: Vec::new() };
    let length = request.header("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    request.body = vec![0; length];
    reader.read_exact(&mut request.body)?;
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_and_answered() {
        let address = serve_http(|request| {
            assert_eq!((&*request.line, request.path()), ("PUT /a HTTP/1.1", "/a"));
            let body = format!("{:?} {:?}", request.header("x-key"), request.header("none")).into_bytes();
            HttpAnswer { status: "200 OK", headers: "a: b\r\n".to_owned(), body: [body, request.body.clone()].concat() }
        });
        let mut stream = TcpStream::connect(address).expect("connects");
        stream.write_all(b"PUT /a HTTP/1.1\r\nX-Key:  1\r\nContent-Length: 3\r\n\r\nxyz").expect("writes");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        let expected = "HTTP/1.1 200 OK\r\ncontent-length: 17\r\nconnection: close\r\na: b\r\n\r\nSome(\"1\") Nonexyz";
        assert_eq!(answer, expected);
    }
}
