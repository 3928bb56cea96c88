#!/usr/bin/env python3
"""dolma: exact documents, or paragraphs, by its Bloom filter; only the Rust module of the wheel is loaded.

    dolma_bloom.py INPUT.jsonl... --out FOLDER [--paragraphs]

With --paragraphs, a document counts as removed when paragraphs seen before make up 80 % of its characters. dolma
writes annotations and no clusters; its Bloom filter is seeded at random, so two runs may differ.
"""
from common import report

import argparse
import gzip
import importlib.machinery
import importlib.metadata
import importlib.util
import json
import pathlib

import orjson


def load():
    # The package itself imports taggers, and they fastText, NLTK and more.
    folder = pathlib.Path(importlib.util.find_spec("dolma").submodule_search_locations[0])
    path = str(next(folder.glob("dolma.*.so")))
    loader = importlib.machinery.ExtensionFileLoader("dolma", path)
    spec = importlib.util.spec_from_loader("dolma", loader)
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("inputs", nargs="+", type=pathlib.Path)
    parser.add_argument("--out", required=True, type=pathlib.Path)
    parser.add_argument("--paragraphs", action="store_true")
    args = parser.parse_args()
    # Attributes go where `documents` is replaced by `attributes/NAME`.
    documents = (args.out / "documents").resolve()
    documents.mkdir(parents=True)
    for number, path in enumerate(args.inputs):
        (documents / f"{number:03}.jsonl").symlink_to(path.resolve())
    dedupe = {"name": "dup", "skip_empty": True}
    if args.paragraphs:
        dedupe["paragraphs"] = {"attribute_name": "dup"}
    else:
        dedupe["documents"] = {"attribute_name": "dup", "key": "$.text"}
    config = {
        "documents": [f"{documents}/*.jsonl"], "dedupe": dedupe, "processes": 1,
        "bloom_filter": {
            "file": str(args.out / "bloom.bin"), "read_only": False, "size_in_bytes": 0,
            "estimated_doc_count": 10_000_000 if args.paragraphs else 1_000_000, "desired_false_positive_rate": 1e-4,
        },
        "work_dir": {"input": str(args.out / "work-in"), "output": str(args.out / "work-out")},
        "compression": {"input": None, "output": None}, "is_s3_volume": False,
    }
    load().deduper_entrypoint(json.dumps(config))

    kept, count, text_bytes = [], 0, 0
    for number, path in enumerate(args.inputs):
        annotations = args.out / "attributes" / "dup" / f"{number:03}.jsonl"
        opened = gzip.open if annotations.read_bytes()[:2] == b"\x1f\x8b" else open
        with open(path, "rb") as texts, opened(annotations, "rb") as spans:
            for record, annotation in zip(map(orjson.loads, texts), map(orjson.loads, spans), strict=True):
                assert record["id"] == annotation["id"], "annotations are out of step"
                count += 1
                text_bytes += len(record["text"].encode("utf-8"))
                found = annotation["attributes"].get("dup", [])
                covered = sum(end - start for start, end, score in found if score)
                if not (covered and (not args.paragraphs or covered >= 0.8 * len(record["text"]))):
                    kept.append(record["id"])
    what = "paragraphs, 80 % of characters" if args.paragraphs else "whole documents"
    report(f"dolma {importlib.metadata.version('dolma')}", args, count, text_bytes, kept, f"Bloom filter, {what}", clusters=False)


if __name__ == "__main__":
    main()
