"""Texts on which tokenizers go wrong: every Unicode scalar value, long runs, marks, special tokens, and a seeded mixer.

All of it is made from code, nothing is read but lines to mutate; the same arguments give the same texts. Texts of white
space alone are not among them, since `forebay tokenize` leaves those documents out.
"""
import random

# Where characters are (Unicode 17 and room to grow): planes 0 to 3 as far as blocks go, tags and variation selectors.
# All others are private or unassigned everywhere.
DENSE = (range(0x0, 0xD800), range(0xF900, 0x1FC00), range(0x20000, 0x2FA20), range(0x30000, 0x33480), range(0xE0000, 0xE01F0))
SPARSE = (range(0xE000, 0xF900), range(0x1FC00, 0x20000), range(0x2FA20, 0x30000), range(0x33480, 0xE0000), range(0xE01F0, 0x110000))
# What a character is must show in the ids of its neighbours, as few merges reach into a character of several bytes: a letter
# before 's, a number among digits, white space before a word, an end of line before another.
CONTEXTS = ("a{}'s ", "  {}1234", "\n{}\n\nb", "12{}3 .{}the")
SHORT_CONTEXTS = ("a{}", " {}", "1{}", "\n{}")
SCALARS_A_DOCUMENT = 256

# White_Space of Unicode, which is what makes a document empty; Python's str.isspace has four more.
WHITE_SPACE = "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"

RUN_LENGTHS = (*range(1, 18), 31, 32, 33, 63, 64, 65, 99, 100, 101, 127, 128, 129, 255, 256, 257, 1023, 1024, 1025, 4095, 4096, 4097, 65537)
RUN_UNITS = (" ", "\n", "\t", "\r", "\r\n", " \n", "\xa0", "\u3000", "\u2028", "a", "A", "é", "1", "-", "'", "日", "\u0301", "😀", "▁", "\ufffd")

WORDS = ("the", "Hello", "naïve", "Straße", "ΑΒΓ", "привет", "日本語", "中文", "한국어", "ไทย", "العربية", "עברית", "हिन्दी", "x1", "CamelCase", "_", "foo_bar", "3.14")
CONTRACTIONS = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")
FRAGMENTS = (
    *WORDS, *CONTRACTIONS, " ", "  ", "   ", "\n", "\n\n", "\r\n", "\r", "\t", " \n", "\n ", "\xa0", "\u3000", "\u200b", "\u200d", "\ufeff", "\ufffd",
    "\0", "\x1c", "\x85", "\u2028", "'", "’", "\u017f", "\u212a", "'\u017f", "'\u017fS", "\u0130", "\u0131", "ǅ", "ß", "ﬁ", "①", "½", "٣", "५", "Ⅷ",
    "e\u0301", "e\u0323\u0307", "\u0301", "\u0345", "a\u0328\u0301", "\u1100\u1161\u11a8", "\uac00\u11a8", "한", "กำ", "\u0e33", "க்ஷ", "שָׁ", "\u202e", "الله", "\ufdfa",
    "👨‍👩‍👧‍👦", "🏳️‍🌈", "👍🏽", "🇩🇪🇫", "1️⃣", "\U000e0067\U000e007f", "▁", "▁▁", "Ġ", "Ċ", "<0x0A>", "<unk>", "##ing", "[UNK]", "</s>", "<|endoftext|>",
    "0", "12", "123", "1234", "1,000", "-", "--", "...", "!?", "//", "\\", "{}", "();", "=>", "`", '"', "#", "…", "—", "。", "、", "「", "！", "$", "€", "+", "\U00011de0", "\U00016ff4",
)


def scalars(dense=True, sparse=True):
    """Every scalar value: the dense ranges in each context, the others in a short one that changes from one to the next."""
    if dense:
        for block in blocks(DENSE):
            for number, context in enumerate(CONTEXTS):
                yield f"scalars-{block[0]:05x}-{number}", "".join(context.replace("{}", chr(c)) for c in block) + "."
    if sparse:
        for block in blocks(SPARSE):
            yield f"scalars-{block[0]:05x}", "".join(SHORT_CONTEXTS[c % 4].replace("{}", chr(c)) for c in block) + "."


