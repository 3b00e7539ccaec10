//! One figure: what it is, its rounds, and what comes of them.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::Serialize;

use super::Options;

/// One round: our value, and the limit measured right after it (none where the figure is absolute).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Round {
    pub value: f64,
    pub limit: Option<f64>,
}

impl Round {
    pub(super) fn against(value: f64, limit: f64) -> Round {
        Round { value, limit: Some(limit) }
    }

    pub(super) fn absolute(value: f64) -> Round {
        Round { value, limit: None }
    }

    fn ratio(self) -> f64 {
        self.limit.map_or(self.value, |limit| self.value / limit)
    }
}

/// What is measured.
#[derive(Clone, Debug)]
pub(super) struct Target {
    id: String,
    name: String,
    unit: &'static str,
    must: Option<f64>,
    aim: Option<f64>,
    lower_is_better: bool,
}

impl Target {
    /// A figure that shall be large. `id` is figure, dot, case.
    pub(super) fn high(id: &str, name: &str, unit: &'static str) -> Target {
        Target { id: id.to_owned(), name: name.to_owned(), unit, must: None, aim: None, lower_is_better: false }
    }

    /// A figure that shall be small.
    pub(super) fn low(id: &str, name: &str, unit: &'static str) -> Target {
        Target { lower_is_better: true, ..Target::high(id, name, unit) }
    }

    /// The ratio that it must reach.
    pub(super) fn must(mut self, ratio: f64) -> Target {
        self.must = Some(ratio);
        self
    }

    /// The ratio that it aims at.
    pub(super) fn aim(mut self, ratio: f64) -> Target {
        self.aim = Some(ratio);
        self
    }
}

/// A measured figure, as the JSON has it.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// Figure, dot, case.
    pub id: String,
    /// In words.
    pub name: String,
    /// Median of the rounds.
    pub value: f64,
    /// Of value and limit.
    pub unit: &'static str,
    /// Median of what it is held against; none where the figure is absolute.
    pub limit: Option<f64>,
    /// Median of the rounds' value / limit, or of the values where the figure is absolute.
    pub ratio: f64,
    /// The worst and the best round's ratio, in the order of the numbers.
    pub ratio_min: f64,
    /// See `ratio_min`.
    pub ratio_max: f64,
    /// What the ratio must reach; none: for information.
    pub must: Option<f64>,
    /// What it aims at.
    pub aim: Option<f64>,
    /// Whether small is good.
    pub lower_is_better: bool,
}

impl Figure {
    /// The table's first line.
    pub const HEADER: &str = "figure          what                                              value        limit unit      \
                              ratio (min-max)        must   aim";

    fn new(target: Target, rounds: &[Round]) -> Figure {
        let ratios: Vec<f64> = rounds.iter().map(|round| round.ratio()).collect();
        let limits: Vec<f64> = rounds.iter().filter_map(|round| round.limit).collect();
        let values: Vec<f64> = rounds.iter().map(|round| round.value).collect();
        Figure {
            id: target.id,
            name: target.name,
            value: median(&values),
            unit: target.unit,
            limit: (!limits.is_empty()).then(|| median(&limits)),
            ratio: median(&ratios),
            ratio_min: ratios.iter().copied().fold(f64::INFINITY, f64::min),
            ratio_max: ratios.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            must: target.must,
            aim: target.aim,
            lower_is_better: target.lower_is_better,
        }
    }

