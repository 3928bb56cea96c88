"""`forebay bench sort` against GNU sort (and DuckDB, if it is installed): the same records, memory and threads, in turn.

    python tools/compare/sorting.py --binary target/release/forebay --directory DIR --size 4GiB --memory 1GiB --runs 5 --out FILE

DIR needs three times the size. Times are wall seconds until the output is on disk; outputs are compared byte for byte. With --add, rounds
are added to those in FILE.json and the records stay in DIR, so that a long comparison can be done in pieces.
"""

import argparse
import hashlib
import importlib.util
import json
import os
import pathlib
import platform
import shutil
import statistics
import subprocess
import sys
import time

DUCK = """
import duckdb, sys
inputs, out, memory, threads, tmp = sys.argv[1:]
con = duckdb.connect()
con.execute(f"SET memory_limit='{memory}'; SET threads={threads}; SET temp_directory='{tmp}'; SET preserve_insertion_order=false")
con.execute(f"COPY (SELECT r FROM read_csv('{inputs}', columns={{'r': 'VARCHAR'}}, delim='\\x01', quote='', escape='', header=false, auto_detect=false) ORDER BY r) TO '{out}' (FORMAT csv, HEADER false, DELIMITER '\\x01', QUOTE '', ESCAPE '')")
"""


def digest(paths):
    found = hashlib.blake2b()
    for path in paths:
        with open(path, "rb") as file:
            while block := file.read(1 << 22):
                found.update(block)
    return found.hexdigest()


def timed(command, env=None):
    """Wall and CPU seconds and peak memory of a command that must succeed, and of all that it starts."""
    os.sync()
    start = time.monotonic()
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
    told = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.monotonic() - start
    if status != 0:
        sys.exit(f"{command[0]} ended with {status}")
    return {"seconds": seconds, "cpu_seconds": used.ru_utime + used.ru_stime, "peak_rss_mib": used.ru_maxrss / 1024}, told


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default="target/release/forebay")
    parser.add_argument("--directory", type=pathlib.Path, required=True)
    parser.add_argument("--size", default="1GiB")
    parser.add_argument("--memory", default="256MiB")
    parser.add_argument("--threads", default="2")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--no-duckdb", action="store_true")
    parser.add_argument("--alone", action="store_true", help="rounds of forebay alone")
    parser.add_argument("--add", action="store_true", help="to FILE.json")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    given = parser.parse_args()
    here = given.directory
    gnu_memory = given.memory.replace("iB", "")
    saved = given.out.with_suffix(".json")
    results = {"forebay": [], "GNU sort": []}
    duck = importlib.util.find_spec("duckdb") is not None and not given.no_duckdb
    if duck:
        results["DuckDB"] = []
    if given.add and saved.exists():
        results |= json.loads(saved.read_text())["results"]
    for run in range(given.runs):
        # Ours first: it makes the records, which lie warm or cold alike for those that follow.
        shutil.rmtree(here / "out", ignore_errors=True)
        shutil.rmtree(here / "runs", ignore_errors=True)
        command = [given.binary, "bench", "sort", str(here), "--size", given.size, "--memory", given.memory, "--threads", given.threads, "--keep", "--json", "--quiet"]
        used, told = timed(command)
        told = json.loads(told)
        if told["moved"]["tasks_done_before"]:
            sys.exit("the sort went on with an earlier one")
        # CPU and memory are of all that it does: it generates and validates too.
        results["forebay"].append({"seconds": told["sort_seconds"], "peak_rss_mib": used["peak_rss_mib"], "moved": told["moved"], "paired": not given.alone})
        ours = digest(sorted((here / "out").iterdir()))
        shutil.rmtree(here / "out")
        shutil.rmtree(here / "runs")
        inputs = sorted(str(path) for path in (here / "in").iterdir())
        tmp, out = here / "tmp", here / "peer.rec"
        tmp.mkdir()
        for peer in [] if given.alone else list(results)[1:]:
            if peer == "GNU sort":
                command = ["sort", f"--parallel={given.threads}", "-S", gnu_memory, "-T", str(tmp), "-o", str(out), "--batch-size=512", *inputs]
            else:
                command = [sys.executable, "-c", DUCK, str(here / "in" / "*.rec"), str(out), given.memory, given.threads, str(tmp)]
            cost, _ = timed(["bash", "-c", '"$@" && sync "$OUT"', "-", *command], env=os.environ | {"LC_ALL": "C", "OUT": str(out)})
            cost["same"] = digest([out]) == ours
            results[peer].append(cost)
            out.unlink()
        shutil.rmtree(tmp)
        print(run, {peer: round(costs[-1]["seconds"], 2) for peer, costs in results.items() if costs}, flush=True)
    bytes_ = told["bytes"]
    if not given.add:
        shutil.rmtree(here)
    spread = lambda values: f"{statistics.median(values):.2f} ({min(values):.2f}–{max(values):.2f})"
    versions = {"GNU sort": subprocess.run(["sort", "--version"], stdout=subprocess.PIPE, text=True).stdout.split("\n")[0]}
    lines = [
        "# Sorting records of 100 bytes with keys of 10 (GraySort)", "",
        f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores, {platform.release()}; {bytes_ / 2**30:.2f} GiB, memory {given.memory}, {given.threads} threads, in turn, output on disk; median (min–max), ratios of rounds that had both. {versions['GNU sort']}. Peak memory of forebay is that of generating, sorting and validating.", "",
        "| tool | rounds | wall s | GiB/min a core | forebay is faster by | peak RSS, MiB | same bytes |", "|---|---:|---:|---:|---:|---:|---|",
    ]
    paired = [cost for cost in results["forebay"] if cost.get("paired", True)]
    for peer, costs in results.items():
        if not costs:
            continue
        seconds = [cost["seconds"] for cost in costs]
        rate = [bytes_ / 2**30 / (s / 60) / int(given.threads) for s in seconds]
        ratio = "" if peer == "forebay" else spread([theirs["seconds"] / mine["seconds"] for theirs, mine in zip(costs, paired)]) + "×"
        same = "" if peer == "forebay" else "yes" if all(cost["same"] for cost in costs) else "no (line ends)" if peer == "DuckDB" else "no"
        rss = max(cost.get("peak_rss_mib", 0) for cost in costs)
        lines.append(f"| {peer} | {len(costs)} | {spread(seconds)} | {spread(rate)} | {ratio} | {rss:.0f} | {same} |")
    moved = results["forebay"][-1]["moved"]
    lines += ["", f"forebay moved {moved['read'] / bytes_:.3f} bytes read and {moved['written'] / bytes_:.3f} written a byte of records; the floor is 2 and 2."]
    given.out.with_suffix(".md").write_text("\n".join(lines) + "\n")
    saved.write_text(json.dumps({"bytes": bytes_, "memory": given.memory, "threads": given.threads, "results": results}, indent=1))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
