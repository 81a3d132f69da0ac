//! Texts as a shell reads them.

use minibuild_core::CommandLine;

/// One argument, quoted only where it must be.
pub fn quote(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_-+=./:,@%^".contains(&b);
    if !text.is_empty() && text.bytes().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// A command without its environment.
pub fn command(command: &CommandLine) -> String {
    command.argv.iter().map(|a| quote(a)).collect::<Vec<_>>().join(" ")
}

/// A line that does by hand what minibuild did.
pub fn by_hand(command_line: &CommandLine, root: &str) -> String {
    let env: Vec<String> = command_line.env.iter().map(|(name, value)| quote(&format!("{name}={value}"))).collect();
    format!("cd {} && env -i {} {}", quote(root), env.join(" "), command(command_line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_shell_would_change_is_quoted() {
        for (text, expected) in
            [("a-b=c/d.e", "a-b=c/d.e"), ("", "''"), ("a b", "'a b'"), ("it's", "'it'\\''s'"), ("$X", "'$X'")]
        {
            assert_eq!(quote(text), expected);
        }
        let line = CommandLine {
            argv: vec!["cc".into(), "a b".into()],
            env: [("P".into(), "x y".into())].into(),
            files: vec![],
        };
        assert_eq!(by_hand(&line, "/w s"), "cd '/w s' && env -i 'P=x y' cc 'a b'");
    }
}
