//! A TCP proxy that breaks connections where a test wants it: after a number of bytes, on demand, or by going silent.
//!
//! Deterministic: what happens to a connection depends on its number and on counted bytes, never on time; only how fast a
//! slow one is does. It does not know what is said over the connections.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::loopback::free_port;

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fate {
    /// Everything passes.
    #[default]
    Pass,
    /// It is cut as soon as so many bytes came from the server and were passed on.
    CutAfter(u64),
    /// It is cut once so many bytes were passed on, those of both directions together; each may have a read under way
    /// that is still passed on.
    CutAfterBoth(u64),
    /// Everything passes until so many bytes came from the server; then nothing passes any more, and nothing is cut.
    StallAfter(u64),
    /// Everything passes, what comes from the server no faster than so many bytes a second.
    Slow(u32),
    /// It is cut at once.
    Refuse,
}

/// A proxy, which ends when it is dropped.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

struct Shared {
    target: SocketAddr,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    fates: VecDeque<Fate>,
    default: Fate,
    accepted: usize,
    is_over: bool,
    open: Vec<[TcpStream; 2]>,
    threads: Vec<JoinHandle<()>>,
}

impl Fate {
    /// How many bytes pass.
    fn bytes(self) -> u64 {
        match self {
            Fate::CutAfter(bytes) | Fate::CutAfterBoth(bytes) | Fate::StallAfter(bytes) => bytes,
            Fate::Pass | Fate::Slow(_) | Fate::Refuse => u64::MAX,
        }
    }

    /// As long as so many bytes take.
    fn pause(self, bytes: u64) {
        if let Fate::Slow(rate) = self {
            let micros = bytes.saturating_mul(1_000_000) / u64::from(rate.max(1));
            // Ended early it does no harm.
            std::thread::park_timeout(Duration::from_micros(micros));
        }
    }
}

impl Proxy {
    /// A proxy to `target` on a free port of this machine.
    ///
    /// # Panics
    /// Where there is no free port.
    pub fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind(free_port()).expect("a free port");
        let address = listener.local_addr().expect("is bound");
        let shared = Arc::new(Shared { target, state: Mutex::default() });
        let of_thread = Arc::clone(&shared);
        let acceptor = std::thread::spawn(move || accept(&listener, &of_thread));
        Self { address, shared, acceptor: Some(acceptor) }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What becomes of the next connections, in order; those after them pass.
    pub fn plan(&self, fates: &[Fate]) {
        self.shared.state().fates = fates.iter().copied().collect();
    }

    /// What becomes of connections without a plan.
    pub fn set_default(&self, fate: Fate) {
        self.shared.state().default = fate;
    }

    /// Cuts all connections that are open.
    pub fn cut(&self) {
        cut(self.shared.state().open.drain(..));
    }

