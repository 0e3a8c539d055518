// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pinners and threads at the limits of numbers.

use super::rig::{iova, Rig, P, RW, WRITE_LONG};
use pinned_sgl::iommu::{Stream, StreamError};
use pinned_sgl::umem::{
    PinBatch, PinError, PinErrorKind, PinRequest, PinnedBatch, Pinner, Rejected, Umem, Unaccounted,
    UserRange,
};
use pinned_sgl::{BuildError, Iova, PageRun, PageSize, PageSizes, Pfn, PhysAddr, UserAddr};
use pinned_sgl_mock::{Fragmentation, Iommu, PinFault};
use std::num::NonZeroUsize;

/// A pinner of memory that is never allocated, and so never reused: a page lies so many frames behind where it
/// lies for the user.
struct Numbers {
    page: PageSize,
    behind: u64,
    /// The most pages of a run.
    most: u64,
}

// SAFETY: there is no such memory, so nothing else uses it, and no device reaches it.
unsafe impl Pinner for Numbers {
    type Error = Option<Rejected>;
    fn page_size(&self) -> PageSize {
        self.page
    }
    fn pin(&self, batch: &mut PinBatch<'_>) -> Result<(), Option<Rejected>> {
        let first = Pfn::new(batch.next().get() >> self.page.shift());
        let first = first.checked_add(self.behind).ok_or(None)?;
        let run = PageRun::ram(first, self.most.min(batch.left())).map_err(|_| None)?;
        // SAFETY: as above: the pages have no owner.
        unsafe { batch.push(run) }.map_err(Some)?;
        let _ = (batch.next(), format!("{batch:?}"));
        Ok(())
    }
    unsafe fn unpin(&self, _: UserAddr, _: PageRun, _: bool) {}
}

/// A run whose bytes have no address is refused by the batch, wherever it would go.
#[test]
fn runs_whose_bytes_have_no_address() {
    let iommu = Iommu::new(PageSizes::all());
    let range = UserRange::new(UserAddr::new(0), 64 * P).unwrap();
    let request = PinRequest::new(range, WRITE_LONG);
    for (page, behind, most) in [
        (P, 1 << 52, 1),
        (P, (1 << 52) - 1, 2),
        (P, u64::MAX - 9, 9),
        (P, (1 << 52) - 64, 65),
        (1 << 30, 1 << 34, 1),
        (1 << 63, 2, 1),
    ] {
        let page = PageSize::new(page).unwrap();
        let pinner = Numbers { page, behind, most };
        let mut slots = [None; 4];
        let mut batch = PinnedBatch::new(&pinner, range, WRITE_LONG, &mut slots);
        let refused = batch.fill();
        let too_large = Err(Some(Rejected::AddressTooLarge));
        assert!(refused == too_large || refused.is_ok() && most == 65, "{behind:#x} {refused:?}");
        if refused.is_ok() {
            continue;
        }
        assert!(batch.is_empty() && batch.next() == range.first_page(page));
        drop(batch);
        let error = Umem::pin(&pinner, &Unaccounted, request).err().unwrap().into_error().kind;
        let known = matches!(error, PinErrorKind::Pinner(Some(Rejected::AddressTooLarge)));
        assert!(known || matches!(error, PinErrorKind::List(BuildError::PageSize { .. })));
        let stream = Stream::map(&pinner, &Unaccounted, &iommu, [None; 4], request, iova(0), RW);
        let error = stream.err().unwrap().into_error();
        let StreamError::Pin(PinError { kind: PinErrorKind::Pinner(error), .. }) = error else {
            panic!("{error:?}")
        };
        assert_eq!(error, Some(Rejected::AddressTooLarge));
    }
    iommu.witness().assert_clean();
}

