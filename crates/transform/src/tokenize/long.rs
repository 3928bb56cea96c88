//! Byte-pair merges of one long pre-token, in time linear in its length.
//!
//! Encoders keep a heap of all pairs, which for a pre-token of a megabyte costs a cache miss for
//! each step of it. Here the places of a pair wait in a list of their own, and only the lists are
//! ordered. The merges are done in the same order, by rank and then from left to right, so the
//! ids are the same: each list is taken whole, unless a merge makes a pair of lower rank.
//!
//! Where one pair is nearly everywhere, as in a run of one letter, lists are not worth their
//! memory: one sweep merges it and closes the gaps.
//!
//! Cost: one look-up for each byte and two for each merge, and the lists' own order.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};

use serde_json::Value;

use super::alphabet::alphabet;

/// Pre-tokens longer than this, in bytes, are worth the detour.
pub(super) const LONG: usize = 4096;

/// The merges of a byte-level BPE model.
pub(super) struct Merges {
    /// Of a pair of ids: its rank, and the id of the merged token.
    ranks: Ranks,
    /// The pair of each rank.
    pairs: Vec<(u32, u32)>,
    /// Ids of the characters that stand for bytes, by code point; all are below this.
    bytes: [u32; 512],
    /// The vocabulary, where a whole word in it is not taken apart.
    whole: HashMap<String, u32>,
}

type Ranks = HashMap<(u32, u32), (u32, u32), Pairs>;
type Pairs = BuildHasherDefault<PairHasher>;

const NONE: u32 = u32::MAX;

/// A pair is merged in one sweep if at least one symbol in so many starts it.
const DENSE: usize = 8;

impl Merges {
    /// The merges of a `tokenizer.json`; `None` if it is no plain byte-level BPE model.
    pub(super) fn of(json: &Value) -> Option<Self> {
        let model = &json["model"];
        let plain = |field: &str| match &model[field] {
            Value::Null => true,
            Value::String(affix) => affix.is_empty(),
            _ => false,
        };
        let is_bpe = model["type"].is_null() || model["type"] == "BPE";
        let plain = plain("continuing_subword_prefix") && plain("end_of_word_suffix");
        if !is_bpe || !plain || model["byte_fallback"] == true {
            return None;
        }
        let vocabulary = model["vocab"].as_object()?;
        let number = |id: &Value| id.as_u64().and_then(|id| u32::try_from(id).ok());
        let ids: HashMap<&str, u32> = vocabulary
            .iter()
            .filter_map(|(token, id)| Some((token.as_str(), number(id)?)))
            .collect();
        let id = |token: &str| ids.get(token).copied();
        let mut bytes = [NONE; 512];
        for character in alphabet() {
            bytes[character as usize] = id(character.encode_utf8(&mut [0; 4]))?;
        }
        let mut ranks = Ranks::default();
        let mut pairs = Vec::new();
        let mut joined = String::new();
        for merge in model["merges"].as_array()? {
            let (left, right) = match merge {
                Value::String(merge) => merge.split_once(' ')?,
                merge => (merge.get(0)?.as_str()?, merge.get(1)?.as_str()?),
            };
            let pair = (id(left)?, id(right)?);
            let rank = u32::try_from(pairs.len()).ok()?;
            // Of a pair that is there twice the reference keeps the last.
            joined.clear();
            joined.extend([left, right]);
            ranks.insert(pair, (rank, id(&joined)?));
            pairs.push(pair);
        }
        let mut whole = HashMap::new();
        if model["ignore_merges"] == true {
            let tokens = vocabulary.iter().filter(|(token, _)| token.len() > LONG);
            whole.extend(tokens.filter_map(|(token, _)| Some((token.clone(), id(token)?))));
        }
        Some(Self { ranks, pairs, bytes, whole })
    }

    /// Appends the ids of a pre-token, its bytes written as characters.
    pub(super) fn encode(&self, word: &str, tokens: &mut Vec<u32>) {
        if let Some(&id) = self.whole.get(word) {
            return tokens.push(id);
        }
        // What stands for no byte cannot come out of a byte-level split.
        let id = |character: char| self.bytes.get(character as usize).copied().unwrap_or(NONE);
        let mut ids: Vec<u32> = word.chars().map(id).collect();
        while let Some((rank, places)) = self.lowest(&ids) {
            if places < ids.len() / DENSE {
                return self.merge_listed(ids, tokens);
            }
            self.merge_dense(&mut ids, rank);
        }
        tokens.extend(ids.into_iter().filter(|&id| id != NONE));
    }

