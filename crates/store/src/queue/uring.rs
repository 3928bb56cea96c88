//! io_uring: registered buffers and files, one issuer, completions when we ask for them.

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use io_uring::types::{CancelBuilder, Fd, Fixed, SubmitArgs, Timespec};
use io_uring::{IoUring, Probe, opcode, squeue};
use rustix::io::Errno;

use super::{Backend, ObjectId, Op, Transfer};
use crate::memory::Arena;
use crate::object::Object;

/// Objects with a registered descriptor; more are served by their plain one.
const REGISTERED_FILES: u32 = 256;

/// The kernel takes no single registered piece above this.
const PIECE_BYTES: usize = 1 << 30;

/// How long a dropped queue waits for what it cancelled.
const FAREWELL: Duration = Duration::from_secs(2);

pub(super) struct Uring {
    /// Dropped by hand: not at all while the kernel may still write into a buffer of ours.
    ring: ManuallyDrop<IoUring>,
    /// Transfers by `user_data`.
    slots: Vec<Option<Transfer>>,
    free: Vec<u32>,
    /// Prepared, not yet in the submission queue, because that was full.
    late: Vec<u32>,
    files: Vec<Descriptor>,
    objects: Vec<Arc<Object>>,
    registered_files: bool,
    registered: Option<Registered>,
    in_kernel: usize,
}

/// An arena whose memory is pinned for this ring.
struct Registered {
    arena: Arena,
    buffers_per_piece: usize,
}

#[derive(Clone, Copy)]
enum Descriptor {
    Registered(u32),
    Plain(RawFd),
}

impl Uring {
    /// A ring without anything registered, and which of its set-ups the kernel took.
    pub(super) fn new(depth: usize) -> io::Result<(Self, &'static str)> {
        let entries = (depth.min(4096) as u32).next_power_of_two();
        let completions = (depth as u32).next_power_of_two() * 2;
        let build = |issuer: bool, deferred: bool| {
            let mut builder = IoUring::builder();
            builder.setup_clamp().setup_cqsize(completions);
            if issuer {
                builder.setup_single_issuer();
            }
            if deferred {
                builder.setup_defer_taskrun();
            }
            builder.build(entries)
        };
        // One that is refused for its flags (`EINVAL`) may do without; other errors are final.
        let refused = |e: &io::Error| e.raw_os_error() == Some(Errno::INVAL.raw_os_error());
        let (ring, flags) = match build(true, true) {
            Ok(ring) => (ring, "single issuer, deferred task work"),
            Err(e) if refused(&e) => (build(false, false)?, "no flags: the kernel is before 6.1"),
            Err(e) => return Err(e),
        };
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        let usable = probe.is_supported(opcode::Read::CODE)
            && probe.is_supported(opcode::Write::CODE)
            && ring.params().is_feature_ext_arg()
            && ring.params().is_feature_nodrop();
        if !usable {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "the kernel is before 5.11"));
        }
        let slots = std::iter::repeat_with(|| None).take(depth).collect();
        let free = (0..depth as u32).rev().collect();
        let uring = Self {
            ring: ManuallyDrop::new(ring),
            slots,
            free,
            late: Vec::new(),
            files: Vec::new(),
            objects: Vec::new(),
            registered_files: false,
            registered: None,
            in_kernel: 0,
        };
        Ok((uring, flags))
    }

    /// Lets the kernel keep references to the files that will be added.
    pub(super) fn register_files(&mut self) -> io::Result<()> {
        self.ring.submitter().register_files_sparse(REGISTERED_FILES)?;
        self.registered_files = true;
        Ok(())
    }

    /// Pins the memory of `arena` once, instead of at every transfer.
    pub(super) fn register_buffers(&mut self, arena: &Arena) -> io::Result<()> {
        let (base, bytes) = arena.memory();
        let buffers_per_piece = PIECE_BYTES / arena.buffer_bytes();
        if buffers_per_piece == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "buffers above 1 GiB"));
        }
        let piece = buffers_per_piece * arena.buffer_bytes();
        let pieces: Vec<libc::iovec> = (0..bytes)
            .step_by(piece)
            .map(|start| libc::iovec {
                // SAFETY: `start < bytes`, the size of the memory at `base`.
                iov_base: unsafe { base.add(start) }.as_ptr().cast(),
                iov_len: piece.min(bytes - start),
            })
            .collect();
        // SAFETY: the pieces are the arena's memory, which `self.registered` keeps for as long as
        // the ring exists.
        unsafe { self.ring.submitter().register_buffers(&pieces)? };
        self.registered = Some(Registered { arena: arena.clone(), buffers_per_piece });
        Ok(())
    }

    fn entry(&mut self, slot: u32) -> Option<squeue::Entry> {
        let transfer = self.slots[slot as usize].as_mut()?;
        let file = self.files[transfer.request.object.0 as usize];
        let buffer = &transfer.request.buffer;
        let piece = self.registered.as_ref().and_then(|registered| {
            let position = registered.arena.position(buffer)?;
            u16::try_from(position / registered.buffers_per_piece).ok()
        });
        let (op, offset) = (transfer.request.op, transfer.offset());
        let rest = transfer.rest();
        // One system call moves 2 GiB at most; the rest counts as a short transfer.
        let length = rest.len().min(1 << 30) as u32;
        let start = rest.as_mut_ptr();
        macro_rules! build {
            ($plain:ident, $fixed:ident, $fd:expr) => {
                match piece {
                    Some(piece) => {
                        opcode::$fixed::new($fd, start, length, piece).offset(offset).build()
                    }
                    None => opcode::$plain::new($fd, start, length).offset(offset).build(),
                }
            };
        }
        let entry = match (op, file) {
            (Op::Read, Descriptor::Registered(n)) => build!(Read, ReadFixed, Fixed(n)),
            (Op::Read, Descriptor::Plain(fd)) => build!(Read, ReadFixed, Fd(fd)),
            (Op::Write, Descriptor::Registered(n)) => build!(Write, WriteFixed, Fixed(n)),
            (Op::Write, Descriptor::Plain(fd)) => build!(Write, WriteFixed, Fd(fd)),
        };
        Some(entry.user_data(slot.into()))
    }

    /// Puts a slot into the submission queue; false if that is full.
    fn push(&mut self, slot: u32) -> bool {
        let Some(entry) = self.entry(slot) else { return true };
        // SAFETY: the slot keeps the buffer, and `objects` the descriptor, until the completion
        // with this `user_data` is reaped; both outlive the ring, see `drop`.
        unsafe { self.ring.submission().push(&entry) }.is_ok()
    }

    fn push_late(&mut self) {
        while let Some(&slot) = self.late.last() {
            if !self.push(slot) {
                break;
            }
            self.late.pop();
        }
    }

    fn drain(&mut self, ended: &mut Vec<(Transfer, i32)>) -> usize {
        let mut count = 0;
        for completion in self.ring.completion() {
            let slot = completion.user_data() as u32;
            if let Some(transfer) = self.slots[slot as usize].take() {
                self.free.push(slot);
                ended.push((transfer, completion.result()));
                count += 1;
            }
        }
        self.in_kernel -= count;
        count
    }
}

