// SPDX-License-Identifier: MIT OR Apache-2.0
//! A vfio container in small: the memory of a virtual machine, shown to two of its devices.
//!
//! ```text
//! cargo run --example vfio_like              # a mock machine
//! cargo run --example vfio_like -- --real    # really pinned memory of this process, as root
//! ```
//!
//! The devices and their IOMMUs are mocks in both cases. With `--real`, what they read and write is
//! the memory of this process, found by its physical address.

mod support;

use pinned_sgl::iommu::{DirtyBitmap, HeapIoas, IovaRange, Placement, Prot};
use pinned_sgl::umem::{Account, PinFlags, PinRequest, Umem, UserRange};
use pinned_sgl::{Iova, PageSize, PageSizes, UserAddr};
use pinned_sgl_mock::{Device, Iommu, RegionBus};
use std::{process::ExitCode, sync::Arc};
use support::{count, mib, say, Outcome, Pinned, Source, UserMemory};

/// Where the guest has the second half of its memory: behind the hole for devices, below 4 GiB.
const HIGH: Iova = Iova::new(1 << 32);
const READ_WRITE: Prot = Prot::READ.union(Prot::WRITE);

fn main() -> ExitCode {
    support::finish(run())
}

fn run() -> Outcome {
    match support::memory()? {
        Source::Real(buffer, range) => container(&buffer, range),
        Source::Mock(process, range) => {
            container(&process, range)?;
            // The mock machine knows of every mistake. There was none.
            process.memory().assert_no_leak();
            process.memory().witness().assert_clean();
            Ok(())
        }
    }
}

/// Pins `range`, charged to `account`: as a device needs it, to be read and written, and for long.
fn pin<P: UserMemory>(
    pinner: &Arc<P>,
    account: &Arc<Account>,
    range: UserRange,
) -> Outcome<Pinned<P>> {
    let request = PinRequest::new(range, PinFlags::WRITE | PinFlags::LONGTERM);
    Ok(Arc::new(Umem::pin(pinner.clone(), account.clone(), request)?))
}

