//! On which line of a YAML document a field stands.
//!
//! serde_yaml reads the values; it doesn't say where they stood. This reads the same text's events once more and
//! remembers the line of each path, nothing else.

use std::collections::BTreeMap;

use saphyr_parser::{Event, Parser};

/// The lines of one document's fields.
#[derive(Clone, Debug, Default)]
pub struct Lines {
    first: usize,
    of_path: BTreeMap<String, usize>,
}

impl Lines {
    /// The line of `path`, or of the nearest part that contains it (a missing field stands where its parent does).
    pub fn of(&self, path: &str) -> usize {
        let mut path = path;
        loop {
            if let Some(line) = self.of_path.get(path) {
                return *line;
            }
            match path.rfind(['.', '[']) {
                Some(end) => path = &path[..end],
                None => return self.first,
            }
        }
    }
}

/// What a container expects next.
enum Open {
    Map { path: String, key: Option<String> },
    List { path: String, next: usize },
}

/// The lines of every document in `text`, in order; documents after a syntax error are missing.
pub fn of_documents(text: &str) -> Vec<Lines> {
    let mut documents = Vec::new();
    let mut lines = Lines::default();
    let mut open: Vec<Open> = Vec::new();
    for event in Parser::new_from_str(text) {
        let Ok((event, span)) = event else { break };
        let line = span.start.line();
        match event {
            Event::DocumentStart(_) => lines = Lines { first: 0, of_path: BTreeMap::new() },
            Event::DocumentEnd => documents.push(std::mem::take(&mut lines)),
            Event::MappingStart(..) => {
                let path = place(&mut open, &mut lines, None, line);
                open.push(Open::Map { path, key: None });
            }
            Event::SequenceStart(..) => {
                let path = place(&mut open, &mut lines, None, line);
                open.push(Open::List { path, next: 0 });
            }
            Event::MappingEnd | Event::SequenceEnd => {
                open.pop();
            }
            Event::Scalar(text, ..) => {
                place(&mut open, &mut lines, Some(text.as_ref()), line);
            }
            Event::Alias(_) => {
                place(&mut open, &mut lines, None, line);
            }
            Event::Nothing | Event::StreamStart | Event::StreamEnd => {}
        }
    }
    documents
}

/// Enters one node: a key of the innermost map, its value, or an element. Returns the node's path.
fn place(open: &mut [Open], lines: &mut Lines, scalar: Option<&str>, line: usize) -> String {
    if lines.first == 0 {
        lines.first = line;
    }
    match open.last_mut() {
        None => String::new(),
        Some(Open::List { path, next }) => {
            let element = format!("{path}[{next}]");
            *next += 1;
            lines.of_path.insert(element.clone(), line);
            element
        }
        Some(Open::Map { path, key }) => match key.take() {
            Some(name) => join(path, &name),
            None => {
                let name = scalar.unwrap_or_default().to_owned();
                let field = join(path, &name);
                lines.of_path.insert(field.clone(), line);
                *key = Some(name);
                field
            }
        },
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_knows_its_line() {
        let text = "# note\na: 1\nb:\n  - c: x\n    d:\n      e: y\n  - c: z\n---\nf: {g: [1,\n 2]}\n";
        let documents = of_documents(text);
        let first = &documents[0];
        for (path, line) in
            [("a", 2), ("b", 3), ("b[0]", 4), ("b[0].d.e", 6), ("b[1].c", 7), ("b[1].missing", 7), ("missing", 2)]
        {
            assert_eq!(first.of(path), line, "{path}");
        }
        assert_eq!(documents[1].of("f.g[1]"), 10);
    }
}
