//! Object stores: ranged reads, whole objects and parts, and names, as many requests at once as asked.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use forebay_store::Error as StoreError;
use forebay_store::fs::Tally;
use forebay_store::remote::{Entry, Remote, Settings, Stats, tree};

use crate::histogram::Histogram;
use crate::metadata::Operation;
use crate::proof::Proof;
use crate::run::{Glance, Measured, Repeat, cpu_seconds, figures};
use crate::spread::Spread;
use crate::target::Wish;
use crate::workload::{Blocks, Workload, fill, first_difference};
use crate::{Error, Result};

/// What is done to names, in this order.
const NAMES: [&str; 5] = ["put", "stat", "list", "copy", "remove"];

/// Objects to read, or a prefix to write under; what was made is removed again.
struct Place {
    remote: Remote,
    objects: Vec<Entry>,
    /// Of everything made here; `None` if the object was there before.
    own: Option<String>,
    keep: bool,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(own) = self.own.as_ref().filter(|_| !self.keep) {
            remove(&self.remote, own);
        }
    }
}

fn remove(remote: &Remote, prefix: &str) {
    let keys: Vec<String> =
        remote.list(prefix).unwrap_or_default().into_iter().map(|entry| entry.key).collect();
    tree::remove(remote, &keys, 16, &Tally::default());
}

fn settings(at_once: usize, hedge_share: f64) -> Settings {
    Settings { hedge_share, at_once: Some(at_once), ..Settings::default() }
}

impl Place {
    fn open(uri: &str, workload: &Workload, wish: &Wish, hedge: f64) -> Result<Self> {
        let at_once = workload.queue_depth * workload.jobs;
        let (remote, key) = Remote::open(uri, settings(at_once, hedge))?;
        let block = workload.block_bytes;
        let is_prefix = key.is_empty() || key.ends_with('/');
        if workload.read_percent == 100
            && !is_prefix
            && let Ok(there) = remote.head(&key)
        {
            if there.size < block {
                return Err(Error::TooSmall {
                    path: uri.into(),
                    found: there.size,
                    expected: block,
                });
            }
            return Ok(Self { remote, objects: vec![there], own: None, keep: true });
        }
        let own = format!("{}/forebay-bench-{}", key.trim_end_matches('/'), std::process::id());
        let own = own.trim_start_matches('/').to_owned();
        let mut place =
            Self { remote, objects: Vec::new(), own: Some(own.clone()), keep: wish.keep };
        if workload.read_percent > 0 {
            let files = wish.files.max(1);
            let each = (wish.bytes / files as u64 / block).max(1) * block;
            for n in 0..files {
                let mut bytes = vec![0; each as usize];
                for (at, one) in bytes.chunks_mut(block as usize).enumerate() {
                    fill(one, n as u64 * each + at as u64 * block, workload.seed);
                }
                let key = format!("{own}/read/{n:06}");
                place.remote.write(&key, &Bytes::from(bytes))?;
                place.objects.push(place.remote.head(&key)?);
            }
        }
        Ok(place)
    }

    /// Blocks of all objects together.
    fn blocks(&self, workload: &Workload, wish: &Wish) -> u64 {
        match self.objects.first() {
            Some(object) => object.size / workload.block_bytes * self.objects.len() as u64,
            None => (wish.bytes / workload.block_bytes).max(1),
        }
    }
}

