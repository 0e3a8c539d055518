// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Nvme`]: a controller that follows PRPs and scatter-gather lists through an IOMMU.

mod fault;

use crate::{Bus, Device, Iommu};
use pinned_sgl::{Iova, PageSize};
use std::{fmt, ops::Deref};

pub use fault::{Entry, NvmeFault};

/// Where the bytes of a command are, as it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataPointer {
    /// PRP1 and PRP2.
    Prp([u64; 2]),
    /// SGL1.
    Sgl([u8; 16]),
}

/// The part of an NVMe controller that moves bytes: it reads the lists that a command points to, and accesses the
/// memory that they describe, through the IOMMU before it. What is wrong with a list is an [`NvmeFault`], with where.
///
/// It follows lists as the NVM Express Base Specification has them, and knows nothing of how they were written: a
/// driver's own code, or [`pinned_sgl::descriptor`].
///
/// ```
/// use pinned_sgl::descriptor::{Extent, ListMemory, Prp, TransferLimits};
/// use pinned_sgl::iommu::{Mapping, Prot};
/// use pinned_sgl::{umem::UserRange, Iova, PageSize, PageSizes, UserAddr};
/// use pinned_sgl_mock::{DataPointer, Memory, Nvme};
/// use std::sync::Arc;
///
/// let memory = Memory::with_frames(64);
/// let iommu = Arc::new(memory.iommu(PageSizes::SIZE_4K));
/// let nvme = Nvme::new(memory.device(iommu.clone()), PageSize::SIZE_4K);
/// let map = |at, len, iova| {
///     let umem = memory.pinned(UserRange::new(UserAddr::new(at), len)?)?;
///     let prot = Prot::READ | Prot::WRITE;
///     let mapping = Mapping::map(umem.clone(), iommu.clone(), Iova::new(iova), prot)?;
///     Ok::<_, Box<dyn std::error::Error>>((umem, mapping))
/// };
/// let (buffer, mapped) = map(0x10_0000, 0x4000, 0x8000_0000)?;
/// let (list, list_mapped) = map(0x20_0000, 0x1000, 0x9000_0000)?;
///
/// // Three pages and a bit, not from the beginning of a page on.
/// let prp = Prp::new(PageSize::SIZE_4K, TransferLimits::NONE)?;
/// let plan = prp.plan([Extent::new(Iova::new(0x8000_0004), 0x3000)?])?;
/// let mut page = [[0; 8]; 512];
/// let command = plan.write(&mut [ListMemory::new(list_mapped.iova(), &mut page)])?;
/// list.write(0, page.as_flattened())?;
///
/// let bytes: Vec<u8> = (0..0x3000_u32).map(|n| (n / 7) as u8).collect();
/// nvme.send(DataPointer::Prp(command), &bytes)?;
/// let mut seen = vec![0; 0x3000];
/// buffer.read(4, &mut seen)?;
/// assert!(seen == bytes);
/// # drop((mapped, list_mapped, buffer, list));
/// # memory.witness().assert_clean();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Nvme<H, B> {
    device: Device<H, B>,
    page: PageSize,
}

/// Bytes of a transfer that are contiguous for the controller: an address and a length.
type Part = (u64, u64);

/// The bytes of a descriptor, and of a PRP.
const DESCRIPTOR: u64 = 16;
const PRP: u64 = 8;
/// Lists of one command, at most.
const MOST_LISTS: u64 = 1 << 16;

const DATA_BLOCK: u8 = 0x00;
const SEGMENT: u8 = 0x20;
const LAST_SEGMENT: u8 = 0x30;

impl<H: Deref<Target = Iommu>, B: Bus> Nvme<H, B> {
    /// A controller whose pages are `page` (CC.MPS), which need not be those of the IOMMU.
    #[must_use]
    pub const fn new(device: Device<H, B>, page: PageSize) -> Self {
        Self { device, page }
    }

    /// What does DMA for it.
    #[must_use]
    pub const fn device(&self) -> &Device<H, B> {
        &self.device
    }

    /// Writes `bytes` to memory, as a command does that reads them from a disk.
    ///
    /// # Errors
    ///
    /// [`NvmeFault`]: of a list, before anything is written; of the bytes, with those before them written.
    pub fn send(&self, pointer: DataPointer, bytes: &[u8]) -> Result<(), NvmeFault> {
        let mut rest = bytes;
        self.each_part(pointer, bytes.len() as u64, |iova, len| {
            let (here, behind) = rest.split_at_checked(len).unwrap_or((rest, &[]));
            rest = behind;
            self.device.write(iova, here)
        })
    }

    /// Reads `bytes` from memory, as a command does that writes them to a disk.
    ///
    /// # Errors
    ///
    /// [`NvmeFault`]: of a list, before anything is read; of the bytes.
    pub fn fetch(&self, pointer: DataPointer, bytes: &mut [u8]) -> Result<(), NvmeFault> {
        let len = bytes.len() as u64;
        let mut rest = bytes;
        self.each_part(pointer, len, |iova, len| {
            let taken = std::mem::take(&mut rest);
            let (here, behind) = taken.split_at_mut(len.min(taken.len()));
            rest = behind;
            self.device.read(iova, here)
        })
    }

