//! The buffer pool: the memory of all events that are received, reserved at start and never grown. (What else a peer can make the
//! server hold, such as a part of a request head or unread answers, has bounds of its own in [`crate::limits`]. The log has a pool of its
//! own, of one buffer.)
//!
//! ```text
//!  one region of `buffer_bytes`, in pages of 4 KiB; a bit a page, 1 = free
//!  ┌────┬────┬────┬────┬────┬────┬────┬────┐
//!  │ Buffer (a run of pages)      │free│ …  │   the loop allocates and writes; one writer a run
//!  └────┴────┴────┴────┴────┴────┴────┴────┘
//!   ▲ shared ▲ filled   ▲ room      ▲ end
//!     PoolSlices, read    may still    unfilled(): the only part ever borrowed mutably
//!     by any thread       be rewound
//! ```
//!
//! * **One thread allocates** ([`Pool`] is not `Clone`), any thread frees: a run goes back when its [`Buffer`] and the
//!   last [`PoolSlice`] of it are gone. So a claim never races with another claim.
//! * **Bytes below `shared_end` are never written again**, bytes from `filled` on are never shared. That is what makes
//!   handing out `&[u8]` to other threads sound while the writer goes on; this module is the only one with `unsafe`.
//! * **Who waits is woken**: [`Pool::wait_for_room`] arms the waker that a later free calls.
//! * Nothing here allocates after [`Pool::new`].

// The region is shared between a writer and readers of disjoint parts, which safe Rust cannot express; see SAFETY at
// each block. Tests run under AddressSanitizer (`make asan`) and the hand-over under loom (`make loom`).
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::ops::{Deref, Range};
use std::ptr::NonNull;

#[cfg(loom)]
use loom::sync::Arc;
#[cfg(loom)]
use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};
#[cfg(not(loom))]
use std::sync::Arc;
#[cfg(not(loom))]
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};

use super::free_runs;
use super::shares::{Share, Shares};
use crate::limits::{POOL_HUGE_PAGE_BYTES, POOL_PAGE_BYTES};

/// Called by the thread that frees memory while the loop waits for it.
pub type Wake = Box<dyn Fn() + Send + Sync>;

struct Region {
    /// Start of the pages; aligned to [`POOL_HUGE_PAGE_BYTES`] if the pool has at least two of that size.
    base: NonNull<u8>,
    /// What was allocated, with `layout`.
    allocated: NonNull<u8>,
    layout: Layout,
    pages: usize,
    /// Bit set: the page is free. Cleared by the allocating thread only, set by the drop of the last reference.
    free: Box<[AtomicU64]>,
    /// By a run's first page: how many handles refer to the run.
    refs: Box<[AtomicU32]>,
    /// By a run's first page: its pages. Written by the run's only writer, read when the run is freed.
    lens: Box<[AtomicU32]>,
    pages_in_use: AtomicUsize,
    /// The loop waits for memory.
    waiting: AtomicBool,
    wake: Wake,
    /// By a run's first page: lets loom see reads and writes of the run's bytes, which it cannot see by itself.
    #[cfg(loom)]
    touched: Box<[loom::cell::UnsafeCell<()>]>,
}

// SAFETY: (needed) the raw base pointer makes the compiler refuse. (sound) the region is plain bytes; all access goes
// through `Buffer` and `PoolSlice`, which never let a written range and a shared range overlap, and all bookkeeping is
// atomic.
unsafe impl Send for Region {}
// SAFETY: as for `Send`.
unsafe impl Sync for Region {}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: (needed) the region is not a Box, so that no `&mut` to all of it ever exists. (sound) allocated with
        // this layout in `Pool::new`; every handle keeps the region alive, so none is left.
        unsafe { dealloc(self.allocated.as_ptr(), self.layout) }
    }
}

impl Region {
    fn release_pages(&self, pages: Range<usize>) {
        if pages.is_empty() {
            return;
        }
        self.pages_in_use.fetch_sub(pages.len(), Ordering::Relaxed);
        for (word, mask) in free_runs::bits(pages) {
            self.free[word].fetch_or(mask, Ordering::Release);
        }
        // Pairs with the fence in `wait_for_room`: either the loop's next try sees these bits, or we see it waiting.
        fence(Ordering::SeqCst);
        if self.waiting.load(Ordering::Relaxed) && self.waiting.swap(false, Ordering::AcqRel) {
            (self.wake)();
        }
    }
}

/// A reference to a run: counted in the region, so that a handle costs one atomic operation.
struct RunRef {
    /// One count of the `Arc` belongs to the run, not to the handle; see `Pool::allocate`.
    region: NonNull<Region>,
    head: u32,
}

