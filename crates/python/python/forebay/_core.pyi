"""Private: see `forebay.Loader`, `forebay.open` and `forebay.prep`."""

from os import PathLike
from typing import Any

__version__: str

class Tensor:
    @property
    def __array_interface__(self) -> dict[str, Any]: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: Any = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any: ...
    def __dlpack_device__(self) -> tuple[int, int]: ...

class Documents:
    """The documents of a dataset, through the Arrow PyCapsule interface."""

    def __init__(self, path: str | PathLike[str], columns: list[str] | None = None) -> None: ...
    def __len__(self) -> int: ...
    @property
    def tokens(self) -> int | None: ...
    @property
    def manifest(self) -> str: ...
    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any: ...

class Loader:
    def __init__(
        self,
        paths: list[str | PathLike[str]],
        weights: list[float] | None,
        *,
        seq_len: int,
        batch_size: int,
        rank: int,
        world_size: int,
        seed: int | None,
        window: int | None,
        samples: str,
        columns: list[str],
        dtype: str,
        drop_last: bool,
        pad_id: int | None,
        prefetch: int,
        threads: int,
        io: str,
        verify: bool,
        on_corrupt: str,
        plan_dir: str | PathLike[str] | None,
    ) -> None: ...
    def next(self) -> dict[str, Any]: ...
    def state(self) -> str: ...
    def load_state(self, state: str) -> None: ...
    def seek(self, step: int) -> None: ...
    def skip(self, start: int, end: int) -> None: ...
    def set_stride(self, stride: int) -> None: ...
    def set_weights(self, step: int, weights: list[float]) -> int: ...
    def place(self) -> tuple[int, int]: ...
    def steps(self) -> int | None: ...
    def samples(self) -> int: ...
    def epochs(self) -> list[float]: ...
    def stats(self) -> dict[str, Any]: ...
    def prometheus(self) -> str: ...
    def explain(self) -> list[dict[str, Any]]: ...

def prep(
    inputs: list[str],
    out: str | PathLike[str],
    *,
    tokenizer: str,
    seed: int | None,
    keep_text: bool,
    dedup: str,
    shard_bytes: int,
    threads: int,
    memory_bytes: int,
    tmp_dir: str | PathLike[str] | None,
    fresh: bool,
    text_field: str | None,
) -> str: ...
