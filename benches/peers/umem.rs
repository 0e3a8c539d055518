// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pinned regions and address spaces: real memory pinned by one thread and by two, the pages to unpin
//! found again with and without a page table, and a million mappings.

use crate::contest::{Contest, Session, Target};
use pinned_sgl::iommu::{HeapIoas, IovaRange, Mapping, Placement, Prot, ReadDomain};
use pinned_sgl::umem::{PinFlags, PinRequest, Umem, Unaccounted, UserRange};
use pinned_sgl::{Heap, Iova, PageSizes, UserAddr};
use pinned_sgl_mock::{Iommu, Memory, Process, Vma};
use std::collections::BTreeMap;
use std::hint::black_box;

const PAGE: u64 = 4096;
const ALL: PinFlags = PinFlags::WRITE.union(PinFlags::LONGTERM);
const BOTH: Prot = Prot::READ.union(Prot::WRITE);

/// Runs the contests.
pub(crate) fn run(session: &mut Session) {
    let test = session.is_test();
    #[cfg(target_os = "linux")]
    real::run(session, if test { 8 << 20 } else { 512 << 20 });
    find_pages(session, if test { 64 } else { 32_768 });
    let hundred = ["find one of a hundred mappings", "map and unmap beside a hundred mappings"];
    address_space(session, hundred, 100);
    let million = ["find one of a million mappings", "map and unmap beside a million mappings"];
    address_space(session, million, if test { 100 } else { 1_000_000 });
}

/// Memory of this machine, never touched before: pinning faults every page in.
#[cfg(target_os = "linux")]
mod real {
    use super::*;
    use pinned_sgl::linux::{Buffer, Pages};
    use std::num::NonZeroUsize;

    const ONE: &str = "one thread";
    const TWO: &str = "two threads";

    pub(super) fn run(session: &mut Session, len: u64) {
        for (title, pages) in [
            ("pin untouched base pages", Pages::Base),
            ("pin untouched transparent huge pages", Pages::Transparent),
        ] {
            if session.wants(title) {
                let contest = Contest::new(title, len / PAGE, "page")
                    .way(TWO, || pin(len, pages, 2))
                    .way(ONE, || pin(len, pages, 1))
                    .target(TWO, Target::Faster(1.7, ONE));
                session.run(contest);
            }
        }
    }

    fn pin(
        len: u64,
        pages: Pages,
        threads: usize,
    ) -> Umem<Box<Buffer>, &'static Unaccounted, Heap> {
        let buffer = Box::new(Buffer::new(len, pages).expect("memory"));
        let request = PinRequest::new(buffer.user_range(), ALL);
        let threads = NonZeroUsize::new(threads).expect("threads");
        Umem::pin_parallel(buffer, &Unaccounted, request, threads)
            .expect("it needs the right to know frames (CAP_SYS_ADMIN) and to lock memory")
    }
}

/// What is done to unpin where no list is kept: the page table is asked, page by page, as vfio and iommufd ask
/// theirs in Linux 7.3, or entry by entry, where it answers with lengths. A list knows its runs.
fn find_pages(session: &mut Session, pages: u64) {
    const TITLE: &str = "find the pages to unpin";
    if !session.wants(TITLE) {
        return;
    }
    let memory = Memory::with_frames(pages * 2);
    let process = Process::new(&memory);
    let range = UserRange::new(UserAddr::new(1 << 30), pages * PAGE).unwrap();
    process.map(range, Vma::read_write().huge(9)).unwrap();
    let umem = Umem::pin(&process, &Unaccounted, PinRequest::new(range, ALL)).unwrap();
    let iommu = Iommu::new(PageSizes::SIZE_4K | PageSizes::SIZE_2M);
    let iova = Iova::new(1 << 30);
    let mapping = Mapping::map(&umem, &iommu, iova, BOTH).unwrap();
    let contest = Contest::new(TITLE, pages, "page")
        .way("runs of the list", || {
            umem.sgl().runs().fold(0u64, |sum, run| sum ^ run.start().get() ^ run.count())
        })
        .way("mock page table, page by page", || {
            (0..pages).fold(0u64, |sum, page| {
                let at = Iova::new(iova.get() + page * PAGE);
                sum ^ iommu.read(black_box(at)).expect("mapped").phys.get()
            })
        })
        .way("mock page table, entry by entry", || {
            let (mut at, mut sum) = (iova.get(), 0);
            while at < iova.get() + pages * PAGE {
                let entry = iommu.read(black_box(Iova::new(at))).expect("mapped");
                (at, sum) = (at + entry.len, sum ^ entry.phys.get());
            }
            sum
        });
    session.run(contest);
    drop(mapping);
}

/// An address space of so many mappings of one page each, at random places; a `BTreeMap` from start to
/// end and address that does the same and checks as much.
fn address_space(session: &mut Session, titles: [&'static str; 2], count: u64) {
    let [lookup, change] = titles;
    if !titles.iter().any(|title| session.wants(title)) {
        return;
    }
    let memory = Memory::with_frames(64);
    let process = Process::new(&memory);
    let range = UserRange::new(UserAddr::new(1 << 30), PAGE).unwrap();
    process.map(range, Vma::read_write()).unwrap();
    let umem = Umem::pin(&process, &Unaccounted, PinRequest::new(range, ALL)).unwrap();
    let phys = umem.whole().unwrap().phys(0).unwrap();

    let mut random = fastrand::Rng::with_seed(3);
    let mut places: Vec<u64> = (1..=count).map(|place| place * 3 * PAGE).collect();
    random.shuffle(&mut places);
    let mut space: HeapIoas<_, &Iommu> = HeapIoas::new();
    let mut tree = BTreeMap::new();
    for place in &places {
        space.map(Placement::At(Iova::new(*place)), &umem, BOTH).unwrap();
        tree.insert(*place, (PAGE, phys.get()));
    }
    random.shuffle(&mut places);
    places.truncate(100_000);
    let in_tree = |tree: &BTreeMap<u64, (u64, u64)>, at: u64| {
        let (first, (len, phys)) = tree.range(..=at).next_back()?;
        (at - first < *len).then_some(phys + (at - first))
    };
    for place in &places {
        let at = place + 5;
        assert_eq!(space.translate(Iova::new(at)).map(|phys| phys.get()), in_tree(&tree, at));
    }

    let contest = Contest::new(lookup, places.len() as u64, "lookup")
        .way("Ioas", || {
            places.iter().fold(0, |sum, at| sum ^ space.translate(Iova::new(*at)).unwrap().get())
        })
        .way("BTreeMap", || places.iter().fold(0, |sum, at| sum ^ in_tree(&tree, *at).unwrap()));
    session.run(contest);
    let contest = Contest::new(change, places.len() as u64, "mapping")
        .way("Ioas", || {
            for place in &places {
                let at = Iova::new(place + PAGE);
                space.map(Placement::At(at), &umem, BOTH).unwrap();
                space.unmap(IovaRange::new(at, PAGE).unwrap()).unwrap();
            }
        })
        .way("BTreeMap", || {
            for place in &places {
                let at = place + PAGE;
                assert!(in_tree(&tree, at).is_none());
                tree.insert(at, (PAGE, phys.get()));
                tree.remove(&at);
            }
        });
    session.run(contest);
}
