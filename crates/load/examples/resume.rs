//! A training loop that is stopped and goes on: `cargo run --release -p forebay-load --example resume -- corpus`
//!
//! Takes ten batches, keeps the state as JSON, as a checkpoint would, and goes on with two ranks
//! in the place of one.

use std::path::Path;

use forebay_load::{Batch, Columns, Config, Loader, Result, Sampling, State};

fn main() -> Result<()> {
    let corpus = std::env::args().nth(1).unwrap_or_else(|| "corpus".into());
    let corpus = Path::new(&corpus);
    let config = Config {
        sampling: Sampling::BestFit,
        columns: Columns { labels: true, cu_seqlens: true, ..Columns::default() },
        prefetch: 2,
        ..Config::new(1024, 8)
    };
    let mut loader = Loader::open(corpus, config.clone())?;
    let mut batch = Batch::default();
    for _ in 0..10 {
        // Buffers are exchanged and used again: nothing is allocated after the first rounds.
        loader.next_batch(&mut batch)?;
        println!("step {}: samples {:?}", batch.step, batch.samples);
    }
    println!("{}", loader.stats().verdict());
    let state: State = loader.state().clone();

    loader.next_batch(&mut batch)?;
    for rank in 0..2 {
        let half = Config { rank, world_size: 2, batch_size: 4, ..config.clone() };
        let mut loader = Loader::open(corpus, half)?;
        loader.load_state(&state)?;
        let mut part = Batch::default();
        loader.next_batch(&mut part)?;
        // Every other row of the batch that one rank would have taken.
        assert!(part.samples.iter().eq(batch.samples.iter().skip(rank).step_by(2)));
        println!("rank {rank} of 2: step {}: samples {:?}", part.step, part.samples);
    }
    Ok(())
}
