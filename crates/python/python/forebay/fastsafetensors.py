"""The reader that `fastsafetensors` asks for under its copier `"3fs"`, for vLLM and SGLang.

    >>> import forebay.fastsafetensors
    >>> forebay.fastsafetensors.install()
    >>> loader = fastsafetensors.threefs_loader.ThreeFSLoader(None, device="cuda:0", mount_point="/mnt/3fs")

It reads any path, on 3FS or elsewhere, by the way that `forebay.load_safetensors` would take.
"""

from __future__ import annotations

import os
import sys
import types

from . import _core
from .tensors import PROBER


class ThreeFSFileReader:
    """`read_chunked(path, dev_ptr, file_offset, total_length, chunk_size) -> int`, into memory of a
    device or of the host. `entries`, `io_depth`, `buffer_size` and `chunk_size` are of its namesake:
    slots have the size here that the cache of the processor likes."""

    def __init__(self, mount_point: str = "", entries: int = 64, io_depth: int = 0, buffer_size: int = 0, *, io: str = "auto"):
        self.mount_point = mount_point
        self._core = _core.Reader(way=io, threads=min(os.cpu_count() or 1, 8), prober=PROBER)

    def read_chunked(self, path: str, dev_ptr: int, file_offset: int, total_length: int, chunk_size: int = 0) -> int:
        """Fills memory at `dev_ptr` and returns how many bytes it read: all, or an exception."""
        return self._core.read(os.fspath(path), dev_ptr, file_offset, total_length)

    @property
    def io_path(self) -> str | None:
        """Which way files take to a device, and why; None before the first."""
        return self._core.io_path()

    def close(self) -> None:
        """Gives its slots back."""
        self._core = _core.Reader(way="auto", threads=1, prober=PROBER)


def extract_mount_point(path: str) -> str:
    """Mount point of the file system that a path lies on."""
    path = os.path.realpath(path)
    while not os.path.ismount(path):
        path = os.path.dirname(path)
    return path


def install() -> None:
    """Makes `import fastsafetensor_3fs_reader` mean this module, in this process."""
    module = types.ModuleType("fastsafetensor_3fs_reader")
    module.ThreeFSFileReader = ThreeFSFileReader
    module.extract_mount_point = extract_mount_point
    sys.modules["fastsafetensor_3fs_reader"] = module