// SAFETY: (needed) raw pointer. (sound) it stays valid while the run has references, of which this is one; `Region` is
// Sync.
unsafe impl Send for RunRef {}
// SAFETY: as for `Send`.
unsafe impl Sync for RunRef {}

impl RunRef {
    fn region(&self) -> &Region {
        // SAFETY: (needed) see `region`. (sound) the run that `self` counts for owns one count of the Arc.
        unsafe { self.region.as_ref() }
    }

    fn at(&self, offset: usize) -> *mut u8 {
        // SAFETY: (needed) pointer arithmetic. (sound) callers pass offsets within the run, which is within the region.
        unsafe { self.region().base.as_ptr().add(self.head as usize * POOL_PAGE_BYTES + offset) }
    }
}

impl Clone for RunRef {
    fn clone(&self) -> Self {
        // Relaxed: a new reference is made from an existing one, which keeps the run alive meanwhile.
        self.region().refs[self.head as usize].fetch_add(1, Ordering::Relaxed);
        Self { region: self.region, head: self.head }
    }
}

impl Drop for RunRef {
    fn drop(&mut self) {
        let head = self.head as usize;
        // AcqRel: reads through this handle end before the pages can be claimed and written again.
        if self.region().refs[head].fetch_sub(1, Ordering::AcqRel) == 1 {
            let region_pointer = self.region.as_ptr();
            let pages = self.region().lens[head].load(Ordering::Relaxed) as usize;
            self.region().release_pages(head..head + pages);
            // SAFETY: (needed) gives back the count that `Pool::allocate` took for the run. (sound) exactly once a
            // run: only the drop that brought `refs` to 0 comes here, and nothing of `self` is used afterwards.
            drop(unsafe { Arc::from_raw(region_pointer) });
        }
    }
}

/// The allocating end. Owned by the event loop.
pub struct Pool {
    region: Arc<Region>,
    shares: Shares,
}

impl Pool {
    /// A pool of `bytes`, rounded up to whole pages, all of which anybody may use. `wake` is called once for each
    /// [`Pool::wait_for_room`] that came before a free, by the freeing thread.
    pub fn new(bytes: usize, wake: Wake) -> Self {
        Self::divided(Shares::undivided(bytes.next_multiple_of(POOL_PAGE_BYTES)), wake)
    }

    /// The same, of [`Shares::buffer_bytes`], divided.
    pub fn divided(shares: Shares, wake: Wake) -> Self {
        let pages = shares.buffer_bytes.div_ceil(POOL_PAGE_BYTES).max(1);
        let bytes = pages * POOL_PAGE_BYTES;
        let spare = if bytes >= 2 * POOL_HUGE_PAGE_BYTES { POOL_HUGE_PAGE_BYTES } else { 0 };
        // 16: with a larger alignment std would fill the memory itself instead of taking zero pages from the system.
        let layout = Layout::from_size_align(bytes + spare, 16).expect("a pool smaller than the address space");
        // SAFETY: (needed) the memory must not be a Box, see `Region::drop`. (sound) the size is not zero.
        // Zeroed memory from the system is not resident before it is written.
        let Some(allocated) = NonNull::new(unsafe { alloc_zeroed(layout) }) else { handle_alloc_error(layout) };
        let base = if spare == 0 { allocated } else { on_huge_pages(allocated, bytes) };
        let words = pages.div_ceil(64);
        let region = Region {
            base,
            allocated,
            layout,
            pages,
            free: (0..words).map(|_| AtomicU64::new(0)).collect(),
            refs: (0..pages).map(|_| AtomicU32::new(0)).collect(),
            lens: (0..pages).map(|_| AtomicU32::new(0)).collect(),
            pages_in_use: AtomicUsize::new(0),
            waiting: AtomicBool::new(false),
            wake,
            #[cfg(loom)]
            touched: (0..pages).map(|_| loom::cell::UnsafeCell::new(())).collect(),
        };
        for (word, mask) in free_runs::bits(0..pages) {
            region.free[word].fetch_or(mask, Ordering::Release);
        }
        Self { region: Arc::new(region), shares }
    }

    /// A buffer for what agents send: [`Pool::allocate_from`] their share.
    pub fn allocate(&mut self, bytes: usize) -> Option<Buffer> {
        self.allocate_from(Share::Agents, bytes)
    }

