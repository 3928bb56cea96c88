//! A device, and what lives on it: memory, streams, events. All are freed with their last owner.

use std::ffi::{c_int, c_void};
use std::ptr::NonNull;
use std::sync::Arc;

use forebay_store::{Arena, BUFFER_ALIGN};

use crate::driver::{check, is_over, present, sys};
use crate::{Error, Result};

/// A GPU: its primary context, which PyTorch and every other library use too. Clones are handles.
#[derive(Debug, Clone)]
pub struct Device(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    ordinal: i32,
    handle: sys::CUdevice,
    context: sys::CUcontext,
    name: String,
    capability: (i32, i32),
    total_bytes: u64,
    driver: i32,
}

// SAFETY: a context belongs to no thread; each call makes it current on its own thread first.
unsafe impl Send for Inner {}
// SAFETY: as above, and the driver may be called from many threads at once.
unsafe impl Sync for Inner {}

impl Drop for Inner {
    fn drop(&mut self) {
        // SAFETY: retained once in `open`. At the end of the process it may be gone already.
        let _ = unsafe { sys::cuDevicePrimaryCtxRelease_v2(self.handle) };
    }
}

/// The context is current on this thread until this is dropped; then the one before is again.
pub(crate) struct Bound;

impl Drop for Bound {
    fn drop(&mut self) {
        let mut context = std::ptr::null_mut();
        // SAFETY: `bind` pushed one on this thread; others that were pushed since are gone, since
        // guards end in turn.
        let _ = unsafe { sys::cuCtxPopCurrent_v2(&raw mut context) };
    }
}

/// `cuda:0` → 0. `None` if it names no CUDA device.
pub fn ordinal(name: &str) -> Option<u32> {
    match name {
        "cuda" => Some(0),
        name => name.strip_prefix("cuda:")?.parse().ok(),
    }
}

impl Device {
    /// Opens device `ordinal`, as `CUDA_VISIBLE_DEVICES` numbers them.
    ///
    /// # Errors
    /// [`Error::Absent`] if there is no driver or no such device; [`Error::Cuda`].
    pub fn open(ordinal: u32) -> Result<Self> {
        present()?;
        let ordinal = ordinal as i32;
        let (mut count, mut driver, mut handle) = (0, 0, 0);
        // SAFETY: each call fills the integer that it is given.
        unsafe {
            check("count devices", sys::cuDeviceGetCount(&raw mut count))?;
            check("tell its version", sys::cuDriverGetVersion(&raw mut driver))?;
        }
        if ordinal >= count {
            return Err(Error::absent(format!("cuda:{ordinal}"), format!("{count} devices")));
        }
        let mut name = [0_u8; 128];
        let mut total: usize = 0;
        use sys::CUdevice_attribute as Attribute;
        let mut context = std::ptr::null_mut();
        // SAFETY: `ordinal` is below the count; the name buffer is as long as is said.
        unsafe { check("open a device", sys::cuDeviceGet(&raw mut handle, ordinal))? };
        let attribute = |which| {
            let mut value: c_int = 0;
            // SAFETY: fills the integer; `handle` is of a device, by the call before.
            let code = unsafe { sys::cuDeviceGetAttribute(&raw mut value, which, handle) };
            check("describe a device", code).map(|()| value)
        };
        let capability = (
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        );
        // SAFETY: the buffers are as long as is said; the context is released in `drop`.
        unsafe {
            let room = name.len() as c_int - 1;
            check("name a device", sys::cuDeviceGetName(name.as_mut_ptr().cast(), room, handle))?;
            check("describe a device", sys::cuDeviceTotalMem_v2(&raw mut total, handle))?;
            check("open a context", sys::cuDevicePrimaryCtxRetain(&raw mut context, handle))?;
        }
        let name = String::from_utf8_lossy(&name).trim_end_matches('\0').to_owned();
        let total_bytes = total as u64;
        Ok(Self(Arc::new(Inner {
            ordinal,
            handle,
            context,
            name,
            capability,
            total_bytes,
            driver,
        })))
    }

    pub(crate) fn bind(&self) -> Result<Bound> {
        // SAFETY: the context lives as long as `self`.
        check("enter a context", unsafe { sys::cuCtxPushCurrent_v2(self.0.context) })?;
        Ok(Bound)
    }

    /// Its number.
    pub fn ordinal(&self) -> i32 {
        self.0.ordinal
    }

    /// Its name: "NVIDIA H200".
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Compute capability: `(9, 0)`.
    pub fn capability(&self) -> (i32, i32) {
        self.0.capability
    }

    /// Bytes of its memory.
    pub fn total_bytes(&self) -> u64 {
        self.0.total_bytes
    }

