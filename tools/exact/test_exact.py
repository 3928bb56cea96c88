"""Tests of the tool itself: `python -m unittest discover tools/exact` with its requirements installed."""
import json
import unittest

import numpy

import exact
import families
import inputs
import shrink
import vocabularies


def letters(text):
    return numpy.array([ord(c) for c in text], dtype=numpy.uint32)


def wrong_after_space(text):
    """Like `letters`, but a U+180E after a space is lost."""
    return letters(text.replace(" \u180e", " "))


class Inputs(unittest.TestCase):
    def test_every_scalar_value_is_there(self):
        seen = set()
        for _, text in inputs.scalars():
            seen.update(text)
        self.assertEqual(len(seen), 0x110000 - 0x800)

    def test_ids_are_unique_and_no_text_is_white_space_alone(self):
        names = set()
        for name, text in inputs.adversarial(["</s>", "<|endoftext|>"]):
            self.assertNotIn(name, names)
            self.assertTrue(text.strip(inputs.WHITE_SPACE), name)
            names.add(name)

    def test_a_seed_gives_the_same_documents_and_another_gives_others(self):
        mixer = inputs.Mixer(["a line of text", "eine Zeile"], ["</s>"])
        once, again, other = (list(mixer.documents(seed, 50_000)) for seed in (1, 1, 2))
        self.assertEqual(once, again)
        self.assertNotEqual([t for _, t in once], [t for _, t in other])


class Shrink(unittest.TestCase):
    def test_a_difference_is_cut_down_to_what_causes_it(self):
        text = "x" * 5000 + " \u180e" + "y" * 5000
        found = [(text, wrong_after_space(text), letters(text))]
        cut = shrink.shrink(found, lambda _, token: token, lambda texts: [not numpy.array_equal(letters(t), wrong_after_space(t)) for t in texts])
        self.assertEqual(cut, [" \u180e"])

    def test_a_missing_document_is_kept_whole(self):
        self.assertEqual(shrink.shrink([("abc", None, letters("abc"))], None, lambda texts: [t == "abc" for t in texts]), ["abc"])


class Compare(unittest.TestCase):
    def test_only_white_space_may_be_left_out(self):
        self.assertTrue(exact.same(None, letters(" \n"), " \n\u3000"))
        self.assertFalse(exact.same(None, letters("a"), "a"))
        # Python calls this white space, Unicode does not.
        self.assertFalse(exact.same(None, letters("\x1c"), "\x1c"))

    def test_one_other_id_is_a_difference(self):
        ours = type("", (), {"encode": staticmethod(lambda texts, mode: [wrong_after_space(t) for t in texts])})
        reference = type("", (), {"encode": staticmethod(lambda texts, mode: [letters(t) for t in texts])})
        count, found = exact.Count(), []
        exact.compare([("a", "right"), ("b", "not \u180e"), ("c", "also right")], ours, reference, "parse", count, found)
        self.assertEqual((count.documents, count.differ, [f[0] for f in found]), (3, 1, ["b"]))


class Vocabularies(unittest.TestCase):
    def test_merges_follow_from_ranks(self):
        ranks = {bytes([b]): b for b in range(256)} | {b"ab": 256, b"cd": 257, b"abcd": 258}
        self.assertEqual(vocabularies.merges_of(ranks), [[b"a", b"b"], [b"c", b"d"], [b"ab", b"cd"]])

    def test_families_have_the_parts_they_name(self):
        gpt2 = json.dumps({"model": {"vocab": {"a": 0}}, "added_tokens": [], "normalizer": None, "pre_tokenizer": None}).encode()
        for name in families.names():
            made = json.loads(families.make(name, gpt2))
            self.assertEqual(made["normalizer"] is not None, name.startswith("gpt2_after_"), name)


if __name__ == "__main__":
    unittest.main()
