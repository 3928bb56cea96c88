#!/usr/bin/env python3
"""Writes one input in every `--format` and opens it with the readers of the stacks that it is for; each must give the tokens
that the Parquet shards hold, document by document.

    python tools/compare/formats.py INPUT... [--binary forebay] [--tokenizer NAME|FILE]

Needs pyarrow, numpy, torch, megatron-core and datatrove (megatron-core 0.16.1, datatrove 0.10.1 when this was written).
"""
import argparse
import gzip
import importlib.metadata
import io
import csv
import json
import pathlib
import subprocess
import tempfile

import numpy as np
import pyarrow.parquet as pq

ROOT = pathlib.Path(__file__).resolve().parents[2]
DTYPES = {"u16": np.uint16, "u32": np.uint32, "i32": np.int32}


def megatron(out, manifest):
    from megatron.core.datasets.indexed_dataset import IndexedDataset

    documents = []
    for shard in manifest["shards"]:
        dataset = IndexedDataset(str(out / shard["file"]).removesuffix(".bin"))
        assert dataset.index.dtype == DTYPES[manifest["layout"]["token_type"]]
        bounds = dataset.document_indices
        documents += [np.concatenate([dataset[n] for n in range(a, b)]) for a, b in zip(bounds, bounds[1:])]
    return documents, f"IndexedDataset of megatron-core {version('megatron-core')}"


def datatrove(out, manifest):
    from datatrove.utils.dataset import DatatroveFileDataset, DatatroveFolderDataset

    size, seq_len, documents, windows = np.dtype(DTYPES[manifest["layout"]["token_type"]]).itemsize, 64, [], []
    for shard in manifest["shards"]:
        dataset = DatatroveFileDataset(str(out / shard["file"]), seq_len, token_size=size, return_positions=True)
        tokens = np.fromfile(out / shard["file"], DTYPES[manifest["layout"]["token_type"]])
        ends = np.fromfile(out / (shard["file"] + ".index"), np.uint64).astype(np.int64)
        starts = np.concatenate([[0], ends[:-1]])
        documents += [tokens[a:b] for a, b in zip(starts, ends)]
        place = np.arange(len(tokens)) - np.repeat(starts, ends - starts)
        for item in range(len(dataset)):
            at = slice(item * (seq_len + 1), (item + 1) * (seq_len + 1))
            found = dataset[item]
            assert np.array_equal(found["input_ids"].numpy(), tokens[at]), f"{shard['file']}: window {item} differs"
            # datatrove counts positions from the beginning of the window.
            inside = np.minimum(place[at], np.arange(seq_len + 1))
            assert np.array_equal(found["positions"].numpy(), inside), f"{shard['file']}: positions of window {item} differ"
        windows.append(len(dataset))
        name, rest = (out / (shard["file"] + ".metadata")).read_text().split("|")
        assert rest.split("\n")[:2] == [str(size), str(len(tokens))], (name, rest)
    folder = DatatroveFolderDataset(str(out), seq_len, token_size=size, recursive=False)
    assert len(folder) == sum(windows), (len(folder), windows)
    return documents, f"DatatroveFileDataset and -FolderDataset of datatrove {version('datatrove')}"


def npy(out, manifest):
    documents = []
    for shard in manifest["shards"]:
        tokens = np.load(out / shard["file"], mmap_mode="r")
        offsets = np.load(out / shard["sidecars"][0]["file"])
        assert tokens.dtype == DTYPES[manifest["layout"]["token_type"]] and offsets.dtype == np.uint64
        saved = io.BytesIO()
        np.save(saved, np.array(tokens))
        assert saved.getvalue() == (out / shard["file"]).read_bytes(), "numpy.save writes other bytes"
        documents += [tokens[a:b] for a, b in zip(offsets, offsets[1:])]
    return documents, f"numpy.load of numpy {np.__version__}"


def olmo(out, manifest):
    """As OLMo reads it: `numpy.memmap`, told the type; dolma writes the table with Python's `csv`."""
    documents = []
    for shard in manifest["shards"]:
        tokens = np.memmap(out / shard["file"], DTYPES[manifest["layout"]["token_type"]], mode="r")
        with gzip.open(out / shard["sidecars"][0]["file"], "rt", newline="") as file:
            text = file.read()
        table = list(csv.reader(io.StringIO(text, newline="")))
        again = io.StringIO(newline="")
        csv.writer(again).writerows(table)
        assert again.getvalue() == text, "Python's csv writes other bytes"
        documents += [tokens[int(start) : int(end)] for start, end, *_ in table]
        assert int(table[-1][1]) == len(tokens)
    return documents, f"numpy.memmap of numpy {np.__version__}, csv of Python"


def version(name):
    return importlib.metadata.version(name)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("inputs", nargs="+")
    parser.add_argument("--binary", type=pathlib.Path, default=ROOT / "target/release/forebay")
    parser.add_argument("--tokenizer", default="gpt2")
    parser.add_argument("--shard-size", default="1MiB")
    parser.add_argument("--no-eos", action="store_true", help="for vocabularies without an end-of-text token")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as scratch:

        def prep(name):
            out = pathlib.Path(scratch) / name
            command = [args.binary, "prep", *args.inputs, "--out", out, "--tokenizer", args.tokenizer, "--shard-size", args.shard_size]
            subprocess.run([*command, "--format", name, *(["--no-eos"] if args.no_eos else []), "--quiet"], check=True, stdout=subprocess.DEVNULL)
            return out, json.loads((out / "manifest.json").read_text())

        out, manifest = prep("forebay")
        expected = []
        for shard in manifest["shards"]:
            expected += [np.array(row) for row in pq.read_table(out / shard["file"])["tokens"].to_pylist()]
        for read in (megatron, datatrove, npy, olmo):
            out, manifest = prep(read.__name__)
            documents, reader = read(out, manifest)
            assert len(documents) == len(expected), f"{read.__name__}: {len(documents)} documents, Parquet {len(expected)}"
            for number, (found, wanted) in enumerate(zip(documents, expected)):
                assert np.array_equal(found, wanted), f"{read.__name__}: document {number} differs"
            print(f"{read.__name__:<10} {manifest['layout']['token_type']}  {len(documents):,} documents, {sum(map(len, documents)):,} "
                  f"tokens equal those in Parquet: {reader}")


if __name__ == "__main__":
    main()
