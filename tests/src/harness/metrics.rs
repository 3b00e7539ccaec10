//! An agent's `/metrics`, parsed as far as scenarios need it.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// The samples of one scrape.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    samples: Vec<Sample>,
}

#[derive(Clone, Debug)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

impl Metrics {
    /// Reads OpenMetrics text.
    ///
    /// # Panics
    /// On a line that isn't OpenMetrics.
    pub fn parse(text: &str) -> Metrics {
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let sample = |line: &str| Sample::parse(line).unwrap_or_else(|| panic!("not a metric: {line}"));
        Metrics { samples: lines.map(sample).collect() }
    }

    /// The sum of all samples of `name` that have these labels. Gauges and counters only; 0 where there is none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        let has =
            |sample: &Sample| labels.iter().all(|(label, value)| sample.labels.get(*label).is_some_and(|v| v == value));
        let wanted = self.samples.iter().filter(|sample| sample.name == name && has(sample));
        wanted.map(|sample| sample.value as u64).sum()
    }
}

impl Sample {
    fn parse(line: &str) -> Option<Sample> {
        let (head, value) = line.rsplit_once(' ')?;
        let value = value.parse().ok()?;
        let Some((name, labels)) = head.split_once('{') else {
            return Some(Sample { name: head.to_owned(), labels: BTreeMap::new(), value });
        };
        let mut parsed = BTreeMap::new();
        for label in labels.strip_suffix('}')?.split_terminator("\",") {
            let (label, value) = label.split_once("=\"")?;
            parsed.insert(label.to_owned(), value.trim_end_matches('"').to_owned());
        }
        Some(Sample { name: name.to_owned(), labels: parsed, value })
    }
}

/// The body that `path` of an admin port answers with, or `None` when nobody answers with 200.
pub(super) fn fetch(port: u16, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
    stream.set_read_timeout(Some(ANSWER_WITHIN)).ok()?;
    stream.set_write_timeout(Some(ANSWER_WITHIN)).ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.starts_with("HTTP/1.1 200 ").then(|| body.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_add_up_by_name_and_labels() {
        let text =
            "# TYPE a counter\na_total{place=\"x\",kind=\"1\"} 3\na_total{place=\"y\",kind=\"1\"} 4\nb 7\n# EOF\n";
        let metrics = Metrics::parse(text);
        assert_eq!(metrics.sum("a_total", &[]), 7);
        assert_eq!(metrics.sum("a_total", &[("place", "y"), ("kind", "1")]), 4);
        assert_eq!(metrics.sum("b", &[]), 7);
        assert_eq!(metrics.sum("c", &[]), 0);
    }
}
