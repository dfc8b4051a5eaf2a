//! The tables in the crate's documentation name tests that exist.

use std::{fs, path::Path};

const TABLE: &str = include_str!("../docs/protocol.md");

/// Each document that names tests as `file.rs::test`, and how many names it has at least. The files are those of `tests/`,
/// or of the repository where the name begins with `src/`.
const CITING: &[(&str, &str, usize)] = &[("docs/protocol.md", TABLE, 40)];

#[test]
fn every_test_that_they_name_is_there() {
    for (document, text, at_least) in CITING {
        let cited: Vec<_> = text.split('`').filter_map(|text| text.split_once(".rs::")).collect();
        assert!(cited.len() >= *at_least, "{document} names {} tests", cited.len());
        for (file, test) in cited {
            let root = Path::new(env!("CARGO_MANIFEST_DIR"));
            let folder = if file.starts_with("src/") { root.to_owned() } else { root.join("tests") };
            let path = folder.join(format!("{file}.rs"));
            let source = fs::read_to_string(&path)
                .unwrap_or_else(|e| panic!("{document} names {}: {e}", path.display()));
            assert!(source.contains(&format!("fn {test}(")), "{document}: {file}.rs has no test {test}");
        }
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
