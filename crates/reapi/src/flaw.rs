//! Why a message from outside is refused.
//!
//! It does not know what anybody wanted with the message.

/// What is wrong with a message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// The bytes are no message of this kind.
    #[error("these bytes are no such message ({0})")]
    NotProtobuf(String),
    /// A field that has to be there is not.
    #[error("it has no `{0}`")]
    Missing(&'static str),
    /// A hash that is none.
    #[error("`{0}` is no hash: expected 64 lower-case hexadecimal digits")]
    Hash(String),
    /// A size below zero.
    #[error("{0} is no size")]
    NegativeSize(i64),
    /// Size and content, or two statements of one thing, do not fit.
    #[error("{0}")]
    Contradiction(String),
    /// A name that could lead elsewhere.
    #[error("{0:?} is no name: it is empty, `.` or `..`, or holds `/` or NUL")]
    Name(String),
    /// A path that could lead elsewhere.
    #[error("{0:?} is no relative path without empty, `.` and `..` segments")]
    Path(String),
    /// One name is given twice.
    #[error("{0:?} is there twice")]
    Twice(String),
    /// Names are out of order, so that the digest is not the canonical one.
    #[error("{0:?} is not in order")]
    Unsorted(String),
    /// A text of a symlink, an argument or a variable that no operating system takes.
    #[error("{0:?} is empty or holds NUL")]
    Text(String),
    /// More than is believed.
    #[error("it has more than {0}")]
    TooLarge(String),
    /// A directory of a tree that is not in it.
    #[error("the directory {0} is not in it")]
    Absent(minibuild_core::Digest),
    /// A function, format or compressor this side does not know.
    #[error("{0} is not known here")]
    Unknown(String),
}

/// A message from outside that is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bad `{what}`{at}: {flaw}")]
pub struct DecodeError {
    what: &'static str,
    at: At,
    flaw: Flaw,
}

/// Where in the message.
#[derive(Clone, Debug, PartialEq, Eq)]
struct At(String);

impl std::fmt::Display for At {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, " at {:?}", self.0) }
    }
}

impl DecodeError {
    /// An error of message `what`, `at` some path or field of it.
    pub fn new(what: &'static str, at: impl Into<String>, flaw: Flaw) -> Self {
        Self { what, at: At(at.into()), flaw }
    }

    /// What is wrong.
    pub fn flaw(&self) -> &Flaw {
        &self.flaw
    }
}
