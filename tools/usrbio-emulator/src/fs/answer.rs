//! What the kernel is answered, in our own words: attributes, names, registration, ioctls.

use super::*;

impl Files {
    pub(super) fn attr_of(&self, node: &Node) -> FileAttr {
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
    pub(super) fn virtual_attr(
        ino: u64,
        kind: FileType,
        perm: u16,
        (uid, gid): (u32, u32),
    ) -> FileAttr {
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

    pub(super) fn entry_attr(entry: &Entry) -> FileAttr {
        let (ino, owner) = (FIRST_IOV - entry.number, (entry.uid, entry.gid));
        Self::virtual_attr(ino, FileType::Symlink, 0o400, owner)
    }

    pub(super) fn virtual_directory(ino: u64) -> Option<FileAttr> {
        let mode = match ino {
            VIRT | GET_CONF => 0o555,
            RM_RF | IOVS | SET_CONF => 0o777,
            _ => return None,
        };
        Some(Self::virtual_attr(ino, FileType::Directory, mode, (0, 0)))
    }

    pub(super) fn submit_link(ino: u64) -> Option<usize> {
        (1..=3).find(|n| ino == IOVS - n).map(|n| n as usize - 1)
    }

    pub(super) fn attr(&self, request: &Request, ino: u64) -> Answer<(FileAttr, Duration)> {
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

    pub(super) fn find(
        &self,
        request: &Request,
        parent: u64,
        name: &OsStr,
    ) -> Answer<(FileAttr, Duration)> {
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
    pub(super) fn make(
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

    pub(super) fn register(
        &self,
        request: &Request,
        name: &OsStr,
        target: &Path,
    ) -> Answer<FileAttr> {
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
    pub(super) fn configure(&self, name: &OsStr, target: &Path) -> Answer<FileAttr> {
        if name != "emulator.faults" {
            return Err(libc::EINVAL);
        }
        let faults = Faults::parse(target.to_str().ok_or(libc::EINVAL)?);
        let faults = faults.map_err(|_| libc::EINVAL)?;
        *self.daemon.faults.write().unwrap_or_else(PoisonError::into_inner) = faults;
        Ok(Self::virtual_attr(SET_CONF - 1, FileType::Symlink, 0o777, (0, 0)))
    }

    /// A path below the mount, or relative to it, and all below that.
    pub(super) fn remove_tree(&self, target: &Path) -> Answer<FileAttr> {
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

    pub(super) fn list(
        &self,
        request: &Request,
        ino: u64,
    ) -> Answer<Vec<(u64, FileType, OsString)>> {
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

    pub(super) fn unlink_any(
        &self,
        request: &Request,
        parent: u64,
        name: &OsStr,
        dir: bool,
    ) -> Answer<()> {
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
    pub(super) fn settle(&self, ino: u64) {
        if let Some(node) = self.daemon.tree.get(ino)
            && let Some(mut data) = node.data_mut()
        {
            data.settle();
        }
    }

    pub(super) fn answer_ioctl(&self, ino: u64, command: u32, input: &[u8]) -> Answer<Vec<u8>> {
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
