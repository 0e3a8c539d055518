// SPDX-License-Identifier: MIT OR Apache-2.0
//! A small machine for the laws of mappings: pages of 1 KiB, few frames, IOMMUs of odd page sizes.

use arbitrary::{Result, Unstructured};
use pinned_sgl::iommu::{Cuts, IovaRange, Prot};
use pinned_sgl::{Iova, PageSize, PageSizes, Sgl, Storage};
use pinned_sgl_mock::{Fragmentation, Iommu, Memory, Plan, Step, Zone};
use std::sync::Arc;

pub const PAGE: u64 = 1024;
/// What every offset, length and address of the machine is a multiple of, as a rule.
pub const STEP: u64 = 512;
/// The IOVAs in use: so many from the first one on.
pub const IOVAS: u64 = 64 * PAGE;
const MOST_STEPS: usize = 80;

pub fn memory(u: &mut Unstructured<'_>, plan: &Plan) -> Result<Memory> {
    let fragmentation = match u.int_in_range(0..=5)? {
        0 => Fragmentation::Reverse,
        1 => Fragmentation::Alternate,
        2 => Fragmentation::Seeded { seed: u.arbitrary::<u8>()?.into(), run_order: 0 },
        3 => Fragmentation::Seeded { seed: u.arbitrary::<u8>()?.into(), run_order: 2 },
        _ => Fragmentation::None,
    };
    let (start, count) = (u.int_in_range(0x100..=0x107)?, u.int_in_range(24..=160)?);
    Ok(Memory::builder()
        .page_size(PageSize::new(PAGE).unwrap())
        .zone(Zone::Normal, start..start + count)
        .zone(Zone::Movable, 0x400..0x420)
        .fragmentation(fragmentation)
        .plan(plan.clone())
        .build()
        .unwrap())
}

pub fn page_sizes(u: &mut Unstructured<'_>) -> Result<PageSizes> {
    let sizes = [
        0x400, 0x1400, 0x600, 0x2400, 0x200, 0x5400, 0xfc00, 0xa00, 0x1200, 0x2800, 0xc00, 0x1c00,
        0x1400, 0x3e00,
    ];
    Ok(match u.int_in_range(0..=31)? {
        0 => PageSizes::from_bits_retain(u64::from(u.arbitrary::<u16>()?) << 4),
        _ => PageSizes::from_bits_retain(*u.choose(&sizes)?),
    })
}

/// Where a domain cuts: at its entries, most of the time.
fn cuts(u: &mut Unstructured<'_>) -> Result<Cuts> {
    Ok(match u.int_in_range(0..=7)? {
        0 | 1 => Cuts::Anywhere,
        2 => Cuts::Never,
        _ => Cuts::Entries,
    })
}

/// A domain, and the first of the IOVAs that are used in it.
pub fn iommu(u: &mut Unstructured<'_>, first: u64, memory: &Memory) -> Result<Arc<Iommu>> {
    let whole = IovaRange::new(Iova::new(first), IOVAS).unwrap();
    let aperture = match u.int_in_range(0..=7)? {
        0 => IovaRange::ALL,
        1 => {
            let cut = u.int_in_range(1..=IOVAS / STEP - 1)? * STEP;
            IovaRange::inclusive(Iova::new(first + cut), whole.last()).unwrap()
        }
        2 => {
            let cut = u.int_in_range(1..=IOVAS / STEP - 1)? * STEP;
            IovaRange::new(whole.first(), cut).unwrap()
        }
        _ => whole,
    };
    let config = Iommu::config(page_sizes(u)?).aperture(aperture).cuts(cuts(u)?);
    Ok(Arc::new(config.memory(memory).build()))
}

/// Where the used IOVAs begin: at zero, or so that they end with the last one there is.
pub fn first_iova(u: &mut Unstructured<'_>) -> Result<u64> {
    Ok(match u.int_in_range(0..=7)? {
        0 => 0u64.wrapping_sub(IOVAS),
        1 => 0x10_0000,
        _ => 0,
    })
}

/// What a device may do, if anything: most often, all of it.
pub fn prot(u: &mut Unstructured<'_>) -> Result<Prot> {
    Ok(match u.arbitrary::<u8>()? % 8 {
        0 => Prot::READ,
        1 => Prot::WRITE,
        2 => Prot::CACHE,
        _ => Prot::READ | Prot::WRITE,
    })
}

/// A multiple of [`STEP`] up to `most`, nearly always; often one of [`PAGE`].
pub fn offset(u: &mut Unstructured<'_>, most: u64) -> Result<u64> {
    let unit = match u.arbitrary::<u8>()? % 8 {
        0 => 1,
        1 | 2 => STEP,
        _ => PAGE,
    };
    let units = u64::from(u.arbitrary::<u8>()?);
    Ok((most / unit).checked_add(1).map_or(units, |count| units % count) * unit)
}

