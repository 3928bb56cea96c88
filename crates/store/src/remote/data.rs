//! The requests that carry bytes: ranged reads and parts, over connections of our own.
//!
//! The library signs them and knows where credentials come from; the bytes never pass through it.

use std::io::{self, ErrorKind};
use std::ops::Range;
use std::time::{Duration, Instant, SystemTime};

use super::attempt::Failure;
use super::body::Body;
use super::client::{Entry, Inner, lock};
use super::http::{Answer, Connection, Server, first_ready};
use super::sign::{Plain, Signer};
use crate::{Error, Result};

/// A bucket, or a plain web server.
#[derive(Debug)]
pub(super) struct Data {
    server: Server,
    /// Before every key: `/bucket`.
    base: String,
    signer: Option<Signer>,
}

/// What is asked for: method, key, query, headers.
struct Ask<'a> {
    method: &'static str,
    key: &'a str,
    query: &'a str,
    headers: &'a [(&'static str, String)],
}

impl Data {
    pub(super) fn open(url: &str, patience: Duration, signer: Option<Signer>) -> io::Result<Self> {
        let (server, path) = Server::of(url, patience)?;
        Ok(Self { server, base: path.trim_end_matches('/').into(), signer })
    }

    fn target(&self, ask: &Ask<'_>) -> String {
        // The path of a plain web server stands as its user wrote it.
        let key = if self.signer.is_some() { encoded(ask.key) } else { ask.key.into() };
        let mark = if ask.query.is_empty() { "" } else { "?" };
        let slash = if key.is_empty() && !self.base.is_empty() { "" } else { "/" };
        format!("{}{slash}{key}{mark}{}", self.base, ask.query)
    }

    fn url(&self, target: &str) -> String {
        let scheme = if self.server.is_secure() { "https" } else { "http" };
        format!("{scheme}://{}{target}", self.server.authority())
    }

    fn signed_url(&self, ask: &Ask<'_>) -> io::Result<String> {
        let (url, secure) = (self.url(&self.target(ask)), self.server.is_secure());
        let Some(signer) = &self.signer else { return Ok(url) };
        let plain = Plain {
            method: ask.method,
            url: &url,
            headers: ask.headers,
            body: &Body::NOTHING,
            secure,
        };
        Ok(signer.signed(&plain)?.uri().to_string())
    }

    /// The head of a request, signed if it must be.
    fn head(&self, ask: &Ask<'_>, body: &Body<'_>) -> io::Result<Vec<u8>> {
        let authority = self.server.authority();
        let target = self.target(ask);
        let mut headers = ask.headers.to_vec();
        if ask.method == "PUT" {
            headers.push(("content-length", body.len().to_string()));
        }
        let Some(signer) = &self.signer else {
            let headers = headers.iter().map(|(name, value)| (*name, value.as_bytes()));
            return Ok(head_of(ask.method, &target, &authority, headers));
        };
        let (url, secure) = (self.url(&target), self.server.is_secure());
        let plain = Plain { method: ask.method, url: &url, headers: &headers, body, secure };
        let signed = signer.signed(&plain)?;
        // A signature may be part of the URL.
        let target = signed.uri().path_and_query().map_or(target.as_str(), |p| p.as_str());
        let headers = signed.headers().iter();
        let headers = headers.map(|(name, value)| (name.as_str(), value.as_bytes()));
        Ok(head_of(ask.method, target, &authority, headers))
    }
}

fn head_of<'h>(
    method: &str,
    target: &str,
    authority: &str,
    headers: impl Iterator<Item = (&'h str, &'h [u8])>,
) -> Vec<u8> {
    let mut head = format!("{method} {target} HTTP/1.1\r\nhost: {authority}\r\n").into_bytes();
    for (name, value) in headers.filter(|(name, _)| *name != "host") {
        for bytes in [name.as_bytes(), b": ", value, b"\r\n"] {
            head.extend_from_slice(bytes);
        }
    }
    head.extend_from_slice(b"\r\n");
    head
}

/// A key in a URL: everything but letters, digits and `-._~/` as `%XX`.
pub(super) fn encoded(key: &str) -> String {
    use std::fmt::Write;
    let mut out = String::with_capacity(key.len());
    for byte in key.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                out.push(byte.into());
            }
            // Writing to a string does not fail.
            _ => drop(write!(out, "%{byte:02X}")),
        }
    }
    out
}

