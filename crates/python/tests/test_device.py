"""Batches and tensors on a device, on the stub of the CUDA driver: its device memory is readable."""

import ctypes
import json
import os
import pathlib
import shutil
import subprocess

import numpy as np
import pytest

import forebay

ROOT = pathlib.Path(__file__).resolve().parents[3]
COLUMNS = ["labels", "position_ids", "cu_seqlens", "document_ids", "loss_mask", "samples"]


@pytest.fixture(scope="module")
def cuda(tmp_path_factory):
    """The stub, loaded first, so that it is what `libcuda.so.1` means in this process."""
    if not shutil.which("cc"):
        pytest.skip("skipped: no C compiler to build the stub of the CUDA driver with")
    out = tmp_path_factory.mktemp("stub")
    subprocess.run([ROOT / "tools/stub-cuda/build", out], check=True)
    stub = ctypes.CDLL(str(out / "libcuda.so.1"), mode=ctypes.RTLD_GLOBAL)
    stub.stub_calls.restype = ctypes.c_long
    stub.stub_fail.argtypes = [ctypes.c_char_p, ctypes.c_long]
    return stub


class Tensor(ctypes.Structure):
    """`DLTensor` of dlpack.h."""

    _fields_ = [
        ("data", ctypes.c_void_p), ("kind", ctypes.c_int32), ("ordinal", ctypes.c_int32), ("dimensions", ctypes.c_int32),
        ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)), ("strides", ctypes.POINTER(ctypes.c_int64)), ("byte_offset", ctypes.c_uint64),
    ]  # fmt: skip


