#!/usr/bin/env python3
"""Batches a CPU second, first batch, resume and memory of the loader and its peers, over the same tokens.

    pip install target/wheels/forebay-*.whl -r loading_requirements.txt
    loading.py prepare WORK INPUT...     text files; tokenized again and again up to --bytes: 200 M tokens
    loading.py run WORK [--rounds 5] [--binary target/release/forebay]

Every measurement is a process of its own on one core, after its imports; loaders come in turn, round after round. A batch
is int64 [8, 2048]. Batches are counted for --seconds after a warm-up; resuming is opening with the state after 10,000
batches, saved by another process, up to the next batch, which must be the one that came there. Results go to benches/results.
"""
import argparse
import hashlib
import itertools
import json
import os
import pathlib
import pickle
import shutil
import statistics
import subprocess
import sys
import time

os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", HF_DATASETS_DISABLE_PROGRESS_BARS="1", TOKENIZERS_PARALLELISM="false")
os.environ["DISABLE_VERSION_CHECK"] = "1"
HERE = pathlib.Path(__file__).resolve().parent
RESUME_AT = 10_000
WARM_SECONDS = 0.4


def prepare(args):
    import forebay
    import numpy as np
    import pyarrow as pa
    from loading_peers import WRITERS

    args.work.mkdir(parents=True, exist_ok=True)
    texts = args.work / "texts"
    if not (args.work / "corpus/manifest.json").exists():
        texts.mkdir(exist_ok=True)
        size = 0
        for copy in itertools.count():
            for source in itertools.takewhile(lambda _: size < args.bytes, args.inputs):
                link = texts / f"{copy}-{source.name}"
                link.unlink(missing_ok=True)
                # A file named twice is read once, hence another name of its own.
                os.link(source, link)
                size += source.stat().st_size
            if size >= args.bytes:
                break
        print(forebay.prep(texts, out=args.work / "corpus", dedup="none", seed=1))
    if not (args.work / "flat.u16").exists():
        lengths = []
        with open(args.work / "flat.part", "wb") as out:
            reader = pa.RecordBatchReader.from_stream(forebay.open(args.work / "corpus", columns=["tokens"]))
            for batch in reader:
                column = batch["tokens"]
                lengths.append(np.diff(np.asarray(column.offsets)))
                np.asarray(column.flatten()).astype(np.uint16).tofile(out)
        np.save(args.work / "lengths.npy", np.concatenate(lengths))
        (args.work / "flat.part").rename(args.work / "flat.u16")
    for name, write in WRITERS.items():
        if (args.work / f"{name}.done").exists():
            continue
        shutil.rmtree(args.work / name, ignore_errors=True)
        start = time.perf_counter()
        write(args.work)
        (args.work / f"{name}.done").touch()
        print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)


def memory():
    fields = dict(line.split(":") for line in open("/proc/self/status") if line.startswith(("VmHWM", "RssAnon")))
    return {name: int(value.split()[0]) * 1024 for name, value in fields.items()}


def warm_up(root):
    """Others on this machine may have dropped the page cache."""
    for path in sorted(root.rglob("*")):
        if path.is_file() and not path.is_symlink() and "texts" not in path.parts:
            with open(path, "rb", buffering=0) as file:
                while file.read(1 << 24):
                    pass


def read_bytes():
    return int(dict(line.split(":") for line in open("/proc/self/io"))["read_bytes"])


def digest(batch):
    return hashlib.md5(batch.numpy().tobytes()).hexdigest()


