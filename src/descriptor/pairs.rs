// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Pairs`]: arrays of address and length, in the shapes that programs and virtual devices read.
//!
//! | shape | 16 bytes | byte order |
//! |---|---|---|
//! | [`Shape::Sge`]: `struct ibv_sge` | address, length of 32 bits, key | the machine's |
//! | [`Shape::IoVec`]: `struct iovec`, Linux's `struct phys_vec` | address, length of 64 bits | the machine's, of 64 bits |
//! | [`Shape::Virtq`]: `struct virtq_desc` | address, length of 32 bits, flags, next | little-endian |
#![forbid(unsafe_code)]

use super::error::DescriptorError;
use super::extent::{DeviceAddr, Extent, Joined};
use super::limits::TransferLimits;
use super::list::{of_halves, Slot};
use crate::exact::Exact as _;
use core::fmt;

/// How a pair lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Shape {
    /// An element of a work request of RDMA, of memory that is registered under the key.
    Sge {
        /// The local key.
        lkey: u32,
    },
    /// An address and a length, both of 64 bits.
    IoVec,
    /// A descriptor of a virtqueue.
    Virtq {
        /// Whether the device writes.
        writable: bool,
    },
}

/// A pair, as it lies in memory.
type Pair = Slot<16>;

/// Flags of a virtqueue's descriptors.
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// Pairs of one shape, as a device takes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pairs {
    shape: Shape,
    limits: TransferLimits,
}

impl Pairs {
    /// Pairs of a shape.
    ///
    /// ```
    /// use pinned_sgl::descriptor::{Pairs, Shape, TransferLimits};
    /// use pinned_sgl::{PageSize, Pfn, Sgl};
    /// let sgl = Sgl::from_pages(PageSize::SIZE_4K, [7, 8, 3].map(Pfn::new))?;
    /// let sges = Pairs::new(Shape::Sge { lkey: 9 }, TransferLimits::NONE);
    /// let plan = sges.plan(sgl.whole()?.iter())?;
    /// let mut pairs = [[0; 16]; 4];
    /// assert_eq!(plan.write(&mut pairs)?, 2);
    /// assert_eq!(pairs[1][..8], 0x3000_u64.to_ne_bytes());
    /// assert_eq!(pairs[1][8..12], 0x1000_u32.to_ne_bytes());
    /// assert_eq!(pairs[1][12..], 9_u32.to_ne_bytes());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub const fn new(shape: Shape, limits: TransferLimits) -> Self {
        Self { shape, limits }
    }

    /// What these bytes need, if such pairs can express them. O(extents).
    ///
    /// The extents are gone through again when the pairs are written: a clone must give the same ones.
    ///
    /// # Errors
    ///
    /// [`DescriptorError`]: an address or a length.
    pub fn plan<A, I>(&self, extents: I) -> Result<PairsPlan<A, I::IntoIter>, DescriptorError>
    where
        A: DeviceAddr,
        I: IntoIterator<Item: Into<Extent<A>>, IntoIter: Clone>,
    {
        let extents = Joined::new(extents.into_iter());
        let (mut len, mut pairs) = (0u64, 0u64);
        for extent in extents.clone() {
            self.limits.check_extent(len, &extent)?;
            len = len.saturating_add(extent.len());
            pairs = pairs.saturating_add(extent.part_count(self.most()));
        }
        self.limits.check_len(len)?;
        Ok(PairsPlan { format: *self, extents, pairs, len })
    }

    /// The descriptor of a virtqueue that leads to a table of `pairs` others, which the device has at `table`.
    #[must_use]
    pub fn indirect<A: DeviceAddr>(table: A, pairs: u16) -> [u8; 16] {
        virtq(table.number(), u64::from(pairs).times(16), INDIRECT, 0)
    }

    /// The most bytes of a pair that leave the next one aligned: 2 to the power of this.
    const fn most(&self) -> u32 {
        match self.shape {
            Shape::IoVec => 63,
            Shape::Sge { .. } | Shape::Virtq { .. } => 31,
        }
    }

    /// A pair, and which one follows it in a virtqueue.
    fn pair(&self, addr: u64, len: u64, next: Option<u16>) -> Pair {
        let behind = match self.shape {
            Shape::IoVec => len.to_ne_bytes(),
            Shape::Sge { lkey } => {
                #[expect(clippy::cast_possible_truncation, reason = "at most 2^31")]
                let [[l0, l1, l2, l3], [k0, k1, k2, k3]] = [len as u32, lkey].map(u32::to_ne_bytes);
                [l0, l1, l2, l3, k0, k1, k2, k3]
            }
            Shape::Virtq { writable } => {
                let flags = if writable { WRITE } else { 0 };
                let flags = flags | if next.is_some() { NEXT } else { 0 };
                return virtq(addr, len, flags, next.unwrap_or(0));
            }
        };
        of_halves(addr.to_ne_bytes(), behind)
    }
}

