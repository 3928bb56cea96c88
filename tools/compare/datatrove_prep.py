#!/usr/bin/env python3
"""The job of `forebay prep`, done with datatrove, for comparison: one process on one core.

    taskset -c 1 python datatrove_prep.py INPUT WORK --tokenizer gpt2.tokenizer.json > result.json

INPUT is a .jsonl file or a folder of them, WORK a folder that must not exist yet. The job:

    read JSONL → MinHash with FineWeb's parameters (14 buckets x 8 hashes, word 5-grams, 64 bits)
               → buckets → clusters → keep one of each → tokenize, end-of-text after each document
               → shuffle whole documents → WORK/tokens/*.ds

Everything is local: no step asks a hub. Talk goes to stderr, the measurement to stdout as JSON. CPU
seconds are user + system, children included; `stages` adds up to the totals.
"""
import os
import time

START = time.perf_counter()
# Before datatrove is imported: its libraries read these when they load.
os.environ.update(
    HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TRANSFORMERS_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1",
    TOKENIZERS_PARALLELISM="false", RAYON_NUM_THREADS="1", OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1",
)
import argparse
import importlib.metadata
import json
import pathlib
import platform
import resource
import sys

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.dedup.minhash import (
    MinhashConfig, MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature,
)
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.tokens import DocumentTokenizer
from datatrove.utils.hashing import HashConfig
from datatrove.utils.typeshelper import Languages

EOS = "<|endoftext|>"


def usage():
    """CPU seconds of this process and of its finished children."""
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(r.ru_utime + r.ru_stime for r in both)


def peak_rss_bytes():
    """The larger of this process's peak and any child's; Linux counts in KiB."""
    return 1024 * max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


class Upstream(PipelineStep):
    """Passes documents on, counts them, and measures what the steps before it cost.

    datatrove copies a pipeline before running it, so the counts live in the class.
    """

    name, type = "upstream", "measurement"
    documents, text_bytes, cpu, wall = 0, 0, 0.0, 0.0

    def run(self, data, rank=0, world_size=1):
        cls = type(self)
        iterator = iter(data)
        while True:
            cpu, wall = time.process_time(), time.perf_counter()
            document = next(iterator, None)
            cls.cpu += time.process_time() - cpu
            cls.wall += time.perf_counter() - wall
            if document is None:
                return
            cls.documents += 1
            cls.text_bytes += len(document.text.encode("utf-8", "surrogatepass"))
            yield document


class Input(Upstream):
    pass


class Survivors(Upstream):
    pass


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("input", type=pathlib.Path)
    parser.add_argument("work", type=pathlib.Path)
    parser.add_argument("--tokenizer", required=True, type=pathlib.Path, help="tokenizer.json of HF `tokenizers`")
    parser.add_argument("--seed", type=int, default=0, help="of the shuffle")
    # datatrove's default is 10,000; every HF Encoding of a batch is in memory at once, about 125 B a token.
    parser.add_argument("--batch-size", type=int, default=1000, help="documents tokenized at once")
    args = parser.parse_args()
    if args.work.exists():
        # Completion marks of an earlier run would make datatrove skip stages.
        sys.exit(f"{args.work} exists; name a new folder")
    if len(os.sched_getaffinity(0)) != 1:
        sys.exit("run this under `taskset -c N`, so that it has one core as the others do")

    work = args.work.resolve()
    folder, pattern = (args.input.parent, args.input.name) if args.input.is_file() else (args.input, "*.jsonl")
    config = MinhashConfig(
        n_grams=5, num_buckets=14, hashes_per_bucket=8, hash_config=HashConfig(precision=64, hash_fc="xxhash")
    )

    # Both reading stages must see the same documents in the same order: stage 4 removes by position.
    def reader():
        return JsonlReader(str(folder.resolve()), glob_pattern=pattern)

    stages = {"imports": {"cpu_seconds": usage(), "wall_seconds": time.perf_counter() - START}}

    def stage(name, *pipeline, tasks=1):
        cpu, wall = usage(), time.perf_counter()
        executor = LocalPipelineExecutor(list(pipeline), tasks=tasks, workers=1, logging_dir=str(work / "logs" / name))
        executor.run()
        stages[name] = {"cpu_seconds": usage() - cpu, "wall_seconds": time.perf_counter() - wall}

    signatures, buckets, clusters, tokens = (str(work / x) for x in ("signatures", "buckets", "clusters", "tokens"))
    stage("signature", reader(), Input(), MinhashDedupSignature(signatures, config, language=Languages.english))
    # One task a bucket is the least that datatrove takes; they run one after the other.
    stage("buckets", MinhashDedupBuckets(signatures, buckets, config=config), tasks=config.num_buckets)
    stage("cluster", MinhashDedupCluster(buckets, clusters, config))
    stage(
        "tokenize",
        reader(),
        MinhashDedupFilter(clusters),
        Survivors(),
        DocumentTokenizer(
            tokens, str(args.tokenizer.resolve()), eos_token=EOS, seed=args.seed, batch_size=args.batch_size,
            shuffle_documents=True,
        ),
    )
    # Filtering streams into tokenizing; Survivors measured the part that came before it.
    both = stages.pop("tokenize")
    stages["filter"] = {"cpu_seconds": Survivors.cpu, "wall_seconds": Survivors.wall}
    stages["tokenize"] = {k: both[k] - stages["filter"][k] for k in both}

    token_files = sorted((work / "tokens").glob("*.ds"))
    metadata = [pathlib.Path(f"{f}.metadata").read_text().splitlines() for f in token_files]
    token_count = sum(int(lines[1]) for lines in metadata)
    token_bytes = int(metadata[0][0].rsplit("|", 1)[1])
    assert sum(f.stat().st_size for f in token_files) == token_count * token_bytes, "the .ds files are cut short"
    assert sum(pathlib.Path(f"{f}.index").stat().st_size for f in token_files) == 8 * Survivors.documents

    json.dump(
        {
            "tool": "datatrove " + importlib.metadata.version("datatrove"),
            "python": platform.python_version(),
            "versions": {p: importlib.metadata.version(p) for p in ("tokenizers", "spacy", "numpy", "xxhash", "orjson")},
            "input": str(args.input),
            "tokenizer": args.tokenizer.name,
            "batch_size": args.batch_size,
            "documents_in": Input.documents,
            "text_bytes_in": Input.text_bytes,
            "documents_kept": Survivors.documents,
            "text_bytes_kept": Survivors.text_bytes,
            "tokens": token_count,
            "bytes_per_token_id": token_bytes,
            "cpu_seconds": round(usage(), 3),
            "wall_seconds": round(time.perf_counter() - START, 3),
            "peak_rss_bytes": peak_rss_bytes(),
            "stages": {name: {k: round(v, 3) for k, v in s.items()} for name, s in stages.items()},
        },
        sys.stdout, indent=2,
    )
    print()


if __name__ == "__main__":
    main()
