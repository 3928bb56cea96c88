//! Through the public face, over ffrecord files that are made here: sources, streams, metrics.

#![allow(clippy::unwrap_used, reason = "a test that unwraps says where it failed")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use forebay_load::{Batch, Columns, Config, Error, Loader, OnCorrupt, Result, Sampling, TokenType};
use futures_core::Stream;

/// Documents of many lengths, empty ones too.
fn documents() -> Vec<Vec<u16>> {
    (0..200_u16).map(|n| (0..n % 7 * (n % 41)).map(|at| n * 300 + at).collect()).collect()
}

/// CRC-32 as its definition has it, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc: u32, _| {
            (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
        })
    })
}

/// As ffrecord's `FileWriter` lays a file out.
fn write(path: &Path, documents: &[Vec<u16>]) {
    let samples: Vec<Vec<u8>> =
        documents.iter().map(|ids| ids.iter().flat_map(|id| id.to_le_bytes()).collect()).collect();
    let count = samples.len();
    let mut header = (count as u64).to_le_bytes().to_vec();
    samples.iter().for_each(|sample| header.extend(crc32(sample).to_le_bytes()));
    let mut at = 12 + 12 * count as u64;
    for sample in &samples {
        header.extend(at.to_le_bytes());
        at += sample.len() as u64;
    }
    // No checksum of the header, as in old files.
    std::fs::write(path, [&[0; 4][..], &header, &samples.concat()].concat()).unwrap();
}

fn dataset() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let documents = documents();
    let (one, two) = documents.split_at(77);
    write(&dir.path().join("b.ffr"), two);
    write(&dir.path().join("a.ffr"), one);
    std::fs::write(dir.path().join("notes.txt"), "no records").unwrap();
    dir
}

fn config(prefetch: usize) -> Config {
    let token_type = Some(TokenType::U16);
    Config { token_type, prefetch, seed: None, ..Config::new(64, 3) }
}

#[test]
fn records_are_documents_in_the_order_of_their_files() {
    let dir = dataset();
    let stream: Vec<i64> = documents().concat().into_iter().map(i64::from).collect();
    let mut loader = Loader::open(dir.path(), config(0)).unwrap();
    assert_eq!(loader.samples(), (stream.len() / 64) as u64);
    let mut batch = Batch::default();
    for step in 0..loader.steps().unwrap() as usize {
        loader.next_batch(&mut batch).unwrap();
        assert_eq!(batch.input_ids.to_i64(), stream[step * 3 * 64..][..3 * 64]);
    }
    // One file alone; a row a document.
    let columns = Columns { document_ids: true, ..Columns::default() };
    let config = Config { sampling: Sampling::Documents, pad: Some(9), columns, ..config(0) };
    let mut loader = Loader::open(&dir.path().join("a.ffr"), config).unwrap();
    for (step, expected) in documents()[..77].chunks_exact(3).enumerate() {
        loader.next_batch(&mut batch).unwrap();
        for (row, (found, ids)) in batch.rows().iter().zip(expected).enumerate() {
            let kept = ids.len().min(64);
            let expected = ids[..kept].iter().map(|&id| i64::from(id));
            assert!(found.iter().copied().eq(expected.chain(std::iter::repeat_n(9, 64 - kept))));
            assert_eq!(batch.document_ids[64 * row] == -1, kept == 0, "{step}");
        }
    }
}

#[test]
fn a_state_fits_the_records_it_is_of_and_no_others() {
    let dir = dataset();
    let mut loader = Loader::open(dir.path(), config(2)).unwrap();
    loader.next_batch(&mut Batch::default()).unwrap();
    let state = loader.state().clone();
    Loader::open(dir.path(), config(0)).unwrap().load_state(&state).unwrap();
    let mut more = documents();
    more.pop();
    write(&dir.path().join("b.ffr"), &more);
    let error = Loader::open(dir.path(), config(0)).unwrap().load_state(&state).unwrap_err();
    assert!(matches!(error, Error::OtherDataset { .. }), "{error}");
}

#[test]
fn records_of_no_type_or_another_one_are_refused() {
    let dir = dataset();
    let open = |token_type| Loader::open(dir.path(), Config { token_type, ..config(0) });
    let error = open(None).unwrap_err();
    assert!(error.to_string().contains("type of a token: expected one that is given"), "{error}");
    assert!(error.hint().unwrap().contains("--token-type u16"));
    let error = open(Some(TokenType::I64)).unwrap_err().to_string();
    assert!(error.contains("a.ffr: sample 1: expected tokens of i64"), "{error}");
}