    /// Version of CUDA that the driver speaks: 12040 is 12.4.
    pub fn driver(&self) -> i32 {
        self.0.driver
    }

    /// Takes device memory, aligned to 256 bytes at least. Its bytes are whatever they were.
    ///
    /// # Errors
    /// [`Error::Cuda`] if there is not enough.
    pub fn alloc(&self, bytes: usize) -> Result<DeviceMemory> {
        let _bound = self.bind()?;
        let mut pointer = 0;
        // SAFETY: fills the pointer; freed in `drop`.
        check("take device memory", unsafe { sys::cuMemAlloc_v2(&raw mut pointer, bytes.max(1)) })?;
        Ok(DeviceMemory { device: self.clone(), pointer, bytes })
    }

    /// A stream that does not wait for the default stream, nor that for it.
    ///
    /// # Errors
    /// [`Error::Cuda`].
    pub fn stream(&self) -> Result<Stream> {
        let _bound = self.bind()?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: fills the handle; destroyed in `drop`. 1 is CU_STREAM_NON_BLOCKING.
        check("make a stream", unsafe { sys::cuStreamCreate(&raw mut handle, 1) })?;
        Ok(Stream { device: self.clone(), handle })
    }

    /// An event that was never recorded: it counts as over.
    ///
    /// # Errors
    /// [`Error::Cuda`].
    pub fn event(&self) -> Result<Event> {
        self.make_event(2)
    }

    /// An event that also keeps the time, for measurements.
    ///
    /// # Errors
    /// [`Error::Cuda`].
    pub fn timed_event(&self) -> Result<Event> {
        self.make_event(0)
    }

    fn make_event(&self, flags: u32) -> Result<Event> {
        let _bound = self.bind()?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: fills the handle; destroyed in `drop`. 2 is CU_EVENT_DISABLE_TIMING.
        check("make an event", unsafe { sys::cuEventCreate(&raw mut handle, flags) })?;
        Ok(Event { device: self.clone(), handle })
    }

    /// Page-locks `count` buffers of `buffer_bytes` for this device and every other, and lends
    /// them as an arena that a queue registers too. Cacheable: the CPU may read what is in them.
    ///
    /// # Errors
    /// [`Error::Cuda`], mostly a limit on locked memory; [`Error::Store`].
    pub fn pinned(&self, buffer_bytes: usize, count: usize) -> Result<Arena> {
        let buffer_bytes = buffer_bytes.max(1).next_multiple_of(BUFFER_ALIGN);
        // Huge pages where there are some: fewer entries for the device to look up.
        let under = Arena::new(buffer_bytes, count)?;
        let (base, bytes) = under.memory();
        let _bound = self.bind()?;
        // SAFETY: the memory stays where it is until `Locked` is dropped, which unlocks it first.
        // 1 is CU_MEMHOSTREGISTER_PORTABLE.
        check("page-lock memory", unsafe {
            sys::cuMemHostRegister_v2(base.as_ptr().cast(), bytes, 1)
        })?;
        let owner = Box::new(Locked { device: self.clone(), base, _under: under });
        // SAFETY: `owner` keeps the arena below, of which nothing is lent otherwise; its bytes are
        // initialised, since an arena's are.
        Ok(unsafe { Arena::adopt(base, buffer_bytes, count, owner) })
    }

    /// Starts to copy host memory into device memory; over when an event recorded after it is.
    ///
    /// # Errors
    /// [`Error::Cuda`].
    ///
    /// # Safety
    /// `source` must stay valid and unchanged until then. If it is not page-locked, the driver
    /// copies it aside first and this call waits for that.
    pub unsafe fn copy_in(
        &self,
        target: Region,
        source: NonNull<u8>,
        stream: &Stream,
    ) -> Result<()> {
        let _bound = self.bind()?;
        // SAFETY: `target` lies in device memory by its construction; the source by the caller.
        check("copy to the device", unsafe {
            let source = source.as_ptr().cast::<c_void>();
            sys::cuMemcpyHtoDAsync_v2(target.pointer, source, target.bytes, stream.handle)
        })
    }

    /// Starts to copy device memory into host memory; over when an event recorded after it is.
    ///
    /// # Errors
    /// [`Error::Cuda`].
    ///
    /// # Safety
    /// `target` must be valid for writes of as many bytes until then, and nobody may read it before.
    pub unsafe fn copy_out(
        &self,
        source: Region,
        target: NonNull<u8>,
        stream: &Stream,
    ) -> Result<()> {
        let _bound = self.bind()?;
        // SAFETY: as in `copy_in`, the other way round.
        check("copy from the device", unsafe {
            let target = target.as_ptr().cast::<c_void>();
            sys::cuMemcpyDtoHAsync_v2(target, source.pointer, source.bytes, stream.handle)
        })
    }

