// SPDX-License-Identifier: MIT OR Apache-2.0
//! What was charged to an account goes back to the same one: the choice is made once.

use pinned_sgl::umem::{Account, AccountingMode, Accounts, Charge};

fn mistake(accounts: &mut Accounts<&Account>) {
    let charge = Charge::new(&*accounts, 7);
    accounts.mode = AccountingMode::PerUser;
    drop(charge);
}

fn main() {}
