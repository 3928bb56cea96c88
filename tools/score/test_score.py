"""python -m unittest discover tools/score"""
import pathlib
import random
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import gold as truth
import score

PAIRS = "a\tb\t0.900000\t90\t95\t95\nb\tc\t0.600000\t60\t80\t80\n"
GROUPS = "a\ta2\n"


def small_gold():
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "x.pairs.tsv").write_text(PAIRS)
        (folder / "x.groups.tsv").write_text(GROUPS)
        return truth.Gold([folder])


def removal(document, survivor, **rest):
    return {"id": document, "survivor": survivor, "reason": "fuzzy", "cluster": 1, **rest}


class Shingles(unittest.TestCase):
    def test_words_are_runs_of_alphanumerics_and_underscores(self):
        self.assertEqual(truth.words("Don't STOP_me — 3,5 ½"), ["don", "t", "stop_me", "3", "5", "½"])

    def test_vowel_signs_do_not_split_words(self):
        self.assertEqual(truth.words("हिन्दी")[0][:2], "हि")

    def test_a_short_text_has_one_shingle_and_an_empty_one_none(self):
        self.assertEqual(truth.shingles("One two"), {"one two"})
        self.assertEqual(truth.shingles("— !"), set())
        self.assertEqual(truth.shingles("a b c d e f"), {"a b c d e", "b c d e f"})


class GoldFiles(unittest.TestCase):
    def test_members_of_a_group_are_as_similar_as_its_representative(self):
        gold = small_gold()
        self.assertEqual(gold.similarity("a2", "a"), 1.0)
        self.assertEqual(gold.similarity("b", "a2"), 0.9)
        self.assertIsNone(gold.similarity("a", "c"))
        self.assertEqual(dict(gold.neighbours("b")), {"a": 0.9, "a2": 0.9, "c": 0.6})
        self.assertEqual(len(set(gold.components().values())), 1)


class Signatures(unittest.TestCase):
    def test_true_keys_agree_with_theory_and_weak_ones_do_not(self):
        rng, similarity = random.Random(5), 0.7
        for broken, expected in ((0, True), (5, False)):
            keys, components = {}, []
            for n in range(500):
                agree = [rng.random() < similarity**8 and k >= broken for k in range(14)]
                keys[n, 0] = list(range(14))
                keys[n, 1] = [k if same else -1 - k for k, same in enumerate(agree)]
                components.append([((n, 0), (n, 1), similarity)])
            _, once = score.agreement(components, keys, lambda s: score.found_by_theory(s, 14, 8))
            self.assertEqual(score.agrees(once), expected)

    def test_bins(self):
        self.assertEqual([score.bin_of(s) for s in (0.5, 0.55, 0.7999, 0.8, 0.999999, 1.0)], [0, 1, 5, 6, 9, 10])


class Removals(unittest.TestCase):
    def test_similarities_are_the_true_ones_and_survivors_stay(self):
        gold = small_gold()
        of = lambda rows: score.score_removals(rows, score.Similarity(gold, {}, 5), 0.8)
        good = of([removal("b", "a", jaccard=0.9), removal("a2", "a", jaccard=1.0)])
        self.assertEqual((good["minimum"], good["at_threshold"], good["clusters_without_survivor"]), (0.9, 1.0, 0))
        chain = of([removal("c", "b", jaccard=0.7), removal("b", "a", jaccard=0.9)])
        self.assertEqual((chain["minimum"], chain["survivors_removed"], chain["stated_jaccard_off"]), (0.6, 1, 1))
        wiped = of([removal("a", "b"), removal("b", "a")])
        self.assertEqual(wiped["clusters_without_survivor"], 1)

    def test_leftovers_count_documents(self):
        gold = small_gold()
        left = score.score_leftovers(gold, [removal("b", "a")], 0.8)
        self.assertEqual({b["bin"]: (b["pairs"], b["both_kept"]) for b in left["bins"]},
                         {"0.60–0.65": (1, 0), "0.90–0.95": (2, 0), "1": (1, 1)})
        texts = {"a": "long text", "a2": "long text", "b": "text", "c": "t"}
        of = score.score_documents(gold, [removal("b", "a"), removal("a2", "a")], texts, "longest", 0.8)
        self.assertEqual((of["at_threshold"], of["removed_at_threshold"]), (2, 1.0))


if __name__ == "__main__":
    unittest.main()
