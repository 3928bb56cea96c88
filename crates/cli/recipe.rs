use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use forebay_pipeline::recipe::TEMPLATE;
use forebay_pipeline::{Recipe, Status, outline, slurm, status};
use serde_json::json;

use crate::args::Global;
use crate::format;
use crate::report::{Report, Usage};
use crate::run::Run;

/// Run a recipe: a whole run in one TOML file; goes on where it stopped
#[derive(Args)]
pub struct RunRecipe {
    /// The recipe; `forebay recipe init` writes one
    #[arg(value_name = "RECIPE.toml")]
    recipe: PathBuf,
    /// Stands for what the recipe says, such as `dedup.threshold=0.9`; may be given more than once
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Throw an unfinished run away and start over
    #[arg(long)]
    fresh: bool,
    /// Only say what it would do: stages, tasks, files, bytes
    #[arg(long, conflicts_with = "fresh")]
    print_plan: bool,
    /// Only say how far it is; from any machine that sees the output
    #[arg(long, conflicts_with_all = ["fresh", "print_plan"])]
    status: bool,
    /// Who runs the tasks: threads of this process, or a cluster
    #[arg(long, requires_if("slurm", "emit"))]
    executor: Option<Executor>,
    /// Where the scripts of `--executor slurm` go
    #[arg(long, value_name = "DIR", conflicts_with_all = ["fresh", "print_plan", "status"])]
    emit: Option<PathBuf>,
    /// Tasks of an array of `--executor slurm`
    #[arg(long, default_value = "16", value_name = "N", requires = "emit")]
    tasks: std::num::NonZeroUsize,
}

#[derive(Clone, Copy, ValueEnum)]
enum Executor {
    /// Threads of this process
    Local,
    /// Job arrays, as scripts
    Slurm,
}

/// Write recipes
#[derive(Args)]
pub struct RecipeVerb {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Write a recipe with every key, explained
    Init {
        /// A new file; `-` for stdout
        #[arg(default_value = "recipe.toml", value_name = "FILE")]
        file: PathBuf,
    },
}

impl RunRecipe {
    pub fn run(self, global: &Global, report: &mut Report) -> anyhow::Result<()> {
        let mut recipe = Recipe::read(&self.recipe, &self.set)?;
        if self.status {
            tell_status(&recipe.output.path, report)?;
            return Ok(());
        }
        global.lay_over(&mut recipe.execution);
        if self.emit.is_some() && !matches!(self.executor, Some(Executor::Slurm)) {
            return Err(Usage("--emit: expected `--executor slurm` with it".into()).into());
        }
        if let (Some(Executor::Slurm), Some(directory)) = (self.executor, &self.emit) {
            slurm::emit(&recipe, &std::env::current_exe()?, self.tasks.get(), directory)?;
            let directory = directory.display();
            report.line(format!("{directory}/submit.sh submits it"));
            report.json(json!({ "directory": directory.to_string() }));
            return Ok(());
        }
        let mut job = recipe.job()?;
        if self.print_plan {
            let (files, bytes, stages) = outline(&job)?;
            let size = format::bytes(bytes);
            report.line(format!("{}: {files} files, {size} → {}", job.stage, job.out.display()));
            for stage in &stages {
                report.line(format!(
                    "{:<7}{:>10} × {:<20} {} → {}",
                    stage.stage,
                    format::count(stage.tasks),
                    stage.task,
                    stage.reads,
                    stage.writes
                ));
            }
            let (out, options) = (&job.out, &job.options);
            report.json(json!({ "stage": job.stage, "files": files, "bytes": bytes, "out": out, "stages": stages, "options": options }));
            return Ok(());
        }
        job.execution.fresh = self.fresh;
        Run { job, dry: false }.run(global, report)
    }
}

fn tell_status(out: &Path, report: &mut Report) -> anyhow::Result<()> {
    let status = status(out)?;
    let shown = out.display();
    match &status {
        Status::Nothing => report.line(format!("nothing yet in {shown}")),
        Status::Unfinished { running, stage, parts, documents, text_bytes, shards } => {
            let state = if *running { "running" } else { "stopped; the same command resumes it" };
            report.line(format!("{stage}: {state}"));
            let (documents, text) = (format::count(*documents), format::bytes(*text_bytes));
            report.line(format!("read  {documents:>14} documents  {text:>12}   {parts} parts"));
            report.line(format!("write {shards:>14} shards in {shown}"));
        }
        Status::Finished { documents, tokens, shards } => {
            let tokens = tokens.map_or(String::new(), |n| format!("  {} tokens", format::count(n)));
            let documents = format::count(*documents);
            report.line(format!(
                "finished: {documents} documents{tokens}  {shards} shards in {shown}"
            ));
        }
    }
    report.json(serde_json::to_value(&status)?);
    Ok(())
}

impl RecipeVerb {
    pub fn run(self, report: &mut Report) -> anyhow::Result<()> {
        let Verb::Init { file } = self.verb;
        if file == Path::new("-") {
            report.silent();
            return Ok(std::io::stdout().lock().write_all(TEMPLATE.as_bytes())?);
        }
        let mut options = std::fs::OpenOptions::new();
        let mut new = options.write(true).create_new(true).open(&file).map_err(|error| {
            if error.kind() == std::io::ErrorKind::AlreadyExists {
                let what = "expected a new file, found one that exists";
                return anyhow::Error::from(Usage(format!("{}: {what}", file.display())));
            }
            forebay_store::Error::io("create", &file, error).into()
        })?;
        new.write_all(TEMPLATE.as_bytes())?;
        let file = file.display();
        report.line(format!(
            "{file}: set paths, leave out stages you do not want, `forebay run {file}`"
        ));
        report.json(json!({ "recipe": file.to_string() }));
        Ok(())
    }
}
