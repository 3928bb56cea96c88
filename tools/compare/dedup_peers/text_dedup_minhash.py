#!/usr/bin/env python3
"""text-dedup: its MinHash with 14 bands of 8 rows and word 5-grams; needs Python 3.12.

The pairs are not checked against the texts, as is its default. Documents under five words are filtered out
before all else; they are counted as kept here. Release 0.4.1 keeps nobody of most clusters: the number of a
group stands where the number of a document should.
"""
from common import BANDS, NGRAM, ROWS, arguments, report

import importlib.metadata
import pickle

import orjson


def main():
    args = arguments(__doc__)
    ids, text_bytes = [], 0
    for path in args.inputs:
        with open(path, "rb") as lines:
            for record in map(orjson.loads, lines):
                ids.append(record["id"])
                text_bytes += len(record["text"].encode("utf-8"))
    (args.out / "config.toml").write_text(f"""
[input]
input_type = "local_files"
file_type = "json"
[input.read_arguments]
path = "json"
split = "train"
data_files = {orjson.dumps([str(p.resolve()) for p in args.inputs]).decode()}
cache_dir = "{args.out.resolve() / "cache"}"
[algorithm]
algorithm_name = "minhash"
text_column = "text"
num_perm = {BANDS * ROWS}
bands = {BANDS}
rows = {ROWS}
ngram_size = {NGRAM}
threshold = 0.8
num_proc = 1
[output]
output_dir = "{args.out.resolve() / "output"}"
keep_index_column = true
save_clusters = true
[debug]
""")
    from datasets import load_from_disk
    from text_dedup.config.base import load_config_from_toml
    from text_dedup.minhash import main as run

    config = load_config_from_toml(args.out / "config.toml")
    run(config)

    clusters = pickle.loads((args.out / "output" / "clusters.pickle").read_bytes())
    with open(args.out / "clusters.tsv", "w", encoding="utf-8") as file:
        file.writelines(f"{cluster}\t{ids[at]}\n" for at, cluster in sorted(clusters.items()))
    kept = set(load_from_disk(str(args.out / "output"))[config.algorithm.internal_index_column])
    kept |= set(range(len(ids))) - set(clusters)
    version = importlib.metadata.version("text-dedup")
    report(f"text-dedup {version}", args, len(ids), text_bytes, [ids[at] for at in sorted(kept)], "Python 3.12; Arrow cache on disk")


if __name__ == "__main__":
    main()
