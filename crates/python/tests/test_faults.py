"""What goes wrong with a dataset or a wish is one exception, of a kind of its own, with a hint."""

import json
import shutil
import struct
import urllib.error
import urllib.request
import zlib

import numpy as np
import pytest

import forebay
from forebay import errors

SEQ_LEN = 128


def load(path, **options):
    ours = forebay.Loader(path, **{"seq_len": SEQ_LEN, "batch_size": 4, "output": "numpy", "prefetch": 0, **options})
    for _ in ours:
        pass
    return ours


@pytest.fixture
def copy(corpus, tmp_path):
    return shutil.copytree(corpus, tmp_path / "copy")


def edit(path, change):
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def missing(copy):
    (copy / "shard-00001.parquet").unlink()


def truncated(copy):
    shard = copy / "shard-00001.parquet"
    shard.write_bytes(shard.read_bytes()[:-100])


def swapped(copy):
    one, two = copy / "shard-00000.parquet", copy / "shard-00001.parquet"
    one.rename(copy / "away")
    two.rename(one)
    (copy / "away").rename(two)


def index_of_another_run(copy):
    other = copy.parent / "other"
    forebay.prep(copy.parents[0] / "text.txt", out=other)
    shutil.copy(other / "documents.idx", copy / "documents.idx")


def newer(copy):
    edit(copy / "manifest.json", lambda manifest: manifest.update(version=99))


def cut_manifest(copy):
    path = copy / "manifest.json"
    path.write_bytes(path.read_bytes()[:200])


@pytest.mark.parametrize(
    "harm, kind, words",
    [
        (missing, errors.StorageError, "shard-00001.parquet"),
        (truncated, errors.CorruptError, "shard-00001.parquet: size: expected"),
        (swapped, errors.CorruptError, "size: expected"),
        (index_of_another_run, errors.CorruptError, "documents.idx: counts: expected"),
        (newer, errors.VersionError, "format version: expected at most"),
        (cut_manifest, errors.CorruptError, "manifest: expected JSON"),
    ],
)
def test_a_dataset_that_is_not_as_it_was(copy, harm, kind, words):
    (copy.parent / "text.txt").write_text("words that are new here\n" * 100)
    harm(copy)
    with pytest.raises(kind, match=words) as caught:
        load(copy)
    assert caught.value.hint, caught.value


def test_a_flipped_bit_is_found_by_its_hash(copy):
    shard = copy / "shard-00000.parquet"
    data = bytearray(shard.read_bytes())
    data[len(data) // 3] ^= 4
    shard.write_bytes(data)
    with pytest.raises(errors.CorruptError, match="shard-00000.parquet: bytes .* hash to") as caught:
        load(copy, verify=True)
    assert "on-corrupt" in caught.value.hint


@pytest.mark.parametrize("io, prefetch", [("auto", 0), ("read", 0), ("direct", 0), ("direct", 4)])
def test_a_dataset_may_go_under_its_loader(copy, io, prefetch):
    ours = forebay.Loader(copy, seq_len=SEQ_LEN, batch_size=1, output="numpy", io=io, prefetch=prefetch)
    ours.next()
    shutil.rmtree(copy)
    with pytest.raises(errors.StorageError, match="shard-0000") as caught:
        for _ in ours:
            pass
    assert caught.value.hint or "No such file" in str(caught.value)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"rank": 3, "world_size": 3}, "rank: expected below world_size 3, found 3"),
        ({"seq_len": 10**8, "batch_size": 1}, "expected 1 samples for one global batch, found 0"),
        ({"token_type": "float"}, "token_type"),
        ({"window": 0}, "window: expected at least 1"),
    ],
)
def test_a_wish_that_cannot_be(corpus, options, words):
    with pytest.raises(errors.ConfigError, match=words):
        load(corpus, **options)


@pytest.mark.parametrize("weights", [[0.5, 0.4], [1.0, 0.5], [-0.5, 1.5], [float("nan"), 1.0]])
def test_weights_that_are_none(corpus, copy, weights):
    with pytest.raises(errors.ConfigError, match="weight") as caught:
        load({corpus: weights[0], copy: weights[1]})
    assert caught.value.hint


