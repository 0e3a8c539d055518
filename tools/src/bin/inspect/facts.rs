// SPDX-License-Identifier: MIT OR Apache-2.0
//! What there is to say about a list; `--json` prints it as it is.

use crate::args::Args;
use crate::memory::{Fault, Memory};
use pinned_sgl::{Heap, PageSizes, Sgl};
use serde::Serialize;

/// Bytes of a page in a page list.
const PAGE_LIST_ENTRY: u64 = 8;
/// Bytes of a `struct scatterlist` on a 64-bit machine with `CONFIG_NEED_SG_DMA_LENGTH`.
const SCATTERLIST_ENTRY: u64 = 32;
/// What a NIC takes: every power of two from 4 KiB to 1 GiB.
const NIC: u64 = (1 << 31) - (1 << 12);

#[derive(Debug, Serialize)]
pub(crate) struct Facts {
    /// The seed of made-up memory; null if it is real.
    pub(crate) mock_seed: Option<u64>,
    #[serde(skip)]
    pub(crate) kind: &'static str,
    /// What the buffer was to be made of.
    pub(crate) pages_asked: String,
    pub(crate) bytes: u64,
    pub(crate) user_addr: Option<u64>,
    pub(crate) threads: usize,
    pub(crate) page_size: u64,
    pub(crate) pages: u64,
    pub(crate) runs: u64,
    pub(crate) longest_run_pages: u64,
    pub(crate) run_lengths: Vec<Bucket>,
    pub(crate) footprint: Footprint,
    pub(crate) iova: u64,
    /// The best size of DMA blocks among the powers of two from 4 KiB to 1 GiB.
    pub(crate) best_page_size: Option<u64>,
    pub(crate) blocks: Option<u64>,
    pub(crate) map_calls: Vec<MapCalls>,
    pub(crate) steps: Vec<Step>,
}

/// The runs of 2^n up to 2^(n+1) - 1 pages.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Bucket {
    pub(crate) min_pages: u64,
    pub(crate) max_pages: u64,
    pub(crate) runs: u64,
    pub(crate) pages: u64,
}

/// Bytes to remember where the memory is.
#[derive(Debug, Serialize)]
pub(crate) struct Footprint {
    pub(crate) page_list_bytes: u64,
    pub(crate) scatterlist_bytes: u64,
    pub(crate) pinned_sgl_bytes: u64,
}

impl Footprint {
    /// That of a list, and of a scatterlist with an entry for each of `runs`.
    pub(crate) fn of(sgl: &Sgl<Heap>, runs: u64) -> Self {
        Self {
            page_list_bytes: sgl.page_count() * PAGE_LIST_ENTRY,
            scatterlist_bytes: runs * SCATTERLIST_ENTRY,
            pinned_sgl_bytes: sgl.footprint() as u64,
        }
    }
}

/// How many calls map the buffer in an IOMMU with these page sizes.
#[derive(Debug, Serialize)]
pub(crate) struct MapCalls {
    pub(crate) page_sizes: String,
    pub(crate) page_sizes_bitmap: u64,
    pub(crate) calls: u64,
    /// The entries of its page table that they fill.
    pub(crate) entries: u64,
}

#[derive(Debug, Serialize)]
pub(crate) struct Step {
    pub(crate) step: &'static str,
    pub(crate) ns: u128,
    pub(crate) ns_per_page: f64,
}

impl Facts {
    pub(crate) fn of(memory: &Memory, args: &Args) -> Result<Self, Fault> {
        let sgl = memory.sgl();
        let window = sgl.whole()?;
        let (mock_seed, user_addr) = match memory {
            Memory::Real(umem, _) => (None, Some(umem.user_range().start().get())),
            Memory::Mock { seed, .. } => (Some(*seed), None),
        };
        let best = window.best_page_size(PageSizes::from_bits_retain(NIC), args.iova)?;
        let base = PageSizes::from(sgl.page_size());
        let iommus =
            [base, base | PageSizes::SIZE_2M, base | PageSizes::SIZE_2M | PageSizes::SIZE_1G];
        let map_calls = iommus.map(|sizes| {
            let tiles = window.tiles(sizes, args.iova)?;
            let (calls, entries) =
                tiles.fold((0, 0), |(calls, entries), tile| (calls + 1, entries + tile.count));
            Ok(MapCalls {
                page_sizes: sizes.to_string(),
                page_sizes_bitmap: sizes.bits(),
                calls,
                entries,
            })
        });
        let pages = sgl.page_count();
        Ok(Self {
            mock_seed,
            kind: args.pages.name(),
            pages_asked: clap::ValueEnum::to_possible_value(&args.pages)
                .map_or(String::new(), |value| value.get_name().to_owned()),
            bytes: sgl.byte_len(),
            user_addr,
            threads: args.threads.get(),
            page_size: sgl.page_size().bytes(),
            pages,
            runs: sgl.run_count(),
            longest_run_pages: sgl.runs().map(|run| run.count()).max().unwrap_or(0),
            run_lengths: run_lengths(sgl.runs().map(|run| run.count())),
            footprint: Footprint::of(sgl, sgl.run_count()),
            iova: args.iova.get(),
            best_page_size: best.as_ref().map(|size| size.page_size().bytes()),
            blocks: best.as_ref().map(|size| size.block_count()),
            map_calls: map_calls
                .into_iter()
                .collect::<Result<_, pinned_sgl::granule::TileError>>()?,
            steps: memory
                .steps()
                .into_iter()
                .map(|(step, time)| {
                    let ns = time.as_nanos();
                    Step { step, ns, ns_per_page: ns as f64 / pages as f64 }
                })
                .collect(),
        })
    }
}

/// The histogram, from the shortest runs there are to the longest.
pub(crate) fn run_lengths(lengths: impl Iterator<Item = u64>) -> Vec<Bucket> {
    let mut buckets = [(0, 0); 64];
    for count in lengths {
        let (runs, pages) = &mut buckets[count.ilog2() as usize];
        *runs += 1;
        *pages += count;
    }
    let used = |(runs, _): &(u64, u64)| *runs > 0;
    let first = buckets.iter().position(used).unwrap_or(0);
    let end = buckets.iter().rposition(used).map_or(0, |last| last + 1);
    (first..end)
        .map(|shift| {
            let (runs, pages) = buckets[shift];
            let min_pages = 1 << shift;
            Bucket { min_pages, max_pages: min_pages * 2 - 1, runs, pages }
        })
        .collect()
}
