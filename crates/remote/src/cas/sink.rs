//! Where the bytes of a blob go that comes in pieces: unpacked, counted, hashed and written.
//!
//! It does not know connections. Everything here blocks.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write};

use minibuild_core::{Digest, DigestFunction, Hasher};
use zstd::stream::write::Decoder;

/// A sender chooses how much memory unpacking takes, up to 16 MiB.
const MAX_WINDOW: u32 = 24;

/// What takes the bytes of a blob and can begin anew.
pub(crate) trait Target: Write + Send + 'static {
    /// Reads what it has already, to its end, and gives how much that is.
    ///
    /// # Errors
    /// Those of the operating system.
    fn read_back(&mut self, hasher: &mut Hasher) -> io::Result<u64>;

    /// Forgets everything written.
    ///
    /// # Errors
    /// Those of the operating system.
    fn restart(&mut self) -> io::Result<()>;
}

/// [`Target::read_back`] of a file.
///
/// # Errors
/// Those of reading.
pub(crate) fn read_back(mut file: &File, hasher: &mut Hasher) -> io::Result<u64> {
    let mut length = 0;
    if file.metadata()?.len() == 0 {
        return Ok(length);
    }
    file.rewind()?;
    let mut buffer = vec![0; 256 << 10];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(length),
            Ok(more) => {
                hasher.update(&buffer[..more]);
                length += more as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// [`Target::restart`] of a file.
///
/// # Errors
/// Those of the operating system.
pub(crate) fn restart(mut file: &File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()
}

#[cfg(test)]
impl Target for File {
    fn read_back(&mut self, hasher: &mut Hasher) -> io::Result<u64> {
        read_back(self, hasher)
    }

    fn restart(&mut self) -> io::Result<()> {
        restart(self)
    }
}

impl Target for Vec<u8> {
    fn read_back(&mut self, hasher: &mut Hasher) -> io::Result<u64> {
        hasher.update(self);
        Ok(self.len() as u64)
    }

    fn restart(&mut self) -> io::Result<()> {
        self.clear();
        Ok(())
    }
}

/// A blob on its way in.
pub(super) struct Sink<T: Target> {
    mode: Mode<T>,
}

enum Mode<T: Target> {
    Plain(Box<Out<T>>),
    Zstd(Box<Decoder<'static, Box<Out<T>>>>),
    /// Only while one becomes another.
    None,
}

/// The unpacked bytes.
struct Out<T> {
    target: T,
    hasher: Hasher,
    function: DigestFunction,
    digest: Digest,
    written: u64,
    /// Whether what the target had before is hashed.
    is_read: bool,
    refused: Option<Refusal>,
}

/// Why bytes are not taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// They are not those of the blob; says how.
    Corrupt(String),
    /// This machine cannot take them.
    Disk(String),
}

impl<T: Target> Write for Out<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let end = self.written.saturating_add(bytes.len() as u64);
        if end > self.digest.size {
            self.refused = Some(Refusal::Corrupt(format!("there are more than {} bytes", self.digest.size)));
            return Err(io::Error::other("refused"));
        }
        if let Err(error) = self.target.write_all(bytes) {
            self.refused = Some(Refusal::Disk(error.to_string()));
            return Err(io::Error::other("refused"));
        }
        self.hasher.update(bytes);
        self.written = end;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<T: Target> Sink<T> {
    /// A sink for a blob; `target` is empty or has its first bytes.
    pub(super) fn new(target: T, digest: Digest, function: DigestFunction) -> Self {
        let out =
            Out { target, hasher: function.hasher(), function, digest, written: 0, is_read: false, refused: None };
        Self { mode: Mode::Plain(Box::new(out)) }
    }

    /// A new stream begins, at the position this gives: all that came before and could be unpacked stays.
    pub(super) fn begin(&mut self, zstd: bool) -> Result<u64, Refusal> {
        let mut out = self.take_out()?;
        out.read_back()?;
        let at = out.written;
        self.mode = if zstd { Mode::Zstd(Box::new(decoder(out)?)) } else { Mode::Plain(out) };
        Ok(at)
    }

    /// The next bytes as they came.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        let (written, out) = match &mut self.mode {
            Mode::Plain(out) => (out.write_all(bytes), out),
            Mode::Zstd(decoder) => (decoder.write_all(bytes), decoder.get_mut()),
            Mode::None => return Err(gone()),
        };
        written.map_err(|error| out.refusal(&error))
    }

    /// Everything came: whether it is the blob.
    pub(super) fn finish(mut self) -> Result<T, Box<(Self, Refusal)>> {
        match self.take_out() {
            Err(refusal) => Err(Box::new((self, refusal))),
            Ok(mut out) => {
                let hasher = std::mem::replace(&mut out.hasher, out.function.hasher());
                let seen = hasher.finish();
                if seen == out.digest {
                    return Ok(out.target);
                }
                let why = match seen.size == out.digest.size {
                    true => format!("its hash is {}", seen.hex()),
                    false => format!("it has {} bytes only", seen.size),
                };
                Err(Box::new((Self { mode: Mode::Plain(out) }, Refusal::Corrupt(why))))
            }
        }
    }

    /// Forgets everything that came.
    pub(super) fn restart(&mut self) -> Result<(), Refusal> {
        let mut out = match std::mem::replace(&mut self.mode, Mode::None) {
            Mode::Plain(out) => out,
            Mode::Zstd(decoder) => decoder.into_inner(),
            Mode::None => return Err(gone()),
        };
        let restarted = out.target.restart().map_err(|error| Refusal::Disk(error.to_string()));
        out.hasher = out.function.hasher();
        out.written = 0;
        out.is_read = true;
        out.refused = None;
        self.mode = Mode::Plain(out);
        restarted
    }

    /// The end of a stream, with what the unpacker still holds.
    fn take_out(&mut self) -> Result<Box<Out<T>>, Refusal> {
        match std::mem::replace(&mut self.mode, Mode::None) {
            Mode::Plain(out) => Ok(out),
            Mode::Zstd(mut decoder) => match decoder.flush() {
                Ok(()) => Ok(decoder.into_inner()),
                Err(error) => {
                    let refusal = decoder.get_mut().refusal(&error);
                    self.mode = Mode::Zstd(decoder);
                    Err(refusal)
                }
            },
            Mode::None => Err(gone()),
        }
    }
}

