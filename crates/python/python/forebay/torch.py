"""`forebay.Loader` as a PyTorch dataset, for `DataLoader` with workers and `StatefulDataLoader`.

    >>> dataset = forebay.torch.IterableDataset("corpus", seq_len=2048, batch_size=8)
    >>> loader = torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=2)

Batches come whole from the dataset, hence `batch_size=None`. With workers, worker `w` of `n` makes
batches `w`, `w + n`, …, which `DataLoader` puts back into their order. A `Loader` with threads does
the same in one process, without copies between processes: prefer it unless workers do more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch.utils.data

from . import Loader


class IterableDataset(torch.utils.data.IterableDataset):
    """Takes the arguments of `forebay.Loader`; each iteration is one epoch.

    `state_dict()` in the process that iterates is where it is. With workers of a plain
    `DataLoader`, the batches that were taken are known to the training loop alone: count them, and
    `seek(step)` before the next iteration. `torchdata`'s `StatefulDataLoader` keeps the state of every
    worker itself, for the same number of workers; the step is good for any number.
    """

    def __init__(self, path: Any, **options: Any):
        super().__init__()
        options.setdefault("output", "torch")
        # A worker is a thread of its own already.
        options.setdefault("prefetch", 0)
        self._path, self._options = path, options
        self._loader: Loader | None = None
        # Where the next iteration begins.
        self._step = 0
        self._state: dict[str, Any] | None = None
        self._begun = False

    def _open(self) -> Loader:
        if self._loader is None:
            self._loader = Loader(self._path, **self._options)
        return self._loader

    def __getstate__(self) -> dict[str, Any]:
        # To a worker that is spawned goes what it takes to open it there.
        return {**self.__dict__, "_loader": None}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        loader = self._open()
        info = torch.utils.data.get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        loader._take_every(workers)
        if self._state is not None:
            # Of this very worker: it stands at its own next batch.
            loader.load_state_dict(self._state)
            self._state = None
        else:
            loader.seek(self._step + worker)
        self._begun = True
        steps = loader.steps
        first = self._step
        end = None if steps is None else (first // steps + 1) * steps
        while end is None or loader.step < end:
            batch = loader.next()
            yield batch
        # The next epoch, from its first batch on, in every worker.
        self._step, self._begun = end, False

    def __len__(self) -> int:
        return len(self._open())

    def seek(self, step: int) -> None:
        """The next iteration begins at global batch `step`, counted through all epochs."""
        self._step, self._state, self._begun = step, None, False

    def set_epoch(self, epoch: int) -> None:
        """The next iteration is this epoch. Workers cannot say so by themselves: they end with theirs."""
        self.seek(epoch * (self._open().steps or 0))

    def state_dict(self) -> dict[str, Any]:
        """Where this process is, and the step at which its iteration was begun."""
        # Before the first batch a worker does not know its number: it stands nowhere yet.
        state = self._open().state_dict() if self._begun else self._state
        return {"first": self._step, "loader": state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes to a state of `state_dict()`: the next iteration begins there."""
        self._step, self._begun = state["first"], False
        self._state = None if state["loader"] is None else dict(state["loader"])
