//! On the stub of the driver: everything but the speed.

use std::ffi::OsString;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use crate::kernels::{
    self, Described, Gathered, IGNORED, Kernels, Piece, RAW_PADDING, Segment, twin,
};
use crate::path::{self, IoPath, Prober, Way};
use crate::{BatchRead, CuFile, Device, DeviceMemory, Error, Ring, Shape, Transfer, stub};

fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..length).map(next).collect()
}

fn open() -> Option<(stub::Stub, Device)> {
    let stub = stub::load()?;
    let device = Device::open(0).unwrap();
    assert_eq!((device.name(), device.capability()), ("Stub of a GPU", (9, 0)));
    Some((stub, device))
}

fn put(device: &Device, bytes: &[u8]) -> DeviceMemory {
    let memory = device.alloc(bytes.len().max(1)).unwrap();
    let stream = device.stream().unwrap();
    device.put(memory.region(0..bytes.len()), bytes, &stream).unwrap();
    memory
}

fn i64s(bytes: &[u8], wide: bool) -> Vec<i64> {
    if wide {
        bytes.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap())).collect()
    } else {
        let low = |b: &[u8]| i32::from_le_bytes(b.try_into().unwrap());
        bytes.chunks_exact(4).map(|b| low(b).into()).collect()
    }
}

#[test]
fn a_device_that_is_not_here_is_an_answer() {
    let Some((_stub, _)) = open() else { return };
    let error = Device::open(7).unwrap_err();
    assert!(matches!(error, Error::Absent { .. }), "{error}");
    assert_eq!(error.to_string(), "cuda:7 is not here: 1 devices");
    assert!(error.hint().unwrap().contains("--device cpu"));
    assert_eq!(
        [crate::ordinal("cuda"), crate::ordinal("cuda:3"), crate::ordinal("cpu")],
        [Some(0), Some(3), None]
    );
}

#[test]
fn a_stream_waits_for_the_event_of_another() {
    let Some((stub, device)) = open() else { return };
    stub.delay(3_000);
    let (first, second) = (device.stream().unwrap(), device.stream().unwrap());
    let arena = device.pinned(1 << 16, 1).unwrap();
    let (a, b) = (device.alloc(1 << 16).unwrap(), device.alloc(1 << 16).unwrap());
    for round in 1..20_u8 {
        let mut buffer = arena.lend().unwrap();
        buffer.fill(round);
        let event = device.event().unwrap();
        // SAFETY: the buffer is kept until the fetch below, which comes after the copy.
        unsafe {
            let source = std::ptr::NonNull::from(&buffer[..]).cast();
            device.copy_in(a.whole(), source, &first).unwrap();
        }
        event.record(&first).unwrap();
        second.wait_for(&event).unwrap();
        device.copy_within(a.whole(), b.whole(), &second).unwrap();
        let found = device.fetch(b.whole(), &second).unwrap();
        assert!(found.iter().all(|&byte| byte == round), "round {round}");
    }
    stub.delay(0);
}

/// Rows of random pieces, as a loader makes them: joined or not, padded or not, of any width.
fn pieces(raw_bytes: usize) -> impl Strategy<Value = (Vec<Piece>, u32)> {
    let width = proptest::sample::select(vec![1_u32, 2, 4, 8]);
    let piece = (0_u32..60, any::<bool>(), any::<bool>(), any::<bool>(), any::<u32>(), width);
    proptest::collection::vec(piece, 1..40).prop_map(move |wishes| {
        let mut cell = 0;
        let mut pieces: Vec<Piece> = Vec::new();
        for (inputs, padding, more, joined, place, width) in wishes {
            let inputs = inputs + 1;
            let full = |piece: &Piece| piece.total == piece.inputs && !piece.is_padding();
            let piece = if padding {
                Piece::padding(cell, inputs, place)
            } else {
                let total = inputs + u32::from(more);
                let room = raw_bytes - RAW_PADDING - (total * width) as usize;
                let joined = u32::from(joined && pieces.last().is_some_and(full));
                let source = u64::from(place) % room as u64;
                Piece { source, cell, inputs, total, joined, width, unused: 0 }
            };
            if piece.joined == 0 && more && pieces.last().is_some_and(full) {
                let room = raw_bytes - RAW_PADDING - 8;
                let source = u64::from(place.rotate_left(9)) % room as u64;
                let label = Piece { inputs: 0, total: 1, joined: 1, ..piece };
                pieces.push(Piece { source, width, ..label });
            }
            cell += inputs;
            pieces.push(piece);
        }
        (pieces, cell)
    })
}

