"""Training batches from token datasets: exact, elastic, instant.

    >>> loader = forebay.Loader("corpus", seq_len=2048, batch_size=8)
    >>> for batch in loader:
    ...     loss = model(batch["input_ids"])

A global batch is the same for every number of ranks, workers and threads; `state_dict()` is a few
integers and fits any number of ranks. `forebay.torch` is for `torch.utils.data.DataLoader`.
"""

from __future__ import annotations

import json as _json
import os as _os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from . import _core, errors
from ._core import Documents
from ._core import DeviceLoader as _DeviceCore
from ._core import Loader as _Core
from ._core import __version__
from .errors import Error
from .tensors import load_safetensors, save_checkpoint

__all__ = ["Documents", "Error", "Loader", "__version__", "errors", "load_safetensors", "open", "prep", "run", "save_checkpoint"]


# Each says what makes a column, and whether of a capsule of DLPack or of a `Tensor`.
def _torch() -> tuple[Any, bool]:
    from torch.utils import dlpack

    # The function that makes the tensor; the one around it asks the capsule for its device first.
    return getattr(__import__("torch")._C, "_from_dlpack", dlpack.from_dlpack), True


def _numpy() -> tuple[Any, bool]:
    import numpy

    return numpy.asarray, False


def _torch_or_numpy() -> tuple[Any, bool]:
    try:
        return _torch()
    except ImportError:
        return _numpy()


def _torch_shared(shared: Any) -> Any:
    """A column on the device. PyTorch is handed the array itself: it names its stream."""
    try:
        from torch.utils.dlpack import from_dlpack
    except ImportError as error:
        raise errors.ConfigError(f"output: expected torch for tensors on a device, found none: {error}", "`output='dlpack'` needs no torch") from error
    return from_dlpack(shared)


def _ordinal(device: Any) -> int | None:
    """Number of a CUDA device by its name or `torch.device`; None for the CPU."""
    name = str(device)
    if name == "cpu":
        return None
    kind, _, number = name.partition(":")
    if kind == "cuda" and (number.isdecimal() or name == "cuda"):
        return int(number or 0)
    raise errors.ConfigError(f"device: expected 'cpu' or 'cuda:N', found {name!r}")


_OUTPUTS = {"auto": _torch_or_numpy, "torch": _torch, "numpy": _numpy, "dlpack": None}


