//! Wrong input: one clear error, or a counted skip with every good record still there.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::*;

/// A file of three records, the second of them bad.
struct Case {
    name: &'static str,
    file: &'static str,
    bytes: Vec<u8>,
    /// In the error.
    words: &'static [&'static str],
    /// As counted when skipped.
    reason: &'static str,
    /// Documents that stay when skipped.
    kept: usize,
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut encoder, bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd_checked(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.include_checksum(true).unwrap();
    std::io::Write::write_all(&mut encoder, bytes).unwrap();
    encoder.finish().unwrap()
}

fn cases() -> Vec<Case> {
    let (first, last) =
        (line("first", "the first good record"), line("last", "another one, also good"));
    let jsonl = |middle: &[u8]| [first.as_bytes(), middle, b"\n", last.as_bytes()].concat();
    let case =
        |name, file, bytes, words, reason, kept| Case { name, file, bytes, words, reason, kept };
    let json = |name, middle: &[u8], words, reason| {
        case(name, "in.jsonl", jsonl(middle), words, reason, 2)
    };
    let many: String = (0..20_000)
        .map(|n| line(&n.to_string(), &format!("document {n} of a large file")))
        .collect();
    let (gz, zst) = (gzip(many.as_bytes()), zstd_checked(many.as_bytes()));
    let long = format!("{{\"text\":\"{}\"}}", "x".repeat(200 << 20));
    assert_eq!(first.len(), 46);
    vec![
        json(
            "cut",
            b"{\"text\":\"half",
            &["in.jsonl", "byte 46", "expected a JSON object"],
            "malformed-json",
        ),
        json("no object", b"[1,2]", &["byte 46", "expected a JSON object"], "malformed-json"),
        json(
            "trailing",
            b"{\"text\":\"a\"} b",
            &["byte 46", "expected a JSON object"],
            "malformed-json",
        ),
        json(
            "control",
            b"{\"text\":\"a\tb\"}",
            &["byte 46", "expected a JSON object"],
            "malformed-json",
        ),
        json(
            "missing",
            b"{\"id\":\"x\"}",
            &["byte 46", "field `text`", "found none"],
            "missing-field",
        ),
        json("null", b"{\"text\":null}", &["byte 46", "field `text`"], "missing-field"),
        json(
            "number",
            b"{\"text\":5}",
            &["byte 46", "a string in `text`", "a number"],
            "wrong-type",
        ),
        json("array", b"{\"text\":[\"a\"]}", &["byte 46", "a string", "an array"], "wrong-type"),
        json("id", b"{\"text\":\"a\",\"id\":{}}", &["byte 46", "`id`", "an object"], "wrong-type"),
        json(
            "utf8",
            b"{\"text\":\"a\xff\"}",
            &["byte 56", "expected UTF-8", "0xff"],
            "invalid-utf8",
        ),
        json(
            "surrogate",
            b"{\"text\":\"\\ud800\"}",
            &["byte 46", "expected a JSON object"],
            "malformed-json",
        ),
        json("long", long.as_bytes(), &["byte 46", "longer than"], "too-long"),
        case(
            "torn gzip",
            "in.jsonl.gz",
            gz[..gz.len() / 2].to_vec(),
            &["in.jsonl.gz", "broken after"],
            "broken-file",
            1_000,
        ),
        case(
            "torn zstd",
            "in.jsonl.zst",
            zst[..zst.len() / 2].to_vec(),
            &["in.jsonl.zst", "broken after"],
            "broken-file",
            1_000,
        ),
        case(
            "flipped zstd",
            "in.jsonl.zst",
            [&zst[..100], b"garbage!", &zst[108..]].concat(),
            &["broken after"],
            "broken-file",
            0,
        ),
        case(
            "no parquet",
            "in.parquet",
            b"PAR1 is not enough".to_vec(),
            &["in.parquet", "expected Parquet"],
            "broken-file",
            0,
        ),
        case(
            "text",
            "in.txt",
            b"caf\xe9".to_vec(),
            &["in.txt", "byte 3", "0xe9"],
            "invalid-utf8",
            0,
        ),
    ]
}

