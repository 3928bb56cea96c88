#!/usr/bin/env python3
"""Text in memory to one flat array of ids, three times: cold, steady, hot. What each costs goes to stdout as JSON.

    taskset -c 1 python memory.py PEER TOKENIZER.json CORPUS.jsonl [--sample SAMPLE.jsonl --ids IDS.npz] [--threads N] [--cold-only]

cold: a fresh tokenizer on the first half of the corpus; steady: the second half, documents it has not seen; hot: those again.
CPU seconds are user + system of the whole process, threads included. Loading counts apart. With --sample, the ids of other
documents are written after the measurement, for comparison.
"""
import argparse
import json
import os
import resource
import sys
import time

# Rows of one call where a peer returns an object a document: all of them at once would not fit.
BATCH = 256


def flat_batches(encode, texts, array):
    """`encode` takes a list of texts; `array` makes an id array of each answer."""
    import numpy

    parts = []
    for start in range(0, len(texts), BATCH):
        parts += [array(e) for e in encode(texts[start : start + BATCH])]
    return numpy.concatenate(parts), numpy.cumsum([0] + [len(p) for p in parts])


def fastokens(path, threads):
    import fastokens
    import numpy

    tokenizer = fastokens.Tokenizer.from_file(path)

    def encode(texts):
        ids, offsets = tokenizer.encode_batch_flat(texts, add_special_tokens=False)
        return numpy.frombuffer(ids, numpy.uint32), numpy.frombuffer(offsets, numpy.uint64)

    return encode


def gigatoken(path, threads):
    import gigatoken
    import numpy

    tokenizer = gigatoken.Tokenizer(path)

    def encode(texts):
        rows = tokenizer.encode_batch(texts, parallel=threads > 1).layout
        return rows.content.data, numpy.asarray(rows.offsets.data)

    return encode


def snaptokens(path, threads):
    import numpy
    import snaptokens

    tokenizer = snaptokens.Tokenizer.from_file(path)

    def encode(texts):
        ids, offsets = tokenizer.encode_batch_flat(texts, add_special_tokens=False)
        view = lambda x, kind: numpy.frombuffer(x, kind) if isinstance(x, (bytes, bytearray, memoryview)) else numpy.asarray(x)
        return view(ids, numpy.uint32), view(offsets, numpy.uint64)

    return encode


def tokenizers(path, threads):
    import numpy
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_file(path)
    if tokenizers.__version__.startswith("0."):
        tokenizer.no_truncation()
        tokenizer.no_padding()
        batch = lambda texts: tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return lambda texts: flat_batches(batch, texts, lambda e: numpy.array(e.ids, numpy.uint32))
    batch = lambda texts: tokenizer.encode_batch(texts, add_special_tokens=False, padding=None, truncation=None)
    return lambda texts: flat_batches(batch, texts, lambda e: e.ids_array)


def tiktoken(path, threads):
    """Only vocabularies of one regex and no normalizer, whose ranks are their ids."""
    import tiktoken

    vocabulary = json.load(open(path))
    splits = [s for s in vocabulary["pre_tokenizer"]["pretokenizers"] if s["type"] == "Split"]
    assert len(splits) == 1 and vocabulary["normalizer"] is None, "tiktoken cannot express this vocabulary"
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    byte = {chr(b): b for b in plain} | {chr(256 + n): b for n, b in enumerate(b for b in range(256) if b not in plain)}
    added = {t["content"]: t["id"] for t in vocabulary["added_tokens"]}
    pieces = {token: i for token, i in vocabulary["model"]["vocab"].items() if token not in added}
    # A piece with another letter only fills a hole among the ids.
    ranks = {bytes(byte[c] for c in token): i for token, i in pieces.items() if all(c in byte for c in token)}
    tokenizer = tiktoken.Encoding("peer", pat_str=splits[0]["pattern"]["Regex"], mergeable_ranks=ranks, special_tokens=added)
    batch = lambda texts: (tokenizer.encode_to_numpy(t, allowed_special="all", disallowed_special=()) for t in texts)
    return lambda texts: flat_batches(batch, texts, lambda e: e)


PEERS = {f.__name__: f for f in (fastokens, gigatoken, snaptokens, tokenizers, tiktoken)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("tokenizer")
    parser.add_argument("corpus")
    parser.add_argument("--sample")
    parser.add_argument("--ids")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cold-only", action="store_true")
    args = parser.parse_args()
    # Before any of them is imported: they read these when they start their threads.
    os.environ.update(
        RAYON_NUM_THREADS=str(args.threads), FASTOKENS_BPE_THREADS=str(args.threads),
        TOKENIZERS_PARALLELISM="true" if args.threads > 1 else "false", OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1",
    )
    import importlib.metadata

    import numpy
    import orjson

    texts = [orjson.loads(line)["text"] for line in open(args.corpus, "rb")]
    sizes = [len(t.encode()) for t in texts]
    half, total = len(texts), sum(sizes)
    if not args.cold_only:
        done = 0
        for half, size in enumerate(sizes):
            if done >= total / 2:
                break
            done += size
        # A last document of half the text must not leave the second half empty.
        half = max(1, min(half, len(texts) - 1))

    def measured(work):
        before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        answer = work()
        wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return answer, {"cpu_seconds": cpu, "wall_seconds": wall}

    encode, load = measured(lambda: PEERS[args.peer](args.tokenizer, args.threads))
    passes = {}
    parts = {"cold": texts[:half]} if args.cold_only else {"cold": texts[:half], "steady": texts[half:], "hot": texts[half:]}
    for name, part in parts.items():
        (ids, offsets), cost = measured(lambda: encode(part))
        assert len(offsets) == len(part) + 1 and ids.dtype == numpy.uint32
        passes[name] = cost | {"text_bytes": sum(sizes[:half] if name == "cold" else sizes[half:]), "tokens": len(ids)}
        # Each pass pays for its own output.
        del ids, offsets
    if args.sample:
        ids, offsets = encode([orjson.loads(line)["text"] for line in open(args.sample, "rb")])
        numpy.savez(args.ids, ids=ids, offsets=offsets)
    json.dump({
        "peer": f"{args.peer} {importlib.metadata.version(args.peer)}", "load": load, "passes": passes,
        "peak_rss_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }, sys.stdout)
    print()


if __name__ == "__main__":
    main()
