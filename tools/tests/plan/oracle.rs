// SPDX-License-Identifier: MIT OR Apache-2.0
//! The answers once more, slowly: from a list with one entry per byte.

use serde_json::{json, Value};

/// A question, all of its parts given.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    pub(crate) page_shift: u32,
    /// First frame, pages, kind.
    pub(crate) runs: Vec<(u64, u64, &'static str)>,
    pub(crate) offset: u64,
    pub(crate) length: u64,
    pub(crate) iova: u64,
    pub(crate) page_sizes: u64,
    pub(crate) max_seg: Option<u64>,
    pub(crate) boundary: Option<u64>,
}

/// One byte as the device and as memory has it.
#[derive(Clone, Copy)]
struct Byte {
    iova: u64,
    phys: u64,
    kind: &'static str,
}

/// Bytes that are contiguous and of one kind.
struct Run {
    iova: u64,
    phys: u64,
    len: u64,
    kind: &'static str,
}

/// IOVA, memory, the size of the pages, how many of them, and their kind.
type Tile = (u64, u64, u64, u64, &'static str);

impl Question {
    /// The answer, but for the text of `tiles_error`; `None` if the IOVA wraps.
    pub(crate) fn answer(&self) -> Option<Value> {
        self.iova.checked_add(self.length - 1)?;
        let bytes = self.bytes();
        // A run ends where memory or its kind does; a segment, where a limit says so as well.
        let runs = self.split(&bytes, |_, _| false);
        let segments = self.split(&bytes, |so_far, byte| {
            self.max_seg == Some(so_far) || self.boundary.is_some_and(|b| byte.phys % b == 0)
        });
        let segments: Vec<_> =
            segments.iter().map(|run| json!([run.phys, run.len, run.kind])).collect();
        let best = self.best_page_size(&runs);
        let blocks = best.map_or(vec![], |size| blocks(&bytes, size));
        let pages = self.pages();
        let mut answer = json!({
            "page_shift": self.page_shift,
            "pages": pages.len(),
            "runs": page_runs(&pages),
            "offset": self.offset,
            "length": self.length,
            "iova": self.iova,
            "page_sizes": self.page_sizes,
            "max_seg": self.max_seg,
            "boundary": self.boundary,
            "segments": segments,
            "best_page_size": best,
            "blocks": blocks,
        });
        match self.tiles(&runs) {
            Some(tiles) => answer["tiles"] = json!(tiles),
            None => answer["tiles_error"] = Value::Null,
        }
        Some(answer)
    }

    fn pages(&self) -> Vec<(u64, &'static str)> {
        let pages = self.runs.iter().map(|(pfn, count, kind)| (*pfn..pfn + count, *kind));
        pages.flat_map(|(pfns, kind)| pfns.map(move |pfn| (pfn, kind))).collect()
    }

    fn bytes(&self) -> Vec<Byte> {
        let size = 1u64 << self.page_shift;
        let pages = self.pages();
        let byte = |index: u64| {
            let at = self.offset + index;
            let (pfn, kind) = pages[(at / size) as usize];
            Byte { iova: self.iova + index, phys: pfn * size + at % size, kind }
        };
        (0..self.length).map(byte).collect()
    }

    fn split(&self, bytes: &[Byte], also: impl Fn(u64, &Byte) -> bool) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        let mut before: Option<Byte> = None;
        for byte in bytes {
            match runs.last_mut() {
                Some(run)
                    if run.phys + run.len == byte.phys
                        && before.unwrap().kind == byte.kind
                        && !also(run.len, byte) =>
                {
                    run.len += 1;
                }
                _ => runs.push(Run { iova: byte.iova, phys: byte.phys, len: 1, kind: byte.kind }),
            }
            before = Some(*byte);
        }
        runs
    }

    fn sizes(&self) -> impl Iterator<Item = u64> + Clone + '_ {
        (0..64).map(|bit| 1u64 << bit).filter(|size| self.page_sizes & size != 0)
    }

    /// Tries every size.
    fn best_page_size(&self, runs: &[Run]) -> Option<u64> {
        let last = self.iova + (self.length - 1);
        let cap = self.sizes().find(|size| self.iova / size == last / size);
        self.sizes()
            .filter(|size| cap.is_none_or(|cap| *size <= cap))
            .filter(|size| {
                runs.iter().enumerate().all(|(index, run)| {
                    run.phys % size == run.iova % size && (index == 0 || run.iova % size == 0)
                })
            })
            .max()
    }

    /// Takes the largest page that fits, page by page, and joins pages of one size.
    fn tiles(&self, runs: &[Run]) -> Option<Vec<Tile>> {
        let smallest = self.sizes().next().unwrap();
        let mut tiles: Vec<Tile> = Vec::new();
        for run in runs {
            if run.iova % smallest != 0 || run.phys % smallest != 0 || run.len % smallest != 0 {
                return None;
            }
            let first = tiles.len();
            let mut done = 0;
            while done < run.len {
                let (iova, phys) = (run.iova + done, run.phys + done);
                let fits = |p: &u64| iova % p == 0 && phys % p == 0 && *p <= run.len - done;
                let size = self.sizes().filter(fits).max().unwrap();
                match tiles[first..].last_mut() {
                    Some(tile) if tile.2 == size => tile.3 += 1,
                    _ => tiles.push((iova, phys, size, 1, run.kind)),
                }
                done += size;
            }
        }
        Some(tiles)
    }
}

fn page_runs(pages: &[(u64, &'static str)]) -> Vec<(u64, u64, &'static str)> {
    let mut runs: Vec<(u64, u64, &str)> = Vec::new();
    for (index, (pfn, kind)) in pages.iter().enumerate() {
        match runs.last_mut() {
            Some((start, count, _)) if *start + *count == *pfn && pages[index - 1].1 == *kind => {
                *count += 1;
            }
            _ => runs.push((*pfn, 1, *kind)),
        }
    }
    runs
}

/// Looks up the block of each byte; all of its bytes must say the same.
fn blocks(bytes: &[Byte], size: u64) -> Vec<u64> {
    let mut blocks: Vec<(u64, u64)> = Vec::new();
    for byte in bytes {
        let block = (byte.iova / size, byte.phys - byte.iova % size);
        match blocks.last() {
            Some(last) if last.0 == block.0 => assert_eq!(*last, block),
            _ => blocks.push(block),
        }
    }
    blocks.into_iter().map(|(_, phys)| phys).collect()
}
