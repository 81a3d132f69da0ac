//! Keeps secrets out of what is printed, logged or told to other processes.

use minibuild_core::{HIDDEN, shown_url};

/// A setting as it may be shown.
pub fn setting(key: &str, value: &str) -> String {
    let shown = match key {
        "remote.headers" => header(value),
        "remote.cache" | "remote.executor" => shown_url(value),
        _ => word(value),
    };
    format!("{key}={shown}")
}

/// A command line as it may be shown.
pub fn command_line(args: impl Iterator<Item = String>) -> String {
    let mut shown: Vec<String> = Vec::new();
    let mut of_flag: Option<fn(&str) -> String> = None;
    for arg in args {
        let is_alone = of_flag.is_none();
        shown.push(match (of_flag.take(), arg.split_once('=')) {
            (Some(show), _) => show(&arg),
            (None, Some((flag, value))) => format!("{flag}={}", shown_by(flag).unwrap_or(word)(value)),
            (None, None) => word(&arg),
        });
        of_flag = shown_by(&arg).filter(|_| is_alone);
    }
    shown.join(" ")
}

/// How the value of a flag that can hold a secret is shown.
fn shown_by(flag: &str) -> Option<fn(&str) -> String> {
    match flag {
        "--remote-header" => Some(header),
        "--remote-cache" | "--remote-executor" => Some(shown_url),
        _ => None,
    }
}

/// `NAME=VALUE` without the value; what has no `=` may be a value whose name was forgotten.
fn header(text: &str) -> String {
    match text.split_once('=') {
        Some((name, _)) => format!("{name}={HIDDEN}"),
        None => HIDDEN.to_owned(),
    }
}

/// Any other text, in which only URLs can hold a secret: a label may have an `@`, too.
fn word(text: &str) -> String {
    if text.contains("://") { shown_url(text) } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_headers_are_never_shown() {
        let check = |line: &str, expected| {
            assert_eq!(command_line(line.split(' ').map(str::to_owned)), expected);
        };
        check("mb build --remote-header=a=s3cret //x", "mb build --remote-header=a=<redacted> //x");
        check("mb build --remote-header a=s3cret //x", "mb build --remote-header a=<redacted> //x");
        check("mb build --remote-header s3cret", "mb build --remote-header <redacted>");
        check("mb --remote-cache=http://u:p@h/c", "mb --remote-cache=http://h/c");
        check("mb --remote-cache http://u:p@h/c", "mb --remote-cache http://h/c");
        check("mb --remote-cache=u:p@h //a@1:x", "mb --remote-cache=h //a@1:x");
        check("mb --remote-cache u:p@h //a@1:x", "mb --remote-cache h //a@1:x");
        check(
            "mb --remote-cache=https://h/c?sig=p --var=x=a@b",
            "mb --remote-cache=https://h/c?<redacted> --var=x=a@b",
        );
        check("mb --var x=http://u:p@h", "mb --var x=http://h");
        assert_eq!(setting("remote.headers", "a=b=c"), "remote.headers=a=<redacted>");
        assert_eq!(setting("remote.cache", "http://u:p@h/c"), "remote.cache=http://h/c");
    }
}
