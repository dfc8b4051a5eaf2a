//! The tables of promises in the crate's documentation are complete: twelve promises, and those that features add, each kept by
//! files and shown by tests that exist.

use std::{fs, path::Path};

const PAGE: &str = include_str!("../docs/promises.md");

/// The rows below a heading, without the table's own two head rows, cell by cell.
fn rows(heading: &str) -> Vec<Vec<&'static str>> {
    let (_, section) = PAGE.split_once(&format!("# {heading}\n")).unwrap();
    let section = section.split("\n# ").next().unwrap();
    let lines = section.lines().filter(|line| line.starts_with("| ")).skip(1);
    lines.map(|line| line.trim_matches(['|', ' ']).split(" | ").collect()).collect()
}

fn promises() -> Vec<Vec<&'static str>> {
    ["The promises", "In PostgreSQL", "In a fleet", "In API calls"].map(rows).concat()
}

fn names(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

#[test]
fn each_promise_is_kept_by_files_that_exist() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    assert_eq!(rows("The promises").len(), 12);
    for row in promises() {
        let [promise, kept_in, _] = row[..] else { panic!("{row:?}") };
        assert!(names(kept_in).count() > 0, "{promise}");
        for file in names(kept_in) {
            assert!(src.join(file).exists(), "{file}, which keeps: {promise}");
        }
    }
}

#[test]
fn each_promise_is_shown_by_tests_that_exist() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    for row in promises() {
        let [promise, _, shown_by] = row[..] else { panic!("{row:?}") };
        assert!(names(shown_by).count() > 1, "{promise}");
        for name in names(shown_by) {
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
