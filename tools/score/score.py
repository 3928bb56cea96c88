#!/usr/bin/env python3
"""Scores a dedup run against exact ground truth: signatures, removals, leftovers.

    python tools/score/score.py --gold GOLD... [--keys KEYS.jsonl] [--run OUT] [--texts CORPUS.jsonl...] [--json FILE]

GOLD are .pairs.tsv and .groups.tsv files or folders of them (gold.py describes them), KEYS the band keys that
`forebay inspect INDEX --signatures` prints, OUT a directory that `forebay dedup` wrote, CORPUS its inputs.

Exits with 1 when the signatures miss the theory by more than three standard errors in any bin, when a cluster
kept nobody, or when a similarity that the run states is not the true one.
"""
import argparse
import collections
import json
import math
import pathlib
import statistics
import sys

import pyarrow.parquet as pq

import gold as truth

EDGES = [0.5 + 0.05 * n for n in range(10)]
BINS = [f"{low:.2f}–{low + 0.05:.2f}" for low in EDGES] + ["1"]
DUPLICATE = ("exact", "fuzzy")


def bin_of(similarity):
    """The bin's number: 0.05 wide each, and one of its own for equal sets."""
    return 10 if similarity == 1.0 else min(9, int((similarity - 0.5) / 0.05 + 1e-9))


# --- a: do two similar documents share a band as often as theory says? ---


def found_by_theory(similarity, bands, rows):
    return 1.0 - (1.0 - similarity**rows) ** bands


def agreement(components, keys, theory):
    """Measured and expected share of pairs that agree on a band, with standard errors: of all pairs, and with
    every connected component of the gold graph counting once, however many pairs it has.

    Pairs share documents and documents share templates, so pairs are far from independent: in a family of a
    thousand documents with one licence text, one draw of the hash functions decides nine in ten of all pairs
    below 0.6. Components share next to nothing. Counting each once, the error is that of a mean of independent
    values, taken around the theory. For all pairs only a bound holds, that of components whose pairs all agree
    or all do not; an error estimated from so few bands would be too small more often than not.
    """
    values = []
    for pairs in components:
        p = [theory(s) for _, _, s in pairs]
        values.append((
            len(pairs),
            sum(any(x == y for x, y in zip(keys[a], keys[b])) for a, b, _ in pairs) / len(pairs),
            statistics.fmean(p),
            statistics.fmean(math.sqrt(x * (1 - x)) for x in p),
            statistics.fmean(x * (1 - x) for x in p),
            statistics.fmean(s for _, _, s in pairs),
        ))

    def mean(weights, errors):
        total = sum(weights)
        average = lambda column: sum(w * v[column] for w, v in zip(weights, values)) / total
        return {"measured": average(1), "theory": average(2), "se": math.sqrt(errors) / total, "similarity": average(5)}

    sizes = [v[0] for v in values]
    bound = sum((n * deviation) ** 2 for n, _, _, deviation, _, _ in values)
    # Near 1, where no component misses, what is seen says 0; then what independent pairs would have is the floor.
    seen = max(sum((found - p) ** 2 for _, found, p, _, _, _ in values), sum(variance / n for n, _, _, _, variance, _ in values))
    return {"pairs": sum(sizes), **mean(sizes, bound)}, {"components": len(values), **mean([1] * len(values), seen)}


def agrees(scored):
    # Rounding in a mean of many terms is not a miss.
    return abs(scored["measured"] - scored["theory"]) <= 3 * scored["se"] + 1e-9


def read_keys(path):
    """id -> band keys, None where the document has no signature."""
    keys = {}
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            record = json.loads(line)
            bands = tuple(int(key, 16) for key in record["bands"])
            keys[record["id"]] = bands if any(bands) else None
    return keys


