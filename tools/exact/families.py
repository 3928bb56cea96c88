"""GPT-2's model behind the pre-tokenizers and normalizers of other models, and behind some that no model has.

Byte-level BPE reaches every character, so ids show where pre-tokens end. An encoder that knows some regexes by heart and hands
the others to a library of its own is caught here: the reference means Oniguruma's `\\s`, `\\w`, `\\p{…}` and case folding.
"""
import json

BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
GPT2 = BYTES | {"use_regex": True}
ENDS = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SAID = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
UPPER, LOWER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"


def split(regex, behavior="Isolated", invert=False):
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": behavior, "invert": invert}


def digits(each):
    return {"type": "Digits", "individual_digits": each}


PRE_TOKENIZERS = {
    # of models in use
    "starcoder": [digits(True), GPT2],
    "bloom": [split(r" ?[^(\s|[.,!?…。，、।۔،])]+"), BYTES],
    "falcon": [{"type": "Punctuation", "behavior": "Contiguous"}, GPT2, digits(False), split("[0-9][0-9][0-9]")],
    "roberta_prefix": [GPT2 | {"add_prefix_space": True}],
    "deepseek_coder": [split("[\r\n]"), split(r"\s?\p{L}+"), split(r"\s?\p{P}+"), split("[一-龥ࠀ-一가-퟿]+"), digits(True), BYTES],
    "kimi": [split(rf"[\p{{Han}}]+|[^\r\n\p{{L}}\p{{N}}]?[{UPPER}&&[^\p{{Han}}]]*[{LOWER}&&[^\p{{Han}}]]+{SAID}?"
                   rf"|[^\r\n\p{{L}}\p{{N}}]?[{UPPER}&&[^\p{{Han}}]]+[{LOWER}&&[^\p{{Han}}]]*{SAID}?|\p{{N}}{{1,3}}|{ENDS}"), BYTES],
    "qwen35": [split(rf"{SAID}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"), BYTES],
    "smollm": [digits(True), GPT2],
    "gpt2_split": [split(r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"), BYTES],
    "chatglm": [split(rf"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{ENDS}"), BYTES],
    "three_digits": [split(r"\p{N}{1,3}(?=(?:\p{N}{3})*\b)"), GPT2],
    "cl100k_possessive": [split(rf"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{{L}}\p{{N}}]?+\p{{L}}++|\p{{N}}{{1,3}}+| ?[^\s\p{{L}}\p{{N}}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s"), BYTES],
    # of none: what a class means
    "cl100k_nearly": [split(rf"{SAID}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|[\p{{Nd}}\p{{Nl}}\p{{No}}]{{1,3}}|{ENDS}"), BYTES],
    "words": [split(r"\w+|\s+|[^\w\s]+"), BYTES],
    "digits": [split(r"\d+|\D"), BYTES],
    "boundaries": [split(r"\b"), BYTES],
    "posix": [split(r"[[:alpha:]]+|[[:digit:]]+|[[:space:]]+|[[:punct:]]+|[[:upper:]]"), BYTES],
    "hex": [split(r"\h+|\H+"), BYTES],
    "lines": [split(r".+|\R"), BYTES],
    "ends": [split(r"\s+$|^\s+"), BYTES],
    "any_case": [split(r"(?i)[a-z]+|ß|σ|straße"), BYTES],
    "properties": [split(r"\p{Alphabetic}+|\p{White_Space}+|\p{Uppercase}|\p{Lowercase}+"), BYTES],
    "scripts": [split(r"\p{Greek}+|\p{Cyrillic}+|\p{Han}+|\p{Hiragana}+|\p{Katakana}+|\p{Hangul}+|\p{Arabic}+|\p{Latin}+"), BYTES],
    "categories": [split(r"\p{Lu}+|\p{Ll}+|\p{Lt}|\p{Lm}+|\p{Lo}+|\p{Mn}+|\p{Mc}+|\p{Me}|\p{Nd}+|\p{Nl}+|\p{No}+"), split(r"\p{Pc}|\p{Pd}|\p{Ps}|\p{Pe}|\p{Pi}|\p{Pf}|\p{Po}+|\p{Sm}+|\p{Sc}|\p{Sk}|\p{So}+"), split(r"\p{Zs}+|\p{Zl}|\p{Zp}|\p{Cc}+|\p{Cf}+|\p{Co}+|\p{Cn}+"), BYTES],
    "removed": [split(r"\s+", "Removed"), BYTES],
    "merged_next": [split(r"\s", "MergedWithNext"), BYTES],
    "merged_previous": [split(r"[\s\p{P}]", "MergedWithPrevious"), BYTES],
    "contiguous": [split(r"\p{S}|\p{P}", "Contiguous"), BYTES],
    "whitespace": [{"type": "Whitespace"}, BYTES],
    "whitespace_split": [{"type": "WhitespaceSplit"}, BYTES],
    "bert_words": [{"type": "BertPreTokenizer"}, BYTES],
    "unicode_scripts": [{"type": "UnicodeScripts"}, BYTES],
    "char_delimiter": [{"type": "CharDelimiterSplit", "delimiter": " "}, BYTES],
    "none": [BYTES],
}
NORMALIZERS = {
    "nfc": {"type": "NFC"},
    "nfd": {"type": "NFD"},
    "nfkc": {"type": "NFKC"},
    "nfkd": {"type": "NFKD"},
    "lowercase": {"type": "Lowercase"},
    "no_accents": {"type": "Sequence", "normalizers": [{"type": "NFD"}, {"type": "StripAccents"}, {"type": "Lowercase"}]},
    "strip": {"type": "Strip", "strip_left": True, "strip_right": True},
    "nmt": {"type": "Nmt"},
    "bert": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True},
    "spaces": {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
    "prepend": {"type": "Prepend", "prepend": "▁"},
    "byte_level": {"type": "ByteLevel"},
}


def names():
    return [f"gpt2_{n}" for n in PRE_TOKENIZERS] + [f"gpt2_after_{n}" for n in NORMALIZERS]


def make(name, gpt2):
    """`gpt2`: the bytes of GPT-2's tokenizer.json."""
    vocabulary = json.loads(gpt2)
    which = name.removeprefix("gpt2_")
    if which.startswith("after_"):
        vocabulary["normalizer"] = NORMALIZERS[which.removeprefix("after_")]
        # As a normalizer, ByteLevel makes letters of bytes; a pre-tokenizer would do it twice.
        vocabulary["pre_tokenizer"] = None if which == "after_byte_level" else GPT2
    else:
        vocabulary["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": PRE_TOKENIZERS[which]}
    # One that is normalized, and takes the spaces beside it.
    flags = {"single_word": False, "lstrip": True, "rstrip": True, "normalized": True, "special": False}
    vocabulary["added_tokens"].append({"id": len(vocabulary["model"]["vocab"]), "content": "<Mask É>", **flags})
    flags = {"single_word": True, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    vocabulary["added_tokens"].append({"id": len(vocabulary["model"]["vocab"]) + 1, "content": "zwei", **flags})
    return json.dumps(vocabulary, ensure_ascii=False).encode()
