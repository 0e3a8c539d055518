// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`NvmeSgl`]: NVMe's scatter-gather lists (NVM Express Base Specification, "Scatter Gather List").
//!
//! ```text
//!  command   one block:    SGL1 = data block
//!            more of them: SGL1 = last segment ──► [block, block, .., block]
//!                          SGL1 = segment ──► [block, .., last segment] ──► [block, .., block]
//! ```
//!
//! A descriptor has 16 bytes: an address, a length, and what it is. What leads from list to list says how long
//! the next list is, and whether it is the last one.
#![forbid(unsafe_code)]

use super::error::DescriptorError;
use super::extent::{DeviceAddr, Extent, Joined};
use super::limits::TransferLimits;
use super::list::{link, of_halves, Entries, ListMemory, Slot};
use crate::exact::Exact as _;
use core::fmt;

/// A descriptor, as it lies in memory.
type Descriptor = Slot<16>;

/// The types of descriptors, of addresses in memory.
const DATA_BLOCK: u8 = 0x00;
const SEGMENT: u8 = 0x20;
const LAST_SEGMENT: u8 = 0x30;
const KEYED_DATA_BLOCK: u8 = 0x40;

/// The bytes of a descriptor.
const BYTES: u64 = 16;
/// The most bytes of a block, and of a keyed one, that leave the next one aligned: 2 to the power of this.
const MOST: u32 = 31;
const MOST_KEYED: u32 = 23;

/// Scatter-gather lists, as a controller takes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NvmeSgl {
    /// What addresses and lengths are multiples of.
    align: u64,
    key: Option<u32>,
    limits: TransferLimits,
}

impl NvmeSgl {
    /// Lists of a controller that says `sgls` of them (SGLS in Identify Controller): at any byte, or at multiples
    /// of four.
    ///
    /// ```
    /// use pinned_sgl::descriptor::{NvmeSgl, TransferLimits};
    /// use pinned_sgl::{PageSize, Pfn, PhysAddr, Sgl};
    /// let sgl = Sgl::from_pages(PageSize::SIZE_4K, [7, 8].map(Pfn::new))?;
    /// let format = NvmeSgl::new(1, TransferLimits::NONE)?;
    /// let plan = format.plan(sgl.whole()?.iter())?;
    /// assert_eq!(plan.blocks(), 1); // in the command itself
    /// let sgl1 = plan.write(&mut [])?;
    /// assert_eq!(sgl1[..8], 0x7000_u64.to_le_bytes());
    /// assert_eq!((&sgl1[8..12], sgl1[15]), (&0x2000_u32.to_le_bytes()[..], 0));
    /// assert!(NvmeSgl::new(0, TransferLimits::NONE).is_err()); // it has none
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`DescriptorError::Format`] if the controller takes no such lists.
    pub const fn new(sgls: u32, limits: TransferLimits) -> Result<Self, DescriptorError> {
        let align = match sgls & 3 {
            1 => 1,
            2 => 4,
            _ => return Err(DescriptorError::Format),
        };
        Ok(Self { align, key: None, limits })
    }

    /// The same with keyed blocks, as they are used over fabrics: of memory that has been registered under `key`.
    #[must_use]
    pub const fn keyed(self, key: u32) -> Self {
        Self { key: Some(key), ..self }
    }

    /// What these bytes need, if such lists can express them. O(extents).
    ///
    /// The extents are gone through again when the list is written: a clone must give the same ones.
    ///
    /// # Errors
    ///
    /// [`DescriptorError`], with where: a start, an end, an address or a length.
    pub fn plan<A, I>(&self, extents: I) -> Result<NvmeSglPlan<A, I::IntoIter>, DescriptorError>
    where
        A: DeviceAddr,
        I: IntoIterator<Item: Into<Extent<A>>, IntoIter: Clone>,
    {
        let extents = Joined::new(extents.into_iter());
        let (mut len, mut blocks, align) = (0u64, 0u64, self.align);
        for extent in extents.clone() {
            let (addr, mask) = (extent.first(), align.minus(1));
            if addr & mask != 0 {
                return Err(DescriptorError::Start { offset: len, addr, align });
            }
            self.limits.check_extent(len, &extent)?;
            len = len.saturating_add(extent.len());
            if extent.len() & mask != 0 {
                return Err(DescriptorError::End { offset: len, align });
            }
            blocks = blocks.saturating_add(extent.part_count(self.most()));
        }
        self.limits.check_len(len)?;
        Ok(NvmeSglPlan { format: *self, extents, blocks, len })
    }

    /// The most bytes of a block: 2 to the power of this.
    const fn most(&self) -> u32 {
        match self.key {
            None => MOST,
            Some(_) => MOST_KEYED,
        }
    }

    /// What all blocks have behind their length.
    fn behind_len(&self) -> u64 {
        match self.key {
            None => of_kind(DATA_BLOCK),
            // The length has three bytes, and the key four.
            Some(key) => of_kind(KEYED_DATA_BLOCK) | u64::from(key).shifted_up(24),
        }
    }
}

