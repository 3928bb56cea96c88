"""The tables of tokenizing.py, from what it measured."""
import statistics

PASSES = ("cold", "steady", "hot")


def spread(values, digits=1):
    values = sorted(values)
    if not values:
        return "–"
    middle = f"{statistics.median(values):.{digits}f}"
    return middle if len(values) == 1 else f"{middle} ({values[0]:.{digits}f}–{values[-1]:.{digits}f})"


def rates(entries, what):
    """MB of text a CPU second, of one pass."""
    return [e["passes"][what]["text_bytes"] / 1e6 / e["passes"][what]["cpu_seconds"] for e in entries]


def exactness(results, row):
    found = results.get("exact", {}).get(row)
    if found is None:
        return "–"
    return "yes" if found["differ"] == 0 else f"**{found['differ']} of {found['documents']} documents differ**"


def net(entries, start):
    """CPU seconds without those of a run on one document. What it says of its own vocabulary is taken from the same run: that
    is most of a start, and differs from one run to the next by more than the rest takes."""
    rest = lambda e: e["process"]["cpu_seconds"] - e.get("load_cpu_seconds", 0)
    idle = statistics.median(map(rest, start))
    return [rest(e) - idle for e in entries]


def markdown(said, fast, slow, reference):
    corpora = said["corpora"]
    lines = [
        "# tokenize: text to ids on one core", "", f"{said['date']}, {said['machine']}; {', '.join(said['versions'])}.",
        f"One core, one run of the script, tools in turn; median (min–max) of {said['runs']}. MB of UTF-8 text a CPU second; load apart.",
        "Cold: first half, fresh tokenizer; steady: second half, not seen before; hot: second half again. "
        "Slow ones once, on a slice. Exact: ids of a sample of the mixed text equal those of " + reference + ".", "",
        "Text: " + "; ".join(f"{k} {c['documents']:,} documents, {c['text_bytes'] / 1e6:.1f} MB" for k, c in corpora.items() if k not in ("one", "letter", "long")) + ".", "",
    ]
    for name, results in said["results"].items():
        lines += [f"## {name}", "", *memory(results, fast, slow), "", *end_to_end(results, corpora, fast, slow), "", *letter(results, corpora), "", *threads(results, corpora)]
        if results["failed"]:
            lines += ["", "Failed: " + "; ".join(f"{k}: {v[0]}" for k, v in results["failed"].items()) + "."]
        lines.append("")
    return "\n".join(lines)


def memory(results, fast, slow):
    kinds = list(dict.fromkeys(row.split(", ")[0] for row in results["memory"]))
    kinds.sort(key=("English", "code", "multilingual", "mixed").index)
    lines = ["| in memory | " + " | ".join(f"{k}, {p}" for k in kinds for p in PASSES) + " | load, CPU s | exact |", "|---" * (3 * len(kinds) + 3) + "|"]
    for peer in (*fast, *slow):
        entries = {k: results["memory"].get(f"{k}, {peer}", []) for k in kinds}
        if not any(entries.values()):
            continue
        load = [e["load"]["cpu_seconds"] for some in entries.values() for e in some]
        note = " (slice)" if peer in slow else ""
        lines.append(f"| {peer}{note} | " + " | ".join(spread(rates(entries[k], p)) for k in kinds for p in PASSES) + f" | {spread(load)} | {exactness(results, peer)} |")
    return lines


def whole_rates(entries):
    """MB of text a CPU second over both halves, from a fresh tokenizer: what a whole job gets."""
    return [sum(e["passes"][p]["text_bytes"] for p in PASSES[:2]) / 1e6 / sum(e["passes"][p]["cpu_seconds"] for p in PASSES[:2]) for e in entries]


