use std::net::TcpListener;

use super::*;

/// A server that answers each request with the next of `answers`, in pieces.
fn serve(answers: Vec<Vec<&'static [u8]>>) -> (Server, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/some/path", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let mut answers = answers.into_iter();
        while let Ok((mut socket, _)) = listener.accept() {
            let mut request = Vec::new();
            loop {
                let mut byte = [0];
                match socket.read(&mut byte) {
                    Ok(1) => request.push(byte[0]),
                    _ => break,
                }
                if request.ends_with(b"\r\n\r\n") {
                    request.clear();
                    let Some(pieces) = answers.next() else { return };
                    for piece in pieces {
                        if piece == b"CLOSE" {
                            let _ = socket.shutdown(std::net::Shutdown::Both);
                            break;
                        }
                        socket.write_all(piece).unwrap();
                        std::thread::sleep(Duration::from_millis(2));
                    }
                }
            }
        }
    });
    Server::of(&url, Duration::from_millis(500)).unwrap()
}

const ASK: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(5)
}

#[test]
fn bodies_come_whole_however_they_are_cut() {
    let (server, path) = serve(vec![
        vec![
            b"HTTP/1.1 100 Continue\r\n\r\nHTT",
            b"P/1.1 206 Partial\r\nContent-Le",
            b"ngth: 10\r\n\r\n01",
            b"23456789",
        ],
        vec![
            b"HTTP/1.1 404 No\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
            b"2;x=y\r\nde\r\n0\r\n\r\n",
        ],
        vec![b"HTTP/1.0 200 OK\r\n\r\nuntil", b" the end", b"CLOSE"],
        vec![b"HTTP/1.1 204 No\r\n\r\n"],
    ]);
    assert_eq!(path, "/some/path");
    let mut connection = server.send(ASK, &Body::NOTHING).unwrap();
    let answer = connection.answer(true).unwrap();
    assert_eq!((answer.status, answer.length), (206, Some(10)));
    let mut body = [0; 10];
    connection.read_exact(&mut body[..4], soon()).unwrap();
    assert!(!connection.is_reusable(), "it has bytes that nobody read");
    connection.read_exact(&mut body[4..], soon()).unwrap();
    assert_eq!(&body, b"0123456789");
    assert!(connection.read_exact(&mut [0], soon()).is_err());
    server.put_back(connection);

    let mut connection = server.send(ASK, &Body::NOTHING).unwrap();
    assert_eq!(connection.answer(true).unwrap().status, 404);
    assert_eq!(connection.read_short(soon()).unwrap(), b"abcde");
    server.put_back(connection);
    assert_eq!(server.lock().len(), 1, "one connection for both");

    let mut connection = server.send(ASK, &Body::NOTHING).unwrap();
    assert_eq!(connection.answer(true).unwrap().status, 200);
    assert_eq!(connection.read_short(soon()).unwrap(), b"until the end");
    server.put_back(connection);
    assert_eq!(server.lock().len(), 0, "this one is at its end");

    let mut connection = server.send(ASK, &Body::NOTHING).unwrap();
    assert_eq!(connection.answer(true).unwrap().status, 204);
    assert!(connection.is_reusable());
}

#[test]
fn a_connection_that_was_closed_meanwhile_is_not_used() {
    let (server, _) = serve(vec![
        vec![b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", b"CLOSE"],
        vec![b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"],
    ]);
    for _ in 0..2 {
        let mut connection = server.send(ASK, &Body::NOTHING).unwrap();
        assert_eq!(connection.answer(true).unwrap().length, Some(0));
        server.put_back(connection);
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn what_is_torn_late_or_foreign_is_an_error() {
    let kinds = [
        (
            vec![&b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc"[..], b"CLOSE"],
            ErrorKind::UnexpectedEof,
        ),
        (vec![&b"SSH-2.0-x\r\n\r\n"[..]], ErrorKind::InvalidData),
        (vec![&b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n"[..]], ErrorKind::InvalidData),
        (vec![&b"HTTP/1.1 200 OK\r\n"[..]], ErrorKind::TimedOut),
    ];
    for (answer, kind) in kinds {
        let (server, _) = serve(vec![answer.clone()]);
        let mut connection = server.send(ASK, &Body::NOTHING).unwrap();
        let read = connection.answer(true).and_then(|_| connection.read_exact(&mut [0; 9], soon()));
        assert_eq!(read.unwrap_err().kind(), kind, "{answer:?}");
    }
}

#[test]
fn addresses_are_told_apart() {
    let of = |url: &str| Server::of(url, IDLE).map(|(s, path)| (s.authority(), s.port, path));
    assert_eq!(of("http://a.b/c/d").unwrap(), ("a.b".into(), 80, "/c/d".into()));
    assert_eq!(of("http://[::1]:8333").unwrap(), ("[::1]:8333".into(), 8333, String::new()));
    for wrong in ["ftp://a", "http://", "http://user:secret@a/", "http://a:b/"] {
        let error = of(wrong).unwrap_err();
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}
