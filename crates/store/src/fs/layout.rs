//! What a path lies on, and how its bytes are spread: `statfs`, `statx`, xattrs of parallel file systems.

use std::path::Path;

use crate::{Access, Alignment, Direct, Error, Object, Result};

/// How a file lies on its storage.
#[derive(Debug, Clone)]
pub struct Layout {
    /// Name of the file system: "ext4", "lustre".
    pub file_system: String,
    /// Its number in `statfs`.
    pub magic: u64,
    /// Unit of allocation in bytes.
    pub block_bytes: u64,
    /// Bytes free for an ordinary user.
    pub free_bytes: u64,
    /// What direct I/O must be aligned to; `None` if there is none, or for a directory.
    pub direct: Option<Alignment>,
    /// Bytes of a stripe, where the file is spread over several servers.
    pub stripe_bytes: Option<u64>,
    /// Over how many.
    pub stripe_count: Option<u64>,
    /// What the parallel file system says of it, as it says it.
    pub attributes: Vec<(String, String)>,
}

/// Numbers of `statfs(2)` for what people keep data on.
const MAGICS: [(u64, &str); 17] = [
    (0xef53, "ext4"),
    (0x5846_5342, "xfs"),
    (0x9123_683e, "btrfs"),
    (0x2fc1_2fc1, "zfs"),
    (0x0102_1994, "tmpfs"),
    (0x794c_7630, "overlayfs"),
    (0x6573_5546, "fuse"),
    (0x6969, "nfs"),
    (0xff53_4d42, "cifs"),
    (0xfe53_4d42, "smb2"),
    (0x0102_1997, "9p"),
    (0x00c3_6400, "ceph"),
    (0x0bd0_0bd0, "lustre"),
    (0x1983_0326, "beegfs"),
    (0x4750_4653, "gpfs"),
    (0x2003_0528, "orangefs"),
    (0xf2f5_2010, "f2fs"),
];

/// Xattrs that tell of stripes; a file system that has none answers "not supported".
const ATTRIBUTES: [&str; 4] = ["ceph.file.layout", "ceph.dir.layout", "lustre.lov", "user.juicefs"];

/// Looks at `path`, which may be a file, directory or device.
///
/// # Errors
/// [`Error::Io`] if it is missing.
pub fn layout(path: &Path) -> Result<Layout> {
    let found = rustix::fs::statfs(path).map_err(|e| Error::io("stat", path, e.into()))?;
    let magic = found.f_type as u64 & 0xffff_ffff;
    let name = MAGICS.iter().find(|(number, _)| *number == magic);
    let block_bytes = found.f_bsize as u64;
    let mut layout = Layout {
        file_system: name.map_or_else(|| format!("unknown ({magic:#x})"), |(_, n)| (*n).into()),
        magic,
        block_bytes,
        free_bytes: found.f_bavail * block_bytes,
        direct: None,
        stripe_bytes: None,
        stripe_count: None,
        attributes: Vec::new(),
    };
    if !path.is_dir() {
        let object = Object::open(path, Access::Read, Direct::Try);
        layout.direct = object.ok().and_then(|object| object.direct());
    }
    for attribute in ATTRIBUTES {
        let mut value = vec![0; 4096];
        if let Ok(length) = rustix::fs::getxattr(path, attribute, &mut value[..]) {
            layout.note(attribute, &value[..length]);
        }
    }
    Ok(layout)
}

impl Layout {
    fn note(&mut self, attribute: &str, value: &[u8]) {
        if attribute == "lustre.lov" {
            if let Some((bytes, count)) = lustre_stripes(value) {
                (self.stripe_bytes, self.stripe_count) = (Some(bytes), Some(count));
                let text = format!("stripe_size={bytes} stripe_count={count}");
                self.attributes.push((attribute.into(), text));
            }
            return;
        }
        let text = String::from_utf8_lossy(value).into_owned();
        if attribute.starts_with("ceph.") {
            self.stripe_bytes = field(&text, "stripe_unit").or(self.stripe_bytes);
            self.stripe_count = field(&text, "stripe_count").or(self.stripe_count);
        }
        self.attributes.push((attribute.into(), text));
    }
}

/// `stripe_unit=1048576 stripe_count=2 …` → one of its numbers.
fn field(text: &str, name: &str) -> Option<u64> {
    let word = text.split_whitespace().find_map(|word| word.strip_prefix(name))?;
    word.strip_prefix('=')?.parse().ok()
}

/// `struct lov_mds_md_v1` and `_v3`: magic, pattern (u32 each), 16 B of object id, stripe size
/// (u32), stripe count (u16), little-endian.
fn lustre_stripes(value: &[u8]) -> Option<(u64, u64)> {
    let magic = u32::from_le_bytes(value.get(..4)?.try_into().ok()?);
    if !matches!(magic, 0x0bd1_0bd0 | 0x0bd3_0bd0) {
        return None;
    }
    let bytes = u32::from_le_bytes(value.get(24..28)?.try_into().ok()?);
    let count = u16::from_le_bytes(value.get(28..30)?.try_into().ok()?);
    Some((bytes.into(), count.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_here_has_a_file_system_and_blocks() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, [0; 10]).unwrap();
        let layout = layout(&path).unwrap();
        assert!(layout.block_bytes >= 512 && layout.magic != 0, "{layout:?}");
    }

    #[test]
    fn stripes_are_read_from_ceph_and_lustre() {
        let ceph = "stripe_unit=1048576 stripe_count=2 object_size=8388608 pool=data";
        assert_eq!(
            (field(ceph, "stripe_unit"), field(ceph, "stripe_count")),
            (Some(1 << 20), Some(2))
        );
        let mut lov = vec![0; 32];
        lov[..4].copy_from_slice(&0x0bd1_0bd0_u32.to_le_bytes());
        lov[24..28].copy_from_slice(&(4_u32 << 20).to_le_bytes());
        lov[28..30].copy_from_slice(&8_u16.to_le_bytes());
        assert_eq!(lustre_stripes(&lov), Some((4 << 20, 8)));
        assert_eq!(lustre_stripes(&lov[..20]), None);
    }
}
