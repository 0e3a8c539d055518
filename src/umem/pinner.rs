// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Pinner`]: pins user pages in batches and unpins runs of them.

use super::address_kind::AddressKind;
use super::batch::PinBatch;
use super::holder::Holder;
use super::range::UserRange;
use crate::addr::UserAddr;
use crate::page_size::PageSize;
use crate::sgl::PageRun;
use core::fmt;

/// Pins the pages of a user process, in batches, and unpins runs of them.
///
/// In Linux this is `pin_user_pages_fast()` and `unpin_user_page_range_dirty_lock()`.
///
/// # Implementation safety
///
/// What a pinner reports is shown to devices, and unpinned later, so it must be true:
///
/// - each run that [`pin`](Self::pin) pushes to a batch are the frames of the next pages of the
///   user range, in order, of the [kind](crate::MemoryKind) that they are (what finds
///   [`Ram`](crate::MemoryKind::Ram) may look for the kernel's structure of the page), and each of
///   its pages carries one pin that now belongs to the batch;
/// - a pinned page keeps its frame, and the frame is used for nothing else, until it is unpinned as
///   often as it was pinned; this holds also if the pinner itself is dropped or leaked before;
/// - a page that was pinned with [`PinFlags::WRITE`](super::PinFlags::WRITE) may be written by a device, one that was pinned
///   with [`PinFlags::LONGTERM`](super::PinFlags::LONGTERM) may stay pinned for ever;
/// - [`page_size`](Self::page_size) and [`address_kind`](Self::address_kind) never change. Where the latter
///   is [`AddressKind::User`], the frames are instead the user pages themselves, numbered by their
///   addresses: they have no pins, and stay mapped to the same memory until they are unpinned, for ever if
///   they never are;
/// - runs of [`MemoryKind::Mmio`](crate::MemoryKind::Mmio) have no pins and are never unpinned; they
///   must stay what they are as long as the pinner lives;
/// - `pin` may unwind: what it has pushed is in the batch, which unpins it, and what it has pinned
///   and not pushed it unpins itself, or leaks. Where [`unpin`](Self::unpin) unwinds, the pins of its run
///   are taken for taken back, and those of later runs are leaked.
///
/// # Safety
///
/// `page_size`, `pin` and `leaked` are safe to call. [`unpin`](Self::unpin) has a contract.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not implement `Pinner`",
    note = "a pinner is passed by its holder: an `Arc`, a `Box` or a reference of it; \
            not a reference of an `Arc`"
)]
pub unsafe trait Pinner {
    /// Why pages could not be pinned: in a kernel, the errno.
    type Error: fmt::Debug;

    /// The size of the pages that runs count.
    fn page_size(&self) -> PageSize;

    /// What the addresses of the runs are.
    fn address_kind(&self) -> AddressKind {
        AddressKind::Physical
    }

    /// How many pages of `range` are to be charged before they are pinned: all of them, unless the pinner
    /// knows that some are memory of a device that has no pins
    /// ([`MemoryKind::Mmio`](crate::MemoryKind::Mmio)). What has no pin after all is given back, and what
    /// has one is charged, when that is known.
    fn charged_pages(&self, range: UserRange) -> u64 {
        range.page_count(self.page_size())
    }

    /// Where threads that share a range should cut it: no huge page lies across a multiple of this.
    fn cut_size(&self) -> PageSize {
        PageSize::SIZE_2M
    }

    /// Pins pages from [`PinBatch::next`] on, at most [`PinBatch::left`] of them, and pushes their
    /// runs; a folio is one run, not 512.
    ///
    /// It may stop short, after one run or many; it should stop when [`PinBatch::room`] is zero. If
    /// it fails part-way, what it has pushed stays in the batch, which unpins it. Called by
    /// [`PinnedBatch::fill`](super::PinnedBatch::fill) for a batch of this pinner; one that forwards
    /// to another pinner lets that fill the same batch, unpins through it, and has its
    /// [address kind](Self::address_kind).
    ///
    /// # Errors
    ///
    /// The pinner's own, for the page that follows what was pushed. Without an error, at least one
    /// page must have been pushed.
    fn pin(&self, batch: &mut PinBatch<'_>) -> Result<(), Self::Error>;

    /// Takes one pin of each page of `run` back; marks the pages dirty first if `dirty`.
    ///
    /// `at` is the user address of the first page. Runs may come merged or cut otherwise than they
    /// were pushed. It cannot fail and must not allocate.
    ///
    /// # Safety
    ///
    /// Each page of the run was pushed to a batch by `pin`, for the user address that follows from
    /// `at`, and its pin has not been taken back; nothing relies on this pin any more: no device can
    /// reach the page through what was mapped under it.
    unsafe fn unpin(&self, at: UserAddr, run: PageRun, dirty: bool);

    /// Called for pins that stay for ever, because a device may still reach the pages: a mapping was
    /// leaked, or a domain broke its contract. To be logged; nothing can be done about it.
    fn leaked(&self, at: UserAddr, run: PageRun) {
        let _ = (at, run);
    }
}

/// A [`Holder`] of a pinner. There is nothing to implement.
pub trait PinnerHolder: Holder<Target: Pinner<Error = <Self as PinnerHolder>::Error>> {
    /// The error of the pinner.
    type Error: fmt::Debug;
}

impl<P: Holder<Target: Pinner>> PinnerHolder for P {
    type Error = <P::Target as Pinner>::Error;
}
