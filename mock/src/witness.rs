// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Witness`]: what the mocks have seen that must never happen.

use crate::sync::{lock, Mutex};
use pinned_sgl::{Iova, Pfn, UserAddr};
use std::fmt;
use std::sync::Arc;

/// Something that must never happen: what, in which call, and where, as far as it is known.
///
/// ```
/// use pinned_sgl_mock::{Call, Violation, ViolationKind};
/// use pinned_sgl::{Iova, Pfn, UserAddr};
/// let violation = Violation::new(ViolationKind::UnpinnedWhileMapped, Call::Unpin)
///     .user(UserAddr::new(0x7000))
///     .page(Pfn::new(0x1003))
///     .iova(Iova::new(0x8000_0000));
/// assert_eq!(
///     violation.to_string(),
///     "unpin: a page was unpinned while a device could reach it through what is mapped \
///      (user address 0x7000, page 0x1003, IOVA 0x80000000)"
/// );
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Violation {
    /// What has happened.
    pub kind: ViolationKind,
    /// The call in which it did.
    pub call: Call,
    /// The user address under which the page was pinned last.
    pub user: Option<UserAddr>,
    /// The page.
    pub pfn: Option<Pfn>,
    /// What the call was about, or an address at which a device can reach the page.
    pub iova: Option<Iova>,
}

impl Violation {
    /// A violation at an unknown address.
    #[must_use]
    pub const fn new(kind: ViolationKind, call: Call) -> Self {
        Self { kind, call, user: None, pfn: None, iova: None }
    }

    /// The same, at a user address.
    #[must_use]
    pub const fn user(mut self, user: UserAddr) -> Self {
        self.user = Some(user);
        self
    }

    /// The same, about a page.
    #[must_use]
    pub const fn page(mut self, pfn: Pfn) -> Self {
        self.pfn = Some(pfn);
        self
    }

    /// The same, at an address of a device.
    #[must_use]
    pub const fn iova(mut self, iova: Iova) -> Self {
        self.iova = Some(iova);
        self
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.call, self.kind)?;
        let places = [
            ("user address", self.user.map(UserAddr::get)),
            ("page", self.pfn.map(Pfn::get)),
            ("IOVA", self.iova.map(Iova::get)),
        ];
        let known = places.into_iter().filter_map(|(what, number)| Some((what, number?)));
        for (index, (what, number)) in known.enumerate() {
            write!(f, "{}{what} {number:#x}", if index == 0 { " (" } else { ", " })?;
        }
        f.write_str(if places.iter().any(|(_, number)| number.is_some()) { ")" } else { "" })
    }
}

/// What must never happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ViolationKind {
    /// The last pin of a page was taken back, and a page table, or a table of blocks, still leads to
    /// it: a device could reach it. Whether one does, makes no difference.
    UnpinnedWhileMapped,
    /// The last pin of a page was taken back, and what led to it was unmapped, but not flushed: the
    /// hardware may remember it. Whether it does, makes no difference.
    UnpinnedBeforeFlush,
    /// A page was mapped, or registered, that is not pinned.
    MappedUnpinned,
    /// A page was mapped, or registered, to be written, or was written, and all of its pins are for
    /// reading.
    WritablePinnedToRead,
    /// A page was unpinned that is not pinned.
    NotPinned,
    /// A page was unpinned under another user address than the one under which it was pinned. It is
    /// found out where the page was pinned once.
    UnpinnedElsewhere {
        /// The address.
        at: UserAddr,
    },
    /// A page is still pinned when nothing should hold it.
    Leak {
        /// How often it is pinned.
        pins: u64,
    },
    /// A device accessed a page that is not pinned.
    DmaToUnpinned,
    /// A kernel accessed a page on behalf of a device, and the page is not pinned.
    AccessToUnpinned,
    /// A page was written through a pin, and its last pin was taken back without marking it dirty.
    DirtyLost,
    /// An address was mapped that is mapped already.
    MapOverMap,
    /// An address was unmapped where nothing is mapped.
    UnmapOfNothing,
    /// The edge of an unmapped range lies inside a page table entry.
    UnmapCuts,
    /// A call had arguments that its contract rules out.
    BadCall {
        /// What is wrong.
        what: &'static str,
    },
    /// A domain, or a card, was dropped with something mapped in it.
    StillMapped,
    /// A domain was dropped before all that was unmapped in it had been flushed.
    NotFlushed,
}

