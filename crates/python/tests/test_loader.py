"""Batches through Python: the same memory, the same numbers, errors of their own kinds."""

import gc
import json
import multiprocessing
import pickle
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import forebay
from forebay import errors

ALL = ["labels", "position_ids", "cu_seqlens", "document_ids", "loss_mask"]


def loader(corpus, **options):
    return forebay.Loader(corpus, **{"seq_len": 128, "batch_size": 4, "output": "numpy", **options})


def stream(corpus):
    pa = pytest.importorskip("pyarrow", reason="skipped: pyarrow is not installed")
    tokens = pa.table(forebay.open(corpus, columns=["tokens"]))["tokens"].combine_chunks()
    return np.asarray(tokens.values).astype(np.int64)


def test_an_epoch_is_a_for_loop_and_holds_the_stream(corpus):
    tokens = stream(corpus)
    ours = loader(corpus, columns=[*ALL, "samples"])
    seen = set()
    for batch in ours:
        assert batch["input_ids"].shape == (4, 128) and batch["input_ids"].dtype == np.int64
        for row, labels, sample in zip(batch["input_ids"], batch["labels"], batch["samples"]):
            first = 128 * sample
            assert (row == tokens[first : first + 128]).all()
            after = tokens[first + 1 : first + 129]
            assert (labels[: len(after)] == after).all()
            seen.add(int(sample))
        assert batch["cu_seqlens"].dtype == np.int32 and batch["cu_seqlens"][-1] == 4 * 128
        assert batch["max_seqlen"] == np.diff(batch["cu_seqlens"]).max()
        assert batch["loss_mask"].dtype == np.bool_
    assert len(seen) == 4 * len(ours) == 4 * (len(tokens) // 128 // 4)
    again = [batch["epoch"] for batch in ours]
    assert again == [1] * len(ours), "the next loop is the next epoch"


def test_numpy_shares_the_memory_and_keeps_it(corpus):
    ours = loader(corpus, prefetch=3)
    batches = [ours.next() for _ in range(40)]
    copies = [batch["input_ids"].copy() for batch in batches]
    addresses = {batch["input_ids"].__array_interface__["data"][0] for batch in batches}
    assert len(addresses) == 40, "what is held is not filled again"
    assert all((batch["input_ids"] == copy).all() for batch, copy in zip(batches, copies))
    raw = loader(corpus, output="dlpack").next()["input_ids"]
    one, two = np.asarray(raw), np.from_dlpack(raw)
    one[0, 0] = 77
    assert two[0, 0] == 77 and one.ctypes.data == two.ctypes.data
    del raw, one
    gc.collect()
    assert two[0, 0] == 77, "the array keeps the batch alive"


def test_buffers_are_used_again(corpus):
    ours = loader(corpus, prefetch=0)
    addresses = set()
    for _ in range(50):
        addresses.add(ours.next()["input_ids"].__array_interface__["data"][0])
    assert len(addresses) <= 6


def test_torch_shares_the_memory(corpus, torch):
    ours = loader(corpus, output="dlpack", dtype="int32", columns=ALL)
    batch = ours.next()
    for name in ["input_ids", *ALL]:
        tensor = torch.from_dlpack(batch[name])
        assert tensor.data_ptr() == np.asarray(batch[name]).__array_interface__["data"][0], name
    assert torch.from_dlpack(batch["input_ids"]).dtype == torch.int32
    ids = loader(corpus, output="torch").next()["input_ids"]
    assert isinstance(ids, torch.Tensor) and ids.dtype == torch.int64
    ids += 1


@pytest.mark.parametrize("samples", ["concat", "documents", "best-fit"])
def test_ranks_together_are_one(corpus, samples):
    whole = loader(corpus, batch_size=12, samples=samples, columns=ALL)
    thirds = [loader(corpus, rank=rank, world_size=3, samples=samples, columns=ALL, prefetch=rank) for rank in range(3)]
    for _ in range(5):
        expected, found = whole.next(), [third.next() for third in thirds]
        for name in ["input_ids", "labels", "position_ids", "document_ids", "loss_mask"]:
            for rank in range(3):
                assert (expected[name][rank::3] == found[rank][name]).all()


def test_a_state_resumes_elsewhere_and_is_refused_where_it_does_not_fit(corpus, tmp_path):
    ours = loader(corpus, batch_size=6, prefetch=4)
    for _ in range(7):
        ours.next()
    state = json.loads(json.dumps(ours.state_dict()))
    assert (state["epoch"], state["position"]) == (0, 42)
    expected = ours.next()["input_ids"].copy()
    half = loader(corpus, batch_size=3, rank=1, world_size=2)
    half.load_state_dict(state)
    assert (half.next()["input_ids"] == expected[1::2]).all()
    for wrong in [{"seed": 5}, {"seq_len": 64}, {"samples": "documents"}]:
        with pytest.raises(errors.StateError) as caught:
            loader(corpus, **wrong).load_state_dict(state)
        assert caught.value.hint
    with pytest.raises(errors.StateError):
        half.load_state_dict({**state, "datasets": ["0" * 64]})
    with pytest.raises(errors.ConfigError):
        half.load_state_dict({"nonsense": 1})
    ours.seek(7)
    assert (ours.next()["input_ids"] == expected).all() and ours.step == 8
    ours.seek(3)
    ours.skip(4, 7)
    assert [ours.next()["step"] for _ in range(2)] == [3, 7]


def test_a_mixture_is_exact_and_endless(corpus, tmp_path):
    ours = loader({corpus: 1.0}, columns=["samples"])
    with pytest.raises(TypeError):
        len(ours)
    assert iter(ours).__next__()["sources"].tolist() == [0, 0, 0, 0]
    with pytest.raises(errors.ConfigError, match="sum of 1"):
        loader({corpus: 0.5})


@pytest.mark.parametrize(
    "options, kind, words",
    [
        ({"rank": 2, "world_size": 2}, errors.ConfigError, "below world_size 2"),
        ({"rank": -1}, errors.ConfigError, "rank: expected 0 or more, found -1"),
        ({"seq_len": 10**9}, errors.ConfigError, "seq_len"),
        ({"seq_len": 10**8, "batch_size": 1}, errors.ConfigError, "samples for one global batch"),
        ({"columns": ["lables"]}, errors.ConfigError, "lables"),
        ({"samples": "pack"}, errors.ConfigError, "best-fit"),
        ({"dtype": "int8"}, errors.ConfigError, "int64"),
        ({"device": "cuda:0"}, errors.ConfigError, "device"),
        ({"output": "jax"}, errors.ConfigError, "numpy"),
    ],
)
def test_options_that_cannot_be(corpus, options, kind, words):
    with pytest.raises(kind, match=words):
        loader(corpus, **options)


def test_what_is_no_dataset_or_not_as_it_was(corpus, tmp_path):
    with pytest.raises(errors.NotADatasetError) as caught:
        loader(tmp_path)
    assert isinstance(caught.value, ValueError) and "hint: " in str(caught.value)
    with pytest.raises(errors.NotADatasetError):
        forebay.open(tmp_path)
    with pytest.raises(errors.InputError, match="nothing"):
        forebay.open(corpus, columns=["nothing"])
    copy = tmp_path / "copy"
    import shutil

    shutil.copytree(corpus, copy)
    shard = copy / "shard-00001.parquet"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(errors.CorruptError, match="shard-00001.parquet"):
        for _ in loader(copy, verify=True):
            pass
    patient = loader(copy, verify=True, on_corrupt="skip")
    for _ in patient:
        pass
    assert patient.state_dict()["replaced"]
    shard.unlink()
    with pytest.raises(errors.StorageError) as caught:
        for _ in loader(copy):
            pass
    assert isinstance(caught.value, OSError) and "shard-00001.parquet" in str(caught.value)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.hint, again.errno) == (str(caught.value), caught.value.hint, None)