/// All bytes of an address space, and the last ones.
#[test]
fn the_whole_address_space() {
    for shift in [0, 10, 12, 30, 62, 63] {
        let page = PageSize::from_shift(shift).unwrap();
        for (start, len) in [
            (0, u64::MAX),
            (1, u64::MAX),
            (u64::MAX, 1),
            (1 << 63, 1 << 63),
            (u64::MAX - 99, 100),
            (0, 1),
        ] {
            let range = UserRange::new(UserAddr::new(start), len).unwrap();
            let request = PinRequest::new(range, WRITE_LONG);
            let pinner = Numbers { page, behind: 0, most: u64::MAX };
            let umem = Umem::pin(&pinner, &Unaccounted, request);
            let fits = range.page_count(page) <= u64::MAX >> shift;
            match umem {
                Ok(umem) => {
                    assert!(fits);
                    assert_eq!(umem.whole().unwrap().len(), len);
                    let window = umem.whole().unwrap();
                    let _ = (window.page_count(), window.run_count(), window.phys(len - 1));
                }
                Err(error) => {
                    let _ = format!("{error:?}");
                    let kind = error.into_error().kind;
                    let known = matches!(
                        kind,
                        PinErrorKind::List(
                            BuildError::PageSize { .. } | BuildError::TooManyPages { .. }
                        ) | PinErrorKind::Pinner(_)
                    );
                    let last = range.last().get() >> shift;
                    let odd = !fits || !(10..=30).contains(&shift) || last == u64::MAX;
                    assert!(known && odd, "{shift} {kind:?}");
                }
            }
            // A domain of every page size takes all of it, in as few tiles as can be.
            let iommu = Iommu::new(PageSizes::all());
            let iova = Iova::new(start);
            let stream = Stream::map(&pinner, &Unaccounted, &iommu, [None; 4], request, iova, RW);
            assert!(fits || stream.is_err());
            if let Ok(stream) = stream {
                assert_eq!(iommu.mapped_bytes(), u128::from(len));
                assert_eq!(stream.translate(iova), Some(PhysAddr::new(start)));
                let _ = stream.segments().count();
                stream.unmap().unwrap();
            }
            assert_eq!(iommu.mapped_pages(), 0);
            iommu.witness().assert_clean();
            for threads in [1, 3, usize::MAX].map(|n| NonZeroUsize::new(n).unwrap()) {
                let request = PinRequest::new(range, WRITE_LONG);
                let pinner = Numbers { page, behind: u64::MAX, most: 1 };
                let umem = Umem::pin_parallel(&pinner, &Unaccounted, request, threads);
                assert!(umem.is_err());
            }
        }
    }
}

/// Threads share a range between pages, also where pages are larger than the places at which it is cut
/// as a rule: a page that two of them pin would be in the list twice.
#[test]
fn threads_do_not_cut_pages() {
    // It does not say where to cut.
    let page = PageSize::new(16 << 20).unwrap();
    let pinner = Numbers { page, behind: 7, most: 2 };
    for (start, len) in [(0, 12 << 24), (5, (12 << 24) - 9), (3 << 20, 5 << 24), (9, 1)] {
        for threads in [1, 2, 3, 64].map(|n| NonZeroUsize::new(n).unwrap()) {
            let range = UserRange::new(UserAddr::new(start), len).unwrap();
            let request = PinRequest::new(range, WRITE_LONG);
            let plain = Umem::pin(&pinner, &Unaccounted, request).unwrap();
            let shared = Umem::pin_parallel(&pinner, &Unaccounted, request, threads).unwrap();
            assert!(plain.sgl() == shared.sgl(), "{start} {len} {threads}");
            assert_eq!(plain.sgl().page_count(), range.page_count(page));
        }
    }
}

/// Of more threads than make sense, as many as make sense are started.
#[test]
fn endless_threads() {
    let rig = Rig::new(Fragmentation::None);
    let nowhere = UserRange::new(UserAddr::new(0), 1 << 63).unwrap();
    let request = PinRequest::new(nowhere, WRITE_LONG);
    let umem = Umem::pin_parallel(&*rig.process, &*rig.account, request, NonZeroUsize::MAX);
    assert!(matches!(
        &umem.err().unwrap().error().kind,
        PinErrorKind::Pinner(PinFault::NotMapped(_))
    ));
    rig.assert_idle();
}
