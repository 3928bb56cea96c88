"""Exact ground truth for near-duplicates: the gold files, and the same definition in Python for pairs they do not list.

    NAME.pairs.tsv    id_a  id_b  jaccard  intersection  size_a  size_b    pairs of different sets, Jaccard at least 0.5
    NAME.groups.tsv   representative  member                               documents of one and the same set

A document stands in `pairs` by the representative of its group. What no file lists is below 0.5 when both
documents are of one corpus, and unknown otherwise.
"""
import collections
import json
import pathlib
import re

import regex

FLOOR = 0.5  # what the gold files list
# Rust's char::is_alphanumeric. Python's \w lacks the vowel signs of Indic scripts, which are Alphabetic marks.
WORD = regex.compile(r"[\p{Alphabetic}\p{Nd}\p{Nl}\p{No}_]+")
ASCII_WORD = re.compile(r"[a-z0-9_]+")  # the same, twice as fast


def words(text):
    text = text.lower()
    return (ASCII_WORD if text.isascii() else WORD).findall(text)


def shingles(text, n=5):
    """The set of word n-grams; of one to n - 1 words the single shingle of all; of none the empty set."""
    found = words(text)
    if len(found) < n:
        return {" ".join(found)} if found else set()
    return set(map(" ".join, zip(*(found[at:] for at in range(n)))))


def jaccard(a, b):
    common = len(a & b)
    return common / (len(a) + len(b) - common) if a or b else 0.0


def documents(paths):
    """Every (id, text) of some JSONL files, in order."""
    for path in paths:
        with open(path, encoding="utf-8") as lines:
            for line in lines:
                record = json.loads(line)
                yield record["id"], record["text"]


class Gold:
    """What the gold files say; `similarity` of two documents is None when they do not list the pair."""

    def __init__(self, paths):
        self.group = {}  # member -> representative, for those that are not their own
        self.members = collections.defaultdict(list)  # representative -> its other members
        self.pairs = {}  # (a, b) of representatives, a < b -> exact Jaccard
        self.sizes = {}  # representative -> distinct shingles
        self.near = collections.defaultdict(dict)  # representative -> {representative: Jaccard}
        for path in files(paths):
            with open(path, encoding="utf-8") as lines:
                for line in lines:
                    fields = line.rstrip("\n").split("\t")
                    if len(fields) == 2:
                        representative, member = fields
                        self.group[member] = representative
                        self.members[representative].append(member)
                        continue
                    a, b, common, size_a, size_b = fields[0], fields[1], *map(int, fields[3:])
                    # Six digits would round some pairs to 1.
                    exact = common / (size_a + size_b - common)
                    self.pairs[(a, b) if a < b else (b, a)] = exact
                    self.near[a][b] = self.near[b][a] = exact
                    self.sizes[a], self.sizes[b] = size_a, size_b

    def representative(self, document):
        return self.group.get(document, document)

    def documents_of(self, representative):
        return [representative, *self.members.get(representative, ())]

    def similarity(self, a, b):
        a, b = self.representative(a), self.representative(b)
        return 1.0 if a == b else self.pairs.get((a, b) if a < b else (b, a))

    def neighbours(self, document):
        """Every other document that gold lists with this one, and the exact Jaccard of the two."""
        own = self.representative(document)
        for other in self.documents_of(own):
            if other != document:
                yield other, 1.0
        for representative, exact in self.near.get(own, {}).items():
            for other in self.documents_of(representative):
                yield other, exact

    def components(self):
        """representative -> the representative that names its connected component."""
        parent = {}

        def find(x):
            parent.setdefault(x, x)
            while parent[x] != x:
                parent[x] = parent[parent[x]]
                x = parent[x]
            return x

        for representative in self.members:
            find(representative)
        for a, b in self.pairs:
            a, b = find(a), find(b)
            parent[max(a, b)] = min(a, b)
        return {x: find(x) for x in list(parent)}


def files(paths):
    """The .tsv files among some paths and in the folders among them."""
    for path in map(pathlib.Path, paths):
        yield from sorted(path.glob("*.tsv")) if path.is_dir() else [path]
