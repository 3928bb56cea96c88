"""The loader inside PyTorch's own: workers, and states that torchdata keeps."""

import pytest

torch = pytest.importorskip("torch", reason="skipped: torch is not installed")

import forebay
import forebay.torch


def dataset(corpus, **options):
    return forebay.torch.IterableDataset(corpus, seq_len=256, batch_size=8, **options)


def expected(corpus, first=0):
    ours = forebay.Loader(corpus, seq_len=256, batch_size=8, output="torch")
    ours.seek(first)
    return [batch["input_ids"] for batch in ours]


def same(found, wanted):
    assert len(found) == len(wanted)
    assert all(torch.equal(one, two) for one, two in zip(found, wanted))


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_change_nothing(corpus, workers, context):
    if workers == 0 and context == "spawn":
        return
    wanted = expected(corpus)
    ours = dataset(corpus)
    method = context if workers else None
    loader = torch.utils.data.DataLoader(ours, batch_size=None, num_workers=workers, multiprocessing_context=method)
    assert len(loader) == len(wanted)
    same([batch["input_ids"] for batch in loader], wanted)
    ours.set_epoch(1)
    same([batch["input_ids"] for batch in loader][:20], expected(corpus, len(wanted))[:20])
    ours.seek(17)
    same([batch["input_ids"] for batch in loader], wanted[17:])


@pytest.mark.parametrize("workers", [0, 2])
def test_torchdata_keeps_the_state(corpus, workers):
    stateful = pytest.importorskip("torchdata.stateful_dataloader", reason="skipped: torchdata is not installed")
    wanted = expected(corpus)

    def make():
        return stateful.StatefulDataLoader(dataset(corpus), batch_size=None, num_workers=workers)

    for stop in [1, 10, 11]:
        loader = make()
        found = []
        for batch in loader:
            found.append(batch["input_ids"])
            if len(found) == stop:
                break
        state = loader.state_dict()
        resumed = make()
        resumed.load_state_dict(state)
        same(found + [batch["input_ids"] for batch in resumed], wanted)