/// Measures `workload` on `s3://` or `http://`: a read is a range of an object, a write is an object
/// of one block, in parts if it is large. `hedge` is the share of reads that may be asked twice.
///
/// # Errors
/// The first that any request meets, after its own attempts.
pub fn measure(
    uri: &str,
    workload: &Workload,
    wish: &Wish,
    hedge: f64,
    mut watch: impl FnMut(&Glance),
) -> Result<(Measured, Stats)> {
    if workload.direct {
        return Err(Error::Usage("objects have no page cache to pass by: no --direct".into()));
    }
    let place = Place::open(uri, workload, wish, hedge)?;
    let crew = Crew { place: &place, workload, blocks: place.blocks(workload, wish) };
    let mut repeats = Vec::new();
    for repeat in 0..=workload.repeats {
        let time = match repeat {
            0 if workload.warm_up_seconds <= 0.0 => continue,
            0 => Some(Duration::from_secs_f64(workload.warm_up_seconds)),
            _ => workload.time(),
        };
        let one = crew.run(repeat, time)?;
        watch(&Glance {
            repeat,
            elapsed: Duration::from_secs_f64(one.slowest),
            iops: one.rate,
            bytes_per_second: one.rate * workload.block_bytes as f64,
        });
        if let Some(own) = place.own.as_ref().filter(|_| workload.read_percent < 100) {
            remove(&place.remote, &format!("{own}/write"));
        }
        if repeat > 0 {
            repeats.push(one);
        }
    }
    let stats = place.remote.stats();
    let bytes = repeats.iter().flat_map(|r| r.bytes).sum();
    let proof = Proof {
        engine: "object",
        set_up: format!(
            "{} requests at once; {} asked twice, {} of them to advantage; {} tried again",
            workload.queue_depth * workload.jobs,
            stats.hedges_issued,
            stats.hedges_won,
            stats.retries
        ),
        direct_share: 1.0,
        device_share: 0.0,
        asked_share: 1.0,
        requested_bytes: bytes,
        device_bytes: 0,
        file_system: uri.split('/').take(3).collect::<Vec<_>>().join("/"),
        direct_alignment: None,
        caveats: vec!["what the server has cached is not seen from here".into()],
        steps: Vec::new(),
    };
    Ok((figures(workload, &repeats, proof), stats))
}

struct Crew<'a> {
    place: &'a Place,
    workload: &'a Workload,
    blocks: u64,
}

#[derive(Default)]
struct Done {
    latency: [Histogram; 2],
    bytes: [u64; 2],
    operations: u64,
    elapsed: f64,
}

impl Crew<'_> {
    /// All jobs, a thread for each request in flight.
    fn run(&self, repeat: usize, time: Option<Duration>) -> Result<Repeat> {
        let threads = self.workload.queue_depth * self.workload.jobs;
        let alone = Workload { jobs: threads, ..self.workload.clone() };
        let (stopped, done) = (AtomicBool::new(false), Mutex::new(Vec::new()));
        let (cpu, next) = (cpu_seconds(), AtomicUsize::new(0));
        let job = || -> Result<()> {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let one = self.one(&alone, number, repeat, time, &stopped);
            let one = one.inspect_err(|_| stopped.store(true, Ordering::Relaxed))?;
            done.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(one);
            Ok(())
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..threads).map(|_| scope.spawn(job)).collect();
            let died = || Err(Error::Usage("a job of the benchmark died".into()));
            threads.into_iter().map(|t| t.join().unwrap_or_else(|_| died())).collect::<Vec<_>>()
        })
        .into_iter()
        .collect::<Result<()>>()?;
        let done = done.into_inner().unwrap_or_default();
        let mut sum = Repeat::empty(cpu_seconds() - cpu);
        for one in &done {
            for way in 0..2 {
                sum.latency[way].add(&one.latency[way]);
                sum.bytes[way] += one.bytes[way];
            }
            sum.operations += one.operations;
            sum.slowest = sum.slowest.max(one.elapsed);
            sum.fastest = sum.fastest.min(one.elapsed);
        }
        sum.first_done = sum.operations;
        sum.rate = sum.operations as f64 / sum.slowest.max(1e-9);
        Ok(sum)
    }

    fn one(
        &self,
        workload: &Workload,
        number: usize,
        repeat: usize,
        time: Option<Duration>,
        stopped: &AtomicBool,
    ) -> Result<Done> {
        let mut blocks = Blocks::new(workload, self.blocks, number, repeat);
        let limit = match time {
            Some(_) => u64::MAX,
            None => Blocks::once(workload, self.blocks, number),
        };
        let length = workload.block_bytes;
        let mut buffer = vec![0; length as usize];
        fill(&mut buffer, number as u64, workload.seed);
        let body = Bytes::from(buffer.clone());
        let mut done = Done::default();
        let start = Instant::now();
        let mut now = start;
        while done.operations < limit
            && !stopped.load(Ordering::Relaxed)
            && time.is_none_or(|time| now - start < time)
            && let Some((block, is_read)) = blocks.draw()
        {
            if is_read {
                let each = self.blocks / self.place.objects.len() as u64;
                let object = &self.place.objects[(block / each) as usize];
                let offset = block % each * length;
                self.place.remote.read_at(object, offset, &mut buffer)?;
                if workload.verify
                    && let Some(at) = first_difference(&buffer, block * length, workload.seed)
                {
                    let path = object.key.clone().into();
                    return Err(Error::Wrong { path, offset: offset + at as u64 });
                }
            } else {
                let own = self.place.own.as_deref().unwrap_or_default();
                let key = format!("{own}/write/{number}-{}", done.operations);
                self.place.remote.write(&key, &body)?;
            }
            let before = std::mem::replace(&mut now, Instant::now());
            let way = usize::from(!is_read);
            done.latency[way].record((now - before).as_nanos() as u64);
            done.bytes[way] += length;
            done.operations += 1;
        }
        done.elapsed = (now - start).as_secs_f64();
        Ok(done)
    }
}

