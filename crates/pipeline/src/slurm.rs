//! A recipe as Slurm jobs: scripts whose tasks are those of [`Task`](crate::Task).
//!
//! ```text
//! DIR/recipe.toml                            as it is run: with what was set, paths absolute
//!     read.sbatch, write.sbatch, …           arrays, a share a task
//!     find.sbatch, finish.sbatch, …          one task each
//!     submit.sh                              submits them, each after the one before
//! ```

use std::path::Path;

use forebay_store::{create_dir, publish_bytes};

use crate::recipe::{Recipe, is_uri};
use crate::task::StageTasks;
use crate::{Error, Result};

/// Writes the scripts of `recipe` into `directory`; `program` is the binary on all nodes, `tasks`
/// the size of the arrays.
///
/// # Errors
/// If keys do not go together, or the directory cannot be written.
pub fn emit(recipe: &Recipe, program: &Path, tasks: usize, directory: &Path) -> Result<()> {
    // Complains now rather than on a node.
    let job = recipe.job()?;
    if recipe.execution.tmp_dir.is_some() {
        let what = "tasks share scratch files beside the output; expected it to be left out";
        return Err(Error::key("execution.tmp_dir", what));
    }
    job.shared()?;
    create_dir(directory)?;
    let absolute = |path: &Path| {
        std::path::absolute(path).map_err(|e| forebay_store::Error::io("resolve", path, e))
    };
    let mut recipe = recipe.clone();
    recipe.output.path = absolute(&job.out)?;
    for input in &mut recipe.input.paths {
        if is_uri(input) {
            continue;
        }
        *input = absolute(Path::new(&*input))?.to_string_lossy().into_owned();
    }
    let directory = &absolute(directory)?;
    let text = toml::to_string(&recipe).map_err(|e| Error::key("recipe", e.to_string()))?;
    publish_bytes(&directory.join("recipe.toml"), text.as_bytes())?;

    let threads = job.execution.threads;
    let mib = recipe.execution.memory.0.div_ceil(1 << 20);
    let quoted = |path: &Path| format!("'{}'", path.to_string_lossy().replace('\'', "'\\''"));
    let (program, file) = (quoted(program), quoted(&directory.join("recipe.toml")));
    let stages = job.stages();
    for tasks_of in stages.iter().copied() {
        let StageTasks { stage, most } = tasks_of;
        let (shares, count) = (most > 1, tasks_of.count(tasks));
        let array = if shares {
            format!("#SBATCH --array=0-{}\n#SBATCH --output={stage}-%A-%a.log\n", count - 1)
        } else {
            format!("#SBATCH --output={stage}-%A.log\n")
        };
        let share = match stage {
            _ if shares => format!(" --share \"$SLURM_ARRAY_TASK_ID/{count}\""),
            _ => String::new(),
        };
        let script = format!(
            "#!/usr/bin/env bash\n\
             #SBATCH --job-name=forebay-{stage}\n\
             #SBATCH --cpus-per-task={threads}\n\
             #SBATCH --mem={mib}M\n\
             #SBATCH --requeue\n\
             {array}\
             exec {program} task {file} {stage}{share} --threads \"${{SLURM_CPUS_PER_TASK:-{threads}}}\" --no-progress\n"
        );
        publish_bytes(&directory.join(format!("{stage}.sbatch")), script.as_bytes())?;
    }
    let stages: Vec<&str> = stages.iter().map(|stage| stage.stage).collect();
    let stages = stages.join(" ");
    let submit = format!(
        "#!/usr/bin/env bash\n\
        # Submits the run; options for all jobs, such as --partition=cpu, may follow. Submit it again after a\n\
        # failure: tasks that are done end at once.\n\
        set -euo pipefail\n\
        cd \"$(dirname \"$0\")\"\n\
        after=\n\
        for stage in {stages}; do\n\
        \x20 job=$(sbatch --parsable ${{after:+--dependency=afterok:$after}} \"$@\" \"$stage.sbatch\")\n\
        \x20 after=${{job%%;*}}\n\
        \x20 echo \"$stage: job $after\"\n\
        done\n"
    );
    Ok(publish_bytes(&directory.join("submit.sh"), submit.as_bytes())?)
}
