//! The same workload as a fio command, so that anyone can cross-check.

use std::path::Path;

use crate::workload::{Engine, Pattern, Workload};

/// A command line that does what `workload` does to `path`, `bytes` long.
///
/// fio counts a megabyte as 2^20 and repeats with `--loops`; here one run is one repeat.
pub fn command(path: &Path, bytes: u64, workload: &Workload) -> Vec<String> {
    let rw = match (workload.read_percent, workload.pattern) {
        (100, Pattern::Sequential) => "read",
        (100, Pattern::Random) => "randread",
        (0, Pattern::Sequential) => "write",
        (0, Pattern::Random) => "randwrite",
        (_, Pattern::Sequential) => "rw",
        (_, Pattern::Random) => "randrw",
    };
    let engine = match workload.engine {
        Engine::Auto | Engine::Uring => "io_uring",
        // A pool of threads is many jobs of one transfer each.
        Engine::Threads => "psync",
        // Its engine for this is a library of others, which ours stands in for.
        Engine::Usrbio => "external:hf3fs_usrbio.so",
        Engine::Mmap => "mmap",
        // Its options name endpoint and credentials; none of them belongs on a command line.
        Engine::Object => "http",
    };
    let (jobs, depth) = match workload.engine {
        Engine::Threads => (workload.jobs * workload.queue_depth, 1),
        Engine::Mmap => (workload.jobs, 1),
        _ => (workload.jobs, workload.queue_depth),
    };
    let mut arguments = vec![
        "fio".to_owned(),
        "--name=forebay".into(),
        format!("--filename={}", path.display()),
        format!("--rw={rw}"),
        format!("--bs={}", workload.block_bytes),
        format!("--size={bytes}"),
        format!("--ioengine={engine}"),
        format!("--iodepth={depth}"),
        format!("--direct={}", u8::from(workload.direct)),
        format!("--numjobs={jobs}"),
        "--thread".into(),
        "--group_reporting".into(),
        "--output-format=json".into(),
        format!("--randseed={}", workload.seed),
    ];
    if engine == "io_uring" {
        arguments.extend(["--fixedbufs=1".into(), "--registerfiles=1".into()]);
        arguments.push(format!("--iodepth_batch_complete_min={}", workload.batch));
    }
    if workload.pattern == Pattern::Random {
        // Blocks are drawn independently; fio would remember which it has drawn.
        arguments.extend(["--norandommap".into(), "--random_generator=tausworthe64".into()]);
    }
    if workload.pattern == Pattern::Sequential && jobs > 1 {
        let part = bytes / jobs as u64;
        arguments.extend([format!("--offset_increment={part}"), format!("--io_size={part}")]);
    }
    if !matches!(workload.read_percent, 0 | 100) {
        arguments.push(format!("--rwmixread={}", workload.read_percent));
    }
    if let Some(seconds) = workload.seconds {
        arguments.extend(["--time_based".into(), format!("--runtime={seconds}")]);
        arguments.push(format!("--ramp_time={}", workload.warm_up_seconds));
    }
    if workload.read_percent < 100 {
        arguments.push("--end_fsync=1".into());
    }
    if !workload.direct {
        // fio drops the cache before it starts unless told not to.
        arguments.push("--invalidate=0".into());
    }
    arguments
}

/// As one line for a shell.
pub fn line(arguments: &[String]) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./,:+@%".contains(c);
    let quote = |argument: &String| {
        if argument.chars().all(plain) {
            argument.clone()
        } else {
            format!("'{}'", argument.replace('\'', r"'\''"))
        }
    };
    arguments.iter().map(quote).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::tests::workload;

    #[test]
    fn a_random_direct_read_is_translated() {
        let workload = Workload {
            direct: true,
            queue_depth: 32,
            seconds: Some(3.0),
            ..workload(Pattern::Random, 2)
        };
        let line = line(&command(Path::new("/data/it's here"), 1 << 30, &workload));
        for part in [
            r"'--filename=/data/it'\''s here'",
            "--rw=randread --bs=4096 --size=1073741824 --ioengine=io_uring --iodepth=32",
            "--direct=1 --numjobs=2",
            "--norandommap",
            "--time_based --runtime=3",
        ] {
            assert!(line.contains(part), "`{part}` is not in {line}");
        }
    }

    #[test]
    fn a_pool_of_threads_is_many_jobs_of_one_transfer() {
        let workload = Workload {
            engine: Engine::Threads,
            queue_depth: 16,
            read_percent: 70,
            ..workload(Pattern::Sequential, 2)
        };
        let line = line(&command(Path::new("t"), 1 << 20, &workload));
        assert!(line.contains("--ioengine=psync --iodepth=1"), "{line}");
        assert!(line.contains("--numjobs=32") && line.contains("--rwmixread=70"), "{line}");
        assert!(line.contains("--end_fsync=1"), "{line}");
    }
}
