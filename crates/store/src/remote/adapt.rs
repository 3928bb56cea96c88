//! How many requests to have in flight: as many as still bring more. A pure controller.
//!
//! Fixed depths are wrong both ways: too few starve a wide endpoint, too many lengthen every
//! answer. So now and then it tries half as many more, and keeps them if they bring more; or a
//! third fewer, and keeps that if nothing is lost. When the endpoint says "slow down", it halves.

/// Requests in flight at most, adjusted after each round of answers.
#[derive(Debug, Clone)]
pub struct Concurrency {
    limit: usize,
    least: usize,
    most: usize,
    /// What has proved itself, and the bytes a second that it brings.
    kept: usize,
    rate: f64,
    phase: Phase,
    /// What is tried after the next rest.
    next: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    More,
    Fewer,
    Rest(u32),
}

/// A difference in throughput that counts.
const WORTH: f64 = 1.05;

/// Rounds between two tries.
const REST: u32 = 4;

impl Concurrency {
    /// Starts at `start`, stays between `least` and `most`.
    pub fn new(start: usize, least: usize, most: usize) -> Self {
        let least = least.max(1);
        let most = most.max(least);
        let limit = start.clamp(least, most);
        Self { limit, least, most, kept: limit, rate: 0.0, phase: Phase::More, next: Phase::Fewer }
    }

    /// Requests that may be in flight now.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// A round of answers came in at `bytes_per_second`, with the limit in use.
    pub fn answered(&mut self, bytes_per_second: f64) {
        let pays = match self.phase {
            Phase::More => bytes_per_second > self.rate * WORTH,
            Phase::Fewer => bytes_per_second * WORTH >= self.rate,
            Phase::Rest(left) => {
                // What the endpoint gives may change; an old record must not bind for ever.
                self.rate = if self.rate > 0.0 {
                    0.5 * (self.rate + bytes_per_second)
                } else {
                    bytes_per_second
                };
                match left {
                    0 => self.try_next(),
                    _ => self.phase = Phase::Rest(left - 1),
                }
                return;
            }
        };
        if pays {
            (self.kept, self.rate) = (self.limit, bytes_per_second);
            self.limit = self.step(self.phase);
        }
        if !pays || self.limit == self.kept {
            self.limit = self.kept;
            self.next = if self.phase == Phase::More { Phase::Fewer } else { Phase::More };
            self.phase = Phase::Rest(REST);
        }
    }

    /// The endpoint asked for less (503, 429) or a request timed out.
    pub fn refused(&mut self) {
        self.limit = (self.limit / 2).max(self.least);
        (self.kept, self.rate) = (self.limit, 0.0);
        (self.phase, self.next) = (Phase::Rest(REST), Phase::More);
    }

    fn try_next(&mut self) {
        self.phase = self.next;
        self.limit = self.step(self.phase);
        if self.limit == self.kept {
            // Already at that end.
            self.next = if self.phase == Phase::More { Phase::Fewer } else { Phase::More };
            self.phase = Phase::Rest(REST);
        }
    }

    fn step(&self, phase: Phase) -> usize {
        match phase {
            Phase::More => (self.kept + (self.kept / 2).max(1)).min(self.most),
            Phase::Fewer => (self.kept * 2 / 3).max(self.least),
            Phase::Rest(_) => self.kept,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An endpoint that gives each request its share up to `width`, then no more.
    fn settle(width: usize, start: usize, rounds: usize) -> Vec<usize> {
        let mut concurrency = Concurrency::new(start, 1, 256);
        let mut limits = Vec::new();
        for _ in 0..rounds {
            let busy = concurrency.limit().min(width);
            concurrency.answered(busy as f64 * 10e6);
            limits.push(concurrency.limit());
        }
        limits
    }

    #[test]
    fn it_finds_the_width_of_an_endpoint_and_stays_near() {
        for width in [4, 16, 100] {
            for start in [1, 8, 64] {
                let limits = settle(width, start, 400);
                let late = &limits[200..];
                let mean = late.iter().sum::<usize>() as f64 / late.len() as f64;
                let range = 0.7 * width as f64..1.7 * width as f64;
                assert!(range.contains(&mean), "width {width} from {start}: {mean}");
            }
        }
    }

    #[test]
    fn it_halves_when_it_is_refused_and_never_ends_at_nothing() {
        let mut concurrency = Concurrency::new(64, 2, 256);
        concurrency.refused();
        assert_eq!(concurrency.limit(), 32);
        for _ in 0..20 {
            concurrency.refused();
        }
        assert_eq!(concurrency.limit(), 2);
        for _ in 0..200 {
            concurrency.answered(concurrency.limit() as f64);
        }
        assert!(concurrency.limit() > 32, "it never grows again: {concurrency:?}");
    }
}
