//! Documents with the boundaries of their tokens.
//!
//! On a terminal every other token is underlined; elsewhere, or if `NO_COLOR` is set, `|` stands
//! between tokens (and a `|` of the text is written `\|`). A token that is a part of a character is
//! written as its bytes in hex, `<e6 97>`; a line break as `⏎`, a tab as `→`.

use std::io::IsTerminal;
use std::path::Path;
use std::sync::Arc;

use forebay_shard::input::{self, Cursor};
use forebay_shard::{Dataset, Manifest};
use forebay_transform::tokenize::{
    DEFAULT, EosPolicy, Options, Pieces, SpecialTokens, Tokenizer, Vocabulary,
};
use serde_json::{Value, json};

use crate::format;
use crate::report::{Report, Usage};

/// Of a document, unless it was asked for by its id.
const SHOWN_TOKENS: usize = 400;

/// What to show.
pub struct Show<'a> {
    pub path: &'a Path,
    /// A document, or else the first `samples`.
    pub id: Option<&'a str>,
    pub samples: usize,
    /// For what is not tokenized yet.
    pub tokenizer: Option<&'a str>,
}

struct Tokenized {
    id: String,
    source: String,
    tokens: Vec<u32>,
}

impl Show<'_> {
    /// Shows the stored tokens of a dataset, or tokenizes the documents of an input.
    pub fn run(&self, report: &mut Report) -> anyhow::Result<()> {
        let dataset =
            if Manifest::is_in(self.path) { Some(Dataset::open(self.path)?) } else { None };
        let entry = dataset.as_ref().and_then(|dataset| dataset.manifest().tokenizer.as_ref());
        let (name, vocabulary, documents) = match (&dataset, entry) {
            (Some(_), Some(_)) if self.tokenizer.is_some() => {
                let what = "expected none for a dataset, which has its own";
                return Err(Usage(format!("--tokenizer: {what}")).into());
            }
            (Some(dataset), Some(entry)) => {
                let vocabulary = Vocabulary::of_dataset(self.path, entry)?;
                (entry.name.clone(), vocabulary, self.stored(dataset)?)
            }
            _ => {
                let name = self.tokenizer.unwrap_or(DEFAULT);
                let vocabulary = Vocabulary::open(name)?;
                let documents = self.encoded(&vocabulary, report)?;
                (name.to_owned(), vocabulary, documents)
            }
        };
        if documents.is_empty() {
            let (path, what) = (self.path.display(), "expected a document");
            match self.id {
                Some(id) => anyhow::bail!("{path}: {what} of id {id:?}, found none"),
                None => anyhow::bail!("{path}: {what}, found none"),
            }
        }
        let pieces = Pieces::of(&vocabulary)?;
        let underline = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        let mut shown = Vec::new();
        for Tokenized { id, source, tokens } in &documents {
            let count = tokens.len();
            let head = format!("document {id} from {source}");
            report.line(format!("{head}, {} tokens of {name}", format::count(count as u64)));
            let most = if self.id.is_some() { count } else { count.min(SHOWN_TOKENS) };
            let pieces_of = |tokens: &[u32]| -> Vec<Vec<u8>> {
                tokens.iter().map(|&token| pieces.bytes(token).to_vec()).collect()
            };
            let written = written(&pieces_of(&tokens[..most]), underline);
            written.lines().for_each(|line| report.line(format!("         {line}")));
            if most < count {
                let more = format::count((count - most) as u64);
                report.line(format!("         and {more} tokens more: see `--id`"));
            }
            let tokens: Vec<Value> = tokens
                .iter()
                .zip(pieces_of(tokens))
                .map(|(&id, bytes)| token(id, &bytes))
                .collect();
            shown.push(json!({ "id": id, "source": source, "tokens": tokens }));
        }
        report.json(json!({ "tokenizer": name, "documents": shown }));
        Ok(())
    }

    /// From the shards.
    fn stored(&self, dataset: &Dataset) -> anyhow::Result<Vec<Tokenized>> {
        let heads = match self.id {
            Some(id) => dataset.find(id)?.into_iter().collect(),
            None => dataset.head(0, self.samples)?,
        };
        let documents = heads.into_iter().map(|head| {
            let (id, source) = (head.id, head.source);
            Tokenized { id, source, tokens: head.tokens.unwrap_or_default() }
        });
        Ok(documents.collect())
    }

    /// From the texts, without EOS.
    fn encoded(
        &self,
        vocabulary: &Vocabulary,
        report: &mut Report,
    ) -> anyhow::Result<Vec<Tokenized>> {
        let options = Options { eos: EosPolicy::None, special_tokens: SpecialTokens::Parse };
        let tokenizer = Tokenizer::load(vocabulary, &options)?;
        if let Some(note) = tokenizer.note() {
            report.note(note);
        }
        let options = input::Options { on_error: input::OnError::Skip, ..Default::default() };
        let inputs = [self.path.to_string_lossy().into_owned()];
        let mut found = Vec::new();
        let most = if self.id.is_some() { 1 } else { self.samples };
        for source in input::discover(&inputs, &options, None)? {
            let mut cursor = Cursor::new(&source, &options, 1 << 20, &Arc::default());
            while found.len() < most
                && let Some(part) = cursor.next_part()?
            {
                let documents = part.parse(&options)?.documents;
                for at in 0..documents.len() {
                    let id = documents.ids.get(at);
                    if found.len() < most && self.id.is_none_or(|wanted| wanted == id) {
                        let mut tokens = Vec::new();
                        tokenizer.encode(documents.texts.get(at), &mut tokens)?;
                        let (id, source) = (id.to_owned(), documents.sources.get(at).to_owned());
                        found.push(Tokenized { id, source, tokens });
                    }
                }
            }
        }
        Ok(found)
    }
}

