//! Clusters of documents that are known by rank and place.

use forebay_transform::dedup::cluster::Clusters;
use forebay_transform::dedup::datatrove::record::INDEX_MATCH;

use super::Node;
use crate::{Error, Result};

/// 20 B a document.
pub(super) struct Forest {
    /// Sorted keys.
    nodes: Vec<u64>,
    clusters: Clusters,
}

/// A document and its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) node: Node,
    /// Clusters are numbered by their first documents.
    pub(super) cluster: u32,
    /// Documents in it.
    pub(super) size: u32,
    pub(super) stays: bool,
}

/// Sorts as nodes do, but for what stands for an index: that comes first, so it is the one that
/// stays and all that matched it go.
pub(super) fn key((rank, document): Node) -> u64 {
    (u64::from(rank) << 32 | u64::from(document)).wrapping_add(1)
}

fn node(key: u64) -> Node {
    let node = key.wrapping_sub(1);
    ((node >> 32) as u32, node as u32)
}

impl Forest {
    /// Every document a cluster of its own; keys in any order, also more than once.
    pub(super) fn new(mut keys: Vec<u64>) -> Result<Self> {
        keys.sort_unstable();
        keys.dedup();
        let count = u32::try_from(keys.len()).map_err(|_| Error::TooManyDocuments)?;
        Ok(Self { nodes: keys, clusters: Clusters::new(count) })
    }

    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Makes the clusters of `a` and `b` one; `Err` with the one that is not known.
    pub(super) fn link(&mut self, a: Node, b: Node) -> std::result::Result<(), Node> {
        let find = |node| match self.nodes.binary_search(&key(node)) {
            Ok(at) => Ok(at as u32),
            Err(_) => Err(node),
        };
        let (a, b) = (find(a)?, find(b)?);
        self.clusters.link(a, b);
        Ok(())
    }

    /// The documents of all clusters of two and more, in order of rank and place.
    pub(super) fn members(mut self) -> impl Iterator<Item = Member> {
        let count = self.nodes.len() as u32;
        let mut sizes = vec![0_u32; self.nodes.len()];
        for at in 0..count {
            sizes[self.clusters.root(at) as usize] += 1;
        }
        let mut numbers = vec![u32::MAX; self.nodes.len()];
        let mut next = 0;
        (0..count).filter_map(move |at| {
            let root = self.clusters.root(at) as usize;
            let node = node(self.nodes[at as usize]);
            if sizes[root] < 2 || node == (INDEX_MATCH, INDEX_MATCH) {
                return None;
            }
            if numbers[root] == u32::MAX {
                numbers[root] = next;
                next += 1;
            }
            let (cluster, size) = (numbers[root], sizes[root]);
            Some(Member { node, cluster, size, stays: root == at as usize })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(keys: &[Node], links: &[(Node, Node)]) -> Vec<(Node, u32, u32, bool)> {
        let mut forest = Forest::new(keys.iter().copied().map(key).collect()).unwrap();
        links.iter().for_each(|&(a, b)| forest.link(a, b).unwrap());
        forest.members().map(|m| (m.node, m.cluster, m.size, m.stays)).collect()
    }

    #[test]
    fn the_first_of_a_cluster_stays() {
        let keys = [(1, 0), (0, 7), (0, 2), (2, 1), (2, 0), (2, 0)];
        let links = [((2, 1), (0, 7)), ((1, 0), (2, 1)), ((0, 2), (2, 0))];
        #[rustfmt::skip]
        assert_eq!(members(&keys, &links), [
            ((0, 2), 0, 2, true),
            ((0, 7), 1, 3, true),
            ((1, 0), 1, 3, false),
            ((2, 0), 0, 2, false),
            ((2, 1), 1, 3, false),
        ]);
    }

    #[test]
    fn all_that_matches_an_index_goes() {
        let index = (INDEX_MATCH, INDEX_MATCH);
        let keys = [(0, 1), (0, 3), index, (4, 4)];
        let found = members(&keys, &[(index, (0, 3)), ((0, 3), (4, 4))]);
        assert_eq!(found, [((0, 3), 0, 3, false), ((4, 4), 0, 3, false)]);
    }

    #[test]
    fn an_unknown_document_is_named() {
        let mut forest = Forest::new(vec![key((0, 1))]).unwrap();
        assert_eq!(forest.link((0, 1), (0, 2)), Err((0, 2)));
    }
}
