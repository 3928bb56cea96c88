//! Copies of large objects that are killed in the middle: the next run moves only the rest.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::remote::{Server, bytes};
use crate::support::ran;

/// What one request moves, and how many of them there are at once.
const PART: usize = 8 << 20;
const AT_ONCE: usize = 8;

/// Parts of the object, and how many get through before the kill.
const PARTS: usize = 15;
const FREE: usize = 5;

/// Lets some requests for parts pass, and holds back all others.
struct Turnstile {
    endpoint: String,
    /// Requests for parts that came.
    seen: Arc<AtomicUsize>,
}

impl Turnstile {
    fn start(server: &Server, free: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(AtomicUsize::new(0));
        let (counter, port) = (Arc::clone(&seen), server.ports[3]);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let counter = Arc::clone(&counter);
                // A connection ends with an error of either side.
                std::thread::spawn(move || drop(pass(client, port, free, &counter)));
            }
        });
        Self { endpoint, seen }
    }
}

fn pass(mut client: TcpStream, port: u16, free: usize, seen: &AtomicUsize) -> std::io::Result<()> {
    let mut server = TcpStream::connect(("127.0.0.1", port))?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    loop {
        let head = head(&mut client)?;
        let is_part = head.starts_with("GET ") && field(&head, "range").is_some()
            || head.starts_with("PUT ") && head.contains("partNumber=");
        if is_part && seen.fetch_add(1, Ordering::SeqCst) >= free {
            loop {
                std::thread::park();
            }
        }
        server.write_all(head.as_bytes())?;
        let length = field(&head, "content-length").and_then(|n| n.parse().ok()).unwrap_or(0);
        copy(&mut client, &mut server, length)?;
        let answer = self::head(&mut server)?;
        client.write_all(answer.as_bytes())?;
        if head.starts_with("HEAD ") {
            continue;
        }
        if field(&answer, "transfer-encoding").is_some() {
            loop {
                let line = until(&mut server, b"\r\n")?;
                client.write_all(line.as_bytes())?;
                let length = u64::from_str_radix(line.trim(), 16).unwrap();
                copy(&mut server, &mut client, length + 2)?;
                if length == 0 {
                    break;
                }
            }
        } else if let Some(length) = field(&answer, "content-length") {
            copy(&mut server, &mut client, length.parse().unwrap())?;
        }
    }
}

fn head(stream: &mut TcpStream) -> std::io::Result<String> {
    until(stream, b"\r\n\r\n")
}

