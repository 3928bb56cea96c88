//! The benchmark on real files: figures that add up, data that stays, paths that are told.

use std::path::Path;

use crate::workload::tests::workload;
use crate::{Engine, Error, Measured, Pattern, Result, Wish, Workload, measure};

const WISH: Wish = Wish { bytes: 1 << 20, files: 1, destroy: false, keep: false };

fn once(pattern: Pattern) -> Workload {
    Workload { seconds: None, repeats: 2, jobs: 2, ..workload(pattern, 2) }
}

fn run(path: &Path, workload: &Workload) -> Result<Measured> {
    measure(path, workload, &WISH, false, |_| {})
}

fn here() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap()
}

#[test]
fn every_engine_goes_through_all_blocks_once_and_finds_what_was_written() {
    let dir = here();
    for engine in [Engine::Auto, Engine::Uring, Engine::Threads, Engine::Mmap] {
        for pattern in [Pattern::Sequential, Pattern::Random] {
            let workload = Workload { engine, verify: true, ..once(pattern) };
            let measured = match run(dir.path(), &workload) {
                Err(Error::Store(forebay_store::Error::Engine { engine, .. })) => {
                    eprintln!("skipped: {engine} does not work here");
                    continue;
                }
                measured => measured.unwrap(),
            };
            assert_eq!(measured.operations, 2 * 256);
            assert_eq!(measured.histogram.iter().map(|b| b.1).sum::<u64>(), 512);
            assert_eq!(measured.path.requested_bytes, 2 << 20);
            assert!(measured.iops.min > 0.0 && measured.latency_us.p50.min > 0.0);
            assert!(measured.latency_us.p50.median <= measured.latency_us.p999.median);
            let (first, last) =
                (measured.first_done_bytes_per_second, measured.last_done_bytes_per_second);
            assert!(first.median > 0.0 && last.median > 0.0);
            assert!(measured.path.is_as_asked(), "{:?}", measured.path);
        }
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "files were left behind");
}

#[test]
fn direct_reads_are_counted_at_the_device() {
    let dir = here();
    let workload = Workload { direct: true, ..once(Pattern::Random) };
    let measured = run(dir.path(), &workload).unwrap();
    if measured.path.direct_alignment.is_none() {
        eprintln!("skipped: no direct I/O where the tests are");
        return;
    }
    assert!(measured.path.is_as_asked(), "{:?}", measured.path);
    assert_eq!(measured.path.device_bytes, measured.path.requested_bytes);
}

#[test]
fn existing_data_is_written_over_only_when_told_to() {
    let dir = here();
    let path = dir.path().join("precious");
    std::fs::write(&path, vec![7; 1 << 20]).unwrap();
    let workload = Workload { read_percent: 0, ..once(Pattern::Sequential) };
    let error = run(&path, &workload).unwrap_err();
    assert!(matches!(error, Error::WouldDestroy { .. }), "{error}");
    assert!(std::fs::read(&path).unwrap().iter().all(|&b| b == 7));
    let wish = Wish { destroy: true, ..WISH };
    measure(&path, &workload, &wish, false, |_| {}).unwrap();
    assert!(std::fs::read(&path).unwrap().iter().any(|&b| b != 7));
    assert!(path.exists(), "a file that was there stays");
}

#[test]
fn what_was_written_with_verify_is_found_again_and_a_flipped_bit_too() {
    let dir = here();
    let path = dir.path().join("blocks");
    std::fs::write(&path, vec![0; 1 << 20]).unwrap();
    let wish = Wish { destroy: true, ..WISH };
    let write = Workload { read_percent: 0, verify: true, ..once(Pattern::Sequential) };
    let read = Workload { read_percent: 100, ..write.clone() };
    measure(&path, &write, &wish, false, |_| {}).unwrap();
    run(&path, &read).unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[500_000] ^= 4;
    std::fs::write(&path, bytes).unwrap();
    let error = run(&path, &read).unwrap_err();
    assert!(matches!(error, Error::Wrong { offset: 500_000, .. }), "{error}");
}

#[test]
fn a_timed_mix_reports_reads_and_writes_apart() {
    let dir = here();
    let workload = Workload {
        read_percent: 50,
        seconds: Some(0.2),
        warm_up_seconds: 0.05,
        repeats: 2,
        ..workload(Pattern::Random, 1)
    };
    let measured = run(dir.path(), &workload).unwrap();
    assert!(measured.read_latency_us.is_some() && measured.write_latency_us.is_some());
    assert!(measured.operations > 0 && measured.cpu_us_per_operation.median > 0.0);
}

#[test]
fn many_files_are_one_target() {
    let dir = here();
    let workload = Workload { verify: true, ..once(Pattern::Sequential) };
    let wish = Wish { files: 7, ..WISH };
    let measured = measure(dir.path(), &workload, &wish, true, |_| {}).unwrap();
    assert_eq!(measured.operations, 2 * 7 * (256 / 7));
}

#[test]
fn a_target_below_a_block_and_a_map_that_is_written_are_refused() {
    let dir = here();
    let path = dir.path().join("small");
    std::fs::write(&path, [0; 100]).unwrap();
    let error = run(&path, &once(Pattern::Random)).unwrap_err();
    assert!(matches!(error, Error::TooSmall { found: 100, expected: 4096, .. }), "{error}");
    let map = Workload { engine: Engine::Mmap, direct: true, ..once(Pattern::Random) };
    assert!(matches!(run(dir.path(), &map).unwrap_err(), Error::Usage(_)));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "files were left behind");
}

#[test]
fn files_that_were_made_stay_when_asked_to() {
    let dir = here();
    let wish = Wish { keep: true, ..WISH };
    for name in ["a name that is free", "."] {
        measure(&dir.path().join(name), &once(Pattern::Random), &wish, false, |_| {}).unwrap();
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
}

#[test]
fn a_sweep_is_drawn() {
    let dir = here();
    let grid = crate::sweep::Grid { block_bytes: vec![4096, 65536], queue_depths: vec![1, 4] };
    let workload = once(Pattern::Random);
    let points =
        crate::sweep::sweep(dir.path(), &workload, &grid, &WISH, false, |_| {}, |_| {}).unwrap();
    assert_eq!(points.len(), 4);
    let svg = crate::plot::svg("reads <here>", &points);
    assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n") && svg.contains("64 KiB p99"));
    assert!(svg.contains("reads &lt;here>") && !svg.contains("NaN") && !svg.contains("inf"));
}
