//! Batches on a device are those of the host, on the stub of the driver; and what is told without one.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use forebay_load::device::{Column, DeviceConfig, DeviceLoader, Made, Way};
use forebay_load::{Batch, Config, Dtype, Ids, Loader, Sampling};

use crate::load::all_columns;
use crate::support::*;

/// The stub: delays and faults are of the whole process, so one test at a time.
struct Stub(*mut libc::c_void, #[expect(dead_code, reason = "held")] MutexGuard<'static, ()>);

static TURN: Mutex<()> = Mutex::new(());

/// Where the stubs are; `None`, and why, without a C compiler.
fn stubs() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let directory = root.join("target/stub-cuda");
    let changed = |path: PathBuf| std::fs::metadata(path).and_then(|m| m.modified()).ok();
    let sources = [
        "tools/stub-cuda/stub_cuda.c",
        "tools/stub-cuda/stub_cufile.c",
        "crates/gpu/src/kernels/kernels.cu",
    ];
    let newest = sources.iter().filter_map(|source| changed(root.join(source))).max();
    if changed(directory.join("libcufile.so.0")) < newest {
        if Command::new("cc").arg("--version").output().is_err() {
            eprintln!("skipped: no C compiler to build the stub of the CUDA driver with");
            return None;
        }
        let built = Command::new(root.join("tools/stub-cuda/build")).arg(&directory).output();
        let built = built.unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    }
    Some(directory)
}

fn stub() -> Option<Stub> {
    let path = stubs()?.join("libcuda.so.1");
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    // SAFETY: our own library, which starts nothing when loaded; the path ends in zero.
    let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
    assert!(!handle.is_null());
    Some(Stub(handle, TURN.lock().unwrap_or_else(PoisonError::into_inner)))
}

impl Stub {
    fn symbol(&self, name: &str) -> *mut libc::c_void {
        let name = CString::new(name).unwrap();
        // SAFETY: the library stays loaded; the name ends in zero.
        let found = unsafe { libc::dlsym(self.0, name.as_ptr()) };
        assert!(!found.is_null());
        found
    }

    fn delay(&self, microseconds: u32) {
        type Delay = unsafe extern "C" fn(u32);
        // SAFETY: the type is that of the stub's function.
        unsafe {
            std::mem::transmute::<*mut libc::c_void, Delay>(self.symbol("stub_delay"))(
                microseconds,
            );
        };
    }

    fn fail(&self, call: &str, nth: i64) {
        type Fail = unsafe extern "C" fn(*const libc::c_char, i64);
        let call = CString::new(call).unwrap();
        let symbol = self.symbol("stub_fail");
        // SAFETY: the type is that of the stub's function; the name ends in zero.
        unsafe { std::mem::transmute::<*mut libc::c_void, Fail>(symbol)(call.as_ptr(), nth) };
    }
}

fn open(config: &Config, ahead: usize) -> DeviceLoader {
    let device = DeviceConfig { ahead, ..DeviceConfig::new(0) };
    DeviceLoader::open(&[(prepared(), 1.0)], false, config.clone(), device).unwrap()
}

fn numbers(bytes: &[u8], dtype: Dtype) -> Vec<i64> {
    let width = if dtype == Dtype::I64 { 8 } else { 4 };
    let number = |bytes: &[u8]| match dtype {
        Dtype::I64 => i64::from_le_bytes(bytes.try_into().unwrap()),
        Dtype::I32 => i32::from_le_bytes(bytes.try_into().unwrap()).into(),
        Dtype::U32 => u32::from_le_bytes(bytes.try_into().unwrap()).into(),
    };
    bytes.chunks_exact(width).map(number).collect()
}

