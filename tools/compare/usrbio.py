#!/usr/bin/env python3
"""USRBIO beside FUSE and io_uring on the same 3FS mount, in one run: alternating rounds, ratios with spread.

    python3 tools/compare/usrbio.py --rounds 7 --out benches/results/usrbio-DATE [--dataset DIR [--only-dataset]]

Builds nothing: give release builds by --forebay, --emulator and --probe. The mount is the emulator's, with a file in
memory, so what is compared is the way to a daemon and back, not a network. FUSE is a loop of `pread` with O_DIRECT, past
the page cache, in requests of 1 MiB at most as on a real mount; the daemon hands its bytes to the kernel without a copy of
its own. io_uring has registered buffers and files, O_DIRECT too. --dataset loads one, shuffled, from a 3FS through its
rings, from a 3FS whose daemon takes no rings (plain reads through FUSE) and from the disk, each without a page in the
cache at the start. A run that fails ends the script.
"""
import argparse
import contextlib
import json
import os
import pathlib
import platform
import statistics
import subprocess
import tempfile

# A program that calls pread has one read in flight, at any depth of the others.
ENGINES = {"usrbio": ["usrbio"], "fuse pread": None, "io_uring": ["uring", "--direct"]}
BYTES = {"4KiB": 4 << 10, "128KiB": 128 << 10, "1MiB": 1 << 20}
# Block size, depth.
CASES = [("4KiB", 1), ("128KiB", 1), ("1MiB", 1), ("4KiB", 256), ("128KiB", 16), ("1MiB", 8)]


def run(command):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=120)
    if done.returncode != 0:
        raise SystemExit(f"{command}: {done.returncode}\n{done.stderr}")
    return done.stdout


def once(arguments, file, engine, block, depth):
    if ENGINES[engine] is None:
        rate, cpu = run([arguments.probe, "pread", file, BYTES[block], arguments.seconds]).split()
        return {"iops": float(rate), "cpu_us": float(cpu)}
    told = json.loads(run([arguments.forebay, "bench", "storage", file, "random", "--block-size", block, "--queue-depth",
                           depth, "--engine", *ENGINES[engine], "--seconds", arguments.seconds, "--warm-up", 0.1,
                           "--repeats", 1, "--json", "--no-progress"]))["results"][0]
    assert told["path"]["engine"] == ENGINES[engine][0], told["path"]
    return {"iops": told["iops"]["median"], "cpu_us": told["cpu_us_per_operation"]["median"],
            "p50_us": told["latency_us"]["p50"]["median"], "p99_us": told["latency_us"]["p99"]["median"]}


def spread(values, digits=3):
    return {"median": round(statistics.median(values), digits), "min": round(min(values), digits),
            "max": round(max(values), digits)}


def measure(arguments, file):
    table = {}
    for block, depth in CASES:
        rounds = []
        for number in range(arguments.rounds):
            # Who goes first changes.
            order = list(ENGINES)
            order = order[number % 3:] + order[:number % 3]
            rounds.append({engine: once(arguments, file, engine, block, depth) for engine in order})
        row = {"block": block, "depth": depth, "rounds": rounds}
        for engine in ENGINES:
            for field in rounds[0][engine]:
                row[f"{engine} {field}"] = spread([r[engine][field] for r in rounds])
            row[f"usrbio over {engine}"] = spread([r["usrbio"]["iops"] / r[engine]["iops"] for r in rounds])
        table[f"{block}, depth {depth}"] = row
        print(block, depth, row["usrbio over fuse pread"], row["usrbio over io_uring"], row["usrbio cpu_us"], flush=True)
    return table


@contextlib.contextmanager
def mounted(arguments, *options):
    with tempfile.TemporaryDirectory() as home:
        mount = pathlib.Path(home) / "mount"
        mount.mkdir()
        # As fast as it can be: a watcher does its own jobs, so one thread stands against FUSE's one.
        command = [str(arguments.emulator), str(mount), "--workers", "0", *map(str, options)]
        daemon = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert daemon.stdout.readline().startswith("mounted"), "the emulator cannot mount here"
            yield mount
        finally:
            subprocess.run(["fusermount3", "-uz", str(mount)], check=False)
            try:
                daemon.wait(timeout=30)
            except subprocess.TimeoutExpired:
                daemon.kill()


def load(arguments, path, files, io):
    for file in files.rglob("*"):
        if file.is_file():
            handle = os.open(file, os.O_RDONLY)
            os.fsync(handle)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)
    told = json.loads(run([arguments.forebay, "load", path, "--seq-len", 2048, "--batch-size", 8, "--steps", arguments.steps,
                           "--io", io, "--bench", "--json", "--no-progress"]))
    return {"tokens": told["tokens_per_second"], "per_cpu": told["tokens_per_cpu_second"]}


