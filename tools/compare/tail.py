#!/usr/bin/env python3
"""What hedged reads do to a tail: every fiftieth answer of a real server comes 500 ms late.

    tools/compare/tail.py --forebay target/dist/forebay --out benches/results/tail-2026-11-22

A SeaweedFS behind a proxy that holds back the answers. Rounds without and with second requests take turns:
4 KiB reads, one at a time, p99.9 of each, and the share of requests that were asked twice.
"""

import argparse
import asyncio
import json
import multiprocessing
import pathlib
import statistics
import subprocess

from weed import Weed


async def serve(server, ready, every, delay):
    seen = 0

    async def connection(reader, writer):
        nonlocal seen
        try:
            up_reader, up_writer = await asyncio.open_connection(*server)
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                fields = dict(
                    line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line
                )
                up_writer.write(head)
                if length := int(fields.get(b"content-length", 0)):
                    up_writer.write(await reader.readexactly(length))
                answer = await up_reader.readuntil(b"\r\n\r\n")
                fields_back = dict(
                    line.lower().split(b": ", 1) for line in answer.split(b"\r\n")[1:] if b": " in line
                )
                if head.startswith(b"GET ") and b"range" in fields:
                    seen += 1
                    if seen % every == 0:
                        await asyncio.sleep(delay)
                writer.write(answer)
                if not head.startswith(b"HEAD "):
                    if b"chunked" in fields_back.get(b"transfer-encoding", b""):
                        while data := await up_reader.read(65536):
                            writer.write(data)
                        return
                    if length := int(fields_back.get(b"content-length", 0)):
                        writer.write(await up_reader.readexactly(length))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            if "up_writer" in locals():
                up_writer.close()

    listener = await asyncio.start_server(connection, "127.0.0.1", 0)
    ready.send(listener.sockets[0].getsockname()[1])
    await listener.serve_forever()


def proxy(server, ready, every, delay):
    asyncio.run(serve(server, ready, every, delay))


def spread(values, digits=1):
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--forebay", default="target/release/forebay")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--out", help="writes OUT.json and OUT.md")
    arguments = parser.parse_args()
    results = {"plain": [], "hedged": []}
    with Weed() as weed:
        ready, there = multiprocessing.Pipe(False)
        child = multiprocessing.Process(target=proxy, args=(weed.address, there, 50, 0.5), daemon=True)
        child.start()
        environment = weed.environment(f"http://127.0.0.1:{ready.recv()}")
        object = pathlib.Path(weed.directory, "object")
        object.write_bytes(bytes(1 << 20))
        subprocess.run([arguments.forebay, "fs", "cp", object, "s3://data/object"], env=weed.environment(), check=True)
        for round in range(arguments.rounds):
            for name, hedge in [("plain", 0), ("hedged", 0.05)][:: 1 - 2 * (round % 2)]:
                command = [arguments.forebay, "bench", "storage", "s3://data/object", "--engine", "object"]
                command += ["--queue-depth", "1", "--seconds", str(arguments.seconds), "--repeats", "1"]
                command += ["--warm-up", "2", "--hedge", str(hedge), "--json"]
                done = subprocess.run(command, env=environment, capture_output=True, text=True)
                if done.returncode:
                    raise SystemExit(done.stderr)
                one = json.loads(done.stdout)["results"][0]
                latency = {q: one["latency_us"][q]["median"] / 1000 for q in ("p50", "p99", "p999", "max")}
                results[name].append(latency | one["requests"] | {"operations": one["operations"]})
    pairs = list(zip(results["plain"], results["hedged"]))
    extra = [100 * run["hedges_issued"] / run["reads"] for run in results["hedged"]]
    lines = [
        f"# Every fiftieth answer 500 ms late, {arguments.rounds} rounds of {arguments.seconds:.0f} s each way",
        "",
        "4 KiB reads, one at a time, from SeaweedFS through a proxy; milliseconds, medians (min–max).",
        "Made by `tools/compare/tail.py`.",
        "",
        "| | reads a round | p50 | p99 | p99.9 |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, runs in results.items():
        columns = [spread([run[q] for run in runs]) for q in ("p50", "p99", "p999")]
        lines.append(f"| {name} | {spread([r['operations'] for r in runs], 0)} | " + " | ".join(columns) + " |")
    ratio = spread([plain["p999"] / hedged["p999"] for plain, hedged in pairs])
    lines += ["", f"p99.9 falls {ratio} times; {spread(extra, 2)} % of the requests were asked twice."]
    text = "\n".join(lines) + "\n"
    print(text)
    if arguments.out:
        pathlib.Path(arguments.out + ".md").write_text(text)
        pathlib.Path(arguments.out + ".json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