impl fmt::Display for ViolationKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UnpinnedWhileMapped => {
                "a page was unpinned while a device could reach it through what is mapped"
            }
            Self::UnpinnedBeforeFlush => {
                "a page was unpinned while a device could reach it through what was not flushed"
            }
            Self::MappedUnpinned => "a page was mapped that is not pinned",
            Self::WritablePinnedToRead => "a page that is pinned to be read can be written",
            Self::NotPinned => "a page was unpinned that is not pinned",
            Self::UnpinnedElsewhere { at } => {
                return write!(f, "a page was unpinned under the user address {at:#x}");
            }
            Self::Leak { pins } => return write!(f, "a page is still pinned {pins} times"),
            Self::DmaToUnpinned => "a device accessed a page that is not pinned",
            Self::AccessToUnpinned => "a kernel accessed a page for a device that is not pinned",
            Self::DirtyLost => "a page was written for a device, and then unpinned as clean",
            Self::MapOverMap => "something is mapped there already",
            Self::UnmapOfNothing => "nothing is mapped there",
            Self::UnmapCuts => "an unmapped range ends there, inside a page table entry",
            Self::BadCall { what } => what,
            Self::StillMapped => "something is still mapped",
            Self::NotFlushed => "something that was unmapped has not been flushed",
        })
    }
}

/// In which call something happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Call {
    /// [`Pinner::unpin`](pinned_sgl::umem::Pinner::unpin).
    Unpin,
    /// [`Domain::map`](pinned_sgl::iommu::Domain::map).
    Map,
    /// [`Domain::sync_map`](pinned_sgl::iommu::Domain::sync_map).
    SyncMap,
    /// [`Domain::unmap`](pinned_sgl::iommu::Domain::unmap), or
    /// [`unmap_range`](pinned_sgl::iommu::Domain::unmap_range).
    Unmap,
    /// [`BlockTable::register`](pinned_sgl::rdma::BlockTable::register).
    Register,
    /// [`BlockTable::invalidate`](pinned_sgl::rdma::BlockTable::invalidate).
    Invalidate,
    /// Memory was read, by a device or for one.
    Read,
    /// Memory was written, by a device or for one.
    Write,
    /// A domain or a card was dropped.
    Drop,
    /// A test has asked: [`Memory::check_leaks`](super::Memory::check_leaks).
    Check,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unpin => "unpin",
            Self::Map => "map",
            Self::SyncMap => "sync_map",
            Self::Unmap => "unmap",
            Self::Register => "register",
            Self::Invalidate => "invalidate",
            Self::Read => "read",
            Self::Write => "write",
            Self::Drop => "drop",
            Self::Check => "check",
        })
    }
}

/// Remembers every [`Violation`]: clones are the same witness.
///
/// The mocks go on after a violation as hardware would, so that a test sees all that follows from it;
/// or the call that is to blame [panics](Self::panic_on_violation).
#[derive(Clone, Debug, Default)]
pub struct Witness {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    seen: Vec<Violation>,
    panics: bool,
}

impl Witness {
    /// A witness that has seen nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets each call that does what must never happen panic when it has done it, so that a backtrace
    /// shows where it comes from; or lets it return again. In a thread that panics already, it returns.
    /// It is for looking, not for going on: what unwinds, in the middle of a map or an unpin, has broken
    /// a contract.
    pub fn panic_on_violation(&self, panics: bool) {
        lock(&self.state).panics = panics;
    }

    /// Remembers a violation. Called by the mocks, and by whatever else watches.
    ///
    /// # Panics
    ///
    /// Where that [was asked for](Self::panic_on_violation).
    pub fn saw(&self, violation: Violation) {
        self.saw_all([violation]);
    }

    /// Remembers violations that one call has brought about.
    #[expect(clippy::panic, reason = "an assertion for tests")]
    pub(super) fn saw_all(&self, violations: impl IntoIterator<Item = Violation>) {
        let mut violations = violations.into_iter().peekable();
        let Some(first) = violations.peek().copied() else { return };
        let mut state = lock(&self.state);
        state.seen.extend(violations);
        let panics = state.panics;
        drop(state);
        if panics && !std::thread::panicking() {
            panic!("{first}");
        }
    }

    /// All that was seen so far, in order.
    #[must_use]
    pub fn seen(&self) -> Vec<Violation> {
        lock(&self.state).seen.clone()
    }

    /// All that was seen so far; it is forgotten then. For tests that provoke a violation.
    #[must_use]
    pub fn take(&self) -> Vec<Violation> {
        std::mem::take(&mut lock(&self.state).seen)
    }

    /// Whether nothing was seen.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        lock(&self.state).seen.is_empty()
    }

    /// Panics, with a line for each violation, if anything was seen.
    ///
    /// # Panics
    ///
    /// That is what it is for: it is called at the end of a test.
    #[track_caller]
    #[expect(clippy::panic, reason = "an assertion for tests")]
    pub fn assert_clean(&self) {
        let seen = self.seen();
        if !seen.is_empty() {
            let lines: String = seen.iter().map(|violation| format!("\n  {violation}")).collect();
            panic!("what must never happen has happened:{lines}");
        }
    }
}