#[test]
fn a_bad_record_is_one_clear_error_or_a_counted_skip() {
    for case in cases() {
        let dir = temp();
        let input = dir.path().join("in");
        write(input.join(case.file), &case.bytes);
        write(input.join("zz.jsonl"), line("beside", "a good record in another file"));
        let out = dir.path().join("out");
        let failed = prep(&[&input], &out, &["--no-fuzzy"]).complains(case.words);
        assert!(!out.join("manifest.json").exists(), "{}: {failed:?}", case.name);

        let out = dir.path().join("skipped");
        let skipped = prep(&[&input], &out, &["--on-error", "skip", "--json", "--no-fuzzy"]);
        let counts = skipped.exits(3).json()["counts"].clone();
        assert_eq!(counts["skipped"], serde_json::json!({ case.reason: 1 }), "{}", case.name);
        let kept = rows(&out);
        assert!(kept.iter().any(|row| row.id == "beside"), "{}", case.name);
        assert!(kept.len() > case.kept, "{}: {} kept", case.name, kept.len());
        let listed: Vec<_> =
            removed(&out).into_iter().filter(|r| r.reason == case.reason).collect();
        assert_eq!(listed.len(), 1, "{}", case.name);
        assert!(listed[0].detail.is_some() && listed[0].source.contains(case.file), "{listed:?}");
        forebay(["verify", out.to_str().unwrap()]).exits(0);
    }
}

#[test]
fn bytes_that_are_not_utf8_can_be_replaced() {
    let dir = temp();
    let input = write(dir.path().join("in.jsonl"), b"{\"id\":\"a\",\"text\":\"caf\xe9!\"}\n");
    let out = dir.path().join("out");
    let more = ["--invalid-utf8", "replace", "--keep-text", "--json"];
    let json = prep(&[&input], &out, &more).exits(0).json();
    assert_eq!(json["counts"]["replaced"], 1);
    assert_eq!(rows(&out)[0].text.as_deref(), Some("caf\u{fffd}!"));
}

#[test]
fn members_and_frames_are_read_to_the_last() {
    let dir = temp();
    let parts: Vec<String> =
        (0..3).map(|n| line(&n.to_string(), &format!("member number {n}"))).collect();
    let mut gz: Vec<u8> = parts.iter().flat_map(|part| gzip(part.as_bytes())).collect();
    gz.extend_from_slice(&[0; 700]);
    let mut zst = b"\x50\x2a\x4d\x18\x04\0\0\0skip".to_vec();
    zst.extend(parts.iter().flat_map(|part| zstd::encode_all(part.as_bytes(), 1).unwrap()));
    for (name, bytes) in [("in.jsonl.gz", gz.clone()), ("in.jsonl.zst", zst)] {
        let input = write(dir.path().join(name), bytes);
        let out = dir.path().join(format!("{name}-out"));
        prep(&[&input], &out, &["--no-shuffle"]).exits(0);
        let ids: Vec<_> = rows(&out).into_iter().map(|row| row.id).collect();
        assert_eq!(ids, ["0", "1", "2"], "{name}");
    }
    gz.extend_from_slice(b"garbage");
    let input = write(dir.path().join("trailing.jsonl.gz"), gz);
    prep(&[&input], &dir.path().join("no"), &[]).complains(&["trailing.jsonl.gz", "broken after"]);
}

#[test]
fn nothing_to_read_is_an_error() {
    let dir = temp();
    let empty = write(dir.path().join("empty.jsonl"), "");
    let out = dir.path().join("out");
    prep(&[&empty], &out, &[]).complains(&["empty.jsonl", "at least one document", "found none"]);
    assert!(!out.exists());
    prep(&[Path::new("/no/such.jsonl")], &out, &[]).complains(&["/no/such.jsonl"]);
    prep(&[Path::new("/tmp/*.no-such")], &out, &[]).complains(&["*.no-such"]);
    let bare = dir.path().join("bare");
    fs::create_dir(&bare).unwrap();
    prep(&[&bare], &out, &[]).complains(&["bare", "no input file"]);
    let dangling = dir.path().join("dangling.jsonl");
    std::os::unix::fs::symlink("/no/such/target", &dangling).unwrap();
    prep(&[&dangling], &out, &[]).complains(&["dangling.jsonl"]);
    // An empty file beside a full one is no error.
    let full = write(dir.path().join("full.jsonl"), line("a", "some text"));
    prep(&[&empty, &full], &out, &[]).exits(0);
}

#[test]
fn pipes_and_circles_do_not_hang() {
    let dir = temp();
    let out = dir.path().join("out");
    let pipe = dir.path().join("pipe.jsonl");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    prep(&[&pipe], &out, &[]).complains(&["pipe.jsonl", "expected a regular file"]);
    fs::remove_file(pipe).unwrap();
    let circle = dir.path().join("circle");
    write(circle.join("in.jsonl"), line("a", "some text"));
    std::os::unix::fs::symlink(".", circle.join("b")).unwrap();
    std::os::unix::fs::symlink("..", circle.join("c")).unwrap();
    prep(&[&circle], &out, &[]).exits(0);
    assert_eq!(rows(&out).len(), 1);
}

