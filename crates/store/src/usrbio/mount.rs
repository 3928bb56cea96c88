//! A mounted 3FS: found by its paths, registered with by one thread, asked whether it lives.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::Duration;

use super::layout::SUBMIT_LINKS;
use super::semaphore::Named;
use super::shared::SHM;
use super::sys;
use crate::{Error, Result};

/// A daemon that does not answer a request for metadata within this time hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// How long a handle that goes waits for its entry to go.
const FAREWELL: Duration = Duration::from_secs(2);

/// A 3FS on this machine. Shared by all that use the same mount point.
#[derive(Debug)]
pub struct Mount {
    root: PathBuf,
    registrar: Sender<Job>,
    session: RwLock<Arc<Session>>,
}

/// What one life of the daemon gave; a new life is a new session.
#[derive(Debug)]
pub struct Session {
    /// Counts the lives seen by this process.
    pub(crate) generation: u64,
    /// Where the links to the submit semaphores lead: high, normal, low.
    targets: [PathBuf; 3],
    semaphores: [Named; 3],
}

impl Session {
    /// Wakes the daemon to look at rings of this lane: see [`super::layout::lane`].
    pub(crate) fn wake(&self, lane: usize) {
        self.semaphores[lane].post();
    }
}

/// What became of the daemon.
#[derive(Debug)]
pub enum Pulse {
    /// The same as ever.
    Alive,
    /// Another has taken its place: rings and registrations of before are gone.
    Restarted(Arc<Session>),
    /// Nobody serves the mount.
    Gone(io::Error),
}

type Job = Box<dyn FnOnce(&mut Desk) + Send>;

/// What the registering thread holds.
struct Desk {
    entries: PathBuf,
    /// Its last close tells the daemon that this process is gone, which then forgets all entries
    /// of the thread that opened it. Hence one thread registers and opens, and nobody lists.
    liveness: Option<File>,
}

static MOUNTS: Mutex<Option<HashMap<PathBuf, Weak<Mount>>>> = Mutex::new(None);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The nearest that exists: of a file yet to be made, its directory.
fn existing(path: &Path) -> io::Result<PathBuf> {
    let mut at = std::path::absolute(path)?;
    loop {
        match at.canonicalize() {
            Ok(found) => return Ok(found),
            Err(e) if e.kind() == io::ErrorKind::NotFound && at.pop() => {}
            Err(e) => return Err(e),
        }
    }
}

/// Mount point of the 3FS that holds `path`, which need not exist; `None` if it is on no 3FS.
pub fn mount_point(path: &Path) -> Option<PathBuf> {
    let found = existing(path).ok()?;
    if !sys::is_3fs(&File::open(&found).ok()?) {
        return None;
    }
    // Up for as long as it is the same device.
    let device = found.metadata().ok()?.dev();
    let same = |p: &&Path| p.metadata().is_ok_and(|m| m.dev() == device);
    found.ancestors().take_while(same).last().map(Path::to_path_buf)
}

impl Mount {
    /// The 3FS that holds `path`; `None` if no 3FS does.
    ///
    /// # Errors
    /// [`Error::ThreeFs`] if the mount is there but its daemon takes no registrations.
    pub fn of(path: &Path) -> Result<Option<Arc<Self>>> {
        mount_point(path).map(|root| Self::at(&root)).transpose()
    }

    /// The 3FS mounted at `root`.
    ///
    /// # Errors
    /// [`Error::ThreeFs`] if there is none, or its daemon takes no registrations.
    pub fn at(root: &Path) -> Result<Arc<Self>> {
        let mut mounts = lock(&MOUNTS);
        let mounts = mounts.get_or_insert_default();
        if let Some(mount) = mounts.get(root).and_then(Weak::upgrade) {
            return Ok(mount);
        }
        let fail = |source| Error::ThreeFs { action: "connect to", mount: root.into(), source };
        let entries = root.join("3fs-virt/iovs");
        let (registrar, jobs) = channel();
        let desk = Desk { entries: entries.clone(), liveness: None };
        let builder = std::thread::Builder::new().name("forebay-3fs".into());
        builder.stack_size(256 << 10).spawn(move || serve(desk, &jobs)).map_err(fail)?;
        let first = ask(&registrar, PATIENCE, move |_| Session::open(&entries, 0));
        let session = RwLock::new(Arc::new(first.and_then(|opened| opened).map_err(fail)?));
        let mount = Arc::new(Self { root: root.into(), registrar, session });
        mounts.retain(|_, other| other.strong_count() > 0);
        mounts.insert(root.into(), Arc::downgrade(&mount));
        Ok(mount)
    }

