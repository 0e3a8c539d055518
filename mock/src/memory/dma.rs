// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reading and writing a [`Memory`] by physical address: as a device does, and as a kernel does on
//! behalf of one. Both need pinned pages, and both are found out where there are none.

use super::machine::{Inner, Memory};
use super::process::Process;
use crate::bus::{Bus, BusError};
use crate::witness::{Call, Violation, ViolationKind};
use pinned_sgl::umem::{Location, PageAccess};
use pinned_sgl::{Pfn, PhysAddr};
use std::ops::Range;

/// Cuts `len` bytes at page borders: each part is a page number, an offset in it, and where its
/// bytes are in the caller's. `None` is a part whose address has more than 64 bits.
pub(super) fn parts(
    start: u64,
    len: usize,
    shift: u32,
) -> impl Iterator<Item = Option<(u64, usize, Range<usize>)>> {
    let bytes = 1u64 << shift;
    let mut done = 0usize;
    std::iter::from_fn(move || {
        let left = len.checked_sub(done).filter(|left| *left != 0)?;
        let part = (|| {
            let at = start.checked_add(done as u64)?;
            let offset = at & (bytes - 1);
            let here = usize::try_from(bytes - offset).ok()?.min(left);
            let range = done..done.checked_add(here)?;
            Some(((at >> shift), usize::try_from(offset).ok()?, range))
        })();
        done = part.as_ref().map_or(len, |(_, _, range)| range.end);
        Some(part)
    })
}

impl Inner {
    /// Checks that a page may be accessed through a pin, and remembers it if it is written.
    fn check(&self, phys: PhysAddr, pfn: u64, access: Access) -> Result<(), BusError> {
        if self.zone_of(pfn).is_none() {
            return Err(BusError::NoMemory(phys));
        }
        let frame = self.peek(pfn);
        let pinned = frame.is_some_and(|frame| match access.write {
            true => frame.note_write(),
            false => frame.pins() != 0,
        });
        let kind = if !pinned {
            access.unpinned
        } else if access.write && frame.is_some_and(|frame| !frame.is_writable()) {
            ViolationKind::WritablePinnedToRead
        } else {
            return Ok(());
        };
        let call = if access.write { Call::Write } else { Call::Read };
        let seen = self.about(kind, call, Pfn::new(pfn));
        self.witness.saw(Violation { iova: self.iova_of(phys), ..seen });
        if pinned {
            return Ok(());
        }
        Err(BusError::NotPinned(phys))
    }

    fn read(&self, phys: PhysAddr, bytes: &mut [u8], access: Access) -> Result<(), BusError> {
        for part in parts(phys.get(), bytes.len(), self.page.shift()) {
            let (at, (pfn, offset, range)) = place(phys, part)?;
            if access.checked {
                self.check(at, pfn, access)?;
            } else if self.zone_of(pfn).is_none() {
                return Err(BusError::NoMemory(at));
            }
            if let Some(bytes) = bytes.get_mut(range) {
                self.contents.read(pfn, offset, bytes);
            }
        }
        Ok(())
    }

    fn write(&self, phys: PhysAddr, bytes: &[u8], access: Access) -> Result<(), BusError> {
        for part in parts(phys.get(), bytes.len(), self.page.shift()) {
            let (at, (pfn, offset, range)) = place(phys, part)?;
            self.check(at, pfn, access)?;
            if let Some(bytes) = bytes.get(range) {
                self.contents.write(pfn, offset, bytes);
            }
        }
        Ok(())
    }
}

/// What accesses memory, and how.
#[derive(Clone, Copy)]
struct Access {
    write: bool,
    checked: bool,
    /// What it is where a page is not pinned.
    unpinned: ViolationKind,
}

impl Access {
    const DMA_READ: Self =
        Self { write: false, checked: true, unpinned: ViolationKind::DmaToUnpinned };
    const DMA_WRITE: Self = Self { write: true, ..Self::DMA_READ };
    const CPU_READ: Self =
        Self { write: false, checked: true, unpinned: ViolationKind::AccessToUnpinned };
    const CPU_WRITE: Self = Self { write: true, ..Self::CPU_READ };
    const PEEK: Self = Self { checked: false, ..Self::CPU_READ };
}

type Part = (u64, usize, Range<usize>);

/// A part and the address at which it begins.
fn place(phys: PhysAddr, part: Option<Part>) -> Result<(PhysAddr, Part), BusError> {
    let nowhere = BusError::NoMemory(phys);
    let part = part.ok_or(nowhere)?;
    let at = phys.checked_add(part.2.start as u64).ok_or(nowhere)?;
    Ok((at, part))
}

