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
