//! How bad something is, as the first word of what is told on stderr, and whether it has a colour. The only place that puts it
//! there.

use std::fmt::Display;
use std::io::IsTerminal as _;

use minibuild_core::Level;
use minibuild_loader::ColorMode;

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

/// Whether stderr gets colours.
pub fn use_color(mode: ColorMode) -> bool {
    match mode {
        ColorMode::Always => true,
        ColorMode::Never => false,
        ColorMode::Auto => {
            std::io::stderr().is_terminal()
                && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
                && std::env::var_os("TERM").is_some_and(|term| term != "dumb")
        }
    }
}
