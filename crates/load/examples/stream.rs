//! Batches as a stream, in any executor: `cargo run --release -p forebay-load --example stream -- corpus`
//!
//! The executor here is ten lines that park the thread; with tokio the loop is the same under
//! `#[tokio::main]`, and a server of metrics or the step itself runs while a batch is made.

use std::future::{Future, poll_fn};
use std::path::Path;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use forebay_load::{Config, Loader, Result};
use futures_core::Stream;

fn main() -> Result<()> {
    let corpus = std::env::args().nth(1).unwrap_or_else(|| "corpus".into());
    // Without batches made ahead there would be nothing to wait for.
    let config = Config { prefetch: 2, ..Config::new(1024, 8) };
    let mut batches = Loader::open(Path::new(&corpus), config)?.into_iter();
    block_on(async {
        for _ in 0..10 {
            let next = poll_fn(|context| Pin::new(&mut batches).poll_next(context));
            // A loader has no end: epoch comes after epoch.
            let Some(batch) = next.await else { break };
            let batch = batch?;
            println!("step {}: samples {:?}", batch.step, batch.samples);
        }
        Ok(())
    })
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(value) => return value,
            Poll::Pending => std::thread::park(),
        }
    }
}
