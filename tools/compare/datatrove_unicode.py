#!/usr/bin/env python3
"""Prints crates/transform/src/dedup/datatrove/unicode.rs: what datatrove, spaCy and Python's Unicode data do to characters.

    python datatrove_unicode.py > crates/transform/src/dedup/datatrove/unicode.rs

Everything is asked of the installed packages, a character at a time; nothing is copied from their sources.
"""
import importlib.metadata
import re
import sys
import unicodedata

import regex
import spacy
from datatrove.utils.text import PUNCTUATION, simplify_text
from spacy.lang.char_classes import ALPHA, UNITS

ALL = [chr(c) for c in range(sys.maxunicode + 1) if not 0xD800 <= c < 0xE000]
HANGUL = range(0xAC00, 0xD7A4)


def ranges(characters):
    found = []
    for c in sorted(map(ord, characters)):
        if found and found[-1][1] == c - 1:
            found[-1][1] = c
        else:
            found.append([c, c])
    return found


def rust_ranges(name, doc, characters):
    body = ", ".join(f"({a:#x}, {b:#x})" for a, b in ranges(characters))
    print(f"/// {doc}\n#[rustfmt::skip]\npub(super) const {name}: &[(u32, u32)] = &[")
    line = "   "
    for item in body.split("), "):
        item = item.rstrip(")") + "),"
        if len(line) + 1 + len(item) > 100:
            print(line)
            line = "   "
        line += " " + item
    print(line + "\n];\n")


def rust_words(name, doc, words):
    print(f"\n/// {doc}\n#[rustfmt::skip]\npub(super) const {name}: &[&str] = &[")
    line = "   "
    for word in words:
        item = f'"{word}",'
        if len(line) + 1 + len(item) > 100:
            print(line)
            line = "   "
        line += " " + item
    print(line + "\n];")


def escape(c):
    shown = c.isprintable() and not unicodedata.combining(c) and unicodedata.bidirectional(c) not in ("R", "AL")
    return c if shown and unicodedata.category(c) not in ("Mc", "Me") else f"\\u{{{ord(c):x}}}"


def width(text):
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def main():
    marks = [c for c in ALL if unicodedata.category(c) == "Mn"]
    digits = [c for c in ALL if regex.fullmatch(r"\p{Nd}", c)]
    assert all(b - a == 9 or (b - a + 1) % 10 == 0 for a, b in ranges(digits))
    fold = lambda c: "".join(x for x in unicodedata.normalize("NFD", c) if unicodedata.category(x) != "Mn")
    folds = [(c, fold(c)) for c in ALL if c == c.lower() and ord(c) not in HANGUL and c not in marks and fold(c) != c]
    folds = [(c, f) for c, f in folds if not c.isspace() and c not in PUNCTUATION]
    single = [(c, f) for c, f in folds if len(f) == 1]
    several = [(c, f) for c, f in folds if len(f) != 1]

    after = {x for c in ALL for x in simplify_text(c)}
    tokenizer = spacy.blank("en").tokenizer
    icons = {c for c in after if tokenizer.find_infix(f"0{c}0")}
    alpha = {c for c in after if re.fullmatch(f"[{ALPHA}]", c)}
    prefixes = {c for c in after if tokenizer.find_prefix(c)}
    suffixes = {c for c in after if tokenizer.find_suffix(c)}
    assert icons <= suffixes <= prefixes
    comparisons = {c for c in after if tokenizer.find_infix(f"a{c}a")} - icons
    assert comparisons == set("<=>")
    units = sorted({u for u in UNITS.split("|") if all(c in after for c in u)})
    splits = {k: [token[65] for token in rule] for k, rule in tokenizer.rules.items()}
    splits = sorted(" ".join(v) for k, v in splits.items() if len(v) > 1 and all(c in after for c in k))

    version = importlib.metadata.version
    print(f"""//! What datatrove's normalisation and spaCy's English rules say about characters and words.
//!
//! Made by `tools/compare/datatrove_unicode.py` with datatrove {version("datatrove")}, spaCy {version("spacy")} and Python
//! {sys.version.split()[0]} (Unicode {unicodedata.unidata_version}). Ranges include both ends.
""")
    others = sorted(c for c in PUNCTUATION if ord(c) >= 128 and unicodedata.category(c) != "Cc")
    print("/// Becomes a space, beside all ASCII punctuation and control characters.\n#[rustfmt::skip]")
    print(f'pub(super) const PUNCTUATION: &str = "{"".join(others)}";\n')
    rust_ranges("DIGITS", "Decimal digits.", digits)
    rust_ranges("MARKS", "Category Mn: dropped.", marks)
    rust_ranges("ICONS", "A word of its own wherever it stands.", icons)
    rust_ranges("LETTERS", "What spaCy counts as a letter.", alpha)
    currency = {c for c in after if tokenizer.find_suffix(f"0{c}")} - suffixes - set(units)
    for name, doc, characters in (
        ("EDGES", "Cut off at either end of a word.", suffixes - icons),
        ("PREFIXES", "Cut off at the start of a word only.", prefixes - suffixes),
        ("CURRENCY", "Cut off at the end of a word after a digit; prefixes too.", currency),
    ):
        print(f"/// {doc}\n#[rustfmt::skip]")
        print(f'pub(super) const {name}: &str = "{"".join(map(escape, sorted(characters)))}";\n')
    print("/// A character and what is left of it: canonical decomposition without marks; Hangul aside.")
    print('#[rustfmt::skip]\npub(super) const FOLDS: &str = "\\')
    line = ""
    for c, f in single:
        item = escape(c) + escape(f)
        if width(line + item) > 99:
            print(line + "\\")
            line = ""
        line += item
    print(line + '";')
    several = ["".join(map(escape, c + f)) for c, f in several]
    rust_words("LONG_FOLDS", "The same for those of which several characters are left.", several)
    rust_words("UNITS", "Units: cut off after a digit.", units)
    rust_words("SPLITS", "Words written together, and where they are cut.", splits)


if __name__ == "__main__":
    main()
