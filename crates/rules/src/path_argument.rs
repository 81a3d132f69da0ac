//! Paths among the arguments of a command.

use std::borrow::Cow;

/// A path as a program takes it for one: `-x.c` could be an option, `@x.c` a response file.
pub fn as_argument(path: &str) -> Cow<'_, str> {
    if path.starts_with(['-', '@']) { Cow::Owned(format!("./{path}")) } else { Cow::Borrowed(path) }
}
