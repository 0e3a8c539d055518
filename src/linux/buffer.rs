// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Buffer`]: memory of this process that can be pinned, its own or the caller's.

use super::clock::Clock;
use super::pagemap::PageMap;
use super::pages::{base_page_size, transparent_page_size, Pages, Pool};
use super::slots::Slots;
use crate::addr::UserAddr;
use crate::exact::Exact as _;
use crate::page_size::PageSize;
use crate::umem::UserRange;
use core::{fmt, mem, ptr, ptr::NonNull};
use static_assertions::assert_impl_all;
use std::io;
// Locks around system calls: there is no kernel in a model checker, so these are the real ones.
use std::sync::{OnceLock, RwLock};

/// Page-aligned memory of this process, which can be pinned: anonymous memory of its own, which is
/// unmapped when it is dropped, or [memory that is there already](Self::from_raw_parts), which stays.
///
/// It is the [`Pinner`](crate::umem::Pinner) of its own pages, however many callers and threads pin
/// them at a time. Dropping it while a pin is held, which takes a leaked value, leaks the
/// memory, mapped and pinned.
///
/// A device may write to pinned memory at any time, so there is no `&[u8]` of it:
/// [`read`](Self::read) and [`write`](Self::write) copy, volatile.
///
/// A child process does not inherit memory of its own (`MADV_DONTFORK`). A child that drops a copy of the
/// value unmaps whatever it has mapped there since, and unpins what its parent has pinned, as both
/// have the same rings: after a `fork` without `exec`, forget it.
pub struct Buffer {
    // Invariant: `start..start + len` is mapped, readable and writable, and no reference to it exists, as
    // long as this does and for ever if pins are leaked; it lies in `map`, a mapping that is ours alone, if
    // there is one. `range` are its addresses.
    map: Option<(NonNull<u8>, usize)>,
    start: NonNull<u8>,
    len: usize,
    range: UserRange,
    pages: Pages,
    page: PageSize,
    huge: PageSize,
    /// Keeps copies by the CPU apart from each other.
    pub(super) copies: RwLock<()>,
    /// What is pinned.
    pub(super) slots: Slots,
    /// Opened when it is needed first.
    pub(super) map_of_pages: OnceLock<PageMap>,
    pub(super) clock: Clock,
}

// SAFETY: the memory is owned by the value as that of a box is, and no thread is special to it.
unsafe impl Send for Buffer {}
// SAFETY: through a shared reference, memory is copied under `copies`, and pinned under the lock of
// `slots`.
unsafe impl Sync for Buffer {}

assert_impl_all!(Slots: Send, Sync);
assert_impl_all!(Clock: Send, Sync);
assert_impl_all!(OnceLock<PageMap>: Send, Sync);

impl Buffer {
    /// Maps `len` bytes of memory. No page of it is touched: pinning does that.
    ///
    /// # Errors
    ///
    /// [`BufferError`] if `len` is zero or not a multiple of the page size (the huge page size for
    /// [`Pages::Huge`], otherwise that of a base page), if the machine has no such huge pages or the pool not
    /// enough of them, or if the kernel has no memory to give.
    pub fn new(len: u64, pages: Pages) -> Result<Self, BufferError> {
        let (page, huge) = sizes(len, pages)?;
        // Room to begin at a huge page; what is left over is never touched.
        let slack = if pages == Pages::Transparent { huge.bytes() } else { 0 };
        let too_large = BufferError::TooLarge { len };
        let room = len.checked_add(slack).and_then(|room| isize::try_from(room).ok());
        let Some(map_len) = room.map(isize::unsigned_abs) else {
            return Err(too_large);
        };
        let map = map(map_len, pages).map_err(|source| match pages.huge_page_size() {
            Some(size) => no_huge_pages(len, size, source),
            None => BufferError::Map { len, source },
        })?;
        let skip = if slack == 0 { 0 } else { skip_to(map, huge) };
        let start = NonNull::new(map.as_ptr().wrapping_add(skip)).ok_or(too_large)?;
        let buffer = Self::over(Some((map, map_len)), start, len, pages, (page, huge))?;
        buffer.advise()?;
        Ok(buffer)
    }