/// Takes the next batch of both and compares all columns.
#[track_caller]
fn equal(on_device: &mut DeviceLoader, on_host: &mut Loader, what: &str) {
    let mut expected = Batch::default();
    on_host.next_batch(&mut expected).unwrap();
    let Made::Device(found) = on_device.next_batch(Batch::default()).unwrap() else {
        panic!("{what}: a batch on the host");
    };
    let dtype = on_host.config().dtype;
    let ids = |column: Column, expected: &Ids| {
        let found = numbers(&found.columns.fetch(column).unwrap(), dtype);
        assert!(found == expected.to_i64(), "{what}: {column:?} of step {}", found.len());
    };
    ids(Column::InputIds, &expected.input_ids);
    ids(Column::Labels, &expected.labels);
    ids(Column::PositionIds, &expected.position_ids);
    let documents = numbers(&found.columns.fetch(Column::DocumentIds).unwrap(), Dtype::I64);
    assert_eq!(documents, expected.document_ids, "{what}");
    assert_eq!(found.columns.fetch(Column::LossMask).unwrap(), expected.loss_mask, "{what}");
    let ends = numbers(&found.columns.fetch(Column::CuSeqlens).unwrap(), Dtype::I32);
    let expected_ends: Vec<i64> = expected.cu_seqlens.iter().map(|&end| end.into()).collect();
    assert_eq!(ends, expected_ends, "{what}");
    assert_eq!(found.host.max_seqlen, expected.max_seqlen, "{what}");
    assert_eq!((found.host.step, found.host.epoch), (expected.step, expected.epoch), "{what}");
    assert_eq!(found.host.samples, expected.samples, "{what}");
    assert_eq!(on_device.state(), on_host.state(), "{what}");
}

#[test]
fn batches_on_a_device_are_those_of_the_host() {
    let Some(stub) = stub() else { return };
    stub.delay(300);
    for sampling in [Sampling::Concat, Sampling::Documents, Sampling::BestFit] {
        for (dtype, seq_len, drop_last, prefetch, ahead) in [
            (Dtype::I64, 256, true, 0, 0),
            (Dtype::I32, 100, false, 2, 3),
            (Dtype::U32, 1023, false, 1, 1),
        ] {
            let mut config = Config::new(seq_len, 3);
            (config.sampling, config.dtype, config.drop_last) = (sampling, dtype, drop_last);
            (config.prefetch, config.columns) = (prefetch, all_columns());
            (config.rank, config.world_size) = (1, 2);
            let what = format!("{sampling:?} {dtype:?} {seq_len}");
            let (mut device, mut host) =
                (open(&config, ahead), Loader::open(prepared(), config).unwrap());
            for _ in 0..6 {
                equal(&mut device, &mut host, &what);
            }
            // The last batch of an epoch, and the first of the next.
            let last = host.steps().unwrap() - 1;
            device
                .change(|loader| {
                    loader.seek(last);
                    Ok(())
                })
                .unwrap();
            host.seek(last);
            for _ in 0..3 {
                equal(&mut device, &mut host, &what);
            }
        }
    }
    stub.delay(0);
}

#[test]
fn mixtures_and_tokens_of_other_widths_are_those_of_the_host() {
    let Some(stub) = stub() else { return };
    stub.delay(200);
    let dir = temp();
    let narrow = dir.path().join("narrow");
    prep(&[&sample()], &narrow, &["--format", "megatron"]).exits(0);
    let mut config = Config::new(200, 4);
    config.columns = all_columns();
    let datasets = [(prepared(), 0.5), (narrow.as_path(), 0.5)];
    let mut host = Loader::open_mixture(&datasets, config.clone()).unwrap();
    let mut device = DeviceLoader::open(&datasets, true, config, DeviceConfig::new(0)).unwrap();
    for _ in 0..12 {
        equal(&mut device, &mut host, "mixture");
    }
    stub.delay(0);
}

