//! Bytes in memory, completed out of order, with the faults that disks have once a year.

use std::io;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use rustix::io::Errno;

use super::{Backend, ObjectId, Op, Transfer};
use crate::object::{Bytes, Object};

/// What goes wrong, on purpose. The default is nothing, in order.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// Seed of everything random; 0 completes in order, moves all bytes and interrupts nobody.
    pub seed: u64,
    /// Transfers that cover this byte fail with `EIO`.
    pub error_at: Option<u64>,
    /// Transfers that cover this byte never end.
    pub hang_at: Option<u64>,
}

pub(super) struct Ram {
    objects: Vec<Arc<Object>>,
    started: Vec<Transfer>,
    hanging: Vec<Transfer>,
    faults: Faults,
    state: u64,
}

impl Ram {
    pub(super) fn new(faults: Faults) -> Self {
        let (objects, started, hanging) = (Vec::new(), Vec::new(), Vec::new());
        Self { objects, started, hanging, faults, state: faults.seed }
    }

    /// A number below `limit`: splitmix64.
    fn random(&mut self, limit: usize) -> usize {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % limit as u64) as usize
    }

    fn run(&mut self, transfer: &mut Transfer) -> i32 {
        let covers = |byte: Option<u64>, from: u64, length: usize| {
            byte.is_some_and(|b| (from..from + length as u64).contains(&b))
        };
        let from = transfer.offset();
        let mut length = transfer.rest().len();
        if covers(self.faults.error_at, from, length) {
            return -Errno::IO.raw_os_error();
        }
        if self.faults.seed != 0 {
            match self.random(8) {
                0 => return -Errno::INTR.raw_os_error(),
                1 => return -Errno::AGAIN.raw_os_error(),
                2 if length > 1 => length = 1 + self.random(length - 1),
                _ => {}
            }
        }
        let object = Arc::clone(&self.objects[transfer.request.object.0 as usize]);
        let Bytes::Memory(bytes) = &object.bytes else {
            return -Errno::BADF.raw_os_error();
        };
        let mut bytes = bytes.write().unwrap_or_else(PoisonError::into_inner);
        let from = from as usize;
        let op = transfer.request.op;
        let rest = &mut transfer.rest()[..length];
        match op {
            Op::Read => {
                let there = bytes.get(from..).unwrap_or_default();
                let count = there.len().min(rest.len());
                rest[..count].copy_from_slice(&there[..count]);
                count as i32
            }
            Op::Write => {
                if bytes.len() < from + rest.len() {
                    bytes.resize(from + rest.len(), 0);
                }
                bytes[from..from + rest.len()].copy_from_slice(rest);
                rest.len() as i32
            }
        }
    }
}

impl Backend for Ram {
    fn add(&mut self, _: ObjectId, object: &Arc<Object>) {
        self.objects.push(Arc::clone(object));
    }

    fn start(&mut self, mut transfer: Transfer) {
        let (from, length) = (transfer.offset(), transfer.rest().len() as u64);
        let hangs = self.faults.hang_at.is_some_and(|b| (from..from + length).contains(&b));
        if hangs {
            self.hanging.push(transfer);
        } else {
            self.started.push(transfer);
        }
    }

    fn submit(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn reap(
        &mut self,
        at_least: usize,
        timeout: Option<Duration>,
        ended: &mut Vec<(Transfer, i32)>,
    ) -> io::Result<()> {
        let count = if self.faults.seed == 0 {
            self.started.len()
        } else {
            at_least.min(self.started.len())
        };
        for _ in 0..count {
            let place = match self.faults.seed {
                0 => 0,
                _ => self.random(self.started.len()),
            };
            let mut transfer = self.started.remove(place);
            let result = self.run(&mut transfer);
            ended.push((transfer, result));
        }
        if count < at_least {
            std::thread::sleep(timeout.unwrap_or(Duration::MAX));
        }
        Ok(())
    }
}
