// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`BlockTable`]: what a network card offers that translates by itself: keys, and blocks of one
//! size behind each.

use crate::addr::{Iova, PhysAddr};
use crate::exact::Exact as _;
use crate::flags::{self, flags};
use crate::iova_range::IovaRange;
use crate::page_size::{PageSize, PageSizes};
use crate::umem::Holder;
use core::fmt;

flags! {
    /// What may be done with the memory of a region, and how: Linux's `IB_ACCESS_*`.
    ///
    /// The card itself may always read, for its own host: that needs no flag.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
    pub struct Access(u32) {
        /// The card may write on behalf of its own host: what it receives, for example. Most cards
        /// want this flag wherever they are given one of the other two that write.
        const LOCAL_WRITE = 1 << 0;
        /// Peers may write.
        const REMOTE_WRITE = 1 << 1;
        /// Peers may read.
        const REMOTE_READ = 1 << 2;
        /// Peers may read and write in one step.
        const REMOTE_ATOMIC = 1 << 3;
        /// Memory windows may be bound to the region, and may allow peers to write.
        const MW_BIND = 1 << 4;
        /// Accesses may overtake each other on their way to memory.
        const RELAXED_ORDERING = 1 << 20;
    }
}

impl Access {
    /// Whether the card or a peer may write: then the region must have been pinned for that. The rule of Linux's
    /// `ib_access_writable()`.
    #[must_use]
    pub const fn is_writable(self) -> bool {
        let local_or_remote = Self::LOCAL_WRITE.bits() | Self::REMOTE_WRITE.bits();
        self.bits() & (local_or_remote | Self::REMOTE_ATOMIC.bits() | Self::MW_BIND.bits()) != 0
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        flags::write("Access", self, f)
    }
}

/// How a card sees a region: at which addresses, in blocks of which size, and for what.
///
/// ```text
///  range    │        │   ├─── range ────┼──────────────┤ │
///  blocks   ├────────┼───────┼────────┼────────┼────────┤   block_count: 5
///           0        p      2p       3p       4p       5p
///                    ├───┤ first_offset
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BlockLayout {
    /// The addresses of the region: the card refuses all others, also where a block has them.
    pub range: IovaRange,
    /// The size of every block: one of the card's. Blocks lie at multiples of it, in the addresses
    /// of the card and in memory.
    pub page_size: PageSize,
    /// What may be done.
    pub access: Access,
}

impl BlockLayout {
    /// A layout, for callers that use a [`BlockTable`] directly.
    #[must_use]
    pub const fn new(range: IovaRange, page_size: PageSize, access: Access) -> Self {
        Self { range, page_size, access }
    }

    /// How many blocks there are: those that have an address of the range. O(1).
    #[inline]
    #[must_use]
    pub fn block_count(&self) -> u64 {
        let shift = self.page_size.shift();
        let first = self.range.first().get().shifted_down(shift);
        let last = self.range.last().get().shifted_down(shift);
        // 2^64 blocks of one byte would not fit; no list has so many.
        last.minus(first).saturating_add(1)
    }

    /// How many bytes of the first block lie before the range.
    #[inline]
    #[must_use]
    pub const fn first_offset(&self) -> u64 {
        self.range.first().offset_in(self.page_size)
    }

    /// Which block has `iova`, and where in it: what the card computes for each access; `None` if
    /// the address is not of the range.
    #[inline]
    #[must_use]
    pub fn locate(&self, iova: Iova) -> Option<(u64, u64)> {
        if !self.range.contains(iova) {
            return None;
        }
        let shift = self.page_size.shift();
        let first = self.range.first().get().shifted_down(shift);
        let index = iova.get().shifted_down(shift).minus(first);
        Some((index, iova.offset_in(self.page_size)))
    }
}