/// Measures what is done to the names of `files` objects of a byte, `jobs` at once.
///
/// # Errors
/// As [`measure`].
pub fn names(uri: &str, files: usize, jobs: usize, repeats: usize) -> Result<Vec<Operation>> {
    let (remote, key) = Remote::open(uri, settings(jobs, 0.0))?;
    let own = format!("{}/forebay-meta-{}", key.trim_end_matches('/'), std::process::id());
    let own = own.trim_start_matches('/').to_owned();
    let place = Place { remote, objects: Vec::new(), own: Some(own.clone()), keep: false };
    let mut rates = [const { Vec::new() }; 5];
    let mut quantiles = [const { (Vec::new(), Vec::new()) }; 5];
    for _ in 0..repeats {
        for (n, name) in NAMES.iter().enumerate() {
            let start = Instant::now();
            let (next, sum) = (AtomicUsize::new(0), Mutex::new(Histogram::default()));
            let job = || -> Result<()> {
                let mut histogram = Histogram::default();
                loop {
                    let file = next.fetch_add(1, Ordering::Relaxed);
                    if file >= if *name == "list" { 1 } else { files } {
                        break;
                    }
                    let start = Instant::now();
                    one_name(&place.remote, name, &own, file, files)?;
                    histogram.record(start.elapsed().as_nanos() as u64);
                }
                sum.lock().unwrap_or_else(std::sync::PoisonError::into_inner).add(&histogram);
                Ok(())
            };
            std::thread::scope(|scope| {
                let threads: Vec<_> = (0..jobs).map(|_| scope.spawn(job)).collect();
                let died = || Err(Error::Usage("a job of the benchmark died".into()));
                threads.into_iter().map(|t| t.join().unwrap_or_else(|_| died())).collect::<Vec<_>>()
            })
            .into_iter()
            .collect::<Result<()>>()?;
            rates[n].push(files as f64 / start.elapsed().as_secs_f64());
            let sum = sum.into_inner().unwrap_or_default();
            quantiles[n].0.push(sum.quantile(0.5) as f64 / 1e3);
            quantiles[n].1.push(sum.quantile(0.99) as f64 / 1e3);
        }
    }
    let figures = NAMES.iter().zip(rates).zip(quantiles);
    Ok(figures
        .map(|((name, rates), (p50, p99))| Operation {
            name,
            per_second: Spread::of(rates),
            p50_us: Spread::of(p50),
            p99_us: Spread::of(p99),
        })
        .collect())
}

fn one_name(remote: &Remote, name: &str, own: &str, file: usize, files: usize) -> Result<()> {
    let key = format!("{own}/a/{file:08}");
    match name {
        "put" => remote.put(&key, b"x")?,
        "stat" => drop(remote.head(&key)?),
        "copy" => {
            let entry = remote.head(&key)?;
            remote.copy(remote, &entry, &format!("{own}/b/{file:08}"), false)?;
        }
        "remove" => remote.delete(&key)?,
        _ => {
            let found = remote.list(&format!("{own}/a"))?.len();
            if found != files {
                let wrong = std::io::Error::other(format!("found {found} of {files} objects"));
                return Err(StoreError::io("list", own.as_ref(), wrong).into());
            }
        }
    }
    Ok(())
}
