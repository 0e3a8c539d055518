// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Arbitrary`] for values: what a fuzzer makes out of bytes is valid, as if a constructor had made it.
#![forbid(unsafe_code)]

use crate::iommu::{IovaRange, Prot};
use crate::rdma::Access;
use crate::umem::{PinFlags, UserRange};
use crate::{
    Iova, MemoryKind, PageRun, PageSize, PageSizes, Pfn, PhysAddr, ProviderId, SegmentLimits,
    UserAddr,
};
use ::arbitrary::{Arbitrary, Error, Result, Unstructured};

/// Implements the trait: a type, and a value of it out of the bytes in `u`.
macro_rules! arbitrary {
    ($($type:ty: |$u:ident| $value:expr;)*) => {$(
        impl<'a> Arbitrary<'a> for $type {
            fn arbitrary($u: &mut Unstructured<'a>) -> Result<Self> {
                $value
            }
        }
    )*};
}

arbitrary! {
    Pfn: |u| u.arbitrary().map(Self::new);
    PhysAddr: |u| u.arbitrary().map(Self::new);
    Iova: |u| u.arbitrary().map(Self::new);
    UserAddr: |u| u.arbitrary().map(Self::new);
    PageSize: |u| Self::from_shift(u.int_in_range(0..=63)?).ok_or(Error::IncorrectFormat);
    PageSizes: |u| u.arbitrary().map(Self::from_bits_retain);
    ProviderId: |u| u.arbitrary().map(Self);
    MemoryKind: |u| Ok(match u.int_in_range(0..=2)? {
        0 => Self::Ram,
        1 => Self::Device(u.arbitrary()?),
        _ => Self::Mmio,
    });
    PageRun: |u| {
        let start = u.int_in_range(0..=u64::MAX.saturating_sub(1))?;
        let count = u.int_in_range(1..=u64::MAX.saturating_sub(start))?;
        valid(Self::new(Pfn::new(start), count, u.arbitrary()?))
    };
    UserRange: |u| {
        let start: UserAddr = u.arbitrary()?;
        let more = u.int_in_range(1..=u64::MAX.saturating_sub(start.get()).saturating_add(1))?;
        valid(Self::new(start, more))
    };
    IovaRange: |u| {
        let (one, other): (Iova, Iova) = (u.arbitrary()?, u.arbitrary()?);
        valid(Self::inclusive(one.min(other), one.max(other)))
    };
    SegmentLimits: |u| {
        let granularity = u.int_in_range(0..=63)?;
        let mut limits = Self::NONE;
        if u.arbitrary()? {
            limits = valid(limits.max_len(u.int_in_range(1 << granularity..=u64::MAX)?))?;
        }
        if u.arbitrary()? {
            limits = valid(limits.boundary(1 << u.int_in_range(granularity..=63)?))?;
        }
        if u.arbitrary()? {
            limits = limits.max_segments(u.arbitrary()?);
        }
        if u.arbitrary()? {
            limits = valid(limits.addr_mask(u64::MAX >> u.int_in_range(0..=63)?))?;
        }
        valid(limits.granularity(1 << granularity))
    };
    PinFlags: |u| u.arbitrary().map(Self::from_bits_truncate);
    Prot: |u| u.arbitrary().map(Self::from_bits_truncate);
    Access: |u| u.arbitrary().map(Self::from_bits_truncate);
}

/// What a constructor made of numbers that it takes.
fn valid<T, E>(made: core::result::Result<T, E>) -> Result<T> {
    made.map_err(|_| Error::IncorrectFormat)
}
