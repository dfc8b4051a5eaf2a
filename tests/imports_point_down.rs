//! Imports point down only: no circle among the top modules of `src`, inside `manager/` or inside `oauth_client/`.
//!
//! Always: an import is an arrow to the file that defines what is imported, also where `lib.rs` or a parent module
//! re-exports it. Tests inside `src`, comments and strings draw no arrows. Two idioms are no circles: a child that extends
//! a type of its parent with an `impl` block while the parent re-exports the child's types, and `builder.rs`, which builds
//! what its parent defines.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt::Write as _,
    fs,
    path::Path,
};

/// The folders of `src` whose files draw no circle. This is the one place to switch a folder on or off.
const FOLDERS: &[&str] = &["manager", "oauth_client"];

/// Modules that belong to no floor: the crate's front door, and the simulator, which is built by topics.
const EXEMPT: [&str; 2] = ["lib", "simulator"];

// The checks on the real sources.

#[test]
fn the_top_modules_draw_no_circle() {
    if let Some(circle) = circle(&real_sources(), top_module) {
        panic!("{circle}");
    }
}

#[test]
fn the_files_of_a_folder_draw_no_circle() {
    let sources = real_sources();
    let circles: String = FOLDERS.iter().filter_map(|folder| circle(&sources, files_of(folder))).collect();
    assert!(circles.is_empty(), "{circles}");
}

/// A parser that sees nothing would find no circle, either.
#[test]
fn the_arrows_are_seen() {
    let sources = real_sources();
    let arrows = arrows(&sources);
    let count = arrows.len();
    assert!(count > 300, "{count} arrows");
    let drawn = |from: &str, to: &str| arrows.iter().any(|arrow| (&*arrow.from, &*arrow.to) == (from, to));
    for folder in ["manager", "oauth_client"] {
        let inside = |file: &str| file.starts_with(&format!("{folder}/"));
        let count = arrows.iter().filter(|arrow| inside(&arrow.from) && inside(&arrow.to)).count();
        assert!(count > 15, "{count} arrows inside {folder}/");
        assert!(arrows.iter().any(|it| inside(&it.from) && it.to == "error.rs"), "through lib.rs");
        assert!(drawn("lib.rs", &format!("{folder}.rs")));
    }
    // `seed.rs` and `exploration.rs` are modules for tests only, and `guides.rs` has no code.
    let is_alone = |file: &str| ["lib.rs", "seed.rs", "exploration.rs", "guides.rs"].contains(&file);
    let is_expected = |file: &str| !file.starts_with("simulator/") && !is_alone(file);
    for file in sources.keys().filter(|file| is_expected(file)) {
        let is_used = arrows.iter().any(|arrow| arrow.to == *file && arrow.from != *file);
        let uses = arrows.iter().any(|arrow| arrow.from == *file);
        assert!(is_used || uses, "{file} has no arrow to or from it");
    }
}

// The checks themselves, on small sources.

fn sources(files: &[(&str, &str)]) -> BTreeMap<String, String> {
    files.iter().map(|(file, source)| ((*file).to_owned(), (*source).to_owned())).collect()
}

const TOP: [(&str, &str); 4] = [
    ("lib.rs", "mod low; mod middle; mod high;\npub use self::{low::Low, middle::{deep::Deep, Middle}};"),
    ("low.rs", "use std::fmt;\npub struct Low;"),
    ("middle.rs", "pub mod deep;\n\nuse crate::Low;\npub struct Middle(Low);"),
    ("middle/deep.rs", "pub struct Deep(super::Middle);"),
];

#[test]
fn arrows_that_point_down_are_no_circle() {
    let mut files = TOP.to_vec();
    files.push(("high.rs", "use crate::{Deep, Low};"));
    assert_eq!(circle(&sources(&files), top_module), None);
}

#[test]
fn an_arrow_turned_round_is_a_circle_and_is_spelled_out() {
    let mut files = TOP.to_vec();
    files.push(("high.rs", "use crate::{\n    Deep,\n};"));
    files[1].1 = "\n\npub struct Low(crate::high::High);";
    assert_eq!(
        circle(&sources(&files), top_module).unwrap(),
        "a circle:\n  \
           src/high.rs:2 crate::Deep -> src/middle/deep.rs\n  \
           src/middle.rs:3 crate::Low -> src/low.rs\n  \
           src/low.rs:3 crate::high::High -> src/high.rs\n"
    );
}