class Loader:
    """Batches of one rank, an epoch a `for` loop.

    Each batch is a dict: `input_ids` `[batch_size, seq_len]`, the columns that were asked for, and
    the numbers `step` and `epoch`. Tensors share the memory of the
    loader without a copy, and it is theirs until the last of them is gone.

    Args:
        path: Directory of a dataset, of MDS shards or of ffrecord files, or a Megatron prefix; or a dict of such paths to weights,
            which sum to 1 and hold exactly over every 4,096 samples. Also `s3://BUCKET/PREFIX`, `gs://`, `az://`:
            the first process of a machine fetches a copy into the cache, the others share it.
        seq_len: Tokens of a sample.
        batch_size: Samples of a batch of one rank; the global batch is `batch_size * world_size`.
        rank, world_size: This rank takes its slots of every global batch.
        seed: Of the order; `None` keeps the order of the dataset.
        window: Shuffle so many shards at a time instead of all samples.
        samples: `"concat"`: documents end to end, cut; `"documents"`: one a row;
            `"best-fit"`: packed, none torn that fits.
        columns: Of `labels`, `position_ids`, `cu_seqlens` (and the number `max_seqlen`),
            `document_ids`, `loss_mask`, `samples` (numbers of the samples, and `sources`, of their
            datasets). Labels are shifted: each is the next token, or -100.
        dtype: `"int64"`, `"int32"` or `"uint32"`.
        drop_last: Leave out the last, incomplete batch; else rows of padding complete it.
        token_type: What a token is stored as in ffrecord files, such as `"uint16"`; other datasets say
            it themselves.
        pad_id: Id of padding; the end-of-document token of the dataset by default.
        prefetch: Batches made ahead by `threads` threads, without the GIL. With 0, each is made
            when it is asked for.
        output: `"torch"`, `"numpy"`, `"dlpack"`; `"auto"` is torch if it can be imported.
        io: `"auto"`: through a map what lies in the page cache, up to 160 MiB, since pages of a map
            count as memory of the process; `"map"`: all of it, which is faster; `"read"`: none. What
            is not in the page cache is read with many requests in flight; `"direct"`: all of it is,
            past the page cache.
        verify: Hash each block of a shard (of ffrecord, each sample) when it is first needed, and compare.
        on_corrupt: With `verify`: `"fail"`, or `"skip"`: other samples come instead, the same on
            every rank, and the state says so.
        plan_dir: Keep the plan of best-fit in this directory for the next time.
        device: `"cpu"`, or `"cuda:0"`: columns are made on the device out of the tokens as they are
            stored, `prefetch` batches ahead. Tensors are handed over in the order of streams: the
            current stream of PyTorch waits for them, the host does not.
        device_memory: Bytes of device memory at most, with the batches that the consumer holds.
        on_device_error: `"fail"`, or `"host"`: go on with batches on the host; `io_path` says why.
    """

    def __init__(
        self,
        path: str | _os.PathLike[str] | Mapping[str | _os.PathLike[str], float],
        *,
        seq_len: int,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        seed: int | None = 0,
        epoch: int = 0,
        window: int | None = None,
        samples: str = "concat",
        columns: Sequence[str] = (),
        dtype: str = "int64",
        drop_last: bool = True,
        token_type: str | None = None,
        pad_id: int | None = None,
        prefetch: int = 2,
        threads: int = 1,
        device: str = "cpu",
        output: str = "auto",
        io: str = "auto",
        verify: bool = False,
        on_corrupt: str = "fail",
        plan_dir: str | _os.PathLike[str] | None = None,
        device_memory: int = 1 << 30,
        on_device_error: str = "fail",
    ):
        ordinal = _ordinal(device)
        if on_device_error not in ("fail", "host"):
            raise errors.ConfigError(f"on_device_error: expected 'fail' or 'host', found {on_device_error!r}")
        if output not in _OUTPUTS:
            raise errors.ConfigError(f"output: expected one of {', '.join(_OUTPUTS)}, found {output!r}")
        mixture = isinstance(path, Mapping)
        paths, weights = (list(path), [float(w) for w in path.values()]) if mixture else ([path], None)
        names = ["seq_len", "batch_size", "rank", "world_size", "window", "pad_id", "prefetch", "threads"]
        values = [seq_len, batch_size, rank, world_size, window, pad_id, prefetch, threads]
        for name, value in zip(names, values):
            if value is not None and value < 0:
                raise errors.ConfigError(f"{name}: expected 0 or more, found {value}")
        # Copies of what lies in object stores; they stay while the loader does.
        self._held = [_core.local(path) for path in paths]
        self._core = _Core(
            [held.path for held in self._held],
            weights,
            seq_len=seq_len,
            batch_size=batch_size,
            rank=rank,
            world_size=world_size,
            seed=seed,
            window=window,
            samples=samples,
            columns=list(columns),
            dtype=dtype,
            drop_last=drop_last,
            token_type=token_type,
            pad_id=pad_id,
            prefetch=prefetch,
            threads=threads,
            io=io,
            verify=verify,
            on_corrupt=on_corrupt,
            plan_dir=plan_dir,
        )
        if ordinal is not None:
            if output == "numpy":
                raise errors.ConfigError("output: expected 'torch' or 'dlpack' with a device, found 'numpy'")
            fall_back = on_device_error == "host"
            self._core = _DeviceCore(self._core, ordinal=ordinal, ahead=prefetch, memory=device_memory, path="auto", fall_back=fall_back)
            if output != "dlpack":
                self._core.set_share(_torch_shared)
        # Imported with the first batch; None once that is done.
        self._output = _OUTPUTS[output]
        if epoch:
            if mixture:
                raise errors.ConfigError(f"epoch: expected 0 for a mixture, which has none, found {epoch}")
            self.seek(epoch * (self.steps or 0))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        self._import()
        self._core.begin()
        return self._core

    def __next__(self) -> dict[str, Any]:
        self._import()
        return next(self._core)

    def next(self) -> dict[str, Any]:
        """The next batch; after the last one of an epoch comes the first of the next."""
        if self._output is not None:
            self._import()
        return self._core.next()

    def _import(self) -> None:
        if self._output is not None:
            self._core.set_output(*self._output())
            self._output = None

    def __len__(self) -> int:
        """Batches of an epoch."""
        if self.steps is None:
            raise TypeError("a mixture has no end")
        return self.steps

    @property
    def steps(self) -> int | None:
        """Batches of an epoch; `None` for a mixture, which has no end."""
        return self._core.steps()

    @property
    def samples(self) -> int:
        """Samples of an epoch."""
        return self._core.samples()

    @property
    def step(self) -> int:
        """Number of the global batch that comes next, counted through all epochs."""
        return self._core.place()[0]

    @property
    def epoch(self) -> int:
        """Epoch of the batch that comes next."""
        return self._core.place()[1]

    @property
    def epochs(self) -> list[float]:
        """How often each dataset was gone through so far."""
        return self._core.epochs()

    def state_dict(self) -> dict[str, Any]:
        """Where it is: after the last batch that was taken, whatever was made ahead. JSON-able."""
        return _json.loads(self._core.state())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes to a state of a loader of the same dataset and order, of any number of ranks.

        Raises:
            StateError: if it is of another dataset, seed, `seq_len`, `samples` or `window`.
        """
        self._core.load_state(_json.dumps(dict(state)))

    def seek(self, step: int) -> None:
        """Goes to global batch `step`, counted through all epochs. Costs nothing."""
        self._core.seek(step)

    def skip(self, start: int, end: int) -> None:
        """Leaves out global batches `start` to `end - 1` whenever they would come."""
        self._core.skip(start, end)

    def set_weights(self, step: int, weights: Sequence[float]) -> int:
        """Changes the weights of a mixture from `step` on, at the next block of 4,096 samples.

        Returns the number of the first sample that the new weights hold for.
        """
        return self._core.set_weights(step, list(weights))

    def explain(self) -> list[dict[str, Any]]:
        """Shard, document and bytes of every row of the batch that comes next."""
        if isinstance(self._core, _DeviceCore):
            raise errors.ConfigError("explain: expected a loader with device='cpu', found one of a device", "open the same loader without `device`")
        return self._core.explain()

    def stats(self) -> dict[str, Any]:
        """Where the time of all steps went; `verdict` says it in one line."""
        return self._core.stats()

    def prometheus(self) -> str:
        """The sums of `stats()` in the text format of Prometheus."""
        return self._core.prometheus()

    def serve_metrics(self, port: int = 0, host: str = "127.0.0.1") -> int:
        """Serves `prometheus()` at `http://host:port/metrics` while the loader lives; returns the port.

        Port 0 is any that is free. A child of `fork` serves nothing until it is told to.
        """
        return self._core.serve_metrics(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")

    @property
    def io_path(self) -> str:
        """How bytes came so far: `map` out of the page cache, `read` by system calls; with a device, which
        way they take to it, and why."""
        way = f"; {self._core.io_path()}" if isinstance(self._core, _DeviceCore) else ""
        stats = self._core.stats()
        parts = {"map": stats["mapped_bytes"], "read": stats["read_bytes"]}
        whole = sum(parts.values()) or 1
        return ", ".join(f"{name} {100 * value / whole:.1f} %" for name, value in parts.items()) + way

    def _take_every(self, stride: int) -> None:
        """One of `stride` global batches from now on: the share of one of as many workers."""
        self._core.set_stride(stride)


def open(path: str | _os.PathLike[str], columns: Sequence[str] | None = None) -> Documents:
    """The documents of a dataset, also of `s3://`, as Arrow, for `pyarrow.table`, polars, DuckDB, pandas.

    Raises:
        NotADatasetError: if `path` holds none.
    """
    return Documents(path, None if columns is None else list(columns))


def prep(
    inputs: str | _os.PathLike[str] | Sequence[str | _os.PathLike[str]],
    out: str | _os.PathLike[str],
    *,
    tokenizer: str | _os.PathLike[str] = "gpt2",
    seed: int | None = 0,
    keep_text: bool = False,
    dedup: str = "fuzzy",
    shard_size: int = 256 << 20,
    threads: int | None = None,
    memory: int = 4 << 30,
    tmp_dir: str | _os.PathLike[str] | None = None,
    fresh: bool = False,
    text_field: str | None = None,
    executor: str = "local",
    address: str | None = None,
) -> dict[str, Any]:
    """Raw text in, a deduplicated, tokenized, shuffled dataset out: `forebay prep`.

    The same call on an unfinished run resumes it; on a finished one it does nothing. A recipe
    has all other options: see `run`.

    Args:
        inputs: Files, globs or directories of JSONL, Parquet or text, also `.gz` and `.zst`; also of `s3://`, `gs://`, `az://`.
        out: Directory of the dataset, or `s3://BUCKET/PREFIX`: then it is written to a directory first and sent.
        tokenizer: A `tokenizer.json`, `.tiktoken` or SentencePiece `.model`, or `"gpt2"`.
        seed: Of the shuffle; `None` keeps the order of the inputs.
        keep_text: Store the text beside the tokens.
        dedup: `"fuzzy"`, `"exact"` or `"none"`.
        shard_size: Bytes of text that go into a shard, about.
        threads, memory, tmp_dir: Speed, never bytes.
        fresh: Throw an unfinished run away.
        text_field: JSON field or Parquet column that holds the text.
        executor, address: As of `run`.
    """
    if isinstance(inputs, (str, _os.PathLike)):
        inputs = [inputs]
    if dedup not in ("fuzzy", "exact", "none"):
        raise errors.ConfigError(f"dedup: expected fuzzy, exact or none, found {dedup!r}")
    recipe: dict[str, Any] = {
        "input": {"paths": [_os.fspath(path) for path in inputs]},
        "tokenize": {"tokenizer": _os.fspath(tokenizer)},
        "output": {"path": _os.fspath(out), "keep_text": keep_text, "shard_size": shard_size},
        "execution": {"memory": memory},
    }
    if text_field is not None:
        recipe["input"]["text_field"] = text_field
    if dedup != "none":
        recipe["dedup"] = {"fuzzy": dedup == "fuzzy"}
    if seed is not None:
        recipe["shuffle"] = {"seed": seed}
    if threads is not None:
        recipe["execution"]["threads"] = threads
    if tmp_dir is not None:
        recipe["execution"]["tmp_dir"] = _os.fspath(tmp_dir)
    return run(recipe, executor=executor, address=address, fresh=fresh)


def run(
    recipe: str | _os.PathLike[str] | Mapping[str, Any],
    *,
    set: Mapping[str, Any] | None = None,
    executor: str | None = None,
    address: str | None = None,
    tasks: int | None = None,
    fresh: bool = False,
) -> dict[str, Any]:
    """Runs a recipe: `forebay run`. Called again, it goes on where it stopped.

    Args:
        recipe: A TOML file, whose paths are relative to it; or its tables as a dict, whose paths are
            relative to the current directory. `forebay recipe init` writes one with every key.
        set: Stands for what the file says, such as `{"dedup.threshold": 0.9}`.
        executor: `"local"`: threads of this process. `"ray"`: tasks on a Ray cluster whose nodes all
            see inputs and output; `pip install forebay[ray]`. What the recipe says by default.
        address, tasks: Of the Ray cluster; shares of a stage.
        fresh: Throw an unfinished run away. Only of `"local"`.

    Raises:
        ConfigError: for a wrong recipe, with line and key.
    """
    if isinstance(recipe, Mapping):
        if set:
            raise errors.ConfigError("set: expected nothing beside a dict, which can be changed itself")
        tables = {"execution": {}, **recipe}
        for table, key in (("input", "paths"), ("output", "path")):
            paths = tables.get(table, {}).get(key)
            if paths:
                # Tasks run elsewhere: what is relative to this directory would be lost.
                absolute = [path if "://" in str(path) or path == "-" else _os.path.abspath(path) for path in ([paths] if isinstance(paths, (str, _os.PathLike)) else paths)]
                tables[table] = tables[table] | {key: absolute[0] if isinstance(paths, (str, _os.PathLike)) else absolute}
        text = _json.dumps(tables)
    else:
        settings = [f"{key}={value if isinstance(value, str) else _json.dumps(value)}" for key, value in (set or {}).items()]
        text = _core.read_recipe(_os.path.abspath(recipe), settings)
    if executor is None:
        executor = _json.loads(text)["execution"].get("executor", "local")
    if executor == "local":
        return _json.loads(_core.run(text, fresh))
    if executor != "ray":
        raise errors.ConfigError(f"executor: expected 'local' or 'ray', found {executor!r}", "`forebay run --executor slurm` writes scripts")
    if fresh:
        raise errors.ConfigError("fresh: expected it with executor='local', found 'ray'", "delete the output directory")
    if "://" in _json.loads(text)["output"]["path"]:
        raise errors.ConfigError("output: expected a directory that all nodes see, found a URI", "`forebay fs cp` sends it when it is done")
    from . import ray

    if "memory" not in _json.loads(text)["execution"]:
        tables = _json.loads(text)
        tables["execution"]["memory"] = 4 << 30
        text = _json.dumps(tables)
    return ray.run(text, address=address, tasks=tasks)
