//! What is written: all documents, and what was found out about them.

use crate::corpus::Corpus;
use crate::cuts::Cuts;
use crate::survivors::{Clustering, Survivors};

/// All documents, and what was found out about them.
pub(crate) struct Outcome<'a> {
    pub(crate) corpus: &'a Corpus,
    pub(crate) survivors: &'a Survivors,
    pub(crate) clustering: &'a Clustering,
    pub(crate) cuts: &'a Cuts,
}
