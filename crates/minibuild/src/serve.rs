//! `serve`: the embedded Remote Execution API server as a program of its own. Needs no workspace.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use minibuild_core::StopFlag;
use minibuild_loader::MAX_JOBS;
use minibuild_server::{Inject, Running, Server, ServerConfig, StartError, TlsConfig};

use crate::args::ServeArgs;
use crate::background::BackgroundWriter;
use crate::exit;
use crate::prefix;
use crate::signals;
use crate::workspace;

/// Serves until a signal; prints one line with the address once it can be reached, then only errors.
pub fn serve(args: &ServeArgs) -> u8 {
    let stop = StopFlag::default();
    // A log that nothing reads keeps calls waiting, but not the end.
    let log = BackgroundWriter::stderr(|_| {}, stop.clone());
    match start(args, &stop, &log) {
        Ok(server) => {
            // The first signal is the end; the calls that are open get a moment. The second one does not wait for them.
            while !stop.wait_for(Duration::MAX) {}
            server.shutdown();
            log.finish();
            exit::SUCCESS
        }
        Err((code, text)) => {
            eprintln!("{}", prefix::error(text));
            code
        }
    }
}

fn start(args: &ServeArgs, stop: &StopFlag, out: &BackgroundWriter) -> Result<Running, (u8, String)> {
    let bad_input = |text: String| (exit::BAD_INPUT, text);
    let failed = |text: String| (exit::BUILD_FAILED, text);
    let listen = args.listen.parse().map_err(|e: minibuild_server::ListenError| bad_input(e.to_string()))?;
    let dir = match &args.dir {
        Some(dir) => dir.clone(),
        None => {
            default_dir().ok_or_else(|| bad_input("there is no cache directory\nhint: give one with `--dir`".into()))?
        }
    };
    let workers = args.workers.unwrap_or_else(workspace::cores);
    if workers > MAX_JOBS as usize {
        return Err(bad_input(format!("`--workers`: {workers} is out of range\nhint: {MAX_JOBS} at most")));
    }
    let mut config = ServerConfig::new(listen, dir, workers);
    config.insecure = args.insecure;
    config.tls = read_tls(args).map_err(bad_input)?;
    config.inject = args.inject.as_deref().map(read_inject).transpose().map_err(bad_input)?;
    if args.log {
        let out = out.clone();
        config.log = Some(Arc::new(move |line| out.put(format!("{line}\n").as_bytes())));
    }
    // Before the server can be reached, so that none is missed by whoever waits for its line.
    signals::listen(stop.clone(), || {}).map_err(|e| failed(format!("signals cannot be caught: {e}")))?;
    let server = Server::start(config).map_err(|e| match e {
        StartError::Exposed(_) | StartError::Tls(_) | StartError::TlsOnSocket(_) => bad_input(e.to_string()),
        _ => failed(e.to_string()),
    })?;
    let mut stdout = std::io::stdout();
    writeln!(stdout, "listening on {}", server.url())
        .and_then(|()| stdout.flush())
        .map_err(|e| failed(format!("the address cannot be told on stdout: {e}")))?;
    Ok(server)
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|e| format!("`{}` cannot be read: {e}", path.display()))
}

fn read_tls(args: &ServeArgs) -> Result<Option<TlsConfig>, String> {
    let (Some(certificate), Some(key)) = (&args.tls_certificate, &args.tls_key) else { return Ok(None) };
    let client_authorities = args.tls_client_ca.as_deref().map(read).transpose()?;
    Ok(Some(TlsConfig { certificates: read(certificate)?, key: read(key)?, client_authorities }))
}

fn read_inject(path: &Path) -> Result<Inject, String> {
    let text = String::from_utf8(read(path)?).map_err(|e| format!("`{}`: {e}", path.display()))?;
    Inject::parse(&text).map_err(|e| format!("`{}`: {e}", path.display()))
}

fn default_dir() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")))?;
    Some(cache.join("minibuild/serve"))
}
