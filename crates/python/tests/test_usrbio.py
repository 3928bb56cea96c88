"""Datasets and tensors on a 3FS, by their URIs; the 3FS is the emulator's.

A process that once found no CUDA looks for none again: this file comes after `test_device.py`.
"""

import os
import pathlib
import subprocess

import numpy as np
import pytest

import forebay

ROOT = pathlib.Path(__file__).resolve().parents[3]


@pytest.fixture
def mount(corpus, tmp_path):
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    built = [target / profile / "usrbio-emulator" for profile in ("debug", "release")]
    emulator = max((path for path in built if path.exists()), key=lambda path: path.stat().st_mtime, default=None)
    if emulator is None:
        pytest.skip("skipped: usrbio-emulator is not built")
    root = tmp_path / "mount"
    root.mkdir()
    daemon = subprocess.Popen([emulator, root, "--preload", corpus], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if not daemon.stdout.readline().startswith("mounted"):
        pytest.skip(f"skipped: no 3FS can be mounted here: {daemon.stderr.read()}")
    yield root
    # This process holds the mount open as long as it lives, so an unmount alone would not end the daemon.
    daemon.kill()
    daemon.wait(timeout=30)
    subprocess.run(["fusermount3", "-uz", root], check=False)


def test_a_dataset_and_a_checkpoint_are_found_by_their_uris(corpus, mount):
    there = forebay.Loader(f"3fs://{mount}", seq_len=128, batch_size=4, output="numpy", columns=["labels"])
    here = forebay.Loader(corpus, seq_len=128, batch_size=4, output="numpy", columns=["labels"])
    for _ in range(20):
        found, expected = there.next(), here.next()
        assert all((found[name] == expected[name]).all() for name in ("input_ids", "labels"))
    tensors = {"a": np.arange(300_000, dtype="int64"), "b": np.ones((3, 5), "float32")}
    forebay.save_checkpoint(tensors, f"3fs://{mount}/model.safetensors")
    again = forebay.load_safetensors(f"3fs://{mount}/model.safetensors", output="numpy")
    assert all((again[name] == tensors[name]).all() for name in tensors)


def test_a_uri_that_leads_to_no_3fs_is_a_storage_error():
    with pytest.raises(forebay.errors.StorageError, match="3fs:///proc/self"):
        forebay.Loader("3fs:///proc/self", seq_len=8, batch_size=1)