def blocks(ranges):
    for each in ranges:
        for start in range(each.start, each.stop, SCALARS_A_DOCUMENT):
            yield range(start, min(start + SCALARS_A_DOCUMENT, each.stop))


def runs():
    for unit in RUN_UNITS:
        for length in RUN_LENGTHS:
            run = unit * length
            name = f"run-{'-'.join(f'{ord(c):x}' for c in unit)}-{length}"
            yield f"{name}-between", f"x{run}y"
            if length <= 257:
                yield f"{name}-first", f"{run}y"
                yield f"{name}-last", f"x{run}"
                yield f"{name}-spaced", f"x {run} y"
                yield f"{name}-lines", f"x\n{run}\ny"
                yield f"{name}-digit", f"{run}1"
                yield f"{name}-dot", f"{run}.{run}.\n"


def marks():
    """Combining sequences, jamo, scripts without spaces, right to left, joined emoji, odd white space."""
    above = [chr(c) for c in (*range(0x300, 0x370), *range(0x1DC0, 0x1E00), 0x20D0, 0xFE20, 0x3099)]
    for count in (1, 2, 3, 8, 30, 300, 3000):
        yield f"marks-{count}", "a" + "".join(above[n % len(above)] for n in range(count)) + "b"
        yield f"marks-backwards-{count}", "a" + "".join(above[-n % len(above)] for n in range(count)) + " b"
        yield f"zalgo-{count}", "".join(c + "".join(above[(n * 7 + k) % len(above)] for k in range(count % 97)) for n, c in enumerate("Zalgo comes now"))
    yield "jamo", "".join(chr(0x1100 + n % 19) + chr(0x1161 + n % 21) + (chr(0x11A7 + n % 28) if n % 3 else "") for n in range(2000))
    yield "jamo-old", "".join(chr(c) for c in (*range(0x1100, 0x1200), *range(0xA960, 0xA980), *range(0xD7B0, 0xD800)))
    yield "hangul", "".join(chr(c) for c in range(0xAC00, 0xD7A4, 3))
    yield "thai", "ภาษาไทยเป็นภาษาที่ไม่มีการเว้นวรรคระหว่างคำ น้ำ กำลัง" * 40
    yield "arabic", "السَّلَامُ عَلَيْكُمْ ١٢٣ لا إله ﷺ ﻻ tatـــweel " * 40
    yield "hebrew", "בְּרֵאשִׁית בָּרָא אֱלֹהִים־ ״ציטוט״ \u200fabc\u200e " * 40
    yield "indic", "क्षत्रिय ज्ञान ১২৩ தமிழ் తెలుగు മലയാളം ਪੰਜਾਬੀ ខ្មែរ မြန်မာ བོད " * 40
    for name, text in (
        ("family", "👨‍👩‍👧‍👦"), ("flags", "🇩🇪🇫🇷🇯"), ("skin", "👍🏻👍🏼👍🏽"), ("keycap", "1️⃣#️⃣*️⃣"), ("rainbow", "🏳️‍🌈🏴‍☠️"), ("tags", "🏴\U000e0067\U000e0062\U000e0065\U000e007f"), ("joiner", "\u200d\u200d"),
    ):
        for count in (1, 2, 7, 64, 1000):
            yield f"emoji-{name}-{count}", "x" + text * count + f" {text}y"
    for c in WHITE_SPACE + "\x1c\x1d\x1e\x1f\u180e\u200b\u200c\u200d\u2060\ufeff\0\x7f\ufffd\ufffe\uffff\U0010ffff":
        for k, text in enumerate((f"{c}a", f"a{c}", f"a{c}b", f"a{c}{c}b", f" {c}b", f"a{c} b", f"{c}\n{c}b", f"1{c}2", f".{c}.", f"{c}'s", f"a{c}\r\n{c}b", f"{c}{c}{c}b")):
            yield f"space-{ord(c):x}-{k}", text
    for n, ends in enumerate(("\r\n", "\n\r", "\r\r\n", "\r\n\n", "\n\n\r", "\r \n", " \r\n ", "\r\n\t", "\v\n", "\f\r\n", "\x85\n", "\u2028\n")):
        for count in (1, 2, 3, 9):
            yield f"lines-{n}-{count}", f"a{ends * count}b{ends}.{ends * count}"
    yield "bom", "\ufeffThe text\ufeff starts"
    yield "nul", "a\0b\0\0 \0c \0"


