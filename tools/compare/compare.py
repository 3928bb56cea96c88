#!/usr/bin/env python3
"""`forebay prep` against datatrove: same input, same vocabulary, one core each, in turn, in one run.

    python tools/compare/compare.py CORPUS.jsonl... --runs 5 --out benches/results/prep-DATE

Writes OUT.json (every run) and OUT.md (the table). Also measures, on the whole input, what two threads bring,
`load` from a warm page cache, and how long the binary takes to start.
"""
import argparse
import datetime
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

import zstandard

ROOT = pathlib.Path(__file__).resolve().parents[2]


def measured(command, cores):
    """Runs a command; CPU seconds and peak memory as the kernel counts them, children included."""
    start = time.perf_counter()
    process = subprocess.Popen(["taskset", "-c", cores, *map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    out = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    if status:
        sys.exit(f"{command} failed with status {status}")
    return {
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 3),
        "wall_seconds": round(wall, 3),
        "peak_rss_bytes": 1024 * usage.ru_maxrss,
        "result": json.loads(out) if out.lstrip().startswith(b"{") else None,
    }


def prep(binary, inputs, work, threads, cores):
    out = work / "dataset"
    shutil.rmtree(out, ignore_errors=True)
    command = [binary, "prep", *inputs, "--out", out, "--threads", threads, "--json", "--quiet"]
    run = measured(command, cores)
    result = run.pop("result")
    run.update(documents_kept=result["documents"], tokens=result["tokens"], text_bytes_in=result["counts"]["read_bytes"])
    return run


def datatrove(inputs, work, vocabulary, cores):
    folder, out = work / "input", work / "datatrove"
    for directory in (folder, out):
        shutil.rmtree(directory, ignore_errors=True)
    folder.mkdir()
    for path in inputs:
        (folder / path.name).symlink_to(path.resolve())
    script = ROOT / "tools/compare/datatrove_prep.py"
    run = measured([sys.executable, script, folder, out, "--tokenizer", vocabulary], cores)
    result = run.pop("result")
    run.update({k: result[k] for k in ("documents_kept", "tokens", "text_bytes_in", "stages")})
    return run


def fifth(inputs, work):
    """Every fifth document of all inputs, for the slow one."""
    out = work / "fifth.jsonl"
    lines = (line for path in inputs for line in path.open("rb"))
    out.write_bytes(b"".join(line for number, line in enumerate(lines) if number % 5 == 0))
    return [out]


def spread(values, digits=2):
    values = sorted(values)
    return f"{statistics.median(values):.{digits}f} ({values[0]:.{digits}f}–{values[-1]:.{digits}f})"


def rows(corpus, runs):
    for tool, of_tool in runs.items():
        rate = [r["text_bytes_in"] / 1e6 / r["cpu_seconds"] for r in of_tool]
        rss = max(r["peak_rss_bytes"] for r in of_tool) / 2**20
        first = of_tool[0]
        yield (
            f"| {corpus} | {tool} | {len(of_tool)} | {spread([r['cpu_seconds'] for r in of_tool])} | "
            f"{spread(rate)} | {rss:,.0f} MiB | {first['documents_kept']:,} | {first['tokens']:,} |"
        )


def ratio(runs):
    medians = [statistics.median(r["cpu_seconds"] for r in of_tool) for of_tool in runs.values()]
    return medians[1] / medians[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("inputs", nargs="+", type=pathlib.Path)
    parser.add_argument("--out", required=True, type=pathlib.Path, help="prefix of the .json and .md written")
    parser.add_argument("--binary", type=pathlib.Path, default=ROOT / "target/release/forebay")
    parser.add_argument("--runs", type=int, default=5, help="of each tool on a fifth, of forebay on the whole")
    parser.add_argument("--whole-runs", type=int, default=1, help="of datatrove on the whole input")
    parser.add_argument("--only-forebay", action="store_true", help="leave the peers out")
    parser.add_argument("--core", default="1")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        vocabulary = work / "tokenizer.json"
        packed = (ROOT / "crates/transform/vocab/gpt2.json.zst").read_bytes()
        vocabulary.write_bytes(zstandard.decompress(packed, max_output_size=1 << 26))
        small = fifth(args.inputs, work)

        part, whole = ({"forebay": [], "datatrove": []} for _ in range(2))
        if args.only_forebay:
            args.whole_runs = 0
            part = whole = {"forebay": []}
        for number in range(args.runs):
            print(f"run {number + 1} of {args.runs}", file=sys.stderr)
            if args.only_forebay:
                whole["forebay"].append(prep(args.binary, args.inputs, work, 1, args.core))
                continue
            part["forebay"].append(prep(args.binary, small, work, 1, args.core))
            part["datatrove"].append(datatrove(small, work, vocabulary, args.core))
            whole["forebay"].append(prep(args.binary, args.inputs, work, 1, args.core))
            if number < args.whole_runs:
                whole["datatrove"].append(datatrove(args.inputs, work, vocabulary, args.core))

        scaling = []
        cores = ",".join(map(str, sorted(os.sched_getaffinity(0))[:2]))
        for _ in range(args.runs):
            one = prep(args.binary, args.inputs, work, 1, args.core)
            two = prep(args.binary, args.inputs, work, 2, cores)
            scaling.append({"one_wall_seconds": one["wall_seconds"], "two_wall_seconds": two["wall_seconds"]})
        load = [measured([args.binary, "load", work / "dataset", "--json"], args.core)["result"] for _ in range(args.runs)]
        start = [measured([args.binary, "--version"], args.core)["wall_seconds"] for _ in range(args.runs)]

    model = next(line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name"))
    version = subprocess.run([args.binary, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    tools = f"{version} (release build), datatrove 0.10.1 with tokenizers 0.23, Python {platform.python_version()}"
    machine = f"{os.cpu_count()} × {model}, Linux {platform.release()}"
    speedup = [s["one_wall_seconds"] / s["two_wall_seconds"] for s in scaling]
    peers = [] if args.only_forebay else [
        *rows(f"every fifth document, {part['forebay'][0]['text_bytes_in'] / 1e6:.1f} MB", part),
        "",
        f"Ratio of medians: **{ratio(whole):.0f}×** on the whole corpus, {ratio(part):.0f}× on the fifth, where loading the "
        "vocabulary weighs more.",
    ]
    lines = [
        "# prep: raw text to shuffled tokens",
        "",
        f"{datetime.date.today()}, {machine}; {tools}. One core, one run of the script, tools in turn; median (min–max).",
        "",
        "| corpus | tool | runs | CPU s | MB of text per CPU s | peak RSS | kept | tokens |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
        *rows(f"whole, {whole['forebay'][0]['text_bytes_in'] / 1e6:.1f} MB", whole),
        *peers,
        "",
        f"Two threads against one, wall time, pair by pair: {spread(speedup)}×.",
        f"`load` from a warm page cache, one core: {spread([r['tokens_per_second'] / 1e6 for r in load], 0)} M tokens/s; "
        f"opening and the first batch {spread([1e3 * r['resume_seconds'] for r in load])} ms.",
        f"`forebay --version`: {spread([1e3 * s for s in start], 1)} ms.",
    ]
    report = {
        "date": str(datetime.date.today()), "machine": machine, "tools": tools, "whole": whole, "fifth": part,
        "scaling": scaling, "load": load, "start_seconds": start,
    }
    args.out.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    args.out.with_suffix(".md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
