use std::path::{Path, PathBuf};

use clap::Args;
use forebay_pipeline::Recipe;
use forebay_pipeline::recipe::{self, Executor, Shuffle, Size};

use crate::args::{Global, Inputs, Out, Output, TokenizeArgs};
use crate::duplicates::DedupArgs;
use crate::report::{Report, Usage};
use crate::run::Run;
use crate::shard_format::ShardFormat;

/// The main job: raw text in, a deduplicated, tokenized, shuffled dataset out
#[derive(Args)]
pub struct Prep {
    #[command(flatten)]
    inputs: Inputs,
    #[command(flatten)]
    out: Out,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    format: ShardFormat,
    /// Seed of the shuffle
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Keep the order of the inputs
    #[arg(long)]
    no_shuffle: bool,
    /// Store the text beside the tokens
    #[arg(long)]
    keep_text: bool,
    /// Count documents, bytes and tokens of every source
    #[arg(long)]
    stats: bool,
    #[command(flatten)]
    tokenize: TokenizeArgs,
    #[command(flatten)]
    dedup: DedupArgs,
    /// Take everything but inputs, output and machine from this recipe
    #[arg(long, value_name = "FILE")]
    recipe: Option<PathBuf>,
    /// Flags on the command line, by name.
    #[arg(skip)]
    pub given: Vec<String>,
}

/// Flags that go with `--recipe`; what others say stands in it.
const BESIDE_RECIPE: [&str; 12] = [
    "inputs",
    "out",
    "recipe",
    "fresh",
    "keep_going",
    "json",
    "threads",
    "memory",
    "tmp_dir",
    "quiet",
    "verbose",
    "no_progress",
];

impl Prep {
    pub fn run(self, global: &Global, report: &mut Report) -> anyhow::Result<()> {
        let recipe = match &self.recipe {
            Some(file) => self.by_recipe(file, global)?,
            None => self.by_flags(global)?,
        };
        let mut run = Run::new(&recipe)?;
        run.job.execution.fresh = self.output.fresh;
        run.job.execution.keep_going |= self.output.keep_going;
        run.run(global, report)
    }

    fn by_recipe(&self, file: &Path, global: &Global) -> anyhow::Result<Recipe> {
        if let Some(flag) = self.given.iter().find(|flag| !BESIDE_RECIPE.contains(&flag.as_str())) {
            let flag = flag.replace('_', "-");
            let what = "the recipe says it; change it there, or `forebay run` with `--set`";
            return Err(Usage(format!("--{flag}: expected it without --recipe: {what}")).into());
        }
        let mut recipe = Recipe::read(file, &[])?;
        if recipe.execution.executor != Executor::Local {
            let what = "--recipe: expected one for this machine, found another executor in it";
            return Err(Usage(format!("{what}; `forebay run` takes it")).into());
        }
        recipe.input.paths.clone_from(&self.inputs.inputs);
        recipe.output.path.clone_from(&self.out.out);
        global.lay_over(&mut recipe.execution);
        Ok(recipe)
    }

    fn by_flags(&self, global: &Global) -> anyhow::Result<Recipe> {
        Ok(Recipe {
            input: self.inputs.recipe(),
            dedup: Some(self.dedup.recipe()),
            tokenize: Some(self.tokenize.recipe()),
            shuffle: (!self.no_shuffle).then_some(Shuffle { seed: self.seed }),
            output: recipe::Output {
                path: self.out.out.clone(),
                format: self.format.get(self.keep_text)?,
                shard_size: Size(self.output.shard_size),
                keep_text: self.keep_text,
                stats: self.stats,
            },
            execution: global.recipe(),
            places: recipe::Places::default(),
        })
    }
}
