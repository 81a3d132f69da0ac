//! The program that `minibuild run` becomes. It does not know how the program was built.

use std::collections::BTreeMap;
use std::ffi::{CString, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::PathBuf;

/// What `run` becomes.
pub(crate) struct RunProgram {
    pub(crate) path: PathBuf,
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
}

impl RunProgram {
    /// Becomes it. The search of `execvp` is of no use, and what the kernel does not know it hands to a shell.
    ///
    /// Gives why that cannot be.
    pub(crate) fn start(self, root: &std::path::Path) -> String {
        let mut env: BTreeMap<OsString, OsString> = std::env::vars_os().collect();
        env.extend(self.env.into_iter().map(|(name, value)| (name.into(), value.into())));
        env.insert("MINIBUILD_WORKSPACE".into(), root.into());
        let env = env.into_iter().map(|(name, value)| [name.as_bytes(), b"=", value.as_bytes()].concat());
        let text = |bytes: Vec<u8>| CString::new(bytes).map_err(|_| "an argument has a NUL character in it".to_owned());
        let path = self.path.into_os_string().into_vec();
        let args = std::iter::once(path.clone()).chain(self.args.into_iter().map(String::into_bytes));
        let texts = || {
            Ok((
                text(path)?,
                args.map(text).collect::<Result<Vec<_>, _>>()?,
                env.map(text).collect::<Result<Vec<_>, _>>()?,
            ))
        };
        match texts() {
            Ok((path, args, env)) => {
                let bytes = args.iter().chain(&env).map(|text| text.as_bytes_with_nul().len()).sum();
                let Err(error) = nix::unistd::execve(&path, &args, &env);
                minibuild_local::spawn_error(&path, bytes, error)
            }
            Err(error) => error,
        }
    }
}
