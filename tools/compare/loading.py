#!/usr/bin/env python3
"""Batches a CPU second, first batch, resume and memory of the loader and its peers, over the same tokens.

    pip install target/wheels/forebay-*.whl -r loading_requirements.txt
    loading.py prepare WORK INPUT...     text files; tokenized again and again up to --bytes: 200 M tokens
    loading.py run WORK [--rounds 5] [--minutes 9.5] [--binary target/release/forebay]

Every measurement is a process of its own on one core, after its imports; loaders come in turn, round after round. A batch
is int64 [8, 2048]. Batches are counted for --seconds after a warm-up; resuming is opening with the state after 10,000
batches, saved by another process, up to the next batch, which must be the one that came there. Slow peers take part in
three rounds; after the first round no round is begun that would not end within --minutes. Results go to benches/results;
--go-on adds rounds to those that are there.
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
    batches, state_of = make(None, args.work)
    first = next(batches)
    found = {"first_seconds": time.perf_counter() - start, "first_cpu_seconds": time.process_time() - cpu}
    assert tuple(first.shape) == (BATCH, SEQ_LEN) and first.dtype == torch.int64, (first.shape, first.dtype)
    if args.mode == "save":
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
    found["peak_growth_bytes"] = after["VmHWM"] - before["VmHWM"]
    found["anonymous_growth_bytes"] = after["RssAnon"] - before["RssAnon"]
    if args.mode == "resume":
        # After the memory was looked at, and before the clock starts what was open is let go.
        batches = None
        state, expected = pickle.loads(state_file.read_bytes())
        start = time.perf_counter()
        batches, state_of = make(state, args.work)
        first = next(batches)
        found["resume_seconds"] = time.perf_counter() - start
        found["identical"] = digest(first) == expected
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
        "forebay in Rust, Parquet u32": ["corpus"],
        "forebay in Rust, Parquet u32, io=map": ["corpus", "--io", "map"],
        "forebay in Rust, Megatron u16, io=map": ["megatron/tokens", "--io", "map"],
    }.items():
        warm_up((args.work / options[0]).parent if "/" in options[0] else args.work / options[0])
        command = [args.binary, "bench", "loader", args.work / options[0], *options[1:], "--steps", "30000", "--json"]
        ran = subprocess.run(command, capture_output=True, text=True, preexec_fn=lambda: os.sched_setaffinity(0, {args.core}))
        if ran.returncode:
            sys.exit(f"{name}: exit {ran.returncode}\n{ran.stderr[-3000:]}")
        result = json.loads(ran.stdout)
        found[name] = {
            "first_seconds": result["first_batch_seconds"],
            "tokens_per_cpu_second": result["tokens_per_cpu_second"],
            "tokens_per_second": result["tokens_per_second"],
            "peak_rss_bytes": result["peak_rss_bytes"],
        }
    return found


def imports(args):
    """CPU seconds of `import`, in an interpreter of its own, all files in the page cache."""
    found = {}
    for module in ["forebay", "numpy", "torch"]:
        code = f"import time; start = time.process_time(); import {module}; print(time.process_time() - start)"
        runs = []
        for _ in range(1 + args.rounds):
            command = [sys.executable, "-c", code]
            ran = subprocess.run(command, capture_output=True, text=True, check=True, preexec_fn=lambda: os.sched_setaffinity(0, {args.core}))
            runs.append(float(ran.stdout))
        found[module] = runs[1:]
    return found


def spread(values, digits=1, scale=1.0):
    values = [scale * value for value in values]
    show = lambda value: f"{value:,.{digits}f}"
    return f"{show(statistics.median(values))} ({show(min(values))}–{show(max(values))})"


def median(entry, key="tokens_per_cpu_second"):
    return statistics.median(run[key] for run in entry["epoch"])


def table(entries):
    lines = [
        "| loader | runs | M tokens per CPU s | first batch, ms | resume at 10,000, ms | same batch | state, B | peak RSS above imports, MiB | anonymous growth, MiB |",
        "|---|---:|---:|---:|---:|---|---:|---:|---:|",
    ]
    for name, entry in sorted(entries.items(), key=lambda item: -median(item[1])):
        epochs = entry["epoch"]
        resumes = [run for run in epochs if "resume_seconds" in run]
        python = all("anonymous_growth_bytes" in run for run in epochs)
        same = "yes" if all(run["identical"] for run in resumes) else "**no**"
        cells = [
            name,
            len(epochs),
            spread([run["tokens_per_cpu_second"] for run in epochs], 1, 1e-6),
            spread([run["first_seconds"] for run in epochs], 1, 1e3),
            spread([run["resume_seconds"] for run in resumes], 1, 1e3) if resumes else "–",
            same if resumes else "–",
            entry["save"]["state_bytes"] if "save" in entry else "–",
            f"{median(entry, 'peak_growth_bytes' if python else 'peak_rss_bytes') / 2**20:,.0f}",
            f"{median(entry, 'anonymous_growth_bytes') / 2**20:,.1f}" if python else "–",
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def ratios(entries):
    """Ours to the peers of the same run, medians."""
    ours = [name for name in entries if name.startswith("forebay") and "Rust" not in name]
    peers = [name for name in entries if any(word in name for word in ["floor", "torch DataLoader", "MosaicML"])]
    lines = ["| × | " + " | ".join(peers) + " |", "|---|" + "---:|" * len(peers)]
    for name in ours:
        lines.append(f"| {name} | " + " | ".join(f"{median(entries[name]) / median(entries[peer]):.2f}" for peer in peers) + " |")
    return "\n".join(lines)


def run(args):
    from loading_peers import FACTORIES, REPLAYED, SLOW

    began = time.monotonic()
    starts = lambda name, prefixes: any(name.startswith(prefix) for prefix in prefixes)
    chosen = [name for name in FACTORIES if not args.only or any(part in name for part in args.only)]
    entries = {name: {"epoch": []} for name in chosen}
    found = {"imports_cpu_seconds": imports(args)}
    before = result_base(args).with_suffix(".json")
    if args.go_on and before.exists():
        entries = json.loads(before.read_text())["loaders"]
    rounds = max(len(entry["epoch"]) for entry in entries.values())
    for name in chosen:
        if "save" not in entries.setdefault(name, {"epoch": []}):
            entries[name]["save"] = measured(args, name, "save")
            print(f"saved  {name}", flush=True)
    for number in range(rounds, rounds + args.rounds):
        round_began = time.monotonic()
        for name in chosen:
            if len(entries[name]["epoch"]) >= 3 and starts(name, SLOW):
                continue
            mode = "epoch" if entries[name]["epoch"] and starts(name, REPLAYED) else "resume"
            entries[name]["epoch"].append(measured(args, name, mode))
        if args.binary:
            for name, measurement in rust(args).items():
                entries.setdefault(name, {"epoch": []})["epoch"].append(measurement)
        now = time.monotonic()
        print(f"round {number + 1}, {(now - began) / 60:.1f} minutes", flush=True)
        report(args, entries, number + 1, found)
        if now - began + (now - round_began) > 60 * args.minutes:
            print("no time for another round")
            return


def result_base(args):
    return HERE.parents[1] / f"benches/results/load-{args.date}"


def report(args, entries, rounds, more):
    from importlib.metadata import version

    packages = ["forebay", "torch", "torchdata", "numpy", "mosaicml-streaming", "litdata", "webdataset", "grain", "datasets"]
    tokens = (args.work / "flat.u16").stat().st_size // 2
    result = {
        "tokens": tokens, "batch": [8, 2048], "dtype": "int64", "core": args.core, "rounds": rounds, "load_average": os.getloadavg(),
        "cpu": next(line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")),
        "versions": {name: version(name) for name in packages}, **more, "loaders": entries,
    }
    base = result_base(args)
    base.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    versions = ", ".join(f"{name} {found}" for name, found in result["versions"].items())
    imported = ", ".join(f"{name} {spread(runs, 3)}" for name, runs in more["imports_cpu_seconds"].items())
    base.with_suffix(".md").write_text(
        f"# Loading, {args.date}\n\n{tokens:,} tokens of real text, warm page cache, batches of int64 [8, 2048], one core of a shared 2-core\n"
        f"{result['cpu']}; every measurement a process of its own, loaders in turn; median (min–max). Forebay's Parquet holds u32\n"
        f"(4 B a token), all others u16 but where said. Memory counts pages of mapped files; of Rust it is that of the whole process.\n{versions}.\n\n"
        f"{table(entries)}\n\nOurs to others, tokens per CPU second, medians of this run:\n\n{ratios(entries)}\n\n`import`, CPU seconds: {imported}.\n"
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
    verb.add_argument("mode", choices=["epoch", "save", "resume"], help="resume: epoch, and resuming too")
    verb.add_argument("--seconds", type=float, default=1.2)
    verb = verbs.add_parser("run")
    verb.set_defaults(run=run)
    verb.add_argument("work", type=pathlib.Path)
    verb.add_argument("--rounds", type=int, default=5)
    verb.add_argument("--minutes", type=float, default=9.5, help="about how long all of it may take")
    verb.add_argument("--seconds", type=float, default=0.8)
    verb.add_argument("--core", type=int, default=1)
    verb.add_argument("--binary", type=pathlib.Path)
    verb.add_argument("--only", nargs="*", help="loaders whose names hold one of these")
    verb.add_argument("--go-on", action="store_true", help="after the rounds of earlier runs of this date")
    verb.add_argument("--date", default=time.strftime("%Y-%m-%d"))
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