    /// A buffer with room for at least `bytes`, or `None` when no run of pages of `share` is that long. First fit by
    /// address: what is in use stays together, and pages that were never needed are never touched.
    pub fn allocate_from(&mut self, share: Share, bytes: usize) -> Option<Buffer> {
        let pages = pages(bytes);
        let head =
            free_runs::runs(|word| self.word(word), self.range(share), pages).find(|run| run.len() >= pages)?.start;
        for (word, mask) in free_runs::bits(head..head + pages) {
            self.region.free[word].fetch_and(!mask, Ordering::Acquire);
        }
        self.region.pages_in_use.fetch_add(pages, Ordering::Relaxed);
        self.region.lens[head].store(pages as u32, Ordering::Relaxed);
        self.region.refs[head].store(1, Ordering::Relaxed);
        // The run keeps the region alive with one count, however many handles it has.
        let region = Arc::into_raw(self.region.clone());
        let region = NonNull::new(region.cast_mut())?;
        let run = RunRef { region, head: head as u32 };
        Some(Buffer { run, capacity: pages * POOL_PAGE_BYTES, filled: 0, shared_end: 0 })
    }

    /// 64 pages of the map.
    fn word(&self, index: usize) -> u64 {
        self.region.free.get(index).map_or(0, |word| word.load(Ordering::Acquire))
    }

    /// The pages of a share.
    fn range(&self, share: Share) -> Range<usize> {
        let Range { start, end } = self.shares.range(share);
        start.div_ceil(POOL_PAGE_BYTES)..(end / POOL_PAGE_BYTES).min(self.region.pages)
    }

    /// Bytes of all pages of a share.
    pub fn share_bytes(&self, share: Share) -> usize {
        self.range(share).len() * POOL_PAGE_BYTES
    }

    /// Whether these buffers can be allocated from [`Share::Finishing`], one after the other: one of `first_bytes` (0: none),
    /// then as many of `piece_bytes` as `packed_bytes` take, where each is trimmed before the next one is allocated.
    pub fn can_finish(&self, first_bytes: usize, packed_bytes: usize, piece_bytes: usize) -> bool {
        let mut first = first_bytes.div_ceil(POOL_PAGE_BYTES);
        let piece = pages(piece_bytes);
        let mut usable = 0;
        for run in free_runs::runs(|word| self.word(word), self.range(Share::Finishing), usize::MAX) {
            let mut free = run.len();
            if free >= first {
                free -= first;
                first = 0;
            }
            // Pieces are allocated until what is left of the run is shorter than one.
            usable += (free + 1).saturating_sub(piece);
        }
        first == 0 && usable >= packed_bytes.div_ceil(POOL_PAGE_BYTES)
    }

    /// The pages that a buffer of `bytes` from `share` would take if these `freed` pages were free too; `None`: it would not
    /// fit even then.
    pub fn fit_with(&self, share: Share, bytes: usize, freed: &[Range<usize>]) -> Option<Range<usize>> {
        let mut map: Vec<u64> = (0..self.region.free.len()).map(|index| self.word(index)).collect();
        for (index, mask) in freed.iter().cloned().flat_map(free_runs::bits) {
            if let Some(word) = map.get_mut(index) {
                *word |= mask;
            }
        }
        let pages = pages(bytes);
        let word = |index| map.get(index).copied().unwrap_or_default();
        let run = free_runs::runs(word, self.range(share), pages).find(|run| run.len() >= pages)?;
        Some(run.start..run.start + pages)
    }

    /// Says that the loop waits for memory: the next free calls the waker. Try to allocate once more after this call,
    /// then sleep: a free in between has either been seen by that try or calls the waker.
    pub fn wait_for_room(&self) {
        self.region.waiting.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Bytes of allocated pages.
    pub fn bytes_in_use(&self) -> usize {
        self.gauge().bytes_in_use()
    }

    /// Bytes of all pages.
    pub fn capacity_bytes(&self) -> usize {
        self.gauge().capacity_bytes()
    }

    /// A view of the pool's use that other threads may keep.
    pub fn gauge(&self) -> PoolGauge {
        PoolGauge(self.region.clone())
    }
}

/// Returns the first boundary of a huge page within `allocated`, which is larger than `bytes` by one, and advises the system to use
/// huge pages from there on. The loop reads and writes all of the memory again and again: with pages of 4 KiB it waits for their addresses
/// for a tenth of its time. A system without huge pages ignores the advice.
fn on_huge_pages(allocated: NonNull<u8>, bytes: usize) -> NonNull<u8> {
    let offset = allocated.as_ptr().align_offset(POOL_HUGE_PAGE_BYTES);
    // SAFETY: (needed) pointer arithmetic. (sound) `offset` is below a huge page, by which the allocation is larger.
    let base = unsafe { allocated.add(offset) };
    let whole = bytes / POOL_HUGE_PAGE_BYTES * POOL_HUGE_PAGE_BYTES;
    // SAFETY: (needed) a call to the system with a pointer. (sound) the range is within the allocation, and this advice changes
    // neither its contents nor who may use it.
    let _ = unsafe { rustix::mm::madvise(base.as_ptr().cast(), whole, rustix::mm::Advice::LinuxHugepage) };
    base
}

/// How much of a pool is in use, for any thread.
#[derive(Clone)]
pub struct PoolGauge(Arc<Region>);

impl PoolGauge {
    /// Bytes of allocated pages.
    pub fn bytes_in_use(&self) -> usize {
        self.0.pages_in_use.load(Ordering::Relaxed) * POOL_PAGE_BYTES
    }

