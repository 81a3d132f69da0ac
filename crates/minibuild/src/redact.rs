//! Keeps secrets out of what is printed, logged or told to other processes.

const HIDDEN: &str = "<redacted>";

/// Flags whose values hold a secret behind their `=`.
const SECRET_FLAGS: [&str; 1] = ["--remote-header"];

/// A URL without user name and password.
pub fn url(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    match authority.rfind('@') {
        Some(at) => format!("{scheme}://{}", &rest[at + 1..]),
        None => text.to_owned(),
    }
}

/// A setting as it may be shown.
pub fn setting(key: &str, value: &str) -> String {
    match key {
        "remote.headers" => format!("{key}={}", header(value)),
        _ => format!("{key}={}", url(value)),
    }
}

/// A command line as it may be shown.
pub fn command_line(args: impl Iterator<Item = String>) -> String {
    let mut shown: Vec<String> = Vec::new();
    let mut is_secret = false;
    for arg in args {
        let flag = SECRET_FLAGS.iter().find_map(|flag| Some((*flag, arg.strip_prefix(flag)?.strip_prefix('=')?)));
        shown.push(match flag {
            _ if is_secret => header(&arg),
            Some((flag, value)) => format!("{flag}={}", header(value)),
            None => words_of(&arg),
        });
        is_secret = !is_secret && SECRET_FLAGS.contains(&arg.as_str());
    }
    shown.join(" ")
}

/// `NAME=VALUE` without the value; what has no `=` may be a value whose name was forgotten.
fn header(text: &str) -> String {
    match text.split_once('=') {
        Some((name, _)) => format!("{name}={HIDDEN}"),
        None => HIDDEN.to_owned(),
    }
}

/// An argument that may be `--flag=URL`.
fn words_of(arg: &str) -> String {
    match arg.split_once('=') {
        Some((flag, value)) => format!("{flag}={}", url(value)),
        None => url(arg),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_leave_urls() {
        let check = |text, expected| assert_eq!(url(text), expected);
        check("https://me:secret@host:8080/cache", "https://host:8080/cache");
        check("https://me:se@cret@host/x", "https://host/x");
        check("grpc://host:1", "grpc://host:1");
        check("http://host/a@b", "http://host/a@b");
        check("embedded", "embedded");
    }

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
        assert_eq!(setting("remote.headers", "a=b=c"), "remote.headers=a=<redacted>");
        assert_eq!(setting("remote.cache", "http://u:p@h/c"), "remote.cache=http://h/c");
    }
}
