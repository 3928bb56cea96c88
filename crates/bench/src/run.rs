//! A benchmark from its target to its figures: warm-up, repeats, proof.

use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

use crate::Result;
use crate::histogram::Histogram;
use crate::job::{Done, Job, Phase, Watch};
use crate::proof::{self, Counters, Moved, Proof};
use crate::spread::Spread;
use crate::target::{Target, Wish};
use crate::workload::Workload;

/// Latency in microseconds, each quantile over the repeats.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the name says it")]
pub struct Latency {
    pub p50: Spread,
    pub p90: Spread,
    pub p99: Spread,
    pub p999: Spread,
    pub max: Spread,
}

impl Latency {
    fn of(repeats: &[Histogram]) -> Self {
        let micros = |nanos: u64| nanos as f64 / 1e3;
        let at = |q: f64| Spread::of(repeats.iter().map(|h| micros(h.quantile(q))));
        let max = Spread::of(repeats.iter().map(|h| micros(h.max())));
        Self { p50: at(0.5), p90: at(0.9), p99: at(0.99), p999: at(0.999), max }
    }
}

/// The figures of one workload.
#[derive(Debug, Clone, Serialize)]
pub struct Measured {
    /// What was done.
    pub workload: Workload,
    /// Operations in a second, of all jobs.
    pub iops: Spread,
    /// Bytes in a second, of all jobs.
    pub bytes_per_second: Spread,
    /// The same until the first job was done with its part; writes before their sync.
    pub first_done_bytes_per_second: Spread,
    /// The same until the last one was, syncs included.
    pub last_done_bytes_per_second: Spread,
    /// From before a transfer is prepared until it is reaped.
    pub latency_us: Latency,
    /// Of the reads of a mix, and of its writes.
    pub read_latency_us: Option<Latency>,
    /// Of the writes of a mix.
    pub write_latency_us: Option<Latency>,
    /// CPU time of this process, kernel included, per operation, in microseconds.
    pub cpu_us_per_operation: Spread,
    /// Operations of all repeats.
    pub operations: u64,
    /// Latencies of all repeats: largest value of a bucket in microseconds, and how many.
    pub histogram: Vec<(f64, u64)>,
    /// Which path the bytes took.
    pub path: Proof,
}

/// How a running benchmark stands.
#[derive(Debug, Clone)]
pub struct Glance {
    /// 0 is the warm-up.
    pub repeat: usize,
    /// Since the repeat began.
    pub elapsed: Duration,
    /// Operations in a second since the last glance.
    pub iops: f64,
    /// Bytes in a second since the last glance.
    pub bytes_per_second: f64,
}

/// Between two glances.
const GLANCE: Duration = Duration::from_millis(500);

/// Measures `workload` on what lies at `path`, or on what is made there.
///
/// `cold` makes the kernel forget its cache of the target before each repeat. `watch` is called
/// twice a second.
///
/// # Errors
/// The first that any job meets.
pub fn measure(
    path: &Path,
    workload: &Workload,
    wish: &Wish,
    cold: bool,
    watch: impl FnMut(&Glance),
) -> Result<Measured> {
    let target = Arc::new(Target::open(path, workload, wish)?);
    measure_target(&target, workload, cold, watch)
}

/// As [`measure`], on a target that is open already.
///
/// # Errors
/// As [`measure`].
pub fn measure_target(
    target: &Arc<Target>,
    workload: &Workload,
    cold: bool,
    mut watch: impl FnMut(&Glance),
) -> Result<Measured> {
    let mut crew = Crew::start(workload, target)?;
    let file_system = proof::file_system(target.objects()[0].path());
    let (mut repeats, mut moved) = (Vec::new(), Moved::default());
    for repeat in 0..=workload.repeats {
        let time = match repeat {
            0 if workload.warm_up_seconds <= 0.0 => continue,
            0 => Some(Duration::from_secs_f64(workload.warm_up_seconds)),
            _ => workload.time(),
        };
        if cold {
            target.forget();
        }
        let before = Counters::now();
        let one = crew.run(Phase { repeat, time }, workload, &mut watch)?;
        let counted = before.zip(Counters::now()).map(|(before, after)| Counters {
            read: after.read - before.read,
            written: after.written - before.written,
        });
        moved.add(one.bytes[0], one.bytes[1], counted);
        if repeat > 0 {
            repeats.push(one);
        }
    }
    let ladder = crew.ladder.as_ref();
    let path = proof::judge(workload, ladder, &target.objects()[0], &file_system, moved);
    Ok(figures(workload, &repeats, path))
}

/// One repeat, of all jobs.
pub(crate) struct Repeat {
    pub(crate) latency: [Histogram; 2],
    pub(crate) operations: u64,
    pub(crate) bytes: [u64; 2],
    pub(crate) slowest: f64,
    pub(crate) fastest: f64,
    pub(crate) first_done: u64,
    pub(crate) rate: f64,
    pub(crate) cpu: f64,
}

