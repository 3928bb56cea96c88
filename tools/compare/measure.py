#!/usr/bin/env python3
"""Runs a command and writes what it cost to a JSON file, children included, as the kernel counts it.

    python -I -S measure.py RESULT.json [--watch FOLDER] -- COMMAND...

A process of its own because a child's peak memory starts at that of the process it was forked from: a parent with
a corpus in memory would lend it hundreds of MiB. --watch samples the bytes allocated under a folder and keeps the most.
"""
import json
import os
import subprocess
import sys
import threading
import time

EVERY_SECONDS = 0.1


def allocated(folder):
    total = 0
    for directory, _, names in os.walk(folder):
        for name in names:
            try:
                total += 512 * os.lstat(os.path.join(directory, name)).st_blocks
            except FileNotFoundError:
                pass  # between listing and asking, scratch files come and go
    return total


def main():
    result, rest = sys.argv[1], sys.argv[2:]
    watched, most, done = None, 0, threading.Event()
    if rest[0] == "--watch":
        watched, rest = rest[1], rest[2:]
    command = rest[1:]

    start = time.perf_counter()
    process = subprocess.Popen(command)

    def watch():
        nonlocal most
        while not done.wait(EVERY_SECONDS):
            most = max(most, allocated(watched))

    if watched:
        watcher = threading.Thread(target=watch)
        watcher.start()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    done.set()
    if watched:
        watcher.join()
    status = os.waitstatus_to_exitcode(status)
    with open(result, "w") as file:
        json.dump({
            "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 3), "user_seconds": round(usage.ru_utime, 3),
            "wall_seconds": round(wall, 3), "peak_rss_bytes": 1024 * usage.ru_maxrss, "watched_bytes": most, "status": status,
        }, file)
    sys.exit(status if status >= 0 else 128 - status)


if __name__ == "__main__":
    main()
