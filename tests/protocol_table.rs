//! The table in the crate's documentation that maps SAP's protocol names tests that exist.

use std::{fs, path::Path};

const TABLE: &str = include_str!("../docs/protocol.md");

#[test]
fn every_test_that_it_names_is_there() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let named: Vec<_> = TABLE.split('`').filter_map(|text| text.split_once(".rs::")).collect();
    assert!(named.len() > 40, "{}", named.len());
    for (file, test) in named {
        let path = tests.join(format!("{file}.rs"));
        let source = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert!(source.contains(&format!("fn {test}()")), "{file}.rs has no test {test}");
    }
}

#[test]
fn every_row_names_a_test_or_a_reason() {
    let (implemented, left_out) = TABLE.split_once("## Left out").unwrap();
    let rows = |text: &str| -> Vec<String> {
        text.lines().filter(|line| line.starts_with("| ")).map(str::to_owned).collect()
    };
    for row in rows(implemented).iter().filter(|row| !row.starts_with("| SAP's page")) {
        assert!(row.contains(".rs::") && row.matches(" | ").count() == 2, "{row}");
    }
    for row in rows(left_out) {
        assert!(row.matches(" | ").count() == 1, "{row}");
    }
}