def probes():
    """Short lines on which regex libraries disagree: classes, anchors, boundaries, possessive repeats, case folding."""
    for n, text in enumerate((
        "a b\nc d\n", "  a  \n b  ", "hello\n\nworld\n", "é1٣½²x_y-z", "日本 語ab", "don't STOP'S \u017f'\u017f \u212a'", "straSSE STRASSE ẞ", "\u180e a\u180eb \u180e's",
        "\x1c\x1da \x85b\u200b c\ufeffd", "1234567 12,345", "a\r\nb\rc\u2028d", "ΣΑΣ σας ς", "🇩🇪🏳️‍🌈x", "\u0301e\u0301 \u20ddx", "①Ⅷ५", "_‿x", "\u00ad\u200dz", "fooFOO ǅ ŉ",
        "  \n  x", "x\n", "x\n\n", "\nx", "a\0b", "ーァゟ゠々〆", "ㄱㅏ가", "٪،؛؟", "a \n", "a \n b", "\n \n", "x \r\n y", "the deadbeef cafe", "\tTab\vVt\fFf", "١٢٣٤٥٦٧", "𝟏𝟐𝟑𝟒", "x²³¹y", "İıſK",
    )):
        yield f"probe-{n}", text


def contractions():
    letters = {"s": "sS\u017f", "t": "tT", "r": "rR", "e": "eE", "v": "vV", "m": "mM", "l": "lL", "d": "dD", "k": "kK\u212a"}
    for end in (*CONTRACTIONS, "'k", "'sk", "'lll", "''s", "'"):
        spellings = [end]
        for n, letter in enumerate(end):
            spellings += [s[:n] + other + s[n + 1 :] for s in spellings for other in letters.get(letter, "")]
        for spelling in sorted(set(spellings)):
            for mark in ("'", "’", "\u02bc", "`"):
                said = spelling.replace("'", mark)
                yield f"contraction-{said!a}", " ".join((f"I{said}", f"it{said}x", f" {said}", f"日{said}", f"1{said}", f"É{said}.", f"\u0301{said}", f"K{said}\n", said))


