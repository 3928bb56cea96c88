#!/usr/bin/env python3
"""Batches of a dataset that is not in memory, way by way: the page cache is dropped before every run, which takes root.

    cold.py DATASET [--binary target/release/forebay] [--rounds 5] [--steps 1500] [--date 2026-11-28]

`--io read` announces the ranges of a batch to the kernel and reads them one by one; `auto` has those of all batches that
are being made in flight, through the page cache if the dataset fits into memory; `direct` passes by it. Ways come in turn,
round after round, each a process of its own. Results go to benches/results.
"""
import argparse
import itertools
import json
import pathlib
import statistics
import subprocess

WAYS = list(itertools.product([2048, 512], [0, 4, 16], ["read", "auto", "direct"]))


def drop():
    subprocess.run(["sync"], check=True)
    pathlib.Path("/proc/sys/vm/drop_caches").write_text("3\n")


def one(args, seq_len, prefetch, io):
    command = [args.binary, "bench", "loader", args.dataset, "--io", io, "--seq-len", seq_len, "--prefetch", prefetch]
    command += ["--threads", 1, "--steps", args.steps, "--step", 7, "--json"]
    # The binary is in memory again before the clock starts.
    drop()
    subprocess.run([args.binary, "--version"], check=True, capture_output=True)
    ran = subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True)
    found = json.loads(ran.stdout)
    rows = 8 * args.steps
    return {
        "rows_per_second": rows * found["tokens_per_second"] / found["tokens"],
        "tokens_per_second": found["tokens_per_second"],
        "cpu_us_per_row": 1e6 * found["tokens"] / found["tokens_per_cpu_second"] / rows,
        "first_batch_seconds": found["first_batch_seconds"],
    }


def spread(values, digits):
    show = lambda value: f"{value:,.{digits}f}"
    return f"{show(statistics.median(values))} ({show(min(values))}–{show(max(values))})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("--binary", default="target/release/forebay")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--date", default="2026-11-28")
    args = parser.parse_args()
    runs = {way: [] for way in WAYS}
    for number in range(args.rounds):
        for way in WAYS:
            runs[way].append(one(args, *way))
        print(f"round {number + 1} of {args.rounds}", flush=True)
    cpu = next(line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name"))
    size = sum(path.stat().st_size for path in pathlib.Path(args.dataset).rglob("*.parquet"))
    found = [{"seq_len": s, "prefetch": p, "io": io, "runs": runs[s, p, io]} for s, p, io in WAYS]
    base = pathlib.Path(__file__).resolve().parents[2] / f"benches/results/load-cold-{args.date}"
    result = {"cpu": cpu, "dataset_bytes": size, "steps": args.steps, "batch_size": 8, "threads": 1, "rounds": args.rounds, "ways": found}
    base.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    lines = [
        f"# Loading what is not in memory, {args.date}\n",
        f"A dataset of {size / 2**20:,.0f} MiB (u32), page cache dropped before every run, {args.steps:,} batches of 8 rows out of it, one thread,",
        f"2 cores of {cpu}, virtio disk, ext4; ways in turn; median (min–max) of {args.rounds}; × is to `read` of the same line above.\n",
        "| seq_len | batches ahead | io | rows/s | × | M tokens/s | CPU µs a row | first batch, ms |",
        "|---:|---:|---|---:|---:|---:|---:|---:|",
    ]
    median = lambda way, key: statistics.median(run[key] for run in runs[way])
    for way in WAYS:
        s, p, io = way
        column = lambda key, scale, digits: spread([scale * run[key] for run in runs[way]], digits)
        ratio = median(way, "rows_per_second") / median((s, p, "read"), "rows_per_second")
        cells = [s, p, io, column("rows_per_second", 1, 0), f"{ratio:.2f}", column("tokens_per_second", 1e-6, 1)]
        cells += [column("cpu_us_per_row", 1, 1), column("first_batch_seconds", 1e3, 1)]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    base.with_suffix(".md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
