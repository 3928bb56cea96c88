//! `libhf3fs_api_shared.so` without C++: the C functions of 3FS USRBIO over `forebay-store`.
//!
//! Programs that were linked against the library of 3FS run unchanged with this one in its place.
//! `include/hf3fs_usrbio.h` says what the functions do. Every pointer must be as C says there: that
//! is the safety contract of each of them.

#![allow(clippy::missing_safety_doc, reason = "said once, above")]
#![allow(unreachable_pub, missing_docs, reason = "exported by name; the header has the docs")]

mod files;
mod layout;

use std::ffi::{CStr, CString, OsStr, c_char, c_int, c_void};
use std::fs::File;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::FromRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use forebay_store::Error;
use forebay_store::usrbio::{
    Borrowed, Entry, Id, Iov, IovOptions, Mount, Ring, RingKind, RingLayout, control, is_3fs,
    mount_point,
};

use self::layout::{Cqe, Ior, IovStruct};

/// What an `iovh` points to.
enum Memory {
    Own(Arc<Iov>),
    Other(#[expect(dead_code, reason = "held for its map")] Borrowed),
}

fn errno(error: &io::Error) -> c_int {
    error.raw_os_error().unwrap_or(libc::EIO)
}

fn code(error: &Error) -> c_int {
    match error {
        Error::ThreeFs { source, .. } | Error::Memory { source, .. } => errno(source),
        _ => libc::EIO,
    }
}

/// Zero, or a negative error number.
fn answer(result: Result<(), c_int>) -> c_int {
    result.map_or_else(|code| -code, |()| 0)
}

/// # Safety
/// Null, or a C string.
unsafe fn path(text: *const c_char) -> Result<PathBuf, c_int> {
    if text.is_null() {
        return Err(libc::EINVAL);
    }
    // SAFETY: as promised.
    let text = unsafe { CStr::from_ptr(text) };
    Ok(Path::new(OsStr::from_bytes(text.to_bytes())).to_path_buf())
}

/// The mount, and its name as it goes into structs.
unsafe fn mount(text: *const c_char) -> Result<(Arc<Mount>, [c_char; 256]), c_int> {
    // SAFETY: as promised to the caller of this.
    let given = unsafe { path(text)? };
    let mut name = [0; 256];
    let bytes = given.as_os_str().as_bytes();
    if bytes.len() >= name.len() {
        return Err(libc::EINVAL);
    }
    for (to, from) in name.iter_mut().zip(bytes) {
        *to = *from as c_char;
    }
    let root = given.canonicalize().map_err(|e| errno(&e))?;
    Ok((Mount::at(&root).map_err(|e| code(&e))?, name))
}

fn node(numa: c_int) -> Option<u32> {
    u32::try_from(numa).ok()
}

/// A file that stays the caller's.
fn lent(fd: c_int) -> ManuallyDrop<File> {
    // SAFETY: never closed here; a descriptor that is none makes system calls fail, no more.
    ManuallyDrop::new(unsafe { File::from_raw_fd(fd) })
}

#[unsafe(no_mangle)]
pub extern "C" fn hf3fs_is_hf3fs(fd: c_int) -> bool {
    fd >= 0 && is_3fs(&*lent(fd))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hf3fs_extract_mount_point(
    buffer: *mut c_char,
    size: c_int,
    name: *const c_char,
) -> c_int {
    // SAFETY: as the header says.
    let root = unsafe { path(name) }.ok().and_then(|path| mount_point(&path));
    let Some(text) = root.and_then(|root| CString::new(root.as_os_str().as_bytes()).ok()) else {
        return -1;
    };
    let bytes = text.as_bytes_with_nul();
    let length = bytes.len() as c_int;
    if length <= size && !buffer.is_null() {
        // SAFETY: the caller has room for `size` bytes.
        unsafe { buffer.copy_from_nonoverlapping(bytes.as_ptr().cast(), bytes.len()) };
    }
    length
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hf3fs_iovcreate(
    iov: *mut IovStruct,
    mount_name: *const c_char,
    size: usize,
    block_size: usize,
    numa: c_int,
) -> c_int {
    let make = || {
        if iov.is_null() || size == 0 {
            return Err(libc::EINVAL);
        }
        // SAFETY: as the header says.
        let (mount, mount_point) = unsafe { mount(mount_name)? };
        // Others may open it by name, as they always could; who would rather leave nothing behind
        // when killed, says so.
        let keep_name = std::env::var_os("FOREBAY_USRBIO_EAGER_UNLINK").is_none();
        let options = IovOptions { block_bytes: block_size, numa: node(numa), keep_name };
        let made = Iov::create(&mount, size, options).map_err(|e| code(&e))?;
        let (base, id) = (made.base().as_ptr(), made.id().0);
        let iovh = Box::into_raw(Box::new(Memory::Own(made))).cast();
        // SAFETY: not null, and the caller's to be filled.
        unsafe { iov.write(IovStruct { base, iovh, id, mount_point, size, block_size, numa }) };
        Ok(())
    };
    answer(make())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hf3fs_iovopen(
    iov: *mut IovStruct,
    id: *const [u8; 16],
    mount_name: *const c_char,
    size: usize,
    block_size: usize,
    numa: c_int,
) -> c_int {
    let open = || {
        if iov.is_null() || id.is_null() {
            return Err(libc::EINVAL);
        }
        // SAFETY: as the header says.
        let ((mount, mount_point), id) = unsafe { (mount(mount_name)?, *id) };
        let opened = Borrowed::open(&mount, Id(id), block_size, size).map_err(|e| errno(&e))?;
        let base = opened.base().as_ptr();
        let iovh = Box::into_raw(Box::new(Memory::Other(opened))).cast();
        // SAFETY: not null, and the caller's to be filled.
        unsafe { iov.write(IovStruct { base, iovh, id, mount_point, size, block_size, numa }) };
        Ok(())
    };
    answer(open())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hf3fs_iovwrap(
    iov: *mut IovStruct,
    base: *mut c_void,
    id: *const [u8; 16],
    mount_name: *const c_char,
    size: usize,
    block_size: usize,
    numa: c_int,
) -> c_int {
    let wrap = || {
        if iov.is_null() || id.is_null() || base.is_null() {
            return Err(libc::EINVAL);
        }
        // SAFETY: as the header says.
        let ((_, mount_point), id) = unsafe { (mount(mount_name)?, *id) };
        let (base, iovh) = (base.cast(), null_mut());
        // SAFETY: not null, and the caller's to be filled.
        unsafe { iov.write(IovStruct { base, iovh, id, mount_point, size, block_size, numa }) };
        Ok(())
    };
    answer(wrap())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hf3fs_iovunlink(iov: *mut IovStruct) {
    // SAFETY: null, or filled by one of the functions above; so is its handle.
    let memory = unsafe { iov.as_ref().and_then(|iov| iov.iovh.cast::<Memory>().as_ref()) };
    if let Some(Memory::Own(iov)) = memory {
        iov.unlink();
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hf3fs_iovdestroy(iov: *mut IovStruct) {
    // SAFETY: null, or filled by one of the functions above.
    let Some(iov) = (unsafe { iov.as_mut() }) else { return };
    let handle = std::mem::replace(&mut iov.iovh, null_mut());
    // What was wrapped is not ours.
    if !handle.is_null() {
        iov.base = null_mut();
        // SAFETY: made by `Box::into_raw` above, and taken out so that it is dropped once.
        drop(unsafe { Box::from_raw(handle.cast::<Memory>()) });
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn hf3fs_ior_size(entries: c_int) -> usize {
    usize::try_from(entries).map_or(0, |entries| RingLayout::of(entries).file_bytes())
}

unsafe fn create_ring(
    ior: *mut Ior,
    mount_name: *const c_char,
    entries: c_int,
    kind: Result<RingKind, c_int>,
    numa: c_int,
) -> c_int {
    let make = || {
        let kind = kind?;
        let entries = usize::try_from(entries).map_err(|_| libc::EINVAL)?;
        if ior.is_null() || entries == 0 {
            return Err(libc::EINVAL);
        }
        // SAFETY: as the header says.
        let (mount, mount_point) = unsafe { mount(mount_name)? };
        let ring = Ring::create(&mount, entries, kind, node(numa)).map_err(|e| code(&e))?;
        let (base, size) = ring.memory();
        let id = ring.id().0;
        let (base, iovh, block_size) = (base.as_ptr(), null_mut(), 0);
        let filled = Ior {
            iov: IovStruct { base, iovh, id, mount_point, size, block_size, numa },
            iorh: Box::into_raw(Box::new(ring)).cast(),
            mount_point,
            for_read: kind.for_read,
            io_depth: kind.io_depth,
            priority: kind.priority,
            timeout: kind.timeout_ms as c_int,
            flags: kind.flags,
        };
        // SAFETY: not null, and the caller's to be filled.
        unsafe { ior.write(filled) };
        Ok(())
    };
    answer(make())
}

fn kind(
    for_read: bool,
    io_depth: c_int,
    priority: c_int,
    timeout: c_int,
    flags: u64,
) -> Result<RingKind, c_int> {
    let timeout_ms = u32::try_from(timeout).map_err(|_| libc::EINVAL)?;
    Ok(RingKind { for_read, io_depth, priority, timeout_ms, flags })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hf3fs_iorcreate(
    ior: *mut Ior,
    mount_name: *const c_char,
    entries: c_int,
    for_read: bool,
    io_depth: c_int,
    numa: c_int,
) -> c_int {
    // SAFETY: as the header says.
    unsafe { create_ring(ior, mount_name, entries, kind(for_read, io_depth, 0, 0, 0), numa) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hf3fs_iorcreate2(
    ior: *mut Ior,
    mount_name: *const c_char,
    entries: c_int,
    for_read: bool,
    io_depth: c_int,
    priority: c_int,
    numa: c_int,
) -> c_int {
    let kind = kind(for_read, io_depth, priority, 0, 0);
    // SAFETY: as the header says.
    unsafe { create_ring(ior, mount_name, entries, kind, numa) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hf3fs_iorcreate3(
    ior: *mut Ior,
    mount_name: *const c_char,
    entries: c_int,
    for_read: bool,
    io_depth: c_int,
    priority: c_int,
    timeout: c_int,
    numa: c_int,
) -> c_int {
    let kind = kind(for_read, io_depth, priority, timeout, 0);
    // SAFETY: as the header says.
    unsafe { create_ring(ior, mount_name, entries, kind, numa) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hf3fs_iorcreate4(
    ior: *mut Ior,
    mount_name: *const c_char,
    entries: c_int,
    for_read: bool,
    io_depth: c_int,
    timeout: c_int,
    numa: c_int,
    flags: u64,
) -> c_int {
    let kind = kind(for_read, io_depth, 0, timeout, flags);
    // SAFETY: as the header says.
    unsafe { create_ring(ior, mount_name, entries, kind, numa) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hf3fs_iordestroy(ior: *mut Ior) {
    // SAFETY: null, or filled by `create_ring`.
    let Some(ior) = (unsafe { ior.as_mut() }) else { return };
    let handle = std::mem::replace(&mut ior.iorh, null_mut());
    if !handle.is_null() {
        ior.iov.base = null_mut();
        // SAFETY: made by `Box::into_raw` in `create_ring`, and taken out so that it is dropped once.
        drop(unsafe { Box::from_raw(handle.cast::<Ring>()) });
    }
}

unsafe fn ring<'a>(ior: *const Ior) -> Option<&'a Ring> {
    // SAFETY: null, or filled by `create_ring` and not destroyed.
    unsafe { ior.as_ref().and_then(|ior| ior.iorh.cast::<Ring>().as_ref()) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hf3fs_io_entries(ior: *const Ior) -> c_int {
    // SAFETY: as the header says.
    unsafe { ring(ior) }.map_or(-libc::EINVAL, |ring| ring.entries() as c_int)
}

#[unsafe(no_mangle)]
pub extern "C" fn hf3fs_reg_fd(fd: c_int, _flags: u64) -> c_int {
    match files::register(fd) {
        Ok(copy) => -copy,
        Err(code) => code,
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn hf3fs_dereg_fd(fd: c_int) {
    files::forget(fd);
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hf3fs_prep_io(
    ior: *const Ior,
    iov: *const IovStruct,
    read: bool,
    pointer: *mut c_void,
    fd: c_int,
    offset: usize,
    length: u64,
    user_data: *const c_void,
) -> c_int {
    // SAFETY: as the header says.
    let (Some(ring), Some(iov)) = (unsafe { (ring(ior), iov.as_ref()) }) else {
        return -libc::EINVAL;
    };
    let place = (pointer as usize).checked_sub(iov.base as usize);
    let end = place.and_then(|place| (place as u64).checked_add(length));
    let (Some(place), Some(end)) = (place, end) else { return -libc::EINVAL };
    if read != ring.kind().for_read || length == 0 || end > iov.size as u64 {
        return -libc::EINVAL;
    }
    let inode = match files::inode(fd, read) {
        Ok(inode) => inode,
        Err(code) => return -code,
    };
    let entry = Entry {
        iov: Id(iov.id),
        iov_offset: place as u64,
        inode,
        offset: offset as u64,
        length,
        user_data: user_data as u64,
    };
    // SAFETY: C promises to leave the bytes alone until the completion, as with any such library.
    match unsafe { ring.prepare(&entry) } {
        Ok(Some(slot)) => slot as c_int,
        Ok(None) => -libc::EAGAIN,
        Err(_) => -libc::EIO,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hf3fs_submit_ios(ior: *const Ior) -> c_int {
    // SAFETY: as the header says.
    answer(unsafe { ring(ior) }.map(Ring::submit).ok_or(libc::EINVAL))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hf3fs_wait_for_ios(
    ior: *const Ior,
    cqes: *mut Cqe,
    count: c_int,
    at_least: c_int,
    abs_timeout: *const libc::timespec,
) -> c_int {
    let room = usize::try_from(count).unwrap_or(0);
    // SAFETY: as the header says.
    let (Some(ring), Some(mut next)) = (unsafe { ring(ior) }, NonNull::new(cqes)) else {
        return -libc::EINVAL;
    };
    // SAFETY: null or valid.
    let deadline = unsafe { abs_timeout.as_ref() }.map(|until| {
        let until =
            Duration::new(until.tv_sec.max(0) as u64, until.tv_nsec.clamp(0, 999_999_999) as u32);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Instant::now() + until.saturating_sub(now).min(Duration::from_secs(1 << 30))
    });
    let at_least = usize::try_from(at_least).unwrap_or(0);
    let waited = ring.wait(at_least, room, deadline, |done| {
        let cqe = Cqe {
            index: done.slot as i32,
            reserved: 0,
            result: done.result,
            userdata: done.user_data as *const c_void,
        };
        // SAFETY: called `room` times at most, and the caller has room for so many.
        unsafe {
            next.write(cqe);
            next = next.add(1);
        }
    });
    waited.map_or_else(
        |error| match error.kind() {
            io::ErrorKind::NotConnected => -libc::ENOTCONN,
            _ => -libc::EIO,
        },
        |count| count as c_int,
    )
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hf3fs_hardlink(target: *const c_char, link: *const c_char) -> c_int {
    let make = || {
        // SAFETY: as the header says.
        let (target, link) = unsafe { (path(target)?, path(link)?) };
        let file = File::open(target).map_err(|e| errno(&e))?;
        let parent = match link.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let directory = File::open(parent).map_err(|e| errno(&e))?;
        let name = link.file_name().and_then(OsStr::to_str).ok_or(libc::EINVAL)?;
        control::hardlink(&file, &directory, name).map_err(|e| match e.kind() {
            io::ErrorKind::InvalidInput => libc::EINVAL,
            _ => errno(&e),
        })
    };
    answer(make())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hf3fs_punchhole(
    fd: c_int,
    count: c_int,
    starts: *const usize,
    ends: *const usize,
    flags: usize,
) -> c_int {
    let punch = || {
        let count = usize::try_from(count).map_err(|_| libc::EINVAL)?;
        if fd < 0 || starts.is_null() || ends.is_null() {
            return Err(libc::EINVAL);
        }
        // SAFETY: the caller has `count` of both.
        let (starts, ends) = unsafe {
            (std::slice::from_raw_parts(starts, count), std::slice::from_raw_parts(ends, count))
        };
        let ranges: Vec<(u64, u64)> =
            starts.iter().zip(ends).map(|(&start, &end)| (start as u64, end as u64)).collect();
        control::punch_holes(&lent(fd), &ranges, flags as u64).map_err(|e| errno(&e))
    };
    answer(punch())
}
