#!/usr/bin/env python3
"""`forebay dedup` against the peers: the same JSONL, 14 bands of 8 rows over word 5-grams, one core each, in turn, in one run.

    python tools/compare/dedup.py CORPUS.jsonl... --gold GOLD... --runs 3 --out benches/results/dedup-DATE

Writes OUT.json (every run) and OUT.md (the table): cost, and what was found and what was wrongly removed beside it, as a
fast tool that finds nothing is of no use. GOLD are the exact pairs and groups that tools/score/gold.py describes.
The slow ones run on a fifth of the documents: whole connected components of the gold graph, chosen by a hash of their ids.
"""
import argparse
import collections
import datetime
import hashlib
import json
import os
import pathlib
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile

import orjson
import pyarrow.parquet as pq

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE.parent / "score"))
import gold as truth  # noqa: E402

THRESHOLD = 0.8
# Identical sets have a column of their own.
BINS = {"0.9–1": (0.9, 1.0), "0.8–0.9": (0.8, 0.9), "0.7–0.8": (0.7, 0.8)}


class Tool:
    """One row of the table: a name, the corpora it runs on, and how it is called."""

    def __init__(self, name, on=("whole",), slow=False, forebay=None, adapter=None, python=None, extra=()):
        self.name, self.on, self.slow, self.forebay, self.adapter = name, on, slow, forebay, adapter
        self.python, self.extra = python, extra

    def command(self, binary, inputs, out):
        if self.forebay is not None:
            return [binary, "dedup", *inputs, "--out", out, "--threads", "1", "--json", "--quiet", *self.forebay]
        return [self.python, HERE / "dedup_peers" / f"{self.adapter}.py", *inputs, "--out", out, *self.extra]

    def outcome(self, result, out, ids):
        """The documents that stay, and the cluster of each document that has one, or None."""
        if self.forebay is not None:
            return forebay_outcome(out, ids)
        kept = set(pathlib.Path(result["kept"]).read_text(encoding="utf-8").splitlines())
        if not result["clusters"]:
            return kept, None
        lines = pathlib.Path(result["clusters"]).read_text(encoding="utf-8").splitlines()
        return kept, {document: cluster for cluster, document in (line.split("\t") for line in lines)}


def forebay_outcome(out, ids):
    gone, cluster_of = set(), {}
    for path in sorted((out / "removed").glob("*.parquet")):
        for r in pq.read_table(path, columns=["id", "survivor", "cluster"]).to_pylist():
            gone.add(r["id"])
            if r["survivor"] is not None:
                cluster_of[r["id"]] = cluster_of[r["survivor"]] = r["cluster"]
    return ids - gone, cluster_of


def tools(args, flags):
    """All rows, in the order of the table. A flag that an older binary lacks is left out, and the row says so."""
    def ours(name, *options, **rest):
        missing = [o for o in options if o not in flags]
        said = f" (the binary has no {', '.join(missing)})" if missing else ""
        return Tool(name + said, forebay=[o for o in options if o in flags], **rest)

    both = ("whole", "fifth")
    peer = lambda name, adapter, **rest: Tool(name, adapter=adapter, python=rest.pop("python", sys.executable), **rest)
    rows = [
        ours("forebay, exact only", "--no-fuzzy", "--removed-only"),
        peer("Python set of xxh3-128", "hash_set"),
        peer("dolma, exact", "dolma_bloom"),
        peer("dolma, paragraphs", "dolma_bloom", extra=["--paragraphs"]),
        ours("forebay, unverified", "--no-verify", "--removed-only", on=both),
        *([
            ours("forebay, verified", "--removed-only", on=both),
            ours("forebay, verified, dataset written", on=both),
        ] if "--no-verify" in flags else []),
        peer("rensa", "rensa_minhash", on=both),
        peer("FastSketchLSH", "fastsketch", on=both),
        peer("datasketch", "datasketch_minhash", on=both),
        peer("datatrove", "datatrove_minhash", on=("fifth",), slow=True),
    ]
    if args.text_dedup_python:
        rows.append(peer("text-dedup", "text_dedup_minhash", on=("fifth",), slow=True, python=args.text_dedup_python))
    if args.only:
        rows = [r for r in rows if any(word in r.name for word in args.only)]
    return rows


def run(tool, binary, inputs, work, core):
    out = work / "out"
    shutil.rmtree(out, ignore_errors=True)
    command = ["taskset", "-c", core, *tool.command(binary, inputs, out)]
    measure = [sys.executable, "-I", "-S", HERE / "measure.py", work / "cost.json", "--", *command]
    with open(work / "log", "wb") as log:
        done = subprocess.run(list(map(str, measure)), stdout=subprocess.PIPE, stderr=log)
    if done.returncode:
        # The hours of the others are not thrown away for one.
        print(f"{tool.name} failed, its row is left out:\n{(work / 'log').read_text(errors='replace')[-2000:]}", file=sys.stderr)
        return None
    cost = json.loads((work / "cost.json").read_text())
    # Libraries may talk on stdout before it.
    return cost, json.loads(done.stdout.splitlines()[-1]), out


