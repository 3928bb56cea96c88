//! Tokens a CPU second and the time to the first batch, without a command line or Python around it:
//! `cargo run --release -p forebay-load --example measure -- DATASET [BATCHES] [SEQ_LEN] [BATCH_SIZE] [map]`

use std::path::Path;
use std::time::Duration;

use forebay_load::{Config, Io, Loader, Result, measure};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let dataset = arguments.first().map_or("corpus", String::as_str);
    let number = |at: usize, default: usize| {
        arguments.get(at).and_then(|text| text.parse().ok()).unwrap_or(default)
    };
    let (batches, seq_len, batch_size) = (number(1, 12_000), number(2, 2048), number(3, 8));
    for _ in 0..5 {
        let io = if arguments.get(4).is_some() { Io::Map } else { Io::Auto };
        let config = Config { io, ..Config::new(seq_len, batch_size) };
        let open = || Loader::open(Path::new(dataset), config);
        let found = measure(open, 0, batches as u64, Duration::ZERO)?;
        let cpu = found.cpu.unwrap_or(found.elapsed).as_secs_f64();
        println!(
            "{:.0} M tokens a CPU second, {:.1} µs a batch, first batch after {:.2} ms",
            found.tokens as f64 / cpu / 1e6,
            1e6 * cpu / batches as f64,
            1e3 * found.first_batch.as_secs_f64(),
        );
    }
    Ok(())
}