#[test]
fn gathered_rows_are_those_of_the_twin() {
    let Some((_stub, device)) = open() else { return };
    let kernels = Kernels::load(&device, None).unwrap();
    let stream = device.stream().unwrap();
    let raw = noise(5000, 3);
    let on_device = put(&device, &raw);
    for wide in [true, false] {
        let mut runner = TestRunner::new(ProptestConfig { cases: 64, ..Default::default() });
        let test = |(pieces, cells): (Vec<Piece>, u32)| {
            let (mut ids, mut labels) = (vec![0; cells as usize], vec![0; cells as usize]);
            twin::gather(&raw, &pieces, &mut ids, &mut labels);
            let table = put(&device, kernels::piece_bytes(&pieces));
            let bytes = cells as usize * if wide { 8 } else { 4 };
            let out = [device.alloc(bytes).unwrap(), device.alloc(bytes).unwrap()];
            let gathered =
                Gathered { wide, cells, ids: out[0].whole(), labels: Some(out[1].whole()) };
            let count = pieces.len() as u32;
            // SAFETY: the table covers all cells and names bytes inside; memory outlives the fetch.
            unsafe {
                let raw = on_device.whole();
                kernels.gather(raw, table.whole(), count, &gathered, &stream).unwrap();
            }
            let low = |ids: Vec<i64>| match wide {
                true => ids,
                false => ids.into_iter().map(|id| (id as i32).into()).collect(),
            };
            let found =
                out.each_ref().map(|m| i64s(&device.fetch(m.whole(), &stream).unwrap(), wide));
            prop_assert_eq!(&found[0], &low(ids));
            prop_assert_eq!(&found[1], &low(labels));
            Ok(())
        };
        runner.run(&pieces(raw.len()), test).unwrap();
    }
}

#[test]
fn the_twin_of_gather_is_a_row_cut_out_of_a_stream() {
    // Four documents of one stream, cut at 5 with a label each: what a loader calls concat.
    let tokens: Vec<u16> = (100..140).collect();
    let raw: Vec<u8> = tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
    let piece = |source, cell, inputs, total, joined| Piece {
        source,
        cell,
        inputs,
        total,
        joined,
        width: 2,
        unused: 0,
    };
    let pieces = [
        piece(0, 0, 3, 3, 0),
        piece(20, 3, 2, 3, 1),
        piece(40, 5, 5, 6, 0),
        Piece::padding(10, 2, 7),
    ];
    let (mut ids, mut labels) = (vec![0; 12], vec![0; 12]);
    twin::gather(&raw, &pieces, &mut ids, &mut labels);
    assert_eq!(ids, [100, 101, 102, 110, 111, 120, 121, 122, 123, 124, 7, 7]);
    let none = IGNORED;
    assert_eq!(labels, [101, 102, 110, 111, 112, 121, 122, 123, 124, 125, none, none]);
}

#[test]
fn described_rows_are_those_of_the_twin() {
    let Some((_stub, device)) = open() else { return };
    let kernels = Kernels::load(&device, None).unwrap();
    let stream = device.stream().unwrap();
    let segments = proptest::collection::vec((1_u32..900, -1_i64..5, 0_u32..2), 1..30);
    let mut runner = TestRunner::new(ProptestConfig { cases: 48, ..Default::default() });
    let test = |wishes: Vec<(u32, i64, u32)>| {
        let mut cell = 0;
        let mut table = Vec::new();
        for (tokens, document, goes_on) in wishes {
            table.push(Segment { document, cell, tokens, goes_on, unused: 0 });
            cell += tokens;
        }
        let expected = twin::describe(&table);
        let all = cell as usize;
        for wide in [true, false] {
            let on_device = put(&device, kernels::segment_bytes(&table));
            let sizes = [all * if wide { 8 } else { 4 }, 8 * all, all, 4 * (table.len() + 1)];
            let out = sizes.map(|bytes| device.alloc(bytes).unwrap());
            let wanted = Described {
                positions: Some(out[0].whole()),
                documents: Some(out[1].whole()),
                mask: Some(out[2].whole()),
                cu_seqlens: Some(out[3].whole()),
            };
            let count = table.len() as u32;
            // SAFETY: the table covers all cells; memory outlives the fetch.
            unsafe {
                let table = on_device.whole();
                kernels.describe(table, count, cell, wide, &wanted, &stream).unwrap();
            }
            let found = out.each_ref().map(|m| device.fetch(m.whole(), &stream).unwrap());
            prop_assert_eq!(i64s(&found[0], wide), expected.positions.clone());
            prop_assert_eq!(i64s(&found[1], true), expected.documents.clone());
            prop_assert_eq!(&found[2], &expected.mask);
            let ends: Vec<i64> = expected.cu_seqlens.iter().map(|&end| end.into()).collect();
            prop_assert_eq!(i64s(&found[3], false), ends);
        }
        Ok(())
    };
    runner.run(&segments, test).unwrap();
}

