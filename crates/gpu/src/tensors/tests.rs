//! Written and read back, by every way; and what is refused.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::prelude::*;

use super::{Checkpoint, Memory, NewTensor, Saver, load, load_host, save};
use crate::kernels::Kernels;
use crate::path::{self, Prober, Way};
use crate::{Device, Error, Ring, Shape, stub};

fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at.wrapping_mul(2_654_435_761) >> 11) as u8).collect()
}

fn tensor<'a>(name: &str, dtype: &str, shape: &[u64], bytes: &'a [u8]) -> NewTensor<'a> {
    let (name, dtype) = (name.to_owned(), dtype.to_owned());
    NewTensor { name, dtype, shape: shape.to_vec(), memory: Memory::Host(bytes) }
}

fn saver() -> Saver {
    Saver { verify: true, threads: 2, ..Saver::default() }
}

/// As another writer would: the header without spaces, so that nothing is aligned.
fn write(path: &Path, header: &str, data: &[u8]) {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.extend_from_slice(data);
    std::fs::write(path, file).unwrap();
}

#[test]
fn what_is_saved_is_loaded_on_the_host() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.safetensors");
    let data = bytes(9_000_000);
    let tensors = vec![
        tensor("small", "U8", &[3], &data[..3]),
        tensor("large", "F32", &[2, 1_100_000], &data[..8_800_000]),
        tensor("none", "F64", &[0, 7], &[]),
        tensor("scalar", "I64", &[], &data[100..108]),
        tensor("half", "BF16", &[5], &data[..10]),
    ];
    let mut saver = saver();
    saver.metadata.insert("step".into(), "12".into());
    // SAFETY: all of it is memory of the host.
    let saved = unsafe { save(&path, tensors.clone(), &saver).unwrap() };
    assert_eq!(saved.bytes, std::fs::metadata(&path).unwrap().len());
    let loaded = load_host(&path, 3).unwrap();
    assert_eq!(loaded.checkpoint.metadata["step"], "12");
    assert_eq!(loaded.checkpoint.tensors.len(), tensors.len());
    for (found, place) in loaded.checkpoint.tensors.iter().zip(&loaded.places) {
        let written = tensors.iter().find(|t| t.name == found.name).unwrap();
        let Memory::Host(expected) = written.memory else { unreachable!() };
        assert_eq!((&found.dtype, &found.shape), (&written.dtype, &written.shape));
        let memory = &loaded.files[place.0].bytes()[place.1..place.1 + found.bytes as usize];
        assert!(memory == expected, "{}", found.name);
    }
    assert!(std::fs::read_dir(dir.path()).unwrap().count() == 1, "a temporary file is left");
}

#[test]
fn device_memory_is_saved_verified_and_loaded() {
    let Some(stub) = stub::load() else { return };
    stub.delay(300);
    let device = Device::open(0).unwrap();
    let kernels = Arc::new(Kernels::load(&device, None).unwrap());
    let stream = device.stream().unwrap();
    let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let data = bytes(6_000_000);
    let memory = device.alloc(data.len()).unwrap();
    device.put(memory.whole(), &data, &stream).unwrap();
    let parts = [
        ("a", "F32", 0..5_000_000),
        ("b", "U8", 5_000_000..5_000_003),
        ("c", "U8", 5_000_003..6_000_000),
    ];
    let tensors: Vec<NewTensor<'_>> = parts
        .iter()
        .map(|(name, dtype, range)| NewTensor {
            name: (*name).into(),
            dtype: (*dtype).into(),
            shape: vec![range.len() as u64 / if *dtype == "F32" { 4 } else { 1 }],
            memory: Memory::Device(memory.region(range.clone())),
        })
        .collect();
    let path = dir.path().join("model.safetensors");
    let saver = Saver { device: Some((device.clone(), kernels)), ..saver() };
    // SAFETY: `memory` was written above, and that was waited for.
    unsafe { save(&path, tensors.clone(), &saver).unwrap() };
    for way in [Way::Pinned, Way::Host] {
        let path = path::choose(Some(way), &device, &path, &Prober::default()).unwrap();
        let mut ring = Ring::new(&device, path, Shape { lanes: 2, ..Shape::default() }).unwrap();
        let loaded = load(dir.path(), &mut ring).unwrap();
        for (found, (memory, first)) in loaded.checkpoint.tensors.iter().zip(&loaded.places) {
            let range = parts.iter().find(|(name, ..)| *name == found.name).unwrap().2.clone();
            let region = memory.region(*first..first + found.bytes as usize);
            assert!(device.fetch(region, &stream).unwrap() == data[range], "{}", found.name);
        }
    }
    // A device that returns something else is found out before the file has its name.
    let other = dir.path().join("other.safetensors");
    stub.fail("cuMemcpyDtoHAsync_v2", 1);
    // SAFETY: as above.
    let error = unsafe { save(&other, tensors, &saver).unwrap_err() };
    stub.fail("cuMemcpyDtoHAsync_v2", 0);
    stub.delay(0);
    assert!(error.is_device(), "{error}");
    assert!(!other.exists());
}

