//! `Action` and `Command` messages.

use std::time::Duration;

use minibuild_core::{Digest, DigestFunction, WsPath};

use super::{check_text, path, required};
use crate::proto::execution as proto;
use crate::{DecodeError, Flaw};

/// What an executor needs of an `Action`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Action {
    /// Digest of the `Command`.
    pub command: Digest,
    /// Digest of the root `Directory`.
    pub input_root: Digest,
    /// Killed after this long.
    pub timeout: Option<Duration>,
    /// Whether its result may not be cached, and it may not be merged with an equal one.
    pub do_not_cache: bool,
    /// Properties of the platform; empty where only the command has them.
    pub platform: Vec<(String, String)>,
}

/// What an executor needs of a `Command`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// Program and arguments, one at least.
    pub arguments: Vec<String>,
    /// Names and values; no name twice.
    pub environment: Vec<(String, String)>,
    /// What to bring back, relative to the working directory.
    pub outputs: Outputs,
    /// Relative to the input root.
    pub working_directory: WsPath,
    /// Properties of the platform.
    pub platform: Vec<(String, String)>,
    /// Whether output directories come as `Tree` messages.
    pub wants_trees: bool,
    /// Whether output directories come as root `Directory` messages.
    pub wants_directories: bool,
}

/// How outputs are declared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outputs {
    /// `output_paths`, of any kind.
    Paths(Vec<WsPath>),
    /// The fields of version 2.0.
    Typed {
        /// `output_files`
        files: Vec<WsPath>,
        /// `output_directories`
        directories: Vec<WsPath>,
    },
}

impl Outputs {
    /// All declared paths.
    pub fn paths(&self) -> impl Iterator<Item = &WsPath> {
        let (first, second): (&[WsPath], &[WsPath]) = match self {
            Self::Paths(paths) => (paths, &[]),
            Self::Typed { files, directories } => (files, directories),
        };
        first.iter().chain(second)
    }
}

/// Reads an `Action` blob.
///
/// # Errors
/// A [`DecodeError`] where it is none, or lacks a digest, or has a timeout that is none.
pub fn action(bytes: &[u8], function: DigestFunction) -> Result<Action, DecodeError> {
    const WHAT: &str = "Action";
    let message: proto::Action = crate::proto::read(WHAT, bytes)?;
    let timeout = message.timeout.map(|t| duration(WHAT, t.seconds, t.nanos)).transpose()?;
    Ok(Action {
        command: required(WHAT, "command_digest", message.command_digest.as_ref(), function)?,
        input_root: required(WHAT, "input_root_digest", message.input_root_digest.as_ref(), function)?,
        timeout,
        do_not_cache: message.do_not_cache,
        platform: properties(message.platform),
    })
}

/// Reads a `Command` blob.
///
/// # Errors
/// A [`DecodeError`] where it is none, has no arguments, or paths that lead elsewhere.
#[expect(deprecated, reason = "clients of version 2.1 give the platform here only")]
pub fn command(bytes: &[u8]) -> Result<Command, DecodeError> {
    const WHAT: &str = "Command";
    let message: proto::Command = crate::proto::read(WHAT, bytes)?;
    if message.arguments.is_empty() {
        return Err(DecodeError::new(WHAT, "", Flaw::Missing("arguments")));
    }
    check_text(WHAT, "arguments", &message.arguments[0])?;
    if let Some(bad) = message.arguments.iter().find(|argument| argument.contains('\0')) {
        return Err(DecodeError::new(WHAT, "arguments", Flaw::Text(super::short(bad))));
    }
    let (wants_trees, wants_directories) = directory_format(message.output_directory_format)?;
    Ok(Command {
        environment: environment(&message.environment_variables)?,
        outputs: outputs(&message)?,
        working_directory: path(WHAT, &message.working_directory)?,
        arguments: message.arguments,
        platform: properties(message.platform),
        wants_trees,
        wants_directories,
    })
}

fn duration(what: &'static str, seconds: i64, nanos: i32) -> Result<Duration, DecodeError> {
    let nanos = u32::try_from(nanos).ok().filter(|n| *n < 1_000_000_000);
    match (u64::try_from(seconds), nanos) {
        (Ok(seconds), Some(nanos)) => Ok(Duration::new(seconds, nanos)),
        _ => Err(DecodeError::new(what, "timeout", Flaw::Contradiction("it is no time".into()))),
    }
}

fn properties(platform: Option<proto::Platform>) -> Vec<(String, String)> {
    platform.unwrap_or_default().properties.into_iter().map(|p| (p.name, p.value)).collect()
}

fn environment(variables: &[proto::command::EnvironmentVariable]) -> Result<Vec<(String, String)>, DecodeError> {
    let fail = |flaw| DecodeError::new("Command", "environment_variables", flaw);
    let mut sorted: Vec<(String, String)> = variables.iter().map(|v| (v.name.clone(), v.value.clone())).collect();
    sorted.sort_unstable();
    for (name, value) in &sorted {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(fail(Flaw::Text(super::short(name))));
        }
    }
    match sorted.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        Some(pair) => Err(fail(Flaw::Twice(super::short(&pair[0].0)))),
        None => Ok(sorted),
    }
}

