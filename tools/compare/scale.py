#!/usr/bin/env python3
"""What `forebay dedup` costs as the number of documents grows, in one fixed amount of memory.

    python tools/compare/scale.py --corpus FOLDER --millions 1 2 4 8 10 --out benches/results/dedup-scale-DATE

Makes the documents first, one .jsonl file for every million, so that a larger run reads the files of a smaller one and
more; files that are there already are taken as they are. Then one run for each size, and OUT.json and OUT.md with the
fit cost = a·N^b. Ten million documents are 2.1 GB; scratch files come on top.
"""
import argparse
import datetime
import json
import math
import os
import pathlib
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile

import numpy

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]

VOCABULARY, MIN_WORDS, MAX_WORDS = 50_000, 25, 40
NEAR_COPIES, COPIES, BOILERPLATE = 0.20, 0.02, 0.02


def vocabulary():
    """Made-up words of 3 to 9 letters, the frequent ones shorter, no two alike."""
    rng, words, seen = numpy.random.default_rng(1), [], set()
    consonants, vowels = list("bcdfghklmnprstvz"), list("aeiou")
    while len(words) < VOCABULARY:
        length = 3 + int(min(6, rng.poisson(1 + 3 * len(words) / VOCABULARY)))
        word = "".join(rng.choice(vowels if at % 2 else consonants) for at in range(length))
        if word not in seen:
            seen.add(word)
            words.append(word)
    return words


