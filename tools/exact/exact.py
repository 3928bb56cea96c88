#!/usr/bin/env python3
"""`forebay tokenize` against Hugging Face `tokenizers`: every id of every document must be the same.

    python tools/exact/exact.py --binary forebay --vocabularies DIR [NAME...] [--corpus FILE.jsonl...] [--minutes M] [--seed N] --out RESULT.json

For each vocabulary, with special tokens parsed and taken as text: the adversarial documents of inputs.py, or with --corpus the
documents of JSONL files; then, for M minutes in all, random documents. Both encode the same text without post-processing: the
reference with add_special_tokens=False, ours with --no-eos. A difference is reported with its place and cut down to the fewest
characters that still differ. Exits with 1 if there is any.
"""
import argparse
import collections
import dataclasses
import datetime
import hashlib
import json
import os
import pathlib
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time

# Before tokenizers is imported: one core is what this may take.
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"

import numpy  # noqa: E402
import orjson  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
import tokenizers  # noqa: E402

import inputs  # noqa: E402
import shrink  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODES = ("parse", "text")
# Bytes of text that go through both at once; the reference's results take some hundred bytes an id.
BATCH_BYTES = 24_000_000
SMALL_BATCH_BYTES = 1_000_000
# Differences of one vocabulary and mode that are reported whole; all are counted.
REPORTED = 25


class Failed(Exception):
    """The binary gave up on documents that the reference encodes."""