def test_the_gil_is_free_while_it_works(corpus):
    ours = loader(corpus, seq_len=1024, batch_size=512, samples="documents", drop_last=False, columns=ALL)
    done = threading.Event()
    ticks = 0

    def tick():
        nonlocal ticks
        while not done.is_set():
            ticks += 1

    thread = threading.Thread(target=tick)
    thread.start()
    before = ticks
    for _ in range(20):
        ours.next()
    counted = ticks - before
    done.set()
    thread.join()
    assert counted > 0


def child(connection, ours, count):
    connection.send([ours.next()["input_ids"].tolist() for _ in range(count)])
    connection.close()


@pytest.mark.parametrize("io, prefetch", [("auto", 3), ("direct", 0), ("direct", 3)])
def test_a_fork_goes_on_where_the_parent_was(corpus, io, prefetch):
    ours = loader(corpus, prefetch=prefetch, threads=2, io=io)
    for _ in range(5):
        ours.next()
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    process = context.Process(target=child, args=(there, ours, 6))
    process.start()
    assert here.poll(60), "the child hangs"
    found = here.recv()
    process.join(60)
    assert process.exitcode == 0
    assert found == [ours.next()["input_ids"].tolist() for _ in range(6)]


def test_memory_does_not_grow(corpus):
    def anonymous():
        with open("/proc/self/status") as status:
            return int(next(line for line in status if line.startswith("RssAnon")).split()[1])

    ours = loader(corpus, columns=ALL)
    for _ in range(2_000):
        ours.next()
    before = anonymous()
    for _ in range(30_000):
        ours.next()
    assert anonymous() - before < 4_096, "KiB"


def test_statistics_say_who_waits(corpus):
    ours = loader(corpus)
    for _ in range(5):
        ours.next()
        time.sleep(0.002)
    stats = ours.stats()
    assert stats["steps"] == 5 and stats["tokens"] == 5 * 4 * 128
    assert stats["consumer_seconds"] >= 0.008 and stats["verdict"].startswith("loader-bound: ")
    assert "forebay_load_steps_total 5" in ours.prometheus()
    assert ours.io_path.startswith("map ")
    rows = ours.explain()
    assert len(rows) == 4 and rows[0]["parts"][0]["shard"].endswith(".parquet")


def test_import_is_light():
    code = "import sys, forebay; print('torch' in sys.modules, 'numpy' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["False", "False"]