def score_signatures(gold, keys, rows):
    # Copies of a set have its signature, so one member stands for a group: the first that is in the index.
    def stands_for(representative):
        return next((x for x in gold.documents_of(representative) if x in keys), None)

    binned, missing, unsigned = collections.defaultdict(list), 0, 0
    pairs = [(stands_for(a), stands_for(b), s) for (a, b), s in gold.pairs.items()]
    pairs += [(r, member, 1.0) for r, members in gold.members.items() for member in members]
    for a, b, similarity in pairs:
        if keys.get(a, 0) == 0 or keys.get(b, 0) == 0:
            missing += 1
        elif keys[a] is None or keys[b] is None:
            unsigned += 1
        else:
            binned[bin_of(similarity)].append((a, b, similarity))
    signed = {x: k for x, k in keys.items() if k}
    bands = len(next(iter(signed.values())))
    component = gold.components()
    theory = lambda s: found_by_theory(s, bands, rows)
    bins = []
    for number in sorted(binned):
        components = collections.defaultdict(list)
        for pair in binned[number]:
            components[component[gold.representative(pair[0])]].append(pair)
        whole, once = agreement(components.values(), signed, theory)
        bins.append({
            "bin": BINS[number], "all": whole, "by_component": once,
            "largest_component_pairs": max(map(len, components.values())), "ok": agrees(whole) and agrees(once),
        })
    return {"bands": bands, "rows": rows, "documents": len(keys), "pairs_without_keys": missing,
            "pairs_without_signature": unsigned, "bins": bins, "ok": all(b["ok"] for b in bins)}


# --- b: was what was removed a duplicate of what it is said to be? ---


def read_removed(run):
    rows = []
    for path in sorted((run / "removed").glob("*.parquet")):
        table = pq.read_table(path)
        if "jaccard_estimated" not in table.column_names and "jaccard" in table.column_names:
            # Written before runs verified: the only similarity there was is an estimate.
            table = table.rename_columns(["jaccard_estimated" if c == "jaccard" else c for c in table.column_names])
        rows += table.to_pylist()
    return rows


class Similarity:
    """Exact Jaccard of any two documents: from gold, else from the texts, else None."""

    def __init__(self, gold, texts, n):
        self.gold, self.texts, self.n, self.computed, self.sets = gold, texts, n, 0, {}

    def set_of(self, document):
        if document not in self.sets:
            self.sets[document] = truth.shingles(self.texts[document], self.n)
        return self.sets[document]

    def __call__(self, a, b):
        known = self.gold.similarity(a, b)
        if known is None and a in self.texts and b in self.texts:
            self.computed += 1
            known = truth.jaccard(self.set_of(a), self.set_of(b))
        return known


def score_removals(removed, similarity, threshold):
    rows = [r for r in removed if r["reason"] in DUPLICATE]
    gone = {r["id"] for r in removed}
    by_reason, worst, misstated, unknown = collections.defaultdict(list), [], [], 0
    justified = 0
    for r in rows:
        true = similarity(r["id"], r["survivor"]) if r["survivor"] else None
        unknown += true is None
        true = 0.0 if true is None else true
        by_reason[r["reason"]].append(true)
        worst.append({"id": r["id"], "survivor": r["survivor"], "jaccard": true, "reason": r["reason"], "stated": r.get("jaccard")})
        # f32 against f64
        if r.get("jaccard") is not None and abs(r["jaccard"] - true) > 1e-6:
            misstated.append(abs(r["jaccard"] - true))
        kept = (s for other, s in similarity.gold.neighbours(r["id"]) if other not in gone)
        justified += max([true if r["survivor"] not in gone else 0.0, *kept]) >= threshold
    estimates = [(r["jaccard_estimated"], w["jaccard"]) for r, w in zip(rows, worst) if r.get("jaccard_estimated") is not None]
    worst.sort(key=lambda w: (w["jaccard"], w["id"]))
    clusters = collections.defaultdict(set)
    for r in rows:
        clusters[r["cluster"]].add(r["survivor"])
    every = [s for of_reason in by_reason.values() for s in of_reason]
    return {
        "removed": len(rows), "not_in_gold_nor_texts": unknown, "computed_from_texts": similarity.computed,
        "reasons": {
            reason: {
                "removed": len(of_reason), "at_threshold": sum(s >= threshold for s in of_reason) / len(of_reason),
                "at_half": sum(s >= 0.5 for s in of_reason) / len(of_reason), "minimum": min(of_reason),
            }
            for reason, of_reason in sorted(by_reason.items())
        },
        "at_threshold": sum(s >= threshold for s in every) / len(every) if every else 1.0,
        "minimum": min(every, default=1.0),
        # However long the chain to the named survivor: is any kept document as close as promised?
        "with_a_kept_document_at_threshold": justified / len(rows) if rows else 1.0,
        "clusters": len(clusters),
        "clusters_without_survivor": sum(all(s is None or s in gone for s in of) for of in clusters.values()),
        "survivors_removed": sum(r["survivor"] in gone for r in rows),
        "clusters_with_several_survivors": sum(len(of) > 1 for of in clusters.values()),
        "stated_jaccard_off": len(misstated), "stated_jaccard_off_by": max(misstated, default=0.0),
        "estimate_mean_error": statistics.fmean(e - s for e, s in estimates) if estimates else None,
        "estimate_root_mean_square_error": math.sqrt(statistics.fmean((e - s) ** 2 for e, s in estimates)) if estimates else None,
        "worst": worst[:10],
    }