    /// The lowest rank of a pair, and how often it is there.
    fn lowest(&self, ids: &[u32]) -> Option<(u32, usize)> {
        let mut last = Last::default();
        let (mut lowest, mut places) = (NONE, 0);
        for pair in ids.windows(2) {
            if let Some((rank, _)) = last.get(&self.ranks, (pair[0], pair[1]))
                && rank <= lowest
            {
                places = if rank < lowest { 1 } else { places + 1 };
                lowest = rank;
            }
        }
        (places > 0).then_some((lowest, places))
    }

    /// Merges one pair wherever it is, from left to right, up to where that makes a pair of lower
    /// rank.
    fn merge_dense(&self, ids: &mut Vec<u32>, rank: u32) {
        let pair = self.pairs[rank as usize];
        let Some(&(_, merged)) = self.ranks.get(&pair) else { return };
        let mut last = [Last::default(); 2];
        let (mut from, mut to) = (0, 0);
        while from + 1 < ids.len() {
            if (ids[from], ids[from + 1]) != pair {
                ids[to] = ids[from];
                (from, to) = (from + 1, to + 1);
                continue;
            }
            ids[to] = merged;
            (from, to) = (from + 2, to + 1);
            let before = to.checked_sub(2).map(|at| (ids[at], merged));
            let after = ids.get(from).map(|&id| (merged, id));
            let mut lower = |at: usize, pair: Option<(u32, u32)>| {
                let found = pair.and_then(|pair| last[at].get(&self.ranks, pair));
                found.is_some_and(|(made, _)| made < rank)
            };
            if lower(0, before) || lower(1, after) {
                break;
            }
        }
        ids.copy_within(from.., to);
        ids.truncate(to + ids.len() - from);
    }

    /// Merges what is left, the places of each pair in a list.
    fn merge_listed(&self, mut ids: Vec<u32>, tokens: &mut Vec<u32>) {
        let Ok(length) = u32::try_from(ids.len()) else { return };
        // A merged symbol is where its first was; the others are gone.
        let mut next: Vec<u32> = (1..=length).collect();
        let mut previous: Vec<u32> = (0..length).map(|at| at.wrapping_sub(1)).collect();

        let mut places = Places::default();
        let mut last = [Last::default(); 3];
        for at in 1..ids.len() {
            if let Some((rank, _)) = last[0].get(&self.ranks, (ids[at - 1], ids[at])) {
                places.push(rank, at as u32 - 1);
            }
        }
        while let Some((rank, mut list)) = places.pop() {
            if !list.is_sorted() {
                list.sort_unstable();
            }
            let pair = self.pairs[rank as usize];
            let Some(&(_, merged)) = self.ranks.get(&pair) else { continue };
            let mut list = list.into_iter();
            while let Some(at) = list.next() {
                let right = next[at as usize];
                // Another merge may have taken either of the two.
                if right >= length || (ids[at as usize], ids[right as usize]) != pair {
                    continue;
                }
                ids[at as usize] = merged;
                ids[right as usize] = NONE;
                let after = next[right as usize];
                next[at as usize] = after;
                let mut lowest = rank;
                if after < length {
                    previous[after as usize] = at;
                    let pair = (merged, ids[after as usize]);
                    if let Some((rank, _)) = last[1].get(&self.ranks, pair) {
                        places.push(rank, at);
                        lowest = lowest.min(rank);
                    }
                }
                let before = previous[at as usize];
                if before < length
                    && let Some((rank, _)) =
                        last[2].get(&self.ranks, (ids[before as usize], merged))
                {
                    places.push(rank, before);
                    lowest = lowest.min(rank);
                }
                if lowest < rank {
                    list.by_ref().for_each(|at| places.push(rank, at));
                }
            }
        }
        tokens.extend(ids.into_iter().filter(|&id| id != NONE));
    }
}

/// What was looked up last: in a run of one letter it is looked up again and again.
#[derive(Clone, Copy, Default)]
struct Last {
    pair: Option<(u32, u32)>,
    found: Option<(u32, u32)>,
}

impl Last {
    #[inline(always)]
    fn get(&mut self, ranks: &Ranks, pair: (u32, u32)) -> Option<(u32, u32)> {
        if self.pair != Some(pair) {
            *self = Self { pair: Some(pair), found: ranks.get(&pair).copied() };
        }
        self.found
    }
}

/// Where pairs wait to be merged: a list for each rank.
#[derive(Default)]
struct Places {
    lists: Vec<Vec<u32>>,
    /// Number of the list of each rank that waits.
    numbers: HashMap<u32, usize, Pairs>,
    ranks: BinaryHeap<Reverse<u32>>,
    /// Some of `numbers`, by the lowest bits of the rank: mostly it is one of the last few.
    recent: [Option<(u32, usize)>; 8],
}

