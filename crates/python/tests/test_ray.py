"""Recipes on a Ray cluster of two nodes on this machine, which loses workers, a node, and its driver."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time

import pytest
from conftest import hashes

import forebay
from forebay import errors

ray = pytest.importorskip("ray", reason="skipped: ray is not installed")

SET = {"execution.threads": 1, "execution.memory": "64MiB"}
# Rounds of each kind; FOREBAY_RAY_ROUNDS times as many in a long run.
WORKERS, NODES, DRIVERS = (times * int(os.environ.get("FOREBAY_RAY_ROUNDS", 1)) for times in (10, 5, 7))


@pytest.fixture(scope="module")
def cluster():
    from ray.cluster_utils import Cluster

    try:
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        cluster.add_node(num_cpus=1)
        ray.init(address=cluster.address, log_to_driver=False)
    except Exception as error:  # Whatever keeps Ray from starting here is not ours.
        pytest.skip(f"skipped: no Ray cluster came up: {error}")
    yield cluster
    ray.shutdown()
    cluster.shutdown()


class Watch:
    """Counts what tasks leave in a work directory: a name that comes twice was made twice."""

    def __init__(self):
        self.seen, self.stop = {}, threading.Event()

    def over(self, out):
        def look():
            while not self.stop.wait(0.01):
                for directory in (out / ".work", out / ".work/spool"):
                    try:
                        entries = list(os.scandir(directory))
                    except OSError:
                        continue
                    for entry in entries:
                        if entry.name.endswith((".part", ".bin", ".done", ".json")) and entry.name != "plan.json":
                            self.seen.setdefault((str(out), entry.name), set()).add(entry.inode())

        self.stop.clear()
        self.thread = threading.Thread(target=look)
        return self

    def __enter__(self):
        self.thread.start()

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()

    def recomputed(self):
        """Share of all that was made."""
        return sum(len(inodes) - 1 for inodes in self.seen.values()) / len(self.seen)


@pytest.fixture(scope="module")
def watch():
    return Watch()


def outs(recipe, rounds):
    return [(f"out-{number}", recipe.parent / f"out-{number}") for number in range(rounds)]


def run(recipe, name):
    return forebay.run(recipe, executor="ray", set=SET | {"output.path": name}, tasks=5)


def test_a_cluster_makes_the_same_bytes(cluster, recipe, corpus):
    found = run(recipe, "out")
    assert found["documents"] == json.loads((corpus / "manifest.json").read_text())["documents"]
    assert hashes(recipe.parent / "out") == hashes(corpus)


def made(out):
    """Files that a run has left in its work directory so far."""
    try:
        return len(os.listdir(out / ".work"))
    except OSError:
        return 0


def workers():
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline") as line:
                if line.read().startswith("ray::_perform"):
                    yield int(pid)
        except OSError:
            continue


def test_workers_that_die_cost_only_what_they_had_in_hand(cluster, recipe, corpus, watch):
    """SIGKILL of whatever worker is at it, after a random number of files."""
    random.seed(1)
    kills = 0
    for name, out in outs(recipe, WORKERS):
        stop = threading.Event()
        killed = []

        # Told by what is there and not by the time: a run takes as long as the machine likes.
        before = random.randrange(20)

        def kill():
            while not stop.wait(0.005) and made(out) < before:
                pass
            while not killed and not stop.wait(0.005):
                for pid in workers():
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
                    break

        killer = threading.Thread(target=kill)
        killer.start()
        try:
            with watch.over(out):
                run(recipe, name)
        finally:
            stop.set()
            killer.join()
        kills += len(killed)
        assert hashes(out) == hashes(corpus)
    assert kills > WORKERS // 2, f"{kills} kills"


def test_a_node_that_dies_is_survived(cluster, recipe, corpus, watch):
    """Its raylet dies, and all of its workers with it; another one comes."""
    random.seed(2)
    for name, out in outs(recipe, NODES):
        node = cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        killer = threading.Timer(random.uniform(0.1, 2.0), lambda node=node: cluster.remove_node(node, allow_graceful=False))
        killer.start()
        with watch.over(out):
            run(recipe, name)
        killer.join()
        assert hashes(out) == hashes(corpus)


def test_a_driver_that_dies_leaves_what_the_next_one_goes_on_with(cluster, recipe, corpus, watch):
    random.seed(3)
    kills = 0
    for name, out in outs(recipe, DRIVERS):
        settings = [f"--set={key}={value}" for key, value in (SET | {"output.path": name}).items()]
        command = [sys.executable, "-m", "forebay.ray", str(recipe), "--address", cluster.address, "--tasks", "5", *settings]
        with watch.over(out):
            driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            # It first starts and imports ray; then it dies while there is a run.
            before = random.randrange(1, 20)
            while made(out) < before and driver.poll() is None:
                time.sleep(0.005)
            kills += driver.poll() is None
            driver.kill()
            driver.wait()
            run(recipe, name)
        assert hashes(out) == hashes(corpus)
    assert kills > DRIVERS // 2, f"{kills} kills"


def test_little_is_computed_twice(watch):
    if not watch.seen:
        pytest.skip("skipped: nothing ran")
    print(f"recomputed: {watch.recomputed():.1%} of {len(watch.seen)} files")
    assert watch.recomputed() <= 0.10


def test_an_error_on_a_worker_is_our_own(cluster, recipe):
    bad = recipe.parent / "bad.jsonl"
    bad.write_text("no json\n")
    with pytest.raises(errors.InputError, match="bad.jsonl"):
        forebay.run(recipe, executor="ray", set={"input.paths": [str(bad)], "execution.memory": "64MiB"})
    assert list((recipe.parent / "out/.work").glob("*.failed"))
