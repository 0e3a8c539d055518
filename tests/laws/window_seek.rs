// SPDX-License-Identifier: MIT OR Apache-2.0
//! **Lookup**: a window, and a window of a window, finds every byte where the list has it.

use super::{alloc::vec::Vec, input, oracle, segment_law::plain};
use arbitrary::{Result, Unstructured};
use pinned_sgl::{MemoryKind, PageRun, PageSize, Pfn, Storage, Window};

/// The bytes `offset..offset + len` of the runs, run by run; addresses and lengths.
fn bytes_of(
    page: PageSize,
    runs: &[PageRun],
    offset: u64,
    len: u64,
) -> Vec<(u64, u64, MemoryKind)> {
    let (mut skip, mut left, mut out) = (offset, len, Vec::new());
    for run in runs {
        let bytes = run.count() << page.shift();
        if skip >= bytes {
            skip -= bytes;
            continue;
        }
        let here = (bytes - skip).min(left);
        if here > 0 {
            out.push(((run.start().get() << page.shift()) + skip, here, run.kind()));
        }
        (skip, left) = (0, left - here);
    }
    assert_eq!(left, 0);
    out
}

fn check_window<S: Storage>(window: &Window<'_, S>, runs: &[PageRun], at: &[u64]) {
    let page = window.page_size();
    let all = bytes_of(page, runs, window.offset(), window.len());
    assert!(window.iter().map(plain).eq(all.iter().copied()));
    let mut folded = Vec::new();
    window.iter().for_each(|segment| folded.push(plain(segment)));
    assert_eq!(folded, all);
    assert_eq!(window.run_count(), all.len() as u64);
    let last_page = (window.offset() + (window.len() - 1)) >> page.shift();
    assert_eq!(window.page_count(), last_page - (window.offset() >> page.shift()) + 1);
    assert_eq!(window.runs().map(|run| run.count()).sum::<u64>(), window.page_count());
    if window.page_count() < 5000 {
        check_pages(window, runs);
    }
    for &at in at {
        let at = at % window.len();
        let rest = bytes_of(page, runs, window.offset() + at, window.len() - at);
        assert_eq!(window.phys(at).map(|phys| phys.get()), Some(rest[0].0));
        assert_eq!(window.iter_at(at).map(plain).collect::<Vec<_>>(), rest);
        assert_eq!(window.iter_at(at).bytes_left(), window.len() - at);
    }
    // More than are looked up together, and not sorted.
    let many: Vec<u64> =
        at.iter().cycle().zip(0..19).map(|(at, n)| at % window.len() + n).collect();
    let mut found = Vec::new();
    window.phys_of_many(&many, |phys| found.push(phys));
    assert!(found.into_iter().eq(many.iter().map(|at| window.phys(*at))));
    for beyond in [window.len(), u64::MAX] {
        assert_eq!(window.phys(beyond), None);
        assert_eq!(window.iter_at(beyond).next(), None);
        assert_eq!(window.iter_at(beyond).size_hint(), (0, Some(0)));
        assert_eq!(window.iter_at(beyond).fold(0, |n, _| n + 1), 0);
    }
    for bad in [(0, 0), (0, window.len() + 1), (window.len(), 1), (u64::MAX, 2)] {
        assert!(window.window(bad.0, bad.1).is_err());
    }
}

/// The frames of a window: by `next`, by `fold` from anywhere, and how many.
fn check_pages<S: Storage>(window: &Window<'_, S>, runs: &[PageRun]) {
    let first = window.offset() >> window.page_size().shift();
    let all = oracle::pages(&clip(runs, first, window.page_count()));
    let all: Vec<Pfn> = all.into_iter().map(|(pfn, _)| Pfn::new(pfn)).collect();
    for skip in [0, 1, all.len() / 2, all.len()] {
        let mut pages = window.pages();
        assert!(pages.by_ref().take(skip).eq(all[..skip].iter().copied()));
        assert_eq!(pages.size_hint(), (all.len() - skip, Some(all.len() - skip)));
        assert_eq!(pages.clone().count(), all.len() - skip);
        let mut rest = Vec::new();
        pages.for_each(|pfn| rest.push(pfn));
        assert_eq!(rest, all[skip..]);
    }
}

/// The runs of `pages` pages from page `first` on.
fn clip(runs: &[PageRun], first: u64, pages: u64) -> Vec<PageRun> {
    let (mut skip, mut left, mut clipped) = (first, pages, Vec::new());
    for run in runs {
        let skipped = skip.min(run.count());
        let count = (run.count() - skipped).min(left);
        (skip, left) = (skip - skipped, left - count);
        if count > 0 {
            let start = Pfn::new(run.start().get() + skipped);
            clipped.push(PageRun::new(start, count, run.kind()).unwrap());
        }
    }
    clipped
}

pub fn check(page: PageSize, runs: &[PageRun], windows: &[(u64, u64)], at: &[u64]) {
    let model = oracle::joined(runs);
    let sgl = super::merge_law::sgl(page, runs);
    let Ok(mut window) = sgl.whole() else {
        assert!(model.is_empty());
        return;
    };
    check_window(&window, &model, at);
    for &(offset, len) in windows {
        let offset = offset % window.len();
        let len = len % (window.len() - offset) + 1;
        window = window.window(offset, len).unwrap();
        check_window(&window, &model, at);
    }
}

pub fn from_bytes(u: &mut Unstructured<'_>) -> Result<()> {
    let page = input::page_size(u)?;
    // At most 2^62 bytes, so that the oracle can add without a thought.
    let most = *u.choose(&[1, 8, 512, (1 << 44) >> page.shift()])?;
    let number = |u: &mut Unstructured<'_>| input::number(u, u64::MAX);
    let windows = [(number(u)?, number(u)?), (number(u)?, number(u)?)];
    let at = [number(u)?, number(u)?, number(u)?];
    check(page, &input::runs(u, page, most)?, &windows, &at);
    Ok(())
}
