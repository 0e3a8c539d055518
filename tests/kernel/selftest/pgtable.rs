// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tests of `PgTableDomain`: what is mapped is read back out of the page table. No hardware walks it;
//! what would be flushed is written down.

use crate::{
    device::{granule, is_empty, is_mapped, Tester, PAGE},
    Held,
};
use core::cell::Cell;
use kernel::{
    bindings::arm_lpae_io_pgtable_walk_data,
    device::{self, Bound},
    iommu::pgtable::{Config, IoPageTable},
    prelude::*,
};
use pinned_sgl::{
    iommu::{Domain, IovaRange, MapError, Mapping, Prot, ReadDomain},
    kernel::{PgTableDomain, TlbFlush},
    umem::Region,
    Iova,
};

/// `IO_PGTABLE_QUIRK_NO_WARN`: addresses that are in use are refused on purpose here.
pub(crate) const NO_WARN: usize = 1 << 9;
/// `IO_PGTABLE_QUIRK_ARM_TTBR1`: the addresses at the end of 64 bits.
const TTBR1: usize = 1 << 5;

/// The pages of each format that Arm has: the smallest ones, and the larger ones of its tables.
pub(crate) const SIZES: [[u64; 3]; 3] =
    [[4 << 10, 2 << 20, 1 << 30], [16 << 10, 32 << 20, 32 << 20], [64 << 10, 512 << 20, 512 << 20]];

/// A flush that only remembers what it was asked for, since it was last looked at.
#[derive(Default)]
struct Flushes(Cell<(u32, Option<IovaRange>)>);

// SAFETY: there is no hardware that could remember anything.
unsafe impl TlbFlush for Flushes {
    fn flush(&self, range: IovaRange) {
        self.0.set((self.0.get().0 + 1, Some(range)));
    }
}

type Table<'a> = PgTableDomain<'a, Flushes>;

/// One flush, of this range and no other.
fn flushed_once(domain: &Table<'_>, iova: Iova, len: u64) -> Result {
    check!(domain.tlb().0.take() == (1, Some(IovaRange::new(iova, len)?)));
    Ok(())
}

/// The entry in which an address lies, as the hardware reads it.
fn entry(domain: &Table<'_>, iova: Iova) -> Result<u64> {
    let ops = domain.table().raw_ops();
    let mut walked = arm_lpae_io_pgtable_walk_data { ptes: [0; 4] };
    // SAFETY: the table is there, and is not changed meanwhile.
    let errno = unsafe {
        let walk = (*ops).pgtable_walk.ok_or(ENODEV)?;
        walk(ops, iova.get() as usize, (&raw mut walked).cast())
    };
    kernel::error::to_result(errno)?;
    walked.ptes.into_iter().rev().find(|entry| *entry != 0).ok_or(EIO)
}

/// Maps the region; where that fails, nothing may be mapped.
fn map<'m>(
    region: &'m Held,
    domain: &'m Table<'m>,
    iova: Iova,
    prot: Prot,
) -> Result<Mapping<&'m Held, &'m Table<'m>>> {
    match Mapping::map(region, domain, iova, prot) {
        Ok(mapping) => {
            flushed_once(domain, iova, region.len())?;
            Ok(mapping)
        }
        Err(error) => {
            check!(region.attachments() == 0);
            is_empty(domain, iova, region.len())?;
            Err(error.into())
        }
    }
}

/// Mapping `range` of the region there is refused, because something is there.
fn in_use(region: &Held, range: core::ops::Range<u64>, domain: &Table<'_>, iova: Iova) -> Result {
    let refused = Mapping::map_range(region, range, domain, iova, Prot::READ).err();
    let is_domain = matches!(
        refused.as_ref().map(|refused| refused.error()),
        Some(MapError::Domain { error, .. }) if *error == EEXIST
    );
    check!(is_domain);
    // What was mapped before it met what is there was flushed when it was taken away.
    domain.tlb().0.take();
    Ok(())
}

