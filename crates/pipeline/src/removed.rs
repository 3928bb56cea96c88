//! `removed/`: a row for every document that went and every record that was no document.

use forebay_shard::manifest::{FileEntry, REMOVED};
use forebay_shard::{Removed, RemovedWriter, stable_id};
use forebay_store::create_dir;
use forebay_transform::dedup::minhash;

use crate::Result;
use crate::dedup::{Fate, Survivors};
use crate::spool::{Part, Row, first_documents};
use crate::work::Work;

/// Writes the list, in input order; nothing if nothing was left out.
pub(crate) fn run(work: &Work, parts: &[Part], survivors: &Survivors) -> Result<Vec<FileEntry>> {
    let skipped = parts.iter().any(|part| !part.footer.skipped.is_empty());
    let gone = (0..survivors.documents()).any(|d| survivors.fate(d) != Fate::Kept);
    if !skipped && !gone {
        return Ok(Vec::new());
    }
    create_dir(&work.out.join(REMOVED))?;
    let file = format!("{REMOVED}/removed-00000.parquet");
    let mut writer = RemovedWriter::create(&work.out.join(&file))?;
    let clusters = survivors.clusters();
    let places = Places::new(parts);
    for (number, part) in parts.iter().enumerate() {
        let first = places.firsts[number];
        for ordinal in 0..part.footer.documents {
            let document = first + ordinal;
            let fate = survivors.fate(document);
            let reason = match fate {
                Fate::Kept => continue,
                Fate::Empty => "empty",
                Fate::Exact => "exact",
                Fate::Fuzzy => "fuzzy",
            };
            let (id, source) = names(part, &part.row_of(ordinal)?)?;
            let mut removed = Removed { id: &id, source: &source, reason, ..Removed::default() };
            let survivor_id;
            if fate != Fate::Empty {
                let survivor = survivors.survivor(document);
                let (there, place) = places.of(survivor);
                survivor_id = names(there, &there.row_of(place)?)?.0;
                removed.survivor = Some(&survivor_id);
                removed.cluster = Some(u64::from(clusters[survivor as usize]));
                removed.jaccard = Some(match fate {
                    Fate::Exact if part.footer.signature == 0 => 1.0,
                    // An equal document may have gone to a cluster of similar ones.
                    _ => minhash::estimate(&part.sketch(ordinal)?, &there.sketch(place)?),
                });
            }
            writer.push(&removed)?;
        }
        for skipped in &part.footer.skipped {
            let id = stable_id(&skipped.source, skipped.position);
            writer.push(&Removed {
                id: &id,
                source: &skipped.source,
                reason: skipped.reason.name(),
                detail: Some(&skipped.detail),
                ..Removed::default()
            })?;
        }
    }
    writer.finish()?;
    Ok(vec![FileEntry::of(&work.out, &file)?])
}

/// Id and source of a row.
fn names(part: &Part, row: &Row) -> Result<(String, String)> {
    let mut bytes = part.data(&[Row { text_bytes: 0, ..*row }])?;
    let source = bytes.split_off(row.id_bytes as usize);
    let string = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok((string(bytes), string(source)))
}

/// Finds the part of a document.
struct Places<'a> {
    parts: &'a [Part],
    /// Number of the first document of each part.
    firsts: Vec<u32>,
}

impl<'a> Places<'a> {
    fn new(parts: &'a [Part]) -> Self {
        Self { parts, firsts: first_documents(parts) }
    }

    fn of(&self, document: u32) -> (&'a Part, u32) {
        // The last part that starts at or before it: parts without documents share their start.
        let number = self.firsts.partition_point(|&first| first <= document) - 1;
        (&self.parts[number], document - self.firsts[number])
    }
}
