//! What the kernel asks: the ordinary tree, the virtual one, registration, ioctls.

mod answer;

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, IoctlFlags,
    KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyOpen, ReplyStatfs, ReplyWrite,
    Request, TimeOrNow, WriteFlags,
};

use crate::Options;
use crate::faults::Faults;
use crate::table::Entry;
use crate::tree::{Data, Kind, Node, ROOT};
use crate::watch::Daemon;

const VIRT: u64 = 0xffff_ffff_ffff_fffe;
const RM_RF: u64 = 0xffff_ffff_ffff_fffd;
const IOVS: u64 = 0xffff_ffff_8000_0000;
const GET_CONF: u64 = 0xffff_ffff_0000_0000;
const SET_CONF: u64 = 0xffff_fffe_8000_0000;
/// The first registered entry; others count down.
const FIRST_IOV: u64 = IOVS - 65_535;

const SUBMITS: [&str; 3] = ["submit-ios.ph", "submit-ios", "submit-ios.pl"];

/// How long the kernel may believe what it was told of files.
const TTL: Duration = Duration::from_secs(30);
/// Entries of `iovs` come and go without the kernel being asked.
const NOW: Duration = Duration::ZERO;

#[derive(Debug)]
pub(crate) struct Files {
    daemon: Arc<Daemon>,
    mount: PathBuf,
    cluster: String,
    iov_limit: usize,
    /// Who opened `iovs`: when that is closed for the last time, so is the process.
    openers: Mutex<HashMap<u64, u32>>,
    next_handle: AtomicU64,
}

type Answer<T> = Result<T, i32>;

fn errno(code: i32) -> Errno {
    Errno::from_i32(code)
}

/// Sends an answer or its error.
macro_rules! reply {
    ($reply:ident, $answer:expr, |$value:pat_param| $send:expr) => {
        match $answer {
            Ok($value) => $send,
            Err(code) => $reply.error(errno(code)),
        }
    };
}

impl Files {
    pub(crate) fn new(daemon: Arc<Daemon>, mount: &Path, options: &Options) -> Self {
        Self {
            daemon,
            mount: mount.into(),
            cluster: options.cluster.clone(),
            iov_limit: options.iov_limit,
            openers: Mutex::default(),
            next_handle: AtomicU64::new(1),
        }
    }
}

