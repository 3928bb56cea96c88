//! What a plan costs: the same recipe as plain calls of the stages, as a run, and as tasks, one
//! after another in one process.
//!
//! ```text
//! overhead RECIPE.toml direct
//! overhead RECIPE.toml run
//! overhead RECIPE.toml tasks 16
//! ```
//! The output must be new. Prints wall and CPU seconds of the work as JSON.

use std::path::Path;
use std::time::{Duration, Instant};

use forebay_pipeline::{Progress, Recipe, Share, Task, direct};
use rustix::time::{ClockId, clock_gettime};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (recipe, way) = match &arguments[..] {
        [recipe, way, ..] => (Path::new(recipe), way.as_str()),
        _ => return Err("expected RECIPE.toml and direct, run or tasks N".into()),
    };
    let of: usize = arguments.get(2).map_or(Ok(1), |of| of.parse())?;
    let progress = Progress::default();
    let start = Instant::now();
    // What a process does once, whatever it then calls.
    let job = Recipe::read(recipe, &[])?.job()?;
    let mut tasks = 1;
    let documents = match way {
        "direct" => direct::run(&job, &progress)?.manifest.documents,
        "run" => job.run(&progress)?.manifest.documents,
        "tasks" => {
            let mut documents = 0;
            tasks = 0;
            for stage in job.stages() {
                let count = stage.count(of);
                for number in 0..count {
                    let task = Task::parse(stage.stage, Share { number, of: count });
                    let done = job.perform(task.ok_or("no such stage")?, &progress)?;
                    documents = done.map_or(documents, |done| done.manifest.documents);
                    tasks += 1;
                }
            }
            documents
        }
        other => return Err(format!("expected direct, run or tasks, found {other}").into()),
    };
    let cpu = clock_gettime(ClockId::ProcessCPUTime);
    let cpu = Duration::new(cpu.tv_sec.unsigned_abs(), u32::try_from(cpu.tv_nsec)?);
    let (seconds, cpu) = (start.elapsed().as_secs_f64(), cpu.as_secs_f64());
    println!(
        "{{\"documents\": {documents}, \"tasks\": {tasks}, \"seconds\": {seconds}, \"cpu_seconds\": {cpu}}}"
    );
    Ok(())
}