def test_a_state_of_another_seed_or_dataset(corpus, tmp_path):
    state = forebay.Loader(corpus, seq_len=SEQ_LEN, batch_size=4).state_dict()
    (tmp_path / "text.txt").write_text("\n".join(f"line {n} of a text" for n in range(5_000)))
    forebay.prep(tmp_path / "text.txt", out=tmp_path / "other", dedup="none")
    for path, seed, words in [(corpus, 9, "seed: expected 9, found 0"), (tmp_path / "other", 0, "another dataset")]:
        ours = forebay.Loader(path, seq_len=SEQ_LEN, batch_size=1, seed=seed)
        with pytest.raises(errors.StateError, match=words) as caught:
            ours.load_state_dict(state)
        assert caught.value.hint
        assert ours.step == 0, "it stays where it was"


def ffrecord(path, samples):
    """As `ffrecord.FileWriter` lays a file out."""
    offsets = np.cumsum([12 + 12 * len(samples)] + [len(sample) for sample in samples])[:-1]
    header = struct.pack("<q", len(samples)) + b"".join(struct.pack("<I", zlib.crc32(sample)) for sample in samples)
    header += offsets.astype("<i8").tobytes()
    path.write_bytes(struct.pack("<I", zlib.crc32(header)) + header + b"".join(samples))


def test_a_state_of_a_later_version(corpus):
    ours = forebay.Loader(corpus, seq_len=SEQ_LEN, batch_size=4)
    state = ours.state_dict()
    with pytest.raises(errors.VersionError, match="version of the state: expected at most 1, found 9"):
        ours.load_state_dict({**state, "version": 9})


def test_a_flipped_bit_of_a_record_is_found_by_its_checksum(tmp_path):
    documents = [np.arange(n * 7 % 501, dtype=np.uint16) + n for n in range(300)]
    ffrecord(tmp_path / "a.ffr", [document.tobytes() for document in documents])
    wish = {"seq_len": 64, "batch_size": 2, "token_type": "uint16", "verify": True}
    load(tmp_path, **wish)
    data = bytearray((tmp_path / "a.ffr").read_bytes())
    data[-1] ^= 4
    (tmp_path / "a.ffr").write_bytes(data)
    with pytest.raises(errors.CorruptError, match=f"a.ffr: bytes .* to {len(data)} hash to") as caught:
        load(tmp_path, **wish)
    assert "on-corrupt" in caught.value.hint
    ours = load(tmp_path, **wish, on_corrupt="skip")
    assert "replaced" in json.dumps(ours.state_dict())


def test_ffrecord_files_are_a_source(tmp_path):
    documents = [np.arange(n * 7 % 501, dtype=np.uint16) + n for n in range(300)]
    ffrecord(tmp_path / "a.ffr", [document.tobytes() for document in documents])
    stream = np.concatenate(documents).astype(np.int64)
    ours = forebay.Loader(tmp_path, seq_len=64, batch_size=2, seed=None, token_type="uint16", output="numpy")
    found = np.concatenate([batch["input_ids"].ravel() for batch in ours])
    assert (found == stream[: len(found)]).all() and len(found) > len(stream) - 128
    with pytest.raises(errors.NotADatasetError, match="type of a token") as caught:
        forebay.Loader(tmp_path, seq_len=64, batch_size=2)
    assert "token_type" in caught.value.hint
    data = bytearray((tmp_path / "a.ffr").read_bytes())
    data[20] ^= 1
    (tmp_path / "a.ffr").write_bytes(data)
    with pytest.raises(errors.CorruptError, match="CRC-32 of the header"):
        forebay.Loader(tmp_path, seq_len=64, batch_size=2, token_type="uint16")


def test_metrics_are_served_while_the_loader_lives(corpus):
    ours = forebay.Loader(corpus, seq_len=SEQ_LEN, batch_size=4, output="numpy")
    port = ours.serve_metrics()
    for _ in range(3):
        ours.next()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain")
        assert "forebay_load_steps_total 3\n" in answer.read().decode()
    with pytest.raises(errors.ConfigError, match="metrics: expected a free address"):
        forebay.Loader(corpus, seq_len=SEQ_LEN, batch_size=4).serve_metrics(port)
    with pytest.raises(errors.ConfigError, match="metrics"):
        ours.serve_metrics(host="nowhere")
    del ours
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5)