def one(args):
    """One measurement, in this process; prints JSON."""
    import importlib

    import torch
    from loading_peers import BATCH, FACTORIES, FOLDERS, MODULES, SEQ_LEN

    torch.set_num_threads(1)
    for prefix, module in MODULES.items():
        if args.loader.startswith(prefix):
            importlib.import_module(module)
    warm_up(args.work / next((folder for prefix, folder in FOLDERS.items() if args.loader.startswith(prefix)), "megatron"))
    state_file = args.work / f"state-{hashlib.md5(args.loader.encode()).hexdigest()[:8]}.pickle"
    make = FACTORIES[args.loader]
    before, cold = memory(), read_bytes()
    start, cpu = time.perf_counter(), time.process_time()
    state, expected = pickle.loads(state_file.read_bytes()) if args.mode == "resume" else (None, None)
    batches, state_of = make(state, args.work)
    first = next(batches)
    found = {"first_seconds": time.perf_counter() - start, "first_cpu_seconds": time.process_time() - cpu}
    assert tuple(first.shape) == (BATCH, SEQ_LEN) and first.dtype == torch.int64, (first.shape, first.dtype)
    if args.mode == "resume":
        found["identical"] = digest(first) == expected
    elif args.mode == "save":
        for _ in range(RESUME_AT - 1):
            next(batches)
        state = state_of(RESUME_AT)
        state_file.write_bytes(pickle.dumps((state, digest(next(batches)))))
        found["state_bytes"] = len(pickle.dumps(state))
    else:
        # Another epoch where one ends; opening it again counts. What was open is let go first.
        del state_of
        batches = itertools.chain(batches, itertools.chain.from_iterable(make(None, args.work)[0] for _ in itertools.count()))
        warm = time.perf_counter()
        while time.perf_counter() - warm < WARM_SECONDS:
            next(batches)
        count, start, cpu = 0, time.perf_counter(), time.process_time()
        while time.perf_counter() - start < args.seconds:
            for _ in range(8):
                next(batches)
            count += 8
        wall, cpu = time.perf_counter() - start, time.process_time() - cpu
        tokens = count * BATCH * SEQ_LEN
        found.update(tokens_per_cpu_second=tokens / cpu, tokens_per_second=tokens / wall)
    after = memory()
    found["cold_bytes"] = read_bytes() - cold
    found["peak_rss_bytes"] = after["VmHWM"]
    found["anonymous_growth_bytes"] = after["RssAnon"] - before["RssAnon"]
    print(json.dumps(found))


def measured(args, loader, mode):
    """A run during which somebody dropped the page cache says nothing: again."""
    for _ in range(5):
        found = once(args, loader, mode)
        if found["cold_bytes"] < 1 << 20:
            return found
        print(f"again: {loader}, {mode} read {found['cold_bytes']:,} B from the disk", flush=True)
    sys.exit(f"{loader}, {mode}: the page cache does not stay")


def once(args, loader, mode):
    command = [sys.executable, str(HERE / "loading.py"), "one", str(args.work), loader, mode, "--seconds", str(args.seconds)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=600, preexec_fn=lambda: os.sched_setaffinity(0, {args.core}))
    if ran.returncode:
        sys.exit(f"{loader}, {mode}: exit {ran.returncode}\n{ran.stderr[-3000:]}")
    return json.loads(ran.stdout.splitlines()[-1])


def rust(args):
    """The same without Python: `forebay load --bench`."""
    found = {}
    for name, options in {
        "forebay in Rust, Parquet": ["corpus"],
        "forebay in Rust, Parquet, io=read": ["corpus", "--io", "read"],
        "forebay in Rust, Megatron u16": ["megatron/tokens"],
    }.items():
        command = [args.binary, "load", args.work / options[0], *options[1:], "--bench", "--steps", "30000", "--json"]
        ran = subprocess.run(command, capture_output=True, text=True, check=True, preexec_fn=lambda: os.sched_setaffinity(0, {args.core}))
        result = json.loads(ran.stdout)
        found[name] = {
            "first_seconds": result["first_batch_seconds"],
            "tokens_per_cpu_second": result["tokens_per_cpu_second"],
            "tokens_per_second": result["tokens_per_second"],
            "peak_rss_bytes": result["peak_rss_bytes"],
        }
    return found


def spread(values, digits=1, scale=1.0):
    values = [scale * value for value in values]
    show = lambda value: f"{value:,.{digits}f}"
    return f"{show(statistics.median(values))} ({show(min(values))}–{show(max(values))})"


