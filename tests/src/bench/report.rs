//! All figures of a run: as JSON for machines, and in one line.

use std::fmt;
use std::path::Path;

use anyhow::{Context, Result};

use super::Figure;

/// The figures of a run.
#[derive(Clone, Debug)]
pub struct Report {
    figures: Vec<Figure>,
}

impl Report {
    pub(super) fn new(figures: Vec<Figure>) -> Report {
        Report { figures }
    }

    /// Writes the figures as a list of JSON objects.
    pub fn write(&self, file: &Path) -> Result<()> {
        let write = || {
            std::fs::create_dir_all(file.parent().unwrap_or(Path::new(".")))?;
            std::fs::write(file, serde_json::to_vec_pretty(&self.figures)?)?;
            anyhow::Ok(())
        };
        write().with_context(|| format!("writing {}", file.display()))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let must = self.figures.iter().filter_map(|figure| figure.reaches(figure.must));
        let (reached, gated) = must.fold((0, 0), |(reached, all), ok| (reached + usize::from(ok), all + 1));
        let aims = self.figures.iter().filter_map(|figure| figure.reaches(figure.aim));
        let (aimed, with_aim) = aims.fold((0, 0), |(reached, all), ok| (reached + usize::from(ok), all + 1));
        write!(f, "bench: {} figures, must {reached} of {gated}, aim {aimed} of {with_aim}", self.figures.len())
    }
}
