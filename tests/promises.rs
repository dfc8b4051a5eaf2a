//! The promises in the crate's documentation are complete: twelve promises, and those that features add, each kept by
//! files and shown by tests that exist.

use std::{fs, path::Path};

const PAGE: &str = include_str!("../docs/promises.md");

/// What is below a heading of the first level.
fn section(heading: &str) -> &'static str {
    let (_, section) = PAGE.split_once(&format!("# {heading}\n")).unwrap();
    section.split("\n# ").next().unwrap()
}

/// The rows of the table below a heading, without its own two head rows, cell by cell.
fn rows(heading: &str) -> Vec<Vec<&'static str>> {
    let lines = section(heading).lines().filter(|line| line.starts_with("| ")).skip(1);
    lines.map(|line| line.trim_matches(['|', ' ']).split(" | ").collect()).collect()
}

struct Promise {
    heading: &'static str,
    kept_in: Vec<&'static str>,
    shown_by: Vec<&'static str>,
}

/// Each has a heading, its text, and two paragraphs that name files and tests.
fn promises(heading: &str) -> Vec<Promise> {
    let promise = |text: &'static str| {
        let paragraphs: Vec<_> = text.trim().split("\n\n").collect();
        let [heading, _, kept_in, shown_by] = paragraphs[..] else { panic!("{text}") };
        assert!(kept_in.starts_with("Kept in `") && shown_by.starts_with("Shown by `"), "{text}");
        Promise { heading, kept_in: names(kept_in), shown_by: names(shown_by) }
    };
    section(heading).split("\n## ").skip(1).map(promise).collect()
}

fn all_promises() -> impl Iterator<Item = Promise> {
    ["The promises", "In PostgreSQL", "In a fleet", "In API calls"].into_iter().flat_map(promises)
}

fn names(paragraph: &'static str) -> Vec<&'static str> {
    paragraph.split('`').skip(1).step_by(2).collect()
}

#[test]
fn each_promise_is_kept_by_files_that_exist() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    assert_eq!(promises("The promises").len(), 12);
    for Promise { heading, kept_in, .. } in all_promises() {
        for file in kept_in {
            assert!(src.join(file).exists(), "{file}, which keeps: {heading}");
        }
    }
}

#[test]
fn each_promise_is_shown_by_tests_that_exist() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    for Promise { heading, shown_by, .. } in all_promises() {
        assert!(shown_by.len() > 1, "{heading}");
        for name in shown_by {
            let (file, test) = name.split_once("::").unwrap_or_else(|| panic!("{name}"));
            let source = fs::read_to_string(tests.join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
            // A test of the fleet's suite has a parameter for the store.
            let is_there = ["(", "<"].iter().any(|after| source.contains(&format!("fn {test}{after}")));
            assert!(is_there, "{file} has no test {test}");
        }
    }
}

#[test]
fn each_figure_has_a_purpose_and_a_reason() {
    let figures = rows("Figures");
    assert!(figures.len() > 30, "{}", figures.len());
    for row in figures.iter().chain(&rows("What an error leads to")) {
        assert!(row.len() >= 3 && row.iter().all(|cell| !cell.trim().is_empty()), "{row:?}");
    }
}
