//! An object read from front to back, some parts ahead of the reader.

use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::client::{Entry, Inner, Remote};
use crate::Result;

const PART: u64 = 4 << 20;

/// Parts that are on their way or wait for the reader: 16 MiB a stream.
const AHEAD: u64 = 4;

/// The bytes of an object in order. Cost: up to four threads and 16 MiB until it is dropped.
#[derive(Debug)]
pub struct Stream {
    shared: Arc<Shared>,
    /// The part that is being read, and how far.
    part: Vec<u8>,
    at: usize,
}

#[derive(Debug)]
struct Shared {
    inner: Arc<Inner>,
    entry: Entry,
    /// Where the stream starts in the object.
    first: u64,
    parts: u64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// The next part to fetch, and the next one to hand out.
    next: u64,
    wanted: u64,
    here: HashMap<u64, Result<Vec<u8>>>,
    is_over: bool,
}

impl Stream {
    /// From byte `first` of this version of an object on.
    pub fn new(remote: &Remote, entry: &Entry, first: u64) -> Self {
        let length = entry.size.saturating_sub(first);
        let shared = Arc::new(Shared {
            inner: Arc::clone(&remote.inner),
            entry: entry.clone(),
            first,
            parts: length.div_ceil(PART),
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        // One part is fetched by who wants it.
        if shared.parts > 1 {
            for _ in 0..AHEAD.min(shared.parts) {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || shared.fetch());
            }
        }
        Self { shared, part: Vec::new(), at: 0 }
    }

    /// The next bytes, `None` at the end.
    ///
    /// # Errors
    /// [`crate::Error::Transfer`] as [`Remote::read_at`].
    pub fn piece(&mut self) -> Result<Option<&[u8]>> {
        if self.at == self.part.len() && !self.go_on()? {
            return Ok(None);
        }
        let bytes = &self.part[self.at..];
        self.at = self.part.len();
        Ok(Some(bytes))
    }

    /// Takes the next part; false at the end.
    fn go_on(&mut self) -> Result<bool> {
        let shared = &self.shared;
        let mut state = shared.lock();
        let n = state.wanted;
        if n == shared.parts {
            return Ok(false);
        }
        let part = if shared.parts == 1 {
            shared.read(0)
        } else {
            loop {
                if let Some(part) = state.here.remove(&n) {
                    break part;
                }
                state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        };
        // After an error there is nothing more to wait for.
        state.wanted = if part.is_ok() { n + 1 } else { shared.parts };
        (self.part, self.at) = (part?, 0);
        drop(state);
        shared.changed.notify_all();
        Ok(true)
    }
}

impl Read for Stream {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        if self.at == self.part.len() && !self.go_on().map_err(io::Error::other)? {
            return Ok(0);
        }
        let length = to.len().min(self.part.len() - self.at);
        to[..length].copy_from_slice(&self.part[self.at..self.at + length]);
        self.at += length;
        Ok(length)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.shared.lock().is_over = true;
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, n: u64) -> Result<Vec<u8>> {
        let start = self.first + n * PART;
        let end = (start + PART).min(self.entry.size);
        let mut bytes = vec![0; (end - start) as usize];
        self.inner.fetch(&self.entry, start..end, &mut bytes, |_, _| Ok(()))?;
        Ok(bytes)
    }

    fn fetch(&self) {
        loop {
            let mut state = self.lock();
            while !state.is_over && state.next < self.parts && state.next >= state.wanted + AHEAD {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if state.is_over || state.next >= self.parts {
                return;
            }
            let n = state.next;
            state.next += 1;
            drop(state);
            let part = self.read(n);
            let failed = part.is_err();
            let mut state = self.lock();
            state.here.insert(n, part);
            // What lies behind a hole is not wanted.
            state.is_over |= failed;
            drop(state);
            self.changed.notify_all();
        }
    }
}
