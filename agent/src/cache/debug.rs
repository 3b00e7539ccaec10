//! What `/debug/flights` shows.

use serde::Serialize;

use super::Inner;
use super::route::Hop;
use super::table::Stage;

/// A flight at a moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FlightStatus {
    /// The volume's id, in hex.
    pub volume: String,
    /// The object's key.
    pub key: String,
    /// Its version.
    pub version: String,
    /// The chunk's position in it.
    pub index: u32,
    /// Its length in bytes.
    pub len: u64,
    /// Bytes that can be read, from its start.
    pub landed: u64,
    /// `Flying`, `Landed`, or the kind it failed with.
    pub stage: &'static str,
    /// The place that is asked, or that gave the last byte: `store`, `have 2`, `fill 2`, `owners`, `origin`.
    pub place: Option<String>,
    /// Readers of this node that wait for it.
    pub readers: usize,
    /// Whether a reader or a peer has had bytes of it.
    pub used: bool,
    /// Rounds in which no place answered.
    pub failed_rounds: u32,
}

pub(super) fn list(inner: &Inner) -> Vec<FlightStatus> {
    let flights = inner.flights.list();
    flights
        .iter()
        .map(|flight| {
            let progress = *flight.progress.borrow();
            let (chunk, object) = (flight.chunk(), flight.chunk().object());
            FlightStatus {
                volume: object.volume().to_string(),
                key: object.key().to_string(),
                version: object.version().as_str().to_owned(),
                index: chunk.index().0,
                len: u64::from(chunk.len()),
                landed: progress.landed,
                stage: match progress.stage {
                    Stage::Flying => "Flying",
                    Stage::Landed => "Landed",
                    Stage::Failed(kind) => kind.as_str(),
                },
                place: flight.asked().map(|hop| name(&hop)),
                readers: flight.readers(),
                used: flight.was_used(),
                failed_rounds: progress.failed_rounds,
            }
        })
        .collect()
}

fn name(hop: &Hop) -> String {
    match hop {
        Hop::Store => "store".to_owned(),
        Hop::Have(node) => format!("have {node}"),
        Hop::OwnersHave(_) => "owners".to_owned(),
        Hop::Fill(node) => format!("fill {node}"),
        Hop::Origin(_) => "origin".to_owned(),
    }
}
