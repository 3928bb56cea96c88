"""The example: killed and resumed on another number of ranks, the losses are those of a run that was left alone."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import pytest

pytest.importorskip("torch", reason="skipped: torch is not installed")

EXAMPLE = pathlib.Path(__file__).resolve().parents[1] / "examples/train.py"
STEPS = int(os.environ.get("FOREBAY_TRAIN_STEPS", "14"))


def start(corpus, run, ranks):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, EXAMPLE, corpus, "--run", run, "--ranks", str(ranks), "--steps", str(STEPS)]
    return subprocess.Popen([*map(str, command), "--port", str(port)], start_new_session=True)


def losses(run):
    path = run / "loss.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_a_killed_run_goes_on_with_the_same_losses(corpus, tmp_path):
    alone = start(corpus, tmp_path / "alone", 1)
    assert alone.wait(300) == 0
    expected = {entry["step"]: entry["loss"] for entry in losses(tmp_path / "alone")}
    assert list(expected) == list(range(STEPS)) and expected[STEPS - 1] < expected[0]

    run = tmp_path / "killed"
    for ranks, until in [(2, 7), (3, 11), (4, STEPS)]:
        process = start(corpus, run, ranks)
        deadline = time.monotonic() + 300
        while process.poll() is None and time.monotonic() < deadline:
            found = losses(run)
            if until < STEPS and found and found[-1]["step"] >= until:
                os.killpg(process.pid, signal.SIGKILL)
            time.sleep(0.02)
        assert process.wait(10) == (0 if until == STEPS else -signal.SIGKILL)
    found = losses(run)
    assert {entry["ranks"] for entry in found} == {2, 3, 4}
    assert len(found) > STEPS, "some steps were done again after a kill"
    for entry in found:
        assert entry["loss"] == expected[entry["step"]], entry
    assert {entry["step"] for entry in found} == set(range(STEPS))
    if os.environ.get("FOREBAY_TRAIN_PLOT"):
        plot(expected, found, pathlib.Path(os.environ["FOREBAY_TRAIN_PLOT"]))


def plot(expected, found, path):
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "forebay"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3))
    axes.plot(list(expected), list(expected.values()), color="0.7", linewidth=5, label="one rank, left alone")
    for ranks, marker in [(2, "o"), (3, "s"), (4, "^")]:
        part = [entry for entry in found if entry["ranks"] == ranks]
        axes.plot([e["step"] for e in part], [e["loss"] for e in part], marker, markersize=3, label=f"{ranks} ranks")
    axes.set(xlabel="step", ylabel="loss")
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