/// A token: its text if it is whole characters, and its bytes in hex.
fn token(id: u32, bytes: &[u8]) -> Value {
    json!({ "id": id, "text": std::str::from_utf8(bytes).ok(), "bytes": hex(bytes, "") })
}

fn hex(bytes: &[u8], between: &str) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(between)
}

/// Tokens one after the other; a line break of the text ends a line here too.
fn written(tokens: &[Vec<u8>], underline: bool) -> String {
    let mut out = String::new();
    for (place, bytes) in tokens.iter().enumerate() {
        let marked = underline && place % 2 == 1;
        if !underline && place > 0 {
            out.push('|');
        }
        if marked {
            out.push_str("\u{1b}[4m");
        }
        match std::str::from_utf8(bytes) {
            Err(_) => out += &format!("<{}>", hex(bytes, " ")),
            Ok(text) => {
                let mut rest = text.chars().peekable();
                while let Some(c) = rest.next() {
                    match c {
                        // Marks end with the line: what comes before it on the next is no token.
                        '\n' if marked && rest.peek().is_some() => {
                            out.push_str("⏎\u{1b}[24m\n\u{1b}[4m");
                        }
                        '\n' if marked => out.push_str("⏎\u{1b}[24m\n"),
                        '\n' => out.push_str("⏎\n"),
                        '\t' => out.push('→'),
                        '|' if !underline => out.push_str("\\|"),
                        c if c.is_control() => out += &format!("<{:02x}>", c as u32),
                        c => out.push(c),
                    }
                }
            }
        }
        if marked && !out.ends_with('\n') {
            out.push_str("\u{1b}[24m");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(tokens: &[&[u8]]) -> Vec<Vec<u8>> {
        tokens.iter().map(|bytes| bytes.to_vec()).collect()
    }

    #[test]
    fn boundaries_stand_between_tokens() {
        let all = tokens(&[b"a|b", b" c\n", b"\tx", b"\xe6\x97", b"\xa5", b"\n\n", b"\x07"]);
        assert_eq!(written(&all, false), "a\\|b| c⏎\n|→x|<e6 97>|<a5>|⏎\n⏎\n|<07>");
        let marked = written(&all, true);
        assert_eq!(
            marked,
            "a|b\u{1b}[4m c⏎\u{1b}[24m\n→x\u{1b}[4m<e6 97>\u{1b}[24m<a5>\
             \u{1b}[4m⏎\u{1b}[24m\n\u{1b}[4m⏎\u{1b}[24m\n<07>"
        );
    }

    #[test]
    fn a_part_of_a_character_has_bytes_and_no_text() {
        assert_eq!(token(7, b" a"), json!({ "id": 7, "text": " a", "bytes": "2061" }));
        assert_eq!(token(8, &[0xe6, 0x97]), json!({ "id": 8, "text": null, "bytes": "e697" }));
    }
}
