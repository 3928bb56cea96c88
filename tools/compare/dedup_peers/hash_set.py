#!/usr/bin/env python3
"""Exact duplicates in a dozen lines of Python: orjson, xxh3-128 of the text, a dict."""
from common import Clusters, Corpus, arguments, finish

import orjson
import xxhash


def main():
    args = arguments(__doc__)
    corpus, first, links = Corpus(args.inputs), {}, []
    for number, text in enumerate(corpus):
        at = first.setdefault(xxhash.xxh3_128_digest(text.encode("utf-8")), number)
        if at != number:
            links.append((at, number))
    clusters = Clusters(len(corpus.ids))
    for a, b in links:
        clusters.link(a, b)
    finish(f"Python set (orjson {orjson.__version__}, xxhash {xxhash.VERSION})", args, corpus, clusters)


if __name__ == "__main__":
    main()
