//! The one error of this crate: an operation of the file system that failed, with its path and what may help.
//!
//! It does not know what the caller was about to do, only which file and which operation.

use std::io;

/// An operation on a file that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} `{path}`")]
pub struct DiskError {
    action: &'static str,
    path: String,
    source: io::Error,
}

impl DiskError {
    /// An error of doing `action` (a verb) to `path`.
    pub fn new(action: &'static str, path: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self { action, path: path.into(), source: source.into() }
    }

    /// The path at fault.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The operating system's error.
    pub fn os_error(&self) -> &io::Error {
        &self.source
    }

    /// What the user can do about it, where that is known.
    pub fn hint(&self) -> Option<&'static str> {
        use io::ErrorKind as Kind;
        Some(match self.source.kind() {
            Kind::StorageFull => {
                "the disk is full: no space or no inodes are left (see `df -h` and `df -i`); free some, for example with `minibuild clean`"
            }
            Kind::QuotaExceeded => "the disk quota is used up: free some space, for example with `minibuild clean`",
            Kind::ReadOnlyFilesystem => {
                "the file system is mounted read-only; minibuild has to write to `minibuild-out`"
            }
            Kind::PermissionDenied => "check owner and permissions; `minibuild-out` must belong to the user who builds",
            Kind::FileTooLarge => "files may not become that large: raise the limit with `ulimit -f`",
            Kind::ResourceBusy => "it is in use, perhaps as a mount point",
            _ if self.source.raw_os_error() == Some(24) => "too many open files: raise the limit with `ulimit -n`",
            _ => return None,
        })
    }

    /// The whole error as text: what failed, why, and a hint on a line of its own.
    pub fn render(&self) -> String {
        let hint = self.hint().map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
        format!("{self}: {}{hint}", self.source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_and_read_only_disks_are_said_clearly() {
        let check = |errno: i32, expected: &str| {
            let text = DiskError::new("write", "minibuild-out/x", io::Error::from_raw_os_error(errno)).render();
            assert!(text.starts_with("cannot write `minibuild-out/x`: "), "{text}");
            assert!(text.contains(expected), "{text}");
        };
        check(28, "\nhint: the disk is full");
        check(27, "\nhint: files may not become that large: raise the limit with `ulimit -f`");
        check(122, "\nhint: the disk quota");
        check(30, "\nhint: the file system is mounted read-only");
        check(13, "\nhint: check owner and permissions");
        check(24, "\nhint: too many open files");
        let plain = DiskError::new("read", "x", io::Error::from_raw_os_error(5)).render();
        assert!(!plain.contains("hint"), "{plain}");
    }
}