const FOLDER: [(&str, &str); 6] = [
    ("lib.rs", "mod client; mod clock;\npub use self::client::{Client, Form};"),
    ("clock.rs", "use crate::client::Form;"),
    (
        "client.rs",
        "mod builder; mod form; mod send; mod send_parts;\nuse self::send::Sent;\npub use self::{builder::Builder, form::Form};\n\
         pub struct Client;",
    ),
    ("client/builder.rs", "use super::Client;\npub struct Builder;\nfn build() -> Client { Client }"),
    ("client/form.rs", "use crate::clock;\npub struct Form;"),
    ("client/send.rs", "use super::{Client, Form};\npub struct Sent;\nimpl<T> Send<Vec<T>> for Client {}"),
];

#[test]
fn a_facade_and_a_builder_are_no_circle() {
    assert_eq!(circle(&sources(&FOLDER), files_of("client")), None);
    assert!(circle(&sources(&FOLDER), top_module).is_some(), "client and clock");
}

#[test]
fn an_arrow_turned_round_inside_a_folder_is_a_circle() {
    let mut files = FOLDER;
    files[4].1 = "use super::send;\npub struct Form(send::Sent);";
    assert_eq!(
        circle(&sources(&files), files_of("client")).unwrap(),
        "a circle:\n  \
           src/client/form.rs:1 super::send -> src/client/send.rs\n  \
           src/client/send.rs:1 super::Form -> src/client/form.rs\n"
    );
}

#[test]
fn a_type_of_the_parent_that_is_not_extended_is_a_circle() {
    let mut files = FOLDER;
    files[5].1 = "use super::Client;\npub struct Sent(Client);\nimpl From<Client> for Sent {}";
    assert_eq!(
        circle(&sources(&files), files_of("client")).unwrap(),
        "a circle:\n  \
           src/client.rs:2 self::send::Sent -> src/client/send.rs\n  \
           src/client/send.rs:1 super::Client -> src/client.rs\n"
    );
}

#[test]
fn files_in_a_folder_of_a_folder_are_among_its_files() {
    let files = [
        ("lib.rs", "mod client;"),
        ("client.rs", "mod deep; mod flat;"),
        ("client/deep.rs", "mod deeper;"),
        ("client/deep/deeper.rs", "use super::super::flat::Flat;\npub struct Deeper;"),
        ("client/flat.rs", "pub struct Flat(super::deep::deeper::Deeper);"),
    ];
    let found = circle(&sources(&files), files_of("client")).unwrap();
    assert!(found.contains("src/client/deep/deeper.rs:1 super::super::flat::Flat"), "{found}");
}

/// Everything that is written and is no import, and everything that is one.
#[test]
fn what_draws_an_arrow_and_what_does_not() {
    let files = [
        ("lib.rs", "mod a; mod b; mod c; mod d; mod e; mod f;\npub use self::c::*;\npub use reqwest;"),
        (
            "a.rs",
            r####"
//! crate::b
use std::{fmt, b::X}; // use crate::b;
use crate::reqwest;
/* use crate::b; /* nested */ use crate::b; */
const TEXT: &str = "use crate::b; \" crate::b::f()";
const RAW: &str = r##"use crate::b; "# crate::b"##;
const BYTES: (&[u8], u8, char) = (b"crate::b", b'"', '"');
fn lifetime<'a>(it: &'a str) -> impl Sized + use<'a> { it }
pub(in crate::a) fn visible() {}
#[cfg(test)]
use crate::b as _;
#[cfg(all(test, unix))]
#[allow(unused)]
fn only_in_tests<A, B>(_: A, _: B) where A: Copy, { crate::b::f() }
enum E {
    #[cfg(test)]
    Tested(crate::b::X, u8),
    Always,
}
#[cfg(test)]
mod tests {
    use crate::b;
}
fn after() { crate::C }
"####,
        ),
        ("b.rs", "use d::Local; mod d { pub struct Local; pub fn f() { super::super::a::after() } }"),
        ("c.rs", "pub const C: u8 = 0;"),
        ("d.rs", "#[cfg(not(test))]\nuse crate::{\n    c as see,\n    e::{self, *},\n};"),
        ("e.rs", ""),
        ("f.rs", "mod g;\nuse crate::d;\nfn f() { g::h(d::i(), String::new(), a::b()) }"),
        ("f/g.rs", ""),
    ];
    let sources = sources(&files);
    let seen: Vec<_> = arrows(&sources)
        .into_iter()
        .filter(|arrow| arrow.from != "lib.rs")
        .map(|arrow| arrow.shown())
        .collect();
    assert_eq!(
        seen,
        [
            "src/a.rs:25 crate::C -> src/c.rs",
            "src/b.rs:1 super::super::a::after -> src/a.rs",
            "src/d.rs:3 crate::c -> src/c.rs",
            "src/d.rs:4 crate::e -> src/e.rs",
            "src/d.rs:4 crate::e::* -> src/e.rs",
            "src/f.rs:2 crate::d -> src/d.rs",
            "src/f.rs:3 g::h -> src/f/g.rs",
        ]
    );
}