impl Backend for Uring {
    fn add(&mut self, id: ObjectId, object: &Arc<Object>) {
        let fd = object.file().map_or(-1, AsRawFd::as_raw_fd);
        let registered = self.registered_files
            && id.0 < REGISTERED_FILES
            && self.ring.submitter().register_files_update(id.0, &[fd]).is_ok();
        self.files.push(if registered {
            Descriptor::Registered(id.0)
        } else {
            Descriptor::Plain(fd)
        });
        self.objects.push(Arc::clone(object));
    }

    fn start(&mut self, transfer: Transfer) {
        // The queue starts no more than its depth, which is the number of slots.
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() as u32 - 1
        });
        self.slots[slot as usize] = Some(transfer);
        self.in_kernel += 1;
        if !self.late.is_empty() || !self.push(slot) {
            self.late.push(slot);
        }
    }

    fn submit(&mut self) -> io::Result<()> {
        loop {
            match self.ring.submit() {
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                // Completions must be taken before more is submitted; `reap` does that.
                Err(e) if e.raw_os_error() == Some(Errno::BUSY.raw_os_error()) => return Ok(()),
                Err(e) => return Err(e),
            }
            if self.late.is_empty() {
                return Ok(());
            }
            self.push_late();
        }
    }

    fn reap(
        &mut self,
        at_least: usize,
        timeout: Option<Duration>,
        ended: &mut Vec<(Transfer, i32)>,
    ) -> io::Result<()> {
        if !self.late.is_empty() {
            self.submit()?;
        }
        let spec = timeout.map(Timespec::from);
        let mut reaped = 0;
        loop {
            // Asking for one makes the kernel run what it has deferred, also when none is wanted.
            let wanted = at_least.saturating_sub(reaped).max(1).min(self.in_kernel);
            let entered = match (&spec, at_least) {
                (_, 0) => {
                    let now = Timespec::from(Duration::ZERO);
                    self.ring
                        .submitter()
                        .submit_with_args(wanted, &SubmitArgs::new().timespec(&now))
                }
                (None, _) => self.ring.submit_and_wait(wanted),
                (Some(spec), _) => {
                    let args = SubmitArgs::new().timespec(spec);
                    self.ring.submitter().submit_with_args(wanted, &args)
                }
            };
            reaped += self.drain(ended);
            match entered {
                // The time is over; what has ended is in the list.
                Err(e) if e.raw_os_error() == Some(Errno::TIME.raw_os_error()) => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.raw_os_error() == Some(Errno::BUSY.raw_os_error()) => {}
                Err(e) => return Err(e),
                Ok(_) => {}
            }
            if reaped >= at_least || self.in_kernel == 0 {
                return Ok(());
            }
            // The queue above counts the time again before it waits on.
            if timeout.is_some() {
                return Ok(());
            }
        }
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        let mut ended = Vec::new();
        if self.in_kernel > 0 {
            // Only what the kernel took can be cancelled.
            let _ = self.submit();
            let farewell = Some(Timespec::from(FAREWELL));
            let _ = self.ring.submitter().register_sync_cancel(farewell, CancelBuilder::any());
            let _ = self.reap(self.in_kernel, Some(FAREWELL), &mut ended);
        }
        if self.in_kernel > 0 {
            // The kernel may still write into these buffers: they, their arena and their files
            // stay for as long as the process lives.
            std::mem::forget(std::mem::take(&mut self.slots));
            std::mem::forget(self.registered.take());
            std::mem::forget(std::mem::take(&mut self.objects));
            return;
        }
        // SAFETY: dropped here and never used again.
        unsafe { ManuallyDrop::drop(&mut self.ring) };
    }
}
