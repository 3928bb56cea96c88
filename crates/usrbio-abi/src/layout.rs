//! The structs that callers allocate, byte for byte.

use std::ffi::{c_char, c_int, c_void};

/// `struct hf3fs_iov`.
#[repr(C)]
pub struct IovStruct {
    pub(crate) base: *mut u8,
    pub(crate) iovh: *mut c_void,
    pub(crate) id: [u8; 16],
    pub(crate) mount_point: [c_char; 256],
    pub(crate) size: usize,
    pub(crate) block_size: usize,
    pub(crate) numa: c_int,
}

/// `struct hf3fs_ior`.
#[repr(C)]
pub struct Ior {
    pub(crate) iov: IovStruct,
    pub(crate) iorh: *mut c_void,
    pub(crate) mount_point: [c_char; 256],
    pub(crate) for_read: bool,
    pub(crate) io_depth: c_int,
    pub(crate) priority: c_int,
    pub(crate) timeout: c_int,
    pub(crate) flags: u64,
}

/// `struct hf3fs_cqe`.
#[repr(C)]
pub struct Cqe {
    pub(crate) index: i32,
    pub(crate) reserved: i32,
    pub(crate) result: i64,
    pub(crate) userdata: *const c_void,
}

// What programs were compiled with; the C test asserts the same of the header.
const _: () = {
    use std::mem::{offset_of, size_of};
    assert!(size_of::<IovStruct>() == 312 && size_of::<Ior>() == 600 && size_of::<Cqe>() == 24);
    assert!(offset_of!(IovStruct, id) == 16 && offset_of!(IovStruct, mount_point) == 32);
    assert!(offset_of!(IovStruct, size) == 288 && offset_of!(IovStruct, block_size) == 296);
    assert!(offset_of!(IovStruct, numa) == 304 && offset_of!(Ior, iorh) == 312);
    assert!(offset_of!(Ior, mount_point) == 320 && offset_of!(Ior, for_read) == 576);
    assert!(offset_of!(Ior, io_depth) == 580 && offset_of!(Ior, priority) == 584);
    assert!(offset_of!(Ior, timeout) == 588 && offset_of!(Ior, flags) == 592);
    assert!(offset_of!(Cqe, result) == 8 && offset_of!(Cqe, userdata) == 16);
};
