// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Charge`]: the receipt for pages that are counted against a limit, and [`Accountant`]: what
//! counts them.
//!
//! The rule of `RLIMIT_MEMLOCK`: pages are charged before they are pinned, the limit is never
//! exceeded, and what was charged is given back exactly once, after the last page was unpinned. A
//! charge remembers what it charged; nothing is computed again on the way back.
#![forbid(unsafe_code)]

use super::holder::Holder;
use crate::exact::Exact as _;
use crate::sync::{update, AtomicUsize, Relaxed};
use core::{fmt, mem};

/// Counts pages against a limit, for a process, a user, or nothing.
///
/// This is a safe trait: nothing relies on its answers but the count itself. An accountant may unwind;
/// then pages may stay counted for ever, but what is pinned, mapped and unpinned stays in order.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not implement `Accountant`",
    note = "an accountant is passed by its holder: an `Arc`, a `Box` or a reference of \
            it; where no limit is needed, `&Unaccounted`"
)]
pub trait Accountant {
    /// Counts `pages` more.
    ///
    /// # Errors
    ///
    /// [`ChargeError`], above all if the limit would be exceeded; nothing has changed then.
    fn charge(&self, pages: u64) -> Result<(), ChargeError>;

    /// Counts `pages` less, which a successful [`charge`](Self::charge) counted more: what one call
    /// charged may be given back by several.
    fn uncharge(&self, pages: u64);
}

/// A [`Holder`] of an accountant. There is nothing to implement.
pub trait AccountantHolder: Holder<Target: Accountant> {}

impl<A: Holder<Target: Accountant>> AccountantHolder for A {}

/// The receipt for pages that were charged: gives them back when it is dropped.
///
/// It can be neither copied nor cloned. One that is leaked leaks its pages.
pub struct Charge<A: AccountantHolder> {
    accountant: A,
    pages: u64,
}

impl<A: AccountantHolder> Charge<A> {
    /// Charges `pages`.
    ///
    /// # Errors
    ///
    /// That of the accountant; nothing is charged then.
    pub fn new(accountant: A, pages: u64) -> Result<Self, ChargeError> {
        accountant.charge(pages)?;
        Ok(Self { accountant, pages })
    }

    /// Charges what is missing to `pages`, or gives back what is too much.
    pub(super) fn set(&mut self, pages: u64) -> Result<(), ChargeError> {
        match pages.checked_sub(self.pages) {
            Some(0) => {}
            Some(more) => {
                self.accountant.charge(more)?;
                self.pages = pages;
            }
            None => {
                let less = self.pages.minus(pages);
                // What is written down comes first: the accountant may unwind.
                self.pages = pages;
                self.accountant.uncharge(less);
            }
        }
        Ok(())
    }

    /// A receipt for `pages` of these pages, at most for all: this one is for the others then.
    /// `accountant` leads to the accountant of this one.
    pub(super) fn split_off(&mut self, accountant: A, pages: u64) -> Self {
        let pages = pages.min(self.pages);
        self.pages = self.pages.minus(pages);
        Self { accountant, pages }
    }

    /// How many pages were charged.
    #[inline]
    #[must_use]
    pub const fn pages(&self) -> u64 {
        self.pages
    }

    /// What has counted them.
    #[inline]
    #[must_use]
    pub const fn accountant(&self) -> &A {
        &self.accountant
    }
}

impl<A: AccountantHolder> Drop for Charge<A> {
    fn drop(&mut self) {
        self.accountant.uncharge(mem::take(&mut self.pages));
    }
}

impl<A: AccountantHolder> fmt::Debug for Charge<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Charge").field("pages", &self.pages).finish_non_exhaustive()
    }
}

/// Counts nothing: for callers that need no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unaccounted;

impl Accountant for Unaccounted {
    fn charge(&self, _: u64) -> Result<(), ChargeError> {
        Ok(())
    }

    fn uncharge(&self, _: u64) {}
}

/// A counter of pages with a limit: the locked memory of one process, or of one user.
///
/// ```
/// use pinned_sgl::umem::{Account, Charge};
/// let account = Account::new(100);
/// let charge = Charge::new(&account, 60)?;
/// assert!(Charge::new(&account, 41).is_err());
/// assert_eq!(account.charged(), 60);
/// drop(charge);
/// assert_eq!(account.charged(), 0);
/// # Ok::<(), pinned_sgl::umem::ChargeError>(())
/// ```
pub struct Account {
    /// Pages, not bytes: they fit a word on a 32-bit machine, too.
    charged: AtomicUsize,
    limit: AtomicUsize,
}

impl Account {
    /// A counter that allows `limit` pages; [`u64::MAX`] allows as many as there can be.
    #[must_use]
    pub fn new(limit: u64) -> Self {
        Self { charged: AtomicUsize::new(0), limit: AtomicUsize::new(saturate(limit)) }
    }

    /// A counter without a limit, as for a process with `CAP_IPC_LOCK`: it still counts.
    #[must_use]
    pub fn unlimited() -> Self {
        Self::new(u64::MAX)
    }

    /// How many pages are charged.
    #[must_use]
    pub fn charged(&self) -> u64 {
        self.charged.load(Relaxed) as u64
    }

