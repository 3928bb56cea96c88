//! A TCP proxy that does what networks and busy servers do, for tests.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What to do to every `every`th answer to a ranged read or a part of an upload; 0 never.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fault {
    /// The answer waits.
    Delay(Duration),
    /// The connection closes before the answer.
    Reset,
    /// The connection closes in the middle of the body.
    Truncate,
    /// `503 Slow Down` instead.
    SlowDown,
    /// Never an answer.
    Hang,
    /// A bit of what is sent arrives as another.
    Corrupt,
}

/// A proxy that lives as long as the test process.
pub(super) struct Proxy {
    pub(super) endpoint: String,
    /// Answers that the fault was done to.
    pub(super) hit: Arc<AtomicU64>,
}

impl Proxy {
    pub(super) fn start(server: String, fault: Fault, every: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let (hit, seen) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let counted = Arc::clone(&hit);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (server, hit, seen) = (server.clone(), Arc::clone(&counted), Arc::clone(&seen));
                // A connection ends with an error of either side; the test sees what the client made of it.
                std::thread::spawn(move || {
                    let _ = serve(client, &server, fault, every, &seen, &hit);
                });
            }
        });
        Self { endpoint, hit }
    }
}

/// One connection: request after request, each answer perhaps with the fault.
fn serve(
    mut client: TcpStream,
    server: &str,
    fault: Fault,
    every: u64,
    seen: &AtomicU64,
    hit: &AtomicU64,
) -> std::io::Result<()> {
    let mut upstream = TcpStream::connect(server)?;
    client.set_nodelay(true)?;
    upstream.set_nodelay(true)?;
    loop {
        let head = read_head(&mut client)?;
        let is_read = head.starts_with("GET ") && header(&head, "range").is_some()
            || head.starts_with("PUT ") && head.contains("partNumber=");
        let faulty = is_read
            && every > 0
            && (seen.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(every);
        upstream.write_all(head.as_bytes())?;
        let body = header(&head, "content-length").and_then(|n| n.parse().ok()).unwrap_or(0);
        if faulty && matches!(fault, Fault::Corrupt) && body > 0 {
            let mut bytes = vec![0; body as usize];
            client.read_exact(&mut bytes)?;
            bytes[body as usize / 2] ^= 4;
            upstream.write_all(&bytes)?;
        } else {
            copy_exactly(&mut client, &mut upstream, body)?;
        }
        let answer = read_head(&mut upstream)?;
        let has_body = !head.starts_with("HEAD ");
        let length: u64 =
            header(&answer, "content-length").and_then(|n| n.parse().ok()).unwrap_or(0);
        if faulty {
            hit.fetch_add(1, Ordering::Relaxed);
            match fault {
                Fault::Delay(time) => std::thread::sleep(time),
                // Done already.
                Fault::Corrupt => {}
                Fault::Reset => return client.shutdown(Shutdown::Both),
                Fault::Hang => loop {
                    std::thread::park();
                },
                Fault::SlowDown => {
                    let body = "<Error><Code>SlowDown</Code></Error>";
                    let size = body.len();
                    write!(
                        client,
                        "HTTP/1.1 503 Slow Down\r\ncontent-length: {size}\r\nconnection: close\r\n\r\n{body}"
                    )?;
                    return client.shutdown(Shutdown::Both);
                }
                Fault::Truncate => {
                    client.write_all(answer.as_bytes())?;
                    copy_exactly(&mut upstream, &mut client, length / 2)?;
                    return client.shutdown(Shutdown::Both);
                }
            }
        }
        client.write_all(answer.as_bytes())?;
        if header(&answer, "transfer-encoding").is_some() {
            // Chunks end with the connection as far as we care: only listings come so.
            std::io::copy(&mut upstream, &mut client)?;
            return Ok(());
        }
        if has_body {
            copy_exactly(&mut upstream, &mut client, length)?;
        }
    }
}

fn read_head(stream: &mut TcpStream) -> std::io::Result<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

fn copy_exactly(from: &mut TcpStream, to: &mut TcpStream, length: u64) -> std::io::Result<()> {
    let copied = std::io::copy(&mut from.take(length), to)?;
    if copied < length {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    Ok(())
}
