//! When to ask a second time for what is late: a pure policy with a budget.
//!
//! A request that takes longer than nearly all others is asked again, and the first answer wins.
//! The budget keeps a store that is slow as a whole from being asked for everything twice.

use std::time::Duration;

/// Latencies that the delay is taken from.
const WINDOW: usize = 256;

/// Before so many answers nothing is known about what is late.
const LEARN: u64 = 20;

/// Decides about second requests, and counts them.
#[derive(Debug, Clone)]
pub struct Hedge {
    recent: Vec<Duration>,
    next: usize,
    requests: u64,
    issued: u64,
    won: u64,
    share: f64,
    quantile: f64,
}

impl Hedge {
    /// Asks again after the time that `quantile` of the answers take, for at most `share` of all
    /// requests: `Hedge::new(0.95, 0.05)`. A share of 0 never asks again.
    pub fn new(quantile: f64, share: f64) -> Self {
        let (recent, next) = (Vec::with_capacity(WINDOW), 0);
        Self { recent, next, requests: 0, issued: 0, won: 0, share, quantile }
    }

    /// A request starts.
    pub fn started(&mut self) {
        self.requests += 1;
    }

    /// How long to wait before asking again; `None` while too little is known.
    pub fn delay(&self) -> Option<Duration> {
        if self.share <= 0.0 || (self.recent.len() as u64) < LEARN {
            return None;
        }
        let mut sorted = self.recent.clone();
        let rank = ((sorted.len() as f64 * self.quantile) as usize).min(sorted.len() - 1);
        let (_, &mut delay, _) = sorted.select_nth_unstable(rank);
        // Half as much again: what is just above the quantile is usually on its way.
        Some(delay + delay / 2)
    }

    /// Takes a second request out of the budget; false if there is none left.
    pub fn try_issue(&mut self) -> bool {
        let allowed = (self.issued + 1) as f64 <= self.requests as f64 * self.share;
        self.issued += u64::from(allowed);
        allowed
    }

    /// An answer came after `latency`; `by_second` if the second request brought it.
    pub fn answered(&mut self, latency: Duration, by_second: bool) {
        self.won += u64::from(by_second);
        if self.recent.len() < WINDOW {
            self.recent.push(latency);
        } else {
            self.recent[self.next] = latency;
            self.next = (self.next + 1) % WINDOW;
        }
    }

    /// Requests, second requests among them, and how many of those won.
    pub fn counts(&self) -> (u64, u64, u64) {
        (self.requests, self.issued, self.won)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    /// 2 % of the answers take 500 ms, the others 5: what p99.9 is with and without.
    #[test]
    fn a_slow_tail_is_cut_within_the_budget() {
        let mut hedge = Hedge::new(0.95, 0.05);
        let mut latencies = Vec::new();
        let slow = |n: u64| (n * 7919) % 100 < 2;
        for n in 0..10_000_u64 {
            hedge.started();
            let first = if slow(n) { ms(500) } else { ms(5) };
            let answer = match hedge.delay() {
                Some(delay) if first > delay && hedge.try_issue() => {
                    let second = delay + if slow(n + 1_000_003) { ms(500) } else { ms(5) };
                    hedge.answered(first.min(second), second < first);
                    first.min(second)
                }
                _ => {
                    hedge.answered(first, false);
                    first
                }
            };
            latencies.push(answer);
        }
        latencies.sort_unstable();
        assert!(latencies[9_980] < ms(100), "p99.8 is {:?}", latencies[9_980]);
        let (requests, issued, won) = hedge.counts();
        assert!(issued * 20 <= requests && won > 100, "{requests} {issued} {won}");
    }

    #[test]
    fn a_store_that_is_slow_as_a_whole_is_not_asked_twice() {
        let mut hedge = Hedge::new(0.95, 0.05);
        for n in 0..1_000_u64 {
            hedge.started();
            let latency = if n < 100 { ms(5) } else { ms(500) };
            if hedge.delay().is_some_and(|delay| latency > delay) {
                hedge.try_issue();
            }
            hedge.answered(latency, false);
        }
        assert!(hedge.counts().1 <= 50, "{:?}", hedge.counts());
    }

    proptest! {
        #[test]
        fn the_budget_holds_at_every_moment(
            latencies in prop::collection::vec(1..1000_u64, 1..500),
            share in 0.0..0.2_f64,
        ) {
            let mut hedge = Hedge::new(0.9, share);
            for latency in latencies {
                hedge.started();
                hedge.try_issue();
                hedge.answered(ms(latency), false);
                let (requests, issued, _) = hedge.counts();
                prop_assert!(issued as f64 <= requests as f64 * share);
            }
        }
    }
}
