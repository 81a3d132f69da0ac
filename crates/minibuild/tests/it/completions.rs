//! `completions`: scripts that shells read, and manual pages.

use std::process::{Command, Stdio};

use crate::workspace;

#[test]
fn scripts_name_commands_and_flags_in_and_outside_of_a_workspace() {
    let ws = workspace();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = ws.run(&["-C", "../home", "completions", shell]).ok().stdout;
        for word in ["query", "compdb", "keep-going", "download-regex"] {
            assert!(script.contains(word), "{shell} knows no `{word}`");
        }
    }
    ws.run(&["completions", "tcsh"]).code(2).says(&["tcsh", "bash"]);
    ws.run(&["completions"]).code(2);
}

#[test]
fn the_script_for_bash_completes_there() {
    let ws = workspace();
    let script = ws.run(&["completions", "bash"]).ok().stdout;
    let ask = r#"COMP_WORDS=(minibuild que); COMP_CWORD=1; _minibuild minibuild que minibuild; echo "${COMPREPLY[@]}""#;
    let path = ws.outside().join("script");
    std::fs::write(&path, format!("{script}\n{ask}\n")).expect("writes");
    let output = Command::new("bash").arg(&path).stdin(Stdio::null()).output().expect("bash runs");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "query\n", "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn manual_pages() {
    let ws = workspace();
    let page = ws.run(&["completions", "man"]).ok().stdout;
    assert!(page.contains(".TH minibuild 1") && page.contains("compdb"), "{page}");
    let page = ws.invoke(&["completions", "man", "build"]).without_events().run().ok().stdout;
    assert!(page.contains(".TH minibuild-build 1"), "{page}");
    assert!(page.contains("keep\\-going"), "{page}");
    ws.run(&["completions", "man", "biuld"]).code(2).says(&["no command `biuld`", "build"]);
    ws.run(&["completions", "zsh", "query"]).code(2);
}
