//! Nothing that stands in a rule file makes a panic, and what was compiled can be expanded.

use proptest::prelude::*;

use super::harness::{C, CODEGEN, JS, PYTHON, RUST, World};
use crate::lang::template;

/// Pieces that templates are made of, right and wrong ones.
fn template_text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("{".to_owned()),
        Just("}".to_owned()),
        Just("{{".to_owned()),
        Just(":".to_owned()),
        Just("{srcs:dir}".to_owned()),
        Just("{deps.c.link}".to_owned()),
        Just("{name}".to_owned()),
        "[a-z.:{}äß \\\\\"\t]{0,6}",
    ];
    proptest::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
}

/// A shipped file with some bytes replaced, removed or added.
fn mutated() -> impl Strategy<Value = String> {
    let files = [C.1, PYTHON.1, RUST.1, CODEGEN.1, JS.1];
    let edit = (
        any::<proptest::sample::Index>(),
        0_usize..12,
        prop_oneof![
            Just(String::new()),
            Just("{".to_owned()),
            Just("[".to_owned()),
            Just("\"".to_owned()),
            Just("= true\n".to_owned()),
            template_text()
        ],
    );
    (0..files.len(), proptest::collection::vec(edit, 1..4)).prop_map(move |(file, edits)| {
        let mut text: Vec<char> = files[file].chars().collect();
        for (at, removed, added) in edits {
            let start = at.index(text.len());
            let end = (start + removed).min(text.len());
            text.splice(start..end, added.chars());
        }
        text.into_iter().collect()
    })
}

proptest! {
    #[test]
    fn any_template_is_read_or_refused(text in template_text()) {
        if let Ok(pieces) = template::parse(&text) {
            prop_assert!(!pieces.is_empty());
        }
    }

    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,80}") {
        let _ = template::parse(&text);
        World::new(&[("any.toml", &text)]);
    }

    #[test]
    fn templates_in_every_place_are_read_or_refused(a in template_text(), b in template_text(), basic in any::<bool>()) {
        let quote = |text: &str| if basic { format!("{text:?}") } else { format!("'''\n{}'''", text.replace('\'', "")) };
        let (a, b) = (quote(&a), quote(&b));
        let text = format!(
            "[provider.c.fields]\nlink = {{ type = \"args\" }}\n[rule.r]\noutputs = [{a}]\n[rule.r.attrs]\nsrcs = {{ type = \"files\" }}\n\
             deps = {{ type = \"targets\" }}\nx = {{ type = \"string\", default = {b} }}\n[rule.r.lists]\nl = [{a}, [{b}, {a}]]\n\
             [rule.r.action.run]\nfor_each = {a}\nouts = {{ o = {b} }}\nargs = [{a}, {{ join = {b}, items = [{a}] }}]\nenv = {{ A = {b} }}\n\
             [rule.r.provides.c]\nlink = [{a}, {b}]\n"
        );
        // Places of complaints are sliced out of the text when they are shown.
        World::new(&[("any.toml", &text)]).complaints();
    }

    #[test]
    fn damaged_rule_files_are_read_or_refused(text in mutated()) {
        World::new(&[("damaged.toml", &text)]).complaints();
    }
}