/// A card with a translation table of its own: memory is registered as blocks of one size, and
/// reached by key.
///
/// Blocks *cover* a region: the first and the last may have bytes of other memory beside
/// it. So the card itself checks each access against the range, byte by byte.
///
/// A table is shared: its methods take `&self`. Calls may come from several threads at a time if it
/// is `Sync`.
///
/// # Implementation safety
///
/// - under a key, peers and the host reach exactly the bytes of the layout's range, for what its
///   `access` allows: address `a` is byte `a mod page_size` of block
///   `a / page_size - range.first() / page_size`;
/// - after [`register`](Self::register) has failed, nothing has reached the memory through it, nor
///   will: a card that cannot be sure of that is reset before the error is returned;
/// - after [`invalidate`](Self::invalidate) has succeeded, nothing is reached under the key any
///   more, and no access is under way: not in a queue, not in a cache of the card;
/// - when a table is dropped, the same holds for all of its keys;
/// - [`page_sizes`](Self::page_sizes) never changes;
/// - any method may unwind. Then anything that it was asked for may have been done in part: the crate
///   takes the memory for reached, and leaks its pins.
///
/// # Safety
///
/// `register` and `invalidate` have contracts; a [`MemoryRegion`](super::MemoryRegion) keeps them.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not implement `BlockTable`",
    note = "a table is passed by its holder: an `Arc`, a `Box` or a reference of it; \
            not a reference of an `Arc`"
)]
pub unsafe trait BlockTable {
    /// Names a registered region: in RDMA, a pair of an lkey and an rkey.
    type Key: Copy + fmt::Debug;

    /// Why a region could not be registered, or taken away: in a kernel, the errno.
    type Error: fmt::Debug;

    /// The sizes that blocks may have.
    fn page_sizes(&self) -> PageSizes;

    /// Registers memory: block `i` of the layout is at the `i`-th address of `blocks`. There are
    /// [`BlockLayout::block_count`] of them, each at a multiple of the page size.
    ///
    /// # Errors
    ///
    /// The card's own; nothing is registered then.
    ///
    /// # Safety
    ///
    /// The bytes of the range stay what they are, and may be written if the access
    /// [is writable](Access::is_writable), until the key was successfully invalidated; for ever, if that
    /// fails or the call unwinds. All bits of the access are flags.
    unsafe fn register(
        &self,
        layout: BlockLayout,
        blocks: impl Iterator<Item = PhysAddr>,
    ) -> Result<Self::Key, Self::Error>;

    /// Takes memory away from all peers, and waits until the accesses under way are done.
    ///
    /// # Errors
    ///
    /// The card's own. It is taken for a breach: a peer may reach the memory for ever, so its pins
    /// are leaked.
    ///
    /// # Safety
    ///
    /// The key was given by `register` of this table, and has not been passed here before.
    unsafe fn invalidate(&self, key: Self::Key) -> Result<(), Self::Error>;
}

/// A [`Holder`] of a table. There is nothing to implement.
pub trait TableHolder:
    Holder<Target: BlockTable<Key = <Self as TableHolder>::Key>>
    + Holder<Target: BlockTable<Error = <Self as TableHolder>::Error>>
{
    /// The key of a region in the table.
    type Key: Copy + fmt::Debug;

    /// The error of the table.
    type Error: fmt::Debug;
}

impl<N: Holder<Target: BlockTable>> TableHolder for N {
    type Key = <N::Target as BlockTable>::Key;
    type Error = <N::Target as BlockTable>::Error;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_counted_to_the_last_address() {
        let layout = |first, len, size| {
            let range = IovaRange::new(Iova::new(first), len).unwrap();
            BlockLayout::new(range, PageSize::new(size).unwrap(), Access::empty())
        };
        assert_eq!(layout(0xfff, 1, 4096).block_count(), 1);
        assert_eq!(layout(0xfff, 2, 4096).block_count(), 2);
        assert_eq!(layout(0, u64::MAX, 1).block_count(), u64::MAX);
        let top = layout(u64::MAX - 1, 2, 4096);
        assert_eq!((top.block_count(), top.first_offset()), (1, 0xffe));
        assert_eq!(top.locate(Iova::new(u64::MAX)), Some((0, 0xfff)));
        assert_eq!(top.locate(Iova::new(u64::MAX - 2)), None);
        assert_eq!(layout(0x1ff0, 0x20, 4096).locate(Iova::new(0x2001)), Some((1, 1)));
        let all = BlockLayout::new(IovaRange::ALL, PageSize::new(1).unwrap(), Access::empty());
        assert_eq!(all.block_count(), u64::MAX);
    }

    #[test]
    fn four_of_the_flags_write() {
        for flag in Access::all().iter() {
            let writes =
                [Access::LOCAL_WRITE, Access::REMOTE_WRITE, Access::REMOTE_ATOMIC, Access::MW_BIND];
            assert_eq!(flag.is_writable(), writes.contains(&flag), "{flag:?}");
        }
        assert!(!Access::empty().is_writable());
    }
}
