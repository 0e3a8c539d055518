// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Bounce`]: which bytes a device takes where they lie, and which have to be copied for it.
#![forbid(unsafe_code)]

use super::error::DescriptorError;
use super::extent::{DeviceAddr, Extent, Joined};
use crate::exact::{self, Exact as _};

/// What a device takes where it lies. All else is copied to memory that it reaches, or from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Bounce {
    last: u64,
    /// The alignment, less one.
    mask: u64,
    /// The distance of boundaries, less one.
    boundary_mask: u64,
    whole: bool,
}

impl Bounce {
    /// A device that takes everything.
    pub const NONE: Self = Self { last: u64::MAX, mask: 0, boundary_mask: u64::MAX, whole: false };

    /// No address above `last`.
    #[must_use]
    pub const fn last_addr(self, last: u64) -> Self {
        Self { last, ..self }
    }

    /// Parts that begin at multiples of `bytes` and have a multiple of it, but for the last one, which is copied then.
    ///
    /// # Errors
    ///
    /// [`DescriptorError::Format`] if it is no power of two, or more than the boundary.
    pub const fn align(self, bytes: u64) -> Result<Self, DescriptorError> {
        if !bytes.is_power_of_two() {
            return Err(DescriptorError::Format);
        }
        Self { mask: exact::u64::minus(bytes, 1), ..self }.checked()
    }

    /// No part across a multiple of `bytes`: where memory lies together, it is cut there, and not copied.
    ///
    /// # Errors
    ///
    /// [`DescriptorError::Format`] if it is no power of two, or less than the alignment.
    pub const fn boundary(self, bytes: u64) -> Result<Self, DescriptorError> {
        if !bytes.is_power_of_two() {
            return Err(DescriptorError::Format);
        }
        Self { boundary_mask: exact::u64::minus(bytes, 1), ..self }.checked()
    }

    /// All is copied, where something has to be: for devices that take one piece.
    #[must_use]
    pub const fn whole(self) -> Self {
        Self { whole: true, ..self }
    }

    const fn checked(self) -> Result<Self, DescriptorError> {
        if self.boundary_mask < self.mask {
            return Err(DescriptorError::Format);
        }
        Ok(self)
    }

    /// What of the bytes that `extents` have has to be copied. O(extents).
    ///
    /// ```
    /// use pinned_sgl::descriptor::{Bounce, Part};
    /// use pinned_sgl::{PageSize, Pfn, Sgl};
    /// let sgl = Sgl::from_pages(PageSize::SIZE_4K, [7, 0x10_0000, 8].map(Pfn::new))?;
    /// // A device of 32 bits, which takes words.
    /// let device = Bounce::NONE.last_addr(u32::MAX.into()).align(4)?;
    /// let plan = device.plan(sgl.window(0x800, 0x2000)?.iter())?;
    /// assert_eq!((plan.len(), plan.copied()), (0x2000, 0x1000));
    /// let copied = plan.parts().find(|part| matches!(part, Part::Copied { .. }));
    /// assert_eq!(copied, Some(Part::Copied { offset: 0x800, len: 0x1000 }));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`DescriptorError::Empty`] if there are no bytes; [`DescriptorError::Length`] if there are more than 64 bits count.
    pub fn plan<A, I>(self, extents: I) -> Result<BouncePlan<I::IntoIter, A>, DescriptorError>
    where
        A: DeviceAddr,
        I: IntoIterator<Item: Into<Extent<A>>, IntoIter: Clone>,
    {
        let extents = Joined::new(extents.into_iter());
        let mut parts = Parts { extents: extents.clone(), ahead: None, device: self, offset: 0 };
        let (mut len, mut copied) = (0u64, 0u64);
        for part in &mut parts {
            let bytes = part.len();
            let too_long = DescriptorError::Length { len: u64::MAX, max: u64::MAX, sector: 1 };
            len = len.checked_add(bytes).ok_or(too_long)?;
            if matches!(part, Part::Copied { .. }) {
                copied = copied.plus(bytes);
            }
        }
        if len == 0 {
            return Err(DescriptorError::Empty);
        }
        let all = self.whole && copied > 0;
        Ok(BouncePlan { extents, device: self, len, copied: if all { len } else { copied } })
    }
}

