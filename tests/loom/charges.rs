// SPDX-License-Identifier: MIT OR Apache-2.0
//! A charge never exceeds the limit, whatever races with it, and the count returns to zero.

use loom::{sync::Arc, thread};
use pinned_sgl::umem::{Account, Charge};

const LIMIT: u64 = 2;

#[test]
fn the_limit_holds_and_all_is_given_back() {
    loom::model(|| {
        let account = Arc::new(Account::new(LIMIT));
        let spend = |account: &Arc<Account>, pages: u64| {
            let charge = Charge::new(account.clone(), pages);
            assert!(account.charged() <= LIMIT);
            charge.is_ok()
        };
        let thread = thread::spawn({
            let account = account.clone();
            move || spend(&account, 2) | spend(&account, 1)
        });
        let here = spend(&account, 1);
        assert!(account.charged() <= LIMIT);
        let there = thread.join().unwrap();
        assert!(here || there, "one of them finds room");
        assert_eq!(account.charged(), 0);
        assert!(spend(&account, LIMIT), "and all of it is there again");
    });
}

#[test]
fn what_fits_together_is_never_refused() {
    loom::model(|| {
        let account = Arc::new(Account::new(LIMIT));
        let other = account.clone();
        let thread = thread::spawn(move || Charge::new(other, 1).unwrap());
        let charges = (Charge::new(account.clone(), 1).unwrap(), thread.join().unwrap());
        assert_eq!(account.charged(), LIMIT);
        drop(charges);
        assert_eq!(account.charged(), 0);
    });
}
