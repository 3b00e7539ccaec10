//! Which mount is which volume, on this node: in the words of the agents that asked for the mounts.
//!
//! An agent is believed about its own mounts. Two that offer the same volume contradict each other, and pods get neither's.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Every offer of the node. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Offers(Arc<Mutex<BTreeMap<PathBuf, String>>>);

/// Who offers a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Offered {
    /// No agent of this node.
    Nowhere,
    /// Mounted here.
    At(PathBuf),
    /// By more than one.
    Twice,
}

impl Offers {
    /// The mount at `at` is `volume` (`namespace/name`). There are no more offers than mounts, which are bounded.
    pub fn make(&self, at: &Path, volume: String) {
        self.lock().insert(at.to_owned(), volume);
    }

    /// It isn't any more.
    pub fn withdraw(&self, at: &Path) {
        self.lock().remove(at);
    }

    /// Where `volume` is mounted.
    pub fn find(&self, volume: &str) -> Offered {
        let offers = self.lock();
        let mut found = offers.iter().filter(|(_, offered)| *offered == volume).map(|(at, _)| at);
        match (found.next(), found.next()) {
            (None, _) => Offered::Nowhere,
            (Some(at), None) => Offered::At(at.clone()),
            (Some(_), Some(_)) => Offered::Twice,
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PathBuf, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_found_while_one_agent_offers_it() {
        let offers = Offers::default();
        let (one, two) = (Path::new("/run/larder/1/mnt/data"), Path::new("/run/larder/2/mnt/data"));
        assert_eq!(offers.find("team/data"), Offered::Nowhere);
        offers.make(one, "team/data".into());
        offers.make(two, "other/data".into());
        assert_eq!(offers.find("team/data"), Offered::At(one.to_owned()));
        offers.make(two, "team/data".into());
        assert_eq!(offers.find("team/data"), Offered::Twice);
        offers.withdraw(one);
        assert_eq!(offers.find("team/data"), Offered::At(two.to_owned()));
    }
}
