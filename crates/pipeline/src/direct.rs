//! The stages of a run as plain calls: no lock, no plan, no records, nothing to resume. What a plan
//! costs is measured against it, and its bytes are those of a run.

use crate::plan::Execution;
use crate::progress::Progress;
use crate::recipe::Job;
use crate::run::{Asked, Finished, Found, allow_many_files};
use crate::work::Work;
use crate::{Result, cuts, dedup, read};

/// Makes the dataset of `job`; its output must be new.
///
/// # Errors
/// Whatever stops it; what was done is lost.
pub fn run(job: &Job, progress: &Progress) -> Result<Finished> {
    let Job { stage, inputs, out, options, vocabulary, .. } = job;
    let execution: &Execution = &job.execution;
    let asked = Asked::new(stage, inputs, out, options, vocabulary.as_ref())?;
    let work = Work::bare(out, asked.plan.clone())?;
    allow_many_files();
    let tokenizer = job.tokenizer()?;
    let parts = read::directly(&work, asked.evals.as_ref(), execution, progress)?;
    let corpus = asked.corpus(&work, parts)?;
    let mut survivors = dedup::directly(&work, &corpus, execution, progress)?;
    let cuts = cuts::run(&work, &corpus, &mut survivors, execution, progress)?;
    let found = Found::new(corpus, survivors, cuts);
    asked.finish(work, &found, tokenizer, vocabulary.as_ref(), execution, progress)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::recipe::Recipe;

    #[test]
    fn plain_calls_make_the_bytes_of_a_run() {
        let dir = tempfile::tempdir().unwrap();
        let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/sample");
        let text = format!(
            "[input]\npaths = ['{}']\n[dedup]\nmin_tokens = 50\n[tokenize]\n[shuffle]\n[output]\n\
             path = 'out'\nshard_size = '1MiB'\n",
            sample.display()
        );
        let recipe = dir.path().join("recipe.toml");
        std::fs::write(&recipe, text).unwrap();
        let job = |out: &str| {
            Recipe::read(&recipe, &[format!("output.path={out}")]).unwrap().job().unwrap()
        };
        let progress = Progress::default();
        let direct = run(&job("direct"), &progress).unwrap().manifest;
        let by_plan = job("plan").run(&progress).unwrap().manifest;
        assert_eq!(direct, by_plan);
        assert!(direct.shards.len() > 2, "{direct:?}");
        let left: Vec<_> = std::fs::read_dir(dir.path().join("direct")).unwrap().collect();
        let expected = std::fs::read_dir(dir.path().join("plan")).unwrap().count();
        assert_eq!(left.len(), expected, "{left:?}");
        assert!(run(&job("plan"), &progress).is_err(), "it must be new");
    }
}
