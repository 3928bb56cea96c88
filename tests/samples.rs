//! Columns of every kind of sample, against the slow and obvious way to make them.

use forebay_load::{Batch, Config, Dtype, Ids, Loader, Sampling};

use crate::load::all_columns;
use crate::support::*;

const IGNORED: i64 = -100;

fn documents() -> Vec<Vec<i64>> {
    rows(prepared()).into_iter().map(|r| r.tokens.into_iter().map(i64::from).collect()).collect()
}

/// Checks every column of one row against the documents and the segments of `document_ids`.
struct Oracle<'a> {
    documents: &'a [Vec<i64>],
    joined: bool,
}

impl Oracle<'_> {
    /// `starts` — where in its document each segment begins; `cells` — the row in the batch.
    fn check(&self, batch: &Batch, row: usize, segments: &[(usize, usize, usize)]) {
        let seq_len = batch.seq_len;
        let cells = row * seq_len..(row + 1) * seq_len;
        let (mut ids, mut labels, mut positions) = (Vec::new(), Vec::new(), Vec::new());
        let (mut documents, mut mask) = (Vec::new(), Vec::new());
        let stream: Vec<i64> = segments
            .iter()
            .flat_map(|&(document, skip, tokens)| &self.documents[document][skip..skip + tokens])
            .copied()
            .collect();
        for &(document, skip, tokens) in segments {
            for at in skip..skip + tokens {
                let text = &self.documents[document];
                let next = text.get(at + 1).copied();
                ids.push(text[at]);
                mask.push(u8::from(next.is_some()));
                positions.push((at - skip) as i64);
                documents.push(document as i64);
                let across = self.joined.then(|| {
                    stream.get(ids.len()).copied().or_else(|| {
                        // The first token of the next document that has one.
                        self.documents[document + 1..].iter().flatten().next().copied()
                    })
                });
                labels.push(next.or(across.flatten()).unwrap_or(IGNORED));
            }
        }
        let padding = ids.len();
        positions.extend(0..(seq_len - padding) as i64);
        ids.resize(seq_len, i64::from(EOS));
        labels.resize(seq_len, IGNORED);
        documents.resize(seq_len, -1);
        mask.resize(seq_len, 0);
        assert_eq!(batch.input_ids.to_i64()[cells.clone()], ids);
        assert_eq!(batch.labels.to_i64()[cells.clone()], labels, "{segments:?}");
        assert_eq!(batch.position_ids.to_i64()[cells.clone()], positions);
        assert_eq!(batch.document_ids[cells.clone()], documents);
        assert_eq!(batch.loss_mask[cells.clone()], mask, "{segments:?}");

        let mut ends: Vec<i32> = Vec::new();
        let mut at = cells.start;
        for &(_, _, tokens) in segments {
            at += tokens;
            ends.push(at as i32);
        }
        if at < cells.end {
            ends.push(cells.end as i32);
        }
        let found: Vec<i32> = batch
            .cu_seqlens
            .iter()
            .copied()
            .filter(|&end| end > cells.start as i32 && end <= cells.end as i32)
            .collect();
        assert_eq!(found, ends);
    }

    fn check_lengths(batch: &Batch) {
        let lengths: Vec<i32> = batch.cu_seqlens.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(lengths.iter().all(|&length| length > 0), "{:?}", batch.cu_seqlens);
        assert_eq!(batch.cu_seqlens[0], 0);
        assert_eq!(batch.max_seqlen, *lengths.iter().max().unwrap());
    }
}

fn loader(sampling: Sampling, seq_len: usize, drop_last: bool) -> Loader {
    let config = Config {
        sampling,
        columns: all_columns(),
        drop_last,
        seed: Some(2),
        ..Config::new(seq_len, 5)
    };
    Loader::open(prepared(), config).unwrap()
}

#[test]
fn concat_is_the_stream_of_documents_cut() {
    let documents = documents();
    let oracle = Oracle { documents: &documents, joined: true };
    let places: Vec<(usize, usize)> = documents
        .iter()
        .enumerate()
        .flat_map(|(document, tokens)| (0..tokens.len()).map(move |at| (document, at)))
        .collect();
    for seq_len in [1, 33, 512] {
        let mut loader = loader(Sampling::Concat, seq_len, true);
        let mut batch = Batch::default();
        let steps = loader.steps().unwrap().min(400);
        for _ in 0..steps {
            loader.next_batch(&mut batch).unwrap();
            Oracle::check_lengths(&batch);
            for row in 0..5 {
                let first = batch.samples[row] as usize * seq_len;
                let mut segments: Vec<(usize, usize, usize)> = Vec::new();
                for &(document, at) in &places[first..first + seq_len] {
                    match segments.last_mut() {
                        Some(last) if last.0 == document => last.2 += 1,
                        _ => segments.push((document, at, 1)),
                    }
                }
                oracle.check(&batch, row, &segments);
            }
        }
    }
}

/// Where the stream ends with a row, its last token has no label.
#[test]
fn the_last_label_of_the_stream_is_ignored() {
    let config = Config { seed: None, columns: all_columns(), ..Config::new(1, 1) };
    let mut loader = Loader::open(prepared(), config).unwrap();
    loader.seek(loader.steps().unwrap() - 2);
    let mut batch = Batch::default();
    loader.next_batch(&mut batch).unwrap();
    let before = batch.labels.to_i64();
    loader.next_batch(&mut batch).unwrap();
    assert_eq!(before, batch.input_ids.to_i64());
    assert_eq!((batch.labels.to_i64(), &batch.loss_mask[..]), (vec![IGNORED], &[0][..]));
}

