//! minibuild: argv, terminal, exit codes. The only crate that knows there is a terminal.

mod answer_times;
mod args;
mod background;
mod build_channel;
mod compdb;
mod completions;
mod console;
mod event_log;
mod event_sinks;
mod exit;
mod explain;
mod explain_race;
mod fast_path;
mod prefix;
mod preview;
mod profile;
mod progress;
mod query;
mod quote;
mod redact;
mod refusal;
mod remote_side;
mod run_program;
mod serve;
mod session;
mod signals;
mod stores;
mod tell;
mod test_stream;
mod tool_output;
mod workspace;

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser as _;
use nix::sys::signal::{SigHandler, Signal, signal};

use minibuild_core::Level;

use args::{Cli, Command};
use session::{Kind, Session};

/// Loading is a tenth faster with it: many small things are made and dropped on several threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let began = Instant::now();
    // A helper of a local slot: before anything else, since one starts with each slot.
    if std::env::args_os().nth(1).is_some_and(|arg| arg == "__slot") {
        return minibuild_local::slot_main(std::env::args_os().skip(2));
    }
    // Where a supervisor had it ignored, nobody could wait for a child.
    // SAFETY: the default action runs no code of this process.
    let _ = unsafe { signal(Signal::SIGCHLD, SigHandler::SigDfl) };
    // With a handler a write beyond `ulimit -f` is an error that can be told, and programs started by this one still get the
    // default. Without it, such a write ends the process as before.
    let _ =
        signal_hook::flag::register(Signal::SIGXFSZ as i32, std::sync::Arc::<std::sync::atomic::AtomicBool>::default());
    ExitCode::from(match Cli::try_parse_from(args::escape_patterns(std::env::args_os())) {
        Ok(cli) => run(&cli, began),
        Err(answer) => told_by_clap(&answer),
    })
}

/// Prints help, the version, or what is wrong with the command line.
fn told_by_clap(answer: &clap::Error) -> u8 {
    if answer.use_stderr() {
        let text = answer.render();
        let text = if prefix::use_color(Default::default()) { text.ansi().to_string() } else { text.to_string() };
        eprint!("{}", text.replacen("error:", &format!("{}:", Level::Error.word()), 1));
        return exit::BAD_INPUT;
    }
    tell::written(answer.print())
}

fn run(cli: &Cli, began: Instant) -> u8 {
    if let Command::Serve(args) = &cli.command {
        return serve::serve(args);
    }
    if let Command::Completions(args) = &cli.command {
        return completions::completions(args);
    }
    let workspace = match (workspace::find(cli.directory.as_deref()), &cli.command) {
        (Ok(workspace), _) => workspace,
        (Err(_), Command::Schema(args)) => return tell::schema(None, args),
        (Err(error), _) => {
            eprintln!("{}", prefix::error(error));
            return exit::BAD_INPUT;
        }
    };
    let session = |kind, flags, patterns: Vec<String>, program_args| {
        let build_id = session::build_id(&workspace.root);
        Session {
            kind,
            workspace: workspace.clone(),
            flags,
            patterns,
            program_args,
            began,
            build_id,
            snapshot: "".into(),
        }
        .run()
    };
    match &cli.command {
        Command::Build(args) => session(Kind::Build, &args.flags, args.patterns.clone(), Vec::new()),
        Command::Test(args) => session(Kind::Test, &args.flags, args.patterns.clone(), Vec::new()),
        Command::Fetch(args) => session(Kind::Fetch, &args.flags, args.patterns.clone(), Vec::new()),
        Command::Run(args) => session(Kind::Run, &args.flags, vec![args.label.clone()], args.args.clone()),
        Command::Clean(args) => tell::clean(&workspace, args),
        Command::Info(args) => tell::info(&workspace, args),
        Command::Explain(args) => explain::explain(&workspace, args),
        Command::Compdb(args) => compdb::compdb(&workspace, args),
        Command::Completions(args) => completions::completions(args),
        Command::Query(args) => query::query(&workspace, args),
        Command::Schema(args) => tell::schema(Some(&workspace), args),
        Command::Serve(args) => serve::serve(args),
    }
}