// From the sources to their arrows.

/// The library's sources below `src`, by their path from there. The program in `src/bin` is a crate of its own.
fn real_sources() -> BTreeMap<String, String> {
    fn read(folder: &Path, prefix: &str, into: &mut BTreeMap<String, String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if path.is_dir() && (prefix, &*name) == ("", "bin") {
                continue;
            } else if path.is_dir() {
                read(&path, &format!("{prefix}{name}/"), into);
            } else if name.ends_with(".rs") {
                assert_ne!(name, "mod.rs", "a module's file has the module's name");
                into.insert(format!("{prefix}{name}"), fs::read_to_string(&path).unwrap());
            }
        }
    }
    let mut sources = BTreeMap::new();
    read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), "", &mut sources);
    sources
}

/// An import, from the file that writes it to the file that defines what is imported.
#[derive(Clone, Debug)]
struct Arrow {
    from: String,
    line: usize,
    /// As it is written, with what stands before its braces.
    path: String,
    to: String,
    is_reexport: bool,
}

impl Arrow {
    fn shown(&self) -> String {
        format!("src/{}:{} {} -> src/{}", self.from, self.line, self.path, self.to)
    }
}

fn arrows(sources: &BTreeMap<String, String>) -> Vec<Arrow> {
    let mut modules = Modules::default();
    for (file, source) in sources {
        let path = match file.as_str() {
            "lib.rs" => Vec::new(),
            _ => file.strip_suffix(".rs").unwrap().split('/').map(str::to_owned).collect(),
        };
        modules.read(file, path, source);
    }
    let mut arrows = Vec::new();
    for (module, contents) in &modules.0 {
        for import in &contents.imports {
            if import.is_in_code() && !modules.has(module, &import.path[0]) {
                continue;
            }
            let Some((target, item)) = modules.resolve(module, &import.path, &mut BTreeSet::new()) else {
                continue;
            };
            let (from, to) = (contents.file.clone(), modules.0[&target].file.clone());
            let extended = item.as_deref().is_some_and(|item| contents.extends.contains(item));
            if from == to || (extended && target == module[..module.len().saturating_sub(1)]) {
                continue;
            }
            let path = import.path.join("::");
            arrows.push(Arrow { from, line: import.line, path, to, is_reexport: import.is_public });
        }
    }
    arrows.sort_by(|a, b| (&a.from, a.line, &a.path).cmp(&(&b.from, b.line, &b.path)));
    arrows
}

/// The modules by their paths; the crate's own is empty.
#[derive(Default)]
struct Modules(BTreeMap<Vec<String>, Contents>);

#[derive(Default)]
struct Contents {
    file: String,
    imports: Vec<Import>,
    /// What it defines.
    items: BTreeSet<String>,
    /// The types that have an `impl` block here.
    extends: BTreeSet<String>,
}

struct Import {
    /// As written: `crate::a::B`, `super::*`. A `*` is the last part of what imports all names.
    path: Vec<String>,
    /// What it is called here; `None` for a path in the middle of code.
    name: Option<String>,
    line: usize,
    is_public: bool,
}

impl Import {
    fn is_in_code(&self) -> bool {
        self.name.is_none()
    }
}

impl Modules {
    /// Whether a path in the code of `module` that begins so leads to a module. What begins with an imported name was seen
    /// at its import.
    fn has(&self, module: &[String], first: &str) -> bool {
        ["crate", "super", "self"].contains(&first)
            || self.0.contains_key(&[module, &[first.to_owned()]].concat())
    }