#[test]
fn documents_are_one_a_row() {
    let documents = documents();
    let oracle = Oracle { documents: &documents, joined: false };
    let mut loader = loader(Sampling::Documents, 700, false);
    let mut batch = Batch::default();
    let mut seen = vec![false; documents.len()];
    assert_eq!(loader.steps(), Some(documents.len().div_ceil(5) as u64));
    for _ in 0..loader.steps().unwrap() {
        loader.next_batch(&mut batch).unwrap();
        Oracle::check_lengths(&batch);
        for row in 0..5 {
            let Ok(document) = usize::try_from(batch.samples[row]) else {
                oracle.check(&batch, row, &[]);
                continue;
            };
            assert!(!std::mem::replace(&mut seen[document], true));
            oracle.check(&batch, row, &[(document, 0, documents[document].len().min(700))]);
        }
    }
    assert!(seen.iter().all(|seen| *seen), "the last batch is completed, not dropped");
    loader.next_batch(&mut batch).unwrap();
    assert_eq!(batch.epoch, 1);
}

#[test]
fn best_fit_tears_only_what_does_not_fit_and_loses_nothing() {
    let documents = documents();
    let oracle = Oracle { documents: &documents, joined: false };
    let dir = temp();
    for seq_len in [300, 2048] {
        let mut loader = loader(Sampling::BestFit, seq_len, false);
        let total: usize = documents.iter().map(Vec::len).sum();
        let fill = total as f64 / (loader.samples() as usize * seq_len) as f64;
        assert!(fill > 0.99, "{fill} at {seq_len}");
        // The plan in a file is the plan in memory.
        let stored = Config { plan_dir: Some(dir.path().into()), ..loader.config().clone() };
        let mut stored = Loader::open(prepared(), stored).unwrap();
        let mut again = Batch::default();
        let mut batch = Batch::default();
        let mut seen: Vec<Vec<bool>> = documents.iter().map(|d| vec![false; d.len()]).collect();
        for _ in 0..loader.steps().unwrap() {
            let parts: Vec<_> = loader.explain().unwrap();
            loader.next_batch(&mut batch).unwrap();
            stored.next_batch(&mut again).unwrap();
            assert_eq!(again, batch);
            Oracle::check_lengths(&batch);
            for (row, explained) in parts.iter().enumerate() {
                let mut segments = Vec::new();
                for part in &explained.parts {
                    let (document, tokens) = (part.document as usize, part.tokens as usize);
                    let (skip, whole) = (part.first_token as usize, documents[document].len());
                    assert!(tokens == whole || whole > seq_len, "{part:?} of {whole}");
                    for token in &mut seen[document][skip..skip + tokens] {
                        assert!(!std::mem::replace(token, true));
                    }
                    segments.push((document, skip, tokens));
                }
                oracle.check(&batch, row, &segments);
            }
        }
        assert!(seen.iter().flatten().all(|seen| *seen));
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
}

#[test]
fn a_type_of_ids_changes_no_id_and_columns_come_only_when_asked() {
    let open = |dtype, columns| {
        let config = Config { dtype, columns, ..Config::new(200, 7) };
        let mut loader = Loader::open(prepared(), config).unwrap();
        let mut batch = Batch::default();
        loader.next_batch(&mut batch).unwrap();
        batch
    };
    let wide = open(Dtype::I64, all_columns());
    let signed = open(Dtype::I32, all_columns());
    let plain = open(Dtype::U32, forebay_load::Columns::default());
    assert!(matches!(wide.labels, Ids::I64(_)) && matches!(signed.position_ids, Ids::I32(_)));
    assert!(matches!(plain.input_ids, Ids::U32(_)));
    assert_eq!(wide.input_ids.to_i64(), signed.input_ids.to_i64());
    assert_eq!(wide.input_ids.to_i64(), plain.input_ids.to_i64());
    assert_eq!(wide.labels.to_i64(), signed.labels.to_i64());
    assert!(plain.labels.is_empty() && plain.position_ids.is_empty());
    assert!(plain.cu_seqlens.is_empty() && plain.loss_mask.is_empty());
}

#[test]
fn explained_bytes_are_the_tokens_of_the_batch() {
    let mut batch = Batch::default();
    for sampling in [Sampling::Concat, Sampling::Documents, Sampling::BestFit] {
        let mut loader = loader(sampling, 700, true);
        loader.seek(3);
        let explained = loader.explain().unwrap();
        loader.next_batch(&mut batch).unwrap();
        let rows: Vec<Row> = rows(prepared());
        for (row, explained) in batch.rows().iter().zip(explained) {
            let mut tokens = Vec::new();
            for part in explained.parts {
                let bytes = std::fs::read(&part.shard).unwrap();
                let bytes = &bytes[part.first_byte as usize..part.end_byte as usize];
                let ids = bytes.as_chunks().0.iter().map(|&b| i64::from(u32::from_le_bytes(b)));
                let first = part.first_token as usize;
                let document =
                    &rows[part.document as usize].tokens[first..][..part.tokens as usize];
                assert!(ids.clone().eq(document.iter().map(|&id| i64::from(id))));
                tokens.extend(ids);
            }
            assert_eq!(row[..tokens.len()], tokens);
        }
    }
    let path = prepared().to_str().unwrap();
    let args = ["load", path, "--step", "3", "--rank", "1", "--world-size", "2", "--explain"];
    let ran = forebay(args).exits(0);
    assert!(ran.stdout.contains("slot 3: sample ") && ran.stdout.contains(".parquet bytes "));
    let json = forebay([&args[..], &["--json"]].concat()).exits(0).json();
    assert_eq!((json["step"].as_u64(), json["rows"][1]["slot"].as_u64()), (Some(3), Some(3)));
}
