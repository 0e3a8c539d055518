// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel prints through a trait of its own: for addresses and sizes it is the usual text.
#![forbid(unsafe_code)]

use super::sg_table::DmaAddr;
use crate::iommu::IovaRange;
use crate::umem::UserRange;
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

display!(DmaAddr Iova IovaRange PageSize Pfn PhysAddr UserAddr UserRange);
