//! The layering of the agent, read from its sources: a module imports only what stands below it, and nothing outside
//! `runtime` touches sockets, files, threads, processes, the clock or randomly seeded maps.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Modules of the agent from the bottom up; those of one row don't import each other unless a pair is listed below.
const LAYERS: &[&[&str]] = &[
    &["runtime"],
    &["store", "peer", "map"],
    &["replica", "origin"],
    &["cache"],
    &["fs"],
    &["fuse"],
    &["config"],
    &["telemetry", "metrics", "admin"],
    &["serve"],
];

/// What stands for the outside, each with what a module uses instead.
const OUTSIDE: &[(&str, &str)] = &[
    ("tokio::net", "runtime::net"),
    ("tokio::fs", "runtime::disk"),
    ("tokio::process", "nothing: the agent starts no programs"),
    ("std::fs", "runtime::disk"),
    ("std::thread", "runtime::tasks"),
    ("thread::spawn", "runtime::tasks"),
    ("std::process", "runtime::process"),
    ("Instant::now", "runtime.clock.now()"),
    ("SystemTime::now", "runtime.clock.wall_ms()"),
    ("std::collections::HashMap", "runtime::HashMap"),
    ("std::collections::HashSet", "runtime::HashSet"),
    ("collections::{HashMap", "runtime::HashMap"),
    ("collections::{HashSet", "runtime::HashSet"),
    ("RandomState", "runtime::HashMap"),
    ("std::net::TcpStream", "runtime::net"),
    ("std::net::TcpListener", "runtime::net"),
];

/// The exceptions, each with its reason.
const ALLOWED: &[(&str, &str, &str)] =
    &[("main.rs", "std::process", "the exit status of the program is an std::process::ExitCode")];

struct Source {
    file: String,
    /// The module below the crate's root: `cache` for `cache/flight.rs`.
    module: String,
    /// Without comments and without what follows `#[cfg(test)]`.
    code: String,
}

/// Modules that `lib.rs` has for tests only.
fn test_modules(root: &Path) -> Vec<String> {
    let text = fs::read_to_string(root.join("lib.rs")).expect("lib.rs");
    let after = text.split("#[cfg(test)]\nmod ").skip(1);
    after.filter_map(|rest| rest.split(';').next().map(str::to_owned)).collect()
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let for_tests = test_modules(&root);
    let mut folders = vec![root.clone()];
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("the sources are here") {
            let path: PathBuf = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let file = path.strip_prefix(&root).expect("below the root").display().to_string();
                let text = fs::read_to_string(&path).expect("readable");
                sources.extend(source(file, &text));
            }
        }
    }
    sources.retain(|source| !for_tests.contains(&source.module));
    sources
}

fn source(file: String, text: &str) -> Option<Source> {
    // Tests may use the machine: they run on it. `world` is built for tests only.
    if file.ends_with("/tests.rs") || file.contains("/tests/") || file.starts_with("world") {
        return None;
    }
    let module = file.split(['/', '.']).next().unwrap_or_default().to_owned();
    let production = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let code = production.lines().map(without_comment).collect::<Vec<_>>().join("\n");
    Some(Source { file, module, code })
}

fn without_comment(line: &str) -> &str {
    match line.find("//") {
        // `https://` in a text is no comment.
        Some(at) if !line[..at].ends_with(':') => &line[..at],
        _ => line,
    }
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|row| row.contains(&module))
}

/// The modules named after `crate::`, also in groups.
fn imports(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        if code[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_') {
            continue;
        }
        let names = match rest.strip_prefix('{') {
            Some(group) => top_level(group),
            None => vec![rest.to_owned()],
        };
        found.extend(names.into_iter().map(|name| word(&name)).filter(|name| !name.is_empty()));
    }
    found
}

/// The beginnings of the members of a group `a::b, c::{d, e}}`.
fn top_level(group: &str) -> Vec<String> {
    let (mut depth, mut names, mut name) = (0, Vec::new(), String::new());
    for character in group.chars() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => names.push(std::mem::take(&mut name)),
            _ if depth == 0 => name.push(character),
            _ => {}
        }
    }
    names.push(name);
    names
}

fn word(text: &str) -> String {
    text.trim().chars().take_while(|character| character.is_alphanumeric() || *character == '_').collect()
}

#[test]
fn a_module_imports_only_what_stands_below_it() {
    let mut wrong = Vec::new();
    let mut edges: BTreeMap<(String, String), u32> = BTreeMap::new();
    for source in sources() {
        if matches!(source.file.as_str(), "lib.rs" | "main.rs") {
            continue;
        }
        let Some(own) = layer(&source.module) else {
            wrong.push(format!("{}: the module `{}` has no layer", source.file, source.module));
            continue;
        };
        for import in imports(&source.code) {
            *edges.entry((source.module.clone(), import.clone())).or_default() += 1;
            let allowed = import == source.module || layer(&import).is_some_and(|below| below < own);
            if !allowed {
                wrong.push(format!("{}: `{}` may not import `{import}`", source.file, source.module));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let known =
        edges.contains_key(&("fuse".into(), "fs".into())) && edges.contains_key(&("fs".into(), "runtime".into()));
    assert!(known, "imports that exist weren't found: {edges:?}");
}

#[test]
fn nothing_but_the_runtime_touches_the_outside() {
    let mut wrong = Vec::new();
    let mut used = 0;
    for source in sources() {
        for (outside, instead) in OUTSIDE {
            if !source.code.contains(outside) {
                continue;
            }
            if source.module == "runtime" {
                used += 1;
                continue;
            }
            let excused = ALLOWED.iter().any(|(file, what, _)| *file == source.file && what == outside);
            if !excused {
                wrong.push(format!("{}: {outside}; use {instead}", source.file));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(used > 3, "the runtime's own uses weren't found");
}

#[test]
fn each_exception_is_still_needed() {
    for (file, what, why) in ALLOWED {
        let needed = sources().iter().any(|source| source.file == *file && source.code.contains(what));
        assert!(needed, "{file} no longer uses {what} ({why})");
    }
}

#[test]
fn groups_and_comments_are_understood() {
    assert_eq!(imports("use crate::{map, peer::{A, B}, runtime};"), ["map", "peer", "runtime"]);
    assert_eq!(imports("use crate::store::X; crate::cache::y()"), ["store", "cache"]);
    assert_eq!(imports("use larder_crate::store;"), Vec::<String>::new());
    assert_eq!(without_comment("a // crate::fuse"), "a ");
}