/// Which bytes are copied, and which are not.
#[derive(Clone, Debug)]
pub struct BouncePlan<I, A> {
    extents: Joined<I, A>,
    device: Bounce,
    len: u64,
    copied: u64,
}

impl<A: DeviceAddr, I: Iterator<Item: Into<Extent<A>>> + Clone> BouncePlan<I, A> {
    /// All bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a plan is never empty")]
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// How many of them are copied.
    #[must_use]
    pub const fn copied(&self) -> u64 {
        self.copied
    }

    /// The parts, in order. Bytes that are copied one behind the other are one part.
    pub fn parts(&self) -> impl Iterator<Item = Part<A>> + Clone + '_ {
        let all = self.copied == self.len;
        let whole = all.then_some(Part::Copied { offset: 0, len: self.len });
        let extents = self.extents.clone();
        let parts = Parts { extents, ahead: None, device: self.device, offset: 0 };
        whole.into_iter().chain((!all).then_some(parts).into_iter().flatten())
    }
}

/// Some bytes of what is planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part<A> {
    /// The device takes them where they lie.
    InPlace(Extent<A>),
    /// They are copied, to the device or from it.
    Copied {
        /// How many bytes come before them.
        offset: u64,
        /// How many there are.
        len: u64,
    },
}

impl<A: DeviceAddr> Part<A> {
    /// How many bytes: never zero.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a part is never empty")]
    pub const fn len(&self) -> u64 {
        match self {
            Self::InPlace(extent) => extent.len(),
            Self::Copied { len, .. } => *len,
        }
    }
}

#[derive(Clone)]
struct Parts<I, A> {
    extents: Joined<I, A>,
    /// What is left of an extent.
    ahead: Option<Extent<A>>,
    device: Bounce,
    /// How many bytes come before it.
    offset: u64,
}

impl<A: DeviceAddr, I: Iterator<Item: Into<Extent<A>>>> Parts<I, A> {
    /// How many bytes at the front of an extent are copied: none, if it begins with what is taken in place.
    fn bytes_to_copy(&self, extent: &Extent<A>) -> u64 {
        // Of what is aligned in the window, a part lies before it, which was copied.
        let phase = self.offset & self.device.mask;
        if phase != 0 {
            return extent.len().min(self.device.mask.minus(phase).plus(1));
        }
        if self.bytes_in_place(extent) == 0 {
            return extent.len();
        }
        0
    }

    /// How many bytes at the front of an extent are taken in place, where an aligned part begins.
    fn bytes_in_place(&self, extent: &Extent<A>) -> u64 {
        let Bounce { last, mask, boundary_mask, .. } = self.device;
        let first = extent.first();
        let Some(beyond) = last.checked_sub(first).filter(|_| first & mask == 0) else {
            return 0;
        };
        let reached = extent.len().min(beyond.saturating_add(1));
        let to_boundary = boundary_mask.minus(first & boundary_mask).saturating_add(1);
        reached.min(to_boundary) & !mask
    }

    /// Takes `len` bytes from the front of an extent.
    fn take_front(&mut self, extent: Extent<A>, len: u64) -> Extent<A> {
        self.offset = self.offset.saturating_add(len);
        let (front, rest) = extent.split(len);
        self.ahead = rest;
        front
    }
}

impl<A: DeviceAddr, I: Iterator<Item: Into<Extent<A>>>> Iterator for Parts<I, A> {
    type Item = Part<A>;

    fn next(&mut self) -> Option<Part<A>> {
        let (offset, mut copied) = (self.offset, 0u64);
        while let Some(extent) = self.ahead.take().or_else(|| self.extents.next()) {
            let len = self.bytes_to_copy(&extent);
            if len > 0 {
                self.take_front(extent, len);
                copied = copied.saturating_add(len);
            } else if copied > 0 {
                self.ahead = Some(extent);
                break;
            } else {
                let len = self.bytes_in_place(&extent);
                return Some(Part::InPlace(self.take_front(extent, len)));
            }
        }
        (copied > 0).then_some(Part::Copied { offset, len: copied })
    }
}