#[test]
fn a_device_that_fails_is_told_or_left_and_no_batch_is_lost() {
    let Some(stub) = stub() else { return };
    let config = Config::new(128, 2);
    for fall_back in [false, true] {
        let wish = DeviceConfig { fall_back, ..DeviceConfig::new(0) };
        let mut device =
            DeviceLoader::open(&[(prepared(), 1.0)], false, config.clone(), wish).unwrap();
        let mut host = Loader::open(prepared(), config.clone()).unwrap();
        let mut expected = Batch::default();
        let mut told = None;
        for step in 0..8 {
            if step == 4 {
                stub.fail("cuLaunchKernel", 1);
            }
            host.next_batch(&mut expected).unwrap();
            match device.next_batch(Batch::default()) {
                Ok(Made::Device(found)) => {
                    let ids = numbers(&found.columns.fetch(Column::InputIds).unwrap(), Dtype::I64);
                    assert_eq!(ids, expected.input_ids.to_i64(), "step {step}");
                }
                Ok(Made::Host(found)) => {
                    assert!(fall_back && step >= 4, "step {step}");
                    assert_eq!(found.input_ids, expected.input_ids, "step {step}");
                }
                Err(error) => {
                    told = Some(error);
                    break;
                }
            }
        }
        stub.fail("cuLaunchKernel", 0);
        if fall_back {
            assert!(told.is_none());
            let path = device.io_path();
            assert_eq!(path.way, Way::Host);
            assert!(path.reason.contains("fell back: CUDA cannot start a kernel"), "{path}");
        } else {
            let error = told.unwrap();
            assert!(error.to_string().contains("CUDA_ERROR_ILLEGAL_ADDRESS"), "{error}");
            assert!(error.hint().is_some());
            // The batch that was not made comes when the device works again.
            let Made::Device(found) = device.next_batch(Batch::default()).unwrap() else {
                panic!()
            };
            let ids = numbers(&found.columns.fetch(Column::InputIds).unwrap(), Dtype::I64);
            assert_eq!(ids, expected.input_ids.to_i64());
        }
    }
}

#[test]
fn a_consumer_that_holds_batches_meets_the_limit_and_goes_on_when_it_lets_go() {
    let Some(_stub) = stub() else { return };
    let config = Config::new(512, 4);
    let wish = DeviceConfig { memory: 300_000, ahead: 1, ..DeviceConfig::new(0) };
    let mut device = DeviceLoader::open(&[(prepared(), 1.0)], false, config.clone(), wish).unwrap();
    let mut host = Loader::open(prepared(), config).unwrap();
    let (mut held, mut expected) = (Vec::new(), Batch::default());
    let error = loop {
        match device.next_batch(Batch::default()) {
            Ok(Made::Device(batch)) => held.push(batch),
            Ok(Made::Host(_)) => panic!("a batch on the host"),
            Err(error) => break error,
        }
    };
    assert!(error.to_string().starts_with("batches in use: expected at most 300000"), "{error}");
    assert!(held.len() >= 2);
    let taken = held.len();
    drop(held);
    (0..=taken).for_each(|_| host.next_batch(&mut expected).unwrap());
    let Made::Device(found) = device.next_batch(Batch::default()).unwrap() else { panic!() };
    let ids = numbers(&found.columns.fetch(Column::InputIds).unwrap(), Dtype::I64);
    assert_eq!(ids, expected.input_ids.to_i64());
}

