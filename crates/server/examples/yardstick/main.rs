//! Yardsticks: the simplest clients there can be, against a server in a process of its own.
//!
//! `yardstick SERVER transfer [BYTES]` uploads a blob and downloads it into a file; `read` downloads many blobs, small and
//! large; `yardstick SERVER sleep [ACTIONS [SECONDS [WORKERS]]]` executes actions that only sleep. `SERVER` is a `minibuild` binary. What minibuild's own client
//! needs more than this, is its own.

mod many;
mod server;
mod sleep;
mod transfer;

use std::process::ExitCode;

use many::Kind;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let number = |at: usize, default: u64| words.get(at).map_or(Some(default), |text| text.parse().ok());
    let runtime = tokio::runtime::Runtime::new().expect("threads");
    match words.as_slice() {
        [program, "transfer", ..] => match number(2, 2 << 30) {
            Some(bytes) => runtime.block_on(transfer::run(program, bytes)),
            None => return usage(),
        },
        [program, "read", ..] => match [2, 3, 4, 5, 6].map(|at| number(at, [5000, 4096, 20, 200_000_000, 2][at - 2])) {
            [Some(count), Some(bytes), Some(large), Some(large_bytes), Some(connections)] => {
                let (small, large) = (Kind { count, bytes }, Kind { count: large, bytes: large_bytes });
                runtime.block_on(many::run(program, small, large, connections));
            }
            _ => return usage(),
        },
        [program, "sleep", ..] => match (number(2, 2000), number(3, 5), number(4, 500)) {
            (Some(actions), Some(seconds), Some(workers)) => {
                runtime.block_on(sleep::run(program, actions, seconds, workers));
            }
            _ => return usage(),
        },
        _ => return usage(),
    }
    ExitCode::SUCCESS
}

fn usage() -> ExitCode {
    eprintln!(
        "usage: yardstick SERVER transfer [BYTES]\n       \
         yardstick SERVER read [COUNT [BYTES [COUNT [BYTES [CONNECTIONS]]]]]\n       \
         yardstick SERVER sleep [ACTIONS [SECONDS [WORKERS]]]"
    );
    ExitCode::from(2)
}