class Ours:
    """The binary, with one vocabulary."""

    def __init__(self, binary, vocabulary, arguments, work):
        self.binary, self.vocabulary, self.arguments, self.work = binary, vocabulary, arguments, work
        self.engine, self.seconds = None, 0.0

    def encode(self, texts, mode):
        """The ids of each text as an array of uint32; None where the document was left out."""
        with tempfile.TemporaryDirectory(dir=self.work) as folder:
            folder = pathlib.Path(folder)
            with open(folder / "in.jsonl", "wb") as file:
                for number, text in enumerate(texts):
                    file.write(orjson.dumps({"id": str(number), "text": text}) + b"\n")
            out = folder / "out"
            command = [self.binary, "tokenize", folder / "in.jsonl", "--out", out, "--tokenizer", self.vocabulary, "--no-eos",
                       "--special-tokens", mode, "--quiet", "--no-progress", *self.arguments]
            start = time.perf_counter()
            done = subprocess.run(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            self.seconds += time.perf_counter() - start
            if done.returncode:
                keep = pathlib.Path(tempfile.mkdtemp(prefix="exact-failed-")) / "in.jsonl"
                shutil.copy(folder / "in.jsonl", keep)
                raise Failed(f"exit status {done.returncode}, input kept as {keep}: {done.stderr.decode(errors='replace').strip()[-1000:]}")
            self.engine = json.loads((out / "manifest.json").read_text())["tokenizer"]["engine"]
            answer = [None] * len(texts)
            for path in sorted(out.glob("shard-*.parquet")):
                table = pq.read_table(path, columns=["id", "tokens"])
                for ids, tokens in zip(table["id"].chunks, table["tokens"].chunks, strict=True):
                    values = tokens.values.to_numpy(zero_copy_only=False)
                    offsets = tokens.offsets.to_numpy()
                    for number, start, end in zip(ids.to_pylist(), offsets, offsets[1:]):
                        assert answer[int(number)] is None, f"document {number} is in the dataset twice"
                        answer[int(number)] = values[start:end]
            return answer


class Reference:
    def __init__(self, path):
        self.tokenizer = tokenizers.Tokenizer.from_file(str(path))
        # They are for inference; forebay encodes documents whole.
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.seconds = 0.0

    def encode(self, texts, mode):
        self.tokenizer.encode_special_tokens = mode == "text"
        answer, start, at = [], time.perf_counter(), 0
        while at < len(texts):
            end, size = at, 0
            while end < len(texts) and (end == at or size < SMALL_BATCH_BYTES):
                size += len(texts[end])
                end += 1
            batch = self.tokenizer.encode_batch_fast(texts[at:end], add_special_tokens=False)
            answer += [numpy.array(e.ids, dtype=numpy.uint32) for e in batch]
            at = end
        self.seconds += time.perf_counter() - start
        return answer

    def place(self, text, mode, token):
        """The character at which the token of this number starts."""
        self.tokenizer.encode_special_tokens = mode == "text"
        offsets = self.tokenizer.encode(text, add_special_tokens=False).offsets
        return offsets[token][0] if token < len(offsets) else len(text)

    def spell(self, ids):
        return [self.tokenizer.id_to_token(int(i)) for i in ids]


@dataclasses.dataclass
class Count:
    documents: int = 0
    left_out: int = 0
    text_bytes: int = 0
    ids: int = 0
    differ: int = 0
    seconds: float = 0.0


def same(ours, theirs, text):
    # A document of white space alone is left out by `tokenize`, whatever its ids would be.
    if ours is None:
        return not text.strip(inputs.WHITE_SPACE)
    return numpy.array_equal(ours, theirs)


def compare(documents, ours, reference, mode, count, differences):
    """Encodes `(id, text)` with both; appends `(id, text, ours, theirs)` of those that differ."""
    start = time.perf_counter()
    for batch in batches(documents):
        texts = [text for _, text in batch]
        for (name, text), mine, theirs in zip(batch, ours.encode(texts, mode), reference.encode(texts, mode), strict=True):
            count.documents += 1
            count.left_out += mine is None
            count.text_bytes += len(text.encode())
            count.ids += len(theirs)
            if not same(mine, theirs, text):
                count.differ += 1
                if len(differences) < REPORTED:
                    differences.append((name, text, mine, theirs))
    count.seconds += time.perf_counter() - start


def batches(documents):
    batch, size = [], 0
    for name, text in documents:
        batch.append((name, text))
        size += len(text.encode())
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def corpus(paths):
    for path in paths:
        for number, line in enumerate(open(path, "rb"), start=1):
            if line.strip():
                yield f"{path}:{number}", orjson.loads(line)["text"]


def lines_of(paths, most=20_000):
    """Lines of real text to mutate: of the corpus, or of the repository's sample."""
    if not paths:
        folder = ROOT / "tests" / "data" / "sample"
        texts = [p.read_text(encoding="utf-8") for p in sorted(folder.glob("udhr/*.txt"))]
        texts += [orjson.loads(line)["text"] for line in open(folder / "prose.jsonl", "rb")]
    else:
        texts = [text for number, (_, text) in enumerate(corpus(paths)) if number % 16 == 0]
    lines = [line for text in texts for line in text.splitlines() if line.strip()]
    return lines[:: max(1, len(lines) // most)]


# --- the report ---


def explain(difference, mode, ours, reference, cut):
    name, text, mine, theirs = difference
    if mine is None:
        return {"document": name, "mode": mode, "left_out_by_ours": True, "text": text[:200], "minimal": cut}
    common = min(len(mine), len(theirs))
    unequal = numpy.nonzero(mine[:common] != theirs[:common])[0]
    at = int(unequal[0]) if len(unequal) else common
    place = reference.place(text, mode, at)
    said = {
        "document": name, "mode": mode, "token": at, "character": place, "context": text[max(0, place - 20) : place + 20],
        "ours": mine[at : at + 8].tolist(), "theirs": theirs[at : at + 8].tolist(),
        "ours_spelled": reference.spell(mine[at : at + 8]), "theirs_spelled": reference.spell(theirs[at : at + 8]), "minimal": cut,
    }
    if cut is not None and len(cut) <= 200:
        (a,), (b,) = ours.encode([cut], mode), reference.encode([cut], mode)
        said |= {"minimal_characters": shrink.characters(cut), "minimal_ours": None if a is None else a.tolist(), "minimal_theirs": b.tolist(),
                 "minimal_ours_spelled": None if a is None else reference.spell(a), "minimal_theirs_spelled": reference.spell(b)}
    return said


def say(vocabulary, said):
    print(f"  DIFFERENT {vocabulary}, {said['mode']}, {said['document']}, token {said.get('token')}, character {said.get('character')}: {said.get('context')!r}")
    print(f"    ours   {said.get('ours')} {said.get('ours_spelled')}\n    theirs {said.get('theirs')} {said.get('theirs_spelled')}")
    if said["minimal"] is not None:
        print(f"    least input {said['minimal'][:200]!a}: {', '.join(said.get('minimal_characters', []))}")
        print(f"      ours   {said.get('minimal_ours')} {said.get('minimal_ours_spelled')}\n      theirs {said.get('minimal_theirs')} {said.get('minimal_theirs_spelled')}", flush=True)


def prove(name, path, args, mixer_lines, flags, work, minutes):
    """All of one vocabulary."""
    reference = Reference(path)
    described = json.loads(path.read_bytes())
    tokens = [t["content"] for t in described.get("added_tokens") or []]
    ours = Ours(args.binary, path, flags, work)
    counts, differences = {}, []
    for mode in args.modes:
        count, found = Count(), []
        documents = corpus(args.corpus) if args.corpus else inputs.adversarial(tokens, thorough=mode == MODES[0] and not args.quick)
        if args.kinds:
            documents = (d for d in documents if d[0].split("-")[0] in args.kinds)
        what = "corpus" if args.corpus else "adversarial"
        compare(documents, ours, reference, mode, count, found)
        counts[f"{what}, {mode}"] = count
        print(f"{name}, {mode}, {what}: {count.documents:,} documents, {count.text_bytes / 1e6:.1f} MB, {count.ids:,} ids, {count.differ} differ, {count.seconds:.0f} s", flush=True)

        if minutes > 0:
            fuzz, mixer, seed = Count(), inputs.Mixer(mixer_lines, tokens), args.seed
            end = time.monotonic() + 60 * minutes / len(args.modes)
            while time.monotonic() < end and len(found) < REPORTED:
                compare(mixer.documents(seed, args.fuzz_bytes), ours, reference, mode, fuzz, found)
                seed += 1
            counts[f"fuzz, {mode}"] = fuzz
            print(f"{name}, {mode}, fuzz, seeds {args.seed} to {seed - 1}: {fuzz.documents:,} documents, {fuzz.text_bytes / 1e6:.1f} MB, {fuzz.ids:,} ids, {fuzz.differ} differ, {fuzz.seconds:.0f} s", flush=True)

        cuts = shrink.shrink([(text, mine, theirs) for _, text, mine, theirs in found], lambda text, at: reference.place(text, mode, at),
                             lambda texts: [not same(a, b, t) for a, b, t in zip(ours.encode(texts, mode), reference.encode(texts, mode), texts)])
        seen = collections.Counter()
        for difference, cut in zip(found, cuts):
            said = explain(difference, mode, ours, reference, cut)
            seen[cut] += 1
            differences.append(said)
            # The same few characters again say nothing new.
            if seen[cut] == 1 or cut is None:
                say(name, said)
    return {
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "model": described["model"]["type"], "engine": ours.engine,
        "counts": {k: {**vars(c), "seconds": round(c.seconds, 1)} for k, c in counts.items()}, "differences": differences,
        "seconds": {"ours": round(ours.seconds, 1), "reference": round(reference.seconds, 1)},
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="vocabularies; all in the folder by default")
    parser.add_argument("--binary", required=True)
    parser.add_argument("--vocabularies", required=True, type=pathlib.Path, help="what vocabularies.py filled")
    parser.add_argument("--corpus", nargs="+", default=[], help="JSONL with a field `text`, in place of the adversarial documents")
    parser.add_argument("--minutes", type=float, default=0.0, help="of random documents, shared among vocabularies")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--fuzz-bytes", type=int, default=3_000_000, help="of random documents a seed")
    parser.add_argument("--quick", action="store_true", help="adversarial documents without private and unassigned scalars and without megabytes")
    parser.add_argument("--kinds", nargs="+", help="of adversarial documents: scalars, run, probe, space, special, … as their ids begin")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    parser.add_argument("--verify-tokens", metavar="VALUE", help="passed on, where the binary has it")
    parser.add_argument("--argument", action="append", default=[], help="passed on to `forebay tokenize`, such as --argument=--threads=2")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args = parser.parse_args()

    has = subprocess.run([args.binary, "tokenize", "--help"], capture_output=True, text=True, check=True).stdout
    flags = list(args.argument)
    if args.verify_tokens is not None:
        if "--verify-tokens" not in has:
            sys.exit(f"{args.binary} has no --verify-tokens")
        # With a value or without one, as the help says.
        flags += ["--verify-tokens", args.verify_tokens] if re.search(r"--verify-tokens[= ]<", has) else ["--verify-tokens"]
    if not any(f.startswith("--threads") for f in flags):
        flags += ["--threads", str(len(os.sched_getaffinity(0)))]
    names = args.names or sorted(p.parent.name for p in args.vocabularies.glob("*/tokenizer.json"))
    mixer_lines = lines_of(args.corpus) if args.minutes else []
    result = {
        "date": str(datetime.date.today()), "arguments": flags, "seed": args.seed, "corpus": args.corpus,
        "versions": {
            "forebay": subprocess.run([args.binary, "--version"], capture_output=True, text=True, check=True).stdout.strip(),
            "binary_sha256": hashlib.sha256(pathlib.Path(args.binary).read_bytes()).hexdigest(),
            "tokenizers": tokenizers.__version__, "python": platform.python_version(),
        },
        "vocabularies": {},
    }
    differ, failed = 0, []
    with tempfile.TemporaryDirectory() as work:
        for name in names:
            path = args.vocabularies / name / "tokenizer.json"
            try:
                proved = prove(name, path, args, mixer_lines, flags, work, args.minutes / len(names))
            except Failed as why:
                print(f"{name}: FAILED, {why}", flush=True)
                proved = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "failed": str(why), "counts": {}}
                failed.append(name)
            result["vocabularies"][name] = proved
            differ += sum(c["differ"] for c in proved["counts"].values())
            # After each, so that an interrupted run says what it saw.
            total = {k: sum(c[k] for v in result["vocabularies"].values() for c in v["counts"].values()) for k in ("documents", "text_bytes", "ids", "differ")}
            args.out.write_text(json.dumps(result | {"total": total}, indent=1) + "\n")
    print(f"{total['documents']:,} documents, {total['text_bytes'] / 1e6:.1f} MB, {total['ids']:,} ids compared, {differ} documents differ" + (f"; failed: {', '.join(failed)}" if failed else ""))
    sys.exit(1 if differ or failed else 0)


if __name__ == "__main__":
    main()
