//! Retries an origin gets in all: a bucket that each request fills by a tenth of a retry. Sans-IO.
//!
//! So retries are at most 10 % of requests and a burst of [`BURST`]: an origin in trouble is never asked for more than
//! 1.1 times what it would be asked anyway.

/// Retries that may follow each other when nothing failed before.
pub const BURST: u32 = 10;

/// Parts of a token that one request brings; a retry costs [`TOKEN`].
const PER_REQUEST: u32 = 1;
const TOKEN: u32 = 10;

/// The bucket.
#[derive(Debug)]
pub struct Budget {
    parts: u32,
}

impl Budget {
    /// A full bucket.
    pub fn new() -> Self {
        Self { parts: BURST * TOKEN }
    }

    /// A first attempt was made.
    pub fn request(&mut self) {
        self.parts = (self.parts + PER_REQUEST).min(BURST * TOKEN);
    }

    /// Takes one retry, if there is one.
    pub fn retry(&mut self) -> bool {
        match self.parts.checked_sub(TOKEN) {
            Some(left) => {
                self.parts = left;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_stay_below_a_tenth_of_requests() {
        let mut budget = Budget::new();
        let mut retries = 0;
        for _ in 0..10_000 {
            budget.request();
            while budget.retry() {
                retries += 1;
            }
        }
        assert!((1_000..=1_000 + BURST).contains(&retries), "{retries}");
    }
}
