//! A promise without a test is a lie: each numbered paragraph of docs/SEMANTICS.md is quoted, word for word, on a test.

use std::path::Path;

/// The paragraphs `X1. ...`, each as one line.
fn paragraphs(text: &str) -> Vec<String> {
    let blocks = text.split("\n\n").map(|block| block.split_whitespace().collect::<Vec<_>>().join(" "));
    blocks.filter(|block| is_numbered(block)).collect()
}

fn is_numbered(block: &str) -> bool {
    let number = block.split(". ").next().unwrap_or_default();
    let (letter, digits) = number.split_at(number.len().min(1));
    letter.chars().all(|c| c.is_ascii_uppercase()) && !digits.is_empty() && digits.chars().all(|c| c.is_ascii_digit())
}

/// Runs of doc comments above a test, each as one line.
fn quotes(source: &str) -> Vec<String> {
    let mut quotes = Vec::new();
    let mut comment = Vec::new();
    for line in source.lines().map(str::trim) {
        match line.strip_prefix("///") {
            Some(text) => comment.extend(text.split_whitespace()),
            None if line == "#[test]" => quotes.push(std::mem::take(&mut comment).join(" ")),
            None => comment.clear(),
        }
    }
    quotes
}

#[test]
fn every_paragraph_of_semantics_is_quoted_on_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a member of the workspace");
    let text = std::fs::read_to_string(root.join("docs/SEMANTICS.md")).expect("docs/SEMANTICS.md");
    let paragraphs = paragraphs(&text);
    assert!(!paragraphs.is_empty(), "docs/SEMANTICS.md has no numbered paragraph");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let sources = std::fs::read_dir(folder).unwrap().map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap());
    let quotes: Vec<String> = sources.flat_map(|source| quotes(&source)).collect();
    let lies: Vec<&String> = paragraphs.iter().filter(|p| !quotes.iter().any(|quote| quote.contains(*p))).collect();
    assert!(lies.is_empty(), "no test quotes: {lies:#?}");
}

#[test]
fn a_changed_paragraph_is_not_a_quote() {
    let paragraphs = paragraphs("# Title\n\nR1. Two\nlines.\n\nNot numbered. R2.\n\nR12. More.");
    assert_eq!(paragraphs, ["R1. Two lines.", "R12. More."]);
    assert_eq!(quotes("/// R1. Two\n/// lines.\n#[test]\nfn x() {}\n/// R12. Mor.\nfn y() {}"), ["R1. Two lines."]);
}
