//! Memory for names: one bound for the whole process, shared by every mount, every open directory and the home.
//!
//! Whoever holds names has a [`Share`] and says what it takes. Above the bound, whoever holds most gives up its oldest,
//! until the rest fits; numbers that the kernel refers to can't be given up at once, and have half of the room at most:
//! above that the kernel is asked to forget the oldest. Nobody calls [`NameRoom::settle`] under a lock of its own.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

/// What a known name takes in memory: itself, its version, and its place in the tables.
pub(super) const NAME_BYTES: usize = 256;

/// The part of the room that one listing may take; a larger one is paged.
const LISTING_PART: usize = 4;

/// Who can give up names.
pub(super) trait Holder: Send + Sync {
    /// What it could give up.
    fn held_bytes(&self) -> usize;

    /// Gives up its oldest names, `bytes` of them if it has so many.
    fn give_up(&self, bytes: usize);
}

/// The memory that names may take, in bytes.
pub struct NameRoom {
    bytes_max: usize,
    used: AtomicUsize,
    referred: AtomicUsize,
    holders: Mutex<Vec<Weak<dyn Holder>>>,
}

impl NameRoom {
    /// Room for `bytes_max` bytes of names.
    pub fn new(bytes_max: usize) -> Arc<Self> {
        let (used, referred) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(Self { bytes_max, used, referred, holders: Mutex::default() })
    }

    /// Bytes that names take now; above the bound only while somebody is about to give up some.
    pub fn used_bytes(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// The bound.
    pub fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// What one listing may take.
    pub(super) fn listing_bytes_max(&self) -> usize {
        self.bytes_max / LISTING_PART
    }

    pub(super) fn share(self: &Arc<Self>) -> Share {
        Share { room: self.clone(), bytes: 0 }
    }

    /// Is asked to give up names from now on, as long as it lives.
    pub(super) fn register(&self, holder: Weak<dyn Holder>) {
        let mut holders = self.holders.lock();
        holders.retain(|holder| holder.strong_count() > 0);
        holders.push(holder);
    }

    /// Brings what is held within the bound, as far as it can be given up. Whether it is.
    pub(super) fn settle(&self) -> bool {
        loop {
            let above = self.used_bytes().saturating_sub(self.bytes_max);
            if above == 0 {
                return true;
            }
            let holders: Vec<Arc<dyn Holder>> = self.holders.lock().iter().filter_map(Weak::upgrade).collect();
            let most = holders.iter().map(|holder| (holder.held_bytes(), holder)).max_by_key(|(held, _)| *held);
            match most {
                Some((held, holder)) if held > 0 => holder.give_up(above),
                Some(_) | None => return false,
            }
        }
    }

    /// A number that the kernel refers to was made, or was dropped.
    pub(super) fn count_number(&self, change: NumberChange) {
        match change {
            NumberChange::Made => self.referred.fetch_add(1, Ordering::Relaxed),
            NumberChange::Dropped => self.referred.fetch_sub(1, Ordering::Relaxed),
        };
    }

    /// How many of one mount's `own` numbers the kernel should forget: its part of those above half of the room.
    pub(super) fn numbers_above(&self, own: usize) -> usize {
        let (all, most) = (self.referred.load(Ordering::Relaxed), self.bytes_max / 2 / NAME_BYTES);
        let above = all.saturating_sub(most);
        (own * above).div_ceil(all.max(1)).min(own)
    }
}

/// What became of a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NumberChange {
    /// It is new.
    Made,
    /// Nobody refers to it any more.
    Dropped,
}

/// What one holder takes of the room; given back on drop.
pub(super) struct Share {
    room: Arc<NameRoom>,
    bytes: usize,
}

impl Share {
    pub(super) fn room(&self) -> &Arc<NameRoom> {
        &self.room
    }

    /// It takes so much now.
    pub(super) fn set(&mut self, bytes: usize) {
        if bytes > self.bytes {
            self.room.used.fetch_add(bytes - self.bytes, Ordering::Relaxed);
        } else {
            self.room.used.fetch_sub(self.bytes - bytes, Ordering::Relaxed);
        }
        self.bytes = bytes;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Pile(Mutex<Share>);

    impl Pile {
        fn of(room: &Arc<NameRoom>, bytes: usize) -> Arc<Self> {
            let mut share = room.share();
            share.set(bytes);
            let pile = Arc::new(Self(Mutex::new(share)));
            let weak: Weak<Self> = Arc::downgrade(&pile);
            room.register(weak);
            pile
        }
    }

    impl Holder for Pile {
        fn held_bytes(&self) -> usize {
            self.0.lock().bytes
        }

        fn give_up(&self, bytes: usize) {
            let mut share = self.0.lock();
            let left = share.bytes.saturating_sub(bytes);
            share.set(left);
        }
    }

    #[test]
    fn whoever_holds_most_gives_up_until_all_together_fit() {
        let room = NameRoom::new(100);
        let (small, large) = (Pile::of(&room, 30), Pile::of(&room, 70));
        assert!(room.settle());
        let third = Pile::of(&room, 25);
        assert!(room.settle());
        assert_eq!((small.held_bytes(), large.held_bytes(), third.held_bytes()), (30, 45, 25));
        drop(large);
        assert_eq!(room.used_bytes(), 55, "what a holder had is given back");
        let mut fixed = room.share();
        fixed.set(101);
        assert!(!room.settle(), "what nobody can give up stays");
        assert_eq!(small.held_bytes() + third.held_bytes(), 0);
    }

    #[test]
    fn numbers_have_half_of_the_room_shared_out_over_the_mounts() {
        let room = NameRoom::new(2 * 100 * NAME_BYTES);
        (0..100).for_each(|_| room.count_number(NumberChange::Made));
        assert_eq!(room.numbers_above(100), 0);
        (0..20).for_each(|_| room.count_number(NumberChange::Made));
        assert_eq!((room.numbers_above(90), room.numbers_above(30)), (15, 5));
        (0..20).for_each(|_| room.count_number(NumberChange::Dropped));
        assert_eq!(room.numbers_above(30), 0);
    }
}
