//! usage: calc EXPRESSION. Prints the value Lua gives it.

use std::process::ExitCode;

fn main() -> ExitCode {
    let Some(expression) = std::env::args().nth(1) else {
        eprintln!("usage: calc EXPRESSION");
        return ExitCode::from(2);
    };
    match lua_state::LuaState::new().map(|mut state| state.eval(&expression)) {
        Some(Ok(value)) => println!("{value}"),
        Some(Err(message)) => {
            eprintln!("calc: {message}");
            return ExitCode::FAILURE;
        }
        None => {
            eprintln!("calc: out of memory");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
