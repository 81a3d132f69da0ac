//! Each class of mistake in TOML with the text a user reads: `testdata/load_errors.txt` holds workspaces (`--- path` and
//! its content) and what is printed (`>>>`). A file of nothing but its header is empty.

use crate::testing::MemoryFs;
use crate::{ConfigInput, HostFacts, LoadRequest, load, render};

struct Case<'t> {
    name: &'t str,
    files: Vec<(&'t str, String)>,
    expected: String,
}

fn cases(text: &str) -> Vec<Case<'_>> {
    let mut cases: Vec<Case<'_>> = Vec::new();
    let mut in_expected = false;
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("=== ") {
            cases.push(Case { name, files: Vec::new(), expected: String::new() });
            in_expected = false;
            continue;
        }
        let case = cases.last_mut().expect("the file starts with a case");
        if let Some(path) = line.strip_prefix("--- ") {
            case.files.push((path, String::new()));
        } else if line == ">>>" {
            in_expected = true;
        } else {
            let text = if in_expected { &mut case.expected } else { &mut case.files.last_mut().expect("a file").1 };
            text.push_str(line);
            text.push('\n');
        }
    }
    cases
}

fn printed(case: &Case<'_>) -> String {
    let files: Vec<(&str, &str)> = case.files.iter().map(|(path, text)| (*path, text.as_str())).collect();
    let request = LoadRequest {
        config: ConfigInput::default(),
        patterns: vec!["//a:all".into()],
        cwd: String::new(),
        host: HostFacts { os: "linux".into(), arch: "x86_64".into() },
        threads: 1,
    };
    match load(&MemoryFs::new(&files), &request) {
        Ok(_) => "loaded\n".into(),
        Err(failure) => render(&failure.diagnostics, &failure.sources, false),
    }
}

#[test]
fn every_mistake_is_told_as_written_down() {
    let text = include_str!("../../../testdata/load_errors.txt");
    let cases = cases(text);
    assert!(cases.len() > 10);
    let mut wrong = String::new();
    for case in &cases {
        let printed = printed(case);
        if printed.trim_end() != case.expected.trim_end() {
            wrong.push_str(&format!("=== {}\n>>>\n{printed}", case.name));
        }
    }
    assert!(wrong.is_empty(), "not as written down:\n{wrong}");
}