#[test]
fn a_device_hashes_as_blake3_does_and_as_an_index_keeps_it() {
    use blake3::hazmat::HasherExt;
    let Some((_stub, device)) = open() else { return };
    let kernels = Kernels::load(&device, None).unwrap();
    let stream = device.stream().unwrap();
    let mib = 1 << 20;
    let lengths = [0, 1, 63, 64, 65, 1023, 1024, 1025, 3072, 5000, mib - 1, mib, mib + 1];
    for length in lengths.into_iter().chain([2 * mib + 1024, 3 * mib + 4321]) {
        let bytes = noise(length, length as u64);
        let memory = put(&device, &bytes);
        let scratch = device.alloc(Kernels::hash_scratch_bytes(length)).unwrap();
        let data = memory.region(0..length);
        // SAFETY: memory outlives the fetch.
        let root = unsafe { kernels.hash(data, &scratch, false, &stream).unwrap() };
        let found = device.fetch(root.part(0..32), &stream).unwrap();
        assert_eq!(found, twin::hash(&bytes), "{length} bytes");
        // SAFETY: as above.
        let values = unsafe { kernels.hash(data, &scratch, true, &stream).unwrap() };
        let blocks = length.div_ceil(mib).max(1);
        let found = device.fetch(values.part(0..32 * blocks), &stream).unwrap();
        if length <= mib {
            assert_eq!(found, twin::hash(&bytes), "{length} bytes");
            continue;
        }
        for (at, block) in bytes.chunks(mib).enumerate() {
            let mut hasher = blake3::Hasher::new();
            let value =
                hasher.set_input_offset((at * mib) as u64).update(block).finalize_non_root();
            assert_eq!(found[32 * at..32 * (at + 1)], value, "block {at} of {length} bytes");
        }
    }
}

#[test]
fn regions_that_are_too_short_are_told_before_a_kernel_starts() {
    let Some((stub, device)) = open() else { return };
    let kernels = Kernels::load(&device, None).unwrap();
    let stream = device.stream().unwrap();
    let memory = device.alloc(64).unwrap();
    let launched = stub.calls("cuLaunchKernel");
    let out = Gathered { wide: true, cells: 100, ids: memory.whole(), labels: None };
    // SAFETY: nothing is started.
    let error =
        unsafe { kernels.gather(memory.whole(), memory.whole(), 1, &out, &stream).unwrap_err() };
    assert_eq!(error.to_string(), "bytes of input_ids: expected 800, found 64");
    assert_eq!(stub.calls("cuLaunchKernel"), launched);
}

