// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory regions of a network card: pinned, registered, reached by a peer, deregistered.
//!
//! ```text
//! cargo run --example rdma_like              # a mock machine
//! cargo run --example rdma_like -- --real    # really pinned memory of this process, as root
//! ```
//!
//! The card is a mock in both cases. With `--real`, what its peers read and write is the memory of
//! this process, found by its physical address.

mod support;

use pinned_sgl::rdma::{Access, MemoryRegion};
use pinned_sgl::umem::{Account, PinFlags, PinRequest, Umem, UserRange};
use pinned_sgl::{Iova, PageSizes, UserAddr};
use pinned_sgl_mock::{Nic, RegionBus};
use std::{process::ExitCode, sync::Arc};
use support::{count, mib, say, Outcome, Pinned, Source, UserMemory};

fn main() -> ExitCode {
    support::finish(run())
}

fn run() -> Outcome {
    match support::memory()? {
        Source::Real(buffer, range) => memory_regions(&buffer, range),
        Source::Mock(process, range) => {
            memory_regions(&process, range)?;
            // The mock machine knows of every mistake. There was none.
            process.memory().assert_no_leak();
            process.memory().witness().assert_clean();
            Ok(())
        }
    }
}

fn memory_regions<P: UserMemory>(pinner: &Arc<P>, all: UserRange) -> Outcome {
    // A buffer begins where malloc() put it: in the middle of a page, as a rule.
    let (start, len) = (all.start().get() + 0x1234, all.len() - 0x4321);
    let range = UserRange::new(UserAddr::new(start), len)?;

    // Pinned once, whatever is made of it. The pages at both ends are pinned, and charged, whole.
    let account = Arc::new(Account::unlimited());
    let request = PinRequest::new(range, PinFlags::WRITE | PinFlags::LONGTERM);
    let umem: Pinned<P> = Arc::new(Umem::pin(pinner.clone(), account.clone(), request)?);
    say!(
        "Pinned {len:#x} bytes at {start:#x}, {} and a bit less: {} pages in {}",
        mib(all.len()),
        account.charged(),
        count(umem.sgl().run_count(), "run")
    );

    // A card that takes blocks of four sizes. What it reaches is what is pinned, by physical address.
    let mut bus = RegionBus::new();
    bus.push(umem.clone());
    let sizes = PageSizes::SIZE_4K | PageSizes::SIZE_64K | PageSizes::SIZE_2M | PageSizes::SIZE_1G;
    let nic = Arc::new(Nic::new(bus).with_page_sizes(sizes));

    // All of it, at the address that it has in the process, for peers to read and write.
    let iova = Iova::new(start);
    let access = Access::LOCAL_WRITE | Access::REMOTE_WRITE | Access::REMOTE_READ;
    let whole = MemoryRegion::register(umem.clone(), nic.clone(), iova, access)?;
    // Its second half once more, at address 0x234, to be read only.
    let offset = (len / 2) & !0xfff;
    let part = MemoryRegion::register_range(
        umem.clone(),
        offset..len,
        nic.clone(),
        Iova::new(0x234),
        Access::REMOTE_READ,
    )?;
    say!("\nRegistered, as the card sees it:");
    for region in [&whole, &part] {
        say!(
            "  {:?}: {}, {} of {}, {:?}",
            region.key(),
            region.range(),
            count(region.block_count(), "block"),
            region.page_size(),
            region.access(),
        );
    }
    // The bits below the smallest page size must be those of the memory: here they are not.
    let wrong = MemoryRegion::register(umem.clone(), nic.clone(), Iova::new(0x100), access);
    if let Err(error) = wrong {
        say!("  at IOVA 0x100 it is refused: {error}");
    }

    // A peer knows a key and an address, and reads what the process has written ...
    umem.write(offset + 0xffe, b"from the host")?;
    let mut bytes = [0; 13];
    nic.read(part.key(), Iova::new(0x234 + 0xffe), &mut bytes)?;
    say!("\nA peer reads: {:?}", String::from_utf8_lossy(&bytes));
    // ... and writes what the process reads.
    nic.write(whole.key(), Iova::new(start + 0x5000), b"from a peer")?;
    let mut bytes = [0; 11];
    umem.read(0x5000, &mut bytes)?;
    say!("The host reads: {:?}", String::from_utf8_lossy(&bytes));

    // What it may not do. The first block has bytes before the region: they belong to something else.
    say!("\nWhat peers are refused:");
    let before = Iova::new(start - 1);
    for (what, outcome) in [
        ("writing by the second key", nic.write(part.key(), Iova::new(0x234), b"x")),
        ("the byte before the region", nic.read(whole.key(), before, &mut [0])),
    ] {
        if let Err(fault) = outcome {
            say!("  {what}: {fault}");
        }
    }
    let key = part.key();
    part.deregister()?;
    if let Err(fault) = nic.read(key, Iova::new(0x234), &mut [0]) {
        say!("  a key that was taken back: {fault}");
    }

    // The last owner to let go unpins: here the card, whose bus holds the memory as well.
    drop(umem);
    say!("\nStill registered: {} pages are charged", account.charged());
    whole.deregister()?;
    drop(nic);
    say!("Deregistered, and let go: {} pages are charged", account.charged());
    Ok(())
}
