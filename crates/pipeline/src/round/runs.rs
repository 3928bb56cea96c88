//! A sorted run: rows by key, in pieces of equal ranges of keys, so that whoever wants a range reads
//! and checks that and little more.
//!
//! ```text
//! rows of piece 0 │ of piece 1 │ …    sorted
//! table                               rows before each piece and its checksum, 16 B each
//! first key, last key, rows, checksum of the table and these, 8 B each
//! ```

use std::path::Path;

use bytemuck::{Pod, Zeroable};
use forebay_store::{File, NewFile};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::Result;
use crate::dedup::Keys;
use crate::sort::Record;

/// Rows of a piece, about: what is read at most for one row of it.
const PIECE_ROWS: u64 = 4096;
/// As many as the shares of the largest runs.
const MOST_PIECES: u64 = 16 << 10;
const END_BYTES: u64 = 32;

#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Piece {
    before: u64,
    checksum: u64,
}

/// A run on its way to its file.
pub(super) struct Run {
    file: NewFile,
    keys: Keys,
    /// Of how many it will be.
    pieces: u64,
    rows: u64,
    table: Vec<Piece>,
    checksum: Xxh3,
}

fn piece_of(keys: Keys, pieces: u64, key: u64) -> u64 {
    let span = u128::from(keys.last - keys.first) + 1;
    (u128::from(key - keys.first) * u128::from(pieces) / span) as u64
}

impl Run {
    /// Of about `expected` rows, whose keys are among `keys`.
    pub(super) fn create(path: &Path, keys: Keys, expected: u64) -> Result<Self> {
        let pieces = (expected / PIECE_ROWS).clamp(1, MOST_PIECES);
        let file = NewFile::create(path)?;
        let table = vec![Piece { before: 0, checksum: 0 }];
        Ok(Self { file, keys, pieces, rows: 0, table, checksum: Xxh3::new() })
    }

    /// Takes rows that sort behind all that came before.
    pub(super) fn append<R: Record>(&mut self, rows: &[R]) -> Result<()> {
        let piece = |row: &R| piece_of(self.keys, self.pieces, row.key());
        let (keys, pieces) = (self.keys, self.pieces);
        debug_assert!(rows.is_sorted_by_key(piece), "runs are written in order");
        for rows in
            rows.chunk_by(|a, b| piece_of(keys, pieces, a.key()) == piece_of(keys, pieces, b.key()))
        {
            self.close_before(piece_of(keys, pieces, rows[0].key()));
            let bytes = bytemuck::cast_slice(rows);
            self.checksum.update(bytes);
            self.file.append(bytes)?;
            self.rows += rows.len() as u64;
        }
        Ok(())
    }

    /// Ends all pieces before number `piece`.
    fn close_before(&mut self, piece: u64) {
        while (self.table.len() as u64) <= piece {
            if let Some(last) = self.table.last_mut() {
                last.checksum = std::mem::replace(&mut self.checksum, Xxh3::new()).digest();
            }
            self.table.push(Piece { before: self.rows, checksum: 0 });
        }
    }

    pub(super) fn publish(mut self) -> Result<()> {
        // One more, for where the last one ends.
        self.close_before(self.pieces);
        let end = [self.keys.first, self.keys.last, self.rows];
        let mut tail: Vec<u8> = bytemuck::cast_slice(&self.table).to_vec();
        tail.extend_from_slice(bytemuck::cast_slice(&end));
        tail.extend_from_slice(&xxh3_64(&tail).to_le_bytes());
        self.file.append(&tail)?;
        Ok(self.file.publish()?)
    }
}

