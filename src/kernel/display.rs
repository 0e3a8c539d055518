// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel prints through a trait of its own: it is the usual text, of what has one without an
//! error of the kernel inside, which has none.
#![forbid(unsafe_code)]

use super::kernel;
use crate::addr::RangeError;
use crate::granule::{SegmentError, TileError};
use crate::iommu::{Breach, IovaRange};
use crate::sgl::{BuildError, WindowError};
use crate::store::AllocError;
use crate::umem::{AttachError, ChargeError, UserRange};
use crate::{Iova, PageSize, Pfn, PhysAddr, UserAddr};

macro_rules! display {
    ($($of:ty)*) => {$(
        impl kernel::fmt::Display for $of {
            fn fmt(&self, f: &mut kernel::fmt::Formatter<'_>) -> kernel::fmt::Result {
                core::fmt::Display::fmt(self, f)
            }
        }
    )*};
}

display!(Iova IovaRange PageSize Pfn PhysAddr UserAddr UserRange);
display!(AllocError AttachError Breach BuildError ChargeError RangeError SegmentError TileError);
display!(WindowError);
