// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Contents`]: the bytes of the frames. A frame that was never written has none, and reads as
//! zeros.
#![forbid(unsafe_code)]

use crate::sync::{lock, Mutex};
use std::collections::BTreeMap;
use std::fmt;

/// The bytes of a page; `None` is a page of zeros.
pub(super) type Page = Option<Box<[u8]>>;

/// The bytes of all frames, by frame number.
pub(super) struct Contents {
    page_bytes: usize,
    pages: Mutex<BTreeMap<u64, Box<[u8]>>>,
}

impl Contents {
    pub(super) fn new(page_bytes: usize) -> Self {
        Self { page_bytes, pages: Mutex::new(BTreeMap::new()) }
    }

    /// Copies bytes out of one page, from `offset` on.
    pub(super) fn read(&self, pfn: u64, offset: usize, bytes: &mut [u8]) {
        let pages = lock(&self.pages);
        let page = pages.get(&pfn).and_then(|page| page.get(offset..));
        match page.and_then(|page| page.get(..bytes.len())) {
            Some(from) => bytes.copy_from_slice(from),
            None => bytes.fill(0),
        }
    }

    /// Copies bytes into one page, from `offset` on.
    pub(super) fn write(&self, pfn: u64, offset: usize, bytes: &[u8]) {
        let mut pages = lock(&self.pages);
        let page = pages.entry(pfn).or_insert_with(|| vec![0; self.page_bytes].into_boxed_slice());
        let to = page.get_mut(offset..).and_then(|page| page.get_mut(..bytes.len()));
        if let Some(to) = to {
            to.copy_from_slice(bytes);
        }
    }

    /// The bytes of a page, to keep.
    pub(super) fn copy(&self, pfn: u64) -> Page {
        lock(&self.pages).get(&pfn).cloned()
    }

    /// The bytes of a page, which has none any more.
    pub(super) fn take(&self, pfn: u64) -> Page {
        lock(&self.pages).remove(&pfn)
    }

    /// Fills a page.
    pub(super) fn put(&self, pfn: u64, page: Page) {
        let mut pages = lock(&self.pages);
        match page {
            Some(page) => pages.insert(pfn, page),
            None => pages.remove(&pfn),
        };
    }

    /// Forgets the bytes of `from..to`.
    pub(super) fn forget(&self, from: u64, to: u64) {
        let mut pages = lock(&self.pages);
        while let Some(pfn) = pages.range(from..to).next().map(|(pfn, _)| *pfn) {
            pages.remove(&pfn);
        }
    }
}

impl fmt::Debug for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Contents").field("page_bytes", &self.page_bytes).finish_non_exhaustive()
    }
}
