use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use forebay_pipeline::{Lengths, index};
use forebay_shard::input::{self, Cursor, Options, Source};
use forebay_shard::manifest::ShardEntry;
use forebay_shard::{Dataset, Manifest, manifest};
use forebay_transform::tokenize::Tokenizer;
use serde_json::json;

use crate::args::Global;
use crate::report::{Report, Usage};
use crate::{cluster, format, stats, tokens};

/// Show what a dataset or an input holds: schema, counts, token lengths, documents as text
#[derive(Args)]
pub struct Inspect {
    /// A dataset, or anything that `prep` reads
    path: PathBuf,
    /// Documents to show
    #[arg(long, default_value_t = 3, value_name = "N")]
    samples: usize,
    /// Show the documents of a cluster of removed/ beside the one that stays, differences marked
    #[arg(long, value_name = "ID")]
    cluster: Option<u64>,
    /// Print id and band keys of every document of an index, a JSON object a line
    #[arg(long, conflicts_with = "cluster")]
    signatures: bool,
    /// Show documents with the boundaries of their tokens
    #[arg(long, conflicts_with_all = ["cluster", "signatures"])]
    tokens: bool,
    /// With --tokens: show the document of this id, whole
    #[arg(long, value_name = "ID", requires = "tokens")]
    id: Option<String>,
    /// With --tokens, for what is not tokenized yet: `tokenizer.json`, or `gpt2`, the default
    #[arg(long, value_name = "NAME|FILE", requires = "tokens")]
    tokenizer: Option<String>,
}

const SHOWN_CHARACTERS: usize = 200;

impl Inspect {
    pub fn run(mut self, _: &Global, report: &mut Report) -> anyhow::Result<()> {
        let held = forebay_store::remote::local(&self.path)?;
        self.path = held.path().to_path_buf();
        if self.tokens {
            let (id, tokenizer) = (self.id.as_deref(), self.tokenizer.as_deref());
            let (path, samples) = (&self.path, self.samples);
            return tokens::Show { path, id, samples, tokenizer }.run(report);
        }
        if index::is_index(&self.path) {
            return self.index(report);
        }
        if self.signatures {
            let path = self.path.display();
            return Err(Usage(format!("{path}: expected an index with index.json")).into());
        }
        if let Some(number) = self.cluster {
            return cluster::show(&self.path, number, self.samples, report);
        }
        if Manifest::is_in(&self.path) || self.path.join(manifest::WORK).is_dir() {
            self.dataset(report)
        } else {
            self.input(report)
        }
    }

    fn index(&self, report: &mut Report) -> anyhow::Result<()> {
        if self.signatures {
            let mut out = std::io::BufWriter::new(std::io::stdout().lock());
            // A reader that has seen enough, such as `head`, is no error.
            let mut open = true;
            index::each_signature(&self.path, |id, keys| {
                let bands: Vec<String> = keys.iter().map(|key| format!("{key:016x}")).collect();
                open = open && writeln!(out, "{}", json!({ "id": id, "bands": bands })).is_ok();
            })?;
            report.silent();
            return Ok(());
        }
        let index = index::describe(&self.path)?;
        let documents = index["documents"].as_u64().unwrap_or_default();
        report.line(format!(
            "{}: index of {} documents in {} parts; parameters {}; texts to compare: {}",
            self.path.display(),
            format::count(documents),
            index["parts"].as_array().map_or(0, Vec::len),
            index["parameters"],
            index["texts"],
        ));
        report.json(index);
        Ok(())
    }

