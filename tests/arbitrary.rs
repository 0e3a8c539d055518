// SPDX-License-Identifier: MIT OR Apache-2.0
//! The feature `arbitrary`: every value is one that a constructor would have made, and bytes make all kinds.
#![allow(clippy::unwrap_used, reason = "a test may panic: that is how it fails")]

use arbitrary::{Arbitrary, Unstructured};
use pinned_sgl::iommu::{IovaRange, Prot};
use pinned_sgl::rdma::Access;
use pinned_sgl::umem::{PinFlags, UserRange};
use pinned_sgl::{
    Iova, MemoryKind, PageRun, PageSize, PageSizes, Pfn, PhysAddr, SegmentLimits, Sgl, UserAddr,
};
use std::collections::HashSet;

/// 2000 values, out of random bytes.
fn values<T: for<'a> Arbitrary<'a>>() -> Vec<T> {
    let mut random = fastrand::Rng::with_seed(1);
    let mut bytes = [0; 128];
    let mut next = || {
        random.fill(&mut bytes);
        Unstructured::new(&bytes).arbitrary().unwrap()
    };
    (0..2000).map(|_| next()).collect()
}

#[test]
fn numbers_are_any_number() {
    assert!(values::<Pfn>().iter().collect::<HashSet<_>>().len() > 1990);
    assert!(values::<PhysAddr>().iter().any(|phys| phys.get() > 1 << 63));
    assert!(values::<Iova>().iter().any(|iova| iova.get() < 1 << 60));
    assert!(values::<UserAddr>().iter().any(|user| user.get() & 1 == 1));
    assert!(values::<PageSizes>().iter().collect::<HashSet<_>>().len() > 1990);
    let sizes = values::<PageSize>();
    assert_eq!(sizes.iter().map(|size| size.shift()).collect::<HashSet<_>>().len(), 64);
}

#[test]
fn runs_and_ranges_are_valid() {
    for run in values::<PageRun>() {
        assert_eq!(PageRun::new(run.start(), run.count(), run.kind()), Ok(run));
    }
    for range in values::<UserRange>() {
        assert_eq!(UserRange::new(range.start(), range.len()), Ok(range));
    }
    for range in values::<IovaRange>() {
        assert_eq!(IovaRange::inclusive(range.first(), range.last()), Ok(range));
    }
    let kinds = values::<MemoryKind>();
    let is_device = |kind: &MemoryKind| matches!(kind, MemoryKind::Device(_));
    assert!(kinds.contains(&MemoryKind::Ram) && kinds.contains(&MemoryKind::Mmio));
    assert!(kinds.iter().any(is_device));
}

#[test]
fn limits_can_be_used() {
    let sgl = Sgl::from_pages(PageSize::SIZE_4K, (5..8).map(Pfn::new)).unwrap();
    let window = sgl.whole().unwrap();
    let (mut fits, mut cuts) = (0, 0);
    for limits in values::<SegmentLimits>() {
        if let Ok(segments) = window.segments(&limits) {
            fits += 1;
            let count = window.segment_count(&limits);
            assert_eq!(segments.take(5000).count() as u64, count.min(5000));
            cuts += usize::from(count > 1);
        }
    }
    assert!(fits > 100 && cuts > 10, "{fits} fit, {cuts} cut");
}

#[test]
fn flags_are_known_ones() {
    assert!(values::<PinFlags>().iter().all(|flags| PinFlags::all().contains(*flags)));
    assert!(values::<Prot>().iter().all(|flags| Prot::all().contains(*flags)));
    assert!(values::<Access>().iter().all(|flags| Access::all().contains(*flags)));
    assert_eq!(
        values::<Prot>().iter().collect::<HashSet<_>>().len(),
        1 << Prot::all().iter().count()
    );
}