    /// Whether the ratio reaches `wanted`; none where nothing is wanted.
    pub(super) fn reaches(&self, wanted: Option<f64>) -> Option<bool> {
        // What is printed as equal is equal.
        let slack = 0.005;
        wanted.map(
            |wanted| if self.lower_is_better { self.ratio <= wanted + slack } else { self.ratio >= wanted - slack },
        )
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limit = self.limit.map_or_else(|| "-".to_owned(), number);
        let spread = format!("{:.2} ({:.2}-{:.2})", self.ratio, self.ratio_min, self.ratio_max);
        let mark = |wanted: Option<f64>| match (wanted, self.reaches(wanted)) {
            (Some(wanted), Some(reached)) => format!("{wanted}{}", if reached { " ok" } else { " NO" }),
            _ => "-".to_owned(),
        };
        write!(
            f,
            "{:15} {:45} {:>9} {limit:>12} {:9} {spread:22} {:8} {}",
            self.id,
            self.name,
            number(self.value),
            self.unit,
            mark(self.must),
            mark(self.aim),
        )
    }
}

/// Collects figures; the groups write into it.
pub(super) struct Recorder {
    options: Options,
    scratch: PathBuf,
    figures: Vec<Figure>,
}

impl Recorder {
    pub(super) fn new(options: Options, scratch: PathBuf) -> Recorder {
        Recorder { options, scratch, figures: Vec::new() }
    }

    /// A folder on the stores' file system.
    pub(super) fn scratch(&self) -> &Path {
        &self.scratch
    }

    pub(super) fn rounds(&self) -> usize {
        self.options.rounds
    }

    /// Whether a figure, or one of a family (`P1`), is asked for.
    pub(super) fn wants(&self, id: &str) -> bool {
        let only = &self.options.only;
        let family = |id: &str| id.split('.').next().unwrap_or_default().to_owned();
        only.is_empty() || only.iter().any(|wanted| id == wanted || family(id) == *wanted || family(wanted) == id)
    }

    /// Measures one figure, if it is asked for: `round` is given the number of the round.
    pub(super) fn measure(&mut self, target: Target, mut round: impl FnMut(usize) -> Result<Round>) -> Result<()> {
        if !self.wants(&target.id) {
            return Ok(());
        }
        let rounds = (0..self.options.rounds).map(&mut round).collect::<Result<Vec<_>>>()?;
        self.record(target, &rounds);
        Ok(())
    }

    /// Takes in rounds that were measured together with others.
    pub(super) fn record(&mut self, target: Target, rounds: &[Round]) {
        if self.wants(&target.id) && !rounds.is_empty() {
            let figure = Figure::new(target, rounds);
            println!("{figure}");
            self.figures.push(figure);
        }
    }

    pub(super) fn into_figures(self) -> Vec<Figure> {
        self.figures
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) }
}

fn number(value: f64) -> String {
    if value >= 1000.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorder(only: &[&str]) -> Recorder {
        let only = only.iter().map(|id| (*id).to_owned()).collect();
        Recorder::new(Options { only, rounds: 3 }, PathBuf::new())
    }

    #[test]
    fn the_ratio_is_the_median_of_the_rounds() {
        let rounds = [Round::against(8.0, 10.0), Round::against(1.0, 10.0), Round::against(9.0, 10.0)];
        let figure = Figure::new(Target::high("P1.x", "x", "MiB/s").must(0.8).aim(0.95), &rounds);
        assert_eq!((figure.value, figure.limit, figure.ratio), (8.0, Some(10.0), 0.8));
        assert_eq!((figure.reaches(figure.must), figure.reaches(figure.aim)), (Some(true), Some(false)));
    }

    #[test]
    fn an_absolute_figure_is_its_own_ratio() {
        let figure = Figure::new(Target::low("P6.x", "x", "GETs").must(1.0), &[Round::absolute(1.02)]);
        assert_eq!((figure.ratio, figure.limit, figure.reaches(figure.must)), (1.02, None, Some(false)));
    }

    #[test]
    fn a_family_and_a_case_can_be_asked_for() {
        let some = recorder(&["P1", "P4.rand-4k.4"]);
        assert!(some.wants("P1.seq-1m.1") && some.wants("P4") && some.wants("P4.rand-4k.4"));
        assert!(!some.wants("P4.seq-1m.1") && !some.wants("P14") && !some.wants("P2.rand-4k.1"));
        assert!(recorder(&[]).wants("P9"));
    }
}