    /// Starts to copy within the device.
    ///
    /// # Errors
    /// [`Error::Cuda`]; [`Error::Wrong`] if the lengths differ.
    pub fn copy_within(&self, source: Region, target: Region, stream: &Stream) -> Result<()> {
        if source.bytes != target.bytes {
            return Err(Error::wrong("bytes to copy", source.bytes, target.bytes));
        }
        let _bound = self.bind()?;
        // SAFETY: both lie in device memory by their construction.
        check("copy within the device", unsafe {
            sys::cuMemcpyDtoDAsync_v2(target.pointer, source.pointer, source.bytes, stream.handle)
        })
    }

    /// Bytes of device memory, in host memory, when all that was started on `stream` is over.
    /// For tests and small results: it waits.
    ///
    /// # Errors
    /// [`Error::Cuda`].
    pub fn fetch(&self, source: Region, stream: &Stream) -> Result<Vec<u8>> {
        let mut bytes = vec![0; source.bytes];
        let event = self.event()?;
        if let Some(target) = NonNull::new(bytes.as_mut_ptr()).filter(|_| source.bytes > 0) {
            // SAFETY: `bytes` outlives the wait below, also if that fails: see there.
            unsafe { self.copy_out(source, target, stream)? };
        }
        let waited = event.record(stream).and_then(|()| event.wait());
        if waited.is_err() {
            // The copy may still come.
            std::mem::forget(bytes);
            return waited.map(|()| Vec::new());
        }
        Ok(bytes)
    }

    /// Copies bytes into device memory and waits until they are there. For tests and small tables.
    ///
    /// # Errors
    /// [`Error::Cuda`].
    pub fn put(&self, target: Region, bytes: &[u8], stream: &Stream) -> Result<()> {
        if target.bytes != bytes.len() {
            return Err(Error::wrong("bytes to copy", target.bytes, bytes.len()));
        }
        let event = self.event()?;
        if !bytes.is_empty() {
            // SAFETY: the caller's bytes are borrowed until the wait below is over. If it fails the
            // context is broken, and the driver reads host memory no more.
            unsafe { self.copy_in(target, NonNull::from(bytes).cast(), stream)? };
        }
        event.record(stream)?;
        event.wait()
    }

    /// Waits for everything on this device. Only where a consumer's stream is not known any more.
    ///
    /// # Errors
    /// [`Error::Cuda`], of anything that ran before.
    pub fn drain(&self) -> Result<()> {
        let _bound = self.bind()?;
        // SAFETY: takes nothing.
        check("finish", unsafe { sys::cuCtxSynchronize() })
    }

    /// Is this an address in the memory of a device, and of which?
    pub fn owns(pointer: u64) -> Option<i32> {
        present().ok()?;
        let mut ordinal: c_int = -1;
        // SAFETY: fills the integer; an address of no device is an error.
        let code = unsafe {
            let which = sys::CUpointer_attribute::CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL;
            sys::cuPointerGetAttribute((&raw mut ordinal).cast(), which, pointer)
        };
        check("look up a pointer", code).ok().map(|()| ordinal)
    }
}

/// Page-locked memory, unlocked before it goes.
struct Locked {
    device: Device,
    base: NonNull<u8>,
    _under: Arena,
}

// SAFETY: an address and two handles that are `Send` and `Sync` themselves.
unsafe impl Send for Locked {}
// SAFETY: as above; nothing is read through the address.
unsafe impl Sync for Locked {}

impl Drop for Locked {
    fn drop(&mut self) {
        if let Ok(_bound) = self.device.bind() {
            // SAFETY: locked once at this address; buffers that a copy needed are back by now.
            let _ = unsafe { sys::cuMemHostUnregister(self.base.as_ptr().cast()) };
        }
    }
}

/// Memory on a device.
#[derive(Debug)]
pub struct DeviceMemory {
    device: Device,
    pointer: u64,
    bytes: usize,
}

impl DeviceMemory {
    /// Its address on the device.
    pub fn pointer(&self) -> u64 {
        self.pointer
    }

    /// Its size.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Where it lies.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// A part of it.
    ///
    /// # Panics
    /// If the range passes its end.
    pub fn region(&self, range: std::ops::Range<usize>) -> Region {
        assert!(range.start <= range.end && range.end <= self.bytes, "a region past its memory");
        Region { pointer: self.pointer + range.start as u64, bytes: range.len() }
    }

    /// All of it.
    pub fn whole(&self) -> Region {
        self.region(0..self.bytes)
    }
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        if let Ok(_bound) = self.device.bind() {
            // SAFETY: taken once, given back once. The driver waits for what still uses it.
            let _ = unsafe { sys::cuMemFree_v2(self.pointer) };
        }
    }
}