def consume(cuda, shared, stream=1):
    """What a consumer on `stream` reads: the memory that the capsule names, once the stream got there."""
    capsule = shared.__dlpack__(stream=stream)
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    tensor = Tensor.from_address(pointer(capsule, b"dltensor"))
    assert (tensor.kind, tensor.ordinal, tensor.byte_offset, tensor.lanes) == (2, 0, 0, 1)
    shape = tensor.shape[: tensor.dimensions]
    expected = [1]
    for length in reversed(shape[1:]):
        expected.insert(0, expected[0] * max(length, 1))
    assert tensor.strides[: tensor.dimensions] == expected[: tensor.dimensions]
    event = ctypes.c_void_p()
    assert cuda.cuEventCreate(ctypes.byref(event), 2) == 0
    assert cuda.cuEventRecord(event, ctypes.c_void_p(stream)) == 0
    assert cuda.cuEventSynchronize(event) == 0
    cuda.cuEventDestroy_v2(event)
    kind = np.dtype({0: "i", 1: "u", 2: "f", 6: "b"}[tensor.code] + str(tensor.bits // 8)) if tensor.code != 6 else np.dtype(bool)
    count = int(np.prod(shape)) * kind.itemsize
    return np.frombuffer(bytes((ctypes.c_char * count).from_address(tensor.data)), kind).reshape(shape)


@pytest.mark.parametrize("samples", ["concat", "documents", "best-fit"])
@pytest.mark.parametrize("dtype", ["int64", "int32"])
def test_device_batches_are_those_of_the_host(cuda, corpus, samples, dtype):
    options = dict(seq_len=100, batch_size=3, samples=samples, dtype=dtype, columns=COLUMNS, prefetch=2)
    cuda.stub_delay(500)
    device = forebay.Loader(corpus, device="cuda:0", output="dlpack", **options)
    host = forebay.Loader(corpus, output="numpy", **options)
    for _ in range(8):
        found, expected = device.next(), host.next()
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            if isinstance(value, np.ndarray) and name not in ("samples", "sources"):
                assert found[name].__dlpack_device__() == (2, 0)
                other = consume(cuda, found[name])
                assert other.dtype == value.dtype and (other == value).all(), name
            elif isinstance(value, np.ndarray):
                assert (np.asarray(found[name]) == value).all(), name
            else:
                assert found[name] == value, name
    assert device.state_dict() == host.state_dict()
    assert "pinned: rows are spans of kilobytes" in device.io_path
    stats = device.stats()
    assert stats["device_bytes"] > 0 and stats["kernels"]
    cuda.stub_delay(0)


def test_memory_is_used_again_behind_the_stream_that_read_it(cuda, corpus):
    cuda.stub_delay(2000)
    stream = ctypes.c_void_p()
    assert cuda.cuStreamCreate(ctypes.byref(stream), 1) == 0
    device = forebay.Loader(corpus, seq_len=512, batch_size=4, device="cuda:0", output="dlpack", prefetch=1)
    host = forebay.Loader(corpus, seq_len=512, batch_size=4, output="numpy")
    bytes_ = 512 * 4 * 8
    copies = np.zeros((20, 4, 512), np.int64)
    expected = np.zeros_like(copies)
    waits = cuda.stub_calls(b"cuCtxSynchronize")
    for at in range(20):
        shared = device.next()["input_ids"]
        capsule = shared.__dlpack__(stream=stream.value)
        # The consumer's work is only asked for; then it lets go of the tensor.
        source = ctypes.c_uint64(shared.data_ptr())
        assert cuda.cuMemcpyDtoHAsync_v2(ctypes.c_void_p(copies[at].ctypes.data), source, ctypes.c_size_t(bytes_), stream) == 0
        del shared, capsule
        expected[at] = host.next()["input_ids"]
    event = ctypes.c_void_p()
    cuda.cuEventCreate(ctypes.byref(event), 2)
    cuda.cuEventRecord(event, stream)
    cuda.cuEventSynchronize(event)
    cuda.stub_delay(0)
    assert (copies == expected).all()
    assert cuda.stub_calls(b"cuCtxSynchronize") == waits
    with pytest.raises(BufferError, match="stream"):
        device.next()["input_ids"].__dlpack__(stream=0)


def test_a_device_that_fails_is_told_or_left(cuda, corpus):
    options = dict(seq_len=64, batch_size=2, device="cuda:0", output="dlpack")
    with pytest.raises(forebay.errors.DeviceError, match="cuda:5 is not here") as told:
        forebay.Loader(corpus, **options | {"device": "cuda:5"})
    assert "--device cpu" in told.value.hint
    left = forebay.Loader(corpus, **options, on_device_error="host")
    host = forebay.Loader(corpus, seq_len=64, batch_size=2, output="numpy")
    assert (consume(cuda, left.next()["input_ids"]) == host.next()["input_ids"]).all()
    cuda.stub_fail(b"cuMemcpyHtoDAsync_v2", 1)
    for _ in range(6):
        batch = left.next()["input_ids"]
        found = np.asarray(batch) if batch.__dlpack_device__() == (1, 0) else consume(cuda, batch)
        assert (found == host.next()["input_ids"]).all()
    cuda.stub_fail(b"cuMemcpyHtoDAsync_v2", 0)
    assert "fell back: CUDA cannot copy to the device" in left.io_path


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "cuda:-1"])
def test_devices_that_cannot_be(corpus, device):
    with pytest.raises(forebay.errors.ConfigError, match="device: expected 'cpu' or 'cuda:N'"):
        forebay.Loader(corpus, seq_len=64, batch_size=2, device=device)


def arrays():
    noise = np.random.default_rng(3)
    return {
        "a": noise.normal(size=(1000, 300)).astype("float32"),
        "b": noise.integers(-9, 9, (7,)).astype("int64"),
        "c": noise.normal(size=(3, 5)).astype("float16"),
        "mask": noise.integers(0, 2, (2, 3, 4)).astype(bool),
        "scalar": np.float64(2.5),
        "empty": np.zeros((0, 4), "uint8"),
    }