# --- the corpora ---


def write_fifth(inputs, gold, out):
    """A fifth of the documents, deterministic, with whole components: no gold pair is torn apart."""
    component = gold.components()
    with open(out, "wb") as file:
        for path in inputs:
            for line in open(path, "rb"):
                record = orjson.loads(line)
                document = gold.representative(record["id"])
                name = component.get(document, document)
                if int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest()) % 5 == 0:
                    # No other fields: text-dedup's reader fails when not all records have the same.
                    file.write(orjson.dumps({"id": record["id"], "text": record["text"]}) + b"\n")


def describe(paths):
    ids, text_bytes = [], 0
    for path in paths:
        for line in open(path, "rb"):
            record = orjson.loads(line)
            ids.append(record["id"])
            text_bytes += len(record["text"].encode("utf-8"))
    assert len(set(ids)) == len(ids), "two documents have one id"
    return {"paths": list(paths), "ids": set(ids), "text_bytes": text_bytes}


# --- what was found, what was lost ---


def quality(gold, texts, ids, kept, cluster_of):
    """Measures that any tool's output allows.

    Recall: the share of gold pairs of which not both contents are still there, or which share a cluster. Contents, not
    documents: while one copy of a set of shingles is kept, that content is there.
    Precision: the share of removed documents with a similar kept document. Gold tells, and for a document
    without a near one there, the texts of its cluster's kept members.
    """
    clusters_of = lambda members: {cluster_of[x] for x in members if x in cluster_of} if cluster_of else set()
    here = lambda representative: [x for x in gold.documents_of(representative) if x in ids]
    present, clusters = {}, {}
    for r in {*gold.near, *gold.members}:
        members = here(r)
        present[r] = any(x in kept for x in members) if members else None
        clusters[r] = clusters_of(members)
    recall = {}
    for name, (low, high) in BINS.items():
        pairs = [(a, b) for (a, b), s in gold.pairs.items() if low <= s < high and present[a] is not None and present[b] is not None]
        found = sum(not (present[a] and present[b]) or bool(clusters[a] & clusters[b]) for a, b in pairs)
        recall[name] = {"pairs": len(pairs), "found": found}
    copies = gone = 0
    for r in gold.members:
        members = here(r)
        if len(members) > 1:
            copies += len(members) - 1
            gone += min(len(members) - 1, sum(x not in kept for x in members))
    recall["1"] = {"pairs": copies, "found": gone}

    kept_of_cluster, members_of_cluster = collections.defaultdict(list), collections.Counter()
    for document, cluster in (cluster_of or {}).items():
        members_of_cluster[cluster] += 1
        if document in kept:
            kept_of_cluster[cluster].append(document)
    wiped = sum(not kept_of_cluster.get(c) for c in members_of_cluster)

    removed, sets = ids - kept, {}
    shingles = lambda x: sets[x] if x in sets else sets.setdefault(x, truth.shingles(texts[x]))
    to_kept, to_any = [], []
    for document in removed:
        near = [(s, other in kept) for other, s in gold.neighbours(document) if other in ids]
        best_kept = max((s for s, stays in near if stays), default=0.0)
        if best_kept < THRESHOLD and cluster_of:
            for other in kept_of_cluster.get(cluster_of.get(document), ())[:8]:
                if gold.similarity(document, other) is None:
                    best_kept = max(best_kept, truth.jaccard(shingles(document), shingles(other)))
        to_kept.append(best_kept)
        to_any.append(max([s for s, _ in near] + [best_kept]))
    share = lambda values, low: sum(v >= low for v in values) / len(values) if values else 1.0
    return {
        "recall": recall, "removed": len(removed), "clusters": len(members_of_cluster) if cluster_of else None,
        "clusters_wiped": wiped if cluster_of else None,
        "precision": {
            "kept_at_threshold": share(to_kept, THRESHOLD), "kept_at_half": share(to_kept, 0.5),
            "any_at_threshold": share(to_any, THRESHOLD), "any_at_half": share(to_any, 0.5),
        },
    }


# --- the report ---


def spread(values, digits=2):
    values = sorted(values)
    middle = f"{statistics.median(values):.{digits}f}"
    return middle if len(values) == 1 else f"{middle} ({values[0]:.{digits}f}–{values[-1]:.{digits}f})"


