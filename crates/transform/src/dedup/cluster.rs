//! Clusters: connected components of the links, by union-find.

/// A forest over documents; the root of a cluster is its first document. 4 B a document.
#[derive(Debug)]
pub struct Clusters {
    parent: Vec<u32>,
}

impl Clusters {
    /// `documents` clusters of one.
    pub fn new(documents: u32) -> Self {
        Self { parent: (0..documents).collect() }
    }

    /// Makes the clusters of `a` and `b` one.
    pub fn link(&mut self, a: u32, b: u32) {
        let (a, b) = (self.root(a), self.root(b));
        // The smaller number becomes the root, so the result does not depend on the order of links.
        let (low, high) = if a < b { (a, b) } else { (b, a) };
        self.parent[high as usize] = low;
    }

    /// The first document of the cluster of `document`; halves the path on its way.
    pub fn root(&mut self, mut document: u32) -> u32 {
        while self.parent[document as usize] != document {
            let above = self.parent[self.parent[document as usize] as usize];
            self.parent[document as usize] = above;
            document = above;
        }
        document
    }

    /// The survivor of every document: itself if it stays.
    ///
    /// Of each cluster stays the document with the greatest `weight`, the first among equals.
    /// Exactly one of each cluster, always.
    pub fn survivors(mut self, weight: impl Fn(u32) -> u64) -> Vec<u32> {
        let documents = u32::try_from(self.parent.len()).unwrap_or(u32::MAX);
        for document in 0..documents {
            let root = self.root(document);
            self.parent[document as usize] = root;
        }
        let mut best: Vec<u32> = (0..documents).collect();
        for document in 0..documents {
            let best = &mut best[self.parent[document as usize] as usize];
            if weight(document) > weight(*best) {
                *best = document;
            }
        }
        for root in &mut self.parent {
            *root = best[*root as usize];
        }
        self.parent
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    /// Relabels until nothing changes: slow and obvious.
    fn oracle(documents: u32, links: &[(u32, u32)]) -> Vec<u32> {
        let mut label: Vec<u32> = (0..documents).collect();
        loop {
            let before = label.clone();
            for &(a, b) in links {
                let low = label[a as usize].min(label[b as usize]);
                label[a as usize] = low;
                label[b as usize] = low;
            }
            if label == before {
                return label;
            }
        }
    }

    proptest! {
        #[test]
        fn one_of_each_component_stays_the_heaviest(
            links in prop::collection::vec((0..40_u32, 0..40_u32), 0..60),
            weights in prop::collection::vec(0..5_u64, 40),
        ) {
            let mut clusters = Clusters::new(40);
            links.iter().for_each(|&(a, b)| clusters.link(a, b));
            let survivors = clusters.survivors(|document| weights[document as usize]);

            let mut members: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
            for (document, label) in (0..).zip(oracle(40, &links)) {
                members.entry(label).or_default().insert(document);
            }
            for cluster in members.values() {
                let heaviest = cluster.iter().map(|&d| weights[d as usize]).max().unwrap();
                let expected = *cluster.iter().find(|&&d| weights[d as usize] == heaviest).unwrap();
                for &document in cluster {
                    prop_assert_eq!(survivors[document as usize], expected);
                }
            }
        }
    }
}
