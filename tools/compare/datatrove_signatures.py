#!/usr/bin/env python3
"""Makes tests/data/datatrove from tests/data/sample with datatrove's own MinHash stages 1 to 3.

    python tools/compare/datatrove_signatures.py [OUT]

Four ranks: two documents of prose, three Go files, three that nearly equal them, and five texts of which the first
is empty and the second too short to be signed. FineWeb's parameters. What datatrove spreads over many files is put
together in the order of their names, so that it is compared whole:

    signatures.bin   all .minhash.sig, bucket after bucket, in it rank after rank
    dups.bin         all .dups
    clusters.bin     all .clusters
    sizes.bin        all .sizes
"""
import gzip
import json
import os
import pathlib
import sys
import tempfile

os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup.minhash import (
    MinhashConfig, MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupSignature,
)
from datatrove.pipeline.readers import JsonlReader
from datatrove.utils.hashing import HashConfig
from datatrove.utils.typeshelper import Languages

DATA = pathlib.Path(__file__).parents[2] / "tests" / "data"


def ranks():
    texts = lambda opened: [json.loads(line)["text"] for line in opened]
    prose = texts(open(DATA / "sample/prose.jsonl", encoding="utf-8"))
    go = texts(gzip.open(DATA / "sample/go.jsonl.gz", "rt", encoding="utf-8"))
    udhr = [(DATA / f"sample/udhr/{name}.txt").read_bytes().decode() for name in ("ell_monotonic", "hin", "vie")]
    return [prose[:2], go[16:19], go[88:91], ["", "Too few words.", *udhr]]


def main():
    out = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else DATA / "datatrove"
    out.mkdir(parents=True, exist_ok=True)
    # The defaults, spelled out.
    config = MinhashConfig(
        n_grams=5, num_buckets=14, hashes_per_bucket=8, seed=1, hash_config=HashConfig(precision=64, hash_fc="xxhash")
    )
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        (work / "input").mkdir()
        for rank, texts in enumerate(ranks()):
            lines = (json.dumps({"id": str(at), "text": text}) + "\n" for at, text in enumerate(texts))
            (work / f"input/{rank:05}.jsonl").write_text("".join(lines))
        signatures, dups, remove = (str(work / name) for name in ("signatures", "dups", "remove"))
        for name, tasks, pipeline in (
            ("sign", 4, [JsonlReader(str(work / "input")), MinhashDedupSignature(signatures, config, Languages.english)]),
            ("pairs", 14, [MinhashDedupBuckets(signatures, dups, config=config)]),
            ("cluster", 1, [MinhashDedupCluster(dups, remove, config, save_cluster_id=True, save_cluster_size=True)]),
        ):
            LocalPipelineExecutor(pipeline, tasks=tasks, workers=1, logging_dir=str(work / "logs" / name)).run()
        for name, pattern in (
            ("signatures", "signatures/*/*.minhash.sig"), ("dups", "dups/*.dups"),
            ("clusters", "remove/*.clusters"), ("sizes", "remove/*.sizes"),
        ):
            (out / f"{name}.bin").write_bytes(b"".join(path.read_bytes() for path in sorted(work.glob(pattern))))


if __name__ == "__main__":
    main()