    /// Bytes of all pages.
    pub fn capacity_bytes(&self) -> usize {
        self.0.pages * POOL_PAGE_BYTES
    }
}

/// The pages that a buffer of `bytes` takes; at least one.
fn pages(bytes: usize) -> usize {
    bytes.div_ceil(POOL_PAGE_BYTES).max(1)
}

/// A run of pages with one writer.
pub struct Buffer {
    run: RunRef,
    capacity: usize,
    filled: usize,
    shared_end: usize,
}

impl Buffer {
    /// Bytes written so far.
    pub fn filled(&self) -> &[u8] {
        // SAFETY: (needed) raw region. (sound) `filled <= capacity`; written before, and mutably borrowed only through
        // `&mut self`.
        unsafe { std::slice::from_raw_parts(self.run.at(0), self.filled) }
    }

    /// Number of bytes written so far.
    pub fn len(&self) -> usize {
        self.filled
    }

    /// Whether nothing was written yet.
    pub fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// Bytes that can still be written.
    pub fn room(&self) -> usize {
        self.capacity - self.filled
    }

    /// Its pages of the pool.
    pub fn pages(&self) -> Range<usize> {
        let head = self.run.head as usize;
        head..head + self.capacity / POOL_PAGE_BYTES
    }

    /// The part to write into; then [`Buffer::advance`].
    pub fn unfilled(&mut self) -> &mut [u8] {
        #[cfg(loom)]
        self.run.region().touched[self.run.head as usize].with_mut(|_| ());
        // SAFETY: (needed) raw region. (sound) no slice reaches beyond `filled`, and `&mut self` is the only writer;
        // the memory is initialised (zeroed at start).
        unsafe { std::slice::from_raw_parts_mut(self.run.at(self.filled), self.capacity - self.filled) }
    }

    /// `bytes` of [`Buffer::unfilled`] were written. More than the room counts as the room.
    pub fn advance(&mut self, bytes: usize) {
        self.filled = self.filled.saturating_add(bytes).min(self.capacity);
    }

    /// Appends `bytes`, or nothing and `false` where they do not fit.
    #[must_use]
    pub fn extend(&mut self, bytes: &[u8]) -> bool {
        let Some(room) = self.unfilled().get_mut(..bytes.len()) else { return false };
        room.copy_from_slice(bytes);
        self.advance(bytes.len());
        true
    }

    /// Forgets what was written from `filled` on; never what is shared.
    pub fn rewind(&mut self, filled: usize) {
        self.filled = filled.clamp(self.shared_end, self.filled);
    }

    /// Written bytes that are not shared, to be changed in place. `None`: part of `range` is shared or not filled.
    pub fn unshared_mut(&mut self, range: Range<usize>) -> Option<&mut [u8]> {
        if range.start < self.shared_end || range.start > range.end || range.end > self.filled {
            return None;
        }
        #[cfg(loom)]
        self.run.region().touched[self.run.head as usize].with_mut(|_| ());
        // SAFETY: (needed) raw region. (sound) no slice reaches beyond `shared_end`, which is at or below the range, and
        // `&mut self` is the only writer.
        Some(unsafe { std::slice::from_raw_parts_mut(self.run.at(range.start), range.end - range.start) })
    }

    /// Shares written bytes. They stay as they are until the last slice is gone.
    ///
    /// # Panics
    /// If `range` reaches beyond what is filled: a mistake of ours, never a peer's.
    pub fn share(&mut self, range: Range<usize>) -> PoolSlice {
        let bytes = range.len();
        self.share_pinning(range, bytes)
    }

