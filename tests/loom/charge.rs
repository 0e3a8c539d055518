// SPDX-License-Identifier: MIT OR Apache-2.0
//! Threads charge pages to one account near its limit: it is never exceeded, nor is it by the pages
//! that are pinned in truth, and in the end nothing is charged.

use crate::check;
use crate::threads::cell::UnsafeCell;
use crate::threads::sync::atomic::{
    AtomicUsize,
    Ordering::{self, AcqRel, Acquire, Relaxed, Release},
};
use crate::threads::{sync::Arc as Shared, thread};
use pinned_sgl::umem::{
    Account, Accountant, Charge, ChargeError, PinBatch, PinErrorKind, PinFlags, PinRequest, Pinner,
    Umem,
};
use pinned_sgl::{PageRun, PageSize, Pfn, UserAddr};
use std::sync::{atomic::AtomicUsize as Tally, Arc};

/// An accountant of the simplest kind, with the mistakes that it is to make.
struct Counter {
    charged: AtomicUsize,
    limit: usize,
    two_steps: bool,
    charging: Ordering,
    uncharging: Ordering,
}

impl Counter {
    const fn why_not(&self, pages: usize, charged: usize) -> ChargeError {
        let (pages, charged, limit) = (pages as u64, charged as u64, self.limit as u64);
        ChargeError::Limit { pages, charged, limit }
    }
}

impl Accountant for Counter {
    fn charge(&self, pages: u64) -> Result<(), ChargeError> {
        let pages = usize::try_from(pages).unwrap();
        let fits = |charged: usize| Some(charged + pages).filter(|sum| *sum <= self.limit);
        if self.two_steps {
            let charged = self.charged.load(Acquire);
            fits(charged).ok_or(self.why_not(pages, charged))?;
            self.charged.fetch_add(pages, AcqRel);
            return Ok(());
        }
        let charged = self.charged.fetch_update(self.charging, Relaxed, fits);
        charged.map(|_| ()).map_err(|charged| self.why_not(pages, charged))
    }

    fn uncharge(&self, pages: u64) {
        self.charged.fetch_sub(usize::try_from(pages).unwrap(), self.uncharging);
    }
}

fn counter(limit: usize, two_steps: bool, charging: Ordering, uncharging: Ordering) -> Counter {
    Counter { charged: AtomicUsize::new(0), limit, two_steps, charging, uncharging }
}

/// Three threads want four pages together, of which the limit allows three.
fn the_limit_holds<A>(accountant: fn() -> A, charged: fn(&A) -> u64)
where
    A: Accountant + Send + Sync + 'static,
{
    check(move || {
        // Not a counter of the model: it is exact, and nothing happens beside a change of it.
        let (account, held) = (Shared::new(accountant()), Arc::new(Tally::new(0)));
        let charge = {
            let (account, held) = (account.clone(), held.clone());
            move |pages: usize| {
                let charge = Charge::new(&*account, pages as u64);
                if charge.is_ok() {
                    let before = held.fetch_add(pages, Relaxed);
                    assert!(before + pages <= 3, "the limit was exceeded");
                    assert!(charged(&account) >= pages as u64);
                    held.fetch_sub(pages, Relaxed);
                }
                drop(charge);
            }
        };
        let others = [1, 2].map(|pages| {
            let charge = charge.clone();
            thread::spawn(move || charge(pages))
        });
        charge(1);
        others.into_iter().for_each(|other| other.join().unwrap());
        assert_eq!(charged(&account), 0);
        // All of the limit can be used again.
        assert!(Charge::new(&*account, 3).is_ok());
    });
}

#[test]
fn a_charge_never_exceeds_the_limit() {
    the_limit_holds(|| Account::new(3), Account::charged);
}

#[test]
#[cfg(loom)]
#[should_panic(expected = "the limit was exceeded")]
fn an_accountant_of_two_steps_is_found() {
    the_limit_holds(
        || counter(3, true, Acquire, Release),
        |counter| counter.charged.load(Relaxed) as u64,
    );
}

/// Pins as many pages as the limit allows, and does not synchronise: it relies on the charge.
struct Scarce(UnsafeCell<usize>);

// SAFETY: the cell is the subject of the model: the checker reports every race on it.
unsafe impl Sync for Scarce {}

// SAFETY: there is one page, and nothing uses it.
unsafe impl Pinner for Scarce {
    type Error = ();

    fn page_size(&self) -> PageSize {
        PageSize::SIZE_4K
    }

    fn pin(&self, batch: &mut PinBatch<'_>) -> Result<(), ()> {
        // SAFETY: the checker reports a race, if there is one.
        self.0.with_mut(|pinned| unsafe {
            assert_eq!(*pinned, 0, "more is pinned than was charged");
            *pinned += 1;
        });
        // SAFETY: it has just been pinned.
        unsafe { batch.push(PageRun::ram(Pfn::new(1), 1).unwrap()) }.map_err(|_| ())
    }

    unsafe fn unpin(&self, _: UserAddr, _: PageRun, _: bool) {
        // A model that has failed has nothing to say any more.
        if std::thread::panicking() {
            return;
        }
        // SAFETY: as above.
        self.0.with_mut(|pinned| unsafe { *pinned -= 1 });
    }
}

/// Two threads pin a page each, where one may be: the second can only when the first has unpinned.
fn pages_are_unpinned_before_they_are_uncharged<A>(accountant: fn() -> A)
where
    A: Accountant + Send + Sync + 'static,
{
    check(move || {
        let (pinner, account) = (Arc::new(Scarce(UnsafeCell::new(0))), Shared::new(accountant()));
        let pin = {
            let account = account.clone();
            move || {
                let range = crate::frames::range(1, 1);
                let request = PinRequest::new(range, PinFlags::WRITE);
                match Umem::pin(pinner.clone(), account.clone(), request) {
                    Ok(umem) => assert!(umem.unpin().is_ok()),
                    Err(error) => assert!(matches!(&error.error().kind, PinErrorKind::Charge(_))),
                }
            }
        };
        let other = thread::spawn({
            let pin = pin.clone();
            move || pin()
        });
        pin();
        other.join().unwrap();
        assert!(Charge::new(&*account, 1).is_ok());
    });
}

#[test]
fn what_is_pinned_never_exceeds_the_limit() {
    pages_are_unpinned_before_they_are_uncharged(|| Account::new(1));
}

#[test]
fn charging_acquires_what_uncharging_releases() {
    pages_are_unpinned_before_they_are_uncharged(|| counter(1, false, Acquire, Release));
}

#[test]
#[cfg(any(loom, all(races, not(miri))))]
#[should_panic(expected = "Causality violation")]
fn charging_without_acquire_is_found() {
    pages_are_unpinned_before_they_are_uncharged(|| counter(1, false, Relaxed, Release));
}

#[test]
#[cfg(any(loom, all(races, not(miri))))]
#[should_panic(expected = "Causality violation")]
fn uncharging_without_release_is_found() {
    pages_are_unpinned_before_they_are_uncharged(|| counter(1, false, Acquire, Relaxed));
}
