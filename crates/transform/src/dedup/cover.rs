//! Cover: of documents that share buckets, which stay, and which of those stands for each that goes.
//!
//! Documents come in rank order, the one to keep first. Each is compared with those that stay and
//! share a bucket with it; similar enough to one, it goes and that one is its survivor; otherwise
//! it stays. So nothing goes unless what stays is similar to it: similarity is not handed on from
//! neighbour to neighbour, and a chain of small differences does not delete its far end.
//!
//! What happens to a document depends on those before it alone: documents covered in two rounds,
//! with the first round's survivors at the head of the second, give the same as in one.

use std::collections::HashMap;

/// At most this many comparisons a document: with those that share most buckets.
const COMPARISONS: usize = 4;
/// Of one bucket, at most this many are remembered for comparisons.
const REMEMBERED: usize = 32;

/// One document of a group.
#[derive(Debug, Clone, Copy)]
pub struct Member<'a> {
    /// Its number.
    pub document: u32,
    /// Keys of the buckets that it shares with others.
    pub buckets: &'a [u64],
    /// It stays whatever it is similar to.
    pub fixed: bool,
}

/// A document that goes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Covered {
    /// The document that goes.
    pub document: u32,
    /// The one that stays for it.
    pub survivor: u32,
    /// How similar they are.
    pub jaccard: f32,
}

/// Covers one group. `compare` gives the similarity of two documents if it is high enough.
///
/// Cost: at most 4 comparisons a document, linear in the number of documents and buckets.
///
/// # Errors
/// The first one of `compare`.
pub fn cover<E>(
    members: &[Member<'_>],
    mut compare: impl FnMut(u32, u32) -> Result<Option<f32>, E>,
) -> Result<Vec<Covered>, E> {
    // Of each bucket those that stay, by their place in `members`.
    let mut staying: HashMap<u64, Vec<usize>> = HashMap::new();
    let mut covered = Vec::new();
    let mut shared: Vec<usize> = Vec::new();
    for (place, member) in members.iter().enumerate() {
        let document = member.document;
        let mut survivor = None;
        if !member.fixed {
            shared.clear();
            let neighbours = member.buckets.iter().filter_map(|bucket| staying.get(bucket));
            neighbours.for_each(|staying| shared.extend(staying));
            for candidate in most_frequent(&mut shared) {
                let other = members[candidate].document;
                if let Some(jaccard) = compare(document, other)? {
                    survivor = Some(Covered { document, survivor: other, jaccard });
                    break;
                }
            }
        }
        match survivor {
            Some(survivor) => covered.push(survivor),
            None => {
                for &bucket in member.buckets {
                    let staying = staying.entry(bucket).or_default();
                    if staying.len() < REMEMBERED {
                        staying.push(place);
                    }
                }
            }
        }
    }
    Ok(covered)
}

/// The places that occur most often, the first of equals first.
fn most_frequent(places: &mut [usize]) -> impl Iterator<Item = usize> + use<> {
    places.sort_unstable();
    let runs = places.chunk_by(|a, b| a == b);
    let mut counted: Vec<(usize, usize)> =
        runs.map(|run| (usize::MAX - run.len(), run[0])).collect();
    counted.sort_unstable();
    counted.into_iter().take(COMPARISONS).map(|(_, place)| place)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Similar if the documents' numbers are close: a relation that does not carry over.
    fn close(a: u32, b: u32) -> Result<Option<f32>, ()> {
        Ok((a.abs_diff(b) <= 10).then(|| 1.0 - a.abs_diff(b) as f32 / 100.0))
    }

    #[test]
    fn a_chain_is_not_followed() {
        let buckets: [&[u64]; 4] = [&[1], &[1, 2], &[2, 3], &[3]];
        let members: Vec<Member<'_>> = [0, 8, 16, 24]
            .iter()
            .zip(buckets)
            .map(|(&document, buckets)| Member { document, buckets, fixed: false })
            .collect();
        let covered = cover(&members, close).unwrap();
        let gone: Vec<(u32, u32)> = covered.iter().map(|c| (c.document, c.survivor)).collect();
        assert_eq!(gone, [(8, 0), (24, 16)]);
    }

    #[test]
    fn those_that_share_most_are_compared_first() {
        let buckets: [&[u64]; 3] = [&[1, 2], &[3, 4, 5], &[2, 3, 4]];
        let members: Vec<Member<'_>> = [0, 20, 10]
            .iter()
            .zip(buckets)
            .map(|(&document, buckets)| Member { document, buckets, fixed: false })
            .collect();
        assert_eq!(cover(&members, close).unwrap()[0].survivor, 20);
    }

    proptest! {
        #[test]
        fn whatever_goes_is_similar_to_what_stays_and_rounds_do_not_matter(
            documents in prop::collection::btree_map(0..200_u32, prop::collection::vec(0..12_u64, 1..4), 0..60),
            order in any::<u64>(),
            split in 0..60_usize,
        ) {
            let mut ranked: Vec<(&u32, &Vec<u64>)> = documents.iter().collect();
            ranked.sort_by_key(|&(&document, _)| u64::from(document).wrapping_mul(order | 1));
            let members: Vec<Member<'_>> = ranked
                .iter()
                .map(|&(&document, buckets)| Member { document, buckets, fixed: false })
                .collect();
            let whole = cover(&members, close).unwrap();
            for covered in &whole {
                prop_assert!(close(covered.document, covered.survivor).unwrap().is_some());
                prop_assert!(whole.iter().all(|other| other.document != covered.survivor));
            }

            let (head, tail) = members.split_at(split.min(members.len()));
            let mut rounds = cover(head, close).unwrap();
            let gone = |document| rounds.iter().any(|c| c.document == document);
            let stayed = head.iter().filter(|member| !gone(member.document));
            let second: Vec<Member<'_>> =
                stayed.map(|m| Member { fixed: true, ..*m }).chain(tail.iter().copied()).collect();
            rounds.extend(cover(&second, close).unwrap());
            prop_assert_eq!(rounds, whole);
        }
    }
}