impl Places {
    fn push(&mut self, rank: u32, at: u32) {
        let recent = &mut self.recent[rank as usize % 8];
        let number = match *recent {
            Some((of, number)) if of == rank => number,
            _ => *self.numbers.entry(rank).or_insert_with(|| {
                self.ranks.push(Reverse(rank));
                self.lists.push(Vec::new());
                self.lists.len() - 1
            }),
        };
        *recent = Some((rank, number));
        self.lists[number].push(at);
    }

    /// Takes the list of the lowest rank.
    fn pop(&mut self) -> Option<(u32, Vec<u32>)> {
        let Reverse(rank) = self.ranks.pop()?;
        let number = self.numbers.remove(&rank)?;
        self.recent[rank as usize % 8] = None;
        Some((rank, std::mem::take(&mut self.lists[number])))
    }
}

/// Whether `text` may hold a pre-token of more than [`LONG`] bytes: a run of white space, of
/// letters (as far as bytes tell), or of anything else. Cost: a few bytes of every 2 KiB.
pub(super) fn may_be_long(text: &str) -> bool {
    let bytes = text.as_bytes();
    let class = |byte: u8| match byte {
        b' ' | b'\t'..=b'\r' => 0,
        b'a'..=b'z' | b'A'..=b'Z' | 0x80.. => 1,
        b'0'..=b'9' => 2,
        _ => 3,
    };
    // Some multiple of the stride lies in the first half of a long run.
    (0..bytes.len().saturating_sub(LONG / 2)).step_by(LONG / 2).any(|at| {
        let of = class(bytes[at]);
        let same = |byte: &&u8| class(**byte) == of;
        let after = bytes[at..].iter().take(LONG).take_while(same).count();
        // Blocks of text end here, mostly.
        after >= LONG / 4
            && after + bytes[..at].iter().rev().take(LONG).take_while(same).count() >= LONG
    })
}

/// For small integers, which the default hasher is too careful for.
#[derive(Default)]
struct PairHasher(u64);

impl Hasher for PairHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u32(u32::from(byte)));
    }

    fn write_u32(&mut self, value: u32) {
        self.0 = (self.0.rotate_left(32) ^ u64::from(value)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        self.0 ^ self.0 >> 29
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    /// The definition: again and again the leftmost pair of the lowest rank.
    fn oracle(merges: &Merges, word: &str) -> Vec<u32> {
        let mut ids: Vec<u32> = word.chars().map(|c| merges.bytes[c as usize]).collect();
        loop {
            let pairs = ids.windows(2).enumerate();
            let ranked = pairs.filter_map(|(at, pair)| {
                merges.ranks.get(&(pair[0], pair[1])).map(|&(rank, id)| (rank, at, id))
            });
            let Some((_, at, id)) = ranked.min() else { return ids };
            ids.splice(at..at + 2, [id]);
        }
    }

    fn model(merges: &[(String, String)]) -> Value {
        let mut vocabulary = serde_json::Map::new();
        for (byte, character) in alphabet().into_iter().enumerate() {
            vocabulary.insert(character.into(), json!(byte));
        }
        for (left, right) in merges {
            let id = vocabulary.len();
            vocabulary.entry(format!("{left}{right}")).or_insert(json!(id));
        }
        json!({ "model": { "type": "BPE", "vocab": vocabulary, "merges": merges } })
    }

    proptest! {
        #[test]
        fn equals_the_definition(
            word in "([a-c]{0,12}|a{0,20}|(ab){0,10}){0,5}",
            picks in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..30),
            turn in any::<prop::sample::Index>(),
        ) {
            let mut tokens: Vec<String> = ["a", "b", "c"].map(String::from).to_vec();
            let mut merges: Vec<(String, String)> = Vec::new();
            for (left, right) in picks {
                let (left, right) = (left.get(&tokens).clone(), right.get(&tokens).clone());
                if left.len() + right.len() < 12 && !merges.contains(&(left.clone(), right.clone())) {
                    tokens.push(format!("{left}{right}"));
                    merges.push((left, right));
                }
            }
            // Lists whose later merges go first are legal too.
            if !merges.is_empty() {
                let middle = turn.index(merges.len());
                merges.rotate_left(middle);
            }
            let merges = Merges::of(&model(&merges)).unwrap();
            let mut found = Vec::new();
            merges.encode(&word, &mut found);
            prop_assert_eq!(found, oracle(&merges, &word));
        }

        #[test]
        fn no_long_run_is_overlooked(before in 0_usize..5000, length in LONG..3 * LONG, after in 0_usize..5000, of in "[a0 .é]") {
            let text = format!("{}{}{}", "b 1".repeat(before / 3), of.repeat(length), "x-".repeat(after / 2));
            prop_assert!(may_be_long(&text));
            prop_assert!(!may_be_long(&"a b1".repeat(length)));
        }
    }
}
