#!/usr/bin/env python3
"""`forebay bench storage` beside fio, `forebay fs cp` beside cp: alternating pairs, ratios with spread.

    python3 tools/compare/storage.py FOLDER --pairs 9 --out benches/results/storage-DATE

FOLDER lies on the disk to measure; about 25 GiB are made there and removed again. fio runs the command that
`--emit-fio` prints, so both do the same: engine, registered buffers and files, depth, batch, time, blocks drawn
independently. Which of the two goes first changes from pair to pair. A run that fails ends the script.

`--only PART` runs a part and puts it into the results that are there, so a quiet hour can be had in pieces. Copies of
small files go to a new place each and are removed at the end: an ext4 without a journal gives no inode away again for
some minutes after it was freed and walks past all of those at every new one, which is then most of the time.
"""
import argparse
import itertools
import json
import os
import pathlib
import platform
import random
import statistics
import subprocess
import time

CASES = {
    "direct random 4 KiB, depth 32, 1 completion a wait":
        ["random", "--block-size", "4KiB", "--queue-depth", "32", "--direct", "--batch", "1"],
    "direct random 4 KiB, depth 32, 4 completions a wait":
        ["random", "--block-size", "4KiB", "--queue-depth", "32", "--direct", "--batch", "4"],
    "direct sequential 1 MiB, depth 32, 1 completion a wait":
        ["sequential", "--block-size", "1MiB", "--queue-depth", "32", "--direct", "--batch", "1"],
    "page cache, random 4 KiB, depth 32, 1 completion a wait":
        ["random", "--block-size", "4KiB", "--queue-depth", "32", "--batch", "1"],
}


def run(command, **more):
    return subprocess.run([str(c) for c in command], check=True, capture_output=True, text=True, **more).stdout


def ours(forebay, target, case, seconds):
    result = json.loads(run([forebay, "bench", "storage", target, *CASES[case], "--seconds", seconds, "--warm-up", 0.5,
                             "--repeats", 1, "--engine", "uring", "--json", "--no-progress", "--require-path"]))
    result = result["results"][0]
    return {"iops": result["iops"]["median"], "cpu_us": result["cpu_us_per_operation"]["median"],
            "p50_us": result["latency_us"]["p50"]["median"], "p99_us": result["latency_us"]["p99"]["median"],
            "set_up": result["path"]["set_up"]}


def fio(forebay, target, case, seconds):
    line = json.loads(run([forebay, "bench", "storage", target, *CASES[case], "--seconds", seconds, "--warm-up", 0.5,
                           "--engine", "uring", "--emit-fio", "--json"]))["fio"]
    job = json.loads(run(line))["jobs"][0]
    assert job["error"] == 0, job
    # fio gives CPU as percent of the time of the job, and the time without the ramp.
    busy = (job["usr_cpu"] + job["sys_cpu"]) / 100
    quantile = job["read"]["clat_ns"]["percentile"]
    return {"iops": job["read"]["iops"], "cpu_us": busy * 1e6 / job["read"]["iops"],
            "p50_us": quantile["50.000000"] / 1e3, "p99_us": quantile["99.000000"] / 1e3}


def spread(values, digits=3):
    return {"median": round(statistics.median(values), digits), "min": round(min(values), digits),
            "max": round(max(values), digits)}


def alternate(pairs, first, second):
    results = []
    for number in range(pairs):
        if number % 2:
            b = second()
            a = first()
        else:
            a = first()
            b = second()
        results.append((a, b))
    return results