/// Where the name says nothing the content does, through compression and byte order marks.
#[test]
fn files_without_a_telling_name_are_told_by_their_content() {
    let dir = temp();
    let lines = format!("\u{feff}\r\n {}", [line("a", "one"), line("b", "two")].concat());
    let contents = [gzip(lines.as_bytes()), zstd_checked(lines.as_bytes()), lines.into_bytes()];
    for (number, bytes) in contents.iter().enumerate() {
        let input = write(dir.path().join(format!("part-{number}")), bytes);
        let out = dir.path().join(format!("out-{number}"));
        prep(&[&input], &out, &[]).exits(0);
        assert_eq!(rows(&out).len(), 2);
    }
}

#[test]
fn a_parquet_file_without_the_column_names_those_it_has() {
    let dir = temp();
    let input = sample().join("sqlite.parquet");
    let out = dir.path().join("out");
    prep(&[&input], &out, &["--text-field", "body"]).complains(&["no column `body`", "id, text"]);
}

/// Files that crash or mislead decoders: never a panic, and the file beside them is read.
#[test]
fn malformed_parquet_files_are_refused() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = root.join("../shared/corpora/parquet-testing/bad_data");
    let Ok(entries) = fs::read_dir(&folder) else {
        println!("skipped: {} is not there", folder.display());
        return;
    };
    let dir = temp();
    let good = write(dir.path().join("good.jsonl"), line("good", "a good record"));
    for (number, entry) in entries.enumerate() {
        let bad = entry.unwrap().path();
        // Whatever column it has is asked for.
        for column in columns(&bad) {
            let out = dir.path().join(format!("{number}-{column}"));
            let more = ["--text-field", &column, "--on-error", "skip", "--input-format", "parquet"];
            let ran = prep(&[&bad], &out, &more);
            assert!([0, 1, 3].contains(&ran.code), "{}: {ran:?}", bad.display());
            assert!(!ran.stderr.contains("RUST_BACKTRACE"), "{}: {ran:?}", bad.display());
        }
        let out = dir.path().join(format!("{number}"));
        let ran = prep(&[&bad, &good], &out, &["--on-error", "skip"]).exits(3);
        assert_eq!(rows(&out).len(), 1, "{}: {ran:?}", bad.display());
    }
}

fn columns(path: &Path) -> Vec<String> {
    use parquet::file::reader::{FileReader, SerializedFileReader};
    let Ok(reader) = SerializedFileReader::new(fs::File::open(path).unwrap()) else {
        return vec!["text".into()];
    };
    let schema = reader.metadata().file_metadata().schema();
    schema.get_fields().iter().map(|field| field.name().to_owned()).collect()
}

/// The JSON test-suite, its cases wrapped as a field nobody asked for.
#[test]
fn what_is_no_json_is_refused_wherever_it_stands() {
    let bad = [
        "1e",
        "01",
        "+1",
        ".5",
        "1.",
        "-",
        "tru",
        "nul",
        "NaN",
        "Infinity",
        "'a'",
        "\"\\x\"",
        "\"\\u12\"",
        "\"\\uqqqq\"",
        "\"a",
        "[1,]",
        "[1",
        "[,1]",
        "{\"a\"}",
        "{\"a\":}",
        "{,}",
        "{\"a\":1,}",
        "{1:1}",
        "\"\u{1}\"",
        "[1 2]",
    ];
    let dir = temp();
    for (number, value) in bad.iter().enumerate() {
        let json = format!("{{\"other\":{value},\"text\":\"words\"}}\n");
        let input = write(dir.path().join(format!("{number}.jsonl")), json);
        let ran = prep(&[&input], &dir.path().join(format!("out{number}")), &[]);
        assert_eq!(ran.code, 1, "{value}: {ran:?}");
    }
    // Deep nesting must not take the stack with it.
    let deep = |depth| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    for (name, json, code) in [
        ("ignored", format!("{{\"v\":{},\"text\":\"words\"}}", deep(1_000_000)), 0),
        ("text", format!("{{\"text\":{}}}", deep(1_000_000)), 1),
        ("id", format!("{{\"id\":{},\"text\":\"words\"}}", deep(1_000_000)), 1),
    ] {
        let input = write(dir.path().join(format!("deep-{name}.jsonl")), json);
        let ran = prep(&[&input], &dir.path().join(name), &[]);
        assert_eq!(ran.code, code, "{name}: {}", ran.stderr);
    }
    let good = [
        "1e5",
        "-0.5E+3",
        "\"\\u00e9\\ud83d\\ude00\\/\"",
        "[[],{}]",
        "true",
        "null",
        " {\"a\" : [1 , 2] } ",
    ];
    let lines = good.iter().zip(0..);
    let lines = lines.map(|(v, n)| format!("{{\"other\":{v},\"text\":\"words {n}\"}}\n"));
    let lines: String = lines.collect();
    let input = write(dir.path().join("good.jsonl"), lines);
    let out = dir.path().join("good");
    prep(&[&input], &out, &["--no-fuzzy"]).exits(0);
    assert_eq!(rows(&out).len(), good.len());
}

