// SPDX-License-Identifier: MIT OR Apache-2.0
//! What machines there are: frames, zones, sizes of pages, and memory that runs out by plan.

use super::{at, pin, range, unpin, with, Pins, BASE, LONG, P, WRITE};
use pinned_sgl::umem::{Account, Accountant, UserRange};
use pinned_sgl::{Heap, PageRun, PageSize, Pfn, PhysAddr, Storage, UserAddr};
use pinned_sgl_mock::{
    Bus, Call, FailingAccountant, FailingStorage, Fragmentation, Memory, MemoryBuilder,
    MemoryError, PinFault, Plan, Process, Violation, ViolationKind, Vma, Witness, Zone,
};

#[test]
fn a_huge_page_is_one_run() {
    let memory = Memory::builder()
        .zone(Zone::Normal, 0x400..0x2000)
        .fragmentation(Fragmentation::Reverse)
        .build()
        .unwrap();
    let process = with(&memory, 2048, Vma::read_write().huge(9));
    let runs = pin(&process, range(0, 2048), WRITE | LONG).unwrap();
    assert_eq!(runs.len(), 4);
    assert!(runs.iter().all(|run| run.count() == 512 && run.start().get() % 512 == 0));
    assert_eq!(memory.folio(runs[0].start()), Some((Pfn::new(0x1e00), 9)));
    // Parts of huge pages, cut otherwise than they were pinned.
    let part = pin(&process, range(500, 600), WRITE).unwrap();
    assert_eq!(part.iter().map(PageRun::count).collect::<Vec<_>>(), [12, 512, 76]);
    unpin(&process, &part, false);
    for (run, at) in runs.iter().zip((0..).step_by(512).map(at)) {
        let first = PageRun::ram(run.start(), 100).unwrap();
        let rest = PageRun::ram(Pfn::new(run.start().get() + 100), 412).unwrap();
        unpin(&process, &Pins { at: UserAddr::new(at.get() + 100 * P), runs: vec![rest] }, false);
        unpin(&process, &Pins { at, runs: vec![first] }, false);
    }
    memory.assert_no_leak();
    // What is not aligned, or not free, is single pages.
    process.map(range(2048 + 1, 1024), Vma::read_write().huge(9)).unwrap();
    process.touch(range(2048 + 1, 1024), true).unwrap();
    let orders: Vec<_> = [2049, 2560, 3071, 3072]
        .map(|page| memory.folio(process.frame_at(at(page)).unwrap()).unwrap().1)
        .into();
    assert_eq!(orders, [0, 9, 9, 0]);
    memory.witness().assert_clean();
}

#[test]
fn fragmentation_shapes_the_runs() {
    let shape = |fragmentation| {
        let builder = Memory::builder().zone(Zone::Normal, 0x100..0x180);
        let memory = builder.fragmentation(fragmentation).build().unwrap();
        let process = with(&memory, 64, Vma::read_write());
        let runs = pin(&process, range(0, 64), WRITE).unwrap();
        unpin(&process, &runs, false);
        runs.len()
    };
    assert_eq!(shape(Fragmentation::None), 1);
    assert_eq!(shape(Fragmentation::Reverse), 64);
    assert_eq!(shape(Fragmentation::Alternate), 64);
    assert!(shape(Fragmentation::Seeded { seed: 3, run_order: 0 }) > 56);
    assert!(shape(Fragmentation::Seeded { seed: 3, run_order: 3 }) <= 8);
}

/// An area costs what is touched of it, however large it is.
#[test]
fn an_area_may_have_all_addresses() {
    let memory = Memory::with_frames(16);
    let process = Process::new(&memory);
    let all = UserRange::new(UserAddr::new(0), 1 << 63).unwrap();
    let rest = UserRange::new(UserAddr::new(1 << 63), (1 << 63) - P).unwrap();
    process.map(all, Vma::read_write()).unwrap();
    process.map(rest, Vma::shared()).unwrap();
    let last = UserAddr::new((1 << 63) - 3);
    process.write(last, b"across").unwrap();
    let child = process.fork().unwrap();
    let mut bytes = [0; 6];
    child.read(last, &mut bytes).unwrap();
    assert_eq!(&bytes, b"across");
    drop(child);
    assert_eq!(process.swap_out(all), Ok(1));
    assert_eq!(process.migrate(rest, Zone::Normal), Ok(0));
    let end = UserRange::new(UserAddr::new(u64::MAX - P), 2).unwrap();
    assert_eq!(process.swap_out(end), Err(PinFault::NotMapped(UserAddr::new(u64::MAX - P + 1))));
    process.protect(all, false).unwrap();
    process.unmap(all).unwrap();
    assert_eq!(memory.free_frames(Zone::Normal), 15);
    drop(process);
    assert_eq!(memory.free_frames(Zone::Normal), 16);
    // Nor does a memory.
    assert_eq!(Memory::with_frames(u64::MAX).pinned_pages(), 0);
}

