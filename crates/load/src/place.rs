//! Which global batch comes where: epochs, skipped steps, strides.

use crate::Loader;
use crate::assemble::Place;

impl Loader {
    /// Epoch and position of a step.
    pub(crate) fn at(&self, step: u64) -> (u64, u64) {
        let global = self.assembler.config.global_batch();
        match self.steps() {
            Some(steps) => (step / steps, step % steps * global),
            None => (0, step.saturating_mul(global)),
        }
    }

    /// The batch that comes from a position on: in the next epoch if this one has none, behind
    /// what is skipped.
    pub(crate) fn place(&self, epoch: u64, position: u64) -> Place {
        let global = self.assembler.config.global_batch();
        let (mut epoch, mut position) = (epoch, position);
        loop {
            let Some(steps) = self.steps() else {
                let step = position / global;
                match self.skipped_to(step) {
                    Some(end) => position = end * global,
                    None => return Place { step, epoch, position, left: u64::MAX - position },
                }
                continue;
            };
            let left = self.samples().saturating_sub(position);
            let wanted = if self.assembler.config.drop_last { global } else { 1 };
            if left < wanted {
                (epoch, position) = (epoch + 1, 0);
                continue;
            }
            let step = epoch * steps + position / global;
            match self.skipped_to(step) {
                Some(end) => (epoch, position) = self.at(end),
                None => return Place { step, epoch, position, left },
            }
        }
    }

    fn skipped_to(&self, step: u64) -> Option<u64> {
        self.state.skips.iter().find(|skip| (skip.0..skip.1).contains(&step)).map(|skip| skip.1)
    }

    /// Epoch and position after so many batches from `place` on.
    pub(crate) fn advance(&self, place: Place, stride: u64) -> (u64, u64) {
        let global = self.assembler.config.global_batch();
        let mut place = place;
        for taken in 1.. {
            let next = (place.epoch, place.position + global.min(place.left));
            if taken == stride {
                return next;
            }
            place = self.place(next.0, next.1);
        }
        (place.epoch, place.position)
    }

    pub(crate) fn after(&self, place: Place) -> Place {
        let (epoch, position) = self.advance(place, self.stride);
        self.place(epoch, position)
    }
}