/// Runs the binary as a user who may not do everything; `None` where the tests may not either.
fn as_nobody(directory: &Path) -> Option<Command> {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root can become another user");
        return None;
    }
    // Somewhere that nobody can reach, unlike a home directory.
    let copy = directory.join("forebay");
    fs::copy(env!("CARGO_BIN_EXE_forebay"), &copy).unwrap();
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new(copy);
    command.uid(65_534).gid(65_534);
    Some(command)
}

#[test]
fn what_may_not_be_read_or_written_is_named() {
    let dir = temp();
    let Some(mut command) = as_nobody(dir.path()) else { return };
    let mode =
        |path: &PathBuf, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let secret = dir.path().join("secret");
    let file = write(secret.join("in.jsonl"), line("a", "text"));
    mode(&secret, 0o700);
    let open = dir.path().join("open");
    fs::create_dir(&open).unwrap();
    mode(&open, 0o777);
    let out = open.join("out");
    ran(command.args(["prep", secret.to_str().unwrap(), "--out", out.to_str().unwrap()]))
        .complains(&["secret", "ermission denied"]);

    mode(&secret, 0o755);
    mode(&file, 0o600);
    let mut command = as_nobody(dir.path()).unwrap();
    ran(command.args(["prep", file.to_str().unwrap(), "--out", out.to_str().unwrap()]))
        .complains(&["in.jsonl", "ermission denied"]);

    mode(&file, 0o644);
    let mut command = as_nobody(dir.path()).unwrap();
    let shut = dir.path().join("shut/out");
    fs::create_dir(dir.path().join("shut")).unwrap();
    ran(command.args(["prep", file.to_str().unwrap(), "--out", shut.to_str().unwrap()]))
        .complains(&["shut/out", "ermission denied"]);
}

#[test]
fn an_output_under_a_file_is_refused() {
    let dir = temp();
    let input = write(dir.path().join("in.jsonl"), line("a", "text"));
    prep(&[&input], &input.join("out"), &[]).complains(&["in.jsonl"]);
    prep(&[&input], &input, &[]).complains(&["in.jsonl"]);
}

/// A disk of 6 MiB: the error says so, and with more room the same command goes on.
#[test]
fn a_full_disk_is_named_and_the_run_resumes() {
    let dir = temp();
    let small = dir.path().join("small");
    fs::create_dir(&small).unwrap();
    let mount = |options: &str| {
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&small);
        command.output().is_ok_and(|output| output.status.success())
    };
    if !mount("size=6m") {
        println!("skipped: mounting needs rights that this machine does not give");
        return;
    }
    let out = small.join("out");
    let more = ["--keep-text", "--shard-size", "1MiB", "--seed", "7"];
    let full = prep(&[&sample()], &out, &more);
    let remounted = mount("remount,size=64m");
    let resumed = remounted.then(|| prep(&[&sample()], &out, &more));
    let found = remounted.then(|| hashes(&out));
    let _ = Command::new("umount").arg(&small).output();
    full.complains(&["o space left", "small"]);
    assert!(remounted);
    resumed.unwrap().exits(0);
    assert_eq!(found.unwrap(), hashes(prepared()));
}

/// Files that go between the listing and the reading.
#[test]
fn a_file_that_disappears_is_named_or_skipped() {
    use forebay_shard::input::{Cursor, OnError, Options, discover};
    for (name, bytes) in [
        ("gone.jsonl", line("a", "text").into_bytes()),
        ("gone.txt", b"text".to_vec()),
        ("gone.parquet", fs::read(sample().join("sqlite.parquet")).unwrap()),
    ] {
        let dir = temp();
        let path = write(dir.path().join(name), bytes);
        let inputs = [path.to_str().unwrap().to_owned()];
        let sources = discover(&inputs, &Options::default(), None).unwrap();
        fs::remove_file(&path).unwrap();
        let read = |options: &Options| {
            let mut cursor = Cursor::new(&sources[0], options, 1 << 20, &Default::default());
            cursor.next_part()?.expect("a part that says what is wrong").parse(options)
        };
        let error = read(&Options::default()).unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
        assert!(error.hint().is_some(), "{error}");
        let skip = Options { on_error: OnError::Skip, ..Options::default() };
        let parsed = read(&skip).unwrap();
        assert_eq!((parsed.documents.len(), parsed.skipped.len()), (0, 1), "{name}");
        assert!(parsed.skipped[0].detail.contains(name), "{:?}", parsed.skipped);
    }
}