fn file(directory: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = directory.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn files_arrive_by_every_way_from_any_byte() {
    let Some((stub, device)) = open() else { return };
    stub.delay(300);
    let dir = tempfile::tempdir_in(Path::new(env!("CARGO_MANIFEST_DIR"))).unwrap();
    let contents = [noise(3_000_001, 1), noise(70_000, 2), Vec::new()];
    let files: Vec<PathBuf> =
        (0..3).map(|n| file(dir.path(), &n.to_string(), &contents[n])).collect();
    // Out of the page cache, as far as the kernel listens.
    std::fs::File::open(&files[0]).unwrap().sync_all().unwrap();
    let ranges =
        [(0, 5, 2_900_001), (1, 0, 70_000), (0, 2_999_000, 1_001), (2, 0, 0), (1, 4097, 4096)];
    for (way, direct) in [(Way::Pinned, true), (Way::Pinned, false), (Way::Host, true)] {
        let path = path::choose(Some(way), &device, &files[0], &Prober::default()).unwrap();
        assert_eq!((path.way, path.reason.as_str()), (way, "asked for"));
        let shape = Shape { lanes: 3, slots: 2, slot_bytes: 64 << 10, direct };
        let mut ring = Ring::new(&device, path, shape).unwrap();
        let memory = device.alloc(4 << 20).unwrap();
        let mut at = 0;
        let transfers: Vec<Transfer> = ranges
            .iter()
            .map(|&(file, offset, bytes)| {
                let target = memory.region(at..at + bytes);
                at += bytes;
                Transfer { file, offset, target }
            })
            .collect();
        let waits = stub.calls("cuCtxSynchronize");
        // SAFETY: `memory` is ours and outlives the call.
        let fetched = unsafe { ring.fetch(&files, &transfers).unwrap() };
        assert_eq!(fetched.bytes, at as u64);
        assert_eq!(fetched.direct_bytes + fetched.cached_bytes, at as u64);
        assert!(direct || fetched.direct_bytes == 0);
        assert_eq!(stub.calls("cuCtxSynchronize"), waits, "somebody waited for everything");
        let stream = device.stream().unwrap();
        for (transfer, (file, offset, bytes)) in transfers.iter().zip(ranges) {
            let found = device.fetch(transfer.target, &stream).unwrap();
            let expected = &contents[file][offset as usize..offset as usize + bytes];
            assert!(found == expected, "{way:?}: {bytes} bytes from {offset} of {file}");
        }
    }
    stub.delay(0);
}

#[test]
fn a_file_that_is_too_short_says_so() {
    let Some((_stub, device)) = open() else { return };
    let dir = tempfile::tempdir().unwrap();
    let files = [file(dir.path(), "short", &noise(1000, 1))];
    let path = path::choose(Some(Way::Pinned), &device, &files[0], &Prober::default()).unwrap();
    let mut ring = Ring::new(&device, path, Shape { lanes: 1, ..Shape::default() }).unwrap();
    let memory = device.alloc(4096).unwrap();
    let transfer = Transfer { file: 0, offset: 900, target: memory.region(0..101) };
    // SAFETY: `memory` is ours and outlives the call.
    let error = unsafe { ring.fetch(&files, &[transfer]).unwrap_err() };
    assert!(
        error.to_string().ends_with("ends at byte 1000, wanted 101 bytes from byte 900"),
        "{error}"
    );
    assert!(!error.is_device());
}

#[test]
fn an_error_of_the_device_is_one_message_and_gives_the_slots_back() {
    let Some((stub, device)) = open() else { return };
    let dir = tempfile::tempdir().unwrap();
    let files = [file(dir.path(), "a", &noise(1 << 20, 1))];
    for call in ["cuMemcpyHtoDAsync_v2", "cuEventRecord", "cuEventQuery"] {
        let path = path::choose(Some(Way::Pinned), &device, &files[0], &Prober::default()).unwrap();
        let shape = Shape { lanes: 2, slots: 2, slot_bytes: 64 << 10, direct: true };
        let mut ring = Ring::new(&device, path, shape).unwrap();
        let memory = device.alloc(1 << 20).unwrap();
        let transfer = Transfer { file: 0, offset: 0, target: memory.whole() };
        stub.fail(call, 3);
        // SAFETY: `memory` is ours and outlives the call.
        let error = unsafe { ring.fetch(&files, &[transfer]).unwrap_err() };
        stub.fail(call, 0);
        assert!(error.is_device(), "{call}: {error}");
        assert!(error.to_string().contains("CUDA_ERROR_ILLEGAL_ADDRESS (700)"), "{call}: {error}");
        assert!(error.hint().is_some());
    }
    // Where no memory can be page-locked, the way is over pageable memory, and says why.
    stub.fail("cuMemHostRegister_v2", 1);
    let path = path::choose(None, &device, &files[0], &Prober::default()).unwrap();
    stub.fail("cuMemHostRegister_v2", 0);
    assert_eq!(path.way, Way::Host);
    assert!(path.reason.contains("CUDA cannot page-lock memory"), "{path}");
}

/// Runs the self-test in a child: this binary, the test below, the stubs in front.
fn prober(mode: &str) -> Prober {
    let stubs = stub::build().unwrap();
    let me = std::env::current_exe().unwrap();
    let script = format!(
        "FOREBAY_SELF_TEST=\"$1\" STUB_CUFILE={mode} LD_LIBRARY_PATH={} exec {} \
         tests::self_test_in_a_child --exact --nocapture --test-threads 1",
        stubs.display(),
        me.display()
    );
    Prober { command: ["sh", "-c", &script, "probe"].map(OsString::from).to_vec() }
}

#[test]
fn self_test_in_a_child() {
    let Some(file) = std::env::var_os("FOREBAY_SELF_TEST") else { return };
    path::self_test(Path::new(&file), 0).unwrap();
}

#[test]
fn gds_is_chosen_only_where_libcufile_proves_it() {
    let Some((_stub, device)) = open() else { return };
    let dir = tempfile::tempdir_in(Path::new(env!("CARGO_MANIFEST_DIR"))).unwrap();
    let file = file(dir.path(), "a", &noise(2 << 20, 1));
    let found = path::choose(Some(Way::Gds), &device, &file, &prober("p2p")).unwrap();
    assert_eq!(found.to_string(), "gds: GPU-direct: yes (p2p 1/1)");
    for (mode, expected) in [
        ("posix", "GPU-direct: no (posix 1/1)"),
        ("lies", "its bytes are not those of the file"),
        ("crash", "opening libcufile"),
        ("refuse", "opening libcufile"),
    ] {
        let error = path::choose(Some(Way::Gds), &device, &file, &prober(mode)).unwrap_err();
        assert!(error.to_string().contains(expected), "{mode}: {error}");
    }
}

/// In a process of its own, since libcufile is opened once.
#[test]
fn cufile_reads_single_and_in_batches() {
    let (Some((_stub, device)), Ok(stubs)) = (open(), stub::build()) else { return };
    let me = std::env::current_exe().unwrap();
    let mut child = Command::new(me);
    child.args(["tests::cufile_in_a_child", "--exact", "--nocapture"]);
    child.env("LD_LIBRARY_PATH", &stubs).env("STUB_CUFILE", "p2p").env("FOREBAY_CUFILE", "1");
    let output = child.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    drop(device);
}

#[test]
fn cufile_in_a_child() {
    if std::env::var_os("FOREBAY_CUFILE").is_none() {
        return;
    }
    let device = Device::open(0).unwrap();
    let dir = tempfile::tempdir_in(Path::new(env!("CARGO_MANIFEST_DIR"))).unwrap();
    let content = noise(5_000_000, 9);
    let path = file(dir.path(), "a", &content);
    let way = IoPath { way: Way::Gds, reason: "a test".into(), proof: None };
    let shape = Shape { lanes: 2, slots: 2, slot_bytes: 4 << 20, direct: true };
    let mut ring = Ring::new(&device, way, shape).unwrap();
    let memory = device.alloc(content.len()).unwrap();
    let transfer = Transfer { file: 0, offset: 77, target: memory.region(0..content.len() - 77) };
    // SAFETY: `memory` is ours and outlives the call.
    let fetched = unsafe { ring.fetch(std::slice::from_ref(&path), &[transfer]).unwrap() };
    let stream = device.stream().unwrap();
    assert!(device.fetch(transfer.target, &stream).unwrap() == content[77..]);
    let proof = fetched.proof.unwrap();
    assert!(proof.is_direct() && proof.unaligned > 0, "{proof:?}");

    let library = CuFile::open().unwrap();
    let handle = library.file(std::fs::File::open(&path).unwrap()).unwrap();
    let reads: Vec<BatchRead> = (0..300)
        .map(|n| BatchRead {
            offset: 4096 * (n as u64 * 7 % 1200),
            target: memory.region(n * 4096..(n + 1) * 4096),
        })
        .collect();
    // SAFETY: `memory` is ours and outlives the call.
    unsafe { handle.read_batch(&reads).unwrap() };
    let mut expected = vec![0; 4096];
    for read in &reads {
        std::fs::File::open(&path).unwrap().read_exact_at(&mut expected, read.offset).unwrap();
        assert!(device.fetch(read.target, &stream).unwrap() == expected, "{}", read.offset);
    }
    let past = BatchRead { offset: 4_999_000, target: memory.region(0..4096) };
    // SAFETY: as above.
    assert!(unsafe { handle.read_batch(&[past]) }.is_err());
}
