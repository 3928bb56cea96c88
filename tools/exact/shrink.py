"""Cuts documents that two tokenizers encode differently down to the fewest characters that still differ."""
import unicodedata

import numpy

# How far before and after the first difference windows reach.
REACH = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128, 512, 4096)
ROUNDS = 6


def shrink(found, place, differ):
    """The shortest text for each of `found`, `(text, ours, theirs)`; None where no window shows a difference.

    `place(text, token)` is the character where a token starts; `differ(texts)` says of each text whether it differs. One
    call of `differ` costs a start of the binary, so all documents take each step together.
    """
    windows = []
    for text, ours, theirs in found:
        if ours is None:
            windows.append([text])
            continue
        common = min(len(ours), len(theirs))
        unequal = numpy.nonzero(ours[:common] != theirs[:common])[0]
        at = place(text, int(unequal[0]) if len(unequal) else common)
        windows.append(list(dict.fromkeys([text[max(0, at - a) : at + b] for a in REACH for b in REACH[1:]] + [text])))
    best = step([None] * len(found), windows, differ)
    for _ in range(ROUNDS):
        # One character less, or halves of a long one.
        windows = [[] if b is None or len(b) > 300 else [b[:n] + b[n + 1 :] for n in range(len(b))] + [b[: len(b) // 2], b[len(b) // 2 :]] for b in best]
        shorter = step(best, windows, differ)
        if shorter == best:
            break
        best = shorter
    return best


def step(best, windows, differ):
    candidates = list(dict.fromkeys(w for some in windows for w in some if w))
    if not candidates:
        return best
    wrong = {c for c, yes in zip(candidates, differ(candidates), strict=True) if yes}
    return [min([w for w in some if w in wrong] + ([b] if b is not None else []), key=len, default=None) for b, some in zip(best, windows)]


def characters(text):
    """Code point, category and name of each character, by Python's tables, which may be older than the character."""
    return [f"U+{ord(c):04X} {unicodedata.category(c)} {unicodedata.name(c, '?')}" for c in text]
