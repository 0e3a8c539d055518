// SPDX-License-Identifier: MIT OR Apache-2.0
//! `PgTableDomain` with hardware that walks its table: the SMMU does, for the `edu` device (see `walked.c`).

use crate::{
    device::{Tester, PAGE},
    pgtable::{NO_WARN, SIZES},
    Held,
};
use kernel::{
    device::{self, Bound},
    error::to_result,
    ffi::c_int,
    iommu::pgtable::{Config, IoPageTable},
    prelude::*,
};
use pinned_sgl::{
    iommu::{Domain, IovaRange, Mapping, Prot},
    kernel::{PgTableDomain, TlbFlush},
    Iova,
};

extern "C" {
    fn selftest_walk_start(table: u64, granule: u32, bits: u32) -> c_int;
    fn selftest_walk_flush();
    fn selftest_walk_copy(iova: u64, count: u32, to_memory: bool) -> c_int;
    fn selftest_walk_stop();
}

/// What the SMMU remembers of the device.
struct Tlb;

// SAFETY: the driver of the SMMU flushes all that it has read for the domain in which the device is, and waits for it.
unsafe impl TlbFlush for Tlb {
    fn flush(&self, _: IovaRange) {
        // SAFETY: the device is in that domain while the hardware walks the table.
        unsafe { selftest_walk_flush() };
    }
}

/// Bytes that the device copies.
const SOME: usize = 64;

/// The device reads bytes here, and writes them there. Where the IOMMU refuses it, it writes what it has read before.
fn copy(from: Iova, to: Iova) -> Result {
    // SAFETY: what is mapped may be read and written, by the tests below; what is not, the IOMMU refuses.
    unsafe {
        to_result(selftest_walk_copy(from.get(), SOME as u32, false))?;
        to_result(selftest_walk_copy(to.get(), SOME as u32, true))
    }
}

fn fill(region: &Held, at: u64, byte: u8) -> Result {
    Ok(region.write(at, &[byte; SOME])?)
}

/// Whether these bytes are there.
fn is(region: &Held, at: u64, byte: u8) -> Result {
    let mut bytes = [0; SOME];
    region.read(at, &mut bytes)?;
    check!(bytes == [byte; SOME]);
    Ok(())
}

fn check_walks(region: &Held, domain: &PgTableDomain<'_, Tlb>, granule: u64) -> Result {
    let (base, last) = (Iova::new(0x0400_0000), region.len() - PAGE);
    let at = |offset| base.checked_add(offset).ok_or(EINVAL);
    let read_and_write = Prot::READ | Prot::WRITE;

    // From one end to the other, and nowhere else; in large pages and in small ones.
    for shift in [0, 3 * granule] {
        let mapping = Mapping::map(region, domain, at(shift)?, read_and_write)?;
        fill(region, 0, 1)?;
        fill(region, last, 2)?;
        copy(at(shift)?, at(shift + last)?)?;
        is(region, last, 1)?;
        // Cut: the device reaches what stays, and no more.
        let (first, second) = (mapping.edges(PAGE).above, mapping.edges(last).below);
        if first < second {
            let (head, tail) = mapping.unmap_range(first..second)?;
            fill(region, 0, 3)?;
            fill(region, first, 4)?;
            copy(at(shift)?, at(shift + first)?)?;
            is(region, first, 4)?;
            copy(at(shift)?, at(shift + last)?)?;
            is(region, last, 3)?;
            drop((head, tail));
        } else {
            drop(mapping);
        }
        // Unmapped: what the IOMMU remembered is forgotten.
        fill(region, last, 5)?;
        copy(at(shift)?, at(shift + last)?)?;
        is(region, last, 5)?;
    }

    // To read, and not to write.
    let mapping = Mapping::map(region, domain, base, Prot::READ)?;
    fill(region, 0, 6)?;
    copy(base, at(last)?)?;
    is(region, last, 5)?;
    drop(mapping);

    // One page after the other at the same address: parts of a page of the CPU, where those of the IOMMU are smaller.
    let mut to = PAGE;
    for offset in [0, PAGE / 2 / granule * granule, PAGE - granule] {
        let one = Mapping::map_range(region, offset..offset + granule, domain, base, Prot::READ)?;
        let other =
            Mapping::map_range(region, to..to + granule, domain, at(granule)?, Prot::WRITE)?;
        fill(region, offset, 7 + (offset / granule) as u8)?;
        fill(region, to, 0)?;
        copy(base, at(granule)?)?;
        is(region, to, 7 + (offset / granule) as u8)?;
        drop((one, other));
        to += granule;
    }
    check!(region.attachments() == 0);
    Ok(())
}

impl Tester {
    /// `ENODEV`: no hardware here walks a table of this format.
    #[inline(never)]
    pub(crate) fn walked(&self, region: &Held) -> Result {
        // SAFETY: the file is removed before the driver is unbound, which waits for this call.
        let device: &device::Device<Bound> = unsafe { self.device.as_bound() };
        for (sizes, ias) in SIZES.into_iter().flat_map(|sizes| [(sizes, 48), (sizes, 39)]) {
            if sizes[0] > PAGE {
                continue;
            }
            let table = IoPageTable::new(
                device,
                Config {
                    quirks: NO_WARN,
                    pgsize_bitmap: sizes.iter().fold(0, |all, size| all | *size as usize),
                    ias,
                    oas: 48,
                    coherent_walk: true,
                },
            )?;
            // SAFETY: the hardware stops before the table is dropped: see below.
            let ttbr = unsafe { table.ttbr() };
            let domain =
                KBox::pin_init(PgTableDomain::new(table, Tlb, GFP_KERNEL_ACCOUNT), GFP_KERNEL)?;
            check!(domain.page_sizes().smallest().is_some_and(|size| size.bytes() == sizes[0]));
            // SAFETY: it is a table of this format, which is there until the hardware has stopped.
            to_result(unsafe { selftest_walk_start(ttbr, sizes[0] as u32, ias) })?;
            let result = check_walks(region, &domain, sizes[0]);
            // SAFETY: it was started; from here on the device is in another domain.
            unsafe { selftest_walk_stop() };
            result?;
        }
        Ok(())
    }
}
