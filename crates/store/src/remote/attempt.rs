//! One operation with all its attempts: what an error means for the next.

use std::io::{self, ErrorKind};
use std::time::Instant;

use object_store::Error as StoreError;

use super::Retry;
use super::client::Inner;
use crate::{Error, Result};

/// Why an attempt failed.
pub(super) enum Failure {
    /// It would fail again.
    Final(io::Error),
    Again(io::Error),
    /// Again, and fewer at once.
    Busy(io::Error),
    /// Not the storage's fault, or known in full.
    Local(Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::TimedOut => Self::Busy(error),
            ErrorKind::InvalidInput => Self::Final(error),
            // Certificates do not change by asking again.
            _ if error.to_string().contains("invalid peer certificate") => Self::Final(error),
            _ => Self::Again(error),
        }
    }
}

impl Failure {
    /// Of an answer with this status and body.
    pub(super) fn of(status: u16, body: &str, location: Option<&str>) -> Self {
        let error = |kind, what: &str| {
            let words = told(body);
            let colon = if words.is_empty() { "" } else { ": " };
            io::Error::new(kind, format!("{what} (status {status}){colon}{words}"))
        };
        match status {
            200 => Self::Final(error(ErrorKind::Unsupported, "the server knows no ranges")),
            301 | 302 | 303 | 307 | 308 => {
                let to = location.map_or("elsewhere", |to| to.split('?').next().unwrap_or(to));
                Self::Final(error(ErrorKind::InvalidInput, &format!("it has moved to {to}")))
            }
            401 | 403 => Self::Final(error(ErrorKind::PermissionDenied, "permission denied")),
            404 => Self::Final(error(ErrorKind::NotFound, "not found")),
            412 => Self::Final(error(ErrorKind::InvalidData, "it was changed meanwhile")),
            416 => Self::Final(error(ErrorKind::UnexpectedEof, "the object is shorter")),
            429 | 503 => Self::Busy(error(ErrorKind::ResourceBusy, "slow down")),
            400 if body.contains("RequestTimeout") => {
                Self::Again(error(ErrorKind::TimedOut, "late"))
            }
            408 | 500.. => Self::Again(error(ErrorKind::Other, "the server failed")),
            _ => Self::Final(error(ErrorKind::InvalidInput, "the server refused")),
        }
    }

    /// Of what the library says.
    pub(super) fn of_store(error: &StoreError) -> Self {
        use ErrorKind::{AlreadyExists, InvalidInput, NotFound, PermissionDenied};
        let words = told(&error.to_string());
        let fail = |kind| Self::Final(io::Error::new(kind, words.clone()));
        match error {
            StoreError::NotFound { .. } => fail(NotFound),
            StoreError::AlreadyExists { .. } | StoreError::Precondition { .. } => {
                fail(AlreadyExists)
            }
            StoreError::PermissionDenied { .. } | StoreError::Unauthenticated { .. } => {
                fail(PermissionDenied)
            }
            StoreError::Generic { source, .. } => {
                // The library tells a status only in words.
                let text = format!("{error} {source:?}");
                let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
                if has(&["503", "429", "SlowDown", "Slow Down"]) {
                    Self::Busy(io::Error::new(ErrorKind::ResourceBusy, words))
                } else if has(&["status: 401", "status: 403", "status 401", "status 403"]) {
                    fail(PermissionDenied)
                } else if has(&["status 4", "status: 4"]) && !has(&["408"]) {
                    fail(InvalidInput)
                } else {
                    Self::Again(io::Error::other(words))
                }
            }
            _ => fail(InvalidInput),
        }
    }
}

/// What a server says in XML as words; its other fields repeat the request, key id and signature
/// among them.
pub(super) fn told(text: &str) -> String {
    let field = |name: &str| {
        let (_, rest) = text.split_once(&format!("<{name}>"))?;
        rest.split_once("</").map(|(value, _)| value.trim())
    };
    match (field("Code"), field("Message")) {
        (Some(code), Some(message)) => format!("{code}, {message}"),
        (Some(code), None) => code.into(),
        _ if text.contains('<') => {
            without_queries(text.split('<').next().unwrap_or_default().trim())
        }
        _ => without_queries(text.lines().next().unwrap_or_default()).chars().take(300).collect(),
    }
}

