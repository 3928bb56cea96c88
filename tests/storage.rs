//! `forebay bench storage` from outside: what it tells, what it refuses, how it falls back.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Ran, binary, forebay, ran};

/// Beside the build, not in the system's temporary folder: a tmpfs has no direct I/O.
fn here() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn bench(path: &Path, more: &[&str]) -> Ran {
    let quick = ["--size", "1MiB", "--seconds", "0.1", "--warm-up", "0", "--repeats", "2"];
    let mut command = binary();
    command.args(["bench", "storage"]).arg(path).args(quick).args(more);
    ran(&mut command)
}

fn tmpfs() -> Option<TempDir> {
    let place = tempfile::tempdir_in("/dev/shm").ok();
    let found = place.filter(|dir| forebay_bench::file_system(dir.path()) == "tmpfs");
    if found.is_none() {
        eprintln!("skipped: /dev/shm is no tmpfs here");
    }
    found
}

#[test]
fn the_json_has_the_fields_that_scripts_rely_on() {
    let dir = here();
    let ran = bench(dir.path(), &["random", "--read", "--json"]).exits(0);
    let result = &ran.json()["results"][0];
    let spread = |value: &Value| {
        let [median, min, max] = ["median", "min", "max"].map(|k| value[k].as_f64().unwrap());
        assert!(0.0 < min && min <= median && median <= max, "{value}");
    };
    spread(&result["iops"]);
    spread(&result["bytes_per_second"]);
    for quantile in ["p50", "p90", "p99", "p999"] {
        spread(&result["latency_us"][quantile]);
    }
    assert_eq!(result["path"]["direct_share"], 0.0);
    assert_eq!(result["path"]["asked_share"], 1.0);
    assert!(["uring", "threads"].contains(&result["path"]["engine"].as_str().unwrap()));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_path_that_was_not_taken_fails_when_it_is_required() {
    let Some(dir) = tmpfs() else { return };
    let args = ["random", "--read", "--direct", "--json"];
    let asked = bench(dir.path(), &args).exits(0);
    assert_eq!(asked.json()["results"][0]["path"]["asked_share"], 0.0);
    assert!(asked.stderr.contains("0.0 % of the bytes took the path asked for"), "{asked:?}");
    let required = bench(dir.path(), &[&args[..], &["--require-path"]].concat()).exits(1);
    let caveats = required.json()["results"][0]["path"]["caveats"].to_string();
    assert!(caveats.contains("tmpfs"), "{caveats}");
}

#[test]
fn direct_reads_on_a_disk_are_proven() {
    let dir = here();
    let ran = bench(dir.path(), &["random", "--read", "--direct", "--json"]).exits(0);
    let path = &ran.json()["results"][0]["path"];
    if path["direct_alignment"].is_null() {
        eprintln!("skipped: no direct I/O where the tests are");
        return;
    }
    assert_eq!(path["direct_share"], 1.0, "{path}");
    bench(dir.path(), &["random", "--read", "--direct", "--require-path"]).exits(0);
}

#[test]
fn data_is_written_over_only_with_destroy() {
    let dir = here();
    let path = dir.path().join("precious");
    fs::write(&path, vec![7; 1 << 20]).unwrap();
    bench(&path, &["sequential", "--write"]).complains(&["precious", "its data"]);
    bench(&path, &["random", "--mix", "50"]).complains(&["precious", "its data"]);
    assert!(fs::read(&path).unwrap().iter().all(|&b| b == 7));
    bench(&path, &["sequential", "--write", "--destroy"]).exits(0);
    assert!(fs::read(&path).unwrap().iter().any(|&b| b != 7));
}

#[test]
fn wrong_usage_is_told_and_exits_with_2() {
    let dir = here();
    for wrong in [
        &["random", "--read", "--write"][..],
        &["random", "--mix", "0"],
        &["random", "--queue-depth", "0"],
        &["random", "--engine", "mmap", "--write"],
        &["random", "--engine", "mmap", "--direct"],
        &["backwards"],
    ] {
        let ran = bench(dir.path(), wrong);
        assert_eq!(ran.code, 2, "{wrong:?}: {ran:?}");
        assert!(ran.stderr.contains("error: "), "{ran:?}");
    }
    let missing = PathBuf::from("/nowhere/at/all");
    bench(&missing, &["random"]).complains(&["/nowhere/at/all"]);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_sweep_makes_a_table_and_a_picture() {
    let dir = here();
    let plot = dir.path().join("plot.svg");
    let more = ["random", "--block-size", "4KiB,64KiB", "--queue-depth", "1,8", "--plot"];
    let ran = bench(dir.path(), &[&more[..], &[plot.to_str().unwrap(), "--json"]].concat());
    assert_eq!(ran.exits(0).json()["results"].as_array().unwrap().len(), 4);
    assert!(fs::read_to_string(plot).unwrap().contains("64 KiB p99"));
}

#[test]
fn the_fio_command_is_one_that_fio_takes() {
    let dir = here();
    let path = dir.path().join("data");
    fs::write(&path, vec![7; 1 << 20]).unwrap();
    let ran = bench(&path, &["random", "--queue-depth", "8", "--emit-fio"]).exits(0);
    let mut words = ran.stdout.split_whitespace();
    assert_eq!(words.next(), Some("fio"));
    let Ok(fio) = Command::new("fio").args(words).args(["--runtime=1", "--ramp_time=0"]).output()
    else {
        eprintln!("skipped: fio is not installed");
        return;
    };
    assert!(fio.status.success(), "{fio:?}");
    let result: Value = serde_json::from_slice(&fio.stdout).unwrap();
    assert!(result["jobs"][0]["read"]["iops"].as_f64().unwrap() > 0.0);
    assert!(fs::read(&path).unwrap().iter().all(|&b| b == 7));
}

#[test]
fn names_are_measured() {
    let dir = here();
    let ran = forebay([
        "bench".as_ref(),
        "storage".as_ref(),
        dir.path().as_os_str(),
        "--metadata".as_ref(),
        "--files".as_ref(),
        "50".as_ref(),
        "--json".as_ref(),
    ]);
    let operations = ran.exits(0).json()["metadata"].clone();
    let names: Vec<_> =
        operations.as_array().unwrap().iter().map(|o| o["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["create", "stat", "open", "list", "rename", "unlink"]);
}

#[test]
fn a_checkpoint_is_saved_and_restored() {
    let dir = here();
    let path = dir.path().to_str().unwrap();
    let ran = forebay([
        "bench",
        "checkpoint",
        path,
        "--writers",
        "2",
        "--size",
        "3MiB",
        "--repeats",
        "2",
        "--json",
    ]);
    let times = &ran.exits(0).json()["checkpoint"];
    assert!(times["save_seconds"]["median"].as_f64().unwrap() > 0.0, "{times}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

/// As most containers do: `io_uring_setup` answers `EPERM`.
fn without_rings(command: &mut Command) -> &mut Command {
    const IO_URING_SETUP: u32 = 425;
    let op = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter { code: code as u16, jt, jf, k };
    let filter = [
        op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, IO_URING_SETUP),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let install = move || {
        let mut filter = filter;
        let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
        // SAFETY: both calls only change this process; the kernel copies the program.
        let refused = unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
                || libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program)
                    != 0
        };
        if refused { Err(std::io::Error::last_os_error()) } else { Ok(()) }
    };
    // SAFETY: between fork and exec only two system calls are made, and nothing is allocated.
    unsafe { command.pre_exec(install) }
}

#[test]
fn where_io_uring_is_forbidden_threads_do_it_and_say_so() {
    let dir = here();
    let common = ["--size", "1MiB", "--seconds", "0.1", "--warm-up", "0", "--repeats", "1"];
    let start = |engine: &str| {
        let mut command = binary();
        command.args(["bench", "storage"]).arg(dir.path()).args(common);
        command.args(["--direct", "--engine", engine]);
        ran(without_rings(&mut command))
    };
    let fallen = start("auto").exits(0);
    assert!(fallen.stdout.contains("path     threads"), "{fallen:?}");
    assert!(fallen.stdout.contains("without io_uring: Operation not permitted"), "{fallen:?}");
    assert!(fallen.stdout.contains("seccomp"), "{fallen:?}");
    start("uring").complains(&["uring", "Operation not permitted"]);
    // What stands on queues works the same.
    let from = dir.path().join("from");
    fs::write(&from, vec![3; 9 << 20]).unwrap();
    let mut copy = binary();
    copy.args(["fs", "cp", "--verify"]).arg(&from).arg(dir.path().join("to"));
    ran(without_rings(&mut copy)).exits(0);
    assert!(fs::read(dir.path().join("to")).unwrap() == vec![3; 9 << 20]);
}

#[test]
fn where_memory_may_not_be_pinned_the_ring_works_without() {
    if !rustix::process::getuid().is_root() {
        eprintln!("skipped: only root may become nobody");
        return;
    }
    // The build is out of reach for nobody, so the program goes where it is not.
    let dir = tempfile::tempdir().unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    fs::set_permissions(dir.path(), open).unwrap();
    let program = dir.path().join("forebay");
    fs::copy(env!("CARGO_BIN_EXE_forebay"), &program).unwrap();
    let mut command = Command::new(&program);
    command.args(["bench", "storage"]).arg(dir.path()).args(["--block-size", "1MiB"]);
    command.args(["--size", "4MiB", "--once", "--warm-up", "0", "--repeats", "1"]);
    command.uid(65_534).gid(65_534);
    let limit = libc::rlimit { rlim_cur: 64 << 10, rlim_max: 64 << 10 };
    // SAFETY: between fork and exec one system call is made, and nothing is allocated.
    unsafe {
        command.pre_exec(move || match libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
    let fallen = ran(&mut command).exits(0);
    if fallen.stdout.contains("path     threads") {
        eprintln!("skipped: no io_uring here");
        return;
    }
    assert!(fallen.stdout.contains("uring, registered files on"), "{fallen:?}");
    assert!(fallen.stdout.contains("ulimit -l"), "{fallen:?}");
}