def storage(arguments, target):
    table = {}
    for case in CASES:
        if "page cache" in case:
            run(["dd", f"if={target}", "of=/dev/null", "bs=1M"])
        pairs = alternate(arguments.pairs, lambda: ours(arguments.forebay, target, case, arguments.seconds),
                          lambda: fio(arguments.forebay, target, case, arguments.seconds))
        rate = [a["iops"] / b["iops"] for a, b in pairs]
        cpu = [a["cpu_us"] / b["cpu_us"] for a, b in pairs]
        core = [b["cpu_us"] / a["cpu_us"] for a, b in pairs]
        table[case] = {
            "rate_ratio": spread(rate), "cpu_per_io_ratio": spread(cpu), "per_core_ratio": spread(core),
            "forebay_iops": spread([a["iops"] for a, _ in pairs], 0), "fio_iops": spread([b["iops"] for _, b in pairs], 0),
            "forebay_cpu_us": spread([a["cpu_us"] for a, _ in pairs]), "fio_cpu_us": spread([b["cpu_us"] for _, b in pairs]),
            "forebay_p50_us": spread([a["p50_us"] for a, _ in pairs], 1), "fio_p50_us": spread([b["p50_us"] for _, b in pairs], 1),
            "forebay_p99_us": spread([a["p99_us"] for a, _ in pairs], 1), "fio_p99_us": spread([b["p99_us"] for _, b in pairs], 1),
            "set_up": pairs[0][0]["set_up"], "pairs": pairs,
        }
        print(case, "rate", table[case]["rate_ratio"], "cpu", table[case]["cpu_per_io_ratio"], flush=True)
    return table


def forget(path):
    """Drops what the kernel has cached of a tree, so that the disk must answer."""
    subprocess.run(["sync"], check=True)
    try:
        with open("/proc/sys/vm/drop_caches", "w") as file:
            file.write("3\n")
    except PermissionError:
        raise SystemExit("a cold cache wants root: /proc/sys/vm/drop_caches")


def timed(command, source, to, cold):
    forget(source)
    if not cold:
        run(["sh", "-c", 'find "$1" -type f -exec cat {} + > /dev/null', "sh", source])
    start = time.perf_counter()
    # Both end when everything is on the disk.
    run(["sh", "-c", f'{command} "$1" "$2"', "sh", source, to])
    done = time.perf_counter()
    run(["sync", "-f", to])
    return {"seconds": time.perf_counter() - start, "until_sync": done - start}


def small_files(folder, count):
    source = folder / "small"
    draw = random.Random(1)
    for number in range(count):
        place = source / f"{number % 100:03}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number:06}").write_bytes(draw.randbytes(draw.choice([500, 2_000, 8_000, 20_000])))
    return source


def small(arguments, folder):
    """Copies beside `cp -r`, and what the kernel alone needs for the same names, in the same rounds."""
    table = {}
    source, places = small_files(folder, arguments.files), folder / "copies"
    places.mkdir()
    floor = folder / "floor"
    run(["cc", "-O2", "-o", floor, pathlib.Path(__file__).with_name("floor.c"), "-lpthread"])
    fresh = (places / f"{number:04}" for number in itertools.count())
    cp, own = "cp -r", f"{arguments.forebay} fs cp --quiet"

    def kernel(threads, what, cold):
        forget(source)
        if not cold:
            run(["sh", "-c", 'find "$1" -type f -exec cat {} + > /dev/null', "sh", source])
        made, sync, cpu = map(float, run([floor, source, next(fresh), threads, what]).split())
        return {"made": made, "sync": sync, "cpu": cpu, "seconds": made + sync}

    for cold in (True, False):
        # Threads that wait for a cold disk may be many; on a warm cache each wants a core.
        asked = [(1, "read"), (16, "read"), (16, "copy")] if cold else [
            (1, "create"), (2, "create"), (1, "write"), (2, "write"), (1, "copy"), (2, "copy")]
        floors = {key: [] for key in asked}
        pairs = []
        for number in range(arguments.pairs):
            to = {}

            def measure(name, command):
                to[name] = next(fresh)
                return timed(command, source, to[name], cold)

            order = [("ours", own), ("cp", cp)]
            times = {name: measure(name, command) for name, command in (order[::-1] if number % 2 else order)}
            pairs.append((times["ours"], times["cp"]))
            for key in asked:
                floors[key].append(kernel(*key, cold))
        run(["diff", "-r", source, to["ours"]])
        least = [(2, "copy"), (16, "copy")][cold]
        name = f"{arguments.files:,} small files, {'cold' if cold else 'warm'}"
        table[name] = {"cp_over_forebay": spread([b["seconds"] / a["seconds"] for a, b in pairs]),
                       "forebay_seconds": spread([a["seconds"] for a, _ in pairs]),
                       "cp_seconds": spread([b["seconds"] for _, b in pairs]),
                       "cp_until_sync_seconds": spread([b["until_sync"] for _, b in pairs]),
                       "cp_over_floor": spread([b["seconds"] / f["seconds"] for (_, b), f in zip(pairs, floors[least])]),
                       "forebay_over_floor": spread([a["seconds"] / f["seconds"] for (a, _), f in zip(pairs, floors[least])]),
                       "floors": {f"{what}, {threads} threads": {of: spread([f[of] for f in runs]) for of in runs[0]}
                                  for (threads, what), runs in floors.items()},
                       "pairs": pairs}
        print(name, {k: table[name][k] for k in ("cp_over_forebay", "forebay_over_floor", "cp_over_floor")}, flush=True)
    return table