    /// The mount point.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The present life of the daemon, as far as this process knows.
    pub fn session(&self) -> Arc<Session> {
        Arc::clone(&self.session.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Asks whether the daemon of `session` still serves the mount.
    pub fn pulse(&self, session: &Session) -> Pulse {
        let now = self.session();
        if now.generation != session.generation {
            return Pulse::Restarted(now);
        }
        let generation = session.generation + 1;
        let (targets, entries) = (session.targets.clone(), self.root.join("3fs-virt/iovs"));
        let asked = ask(&self.registrar, PATIENCE, move |desk| {
            if read_links(&entries)? == targets {
                return Ok(None);
            }
            // Of the dead: it would keep the old mount busy.
            desk.liveness = None;
            Session::open(&entries, generation).map(Some)
        });
        match asked.and_then(|answer| answer) {
            Ok(None) => Pulse::Alive,
            Ok(Some(found)) => {
                let mut slot = self.session.write().unwrap_or_else(PoisonError::into_inner);
                // Two queues may have found out at the same time.
                if slot.generation < found.generation {
                    *slot = Arc::new(found);
                }
                Pulse::Restarted(Arc::clone(&slot))
            }
            Err(error) => Pulse::Gone(error),
        }
    }

    /// Tells the daemon of shared memory under `target`; it has mapped it when this returns.
    ///
    /// # Errors
    /// What the daemon answers, or `TimedOut`: should it register after all, it is undone.
    pub(crate) fn register(&self, key: &str, target: &Path) -> io::Result<()> {
        let (key, target) = (key.to_owned(), target.to_path_buf());
        let (done, answer) = channel();
        self.send(Box::new(move |desk| {
            let entry = desk.entries.join(&key);
            let made = desk.hold().and_then(|()| symlink(&target, &entry));
            let is_made = made.is_ok();
            if done.send(made).is_err() && is_made {
                let _ = std::fs::remove_file(entry);
            }
        }))?;
        answer.recv_timeout(PATIENCE).map_err(|_| timed_out())?
    }

    /// Takes an entry back.
    pub(crate) fn unregister(&self, key: &str) {
        let key = key.to_owned();
        let _ = ask(&self.registrar, FAREWELL, move |desk| {
            let _ = std::fs::remove_file(desk.entries.join(key));
        });
    }

    /// Runs something that may hang with the daemon, waiting no longer than [`PATIENCE`].
    ///
    /// # Errors
    /// `TimedOut`, or what `work` says.
    pub(crate) fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        ask(&self.registrar, PATIENCE, move |_| work())?
    }

    fn send(&self, job: Job) -> io::Result<()> {
        self.registrar.send(job).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

fn timed_out() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the 3FS daemon does not answer")
}

fn ask<T: Send + 'static>(
    registrar: &Sender<Job>,
    patience: Duration,
    work: impl FnOnce(&mut Desk) -> T + Send + 'static,
) -> io::Result<T> {
    let (done, answer) = channel();
    let job: Job = Box::new(move |desk| {
        let _ = done.send(work(desk));
    });
    registrar.send(job).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
    answer.recv_timeout(patience).map_err(|_| timed_out())
}

fn serve(mut desk: Desk, jobs: &Receiver<Job>) {
    while let Ok(job) = jobs.recv() {
        job(&mut desk);
    }
}

impl Desk {
    /// Before anything is registered: a process killed in between is noticed too.
    fn hold(&mut self) -> io::Result<()> {
        if self.liveness.is_none() {
            let flag = rustix::fs::OFlags::DIRECTORY.bits() as i32;
            let opened = OpenOptions::new().read(true).custom_flags(flag).open(&self.entries)?;
            self.liveness = Some(opened);
        }
        Ok(())
    }
}

impl Session {
    fn open(entries: &Path, generation: u64) -> io::Result<Self> {
        let targets = read_links(entries)?;
        let [high, normal, low] = &targets;
        let semaphores = [Named::open(high)?, Named::open(normal)?, Named::open(low)?];
        Ok(Self { generation, targets, semaphores })
    }
}

fn read_links(entries: &Path) -> io::Result<[PathBuf; 3]> {
    let read = |name: &str| {
        let target = std::fs::read_link(entries.join(name))?;
        let is_semaphore = target.parent() == Some(Path::new(SHM))
            && target.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(b"sem."));
        if is_semaphore {
            return Ok(target);
        }
        let what = format!("{name} leads to {}, expected {SHM}/sem.…", target.display());
        Err(io::Error::new(io::ErrorKind::InvalidData, what))
    };
    let [high, normal, low] = SUBMIT_LINKS;
    Ok([read(high)?, read(normal)?, read(low)?])
}