/// A URL may hold a signature behind its `?`.
fn without_queries(text: &str) -> String {
    let words = text.split(' ').map(|word| match word.split_once('?') {
        Some((url, _)) if url.contains("://") => url,
        _ => word,
    });
    words.collect::<Vec<_>>().join(" ")
}

impl Inner {
    /// Tries until it works, cannot work, or the time is over. An attempt is told its own end.
    pub(super) fn tried<T>(
        &self,
        action: &'static str,
        key: &str,
        offset: u64,
        mut attempt: impl FnMut(Instant) -> std::result::Result<T, Failure>,
    ) -> Result<T> {
        let mut retry = Retry::until(Instant::now() + self.settings.deadline, self.seed());
        let mut last = io::Error::from(ErrorKind::TimedOut);
        while let Some(left) = retry.attempt(Instant::now()) {
            if retry.attempts() > 1 {
                self.count_retry();
            }
            match attempt(Instant::now() + left.min(self.settings.attempt)) {
                Ok(value) => return Ok(value),
                Err(Failure::Local(error)) => return Err(error),
                Err(Failure::Final(error)) => {
                    last = error;
                    break;
                }
                Err(Failure::Again(error)) => last = error,
                Err(Failure::Busy(error)) => {
                    last = error;
                    self.gate.refused();
                }
            }
            match retry.wait(Instant::now()) {
                Some(wait) => std::thread::sleep(wait),
                None => break,
            }
        }
        let object = self.uri(key);
        Err(Error::Transfer { action, object, offset, attempts: retry.attempts(), source: last })
    }

    /// As [`Inner::tried`], for what the library does.
    pub(super) fn asked<T, F>(
        &self,
        action: &'static str,
        key: &str,
        mut ask: impl FnMut() -> F,
    ) -> Result<T>
    where
        F: Future<Output = object_store::Result<T>>,
    {
        self.tried(action, key, 0, |until| {
            let limit = until.saturating_duration_since(Instant::now());
            let control = self.control().map_err(Failure::Local)?;
            control.runtime.block_on(async {
                match tokio::time::timeout(limit, ask()).await {
                    Ok(Ok(value)) => Ok(value),
                    Ok(Err(error)) => Err(Failure::of_store(&error)),
                    Err(_) => {
                        let what = format!("no answer in {limit:.0?}");
                        Err(Failure::Busy(io::Error::new(ErrorKind::TimedOut, what)))
                    }
                }
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_quoted_without_what_they_repeat() {
        let body = "<?xml?><Error><Code>SignatureDoesNotMatch</Code><Message>No.</Message>\
                    <AWSAccessKeyId>AKIA123</AWSAccessKeyId><StringToSign>abc</StringToSign></Error>";
        assert_eq!(told(body), "SignatureDoesNotMatch, No.");
        let Failure::Final(error) = Failure::of(403, body, None) else { panic!() };
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        assert!(!error.to_string().contains("AKIA"), "{error}");
        assert_eq!(told("<html><body>no</body></html>"), "");
        assert_eq!(told("first\nsecond"), "first");
        let text = "Error performing POST http://h/c?sv=1&sig=abc%3D in 1 ms: what? no";
        assert_eq!(told(text), "Error performing POST http://h/c in 1 ms: what? no");
        assert_eq!(told("GET https://h/c?sig=abc: <html>"), "GET https://h/c");
    }

    #[test]
    fn what_helps_later_is_tried_again_and_nothing_else() {
        let again =
            |status| matches!(Failure::of(status, "", None), Failure::Again(_) | Failure::Busy(_));
        let found: Vec<u16> = (200..600).filter(|&status| again(status)).collect();
        let expected: Vec<u16> = [408, 429].into_iter().chain(500..600).collect();
        assert_eq!(found, expected);
    }
}
