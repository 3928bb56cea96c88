#!/usr/bin/env python3
"""datatrove: its four MinHash stages with FineWeb's parameters (14 buckets of 8 hashes, word 5-grams, 64 bits)."""
from common import BANDS, NGRAM, ROWS, arguments, report

import importlib.metadata
import os
import sys

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.dedup.minhash import (
    MinhashConfig, MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature,
)
from datatrove.pipeline.readers import JsonlReader
from datatrove.utils.hashing import HashConfig
from datatrove.utils.typeshelper import Languages


class Count(PipelineStep):
    """datatrove copies a pipeline before running it, so the counts live in the class."""

    name, type = "count", "measurement"
    ids, text_bytes = [], 0

    def run(self, data, rank=0, world_size=1):
        cls = type(self)
        for document in data:
            cls.ids.append(document.id)
            cls.text_bytes += len(document.text.encode("utf-8", "surrogatepass"))
            yield document


class Read(Count):
    ids = []


class Kept(Count):
    ids = []


def main():
    args = arguments(__doc__)
    if len(os.sched_getaffinity(0)) != 1:
        sys.exit("run this under `taskset -c N`, so that it has one core as the others do")
    work = args.out.resolve()
    folder = work / "input"
    folder.mkdir()
    for number, path in enumerate(args.inputs):
        (folder / f"{number:03}.jsonl").symlink_to(path.resolve())
    config = MinhashConfig(
        n_grams=NGRAM, num_buckets=BANDS, hashes_per_bucket=ROWS, hash_config=HashConfig(precision=64, hash_fc="xxhash")
    )

    # Both reading stages must see the same documents in the same order: the filter removes by position.
    def reader():
        return JsonlReader(str(folder), glob_pattern="*.jsonl")

    def stage(name, *pipeline, tasks=1):
        LocalPipelineExecutor(list(pipeline), tasks=tasks, workers=1, logging_dir=str(work / "logs" / name)).run()

    signatures, buckets, clusters = (str(work / x) for x in ("signatures", "buckets", "clusters"))
    stage("signature", reader(), Read(), MinhashDedupSignature(signatures, config, language=Languages.english))
    # One task a bucket is the least that datatrove takes; they run one after the other.
    stage("buckets", MinhashDedupBuckets(signatures, buckets, config=config), tasks=config.num_buckets)
    stage("cluster", MinhashDedupCluster(buckets, clusters, config, save_cluster_id=True))
    stage("filter", reader(), MinhashDedupFilter(clusters), Kept())

    of_document = {}
    for at, cluster in pairs(work / "clusters" / "000000.clusters"):
        of_document[at] = cluster
    with open(args.out / "clusters.tsv", "w", encoding="utf-8") as file:
        file.writelines(f"{cluster}\t{Read.ids[at]}\n" for at, cluster in sorted(of_document.items()))
    version = importlib.metadata.version("datatrove")
    report(f"datatrove {version}", args, len(Read.ids), Read.text_bytes, Kept.ids, "spaCy words; reads the JSONL twice")


def pairs(path):
    raw = memoryview(path.read_bytes()).cast("I")
    return zip(raw[::2], raw[1::2])


if __name__ == "__main__":
    main()
