//! The life of a slot, and nothing else: FREE → READING → COPYING → FREE.
//!
//! A slot that a device still copies from is never read into, and every slot comes back.

use std::collections::VecDeque;

/// What a slot is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Free,
    Reading,
    Copying,
}

/// The slots of a ring.
#[derive(Debug)]
pub(crate) struct Slots {
    phases: Vec<Phase>,
    /// The last one that came back is used first: its memory is warm.
    free: Vec<usize>,
    /// In the order in which their copies were started, which is the order in which they end.
    copying: VecDeque<usize>,
}

impl Slots {
    pub(crate) fn new(count: usize) -> Self {
        let free = (0..count).rev().collect();
        Self { phases: vec![Phase::Free; count], free, copying: VecDeque::new() }
    }

    /// FREE → READING.
    pub(crate) fn read(&mut self) -> Option<usize> {
        let slot = self.free.pop()?;
        self.phases[slot] = Phase::Reading;
        Some(slot)
    }

    /// READING → COPYING: its bytes came and are on their way to the device.
    pub(crate) fn copy(&mut self, slot: usize) {
        assert_eq!(self.phases[slot], Phase::Reading, "a copy of a slot that was not read");
        self.phases[slot] = Phase::Copying;
        self.copying.push_back(slot);
    }

    /// READING → FREE: the read failed.
    pub(crate) fn give_up(&mut self, slot: usize) {
        assert_eq!(self.phases[slot], Phase::Reading, "a slot given up that was not read");
        self.phases[slot] = Phase::Free;
        self.free.push(slot);
    }

    /// The copy that ends next.
    pub(crate) fn oldest(&self) -> Option<usize> {
        self.copying.front().copied()
    }

    /// COPYING → FREE, of the oldest.
    pub(crate) fn retire(&mut self) -> Option<usize> {
        let slot = self.copying.pop_front()?;
        self.phases[slot] = Phase::Free;
        self.free.push(slot);
        Some(slot)
    }

    pub(crate) fn has_free(&self) -> bool {
        !self.free.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against a model that is a list of phases: reads end in any order, copies in theirs.
        #[test]
        fn a_slot_is_in_one_phase_and_comes_back(
            count in 1_usize..9,
            steps in proptest::collection::vec((0_u8..4, any::<prop::sample::Index>()), 0..200),
        ) {
            let mut slots = Slots::new(count);
            let mut model = vec![Phase::Free; count];
            let mut order = Vec::new();
            for (step, pick) in steps {
                let reading: Vec<usize> =
                    (0..count).filter(|&slot| model[slot] == Phase::Reading).collect();
                match step {
                    0 => match slots.read() {
                        Some(slot) => {
                            prop_assert_eq!(model[slot], Phase::Free, "a slot that is in use");
                            model[slot] = Phase::Reading;
                        }
                        None => prop_assert!(model.iter().all(|&phase| phase != Phase::Free)),
                    },
                    1 if !reading.is_empty() => {
                        let slot = reading[pick.index(reading.len())];
                        slots.copy(slot);
                        model[slot] = Phase::Copying;
                        order.push(slot);
                    }
                    2 if !reading.is_empty() => {
                        let slot = reading[pick.index(reading.len())];
                        slots.give_up(slot);
                        model[slot] = Phase::Free;
                    }
                    3 => {
                        prop_assert_eq!(slots.oldest(), order.first().copied());
                        if let Some(slot) = slots.retire() {
                            prop_assert_eq!(slot, order.remove(0));
                            model[slot] = Phase::Free;
                        }
                    }
                    _ => {}
                }
                prop_assert_eq!(&slots.phases, &model);
                let has_free = model.contains(&Phase::Free);
                prop_assert_eq!(slots.has_free(), has_free);
            }
        }
    }
}
