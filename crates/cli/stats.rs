//! Documents, bytes and tokens of each source, as a table and as JSON.

use forebay_pipeline::{Lengths, SourceStats, Stats};
use serde_json::{Value, json};

use crate::format;
use crate::report::Report;

/// Sources in the table, those of most tokens; JSON has them all.
const SHOWN_SOURCES: usize = 20;
const NAME_CHARACTERS: usize = 32;

/// The table, with the total last, and the lengths of documents.
pub fn show(stats: &Stats, report: &mut Report) {
    report.line(row("source", &["documents", "bytes", "tokens", "B/token", "fallback", "unknown"]));
    let mut sources: Vec<(&String, &SourceStats)> = stats.sources.iter().collect();
    sources.sort_by_key(|(_, source)| std::cmp::Reverse(source.tokens));
    for (name, source) in sources.iter().take(SHOWN_SOURCES) {
        // The end of a path says more than its start.
        let length = name.chars().count();
        let name = match length.checked_sub(NAME_CHARACTERS) {
            Some(cut @ 1..) => format!("…{}", name.chars().skip(cut + 1).collect::<String>()),
            _ => (*name).clone(),
        };
        numbers(&format::line(&name, NAME_CHARACTERS), source, report);
    }
    if let Some(more) = sources.len().checked_sub(SHOWN_SOURCES).filter(|&more| more > 0) {
        report.line(format!("and {} sources more, see --json", format::count(more as u64)));
    }
    numbers("all", &stats.total(), report);
    report.line("documents by tokens");
    show_lengths(&stats.lengths, report);
}

fn numbers(name: &str, source: &SourceStats, report: &mut Report) {
    let tokens = [source.tokens, source.byte_fallback_tokens, source.unknown_tokens];
    let [tokens, fallback, unknown] = tokens.map(format::count);
    let (documents, bytes) = (format::count(source.documents), format::bytes(source.bytes));
    let per_token = format!("{:.3}", source.bytes_per_token());
    report.line(row(name, &[&documents, &bytes, &tokens, &per_token, &fallback, &unknown]));
}

fn row(name: &str, cells: &[&str; 6]) -> String {
    let [documents, bytes, tokens, per_token, fallback, unknown] = cells;
    let name = format!("{name:<NAME_CHARACTERS$}");
    format!(
        "{name} {documents:>11} {bytes:>10} {tokens:>14} {per_token:>7} {fallback:>11} {unknown:>9}"
    )
}

pub fn json(stats: &Stats) -> Value {
    let with = |source: &SourceStats| {
        let mut value = json!(source);
        value["bytes_per_token"] = json!(source.bytes_per_token());
        value
    };
    let sources = stats.sources.iter().map(|(name, source)| {
        let mut value = with(source);
        value["source"] = json!(name);
        value
    });
    let mut value = with(&stats.total());
    value["sources"] = sources.collect();
    value["token_lengths"] = json_lengths(&stats.lengths);
    value
}

/// Documents by tokens, a line a power of two.
pub fn show_lengths(lengths: &Lengths, report: &mut Report) {
    let buckets = lengths.buckets();
    let most = buckets.iter().map(|&(_, _, documents)| documents).max().unwrap_or(0);
    for (low, high, documents) in buckets {
        let width = (40 * documents).div_ceil(most.max(1));
        let bar = "▆".repeat(usize::try_from(width).unwrap_or(0));
        let range = format!("{}–{}", format::count(low), format::count(high));
        report.line(format!("{range:>19} {:>12}  {bar}", format::count(documents)));
    }
}

pub fn json_lengths(lengths: &Lengths) -> Value {
    let buckets = lengths.buckets().into_iter();
    buckets
        .map(|(low, high, documents)| json!({ "from": low, "to": high, "documents": documents }))
        .collect()
}
