//! Statistics by HTTP, for Prometheus: one page, one thread, nothing else.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::{Error, Loader, Result, Stats};

impl Loader {
    /// Serves [`Stats::prometheus`] by HTTP at `address` as long as the loader lives; port 0 is
    /// any that is free. Says where. The numbers go to whoever asks: prefer a loopback address.
    ///
    /// # Errors
    /// If the address cannot be listened at.
    pub fn serve_metrics(&mut self, address: SocketAddr) -> Result<SocketAddr> {
        let metrics = Metrics::serve(address)?;
        metrics.set(&self.stats);
        Ok(self.metrics.insert(metrics).address())
    }
}

/// A server of the latest [`Stats`]; it goes when this is dropped.
#[derive(Debug)]
pub(crate) struct Metrics {
    shared: Arc<Shared>,
    address: SocketAddr,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stats: Mutex<Stats>,
    stop: AtomicBool,
}

/// Who does not ask or take the answer for so long is let go: there is one thread for all.
const PATIENCE: Duration = Duration::from_secs(1);
/// A request needs no more, and no more of it is read.
const REQUEST_BYTES: usize = 4096;

impl Metrics {
    pub(crate) fn serve(address: SocketAddr) -> Result<Self> {
        let refused =
            |error| Error::config("metrics", format!("a free address like {address}"), error);
        let listener = TcpListener::bind(address).map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        let shared = Arc::<Shared>::default();
        let seen = Arc::clone(&shared);
        let serve = move || {
            for connection in listener.incoming() {
                if seen.stop.load(Ordering::Relaxed) {
                    return;
                }
                // Whoever hung up meanwhile asks again.
                let _ = connection.and_then(|connection| answer(connection, &seen.stats));
            }
        };
        let named = std::thread::Builder::new().name("forebay-metrics".into());
        let thread = Some(named.spawn(serve).map_err(refused)?);
        Ok(Self { shared, address, thread })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The sums; single steps are not served.
    pub(crate) fn set(&self, stats: &Stats) {
        let sums = Stats { last: Default::default(), ..*stats };
        *self.shared.stats.lock().unwrap_or_else(PoisonError::into_inner) = sums;
    }
}

impl Drop for Metrics {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        // It waits for a connection: this one is its last.
        let reached = TcpStream::connect_timeout(&self.address, PATIENCE).is_ok();
        if let Some(thread) = self.thread.take().filter(|_| reached) {
            let _ = thread.join();
        }
    }
}

fn answer(mut connection: TcpStream, stats: &Mutex<Stats>) -> std::io::Result<()> {
    connection.set_read_timeout(Some(PATIENCE))?;
    connection.set_write_timeout(Some(PATIENCE))?;
    let mut request = Vec::new();
    let mut buffer = [0; 512];
    while !request.windows(4).any(|end| end == b"\r\n\r\n") && request.len() < REQUEST_BYTES {
        match connection.read(&mut buffer)? {
            0 => break,
            read => request.extend_from_slice(&buffer[..read]),
        }
    }
    let line = request.split(|&byte| byte == b'\r').next().unwrap_or_default();
    let mut words = line.split(|&byte| byte == b' ');
    let (status, body) = match (words.next(), words.next()) {
        (Some(b"GET"), Some(b"/metrics" | b"/")) => {
            let text = stats.lock().unwrap_or_else(PoisonError::into_inner).prometheus();
            ("200 OK", text)
        }
        (Some(b"GET"), _) => ("404 Not Found", "expected /metrics\n".into()),
        _ => ("405 Method Not Allowed", "expected GET\n".into()),
    };
    write!(
        connection,
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(address: SocketAddr, request: &str) -> String {
        let mut connection = TcpStream::connect(address).unwrap();
        connection.write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        connection.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn the_latest_sums_are_served_until_it_goes() {
        let metrics = Metrics::serve("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = metrics.address();
        let get = || ask(address, "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(get().contains("forebay_load_steps_total 0\n"));
        metrics.set(&Stats { steps: 7, ..Stats::default() });
        let text = get();
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("Content-Length: {}", body.len())), "{head}");
        assert!(body.contains("forebay_load_steps_total 7\n"), "{body}");
        assert!(ask(address, "GET /other HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404"));
        assert!(ask(address, "POST / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 405"));
        // One that says nothing does not keep others out for long.
        let silent = TcpStream::connect(address).unwrap();
        assert!(get().starts_with("HTTP/1.1 200"));
        drop(silent);
        let again = Metrics::serve(address).unwrap_err().to_string();
        assert!(again.starts_with(&format!("metrics: expected a free address like {address}")));
        drop(metrics);
        assert!(TcpStream::connect(address).is_err());
    }
}
