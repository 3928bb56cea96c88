//! Registered io_uring → plain io_uring → threads: each step tried, and told.

use std::io;

use super::Backend;
use super::threads::Threads;
use super::uring::Uring;
use crate::memory::Arena;
use crate::{Error, Result};

/// A back end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Engine {
    /// The best that this machine allows.
    Auto,
    /// io_uring, registered as far as the kernel lets us.
    Uring,
    /// A pool of threads.
    Threads,
    /// Bytes in memory, for tests.
    Memory,
}

impl Engine {
    /// Its name in options and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Uring => "uring",
            Self::Threads => "threads",
            Self::Memory => "memory",
        }
    }
}

/// A rung that was tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What was tried: "io_uring", "registered buffers".
    pub what: &'static str,
    /// It holds.
    pub works: bool,
    /// How, or why not.
    pub detail: String,
}

/// Which back end a queue has, and how it came to that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ladder {
    /// What moves the bytes.
    pub won: Engine,
    /// Memory is pinned once, not at every transfer.
    pub registered_buffers: bool,
    /// Files are looked up once, not at every transfer.
    pub registered_files: bool,
    /// Everything tried, in order.
    pub steps: Vec<Step>,
}

impl Ladder {
    pub(super) fn only(won: Engine) -> Self {
        Self { won, registered_buffers: false, registered_files: false, steps: Vec::new() }
    }

    /// In a word or two: "uring, registered".
    pub fn summary(&self) -> String {
        match (self.won, self.registered_buffers, self.registered_files) {
            (Engine::Uring, true, true) => "uring, registered".into(),
            (Engine::Uring, false, true) => "uring, registered files".into(),
            (Engine::Uring, true, false) => "uring, registered buffers".into(),
            (engine, _, _) => engine.name().into(),
        }
    }

    fn tried(&mut self, what: &'static str, result: io::Result<String>) -> bool {
        let works = result.is_ok();
        let detail = result.unwrap_or_else(|e| explain(what, &e));
        self.steps.push(Step { what, works, detail });
        works
    }
}

/// What an error at this step usually means.
fn explain(what: &str, error: &io::Error) -> String {
    use rustix::io::Errno;
    let cause = match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::PERM | Errno::ACCESS) => {
            "forbidden by seccomp, as in most containers, or by `kernel.io_uring_disabled`"
        }
        Some(Errno::NOSYS) => "the kernel was built without it",
        Some(Errno::NOMEM) if what == "registered buffers" => {
            "more than `ulimit -l` lets a process pin"
        }
        _ => return error.to_string(),
    };
    format!("{error}: {cause}")
}

/// The first back end that works, from the top.
pub(super) fn climb(
    depth: usize,
    engine: Engine,
    arena: Option<&Arena>,
) -> Result<(Box<dyn Backend>, Ladder)> {
    let mut ladder = Ladder::only(engine);
    if matches!(engine, Engine::Auto | Engine::Uring) {
        match Uring::new(depth) {
            Ok((mut ring, flags)) => {
                ladder.won = Engine::Uring;
                ladder.tried("io_uring", Ok(flags.into()));
                let files = ring.register_files().map(|()| String::new());
                ladder.registered_files = ladder.tried("registered files", files);
                if let Some(arena) = arena {
                    let pages = format!("{:?} pages", arena.pages()).to_lowercase();
                    let buffers = ring.register_buffers(arena).map(|()| pages);
                    ladder.registered_buffers = ladder.tried("registered buffers", buffers);
                }
                return Ok((Box::new(ring), ladder));
            }
            Err(source) if engine == Engine::Uring => {
                return Err(Error::Engine { engine: engine.name(), source });
            }
            Err(error) => {
                ladder.tried("io_uring", Err(error));
            }
        }
    }
    if engine == Engine::Memory {
        let source = io::Error::new(io::ErrorKind::InvalidInput, "it has no files");
        return Err(Error::Engine { engine: engine.name(), source });
    }
    let threads = Threads::new(depth)
        .map_err(|source| Error::Engine { engine: Engine::Threads.name(), source })?;
    ladder.won = Engine::Threads;
    ladder.tried("threads", Ok(format!("{} of them", depth.min(64))));
    Ok((Box::new(threads), ladder))
}
