//! What strikes. Each says in the trace what it did; what can't be done now is said too, and does nothing.

use std::time::Duration;

use larder_proto::map::NodeState;

use super::levels::Kind;
use super::{Ending, Storm};

/// How far clocks jump.
const HOUR_MS: i64 = 3_600_000;

impl Storm {
    /// One thing that goes wrong, or right again.
    pub(super) async fn strike(&mut self) {
        let (kind, node) = (self.levels.strike(&self.rng), self.draw(self.world.count()));
        let is_alive = self.world.is_alive(node);
        let said = match kind {
            Kind::Kill if is_alive && self.alive().len() > 2 => self.kill(node).await,
            Kind::Begin if !is_alive => self.begin(node).await,
            Kind::Part => self.part(node),
            Kind::Cut => self.cut(node),
            Kind::Flap => self.flap(node).await,
            Kind::Swizzle => self.swizzle().await,
            Kind::Lose => {
                let per_mille = self.rng.below(200);
                self.world.lose(node, per_mille);
                format!("loses {per_mille} words of 1,000")
            }
            Kind::Slow => {
                let by = Duration::from_millis(self.rng.below(400));
                self.world.slow(node, by);
                self.faults += 1;
                format!("later by {by:?}")
            }
            Kind::Silence if is_alive && self.silenced.is_empty() => {
                let bytes = self.draw(300_000);
                self.world.stop_after(node, bytes);
                self.silenced.insert(node);
                self.faults += 1;
                format!("says {bytes} bytes more")
            }
            Kind::Drain if is_alive && self.drained.len() + 2 < self.alive().len() => {
                self.drained.insert(node);
                self.world.set_state(node, NodeState::Draining);
                "drains".to_owned()
            }
            Kind::Judge if !is_alive => {
                let state = [NodeState::Suspect, NodeState::Down][self.draw(2)];
                self.world.set_state(node, state);
                format!("{state}")
            }
            Kind::Jump => {
                let by_ms = [HOUR_MS, -HOUR_MS][self.draw(2)];
                self.world.jump(node, by_ms);
                self.faults += 1;
                format!("its clock jumps by {by_ms} ms")
            }
            Kind::Calm => {
                self.calm();
                "the net is well".to_owned()
            }
            Kind::Kill | Kind::Begin | Kind::Silence | Kind::Drain | Kind::Judge => format!("no {kind:?} now"),
        };
        self.note(&format!("n{}: {said}", node + 1));
    }

    async fn kill(&mut self, node: usize) -> String {
        let ending = [Ending::ProcessDies, Ending::PowerFails][self.draw(2)];
        self.world.kill(node, ending).await;
        self.silenced.remove(&node);
        self.faults += 1;
        format!("{ending:?}")
    }

    async fn begin(&mut self, node: usize) -> String {
        let is_empty = self.draw(3) == 0;
        if is_empty {
            self.world.lose_disk(node);
        }
        self.drained.remove(&node);
        self.world.start(node).await;
        format!("begins, empty: {is_empty}")
    }

    /// Another node than this one.
    fn other(&self, node: usize) -> usize {
        (node + 1 + self.draw(self.world.count() - 1)) % self.world.count()
    }

    fn part(&mut self, node: usize) -> String {
        let other = self.other(node);
        self.world.part(node, other);
        self.faults += 1;
        format!("parted from n{}", other + 1)
    }

    fn cut(&mut self, node: usize) -> String {
        let other = self.other(node);
        match self.draw(3) {
            0 => {
                self.world.cut(node, other);
                format!("isn't heard by n{}", other + 1)
            }
            1 => {
                self.world.cut(node, other);
                self.world.cut(other, node);
                format!("and n{} don't hear each other", other + 1)
            }
            _ => {
                self.world.isolate(node);
                "hears nobody and isn't heard".to_owned()
            }
        }
    }

    /// A cut that comes and goes while others read.
    async fn flap(&mut self, node: usize) -> String {
        let other = self.other(node);
        let times: Vec<(u64, u64)> =
            (0..2 + self.draw(5)).map(|_| (self.rng.below(1_500), self.rng.below(1_500))).collect();
        let reads = self.draw_reads();
        let flapping = async {
            for (down_ms, up_ms) in &times {
                self.world.cut(node, other);
                tokio::time::sleep(Duration::from_millis(*down_ms)).await;
                self.world.mend(node, other);
                tokio::time::sleep(Duration::from_millis(*up_ms)).await;
            }
        };
        let (verdicts, ()) = futures::join!(self.read_all(&reads), flapping);
        self.judge(&reads, &verdicts);
        format!("was heard by n{} in between {} times", other + 1, times.len())
    }

    /// Some nodes are cut off one after another, and come back in another order; reads go on between.
    async fn swizzle(&mut self) -> String {
        let mut order = self.shuffled();
        order.truncate(1 + self.draw(self.world.count()));
        for node in &order {
            self.world.isolate(*node);
            self.read().await;
        }
        let back: Vec<usize> = self.shuffled().into_iter().filter(|node| order.contains(node)).collect();
        for node in &back {
            self.world.rejoin(*node);
            self.read().await;
        }
        format!("{order:?} were cut off and came back as {back:?}")
    }

    /// All nodes in a drawn order.
    fn shuffled(&self) -> Vec<usize> {
        let mut all: Vec<usize> = (0..self.world.count()).collect();
        for last in (1..all.len()).rev() {
            all.swap(last, self.draw(last + 1));
        }
        all
    }
}