def specials(tokens):
    """`tokens`: what the vocabulary adds. All in three places, some in many spellings."""
    for start in range(0, len(tokens), 20):
        some = tokens[start : start + 20]
        yield f"special-{start}-text", "".join(f"x{t}y {t} {t}\n" for t in some)
        yield f"special-{start}-dense", "".join(some)
    for n, t in enumerate(dict.fromkeys((*tokens[:24], *tokens[-8:]))):
        for k, text in enumerate((
            t, f"a{t}", f"{t}a", f" {t}", f"{t} ", f"  {t}  ", f"\n{t}\n", f"\r\n\t{t}\u3000", f"1{t}2", f"_{t}_", f"é{t}é", f"\u0301{t}\u0301", f"{t}'s", f"<{t}>", t * 3, f"{t} {t}", t[:-1], t[1:],
            t[: len(t) // 2] + " " + t[len(t) // 2 :], t[: len(t) // 2] + "\u200b" + t[len(t) // 2 :], t.upper(), t.lower(), t.swapcase(), t.replace("|", "｜"), t + t[:-1], t[:-1] + t, f"{t}\0{t}",
        )):
            yield f"special-{n}-spelling-{k}", text


def endless(size=1_000_000):
    """About a megabyte without a space."""
    rng = random.Random(7)
    letters = "etaoinshrdlucmfwypvbgkqjxz"
    kanji = lambda: chr(rng.randrange(0x4E00, 0x9FA6))
    yield "endless-a", "a" * size
    yield "endless-letters", "".join(rng.choices(letters, range(26, 0, -1), k=size))
    yield "endless-digits", "".join(rng.choices("0123456789", k=size))
    yield "endless-kanji", "".join(kanji() for _ in range(size // 3))
    yield "endless-mixed", "".join(rng.choice((rng.choice(letters), rng.choice(letters).upper(), rng.choice("0123456789-/_+"), kanji(), "é", "я")) for _ in range(size // 2))


def adversarial(tokens, thorough=True):
    """`(id, text)` of everything above; without the sparse scalars and the megabytes unless `thorough`."""
    sources = [scalars(sparse=thorough), runs(), marks(), probes(), contractions(), specials(tokens), endless() if thorough else endless(50_000)]
    for source in sources:
        for name, text in source:
            if text.strip(WHITE_SPACE):
                yield name, text


class Mixer:
    """Random documents: lines of real text, mutated, fragments, tokens, random code points. A seed gives its documents for ever."""

    def __init__(self, lines, tokens):
        self.lines, self.tokens = lines or list(WORDS), tokens or ["</s>"]

    def documents(self, seed, text_bytes):
        rng, made, number = random.Random(seed), 0, 0
        while made < text_bytes:
            text = self.document(rng)
            if text.strip(WHITE_SPACE):
                yield f"fuzz-{seed}-{number}", text
                made, number = made + len(text.encode()), number + 1

    def document(self, rng):
        return "".join(self.piece(rng) for _ in range(rng.choice((1, 2, 3, 5, 8, 20, 60))))

    def piece(self, rng):
        kind = rng.randrange(12)
        if kind < 4:
            return self.mutated(rng, rng.choice(self.lines))
        if kind < 8:
            return "".join(rng.choices(FRAGMENTS, k=rng.choice((1, 2, 3, 6))))
        if kind == 8:
            return self.mutated(rng, rng.choice(self.tokens)) if rng.random() < 0.5 else rng.choice(self.tokens)
        if kind == 9:
            return rng.choice(RUN_UNITS) * rng.choice((1, 2, 3, 4, 7, 15, 16, 17, 33, 100))
        if kind == 10:
            # Neighbours in one block: scripts keep to themselves.
            start = rng.choice(DENSE[:3])[0] if rng.random() < 0.1 else rng.randrange(0x20, 0x1F9FF)
            return "".join(self.scalar(start + rng.randrange(64)) for _ in range(rng.choice((1, 3, 10))))
        return "".join(self.scalar(rng.randrange(0x110000)) for _ in range(rng.choice((1, 2, 4))))

    @staticmethod
    def scalar(c):
        return "\ufffd" if 0xD800 <= c < 0xE000 or c > 0x10FFFF else chr(c)

    def mutated(self, rng, line):
        if len(line) > 400:
            start = rng.randrange(len(line) - 300)
            line = line[start : start + rng.randrange(1, 300)]
        for _ in range(rng.choice((0, 0, 1, 2, 4))):
            at = rng.randrange(len(line) + 1)
            kind = rng.randrange(7)
            if kind == 0:
                line = line[:at] + rng.choice(FRAGMENTS) + line[at:]
            elif kind == 1:
                line = line[:at] + line[at + rng.choice((1, 2, 5)) :]
            elif kind == 2:
                line = line[:at] + line[at : at + 8].swapcase() + line[at + 8 :]
            elif kind == 3:
                line = line[:at] + line[at : at + 3] * rng.choice((2, 3, 9)) + line[at:]
            elif kind == 4:
                line = line[:at] + self.scalar(rng.randrange(0x110000)) + line[at:]
            elif kind == 5:
                line = line.replace(" ", rng.choice(("", "  ", "\n", "\xa0", "\t")), 2)
            else:
                other = rng.choice(self.lines)[:200]
                line = line[:at] + other[rng.randrange(len(other) + 1) :]
        return line