def large(arguments, folder, target):
    table = {}
    to = folder / "copy"
    cp, own = "cp", f"{arguments.forebay} fs cp --quiet"

    def copied(command):
        to.unlink(missing_ok=True)
        return timed(command, target, to, True)

    size = os.path.getsize(target)

    def read_and_write():
        """What the disk gives when it reads and writes at once, by fio, both direct."""
        other = folder / "written"
        line = ["fio", "--output-format=json", "--direct=1", "--bs=1M", "--ioengine=io_uring", "--iodepth=16",
                f"--size={size}", "--thread", "--name=read", f"--filename={target}", "--rw=read", "--name=write",
                f"--filename={other}", "--rw=write", "--fallocate=posix", "--end_fsync=1"]
        start = time.perf_counter()
        jobs = json.loads(run(line))["jobs"]
        assert all(job["error"] == 0 for job in jobs), jobs
        wall = max(job["job_runtime"] for job in jobs) / 1e3
        other.unlink()
        return {"seconds": wall, "wall": time.perf_counter() - start}

    pairs = alternate(arguments.pairs, lambda: copied(own), read_and_write)
    other = alternate(arguments.pairs, lambda: copied(own), lambda: copied(cp))
    run(["cmp", target, to])
    to.unlink()
    table[f"{size / 2**30:.0f} GiB, cold"] = {
        "fio_over_forebay": spread([b["seconds"] / a["seconds"] for a, b in pairs]),
        "cp_over_forebay": spread([b["seconds"] / a["seconds"] for a, b in other]),
        "forebay_seconds": spread([a["seconds"] for a, _ in pairs]), "fio_seconds": spread([b["seconds"] for _, b in pairs]),
        "cp_seconds": spread([b["seconds"] for _, b in other])}
    print(table[f"{size / 2**30:.0f} GiB, cold"], flush=True)
    return table


def show(value, digits=2):
    return f"{value['median']:,.{digits}f} ({value['min']:,.{digits}f}–{value['max']:,.{digits}f})"


