"""The examples of the README files run as they stand."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("path", ["README.md", "crates/python/README.md"])
def test_the_example_runs(path, tmp_path, monkeypatch):
    pytest.importorskip("numpy", reason="skipped: numpy is not installed")
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / path).read_text(), re.DOTALL)
    assert blocks, "an example"
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    monkeypatch.chdir(tmp_path)
    for block in blocks:
        names = {}
        exec(compile(block, path, "exec"), names)
        assert names["batch"]["input_ids"].shape[1] > 0
