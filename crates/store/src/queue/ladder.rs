//! Registered io_uring → plain io_uring → threads: each step tried, and told.

use std::io;

use super::threads::Threads;
use super::uring::Uring;
use super::{Backend, Op, Options};
use crate::memory::{Arena, Pages};
use crate::usrbio::Mount;
use crate::usrbio::backend::Usrbio;
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
    /// The rings of a 3FS; only through [`Queue::open_near`](crate::Queue::open_near).
    Usrbio,
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
            Self::Usrbio => "usrbio",
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

/// USRBIO if `path` lies on a 3FS that takes us, else the first that works.
pub(super) fn climb_near(
    path: &std::path::Path,
    depth: usize,
    options: &Options,
) -> Result<(Box<dyn Backend>, Ladder)> {
    let arena = options.arena.as_ref();
    if !matches!(options.engine, Engine::Auto | Engine::Usrbio) {
        return climb(depth, options.engine, arena);
    }
    let by_name = options.engine == Engine::Usrbio;
    let connected = match Mount::of(path) {
        Ok(None) if by_name => {
            let what = format!("{} lies on no 3FS", path.display());
            let source = io::Error::new(io::ErrorKind::NotFound, what);
            return Err(Error::Engine { engine: Engine::Usrbio.name(), source });
        }
        Ok(None) => return climb(depth, Engine::Auto, arena),
        Ok(Some(mount)) => {
            let mut backend = Usrbio::new(std::sync::Arc::clone(&mount), depth);
            backend.make_rings(Op::Read).map(|rings| (backend, mount, rings))
        }
        Err(error) => Err(error),
    };
    match connected {
        Ok((backend, mount, rings)) => {
            let mut ladder = Ladder::only(Engine::Usrbio);
            ladder.registered_files = true;
            let shared = arena.is_some_and(|arena| arena.pages() == Pages::Foreign);
            ladder.registered_buffers = shared;
            ladder.tried("usrbio", Ok(format!("{rings} rings at {}", mount.root().display())));
            Ok((Box::new(backend), ladder))
        }
        Err(error) if by_name => Err(error),
        Err(error) => {
            let (backend, mut ladder) = climb(depth, Engine::Auto, arena)?;
            let why = std::error::Error::source(&error).map_or(String::new(), |e| format!(": {e}"));
            let step = Step { what: "usrbio", works: false, detail: format!("{error}{why}") };
            ladder.steps.insert(0, step);
            Ok((backend, ladder))
        }
    }
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
    if matches!(engine, Engine::Memory | Engine::Usrbio) {
        let what =
            if engine == Engine::Memory { "it has no files" } else { "it needs a path on a 3FS" };
        let source = io::Error::new(io::ErrorKind::InvalidInput, what);
        return Err(Error::Engine { engine: engine.name(), source });
    }
    let threads = Threads::new(depth)
        .map_err(|source| Error::Engine { engine: Engine::Threads.name(), source })?;
    ladder.won = Engine::Threads;
    ladder.tried("threads", Ok(format!("{} of them", depth.min(64))));
    Ok((Box::new(threads), ladder))
}
