// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Plan`]: which of the calls that may fail does fail.

use crate::sync::{lock, Mutex};
use std::sync::Arc;

/// What may fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Step {
    /// Allocating memory for a list or for a mapping.
    Alloc,
    /// Pinning the next pages.
    Pin,
    /// Charging pages.
    Charge,
    /// Mapping a tile.
    Map,
    /// Notifying the hardware that a mapping is complete.
    SyncMap,
    /// Starting or stopping to note what devices write, or reading what was noted.
    Dirty,
}

/// How a call that is to fail does so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Failure {
    /// How many pages are pinned, or mapped, before it fails; where there are so many.
    pub after_pages: u64,
}

/// A plan of failure that all mocks of a test share: clones are the same plan.
///
/// Calls that may fail are counted from zero on, all kinds together. The usual test makes the n-th
/// call fail, for n = 0, 1, 2, ... until nothing fails any more:
///
/// ```
/// use pinned_sgl_mock::{Plan, Step};
/// let plan = Plan::new();
/// let work = || plan.step(Step::Pin).and_then(|()| plan.step(Step::Map));
/// let mut n = 0;
/// loop {
///     plan.fail_at(n);
///     if work().is_ok() {
///         break;
///     }
///     n += 1;
/// }
/// assert_eq!(n, 2);
/// ```
#[derive(Clone, Debug, Default)]
pub struct Plan {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// Calls since the plan was made.
    calls: u64,
    /// Calls to come before the one that fails; and which kind alone counts.
    countdown: Option<u64>,
    only: Option<Step>,
    after_pages: u64,
}

impl Plan {
    /// A plan by which nothing fails.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets the `n`-th call from now on fail, once; 0 is the next.
    pub fn fail_at(&self, n: u64) {
        self.set(Some(n), None, 0);
    }

    /// Lets the `n`-th call of one kind from now on fail, once, when it has pinned or mapped
    /// `after_pages` pages.
    pub fn fail_step_at(&self, step: Step, n: u64, after_pages: u64) {
        self.set(Some(n), Some(step), after_pages);
    }

    /// Lets nothing fail any more.
    pub fn succeed(&self) {
        self.set(None, None, 0);
    }

    fn set(&self, countdown: Option<u64>, only: Option<Step>, after_pages: u64) {
        let mut state = lock(&self.state);
        state.countdown = countdown;
        state.only = only;
        state.after_pages = after_pages;
    }

    /// How many calls there were that may fail.
    #[must_use]
    pub fn calls(&self) -> u64 {
        lock(&self.state).calls
    }

    /// Whether the call that was to fail is still to come.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        lock(&self.state).countdown.is_some()
    }

    /// Counts a call that may fail. Called by the mocks, and by whatever else is to fail by plan.
    ///
    /// # Errors
    ///
    /// [`Failure`] if this is the one.
    pub fn step(&self, step: Step) -> Result<(), Failure> {
        let mut state = lock(&self.state);
        state.calls = state.calls.saturating_add(1);
        if state.only.is_some_and(|only| only != step) {
            return Ok(());
        }
        match state.countdown {
            None => Ok(()),
            Some(0) => {
                state.countdown = None;
                Err(Failure { after_pages: state.after_pages })
            }
            Some(left) => {
                state.countdown = Some(left.saturating_sub(1));
                Ok(())
            }
        }
    }
}