impl Inner {
    /// Reads a range in order, `buf` after `buf`: `take` gets each with its offset. An attempt that
    /// fails goes on behind the last one taken.
    pub(super) fn fetch(
        &self,
        entry: &Entry,
        range: Range<u64>,
        buf: &mut [u8],
        mut take: impl FnMut(u64, &[u8]) -> Result<()>,
    ) -> Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        // Held through all attempts: who waits to try again takes part in the load, too.
        let pass = self.gate.pass();
        let mut at = range.start;
        self.tried("read", &entry.key, range.start, |until| {
            let (mut connection, _) = self.ranged(entry, at..range.end, until)?;
            while at < range.end {
                let piece = (range.end - at).min(buf.len() as u64) as usize;
                connection.read_exact(&mut buf[..piece], until)?;
                take(at, &buf[..piece]).map_err(Failure::Local)?;
                at += piece as u64;
            }
            self.data.server.put_back(connection);
            pass.answered(range.end - range.start);
            Ok(())
        })
    }

    /// The answer to a ranged read, up to its body. Asked a second time if it is late: the first
    /// answer wins, the other connection is closed.
    fn ranged(
        &self,
        entry: &Entry,
        range: Range<u64>,
        until: Instant,
    ) -> std::result::Result<(Connection, Answer), Failure> {
        let mut headers = vec![("range", format!("bytes={}-{}", range.start, range.end - 1))];
        // Pieces of two versions are no version.
        headers.extend(entry.etag.iter().map(|etag| ("if-match", etag.clone())));
        let ask = Ask { method: "GET", key: &entry.key, query: "", headers: &headers };
        let head = self.data.head(&ask, &Body::NOTHING)?;
        let delay = {
            let mut hedge = lock(&self.hedge);
            hedge.started();
            hedge.delay()
        };
        let start = Instant::now();
        let server = &self.data.server;
        let mut connection = server.send(&head, &Body::NOTHING)?;
        let mut by_second = false;
        if let Some(delay) = delay
            && first_ready(&[&connection], delay)?.is_none()
            && lock(&self.hedge).try_issue()
            && let Ok(second) = server.send(&head, &Body::NOTHING)
        {
            let left = until.saturating_duration_since(Instant::now());
            match first_ready(&[&connection, &second], left)? {
                Some(1) => (connection, by_second) = (second, true),
                Some(_) => {}
                None => return Err(io::Error::from(ErrorKind::TimedOut).into()),
            }
        }
        let answer = connection.answer(true)?;
        let wanted = range.end - range.start;
        let is_whole = answer.status == 200 && range.start == 0 && answer.length == Some(wanted);
        if answer.status != 206 && !is_whole {
            return Err(self.refusal(connection, &answer, until));
        }
        lock(&self.hedge).answered(start.elapsed(), by_second);
        let sent = answer.header("content-range").and_then(|r| r.strip_prefix("bytes "));
        let (first, size) = sent.map_or((None, None), |sent| {
            let number = |part: Option<&str>| part.and_then(|n| n.trim().parse::<u64>().ok());
            (number(sent.split('-').next()), number(sent.split('/').nth(1)))
        });
        if first.is_some_and(|first| first != range.start) {
            return Err(Failure::Again(io::Error::new(
                ErrorKind::InvalidData,
                "the answer is of another range",
            )));
        }
        if answer.length != Some(wanted) {
            if let Some(size) = size.filter(|&size| size < range.end) {
                let (path, offset) = (self.uri(&entry.key).into(), range.start);
                return Err(Failure::Local(Error::PastEnd { path, size, offset, wanted }));
            }
            let what = format!("the answer has {:?} of {wanted} bytes", answer.length);
            return Err(Failure::Again(io::Error::new(ErrorKind::InvalidData, what)));
        }
        Ok((connection, answer))
    }

    /// What a status other than the one hoped for means.
    fn refusal(&self, mut connection: Connection, answer: &Answer, until: Instant) -> Failure {
        let body = connection.read_short(until).unwrap_or_default();
        self.data.server.put_back(connection);
        Failure::of(answer.status, &String::from_utf8_lossy(&body), answer.header("location"))
    }

    /// Sends bytes; returns the entity tag and the body of the answer.
    pub(super) fn send(
        &self,
        action: &'static str,
        key: &str,
        offset: u64,
        query: &str,
        headers: &[(&'static str, String)],
        body: &[u8],
    ) -> Result<(String, String)> {
        self.send_body(action, key, offset, query, headers, &Body::Bytes(body))
    }

    /// As [`Inner::send`], of bytes wherever they are.
    pub(super) fn send_body(
        &self,
        action: &'static str,
        key: &str,
        offset: u64,
        query: &str,
        headers: &[(&'static str, String)],
        body: &Body<'_>,
    ) -> Result<(String, String)> {
        let is_copy = headers.iter().any(|(name, _)| name.ends_with("copy-source"));
        let kind = if is_copy { None } else { self.control()?.service.of_writes() };
        let headers = &[headers, kind.as_slice()].concat();
        let pass = self.gate.pass();
        self.tried(action, key, offset, |until| {
            let head = self.data.head(&Ask { method: "PUT", key, query, headers }, body)?;
            let mut connection = self.data.server.send(&head, body)?;
            let answer = connection.answer(true)?;
            if answer.status / 100 != 2 {
                return Err(self.refusal(connection, &answer, until));
            }
            let text = String::from_utf8_lossy(&connection.read_short(until)?).into_owned();
            self.data.server.put_back(connection);
            // A copy may fail after the status has been sent.
            if text.contains("<Error>") {
                return Err(Failure::of(500, &text, None));
            }
            pass.answered(body.len());
            Ok((answer.header("etag").unwrap_or_default().to_owned(), text))
        })
    }

    /// A short answer to a question about a key, or about the bucket if that is empty.
    pub(super) fn ask(
        &self,
        action: &'static str,
        method: &'static str,
        key: &str,
        query: &str,
        headers: &[(&'static str, String)],
    ) -> Result<String> {
        self.tried(action, key, 0, |until| {
            let head = self.data.head(&Ask { method, key, query, headers }, &Body::NOTHING)?;
            let mut connection = self.data.server.send(&head, &Body::NOTHING)?;
            let answer = connection.answer(method != "HEAD")?;
            if answer.status / 100 != 2 {
                return Err(self.refusal(connection, &answer, until));
            }
            let text = String::from_utf8_lossy(&connection.read_short(until)?).into_owned();
            self.data.server.put_back(connection);
            Ok(text)
        })
    }

    /// What the server says about an object.
    pub(super) fn header_of(&self, key: &str, name: &str) -> Result<Option<String>> {
        self.tried("stat", key, 0, |until| {
            let ask = Ask { method: "HEAD", key, query: "", headers: &[] };
            let head = self.data.head(&ask, &Body::NOTHING)?;
            let mut connection = self.data.server.send(&head, &Body::NOTHING)?;
            let answer = connection.answer(false)?;
            if answer.status != 200 {
                return Err(self.refusal(connection, &answer, until));
            }
            self.data.server.put_back(connection);
            Ok(answer.header(name).map(str::to_owned))
        })
    }

    /// Where an object is, with what authorizes to read it if that is part of a URL.
    pub(super) fn url_of(&self, key: &str) -> Result<String> {
        let ask = Ask { method: "GET", key, query: "", headers: &[] };
        self.data.signed_url(&ask).map_err(|e| Error::io("sign", self.uri(key).as_ref(), e))
    }

    /// Length and time of what a plain web server has.
    pub(super) fn web_head(&self, key: &str) -> Result<Entry> {
        self.tried("stat", key, 0, |until| {
            let head = self
                .data
                .head(&Ask { method: "HEAD", key, query: "", headers: &[] }, &Body::NOTHING)?;
            let mut connection = self.data.server.send(&head, &Body::NOTHING)?;
            let answer = connection.answer(false)?;
            if answer.status != 200 {
                return Err(self.refusal(connection, &answer, until));
            }
            self.data.server.put_back(connection);
            let unknown =
                || io::Error::new(ErrorKind::InvalidData, "the server does not tell its length");
            let size = answer.length.ok_or_else(unknown).map_err(Failure::Final)?;
            let modified = answer
                .header("last-modified")
                .and_then(http_date)
                .unwrap_or(SystemTime::UNIX_EPOCH);
            // A weak tag does not promise equal bytes.
            let etag = answer.header("etag").filter(|tag| tag.starts_with('"')).map(Into::into);
            Ok(Entry { key: key.into(), size, modified, etag })
        })
    }
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`, the only form that servers send.
fn http_date(text: &str) -> Option<SystemTime> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let mut words = text.split([' ', ':']).skip(1);
    let mut word = || words.next();
    let day: u64 = word()?.parse().ok()?;
    let name = word()?;
    let month = MONTHS.iter().position(|month| *month == name)? as u64 + 1;
    let year: u64 = word()?.parse().ok().filter(|year| (1970..10_000).contains(year))?;
    let (hour, minute, second): (u64, u64, u64) =
        (word()?.parse().ok()?, word()?.parse().ok()?, word()?.parse().ok()?);
    let days = super::xml::days_since_1970(year, month, day)?;
    SystemTime::UNIX_EPOCH
        .checked_add(Duration::from_secs(((days * 24 + hour) * 60 + minute) * 60 + second))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_encoded_as_signatures_want_them() {
        assert_eq!(encoded("a/b c+ü%2F~.txt"), "a/b%20c%2B%C3%BC%252F~.txt");
    }

    /// A token goes into a header, a shared access signature into the URL, and neither into words.
    #[cfg(all(feature = "gcp", feature = "azure"))]
    #[test]
    fn tokens_are_sent_and_not_told() {
        use std::sync::Arc;

        use object_store::StaticCredentialProvider;
        use object_store::azure::AzureCredential;

        use super::super::sign::Who;
        use crate::remote::{Remote, Settings};

        let ask = Ask { method: "GET", key: "a b", query: "x=1", headers: &[] };
        let settings = Settings {
            endpoint: Some("http://127.0.0.1:1".into()),
            credentials: Some((String::new(), "the-token".into())),
            ..Settings::default()
        };
        let (remote, _) = Remote::open("gs://b/k", settings).unwrap();
        let head = remote.inner.data.head(&ask, &Body::NOTHING).unwrap();
        let head = String::from_utf8(head).unwrap();
        assert!(head.starts_with("GET /b/a%20b?x=1 HTTP/1.1\r\n"), "{head}");
        assert!(head.contains("authorization: Bearer the-token\r\n"), "{head}");
        assert!(!format!("{remote:?}").contains("the-token"), "{remote:?}");

        let pairs = vec![("sv".into(), "2023".into()), ("sig".into(), "the/sig=".into())];
        let credentials = StaticCredentialProvider::new(AzureCredential::SASToken(pairs));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let who = Who::Azure { credentials: Arc::new(credentials), account: "a".into() };
        let (patience, handle) = (Duration::from_secs(1), runtime.handle().clone());
        let signer = Signer { who, anonymous: false, patience, runtime: handle };
        let data = Data::open("http://127.0.0.1:1/a/c", patience, Some(signer)).unwrap();
        let head = String::from_utf8(data.head(&ask, &Body::NOTHING).unwrap()).unwrap();
        let target = "GET /a/c/a%20b?x=1&sv=2023&sig=the%2Fsig%3D HTTP/1.1\r\n";
        assert!(head.starts_with(target), "{head}");
        assert!(!format!("{data:?}").contains("the/sig"), "{data:?}");
        let url = data.signed_url(&ask).unwrap();
        assert!(url.starts_with("http://127.0.0.1:1/a/c/a%20b?x=1&sv=2023&sig="), "{url}");
    }

    #[test]
    fn dates_of_the_web_are_read() {
        let seconds = |text: &str| {
            http_date(text).map(|t| t.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs())
        };
        assert_eq!(seconds("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(seconds("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(seconds("Thu, 29 Feb 2024 23:59:59 GMT"), Some(1_709_251_199));
        assert_eq!((seconds("yesterday"), seconds("Sun, 06 Foo 1994 08:49:37 GMT")), (None, None));
    }
}