/// A range of device memory that somebody keeps alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    pointer: u64,
    bytes: usize,
}

impl Region {
    /// Memory of somebody else.
    ///
    /// # Safety
    /// The bytes must be memory of the device that it is used with, for as long as that goes on.
    pub unsafe fn foreign(pointer: u64, bytes: usize) -> Self {
        Self { pointer, bytes }
    }

    /// Its address on the device.
    pub fn pointer(&self) -> u64 {
        self.pointer
    }

    /// Its size.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// A part of it.
    ///
    /// # Panics
    /// If the range passes its end.
    pub fn part(&self, range: std::ops::Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.bytes, "a region past its memory");
        Self { pointer: self.pointer + range.start as u64, bytes: range.len() }
    }
}

/// Work in order, beside other streams.
#[derive(Debug)]
pub struct Stream {
    device: Device,
    handle: sys::CUstream,
}

// SAFETY: a handle of the driver's, which may be called from any thread.
unsafe impl Send for Stream {}
// SAFETY: as above.
unsafe impl Sync for Stream {}

impl Stream {
    /// Where it runs.
    pub fn device(&self) -> &Device {
        &self.device
    }

    pub(crate) fn handle(&self) -> sys::CUstream {
        self.handle
    }

    /// Lets what is started on this stream from now on wait for an event.
    ///
    /// # Errors
    /// [`Error::Cuda`].
    pub fn wait_for(&self, event: &Event) -> Result<()> {
        event.hold_back(self.handle as u64)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let Ok(_bound) = self.device.bind() {
            // SAFETY: made once; what still runs on it ends by itself.
            let _ = unsafe { sys::cuStreamDestroy_v2(self.handle) };
        }
    }
}

/// A mark in a stream, over when all before it is.
#[derive(Debug)]
pub struct Event {
    device: Device,
    handle: sys::CUevent,
}

// SAFETY: a handle of the driver's, which may be called from any thread.
unsafe impl Send for Event {}
// SAFETY: as above.
unsafe impl Sync for Event {}

impl Event {
    /// Sets the mark behind everything that `stream` was given so far.
    ///
    /// # Errors
    /// [`Error::Cuda`].
    pub fn record(&self, stream: &Stream) -> Result<()> {
        self.record_on(stream.handle as u64)
    }

    /// The same on a stream of somebody else, by its handle. 1 is the default stream, 2 that of the
    /// thread.
    ///
    /// # Errors
    /// [`Error::Cuda`], also if it is gone.
    pub fn record_on(&self, stream: u64) -> Result<()> {
        let _bound = self.device.bind()?;
        // SAFETY: the event lives; the driver checks the handle of the stream.
        check("mark a stream", unsafe { sys::cuEventRecord(self.handle, stream as sys::CUstream) })
    }

    /// Lets a stream of somebody else, by its handle, wait for this event from now on.
    ///
    /// # Errors
    /// [`Error::Cuda`].
    pub fn hold_back(&self, stream: u64) -> Result<()> {
        let _bound = self.device.bind()?;
        // SAFETY: the event lives; the driver checks the handle of the stream.
        check("let a stream wait", unsafe {
            sys::cuStreamWaitEvent(stream as sys::CUstream, self.handle, 0)
        })
    }

    /// Is everything before the mark over? One never recorded is.
    ///
    /// # Errors
    /// [`Error::Cuda`], of anything that ran before.
    pub fn is_over(&self) -> Result<bool> {
        let _bound = self.device.bind()?;
        // SAFETY: the event lives.
        is_over("run what was started", unsafe { sys::cuEventQuery(self.handle) })
    }

    /// Waits until it is: for this event, not for its stream.
    ///
    /// # Errors
    /// [`Error::Cuda`], of anything that ran before.
    pub fn wait(&self) -> Result<()> {
        let _bound = self.device.bind()?;
        // SAFETY: the event lives.
        check("run what was started", unsafe { sys::cuEventSynchronize(self.handle) })
    }

    /// Seconds between two timed events that are both over.
    ///
    /// # Errors
    /// [`Error::Cuda`].
    pub fn seconds_since(&self, earlier: &Self) -> Result<f64> {
        let _bound = self.device.bind()?;
        let mut milliseconds = 0.0;
        // SAFETY: fills the number; both events live.
        check("tell the time", unsafe {
            sys::cuEventElapsedTime(&raw mut milliseconds, earlier.handle, self.handle)
        })?;
        Ok(f64::from(milliseconds) / 1e3)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if let Ok(_bound) = self.device.bind() {
            // SAFETY: made once; the driver keeps it while a stream waits for it.
            let _ = unsafe { sys::cuEventDestroy_v2(self.handle) };
        }
    }
}
