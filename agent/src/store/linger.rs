//! Files that were unlinked while somebody may have them mapped: their bytes are used until the disk has them back.
//!
//! Nobody says when a mapping ends; only the free bytes of the file system tell. They are compared with what they were
//! at the unlink, less what the store wrote since and plus what it freed. Others who write to the same disk make the
//! store believe for longer that the bytes are used: that errs to the safe side, but not for ever: at intervals what the
//! disk says becomes what later is compared with.

/// Bytes that come and go on a disk while a file is unlinked: what is missing of less than a quarter is noise.
const NOISE_PART: u64 = 4;

/// What the disk and the store counted at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Moment {
    /// The file system's free bytes.
    pub free_bytes: u64,
    /// Bytes that the store has written so far.
    pub written_bytes: u64,
    /// Bytes that the store has freed so far, lingering ones apart.
    pub freed_bytes: u64,
}

impl Moment {
    /// Grows only when somebody else's bytes become free.
    fn level(self) -> i128 {
        i128::from(self.free_bytes) + i128::from(self.written_bytes) - i128::from(self.freed_bytes)
    }
}

/// Whether it is time for [`Linger::rebase`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rebase {
    Now,
    Later,
}

#[derive(Debug, Default)]
pub(super) struct Linger {
    held_bytes: u64,
    level: i128,
}

impl Linger {
    /// A file of so many bytes was unlinked between two moments.
    pub fn unlinked(&mut self, bytes: u64, before: Moment, after: Moment) {
        let held_before = self.held_at(before);
        let returned = u64::try_from((after.level() - before.level()).max(0)).unwrap_or(u64::MAX);
        let missing = bytes.saturating_sub(returned);
        let missing = if missing < bytes.div_ceil(NOISE_PART) { 0 } else { missing };
        (self.held_bytes, self.level) = (held_before + missing, after.level());
    }

    /// Bytes that the disk doesn't have back yet.
    pub fn held_at(&mut self, now: Moment) -> u64 {
        let returned = u64::try_from((now.level() - self.level).max(0)).unwrap_or(u64::MAX);
        let held = self.held_bytes.saturating_sub(returned);
        if held < self.held_bytes.div_ceil(2 * NOISE_PART) {
            self.held_bytes = 0;
            return 0;
        }
        held
    }

    /// What others wrote or freed until now no longer counts: what comes back from here on is believed.
    pub fn rebase(&mut self, now: Moment) {
        (self.held_bytes, self.level) = (self.held_at(now), now.level());
    }

    pub fn is_empty(&self) -> bool {
        self.held_bytes == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(free_bytes: u64, written_bytes: u64, freed_bytes: u64) -> Moment {
        Moment { free_bytes, written_bytes, freed_bytes }
    }

    #[test]
    fn bytes_are_used_until_the_disk_has_them_back() {
        let mut linger = Linger::default();
        linger.unlinked(1000, moment(5000, 0, 0), moment(6000, 0, 0));
        assert!(linger.is_empty(), "nobody had it");
        linger.unlinked(1000, moment(6000, 0, 0), moment(6000, 0, 0));
        assert_eq!(linger.held_at(moment(6000, 0, 0)), 1000);
        assert_eq!(linger.held_at(moment(5500, 500, 0)), 1000, "what we write is ours");
        assert_eq!(linger.held_at(moment(5900, 500, 400)), 1000, "and what we free");
        linger.unlinked(2000, moment(5900, 500, 400), moment(5900, 500, 400));
        assert_eq!(linger.held_at(moment(6900, 500, 400)), 2000, "one of two");
        assert_eq!(linger.held_at(moment(8900, 500, 400)), 0);
        assert!(linger.is_empty());
    }

    #[test]
    fn what_others_write_holds_them_up_for_an_interval_only() {
        let mut linger = Linger::default();
        linger.unlinked(1000, moment(50_000, 0, 0), moment(50_000, 0, 0));
        assert_eq!(linger.held_at(moment(10_000, 0, 0)), 1000, "somebody else has written 40,000");
        linger.rebase(moment(10_000, 0, 0));
        assert_eq!(linger.held_at(moment(10_000, 0, 0)), 1000);
        linger.rebase(moment(10_400, 0, 0));
        assert_eq!(linger.held_at(moment(10_400, 0, 0)), 600, "what has come back stays so");
        assert_eq!(linger.held_at(moment(11_000, 0, 0)), 0, "it ends, though the disk is fuller than it was");
        assert!(linger.is_empty());
    }
}