    fn each_part(
        &self,
        pointer: DataPointer,
        len: u64,
        mut access: impl FnMut(Iova, usize) -> Result<(), crate::DmaFault>,
    ) -> Result<(), NvmeFault> {
        let mut offset = 0;
        for (addr, len) in self.parts(pointer, len)? {
            let part = usize::try_from(len).unwrap_or(usize::MAX);
            access(Iova::new(addr), part).map_err(|fault| NvmeFault::Data { offset, fault })?;
            offset += len;
        }
        Ok(())
    }

    /// Where the `len` bytes of a command are: addresses and lengths, as the lists have them.
    ///
    /// # Errors
    ///
    /// [`NvmeFault`] of a list.
    pub fn parts(&self, pointer: DataPointer, len: u64) -> Result<Vec<Part>, NvmeFault> {
        match pointer {
            DataPointer::Prp(prp) => self.follow_prp(prp, len),
            DataPointer::Sgl(sgl) => self.follow_sgl(sgl, len),
        }
    }

    fn follow_prp(&self, [first, second]: [u64; 2], len: u64) -> Result<Vec<Part>, NvmeFault> {
        let (page, mask) = (self.page.bytes(), self.page.mask());
        let entry = Entry::Command { pointer: 1 };
        aligned(entry, first, 4)?;
        let here = len.min(page - (first & mask));
        let (mut parts, mut left) = (vec![(first, here)], len - here);
        if left == 0 {
            return Ok(parts);
        }
        let entry = Entry::Command { pointer: 2 };
        if left <= page {
            parts.push((aligned(entry, second, page)?, left));
            return Ok(parts);
        }
        // A list may begin anywhere in its page, and ends with it.
        let (mut at, mut list, mut slot) = (aligned(entry, second, PRP)?, 0, 0);
        while left > 0 {
            let entry = Entry::List { list, slot };
            let addr = u64::from_le_bytes(self.read(entry, at)?);
            let is_last = (at & mask) + PRP == page;
            if is_last && left > page {
                (at, list, slot) = (aligned(entry, addr, page)?, list + 1, 0);
                if list == MOST_LISTS {
                    return Err(NvmeFault::TooManyLists);
                }
                continue;
            }
            let here = left.min(page);
            parts.push((aligned(entry, addr, page)?, here));
            (at, slot, left) = (at + PRP, slot + 1, left - here);
        }
        Ok(parts)
    }

    fn follow_sgl(&self, first: [u8; 16], needed: u64) -> Result<Vec<Part>, NvmeFault> {
        let (mut parts, mut described) = (Vec::new(), 0u64);
        let (mut descriptor, mut entry) = (first, Entry::Command { pointer: 1 });
        // How many descriptors are left in this list, with the current one; whether another list may follow it.
        let (mut at, mut left, mut leads_on) = (0, 1, true);
        loop {
            let (addr, len, kind) = split(descriptor);
            left -= 1;
            match kind {
                DATA_BLOCK => {
                    parts.push((addr, len.into()));
                    described += u64::from(len);
                    if described > needed {
                        return Err(NvmeFault::Length { described, needed });
                    }
                    // In memory, what leads on comes last.
                    if left == 0 && leads_on && entry != (Entry::Command { pointer: 1 }) {
                        return Err(NvmeFault::Kind { entry, kind });
                    }
                }
                SEGMENT | LAST_SEGMENT if leads_on && left == 0 => {
                    left = u64::from(len) >> DESCRIPTOR.ilog2();
                    if left == 0 || u64::from(len) % DESCRIPTOR != 0 {
                        return Err(NvmeFault::ListLength { entry, len });
                    }
                    (at, leads_on) = (aligned(entry, addr, DESCRIPTOR)?, kind == SEGMENT);
                    entry = match entry {
                        Entry::Command { .. } => Entry::List { list: 0, slot: 0 },
                        Entry::List { list, .. } if list + 1 == MOST_LISTS => {
                            return Err(NvmeFault::TooManyLists)
                        }
                        Entry::List { list, .. } => Entry::List { list: list + 1, slot: 0 },
                    };
                    descriptor = self.read(entry, at)?;
                    continue;
                }
                _ => return Err(NvmeFault::Kind { entry, kind }),
            }
            if left == 0 {
                break;
            }
            if let Entry::List { slot, .. } = &mut entry {
                *slot += 1;
            }
            at += DESCRIPTOR;
            descriptor = self.read(entry, at)?;
        }
        if described < needed {
            return Err(NvmeFault::Length { described, needed });
        }
        Ok(parts)
    }

    fn read<const N: usize>(&self, entry: Entry, at: u64) -> Result<[u8; N], NvmeFault> {
        let mut bytes = [0; N];
        let read = self.device.read(Iova::new(at), &mut bytes);
        read.map_err(|fault| NvmeFault::Unreadable { entry, fault })?;
        Ok(bytes)
    }
}

impl<H: Deref<Target = Iommu>, B> fmt::Debug for Nvme<H, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nvme").field("device", &self.device).field("page", &self.page).finish()
    }
}

/// Of a descriptor: the address, the length, and the kind.
fn split([addr @ .., l0, l1, l2, l3, _, _, _, kind]: [u8; 16]) -> (u64, u32, u8) {
    (u64::from_le_bytes(addr), u32::from_le_bytes([l0, l1, l2, l3]), kind)
}

fn aligned(entry: Entry, addr: u64, align: u64) -> Result<u64, NvmeFault> {
    match addr % align {
        0 => Ok(addr),
        _ => Err(NvmeFault::Misaligned { entry, addr, align }),
    }
}
