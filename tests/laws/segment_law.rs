// SPDX-License-Identifier: MIT OR Apache-2.0
//! **Segments** never cross a boundary, never exceed the length, never mix kinds, are as few as can
//! be, and add up to the window.

use super::{
    alloc::vec::Vec,
    input, iterators,
    oracle::{Atoms, Page},
};
use arbitrary::{Result, Unstructured};
use pinned_sgl::granule::{SegmentError, SegmentLimits};
use pinned_sgl::{MemoryKind, PageSize, Segment};

/// A window of a list, under limits.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub offset: u64,
    pub len: u64,
    pub max_len: Option<u64>,
    pub boundary: Option<u64>,
    /// At most the other two.
    pub granularity: u64,
}

pub fn plain(segment: Segment) -> (u64, u64, MemoryKind) {
    (segment.phys.get(), segment.len, segment.kind)
}

pub fn check(page: PageSize, pages: &[Page], case: Case) {
    let Case { offset, len, max_len, boundary, granularity } = case;
    let numbers = [max_len.unwrap_or(0), boundary.unwrap_or(0), granularity];
    let Some(atoms) = Atoms::of(pages, page, offset, len, 0, &numbers) else {
        return;
    };
    let expected = atoms.segments(max_len, boundary, granularity);

    let sgl = input::build(page, pages);
    let window = sgl.window(offset, len).unwrap();
    let mut limits = SegmentLimits::NONE;
    if let Some(max_len) = max_len {
        limits = limits.max_len(max_len).unwrap();
    }
    if let Some(boundary) = boundary {
        limits = limits.boundary(boundary).unwrap();
    }
    limits = limits.granularity(granularity).unwrap();
    let segments = window.segments(&limits).unwrap();
    let all: Vec<_> = segments.clone().map(plain).collect();
    assert_eq!(all, expected, "{pages:?} {case:?}");
    let count = expected.len() as u64;
    assert_eq!(window.segment_count(&limits), count);
    iterators::check(segments, plain, &expected);

    // The limits on count and addresses: just enough, and one less.
    assert!(window.segments(&limits.max_segments(count)).is_ok());
    let error = window.segments(&limits.max_segments(count - 1)).unwrap_err();
    assert_eq!(error, SegmentError::TooMany { needed: count, max: count - 1 });
    let highest = atoms.atoms.iter().map(|atom| atom.phys + (atoms.step - 1)).max().unwrap();
    let mask = u64::MAX.checked_shr(highest.leading_zeros()).unwrap_or(0);
    assert!(window.segments(&limits.addr_mask(mask).unwrap()).is_ok());
    if highest > 0 {
        let mask = mask >> 1;
        let first = atoms.atoms.iter().position(|atom| atom.phys + (atoms.step - 1) > mask);
        let atom = atoms.atoms[first.unwrap()];
        let inside = if atom.phys > mask { 0 } else { mask + 1 - atom.phys };
        let error = window.segments(&limits.addr_mask(mask).unwrap()).unwrap_err();
        let offset = first.unwrap() as u64 * atoms.step + inside;
        let phys = pinned_sgl::PhysAddr::new(atom.phys + inside);
        assert_eq!(error, SegmentError::Unreachable { offset, phys, mask });
    }
}

pub fn from_bytes(u: &mut Unstructured<'_>) -> Result<()> {
    let input::Short { page, pages, offset, len, step } = input::short(u)?;
    // Limits about as large as pages and runs, so that they cut something; odd ones, too.
    let shift = step.saturating_sub(2) + u.int_in_range(0..=8)?;
    let max_len = match u.arbitrary::<u8>()? % 8 {
        0 => None,
        1 => Some(input::number(u, u64::MAX)?.max(1)),
        _ => Some(u.int_in_range(1..=24)? << shift),
    };
    let boundary = match u.arbitrary::<u8>()? % 4 {
        0 => None,
        1 => Some(1 << u.int_in_range(0..=63)?),
        _ => Some(1 << (step + u.int_in_range(0..=10)?)),
    };
    let most = max_len.unwrap_or(u64::MAX).min(boundary.unwrap_or(u64::MAX)).ilog2();
    let granularity = match u.arbitrary::<u8>()? % 2 {
        0 => 1,
        _ => 1 << u.int_in_range(step.saturating_sub(2)..=step + 10)?.min(most),
    };
    check(page, &pages, Case { offset, len, max_len, boundary, granularity });
    Ok(())
}
