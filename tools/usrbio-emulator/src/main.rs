//! `usrbio-emulator MOUNT`: a 3FS daemon in memory, until it is unmounted.

use std::path::PathBuf;
use std::process::ExitCode;

use usrbio_emulator::{Emulator, Faults, Options};

const USAGE: &str = "usage: usrbio-emulator MOUNT [--cluster NAME] [--chunk-size BYTES] \
                     [--workers N] [--iov-limit N] [--faults LIST] [--preload DIR]\n\
                     faults: short=N,error=N,errno=N,delay=MS,reorder,hold,never-wake,hang,garbage";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(what) => {
            eprintln!("error: {what}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let mut options = Options::default();
    let mut mount = None;
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        if !word.starts_with("--") {
            mount = Some(PathBuf::from(word));
            continue;
        }
        let value = words.next().ok_or_else(|| format!("{word} wants a value\n{USAGE}"))?;
        let number = || value.parse::<u64>().map_err(|_| format!("{word}: {value} is no number"));
        match word.as_str() {
            "--cluster" => options.cluster = value,
            "--preload" => options.preload = Some(value.into()),
            "--chunk-size" => options.chunk_bytes = number()?,
            "--workers" => options.workers = number()? as usize,
            "--iov-limit" => options.iov_limit = number()? as usize,
            "--faults" => {
                options.faults = Faults::parse(&value).map_err(|w| format!("no fault `{w}`"))?;
            }
            _ => return Err(format!("no option {word}\n{USAGE}")),
        }
    }
    let mount = mount.ok_or(USAGE)?;
    let emulator = Emulator::mount(&mount, &options)
        .map_err(|e| format!("cannot mount at {}: {e}", mount.display()))?;
    // Whoever started this waits for the line.
    println!("mounted {}", emulator.path().display());
    emulator.run().map_err(|e| e.to_string())
}