def test_safetensors_are_those_of_the_reference(cuda, tmp_path):
    reference = pytest.importorskip("safetensors.numpy", reason="skipped: safetensors is not installed")
    given = arrays()
    reference.save_file({name: np.asarray(array) for name, array in given.items()}, tmp_path / "a.safetensors", {"step": "3"})
    found = forebay.load_safetensors(tmp_path / "a.safetensors", output="numpy")
    assert found.metadata == {"step": "3"} and found.keys() == given.keys()
    for name, array in given.items():
        assert found[name].dtype == array.dtype and (found[name] == array).all(), name
    cuda.stub_delay(300)
    device = forebay.load_safetensors(tmp_path / "a.safetensors", device="cuda:0", output="dlpack", io="pinned")
    for name, array in given.items():
        assert (consume(cuda, device[name]) == array).all(), name
    assert device.info["path"] == "pinned: asked for"
    assert device.info["direct_bytes"] + device.info["cached_bytes"] == device.info["bytes"]
    # Ours, read by the reference.
    saved = forebay.save_checkpoint(given, tmp_path / "b.safetensors", metadata={"step": "4"})
    assert saved["bytes"] == os.path.getsize(tmp_path / "b.safetensors")
    again = reference.load_file(tmp_path / "b.safetensors")
    assert again.keys() == given.keys()
    for name, array in given.items():
        assert again[name].dtype == array.dtype and again[name].shape == array.shape and (again[name] == array).all(), name
    cuda.stub_delay(0)


def test_a_sharded_checkpoint_and_what_is_none(tmp_path):
    given = arrays()
    names = sorted(given)
    weights = {}
    for number, part in enumerate([names[:3], names[3:]]):
        file = f"model-{number}.safetensors"
        forebay.save_checkpoint({name: given[name] for name in part}, tmp_path / file)
        weights |= dict.fromkeys(part, file)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))
    for path in [tmp_path, tmp_path / "model.safetensors.index.json"]:
        found = forebay.load_safetensors(path, output="numpy")
        assert all((found[name] == given[name]).all() for name in names)
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"\xff" * 64)
    with pytest.raises(forebay.errors.CorruptError, match="bytes of the header"):
        forebay.load_safetensors(bad)
    with pytest.raises(forebay.errors.ConfigError, match="contiguous"):
        forebay.save_checkpoint({"a": np.zeros((4, 4))[:, ::2]}, bad)


def test_the_reader_of_fastsafetensors_fills_host_and_device(cuda, tmp_path):
    import forebay.fastsafetensors

    forebay.fastsafetensors.install()
    from fastsafetensor_3fs_reader import ThreeFSFileReader, extract_mount_point

    content = np.random.default_rng(1).integers(0, 256, 3_000_000).astype("uint8")
    content.tofile(tmp_path / "file")
    mount = extract_mount_point(str(tmp_path / "file"))
    assert os.path.ismount(mount)
    reader = ThreeFSFileReader(mount_point=mount, entries=64, io_depth=0, buffer_size=64 << 20)
    target = np.zeros(2_000_000, "uint8")
    assert reader.read_chunked(path=str(tmp_path / "file"), dev_ptr=target.ctypes.data, file_offset=77, total_length=2_000_000, chunk_size=0) == 2_000_000
    assert (target == content[77:2_000_077]).all() and reader.io_path is None
    memory = ctypes.c_uint64()
    cuda.cuCtxPushCurrent_v2(ctypes.c_void_p(0x1000))
    assert cuda.cuMemAlloc_v2(ctypes.byref(memory), ctypes.c_size_t(2_000_000)) == 0
    assert reader.read_chunked(str(tmp_path / "file"), memory.value, 99, 2_000_000, 1 << 20) == 2_000_000
    found = np.frombuffer(bytes((ctypes.c_char * 2_000_000).from_address(memory.value)), "uint8")
    assert (found == content[99:2_000_099]).all()
    assert reader.io_path.startswith("pinned")
    with pytest.raises(forebay.errors.StorageError, match="ends at byte 3000000"):
        reader.read_chunked(str(tmp_path / "file"), memory.value, 2_000_000, 2_000_000, 0)
