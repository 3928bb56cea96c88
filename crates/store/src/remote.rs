//! Object stores: ranged reads and multipart writes, adaptive, hedged, with one deadline each.
//!
//! ```text
//! get_range ─▶ gate (how many at once: adapt) ─▶ request ─┬─ late? a second one (hedge)
//!                  ▲                                      ▼
//!                  └──────── wait (retry), until the deadline ── bytes, counted and complete
//! ```
//!
//! The policies are pure and stand alone; the client connects them with `object_store` and is
//! built only with the feature `s3`.

mod adapt;
#[cfg(feature = "s3")]
mod client;
mod hedge;
#[cfg(all(test, feature = "s3"))]
mod proxy;
mod retry;
#[cfg(all(test, feature = "s3"))]
mod tests;
#[cfg(feature = "s3")]
mod transfer;

pub use adapt::Concurrency;
#[cfg(feature = "s3")]
pub use client::{Entry, Remote, Settings, Stats};
pub use hedge::Hedge;
pub use retry::Retry;

/// Bucket and key of `s3://bucket/key`; `None` for everything else.
pub fn parse(uri: &str) -> Option<(&str, &str)> {
    let rest = uri.strip_prefix("s3://")?;
    let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
    (!bucket.is_empty()).then_some((bucket, key))
}

#[cfg(test)]
mod uri_tests {
    use super::parse;

    #[test]
    fn buckets_and_keys_are_told_apart() {
        assert_eq!(parse("s3://b/a/c.txt"), Some(("b", "a/c.txt")));
        assert_eq!(parse("s3://b"), Some(("b", "")));
        assert_eq!((parse("s3:///x"), parse("/data/s3"), parse("gs://b/x")), (None, None, None));
    }
}