def table(corpus, results):
    yield ("| | runs | CPU s | MB of text per CPU s | peak RSS | kept | found: J = 1 | 0.9–1 | 0.8–0.9 | 0.7–0.8 | "
           f"removed with a kept document at J ≥ {THRESHOLD:g} | with any at J ≥ 0.5 | clusters wiped out |")
    yield "|---|" + 12 * "---:|"
    for name, entry in results.items():
        runs, q = entry["runs"], entry["quality"]
        rate = [corpus["text_bytes"] / 1e6 / r["cpu_seconds"] for r in runs]
        rss = max(r["peak_rss_bytes"] for r in runs) / 2**20
        found = [q["recall"][b]["found"] / max(1, q["recall"][b]["pairs"]) for b in ("1", "0.9–1", "0.8–0.9", "0.7–0.8")]
        wiped = "" if q["clusters_wiped"] is None else f"{q['clusters_wiped']:,} of {q['clusters']:,}" if q["clusters_wiped"] else "0"
        cells = [
            name, len(runs), spread([r["cpu_seconds"] for r in runs]), spread(rate, 1 if rate[0] >= 1 else 2), f"{rss:,.0f} MiB",
            f"{entry['documents_kept'][0]:,}", *(f"{f:.3f}" for f in found),
            f"{q['precision']['kept_at_threshold']:.3f}", f"{q['precision']['any_at_half']:.3f}", wiped,
        ]
        yield "| " + " | ".join(map(str, cells)) + " |"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("inputs", nargs="+", type=pathlib.Path)
    parser.add_argument("--gold", nargs="+", required=True, help=".pairs.tsv and .groups.tsv files, or folders of them")
    parser.add_argument("--out", required=True, type=pathlib.Path, help="prefix of the .json and .md written")
    parser.add_argument("--binary", type=pathlib.Path, default=ROOT / "target/release/forebay")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--slow-runs", type=int, default=1, help="of those that take minutes on the fifth")
    parser.add_argument("--text-dedup-python", help="a Python 3.12 with text-dedup; without it that row is left out")
    parser.add_argument("--only", nargs="+", help="rows whose name contains one of these words")
    parser.add_argument("--core", default="1")
    args = parser.parse_args()

    gold = truth.Gold(args.gold)
    flags = subprocess.run([args.binary, "dedup", "--help"], capture_output=True, text=True, check=True).stdout
    rows = tools(args, flags)
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        write_fifth(args.inputs, gold, work / "fifth.jsonl")
        corpora = {"whole": describe(args.inputs), "fifth": describe([work / "fifth.jsonl"])}
        texts = dict(truth.documents(args.inputs))
        results = {name: {} for name in corpora}
        versions, failed = {}, set()
        for number in range(args.runs):
            for name, corpus in corpora.items():
                for tool in rows:
                    if name not in tool.on or tool.slow and number >= args.slow_runs:
                        continue
                    print(f"run {number + 1}: {tool.name}, {name}", file=sys.stderr)
                    if (done := run(tool, args.binary, corpus["paths"], work, args.core)) is None:
                        failed.add(tool.name)
                        continue
                    cost, result, out = done
                    entry = results[name].setdefault(tool.name, {"runs": [], "documents_kept": [], "notes": result.get("notes", "")})
                    kept, cluster_of = tool.outcome(result, out, corpus["ids"])
                    # Ours counts itself; the sum must come out.
                    if tool.forebay is not None and result["documents"] != len(kept):
                        print(f"{tool.name}: says {result['documents']} kept, removed/ leaves {len(kept)}", file=sys.stderr)
                    entry["runs"].append(cost)
                    entry["documents_kept"].append(len(kept))
                    if "tool" in result:
                        versions[result["tool"]] = None
                    if "quality" not in entry:
                        entry["quality"] = quality(gold, texts, corpus["ids"], kept, cluster_of)

    model = next(line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name"))
    version = subprocess.run([args.binary, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    machine = f"{os.cpu_count()} × {model}, Linux {platform.release()}"
    said = f"{version} (release build), {', '.join(versions)}, Python {platform.python_version()}"
    lines = ["# dedup: cost and quality beside each other", "", f"{datetime.date.today()}, {machine}; {said}.",
             "One core, one run of the script, tools in turn; median (min–max).", ""]
    for name, corpus in corpora.items():
        if results[name]:
            what = "whole corpus" if name == "whole" else "a fifth, whole components"
            lines += [f"**{what}: {len(corpus['ids']):,} documents, {corpus['text_bytes'] / 1e6:.1f} MB of text**", "",
                      *table(corpus, results[name]), ""]
    pairs = results["whole"] or results["fifth"]
    count = next(iter(pairs.values()))["quality"]["recall"]
    lines.append("Pairs behind the columns: " + ", ".join(f"{count[b]['pairs']:,}" for b in ("1", "0.9–1", "0.8–0.9", "0.7–0.8")) + ".")
    args.out.with_suffix(".md").write_text("\n".join(lines) + "\n")
    report = {"date": str(datetime.date.today()), "machine": machine, "tools": said, "gold": {"pairs": len(gold.pairs), "copies": len(gold.group)},
              "corpora": {n: {"documents": len(c["ids"]), "text_bytes": c["text_bytes"]} for n, c in corpora.items()}, "results": results}
    args.out.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    print("\n".join(lines))
    if failed:
        sys.exit(f"failed: {', '.join(sorted(failed))}")


if __name__ == "__main__":
    main()
