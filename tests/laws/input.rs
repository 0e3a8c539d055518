// SPDX-License-Identifier: MIT OR Apache-2.0
//! Bytes to cases: numbers near the edges, lists whose runs nearly touch.

use super::{
    alloc::vec::Vec,
    storage::{store, Store},
};
use arbitrary::{Result, Unstructured};
use pinned_sgl::{MemoryKind, PageRun, PageSize, PageSizes, Pfn, ProviderId, Sgl, SglBuilder};

/// A number up to `most`, often near zero, near `most`, or near a power of two.
pub fn number(u: &mut Unstructured<'_>, most: u64) -> Result<u64> {
    let near = u64::from(u.arbitrary::<u8>()? % 16);
    Ok(match u.arbitrary::<u8>()? % 5 {
        0 => near.min(most),
        1 => most.saturating_sub(near),
        2 => (1u64 << (u.arbitrary::<u8>()? % 64)).saturating_add(near).min(most),
        3 => (1u64 << (u.arbitrary::<u8>()? % 64)).saturating_sub(near).min(most),
        _ => u.int_in_range(0..=most)?,
    })
}

pub fn page_size(u: &mut Unstructured<'_>) -> Result<PageSize> {
    Ok(PageSize::from_shift(*u.choose(&[12, 10, 14, 16, 30])?).unwrap())
}

pub fn kind(u: &mut Unstructured<'_>) -> Result<MemoryKind> {
    Ok(match u.arbitrary::<u8>()? % 16 {
        0 => MemoryKind::Mmio,
        1 => MemoryKind::Device(ProviderId(u.arbitrary()?)),
        2 => MemoryKind::Device(ProviderId(1)),
        _ => MemoryKind::Ram,
    })
}

/// The highest frame that has a byte address.
pub fn highest(page: PageSize) -> u64 {
    u64::MAX >> page.shift()
}

/// A run that a builder takes; it begins near the end of `last` as often as not.
pub fn run(u: &mut Unstructured<'_>, page: PageSize, last: u64, most: u64) -> Result<PageRun> {
    let top = highest(page);
    let start = match u.arbitrary::<u8>()? % 4 {
        0 => last,
        1 => last.saturating_add(u.int_in_range(0..=3)?).saturating_sub(1).min(top),
        2 => u.int_in_range(0..=0xff)?,
        _ => number(u, top)?,
    }
    .min(top);
    let count = number(u, most.min(top - start + 1))?.max(1);
    Ok(PageRun::new(Pfn::new(start), count, kind(u)?).unwrap())
}

/// Runs, some of them repeated with a stride, of at most `most` pages each, that fit one list.
pub fn runs(u: &mut Unstructured<'_>, page: PageSize, most: u64) -> Result<Vec<PageRun>> {
    let (mut runs, mut last) = (Vec::<PageRun>::new(), 0);
    while !u.is_empty() && runs.len() < 4096 {
        let first = run(u, page, last, most)?;
        let repeat = if u.ratio(1, 4)? { u.int_in_range(1..=200)? } else { 1 };
        let stride = number(u, 1 << 20)?;
        for index in 0..repeat {
            let start = first.start().get().wrapping_add(stride * index) % (highest(page) + 1);
            if highest(page) - start + 1 >= first.count() {
                runs.push(PageRun::new(Pfn::new(start), first.count(), first.kind()).unwrap());
            }
        }
        last = runs.last().map_or(0, |run| run.end().get());
    }
    let mut left = highest(page);
    runs.retain(|run| left.checked_sub(run.count()).inspect(|less| left = *less).is_some());
    Ok(runs)
}

/// A short list, page by page, and what is left of the bytes: its pages are near each other.
pub fn few_pages(u: &mut Unstructured<'_>) -> Result<Vec<(u64, MemoryKind)>> {
    let count = u.int_in_range(1..=24)?;
    let base = number(u, 1 << 33)? & !0x1ff;
    let mut huge = 0;
    let mut pages: Vec<(u64, MemoryKind)> = Vec::new();
    for _ in 0..count {
        let next = pages.last().map_or(base, |page| page.0 + 1);
        let pfn = match u.arbitrary::<u8>()? % 8 {
            0 => base + u.int_in_range(0..=31)?,
            1 => base + (u.int_in_range(0..=3)? << 9),
            _ => next,
        };
        if huge < 2 && u.ratio(1, 16)? {
            // A huge page where a page has 4 KiB.
            let kind = kind(u)?;
            let start = base + (u.int_in_range(0..=3)? << 9);
            pages.extend((start..start + 512).map(|pfn| (pfn, kind)));
            huge += 1;
            continue;
        }
        let kind = match (u.arbitrary::<u8>()? % 16, pages.last()) {
            (0, _) => kind(u)?,
            (_, Some(last)) => last.1,
            _ => MemoryKind::Ram,
        };
        pages.push((pfn, kind));
    }
    Ok(pages)
}

pub fn build(page: PageSize, pages: &[(u64, MemoryKind)]) -> Sgl<Store> {
    let mut builder = SglBuilder::new_in(page, store()).unwrap();
    for &(pfn, kind) in pages {
        builder.push_page(Pfn::new(pfn), kind).unwrap();
    }
    builder.finish().unwrap()
}

/// A set of sizes as IOMMUs have them, one that suits the pages of the list, or any other.
pub fn page_sizes(u: &mut Unstructured<'_>, page: PageSize) -> Result<PageSizes> {
    Ok(PageSizes::from_bits_retain(match u.arbitrary::<u8>()? % 8 {
        0 => 0x20_1000,
        1 => 0x4020_1000,
        2 => 0xffff_ffff_ffff_f000,
        3 => u.arbitrary::<u64>()?,
        4 => page.bytes() >> 1 | page.bytes() << 2,
        5 => page.bytes() << 1 | page.bytes() << 3,
        _ => page.bytes() | u64::from(u.arbitrary::<u16>()?) << page.shift(),
    }))
}

/// A window of a list of `bytes` bytes: an offset in the first page, and a length that is not zero,
/// both multiples of the page or of a fraction of it, which comes with them.
pub fn window(u: &mut Unstructured<'_>, page: PageSize, bytes: u64) -> Result<(u64, u64, u32)> {
    let step = page.shift().saturating_sub(u32::from(u.arbitrary::<u8>()? % 8));
    let offset = number(u, page.mask())? >> step << step;
    let len = number(u, bytes - offset)? >> step << step;
    Ok((offset, len.max(1 << step), step))
}

/// A short list, and a window of it, of multiples of `2^step` bytes.
#[derive(Clone, Debug)]
pub struct Short {
    pub page: PageSize,
    pub pages: Vec<(u64, MemoryKind)>,
    pub offset: u64,
    pub len: u64,
    pub step: u32,
}

pub fn short(u: &mut Unstructured<'_>) -> Result<Short> {
    let page = page_size(u)?;
    let pages = few_pages(u)?;
    let (offset, len, step) = window(u, page, pages.len() as u64 * page.bytes())?;
    Ok(Short { page, pages, offset, len, step })
}
