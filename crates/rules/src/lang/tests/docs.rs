//! The examples of the user's page on rule files are rule files.

use super::harness::World;

const PAGE: &str = include_str!("../../../../../docs/rules.md");

#[test]
fn every_example_of_the_page_compiles() {
    let examples: Vec<&str> = PAGE
        .split("```toml\n")
        .skip(1)
        .filter_map(|after| after.split("```").next())
        .filter(|text| text.starts_with("# rules/"))
        .collect();
    assert!(examples.len() >= 4, "{} examples", examples.len());
    for example in examples {
        let name = example.lines().next().map(|line| line.trim_start_matches("# ")).expect("a first line");
        World::new(&[(name, example)]).clean();
    }
}