/// What leads to a list of so many slots.
fn leads_to(addr: u64, slots: u64, is_last: bool) -> Descriptor {
    descriptor(addr, slots.times(BYTES) | of_kind(if is_last { LAST_SEGMENT } else { SEGMENT }))
}

/// The last byte of a descriptor is its type.
fn of_kind(kind: u8) -> u64 {
    u64::from(kind).shifted_up(56)
}

/// An address, seven bytes that depend on the type, and the type.
#[inline]
fn descriptor(addr: u64, rest: u64) -> Descriptor {
    of_halves(addr.to_le_bytes(), rest.to_le_bytes())
}

/// Bytes that a list can express, and what it needs; made by [`NvmeSgl::plan`].
#[derive(Clone)]
#[must_use = "a plan is to be written"]
pub struct NvmeSglPlan<A, I> {
    format: NvmeSgl,
    extents: Joined<I, A>,
    blocks: u64,
    len: u64,
}

impl<A, I> fmt::Debug for NvmeSglPlan<A, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NvmeSglPlan")
            .field("len", &self.len)
            .field("blocks", &self.blocks)
            .finish_non_exhaustive()
    }
}

impl<A: DeviceAddr, I: Iterator<Item: Into<Extent<A>>> + Clone> NvmeSglPlan<A, I> {
    /// The bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "there are no plans of nothing")]
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// How many blocks there are. One needs no list; more need as many slots, and one more for each list but the
    /// first.
    #[must_use]
    pub const fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Writes the list into the first of `lists`, as many as it takes, which may have any numbers of slots; returns
    /// what the command has: SGL1. O(blocks).
    ///
    /// # Errors
    ///
    /// [`DescriptorError`] if there is too little room, or if a list is out of reach or not at a multiple of 16.
    pub fn write(&self, lists: &mut [ListMemory<'_, A, 16>]) -> Result<[u8; 16], DescriptorError> {
        if self.blocks == 1 {
            let mut only = None;
            self.for_each_block(|block| only = Some(block));
            return only.ok_or(DescriptorError::Empty);
        }
        let used = self.used(lists)?;
        let lists = lists.get_mut(..used).unwrap_or_default();
        // What leads to a list, before which so many blocks are left.
        let lead = |index: usize, list: &ListMemory<'_, A, 16>, left| {
            let is_last = index.plus(1) == used;
            let slots = if is_last { left } else { list.slots.len() as u64 };
            leads_to(list.addr.number(), slots, is_last)
        };
        let first = lists.first().ok_or(DescriptorError::Empty)?;
        let command = lead(0, first, self.blocks);
        let (mut left, mut before) = (self.blocks, first.slots.len());
        link(lists, |index, list| {
            left = left.saturating_sub(before.saturating_sub(1) as u64);
            before = list.slots.len();
            lead(index, list, left)
        });
        let mut entries = Entries::new(lists);
        self.for_each_block(|block| entries.push(block));
        Ok(command)
    }

    /// How many of the lists are used.
    fn used(&self, lists: &[ListMemory<'_, A, 16>]) -> Result<usize, DescriptorError> {
        let (mut given, mut needed) = (0u64, self.blocks);
        for (index, list) in lists.iter().enumerate() {
            let (addr, slots) = (list.addr.number(), list.slots.len() as u64);
            self.format.limits.check_list(index, addr, slots.saturating_mul(BYTES), BYTES)?;
            if slots == 0 {
                return Err(DescriptorError::List { index, addr, align: BYTES, slots: 1 });
            }
            given = given.saturating_add(slots);
            if given >= needed {
                return Ok(index.plus(1));
            }
            // It ends with what leads to the next one.
            needed = needed.saturating_add(1);
        }
        Err(DescriptorError::Room { needed, given })
    }

    /// The descriptors of all blocks, in order.
    #[inline]
    fn for_each_block(&self, mut f: impl FnMut(Descriptor)) {
        let (most, behind_len) = (self.format.most(), self.format.behind_len());
        self.extents.clone().for_each(|extent| {
            extent.for_each_part(most, |addr, len| f(descriptor(addr, len | behind_len)));
        });
    }
}
