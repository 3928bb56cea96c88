//! How many requests to have in flight: as many as still bring more. A pure controller.
//!
//! Fixed depths are wrong both ways: too few starve a wide endpoint, too many lengthen every
//! answer. So it grows while throughput grows, gives back what brought nothing, and halves when
//! the endpoint says "slow down".

/// Requests in flight at most, adjusted after each round of answers.
#[derive(Debug, Clone)]
pub struct Concurrency {
    limit: usize,
    least: usize,
    most: usize,
    /// Bytes a second of the last round that set a mark, and the limit it had.
    best: f64,
    growing: bool,
    /// Rounds until a limit that did not pay is tried again.
    rest: u32,
}

/// More throughput than this for more requests counts as growth.
const WORTH: f64 = 1.05;

/// Rounds between two tries.
const REST: u32 = 8;

impl Concurrency {
    /// Starts at `start`, stays between `least` and `most`.
    pub fn new(start: usize, least: usize, most: usize) -> Self {
        let least = least.max(1);
        let most = most.max(least);
        let limit = start.clamp(least, most);
        Self { limit, least, most, best: 0.0, growing: true, rest: 0 }
    }

    /// Requests that may be in flight now.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// A round of answers came in at `bytes_per_second`, with the limit in use.
    pub fn answered(&mut self, bytes_per_second: f64) {
        if self.growing {
            if bytes_per_second > self.best * WORTH {
                self.best = bytes_per_second;
                self.limit = (self.limit + (self.limit / 2).max(1)).min(self.most);
            } else {
                // The last step brought nothing: back to where throughput was the same.
                self.limit = (self.limit * 2).div_ceil(3).max(self.least);
                self.growing = false;
                self.rest = REST;
            }
            return;
        }
        // What the endpoint gives may change; an old record must not forbid growth for ever.
        self.best = self.best * 0.9 + bytes_per_second * 0.1;
        self.rest = self.rest.saturating_sub(1);
        self.growing = self.rest == 0;
    }

    /// The endpoint asked for less (503, 429) or a request timed out.
    pub fn refused(&mut self) {
        self.limit = (self.limit / 2).max(self.least);
        self.best = 0.0;
        self.growing = false;
        self.rest = REST;
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
                let far = start.max(width) as f64 * 2.5;
                assert!(mean >= 0.6 * width as f64, "width {width} from {start}: {mean}");
                assert!(mean <= far, "width {width} from {start}: {mean}");
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