    /// As [`Buffer::share`], for a slice that counts as what pins `bytes` of the pool: those of the buffer that no other slice counts.
    pub fn share_pinning(&mut self, range: Range<usize>, bytes: usize) -> PoolSlice {
        assert!(range.start <= range.end && range.end <= self.filled, "shared range is filled");
        self.shared_end = self.shared_end.max(range.end);
        let (offset, len, pinned) = (range.start as u32, range.len() as u32, bytes as u32);
        PoolSlice { run: self.run.clone(), offset, len, pinned }
    }

    /// Bytes of its pages.
    pub fn capacity_bytes(&self) -> usize {
        self.capacity
    }

    /// Gives back the pages beyond what is filled; at least one stays.
    pub fn trim(&mut self) {
        self.shrink(self.filled);
    }

    /// Gives back the pages beyond `bytes`, never filled ones; at least one stays.
    pub fn shrink(&mut self, bytes: usize) {
        let head = self.run.head as usize;
        let before = self.capacity / POOL_PAGE_BYTES;
        let pages = bytes.max(self.filled).div_ceil(POOL_PAGE_BYTES).clamp(1, before);
        // Relaxed: read by whoever drops the last reference, after our own drop (AcqRel).
        self.run.region().lens[head].store(pages as u32, Ordering::Relaxed);
        self.capacity = pages * POOL_PAGE_BYTES;
        self.run.region().release_pages(head + pages..head + before);
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer(page {}, {} of {} bytes)", self.run.head, self.filled, self.capacity)
    }
}

/// Written bytes in the pool, shared and never written again. Cloning counts a reference, no bytes are copied.
#[derive(Clone)]
pub struct PoolSlice {
    run: RunRef,
    offset: u32,
    len: u32,
    pinned: u32,
}

impl PoolSlice {
    /// Bytes of the pool that cannot be allocated because of this slice. Of a buffer that it shares with neighbours, its part.
    pub fn pinned_bytes(&self) -> usize {
        self.pinned as usize
    }
}

impl Deref for PoolSlice {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        #[cfg(loom)]
        self.run.region().touched[self.run.head as usize].with(|_| ());
        // SAFETY: (needed) raw region. (sound) within what was filled when it was shared, and never written since:
        // `unfilled` begins at or above `shared_end`.
        unsafe { std::slice::from_raw_parts(self.run.at(self.offset as usize), self.len as usize) }
    }
}

impl fmt::Debug for PoolSlice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PoolSlice(page {}, {} bytes at {})", self.run.head, self.len, self.offset)
    }
}

#[cfg(all(test, not(loom)))]
#[path = "pool_tests.rs"]
mod tests;

/// `make loom`: every order in which two threads can meet here.
#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;

    #[test]
    fn a_run_is_claimed_again_only_after_the_last_read_and_no_wake_up_is_lost() {
        loom::model(|| {
            let woken = Arc::new(AtomicBool::new(false));
            let bell = woken.clone();
            let mut pool = Pool::new(1, Box::new(move || bell.store(true, Ordering::SeqCst)));
            let mut buffer = pool.allocate(1).unwrap();
            assert!(buffer.extend(b"x"));
            let slice = buffer.share(0..1);
            drop(buffer);
            let reader = loom::thread::spawn(move || {
                assert_eq!(&*slice, b"x");
                drop(slice);
            });
            // What the loop does: say that it waits, try once more, sleep.
            let mut found = pool.allocate(1);
            if found.is_none() {
                pool.wait_for_room();
                found = pool.allocate(1);
            }
            let asleep = found.is_none();
            if let Some(mut buffer) = found {
                assert!(buffer.extend(b"y"));
            }
            reader.join().unwrap();
            if asleep {
                assert!(woken.load(Ordering::SeqCst), "the free came after the wait, so it wakes");
                assert!(pool.allocate(1).is_some());
            }
        });
    }

    #[test]
    fn two_readers_free_a_run_exactly_once() {
        loom::model(|| {
            let mut pool = Pool::new(2 * POOL_PAGE_BYTES, Box::new(|| {}));
            let mut buffer = pool.allocate(2 * POOL_PAGE_BYTES).unwrap();
            assert!(buffer.extend(b"ab"));
            let (left, right) = (buffer.share(0..1), buffer.share(1..2));
            buffer.trim();
            drop(buffer);
            let first = loom::thread::spawn(move || drop(left));
            let second = loom::thread::spawn(move || drop(right));
            first.join().unwrap();
            second.join().unwrap();
            assert_eq!(pool.bytes_in_use(), 0);
            assert!(pool.allocate(2 * POOL_PAGE_BYTES).is_some());
        });
    }
}
