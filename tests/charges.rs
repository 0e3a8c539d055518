// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is charged: pages that are pinned. Memory of devices has no pins, so none of its pages count,
//! whether the pinner knows that beforehand or finds out.

use pinned_sgl::iommu::{HeapIoas, Placement, Prot};
use pinned_sgl::umem::{
    Account, Accountant as _, ChargeError, PinBatch, PinErrorKind, PinFlags, PinRequest, Pinner,
    Umem, UserRange,
};
use pinned_sgl::{Iova, MemoryKind, PageRun, PageSize, Pfn, UserAddr};
use pinned_sgl_mock::Iommu;
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

const BAR: u64 = 0x1_0000_0000;
/// 8 MiB, as `RLIMIT_MEMLOCK` is on many machines.
const LIMIT: u64 = 2048;

/// A process with RAM below [`BAR`] and the memory of a device from there on, as vfio finds it in a
/// `VM_PFNMAP` area: frames without pages.
struct Process {
    /// How many pages it takes a range for, if it knows anything about it.
    expects: Option<u64>,
    pins: Cell<u64>,
}

impl Process {
    const fn new(expects: Option<u64>) -> Self {
        Self { expects, pins: Cell::new(0) }
    }
}

// SAFETY: the frames exist in this test only, and are used for nothing else.
unsafe impl Pinner for Process {
    type Error = ();

    fn page_size(&self) -> PageSize {
        PageSize::SIZE_4K
    }

    fn charged_pages(&self, range: UserRange) -> u64 {
        self.expects.unwrap_or(range.page_count(self.page_size()))
    }

    fn pin(&self, batch: &mut PinBatch<'_>) -> Result<(), ()> {
        let (at, left) = (batch.next().get(), batch.left());
        let (count, kind) = match BAR.checked_sub(at) {
            Some(ram) if ram > 0 => (left.min(ram >> 12), MemoryKind::Ram),
            _ => (left, MemoryKind::Mmio),
        };
        let run = PageRun::new(Pfn::new(0x8_0000_0000 + (at >> 12)), count, kind).unwrap();
        // SAFETY: the pages are those of the user addresses, and nothing else uses them.
        unsafe { batch.push(run) }.map_err(|_| ())?;
        if kind == MemoryKind::Ram {
            self.pins.set(self.pins.get() + count);
        }
        Ok(())
    }

    unsafe fn unpin(&self, _: UserAddr, run: PageRun, _: bool) {
        assert_eq!(run.kind(), MemoryKind::Ram, "memory of a device has no pins");
        self.pins.set(self.pins.get() - run.count());
    }
}

fn request(first: u64, pages: u64) -> PinRequest {
    let range = UserRange::new(UserAddr::new(first), pages << 12).unwrap();
    PinRequest::new(range, PinFlags::WRITE | PinFlags::LONGTERM)
}

#[test]
fn a_bar_is_not_charged() {
    let (account, bar) = (Account::new(LIMIT), Process::new(Some(0)));
    // 64 MiB do not count against 8; mapped or not.
    let umem = Rc::new(Umem::pin(&bar, &account, request(BAR, 0x4000)).unwrap());
    assert_eq!((account.charged(), umem.charge().pages(), bar.pins.get()), (0, 0, 0));
    let mut space: HeapIoas<_, Arc<Iommu>> = HeapIoas::new();
    space.attach(Arc::new(Iommu::new("4K|2M".parse().unwrap()))).unwrap();
    let place = space.map(Placement::Anywhere, umem.clone(), Prot::READ | Prot::WRITE).unwrap();
    assert_eq!((place.first(), account.charged()), (Iova::new(0x20_0000), 0));
    drop((space, umem));
    assert_eq!(account.charged(), 0);
}

/// A caller that does not know is charged for all of it at first, and gets back what has no pin.
#[test]
fn what_has_no_pin_after_all_is_given_back() {
    let (account, process) = (Account::new(LIMIT), Process::new(None));
    let umem = Umem::pin(&process, &account, request(BAR - 0x3000, 100)).unwrap();
    assert_eq!((account.charged(), umem.charge().pages(), process.pins.get()), (3, 3, 3));
    let error = Umem::pin(&process, &account, request(BAR, LIMIT)).unwrap_err();
    assert!(matches!(
        &error.error().kind,
        PinErrorKind::Charge(ChargeError::Limit { charged: 3, .. })
    ));
    drop(error);
    drop(umem);
    assert_eq!((account.charged(), process.pins.get()), (0, 0));
}

/// A caller that expects too little is charged when it is known; where that is too much, all of it is unpinned.
#[test]
fn what_has_a_pin_after_all_is_charged() {
    let (account, process) = (Account::new(LIMIT), Process::new(Some(1)));
    let umem = Umem::pin(&process, &account, request(BAR - 0x3000, 100)).unwrap();
    assert_eq!((account.charged(), umem.charge().pages()), (3, 3));
    let first = BAR - (LIMIT << 12);
    let error = Umem::pin(&process, &account, request(first, LIMIT)).unwrap_err();
    assert!(matches!(
        &error.error().kind,
        PinErrorKind::Charge(ChargeError::Limit { charged: 4, .. })
    ));
    assert_eq!((error.error().at, error.error().pinned), (UserAddr::new(BAR), LIMIT << 12));
    drop(error);
    assert_eq!((account.charged(), process.pins.get()), (3, 3));
    drop(umem);
    assert_eq!((account.charged(), process.pins.get()), (0, 0));
}

/// More than was charged cannot be given back: the account does not wrap below zero.
#[test]
fn an_account_stops_at_zero() {
    let account = Account::new(10);
    account.uncharge(1);
    assert_eq!(account.charged(), 0);
    account.charge(4).unwrap();
    account.uncharge(u64::MAX);
    assert_eq!(account.charged(), 0);
    account.charge(10).unwrap();
    let refused = ChargeError::Limit { pages: 1, charged: 10, limit: 10 };
    assert_eq!(account.charge(1), Err(refused));
}