def table(entries):
    lines = [
        "| loader | M tokens per CPU s | first batch, ms | resume at 10,000, ms | same batch | state, B | peak RSS, MiB | anonymous growth, MiB |",
        "|---|---:|---:|---:|---|---:|---:|---:|",
    ]
    median = lambda entry: statistics.median(run["tokens_per_cpu_second"] for run in entry["epoch"])
    for name, entry in sorted(entries.items(), key=lambda item: -median(item[1])):
        epochs, resumes = entry["epoch"], entry.get("resume", [])
        growth = [run["anonymous_growth_bytes"] for run in epochs if "anonymous_growth_bytes" in run]
        same = "yes" if all(run["identical"] for run in resumes) else "**no**"
        cells = [
            name,
            spread([run["tokens_per_cpu_second"] for run in epochs], 1, 1e-6),
            spread([run["first_seconds"] for run in epochs], 1, 1e3),
            spread([run["first_seconds"] for run in resumes], 1, 1e3) if resumes else "–",
            same if resumes else "–",
            entry["save"]["state_bytes"] if "save" in entry else "–",
            f"{statistics.median(run['peak_rss_bytes'] for run in epochs) / 2**20:,.0f}",
            f"{statistics.median(growth) / 2**20:,.1f}" if growth else "–",
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def run(args):
    from loading_peers import FACTORIES

    chosen = [name for name in FACTORIES if not args.only or any(part in name for part in args.only)]
    entries = {name: {"epoch": [], "resume": []} for name in chosen}
    for name in chosen:
        entries[name]["save"] = measured(args, name, "save")
        print(f"saved  {name}", flush=True)
    for number in range(args.rounds):
        for name in chosen:
            entries[name]["epoch"].append(measured(args, name, "epoch"))
            entries[name]["resume"].append(measured(args, name, "resume"))
        if args.binary:
            for name, found in rust(args).items():
                entries.setdefault(name, {"epoch": []})["epoch"].append(found)
        print(f"round {number + 1} of {args.rounds}", flush=True)
        report(args, entries, number + 1)


def report(args, entries, rounds):
    from importlib.metadata import version

    packages = ["forebay", "torch", "torchdata", "numpy", "mosaicml-streaming", "litdata", "webdataset", "grain", "datasets"]
    tokens = (args.work / "flat.u16").stat().st_size // 2
    result = {
        "tokens": tokens, "batch": [8, 2048], "dtype": "int64", "core": args.core, "rounds": rounds,
        "cpu": next(line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")),
        "versions": {name: version(name) for name in packages}, "loaders": entries,
    }
    base = HERE.parents[1] / f"benches/results/load-{args.date}"
    base.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    versions = ", ".join(f"{name} {found}" for name, found in result["versions"].items())
    base.with_suffix(".md").write_text(
        f"# Loading, {args.date}\n\n{tokens:,} tokens of real text, warm page cache, batches of int64 [8, 2048], one core of a shared 2-core\n"
        f"{result['cpu']}; every measurement a process of its own, loaders in turn, rounds: {rounds}; median (min–max). Forebay's Parquet\n"
        f"holds u32 (4 B a token), all others u16. Peak RSS counts pages of mapped files. {versions}.\n\n{table(entries)}\n"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    verb = verbs.add_parser("prepare")
    verb.set_defaults(run=prepare)
    verb.add_argument("work", type=pathlib.Path)
    verb.add_argument("inputs", type=pathlib.Path, nargs="+")
    verb.add_argument("--bytes", type=int, default=480_000_000, help="of the inputs, again and again")
    verb = verbs.add_parser("one")
    verb.set_defaults(run=one)
    verb.add_argument("work", type=pathlib.Path)
    verb.add_argument("loader")
    verb.add_argument("mode", choices=["epoch", "save", "resume"])
    verb.add_argument("--seconds", type=float, default=1.2)
    verb = verbs.add_parser("run")
    verb.set_defaults(run=run)
    verb.add_argument("work", type=pathlib.Path)
    verb.add_argument("--rounds", type=int, default=5)
    verb.add_argument("--seconds", type=float, default=1.2)
    verb.add_argument("--core", type=int, default=1)
    verb.add_argument("--binary", type=pathlib.Path)
    verb.add_argument("--only", nargs="*", help="loaders whose names hold one of these")
    verb.add_argument("--date", default=time.strftime("%Y-%m-%d"))
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