    /// The module that defines what `path` names in `module`, and its name there; `None` for other crates.
    fn resolve(
        &self,
        module: &[String],
        path: &[String],
        seen: &mut BTreeSet<(Vec<String>, Vec<String>)>,
    ) -> Option<(Vec<String>, Option<String>)> {
        if !seen.insert((module.to_vec(), path.to_vec())) {
            return None;
        }
        let mut at = module.to_vec();
        let mut rest = path;
        let mut is_local = false;
        while let Some(part) = rest.first() {
            match part.as_str() {
                "crate" => at.clear(),
                "super" => drop(at.pop()),
                "self" => {}
                _ => break,
            }
            is_local = true;
            rest = &rest[1..];
        }
        while let Some(part) = rest.first() {
            if part == "*" {
                return Some((at, None));
            }
            let mut child = at.clone();
            child.push(part.clone());
            if self.0.contains_key(&child) {
                (at, rest, is_local) = (child, &rest[1..], true);
                continue;
            }
            let contents = self.0.get(&at)?;
            if contents.items.contains(part) {
                return Some((at, Some(part.clone())));
            }
            if let Some(import) = contents.imports.iter().find(|import| import.name.as_ref() == Some(part)) {
                let target: Vec<_> = import.path.iter().chain(&rest[1..]).cloned().collect();
                return self.resolve(&at, &target, seen);
            }
            let globs =
                contents.imports.iter().filter(|import| import.path.last().is_some_and(|it| it == "*"));
            for import in globs {
                let all = import.path.len() - 1;
                let target: Vec<_> = import.path[..all].iter().chain(rest).cloned().collect();
                if let Some(found @ (_, Some(_))) = self.resolve(&at, &target, seen)
                    && self.0[&found.0].items.contains(found.1.as_ref().unwrap())
                {
                    return Some(found);
                }
            }
            // Made by a macro, or a name of the standard library's prelude or of another crate.
            return is_local.then(|| (at, Some(part.clone())));
        }
        Some((at, None))
    }

    /// Reads a file into its module and those written inside it.
    fn read(&mut self, file: &str, path: Vec<String>, source: &str) {
        let tokens = without_tests(tokens(source));
        let word = |at: usize| tokens.get(at).map_or("", |token: &Token| token.text.as_str());
        self.0.entry(path.clone()).or_default().file = file.to_owned();
        // The modules around, each with the depth of the braces that hold it.
        let mut around = vec![(path, 0)];
        let mut depth = 0;
        let mut at = 0;
        let mut is_public = false;
        while at < tokens.len() {
            let module = around.last().unwrap().0.clone();
            let contents = self.0.entry(module.clone()).or_default();
            contents.file = file.to_owned();
            let follows_a_path = at > 0 && word(at - 1) == "::";
            let was_public = std::mem::take(&mut is_public);
            match word(at) {
                "{" => depth += 1,
                "}" => {
                    depth -= 1;
                    around.pop_if(|(_, inside)| *inside > depth);
                }
                "pub" => {
                    is_public = true;
                    if word(at + 1) == "(" {
                        at += (at..tokens.len()).take_while(|at| word(*at) != ")").count();
                    }
                }
                "mod" if word(at + 2) == "{" => {
                    let mut inner = module;
                    inner.push(word(at + 1).to_owned());
                    depth += 1;
                    around.push((inner, depth));
                    at += 2;
                }
                "use" if word(at + 1) != "<" => {
                    at += 1;
                    tree(&tokens, &mut at, &[], was_public, &mut contents.imports);
                }
                "fn" | "struct" | "enum" | "union" | "trait" | "type" | "const" | "static"
                | "macro_rules" => {
                    let name = if word(at + 1) == "!" { word(at + 2) } else { word(at + 1) };
                    contents.items.insert(name.to_owned());
                }
                "impl" => contents.extends.extend(extended_type(&tokens[at + 1..])),
                part if is_name(part) && word(at + 1) == "::" && !follows_a_path => {
                    let line = tokens[at].line;
                    let mut path = vec![word(at).to_owned()];
                    while word(at + 1) == "::" && is_name(word(at + 2)) {
                        path.push(word(at + 2).to_owned());
                        at += 2;
                    }
                    contents.imports.push(Import { path, name: None, line, is_public: false });
                }
                _ => {}
            }
            at += 1;
        }
    }
}

