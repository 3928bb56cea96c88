//! The batches of a loader as an iterator and as a stream.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;

use crate::{Batch, Loader, Result};

/// The batches of a loader, without an end; each is a new one.
///
/// As a [`Stream`] it never blocks the task if the loader makes batches ahead
/// ([`crate::Config::prefetch`]); without, each is made while it is polled for. Any executor will
/// do. [`Loader::next_batch`] and [`Loader::poll_batch`] fill the same buffers again instead.
#[derive(Debug)]
pub struct Batches(Loader);

impl Batches {
    /// The loader, where it is now.
    pub fn into_inner(self) -> Loader {
        self.0
    }
}

impl IntoIterator for Loader {
    type Item = Result<Batch>;
    type IntoIter = Batches;

    fn into_iter(self) -> Batches {
        Batches(self)
    }
}

impl Iterator for Batches {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut batch = Batch::default();
        Some(self.0.next_batch(&mut batch).map(|()| batch))
    }
}

impl Stream for Batches {
    type Item = Result<Batch>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut batch = Batch::default();
        let taken = self.0.poll_batch(context, &mut batch);
        taken.map(|taken| Some(taken.map(|()| batch)))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (usize::MAX, None)
    }
}