#[expect(deprecated, reason = "clients of version 2.0 know no other fields")]
fn outputs(message: &proto::Command) -> Result<Outputs, DecodeError> {
    let paths = |texts: &[String]| -> Result<Vec<WsPath>, DecodeError> {
        let mut paths = texts.iter().map(|text| path("Command", text)).collect::<Result<Vec<_>, _>>()?;
        paths.sort_unstable();
        paths.dedup();
        Ok(paths)
    };
    if !message.output_paths.is_empty() {
        return Ok(Outputs::Paths(paths(&message.output_paths)?));
    }
    let (files, directories) = (paths(&message.output_files)?, paths(&message.output_directories)?);
    if files.first().is_some_and(|path| path.as_str().is_empty()) {
        return Err(DecodeError::new("Command", "output_files", Flaw::Path(String::new())));
    }
    match files.iter().find(|file| directories.binary_search(file).is_ok()) {
        Some(path) => Err(DecodeError::new("Command", "output_directories", Flaw::Twice(path.to_string()))),
        None => Ok(Outputs::Typed { files, directories }),
    }
}

fn directory_format(value: i32) -> Result<(bool, bool), DecodeError> {
    use proto::command::OutputDirectoryFormat as Format;
    match Format::try_from(value) {
        Ok(Format::TreeOnly) => Ok((true, false)),
        Ok(Format::DirectoryOnly) => Ok((false, true)),
        Ok(Format::TreeAndDirectory) => Ok((true, true)),
        Err(_) => {
            let flaw = Flaw::Unknown(format!("output directory format {value}"));
            Err(DecodeError::new("Command", "output_directory_format", flaw))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;
    use crate::{ActionMessage, CommandMessage};

    const F: DigestFunction = DigestFunction::Sha256;

    #[test]
    fn what_this_crate_encodes_it_reads() {
        let bytes = CommandMessage {
            arguments: vec!["cc", "", "-c"],
            environment: vec![("PATH", "/bin"), ("A", "")],
            output_files: vec!["b", "a"],
            output_directories: vec!["d"],
            platform: vec![("b", "2")],
            ..Default::default()
        }
        .encode();
        let got = command(&bytes).expect("decodes");
        assert_eq!(got.arguments, ["cc", "", "-c"]);
        assert_eq!(got.outputs.paths().map(|p| p.to_string()).collect::<Vec<_>>(), ["a", "b", "d"]);
        assert_eq!(got.environment[0], ("A".to_owned(), String::new()));
        assert!(got.wants_trees && !got.wants_directories);
        let message = ActionMessage {
            command: F.digest(&bytes),
            input_root: F.empty(),
            timeout: Some(Duration::from_millis(1500)),
            do_not_cache: true,
            salt: b"s",
            platform: vec![("b", "2")],
        };
        let got = action(&message.encode(), F).expect("decodes");
        assert_eq!((got.command, got.input_root), (F.digest(&bytes), F.empty()));
        assert_eq!((got.timeout, got.do_not_cache), (Some(Duration::from_millis(1500)), true));
        assert_eq!(got.platform, [("b".to_owned(), "2".to_owned())]);
    }

    fn check(edit: impl Fn(&mut proto::Command), expected: Option<&str>) {
        let mut message = proto::Command { arguments: vec!["true".into()], ..Default::default() };
        edit(&mut message);
        let got = command(&message.encode_to_vec());
        match expected {
            None => assert!(got.is_ok(), "{got:?}"),
            Some(part) => assert!(got.clone().is_err_and(|e| e.to_string().contains(part)), "{got:?} lacks {part}"),
        }
    }

    #[test]
    #[expect(deprecated, reason = "clients of version 2.0 know no other fields")]
    fn commands_that_are_refused() {
        let variable = |name: &str, value: &str| proto::command::EnvironmentVariable {
            name: name.to_owned(),
            value: value.to_owned(),
        };
        check(|_| {}, None);
        check(|c| c.arguments.clear(), Some("no `arguments`"));
        check(|c| c.arguments = vec![String::new()], Some("empty"));
        check(|c| c.arguments.push("a\0b".into()), Some("NUL"));
        check(|c| c.environment_variables = vec![variable("b", ""), variable("a", "")], None);
        check(|c| c.environment_variables = vec![variable("a", "1"), variable("a", "2")], Some("twice"));
        check(|c| c.environment_variables = vec![variable("", "1")], Some("empty"));
        check(|c| c.environment_variables = vec![variable("a=b", "1")], Some("a=b"));
        check(|c| c.environment_variables = vec![variable("a", "\0")], Some("NUL"));
        for bad in ["/abs", "../up", "a/../b", "a//b", "a/", "./a", "a\0"] {
            check(|c| c.output_paths = vec![bad.into()], Some("no relative path"));
            check(|c| c.output_files = vec![bad.into()], Some("no relative path"));
            check(|c| c.output_directories = vec![bad.into()], Some("no relative path"));
            check(|c| c.working_directory = bad.into(), Some("no relative path"));
        }
        check(|c| c.output_directories = vec![String::new()], None);
        check(|c| c.output_files = vec![String::new()], Some("no relative path"));
        let both = |c: &mut proto::Command| {
            c.output_files = vec!["a".into()];
            c.output_directories = vec!["a".into()];
        };
        check(both, Some("twice"));
        check(|c| c.output_directory_format = 7, Some("format 7"));
    }

    #[test]
    fn times_below_zero_are_none() {
        for (seconds, nanos) in [(-1, 0), (0, -1), (0, 1_000_000_000)] {
            let timeout = Some(crate::proto::protobuf::Duration { seconds, nanos });
            let digest = Some(crate::decode::digest_message(&F.empty()));
            let message = proto::Action {
                command_digest: digest.clone(),
                input_root_digest: digest,
                timeout,
                ..Default::default()
            };
            assert!(action(&message.encode_to_vec(), F).is_err_and(|e| e.to_string().contains("no time")));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_answer(bytes: Vec<u8>) {
            let _ = (action(&bytes, F), command(&bytes));
        }
    }
}
