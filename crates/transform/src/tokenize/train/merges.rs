//! Merges: the pair that stands most often becomes a token, again and again.

use std::cmp::Reverse;
use std::collections::hash_map::Entry as Slot;
use std::collections::{BinaryHeap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};

use super::super::alphabet::alphabet;
use super::{Target, Trained};

type Pair = (u32, u32);
type Map<V> = HashMap<u64, V, BuildHasherDefault<PairHasher>>;

/// Learns the merges of `words`, each different and with its count.
///
/// `target` must have passed [`Target::check`]. `step` is told the number of tokens after every
/// merge and stops the training by `false`: then there is no result. Fewer tokens than asked for
/// come out if no pair is left that stands `min_frequency` times.
///
/// **Ties.** The most frequent pair goes first; of equally frequent ones that of the lower left
/// id, then of the lower right id. A token may come about in two ways (`aa a`, `a aa`); the pairs
/// of the second way are listed once more, and of two such entries for one pair the older goes
/// first. That last order `tokenizers` leaves to its hash tables, which are seeded at random; no
/// input was found whose result it changes. As there,
/// a pair that is merged once more takes the rank of the last time. So the result depends on the
/// counts alone, not on the order of `words`, nor on threads.
///
/// Memory: 8 B a byte of `words`, and some for what changes. Cost: about what `tokenizers` takes
/// on one thread. Source: Sennrich, Haddow, Birch, *Neural Machine Translation of Rare Words with
/// Subword Units*, algorithm 1; a heap corrected when popped, as in `tokenizers`.
pub fn learn(
    words: &[(Box<str>, u64)],
    target: &Target,
    mut step: impl FnMut(usize) -> bool,
) -> Option<Trained> {
    let mut tokens: Vec<String> = target.special_tokens.clone();
    let mut characters = alphabet();
    characters.sort_unstable();
    tokens.extend(characters.iter().map(char::to_string));
    let mut ids: HashMap<String, u32> = tokens.iter().cloned().zip(0..).collect();
    let mut corpus = Corpus::new(
        words,
        alphabet().map(|character| {
            let place = characters.binary_search(&character).unwrap_or(0);
            (target.special_tokens.len() + place) as u32
        }),
    );

    let mut queue = BinaryHeap::new();
    // Where the pair of each entry stands: words, ascending, each once.
    let mut places: Vec<Vec<u32>> = Vec::new();
    let mut counts: Map<i64> = Map::default();
    let mut grown: Map<Vec<u32>> = Map::default();
    corpus.each_pair(|pair, word, count| {
        *counts.entry(pack(pair)).or_default() += count;
        note(&mut grown, pair, word);
    });
    list(&mut queue, &mut places, &mut grown, &counts);

    let mut merges: Vec<Pair> = Vec::new();
    let mut rank: HashMap<Pair, usize> = HashMap::new();
    while tokens.len() < target.vocab_size {
        let Some(mut top) = queue.pop() else { break };
        let pair = top.pair.0;
        // Counts fall after an entry was made: it goes back to where it belongs.
        let count = counts.get(&pack(pair)).copied().unwrap_or(0);
        if top.count != count {
            top.count = count;
            queue.push(top);
            continue;
        }
        if count < 1 || u64::try_from(count).unwrap_or(0) < target.min_frequency {
            break;
        }

        let written = [tokens[pair.0 as usize].as_str(), &tokens[pair.1 as usize]].concat();
        let merged = match ids.entry(written) {
            Slot::Occupied(known) => *known.get(),
            Slot::Vacant(new) => {
                let id = tokens.len() as u32;
                tokens.push(new.key().clone());
                *new.insert(id)
            }
        };
        rank.insert(pair, merges.len());
        merges.push(pair);
        for word in std::mem::take(&mut places[top.entry.0 as usize]) {
            corpus.merge(word, pair, merged, |pair, change| {
                *counts.entry(pack(pair)).or_default() += change;
                if change > 0 {
                    note(&mut grown, pair, word);
                }
            });
        }
        list(&mut queue, &mut places, &mut grown, &counts);
        if !step(tokens.len()) {
            return None;
        }
    }
    let last = |&(at, pair): &(usize, &Pair)| rank[pair] == at;
    let merges = merges.iter().enumerate().filter(last).map(|(_, &pair)| pair).collect();
    Some(Trained { tokens, merges })
}

