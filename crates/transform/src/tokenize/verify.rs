//! Proof at run time: a sample of the documents, encoded again by the reference.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use super::engine::{Engine, REFERENCE, Reference};
use super::{Error, Options, Result, Vocabulary};

/// Encodes again, with the reference, and compares; shared by all threads.
pub struct Verifier {
    vocabulary: Vocabulary,
    options: Options,
    /// Built for the first document: that takes a while.
    reference: OnceLock<Result<Reference>>,
    /// Documents whose key is not above it are in the sample.
    highest: u64,
    equal: AtomicU64,
}

impl Verifier {
    /// Of `share` of the documents, 0 to 1.
    pub fn new(vocabulary: &Vocabulary, options: &Options, share: f64) -> Self {
        // Saturates: 1 is all of them.
        let highest = (share * 2_f64.powi(64)) as u64;
        let (vocabulary, options) = (vocabulary.clone(), options.clone());
        Self { vocabulary, options, reference: OnceLock::new(), highest, equal: AtomicU64::new(0) }
    }

    /// Is the document with this key, evenly spread over 64 bits, in the sample?
    pub fn picks(&self, key: u64) -> bool {
        self.highest > 0 && key <= self.highest
    }

    /// What it found, once all is done.
    pub fn note(&self) -> String {
        let equal = self.equal.load(Ordering::Relaxed);
        format!("tokens verified: {equal} documents, all as {REFERENCE} encodes them")
    }

    /// Compares the ids of a document, without what ends it, with the reference's.
    ///
    /// # Errors
    /// [`Error::Differs`] with the first place; what hinders the reference.
    pub fn check(&self, text: &str, tokens: &[u32]) -> Result<()> {
        let load = || {
            let json = self.vocabulary.json()?;
            Reference::load(&json, self.options.special_tokens)
                .map_err(|found| Error::NotATokenizer { path: self.vocabulary.path.clone(), found })
        };
        let reference = match self.reference.get_or_init(load) {
            Ok(reference) => reference,
            Err(error) => return Err(Error::Reference(error.to_string())),
        };
        let mut expected = Vec::with_capacity(tokens.len());
        reference.encode(text, &mut expected)?;
        if expected == tokens {
            self.equal.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        let at = expected.iter().zip(tokens).take_while(|(a, b)| a == b).count();
        let around = |ids: &[u32]| {
            let ids: Vec<String> = ids.iter().skip(at).take(4).map(u32::to_string).collect();
            if ids.is_empty() { "the end".to_owned() } else { ids.join(" ") }
        };
        let before = reference.decode(&expected[at.saturating_sub(8)..at]).unwrap_or_default();
        Err(Error::Differs { at, before, expected: around(&expected), found: around(tokens) })
    }
}
