#!/usr/bin/env python3
"""FastSketchLSH: Fast Similarity Sketching of word 5-grams and its LSH.

The sketch takes powers of two only: 128 slots are filled, the first 112 of them make 14 bands of 8.
"""
from common import BANDS, NGRAM, ROWS, Clusters, Corpus, arguments, finish

import importlib.metadata
import itertools

import FastSketchLSH
import gold
import numpy


def main():
    args = arguments(__doc__)
    corpus = Corpus(args.inputs)
    sketch = FastSketchLSH.FastSimilaritySketch(size=128, seed=42)
    rows, numbers, number = [], [], 0
    texts = iter(corpus)
    while batch := list(itertools.islice(texts, 256)):
        sets = [list(gold.shingles(text, NGRAM)) for text in batch]
        numbers += [number + at for at, tokens in enumerate(sets) if tokens]
        number += len(sets)
        sets = [tokens for tokens in sets if tokens]
        if sets:
            rows.append(numpy.asarray(sketch.batch(sets, num_threads=1))[:, : BANDS * ROWS])
    rows = numpy.ascontiguousarray(numpy.concatenate(rows), dtype=numpy.uint64)
    lsh = FastSketchLSH.LSH(num_perm=BANDS * ROWS, num_bands=BANDS, num_threads=1)
    lsh.insert(rows)
    clusters = Clusters(number)
    for at in range(len(rows)):
        for other in lsh.query(rows[at]):
            clusters.link(numbers[at], numbers[other])
    version = importlib.metadata.version("FastSketchLSH")
    finish(f"FastSketchLSH {version}", args, corpus, clusters, "112 of 128 slots; shingles made in Python")


if __name__ == "__main__":
    main()