def markdown(result):
    lines = ["# Storage: `forebay bench storage` beside fio, `forebay fs cp` beside cp", "",
             f"{result['date']}, {result['machine']}; {result['fio']}, forebay {result['forebay']}. {result['pairs']} alternating pairs in "
             "one run; ratios are of pairs; median (min–max). The machine did other work beside it.", "",
             "| read | rate, ours ÷ fio | rate per busy core, ours ÷ fio | our operations/s | fio's | our CPU µs | fio's | our p99 µs | fio's |",
             "|---|---:|---:|---:|---:|---:|---:|---:|---:|"]
    for case, row in result["storage"].items():
        lines.append(f"| {case} | {show(row['rate_ratio'])} | {show(row['per_core_ratio'])} | {show(row['forebay_iops'], 0)} | "
                     f"{show(row['fio_iops'], 0)} | {show(row['forebay_cpu_us'])} | {show(row['fio_cpu_us'])} | "
                     f"{show(row['forebay_p99_us'], 0)} | {show(row['fio_p99_us'], 0)} |")
    lines += ["", "fio's CPU is what it says of its job; ours is of the whole process, its watcher included. Every one of our runs "
              "had `--require-path`: all bytes past the page cache where that was asked for.", "",
              "| copy, synced at the end | peer's time ÷ ours | ours, s | peer's, s |", "|---|---:|---:|---:|"]
    for case, row in result["copies"].items():
        if "fio_seconds" in row:
            lines.append(f"| {case}, beside fio reading and writing as much at once | {show(row['fio_over_forebay'])} | "
                         f"{show(row['forebay_seconds'])} | {show(row['fio_seconds'])} |")
        lines.append(f"| {case}, beside cp | {show(row['cp_over_forebay'])} | {show(row['forebay_seconds'])} | "
                     f"{show(row['cp_seconds'])} |")
    for case, row in result["copies"].items():
        if "floors" not in row:
            continue
        lines += ["", f"{case}: the kernel alone, by `tools/compare/floor.c`. `cp -r` takes {show(row['cp_over_floor'])} times as long as the "
                  f"last line, `forebay fs cp` {show(row['forebay_over_floor'])} times; `cp -r` is at its sync after "
                  f"{show(row['cp_until_sync_seconds'])} s.", "",
                  "| what | until the sync, s | the sync, s | both, s | CPU, s |", "|---|---:|---:|---:|---:|"]
        lines += [f"| {what} | {show(f['made'])} | {show(f['sync'])} | {show(f['seconds'])} | {show(f['cpu'])} |"
                  for what, f in row["floors"].items()]
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--forebay", default="target/release/forebay")
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--size", type=int, default=4, help="GiB")
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--only", choices=["storage", "small", "large"], action="append")
    parser.add_argument("--out", required=True)
    arguments = parser.parse_args()
    arguments.forebay = pathlib.Path(arguments.forebay).resolve()
    folder = arguments.folder / f"forebay-compare-{os.getpid()}"
    folder.mkdir()
    try:
        target = folder / "data"
        parts = arguments.only or ["storage", "small", "large"]
        if parts != ["small"]:
            run([arguments.forebay, "bench", "storage", target, "sequential", "--write", "--block-size", "1MiB", "--queue-depth", 8,
                 "--size", f"{arguments.size}GiB", "--once", "--repeats", 1, "--warm-up", 0, "--keep", "--direct"])
        result = {
            "date": time.strftime("%Y-%m-%d"), "pairs": arguments.pairs, "seconds": arguments.seconds,
            "machine": f"{os.cpu_count()} CPUs, Linux {platform.release()}, {run(['findmnt', '-no', 'FSTYPE', '-T', folder]).strip()}",
            "fio": run(["fio", "--version"]).strip(), "forebay": run([arguments.forebay, "--version"]).split()[-1],
            "load_at_start": os.getloadavg(), "storage": {}, "copies": {},
        }
        there = pathlib.Path(arguments.out + ".json")
        if arguments.only and there.exists():
            earlier = json.loads(there.read_text())
            assert all(earlier[key] == result[key] for key in ("pairs", "machine", "fio", "forebay")), "of another comparison"
            result |= {"storage": earlier["storage"], "copies": earlier["copies"]}
        if "storage" in parts:
            result["storage"] = storage(arguments, target)
        if "small" in parts:
            result["copies"] |= small(arguments, folder)
        if "large" in parts:
            result["copies"] |= large(arguments, folder, target)
        result["load_at_end"] = os.getloadavg()
        pathlib.Path(arguments.out + ".json").write_text(json.dumps(result, indent=1) + "\n")
        pathlib.Path(arguments.out + ".md").write_text(markdown(result))
    finally:
        # Rather than by Python: it is millions of files.
        run(["rm", "-r", folder])


if __name__ == "__main__":
    main()
