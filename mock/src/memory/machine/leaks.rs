// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pages that are still pinned when none should be.

use super::Memory;
use crate::sync::Ordering;
use crate::witness::{Call, ViolationKind};
use pinned_sgl::Pfn;

impl Memory {
    /// How many pages were leaked on purpose: see [`Pinner::leaked`](pinned_sgl::umem::Pinner::leaked).
    /// They are still pinned, so [`check_leaks`](Self::check_leaks) finds them, too.
    ///
    /// ```
    /// # use pinned_sgl::{umem::UserRange, UserAddr};
    /// # use pinned_sgl_mock::Memory;
    /// # let range = UserRange::new(UserAddr::new(0x10_0000), 0x2000)?;
    /// # use pinned_sgl::{iommu::{Mapping, Prot}, Iova, PageSizes};
    /// # use std::sync::Arc;
    /// # let memory = Memory::with_frames(16);
    /// # let umem = memory.pinned(range)?;
    /// # let iommu = Arc::new(memory.iommu(PageSizes::SIZE_4K));
    /// let mapping = Mapping::map(umem, iommu.clone(), Iova::new(0x8000), Prot::READ)?;
    /// // SAFETY: the memory stays pinned, as the mapping finds out.
    /// unsafe { iommu.lie(pinned_sgl_mock::Lie::UnmapsNothing) };
    /// drop(mapping);
    /// assert_eq!(memory.leaked_pages(), 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn leaked_pages(&self) -> u64 {
        self.inner.leaked.load(Ordering::Relaxed)
    }

    /// Reports every page that is still pinned to the witness ([`ViolationKind::Leak`]); returns how many
    /// there are.
    ///
    /// ```
    /// # use pinned_sgl::{umem::UserRange, UserAddr};
    /// # use pinned_sgl_mock::Memory;
    /// # let range = UserRange::new(UserAddr::new(0x10_0000), 0x2000)?;
    /// let memory = Memory::with_frames(16);
    /// let umem = memory.pinned(range)?;
    /// assert_eq!(memory.check_leaks(), 2);
    /// assert!(!memory.witness().is_clean());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn check_leaks(&self) -> u64 {
        let pinned = self.inner.used().filter(|(_, frame)| frame.pins() != 0);
        let leaks: Vec<_> = pinned
            .map(|(pfn, frame)| {
                let kind = ViolationKind::Leak { pins: frame.pins() };
                self.inner.about(kind, Call::Check, Pfn::new(pfn))
            })
            .collect();
        let count = leaks.len() as u64;
        self.inner.witness.saw_all(leaks);
        count
    }

    /// Panics if a page is still pinned. For the end of a test.
    ///
    /// ```
    /// # use pinned_sgl::{umem::UserRange, UserAddr};
    /// # use pinned_sgl_mock::Memory;
    /// # let range = UserRange::new(UserAddr::new(0x10_0000), 0x2000)?;
    /// let memory = Memory::with_frames(16);
    /// let umem = memory.pinned(range)?;
    /// // The code to be tested.
    /// drop(umem);
    /// memory.assert_no_leak();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Panics
    ///
    /// That is what it is for.
    #[track_caller]
    #[expect(clippy::panic, reason = "an assertion for tests")]
    pub fn assert_no_leak(&self) {
        let mut pinned = self.inner.used().filter(|(_, frame)| frame.pins() != 0);
        if let Some((pfn, frame)) = pinned.next() {
            let (pins, others) = (frame.pins(), pinned.count());
            let kind = ViolationKind::Leak { pins };
            let leak = self.inner.about(kind, Call::Check, Pfn::new(pfn));
            panic!("{leak}; and so are {others} others");
        }
    }
}
