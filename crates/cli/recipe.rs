use std::io::{BufWriter, Write};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::{Args, Subcommand, ValueEnum};
use forebay_pipeline::recipe::{self, TEMPLATE};
use forebay_pipeline::{Outline, PlannedTask, Recipe, Running, StageRate, Status, slurm, status};
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
    /// Where an input cannot be read, read all others before the run stops
    #[arg(long)]
    keep_going: bool,
    /// Only say what it would do: stages, files, bytes; with -v every task
    #[arg(long, conflicts_with = "fresh")]
    print_plan: bool,
    /// Only say how far it is; from any machine that sees the output
    #[arg(long, conflicts_with_all = ["fresh", "print_plan"])]
    status: bool,
    /// Who runs the tasks: threads of this process, or a cluster [default: what the recipe says]
    #[arg(long)]
    executor: Option<Executor>,
    /// Where the scripts of `--executor slurm` go
    #[arg(long, value_name = "DIR", conflicts_with_all = ["fresh", "print_plan", "status"])]
    emit: Option<PathBuf>,
    /// Tasks of a stage, of `--executor slurm` or `ray`; 16, or four for each CPU of the cluster
    #[arg(long, value_name = "N")]
    tasks: Option<NonZeroUsize>,
    /// The cluster of `--executor ray`; one of this machine if there is none
    #[arg(long, value_name = "ADDRESS")]
    address: Option<String>,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Executor {
    /// Threads of this process
    Local,
    /// Job arrays, as scripts
    Slurm,
    /// A Ray cluster, by the Python package: `pip install forebay[ray]`
    Ray,
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
        let executor = self.executor.unwrap_or(match recipe.execution.executor {
            recipe::Executor::Local => Executor::Local,
            recipe::Executor::Ray => Executor::Ray,
            recipe::Executor::Slurm => Executor::Slurm,
        });
        let usage = |what: &str| Err(Usage(what.into()).into());
        match executor {
            Executor::Slurm if self.emit.is_none() && !self.print_plan => {
                return usage("--executor slurm: expected `--emit DIR` with it, for the scripts");
            }
            Executor::Ray | Executor::Local if self.emit.is_some() => {
                return usage("--emit: expected `--executor slurm` with it");
            }
            Executor::Slurm | Executor::Local if self.address.is_some() => {
                return usage("--address: expected `--executor ray` with it");
            }
            Executor::Local if self.tasks.is_some() && !self.print_plan => {
                return usage("--tasks: expected `--executor ray` or `slurm` with it");
            }
            _ => {}
        }
        if let (Executor::Slurm, Some(directory)) = (executor, &self.emit) {
            let tasks = self.tasks.map_or(SLURM_TASKS, NonZeroUsize::get);
            slurm::emit(&recipe, &std::env::current_exe()?, tasks, directory)?;
            let directory = directory.display();
            report.line(format!("{directory}/submit.sh submits it"));
            report.json(json!({ "directory": directory.to_string() }));
            return Ok(());
        }
        if let (Executor::Ray, false) = (executor, self.print_plan) {
            return self.on_ray(global, report);
        }
        recipe.execution.keep_going |= self.keep_going;
        let mut job = recipe.job()?;
        if self.print_plan {
            let outline = Outline::new(&job)?;
            let Outline { files, bytes, ref stages, .. } = outline;
            if global.verbose && !global.json {
                let mut stdout = BufWriter::new(std::io::stdout().lock());
                for PlannedTask { stage, reads, writes } in outline.tasks() {
                    writeln!(stdout, "{stage:<7}{reads} → {writes}")?;
                }
                stdout.flush()?;
            }
            let size = format::bytes(bytes);
            let plural = if files == 1 { "" } else { "s" };
            report.line(format!(
                "{}: {files} file{plural}, {size} → {}",
                job.stage,
                job.out.display()
            ));
            for stage in stages {
                report.line(format!(
                    "{:<7}{:>10} × {:<20} {} → {}",
                    stage.stage,
                    format::count(stage.tasks),
                    stage.task,
                    stage.reads,
                    stage.writes
                ));
            }
            // As a cluster does it; how many CPUs one of Ray has is not asked here.
            let shares = (executor != Executor::Local || self.tasks.is_some()).then(|| {
                let tasks = self.tasks.map_or(SLURM_TASKS, NonZeroUsize::get);
                job.stages().into_iter().map(|stage| (stage.stage, stage.count(tasks))).collect()
            });
            let shares: Vec<(&str, usize)> = shares.unwrap_or_default();
            if !shares.is_empty() {
                let each: Vec<String> =
                    shares.iter().map(|(stage, n)| format!("{n} {stage}")).collect();
                let all: usize = shares.iter().map(|(_, count)| count).sum();
                report.line(format!("in {all} tasks, stage after stage: {}", each.join(", ")));
            }
            let (out, options) = (&job.out, &job.options);
            report.json(json!({
                "stage": job.stage, "files": files, "bytes": bytes, "out": out, "stages": stages,
                "shares": shares, "options": options,
            }));
            return Ok(());
        }
        job.execution.fresh = self.fresh;
        Run { job, dry: false }.run(global, report)
    }
}

