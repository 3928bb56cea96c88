//! Azure and Google through the binary, against real servers: Azurite, which Microsoft makes, and
//! fake-gcs-server. The rest of what they have in common is tested in `forebay-store`.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::remote::bytes;
use crate::support::{Ran, binary, forebay, hashes, ran, sample, temp};

/// Allows all for everybody who has Azurite, whose account and key everybody knows.
const SAS: &str = "sv=2019-12-12&ss=b&srt=sco&sp=rwdlacup&se=2099-01-01T00%3A00%3A00Z&sig=53KNW8wisqIzEhHxbNRwkTIW79YBAlY9IvHF5Bl43H4%3D";

/// What of it nobody may see.
const SIGNATURE: &str = "sig=";

struct Server {
    child: Child,
    address: String,
    dir: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// A program that `variable` names, or that is in `PATH`; listens on the port that `args` gets.
    fn start(variable: &str, name: &str, args: impl Fn(&Path, u16) -> Vec<String>) -> Option<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let named = std::env::var_os(variable).map(PathBuf::from);
        let places = std::env::split_paths(&path).map(|place| place.join(name));
        let Some(program) = named.into_iter().chain(places).find(|program| program.is_file())
        else {
            eprintln!("skipped: no `{name}` in PATH or {variable}");
            return None;
        };
        let dir = temp();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = Command::new(program);
        command.args(args(dir.path(), port)).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().unwrap();
        let server = Self { child, address: format!("127.0.0.1:{port}"), dir };
        let until = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect(&server.address).is_err() {
            assert!(Instant::now() < until, "{name} did not start");
            std::thread::sleep(Duration::from_millis(50));
        }
        Some(server)
    }

    fn send(&self, method: &str, path: &str, kind: &str, body: &[u8]) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let (host, length) = (&self.address, body.len());
        write!(stream, "{method} {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n").unwrap();
        stream.write_all(body).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 2"), "{answer}");
    }

    /// Runs the binary with variables that lead here; nothing it says may hold a signature.
    #[track_caller]
    fn run(&self, variables: &[(&str, &str)], args: &[&str]) -> Ran {
        let mut command = binary();
        command.args(args).stdin(Stdio::null()).envs(variables.iter().copied());
        command.env("FOREBAY_CACHE", self.dir.path().join("cache"));
        let ran = ran(&mut command);
        assert!(!format!("{ran:?}").contains(SIGNATURE), "{ran:?}");
        ran
    }
}

#[test]
fn azure_is_as_good_as_a_disk() {
    let azurite = |dir: &Path, port: u16| {
        let args = ["--silent", "--disableTelemetry", "--skipApiVersionCheck", "--blobPort"];
        let (port, dir) = (port.to_string(), dir.join("az").display().to_string());
        args.into_iter().chain([port.as_str(), "--location", &dir]).map(str::to_owned).collect()
    };
    let Some(server) = Server::start("FOREBAY_AZURITE", "azurite-blob", azurite) else { return };
    for container in ["data", "more"] {
        let path = format!("/devstoreaccount1/{container}?restype=container&{SAS}");
        server.send("PUT", &path, "text/plain", b"");
    }
    let endpoint = format!("http://{}/devstoreaccount1", server.address);
    let connection = format!("BlobEndpoint={endpoint};SharedAccessSignature={SAS}");
    // By a signature in the URL; then by the key that everybody knows.
    let by_sas = [
        ("AZURE_STORAGE_CONNECTION_STRING", connection.as_str()),
        ("AZURE_STORAGE_ACCOUNT", "devstoreaccount1"),
    ];
    let (emulator, address) = ("AZURE_STORAGE_USE_EMULATOR", format!("http://{}", server.address));
    let by_key = [(emulator, "true"), ("AZURITE_BLOB_STORAGE_URL", address.as_str())];
    let dir = temp();
    let from = dir.path().join("from");
    fs::create_dir_all(from.join("a")).unwrap();
    fs::write(from.join("a/large"), bytes(20_000_001)).unwrap();
    fs::write(from.join("one two"), b"12").unwrap();
    let source = from.to_str().unwrap();
    for (variables, place) in [(by_sas, "az://data/sas"), (by_key, "az://data/key")] {
        let run = |args: &[&str]| server.run(&variables, args).exits(0);
        let json = run(&["fs", "cp", source, place, "--verify", "--json"]).json();
        assert_eq!((&json["copied"], &json["verified"]), (&2.into(), &2.into()), "{json}");
        let json = run(&["fs", "sync", source, place, "--json"]).json();
        assert_eq!((&json["copied"], &json["skipped"]), (&0.into(), &2.into()), "{json}");
        let more = place.replace("data", "more");
        run(&["fs", "sync", place, &more, "--verify"]);
        let back = dir.path().join(more.rsplit('/').next().unwrap());
        run(&["fs", "cp", &more, back.to_str().unwrap(), "--verify"]);
        assert_eq!(hashes(&back), hashes(&from));
        let json = run(&["fs", "ls", place, "--json"]).json();
        assert_eq!(json["entries"].as_array().unwrap().len(), 2, "{json}");
        let json = run(&["fs", "du", place, "--json"]).json();
        assert_eq!((&json["files"], &json["bytes"]), (&2.into(), &20_000_003.into()));
        assert_eq!(run(&["fs", "cat", &format!("{place}/one two")]).stdout, "12");
        assert_eq!(run(&["fs", "rm", place, "--recursive", "--json"]).json()["removed"], 2);
    }
    let run = |args: &[&str]| server.run(&by_sas, args);
    run(&["fs", "stat", "az://data/key/one two"]).complains(&["az://data/key/one two"]);

    // Inputs, outputs and datasets.
    let text = sample().join("prose.jsonl");
    run(&["fs", "cp", text.to_str().unwrap(), "az://data/raw/"]).exits(0);
    let prep = ["prep", "az://data/raw/*.jsonl", "--out", "az://data/corpus", "--json"];
    let made = run(&prep).exits(0).json();
    assert!(made["out"] == "az://data/corpus" && made["tokens"].as_u64().unwrap() > 0, "{made}");
    assert_eq!(run(&prep).exits(0).json()["already"], true);
    for verb in ["verify", "inspect"] {
        run(&[verb, "az://data/corpus"]).exits(0);
    }
    let load = ["--seq-len", "64", "--batch-size", "2", "--steps", "3", "--json"];
    run(&[&["load", "az://data/corpus"], &load[..]].concat()).exits(0);
    let wrong = [("AZURE_STORAGE_ACCOUNT", "devstoreaccount1"), by_sas[0]];
    let wrong = wrong.map(|(name, value)| (name, value.replace("sig=", "sig=no")));
    let wrong: Vec<(&str, &str)> = wrong.iter().map(|(name, value)| (*name, &value[..])).collect();
    server.run(&wrong, &["fs", "ls", "az://data/"]).complains(&["az://data/"]);
}