# --- c: what is still there? ---


def score_leftovers(gold, removed, threshold):
    """Pairs of documents with both kept, copies of a set counted one by one."""
    gone = {r["id"] for r in removed}
    kept = collections.Counter({r: sum(x not in gone for x in gold.documents_of(r)) for r in {*gold.near, *gold.members}})
    pairs, left = [0] * 11, [0] * 11
    for (a, b), similarity in gold.pairs.items():
        number = bin_of(similarity)
        pairs[number] += len(gold.documents_of(a)) * len(gold.documents_of(b))
        left[number] += kept[a] * kept[b]
    for r in gold.members:
        pairs[10] += math.comb(len(gold.documents_of(r)), 2)
        left[10] += math.comb(kept[r], 2)
    still = sum(
        document not in gone and any(s >= threshold and other not in gone for other, s in gold.neighbours(document))
        for r in kept for document in gold.documents_of(r)
    )
    return {"bins": [{"bin": BINS[n], "pairs": pairs[n], "both_kept": left[n]} for n in range(11) if pairs[n]],
            "kept_with_a_kept_neighbour_at_threshold": still}


def score_documents(gold, removed, texts, keep, threshold):
    """Of the documents with a neighbour that ranks before them, the share removed, by the nearest such neighbour.

    Below 1 even when all is right: in a chain A, B, C where only neighbours are similar, B goes for A and C stays.
    """
    gone = {r["id"] for r in removed}
    rank = {
        document: (-len(text.encode("utf-8", "surrogatepass")) if keep == "longest" else 0, position)
        for position, (document, text) in enumerate(texts.items())
    }
    having, went = [0] * 11, [0] * 11
    for representative in {*gold.near, *gold.members}:
        for document in gold.documents_of(representative):
            if document not in rank:
                continue
            better = [s for other, s in gold.neighbours(document) if other in rank and rank[other] < rank[document]]
            if better:
                number = bin_of(max(better))
                having[number] += 1
                went[number] += document in gone
    high = [n for n in range(11) if n == 10 or EDGES[n] >= threshold - 1e-9]
    total = sum(having[n] for n in high)
    return {
        "keep": keep, "at_threshold": total, "removed_at_threshold": sum(went[n] for n in high) / total if total else 1.0,
        "bins": [{"bin": BINS[n], "documents": having[n], "removed": went[n]} for n in range(11) if having[n]],
    }


# --- the report ---


def show_signatures(s):
    print(f"Signatures: {s['bands']} bands of {s['rows']} rows, {s['documents']:,} documents; share of gold pairs that agree on a band")
    print(f"  {'':11}{'every pair counts once':^36}{'':5}{'every component counts once':^36}")
    print(f"  {'Jaccard':11}{'pairs':>9}{'found':>9}{'theory':>9}{'SE':>9}{'':5}{'number':>9}{'found':>9}{'theory':>9}{'SE':>9}")
    for b in s["bins"]:
        of = lambda x, n: f"{n:>9,}{x['measured']:>9.4f}{x['theory']:>9.4f}{x['se']:>9.4f}"
        print(f"  {b['bin']:11}{of(b['all'], b['all']['pairs'])}{'':5}{of(b['by_component'], b['by_component']['components'])}"
              f"  {'ok' if b['ok'] else 'MORE THAN 3 SE OFF'}")
    if s["pairs_without_keys"] or s["pairs_without_signature"]:
        print(f"  left out: {s['pairs_without_keys']:,} pairs with a document that has no keys, {s['pairs_without_signature']:,} without signature")