/// A part of `0..len` that is not empty, nearly always.
pub fn part(u: &mut Unstructured<'_>, len: u64) -> Result<std::ops::Range<u64>> {
    let start = offset(u, len)?;
    let count = offset(u, 16 * PAGE)?;
    Ok(match u.int_in_range(0..=7)? {
        0 => start..start + count,
        1 | 2 => 0..len,
        3 => start..len,
        _ => start..(start + count).min(len),
    })
}

/// Bytes to be written, or the room to read so many: up to a few pages of them.
pub fn data(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let len: u64 = u.int_in_range(1..=15)? * u.int_in_range(1..=150)?;
    let seed = u.arbitrary::<u8>()?;
    Ok((0..len).map(|at| (at as u8).wrapping_mul(7).wrapping_add(seed)).collect())
}

/// One of some operations, each as likely as its weight beside those of the others.
pub fn weighted<T: Copy>(u: &mut Unstructured<'_>, operations: &[(u32, T)]) -> Result<T> {
    let all: u32 = operations.iter().map(|(weight, _)| weight).sum();
    let mut left = u.int_in_range(0..=all - 1)?;
    let chosen = operations.iter().find(|(weight, _)| {
        let here = left < *weight;
        left = left.saturating_sub(*weight);
        here
    });
    Ok(chosen.unwrap().1)
}

/// A world that steps until the bytes are used up, each step checked. One for which there are not enough
/// bytes ends it, without an error of the law.
pub fn run<W>(
    u: &mut Unstructured<'_>,
    new: fn(&mut Unstructured<'_>) -> Result<W>,
    step: fn(&mut W, &mut Unstructured<'_>) -> Result<()>,
    check: fn(&W),
) -> Result<W> {
    let mut world = new(u)?;
    for _ in 0..MOST_STEPS {
        if u.is_empty() {
            break;
        }
        step(&mut world, u)?;
        check(&world);
    }
    Ok(world)
}

/// Lets one of the next calls that may fail do so.
pub fn plan_failure(u: &mut Unstructured<'_>, plan: &Plan) -> Result<()> {
    let n = u.int_in_range(0..=7)?;
    let step = [Step::Alloc, Step::Pin, Step::Charge, Step::Map, Step::SyncMap, Step::Dirty];
    match u.int_in_range(0..=7)? {
        kind @ 0..=5 => plan.fail_step_at(step[kind], n % 4, u.int_in_range(0..=5)?),
        _ => plan.fail_at(n),
    }
    Ok(())
}

/// The frames of a list, page by page.
pub fn frames<S: Storage>(sgl: &Sgl<S>) -> Vec<u64> {
    sgl.runs().flat_map(|run| run.start().get()..run.start().get() + run.count()).collect()
}

/// Where a byte of the frames lies in memory.
pub fn phys(frames: &[u64], at: u64) -> u64 {
    frames[(at / PAGE) as usize] * PAGE + at % PAGE
}

/// Whether an IOMMU can map so many bytes of the frames: every smallest page of it must be one
/// aligned piece of memory.
pub fn fits(sizes: PageSizes, iova: u64, frames: &[u64], from: u64, len: u64) -> bool {
    let Some(smallest) = sizes.smallest().map(PageSize::bytes) else {
        return false;
    };
    let wraps = len == 0 || iova.checked_add(len - 1).is_none();
    if wraps || iova % smallest != 0 || len % smallest != 0 {
        return false;
    }
    (0..len).step_by(smallest as usize).all(|at| {
        let begin = phys(frames, from + at);
        let pieces = (0..smallest).step_by(STEP.min(smallest) as usize);
        begin % smallest == 0
            && pieces.into_iter().all(|more| phys(frames, from + at + more) == begin + more)
    })
}

/// Whether a domain could cut a mapping, in which `iova` lies, before it: an entry begins there, or can
/// be split there; and never, if the domain says so.
pub fn may_cut(iommu: &Iommu, iova: u64, may_split: bool) -> bool {
    use pinned_sgl::iommu::Domain;
    let smallest = iommu.page_sizes().smallest().map_or(1, PageSize::bytes);
    let begins = iommu.lookup(Iova::new(iova)).unwrap().range.first().get() == iova;
    match iommu.cuts() {
        Cuts::Anywhere => begins || may_split && iova % smallest == 0,
        Cuts::Entries => begins,
        Cuts::Never => false,
    }
}