impl Memory {
    /// Reads the bytes at a physical address, pinned or not: for tests that look behind the scenes.
    ///
    /// ```
    /// # use pinned_sgl::{umem::UserRange, UserAddr};
    /// # use pinned_sgl_mock::Memory;
    /// # let range = UserRange::new(UserAddr::new(0x10_0000), 0x2000)?;
    /// let memory = Memory::with_frames(16);
    /// let umem = memory.pinned(range)?;
    /// umem.pinner().write(range.start(), b"bytes")?;
    /// let mut bytes = [0; 5];
    /// memory.peek(umem.whole()?.phys(0).ok_or("no byte")?, &mut bytes)?;
    /// assert_eq!(&bytes, b"bytes");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`BusError::NoMemory`] at the first byte that is in no frame.
    pub fn peek(&self, phys: PhysAddr, bytes: &mut [u8]) -> Result<(), BusError> {
        self.inner.read(phys, bytes, Access::PEEK)
    }
}

/// A device. Each page must be pinned: if not, it is reported to the witness
/// ([`ViolationKind::DmaToUnpinned`]), and nothing is written.
impl Bus for Memory {
    fn read(&self, phys: PhysAddr, bytes: &mut [u8]) -> Result<(), BusError> {
        self.inner.read(phys, bytes, Access::DMA_READ)
    }

    fn write(&self, phys: PhysAddr, bytes: &[u8]) -> Result<(), BusError> {
        self.inner.write(phys, bytes, Access::DMA_WRITE)
    }
}

/// A kernel, on behalf of a device, so that an [`Umem`](pinned_sgl::umem::Umem) of a process can be read and
/// written. Each page must be pinned: if not, it is reported to the witness
/// ([`ViolationKind::AccessToUnpinned`]), and nothing is written. What is written must be marked dirty, as
/// if a device had done it.
impl PageAccess for Process {
    type AccessError = BusError;

    unsafe fn read(&self, from: Location, bytes: &mut [u8]) -> Result<(), BusError> {
        self.memory.inner.read(from.phys, bytes, Access::CPU_READ)
    }

    unsafe fn write(&self, to: Location, bytes: &[u8]) -> Result<(), BusError> {
        self.memory.inner.write(to.phys, bytes, Access::CPU_WRITE)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::{Process, Vma};
    use pinned_sgl::umem::{PinFlags, PinnedBatch, UserRange};
    use pinned_sgl::{MemoryKind, PageSize, UserAddr};

    #[test]
    fn parts_end_at_page_borders() {
        let cut = |start, len| parts(start, len, 12).collect::<Vec<_>>();
        assert_eq!(
            cut(0xfff, 0x1002),
            [Some((0, 0xfff, 0..1)), Some((1, 0, 1..0x1001)), Some((2, 0, 0x1001..0x1002)),]
        );
        assert_eq!(cut(5, 0), []);
        assert_eq!(cut(u64::MAX, 2), [Some((u64::MAX >> 12, 0xfff, 0..1)), None]);
    }

    #[test]
    fn a_kernel_needs_pins_and_leaves_dirt() {
        let memory = Memory::with_frames(4);
        let process = Process::new(&memory);
        let range = UserRange::new(UserAddr::new(0x5000), 0x1000).unwrap();
        process.map(range, Vma::read_write()).unwrap();
        let mut slots = [None; 1];
        let mut batch = PinnedBatch::new(&process, range, PinFlags::WRITE, &mut slots);
        batch.fill().unwrap();
        let pfn = process.frame_at(range.start()).unwrap();
        let phys = pfn.phys(PageSize::SIZE_4K).unwrap();
        let place = Location::new(phys, MemoryKind::Ram, None);
        let mut bytes = [0; 6];
        // SAFETY: the mock checks that the page is pinned; the last two accesses are refused.
        let refused = unsafe {
            PageAccess::write(&process, place, b"kernel").unwrap();
            PageAccess::read(&process, place, &mut bytes).unwrap();
            drop(batch);
            PageAccess::write(&process, place, b"x").is_err()
                && PageAccess::read(&process, place, &mut [0]).is_err()
        };
        assert!(refused && &bytes == b"kernel");
        let user = Some(range.start());
        let seen = memory.witness().take().into_iter().map(|violation| {
            assert_eq!((violation.pfn, violation.user), (Some(pfn), user));
            (violation.kind, violation.call)
        });
        assert!(seen.eq([
            (ViolationKind::DirtyLost, Call::Unpin),
            (ViolationKind::AccessToUnpinned, Call::Write),
            (ViolationKind::AccessToUnpinned, Call::Read),
        ]));
    }
}
