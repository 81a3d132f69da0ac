//! Lanes: slices of time that overlap are drawn side by side. Knows numbers only.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Numbers of a track's lanes, the lowest free one first.
#[derive(Debug, Default)]
pub struct Lanes {
    free: BinaryHeap<Reverse<u32>>,
    next: u32,
}

impl Lanes {
    /// Takes a lane.
    pub fn take(&mut self) -> u32 {
        self.free.pop().map_or_else(
            || {
                self.next += 1;
                self.next - 1
            },
            |Reverse(lane)| lane,
        )
    }

    /// Gives one back.
    pub fn give(&mut self, lane: u32) {
        self.free.push(Reverse(lane));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_free_lane_is_taken() {
        let mut lanes = Lanes::default();
        assert_eq!([lanes.take(), lanes.take(), lanes.take()], [0, 1, 2]);
        lanes.give(2);
        lanes.give(0);
        assert_eq!([lanes.take(), lanes.take(), lanes.take()], [0, 2, 3]);
    }
}
