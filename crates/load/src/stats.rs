//! Why do I wait? What each step spent where, and a verdict.

use std::collections::VecDeque;
use std::fmt::Write;
use std::time::Duration;

/// One step, seen from the consumer and from the thread that made its batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StepRecord {
    /// Number of the global batch.
    pub step: u64,
    /// How long the consumer waited for it.
    pub wait: Duration,
    /// How long the consumer was away before: its own work.
    pub consumer: Duration,
    /// Making it: order and index.
    pub plan: Duration,
    /// Making it: reads that storage answered.
    pub storage: Duration,
    /// Making it: hashing blocks.
    pub verify: Duration,
    /// Making it: copies out of the page cache, widening, columns.
    pub copy: Duration,
    /// The thread had no free slot for so long before: it was ahead.
    pub slot_wait: Duration,
    /// Bytes out of maps.
    pub mapped_bytes: u64,
    /// Bytes by reads.
    pub read_bytes: u64,
}

/// A step counts as bound by the loader if waiting took more than this share of it.
const BOUND_SHARE: u32 = 20;
/// … and more than a hand-over between threads takes.
const BOUND_WAIT: Duration = Duration::from_micros(50);
const KEPT: usize = 1024;

/// Sums over all steps, and the last of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Steps taken.
    pub steps: u64,
    /// Tokens handed over.
    pub tokens: u64,
    /// Steps whose consumer waited.
    pub bound: u64,
    /// Sum over all steps.
    pub total: StepRecord,
    /// The last 1,024, oldest first.
    pub last: VecDeque<StepRecord>,
}

impl Stats {
    pub(crate) fn push(&mut self, record: StepRecord, tokens: u64) {
        let total = &mut self.total;
        total.step = record.step;
        for (sum, part) in total.times_mut().into_iter().zip(record.times()) {
            *sum += part.1;
        }
        total.mapped_bytes += record.mapped_bytes;
        total.read_bytes += record.read_bytes;
        self.steps += 1;
        self.tokens += tokens;
        let whole = record.wait + record.consumer;
        // Before the first step there is nothing that could have been made meanwhile.
        if self.steps > 1 && record.wait > BOUND_WAIT && record.wait * BOUND_SHARE > whole {
            self.bound += 1;
        }
        if self.last.len() == KEPT {
            self.last.pop_front();
        }
        self.last.push_back(record);
    }

    /// Share of the time that the consumer waited, the first step left out.
    pub fn stall_share(&self) -> f64 {
        let whole = self.total.wait + self.total.consumer;
        self.total.wait.as_secs_f64() / whole.as_secs_f64().max(1e-12)
    }

    /// One line: is the loader to blame, and which part of it?
    pub fn verdict(&self) -> String {
        let percent = 100.0 * self.bound as f64 / (self.steps.saturating_sub(1)).max(1) as f64;
        let stalled = 100.0 * self.stall_share();
        let mut line =
            format!("loader-bound: {percent:.1} % of steps; waited {stalled:.1} % of the time");
        let parts = self.total.times();
        let made: Duration = parts[2..6].iter().map(|part| part.1).sum();
        let largest = parts[2..6].iter().max_by_key(|part| part.1);
        if let Some((name, time)) = largest.filter(|_| !made.is_zero()) {
            let share = 100.0 * time.as_secs_f64() / made.as_secs_f64();
            // Writing to a string does not fail.
            let _ = write!(line, "; making a batch is {share:.0} % {name}");
        }
        line
    }

    /// The sums in the text format of Prometheus.
    pub fn prometheus(&self) -> String {
        let mut text = String::new();
        for (name, value) in [
            ("steps_total", self.steps),
            ("tokens_total", self.tokens),
            ("loader_bound_steps_total", self.bound),
            ("mapped_bytes_total", self.total.mapped_bytes),
            ("read_bytes_total", self.total.read_bytes),
        ] {
            let _ =
                writeln!(text, "# TYPE forebay_load_{name} counter\nforebay_load_{name} {value}");
        }
        let _ = writeln!(text, "# TYPE forebay_load_seconds_total counter");
        for (part, time) in self.total.times() {
            let seconds = time.as_secs_f64();
            let _ = writeln!(text, "forebay_load_seconds_total{{part=\"{part}\"}} {seconds}");
        }
        text
    }
}

impl StepRecord {
    /// All times by name.
    pub fn times(&self) -> [(&'static str, Duration); 7] {
        [
            ("wait", self.wait),
            ("consumer", self.consumer),
            ("plan", self.plan),
            ("storage", self.storage),
            ("verify", self.verify),
            ("copy", self.copy),
            ("slot_wait", self.slot_wait),
        ]
    }

    fn times_mut(&mut self) -> [&mut Duration; 7] {
        let Self { wait, consumer, plan, storage, verify, copy, slot_wait, .. } = self;
        [wait, consumer, plan, storage, verify, copy, slot_wait]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_bound_by_the_loader_if_its_consumer_waits() {
        let ms = Duration::from_millis;
        let mut stats = Stats::default();
        // The first batch is waited for by everybody.
        stats.push(StepRecord { wait: ms(90), ..StepRecord::default() }, 8);
        for wait in [0, 0, 10, 0] {
            let record = StepRecord {
                wait: ms(wait),
                consumer: ms(25),
                copy: ms(3),
                storage: ms(wait),
                ..StepRecord::default()
            };
            stats.push(record, 8);
        }
        assert_eq!((stats.steps, stats.tokens, stats.bound), (5, 40, 1));
        assert_eq!(
            stats.verdict(),
            "loader-bound: 25.0 % of steps; waited 50.0 % of the time; making a batch is 55 % copy"
        );
        let text = stats.prometheus();
        assert!(text.contains("forebay_load_steps_total 5\n"), "{text}");
        assert!(text.contains("forebay_load_seconds_total{part=\"wait\"} 0.1\n"), "{text}");
        (0..2_000).for_each(|_| stats.push(StepRecord::default(), 1));
        assert_eq!(stats.last.len(), KEPT);
    }
}