impl Filesystem for Files {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // Requests of 1 MiB, as the daemon's mount has them; the kernel may allow less.
        let _ = config.set_max_write(1 << 20);
        let _ = config.set_max_readahead(1 << 20);
        Ok(())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        reply!(reply, self.find(request, parent.0, name), |(attr, ttl)| reply.entry(
            &ttl,
            &attr,
            Generation(0)
        ));
    }

    fn forget(&self, _: &Request, ino: INodeNo, count: u64) {
        self.daemon.tree.forget(ino.0, count);
    }

    fn getattr(&self, request: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply!(reply, self.attr(request, ino.0), |(attr, ttl)| reply.attr(&ttl, &attr));
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let Some(node) = self.daemon.tree.get(ino.0) else {
            return reply!(reply, self.attr(request, ino.0), |(attr, ttl)| reply.attr(&ttl, &attr));
        };
        if let (Some(size), Some(mut data)) = (size, node.data_mut()) {
            data.truncate(self.daemon.chunk_bytes, size);
            node.about().modified = SystemTime::now();
        }
        {
            let mut about = node.about();
            about.mode = mode.map_or(about.mode, |mode| (mode & 0o7777) as u16);
            about.uid = uid.unwrap_or(about.uid);
            about.gid = gid.unwrap_or(about.gid);
            match mtime {
                Some(TimeOrNow::SpecificTime(time)) => about.modified = time,
                Some(TimeOrNow::Now) => about.modified = SystemTime::now(),
                None => {}
            }
        }
        reply.attr(&TTL, &self.attr_of(&node));
    }

    fn readlink(&self, request: &Request, ino: INodeNo, reply: ReplyData) {
        let found = || -> Answer<PathBuf> {
            if let Some(lane) = Self::submit_link(ino.0) {
                return Ok(self.daemon.submits.paths[lane].clone());
            }
            if let Some(node) = self.daemon.tree.get(ino.0) {
                let Kind::Link(to) = &node.kind else { return Err(libc::EINVAL) };
                return Ok(to.clone());
            }
            let table = self.daemon.table();
            let number = FIRST_IOV.checked_sub(ino.0).ok_or(libc::EINVAL)?;
            let entry = table.numbered(number).ok_or(libc::ENOENT)?;
            if entry.uid != request.uid() {
                return Err(libc::EPERM);
            }
            Ok(entry.target.clone())
        };
        reply!(reply, found(), |to| reply.data(to.as_os_str().as_encoded_bytes()));
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let made = match parent.0 {
            IOVS => self.register(request, name, target),
            RM_RF => self.remove_tree(target),
            SET_CONF => self.configure(name, target),
            other => self.make(request, other, name, Kind::Link(target.into()), 0o777),
        };
        reply!(reply, made, |attr| reply.entry(&NOW, &attr, Generation(0)));
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _: u32,
        reply: ReplyEntry,
    ) {
        let made = match mode & libc::S_IFMT {
            libc::S_IFREG => {
                let kind = Kind::File(RwLock::new(Data::default()));
                self.make(request, parent.0, name, kind, mode & !umask)
            }
            _ => Err(libc::EPERM),
        };
        reply!(reply, made, |attr| reply.entry(&TTL, &attr, Generation(0)));
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let kind = Kind::Directory(RwLock::default());
        let made = self.make(request, parent.0, name, kind, mode & !umask);
        reply!(reply, made, |attr| reply.entry(&TTL, &attr, Generation(0)));
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        reply!(reply, self.unlink_any(request, parent.0, name, false), |()| reply.ok());
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        reply!(reply, self.unlink_any(request, parent.0, name, true), |()| reply.ok());
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let exclusive = flags.contains(RenameFlags::RENAME_NOREPLACE);
        let renamed =
            self.daemon.tree.rename((parent.0, name), (new_parent.0, new_name), exclusive);
        reply!(reply, renamed, |()| reply.ok());
    }

    fn link(&self, _: &Request, ino: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let linked = self.daemon.tree.link(ino.0, parent.0, name).map(|node| {
            node.about().looked_up += 1;
            self.attr_of(&node)
        });
        reply!(reply, linked, |attr| reply.entry(&TTL, &attr, Generation(0)));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::empty());
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        let kind = Kind::File(RwLock::new(Data::default()));
        let made = self.make(request, parent.0, name, kind, mode & !umask);
        let none = FopenFlags::empty();
        reply!(reply, made, |attr| reply.created(&TTL, &attr, Generation(0), FileHandle(0), none));
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let Some(node) = self.daemon.tree.get(ino.0) else { return reply.error(Errno::ENOENT) };
        let Some(data) = node.data() else { return reply.error(Errno::EISDIR) };
        let length = data.length.saturating_sub(offset).min(size.into());
        let (mut bytes, mut reply) = (Vec::new(), Some(reply));
        data.read(self.daemon.chunk_bytes, offset, length, |at, piece| {
            // Inside of one chunk nothing is copied on the way to the kernel.
            if piece.len() as u64 == length
                && let Some(reply) = reply.take()
            {
                return reply.data(piece);
            }
            bytes.resize((at - offset) as usize, 0);
            bytes.extend_from_slice(piece);
        });
        drop(data);
        let Some(reply) = reply else { return };
        bytes.resize(length as usize, 0);
        reply.data(&bytes);
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        bytes: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let Some(node) = self.daemon.tree.get(ino.0) else { return reply.error(Errno::ENOENT) };
        let Some(mut data) = node.data_mut() else { return reply.error(Errno::EISDIR) };
        data.write(self.daemon.chunk_bytes, offset, bytes);
        data.length = data.length.max(offset + bytes.len() as u64);
        drop(data);
        node.touch();
        reply.written(bytes.len() as u32);
    }

    fn flush(&self, _: &Request, ino: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        self.settle(ino.0);
        reply.ok();
    }

    fn release(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.settle(ino.0);
        reply.ok();
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.settle(ino.0);
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn opendir(&self, request: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let handle = self.next_handle.fetch_add(1, Ordering::Relaxed);
        if ino.0 == IOVS {
            let mut openers = self.openers.lock().unwrap_or_else(PoisonError::into_inner);
            openers.insert(handle, request.pid());
        }
        reply.opened(FileHandle(handle), FopenFlags::empty());
    }

    fn readdir(
        &self,
        request: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        match self.list(request, ino.0) {
            Err(code) => reply.error(errno(code)),
            Ok(all) => {
                for (n, (ino, kind, name)) in all.into_iter().enumerate().skip(offset as usize) {
                    if reply.add(INodeNo(ino), n as u64 + 1, kind, name) {
                        break;
                    }
                }
                reply.ok();
            }
        }
    }

    fn releasedir(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _: OpenFlags,
        reply: ReplyEmpty,
    ) {
        if ino.0 == IOVS {
            let mut openers = self.openers.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(pid) = openers.remove(&fh.0) {
                self.daemon.table().reap(pid);
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let blocks = 1 << 28;
        reply.statfs(blocks, blocks, blocks, 1 << 20, 1 << 20, 4096, 255, 4096);
    }

    fn ioctl(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        flags: IoctlFlags,
        command: u32,
        input: &[u8],
        _: u32,
        reply: ReplyIoctl,
    ) {
        if flags.intersects(IoctlFlags::FUSE_IOCTL_COMPAT | IoctlFlags::FUSE_IOCTL_COMPAT_X32) {
            return reply.error(Errno::ENOSYS);
        }
        reply!(reply, self.answer_ioctl(ino.0, command, input), |bytes| reply.ioctl(0, &bytes));
    }
}
