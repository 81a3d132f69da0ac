//! `minibuild completions`: scripts for shells and manual pages, made of the very command line that is parsed.

use clap::{Command, CommandFactory as _};
use clap_complete::Shell;

use crate::args::{Cli, CompletionsArgs, CompletionsFor};
use crate::tell::{Complaint, tell};

/// Answers on stdout.
pub fn completions(args: &CompletionsArgs) -> u8 {
    let command = Cli::command();
    let answer = match (args.shell, &args.command) {
        (CompletionsFor::Man, name) => man(command, name.as_deref()),
        (_, Some(_)) => Err("only `minibuild completions man` takes the name of a command".to_owned()),
        (shell, None) => Ok(script(command, shell_of(shell))),
    };
    tell(answer.map_err(Complaint::from))
}

fn shell_of(what: CompletionsFor) -> Shell {
    match what {
        CompletionsFor::Bash | CompletionsFor::Man => Shell::Bash,
        CompletionsFor::Elvish => Shell::Elvish,
        CompletionsFor::Fish => Shell::Fish,
        CompletionsFor::Powershell => Shell::PowerShell,
        CompletionsFor::Zsh => Shell::Zsh,
    }
}

fn script(mut command: Command, shell: Shell) -> String {
    let mut bytes = Vec::new();
    clap_complete::generate(shell, &mut command, "minibuild", &mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The page of minibuild itself, or that of one of its commands.
fn man(mut command: Command, name: Option<&str>) -> Result<String, String> {
    // Gives commands their full names, `minibuild-build`.
    command.build();
    let page = match name {
        None => clap_mangen::Man::new(command),
        Some(name) => {
            let known: Vec<String> = command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
            let Some(sub) = command.find_subcommand(name) else {
                return Err(format!("there is no command `{name}`\nhint: there are {}", known.join(", ")));
            };
            clap_mangen::Man::new(sub.clone())
        }
    };
    let mut bytes = Vec::new();
    page.render(&mut bytes).map_err(|error| format!("the page cannot be made: {error}"))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
