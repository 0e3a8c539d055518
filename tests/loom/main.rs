// SPDX-License-Identifier: MIT OR Apache-2.0
//! What several threads do at a time, in every order that the memory model allows: models for the
//! checker `loom`, run by `tests/run loom`. Elsewhere they run with real threads, for the sanitizers
//! and Miri to watch.
//!
//! | model | shows |
//! |---|---|
//! | [`unpin`] | the last holder unpins, once, when no device can reach the page any more |
//! | [`charge`] | a limit is never exceeded, and all that was charged comes back |
//! | [`moving`] | a page that is pinned is not moved, unmapped or shared away |
//! | [`domain`] | a device sees what is mapped or nothing, whatever is mapped and unmapped beside it |
//! | [`attach`] | the last holder sees every attachment, and that a device wrote |
//!
//! Beside each model there are some with a mistake, which the checker must find: they must panic.
//! Those that are a race exist with `--cfg races`, too: ThreadSanitizer must find them, and Miri those
//! that do not need an order of memory accesses that it never takes.
//! That the protocol of page frames holds is shown beside it, in `mock/src/memory/models.rs`.
//!
//! Threads are preempted at most `LOOM_MAX_PREEMPTIONS` times in one execution, by default 4. Nothing
//! here synchronises but the crate: counters are relaxed, and the bytes of a page are a cell that
//! reports a race.

mod attach;
mod charge;
mod domain;
mod frames;
mod hardware;
mod moving;
mod threads;
mod unpin;

use threads::check;
