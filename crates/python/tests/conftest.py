import hashlib
import json
import pathlib

import pytest

import forebay

ROOT = pathlib.Path(__file__).resolve().parents[3]


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """The sample, prepared through the package."""
    out = tmp_path_factory.mktemp("data") / "corpus"
    found = forebay.prep(ROOT / "tests/data/sample", out=out, keep_text=True, shard_size=1 << 20, seed=7)
    assert found["documents"] > 300 and not found["already"]
    return out


@pytest.fixture(scope="session")
def torch():
    return pytest.importorskip("torch", reason="skipped: torch is not installed")


def hashes(out):
    """Of all files; of the manifest what does not tell where inputs lie."""
    found = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(out.iterdir()) if p.is_file() and p.name not in ("manifest.json", ".inputs")}
    manifest = json.loads((out / "manifest.json").read_text())
    return found | {"shards": manifest["shards"], "counts": manifest["counts"]}


@pytest.fixture
def recipe(tmp_path):
    """What `corpus` is made by."""
    path = tmp_path / "recipe.toml"
    stages = "[dedup]\n[tokenize]\n[shuffle]\nseed = 7\n"
    path.write_text(f"[input]\npaths = ['{ROOT}/tests/data/sample']\n[output]\npath = 'out'\nshard_size = '1MiB'\nkeep_text = true\n{stages}")
    return path
