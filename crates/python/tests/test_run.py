"""Recipes from Python, on this machine and on a Ray cluster of two nodes that lose workers."""

import hashlib
import json
import os
import signal
import threading
import time

import pytest
from conftest import ROOT

import forebay
from forebay import errors

STAGES = "[dedup]\n[tokenize]\n[shuffle]\nseed = 7\n"


def hashes(out):
    """Of all files; of the manifest what does not tell where inputs lie."""
    found = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(out.iterdir()) if p.is_file() and p.name != "manifest.json"}
    manifest = json.loads((out / "manifest.json").read_text())
    return found | {"shards": manifest["shards"], "counts": manifest["counts"]}


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(f"[input]\npaths = ['{ROOT}/tests/data/sample']\n[output]\npath = 'out'\nshard_size = '1MiB'\nkeep_text = true\n{STAGES}")
    return path


def test_a_recipe_makes_what_prep_makes(recipe, corpus):
    found = forebay.run(recipe)
    assert hashes(recipe.parent / "out") == hashes(corpus)
    assert not found["already"] and forebay.run(recipe)["already"]
    other = forebay.run(recipe, set={"output.path": "other", "dedup.fuzzy": False, "shuffle.seed": 8})
    assert other["documents"] > found["documents"] and (recipe.parent / "other").is_dir()


def test_a_dict_is_a_recipe(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"id": "a", "text": "one two"}\n')
    found = forebay.run({"input": {"paths": [str(tmp_path / "a.jsonl")]}, "tokenize": {}, "output": {"path": str(tmp_path / "out")}})
    assert (found["documents"], found["tokens"]) == (1, 3)


def test_a_wrong_recipe_is_a_config_error(recipe):
    recipe.write_text(recipe.read_text() + "[dedupe]\n")
    with pytest.raises(errors.ConfigError, match="(?s)line 11.*did you mean `dedup`"):
        forebay.run(recipe)
    with pytest.raises(errors.ConfigError, match="executor"):
        forebay.run({"input": {}, "output": {}}, executor="spark")
    with pytest.raises(errors.ConfigError, match="paths"):
        forebay.run({"input": {}, "output": {"path": "x"}})


@pytest.fixture(scope="module")
def cluster():
    ray = pytest.importorskip("ray", reason="skipped: ray is not installed")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False)
    yield ray
    ray.shutdown()
    cluster.shutdown()


def test_a_cluster_makes_the_same_bytes(cluster, recipe, corpus):
    found = forebay.run(recipe, executor="ray", set={"execution.threads": 1, "execution.memory": "64MiB"}, tasks=5)
    assert found["documents"] == json.loads((corpus / "manifest.json").read_text())["documents"]
    assert hashes(recipe.parent / "out") == hashes(corpus)


def test_workers_that_die_cost_only_what_they_had_in_hand(cluster, recipe, corpus):
    """SIGKILL of whatever worker is at it, again and again."""
    stop, kills = threading.Event(), []

    def kill():
        while not stop.wait(0.7):
            for pid in filter(str.isdigit, os.listdir("/proc")):
                try:
                    name = open(f"/proc/{pid}/cmdline").read()
                except OSError:
                    continue
                if name.startswith("ray::_perform") and len(kills) < 6:
                    os.kill(int(pid), signal.SIGKILL)
                    kills.append(time.monotonic())
                    break

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        forebay.run(recipe, executor="ray", set={"execution.threads": 1, "execution.memory": "64MiB"}, tasks=5)
    finally:
        stop.set()
        killer.join()
    assert hashes(recipe.parent / "out") == hashes(corpus)
    assert kills, "nobody was killed"


def test_an_error_on_a_worker_is_our_own(cluster, recipe):
    bad = recipe.parent / "bad.jsonl"
    bad.write_text("no json\n")
    with pytest.raises(errors.InputError, match="bad.jsonl"):
        forebay.run(recipe, executor="ray", set={"input.paths": [str(bad)], "execution.memory": "64MiB"})
