//! `[dedup]`: which documents are duplicates, and which of them stay.

use std::path::PathBuf;

use forebay_transform::dedup::jaccard::Threshold;
use forebay_transform::dedup::shingle::Unit;
use forebay_transform::dedup::{Fuzzy, Keep, lsh};
use serde::{Deserialize, Serialize};

use crate::plan::{Cuts, EvalOptions, Scope, Steps};
use crate::{Error, Result};

/// Drop equal and similar documents, and what must not be in them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "the template of the recipe tells")]
pub struct Dedup {
    pub fuzzy: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f64>,
    pub verify: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preset: Option<Preset>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ngram: Option<u16>,
    pub char: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bands: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows: Option<u16>,
    pub exact: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url_field: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lines: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paragraphs: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_tokens: Option<u32>,
    pub cuts: CutPolicy,
    pub keep: Keep,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score_field: Option<String>,
    pub scope: String,
    pub against: Vec<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub write_index: Option<PathBuf>,
    pub against_evals: Vec<String>,
    pub eval_field: String,
    pub eval_ngram: u16,
    pub evals: EvalPolicy,
}

/// What becomes of repeated text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CutPolicy {
    /// It is taken out.
    #[default]
    Drop,
    /// It stays, and its bytes are listed in a column `masked`.
    Mask,
}

/// What becomes of documents with text of an evaluation set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EvalPolicy {
    /// They go.
    #[default]
    Drop,
    /// They are listed in `removed/`.
    Report,
}

/// Parameters of a known corpus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// FineWeb: words, 5-grams, 14 bands of 8 rows, 0.75
    Fineweb,
    /// Olmo 3: words, 5-grams, 26 bands of 11 rows, 0.8
    Olmo3,
    /// NeMo Curator: characters, 24-grams, 20 bands of 13 rows, 0.8
    Nemo,
}

impl Default for Dedup {
    fn default() -> Self {
        Self {
            fuzzy: true,
            threshold: None,
            verify: true,
            preset: None,
            ngram: None,
            char: false,
            bands: None,
            rows: None,
            exact: true,
            url_field: None,
            lines: None,
            paragraphs: None,
            min_tokens: None,
            cuts: CutPolicy::Drop,
            keep: Keep::Longest,
            score_field: None,
            scope: "global".into(),
            against: Vec::new(),
            write_index: None,
            against_evals: Vec::new(),
            eval_field: "text".into(),
            eval_ngram: 13,
            evals: EvalPolicy::Drop,
        }
    }
}

impl Preset {
    fn fuzzy(self) -> Fuzzy {
        let at = |unit, ngram, bands, rows, threshold| {
            let threshold = Threshold::new(threshold).unwrap_or_default();
            Fuzzy { unit, ngram, bands, rows, threshold, verify: true }
        };
        match self {
            Self::Fineweb => at(Unit::Word, 5, 14, 8, 0.75),
            Self::Olmo3 => at(Unit::Word, 5, 26, 11, 0.8),
            Self::Nemo => at(Unit::Char, 24, 20, 13, 0.8),
        }
    }
}

/// Is the number that was given for `key` one of these?
fn within<T: PartialOrd + std::fmt::Display>(
    key: &'static str,
    number: Option<T>,
    range: std::ops::RangeInclusive<T>,
) -> Result<()> {
    match number {
        Some(number) if !range.contains(&number) => {
            let what = format!("expected {} to {}, found {number}", range.start(), range.end());
            Err(Error::key(key, what))
        }
        _ => Ok(()),
    }
}

impl Dedup {
    fn fuzzy(&self) -> Result<Option<Fuzzy>> {
        let mut fuzzy = self.preset.map_or_else(Fuzzy::default, Preset::fuzzy);
        if let Some(threshold) = self.threshold {
            fuzzy.threshold = Threshold::new(threshold).ok_or_else(|| {
                let what = "expected a number above 0 and up to 1, of at most four decimals";
                Error::key("dedup.threshold", format!("{what}, found {threshold}"))
            })?;
            // A preset's bands are what it is known for.
            if self.preset.is_none() {
                (fuzzy.bands, fuzzy.rows) = lsh::banding(fuzzy.threshold.value());
            }
        }
        match (self.bands, self.rows) {
            (Some(bands), Some(rows)) => (fuzzy.bands, fuzzy.rows) = (bands.into(), rows.into()),
            (None, None) => {}
            _ => return Err(Error::key("dedup.bands", "expected rows with it, and the reverse")),
        }
        if self.char {
            fuzzy.unit = Unit::Char;
        }
        fuzzy.ngram = self.ngram.map_or(fuzzy.ngram, usize::from);
        fuzzy.verify = self.verify;
        Ok(self.fuzzy.then_some(fuzzy))
    }

    /// The steps of dedup; the others are left out.
    ///
    /// # Errors
    /// [`Error::Recipe`] for numbers out of their range and keys that do not go together.
    pub fn steps(&self) -> Result<Steps> {
        within("dedup.ngram", self.ngram, 1..=100)?;
        within("dedup.bands", self.bands, 1..=512)?;
        within("dedup.rows", self.rows, 1..=64)?;
        within("dedup.eval_ngram", Some(self.eval_ngram), 1..=100)?;
        within("dedup.lines", self.lines, 1..=u32::MAX)?;
        within("dedup.paragraphs", self.paragraphs, 1..=u32::MAX)?;
        within("dedup.min_tokens", self.min_tokens, 2..=1_000_000)?;
        if self.keep == Keep::Score && self.score_field.is_none() {
            return Err(Error::key(
                "dedup.score_field",
                "expected a field for `score`, found none",
            ));
        }
        let evals = (!self.against_evals.is_empty()).then(|| EvalOptions {
            inputs: self.against_evals.clone(),
            text_field: self.eval_field.clone(),
            ngram: self.eval_ngram.into(),
            drop: self.evals == EvalPolicy::Drop,
        });
        let steps = Steps {
            exact: self.exact,
            url_field: self.url_field.clone(),
            fuzzy: self.fuzzy()?,
            keep: self.keep,
            score_field: self.score_field.clone(),
            scope: match self.scope.as_str() {
                "global" => Scope::Global,
                "source" => Scope::Source,
                field => Scope::Field(field.to_owned()),
            },
            evals,
            cuts: Cuts {
                lines: self.lines,
                paragraphs: self.paragraphs,
                tokens: self.min_tokens,
                mask: self.cuts == CutPolicy::Mask,
            },
            ..Steps::default()
        };
        let finds = steps.exact || steps.fuzzy.is_some() || steps.url_field.is_some();
        if !finds && (!self.against.is_empty() || self.write_index.is_some()) {
            let key = if self.against.is_empty() { "dedup.write_index" } else { "dedup.against" };
            let what = "an index holds signatures and hashes: expected exact, URL or fuzzy dedup";
            return Err(Error::key(key, format!("{what}, found none of them")));
        }
        if steps.keep == Keep::None && !steps.cuts.is_empty() && !steps.cuts.mask {
            let what = "`none`: duplicates would stay and be cut; expected cuts to be `mask`";
            return Err(Error::key("dedup.keep", what));
        }
        if steps.scope == Scope::Field(String::new()) {
            return Err(Error::key("dedup.scope", "expected the name of a field, found none"));
        }
        if self.against_evals.iter().any(|input| input == "-") {
            return Err(Error::key("dedup.against_evals", "expected files, found stdin"));
        }
        Ok(steps)
    }
}
