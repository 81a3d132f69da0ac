//! What may be shown of texts that can hold a secret.

/// Stands for what is not shown.
pub const HIDDEN: &str = "<redacted>";

/// A URL without user, password and query, however badly it is written.
pub fn shown_url(text: &str) -> String {
    let (front, query) = text.find(['?', '#']).map_or((text, ""), |at| text.split_at(at));
    let query = query.chars().next().map(|mark| format!("{mark}{HIDDEN}")).unwrap_or_default();
    let (scheme, rest) = front.split_once("://").map_or(("", front), |(scheme, rest)| (scheme, rest));
    let authority = rest.split('/').next().unwrap_or_default();
    // A password may hold a slash; then what stands before it is no port.
    let has_port = authority.rsplit_once(':').is_none_or(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()));
    let is_path = !scheme.is_empty() && !authority.contains('@') && has_port;
    let place = match rest.rfind('@').filter(|_| !is_path) {
        // With an `@` in the path the last one would leave out more than the secret.
        Some(_) if authority.contains('@') => &rest[authority.rfind('@').map_or(0, |at| at + 1)..],
        Some(at) => &rest[at + 1..],
        None => rest,
    };
    let scheme = if scheme.is_empty() { String::new() } else { format!("{scheme}://") };
    format!("{scheme}{place}{query}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_leave_urls() {
        let check = |text, expected| assert_eq!(shown_url(text), expected);
        check("https://me:secret@host:8080/cache", "https://host:8080/cache");
        check("https://me:se@cret@host/x", "https://host/x");
        check("https://me:sec/ret@host/x", "https://host/x");
        check("grpc://host:1", "grpc://host:1");
        check("http://host/a@b", "http://host/a@b");
        check("http://me:secret@host/a@b", "http://host/a@b");
        check("embedded", "embedded");
        check("me:secret@host", "host");
        check("http:/me:secret@host/", "host/");
        check("https://host/c?sig=secret", "https://host/c?<redacted>");
        check("https://host/c#secret", "https://host/c#<redacted>");
        check("h:1", "h:1");
        check("", "");
    }
}