    /// How many pages may be charged.
    #[must_use]
    pub fn limit(&self) -> u64 {
        match self.limit.load(Relaxed) {
            usize::MAX => u64::MAX,
            limit => limit as u64,
        }
    }

    /// Allows `limit` pages from now on. What is charged stays charged, even if it is more.
    pub fn set_limit(&self, limit: u64) {
        self.limit.store(saturate(limit), Relaxed);
    }
}

fn saturate(pages: u64) -> usize {
    usize::try_from(pages).unwrap_or(usize::MAX)
}

impl Accountant for Account {
    fn charge(&self, pages: u64) -> Result<(), ChargeError> {
        // A charge that gets uncharged pages comes after those were unpinned, so that what
        // is pinned in truth does not exceed the limit either.
        let more = |charged: usize| {
            let sum = charged.checked_add(usize::try_from(pages).ok()?);
            sum.filter(|sum| *sum <= self.limit.load(Relaxed))
        };
        let refused =
            |charged| ChargeError::Limit { pages, charged: charged as u64, limit: self.limit() };
        update(&self.charged, more).map(|_| ()).map_err(refused)
    }

    /// Counts `pages` less, down to zero: more than was charged cannot be given back.
    fn uncharge(&self, pages: u64) {
        let less = |charged: usize| Some(charged.saturating_sub(saturate(pages)));
        let _ = update(&self.charged, less);
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account")
            .field("charged", &self.charged())
            .field("limit", &self.limit())
            .finish()
    }
}

/// The pages of which account are counted: the modes of iommufd.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum AccountingMode {
    /// No account's.
    None,
    /// Those of the process, which all of its users of pinned memory share.
    #[default]
    PerProcess,
    /// Those of the user, which all of his processes share.
    PerUser,
}

/// The accounts of a process, and the choice between them.
#[derive(Debug)]
pub struct Accounts<A: AccountantHolder> {
    /// The account of the process.
    pub process: A,
    /// The account of its user.
    pub user: A,
    /// Which of them is charged.
    mode: AccountingMode,
}

impl<A: AccountantHolder> Accounts<A> {
    /// The accounts of a process and of its user, one of which is charged. The choice is made once:
    /// what was charged to an account goes back to the same one.
    pub const fn new(process: A, user: A, mode: AccountingMode) -> Self {
        Self { process, user, mode }
    }

    /// Which of them is charged.
    #[must_use]
    pub const fn mode(&self) -> AccountingMode {
        self.mode
    }

    fn chosen(&self) -> Option<&A> {
        match self.mode {
            AccountingMode::None => None,
            AccountingMode::PerProcess => Some(&self.process),
            AccountingMode::PerUser => Some(&self.user),
        }
    }
}

impl<A: AccountantHolder> Accountant for Accounts<A> {
    fn charge(&self, pages: u64) -> Result<(), ChargeError> {
        self.chosen().map_or(Ok(()), |account| account.charge(pages))
    }

    fn uncharge(&self, pages: u64) {
        if let Some(account) = self.chosen() {
            account.uncharge(pages);
        }
    }
}

/// Why nothing was charged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChargeError {
    /// The limit would be exceeded.
    Limit {
        /// The pages that were to be charged.
        pages: u64,
        /// The pages that were charged already.
        charged: u64,
        /// The pages that may be charged.
        limit: u64,
    },
    /// The calling thread is being killed, and has not waited for the counter.
    Killed,
}

impl fmt::Display for ChargeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Limit { pages, charged, limit } => write!(
                f,
                "{pages} pages more than the {charged} charged exceed the limit of {limit} pages"
            ),
            Self::Killed => f.write_str("the calling thread is being killed"),
        }
    }
}

impl core::error::Error for ChargeError {}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_exact() {
        let account = Account::new(10);
        let seven = Charge::new(&account, 7).unwrap();
        for pages in [4, u64::MAX] {
            let refused = ChargeError::Limit { pages, charged: 7, limit: 10 };
            assert_eq!(Charge::new(&account, pages).unwrap_err(), refused);
        }
        let three = Charge::new(&account, 3).unwrap();
        assert_eq!((account.charged(), seven.pages(), three.pages()), (10, 7, 3));
        account.set_limit(5);
        assert!(Charge::new(&account, 0).is_err());
        drop(seven);
        assert_eq!(Charge::new(&account, 2).unwrap().pages(), 2);
        drop(three);
        assert_eq!(account.charged(), 0);
        assert_eq!(Account::unlimited().limit(), u64::MAX);
    }

    #[test]
    fn one_account_is_charged() {
        let (process, user) = (Account::new(1), Account::new(1));
        for (mode, expected) in [
            (AccountingMode::None, (0, 0)),
            (AccountingMode::PerProcess, (1, 0)),
            (AccountingMode::PerUser, (0, 1)),
        ] {
            let accounts = Accounts::new(&process, &user, mode);
            let charge = Charge::new(&accounts, 1).unwrap();
            assert_eq!((process.charged(), user.charged()), expected, "{mode:?}");
            drop(charge);
            assert_eq!((process.charged(), user.charged()), (0, 0), "{mode:?}");
        }
    }
}
