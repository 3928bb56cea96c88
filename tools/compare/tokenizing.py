#!/usr/bin/env python3
"""`forebay tokenize` against the peers: speed on one core, with exactness beside it. (`tokenize.py` would hide Python's module.)

    python tools/compare/tokenizing.py --corpus DEV --vocabularies DIR --rc-python RC/bin/python --runs 5 --out benches/results/tokenize-DATE

DEV is a folder with html_en, prose_en, code_go, neardup_sympy and multilingual.jsonl; DIR is what tools/exact/vocabularies.py
filled. All in one run, tools in turn, the order reversed from one run to the next:

    memory       text in memory → flat array of ids: cold, steady, hot (tokenize_peers/memory.py), by kind of text
    end to end   .jsonl.zst → `forebay tokenize --threads 1` → shards, with and without the start (a run on one document);
                 beside it datatrove's pipeline on a slice
    letter       documents of a megabyte of one letter, each of another
    two threads  wall time of one thread over that of two, in pairs, on a longer text; beside it what the machine gives to two
                 processes at once

Exact: the ids of a sample of the mixed text equal those of `tokenizers` 0.23, also of a document of characters that are new in
Unicode 17, which later tables take for letters, digits and marks. Writes OUT.json (every run) and OUT.md.
"""
import argparse
import datetime
import hashlib
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tempfile
import time

import numpy
import orjson
import pyarrow.parquet as pq
import zstandard

import tokenizing_report as report

HERE = pathlib.Path(__file__).resolve().parent
KINDS = {
    "English": ("html_en", "prose_en"),
    "code": ("code_go", "neardup_sympy"),
    "multilingual": ("multilingual",),
}
EOS = {"o200k": "<|endoftext|>", "llama3": "<|end_of_text|>", "qwen3": "<|endoftext|>", "deepseek_v3": "<｜end▁of▁sentence｜>"}
REFERENCE = "tokenizers 0.23"
LETTERS = "abcdefgh"
# Letters, digits, marks and symbols since Unicode 17; nothing yet for the reference, which splits by 16.
NEW = [*range(0x10940, 0x1095A), *range(0x11DE0, 0x11DEA), *range(0x16EA0, 0x16ED4), *range(0x1ACF, 0x1ADE), 0x20C1, 0xA7CE, 0x1FAC8]
PROBE = "".join(f"a{chr(c)}b 1{chr(c)}2 {chr(c)}{chr(c)}, {chr(c)}'s\n" for c in NEW)
FAST = {"fastokens": "fastokens", "gigatoken": "gigatoken", "tokenizers 1.0rc": "tokenizers", "snaptokens": "snaptokens"}
SLOW = {"tiktoken": "tiktoken", REFERENCE: "tokenizers"}
# One regex and no normalizer: all that tiktoken can express.
TIKTOKEN = ("o200k", "llama3")


# --- the corpora ---


def order(record):
    return hashlib.blake2b(record["id"].encode(), digest_size=8).digest()


def write(records, path):
    with open(path, "wb") as file:
        for r in records:
            file.write(orjson.dumps({"id": r["id"], "text": r["text"]}) + b"\n")
    return {"path": path, "documents": len(records), "text_bytes": sum(r["bytes"] for r in records)}


def first(records, most):
    taken, size = [], 0
    for r in records:
        if size >= most:
            break
        taken.append(r)
        size += r["bytes"]
    return taken