fn check_table<'m>(region: &'m Held, domain: &'m Table<'m>) -> Result {
    let (len, window, granule) = (region.len(), region.whole()?, granule(domain)?);
    let base = domain.aperture().first().checked_add(1 << 29).ok_or(EINVAL)?;
    let at = |offset| base.checked_add(offset).ok_or(EINVAL);

    // In the largest pages, and in small ones; then in large ones where tables of small ones are.
    for (nth, iova) in [base, at(3 * granule)?, base].into_iter().enumerate() {
        let mapping = map(region, domain, iova, Prot::READ)?;
        is_mapped(domain, &window, iova)?;
        for tile in window.tiles(domain.page_sizes(), iova)? {
            let entry = domain.read(tile.iova).ok_or(EIO)?;
            check!(entry.len == tile.page_size.bytes() || (nth == 2 && entry.len == granule));
        }
        // A page in the middle of it, and all of it from its last page on, are refused.
        let (middle, last) = (len / 2 / granule * granule, len - granule);
        for (range, offset) in [(0..granule, middle), (0..len, last), (0..len, 0)] {
            in_use(region, range, domain, iova.checked_add(offset).ok_or(EINVAL)?)?;
            is_mapped(domain, &window, iova)?;
        }
        drop(mapping);
        flushed_once(domain, iova, len)?;
        is_empty(domain, iova, len)?;
    }

    // Small pages in the way of large ones: whatever is there stays, and nothing is added to it.
    for offset in [0, 5 * granule, len - granule] {
        let page = Mapping::map_range(region, 0..granule, domain, at(offset)?, Prot::READ)?;
        in_use(region, 0..len, domain, base)?;
        is_mapped(domain, &region.window(0..granule)?, at(offset)?)?;
        is_empty(domain, base, offset)?;
        is_empty(domain, at(offset + granule)?, len)?;
        drop(page);
        domain.tlb().0.take();
        is_empty(domain, base, len)?;
    }

    // Cut where it can be cut: the middle goes, and only that is flushed.
    let mapping = map(region, domain, base, Prot::READ)?;
    let (first, last) = (mapping.edges(len / 3).above, mapping.edges(len / 3 * 2).above);
    if first < last && last < len {
        let (head, tail) = mapping.unmap_range(first..last)?;
        flushed_once(domain, at(first)?, last - first)?;
        is_mapped(domain, &region.window(0..first)?, base)?;
        is_mapped(domain, &region.window(last..len)?, at(last)?)?;
        drop((head, tail));
    } else {
        drop(mapping);
    }
    domain.tlb().0.take();
    is_empty(domain, base, len)?;

    // What the device may do: bit 7 says that it may only read.
    for prot in [Prot::READ, Prot::READ | Prot::WRITE] {
        if region.is_writable() || prot == Prot::READ {
            let mapping = map(region, domain, base, prot)?;
            let read_only = entry(domain, base)? >> 7 & 1 == 1;
            check!(read_only != prot.contains_all(Prot::WRITE));
            drop(mapping);
            domain.tlb().0.take();
        }
    }

    // At the very end of what the table translates; and beyond, where nothing is.
    let end = domain.aperture().last();
    let last = end.checked_sub(len - 1).ok_or(EINVAL)?;
    let mapping = map(region, domain, last, Prot::READ)?;
    check!(domain.read(end).map(|entry| entry.phys) == mapping.translate(end));
    check!(domain.read(Iova::new(last.get() ^ 1 << 50)).is_none());
    drop(mapping);
    domain.tlb().0.take();
    let beyond = last.checked_add(granule).ok_or(EINVAL)?;
    check!(Mapping::map(region, domain, beyond, Prot::READ).is_err());
    is_empty(domain, last, len)?;
    check!(region.attachments() == 0);
    Ok(())
}

impl Tester {
    #[inline(never)]
    pub(crate) fn page_table(&self, region: &Held) -> Result {
        // SAFETY: the file is removed before the driver is unbound, which waits for this call.
        let device: &device::Device<Bound> = unsafe { self.device.as_bound() };
        // As many levels as there may be, fewer, two, if the region fits in there; and the upper half. In pages of the
        // CPU, or smaller ones: every one of them is read back, many times, so there are not millions.
        let all = [(48, 0), (39, 0), (30, 0), (48, TTBR1)].into_iter();
        let all = all.filter(|(ias, _)| region.len() <= 1 << (ias - 2));
        let all = all.flat_map(|(ias, quirks)| SIZES.map(|sizes| (ias, quirks, sizes)));
        let few = |size| size <= PAGE && region.len() / size <= 1 << 16;
        for (ias, quirks, sizes) in all.filter(|(.., sizes)| few(sizes[0])) {
            let table = IoPageTable::new(
                device,
                Config {
                    quirks: NO_WARN | quirks,
                    pgsize_bitmap: sizes.iter().fold(0, |all, size| all | *size as usize),
                    ias,
                    oas: 48,
                    coherent_walk: true,
                },
            )?;
            let domain = KBox::pin_init(
                PgTableDomain::new(table, Flushes::default(), GFP_KERNEL_ACCOUNT),
                GFP_KERNEL,
            )?;
            check!(domain.aperture().len() == Some(1 << ias));
            let largest = sizes.into_iter().rfind(|size| *size < 1 << ias);
            check!(domain.page_sizes().largest().map(|size| size.bytes()) == largest);
            check_table(region, &domain)?;
        }
        Ok(())
    }
}
