"""safetensors straight into the memory of a device or of the host, and back."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

from . import _core, errors

# The command that asks libcufile for a direct path.
PROBER = [sys.executable, "-m", "forebay._probe"]


class Tensors(dict):
    """Tensors by name. `info` says how they came, `metadata` is what the file carries."""

    info: dict[str, Any]
    metadata: dict[str, str]


def load_safetensors(
    path: str | os.PathLike[str],
    device: Any = "cpu",
    *,
    output: str = "auto",
    io: str = "auto",
    threads: int | None = None,
) -> Tensors:
    """Reads a `.safetensors` file, the files of a `.index.json`, or those of a directory.

    Each file is read whole, in parallel, past the page cache where it is not in it; its tensors are
    views of one piece of memory, which lives until the last of them is gone.

    Args:
        path: File, index or directory; also `s3://BUCKET/KEY`, `gs://`, `az://`, by a copy in the cache.
        device: `"cpu"`, or `"cuda:0"`: by cuFile where a self-test proves that nothing stops over on
            the host, else over page-locked slots; `.info["path"]` says which, and why.
        output: `"torch"`, `"numpy"` (host only) or `"dlpack"`; `"auto"` is torch if it is there.
        io: `"auto"`, or a way that must be taken: `"gds"`, `"pinned"`, `"host"`.
        threads: Threads that read; all cores up to 8 by default.

    Raises:
        CorruptError: if a file is no safetensors, with what is wrong.
        DeviceError: if there is no such device, or it refuses.
    """
    from . import _ordinal

    ordinal = _ordinal(device)
    threads = threads or min(os.cpu_count() or 1, 8)
    held = _core.local(path)
    entries, info = _core.load_tensors(held.path, ordinal=ordinal, way=io, threads=threads, prober=PROBER)
    convert = _converter(output, ordinal)
    found = Tensors((name, convert(dtype, shared)) for name, dtype, shared in entries)
    found.metadata = info.pop("metadata")
    found.info = info
    return found


# Types that DLPack learnt late: handed over as bytes.
_NARROW = {
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
}


def _converter(output: str, ordinal: int | None) -> Any:
    if output not in ("auto", "torch", "numpy", "dlpack"):
        raise errors.ConfigError(f"output: expected auto, torch, numpy or dlpack, found {output!r}")
    if output == "dlpack":
        return lambda dtype, shared: shared
    if output in ("auto", "torch"):
        try:
            import torch
            from torch.utils.dlpack import from_dlpack
        except ImportError:
            if output == "torch" or ordinal is not None:
                raise errors.ConfigError("output: expected torch for tensors on a device, found none", "`output='dlpack'` needs no torch") from None
        else:

            def to_torch(dtype: str, shared: Any) -> Any:
                tensor = from_dlpack(shared)
                return tensor.view(getattr(torch, _NARROW[dtype])) if dtype in _NARROW else tensor

            return to_torch
    if ordinal is not None:
        raise errors.ConfigError("output: expected 'torch' or 'dlpack' with a device, found 'numpy'")
    import numpy

    def to_numpy(dtype: str, shared: Any) -> Any:
        name = {"BF16": "bfloat16"}.get(dtype) or _NARROW.get(dtype)
        if name is None:
            return numpy.asarray(shared)
        try:
            import ml_dtypes
        except ImportError:
            raise errors.ConfigError(f"dtype: expected one that NumPy has, found {dtype}", "`pip install ml_dtypes`, or `output='torch'`") from None
        import ctypes

        count = 1
        for length in shared.shape:
            count *= length
        kind = numpy.dtype(getattr(ml_dtypes, name))
        memory = (ctypes.c_uint8 * (count * kind.itemsize)).from_address(shared.data_ptr())
        # The view keeps its ctypes array, which keeps the memory.
        memory._owner = shared
        return numpy.frombuffer(memory, kind).reshape(shared.shape)

    return to_numpy


_NUMPY_TYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8",
    "uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8", "bool": "BOOL", "complex64": "C64",
    "bfloat16": "BF16", **{name: dtype for dtype, name in _NARROW.items()},
}  # fmt: skip


def save_checkpoint(
    tensors: Mapping[str, Any],
    path: str | os.PathLike[str],
    *,
    verify: bool = True,
    metadata: Mapping[str, str] | None = None,
    threads: int | None = None,
) -> dict[str, Any]:
    """Writes tensors of the host and of one device as a `.safetensors` file: whole or not at all.

    Copies from the device and writes past the page cache run side by side. With `verify`, blake3 of
    the memory (on the device, by a kernel) is compared with that of the file read back.

    Args:
        tensors: torch tensors or NumPy arrays by name; contiguous.
        path: File to write; it is what it was before until the new one is whole.

    Returns:
        `bytes`, `seconds`, `verify_seconds`, and `direct`: were writes past the page cache?
    """
    given, ordinal = [], None
    kept = []
    streams = set()
    for name, tensor in tensors.items():
        if hasattr(tensor, "data_ptr") and hasattr(tensor, "is_contiguous"):
            if not tensor.is_contiguous():
                raise errors.ConfigError(f"{name}: expected a contiguous tensor, found strides {tensor.stride()}", "`.contiguous()` makes it one")
            kind, shape, address = str(tensor.dtype).removeprefix("torch."), list(tensor.shape), tensor.data_ptr()
            bytes_ = tensor.numel() * tensor.element_size()
            if tensor.device.type == "cuda":
                streams.add(tensor.device)
                if ordinal not in (None, tensor.device.index):
                    raise errors.ConfigError(f"{name}: expected a tensor on cuda:{ordinal}, found one on {tensor.device}")
                ordinal = tensor.device.index
        elif isinstance(tensor, _core.Shared):
            raise errors.ConfigError(f"{name}: expected a torch tensor or an array, found {tensor!r}")
        else:
            import numpy

            tensor = numpy.asarray(tensor)
            if not tensor.flags.c_contiguous:
                raise errors.ConfigError(f"{name}: expected a contiguous array, found strides {tensor.strides}", "`numpy.ascontiguousarray` makes it one")
            if tensor.dtype.byteorder == ">":
                raise errors.ConfigError(f"{name}: expected little-endian numbers, found {tensor.dtype}")
            kind, shape = tensor.dtype.name, list(tensor.shape)
            address, bytes_ = tensor.ctypes.data, tensor.nbytes
        if kind not in _NUMPY_TYPES:
            raise errors.ConfigError(f"{name}: expected a type of safetensors, found {kind}")
        kept.append(tensor)
        given.append((name, _NUMPY_TYPES[kind], shape, address, bytes_))
    for device in streams:
        import torch

        # What writes the tensors may still run.
        torch.cuda.synchronize(device)
    threads = threads or min(os.cpu_count() or 1, 8)
    return _core.save_tensors(path, given, ordinal=ordinal, verify=verify, metadata=dict(metadata or {}), threads=threads)
