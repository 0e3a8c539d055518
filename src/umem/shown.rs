// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Shown`]: a region and the device that it is shown to, which come apart once.

use super::region::{Attachment, RegionHolder};
use crate::failed::Failed;
use core::mem::ManuallyDrop;

/// What a mapping and a memory region hold: a region, attached, and the domain or the card.
///
/// Dropping it does nothing: its owner calls [`end`](Self::end).
pub(crate) struct Shown<U: RegionHolder, D> {
    attachment: ManuallyDrop<Attachment<U>>,
    device: ManuallyDrop<D>,
}

impl<U: RegionHolder, D> Shown<U, D> {
    pub(crate) const fn new(attachment: Attachment<U>, device: D) -> Self {
        Self { attachment: ManuallyDrop::new(attachment), device: ManuallyDrop::new(device) }
    }

    #[inline]
    pub(crate) fn region(&self) -> &U {
        self.attachment.region()
    }

    #[inline]
    pub(crate) fn device(&self) -> &D {
        &self.device
    }

    /// The region and the device. Where `hidden` is an error, the region stays attached for ever.
    ///
    /// # Safety
    ///
    /// - Called at most once, and nothing else is called afterwards;
    /// - if `hidden` is `Ok`, the device cannot reach the memory any more under this attachment, through no
    ///   cache of translations either.
    pub(crate) unsafe fn end<E>(
        &mut self,
        hidden: Result<(), E>,
    ) -> Result<(U, D), Failed<E, (U, D)>> {
        // SAFETY: "the container is not used again": by the caller's first promise.
        let (attachment, device) = unsafe {
            (ManuallyDrop::take(&mut self.attachment), ManuallyDrop::take(&mut self.device))
        };
        match hidden {
            // SAFETY: "the device cannot reach the memory any more, through no cache of translations
            // either": by the caller's second promise.
            Ok(()) => Ok((unsafe { attachment.release() }, device)),
            Err(error) => Err(Failed::new(error, (attachment.leak(), device))),
        }
    }
}
