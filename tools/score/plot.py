#!/usr/bin/env python3
"""Draws the S-curve of score.py's JSON as SVG: theory as a line, what was measured as points with error bars.

    python tools/score/plot.py OUT.svg SCORE.json...

Every SCORE is of one setting of bands and rows. The colours are such that white and dark pages both do.
"""
import argparse
import json
import pathlib

WIDTH, HEIGHT = 720, 456
LEFT, RIGHT, TOP, BOTTOM = 58, 704, 44, 356  # of the axes
LOW, HIGH = 0.5, 1.0
INK, GRID = "#7b8794", "#7b8794"
# Told apart by shape and by label, too, not by colour alone.
SERIES = [("#2f81f7", "circle"), ("#e8710a", "square"), ("#1a9e6a", "diamond"), ("#b36ae2", "triangle")]


def x_of(similarity):
    return LEFT + (similarity - LOW) / (HIGH - LOW) * (RIGHT - LEFT)


def y_of(share):
    return BOTTOM - share * (BOTTOM - TOP)


def theory(similarity, bands, rows):
    return 1 - (1 - similarity**rows) ** bands


def text(x, y, said, anchor="middle", size=13, fill=INK, extra=""):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{fill}"{extra}>{said}</text>'


def axes():
    for tenth in range(0, 11, 2):
        y = y_of(tenth / 10)
        yield f'<line x1="{LEFT}" y1="{y:.1f}" x2="{RIGHT}" y2="{y:.1f}" stroke="{GRID}" stroke-opacity="{0.9 if tenth == 0 else 0.22}"/>'
        yield text(LEFT - 10, y + 4.5, f"{10 * tenth} %", "end")
    for step in range(6):
        similarity = LOW + step / 10
        x = x_of(similarity)
        yield f'<line x1="{x:.1f}" y1="{BOTTOM}" x2="{x:.1f}" y2="{BOTTOM + 5}" stroke="{GRID}" stroke-opacity="0.9"/>'
        yield text(x, BOTTOM + 21, f"{similarity:.1f}")
    yield text(RIGHT, BOTTOM + 44, "exact Jaccard similarity of two documents", "end", size=14)
    yield text(LEFT - 48, TOP - 22, "pairs that share a band", "start", size=14)


def mark(shape, x, y, colour, size=4.6):
    points = {
        "square": [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
        "diamond": [(0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)],
        "triangle": [(0, -1.25), (1.15, 0.85), (-1.15, 0.85)],
    }
    if shape == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size}" fill="{colour}"/>'
    at = " ".join(f"{x + size * dx:.1f},{y + size * dy:.1f}" for dx, dy in points[shape])
    return f'<polygon points="{at}" fill="{colour}"/>'


def series(signatures, colour, shape):
    bands, rows = signatures["bands"], signatures["rows"]
    steps = [LOW + (HIGH - LOW) * n / 200 for n in range(201)]
    line = " ".join(f"{x_of(s):.1f},{y_of(theory(s, bands, rows)):.1f}" for s in steps)
    yield f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2" stroke-opacity="0.75"/>'
    for b in signatures["bins"]:
        of = b["by_component"]
        x, y = x_of(of["similarity"]), y_of(of["measured"])
        low, high = (y_of(min(1, max(0, of["measured"] + sign * 2 * of["se"]))) for sign in (-1, 1))
        if low - high > 3:
            yield f'<path d="M{x - 4:.1f} {high:.1f}h8M{x:.1f} {high:.1f}V{low:.1f}M{x - 4:.1f} {low:.1f}h8" stroke="{colour}" stroke-width="1.5" fill="none"/>'
        yield mark(shape, x, y, colour)


def legend(scores):
    """In the corner that an S-curve leaves free."""
    x, y = x_of(0.815), y_of(0.34)
    for number, signatures in enumerate(scores):
        colour, shape = SERIES[number % len(SERIES)]
        at = y + 26 * number
        yield f'<line x1="{x:.1f}" y1="{at:.1f}" x2="{x + 34:.1f}" y2="{at:.1f}" stroke="{colour}" stroke-width="2" stroke-opacity="0.75"/>'
        yield mark(shape, x + 17, at, colour)
        yield text(x + 44, at + 5, f"{signatures['bands']} bands of {signatures['rows']} rows", "start", 14, colour, ' font-weight="600"')


def draw(scores):
    yield f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
    yield 'font-family="system-ui, -apple-system, \'Segoe UI\', Helvetica, Arial, sans-serif">'
    named = ", ".join(f"{s['bands']} bands of {s['rows']} rows" for s in scores)
    yield f"<title>Share of near-duplicate pairs found against their true similarity: {named}; theory and measurement agree</title>" \
        if all(s["ok"] for s in scores) else f"<title>Share of near-duplicate pairs found against their true similarity: {named}</title>"
    yield from axes()
    for number, signatures in enumerate(scores):
        yield from series(signatures, *SERIES[number % len(SERIES)])
    yield from legend(scores)
    pairs = max(sum(b["all"]["pairs"] for b in s["bins"]) for s in scores)
    raised = lambda word: f'<tspan dy="-4" font-size="9">{word}</tspan>'
    formula = f'1 − (1 − s{raised("rows")}<tspan dy="4">)</tspan>{raised("bands")}<tspan dy="4">.</tspan>'
    yield text(LEFT - 48, HEIGHT - 28, f"Lines: theory, {formula} Points: {pairs:,} pairs of real documents,", "start", 12)
    yield text(LEFT - 48, HEIGHT - 10, "each family of similar documents counting once; bars are ± 2 standard errors.", "start", 12)
    yield "</svg>"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("scores", nargs="+", type=pathlib.Path, help="JSON files of score.py, one a setting")
    args = parser.parse_args()
    scores = [json.loads(path.read_text())["signatures"] for path in args.scores]
    args.out.write_text("\n".join(draw(scores)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
