//! The processes of the tests of this crate: the workers' helper (`minibuild __slot` of the real binary) and, as
//! `serve ADDRESS DIR WORKERS [FAULTS]`, a server that runs until its standard input ends.

use std::ffi::OsString;
use std::io::Read as _;
use std::process::ExitCode;

use minibuild_server::{Inject, Server, ServerConfig};

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    match args.next() {
        Some(mode) if mode == "__slot" => minibuild_local::slot_main(args),
        Some(mode) if mode == "serve" => serve(&args.collect::<Vec<OsString>>()),
        _ => ExitCode::from(2),
    }
}

fn serve(args: &[OsString]) -> ExitCode {
    let args: Vec<&str> = args.iter().filter_map(|arg| arg.to_str()).collect();
    let [address, dir, workers, faults @ ..] = &args[..] else { return ExitCode::from(2) };
    let mut config =
        ServerConfig::new(address.parse().expect("an address"), dir.into(), workers.parse().expect("a number"));
    config.log = Some(std::sync::Arc::new(|line| eprintln!("{line}")));
    config.inject = faults.first().map(|path| {
        let text = std::fs::read_to_string(path).expect("a file of faults");
        Inject::parse(&text).expect("faults")
    });
    match Server::start(config) {
        Ok(server) => {
            println!("listening on {}", server.address());
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            server.shutdown();
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
