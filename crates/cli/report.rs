//! What a verb has to say: text or JSON on stdout, errors on stderr, and the exit code.

use std::io::Write;
use std::process::ExitCode;

use forebay_pipeline::Error as RunError;
use serde_json::{Value, json};

use crate::args::Global;

/// Collects the result; data goes to stdout, talk to stderr.
pub struct Report {
    json: bool,
    quiet: bool,
    text: String,
    value: Value,
    code: u8,
    silent: bool,
}

/// Arguments that do not go together.
#[derive(Debug)]
pub struct Usage(pub String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

const FAILED: u8 = 1;
const USAGE: u8 = 2;
const SKIPPED: u8 = 3;
const INTERRUPTED: u8 = 130;

impl Report {
    pub fn new(global: &Global) -> Self {
        let (json, quiet) = (global.json, global.quiet);
        Self { json, quiet, text: String::new(), value: Value::Null, code: 0, silent: false }
    }

    /// A line of the result for people.
    pub fn line(&mut self, line: impl AsRef<str>) {
        self.text.push_str(line.as_ref());
        self.text.push('\n');
    }

    /// The result for programs.
    pub fn json(&mut self, value: Value) {
        self.value = value;
    }

    /// A remark, on stderr.
    pub fn note(&self, note: &str) {
        if !self.quiet {
            eprintln!("note: {note}");
        }
    }

    /// Something to try, on stderr.
    pub fn hint(&self, hint: &str) {
        if !self.quiet {
            eprintln!("hint: {hint}");
        }
    }

    /// Done, but records were left out.
    pub fn skipped(&mut self) {
        self.code = SKIPPED;
    }

    /// Done, and what was asked for is not so.
    pub fn failed(&mut self) {
        self.code = FAILED;
    }

    /// The result is printed already.
    pub fn silent(&mut self) {
        self.silent = true;
    }

    pub fn finish(self) -> ExitCode {
        if self.silent {
            return ExitCode::from(self.code);
        }
        let out = if self.json { format!("{}\n", self.value) } else { self.text };
        // A reader that has seen enough, such as `head`, is no error.
        let _ = std::io::stdout().lock().write_all(out.as_bytes());
        ExitCode::from(self.code)
    }

    pub fn fail(self, error: &anyhow::Error) -> ExitCode {
        let message = format!("{error:#}");
        let hint = error.chain().find_map(hint);
        let wrong_recipe = matches!(error.downcast_ref(), Some(RunError::Recipe { .. }));
        let interrupted = matches!(error.downcast_ref(), Some(RunError::Interrupted))
            || matches!(error.downcast_ref(), Some(forebay_store::Error::Stopped));
        if self.json {
            let value = json!({ "error": message, "hint": hint });
            let _ = writeln!(std::io::stdout().lock(), "{value}");
        }
        eprintln!("error: {message}");
        if let Some(hint) = hint {
            eprintln!("hint: {hint}");
        }
        ExitCode::from(match () {
            () if interrupted => INTERRUPTED,
            () if error.is::<Usage>() || wrong_recipe => USAGE,
            () => FAILED,
        })
    }
}

fn hint(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    if let Some(error) = error.downcast_ref::<RunError>() {
        return error.hint();
    }
    if let Some(error) = error.downcast_ref::<forebay_load::Error>() {
        return error.hint();
    }
    if let Some(error) = error.downcast_ref::<forebay_shard::Error>() {
        return error.hint();
    }
    if let Some(error) = error.downcast_ref::<forebay_transform::tokenize::Error>() {
        return error.hint();
    }
    if let Some(error) = error.downcast_ref::<forebay_bench::Error>() {
        return error.hint();
    }
    if let Some(error) = error.downcast_ref::<forebay_gpu::Error>() {
        return error.hint();
    }
    error.downcast_ref::<forebay_store::Error>()?.hint()
}
