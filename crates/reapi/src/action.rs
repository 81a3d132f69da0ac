//! `Command` and `Action` in canonical form.

use std::time::Duration;

use minibuild_core::{Digest, DigestFunction};

use crate::wire::Message;

/// `Command.OutputDirectoryFormat`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OutputDirectoryFormat {
    /// A `Tree` message for each output directory, the default.
    #[default]
    TreeOnly,
}

/// What a `Command` message is made of.
#[derive(Clone, Debug, Default)]
pub struct CommandMessage<'a> {
    /// `arguments`.
    pub arguments: Vec<&'a str>,
    /// `environment_variables`; sorted by name here.
    pub environment: Vec<(&'a str, &'a str)>,
    /// Outputs that are files or symlinks, relative to the working directory (the input root).
    pub output_files: Vec<&'a str>,
    /// Outputs that are directories.
    pub output_directories: Vec<&'a str>,
    /// Platform properties; sorted here. Filled into Action and Command, as servers differ in where they look.
    pub platform: Vec<(&'a str, &'a str)>,
    /// How directories come back.
    pub directory_format: OutputDirectoryFormat,
}

impl CommandMessage<'_> {
    /// Canonical bytes. Outputs are given both as `output_paths` (2.1) and in the fields it replaced, for servers
    /// of 2.0.
    pub fn encode(&self) -> Vec<u8> {
        let mut message = Message::with_capacity(512);
        for argument in &self.arguments {
            message.repeated_text(1, argument);
        }
        write_pairs(&mut message, 2, &self.environment);
        let files = sorted(&self.output_files);
        let directories = sorted(&self.output_directories);
        for path in &files {
            message.repeated_text(3, path);
        }
        for path in &directories {
            message.repeated_text(4, path);
        }
        write_platform(&mut message, 5, &self.platform);
        for path in sorted(&[files, directories].concat()) {
            message.repeated_text(7, path);
        }
        message.into_bytes()
    }
}

/// What an `Action` message is made of.
#[derive(Clone, Debug)]
pub struct ActionMessage<'a> {
    /// Digest of the `Command`.
    pub command: Digest,
    /// Digest of the root `Directory`.
    pub input_root: Digest,
    /// Killed after this long.
    pub timeout: Option<Duration>,
    /// Whether the result may not be cached.
    pub do_not_cache: bool,
    /// Whatever else decides the result.
    pub salt: &'a [u8],
    /// As in the command.
    pub platform: Vec<(&'a str, &'a str)>,
}

impl ActionMessage<'_> {
    /// Canonical bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut message = Message::with_capacity(256);
        message.digest(1, &self.command);
        message.digest(2, &self.input_root);
        if let Some(timeout) = self.timeout {
            message.message(6, |m| {
                m.int(1, timeout.as_secs());
                m.int(2, u64::from(timeout.subsec_nanos()));
            });
        }
        message.bool(7, self.do_not_cache);
        message.text(9, self.salt);
        write_platform(&mut message, 10, &self.platform);
        message.into_bytes()
    }

    /// The action's key: the digest of [`Self::encode`].
    pub fn digest(&self, function: DigestFunction) -> Digest {
        function.digest(&self.encode())
    }
}

fn sorted<'a>(paths: &[&'a str]) -> Vec<&'a str> {
    let mut paths = paths.to_vec();
    paths.sort_unstable();
    paths.dedup();
    paths
}

fn write_pairs(message: &mut Message, field: u64, pairs: &[(&str, &str)]) {
    let mut pairs = pairs.to_vec();
    pairs.sort_unstable();
    for (name, value) in pairs {
        message.message(field, |m| {
            m.text(1, name);
            m.text(2, value);
        });
    }
}

fn write_platform(message: &mut Message, field: u64, properties: &[(&str, &str)]) {
    if !properties.is_empty() {
        message.message(field, |m| write_pairs(m, 1, properties));
    }
}

#[cfg(all(test, feature = "messages"))]
mod tests {
    use bazel_remote_apis::build::bazel::remote::execution::v2 as proto;
    use prost::Message as _;

    use super::*;

    #[test]
    #[expect(deprecated, reason = "servers of 2.0 read the fields that output_paths replaced")]
    fn command_is_what_the_generated_type_reads_and_writes() {
        let ours = CommandMessage {
            arguments: vec!["cc", "", "-c"],
            environment: vec![("PATH", "/bin"), ("A", "")],
            output_files: vec!["b", "a"],
            output_directories: vec!["d"],
            platform: vec![("b", "2"), ("a", "1")],
            ..Default::default()
        }
        .encode();
        let theirs = proto::Command::decode(&ours[..]).expect("decodes");
        assert_eq!(theirs.arguments, ["cc", "", "-c"]);
        assert_eq!(theirs.output_paths, ["a", "b", "d"]);
        assert_eq!(theirs.environment_variables[0].name, "A");
        assert_eq!(theirs.platform.as_ref().map(|p| p.properties[0].name.clone()), Some("a".to_owned()));
        assert_eq!(theirs.encode_to_vec(), ours);
    }

    #[test]
    fn action_is_what_the_generated_type_reads_and_writes() {
        let digest = DigestFunction::Sha256.digest(b"x");
        for (timeout, salt, platform) in [
            (None, &b""[..], vec![]),
            (Some(Duration::from_millis(1500)), &b"salt"[..], vec![("OSFamily", "linux")]),
            (Some(Duration::ZERO), &b""[..], vec![]),
        ] {
            let message = ActionMessage {
                command: digest,
                input_root: DigestFunction::Sha256.empty(),
                timeout,
                do_not_cache: salt.is_empty(),
                salt,
                platform,
            };
            let ours = message.encode();
            let theirs = proto::Action::decode(&ours[..]).expect("decodes");
            assert_eq!(theirs.encode_to_vec(), ours);
            assert_eq!(theirs.command_digest.as_ref().map(|d| (d.hash.clone(), d.size_bytes)), Some((digest.hex(), 1)));
            assert_eq!(theirs.timeout.is_some(), timeout.is_some());
            assert_eq!(message.digest(DigestFunction::Sha256), DigestFunction::Sha256.digest(&ours));
        }
    }
}