/// The leaves of a `use` declaration: `a::{b, c::{self, d as e}, *}`. Ends at what comes after it.
fn tree(tokens: &[Token], at: &mut usize, prefix: &[String], is_public: bool, into: &mut Vec<Import>) {
    let word = |at: usize| tokens.get(at).map_or("", |token: &Token| token.text.as_str());
    let mut path = prefix.to_vec();
    let line = tokens[*at].line;
    loop {
        match word(*at) {
            "::" => {
                *at += 1;
                continue;
            }
            "{" => {
                *at += 1;
                while word(*at) != "}" {
                    tree(tokens, at, &path, is_public, into);
                    if word(*at) == "," {
                        *at += 1;
                    }
                }
                *at += 1;
                return;
            }
            "self" if !path.is_empty() => *at += 1,
            part if part == "*" || is_name(part) => {
                path.push(part.to_owned());
                *at += 1;
            }
            _ => break,
        }
        if word(*at) != "::" {
            break;
        }
    }
    let mut name = path.last().cloned();
    if word(*at) == "as" {
        name = Some(word(*at + 1).to_owned());
        *at += 2;
    }
    into.push(Import { path, name, line, is_public });
}

/// The type in the head of an `impl` block, without its arguments.
fn extended_type(tokens: &[Token]) -> Option<String> {
    let mut angles = 0;
    let mut found = None;
    let mut before = "";
    for token in tokens {
        match token.text.as_str() {
            "<" => angles += 1,
            ">" if before != "-" => angles -= 1,
            "{" | ";" | "where" if angles == 0 => return found,
            // `impl Trait for Type`, and not `impl for<'a> …`.
            "for" if angles == 0 => found = None,
            name if angles == 0 && is_name(name) && !["dyn", "mut", "const", "unsafe"].contains(&name) => {
                found = Some(name.to_owned());
            }
            _ => {}
        }
        before = &token.text;
    }
    found
}

#[derive(Clone, Debug)]
struct Token {
    text: String,
    line: usize,
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// The names and signs of a source, without its comments, strings, characters and lifetimes.
fn tokens(source: &str) -> Vec<Token> {
    let chars: Vec<char> = source.chars().collect();
    let char = |at: usize| chars.get(at).copied().unwrap_or('\0');
    let mut tokens = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < chars.len() {
        let start = at;
        match char(at) {
            '/' if char(at + 1) == '/' => at += (at..chars.len()).take_while(|at| char(*at) != '\n').count(),
            '/' if char(at + 1) == '*' => {
                let mut depth = 0;
                loop {
                    match (char(at), char(at + 1)) {
                        ('/', '*') => (depth, at) = (depth + 1, at + 2),
                        ('*', '/') => (depth, at) = (depth - 1, at + 2),
                        _ => at += 1,
                    }
                    if depth == 0 || at >= chars.len() {
                        break;
                    }
                }
            }
            '"' => {
                at += 1;
                while at < chars.len() && char(at) != '"' {
                    at += if char(at) == '\\' { 2 } else { 1 };
                }
                at += 1;
            }
            // A character, or a lifetime: only the former has a second quote.
            '\'' if char(at + 1) == '\\' => {
                at += 3;
                at += (at..chars.len()).take_while(|at| char(*at) != '\'').count() + 1;
            }
            '\'' if char(at + 2) == '\'' => at += 3,
            '\'' => at += 1 + (at + 1..chars.len()).take_while(|at| is_part_of_a_name(char(*at))).count(),
            c if is_part_of_a_name(c) => {
                at += (at..chars.len()).take_while(|at| is_part_of_a_name(char(*at))).count();
                let text: String = chars[start..at].iter().collect();
                let hashes = (at..chars.len()).take_while(|at| char(*at) == '#').count();
                if ["r", "br", "cr"].contains(&&*text) && char(at + hashes) == '"' {
                    let end: Vec<char> =
                        std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
                    at += hashes + 1;
                    at +=
                        chars[at..].windows(end.len()).position(|window| window == end).unwrap() + end.len();
                } else {
                    tokens.push(Token { text, line });
                }
            }
            ':' if char(at + 1) == ':' => {
                tokens.push(Token { text: "::".to_owned(), line });
                at += 2;
            }
            c => {
                if !c.is_whitespace() {
                    tokens.push(Token { text: c.to_string(), line });
                }
                at += 1;
            }
        }
        line += chars[start..at.min(chars.len())].iter().filter(|c| **c == '\n').count();
    }
    tokens
}

fn is_part_of_a_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Leaves out each item, variant and arm that is for tests only.
fn without_tests(tokens: Vec<Token>) -> Vec<Token> {
    let word = |at: usize| tokens.get(at).map_or("", |token: &Token| token.text.as_str());
    let starts = |at: usize, words: &[&str]| words.iter().enumerate().all(|(i, it)| word(at + i) == *it);
    // The end of a group that opens here.
    let past_group = |mut at: usize| {
        let mut depth = 0;
        while at < tokens.len() {
            match word(at) {
                "(" | "[" | "{" => depth += 1,
                ")" | "]" | "}" => depth -= 1,
                _ => {}
            }
            at += 1;
            if depth == 0 {
                break;
            }
        }
        at
    };
    let mut kept = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let for_tests = starts(at, &["#", "[", "cfg", "(", "test", ")"])
            || starts(at, &["#", "[", "cfg", "(", "all", "(", "test"]);
        if !for_tests {
            kept.push(tokens[at].clone());
            at += 1;
            continue;
        }
        while word(at) == "#" {
            at = past_group(at + 1);
        }
        let is_item = |word: &str| {
            ["mod", "fn", "impl", "struct", "enum", "trait", "use", "type", "static", "macro_rules"]
                .contains(&word)
        };
        let mut first = at;
        while ["pub", "async", "unsafe", "const", "extern"].contains(&word(first)) {
            first = if word(first + 1) == "(" { past_group(first + 1) } else { first + 1 };
        }
        let is_item = is_item(word(first)) || first > at;
        while at < tokens.len() {
            match word(at) {
                "{" if is_item => {
                    at = past_group(at);
                    break;
                }
                "(" | "[" | "{" => at = past_group(at),
                ")" | "]" | "}" => break,
                ";" => {
                    at += 1;
                    break;
                }
                "," if !is_item => {
                    at += 1;
                    break;
                }
                _ => at += 1,
            }
        }
    }
    kept
}