def show_removals(r, threshold):
    print(f"Removals: {r['removed']:,} documents, against the survivor that the run names")
    for reason, of in r["reasons"].items():
        print(f"  {reason:6}{of['removed']:>8,}   J ≥ {threshold:g}: {of['at_threshold']:.4f}   J ≥ 0.5: {of['at_half']:.4f}   lowest {of['minimum']:.4f}")
    print(f"  with any kept document at J ≥ {threshold:g}: {r['with_a_kept_document_at_threshold']:.4f}")
    print(f"  {r['computed_from_texts']:,} similarities computed from the texts, {r['not_in_gold_nor_texts']:,} unknown and taken as 0")
    print(
        f"  {r['clusters']:,} clusters: {r['clusters_without_survivor']:,} kept nobody, {r['clusters_with_several_survivors']:,} name several "
        f"survivors; {r['survivors_removed']:,} documents name a survivor that was removed"
    )
    print(f"  stated similarity: {r['stated_jaccard_off']:,} not the true one, by {r['stated_jaccard_off_by']:.4f} at most")
    if r["estimate_mean_error"] is not None:
        print(f"  estimated similarity: mean error {r['estimate_mean_error']:+.4f}, root mean square {r['estimate_root_mean_square_error']:.4f}")
    for w in r["worst"]:
        print(f"    {w['jaccard']:.4f}  {w['reason']}  {w['id']}  →  {w['survivor']}")


def show_leftovers(left, documents, threshold):
    print("Leftovers: pairs of documents with both kept" + ("; documents with a neighbour that ranks before them" if documents else ""))
    of_documents = {b["bin"]: b for b in documents["bins"]} if documents else {}
    print(f"  {'Jaccard':11}{'pairs':>10}{'both kept':>11}{'share':>8}" + (f"{'documents':>12}{'removed':>9}{'share':>8}" if documents else ""))
    for b in left["bins"]:
        line = f"  {b['bin']:11}{b['pairs']:>10,}{b['both_kept']:>11,}{b['both_kept'] / b['pairs']:>8.4f}"
        if d := of_documents.get(b["bin"]):
            line += f"{d['documents']:>12,}{d['removed']:>9,}{d['removed'] / d['documents']:>8.4f}"
        print(line)
    print(f"  kept with a kept neighbour at J ≥ {threshold:g}: {left['kept_with_a_kept_neighbour_at_threshold']:,}")
    if documents:
        order = "longer" if documents["keep"] == "longest" else "earlier"
        print(f"  of {documents['at_threshold']:,} documents with {'a longer' if order == 'longer' else 'an earlier'} one at J ≥ {threshold:g}, "
              f"{documents['removed_at_threshold']:.4f} were removed")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gold", nargs="+", required=True, help=".pairs.tsv and .groups.tsv files, or folders of them")
    parser.add_argument("--keys", type=pathlib.Path, help="band keys, one JSON line a document")
    parser.add_argument("--run", type=pathlib.Path, help="directory that `forebay dedup` wrote")
    parser.add_argument("--texts", nargs="+", default=[], help="the inputs, for pairs that gold does not list")
    parser.add_argument("--rows", type=int, default=8, help="rows of a band; the keys tell how many bands")
    parser.add_argument("--ngram", type=int, default=5)
    parser.add_argument("--threshold", type=float, default=0.8)
    parser.add_argument("--keep", choices=["longest", "first"], default="longest")
    parser.add_argument("--json", type=pathlib.Path, help="write all of it here, too")
    args = parser.parse_args()
    if not args.keys and not args.run:
        parser.error("nothing to score: give --keys, --run or both")

    gold = truth.Gold(args.gold)
    report, wrong = {"gold_pairs": len(gold.pairs), "gold_copies": len(gold.group), "threshold": args.threshold}, []
    if args.keys:
        report["signatures"] = signatures = score_signatures(gold, read_keys(args.keys), args.rows)
        show_signatures(signatures)
        if not signatures["ok"]:
            wrong.append("the signatures are more than 3 standard errors off the theory")
    if args.run:
        removed, texts = read_removed(args.run), dict(truth.documents(args.texts))
        similarity = Similarity(gold, texts, args.ngram)
        report["removals"] = removals = score_removals(removed, similarity, args.threshold)
        show_removals(removals, args.threshold)
        report["leftovers"] = leftovers = score_leftovers(gold, removed, args.threshold)
        documents = score_documents(gold, removed, texts, args.keep, args.threshold) if texts else None
        report["documents"] = documents
        show_leftovers(leftovers, documents, args.threshold)
        if removals["clusters_without_survivor"]:
            wrong.append(f"{removals['clusters_without_survivor']} clusters kept nobody")
        if removals["stated_jaccard_off"]:
            wrong.append(f"{removals['stated_jaccard_off']} removals state a similarity that is not the true one")
    report["wrong"] = wrong
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    for reason in wrong:
        print(f"WRONG: {reason}")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
