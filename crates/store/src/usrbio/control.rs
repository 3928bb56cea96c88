//! What every file and directory of a 3FS answers beyond POSIX.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;

use rustix::fs::{AtFlags, StatxFlags, statx};

use super::layout::Ioctl;
use super::sys::ioctl;

/// Ranges in one request.
const RANGES: usize = 1000;

/// Cluster id of the 3FS that holds `file`.
///
/// # Errors
/// What the daemon answers; `ENOTTY` where there is no 3FS. So too below.
pub fn cluster_id(file: &File) -> io::Result<String> {
    let mut name = [0; 32];
    ioctl(file, Ioctl::MOUNT_NAME, &mut name)?;
    let end = name.iter().position(|&b| b == 0).unwrap_or(name.len());
    Ok(String::from_utf8_lossy(&name[..end]).into_owned())
}

/// Length of the path of the mount point, as the daemon knows it, and the version of the ioctls.
///
/// # Errors
/// As [`cluster_id`].
pub fn mount_facts(file: &File) -> io::Result<(u32, u32)> {
    let number = |request| {
        let mut word = [0; 4];
        ioctl(file, request, &mut word).map(|()| u32::from_le_bytes(word))
    };
    Ok((number(Ioctl::PATH_OFFSET)?, number(Ioctl::VERSION)?))
}

/// Makes the visible length of `file` exact, and returns it; descriptors for reading do too.
///
/// # Errors
/// As [`cluster_id`].
pub fn exact_length(file: &File) -> io::Result<u64> {
    ioctl(file, Ioctl::FSYNC, &mut [0; 4])?;
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_FORCE_SYNC;
    Ok(statx(file, "", flags, StatxFlags::SIZE)?.stx_size)
}

/// Removes all that is below the directory, in one request.
///
/// # Errors
/// As [`cluster_id`].
pub fn remove_all(directory: &File) -> io::Result<()> {
    ioctl(directory, Ioctl::REMOVE_ALL, &mut [0; 4])
}

/// Gives `file` another name in `directory`.
///
/// # Errors
/// As [`cluster_id`]; `InvalidInput` for a name above 254 bytes.
pub fn hardlink(file: &File, directory: &File, name: &str) -> io::Result<()> {
    let mut data = [0; 264];
    data[..8].copy_from_slice(&inode(directory)?.to_le_bytes());
    put_name(&mut data[8..263], name)?;
    ioctl(file, Ioctl::HARDLINK, &mut data)
}

/// Frees ranges `(start, end)` of `file`; both must be multiples of its chunk size.
///
/// # Errors
/// As [`cluster_id`]; `EINVAL` for ranges that are out of step.
pub fn punch_holes(file: &File, ranges: &[(u64, u64)], flags: u64) -> io::Result<()> {
    for some in ranges.chunks(RANGES) {
        let mut data = [0; 16_016];
        data[..4].copy_from_slice(&(some.len() as u32).to_le_bytes());
        data[8..16].copy_from_slice(&flags.to_le_bytes());
        for (n, (start, end)) in some.iter().enumerate() {
            data[16 + 8 * n..][..8].copy_from_slice(&start.to_le_bytes());
            data[8016 + 8 * n..][..8].copy_from_slice(&end.to_le_bytes());
        }
        ioctl(file, Ioctl::PUNCH_HOLE, &mut data)?;
    }
    Ok(())
}

/// Renames `from` to `to`, each a name in an open directory; or moves it to the trash.
///
/// # Errors
/// As [`hardlink`].
pub fn rename(from: (&File, &str), to: (&File, &str), to_trash: bool) -> io::Result<()> {
    let mut data = [0; 536];
    data[..8].copy_from_slice(&inode(from.0)?.to_le_bytes());
    put_name(&mut data[8..264], from.1)?;
    data[264..272].copy_from_slice(&inode(to.0)?.to_le_bytes());
    put_name(&mut data[272..528], to.1)?;
    data[528] = to_trash.into();
    ioctl(from.0, Ioctl::MOVE, &mut data)
}

/// Removes a name in an open directory, with all below it if asked.
///
/// # Errors
/// As [`hardlink`].
pub fn remove(directory: &File, name: &str, recursive: bool) -> io::Result<()> {
    let mut data = [0; 272];
    data[..8].copy_from_slice(&inode(directory)?.to_le_bytes());
    put_name(&mut data[8..264], name)?;
    data[264] = recursive.into();
    ioctl(directory, Ioctl::REMOVE, &mut data)
}

/// As 3FS counts: the roots that Linux calls 1 and 2 are 0 and 1.
fn inode(directory: &File) -> io::Result<u64> {
    let ino = directory.metadata()?.ino();
    Ok(if ino <= 2 { ino - 1 } else { ino })
}

/// With a zero at the end, which the field must have room for.
fn put_name(field: &mut [u8], name: &str) -> io::Result<()> {
    if name.len() >= field.len() || name.is_empty() || name.contains('\0') {
        let what = format!("a name of {} bytes, expected 1 to {}", name.len(), field.len() - 1);
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    field[..name.len()].copy_from_slice(name.as_bytes());
    Ok(())
}