#[test]
fn large_machines_and_large_pages() {
    // 300 GiB, of which 1 GiB is used.
    let memory = Memory::builder()
        .zone(Zone::Normal, 0..300 << 18)
        .fragmentation(Fragmentation::Seeded { seed: 1, run_order: 0 })
        .build()
        .unwrap();
    let process = with(&memory, 300 << 18, Vma::read_write().huge(9));
    let runs = pin(&process, range(0, 1 << 18), WRITE | LONG).unwrap();
    assert!((500..=512).contains(&runs.len()), "{}", runs.len());
    unpin(&process, &runs, true);
    memory.assert_no_leak();

    for page in [PageSize::SIZE_16K, PageSize::SIZE_64K] {
        let memory = Memory::builder().page_size(page).zone(Zone::Normal, 1..9).build().unwrap();
        let process = Process::new(&memory);
        let start = UserAddr::new(BASE + page.bytes() - 1);
        let mapped = UserRange::new(UserAddr::new(BASE), 4 * page.bytes()).unwrap();
        process.map(mapped, Vma::read_write()).unwrap();
        process.write(start, b"ab").unwrap();
        let runs = pin(&process, UserRange::new(start, 2).unwrap(), WRITE).unwrap();
        assert_eq!(*runs, [PageRun::ram(Pfn::new(1), 2).unwrap()]);
        let mut bytes = [0; 2];
        Bus::read(&memory, PhysAddr::new(2 * page.bytes() - 1), &mut bytes).unwrap();
        assert_eq!(&bytes, b"ab");
        unpin(&process, &runs, false);
    }
}

#[test]
fn a_machine_that_cannot_be_is_refused() {
    let with = |frames| Memory::builder().zone(Zone::Normal, frames);
    let build = |builder: MemoryBuilder| builder.build().map(|_| ());
    assert_eq!(build(with(0..4).zone(Zone::Normal, 4..8)), Ok(()));
    let overlap = Err(MemoryError::Overlap(Pfn::new(4)));
    assert_eq!(build(with(4..8).zone(Zone::Normal, 0..5)), overlap);
    assert_eq!(build(with(4..4)), Err(MemoryError::Empty));
    assert_eq!(build(with(0..u64::MAX)), Err(MemoryError::TooLarge));
    assert_eq!(build(with((1 << 52) - 1..(1 << 52) + 1)), Err(MemoryError::TooLarge));
    let odd = Memory::builder().page_size(PageSize::new(512).unwrap());
    assert_eq!(odd.build().unwrap_err(), MemoryError::PageSize);
    let witness = Witness::new();
    let plan = Plan::new();
    let memory = Memory::builder().witness(witness.clone()).plan(plan.clone()).build().unwrap();
    memory.witness().saw(Violation::new(ViolationKind::NotPinned, Call::Unpin));
    plan.fail_at(0);
    assert!(!witness.is_clean() && memory.plan().is_pending());
}

#[test]
fn storages_and_accounts_fail_by_plan() {
    let plan = Plan::new();
    let mut storage = FailingStorage::new(Heap::default(), plan.clone());
    let account = FailingAccountant::new(Account::new(10), plan.clone());
    plan.fail_at(0);
    assert!(storage.grow(512).is_err() && storage.grow(512).is_ok());
    assert_eq!(storage.inner().pieces(), 1);
    plan.fail_at(0);
    assert!(account.charge(1).is_err() && account.charge(7).is_ok() && account.charge(4).is_err());
    account.uncharge(3);
    assert_eq!((account.inner().charged(), plan.calls()), (4, 5));
}
