//! `minibuild query`: questions about the graph of targets. Takes no lock and runs nothing.

mod eval;
mod lex;
mod parse;
mod show;

use std::sync::Arc;

use minibuild_loader::{Diagnostic, Diagnostics, LoadRequest, Sources, Span, load, parse_pattern};

use self::eval::Evaluator;
use self::lex::Flaw;
use crate::args::QueryArgs;
use crate::tell::{Complaint, files_of, shown, tell, warn};
use crate::workspace::{self, Workspace};

/// Answers on stdout.
pub fn query(workspace: &Workspace, args: &QueryArgs) -> u8 {
    tell(answer(workspace, args))
}

fn answer(workspace: &Workspace, args: &QueryArgs) -> Result<String, Complaint> {
    let text = args.text();
    let point = |flaw: Flaw| at_its_place(&text, flaw);
    let query = parse::parse(&text).map_err(point)?;
    for (pattern, at) in &query.patterns {
        check_pattern(pattern, &workspace.cwd).map_err(|why| point(Flaw { at: at.clone(), ..why }))?;
    }
    let config = workspace::config_input(&args.config, Vec::new())?;
    let request = LoadRequest {
        config,
        patterns: query.patterns.iter().map(|(pattern, _)| pattern.clone()).collect(),
        cwd: workspace.cwd.clone(),
        host: workspace::host(),
        threads: workspace::cores(),
    };
    let loaded = load(&files_of(workspace), &request).map_err(|failure| shown(&failure))?;
    warn(&loaded);
    let patterns = loaded.targets_by_pattern();
    let found = Evaluator::new(&loaded.model, &patterns).answer(&query.root).map_err(point)?;
    Ok(show::show(&loaded.model, &found, args.output))
}

/// Patterns that mean something on the command line only are none here.
fn check_pattern(text: &str, cwd: &str) -> Result<(), Flaw> {
    let pattern = parse_pattern(text, cwd).map_err(|why| Flaw::new(0..0, why))?;
    match pattern.kind {
        minibuild_loader::PatternKind::Target(_, Some(_)) => {
            Err(Flaw::new(0..0, format!("`{text}` is an output group, and a query is about targets"))
                .hint("name the target; `outputs(...)` lists the files it stands for"))
        }
        _ => Ok(()),
    }
}

/// A flaw with the expression and a line under the place.
fn at_its_place(text: &str, flaw: Flaw) -> Complaint {
    let mut sources = Sources::default();
    let file = sources.add("query", Arc::from(text));
    let mut diagnostic = Diagnostic::at(Span::new(file, flaw.at), flaw.message);
    diagnostic.hints.extend(flaw.hint);
    Complaint::diagnostics(&Diagnostics { list: vec![diagnostic] }, &sources)
}
