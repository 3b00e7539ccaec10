//! Colours for people: what is well is green, what isn't is red. Only words that stand alone are coloured.

const GREEN: &str = "\x1b[32m";
const RED: &str = "\x1b[31m";
const PLAIN: &str = "\x1b[0m";

/// Words that say that something is well.
const WELL: [&str; 3] = ["True", "Serving", "Reachable"];

/// Words that say that it isn't.
const ILL: [&str; 9] = [
    "False",
    "Suspect",
    "Gone",
    "WaitingForNodes",
    "BelowMinNodes",
    "SlotsLost",
    "Invalid",
    "Deleting",
    "StoreConflict",
];

/// `text` with its words in colours; tables stay aligned, since nothing visible is added.
pub(super) fn words(text: &str) -> String {
    let colour = |word: &str| {
        let found = if WELL.contains(&word) { Some(GREEN) } else { ILL.contains(&word).then_some(RED) };
        found.map_or_else(|| word.to_owned(), |colour| format!("{colour}{word}{PLAIN}"))
    };
    text.split_inclusive([' ', '\n'])
        .map(|piece| {
            let word = piece.trim_end_matches([' ', '\n']);
            colour(word) + &piece[word.len()..]
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_coloured_and_nothing_else_changes() {
        let text = "fast  True  Serving  3/3\nslow  False\n";
        let coloured = words(text);
        assert!(coloured.contains("\x1b[32mTrue\x1b[0m") && coloured.contains("\x1b[31mFalse\x1b[0m"), "{coloured:?}");
        let plain = coloured.replace(GREEN, "").replace(RED, "").replace(PLAIN, "");
        assert_eq!(plain, text);
        assert_eq!(words("NotTrue"), "NotTrue");
    }
}