    /// Connections taken so far.
    pub fn accepted(&self) -> usize {
        self.shared.state().accepted
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.state().is_over = true;
        // Wakes the acceptor.
        let _ = TcpStream::connect(self.address);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
        let threads = {
            let mut state = self.shared.state();
            cut(state.open.drain(..));
            std::mem::take(&mut state.threads)
        };
        for thread in threads {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn cut(connections: impl Iterator<Item = [TcpStream; 2]>) {
    for stream in connections.flatten() {
        // One that is closed already is fine.
        let _ = stream.shutdown(Shutdown::Both);
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for client in listener.incoming() {
        let mut state = shared.state();
        if state.is_over {
            return;
        }
        let Ok(client) = client else { continue };
        state.accepted += 1;
        let fate = state.fates.pop_front().unwrap_or(state.default);
        if fate == Fate::Refuse {
            continue;
        }
        if let Ok(server) = TcpStream::connect(shared.target) {
            // Where handles run out, the connection is dropped: the client sees it cut.
            let _ = join(&mut state, client, server, fate);
        }
    }
}

/// Lets two threads carry bytes between the two ends.
fn join(state: &mut State, client: TcpStream, server: TcpStream, fate: Fate) -> io::Result<()> {
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_server) = (client.try_clone()?, server.try_clone()?);
    state.open.push([client.try_clone()?, server.try_clone()?]);
    // What only counts the server's bytes has nothing to say of the other direction.
    let there = if let Fate::CutAfterBoth(_) = fate { fate } else { Fate::Pass };
    let left = Arc::new(AtomicU64::new(fate.bytes()));
    let of_client = if there == Fate::Pass { Arc::new(AtomicU64::new(u64::MAX)) } else { Arc::clone(&left) };
    state.threads.push(std::thread::spawn(move || carry(from_client, to_server, there, &of_client)));
    state.threads.push(std::thread::spawn(move || carry(server, client, fate, &left)));
    Ok(())
}

/// The other direction may have taken some of them too.
fn take(left: &AtomicU64, bytes: u64) {
    let _ = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| Some(left.saturating_sub(bytes)));
}

/// Carries bytes until one end closes or the fate comes, then cuts both.
fn carry(mut from: TcpStream, mut to: TcpStream, fate: Fate, left: &AtomicU64) {
    let mut buffer = [0; 16 * 1024];
    while left.load(Ordering::Relaxed) > 0 {
        let most = usize::try_from(left.load(Ordering::Relaxed)).unwrap_or(usize::MAX).min(buffer.len());
        match from.read(&mut buffer[..most]) {
            Ok(length) if length > 0 && to.write_all(&buffer[..length]).is_ok() => {
                take(left, length as u64);
                fate.pause(length as u64);
            }
            _ => break,
        }
    }
    if left.load(Ordering::Relaxed) == 0 && matches!(fate, Fate::StallAfter(_)) {
        // What still comes is swallowed, until somebody cuts.
        while from.read(&mut buffer).is_ok_and(|length| length > 0) {}
    }
    cut([[from, to]].into_iter());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that says back what it hears.
    fn echo() -> SocketAddr {
        let listener = TcpListener::bind(free_port()).expect("a free port");
        let address = listener.local_addr().expect("is bound");
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || io::copy(&mut &stream, &mut &stream));
            }
        });
        address
    }

    fn say(proxy: &Proxy, text: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(proxy.address()).expect("connects");
        stream.write_all(text).expect("takes a few bytes");
        stream
    }

    fn hear(mut stream: &TcpStream, length: usize) -> Vec<u8> {
        let mut heard = vec![0; length];
        stream.read_exact(&mut heard).expect("so many bytes come");
        heard
    }

    fn say_and_hear_what_comes(proxy: &Proxy, text: &[u8]) -> Vec<u8> {
        let mut heard = Vec::new();
        // A connection that is cut may end with an error.
        let _ = say(proxy, text).read_to_end(&mut heard);
        heard
    }

    fn is_cut(mut stream: TcpStream) -> bool {
        stream.read(&mut [0]).map_or(true, |length| length == 0)
    }

    #[test]
    fn each_connection_meets_its_fate() {
        let proxy = Proxy::start(echo());
        proxy.plan(&[Fate::CutAfter(3), Fate::Refuse, Fate::StallAfter(2), Fate::CutAfterBoth(7)]);
        let first = say(&proxy, b"hello");
        assert_eq!(hear(&first, 3), b"hel");
        assert!(is_cut(first));
        assert!(is_cut(TcpStream::connect(proxy.address()).expect("connects")));
        let silent = say(&proxy, b"hello");
        assert_eq!(hear(&silent, 2), b"he");
        assert!(b"hello".starts_with(&say_and_hear_what_comes(&proxy, b"hello")), "and it ends");
        let passes = say(&proxy, b"hello");
        assert_eq!(hear(&passes, 5), b"hello");
        assert_eq!(proxy.accepted(), 5);
        proxy.cut();
        assert!(is_cut(passes) && is_cut(silent));
        let later = say(&proxy, b"again");
        assert_eq!(hear(&later, 5), b"again");
        drop(proxy);
        assert!(is_cut(later));
    }
}
