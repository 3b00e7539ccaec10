//! Connections that nobody vouches for: when all places are taken, who has been there longest goes.
//!
//! Those that do what they came for take milliseconds; the one that has been there longest does nothing. If newcomers
//! waited instead, a few idle clients would hold everybody out.

use std::collections::VecDeque;

use tokio::task::{AbortHandle, JoinSet};

/// So many at a time. Dropped, it ends them all.
#[derive(Debug)]
pub struct Crowd {
    places: usize,
    longest_first: VecDeque<AbortHandle>,
    tasks: JoinSet<()>,
}

impl Crowd {
    /// At most `places` at a time; not zero.
    pub fn new(places: usize) -> Self {
        Self { places, longest_first: VecDeque::new(), tasks: JoinSet::new() }
    }

    /// Begins to serve a newcomer; whether another had to go for it.
    pub fn admit(&mut self, serve: impl Future<Output = ()> + Send + 'static) -> bool {
        while self.tasks.try_join_next().is_some() {}
        self.longest_first.retain(|task| !task.is_finished());
        let crowded = self.longest_first.len() >= self.places;
        if crowded && let Some(longest) = self.longest_first.pop_front() {
            longest.abort();
        }
        self.longest_first.push_back(self.tasks.spawn(serve));
        crowded
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::mpsc;
    use tokio::time::timeout;

    use super::*;

    /// Something that is served until told to end; says its number when it is over, however that comes about.
    struct Visit(u32, mpsc::UnboundedSender<u32>);

    impl Drop for Visit {
        fn drop(&mut self) {
            let _nobody_asks_any_more = self.1.send(self.0);
        }
    }

    #[tokio::test]
    async fn who_has_been_there_longest_goes_and_who_is_done_leaves_room() {
        let (over, mut gone) = mpsc::unbounded_channel();
        let mut crowd = Crowd::new(3);
        let idle = |number| {
            let visit = Visit(number, over.clone());
            async move {
                std::future::pending::<()>().await;
                drop(visit);
            }
        };
        let done = Visit(9, over.clone());
        assert!(!crowd.admit(idle(0)));
        assert!(!crowd.admit(async move { drop(done) }));
        assert!(!crowd.admit(idle(1)));
        assert_eq!(timeout(Duration::from_secs(10), gone.recv()).await, Ok(Some(9)));
        tokio::task::yield_now().await;
        assert!(!crowd.admit(idle(2)), "who is done takes no place");
        for longest in 0..50 {
            assert!(crowd.admit(idle(longest + 3)));
            assert_eq!(timeout(Duration::from_secs(10), gone.recv()).await, Ok(Some(longest)));
        }
        drop(crowd);
        let mut left = [gone.recv().await, gone.recv().await, gone.recv().await];
        left.sort_unstable();
        assert_eq!(left, [Some(50), Some(51), Some(52)]);
    }
}
