//! Object stores: ranged reads and multipart writes, adaptive, hedged, with one deadline each.
//!
//! ```text
//! get_range ─▶ gate (how many at once: adapt) ─▶ request ─┬─ late? a second one (hedge)
//!                  ▲                                      ▼
//!                  └──────── wait (retry), until the deadline ── bytes, counted and complete
//! ```
//!
//! The policies are pure and stand alone. Bytes travel over connections of our own (`http`,
//! `data`), everything else through `object_store` (`client`). What tells S3, Google and Azure apart is
//! in `service` and `sign`. All that only with the feature `s3`; `gcp` and `azure` add to it.

mod adapt;
#[cfg(feature = "s3")]
mod attempt;
#[cfg(feature = "s3")]
mod body;
#[cfg(feature = "s3")]
pub mod cache;
#[cfg(feature = "s3")]
mod client;
#[cfg(feature = "azure")]
mod connection;
#[cfg(feature = "s3")]
mod copy;
#[cfg(feature = "s3")]
mod data;
#[cfg(feature = "s3")]
mod download;
mod find;
#[cfg(feature = "s3")]
mod gate;
mod hedge;
#[cfg(feature = "s3")]
mod http;
#[cfg(feature = "s3")]
mod journal;
#[cfg(all(test, feature = "s3"))]
#[expect(clippy::unwrap_used, reason = "of tests")]
mod proxy;
mod retry;
#[cfg(feature = "s3")]
mod service;
#[cfg(feature = "s3")]
mod sign;
#[cfg(feature = "s3")]
pub mod stage;
#[cfg(feature = "s3")]
mod stream;
#[cfg(all(test, feature = "s3"))]
#[expect(clippy::unwrap_used, clippy::needless_pass_by_value, reason = "of tests")]
mod tests;
#[cfg(feature = "s3")]
mod transfer;
#[cfg(feature = "s3")]
pub mod tree;
#[cfg(feature = "s3")]
mod upload;
#[cfg(feature = "s3")]
mod xml;

pub use adapt::Concurrency;
#[cfg(feature = "s3")]
pub use client::{Entry, Remote, Settings, Stats};
pub use find::{Found, Localized, find, local, read};
pub use hedge::Hedge;
pub use retry::Retry;
#[cfg(feature = "s3")]
pub use stream::Stream;
#[cfg(feature = "s3")]
pub use upload::Unfinished;

/// The scheme of a URI that names no file of this machine: `s3`, `https`, …; also one that this
/// build cannot read.
pub fn scheme(uri: &str) -> Option<&str> {
    const SCHEMES: [&str; 7] = ["s3", "http", "https", "gs", "az", "abfs", "abfss"];
    let (scheme, _) = uri.split_once("://")?;
    SCHEMES.contains(&scheme).then_some(scheme)
}

/// Whether a URI is of an object store: something with names to list, and to write to.
pub fn is_bucket(uri: &str) -> bool {
    scheme(uri).is_some_and(|scheme| !scheme.starts_with("http"))
}

/// Bucket and key of `s3://bucket/key`, server and path of `https://server/path`; `None` for
/// everything else.
pub fn parse(uri: &str) -> Option<(&str, &str)> {
    let rest = &uri[scheme(uri)?.len() + 3..];
    let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
    (!bucket.is_empty()).then_some((bucket, key))
}

#[cfg(test)]
mod uri_tests {
    use super::{is_bucket, parse, scheme};

    #[test]
    fn buckets_and_keys_are_told_apart() {
        assert_eq!(parse("s3://b/a/c.txt"), Some(("b", "a/c.txt")));
        assert_eq!(parse("s3://b"), Some(("b", "")));
        assert_eq!(parse("https://h:1/a?b=/"), Some(("h:1", "a?b=/")));
        assert_eq!((parse("s3:///x"), parse("/data/s3"), parse("file://b/x")), (None, None, None));
        assert!(is_bucket("az://b/x") && !is_bucket("https://h/x") && !is_bucket("b/x"));
        assert_eq!((scheme("gs://b/x"), scheme("a/b"), scheme("C://x")), (Some("gs"), None, None));
    }
}
