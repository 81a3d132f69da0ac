//! The text of a configuration file as it may be shown beside an error: what can be a secret is replaced by stars, byte for
//! byte, so that places stay right. It works on lines, since the file may be no TOML.

use crate::keys::KEYS;

/// Settings of `[remote]` whose values may hold a secret.
const SECRET: [&str; 3] = ["remote.headers", "remote.cache", "remote.executor"];
/// What a key elsewhere looks like if it is a header that stands in the wrong place.
const SUSPECT: [&str; 4] = ["header", "authoriz", "token", "password"];

/// Whether messages must not repeat the value of a key.
pub(crate) fn is_secret(key: &str) -> bool {
    SECRET.contains(&key)
}

/// The text with stars for what can be a secret.
pub(crate) fn masked(text: &str) -> String {
    let mut section = String::new();
    let mut out = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let trimmed = line.trim();
        if trimmed.starts_with('[') && !trimmed.contains('=') {
            section = trimmed.trim_matches(['[', ']']).to_ascii_lowercase();
            out.push_str(line);
            continue;
        }
        let (key, value_at) = match line.find('=') {
            Some(at) => (line[..at].trim().to_ascii_lowercase(), at),
            None => (String::new(), 0),
        };
        let is_hidden = is_secret_line(&section, &key, line);
        let shown = if is_hidden { value_at } else { line.len() };
        out.push_str(&line[..shown]);
        line[shown..].chars().for_each(|c| mask(c, &mut out));
    }
    out
}

fn is_secret_line(section: &str, key: &str, line: &str) -> bool {
    let in_remote = section == "remote" || (section.starts_with("config.") && section.ends_with(".remote"));
    if SUSPECT.iter().any(|word| section.contains(word) || key.contains(word)) {
        return true;
    }
    // An address shows what is wrong with it, unless it has more than a place in it.
    if matches!(key.trim_start_matches("remote.").trim_matches('"'), "cache" | "executor") {
        return line.contains(['@', '?']);
    }
    let is_harmless =
        |spec: &crate::keys::KeySpec| spec.key.strip_prefix("remote.") == Some(key) && !is_secret(spec.key);
    if in_remote {
        return !KEYS.iter().any(is_harmless);
    }
    section.contains("remot") || key.starts_with("remot")
}

/// Brackets and quotes say what kind of value it is.
fn mask(c: char, out: &mut String) {
    if c.is_whitespace() || "=[]{},\"'".contains(c) {
        out.push(c);
    } else {
        out.extend(std::iter::repeat_n('*', c.len_utf8()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_masked_wherever_they_stand() {
        for text in [
            "[remote]\nheaders = { authorization = \"Bearer S3CRET\" }",
            "[remote]\nheader = { a = \"S3CRET\" }",
            "[remote]\nheaders = \"authorization=S3CRET\"",
            "[remote.headers]\nauthorization = \"S3CRET",
            "[remote.headers]\ninstance = \"S3CRET\"",
            "[remote]\nheaders = {\n  a = \"S3CRET\",\n  b = '''\nS3CRET'''\n}",
            "[config.ci.remote]\nheader = { a = \"S3CRET\" }",
            "[remotes]\nkey = \"S3CRET\"",
            "remote = { headers = { a = \"S3CRET\" } }",
            "remote.headers.a = \"S3CRET\"",
            "[build]\nheaders = { a = \"S3CRET\" }",
            "[remote]\ncache = \"http:/u:S3CRET@h/\"",
            "[remote]\ncache = \"https://h/c?sig=S3CRET\"",
            "[build]\nexecutor = \"u:S3CRET@h\"",
        ] {
            let shown = masked(text);
            assert!(!shown.contains("S3CRET") && shown.len() == text.len(), "{shown}");
        }
    }

    #[test]
    fn all_else_is_shown() {
        for text in [
            "[build]\njobs = 4\ndisk_cache = \"x\"\n",
            "[remote]\ntimeout = \"10x\"\ncache = \"grpc://h:1\"\ncredential_helper = 5\n",
            "[env]\nX = \"1\"",
            "é = \"ü\"",
        ] {
            assert_eq!(masked(text), text);
        }
        assert_eq!(masked("[remote]\nheader = { é = \"ü\" }\r\n"), "[remote]\nheader = { ** = \"**\" }\r\n");
    }
}