def fastest_exact(results, fast, rate):
    """The peer with the best median `rate` on mixed text, and that, among those whose sample was equal."""
    best = None
    for peer in fast:
        entries = results["memory"].get(f"mixed, {peer}")
        if entries and results.get("exact", {}).get(peer, {"differ": 1})["differ"] == 0:
            found = statistics.median(rate(entries))
            if best is None or found > best[1]:
                best = (peer, found)
    return best


def end_to_end(results, corpora, fast, slow):
    lines = ["| .jsonl.zst → tokens on disk, mixed | CPU s | MB a CPU s | start, CPU s | MB a CPU s without start | peak MiB | tokens | exact |", "|---" * 8 + "|"]
    size = corpora["mixed"]["text_bytes"] / 1e6
    peers = {"cold": fastest_exact(results, fast, lambda e: rates(e, "cold")), "cold and steady": fastest_exact(results, fast, whole_rates)}
    for row, entries in results["end to end"].items():
        start = results["end to end"].get(f"{row}, start")
        if not start:
            continue
        lines.append(line(row, entries, start, size, exactness(results, row)))
        ours = statistics.median(size / s for s in net(entries, start))
        for what, best in peers.items():
            if best:
                lines.append(f"| … over {best[0]}, in memory, {what} ({best[1]:.1f}) | | | | {ours / best[1]:.2f}× | | | |")
    if (entries := results["datatrove"].get("slice")) and (start := results["datatrove"].get("start")):
        tokens = {e["passes"]["cold"]["tokens"] + e["passes"]["steady"]["tokens"] for e in results["memory"].get("mixed, tokenizers 0.23", [])}
        same = "same count" if tokens == {entries[0]["tokens"]} else f"count differs: {sorted(tokens)}"
        lines.append(line("datatrove (slice)", entries, start, corpora["mixed slice"]["text_bytes"] / 1e6, same))
    return lines


def line(row, entries, start, size, exact):
    cpu = [e["process"]["cpu_seconds"] for e in entries]
    peak = [e["process"]["peak_rss_bytes"] / 2**20 for e in entries]
    return (f"| {row} | {spread(cpu, 2)} | {spread([size / c for c in cpu])} | {spread([e['process']['cpu_seconds'] for e in start], 2)} | "
            f"{spread([size / s for s in net(entries, start) if s > 0])} | {spread(peak, 0)} | {entries[0]['tokens']:,} | {exact} |")


def letter(results, corpora):
    size = corpora["letter"]["text_bytes"] / 1e6
    lines = ["| documents of 1 MB of one letter | MB a CPU s |", "|---|---|"]
    for row, entries in results["letter"].items():
        if "passes" in entries[0]:
            seconds = [e["passes"]["cold"]["cpu_seconds"] for e in entries]
        elif start := results["end to end"].get(f"{row}, start"):
            row, seconds = f"{row}, end to end without start", net(entries, start)
        else:
            continue
        lines.append(f"| {row} | {spread([size / s for s in seconds if s > 0])} |")
    return lines


def threads(results, corpora):
    """Wall time of one thread over two, each pair measured one after the other; and of two processes at once."""
    found = results["threads"]
    if not found:
        return []
    wall = {row: [e["process"]["wall_seconds"] for e in entries] for row, entries in found.items()}
    start = {n: statistics.median(wall[f"one {n}"]) for n in ("1", "2", "at once")}
    lines = [f"| .jsonl.zst → tokens on disk, {corpora['long']['text_bytes'] / 1e6:.0f} MB, wall s | one thread | two threads | faster by | two processes at once: the machine gives |", "|---" * 5 + "|"]
    for what, less in (("start included", {n: 0 for n in start}), ("without start", start)):
        one, two, both = ([w - less[n] for w in wall[f"long {n}"]] for n in ("1", "2", "at once"))
        gain, limit = [a / b for a, b in zip(one, two)], [2 * a / b for a, b in zip(one, both)]
        lines.append(f"| {what} | {spread(one, 2)} | {spread(two, 2)} | {spread(gain, 2)}× | {spread(limit, 2)}× |")
    return lines