/// At most `2^32 - 1` bytes.
fn virtq(addr: u64, len: u64, flags: u16, next: u16) -> Pair {
    let [flags, next] = [flags, next].map(u64::from);
    let behind = len | flags.shifted_up(32) | next.shifted_up(48);
    of_halves(addr.to_le_bytes(), behind.to_le_bytes())
}

/// Bytes that pairs can express, and what they need; made by [`Pairs::plan`].
#[derive(Clone)]
#[must_use = "a plan is to be written"]
pub struct PairsPlan<A, I> {
    format: Pairs,
    extents: Joined<I, A>,
    pairs: u64,
    len: u64,
}

impl<A, I> fmt::Debug for PairsPlan<A, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PairsPlan")
            .field("len", &self.len)
            .field("pairs", &self.pairs)
            .finish_non_exhaustive()
    }
}

impl<A: DeviceAddr, I: Iterator<Item: Into<Extent<A>>> + Clone> PairsPlan<A, I> {
    /// The bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "there are no plans of nothing")]
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// How many pairs there are.
    #[must_use]
    pub const fn pairs(&self) -> u64 {
        self.pairs
    }

    /// Writes all pairs, one behind the other; returns how many. Of a virtqueue this is a table for
    /// [indirect](Pairs::indirect) descriptors. O(pairs).
    ///
    /// # Errors
    ///
    /// [`DescriptorError::Room`] if there are too few slots, or more pairs than a table of a virtqueue may have.
    pub fn write(&self, slots: &mut [Slot<16>]) -> Result<usize, DescriptorError> {
        let given = slots.len() as u64;
        let given = match self.format.shape {
            Shape::Virtq { .. } => given.min(1 << 16),
            Shape::Sge { .. } | Shape::IoVec => given,
        };
        self.check_room(given)?;
        let (mut slots, mut written) = (slots.iter_mut(), 0usize);
        self.for_each_pair(|addr, len| {
            written = written.plus(1);
            let next = u16::try_from(written).ok().filter(|next| u64::from(*next) < self.pairs);
            if let Some(slot) = slots.next() {
                *slot = self.format.pair(addr, len, next);
            }
        });
        Ok(written)
    }

    /// Writes the pairs into descriptors of a virtqueue that are `free`, each of which leads to the next one, and
    /// the last one to `then`, if there is more to come; returns the first. O(pairs).
    ///
    /// # Errors
    ///
    /// [`DescriptorError::Room`] if too few are free; [`DescriptorError::List`] if one lies beyond the ring, with its
    /// place among the free ones.
    pub fn write_chain(
        &self,
        ring: &mut [Slot<16>],
        free: &[u16],
        then: Option<u16>,
    ) -> Result<u16, DescriptorError> {
        self.check_room(free.len() as u64)?;
        let used = usize::try_from(self.pairs).ok().and_then(|pairs| free.get(..pairs));
        let used = used.unwrap_or_default();
        let slots = ring.len();
        if let Some(index) = used.iter().position(|index| usize::from(*index) >= slots) {
            return Err(DescriptorError::List { index, addr: 0, align: 16, slots });
        }
        let behind = used.iter().skip(1).copied().map(Some).chain([then]);
        let mut slots = used.iter().zip(behind);
        self.for_each_pair(|addr, len| {
            if let Some((index, next)) = slots.next() {
                if let Some(slot) = ring.get_mut(usize::from(*index)) {
                    *slot = self.format.pair(addr, len, next);
                }
            }
        });
        used.first().copied().ok_or(DescriptorError::Empty)
    }

    fn check_room(&self, given: u64) -> Result<(), DescriptorError> {
        if self.pairs > given {
            return Err(DescriptorError::Room { needed: self.pairs, given });
        }
        Ok(())
    }

    /// The addresses and lengths, none longer than the shape has room for.
    #[inline]
    fn for_each_pair(&self, mut f: impl FnMut(u64, u64)) {
        let most = self.format.most();
        self.extents.clone().for_each(|extent| extent.for_each_part(most, &mut f));
    }
}