/// Greatest first: count, then lower ids, then the older entry.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    count: i64,
    pair: Reverse<Pair>,
    entry: Reverse<u32>,
}

/// Puts what has grown into the queue.
fn list(
    queue: &mut BinaryHeap<Entry>,
    places: &mut Vec<Vec<u32>>,
    grown: &mut Map<Vec<u32>>,
    counts: &Map<i64>,
) {
    for (packed, words) in grown.drain() {
        let count = counts.get(&packed).copied().unwrap_or(0);
        if count > 0 {
            let pair = Reverse(((packed >> 32) as u32, packed as u32));
            queue.push(Entry { count, pair, entry: Reverse(places.len() as u32) });
            places.push(words);
        }
    }
}

fn note(grown: &mut Map<Vec<u32>>, pair: Pair, word: u32) {
    let words = grown.entry(pack(pair)).or_default();
    if words.last() != Some(&word) {
        words.push(word);
    }
}

/// Words as ids, one behind the other; a word shrinks in its place.
struct Corpus {
    symbols: Vec<u32>,
    /// Where each word starts, how long it is now, and how often it stands.
    words: Vec<(usize, u32, i64)>,
}

impl Corpus {
    /// `ids` has the id of every byte.
    fn new(words: &[(Box<str>, u64)], ids: [u32; 256]) -> Self {
        let mut corpus = Self { symbols: Vec::new(), words: Vec::with_capacity(words.len()) };
        for (word, count) in words {
            let start = corpus.symbols.len();
            corpus.symbols.extend(word.bytes().map(|byte| ids[usize::from(byte)]));
            let length = (corpus.symbols.len() - start) as u32;
            corpus.words.push((start, length, i64::try_from(*count).unwrap_or(i64::MAX)));
        }
        corpus
    }

    fn each_pair(&self, mut each: impl FnMut(Pair, u32, i64)) {
        for (&(start, length, count), word) in self.words.iter().zip(0..) {
            for pair in self.symbols[start..start + length as usize].windows(2) {
                each((pair[0], pair[1]), word, count);
            }
        }
    }

    /// Writes `merged` for `pair` in a word, from left to right; `change` hears which pairs come
    /// and go, by how much. The pair itself is not counted down, as in `tokenizers`.
    fn merge(&mut self, word: u32, pair: Pair, merged: u32, mut change: impl FnMut(Pair, i64)) {
        let (start, length, count) = self.words[word as usize];
        let symbols = &mut self.symbols[start..start + length as usize];
        let (mut read, mut write) = (0, 0);
        while read < symbols.len() {
            if symbols[read] != pair.0 || symbols.get(read + 1) != Some(&pair.1) {
                symbols[write] = symbols[read];
                (read, write) = (read + 1, write + 1);
                continue;
            }
            if write > 0 {
                change((symbols[write - 1], pair.0), -count);
                change((symbols[write - 1], merged), count);
            }
            if let Some(&next) = symbols.get(read + 2) {
                change((pair.1, next), -count);
                change((merged, next), count);
            }
            symbols[write] = merged;
            (read, write) = (read + 2, write + 1);
        }
        self.words[word as usize].1 = write as u32;
    }
}

fn pack((left, right): Pair) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}

/// Two ids are spread by one multiplication; nobody chooses them to collide.
#[derive(Default)]
struct PairHasher(u64);

impl Hasher for PairHasher {
    fn write(&mut self, _: &[u8]) {
        unreachable!("pairs are hashed as u64")
    }

