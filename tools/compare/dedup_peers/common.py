"""What every adapter does alike: read, shingle, cluster, write the ids that stay, print one JSON object.

    python tools/compare/dedup_peers/NAME.py INPUT.jsonl... --out FOLDER

FOLDER gets kept.txt, one id a line, and clusters.tsv, `cluster id` for every member of a cluster of two or more,
where the tool has clusters. The text itself is not written again.
"""
import argparse
import json
import os
import pathlib
import sys

# Before any library loads: one core each, and no hub is asked.
os.environ.update(
    RAYON_NUM_THREADS="1", OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", POLARS_MAX_THREADS="1", TOKENIZERS_PARALLELISM="false",
    HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TRANSFORMERS_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1",
)
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "score"))

BANDS, ROWS, NGRAM = 14, 8, 5


def arguments(doc):
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("inputs", nargs="+", type=pathlib.Path)
    parser.add_argument("--out", required=True, type=pathlib.Path)
    args = parser.parse_args()
    args.out.mkdir(parents=True)
    return args


class Corpus:
    """Reads JSONL and keeps the ids; the text goes as soon as it is signed."""

    def __init__(self, paths):
        self.paths, self.ids, self.text_bytes = paths, [], 0

    def __iter__(self):
        import orjson

        for path in self.paths:
            with open(path, "rb") as lines:
                for line in lines:
                    record = orjson.loads(line)
                    self.ids.append(record["id"])
                    self.text_bytes += len(record["text"].encode("utf-8"))
                    yield record["text"]


class Clusters:
    """Union-find; the first document of a cluster is its root and stays."""

    def __init__(self, documents):
        self.parent = list(range(documents))

    def find(self, x):
        parent = self.parent
        while parent[x] != x:
            parent[x] = parent[parent[x]]
            x = parent[x]
        return x

    def link(self, a, b):
        a, b = self.find(a), self.find(b)
        if a != b:
            self.parent[max(a, b)] = min(a, b)


def write_clusters(out, ids, root_of):
    """`root_of[i]` names the cluster of document i; clusters of one are not written."""
    sizes = {}
    for root in root_of:
        sizes[root] = sizes.get(root, 0) + 1
    with open(out / "clusters.tsv", "w", encoding="utf-8") as file:
        file.writelines(f"{root}\t{document}\n" for document, root in zip(ids, root_of) if sizes[root] > 1)


def report(tool, args, documents, text_bytes, kept_ids, notes="", clusters=True):
    kept = args.out / "kept.txt"
    kept.write_text("".join(f"{x}\n" for x in kept_ids), encoding="utf-8")
    json.dump(
        {
            "tool": tool, "documents_in": documents, "documents_kept": len(kept_ids), "text_bytes_in": text_bytes, "kept": str(kept),
            "clusters": str(args.out / "clusters.tsv") if clusters else None, "notes": notes,
        },
        sys.stdout,
    )
    print()


def finish(tool, args, corpus, clusters, notes=""):
    roots = [clusters.find(x) for x in range(len(corpus.ids))]
    write_clusters(args.out, corpus.ids, roots)
    kept = [document for x, document in enumerate(corpus.ids) if roots[x] == x]
    report(tool, args, len(corpus.ids), corpus.text_bytes, kept, notes)