// From the arrows to the circles.

/// The part of the sources that a file belongs to, if any.
fn top_module(file: &str) -> Option<String> {
    let module = file.split(['/', '.']).next()?;
    (!EXEMPT.contains(&module)).then(|| module.to_owned())
}

fn files_of(folder: &str) -> impl Fn(&str) -> Option<String> + 'static {
    let (parent, inside) = (format!("{folder}.rs"), format!("{folder}/"));
    move |file| (file == parent || file.starts_with(&inside)).then(|| file.to_owned())
}

/// The shortest circle that the arrows between the parts draw, spelled out.
fn circle(sources: &BTreeMap<String, String>, part_of: impl Fn(&str) -> Option<String>) -> Option<String> {
    let mut from: BTreeMap<String, BTreeMap<String, Arrow>> = BTreeMap::new();
    for arrow in arrows(sources).into_iter().filter(|arrow| !is_idiom(arrow)) {
        if let (Some(one), Some(other)) = (part_of(&arrow.from), part_of(&arrow.to))
            && one != other
        {
            from.entry(one).or_default().entry(other).or_insert(arrow);
        }
    }
    let circles = from.keys().filter_map(|start| {
        // Breadth first, so that the first way back is the shortest.
        let mut came_by: BTreeMap<&str, (&str, &Arrow)> = BTreeMap::new();
        let mut next = VecDeque::from([start.as_str()]);
        while let Some(part) = next.pop_front() {
            for (to, arrow) in from.get(part).into_iter().flatten() {
                if !came_by.contains_key(to.as_str()) {
                    came_by.insert(to, (part, arrow));
                    next.push_back(to);
                }
            }
        }
        let mut circle = Vec::new();
        let mut part = start.as_str();
        loop {
            let (before, arrow) = came_by.get(part)?;
            circle.push(*arrow);
            part = before;
            if part == start {
                break;
            }
        }
        circle.reverse();
        Some(circle)
    });
    let shortest = circles.min_by_key(Vec::len)?;
    let mut shown = "a circle:\n".to_owned();
    for arrow in shortest {
        writeln!(shown, "  {}", arrow.shown()).unwrap();
    }
    Some(shown)
}

/// Whether it is one half of an idiom: what a parent re-exports of its child, or what a builder needs of what it builds.
fn is_idiom(arrow: &Arrow) -> bool {
    let is_child = |child: &str, parent: &str| {
        let folder = parent.strip_suffix(".rs").unwrap();
        child.rsplit_once('/').is_some_and(|(of, _)| of == folder)
    };
    let reexports = arrow.is_reexport && is_child(&arrow.to, &arrow.from);
    let builds = arrow.from.ends_with("/builder.rs") && is_child(&arrow.from, &arrow.to);
    reexports || builds
}
