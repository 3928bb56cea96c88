"""What tasks, Slurm-like processes and Ray cost against one process, on the same corpus: wall seconds, in turn.

    python tools/compare/cluster.py --binary target/release/forebay --corpus DIR --runs 5 --out FILE

Run with a Python that has forebay and ray. Cores are pinned: `one core` and `Ray, one node` share core 0 with all that they need
(Ray's own processes too); `Ray, two nodes` are two raylets of one CPU each, on cores 0 and 1. The cluster stands before the clock
starts. All outputs are compared.
"""

import argparse
import hashlib
import json
import os
import pathlib
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

RECIPE = "[input]\npaths = ['{corpus}/*.jsonl']\n[dedup]\n[tokenize]\n[shuffle]\n[output]\npath = 'out'\nshard_size = '16MiB'\n[execution]\nthreads = 1\nmemory = '256MiB'\n"


def hashes(out):
    manifest = json.loads((out / "manifest.json").read_text())
    return hashlib.sha256(json.dumps([manifest["shards"], manifest["counts"]]).encode()).hexdigest()


class Bench:
    def __init__(self, given, here):
        self.given, self.here = given, here
        self.recipe = here / "recipe.toml"
        self.recipe.write_text(RECIPE.format(corpus=given.corpus.resolve()))
        self.out = here / "out"
        self.same = set()

    def timed(self, work):
        shutil.rmtree(self.out, ignore_errors=True)
        start = time.monotonic()
        work()
        took = time.monotonic() - start
        self.same.add(hashes(self.out))
        return took

    def command(self, *args, cores="0"):
        ran = subprocess.run(["taskset", "-c", cores, self.given.binary, *args, "--quiet"], stdout=subprocess.DEVNULL)
        if ran.returncode != 0:
            sys.exit(f"{args} ended with {ran.returncode}")

    def local(self):
        self.command("run", str(self.recipe))

    def tasks(self):
        """Every stage as one process: what the plan costs."""
        for stage in ("read", "find", "write", "finish"):
            self.command("task", str(self.recipe), stage)

    def rounds(self):
        """As a cluster would, four shares a stage, one after another."""
        for stage, shares in (("read", 4), ("exact", 4), ("link", 4), ("group", 0), ("compare", 4), ("find", 0), ("write", 4), ("finish", 0)):
            if not shares:
                self.command("task", str(self.recipe), stage, *(["--share", "0/4"] if stage == "group" else []))
            for number in range(shares):
                self.command("task", str(self.recipe), stage, "--share", f"{number}/4")

    def ray(self, cores):
        """A cluster of one raylet of one CPU for each core; yields what runs the recipe on it."""
        code = """
import sys, json, os
from ray.cluster_utils import Cluster
import ray, forebay
cores = [int(c) for c in sys.argv[2].split(',')]
os.sched_setaffinity(0, {cores[0]})
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
for core in cores[1:]:
    os.sched_setaffinity(0, {core})
    cluster.add_node(num_cpus=1)
os.sched_setaffinity(0, {cores[0]})
ray.init(address=cluster.address, log_to_driver=False)
# Workers are there and have read the package, as in a cluster that is at work.
ray.get([ray.remote(num_cpus=1)(lambda: __import__("forebay").__version__).remote() for _ in range(4 * len(cores))])
print("ready", flush=True)
for line in sys.stdin:
    forebay.run(sys.argv[1], executor="ray")
    print("done", flush=True)
"""
        process = subprocess.Popen([sys.executable, "-c", code, str(self.recipe), cores], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        if "ready" not in process.stdout.readline():
            sys.exit("no Ray cluster came up")

        def work():
            process.stdin.write("run\n")
            process.stdin.flush()
            if "done" not in process.stdout.readline():
                sys.exit("the run on Ray failed")

        return process, work


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default="target/release/forebay")
    parser.add_argument("--corpus", type=pathlib.Path, required=True)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    given = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory(dir=given.out.parent) as here:
        bench = Bench(given, pathlib.Path(here))
        text_bytes = sum(path.stat().st_size for path in given.corpus.glob("*.jsonl"))
        ways = {"one process, one core": bench.local, "four tasks, a process each": bench.tasks, "22 tasks, a process each": bench.rounds}
        for _ in range(given.runs):
            for name, work in ways.items():
                results.setdefault(name, []).append(bench.timed(work))
            for name, cores in (("Ray, one node of one core", "0"), ("Ray, two nodes of one core", "0,1")):
                # A new cluster each time: idle Ray takes a little of the core from the others.
                process, work = bench.ray(cores)
                results.setdefault(name, []).append(bench.timed(work))
                process.stdin.close()
                process.wait()
            print({name: round(took[-1], 2) for name, took in results.items()}, flush=True)
    if len(bench.same) != 1:
        sys.exit("the outputs differ")
    import ray

    spread = lambda values: f"{statistics.median(values):.2f} ({min(values):.2f}–{max(values):.2f})"
    local = results["one process, one core"]
    lines = [
        "# One recipe, from one process to a cluster", "",
        f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores, Linux {platform.release()}, Ray {ray.__version__}; {text_bytes / 1e6:.0f} MB of JSONL through dedup, gpt2 tokens and shuffle, {given.runs} rounds in turn, wall seconds, median (min–max). All outputs have the same bytes.", "",
        "| way | wall s | speed against one process |", "|---|---:|---:|",
    ]
    lines += [f"| {name} | {spread(took)} | {spread([a / b for a, b in zip(local, took)])}× |" for name, took in results.items()]
    given.out.with_suffix(".md").write_text("\n".join(lines) + "\n")
    given.out.with_suffix(".json").write_text(json.dumps({"text_bytes": text_bytes, "wall_seconds": results}, indent=1))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
