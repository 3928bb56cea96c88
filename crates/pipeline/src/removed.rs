//! `removed/`: a row for every document that went and every record that was no document.

use forebay_shard::manifest::{FileEntry, LargeCluster, REMOVED};
use forebay_shard::{Removed, RemovedWriter, stable_id};
use forebay_store::create_dir;

use crate::Result;
use crate::outcome::Outcome;
use crate::spool::Row;
use crate::survivors::Fate;
use crate::work::Work;

/// Writes the list, in input order; nothing if nothing was left out.
pub(crate) fn run(work: &Work, outcome: &Outcome<'_>) -> Result<Vec<FileEntry>> {
    let Outcome { corpus, survivors, clustering, cuts } = outcome;
    let cuts = cuts.all();
    let skipped = corpus.own().any(|(part, _)| !part.footer.skipped.is_empty());
    let matched = corpus.own().any(|(part, _)| !part.footer.matches.is_empty());
    let gone = (corpus.old()..corpus.documents()).any(|d| !survivors.stays(d));
    if !skipped && !matched && !gone && cuts.is_empty() {
        return Ok(Vec::new());
    }
    create_dir(&work.out.join(REMOVED))?;
    let file = format!("{REMOVED}/removed-00000.parquet");
    let mut writer = RemovedWriter::create(&work.out.join(&file))?;
    let files = work.plan.files().map(|file| file.is_shard.then(|| file.name()));
    let files: Vec<Option<String>> = files.collect();
    // What comes from an index was read by another run.
    let shard = |document: u32, row: &Row| {
        let own = document >= corpus.old();
        files.get(row.file as usize).filter(|_| own).and_then(Option::as_deref)
    };
    let mut cuts = cuts.iter().peekable();
    for (part, first) in corpus.own() {
        let mut matches = part.footer.matches.iter().peekable();
        for ordinal in 0..part.footer.documents {
            let document = first + ordinal;
            let fate = survivors.fate(document);
            let found = matches.next_if(|found| found.ordinal == ordinal);
            let mut removed = Removed { reason: fate.name(), ..Removed::default() };
            let (id, source, row, survivor_names);
            let is_cut = cuts.peek().is_some_and(|cut| cut.document == document);
            let stays = survivors.stays(document);
            if stays && found.is_none() && !is_cut {
                continue;
            }
            row = part.row_of(ordinal)?;
            (id, source) = part.names(&row)?;
            (removed.id, removed.source) = (&id, &source);
            removed.position = Some(row.position);
            removed.file = shard(document, &row);
            if !stays {
                if fate == Fate::Cut {
                    if let Some(cut) = cuts.peek() {
                        let (there, row) = corpus.row(cut.first)?;
                        survivor_names = there.names(&row)?;
                        removed.survivor = Some(&survivor_names.0);
                        removed.survivor_source = Some(&survivor_names.1);
                        removed.survivor_position = Some(row.position);
                        removed.survivor_file = shard(cut.first, &row);
                    }
                } else if let Some(cluster) = clustering.of(document) {
                    let survivor = survivors.survivor(document);
                    let (there, row) = corpus.row(survivor)?;
                    survivor_names = there.names(&row)?;
                    removed.survivor = Some(&survivor_names.0);
                    removed.survivor_source = Some(&survivor_names.1);
                    removed.survivor_position = Some(row.position);
                    removed.survivor_file = shard(survivor, &row);
                    removed.cluster = Some(u64::from(cluster));
                    removed.cluster_size = Some(clustering.size(cluster));
                    removed.jaccard = survivors.jaccard(document);
                    removed.jaccard_estimated = corpus.estimate(document, survivor)?;
                }
                removed.detail = found.map(|found| found.detail.as_str());
                writer.push(&removed)?;
            } else if let Some(found) = found {
                // It stays: the user wanted to know.
                let detail = Some(found.detail.as_str());
                writer.push(&Removed { reason: "eval-reported", detail, ..removed })?;
            }
            while let Some(cut) = cuts.next_if(|cut| cut.document == document) {
                if fate == Fate::Cut {
                    continue;
                }
                let (there, row) = corpus.row(cut.first)?;
                let (first, first_source) = there.names(&row)?;
                let detail = format!("bytes {}..{}", cut.start, cut.end);
                writer.push(&Removed {
                    reason: cut.reason.name(),
                    survivor: Some(&first),
                    survivor_source: Some(&first_source),
                    survivor_position: Some(row.position),
                    survivor_file: shard(cut.first, &row),
                    file: removed.file,
                    detail: Some(&detail),
                    id: &id,
                    source: &source,
                    position: removed.position,
                    ..Removed::default()
                })?;
            }
        }
        for skipped in &part.footer.skipped {
            let id = stable_id(&skipped.source, skipped.position);
            writer.push(&Removed {
                id: &id,
                source: &skipped.source,
                reason: skipped.reason.name(),
                position: Some(skipped.position),
                detail: Some(&skipped.detail),
                ..Removed::default()
            })?;
        }
    }
    writer.finish()?;
    Ok(vec![FileEntry::of(&work.out, &file)?])
}

/// Clusters of so many documents are shown to the user.
const LARGE: u32 = 100;
const SHOWN_CLUSTERS: usize = 10;
const SHOWN_DOCUMENTS: usize = 3;
const SHOWN_CHARACTERS: usize = 160;

/// The largest clusters, with the beginnings of some of their documents.
pub(crate) fn large_clusters(outcome: &Outcome<'_>) -> Result<Vec<LargeCluster>> {
    let Outcome { corpus, survivors, clustering, .. } = outcome;
    let mut large: Vec<(u32, u32)> = clustering.at_least(LARGE).collect();
    large.sort_unstable_by_key(|&(number, size)| (u32::MAX - size, number));
    large.truncate(SHOWN_CLUSTERS);
    let mut members: Vec<Vec<u32>> = vec![Vec::new(); large.len()];
    for document in 0..survivors.documents() {
        let place = large.iter().position(|&(number, _)| clustering.of(document) == Some(number));
        if let Some(members) = place.map(|place| &mut members[place])
            && members.len() < SHOWN_DOCUMENTS
        {
            members.push(document);
        }
    }
    let mut shown = Vec::new();
    for (&(cluster, size), members) in large.iter().zip(members) {
        let survivor = corpus.names(survivors.survivor(members[0]))?.0;
        let mut samples = Vec::new();
        for document in members {
            let text = corpus.text(document)?;
            if text.is_empty() {
                // Texts are not stored.
                continue;
            }
            let words: Vec<&str> = text.split_whitespace().take(SHOWN_CHARACTERS).collect();
            samples.push(words.join(" ").chars().take(SHOWN_CHARACTERS).collect());
        }
        shown.push(LargeCluster { cluster: u64::from(cluster), size, survivor, samples });
    }
    Ok(shown)
}