#[test]
fn a_flipped_bit_of_a_record_is_found_by_its_checksum() {
    let dir = dataset();
    let b = dir.path().join("b.ffr");
    let open = |on_corrupt, prefetch| {
        let config = Config { verify: true, on_corrupt, seed: Some(2), ..config(prefetch) };
        Loader::open(dir.path(), config).unwrap()
    };
    let epoch = |mut loader: Loader| {
        let mut batches = Vec::new();
        for _ in 0..loader.steps().unwrap() {
            let mut batch = Batch::default();
            loader.next_batch(&mut batch)?;
            batches.push(batch);
        }
        Ok::<_, Error>((batches, loader.state().clone()))
    };
    let (sound, state) = epoch(open(OnCorrupt::Fail, 0)).unwrap();
    assert!(state.replaced.is_empty());

    // The last byte of all, of the last record.
    let mut bytes = std::fs::read(&b).unwrap();
    let size = bytes.len();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&b, &bytes).unwrap();
    let tokens = documents()[199].len();
    let error = epoch(open(OnCorrupt::Fail, 2)).unwrap_err();
    let place = format!("b.ffr: bytes {} to {size} hash to", size - 2 * tokens);
    assert!(error.is_corrupt() && error.to_string().contains(&place), "{error}");
    assert!(error.hint().unwrap().contains("--on-corrupt skip"));
    let (found, state) = epoch(open(OnCorrupt::Skip, 2)).unwrap();
    let stream = documents().concat().len() as u64;
    let first = (stream - tokens as u64) / 64;
    // Every sample that holds a token of it, and no other, has one in its place.
    let hit: Vec<i64> = (first as i64..(stream / 64) as i64).collect();
    let mut replaced: Vec<i64> = state.replaced.iter().map(|r| r.sample as i64).collect();
    replaced.sort_unstable();
    let drawn: Vec<i64> = sound.iter().flat_map(|batch| batch.samples.clone()).collect();
    let expected: Vec<i64> = hit.iter().copied().filter(|sample| drawn.contains(sample)).collect();
    assert!(!expected.is_empty());
    assert_eq!(replaced, expected);
    for (a, b) in sound.iter().zip(&found) {
        for (slot, (before, after)) in a.samples.iter().zip(&b.samples).enumerate() {
            assert_eq!(before == after, !hit.contains(before));
            assert!(!hit.contains(after));
            assert!(before != after || a.rows()[slot] == b.rows()[slot]);
        }
    }
}

/// Parks until woken, and counts.
struct Parked {
    thread: Thread,
    woken: AtomicUsize,
}

impl Wake for Parked {
    fn wake(self: Arc<Self>) {
        self.woken.fetch_add(1, Ordering::SeqCst);
        self.thread.unpark();
    }
}

/// The next batch, and how often it was asked for.
fn next<S: Stream<Item = Result<Batch>> + Unpin>(
    stream: &mut S,
    parked: &Arc<Parked>,
) -> (Batch, usize) {
    let waker = Waker::from(Arc::clone(parked));
    let mut context = Context::from_waker(&waker);
    for polls in 1.. {
        let before = parked.woken.load(Ordering::SeqCst);
        match Pin::new(&mut *stream).poll_next(&mut context) {
            Poll::Ready(batch) => return (batch.unwrap().unwrap(), polls),
            // A wake-up that is lost hangs here for ever, and the runner says so.
            Poll::Pending => {
                while parked.woken.load(Ordering::SeqCst) == before {
                    std::thread::park();
                }
            }
        }
    }
    unreachable!("it polls for ever")
}

#[test]
fn a_stream_holds_what_an_iterator_holds_and_wakes_who_waits() {
    let dir = dataset();
    let parked = Arc::new(Parked { thread: std::thread::current(), woken: AtomicUsize::new(0) });
    for (prefetch, threads) in [(0, 1), (1, 1), (4, 3)] {
        let config = Config { threads, seed: Some(5), ..config(prefetch) };
        let expected = Loader::open(dir.path(), config.clone()).unwrap().into_iter();
        let mut stream = Loader::open(dir.path(), config).unwrap().into_iter();
        for expected in expected.take(500) {
            let (found, polls) = next(&mut stream, &parked);
            assert_eq!(found, expected.unwrap());
            assert!(prefetch > 0 || polls == 1, "without threads there is nothing to wait for");
        }
        let loader = stream.into_inner();
        assert_eq!((loader.step(), loader.stats().steps), (500, 500));
    }
}

#[test]
fn an_error_comes_through_a_stream_and_the_stream_goes_on() {
    let dir = dataset();
    let parked = Arc::new(Parked { thread: std::thread::current(), woken: AtomicUsize::new(0) });
    let mut stream = Loader::open(dir.path(), config(2)).unwrap().into_iter();
    let (a, away) = (dir.path().join("a.ffr"), dir.path().join("away"));
    std::fs::rename(&a, &away).unwrap();
    let waker = Waker::from(Arc::clone(&parked));
    let mut context = Context::from_waker(&waker);
    let error = loop {
        match Pin::new(&mut stream).poll_next(&mut context) {
            Poll::Ready(Some(found)) => break found.unwrap_err(),
            Poll::Ready(None) => unreachable!("it has no end"),
            Poll::Pending => std::thread::park_timeout(std::time::Duration::from_millis(10)),
        }
    };
    assert!(error.to_string().contains("a.ffr"), "{error}");
    std::fs::rename(&away, &a).unwrap();
    let (batch, _) = next(&mut stream, &parked);
    assert_eq!(batch.step, 0, "it stayed where it was");
}

#[test]
fn served_numbers_are_those_of_the_loader() {
    let dir = dataset();
    let mut loader = Loader::open(dir.path(), config(0)).unwrap();
    let address = loader.serve_metrics("127.0.0.1:0".parse().unwrap()).unwrap();
    let ask = || {
        let mut connection = TcpStream::connect(address).unwrap();
        connection.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
        let mut text = String::new();
        connection.read_to_string(&mut text).unwrap();
        text
    };
    assert!(ask().contains("forebay_load_tokens_total 0\n"));
    for _ in 0..5 {
        loader.next_batch(&mut Batch::default()).unwrap();
    }
    let text = ask();
    assert!(text.contains("forebay_load_tokens_total 960\n"), "{text}");
    assert!(text.ends_with(&loader.stats().prometheus()));
    drop(loader);
    assert!(TcpStream::connect(address).is_err());
}
