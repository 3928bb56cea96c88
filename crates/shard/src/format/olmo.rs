//! OLMo, as dolma writes it: `part-N.npy` and `part-N.csv.gz`.
//!
//! `.npy`, in spite of its name: token ids end to end, **no header**; u16 for vocabularies up to
//! 65 536, u32 for larger ones. Readers are told the type (dolma's and OLMo's default is u16);
//! `manifest.json` says which. `.csv.gz`, gzip, no line of names, lines ended by CR LF, fields in
//! quotes where needed:
//!
//! | field | content |
//! |---|---|
//! | `start`, `end` | tokens of the file that the document is |
//! | `id` | its id |
//! | `src` | file it was read from |
//! | `loc` | place there: byte of a JSON line, row of a Parquet file (dolma: number of the line) |
//!
//! dolma starts another file at 2³⁰ tokens; `--shard-size` keeps ours as small as wanted.
//! Source: `python/dolma/tokenizer/memmap_writer.py` of dolma.

use std::io::{Read, Write};

use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;

use super::csv;
use super::flat::{Sidecar, Unit, Wrong, parts};
use crate::writer::Row;

pub(super) fn files(number: usize) -> Vec<String> {
    ["npy", "csv.gz"].map(|suffix| format!("part-{number:05}.{suffix}")).to_vec()
}

/// A line for every document.
pub(super) struct Table {
    tokens: u64,
    /// Without name and time: equal tables give equal bytes.
    packed: GzEncoder<Vec<u8>>,
}

impl Table {
    pub(super) fn new() -> Self {
        Self { tokens: 0, packed: GzEncoder::new(Vec::new(), Compression::default()) }
    }
}

impl Sidecar for Table {
    fn push(&mut self, row: &Row<'_>) -> Result<(), [String; 3]> {
        let start = self.tokens;
        self.tokens += row.tokens.len() as u64;
        let [start, end, loc] = [start, self.tokens, row.position].map(|n| n.to_string());
        let line = csv::line(&[&start, &end, row.id, row.source, &loc]);
        let written = self.packed.write_all(line.as_bytes());
        written.map_err(|error| ["table".into(), "memory for it".into(), error.to_string()])
    }

    fn finish(self: Box<Self>) -> Vec<Vec<u8>> {
        // Into memory: there is no error to be had.
        vec![self.packed.finish().unwrap_or_default()]
    }
}

pub(super) fn read(files: &[&[u8]]) -> Result<Unit, Wrong> {
    let [_, packed] = parts(files)?;
    let mut text = String::new();
    let unpacked = MultiGzDecoder::new(packed).read_to_string(&mut text);
    unpacked.map_err(|error| Wrong::new(1, "text", "gzip of UTF-8", error))?;
    let (mut ends, mut names, mut last) = (Vec::new(), Vec::new(), 0);
    for (line, mut fields) in csv::lines(&text).enumerate() {
        let number = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok());
        let (Some(start), Some(end), Some(_), 5) = (number(0), number(1), number(4), fields.len())
        else {
            let expected = "start,end,id,src,loc";
            return Err(Wrong::new(1, format!("line {line}"), expected, fields.join(",")));
        };
        if start != last {
            return Err(Wrong::new(1, format!("start in line {line}"), last, start));
        }
        last = end;
        ends.push(end);
        names.push([2, 3].map(|at| std::mem::take(&mut fields[at])));
    }
    Ok(Unit { names, ..Unit::of_ends(ends)? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::flat::row;

    #[test]
    fn names_come_back_whatever_they_hold() {
        let ids = ["plain", "a,b", "say \"x\"", "two\nlines", "\r", " spaced ", "", "ünï"];
        let mut sidecar = Box::new(Table::new());
        ids.iter().for_each(|id| sidecar.push(&row(id, &[1, 2])).unwrap());
        let unit = read(&[&[], &sidecar.finish()[0]]).unwrap();
        assert_eq!(unit.lengths, [2; 8]);
        assert_eq!(unit.names.iter().map(|[id, _]| id.as_str()).collect::<Vec<_>>(), ids);
        assert!(unit.names.iter().all(|[_, source]| source == "in.jsonl"));
    }

    #[test]
    fn lines_with_gaps_and_other_fields_are_refused() {
        let pack = |text: &str| {
            let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
            packed.write_all(text.as_bytes()).unwrap();
            packed.finish().unwrap()
        };
        let read = |text: &str| read(&[&[], &pack(text)]);
        assert_eq!(read("0,3,a,s,1\r\n3,4,b,s,2\r\n").unwrap().lengths, [3, 1]);
        for wrong in ["1,3,a,s,1\r\n", "0,3,a,s,1\r\n4,5,b,s,2\r\n", "0,x,a,s,1\r\n", "0,1\r\n"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        assert!(read("0,3,a,s,1\r\n3,2,a,s,1\r\n").is_err(), "it ends before it starts");
        assert!(super::read(&[&[], b"no gzip"]).is_err());
    }
}