/// Hands out the rows of the run at `path` whose keys are among `keys`, in order.
pub(super) fn each<R: Record>(
    path: &Path,
    keys: Keys,
    mut take: impl FnMut(&[R]) -> Result<()>,
) -> Result<()> {
    let torn = || {
        let what = "expected a sorted run and its checksums, found others; delete it and do the task again";
        crate::Error::from(forebay_shard::Error::file(path, what))
    };
    let file = File::open(path)?;
    let end_at = file.size().checked_sub(END_BYTES).ok_or_else(torn)?;
    let end: Vec<u64> = bytemuck::pod_collect_to_vec(&file.read(end_at, END_BYTES as usize)?);
    let (of_run, rows) = (Keys { first: end[0], last: end[1] }, end[2]);
    let table_at =
        rows.checked_mul(size_of::<R>() as u64).filter(|&at| at <= end_at).ok_or_else(torn)?;
    let length = usize::try_from(file.size() - table_at).map_err(|_| torn())?;
    let tail = file.read(table_at, length)?;
    let (checked, checksum) = tail.split_last_chunk::<8>().ok_or_else(torn)?;
    let table = &checked[..checked.len() - 24];
    if xxh3_64(checked) != u64::from_le_bytes(*checksum)
        || table.len() % size_of::<Piece>() != 0
        || of_run.last < of_run.first
    {
        return Err(torn());
    }
    let table: Vec<Piece> = bytemuck::pod_collect_to_vec(table);
    let pieces = (table.len() as u64).saturating_sub(1);
    let (first, last) = (keys.first.max(of_run.first), keys.last.min(of_run.last));
    if first > last || rows == 0 {
        return Ok(());
    }
    let wanted = piece_of(of_run, pieces, first)..=piece_of(of_run, pieces, last);
    for piece in wanted {
        let Some([start, next]) = table.get(piece as usize..).and_then(<[Piece]>::first_chunk)
        else {
            return Err(torn());
        };
        let count = next.before.checked_sub(start.before).ok_or_else(torn)? as usize;
        let bytes = file.read(start.before * size_of::<R>() as u64, count * size_of::<R>())?;
        if xxh3_64(&bytes) != start.checksum {
            return Err(torn());
        }
        let found: Vec<R> = bytemuck::pod_collect_to_vec(&bytes);
        let from = found.partition_point(|row| row.key() < first);
        let to = found.partition_point(|row| row.key() <= last);
        if from < to {
            take(&found[from..to])?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Pod, Zeroable)]
    #[repr(C)]
    struct Row(u64, u64);

    impl Record for Row {
        fn key(&self) -> u64 {
            self.0
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_range_of_a_run_is_what_a_filter_finds(
            mut keys in prop::collection::vec(10..60_u64, 0..300),
            expected in prop::sample::select(vec![0, 5 * PIECE_ROWS, 200 * PIECE_ROWS]),
            bounds in prop::collection::vec(0..70_u64, 2),
            cut in 1..40_usize,
        ) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("run");
            keys.sort_unstable();
            let rows: Vec<Row> = keys.iter().zip(0..).map(|(&key, n)| Row(key, n)).collect();
            let mut run = Run::create(&path, Keys { first: 10, last: 59 }, expected).unwrap();
            rows.chunks(cut).for_each(|rows| run.append(rows).unwrap());
            run.publish().unwrap();
            let (first, last) = (bounds[0].min(bounds[1]), bounds[0].max(bounds[1]));
            let mut found = Vec::new();
            each::<Row>(&path, Keys { first, last }, |rows| {
                found.extend_from_slice(rows);
                Ok(())
            }).unwrap();
            let wanted: Vec<Row> =
                rows.iter().copied().filter(|row| (first..=last).contains(&row.0)).collect();
            prop_assert_eq!(found, wanted);

            // Whatever byte is torn, it is found out or was not asked for.
            let bytes = std::fs::read(&path).unwrap();
            for at in [0, bytes.len() / 2, bytes.len() - 1] {
                let mut torn = bytes.clone();
                torn[at] ^= 1;
                std::fs::write(&path, torn).unwrap();
                let read = each::<Row>(&path, Keys { first: 10, last: 59 }, |_| Ok(()));
                prop_assert!(read.is_err(), "byte {}", at);
            }
            std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
            let read = each::<Row>(&path, Keys { first: 10, last: 59 }, |_| Ok(()));
            prop_assert!(read.is_err());
        }
    }
}
