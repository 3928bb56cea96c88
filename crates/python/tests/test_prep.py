"""Preparing and opening datasets from Python."""

import json

import pytest

import forebay
from forebay import errors


def test_prep_is_the_command(tmp_path):
    text = tmp_path / "in.jsonl"
    text.write_text("".join(json.dumps({"id": str(n), "body": f"document number {n}"}) + "\n" for n in range(50)))
    out = tmp_path / "out"
    found = forebay.prep(text, out=out, text_field="body", dedup="none", seed=None)
    assert found["documents"] == 50 and found["tokens"] > 150
    assert forebay.prep(text, out=out, text_field="body", dedup="none", seed=None)["already"]
    with pytest.raises(errors.ConfigError, match="dedup"):
        forebay.prep(text, out=tmp_path / "x", dedup="some")
    with pytest.raises(errors.ConfigError):
        forebay.prep(text, out=out, text_field="body", dedup="none", seed=3)
    with pytest.raises(errors.InputError):
        forebay.prep(tmp_path / "nothing.jsonl", out=tmp_path / "y")


def test_open_is_a_table_of_arrow(corpus):
    pa = pytest.importorskip("pyarrow", reason="skipped: pyarrow is not installed")
    documents = forebay.open(corpus)
    table = pa.table(documents)
    assert table.num_rows == len(documents) and table.column_names[:3] == ["id", "source", "tokens"]
    assert sum(map(len, table["tokens"].to_pylist())) == documents.tokens
    assert json.loads(documents.manifest)["documents"] == len(documents)
    assert pa.table(forebay.open(corpus, columns=["id"])).column_names == ["id"]
    assert pa.table(documents).equals(table), "it can be read again"
