// SPDX-License-Identifier: MIT OR Apache-2.0
//! A fuzz target: memory in frames that the fuzzer chooses, mapped where it wants, used by a device.
//!
//! ```text
//! cargo run --example fuzz_target            # some random inputs; a fuzzer has better ones
//! cargo run --example fuzz_target -- FILE..  # what a fuzzer has found
//! ```
//!
//! For `cargo fuzz`, `fuzz_target!(|data: &[u8]| { let _ = target(data); });` takes the place of `main`.

use arbitrary::{Result, Unstructured};
use pinned_sgl::iommu::{Mapping, Prot};
use pinned_sgl::umem::{PinFlags, PinRequest, Umem, Unaccounted};
use pinned_sgl::{Iova, PageSize, PageSizes, Pfn, UserAddr};
use pinned_sgl_mock::{Memory, Process, Vma, Zone};
use std::{collections::HashSet, env, error::Error, fs, sync::Arc};

/// The machine has 1 MiB.
const FRAMES: u64 = 256;

/// Runs one case; what must not happen panics.
fn target(data: &[u8]) -> Result<()> {
    let mut input = Unstructured::new(data);
    let sizes = PageSizes::SIZE_4K | input.arbitrary()?;
    let iova = Iova::new(u64::from(input.arbitrary::<u32>()?)).align_down(PageSize::SIZE_4K);
    // Any frames, in any order, each once.
    let mut seen = HashSet::new();
    let numbers = input.take_rest().iter().filter(|number| seen.insert(**number));
    let frames: Vec<Pfn> = numbers.map(|number| Pfn::new(u64::from(*number))).collect();
    if frames.is_empty() {
        return Ok(());
    }

    let machine = Memory::builder().zone(Zone::Normal, 0..FRAMES).panic_on_violation();
    let machine = machine.build().expect("a machine of 1 MiB");
    let process = Arc::new(Process::new(&machine));
    let range = process
        .map_frames(UserAddr::new(0x7000_0000), &frames, Vma::read_write())
        .expect("all frames are free");
    let request = PinRequest::new(range, PinFlags::WRITE | PinFlags::LONGTERM);
    let umem = Umem::pin(process.clone(), &Unaccounted, request).expect("all pages are there");
    assert!(umem.whole().expect("it has pages").pages().eq(frames.iter().copied()));

    let iommu = Arc::new(machine.iommu(sizes));
    let mapping = Mapping::map(Arc::new(umem), iommu.clone(), iova, Prot::READ);
    let mapping = mapping.expect("pages of 4 KiB fit anywhere");
    let device = machine.device(iommu);
    for (page, pfn) in (0u64..).zip(&frames) {
        let (user, iova) = (range.start().get() + (page << 12), iova.get() + (page << 12));
        let (user, iova, bytes) = (UserAddr::new(user), Iova::new(iova), page.to_le_bytes());
        process.write(user, &bytes).expect("it may write");
        assert_eq!(mapping.translate(iova), pfn.phys(PageSize::SIZE_4K));
        assert_eq!(device.reads_as(iova, &bytes), Ok(true));
    }
    drop(mapping);
    machine.assert_no_leak();
    Ok(())
}

fn main() -> std::result::Result<(), Box<dyn Error>> {
    let mut files = env::args().skip(1).peekable();
    if files.peek().is_none() {
        let mut random = fastrand::Rng::with_seed(1);
        for case in 0..200 {
            let mut data = vec![0; case];
            random.fill(&mut data);
            let _ = target(&data); // too few bytes are no case
        }
    }
    for file in files {
        let _ = target(&fs::read(file)?);
    }
    println!("nothing was found");
    Ok(())
}
