//! `3fs://` names of paths.

use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::mount::mount_point;
use crate::{Error, Result};

const SCHEME: &str = "3fs://";

/// The local path of a `3fs://` name; any other path as it is.
///
/// `3fs:///mnt/3fs/corpus` is an absolute path on a 3FS, `3fs://stage/corpus` one below the mount
/// of the cluster `stage`. The path need not exist.
///
/// # Errors
/// [`Error::ThreeFs`] if no such cluster is mounted or the path lies on no 3FS.
pub fn resolve(path: &Path) -> Result<PathBuf> {
    let Some(rest) = path.to_str().and_then(|uri| uri.strip_prefix(SCHEME)) else {
        return Ok(path.to_path_buf());
    };
    let fail = |what: String| Error::ThreeFs {
        action: "find",
        mount: path.into(),
        source: io::Error::new(io::ErrorKind::NotFound, what),
    };
    let (cluster, below) = rest.split_once('/').unwrap_or((rest, ""));
    let local = if cluster.is_empty() {
        Path::new("/").join(below)
    } else {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo")
            .map_err(|e| Error::io("read", Path::new("/proc/self/mountinfo"), e))?;
        let root = mount_of(&mounts, cluster)
            .ok_or_else(|| fail(format!("no 3FS of the cluster `{cluster}` is mounted")))?;
        root.join(below)
    };
    if mount_point(&local).is_none() {
        return Err(fail(format!("{} lies on no 3FS", local.display())));
    }
    Ok(local)
}

/// Whether a path is written as `3fs://`.
pub fn is_uri(path: &Path) -> bool {
    path.to_str().is_some_and(|uri| uri.starts_with(SCHEME))
}

/// Mount point of a cluster, out of the text of `/proc/self/mountinfo`; the last mounted wins.
fn mount_of(mounts: &str, cluster: &str) -> Option<PathBuf> {
    let mut found = None;
    for line in mounts.lines() {
        let (left, right) = line.split_once(" - ")?;
        let mut right = right.split(' ');
        let is_3fs = right.next() == Some("fuse.hf3fs");
        let source = right.next().and_then(|s| s.strip_prefix("hf3fs."));
        if is_3fs && source == Some(cluster) {
            found = left.split(' ').nth(4).map(unescape);
        }
    }
    found
}

/// `\040` and its like are how the kernel writes blanks.
fn unescape(field: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let code = after.get(..3).filter(|_| first == b'\\');
        let byte = code.and_then(|c| u8::from_str_radix(std::str::from_utf8(c).ok()?, 8).ok());
        bytes.push(byte.unwrap_or(first));
        rest = if byte.is_some() { &after[3..] } else { after };
    }
    std::ffi::OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_is_found_among_the_mounts() {
        let mounts = "22 1 0:20 / /proc rw - proc proc rw\n\
                      90 1 0:50 / /mnt/old rw - fuse.hf3fs hf3fs.stage rw\n\
                      91 1 0:51 / /mnt/a\\040b rw shared:3 - fuse.hf3fs hf3fs.stage rw,max_read=1\n\
                      92 1 0:52 / /mnt/c rw - fuse.sshfs hf3fs.other rw\n";
        assert_eq!(mount_of(mounts, "stage"), Some("/mnt/a b".into()));
        assert_eq!(mount_of(mounts, "other"), None);
    }

    #[test]
    fn what_is_no_uri_stays_and_what_is_on_no_3fs_is_refused() {
        assert_eq!(resolve(Path::new("a/b")).unwrap(), Path::new("a/b"));
        let error = resolve(Path::new("3fs:///etc/passwd")).unwrap_err();
        assert!(error.to_string().contains("3fs:///etc/passwd"), "{error}");
        assert!(resolve(Path::new("3fs://no-such-cluster/a")).is_err());
    }
}
