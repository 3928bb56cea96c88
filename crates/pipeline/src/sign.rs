//! Sign: documents → the keys that dedup needs.

use std::sync::Arc;

use forebay_shard::Documents;
use forebay_shard::input::{Field, Source};
use forebay_transform::dedup::exact::ExactHasher;
use forebay_transform::dedup::minhash::{self, MinHash};
use forebay_transform::dedup::shingle::Shingler;
use forebay_transform::dedup::{Fuzzy, Keep};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed, xxh3_128_with_seed};

use crate::evals::Evals;
use crate::plan::{Scope, Steps};
use crate::spool::{Keys, Match};

/// Makes the keys of documents; keeps its buffers from part to part.
pub(crate) struct Signer<'a> {
    steps: &'a Steps,
    fields: Vec<Field>,
    fuzzy: Option<(Fuzzy, MinHash)>,
    evals: Option<Arc<Evals>>,
    /// Place of each file's input among those that the user named.
    inputs: Vec<u32>,
    exact: ExactHasher,
    shingler: Shingler,
}

impl<'a> Signer<'a> {
    pub(crate) fn new(steps: &'a Steps, sources: &[Source], evals: Option<Arc<Evals>>) -> Self {
        let fuzzy = steps.fuzzy.map(|fuzzy| (fuzzy, MinHash::new(fuzzy.bands * fuzzy.rows)));
        let inputs = sources.iter().flat_map(Source::files).map(|file| file.input).collect();
        let (exact, shingler) = (ExactHasher::default(), Shingler::default());
        Self { steps, fields: steps.fields(), fuzzy, evals, inputs, exact, shingler }
    }

    pub(crate) fn sign(&mut self, documents: &Documents) -> Keys {
        let mut keys = Keys::default();
        for at in 0..documents.len() {
            let text = documents.texts.get(at);
            let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
            let blank = text.trim_start().is_empty();
            keys.lengths.push(if blank { 0 } else { length });
            if let Some(evals) = &self.evals
                && let Some(detail) = evals.find(text, &mut self.shingler)
            {
                let ordinal = u32::try_from(at).unwrap_or(u32::MAX);
                keys.matches.push(Match { ordinal, detail });
            }
            if let Some(score) = self.score(documents, at, length) {
                keys.scores.push(score);
            }
            // In a scope of their own, documents have keys of their own.
            let scope = self.scope(documents, at);
            if self.steps.exact {
                let hash = self.exact.hash(text);
                keys.exact.push(
                    scope.map_or(hash, |scope| xxh3_128_with_seed(&hash.to_le_bytes(), scope)),
                );
            }
            if let Some(field) = &self.steps.url_field {
                let url = self.field(field, documents, at).trim();
                let hash = xxh3_128_with_seed(url.as_bytes(), scope.unwrap_or(0)).max(1);
                keys.urls.push(if url.is_empty() { 0 } else { hash });
            }
            self.fuzzy(text, scope, &mut keys);
        }
        keys
    }

    fn fuzzy(&mut self, text: &str, scope: Option<u64>, keys: &mut Keys) {
        let Some((fuzzy, minhash)) = &mut self.fuzzy else { return };
        let shingles = self.shingler.shingles(text, fuzzy.unit, fuzzy.ngram);
        match minhash.sign(shingles) {
            Some(signature) => {
                let bands = minhash::band_keys(signature, fuzzy.rows);
                keys.bands.extend(bands.map(|key| match scope {
                    Some(scope) => xxh3_64_with_seed(&key.to_le_bytes(), scope).max(1),
                    None => key,
                }));
                keys.sketches.extend(minhash::sketch(signature));
            }
            // Without words there is nothing to compare: key 0 links to nobody.
            None => {
                keys.bands.resize(keys.bands.len() + fuzzy.bands, 0);
                keys.sketches.resize(keys.sketches.len() + fuzzy.bands * fuzzy.rows, 0);
            }
        }
    }

    fn field<'d>(&self, name: &str, documents: &'d Documents, at: usize) -> &'d str {
        let column = self.fields.iter().position(|field| field.name == name);
        column.map_or("", |column| documents.extra[column].get(at))
    }

    fn scope(&self, documents: &Documents, at: usize) -> Option<u64> {
        match &self.steps.scope {
            Scope::Global => None,
            Scope::Source => Some(xxh3_64(documents.sources.get(at).as_bytes())),
            Scope::Field(name) => Some(xxh3_64(self.field(name, documents, at).as_bytes())),
        }
    }

    fn score(&self, documents: &Documents, at: usize, length: u32) -> Option<u64> {
        match self.steps.keep {
            Keep::Longest | Keep::First | Keep::None => None,
            Keep::Source => {
                let input = self.inputs[documents.files[at] as usize];
                Some(u64::from(u32::MAX - input) << 32 | u64::from(length))
            }
            Keep::Score => {
                let name = self.steps.score_field.as_deref().unwrap_or_default();
                let score = self.field(name, documents, at).parse::<f64>();
                Some(score.ok().filter(|score| !score.is_nan()).map_or(0, in_order))
            }
        }
    }
}

/// Numbers as integers of the same order; 0 is left to what has no number.
fn in_order(score: f64) -> u64 {
    // -0 counts as 0.
    let bits = (score + 0.0).to_bits();
    let ordered = if bits >> 63 == 1 { !bits } else { bits | 1 << 63 };
    ordered.max(1)
}

impl Steps {
    /// Further fields that these steps need.
    pub(crate) fn fields(&self) -> Vec<Field> {
        let mut fields: Vec<Field> = Vec::new();
        let scope = match &self.scope {
            Scope::Field(name) => Some(name),
            Scope::Global | Scope::Source => None,
        };
        let score = self.score_field.as_ref().filter(|_| self.keep == Keep::Score);
        for (name, number) in [(score, true), (self.url_field.as_ref(), false), (scope, false)] {
            if let Some(name) = name
                && fields.iter().all(|field| &field.name != name)
            {
                fields.push(Field { name: name.clone(), number });
            }
        }
        fields
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_keep_their_order() {
        let scores = [f64::NEG_INFINITY, -2.5, -1e-300, 0.0, 1e-300, 1.0, 3.5, f64::INFINITY];
        assert!(scores.windows(2).all(|pair| in_order(pair[0]) < in_order(pair[1])));
        assert_eq!(in_order(-0.0), in_order(0.0));
        assert!(in_order(f64::NEG_INFINITY) > 0);
    }
}