#[test]
fn tensors_that_other_writers_left_unaligned_are_moved() {
    let Some(_stub) = stub::load() else { return };
    let device = Device::open(0).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("odd.safetensors");
    let header = "{\"b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},\
                  \"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[1,9]}}";
    let data = bytes(9);
    write(&path, header, &data);
    let way = path::choose(Some(Way::Pinned), &device, &path, &Prober::default()).unwrap();
    let mut ring = Ring::new(&device, way, Shape { lanes: 1, ..Shape::default() }).unwrap();
    let loaded = load(&path, &mut ring).unwrap();
    let (memory, first) = &loaded.places[1];
    assert!((memory.pointer() + *first as u64).is_multiple_of(4));
    let region = memory.region(*first..first + 8);
    assert_eq!(device.fetch(region, &device.stream().unwrap()).unwrap(), data[1..]);
    let host = load_host(&path, 1).unwrap();
    let (file, first) = host.places[1];
    assert!((host.files[file].bytes()[first..].as_ptr() as usize).is_multiple_of(4));
    assert_eq!(host.files[file].bytes()[first..first + 8], data[1..]);
}

#[test]
fn an_index_names_files_and_their_tensors() {
    let dir = tempfile::tempdir().unwrap();
    let data = bytes(64);
    for (file, name) in [("1.safetensors", "x"), ("2.safetensors", "y")] {
        let tensors = vec![tensor(name, "F32", &[4, 4], &data)];
        // SAFETY: all of it is memory of the host.
        unsafe { save(&dir.path().join(file), tensors, &saver()).unwrap() };
    }
    let index = dir.path().join("model.safetensors.index.json");
    let write = |map: &str| std::fs::write(&index, format!("{{\"weight_map\": {map}}}")).unwrap();
    write("{\"x\": \"1.safetensors\", \"y\": \"2.safetensors\"}");
    for path in [dir.path(), &index] {
        let found = Checkpoint::open(path).unwrap();
        assert_eq!((found.files.len(), found.tensors.len(), found.bytes()), (2, 2, 128));
    }
    for (map, expected) in [
        ("{\"x\": \"2.safetensors\"}", "tensor \"x\""),
        ("{\"x\": \"../1.safetensors\"}", "file of \"x\": expected a name"),
        ("[]", "weight_map"),
    ] {
        write(map);
        let error = Checkpoint::open(&index).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn files_that_are_none_are_told_with_what_and_where() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bad.safetensors");
    let entry = |dtype: &str, shape: &str, offsets: &str| {
        format!("{{\"a\":{{\"dtype\":\"{dtype}\",\"shape\":{shape},\"data_offsets\":{offsets}}}}}")
    };
    for (header, expected) in [
        (entry("F31", "[1]", "[0,4]"), "dtype of \"a\""),
        (entry("F32", "[-1]", "[0,4]"), "shape of \"a\""),
        (entry("F32", "[2]", "[0,4]"), "bytes of \"a\": expected 8, found 4"),
        (entry("F32", "[18446744073709551615,9]", "[0,4]"), "bytes of \"a\""),
        (entry("F32", "[1]", "[4,0]"), "data_offsets of \"a\""),
        (entry("F32", "[1]", "[4,8]"), "end of \"a\""),
        (entry("F32", "[2]", "[0,8]"), "end of \"a\""),
        (entry("U8", "[3]", "[0,3]"), "size: expected"),
        ("[]".into(), "header: expected a JSON object"),
    ] {
        write(&path, &header, &[0; 4]);
        let error = Checkpoint::open(&path).unwrap_err();
        assert!(matches!(error, Error::Tensors { .. }), "{error}");
        assert!(error.to_string().contains(expected), "{header}: {error}");
        assert!(error.hint().is_some());
    }
    // A hole before the first tensor.
    write(&path, &entry("F32", "[1]", "[4,8]"), &[0; 8]);
    let error = Checkpoint::open(&path).unwrap_err();
    assert!(error.to_string().contains("start of \"a\""), "{error}");
    for content in [&b"short"[..], &[255; 16], &[9, 0, 0, 0, 0, 0, 0, 0, 1]] {
        std::fs::write(&path, content).unwrap();
        assert!(Checkpoint::open(&path).is_err());
    }
    let missing: PathBuf = dir.path().join("missing");
    assert!(Checkpoint::open(&missing).unwrap_err().hint().is_some());
    let wrong = vec![tensor("a", "F32", &[2], &[0; 4])];
    // SAFETY: all of it is memory of the host.
    let error = unsafe { save(&path, wrong, &saver()).unwrap_err() };
    assert!(error.to_string().starts_with("bytes of \"a\": expected those of shape"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..Default::default() })]

    /// No header makes the reader panic or name bytes outside of the file.
    #[test]
    fn a_header_of_anything_is_an_error_or_lies_inside(
        start in 0_u64..200, length in 0_u64..200, shape in 0_u64..60, cut in 0_usize..220,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("any.safetensors");
        let end = start + length;
        let header = format!(
            "{{\"a\":{{\"dtype\":\"F32\",\"shape\":[{shape}],\"data_offsets\":[{start},{end}]}}}}"
        );
        write(&path, &header, &[1; 200]);
        let all = std::fs::read(&path).unwrap();
        std::fs::write(&path, &all[..all.len().saturating_sub(cut)]).unwrap();
        if let Ok(found) = Checkpoint::open(&path) {
            let tensor = &found.tensors[0];
            prop_assert!(tensor.offset + tensor.bytes <= found.sizes[0]);
        }
    }
}
