#!/usr/bin/env python3
"""`forebay bench storage` beside fio, `forebay fs cp` beside cp: alternating pairs, ratios with spread.

    python3 tools/compare/storage.py FOLDER --pairs 9 --out benches/results/storage-DATE

FOLDER lies on the disk to measure; about 9 GiB are made there and removed again. fio runs the command that
`--emit-fio` prints, so both do the same: engine, registered buffers and files, depth, batch, time, blocks drawn
independently. Which of the two goes first changes from pair to pair. A run that fails ends the script.
"""
import argparse
import json
import os
import pathlib
import platform
import random
import shutil
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
    shutil.rmtree(to, ignore_errors=True)
    if to.is_file():
        to.unlink()
    forget(source)
    if not cold:
        run(["sh", "-c", 'find "$1" -type f -exec cat {} + > /dev/null', "sh", source])
    start = time.perf_counter()
    # Both end when everything is on the disk.
    run(["sh", "-c", f'{command} "$1" "$2" && sync -f "$2"', "sh", source, to])
    wall = time.perf_counter() - start
    return {"seconds": wall}


def small_files(folder, count):
    source = folder / "small"
    draw = random.Random(1)
    for number in range(count):
        place = source / f"{number % 100:03}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number:06}").write_bytes(draw.randbytes(draw.choice([500, 2_000, 8_000, 20_000])))
    return source


def copies(arguments, folder, target):
    table = {}
    source, to = small_files(folder, arguments.files), folder / "copy"
    cp, own = "cp -r", f"{arguments.forebay} fs cp --quiet"
    for cold in (True, False):
        pairs = alternate(arguments.pairs, lambda: timed(own, source, to, cold), lambda: timed(cp, source, to, cold))
        run(["diff", "-r", source, to])
        name = f"{arguments.files:,} small files, {'cold' if cold else 'warm'}"
        table[name] = {"cp_over_forebay": spread([b["seconds"] / a["seconds"] for a, b in pairs]),
                       "forebay_seconds": spread([a["seconds"] for a, _ in pairs]),
                       "cp_seconds": spread([b["seconds"] for _, b in pairs])}
        print(name, table[name], flush=True)
    shutil.rmtree(to)
    shutil.rmtree(source)

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

    pairs = alternate(arguments.pairs, lambda: timed(own, target, to, True), read_and_write)
    other = alternate(arguments.pairs, lambda: timed(own, target, to, True), lambda: timed("cp", target, to, True))
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
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--forebay", default="target/release/forebay")
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--size", type=int, default=4, help="GiB")
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--only", choices=["storage", "copies"])
    parser.add_argument("--out", required=True)
    arguments = parser.parse_args()
    arguments.forebay = pathlib.Path(arguments.forebay).resolve()
    folder = arguments.folder / f"forebay-compare-{os.getpid()}"
    folder.mkdir()
    try:
        target = folder / "data"
        run([arguments.forebay, "bench", "storage", target, "sequential", "--write", "--block-size", "1MiB", "--queue-depth", 8,
             "--size", f"{arguments.size}GiB", "--once", "--repeats", 1, "--warm-up", 0, "--keep", "--direct"])
        result = {
            "date": time.strftime("%Y-%m-%d"), "pairs": arguments.pairs, "seconds": arguments.seconds,
            "machine": f"{os.cpu_count()} CPUs, Linux {platform.release()}, {run(['findmnt', '-no', 'FSTYPE', '-T', folder]).strip()}",
            "fio": run(["fio", "--version"]).strip(), "forebay": run([arguments.forebay, "--version"]).split()[-1],
            "load_at_start": os.getloadavg(), "storage": {}, "copies": {},
        }
        if arguments.only != "copies":
            result["storage"] = storage(arguments, target)
        if arguments.only != "storage":
            result["copies"] = copies(arguments, folder, target)
        result["load_at_end"] = os.getloadavg()
    finally:
        shutil.rmtree(folder)
    pathlib.Path(arguments.out + ".json").write_text(json.dumps(result, indent=1) + "\n")
    pathlib.Path(arguments.out + ".md").write_text(markdown(result))


if __name__ == "__main__":
    main()
