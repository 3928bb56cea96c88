#!/usr/bin/env python3
"""Reads a dataset with pyarrow and DuckDB and compares: the tokens that `documents.idx` points to, those that `forebay load`
hands out, and, if the text was kept, the text that Hugging Face `tokenizers` decodes them to.

    python tools/compare/readers.py DATASET [--binary forebay] [--samples 500] [--encode]

With --encode the reference encodes every kept text, too, which takes a core an hour for 4 GB.
"""
import argparse
import json
import pathlib
import struct
import subprocess

import duckdb
import numpy as np
import pyarrow.parquet as pq
import tokenizers
import zstandard

ROOT = pathlib.Path(__file__).resolve().parents[2]
ENTRY = np.dtype([("token_start", "<u8"), ("offset", "<u8"), ("shard", "<u4"), ("tokens", "<u4")])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=pathlib.Path)
    parser.add_argument("--binary", type=pathlib.Path, default=ROOT / "target/release/forebay")
    parser.add_argument("--samples", type=int, default=500, help="samples of `forebay load` to compare")
    parser.add_argument("--encode", action="store_true", help="compare all ids with those of the reference")
    args = parser.parse_args()

    manifest = json.loads((args.dataset / "manifest.json").read_text())
    index = (args.dataset / "documents.idx").read_bytes()
    magic, documents, tokens, _, _ = struct.unpack_from("<8s4Q", index)
    assert (magic, documents, tokens) == (b"FBINDEX2", manifest["documents"], manifest["tokens"])
    entries = np.frombuffer(index, ENTRY, documents, 64)

    name = manifest["tokenizer"]["name"]
    if name == "gpt2":
        packed = (ROOT / "crates/transform/vocab/gpt2.json.zst").read_bytes()
        vocabulary = tokenizers.Tokenizer.from_buffer(zstandard.decompress(packed, max_output_size=1 << 26))
    else:
        vocabulary = tokenizers.Tokenizer.from_file(str(args.dataset / name))
    eos = manifest["tokenizer"]["eos"]

    stream, row, texts = [], 0, 0
    for number, shard in enumerate(manifest["shards"]):
        path = args.dataset / shard["file"]
        raw = path.read_bytes()
        table = pq.read_table(path)
        column = table["tokens"].combine_chunks()
        flat = column.values.to_numpy()
        ends = column.offsets.to_numpy()
        other = duckdb.sql(f"select id, len(tokens) n, list_sum(tokens) s from read_parquet('{path}')").fetchnumpy()
        assert other["id"].tolist() == table["id"].to_pylist()
        assert other["n"].tolist() == np.diff(ends).tolist()
        for place in range(len(column)):
            entry = entries[row]
            ids = flat[ends[place] : ends[place + 1]]
            there = np.frombuffer(raw, "<u4", entry["tokens"], entry["offset"])
            assert entry["shard"] == number and np.array_equal(there, ids), f"{path} row {place}: index and pyarrow differ"
            assert int(other["s"][place]) == int(ids.sum(dtype=np.uint64)), f"{path} row {place}: DuckDB and pyarrow differ"
            row += 1
        if "text" in table.column_names:
            lists = [flat[ends[n] : ends[n + 1] - bool(eos)].tolist() for n in range(len(column))]
            for start in range(0, len(lists), 256):
                decoded = vocabulary.decode_batch(lists[start : start + 256], skip_special_tokens=False)
                kept = table["text"][start : start + 256].to_pylist()
                assert decoded == kept, f"{path}: decoded tokens differ from the kept text after row {start}"
                texts += len(decoded)
                if args.encode:
                    for text, ids in zip(kept, lists[start : start + 256]):
                        assert vocabulary.encode(text, add_special_tokens=False).ids == ids, f"{path}: other ids: {text[:60]!r}"
        stream.append(flat)
    assert row == documents
    stream = np.concatenate(stream)

    for seq_len in (128, 2048):
        command = [args.binary, "load", args.dataset, "--seq-len", str(seq_len), "--print", str(args.samples), "--json"]
        shown = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)["printed"]
        for sample in shown:
            at = sample["sample"] * seq_len
            assert sample["input_ids"] == stream[at : at + seq_len].tolist(), f"sample {sample['sample']} differs"
    encoded = f", and tokenizers {tokenizers.__version__} gives the same ids" if args.encode else ""
    print(f"{documents:,} documents, {tokens:,} tokens: documents.idx, pyarrow and DuckDB agree; {texts:,} texts decode to "
          f"themselves{encoded}; {2 * args.samples:,} samples of `forebay load` are what Parquet holds")


if __name__ == "__main__":
    main()
