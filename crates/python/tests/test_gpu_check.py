"""`tools/gpu-check` from end to end on the stub of the driver: what a machine with a GPU will run."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[3]


def binary():
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    built = [target / profile / "forebay" for profile in ("debug", "release", "dist")]
    return max((path for path in built if path.exists()), key=lambda path: path.stat().st_mtime, default=None)


def test_every_step_runs_and_no_figure_passes_for_measured(tmp_path):
    if not shutil.which("cc"):
        pytest.skip("skipped: no C compiler to build the stub of the CUDA driver with")
    if binary() is None:
        pytest.skip("skipped: the forebay binary is not built")
    stubs, out, work = tmp_path / "stubs", tmp_path / "out", tmp_path / "work"
    work.mkdir()
    subprocess.run([ROOT / "tools/stub-cuda/build", stubs], check=True)
    command = [sys.executable, ROOT / "tools/gpu-check", "--stub", stubs, "--binary", binary(), "--out", out, "--work", work]
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    (told,) = out.glob("gpu-stub-*.json")
    report = json.loads(told.read_text())
    assert report["stub"] and report["failed"] == [] and report["measured"] is False
    # Nothing was left out but what wants torch or a GPU.
    skipped = {name for name, how in report["checks"].items() if how != "ok"}
    assert skipped <= {"streams of a consumer", "blake3 on the device", "safetensors by gds", "tokens beside torch"}, report["checks"]
    assert report["results"]["bench"]["kernels"] and report["results"]["checkpoints"]["warm"]["forebay"]["runs"] == 3
    assert "not measured on a GPU" in told.with_suffix(".md").read_text().splitlines()[0]
    assert not any(work.iterdir()), "scratch files are left"
