//! The requests that carry bytes: ranged reads and parts, over connections of our own.
//!
//! The library signs them and knows where credentials come from; the bytes never pass through it.

use std::io::{self, ErrorKind};
use std::ops::Range;
use std::time::{Duration, Instant, SystemTime};

use object_store::aws::{AwsAuthorizer, AwsCredentialProvider};
use object_store::client::{HttpRequest, HttpRequestBody};
use ring::digest::{SHA256, digest};
use tokio::runtime::Handle;

use super::attempt::{Failure, told};
use super::client::{Entry, Inner, lock};
use super::http::{Answer, Connection, Server, first_ready};
use crate::{Error, Result};

/// A bucket, or a plain web server.
#[derive(Debug)]
pub(super) struct Data {
    server: Server,
    /// Before every key: `/bucket`.
    base: String,
    signer: Option<Signer>,
}

/// Who signs; `None` where nobody has to.
pub(super) struct Signer {
    pub(super) credentials: AwsCredentialProvider,
    pub(super) region: String,
    pub(super) requester_pays: bool,
    /// Nothing is signed; only the path is that of an object store.
    pub(super) anonymous: bool,
    /// For what the machine may know.
    pub(super) patience: Duration,
    pub(super) runtime: Handle,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Signer({})", self.region)
    }
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

    /// The head of a request, signed if it must be.
    fn head(&self, ask: &Ask<'_>, body: &[u8]) -> io::Result<Vec<u8>> {
        let authority = self.server.authority();
        // The path of a plain web server stands as its user wrote it.
        let key = if self.signer.is_some() { encoded(ask.key) } else { ask.key.into() };
        let mark = if ask.query.is_empty() { "" } else { "?" };
        let target = format!("{}/{key}{mark}{}", self.base, ask.query);
        let mut head =
            format!("{} {target} HTTP/1.1\r\nhost: {authority}\r\n", ask.method).into_bytes();
        let mut add = |name: &str, value: &[u8]| {
            head.extend_from_slice(name.as_bytes());
            head.extend_from_slice(b": ");
            head.extend_from_slice(value);
            head.extend_from_slice(b"\r\n");
        };
        if ask.method == "PUT" {
            add("content-length", body.len().to_string().as_bytes());
        }
        match self.signer.as_ref().filter(|signer| !signer.anonymous) {
            None => ask.headers.iter().for_each(|(name, value)| add(name, value.as_bytes())),
            Some(signer) => {
                let scheme = if self.server.is_secure() { "https" } else { "http" };
                let signed = signer.signed(
                    &format!("{scheme}://{authority}{target}"),
                    ask,
                    body,
                    self.server.is_secure(),
                )?;
                for (name, value) in signed.headers() {
                    if name.as_str() != "host" {
                        add(name.as_str(), value.as_bytes());
                    }
                }
            }
        }
        head.extend_from_slice(b"\r\n");
        Ok(head)
    }
}

impl Signer {
    fn signed(
        &self,
        url: &str,
        ask: &Ask<'_>,
        body: &[u8],
        secure: bool,
    ) -> io::Result<HttpRequest> {
        let wrong = |what: &dyn std::fmt::Display| {
            io::Error::new(ErrorKind::InvalidInput, what.to_string())
        };
        // TLS protects a body by itself; where there is none, its hash is part of the signature.
        let unsigned = secure && ask.method == "PUT";
        let digest = (!unsigned && !body.is_empty()).then(|| digest(&SHA256, body));
        let mut request = HttpRequest::new(HttpRequestBody::empty());
        *request.uri_mut() = url.parse().map_err(|e| wrong(&e))?;
        *request.method_mut() = ask.method.parse().map_err(|e| wrong(&e))?;
        for (name, value) in ask.headers {
            let value = value.parse().map_err(|e| wrong(&e))?;
            request.headers_mut().insert(*name, value);
        }
        // Where no variable says them, they are asked of the machine, which may know none.
        let asked =
            async { tokio::time::timeout(self.patience, self.credentials.get_credential()).await };
        let late = |_| io::Error::new(ErrorKind::PermissionDenied, "no credentials in time");
        let credential = self.runtime.block_on(asked).map_err(late)?;
        let credential = credential
            .map_err(|e| io::Error::new(ErrorKind::PermissionDenied, told(&e.to_string())))?;
        AwsAuthorizer::new(&credential, "s3", &self.region)
            .with_sign_payload(!unsigned)
            .with_request_payer(self.requester_pays)
            .authorize(&mut request, digest.as_ref().map(AsRef::as_ref));
        Ok(request)
    }
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
        let head = self.data.head(&ask, b"")?;
        let delay = {
            let mut hedge = lock(&self.hedge);
            hedge.started();
            hedge.delay()
        };
        let start = Instant::now();
        let server = &self.data.server;
        let mut connection = server.send(&head, b"")?;
        let mut by_second = false;
        if let Some(delay) = delay
            && first_ready(&[&connection], delay)?.is_none()
            && lock(&self.hedge).try_issue()
            && let Ok(second) = server.send(&head, b"")
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
            pass.answered(body.len() as u64);
            Ok((answer.header("etag").unwrap_or_default().to_owned(), text))
        })
    }

    /// Length and time of what a plain web server has.
    pub(super) fn web_head(&self, key: &str) -> Result<Entry> {
        self.tried("stat", key, 0, |until| {
            let head =
                self.data.head(&Ask { method: "HEAD", key, query: "", headers: &[] }, b"")?;
            let mut connection = self.data.server.send(&head, b"")?;
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
    // Days since 1970-01-01; years begin in March, so that the leap day is their last.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468;
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
