//! `forebay`: raw text in, training batches out.

#![allow(unreachable_pub, reason = "nothing of a binary is reachable")]

mod args;
mod bench;
mod bench_gpu;
mod bench_loader;
mod bench_sort;
mod cluster;
mod compat;
mod dedup;
mod duplicates;
mod format;
mod fs;
mod inspect;
mod load;
mod load_device;
mod load_options;
mod prep;
mod progress;
mod recipe;
mod report;
mod run;
mod shard_format;
mod staging;
mod stats;
mod task;
mod tokenize;
mod tokens;
mod train;
mod verify;

use std::process::ExitCode;

use clap::parser::ValueSource;
use clap::{CommandFactory, FromArgMatches, Id, Parser, Subcommand};

use crate::args::Global;
use crate::report::Report;

/// Buffers of megabytes come and go with every task; this one keeps them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Raw text in, training batches out.
#[derive(Parser)]
#[command(
    version,
    max_term_width = 100,
    after_help = "Exit codes: 0 done; 1 failed; 2 wrong usage; 3 done, but records were skipped; 130 interrupted, resumable."
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Prep(prep::Prep),
    Run(recipe::RunRecipe),
    Recipe(recipe::RecipeVerb),
    Task(task::TaskVerb),
    Dedup(dedup::Dedup),
    Tokenize(Box<tokenize::Tokenize>),
    Inspect(inspect::Inspect),
    Verify(verify::Verify),
    Load(load::Load),
    Bench(bench::Bench),
    Fs(fs::Fs),
    #[command(hide = true)]
    GpuProbe(load_device::GpuProbe),
}

fn main() -> ExitCode {
    // SAFETY: nothing else runs yet. The encoder would spread one long document over all cores;
    // `--threads` is the user's word on that.
    unsafe { std::env::set_var("FASTOKENS_BPE_THREADS", "1") };
    let matches = Cli::command().get_matches();
    let mut cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    if let Verb::Prep(prep) = &mut cli.verb
        && let Some((_, matches)) = matches.subcommand()
    {
        // Structs of arguments are ids too.
        let given = |id: &&str| {
            id.starts_with(char::is_lowercase)
                && matches.value_source(id) == Some(ValueSource::CommandLine)
        };
        prep.given = matches.ids().map(Id::as_str).filter(given).map(str::to_owned).collect();
    }
    let global = cli.global;
    let mut report = Report::new(&global);
    let done = match cli.verb {
        Verb::Prep(verb) => verb.run(&global, &mut report),
        Verb::Run(verb) => verb.run(&global, &mut report),
        Verb::Recipe(verb) => verb.run(&mut report),
        Verb::Task(verb) => verb.run(&global, &mut report),
        Verb::Dedup(verb) => verb.run(&global, &mut report),
        Verb::Tokenize(verb) => verb.run(&global, &mut report),
        Verb::Inspect(verb) => verb.run(&global, &mut report),
        Verb::Verify(verb) => verb.run(&global, &mut report),
        Verb::Load(verb) => verb.run(&global, &mut report),
        Verb::Bench(verb) => verb.run(&global, &mut report),
        Verb::Fs(verb) => verb.run(&global, &mut report),
        Verb::GpuProbe(verb) => verb.run(&mut report),
    };
    match done {
        Ok(()) => report.finish(),
        Err(error) => report.fail(&error),
    }
}
