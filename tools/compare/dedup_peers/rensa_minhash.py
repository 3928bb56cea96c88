#!/usr/bin/env python3
"""rensa: RMinHash of word 5-grams and RMinHashLSH, the full sketch and not the `rho` one, which loses most near-duplicates."""
from common import BANDS, NGRAM, ROWS, Clusters, Corpus, arguments, finish

import importlib.metadata
import itertools

import gold
import rensa


def main():
    args = arguments(__doc__)
    corpus = Corpus(args.inputs)
    lsh = rensa.RMinHashLSH(threshold=0.8, num_perm=BANDS * ROWS, num_bands=BANDS)
    signatures, numbers, number = [], [], 0
    texts = iter(corpus)
    while batch := list(itertools.islice(texts, 256)):
        sets = [gold.shingles(text, NGRAM) for text in batch]
        numbers += [number + at for at, tokens in enumerate(sets) if tokens]
        number += len(sets)
        signatures += rensa.RMinHash.from_token_sets([tokens for tokens in sets if tokens], BANDS * ROWS, 42)
    lsh.insert_many(signatures)
    clusters = Clusters(number)
    for at, signature in enumerate(signatures):
        for other in lsh.query(signature):
            clusters.link(numbers[at], numbers[other])
    finish("rensa " + importlib.metadata.version("rensa"), args, corpus, clusters, "R-MinHash, shingles made in Python")


if __name__ == "__main__":
    main()
