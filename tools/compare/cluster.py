"""What a plan costs, and what a cluster gives: the same recipe as plain calls, as a run, as tasks, and on Ray, in turn.

    python tools/compare/cluster.py --target target/release --corpus DIR --runs 5 --out FILE

Run with a Python that has forebay (of the same build) and ray; --target holds `forebay` and `examples/overhead` (cargo build --release
--workspace --bins --examples). Cores are pinned: everything on one core is on core 0, Ray's own processes too; `two nodes` are two
raylets of one CPU each, on cores 0 and 1, and what else Ray is made of on core 0. The cluster stands before the clock starts, and its
workers have read the package. All outputs are compared.
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
# A driver of a cluster of one raylet of one CPU for each core, which runs the recipe whenever it is told to.
DRIVER = """
import sys, os
from ray.cluster_utils import Cluster
import ray, forebay
cores = [int(core) for core in sys.argv[2].split(',')]
os.sched_setaffinity(0, {cores[0]})
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
for core in cores[1:]:
    os.sched_setaffinity(0, {core})
    cluster.add_node(num_cpus=1)
os.sched_setaffinity(0, {cores[0]})
ray.init(address=cluster.address, log_to_driver=False)
ray.get([ray.remote(num_cpus=1)(lambda: __import__("forebay").__version__).remote() for _ in range(4 * len(cores))])
print("ready", flush=True)
for line in sys.stdin:
    forebay.run(sys.argv[1], executor="ray")
    print("done", flush=True)
"""


def hashes(out):
    manifest = json.loads((out / "manifest.json").read_text())
    files = {path.name: hashlib.blake2b(path.read_bytes()).hexdigest() for path in sorted(out.glob("[!.]*")) if path.is_file()}
    return hashlib.sha256(json.dumps([manifest["shards"], manifest["counts"], sorted(files.items())]).encode()).hexdigest()


class Bench:
    def __init__(self, given, here):
        self.given, self.here = given, here
        self.recipe = here / "recipe.toml"
        self.recipe.write_text(RECIPE.format(corpus=given.corpus.resolve()))
        self.out = here / "out"
        self.same = set()

    def timed(self, work):
        """Wall seconds, and what `work` itself tells."""
        shutil.rmtree(self.out, ignore_errors=True)
        # What was written for the last one must not be written out in this one's time.
        os.sync()
        start = time.monotonic()
        told = work()
        took = {"seconds": time.monotonic() - start} | (told or {})
        self.same.add(hashes(self.out))
        return took

    def command(self, program, *args):
        ran = subprocess.run(["taskset", "-c", "0", self.given.target / program, *args], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        if ran.returncode != 0:
            sys.exit(f"{program} {args} ended with {ran.returncode}")
        return ran.stdout

    def overhead(self, *way):
        return lambda: json.loads(self.command("examples/overhead", str(self.recipe), *way))

    def local(self):
        self.command("forebay", "run", str(self.recipe), "--quiet")

    def ray(self, cores):
        command = [sys.executable, "-c", DRIVER, str(self.recipe), cores]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        if "ready" not in process.stdout.readline():
            sys.exit("no Ray cluster came up")

        def work():
            process.stdin.write("run\n")
            process.stdin.flush()
            if "done" not in process.stdout.readline():
                sys.exit("the run on Ray failed")

        return process, work


def spread(values):
    return f"{statistics.median(values):.3f} ({min(values):.3f}–{max(values):.3f})"


def ratio(results, key, way, base):
    return [mine[key] / theirs[key] for mine, theirs in zip(results[way], results[base])]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", type=pathlib.Path, default=pathlib.Path("target/release"))
    parser.add_argument("--corpus", type=pathlib.Path, required=True)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--only", choices=("plan", "ray"), help="one of the two halves; a second call adds the other to FILE.json")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    given = parser.parse_args()
    given.target = given.target.resolve()
    out = given.out.with_suffix(".json")
    results = json.loads(out.read_text())["results"] if given.only and out.exists() else {}
    with tempfile.TemporaryDirectory(dir=given.out.parent) as here:
        bench = Bench(given, pathlib.Path(here))
        text_bytes = sum(path.stat().st_size for path in given.corpus.glob("*.jsonl"))
        calls = {"plain calls": bench.overhead("direct"), "a run": bench.overhead("run"), "23 tasks": bench.overhead("tasks", "4")}
        clusters = {"Ray, one node of one core": "0", "Ray, two nodes of one core": "0,1"}
        ways = (list(calls) if given.only != "ray" else []) + (["forebay run, one core", *clusters] if given.only != "plan" else [])
        for way in ways:
            results[way] = []
        for number in range(given.runs + 1):
            for way in ways[number % len(ways):] + ways[: number % len(ways)]:
                if way in clusters:
                    # A new cluster each time: idle Ray takes a little of the core from the others.
                    process, work = bench.ray(clusters[way])
                    took = bench.timed(work)
                    process.stdin.close()
                    process.wait()
                else:
                    took = bench.timed(calls.get(way, bench.local))
                # The first round warms the page cache.
                if number:
                    results[way].append(took)
            print(number, {way: round(results[way][-1]["seconds"], 2) for way in ways if results[way]}, flush=True)
    if len(bench.same) != 1:
        sys.exit("the outputs differ")
    import ray

    lines = [
        "# One recipe: what a plan costs, and what a cluster gives", "",
        f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores, Linux {platform.release()}, Ray {ray.__version__}; {text_bytes / 1e6:.0f} MB of JSONL through dedup, gpt2 tokens and shuffle; {given.runs} rounds, the ways in turn; median (min–max), ratios of one round each. All outputs have the same bytes.", "",
    ]
    if "plain calls" in results:
        lines += ["The stages as plain calls of one process (no lock, plan, record or task: `crates/pipeline/examples/overhead.rs`), the same as a run that can be resumed, and as tasks, one after another in one process; one thread, one core:", "", "| way | CPU s | wall s | CPU against plain calls | wall against plain calls |", "|---|---:|---:|---:|---:|"]
        for way in calls:
            cpu, wall = ([took[key] for took in results[way]] for key in ("cpu_seconds", "seconds"))
            lines.append(f"| {way} | {spread(cpu)} | {spread(wall)} | {spread(ratio(results, 'cpu_seconds', way, 'plain calls'))} | {spread(ratio(results, 'seconds', way, 'plain calls'))} |")
        lines.append("")
    if "forebay run, one core" in results:
        lines += ["The whole call, on one core and on two:", "", "| way | wall s | speed against `forebay run` on one core | against Ray on one core |", "|---|---:|---:|---:|"]
        for way in ["forebay run, one core", *clusters]:
            wall = [took["seconds"] for took in results[way]]
            lines.append(f"| {way} | {spread(wall)} | {spread([1 / r for r in ratio(results, 'seconds', way, 'forebay run, one core')])} | {spread([1 / r for r in ratio(results, 'seconds', way, 'Ray, one node of one core')])} |")
    given.out.with_suffix(".md").write_text("\n".join(lines) + "\n")
    out.write_text(json.dumps({"text_bytes": text_bytes, "results": results}, indent=1) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