fn container<P: UserMemory>(pinner: &Arc<P>, range: UserRange) -> Outcome {
    // The guest's memory in two halves, as a machine has them that has more than 3 GiB.
    let half = range.len() / 2;
    let low = UserRange::new(range.start(), half)?;
    let high = UserRange::new(UserAddr::new(range.start().get() + half), half)?;

    // What may be pinned: half as much again as the guest needs. In a kernel, RLIMIT_MEMLOCK.
    let page = pinner.page_size();
    let pages = range.page_count(page);
    let account = Arc::new(Account::new(pages + pages / 2));
    let low = pin(pinner, &account, low)?;
    let high = pin(pinner, &account, high)?;
    say!("Pinned {} of guest memory, in two halves:", mib(range.len()));
    for (name, half) in [("low", &low), ("high", &high)] {
        say!(
            "  {name:<5} {} at {:#x}: {} of physical memory, {} bytes for the list of them",
            mib(half.len()),
            half.user_range().start(),
            count(half.sgl().run_count(), "contiguous run"),
            half.sgl().footprint()
        );
    }
    say!("  {} of {} pages are charged", account.charged(), account.limit());
    if let Err(error) = pin(pinner, &account, range) {
        say!("  all of it once more is refused: {error}");
    }

    // The container. Guests have no memory where interrupts are written.
    let mut container = HeapIoas::<Pinned<P>, Arc<Iommu>>::new();
    container.reserve(IovaRange::new(Iova::new(0xfee0_0000), 0x10_0000)?)?;
    container.set_mapping_limit(2);

    // The first device: its domain is attached, then memory is mapped in it.
    let large = Arc::new(Iommu::new(PageSizes::SIZE_4K | PageSizes::SIZE_2M));
    container.attach(large.clone())?;
    let at_low = container.map(Placement::At(Iova::new(0)), low.clone(), READ_WRITE)?;
    let at_high = container.map(Placement::At(HIGH), high.clone(), READ_WRITE)?;
    say!("\nMapped at {at_low} and {at_high}, in {}", count(large.stats().map_calls, "call"));
    if let Err(error) = container.map(Placement::Anywhere, low.clone(), Prot::READ) {
        say!("  a third mapping is refused: {error}");
    }
    container.set_mapping_limit(65_535);

    // The second device comes later, by an IOMMU of another make: it gets all that is mapped.
    let small = Arc::new(Iommu::new(PageSizes::SIZE_4K));
    let hotplugged = container.attach(small.clone())?;
    say!(
        "  {} page table entries for the first device, {} for the second",
        large.stats().pages_mapped,
        small.stats().pages_mapped
    );

    // DMA, both ways. The bus has the memory that is pinned, at its physical addresses.
    let mut bus = RegionBus::new();
    bus.push(low.clone());
    bus.push(high.clone());
    let first = Device::new(large.clone(), &bus);
    let second = Device::new(small.clone(), &bus);
    low.write(0x1ffe, b"from the guest")?;
    let mut bytes = [0; 14];
    first.read(Iova::new(0x1ffe), &mut bytes)?;
    say!("\nThe first device reads: {:?}", String::from_utf8_lossy(&bytes));
    second.write(Iova::new(HIGH.get() + 0x5000), b"from a device")?;
    let mut bytes = [0; 13];
    high.read(0x5000, &mut bytes)?;
    say!("The guest reads: {:?}", String::from_utf8_lossy(&bytes));

    // Where an address leads. No page table is walked for that: the list knows.
    for iova in [Iova::new(0x1ffe), HIGH, Iova::new(0xfee0_0000)] {
        match container.translate(iova) {
            Some(phys) => say!("  IOVA {iova} leads to {phys}"),
            None => say!("  IOVA {iova} leads nowhere"),
        }
    }

    // Live migration: which pages has a device written since the log was started?
    container.set_dirty_tracking(true)?;
    first.write(Iova::new(0x3000), b"x")?;
    second.write(Iova::new(HIGH.get() + 0x7000), b"y")?;
    say!("\nEach device writes one byte:");
    for (name, mapped) in [("low", at_low), ("high", at_high)] {
        let words = DirtyBitmap::words_for(mapped, PageSize::SIZE_4K);
        let mut words = vec![0; usize::try_from(words)?];
        let mut log = DirtyBitmap::new(&mut words, mapped, PageSize::SIZE_4K)?;
        container.read_dirty(&mut log, true)?;
        let dirty: u32 = words.iter().map(|word| word.count_ones()).sum();
        let pages = count(dirty.into(), "page");
        say!("  {pages} of 4K dirty in the {name} half: what one page of the IOMMU has");
    }
    container.set_dirty_tracking(false)?;

    // A mapping goes whole, as in the second version of the vfio interface ...
    let part = IovaRange::new(Iova::new(0), 2 << 20)?;
    say!("\nUnmapping {part}, a part of the low half:");
    if let Err(error) = container.unmap(part) {
        say!("  as a whole mapping: refused: {error}");
    }
    // ... or is cut, as in the first: but never inside a page of any IOMMU.
    let inside = IovaRange::new(Iova::new(0), 0x1000)?;
    match container.unmap_cutting(inside) {
        Err(error) => say!("  cut after 4K: refused: {error}"),
        Ok(bytes) => say!("  cut after 4K: {bytes:#x} bytes, as the pages are small there"),
    }
    let bytes = container.unmap_cutting(part)?;
    say!("  cut after 2M: {bytes:#x} bytes; what is left:");
    for mapping in container.mappings(IovaRange::ALL) {
        say!("    {}, from byte {:#x} of its region", mapping.range(), mapping.offset());
    }
    if let Err(fault) = first.read(Iova::new(0x1ffe), &mut [0]) {
        say!("  the first device now faults: {fault}");
    }

    // Teardown, in any order: memory is unpinned when nothing holds it, and not before.
    drop((first, second));
    drop(bus);
    container.detach(hotplugged)?;
    drop((low, high));
    say!("\nThe container alone holds the memory: {} pages are charged", account.charged());
    let bytes = container.unmap_all();
    say!("Unmapped the last {bytes:#x} bytes: {} pages are charged", account.charged());
    Ok(())
}