    fn write_u64(&mut self, pair: u64) {
        let wide = u128::from(pair ^ 0x9e37_79b9_7f4a_7c15) * 0xd6e8_feb8_6659_fd93;
        self.0 = (wide >> 64) as u64 ^ wide as u64;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use tokenizers::models::bpe::{BPE, BpeTrainer};
    use tokenizers::pre_tokenizers::byte_level::ByteLevel;
    use tokenizers::{AddedToken, Trainer};

    use super::*;

    type Counted = Vec<(Box<str>, u64)>;

    fn target(vocab_size: usize, min_frequency: u64, special: &[&str]) -> Target {
        let special_tokens = special.iter().map(|token| (*token).to_owned()).collect();
        Target { vocab_size, min_frequency, special_tokens }
    }

    /// Tokens by id and merges by rank, of the trainer of `tokenizers`.
    fn reference(words: &Counted, target: &Target) -> Trained {
        let special = target.special_tokens.iter().map(|token| AddedToken::from(token, true));
        let mut trainer = BpeTrainer::builder()
            .show_progress(false)
            .vocab_size(target.vocab_size)
            .min_frequency(target.min_frequency)
            .special_tokens(special.collect())
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .build();
        let alphabet = alphabet();
        let repeated: Vec<String> = words
            .iter()
            .flat_map(|(word, count)| {
                let word: String = word.bytes().map(|byte| alphabet[usize::from(byte)]).collect();
                vec![word; *count as usize]
            })
            .collect();
        trainer.feed(repeated.iter(), |word| Ok(vec![word.to_owned()])).unwrap();
        let mut model = BPE::default();
        trainer.train(&mut model).unwrap();
        let json = serde_json::to_value(&model).unwrap();
        let ids: BTreeMap<&str, u32> = json["vocab"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(token, id)| (token.as_str(), id.as_u64().unwrap() as u32))
            .collect();
        let mut tokens = vec![String::new(); ids.len()];
        ids.iter().for_each(|(token, &id)| tokens[id as usize] = (*token).to_owned());
        let id = |token: &serde_json::Value| ids[token.as_str().unwrap()];
        let merges = json["merges"].as_array().unwrap();
        Trained { tokens, merges: merges.iter().map(|m| (id(&m[0]), id(&m[1]))).collect() }
    }

    fn counted(words: &[(&str, u64)]) -> Counted {
        words.iter().map(|&(word, count)| (word.into(), count)).collect()
    }

    #[test]
    fn the_most_frequent_pair_goes_first_then_the_lowest_ids() {
        let words = counted(&[("cd", 2), ("ab", 2), ("xyz", 3)]);
        let trained = learn(&words, &target(1_000, 2, &[]), |_| true).unwrap();
        // `xy` before `yz`: x is lower. Then it is `xy z`, and `ab` before `cd`.
        assert_eq!(trained.tokens[256..], ["xy", "xyz", "ab", "cd"]);
        let rare = learn(&words, &target(1_000, 3, &[]), |_| true).unwrap();
        assert_eq!(rare.tokens[256..], ["xy", "xyz"]);
        assert_eq!(learn(&words, &target(257, 2, &[]), |_| true).unwrap().tokens.len(), 257);
        assert_eq!(learn(&words, &target(1_000, 2, &[]), |tokens| tokens < 258), None);
    }

    #[test]
    fn counts_beyond_32_bits_are_counted() {
        let words = counted(&[("ab", 3 << 31), ("cd", 1 << 31), ("ce", 1 << 31)]);
        let trained = learn(&words, &target(1_000, 2, &[]), |_| true).unwrap();
        assert_eq!(trained.tokens[256..], ["ab", "cd", "ce"]);
    }

    #[test]
    fn a_token_that_is_special_already_is_not_made_again() {
        let words = counted(&[("<e>", 5), ("xe>", 2)]);
        let target = target(1_000, 2, &["<e>"]);
        let trained = learn(&words, &target, |_| true).unwrap();
        assert_eq!(trained, reference(&words, &target));
        assert_eq!(trained.tokens.iter().filter(|token| *token == "<e>").count(), 1);
    }

    fn words() -> impl Strategy<Value = Counted> {
        let word = prop_oneof!["a{1,40}", "[ab]{1,14}", "[a-d]{1,9}", "( ?[a-fé]{1,4}){1,3}"];
        proptest::collection::btree_map(word, 1_u64..9, 1..40).prop_map(|words| {
            words.into_iter().map(|(word, count)| (word.into_boxed_str(), count)).collect()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        #[test]
        fn merges_are_those_of_the_reference(
            words in words(),
            size in 256_usize..420,
            frequency in 0_u64..5,
        ) {
            let target = target(size, frequency, &[]);
            let found = learn(&words, &target, |_| true).unwrap();
            prop_assert_eq!(found, reference(&words, &target));
        }

        #[test]
        fn the_order_of_the_words_is_of_no_matter(words in words(), shift in 0_usize..40) {
            let target = target(400, 2, &[]);
            let expected = learn(&words, &target, |_| true).unwrap();
            let mut turned = words;
            let shift = shift % turned.len();
            turned.rotate_left(shift);
            prop_assert_eq!(learn(&turned, &target, |_| true).unwrap(), expected.clone());
            turned.reverse();
            prop_assert_eq!(learn(&turned, &target, |_| true).unwrap(), expected);
        }
    }
}