def measure_loading(arguments):
    preload = ["--preload", arguments.dataset]
    # Without room for a buffer or ring the client reads through FUSE.
    with mounted(arguments, *preload) as rings, mounted(arguments, *preload, "--iov-limit", 0) as plain:
        ways = {"3fs:// through rings": (f"3fs://{rings}", rings, "auto"), "FUSE, plain reads": (plain, plain, "read"),
                "local disk": (arguments.dataset, arguments.dataset, "auto")}
        rounds = []
        for number in range(arguments.rounds):
            order = list(ways)
            order = order[number % 3:] + order[:number % 3]
            rounds.append({name: load(arguments, *ways[name]) for name in order})
    first = next(iter(ways))
    result = {"steps": arguments.steps, "bytes": sum(f.stat().st_size for f in arguments.dataset.rglob("*")), "rounds": rounds}
    for name in ways:
        result[name] = {field: spread([r[name][field] for r in rounds], 0) for field in ("tokens", "per_cpu")}
        result[name]["rings over it"] = spread([r[first]["tokens"] / r[name]["tokens"] for r in rounds])
        print(name, result[name], flush=True)
    return result


def show(value, digits=2):
    return f"{value['median']:,.{digits}f} ({value['min']:,.{digits}f}–{value['max']:,.{digits}f})"


def markdown(result):
    lines = ["# USRBIO beside FUSE and io_uring on one 3FS mount", "",
             f"{result['date']}, {result['machine']}; our emulator, a file of 256 MiB in memory, jobs done by its watcher. "
             f"{result['rounds']} rounds in one run, ratios within a round; median (min–max).", "",
             "| random reads | USRBIO ÷ FUSE `pread` | USRBIO ÷ io_uring | USRBIO reads/s | client CPU µs a read | FUSE's | io_uring's |",
             "|---|---:|---:|---:|---:|---:|---:|"]
    for case, row in result.get("reads", {}).items():
        lines.append(f"| {case} | {show(row['usrbio over fuse pread'])} | {show(row['usrbio over io_uring'])} | "
                     f"{show(row['usrbio iops'], 0)} | {show(row['usrbio cpu_us'])} | {show(row['fuse pread cpu_us'])} | "
                     f"{show(row['io_uring cpu_us'])} |")
    if "prepare_ns" in result:
        lines += ["", f"To prepare an operation: {show(result['prepare_ns'], 1)} ns, of batches of 1,024."]
    if "loading" in result:
        told = result["loading"]
        lines += ["", f"Batches of 8 × 2,048 tokens, {told['steps']} of them shuffled, of a dataset of {told['bytes'] >> 20} MiB; "
                  "no page of it in the cache at the start; FUSE by `--io read`:", "",
                  "| from | M tokens/s | M tokens a CPU second of the loader | rings ÷ it |", "|---|---:|---:|---:|"]
        for name in ("3fs:// through rings", "FUSE, plain reads", "local disk"):
            row = told[name]
            million = {field: {k: v / 1e6 for k, v in row[field].items()} for field in ("tokens", "per_cpu")}
            lines.append(f"| {name} | {show(million['tokens'], 1)} | {show(million['per_cpu'], 1)} | {show(row['rings over it'])} |")
    return "\n".join(lines) + "\n"


def main():
    root = pathlib.Path(__file__).resolve().parents[2]
    parser = argparse.ArgumentParser()
    parser.add_argument("--forebay", default=root / "target/release/forebay")
    parser.add_argument("--emulator", default=root / "target/release/usrbio-emulator")
    parser.add_argument("--probe", default=root / "target/release/examples/usrbio_probe")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--dataset", type=pathlib.Path, help="of `forebay prep`, to load as well; some hundred MB")
    parser.add_argument("--only-dataset", action="store_true")
    parser.add_argument("--steps", type=int, default=2000, help="batches of a load")
    parser.add_argument("--out", required=True)
    arguments = parser.parse_args()
    machine = f"{os.cpu_count()} cores, Linux {platform.release()}"
    result = {"date": run(["date", "-u", "+%F"]).strip(), "machine": machine, "rounds": arguments.rounds}
    if not arguments.only_dataset:
        with mounted(arguments) as mount:
            file = mount / "data"
            with open(file, "wb") as out:
                for _ in range(256):
                    out.write(os.urandom(1 << 20))
            prepare = [float(line) for line in run([arguments.probe, "prepare", file, 200]).split()]
            result["prepare_ns"] = spread(prepare)
            print("prepare", result["prepare_ns"], flush=True)
            result["reads"] = measure(arguments, file)
    if arguments.dataset:
        result["loading"] = measure_loading(arguments)
    pathlib.Path(f"{arguments.out}.json").write_text(json.dumps(result, indent=1) + "\n")
    pathlib.Path(f"{arguments.out}.md").write_text(markdown(result))


main()