class Base:
    """The words of the document of a number, from the number alone, so that any part of any file can be made alone."""

    def __init__(self, seed):
        self.seed = numpy.uint64(seed)
        # Zipf with an exponent near 1, by inversion of its distribution.
        weights = 1 / (numpy.arange(1, VOCABULARY + 1) + 2.7)
        self.cumulative = numpy.cumsum(weights) / weights.sum()

    def random(self, numbers, lane):
        """splitmix64 of (seed, number, lane): the same value wherever it is asked for."""
        with numpy.errstate(over="ignore"):
            x = numbers.astype(numpy.uint64) * numpy.uint64(0x9E3779B97F4A7C15) + numpy.uint64(lane) * numpy.uint64(0xD1B54A32D192ED03)
            x += self.seed * numpy.uint64(0x8CB92BA72F3D8DD7)
            x = (x ^ (x >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
            x = (x ^ (x >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
            return x ^ (x >> numpy.uint64(31))

    def uniform(self, numbers, lane):
        return (self.random(numbers, lane) >> numpy.uint64(11)).astype(numpy.float64) * 2.0**-53

    def fresh(self, numbers):
        lengths = MIN_WORDS + (self.random(numbers, 0) % numpy.uint64(MAX_WORDS - MIN_WORDS + 1)).astype(numpy.int64)
        words = numpy.empty((len(numbers), MAX_WORDS), dtype=numpy.int32)
        for lane in range(MAX_WORDS):
            words[:, lane] = numpy.searchsorted(self.cumulative, self.uniform(numbers, lane + 1))
        return words.clip(0, VOCABULARY - 1), lengths

    def kinds(self, numbers):
        """Which are near-copies of an earlier document, which copies, which the boilerplate."""
        kind = self.uniform(numbers, 100)
        near = (kind < NEAR_COPIES) & (numbers > 0)
        copy = (kind >= NEAR_COPIES) & (kind < NEAR_COPIES + COPIES) & (numbers > 0)
        return near, copy, kind >= 1 - BOILERPLATE

    def documents(self, start, count):
        """Word numbers [count, MAX_WORDS], lengths, and which documents are the boilerplate."""
        numbers = numpy.arange(start, start + count, dtype=numpy.uint64)
        near, copy, boilerplate = self.kinds(numbers)
        # A copy of a copy goes back to the first of them, which makes every cluster a star.
        origin = numbers.copy()
        while True:
            first_near, first_copy, _ = self.kinds(origin)
            step = first_near | first_copy
            if not step.any():
                break
            origin[step] = (self.uniform(origin[step], 101) * origin[step]).astype(numpy.uint64)
        boilerplate |= self.kinds(origin)[2]
        words, lengths = self.fresh(origin)
        edits = 1 + (self.random(numbers, 102) % numpy.uint64(2)).astype(numpy.int64)
        for edit in range(2):
            rows = numpy.flatnonzero(near & (edits > edit))
            # Half of them at the end, which leaves a Jaccard similarity near 0.9; amid the text it is 0.5 to 0.75.
            anywhere = (self.uniform(numbers[rows], 103 + edit) * lengths[rows]).astype(numpy.int64)
            at_end = self.random(numbers[rows], 107) % numpy.uint64(2) == 0
            places = numpy.where(at_end, lengths[rows] - 1 - edit, anywhere)
            words[rows, places] = (self.random(numbers[rows], 105 + edit) % numpy.uint64(VOCABULARY)).astype(numpy.int32)
        return words, lengths, boilerplate


# By where the number stands. At the end, two notices have a Jaccard similarity of 0.95: one huge cluster. Amid the text they
# have 0.77: they share bands, so there is one huge bucket, of which verification at 0.8 may merge nothing.
NOTICES = {
    "end": "this page was generated by the archive service of the catalogue please do not reply to this message all rights in the "
           "listed works stay with their owners and no warranty is given of any kind this is entry number {}",
    "middle": "this page was generated by the archive service and holds entry number {} of the catalogue please do not reply to this "
              "message all rights in the listed works stay with their owners and no warranty is given of any kind",
}


def write_documents(path, start, count, words_of, base, notice):
    """One JSON line a document, `d` and its number as the id."""
    scratch = path.with_suffix(".part")
    with open(scratch, "w", encoding="ascii", buffering=1 << 20) as file:
        for first in range(start, start + count, 50_000):
            many = min(50_000, start + count - first)
            words, lengths, boilerplate = base.documents(first, many)
            for at, (row, length, is_notice) in enumerate(zip(words.tolist(), lengths.tolist(), boilerplate.tolist())):
                number = first + at
                text = notice.format(number) if is_notice else " ".join([words_of[w] for w in row[:length]])
                file.write(f'{{"id":"d{number}","text":"{text}"}}\n')
    scratch.rename(path)


def make(folder, documents, per_file, seed, notice):
    folder.mkdir(parents=True, exist_ok=True)
    words_of, base, paths = None, Base(seed), []
    for start in range(0, documents, per_file):
        path = folder / f"documents-{start:010}.jsonl"
        if not path.exists():
            words_of = words_of or vocabulary()
            print(f"writing {path.name}", file=sys.stderr)
            write_documents(path, start, min(per_file, documents - start), words_of, base, notice)
        paths.append(path)
    return paths


def dedup(binary, paths, work, args, flags):
    out, scratch = work / "out", work / "scratch"
    for folder in (out, scratch):
        shutil.rmtree(folder, ignore_errors=True)
    scratch.mkdir()
    command = ["taskset", "-c", args.core, binary, "dedup", *paths, "--out", out, "--tmp-dir", scratch, "--memory", args.memory,
               "--threads", "1", "--json", "--quiet", *(f for f in ["--removed-only", *args.flag] if f in flags)]
    measure = [sys.executable, "-I", "-S", HERE / "measure.py", work / "cost.json", "--watch", scratch, "--", *command]
    done = subprocess.run(list(map(str, measure)), stdout=subprocess.PIPE)
    cost = json.loads((work / "cost.json").read_text())
    if done.returncode:
        sys.exit(f"forebay failed with status {cost['status']}")
    result = json.loads(done.stdout)
    shutil.rmtree(out)
    cost["scratch_bytes"] = cost.pop("watched_bytes")
    cost.update(documents=result["counts"]["read"], text_bytes=result["counts"]["read_bytes"], kept=result["documents"], counts=result["counts"])
    return cost


def fit(points):
    """a and b of cost = a·N^b by least squares of the logarithms."""
    if len({n for n, _ in points}) < 2:
        return None
    x, y = [math.log(n) for n, _ in points], [math.log(c) for _, c in points]
    b = statistics.linear_regression(x, y)
    return math.exp(b.intercept), b.slope


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", required=True, type=pathlib.Path, help="folder of the documents, made when missing")
    parser.add_argument("--millions", nargs="+", type=float, default=[1, 2, 4, 8, 10])
    parser.add_argument("--per-file", type=int, default=1_000_000, help="documents of a file")
    parser.add_argument("--out", required=True, type=pathlib.Path, help="prefix of the .json and .md written")
    parser.add_argument("--binary", type=pathlib.Path, default=ROOT / "target/release/forebay")
    parser.add_argument("--memory", default="512MiB")
    parser.add_argument("--flag", action="append", default=[], help="another flag for forebay, as --flag=--no-verify")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--work", type=pathlib.Path, help="where outputs and scratch files go; a temporary folder by default")
    parser.add_argument("--seed", type=int, default=20261122)
    parser.add_argument("--notice", choices=NOTICES, default="end", help="where the number stands in the notice that is everywhere")
    parser.add_argument("--core", default="1")
    args = parser.parse_args()

    sizes = sorted({round(1e6 * m) for m in args.millions})
    # Prefixes must end where files do.
    per_file = math.gcd(args.per_file, *sizes)
    corpus = args.corpus / f"seed-{args.seed}-{args.notice}-{per_file}"
    paths = make(corpus, sizes[-1], per_file, args.seed, NOTICES[args.notice])
    flags = subprocess.run([args.binary, "dedup", "--help"], capture_output=True, text=True, check=True).stdout
    runs = []
    with tempfile.TemporaryDirectory(dir=args.work) as work:
        for number in range(args.runs):
            for size in sizes:
                print(f"run {number + 1}: {size:,} documents", file=sys.stderr)
                runs.append(dedup(args.binary, paths[: size // per_file], pathlib.Path(work), args, flags))
                assert runs[-1]["documents"] == size

    rows = []
    for size in sizes:
        of_size = [r for r in runs if r["documents"] == size]
        median = {k: statistics.median(r[k] for r in of_size) for k in ("cpu_seconds", "wall_seconds")}
        most = {k: max(r[k] for r in of_size) for k in ("peak_rss_bytes", "scratch_bytes")}
        rows.append(
            f"| {size:,} | {of_size[0]['text_bytes'] / 1e6:,.0f} MB | {of_size[0]['kept']:,} | {median['cpu_seconds']:.2f} | "
            f"{median['wall_seconds']:.2f} | {size / median['cpu_seconds']:,.0f} | {most['peak_rss_bytes'] / 2**20:,.0f} MiB | "
            f"{most['scratch_bytes'] / 2**20:,.0f} MiB | {most['scratch_bytes'] / size:.0f} B |"
        )
    fits = {name: fit([(r["documents"], max(r[name], 1e-9)) for r in runs]) for name in ("cpu_seconds", "peak_rss_bytes")}
    model = next(line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name"))
    version = subprocess.run([args.binary, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    machine = f"{os.cpu_count()} × {model}, Linux {platform.release()}"
    share = lambda x: f"{100 * x:.0f} %"
    lines = [
        "# dedup: cost against the number of documents", "",
        f"{datetime.date.today()}, {machine}; {version} (release build), --memory {args.memory}, one thread on one core"
        f"{', ' + ' '.join(args.flag) if args.flag else ''}; runs: {args.runs}, medians.", "",
        f"Synthetic documents of {MIN_WORDS} to {MAX_WORDS} words, {VOCABULARY:,} words by Zipf's law; {share(NEAR_COPIES)} near-copies of earlier ones "
        f"with one or two words changed, half of them at the end, {share(COPIES)} copies, {share(BOILERPLATE)} one notice with a number ({args.notice}).", "",
        "| documents | text | kept | CPU s | wall s | documents per CPU s | peak RSS | scratch, at most | a document |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|---:|", *rows, "",
    ]
    for name, said in (("cpu_seconds", "CPU seconds"), ("peak_rss_bytes", "Peak RSS in bytes")):
        if fits[name]:
            lines.append(f"{said} = {fits[name][0]:.3g} · N^{fits[name][1]:.3f}." + ("" if name == "peak_rss_bytes" else " 1 is linear."))
    args.out.with_suffix(".md").write_text("\n".join(lines) + "\n")
    report = {"date": str(datetime.date.today()), "machine": machine, "version": version, "memory": args.memory, "seed": args.seed, "runs": runs, "fits": fits}
    args.out.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