/// Of an array, if nobody says.
const SLURM_TASKS: usize = 16;

impl RunRecipe {
    /// The Python package knows Ray; it calls the same tasks.
    fn on_ray(&self, global: &Global, report: &mut Report) -> anyhow::Result<()> {
        if self.fresh {
            let what = "expected it without `--executor ray`; delete the output directory instead";
            return Err(Usage(format!("--fresh: {what}")).into());
        }
        let python = std::env::var_os("FOREBAY_PYTHON").unwrap_or_else(|| "python3".into());
        let shown = python.to_string_lossy().into_owned();
        let found = Command::new(&python).args(["-c", "import ray, forebay.ray"]).output();
        if !found.is_ok_and(|found| found.status.success()) {
            let what = format!("expected `{shown}` with forebay and ray, found none");
            report.hint("pip install 'forebay[ray]'; FOREBAY_PYTHON names another interpreter");
            anyhow::bail!("--executor ray: {what}");
        }
        let mut command = Command::new(&python);
        command.args(["-m", "forebay.ray"]).arg(&self.recipe);
        let threads = global.threads.map(|threads| format!("execution.threads={threads}"));
        let memory = global.memory.map(|bytes| format!("execution.memory={bytes}"));
        let keep_going = self.keep_going.then(|| "execution.keep_going=true".to_owned());
        for set in self.set.iter().chain(&threads).chain(&memory).chain(&keep_going) {
            command.arg("--set").arg(set);
        }
        if let Some(address) = &self.address {
            command.arg("--address").arg(address);
        }
        if let Some(tasks) = self.tasks {
            command.arg("--tasks").arg(tasks.to_string());
        }
        let ran = command.stderr(Stdio::inherit()).stdout(Stdio::piped()).output()?;
        let Ok(value) = serde_json::from_slice::<serde_json::Value>(&ran.stdout) else {
            anyhow::bail!(
                "--executor ray: the run stopped with {}; its words stand above",
                ran.status
            );
        };
        report.line(format!("finished: {} documents in {}", value["documents"], value["out"]));
        report.json(value);
        Ok(())
    }
}

fn tell_status(out: &Path, report: &mut Report) -> anyhow::Result<()> {
    let status = status(out)?;
    let shown = out.display();
    match &status {
        Status::Nothing => report.line(format!("nothing yet in {shown}")),
        Status::Unfinished(run) => {
            let state =
                if run.running { "running" } else { "stopped; the same command resumes it" };
            let tasks =
                run.tasks.map_or(String::new(), |of| format!(", {} of {of} tasks", run.tasks_done));
            let rate = run.bytes_per_second;
            let rate =
                rate.map_or(String::new(), |rate| format!(", {}/s", format::bytes(rate as u64)));
            let left = run.seconds_left.filter(|_| run.running);
            let left = left.map_or(String::new(), |left| format!(", about {left:.0} s left"));
            report.line(format!("{}: {state}{tasks}{rate}{left}", run.stage));
            let (documents, text) = (format::count(run.documents), format::bytes(run.text_bytes));
            report
                .line(format!("read  {documents:>14} documents  {text:>12}   {} parts", run.parts));
            report.line(format!("write {:>14} shards in {shown}", run.shards));
            for stage in &run.stages {
                report.line(stage_line(stage));
            }
            for running in &run.at_work {
                report.line(format!("at    {}: {}", process(running), how_far(running)));
            }
            for lost in &run.lost {
                report.line(format!("lost  {}: died at {}", process(lost), how_far(lost)));
            }
            for failure in &run.failed {
                report
                    .line(format!("fail  {} on {}: {}", failure.task, failure.host, failure.error));
            }
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

fn process(running: &Running) -> String {
    format!("{} on {}, process {}", running.task, running.host, running.process)
}

/// Where a process is in its stage.
fn how_far(running: &Running) -> String {
    let Some(leg) = running.legs.last() else { return "its start".into() };
    let share = if leg.total > 0 { format::percent(leg.done, leg.total) } else { String::new() };
    format!("{} {share} {:.0} s", leg.stage, leg.seconds).replace("  ", " ")
}

fn stage_line(stage: &StageRate) -> String {
    let StageRate { stage, tasks, bytes, seconds } = stage;
    let rate = *bytes as f64 / seconds.max(1e-3);
    let rate = if *bytes > 0 {
        format!("   {}/s each", format::bytes(rate as u64))
    } else {
        String::new()
    };
    let plural = if *tasks == 1 { "" } else { "s" };
    format!("took  {stage:<8}{seconds:>10.1} s by {tasks} task{plural}{rate}")
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