#[test]
fn what_lies_in_google_is_read_as_from_a_disk() {
    let gcs = |_: &Path, port: u16| {
        let (port, host) = (port.to_string(), format!("127.0.0.1:{port}"));
        let args = ["-backend", "memory", "-scheme", "http", "-host", "127.0.0.1", "-port"];
        let args = args.into_iter().chain([port.as_str(), "-public-host", &host]);
        args.map(str::to_owned).collect()
    };
    let Some(server) = Server::start("FOREBAY_FAKE_GCS", "fake-gcs-server", gcs) else { return };
    server.send("POST", "/storage/v1/b?project=p", "application/json", b"{\"name\":\"data\"}");
    let corpus = temp();
    let (input, out) = (sample().join("prose.jsonl"), corpus.path().join("corpus"));
    let out = out.to_str().unwrap();
    forebay(["prep", input.to_str().unwrap(), "--out", out]).exits(0);
    let send = |path: &Path, name: &str| {
        let name = name.replace('/', "%2F");
        let url = format!("/upload/storage/v1/b/data/o?uploadType=media&name={name}");
        server.send("POST", &url, "application/octet-stream", &fs::read(path).unwrap());
    };
    send(&input, "raw/prose.jsonl");
    for name in hashes(Path::new(out)).keys().filter(|name| !name.starts_with('.')) {
        send(&Path::new(out).join(name), &format!("corpus/{name}"));
    }
    let run = |args: &[&str]| {
        server.run(&[("STORAGE_EMULATOR_HOST", server.address.as_str())], args).exits(0)
    };
    let json = run(&["fs", "ls", "gs://data/", "--json"]).json();
    assert_eq!(json["entries"].as_array().unwrap().len(), 2, "{json}");
    let back = corpus.path().join("back");
    run(&["fs", "cp", "gs://data/corpus", back.to_str().unwrap(), "--verify"]);
    assert_eq!(hashes(&back)["manifest.json"], hashes(Path::new(out))["manifest.json"]);
    assert!(run(&["verify", "gs://data/corpus"]).stdout.contains("sound"));
    run(&["inspect", "gs://data/corpus"]);
    let load = ["--seq-len", "64", "--batch-size", "2", "--steps", "3", "--json"];
    run(&[&["load", "gs://data/corpus"], &load[..]].concat());
    let again = corpus.path().join("again");
    let args = ["prep", "gs://data/raw/", "--out", again.to_str().unwrap(), "--json"];
    assert!(run(&args).json()["counts"]["read"].as_u64().unwrap() > 0);
    run(&["fs", "rm", "gs://data/raw/prose.jsonl"]);
    let json = run(&["fs", "du", "gs://data/raw", "--json"]).json();
    assert_eq!(json["files"], 0);
}
