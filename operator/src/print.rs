//! Objects as `kubectl get` prints them: the columns are those of the schema, so both show the same.

use jiff::Timestamp;
use larder_crds::{ClusterConditionType, UpgradingReason};
use serde_json::Value;

mod path;

/// One `additionalPrinterColumns` entry.
struct Column {
    name: String,
    path: path::JsonPath,
    is_date: bool,
    wide_only: bool,
}

/// How wide the table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// The columns of priority 0.
    Normal,
    /// All columns (`-o wide`).
    Wide,
}

/// The table of `objects`, whose kind's CustomResourceDefinition is `crd`; `now` decides the ages.
pub fn table(crd: &Value, objects: &[Value], width: Width, now: Timestamp) -> String {
    let columns: Vec<Column> = columns(crd).into_iter().filter(|c| width == Width::Wide || !c.wide_only).collect();
    let mut rows =
        vec![std::iter::once("NAME".to_owned()).chain(columns.iter().map(|c| c.name.to_uppercase())).collect()];
    for object in objects {
        let name = text(object.pointer("/metadata/name"));
        rows.push(std::iter::once(name).chain(columns.iter().map(|column| cell(column, object, now))).collect());
    }
    layout(&rows)
}

/// Conditions that say that something isn't as it should be when they are True.
const BAD_WHEN_TRUE: [ClusterConditionType; 5] = [
    ClusterConditionType::Rebalancing,
    ClusterConditionType::Degraded,
    ClusterConditionType::Upgrading,
    ClusterConditionType::Paused,
    ClusterConditionType::Stalled,
];

/// One line per condition that isn't as it should be, and per problem of a node.
pub fn problems(objects: &[Value]) -> Vec<String> {
    let mut lines = Vec::new();
    for object in objects {
        let whose = format!("{} {}", text(object.get("kind")), text(object.pointer("/metadata/name")));
        let list = |pointer: &str| object.pointer(pointer).and_then(Value::as_array).into_iter().flatten();
        let is_wrong = |condition: &&Value| {
            let is_bad = BAD_WHEN_TRUE.iter().any(|bad| text(condition.get("type")) == bad.as_str());
            let is_paused = text(condition.get("reason")) == UpgradingReason::RolloutPaused.as_str();
            is_paused || (text(condition.get("status")) == "True") == is_bad
        };
        for condition in list("/status/conditions").filter(is_wrong) {
            let part = |name: &str| text(condition.get(name));
            lines.push(format!("{whose}: {}={} {}: {}", part("type"), part("status"), part("reason"), part("message")));
        }
        for problem in list("/status/problems") {
            let part = |name: &str| text(problem.get(name));
            lines.push(format!("{whose}: node {}: {}: {}", part("node"), part("reason"), part("message")));
        }
    }
    lines
}

fn columns(crd: &Value) -> Vec<Column> {
    let listed = crd.pointer("/spec/versions/0/additionalPrinterColumns").and_then(Value::as_array);
    let column = |entry: &Value| {
        let path = path::JsonPath::parse(entry.get("jsonPath")?.as_str()?)?;
        let priority = entry.get("priority").and_then(Value::as_i64).unwrap_or(0);
        let is_date = entry.get("type").and_then(Value::as_str) == Some("date");
        Some(Column { name: entry.get("name")?.as_str()?.to_owned(), path, is_date, wide_only: priority > 0 })
    };
    listed.into_iter().flatten().filter_map(column).collect()
}

fn cell(column: &Column, object: &Value, now: Timestamp) -> String {
    let value = column.path.find(object);
    if column.is_date {
        let since = value.and_then(Value::as_str).and_then(|text| text.parse::<Timestamp>().ok());
        return since.map_or_else(|| "<unknown>".into(), |since| age(now.as_second() - since.as_second()));
    }
    text(value)
}

fn text(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

/// An age as kubectl writes it: two units below ten of the larger one, else one.
fn age(seconds: i64) -> String {
    let seconds = seconds.max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 if seconds % 60 > 0 => format!("{minutes}m{}s", seconds % 60),
        120..10_800 => format!("{minutes}m"),
        10_800..28_800 if minutes % 60 > 0 => format!("{hours}h{}m", minutes % 60),
        10_800..172_800 => format!("{hours}h"),
        172_800..691_200 if hours % 24 > 0 => format!("{days}d{}h", hours % 24),
        _ => format!("{days}d"),
    }
}

/// Columns padded to their longest cell, three spaces apart.
fn layout(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        cells.join("   ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_table_reads_like_kubectls() {
        let crd = json!({"spec": {"versions": [{"additionalPrinterColumns": [
            {"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status"},
            {"name": "Epoch", "type": "integer", "jsonPath": ".status.epoch", "priority": 1},
            {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
        ]}]}});
        let object = json!({
            "metadata": {"name": "fast", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "status": {"epoch": 7, "conditions": [{"type": "Degraded", "status": "x"}, {"type": "Ready", "status": "True"}]},
        });
        let now = "2026-01-01T00:05:03Z".parse().expect("a time");
        let objects = [object, json!({"metadata": {"name": "a-longer-name"}})];
        let normal = "NAME            READY   AGE\nfast            True    5m3s\na-longer-name           <unknown>";
        assert_eq!(table(&crd, &objects, Width::Normal, now), normal);
        assert!(table(&crd, &objects, Width::Wide, now).starts_with("NAME            READY   EPOCH   AGE\n"));
    }

    #[test]
    fn ages_are_kubectls() {
        for (seconds, text) in
            [(-5, "0s"), (119, "119s"), (120, "2m"), (125, "2m5s"), (605, "10m"), (10_860, "3h1m"), (200_000, "2d7h")]
        {
            assert_eq!(age(seconds), text);
        }
    }
}