    /// Memory that is mapped already, as that of a guest: `len` bytes from `start` on, made of `pages`. It
    /// is not unmapped when the value is dropped.
    ///
    /// The kernel pins anonymous memory, memory of `memfd_create` and `shmem`, and that of hugetlbfs.
    ///
    /// # Errors
    ///
    /// [`BufferError`] if `len` is zero, or `start` or `len` not a multiple of the page size (the huge
    /// page size for [`Pages::Huge`], otherwise that of a base page).
    ///
    /// # Safety
    ///
    /// As long as the value exists, and for ever if it is dropped while pins are held, which takes a
    /// leaked value:
    ///
    /// - the memory is mapped, readable and writable, and stays what it is: it is not unmapped, moved,
    ///   discarded (`MADV_DONTNEED`, a hole in its file) or mapped over;
    /// - no reference to it exists, and what other code reads and writes through pointers, a guest or a
    ///   device among it, keeps out of the copies of [`read`](Self::read) and [`write`](Self::write), or
    ///   is atomic or volatile.
    pub unsafe fn from_raw_parts(
        start: NonNull<u8>,
        len: u64,
        pages: Pages,
    ) -> Result<Self, BufferError> {
        let (page, huge) = sizes(len, pages)?;
        let unit = pages.huge_page_size().unwrap_or(page);
        let user = UserAddr::new(start.addr().get() as u64);
        if !user.is_aligned(unit) {
            return Err(BufferError::Misaligned { at: user, page: unit });
        }
        Self::over(None, start, len, pages, (page, huge))
    }

    /// The memory from `start` on, which lies in `map`, if that is given.
    fn over(
        map: Option<(NonNull<u8>, usize)>,
        start: NonNull<u8>,
        len: u64,
        pages: Pages,
        (page, huge): (PageSize, PageSize),
    ) -> Result<Self, BufferError> {
        let user = UserAddr::new(start.addr().get() as u64);
        let (Ok(bytes), Ok(range)) = (isize::try_from(len), UserRange::new(user, len)) else {
            return Err(BufferError::TooLarge { len });
        };
        Ok(Self {
            map,
            start,
            len: bytes.unsigned_abs(),
            range,
            pages,
            page,
            huge,
            copies: RwLock::default(),
            slots: Slots::default(),
            map_of_pages: OnceLock::new(),
            clock: Clock::default(),
        })
    }

    /// Advises the kernel which pages to use, and to keep children out.
    fn advise(&self) -> Result<(), BufferError> {
        let advise = |advice| {
            // SAFETY: the range is part of our own mapping, and none of the advice given here
            // changes what it holds.
            let failed = unsafe { libc::madvise(self.start.as_ptr().cast(), self.len, advice) };
            if failed == 0 {
                Ok(())
            } else {
                Err(io::Error::last_os_error())
            }
        };
        let failed = |source| BufferError::Advise { source };
        match self.pages {
            // EINVAL: a kernel without transparent huge pages has nothing but base pages.
            Pages::Base => match advise(libc::MADV_NOHUGEPAGE) {
                Err(error) if error.raw_os_error() != Some(libc::EINVAL) => {
                    return Err(failed(error))
                }
                _ => {}
            },
            Pages::Transparent => advise(libc::MADV_HUGEPAGE).map_err(failed)?,
            Pages::Huge(_) => {}
        }
        advise(libc::MADV_DONTFORK).map_err(failed)
    }

    /// The bytes of the buffer.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a buffer is never empty")]
    pub const fn len(&self) -> u64 {
        self.len as u64
    }

    /// The kind of pages that was asked for.
    #[must_use]
    pub const fn pages(&self) -> Pages {
        self.pages
    }

    /// The size of a base page: the unit of frame numbers, whatever the buffer is made of.
    #[must_use]
    pub const fn page_size(&self) -> PageSize {
        self.page
    }

    /// The size of a huge page of the kind that was asked for; the base page if none was.
    #[must_use]
    pub const fn huge_page_size(&self) -> PageSize {
        self.huge
    }

    /// The address of the first byte: a multiple of [`huge_page_size`](Self::huge_page_size), where the
    /// memory is the buffer's own.
    #[must_use]
    pub const fn user_addr(&self) -> UserAddr {
        self.range.start()
    }

    /// All bytes of the buffer: what to pin, unless it is a part.
    #[must_use]
    pub const fn user_range(&self) -> UserRange {
        self.range
    }

    /// The byte at `offset`, which lies in the buffer.
    pub(super) fn at(&self, offset: usize) -> NonNull<u8> {
        NonNull::new(self.start.as_ptr().wrapping_add(offset)).unwrap_or(self.start)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.slots.is_held() {
            // A region or a mapping of it was leaked, so a device may still write to the
            // memory. Then it stays: pinned, and mapped.
            mem::forget(mem::take(&mut self.slots));
            return;
        }
        if let Some((map, len)) = self.map {
            // SAFETY: the mapping is ours alone and no reference into it was ever handed out. Nothing
            // holds a pin in it. Rings that have not been closed yet have nothing registered.
            unsafe { libc::munmap(map.as_ptr().cast(), len) };
        }
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer")
            .field("user_addr", &self.user_addr())
            .field("len", &format_args!("{:#x}", self.len))
            .field("pages", &self.pages)
            .finish()
    }
}

