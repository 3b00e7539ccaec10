//! What docs/ say of the code is there: the tests of FAULTS.md, the metrics and reasons of OPERATIONS.md, named files.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a member of the workspace").to_owned()
}

fn text(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// What stands between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.lines().flat_map(|line| line.split('`').skip(1).step_by(2))
}

/// The names of a source's tests: functions below a `#[test]` or `#[tokio::test]`, other attributes in between.
fn tests_of(source: &str) -> BTreeSet<&str> {
    let mut names = BTreeSet::new();
    let mut is_test = false;
    for line in source.lines().map(str::trim) {
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            is_test = true;
        } else if let Some(rest) = line.strip_prefix("fn ").or(line.strip_prefix("async fn "))
            && std::mem::take(&mut is_test)
        {
            names.extend(rest.split('(').next());
        }
    }
    names
}

/// What is wrong with a table of faults: the numbers of its rows, and tests that don't exist.
fn mistakes(table: &str, source_of: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let mut mistakes = Vec::new();
    let rows: Vec<&str> = table.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
    for (number, row) in (1..).zip(&rows) {
        let cells: Vec<&str> = row.split(" | ").collect();
        let proof = cells.last().copied().unwrap_or_default();
        let named: Vec<(&str, &str)> = quoted(proof).filter_map(|name| name.split_once("::")).collect();
        if cells.len() != 4 || cells[0] != format!("| {number}") {
            mistakes.push(format!("row {number} isn't number, fault, promise, proof: {row}"));
        }
        if named.is_empty() && !proof.contains("*open") {
            mistakes.push(format!("row {number} has neither a test nor *open*"));
        }
        for (file, test) in named {
            let source = source_of(file);
            if !source.is_some_and(|source| tests_of(&source).contains(test)) {
                mistakes.push(format!("row {number}: no test {file}::{test}"));
            }
        }
    }
    if rows.len() != 26 {
        mistakes.push(format!("{} rows, not 26", rows.len()));
    }
    mistakes
}

#[test]
fn every_test_that_the_table_of_faults_names_exists() {
    let found = mistakes(&text("docs/FAULTS.md"), |file| std::fs::read_to_string(root().join(file)).ok());
    assert!(found.is_empty(), "docs/FAULTS.md: {found:#?}");
}

#[test]
fn a_test_that_is_gone_or_no_test_is_a_mistake() {
    let source = "#[tokio::test(start_paused = true)]\nasync fn there() {}\nfn helper() {}\n";
    let table = "| # | a | b | c |\n|--:|---|---|---|\n| 1 | x | y | `f.rs::there` |\n| 2 | x | y | `f.rs::gone` |\n\
                 | 3 | x | y | `f.rs::helper` |\n| 4 | x | y | nothing |\n| 5 | x | y | *open*: z |\n";
    let found = mistakes(table, |file| (file == "f.rs").then(|| source.to_owned()));
    let wanted = ["row 2: no test f.rs::gone", "row 3: no test f.rs::helper", "row 4 has neither", "5 rows, not 26"];
    assert_eq!(found.len(), wanted.len(), "{found:?}");
    assert!(found.iter().zip(wanted).all(|(found, wanted)| found.starts_with(wanted)), "{found:?}");
}

/// The rows `name, labels, meaning` of the agent's table of metrics, as the document shows them.
fn metric_rows(source: &str) -> BTreeSet<String> {
    let mut rows = BTreeSet::new();
    let mut help = Vec::new();
    for line in source.lines().map(str::trim) {
        let parts: Vec<&str> = line.split('"').collect();
        let kind = parts[0].split_whitespace().nth(1);
        if let Some(text) = line.strip_prefix("/// ") {
            help.push(text);
        } else if let (Some(kind @ ("Counter" | "Gauge")), true) = (kind, line.ends_with("];")) {
            let labels: Vec<&str> = parts.iter().skip(3).step_by(2).copied().collect();
            let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(", ")) };
            let total = if kind == "Counter" { "_total" } else { "" };
            rows.insert(format!("| `larder_{}{total}{labels}` | {} |", parts[1], help.join(" ")));
            help.clear();
        } else {
            help.clear();
        }
    }
    rows
}

#[test]
fn operations_list_every_metric_as_the_agent_has_it() {
    let rows = metric_rows(&text("agent/src/metrics.rs"));
    assert!(rows.len() > 40, "the table of metrics was not understood: {rows:#?}");
    let document = text("docs/OPERATIONS.md");
    let shown: BTreeSet<String> =
        document.lines().filter(|line| line.starts_with("| `larder_")).map(str::to_owned).collect();
    let missing: Vec<&String> = rows.difference(&shown).collect();
    let stale: Vec<&String> = shown.difference(&rows).collect();
    assert!(missing.is_empty() && stale.is_empty(), "docs/OPERATIONS.md lacks {missing:#?} and must lose {stale:#?}");
}

#[test]
fn operations_explain_every_reason_that_a_status_can_have() {
    let document = text("docs/OPERATIONS.md");
    let explained: BTreeSet<&str> = quoted(&document).collect();
    let status = text("operator/src/status.rs");
    let code = status.split("#[cfg(test)]").next().unwrap_or_default();
    let words = |before: &str| -> BTreeSet<&str> {
        let after = code.split(before).skip(1);
        after.map(|rest| rest.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default()).collect()
    };
    let reasons: BTreeSet<&str> =
        ["Reason::", "add(\"", "\n                        \""].into_iter().flat_map(words).collect();
    let reasons: BTreeSet<&str> =
        reasons.into_iter().filter(|word| word.starts_with(|c: char| c.is_ascii_uppercase())).collect();
    assert!(reasons.len() >= 15, "the reasons were not found: {reasons:?}");
    let missing: Vec<&&str> = reasons.difference(&explained).collect();
    assert!(missing.is_empty(), "docs/OPERATIONS.md doesn't explain {missing:?}");
}

/// Files that a document names from the repository's root.
fn files_named(document: &str) -> BTreeSet<&str> {
    let is_ours =
        |word: &&str| ["agent/", "crds/", "operator/", "proto/", "tests/"].iter().any(|dir| word.starts_with(dir));
    let words = quoted(document).map(|word| word.split("::").next().unwrap_or(word));
    words.filter(is_ours).filter(|word| !word.contains(['*', ' ', '<'])).collect()
}

#[test]
fn files_that_the_documents_name_exist() {
    for document in ["ARCHITECTURE.md", "FAULTS.md", "OPERATIONS.md", "SECURITY.md", "SEMANTICS.md"] {
        let text = text(&format!("docs/{document}"));
        let missing: Vec<&str> = files_named(&text).into_iter().filter(|file| !root().join(file).exists()).collect();
        assert!(missing.is_empty(), "docs/{document} names {missing:?}");
    }
}