fn until(stream: &mut TcpStream, end: &[u8]) -> std::io::Result<String> {
    let (mut text, mut byte) = (Vec::new(), [0]);
    while !text.ends_with(end) {
        stream.read_exact(&mut byte)?;
        text.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

fn copy(from: &mut TcpStream, to: &mut TcpStream, length: u64) -> std::io::Result<()> {
    match std::io::copy(&mut from.take(length), to)? == length {
        true => Ok(()),
        false => Err(std::io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Starts a copy and kills it once `FREE` parts are through and all threads wait for further ones:
/// each of them has written down by then what it has.
fn killed(server: &Server, from: &str, to: &str) {
    let gate = Turnstile::start(server, FREE);
    let mut command = server.command(&["fs", "cp", from, to]);
    command.env("AWS_ENDPOINT_URL", &gate.endpoint);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let until = Instant::now() + Duration::from_secs(60);
    while gate.seen.load(Ordering::SeqCst) < FREE + AT_ONCE {
        assert!(
            Instant::now() < until,
            "{} parts were asked for",
            gate.seen.load(Ordering::SeqCst)
        );
        assert!(child.try_wait().unwrap().is_none(), "it ended before it was killed");
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Copies to the end; what it said, and how many parts it asked for.
fn finished(server: &Server, from: &str, to: &str, more: &[&str]) -> (Value, usize) {
    let gate = Turnstile::start(server, usize::MAX);
    let mut command = server.command(&[&["fs", "cp", from, to, "--json"], more].concat());
    let ran = ran(command.env("AWS_ENDPOINT_URL", &gate.endpoint)).exits(0);
    (ran.json(), gate.seen.load(Ordering::SeqCst))
}

/// Parts that `json` says were not moved again.
fn kept(json: &Value) -> usize {
    assert_eq!(json["copied"], 1, "{json}");
    json["kept_bytes"].as_u64().unwrap() as usize / PART
}

#[test]
fn a_killed_download_goes_on_where_it_was() {
    let Some(server) = Server::start() else { return };
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let content = bytes(PARTS * PART - 5);
    fs::write(path("source"), &content).unwrap();
    server.run(&["fs", "cp", &path("source"), "s3://data/large"]).exits(0);

    killed(&server, "s3://data/large", &path("target"));
    assert!(fs::metadata(path("target")).is_err(), "half of it is not there under its name");
    let (json, asked) = finished(&server, "s3://data/large", &path("target"), &[]);
    assert_eq!((kept(&json), asked), (FREE, PARTS - FREE));
    assert!(fs::read(path("target")).unwrap() == content);

    // What was not hashed on its way cannot be verified: it is fetched again.
    fs::remove_file(path("target")).unwrap();
    killed(&server, "s3://data/large", &path("target"));
    let (json, asked) = finished(&server, "s3://data/large", &path("target"), &["--verify"]);
    assert_eq!((kept(&json), asked), (0, PARTS));
    assert!(fs::read(path("target")).unwrap() == content);

    // Another version of the object: nothing of the old one is used.
    fs::remove_file(path("target")).unwrap();
    killed(&server, "s3://data/large", &path("target"));
    let other: Vec<u8> = content.iter().map(|byte| byte ^ 1).collect();
    fs::write(path("source"), &other).unwrap();
    server.run(&["fs", "cp", &path("source"), "s3://data/large"]).exits(0);
    let (json, asked) = finished(&server, "s3://data/large", &path("target"), &[]);
    assert_eq!((kept(&json), asked), (0, PARTS));
    assert!(fs::read(path("target")).unwrap() == other);
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

#[test]
fn a_killed_upload_goes_on_where_it_was() {
    let Some(server) = Server::start() else { return };
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let source = path("source");
    let content = bytes(PARTS * PART - 5);
    fs::write(&source, &content).unwrap();
    let is_there = |content: &[u8]| {
        let mut cat = server.command(&["fs", "cat", "s3://data/large"]);
        assert!(cat.output().unwrap().stdout == content);
    };
    killed(&server, &source, "s3://data/large");
    assert_ne!(server.run(&["fs", "stat", "s3://data/large"]).code, 0, "half of it is no object");
    let (json, asked) = finished(&server, &source, "s3://data/large", &["--verify"]);
    // Each part is read back, too.
    assert_eq!((kept(&json), asked), (FREE, PARTS - FREE + PARTS));
    is_there(&content);

    // Another file under the same name: nothing of the old one is used, and its parts go.
    server.run(&["fs", "rm", "s3://data/large"]).exits(0);
    killed(&server, &source, "s3://data/large");
    let other: Vec<u8> = content.iter().map(|byte| byte ^ 1).collect();
    fs::write(&source, &other).unwrap();
    let (json, asked) = finished(&server, &source, "s3://data/large", &[]);
    assert_eq!((kept(&json), asked), (0, PARTS));
    is_there(&other);
    let uploads = |hours: &str| {
        let args = ["fs", "rm", "--uploads", "s3://data/", "--older-than", hours, "--json"];
        let json = server.run(&args).exits(0).json();
        (json["removed"].as_u64().unwrap(), json["left"].as_u64().unwrap())
    };
    assert_eq!(uploads("0"), (0, 0), "no parts are left behind");

    // Somebody gave the upload up meanwhile: all is sent again.
    server.run(&["fs", "rm", "s3://data/large"]).exits(0);
    killed(&server, &source, "s3://data/large");
    assert_eq!((uploads("24"), uploads("0")), ((0, 1), (1, 0)));
    let (json, asked) = finished(&server, &source, "s3://data/large", &[]);
    assert_eq!((kept(&json), asked), (0, PARTS));
    is_there(&other);
}
