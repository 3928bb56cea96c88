//! What the kernel asks: the ordinary tree, the virtual one, registration, ioctls.

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

    fn attr_of(&self, node: &Node) -> FileAttr {
        let about = node.about().clone();
        let (kind, size) = match &node.kind {
            Kind::File(_) => (FileType::RegularFile, node.data().map_or(0, |d| d.length)),
            Kind::Directory(_) => (FileType::Directory, 4096),
            Kind::Link(to) => (FileType::Symlink, to.as_os_str().len() as u64),
        };
        FileAttr {
            ino: INodeNo(node.ino),
            size,
            blocks: size.div_ceil(512),
            atime: about.modified,
            mtime: about.modified,
            ctime: about.modified,
            crtime: UNIX_EPOCH,
            kind,
            perm: about.mode,
            nlink: about.links + u32::from(kind == FileType::Directory),
            uid: about.uid,
            gid: about.gid,
            rdev: 0,
            blksize: self.daemon.chunk_bytes as u32,
            flags: 0,
        }
    }

    /// Of an inode of the virtual tree.
    fn virtual_attr(ino: u64, kind: FileType, perm: u16, (uid, gid): (u32, u32)) -> FileAttr {
        FileAttr {
            ino: INodeNo(ino),
            size: 0,
            blocks: 0,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm,
            nlink: 1,
            uid,
            gid,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }

    fn entry_attr(entry: &Entry) -> FileAttr {
        let (ino, owner) = (FIRST_IOV - entry.number, (entry.uid, entry.gid));
        Self::virtual_attr(ino, FileType::Symlink, 0o400, owner)
    }

    fn virtual_directory(ino: u64) -> Option<FileAttr> {
        let mode = match ino {
            VIRT | GET_CONF => 0o555,
            RM_RF | IOVS | SET_CONF => 0o777,
            _ => return None,
        };
        Some(Self::virtual_attr(ino, FileType::Directory, mode, (0, 0)))
    }

    fn submit_link(ino: u64) -> Option<usize> {
        (1..=3).find(|n| ino == IOVS - n).map(|n| n as usize - 1)
    }

    fn attr(&self, request: &Request, ino: u64) -> Answer<(FileAttr, Duration)> {
        if let Some(attr) = Self::virtual_directory(ino) {
            return Ok((attr, TTL));
        }
        if Self::submit_link(ino).is_some() {
            return Ok((Self::virtual_attr(ino, FileType::Symlink, 0o666, (0, 0)), NOW));
        }
        if let Some(number) = FIRST_IOV.checked_sub(ino).filter(|_| ino > SET_CONF) {
            let table = self.daemon.table();
            let entry = table.numbered(number).ok_or(libc::ENOENT)?;
            if entry.uid != request.uid() {
                return Err(libc::EPERM);
            }
            return Ok((Self::entry_attr(entry), NOW));
        }
        let node = self.daemon.tree.get(ino).ok_or(libc::ENOENT)?;
        Ok((self.attr_of(&node), TTL))
    }

    fn find(&self, request: &Request, parent: u64, name: &OsStr) -> Answer<(FileAttr, Duration)> {
        let word = name.to_str().unwrap_or_default();
        let inside = match (parent, word) {
            (ROOT, "3fs-virt") => Some(VIRT),
            (VIRT, "rm-rf") => Some(RM_RF),
            (VIRT, "iovs") => Some(IOVS),
            (VIRT, "get-conf") => Some(GET_CONF),
            (VIRT, "set-conf") => Some(SET_CONF),
            (IOVS, _) => match SUBMITS.iter().position(|submit| *submit == word) {
                Some(lane) => Some(IOVS - 1 - lane as u64),
                None => {
                    let table = self.daemon.table();
                    let entry = table.get(word).ok_or(libc::ENOENT)?;
                    if entry.uid != request.uid() {
                        return Err(libc::EPERM);
                    }
                    return Ok((Self::entry_attr(entry), NOW));
                }
            },
            (VIRT | RM_RF | GET_CONF | SET_CONF, _) => return Err(libc::ENOENT),
            _ => None,
        };
        if let Some(ino) = inside {
            return self.attr(request, ino);
        }
        let node = self.daemon.tree.child(parent, name)?;
        node.about().looked_up += 1;
        Ok((self.attr_of(&node), TTL))
    }

    /// A new ordinary inode, as the kernel will know it.
    fn make(
        &self,
        request: &Request,
        parent: u64,
        name: &OsStr,
        kind: Kind,
        mode: u32,
    ) -> Answer<FileAttr> {
        if self.daemon.tree.get(parent).is_none() {
            return Err(libc::EPERM);
        }
        let owner = (request.uid(), request.gid());
        let node = self.daemon.tree.make(parent, name, kind, (mode & 0o7777) as u16, owner)?;
        node.about().looked_up += 1;
        Ok(self.attr_of(&node))
    }

    fn register(&self, request: &Request, name: &OsStr, target: &Path) -> Answer<FileAttr> {
        let name = name.to_str().ok_or(libc::EIO)?;
        if SUBMITS.contains(&name) {
            return Err(libc::EEXIST);
        }
        let who = (request.uid(), request.gid(), request.pid());
        let mut table = self.daemon.table();
        let made = table.register(name, target, who, self.iov_limit).map(Self::entry_attr);
        if made.is_err() {
            self.daemon.refused.fetch_add(1, Ordering::Relaxed);
        }
        made
    }

    /// `ln -s short=3 set-conf/emulator.faults`.
    fn configure(&self, name: &OsStr, target: &Path) -> Answer<FileAttr> {
        if name != "emulator.faults" {
            return Err(libc::EINVAL);
        }
        let faults = Faults::parse(target.to_str().ok_or(libc::EINVAL)?);
        let faults = faults.map_err(|_| libc::EINVAL)?;
        *self.daemon.faults.write().unwrap_or_else(PoisonError::into_inner) = faults;
        Ok(Self::virtual_attr(SET_CONF - 1, FileType::Symlink, 0o777, (0, 0)))
    }

    /// A path below the mount, or relative to it, and all below that.
    fn remove_tree(&self, target: &Path) -> Answer<FileAttr> {
        let below = target.strip_prefix(&self.mount).unwrap_or(target);
        let (mut parent, mut at, mut name) = (ROOT, ROOT, OsString::new());
        for part in below.iter().filter(|part| *part != "/" && *part != ".") {
            (parent, name) = (at, part.into());
            at = self.daemon.tree.child(parent, part)?.ino;
        }
        if at == ROOT {
            return Err(libc::EPERM);
        }
        let is_directory = self.daemon.tree.clear(at).is_ok();
        self.daemon.tree.unlink(parent, &name, is_directory)?;
        Ok(Self::virtual_attr(RM_RF - 1, FileType::Symlink, 0o777, (0, 0)))
    }

    fn list(&self, request: &Request, ino: u64) -> Answer<Vec<(u64, FileType, OsString)>> {
        let directory = |ino, name: &str| (ino, FileType::Directory, name.into());
        let mut all = vec![directory(ino, "."), directory(ROOT, "..")];
        match ino {
            VIRT => {
                let names = [
                    (RM_RF, "rm-rf"),
                    (IOVS, "iovs"),
                    (GET_CONF, "get-conf"),
                    (SET_CONF, "set-conf"),
                ];
                all.extend(names.map(|(ino, name)| directory(ino, name)));
            }
            IOVS => {
                for (n, name) in SUBMITS.iter().enumerate() {
                    all.push((IOVS - 1 - n as u64, FileType::Symlink, name.into()));
                }
                for (name, entry) in self.daemon.table().all() {
                    if entry.uid == request.uid() {
                        all.push((FIRST_IOV - entry.number, FileType::Symlink, name.into()));
                    }
                }
            }
            RM_RF | GET_CONF | SET_CONF => {}
            _ => {
                let node = self.daemon.tree.get(ino).ok_or(libc::ENOENT)?;
                for (name, child) in node.entries().ok_or(libc::ENOTDIR)?.iter() {
                    all.push((child.ino, self.attr_of(child).kind, name.clone()));
                }
                if ino == ROOT {
                    all.push(directory(VIRT, "3fs-virt"));
                }
            }
        }
        Ok(all)
    }

    fn unlink_any(&self, request: &Request, parent: u64, name: &OsStr, dir: bool) -> Answer<()> {
        if parent != IOVS {
            return self.daemon.tree.unlink(parent, name, dir);
        }
        let word = name.to_str().ok_or(libc::ENOENT)?;
        if SUBMITS.contains(&word) {
            return Err(libc::EPERM);
        }
        let mut table = self.daemon.table();
        if table.get(word).ok_or(libc::ENOENT)?.uid != request.uid() {
            return Err(libc::EPERM);
        }
        table.remove(word);
        Ok(())
    }

    /// Makes the visible length what was written through rings.
    fn settle(&self, ino: u64) {
        if let Some(node) = self.daemon.tree.get(ino)
            && let Some(mut data) = node.data_mut()
        {
            data.settle();
        }
    }

    fn answer_ioctl(&self, ino: u64, command: u32, input: &[u8]) -> Answer<Vec<u8>> {
        let tree = &self.daemon.tree;
        let word = |at: usize| {
            let bytes = input.get(at..at + 8).and_then(|b| b.try_into().ok());
            bytes.map(u64::from_le_bytes).ok_or(libc::EINVAL)
        };
        // Clients count as 3FS does, where the root is 0.
        let parent = |at: usize| word(at).map(|ino| if ino == 0 { ROOT } else { ino });
        let name = |at: usize, bytes: usize| -> Answer<OsString> {
            let field = input.get(at..at + bytes).ok_or(libc::EINVAL)?;
            let end = field.iter().position(|&b| b == 0).unwrap_or(bytes);
            Ok(OsString::from(String::from_utf8_lossy(&field[..end]).into_owned()))
        };
        let number = |value: u32| Ok(value.to_le_bytes().to_vec());
        match command {
            0x8020_6800 => {
                let mut field = self.cluster.clone().into_bytes();
                field.resize(32, 0);
                Ok(field)
            }
            0x8004_6801 => number(self.mount.as_os_str().len() as u32),
            0x8004_6802 => number(0x8f3f_5fff),
            0x8004_6803 => number(1),
            0x8004_680a => tree.clear(ino).map(|()| vec![0; 4]),
            0x8004_680b => {
                self.settle(ino);
                number(0)
            }
            0x4108_680c => tree.link(ino, parent(0)?, &name(8, 255)?).map(|_| Vec::new()),
            0x7e90_680d => {
                let count = word(0)? as u32 as usize;
                let node = tree.get(ino).ok_or(libc::ENOENT)?;
                let mut data = node.data_mut().ok_or(libc::EINVAL)?;
                if count > 1000 {
                    return Err(libc::EINVAL);
                }
                for n in 0..count {
                    let (start, end) = (word(16 + 8 * n)?, word(8016 + 8 * n)?);
                    let chunk = self.daemon.chunk_bytes;
                    if !start.is_multiple_of(chunk) || !end.is_multiple_of(chunk) {
                        return Err(libc::EINVAL);
                    }
                    data.punch(chunk, start, end);
                }
                Ok(Vec::new())
            }
            0x4218_680e => {
                let (from, to) = (name(8, 256)?, name(272, 256)?);
                tree.rename((parent(0)?, &from), (parent(264)?, &to), false).map(|()| Vec::new())
            }
            0x4110_680f => {
                let (holder, name) = (parent(0)?, name(8, 256)?);
                let recursive = input.get(264) == Some(&1);
                let node = tree.child(holder, &name)?;
                let is_directory = matches!(node.kind, Kind::Directory(_));
                if recursive && is_directory {
                    tree.clear(node.ino)?;
                }
                tree.unlink(holder, &name, is_directory).map(|()| Vec::new())
            }
            _ => Err(libc::EINVAL),
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
