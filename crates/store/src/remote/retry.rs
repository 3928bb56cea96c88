//! How often to try again, and how long to wait: pure, with one deadline for everything.

use std::time::{Duration, Instant};

/// Waits between attempts: doubling, jittered, never past the deadline.
#[derive(Debug, Clone)]
pub struct Retry {
    deadline: Instant,
    attempts: u32,
    wait: Duration,
    state: u64,
}

const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

impl Retry {
    /// Until `deadline`; `seed` spreads the waits of requests that failed together.
    pub fn until(deadline: Instant, seed: u64) -> Self {
        Self { deadline, attempts: 0, wait: FIRST_WAIT, state: seed }
    }

    /// The time left for an attempt, which starts now; `None` if there is none left.
    pub fn attempt(&mut self, now: Instant) -> Option<Duration> {
        let left = self.deadline.checked_duration_since(now).filter(|left| !left.is_zero())?;
        self.attempts += 1;
        Some(left)
    }

    /// Attempts so far.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// How long to wait before the next attempt; `None` if that would be past the deadline.
    pub fn wait(&mut self, now: Instant) -> Option<Duration> {
        self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        // Between half and all of it.
        let part = (self.state >> 33) as f64 / f64::from(u32::MAX >> 1);
        let wait = self.wait.mul_f64(0.5 + 0.5 * part.min(1.0));
        self.wait = (self.wait * 2).min(LONGEST_WAIT);
        (now + wait < self.deadline).then_some(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_stay_in_bounds_and_end_before_the_deadline() {
        let start = Instant::now();
        let mut retry = Retry::until(start + Duration::from_secs(30), 7);
        let (mut now, mut bound) = (start, FIRST_WAIT);
        while retry.attempt(now).is_some() {
            let Some(wait) = retry.wait(now) else { break };
            assert!(wait >= bound / 2 && wait <= bound, "{wait:?} of {bound:?}");
            bound = (bound * 2).min(LONGEST_WAIT);
            now += wait;
        }
        assert!(now < start + Duration::from_secs(30));
        assert!((9..=20).contains(&retry.attempts()), "{}", retry.attempts());
    }

    #[test]
    fn there_is_no_attempt_after_the_deadline() {
        let now = Instant::now();
        let mut retry = Retry::until(now, 1);
        assert_eq!((retry.attempt(now), retry.attempts()), (None, 0));
    }
}
