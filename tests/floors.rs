//! Imports point down only: every module uses only modules below it in the list of `src/lib.rs`.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

/// The modules of `src/lib.rs` in their order. The simulator is outside the list.
fn modules(lib: &str) -> Vec<&str> {
    lib.lines().filter_map(|line| line.strip_prefix("mod ")?.split(';').next()).collect()
}

/// Which module a name in the crate's root comes from.
fn origins(lib: &str) -> HashMap<String, String> {
    let (_, exports) = lib.split_once("pub use self::{").unwrap();
    let mut origins = HashMap::new();
    for item in items(exports) {
        let (module, names) = item.split_once("::").unwrap_or_else(|| panic!("{item}"));
        let names = names.strip_prefix('{').map_or(vec![names.to_owned()], items);
        origins.extend(names.into_iter().map(|name| (name, module.to_owned())));
    }
    origins
}

/// What stands between commas in a group of which the opening brace has been taken off.
fn items(group: &str) -> Vec<String> {
    let (mut items, mut item, mut depth) = (Vec::new(), String::new(), 0);
    for c in group.chars().filter(|c| !c.is_whitespace()) {
        match c {
            '}' if depth == 0 => break,
            ',' if depth == 0 => items.push(std::mem::take(&mut item)),
            _ => {
                depth += i32::from(c == '{') - i32::from(c == '}');
                item.push(c);
            }
        }
    }
    items.push(item);
    items.retain(|item| !item.is_empty());
    items
}

fn sources(module: &str) -> Vec<PathBuf> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut found, mut folders) = (vec![src.join(format!("{module}.rs"))], vec![src.join(module)]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found
}

/// The names that follow `crate::` in the code: one, or the outermost of a group in braces.
fn used_names(code: &str) -> Vec<String> {
    let name = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    let uses = code.split("crate::").skip(1);
    uses.flat_map(|after| match after.strip_prefix('{') {
        Some(group) => items(group).iter().map(|item| name(item)).collect(),
        None => vec![name(after)],
    })
    .collect()
}

#[test]
fn a_module_uses_only_modules_below_it() {
    let lib = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    let (modules, origins) = (modules(&lib), origins(&lib));
    assert!(modules.len() > 20 && origins.len() > 30, "{modules:?} {origins:?}");
    let mut arrows = 0;
    for (floor, module) in modules.iter().enumerate() {
        for path in sources(module) {
            let text = fs::read_to_string(&path).unwrap();
            // Unit tests may use whatever they need.
            let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
            let code: String = code
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"))
                .collect::<Vec<_>>()
                .join("\n");
            for name in used_names(&code) {
                let used = origins.get(&name).unwrap_or(&name);
                let Some(other) = modules.iter().position(|module| module == used) else { continue };
                assert!(other >= floor, "{} uses {used}, which is above {module} in lib.rs", path.display());
                arrows += usize::from(other > floor);
            }
        }
    }
    // A reader of imports that finds none would keep every promise.
    assert!(arrows > 100, "{arrows}");
}