def corpora(args, work):
    """A file for each kind, of at most --megabytes, in an order that hashes give; `mixed` is all of them together."""
    made, mixed = {}, []
    for kind, names in KINDS.items():
        records = [orjson.loads(line) for name in names for line in open(args.corpus / f"{name}.jsonl", "rb")]
        records = [r | {"bytes": len(r["text"].encode())} for r in records if r["text"].strip()]
        records = first(sorted(records, key=order), args.megabytes * 1e6)
        made[kind] = write(records, work / f"{kind}.jsonl")
        made[f"{kind} slice"] = write(first(records, args.slow_megabytes * 1e6), work / f"{kind}-slice.jsonl")
        mixed += records
    mixed.append({"id": "new in Unicode 17", "text": PROBE, "bytes": len(PROBE.encode())})
    mixed.sort(key=order)
    made["mixed"] = write(mixed, work / "mixed.jsonl")
    made["mixed slice"] = write(first(mixed, args.slow_megabytes * 1e6), work / "mixed-slice.jsonl")
    # From all over it, also from the part that is no longer cold.
    every = max(1, sum(r["bytes"] for r in mixed) // 1_000_000)
    sample = [r for n, r in enumerate(mixed) if n % every == 0 or r["text"] is PROBE]
    made["sample"] = write(sample, work / "sample.jsonl") | {"ids": [r["id"] for r in sample]}
    made["one"] = write([{"id": "one", "text": "One.", "bytes": 4}], work / "one.jsonl")
    made["letter"] = write([{"id": c, "text": c * 1_000_000, "bytes": 1_000_000} for c in LETTERS], work / "letter.jsonl")
    again = [r | {"id": f"{r['id']} {n}"} for n in range(args.times) for r in mixed]
    made["long"] = write(again, work / "long.jsonl")
    for name in ("mixed", "mixed slice", "one", "letter", "long"):
        path = made[name]["path"].with_suffix(".jsonl.zst")
        with open(made[name]["path"], "rb") as plain, open(path, "wb") as packed:
            zstandard.ZstdCompressor(level=3).copy_stream(plain, packed)
        made[name]["zst"] = path
    return made


# --- one measurement each ---


class Bench:
    def __init__(self, args, work):
        self.args, self.work, self.core = args, work, args.core

    def python(self, peer):
        return self.args.rc_python if peer == "tokenizers 1.0rc" else sys.executable

    def call(self, command, cores=None):
        """The last line of stdout as JSON and what measure.py says; None and the reason if it fails."""
        cost = self.work / "cost.json"
        whole = [sys.executable, "-I", "-S", HERE / "measure.py", cost, "--", "taskset", "-c", cores or self.core, *command]
        with open(self.work / "log", "wb") as log:
            done = subprocess.run(list(map(str, whole)), stdout=subprocess.PIPE, stderr=log)
        if done.returncode:
            return None, (self.work / "log").read_text(errors="replace").strip().splitlines()[-1:] or ["no word"]
        lines = done.stdout.splitlines()
        return json.loads(lines[-1]) if lines else {}, json.loads(cost.read_text())

    def memory(self, peer, module, vocabulary, corpus, *extra, cores=None):
        return self.call([self.python(peer), HERE / "tokenize_peers" / "memory.py", module, vocabulary, corpus["path"], *extra], cores)

    def forebay(self, vocabulary, corpus, threads=1, cores=None, extra=()):
        out = self.work / "out"
        shutil.rmtree(out, ignore_errors=True)
        command = [self.args.binary, "tokenize", corpus["zst"], "--out", out, "--tokenizer", vocabulary, "--no-eos", "--threads", threads,
                   "--quiet", "--no-progress", "--json", *extra]
        done, cost = self.call(command, cores)
        return (done, cost) if done is None else ({"tokens": tokens_of(out), "load_cpu_seconds": done["vocabulary_cpu_seconds"]}, cost)

    def at_once(self, vocabulary, corpus, cores):
        """As many processes of one thread as there are cores: the wall time of all."""
        commands = []
        for core in cores.split(","):
            out = self.work / f"out-{core}"
            shutil.rmtree(out, ignore_errors=True)
            commands.append(["taskset", "-c", core, self.args.binary, "tokenize", corpus["zst"], "--out", out, "--tokenizer", vocabulary, "--no-eos",
                             "--threads", "1", "--quiet", "--no-progress"])
        start = time.perf_counter()
        running = [subprocess.Popen(list(map(str, c)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for c in commands]
        failed = any([p.wait() for p in running])
        return (None, ["a process failed"]) if failed else ({}, {"wall_seconds": time.perf_counter() - start})

    def datatrove(self, vocabulary, name, corpus):
        out = self.work / "datatrove"
        shutil.rmtree(out, ignore_errors=True)
        return self.call([sys.executable, HERE / "tokenize_peers" / "datatrove_tokens.py", corpus["zst"], out, "--tokenizer", vocabulary, "--eos", EOS[name]])


def tokens_of(out):
    return sum(r["tokens"] for r in json.loads((out / "manifest.json").read_text())["shards"])


def sample_of(out, ids):
    """Token arrays of some documents of a dataset."""
    wanted, found = set(ids), {}
    for path in sorted(out.glob("shard-*.parquet")):
        table = pq.read_table(path, columns=["id", "tokens"])
        for names, tokens in zip(table["id"].chunks, table["tokens"].chunks):
            values, offsets = tokens.values.to_numpy(zero_copy_only=False), tokens.offsets.to_numpy()
            for n, name in enumerate(names.to_pylist()):
                if name in wanted:
                    found[name] = values[offsets[n] : offsets[n + 1]]
    return [found.get(name) for name in ids]


def unpack(path):
    with numpy.load(path) as file:
        ids, offsets = file["ids"], file["offsets"].astype(numpy.int64)
    return [ids[a:b] for a, b in zip(offsets, offsets[1:])]


def unequal(ours, theirs):
    return sum(a is None or not numpy.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


# --- the run ---


def one_run(number, args, bench, made, results, versions):
    """Everything once, for all vocabularies."""
    for name in args.names:
        vocabulary = args.vocabularies / name / "tokenizer.json"
        into, samples = results[name], {}
        slow = number < args.slow_runs
        jobs = []
        for kind in (*KINDS, "mixed"):
            for peer, module in FAST.items():
                jobs.append(lambda k=kind, p=peer, m=module: memory(k, p, m, made[k]))
            for peer, module in SLOW.items() if slow else ():
                if peer != "tiktoken" or name in TIKTOKEN:
                    jobs.append(lambda k=kind, p=peer, m=module: memory(k, p, m, made[f"{k} slice"]))
        variants = {"forebay tokenize": [], **args.variants}
        for variant, extra in variants.items():
            jobs.append(lambda v=variant, e=extra: end_to_end(v, e))
            jobs.append(lambda v=variant, e=extra: note("letter", v, bench.forebay(vocabulary, made["letter"], extra=e)))
        for peer, module in {**FAST, **(SLOW if slow else {})}.items():
            if peer != "tiktoken" or name in TIKTOKEN:
                jobs.append(lambda p=peer, m=module: note("letter", p, bench.memory(p, m, vocabulary, made["letter"], "--cold-only")))
        if slow:
            jobs.append(lambda: note("datatrove", "slice", bench.datatrove(vocabulary, name, made["mixed slice"])))
            jobs.append(lambda: note("datatrove", "start", bench.datatrove(vocabulary, name, made["one"])))
        if args.two_cores:
            for what in ("long", "one"):
                jobs.append(lambda w=what: [note("threads", f"{w} {n}", bench.forebay(vocabulary, made[w], n, args.two_cores)) for n in (1, 2)])
                jobs.append(lambda w=what: note("threads", f"{w} at once", bench.at_once(vocabulary, made[w], args.two_cores)))

        def note(part, row, done):
            answer, cost = done
            if answer is None:
                into["failed"][f"{part}, {row}"] = cost
                print(f"{name}: {part}, {row} failed: {cost}", file=sys.stderr)
                return None
            if "peer" in answer:
                versions[answer["peer"]] = None
            into[part].setdefault(row, []).append(answer | {"process": cost})
            return answer

        def memory(kind, peer, module, corpus):
            extra = ()
            # One comparison of ids a peer and vocabulary is enough; the reference's own come from its slow row.
            if kind == "mixed" and number == 0:
                extra = ("--sample", made["sample"]["path"], "--ids", bench.work / f"{name}-{peer}.npz")
            note("memory", f"{kind}, {peer}", bench.memory(peer, module, vocabulary, corpus, *extra))

        def end_to_end(variant, extra):
            note("end to end", variant, bench.forebay(vocabulary, made["mixed"], extra=extra))
            if number == 0:
                samples[variant] = sample_of(bench.work / "out", made["sample"]["ids"])
            note("end to end", f"{variant}, start", bench.forebay(vocabulary, made["one"], extra=extra))

        for at, job in enumerate(jobs if number % 2 == 0 else reversed(jobs)):
            print(f"run {number + 1}, {name}: {at + 1} of {len(jobs)}", file=sys.stderr)
            job()
        truth = bench.work / f"{name}-{REFERENCE}.npz"
        if number == 0 and truth.exists():
            reference = unpack(truth)
            rows = {p: unpack(f) for p in (*FAST, *SLOW) if (f := bench.work / f"{name}-{p}.npz").exists()} | samples
            into["exact"] = {row: {"documents": len(reference), "differ": unequal(ids, reference)} for row, ids in rows.items()}
            into["exact sample ids"] = sum(map(len, reference))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", required=True, type=pathlib.Path)
    parser.add_argument("--vocabularies", required=True, type=pathlib.Path)
    parser.add_argument("--names", nargs="+", choices=EOS, default=list(EOS))
    parser.add_argument("--binary", default="target/release/forebay")
    parser.add_argument("--rc-python", required=True, help="a Python with tokenizers 1.0rc")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--slow-runs", type=int, default=1, help="of those that take a second a megabyte")
    parser.add_argument("--megabytes", type=float, default=40, help="of text of each kind at most; mixed is the sum")
    parser.add_argument("--slow-megabytes", type=float, default=8, help="the slice of the slow ones")
    parser.add_argument("--times", type=int, default=4, help="the text for two threads is mixed, so often")
    parser.add_argument("--variant", action="append", default=[], help="one more row of ours: --variant 'verified=--verify-tokens 0.01'")
    parser.add_argument("--core", default="1")
    parser.add_argument("--two-cores", default="0,1", help="for two threads; empty: leave that out")
    parser.add_argument("--out", required=True, type=pathlib.Path, help="OUT.json and OUT.md")
    args = parser.parse_args()
    args.variants = {}
    has = subprocess.run([args.binary, "tokenize", "--help"], capture_output=True, text=True, check=True).stdout
    for variant in args.variant:
        label, _, extra = variant.partition("=")
        if missing := [w for w in extra.split() if w.startswith("--") and w.split("=")[0] not in has]:
            sys.exit(f"{args.binary} tokenize has no {', '.join(missing)}")
        args.variants[f"forebay tokenize, {label}"] = extra.split()

    results, versions = {}, {}
    parts = ("memory", "end to end", "datatrove", "letter", "threads")
    for name in args.names:
        results[name] = {part: {} for part in parts} | {"failed": {}}
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        made = corpora(args, work)
        bench = Bench(args, work)
        for number in range(args.runs):
            one_run(number, args, bench, made, results, versions)
            model = next(line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name"))
            version = subprocess.run([args.binary, "--version"], capture_output=True, text=True, check=True).stdout.strip()
            said = {
                "date": str(datetime.date.today()), "machine": f"{os.cpu_count()} × {model}, Linux {platform.release()}", "runs": number + 1,
                "versions": [f"{version} (release build)", *versions, f"Python {platform.python_version()}"],
                "binary_sha256": hashlib.sha256(pathlib.Path(args.binary).read_bytes()).hexdigest(),
                "corpora": {k: {"documents": c["documents"], "text_bytes": c["text_bytes"]} for k, c in made.items()}, "results": results,
            }
            # After each run, so that an interrupted one leaves what it has.
            args.out.with_suffix(".json").write_text(json.dumps(said, indent=1) + "\n")
            args.out.with_suffix(".md").write_text(report.markdown(said, FAST, SLOW, REFERENCE))
    print(args.out.with_suffix(".md").read_text())


if __name__ == "__main__":
    main()
