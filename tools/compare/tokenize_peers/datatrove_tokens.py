#!/usr/bin/env python3
"""datatrove's tokenizing: JSONL, as zstd, → `DocumentTokenizer` → .ds, in order, one process on one core.

    taskset -c 1 python datatrove_tokens.py INPUT.jsonl.zst WORK --tokenizer TOKENIZER.json --eos TOKEN

WORK must not exist yet. Says on stdout, as JSON, how many documents and tokens there were, ends of documents not counted.
"""
import os

os.environ.update(
    HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", TOKENIZERS_PARALLELISM="false", RAYON_NUM_THREADS="1", OMP_NUM_THREADS="1",
    OPENBLAS_NUM_THREADS="1",
)
import argparse
import importlib.metadata
import json
import pathlib
import sys

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.tokens import DocumentTokenizer


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("input", type=pathlib.Path)
    parser.add_argument("work", type=pathlib.Path)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--eos", required=True)
    # datatrove's default is 10,000; every Encoding of a batch is in memory at once.
    parser.add_argument("--batch-size", type=int, default=1000)
    args = parser.parse_args()
    if args.work.exists():
        sys.exit(f"{args.work} exists; name a new folder")
    if len(os.sched_getaffinity(0)) != 1:
        sys.exit("run this under `taskset -c N`, so that it has one core as the others do")
    tokens = args.work / "tokens"
    reader = JsonlReader(str(args.input.parent.resolve()), glob_pattern=args.input.name, compression="zstd")
    writer = DocumentTokenizer(str(tokens), args.tokenizer, eos_token=args.eos, batch_size=args.batch_size, shuffle_documents=False)
    LocalPipelineExecutor([reader, writer], tasks=1, workers=1, logging_dir=str(args.work / "logs")).run()
    files = sorted(tokens.glob("*.ds"))
    documents = sum(pathlib.Path(f"{f}.index").stat().st_size // 8 for f in files)
    count = sum(int(pathlib.Path(f"{f}.metadata").read_text().splitlines()[1]) for f in files)
    print()
    json.dump({"peer": f"datatrove {importlib.metadata.version('datatrove')}", "documents": documents, "tokens": count - documents}, sys.stdout)
    print()


if __name__ == "__main__":
    main()