impl<T: Target> Out<T> {
    /// Once: what the target has is what came before.
    fn read_back(&mut self) -> Result<(), Refusal> {
        if !std::mem::replace(&mut self.is_read, true) {
            let disk = |error: io::Error| Refusal::Disk(error.to_string());
            self.written = self.target.read_back(&mut self.hasher).map_err(disk)?;
            if self.written > self.digest.size {
                self.target.restart().map_err(disk)?;
                (self.hasher, self.written) = (self.function.hasher(), 0);
            }
        }
        Ok(())
    }

    fn refusal(&mut self, error: &io::Error) -> Refusal {
        self.refused.take().unwrap_or_else(|| Refusal::Corrupt(format!("it does not decompress: {error}")))
    }
}

fn decoder<T: Target>(out: Box<Out<T>>) -> Result<Decoder<'static, Box<Out<T>>>, Refusal> {
    let fail = |error: io::Error| Refusal::Disk(format!("cannot decompress: {error}"));
    let mut decoder = Decoder::new(out).map_err(fail)?;
    decoder.window_log_max(MAX_WINDOW).map_err(fail)?;
    Ok(decoder)
}

fn gone() -> Refusal {
    Refusal::Disk("bug: the target of the download is gone".to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const F: DigestFunction = DigestFunction::Sha256;

    /// What comes of pieces; the first `plain` of them are not compressed, the rest is another stream that is.
    fn take(blob: &[u8], plain: &[Vec<u8>], packed: &[Vec<u8>]) -> Result<Vec<u8>, Refusal> {
        let mut sink = Sink::new(Vec::new(), F.digest(blob), F);
        sink.begin(false)?;
        plain.iter().try_for_each(|piece| sink.write(piece))?;
        sink.begin(true)?;
        packed.iter().try_for_each(|piece| sink.write(piece))?;
        sink.finish().map_err(|failed| failed.1)
    }

    fn pieces(bytes: &[u8], length: usize) -> Vec<Vec<u8>> {
        bytes.chunks(length.max(1)).map(<[u8]>::to_vec).collect()
    }

    fn pack(bytes: &[u8]) -> Vec<u8> {
        zstd::bulk::compress(bytes, 1).expect("packs")
    }

    #[test]
    fn streams_go_on_where_the_one_before_broke_off() {
        let blob: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
        let mut sink = Sink::new(Vec::new(), F.digest(&blob), F);
        assert_eq!(sink.begin(true), Ok(0));
        let packed = pack(&blob);
        sink.write(&packed[..packed.len() / 2]).expect("taken");
        let at = usize::try_from(sink.begin(true).expect("begins")).expect("small");
        assert!(at > 0 && at < blob.len(), "{at}");
        sink.write(&pack(&blob[at..at + 1000])).expect("taken");
        assert_eq!(sink.begin(false), Ok(at as u64 + 1000));
        sink.write(&blob[at + 1000..]).expect("taken");
        assert!(sink.finish().is_ok_and(|target| target == blob));
    }

    #[test]
    fn after_a_refusal_it_can_begin_anew() {
        let mut sink = Sink::new(Vec::new(), F.digest(b"good"), F);
        assert!(sink.write(b"too long").is_err());
        sink.restart().expect("restarts");
        sink.begin(true).expect("begins");
        assert!(
            matches!(sink.write(b"no frame of any kind"), Err(Refusal::Corrupt(why)) if why.contains("decompress"))
        );
        sink.restart().expect("restarts");
        sink.write(b"evil").expect("as long as it should be");
        let (mut sink, refusal) = *sink.finish().expect_err("refused");
        assert!(matches!(refusal, Refusal::Corrupt(why) if why.starts_with("its hash is ")));
        sink.restart().expect("restarts");
        sink.write(b"good").expect("taken");
        assert!(sink.finish().is_ok_and(|target| target == b"good"));
    }

    #[test]
    fn a_frame_that_wants_much_memory_is_refused() {
        let blob = vec![0; 1 << 20];
        let mut packer = zstd::stream::write::Encoder::new(Vec::new(), 1).expect("an encoder");
        packer.window_log(27).expect("128 MiB");
        packer.include_contentsize(false).expect("set");
        packer.write_all(&blob).expect("packs");
        let packed = packer.finish().expect("packs");
        assert!(matches!(take(&blob, &[], &[packed]), Err(Refusal::Corrupt(_))));
    }

    proptest! {
        #[test]
        fn only_the_blob_itself_is_taken(
            blob: Vec<u8>,
            cut: prop::sample::Index,
            length in 1_usize..50,
            noise: Vec<u8>,
            at: prop::sample::Index,
        ) {
            let cut = cut.index(blob.len() + 1);
            let (plain, mut packed) = (pieces(&blob[..cut], length), pack(&blob[cut..]));
            prop_assert_eq!(take(&blob, &plain, &pieces(&packed, length)), Ok(blob.clone()));
            let at = at.index(packed.len() + 1);
            packed.splice(at.., noise);
            if let Ok(taken) = take(&blob, &plain, &pieces(&packed, length)) {
                prop_assert_eq!(taken, blob);
            }
        }
    }
}
