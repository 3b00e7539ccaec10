//! How bad a storm is: drawn for each seed, so that some seeds have many faults of one kind and none of another.

use crate::runtime::sim::SimRng;

/// What may happen between two reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A node's process or power ends.
    Kill,
    /// A node that ended begins again, perhaps with an empty disk.
    Begin,
    /// The streams between two nodes break, and they can't reach each other.
    Part,
    /// Words don't arrive and nobody is told: in one direction or both.
    Cut,
    /// The same, again and again, while reads go on.
    Flap,
    /// Nodes are cut off one after another, and come back in another order.
    Swizzle,
    /// Some of a node's words are lost at first, or break their connection once they are heard.
    Lose,
    /// A node's words come late.
    Slow,
    /// A node stops in the middle of a word.
    Silence,
    /// A node leaves.
    Drain,
    /// The authority finds out that a node is dead.
    Judge,
    /// A node's clock jumps by an hour.
    Jump,
    /// The net is well again.
    Calm,
}

const KINDS: [Kind; 13] = [
    Kind::Kill,
    Kind::Begin,
    Kind::Part,
    Kind::Cut,
    Kind::Flap,
    Kind::Swizzle,
    Kind::Lose,
    Kind::Slow,
    Kind::Silence,
    Kind::Drain,
    Kind::Judge,
    Kind::Jump,
    Kind::Calm,
];

/// One storm's.
#[derive(Debug)]
pub struct Levels {
    /// Nodes that there may be; three run when it begins.
    pub nodes: u32,
    /// Strikes, each followed by reads.
    pub rounds: u64,
    /// Reads at a time.
    pub readers: u64,
    /// Objects.
    pub objects: usize,
    /// The origin's latency.
    pub origin_ms: u64,
    /// The longest pause between two rounds.
    pub pause_ms: u64,
    /// Each kind as often as it is drawn.
    strikes: Vec<Kind>,
}

impl Levels {
    pub fn draw(rng: &SimRng) -> Self {
        let mut strikes = Vec::new();
        for kind in KINDS {
            let least = match kind {
                // A storm that kills nobody and never calms down shows little.
                Kind::Kill | Kind::Begin | Kind::Calm => 1,
                _ => 0,
            };
            strikes.extend((0..least + rng.below(4)).map(|_| kind));
        }
        Self {
            nodes: 3 + u32::try_from(rng.below(4)).expect("small"),
            rounds: 8 + rng.below(13),
            readers: 1 + rng.below(4),
            objects: 8 + usize::try_from(rng.below(17)).expect("small"),
            origin_ms: 1 + rng.below(20),
            pause_ms: 500 + rng.below(5_000),
            strikes,
        }
    }

    pub fn strike(&self, rng: &SimRng) -> Kind {
        let drawn = usize::try_from(rng.below(self.strikes.len() as u64)).expect("small");
        self.strikes[drawn]
    }
}