/// The sizes of a base page and of a huge page of `pages`, for a buffer of `len` bytes.
fn sizes(len: u64, pages: Pages) -> Result<(PageSize, PageSize), BufferError> {
    let page = base_page_size().map_err(|source| BufferError::Map { len, source })?;
    let huge = match pages {
        Pages::Base => page,
        Pages::Transparent => transparent_page_size().ok_or(BufferError::NoTransparentHugePages)?,
        Pages::Huge(size) if size <= page => return Err(BufferError::NoSuchHugePages { size }),
        Pages::Huge(size) => size,
    };
    let unit = pages.huge_page_size().unwrap_or(page);
    if len == 0 {
        return Err(BufferError::Empty);
    }
    if len & unit.mask() != 0 {
        return Err(BufferError::NotAMultiple { len, page: unit });
    }
    Ok((page, huge))
}

/// How many bytes after `place` the next huge page begins: less than one.
fn skip_to(place: NonNull<u8>, huge: PageSize) -> usize {
    let addr = place.addr().get() as u64;
    usize::try_from(addr.wrapping_neg() & huge.mask()).unwrap_or(0)
}

/// Maps `len` bytes of anonymous memory.
fn map(len: usize, pages: Pages) -> io::Result<NonNull<u8>> {
    let huge = match pages {
        Pages::Base | Pages::Transparent => 0,
        // Six bits, which end with the highest one.
        Pages::Huge(size) => {
            libc::MAP_HUGETLB | (size.shift() << libc::MAP_HUGE_SHIFT) as libc::c_int
        }
    };
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | huge;
    // SAFETY: a new mapping at an address that the kernel chooses touches nothing that exists.
    let map = unsafe {
        libc::mmap(ptr::null_mut(), len, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)
    };
    if map == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(map.cast()).ok_or_else(|| io::Error::other("the kernel mapped address zero"))
}

/// Why there is no mapping of huge pages of `size`.
fn no_huge_pages(len: u64, size: PageSize, source: io::Error) -> BufferError {
    match Pool::of(size) {
        None => BufferError::NoSuchHugePages { size },
        Some(pool) => {
            let needed = len.shifted_down(size.shift());
            if pool.available >= needed {
                return BufferError::Map { len, source };
            }
            let Pool { total, available } = pool;
            BufferError::NoHugePages { size, needed, available, total }
        }
    }
}

/// Why there is no [`Buffer`].
#[derive(Debug)]
#[non_exhaustive]
pub enum BufferError {
    /// A buffer has at least one page.
    Empty,
    /// A buffer has whole pages.
    NotAMultiple {
        /// The bytes that were asked for.
        len: u64,
        /// The size of the pages.
        page: PageSize,
    },
    /// The memory does not begin where a page does.
    Misaligned {
        /// Where it begins.
        at: UserAddr,
        /// The size of the pages.
        page: PageSize,
    },
    /// More than an address space can hold.
    TooLarge {
        /// The bytes that were asked for.
        len: u64,
    },
    /// The kernel has no transparent huge pages.
    NoTransparentHugePages,
    /// This machine has no huge pages of this size.
    NoSuchHugePages {
        /// The size.
        size: PageSize,
    },
    /// Not enough huge pages of this size have been reserved.
    NoHugePages {
        /// The size.
        size: PageSize,
        /// The pages that the buffer needs.
        needed: u64,
        /// The unused pages of the pool.
        available: u64,
        /// All pages of the pool, in use or not.
        total: u64,
    },
    /// The kernel did not map the memory.
    Map {
        /// The bytes that were asked for.
        len: u64,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel did not take the advice which pages to use.
    Advise {
        /// What the kernel said.
        source: io::Error,
    },
}

impl fmt::Display for BufferError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("a buffer of zero bytes"),
            Self::NotAMultiple { len, page } => {
                write!(f, "{len} bytes are not a multiple of the page size, {page}")
            }
            Self::Misaligned { at, page } => {
                write!(f, "the memory at {at} does not begin at a multiple of {page}")
            }
            Self::TooLarge { len } => write!(f, "{len:#x} bytes do not fit an address space"),
            Self::NoTransparentHugePages => {
                f.write_str("this kernel has no transparent huge pages")
            }
            Self::NoSuchHugePages { size } => {
                write!(f, "this machine has no huge pages of {size}")
            }
            Self::NoHugePages { size, needed, available, total } => write!(
                f,
                "huge pages of {size}: {needed} are needed and {available} are free; \
                 reserve them with `echo {} > {}/nr_hugepages`{}",
                total.saturating_add(needed.saturating_sub(*available)),
                Pool::directory(*size),
                if *size == PageSize::SIZE_2M { " (or vm.nr_hugepages)" } else { "" }
            ),
            Self::Map { len, .. } => write!(f, "cannot map {len:#x} bytes"),
            Self::Advise { .. } => f.write_str("cannot advise the kernel which pages to use"),
        }
    }
}

impl core::error::Error for BufferError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Map { source, .. } | Self::Advise { source } => Some(source),
            _ => None,
        }
    }
}
