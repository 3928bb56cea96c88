//! HTTP/1.1 over blocking sockets: one request, one answer, bodies straight into the caller's memory.
//!
//! The library that speaks to object stores hands a body out in pieces of its own and wakes a task
//! for each. A ranged read of a megabyte is one system call here, since the kernel is told to wait
//! until all of it is there.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::sendfile;
use rustix::net::{RecvFlags, recv};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::body::{Body, pieces, shorter};

/// A head is read with one call if it is no longer; what follows it of the body is copied.
const HEAD: usize = 4 << 10;
const LONGEST_HEAD: usize = 64 << 10;

/// Servers close what idles; most wait longer.
const IDLE: Duration = Duration::from_secs(20);
const CONNECT: Duration = Duration::from_secs(5);

/// One server, with the connections to it that nobody uses at the moment.
pub(super) struct Server {
    host: String,
    port: u16,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    /// For one request.
    patience: Duration,
    idle: Mutex<Vec<Connection>>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Server({}:{}, tls: {})", self.host, self.port, self.tls.is_some())
    }
}

impl Server {
    /// The server of `scheme://host[:port]/path`, and that path; nothing is sent.
    pub(super) fn of(url: &str, patience: Duration) -> io::Result<(Self, String)> {
        let wrong = |what: &str| io::Error::new(ErrorKind::InvalidInput, what.to_owned());
        let (secure, rest) = match url.split_once("://") {
            Some(("http", rest)) => (false, rest),
            Some(("https", rest)) => (true, rest),
            _ => return Err(wrong("expected http://HOST or https://HOST")),
        };
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err(wrong("credentials in a URL end up in logs: give them by the environment"));
        }
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => {
                (host, port.parse().map_err(|_| wrong("the port is not a number"))?)
            }
            _ => (authority, if secure { 443 } else { 80 }),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() {
            return Err(wrong("there is no host"));
        }
        let tls = match secure {
            false => None,
            true => {
                let name = ServerName::try_from(host.clone()).map_err(io::Error::other)?;
                Some((trust()?, name))
            }
        };
        Ok((Self { host, port, tls, patience, idle: Mutex::default() }, path.to_owned()))
    }

    /// For the header `host`.
    pub(super) fn authority(&self) -> String {
        let host =
            if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        match (self.port, self.tls.is_some()) {
            (443, true) | (80, false) => host,
            (port, _) => format!("{host}:{port}"),
        }
    }

    /// Bytes on the way are protected.
    pub(super) fn is_secure(&self) -> bool {
        self.tls.is_some()
    }

    /// Sends a request and its body over a connection that is open or new.
    ///
    /// A connection that idled may have been closed; nobody took the request then.
    pub(super) fn send(&self, head: &[u8], body: &Body<'_>) -> io::Result<Connection> {
        while let Some(mut connection) = self.idle() {
            if connection.send(head, body).is_ok() {
                return Ok(connection);
            }
        }
        let mut connection = self.connect()?;
        connection.send(head, body)?;
        Ok(connection)
    }

    /// Keeps a connection for the next request.
    pub(super) fn put_back(&self, mut connection: Connection) {
        if connection.is_reusable() {
            connection.since = Instant::now();
            self.lock().push(connection);
        }
    }

    fn idle(&self) -> Option<Connection> {
        // The last one used, so that what is not needed grows old.
        loop {
            let connection = self.lock().pop()?;
            if connection.since.elapsed() < IDLE && !connection.is_closed() {
                return Some(connection);
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connect(&self) -> io::Result<Connection> {
        let mut last = io::Error::new(ErrorKind::NotFound, "the host has no address");
        for address in (self.host.as_str(), self.port).to_socket_addrs()? {
            let socket = match TcpStream::connect_timeout(&address, CONNECT.min(self.patience)) {
                Ok(socket) => socket,
                Err(error) => {
                    last = error;
                    continue;
                }
            };
            socket.set_nodelay(true)?;
            socket.set_read_timeout(Some(self.patience))?;
            socket.set_write_timeout(Some(self.patience))?;
            let stream = match &self.tls {
                None => Stream::Plain(socket),
                Some((config, name)) => {
                    let session = ClientConnection::new(Arc::clone(config), name.clone())
                        .map_err(io::Error::other)?;
                    Stream::Tls(Box::new(StreamOwned::new(session, socket)))
                }
            };
            return Ok(Connection {
                stream,
                head: Vec::new(),
                rest: 0,
                left: Left::Nothing,
                closes: false,
                since: Instant::now(),
            });
        }
        Err(last)
    }
}

/// Who is trusted: what the machine trusts, or `SSL_CERT_FILE`.
fn trust() -> io::Result<Arc<ClientConfig>> {
    static TRUST: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    if let Some(config) = TRUST.get() {
        return Ok(Arc::clone(config));
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        let what =
            "this machine trusts no certificates: install ca-certificates or set SSL_CERT_FILE";
        return Err(io::Error::new(ErrorKind::NotFound, what));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::clone(TRUST.get_or_init(|| Arc::new(config))))
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

/// What of an answer's body has not been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    Nothing,
    Bytes(u64),
    Chunks,
    UntilClosed,
}

/// A connection with at most one request in flight.
pub(super) struct Connection {
    stream: Stream,
    /// Bytes of the head, and what came with it.
    head: Vec<u8>,
    /// Where in `head` the bytes start that nobody took.
    rest: usize,
    left: Left,
    /// The server said that this answer is its last.
    closes: bool,
    since: Instant,
}

/// Status and headers of an answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// Of the body, if the server says so.
    pub(super) length: Option<u64>,
    text: String,
    close: bool,
}

impl Answer {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.text.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.trim().eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    fn parse(text: String) -> io::Result<Self> {
        let broken = || io::Error::new(ErrorKind::InvalidData, "the answer is not HTTP/1.1");
        let line = text.lines().next().unwrap_or_default();
        let version = line.strip_prefix("HTTP/1.").ok_or_else(broken)?;
        let status = version.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or_else(broken)?;
        let old = version.starts_with('0');
        let mut answer = Self { status, length: None, text, close: old };
        if let Some(length) = answer.header("content-length") {
            answer.length = Some(length.parse().map_err(|_| broken())?);
        }
        if let Some(kept) = answer.header("connection") {
            answer.close = !kept.eq_ignore_ascii_case("keep-alive")
                && (old || kept.eq_ignore_ascii_case("close"));
        }
        Ok(answer)
    }
}

impl Connection {
    fn send(&mut self, head: &[u8], body: &Body<'_>) -> io::Result<()> {
        match body {
            // A small body goes with its head: one packet, one call.
            Body::Bytes(bytes) if bytes.len() <= 16 << 10 => self.write(&[head, bytes].concat()),
            Body::Bytes(bytes) => {
                self.write(head)?;
                self.write(bytes)
            }
            Body::File(file, range) => {
                self.write(head)?;
                self.write_file(file, range.clone())
            }
        }
    }

    fn write_file(&mut self, file: &File, mut range: Range<u64>) -> io::Result<()> {
        while let Stream::Plain(socket) = &self.stream
            && range.start < range.end
        {
            // At most 2 GiB at once.
            let most = (range.end - range.start).min(1 << 30) as usize;
            match sendfile(socket, file, Some(&mut range.start), most) {
                Ok(0) => return Err(shorter()),
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                // Not every file system lets its pages go that way.
                Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => break,
                Err(error) => return Err(late(error.into())),
            }
        }
        pieces(file, range, |bytes| self.write(bytes))
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.stream {
            Stream::Plain(socket) => socket.write_all(bytes),
            Stream::Tls(stream) => stream.write_all(bytes).and_then(|()| stream.flush()),
        }
        .map_err(late)
    }

    /// Waits for the answer to the request that was sent last, body aside.
    pub(super) fn answer(&mut self, has_body: bool) -> io::Result<Answer> {
        self.head.clear();
        self.rest = 0;
        loop {
            if let Some(end) = memchr::memmem::find(&self.head[self.rest..], b"\r\n\r\n") {
                let end = self.rest + end + 4;
                let text = String::from_utf8_lossy(&self.head[self.rest..end]).into_owned();
                self.rest = end;
                let answer = Answer::parse(text)?;
                // "Go on", and other news before the answer.
                if answer.status < 200 {
                    continue;
                }
                let chunked =
                    answer.header("transfer-encoding").is_some_and(|e| e.contains("chunked"));
                self.left = match answer.length {
                    _ if !has_body || matches!(answer.status, 204 | 304) => Left::Nothing,
                    _ if chunked => Left::Chunks,
                    Some(length) => Left::Bytes(length),
                    None => Left::UntilClosed,
                };
                self.closes = answer.close;
                return Ok(answer);
            }
            if self.head.len() > LONGEST_HEAD {
                return Err(io::Error::new(ErrorKind::InvalidData, "the answer's head has no end"));
            }
            self.fill()?;
        }
    }

    /// More bytes behind those that are there.
    fn fill(&mut self) -> io::Result<()> {
        let there = self.head.len();
        self.head.resize(there + HEAD, 0);
        let (stream, room) = (&mut self.stream, &mut self.head[there..]);
        let read = receive(stream, room, false);
        self.head.truncate(there + *read.as_ref().unwrap_or(&0));
        match read {
            Ok(0) => Err(ended()),
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Fills `to` from a body of known length.
    pub(super) fn read_exact(&mut self, to: &mut [u8], until: Instant) -> io::Result<()> {
        let Left::Bytes(left) = self.left else {
            return Err(io::Error::new(ErrorKind::InvalidData, "the answer has no length"));
        };
        if left < to.len() as u64 {
            return Err(ended());
        }
        let early = (self.head.len() - self.rest).min(to.len());
        to[..early].copy_from_slice(&self.head[self.rest..self.rest + early]);
        self.rest += early;
        let mut at = early;
        while at < to.len() {
            match receive(&mut self.stream, &mut to[at..], true)? {
                0 => return Err(ended()),
                read => at += read,
            }
            if at < to.len() && Instant::now() > until {
                return Err(ErrorKind::TimedOut.into());
            }
        }
        self.left = if left == to.len() as u64 {
            Left::Nothing
        } else {
            Left::Bytes(left - to.len() as u64)
        };
        Ok(())
    }

    /// A short body of any kind: an error in words, the outcome of a copy. At most a MiB of it.
    pub(super) fn read_short(&mut self, until: Instant) -> io::Result<Vec<u8>> {
        const MOST: usize = 1 << 20;
        loop {
            let body = &self.head[self.rest..];
            let done = match self.left {
                Left::Nothing => Some(Vec::new()),
                Left::Bytes(length) if body.len() as u64 >= length => {
                    Some(body[..length as usize].to_vec())
                }
                Left::Chunks => dechunk(body),
                _ => None,
            };
            if let Some(body) = done {
                self.rest = self.head.len();
                self.left = Left::Nothing;
                return Ok(body);
            }
            if body.len() > MOST || Instant::now() > until {
                return Err(io::Error::new(ErrorKind::InvalidData, "the answer has no end"));
            }
            match self.fill() {
                Err(error)
                    if error.kind() == ErrorKind::UnexpectedEof
                        && self.left == Left::UntilClosed =>
                {
                    return Ok(self.head[self.rest..].to_vec());
                }
                filled => filled?,
            }
        }
    }

    fn is_reusable(&self) -> bool {
        self.left == Left::Nothing && !self.closes
    }

    /// Whether the server has closed it, or speaks unasked.
    fn is_closed(&self) -> bool {
        let mut fds = [PollFd::from_borrowed_fd(self.socket(), PollFlags::IN)];
        poll(&mut fds, Some(&Timespec::default())) != Ok(0)
    }

    fn socket(&self) -> BorrowedFd<'_> {
        match &self.stream {
            Stream::Plain(socket) => socket.as_fd(),
            Stream::Tls(stream) => stream.sock.as_fd(),
        }
    }
}

/// Waits until one of them has something to read; which, or `None` when the time is over.
pub(super) fn first_ready(
    connections: &[&Connection],
    time: Duration,
) -> io::Result<Option<usize>> {
    let until = Instant::now() + time;
    let mut fds: Vec<PollFd<'_>> =
        connections.iter().map(|c| PollFd::from_borrowed_fd(c.socket(), PollFlags::IN)).collect();
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        match poll(&mut fds, Some(&left)) {
            Ok(0) => return Ok(None),
            Ok(_) => return Ok(fds.iter().position(|fd| !fd.revents().is_empty())),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Some bytes; all that fit if `whole` and the kernel can wait for them.
fn receive(stream: &mut Stream, to: &mut [u8], whole: bool) -> io::Result<usize> {
    let flags = if whole { RecvFlags::WAITALL } else { RecvFlags::empty() };
    loop {
        let read = match stream {
            Stream::Plain(socket) => {
                recv(&*socket, &mut *to, flags).map(|(n, _)| n).map_err(io::Error::from)
            }
            Stream::Tls(stream) => stream.read(to),
        };
        match read {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            read => return read.map_err(late),
        }
    }
}

/// A socket whose time is over says "would block".
fn late(error: io::Error) -> io::Error {
    match error.kind() {
        ErrorKind::WouldBlock => io::Error::new(ErrorKind::TimedOut, "no answer in time"),
        _ => error,
    }
}

fn ended() -> io::Error {
    io::Error::new(ErrorKind::UnexpectedEof, "the answer ends too early")
}

/// The body in chunks, if its end is there.
fn dechunk(mut bytes: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = memchr::memmem::find(bytes, b"\r\n")?;
        let line = std::str::from_utf8(&bytes[..end]).ok()?;
        let length = usize::from_str_radix(line.split(';').next()?.trim(), 16).ok()?;
        bytes = &bytes[end + 2..];
        if length == 0 {
            // Trailers, then an empty line.
            return (bytes.starts_with(b"\r\n")
                || memchr::memmem::find(bytes, b"\r\n\r\n").is_some())
            .then_some(body);
        }
        body.extend_from_slice(bytes.get(..length)?);
        bytes = bytes.get(length + 2..)?;
    }
}

#[cfg(test)]
mod tests;
