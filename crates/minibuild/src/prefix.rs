//! How bad something is, as the first word of what is told on stderr. The only place that puts it there.

use std::fmt::Display;

use minibuild_core::Level;

use crate::console::use_color;

/// The first word of a message.
pub fn prefix(level: Level, color: bool) -> String {
    let code = match level {
        Level::Info => "32",
        Level::Warning => "33",
        Level::Error => "31;1",
    };
    let word = level.word();
    if color { format!("\x1b[{code}m{word}:\x1b[0m") } else { format!("{word}:") }
}

/// An error where there is no console yet.
pub fn error(text: impl Display) -> String {
    message(Level::Error, text)
}

/// A message where there is no console.
pub fn message(level: Level, text: impl Display) -> String {
    format!("{} {text}", prefix(level, use_color(Default::default())))
}