pub(crate) fn figures(workload: &Workload, repeats: &[Repeat], path: Proof) -> Measured {
    let block = workload.block_bytes as f64;
    let both: Vec<Histogram> = repeats.iter().map(Repeat::both).collect();
    let way = |way: usize| {
        let mixed = !matches!(workload.read_percent, 0 | 100);
        let each: Vec<Histogram> = repeats.iter().map(|r| r.latency[way].clone()).collect();
        mixed.then(|| Latency::of(&each))
    };
    let mut all = Histogram::default();
    both.iter().for_each(|one| all.add(one));
    let spread = |of: fn(&Repeat) -> f64| Spread::of(repeats.iter().map(of));
    let scaled = |spread: Spread| Spread {
        median: spread.median * block,
        min: spread.min * block,
        max: spread.max * block,
    };
    let iops = spread(|r| r.rate);
    Measured {
        workload: workload.clone(),
        iops,
        bytes_per_second: scaled(iops),
        first_done_bytes_per_second: scaled(spread(|r| r.first_done as f64 / r.fastest)),
        last_done_bytes_per_second: scaled(spread(|r| r.operations as f64 / r.slowest)),
        latency_us: Latency::of(&both),
        read_latency_us: way(0),
        write_latency_us: way(1),
        cpu_us_per_operation: Spread::of(
            repeats.iter().map(|r| r.cpu * 1e6 / (r.bytes.iter().sum::<u64>() as f64 / block)),
        ),
        operations: repeats.iter().map(|r| r.operations).sum(),
        histogram: all.buckets().map(|(nanos, count)| (nanos as f64 / 1e3, count)).collect(),
        path,
    }
}

impl Repeat {
    /// Of no job yet.
    pub(crate) fn empty(cpu: f64) -> Self {
        Self {
            latency: Default::default(),
            operations: 0,
            bytes: [0; 2],
            slowest: 0.0,
            fastest: f64::INFINITY,
            first_done: 0,
            rate: 0.0,
            cpu,
        }
    }

    fn both(&self) -> Histogram {
        let mut both = self.latency[0].clone();
        both.add(&self.latency[1]);
        both
    }
}

/// The jobs, each on its thread for the whole benchmark.
struct Crew {
    orders: Vec<mpsc::Sender<Phase>>,
    results: mpsc::Receiver<Result<Done>>,
    ladder: Option<forebay_store::Ladder>,
    watch: Arc<Watch>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Drop for Crew {
    fn drop(&mut self) {
        // Whoever removes the target afterwards finds nobody at work on it.
        self.watch.stop();
        self.orders.clear();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Crew {
    fn start(workload: &Workload, target: &Arc<Target>) -> Result<Self> {
        let watch = Arc::new(Watch::new(workload.jobs));
        let (result, results) = mpsc::channel();
        let (ready, started) = mpsc::channel();
        let (orders, threads, ladder) = (Vec::new(), Vec::new(), None);
        let mut crew = Self { orders, results, ladder, watch, threads };
        for number in 0..workload.jobs {
            let (order, phases) = mpsc::channel::<Phase>();
            crew.orders.push(order);
            let (result, ready) = (result.clone(), ready.clone());
            let (workload, target) = (workload.clone(), Arc::clone(target));
            let watch = Arc::clone(&crew.watch);
            crew.threads.push(std::thread::spawn(move || {
                // A queue belongs to the thread that makes it.
                let job = Job::new(number, &workload, &target, &watch);
                drop((workload, target, watch));
                let mut job = match job {
                    Ok(job) => {
                        let _ = ready.send(Ok(job.ladder()));
                        job
                    }
                    Err(error) => {
                        let _ = ready.send(Err(error));
                        return;
                    }
                };
                while let Ok(phase) = phases.recv() {
                    let done = job.run(phase);
                    let failed = done.is_err();
                    if result.send(done).is_err() || failed {
                        return;
                    }
                }
            }));
        }
        // A job that dies leaves no sender behind, and is noticed.
        drop((ready, result));
        for _ in 0..workload.jobs {
            let died = || Err(crate::Error::Usage("a job of the benchmark died".into()));
            crew.ladder = started.recv().unwrap_or_else(|_| died())?;
        }
        Ok(crew)
    }

    fn run(
        &mut self,
        phase: Phase,
        workload: &Workload,
        watch: &mut impl FnMut(&Glance),
    ) -> Result<Repeat> {
        self.watch.reset();
        let cpu = cpu_seconds();
        let start = Instant::now();
        for order in &self.orders {
            let _ = order.send(phase);
        }
        let mut done = Vec::with_capacity(self.orders.len());
        let (mut last, mut seen) = (start, 0);
        while done.len() < self.orders.len() {
            match self.results.recv_timeout(GLANCE) {
                Ok(one) => done.push(one?),
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    let (now, operations) = (Instant::now(), self.watch.operations());
                    let iops = (operations - seen) as f64 / (now - last).as_secs_f64();
                    watch(&Glance {
                        repeat: phase.repeat,
                        elapsed: now - start,
                        iops,
                        bytes_per_second: iops * workload.block_bytes as f64,
                    });
                    (last, seen) = (now, operations);
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    return Err(crate::Error::Usage("a job of the benchmark died".into()));
                }
            }
        }
        Ok(self.sum(&done, cpu_seconds() - cpu))
    }

    fn sum(&self, done: &[Done], cpu: f64) -> Repeat {
        let mut sum = Repeat { first_done: self.watch.first_done(), ..Repeat::empty(cpu) };
        for one in done {
            let seconds = one.elapsed.as_secs_f64().max(1e-9);
            for way in 0..2 {
                sum.latency[way].add(&one.latency[way]);
                sum.bytes[way] += one.bytes[way];
            }
            sum.operations += one.operations;
            sum.slowest = sum.slowest.max(seconds);
            sum.fastest = sum.fastest.min(seconds);
        }
        sum.rate = sum.operations as f64 / sum.slowest;
        sum
    }
}

/// CPU time of this process so far, kernel included.
pub(crate) fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