    fn dataset(&self, report: &mut Report) -> anyhow::Result<()> {
        let dataset = Dataset::open(&self.path)?;
        let manifest = dataset.manifest();
        let bytes: u64 = manifest.shards.iter().map(ShardEntry::all_bytes).sum();
        let tokens =
            manifest.tokens.map_or(String::new(), |t| format!("{} tokens, ", format::count(t)));
        report.line(format!(
            "{}: {} documents, {tokens}{} of text; shards: {}, {}",
            self.path.display(),
            format::count(manifest.documents),
            format::bytes(manifest.text_bytes),
            manifest.shards.len(),
            format::bytes(bytes)
        ));
        let lineage = &manifest.lineage;
        report.line(format!(
            "made     {} by {} from {} files, {}",
            lineage.stage,
            manifest.created_by,
            format::count(lineage.input_files),
            format::bytes(lineage.input_bytes)
        ));
        if let Some(tokenizer) = &manifest.tokenizer {
            let eos = tokenizer
                .eos
                .as_ref()
                .map_or("no EOS".into(), |eos| format!("EOS {} = {}", eos.token, eos.id));
            report.line(format!(
                "tokens   {}, {} ids, {eos}, by {}, Unicode {}",
                tokenizer.name,
                format::count(tokenizer.vocab_size),
                tokenizer.engine,
                tokenizer.unicode
            ));
        }
        let heads = dataset.head(0, self.samples)?;
        let layout = manifest.layout;
        let flat = layout.map(|layout| {
            format!("{} tokens as {}", layout.format.name(), layout.token_type.name())
        });
        let parquet = |column| layout.is_none().then_some(column);
        let schema: Vec<&str> = [
            flat.as_deref(),
            parquet("id: string"),
            parquet("source: string"),
            manifest.tokens.and_then(|_| parquet("tokens: list<uint32>")),
            heads.first().and_then(|head| head.text.as_ref()).map(|_| "text: string"),
        ]
        .into_iter()
        .flatten()
        .collect();
        report.line(format!("schema   {}", schema.join(", ")));

        let mut lengths = Lengths::default();
        if let Some(counts) = dataset.token_counts()? {
            counts.into_iter().for_each(|tokens| lengths.push(tokens));
            stats::show_lengths(&lengths, report);
        }
        let tokenizer = match &manifest.tokenizer {
            Some(entry) if !heads.is_empty() => Some(Tokenizer::of_dataset(&self.path, entry)?),
            _ => None,
        };
        let mut samples = Vec::new();
        for head in &heads {
            let decoded = match (&tokenizer, &head.tokens) {
                (Some(tokenizer), Some(tokens)) => Some(tokenizer.decode(tokens)?),
                _ => None,
            };
            let text = decoded.as_ref().or(head.text.as_ref()).map_or("", String::as_str);
            let tokens = head.tokens.as_ref().map(Vec::len);
            document(report, &head.id, &head.source, tokens, text);
            samples.push(json!({
                "id": head.id, "source": head.source, "tokens": tokens, "text": text,
            }));
        }
        report.json(json!({
            "schema": schema,
            "manifest": manifest,
            "token_lengths": stats::json_lengths(&lengths),
            "samples": samples,
        }));
        Ok(())
    }

    fn input(&self, report: &mut Report) -> anyhow::Result<()> {
        let options = Options { on_error: input::OnError::Skip, ..Options::default() };
        let inputs = [self.path.to_string_lossy().into_owned()];
        let sources = input::discover(&inputs, &options, None)?;
        let (mut files, mut shown, mut skipped) = (Vec::new(), Vec::new(), 0);
        for source in &sources {
            let kind = match source {
                Source::Lines(_) => "jsonl",
                Source::Parquet(_) => "parquet",
                Source::Texts(_) => "text",
            };
            let bytes: u64 = source.files().iter().map(|file| file.bytes).sum();
            let first = source.files()[0].name();
            let more = source.files().len() - 1;
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            report.line(format!("{kind:<8} {:>12}   {first}{more}", format::bytes(bytes)));
            files.push(json!({ "format": kind, "files": source.files().len(), "bytes": bytes, "first": first }));
            if shown.len() < self.samples {
                let mut cursor = Cursor::new(source, &options, 1 << 20, &std::sync::Arc::default());
                let Some(part) = cursor.next_part()? else { continue };
                let parsed = part.parse(&options)?;
                for bad in &parsed.skipped {
                    report.line(format!("bad      {}: {}", bad.source, bad.detail));
                }
                skipped += parsed.skipped.len();
                let documents = &parsed.documents;
                for at in 0..documents.len().min(self.samples - shown.len()) {
                    let (id, text) = (documents.ids.get(at), documents.texts.get(at));
                    document(report, id, documents.sources.get(at), None, text);
                    shown.push(
                        json!({ "id": id, "source": documents.sources.get(at), "text": text }),
                    );
                }
            }
        }
        report.json(json!({ "inputs": files, "samples": shown, "skipped": skipped }));
        Ok(())
    }
}

fn document(report: &mut Report, id: &str, source: &str, tokens: Option<usize>, text: &str) {
    let tokens =
        tokens.map_or(String::new(), |tokens| format!(", {} tokens", format::count(tokens as u64)));
    report.line(format!("document {id} from {source}{tokens}"));
    report.line(format!("         {}", format::line(text, SHOWN_CHARACTERS)));
}