#[test]
fn the_command_line_loads_to_a_device_and_says_by_which_path() {
    let Some(stubs) = stubs() else { return };
    let with_stub = |arguments: &[&str]| {
        let mut command = binary();
        command.env("LD_LIBRARY_PATH", &stubs).env("XDG_CACHE_HOME", &stubs);
        ran(command.arg("load").arg(prepared()).args(arguments))
    };
    let common = ["--seq-len", "64", "--batch-size", "2", "--steps", "5", "--json"];
    let device = with_stub(&[&common[..], &["--device", "cuda:0", "--print", "3"]].concat());
    let device = device.exits(0).json();
    assert_eq!(device["io_path"]["way"], "pinned");
    assert_eq!(device["device"], "Stub of a GPU");
    let mut loader = Loader::open(prepared(), Config::new(64, 2)).unwrap();
    let mut batch = Batch::default();
    loader.next_batch(&mut batch).unwrap();
    assert_eq!(device["printed"][0], serde_json::json!(batch.rows()[0]));
    assert_eq!(device["printed"].as_array().unwrap().len(), 3);
    // Four bytes a token of ours, and the tables; not the eight of its columns.
    let bytes = device["device_bytes"].as_u64().unwrap() as f64;
    assert!(bytes / (7.0 * 128.0) < 6.0, "{bytes} bytes");
    let bench = [&common[..], &["--device", "cuda:0", "--bench", "--step-time", "1"]].concat();
    let bench = with_stub(&bench).exits(0).json();
    assert_eq!(bench["tokens"], 640);
    with_stub(&["--device", "cuda:9", "--steps", "1"]).complains(&["cuda:9", "1 devices"]);
    let left =
        with_stub(&["--device", "cuda:9", "--steps", "1", "--on-device-error", "host", "--json"]);
    let reason = left.exits(0).json()["io_path"]["reason"].as_str().unwrap().to_owned();
    assert!(reason.starts_with("fell back: cuda:9 is not here"), "{reason}");
    with_stub(&["--device", "gpu"]).exits(2);
}

#[test]
fn bench_gpu_measures_every_way_and_proves_direct_reads() {
    let Some(stubs) = stubs() else { return };
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let file = write(dir.path().join("file"), vec![7; 3 << 20]);
    let run = |mode: &str, more: &[&str]| {
        let mut command = binary();
        command
            .env("LD_LIBRARY_PATH", &stubs)
            .env("STUB_CUFILE", mode)
            .env("XDG_CACHE_HOME", &stubs);
        command.args(["bench", "gpu"]).arg(&file).args([
            "--copies",
            "64KiB",
            "--kernel-size",
            "64KiB",
        ]);
        command.args(["--block-size", "256KiB", "--queue-depth", "2", "--lanes", "2"]);
        ran(command.args(["--repeats", "1", "--json"]).args(more))
    };
    let found = run("p2p", &[]).exits(0).json();
    let ways: Vec<_> =
        found["storage"].as_array().unwrap().iter().map(|s| &s["path"]["way"]).collect();
    assert_eq!(ways, ["gds", "gds", "pinned", "pinned", "host", "host"]);
    assert!(found["storage"][0]["proof"].as_str().unwrap().starts_with("GPU-direct: yes"));
    assert!(found["link"][0]["pinned_bytes_per_second"]["median"].as_f64().unwrap() > 0.0);
    assert_eq!(found["kernels"].as_array().unwrap().len(), 2);
    // What libcufile does over the host is not called gds.
    let dataset = prepared().to_str().unwrap();
    let found = run(
        "posix",
        &["--dataset", dataset, "--seq-len", "64", "--steps", "3", "--step-time", "0"],
    );
    let found = found.exits(0).json();
    assert!(found["storage"].as_array().unwrap().iter().all(|s| s["path"]["way"] != "gds"));
    assert_eq!(found["loader"][0]["tokens"], 3 * 8 * 64);
}

#[test]
fn without_a_driver_the_error_says_so_and_the_host_goes_on() {
    // Nothing here may find a driver by itself; on a machine that has one this says nothing.
    if forebay_load::device::Device::open(0).is_ok() {
        return eprintln!("skipped: a CUDA driver is here");
    }
    let load = |more: &[&str]| {
        let mut command = binary();
        ran(command
            .arg("load")
            .arg(prepared())
            .args(["--seq-len", "64", "--steps", "2"])
            .args(more))
    };
    load(&["--device", "cuda:0"]).complains(&["a CUDA driver is not here", "libcuda.so.1"]);
    load(&["--device", "cuda:0", "--on-device-error", "host"]).exits(0);
}
