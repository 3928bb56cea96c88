#!/usr/bin/env python3
"""datasketch: MinHash of word 5-grams and MinHashLSH, both with their defaults but for the size."""
from common import BANDS, NGRAM, ROWS, Clusters, Corpus, arguments, finish

import importlib.metadata

import datasketch
import gold


def main():
    args = arguments(__doc__)
    corpus = Corpus(args.inputs)
    lsh = datasketch.MinHashLSH(num_perm=BANDS * ROWS, params=(BANDS, ROWS))
    links = []
    with lsh.insertion_session() as session:
        for number, text in enumerate(corpus):
            tokens = [token.encode() for token in gold.shingles(text, NGRAM)]
            if tokens:
                signature = datasketch.MinHash(num_perm=BANDS * ROWS)
                signature.update_batch(tokens)
                # Asked before it is inserted, so that every pair comes once.
                links += [(number, other) for other in lsh.query(signature)]
                session.insert(number, signature, check_duplication=False)
    clusters = Clusters(len(corpus.ids))
    for a, b in links:
        clusters.link(a, b)
    finish("datasketch " + importlib.metadata.version("datasketch"), args, corpus, clusters, "shingles made in Python")


if __name__ == "__main__":
    main()
