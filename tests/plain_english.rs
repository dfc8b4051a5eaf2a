//! The pages that readers see are in plain English, and no line of their code boxes is so long that it scrolls sideways.

use std::{
    fs,
    path::{Path, PathBuf},
};

const PAGES: [&str; 23] = [
    "README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "CHANGELOG.md",
    "benches/README.md",
    "docs/fleet.md",
    "docs/guides/connections.md",
    "docs/guides/errors.md",
    "docs/guides/getting_started.md",
    "docs/guides/many_companies.md",
    "docs/guides/own_store.md",
    "docs/guides/running_for_years.md",
    "docs/guides/security.md",
    "docs/guides/several_machines.md",
    "docs/guides/signing_in.md",
    "docs/guides/testing.md",
    "docs/program.md",
    "docs/promises.md",
    "docs/protocol.md",
    "docs/reliability.md",
    "docs/weight.md",
    "docs/renewal.svg",
    "examples/deploy/README.md",
];

/// Archaic words, persons in place of roles, and pronouns in place of nouns.
const NOT_PLAIN: [&str; 28] = [
    "all the same",
    "anew",
    "anybody",
    "anybody's",
    "beside",
    "everybody",
    "everybody's",
    "expressly",
    "for ever",
    "had for",
    "is had",
    "is said so",
    "is told of",
    "mend",
    "mended",
    "mends",
    "nobody",
    "nobody's",
    "one that",
    "one which",
    "ones that",
    "somebody",
    "somebody's",
    "those who",
    "turn about",
    "whatever the load",
    "whoever",
    "whom",
];

const LONGEST_CODE_LINE: usize = 100;

/// A diagram that only readers of the source see.
const WIDE_DIAGRAM: &str = "manager/renewal.rs";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn rust_files(folder: &str) -> Vec<PathBuf> {
    let (mut found, mut folders) = (Vec::new(), vec![root().join(folder)]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.extension() {
                _ if path.is_dir() => folders.push(path),
                Some(extension) if extension == "rs" => found.push(path),
                _ => {}
            }
        }
    }
    found
}

/// Every word that is not in a code span, in lower case, with one space between two words.
fn words(page: &str) -> String {
    let text: String = page.split('`').step_by(2).collect::<Vec<_>>().join(" ");
    let is_of_a_word = |c: char| c.is_alphanumeric() || c == '\'';
    let words = text.split(|c| !is_of_a_word(c)).filter(|word| !word.is_empty());
    format!(" {} ", words.map(str::to_lowercase).collect::<Vec<_>>().join(" "))
}

/// The lines of code boxes that a reader sees; `comment` takes off what is before a line of documentation.
fn code_lines<'a>(text: &'a str, comment: impl Fn(&'a str) -> Option<&'a str>) -> Vec<&'a str> {
    let (mut in_box, mut lines) = (false, Vec::new());
    for line in text.lines() {
        match comment(line) {
            None => in_box = false,
            Some(line) if line.trim_start().starts_with("```") => in_box = !in_box,
            // rustdoc hides lines that begin so.
            Some(line) if in_box && !line.starts_with("# ") => lines.push(line),
            Some(_) => {}
        }
    }
    lines
}

#[test]
fn the_pages_use_no_archaic_words_and_name_roles() {
    let mut found = Vec::new();
    for page in PAGES {
        let words = words(&read(page));
        found.extend(
            NOT_PLAIN.iter().filter(|word| words.contains(&format!(" {word} "))).map(|word| (page, word)),
        );
    }
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn the_description_in_the_manifest_is_the_first_sentence_of_the_readme() {
    let sentence = "Keeps an SAP Concur integration signed in, permanently and without manual work";
    for file in ["Cargo.toml", "README.md", "src/lib.rs"] {
        assert!(read(file).contains(sentence), "{file}");
    }
}

#[test]
fn no_code_box_scrolls_sideways() {
    let mut long = Vec::new();
    let mut seen = 0;
    let mut check = |file: String, lines: Vec<&str>| {
        seen += lines.len();
        let too_long = lines.into_iter().filter(|line| line.chars().count() > LONGEST_CODE_LINE);
        long.extend(too_long.map(|line| format!("{file}: {line}")));
    };
    for page in PAGES {
        check(page.to_owned(), code_lines(&read(page), Some));
    }
    let is_checked = |path: &PathBuf| !path.ends_with(WIDE_DIAGRAM);
    for path in rust_files("src").into_iter().filter(is_checked) {
        let source = read(&path);
        check(path.display().to_string(), code_lines(&source, documentation));
    }
    assert!(seen > 300, "{seen}");
    assert!(long.is_empty(), "{long:#?}");
}

fn documentation(line: &str) -> Option<&str> {
    let line = line.trim_start();
    let text = line.strip_prefix("///").or_else(|| line.strip_prefix("//!"))?;
    Some(text.strip_prefix(' ').unwrap_or(text))
}

/// Readers of this repository do not have one; `docs/promises.md` is what a test may cite.
#[test]
fn nothing_cites_a_design() {
    let cited = concat!("of the ", "design");
    let files = rust_files("tests").into_iter().chain(rust_files("src"));
    let files = files.chain(PAGES.iter().map(|page| root().join(page)));
    let citing: Vec<_> = files.filter(|path| read(path).contains(cited)).collect();
    assert!(citing.is_empty(), "{citing:?}");
}
