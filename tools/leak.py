#!/usr/bin/env python3
"""Memory of a loader over a million steps: it must not grow, and must be small.

    leak.py DATASET [--steps 1000000] [--limit-mib 200] [-o RESULT.json]

All columns, batches made ahead, a state every 1,000 steps, an epoch after the other. Memory is what is not pages of
mapped files (RssAnon), and with io="read" all of it; exits with 1 if it grows by more than 1 MiB after a tenth of the
steps, or is more than the limit above the bare interpreter.
"""
import argparse
import json
import sys
import time


def memory():
    fields = dict(line.split(":") for line in open("/proc/self/status") if line.startswith(("VmHWM", "VmRSS", "RssAnon")))
    return {name: int(value.split()[0]) * 1024 for name, value in fields.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--seq-len", type=int, default=512)
    parser.add_argument("--io", choices=["auto", "read", "direct"], default="auto")
    parser.add_argument("--output", choices=["torch", "numpy", "dlpack"], default="dlpack")
    parser.add_argument("--limit-mib", type=int, default=200)
    parser.add_argument("-o", "--out")
    args = parser.parse_args()
    bare = memory()
    cpu = time.process_time()
    import forebay

    import_cpu = time.process_time() - cpu
    columns = ["labels", "position_ids", "cu_seqlens", "document_ids", "loss_mask", "samples"]
    loader = forebay.Loader(args.dataset, seq_len=args.seq_len, batch_size=4, columns=columns, io=args.io, output=args.output)
    seen = []
    for step in range(args.steps):
        loader.next()
        if step % 1_000 == 0:
            loader.state_dict()
        if step % (args.steps // 10) == args.steps // 10 - 1:
            seen.append({"step": step + 1, **memory()})
            print(f"step {step + 1:>9,}: {seen[-1]['RssAnon'] / 2**20:.1f} MiB, {seen[-1]['VmRSS'] / 2**20:.1f} with pages of files", flush=True)
    grown = seen[-1]["RssAnon"] - seen[0]["RssAnon"]
    above = seen[-1]["VmHWM"] - bare["VmHWM"]
    result = {
        "steps": args.steps, "epochs": loader.epochs, "io": args.io, "output": args.output, "import_cpu_seconds": import_cpu,
        "bare": bare, "seen": seen, "grown_bytes": grown, "peak_above_interpreter_bytes": above,
    }
    if args.out:
        with open(args.out, "w") as file:
            file.write(json.dumps(result, indent=1) + "\n")
    print(f"grown {grown / 2**10:.0f} KiB; peak {above / 2**20:.1f} MiB above the interpreter; import {import_cpu:.3f} CPU s")
    sys.exit(grown > 1 << 20 or above > args.limit_mib << 20)


if __name__ == "__main__":
    main()
