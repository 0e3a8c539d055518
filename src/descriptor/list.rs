// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`ListMemory`]: memory that a device can read, lent for a list of descriptors.
#![forbid(unsafe_code)]

use crate::exact::Exact as _;
use core::{fmt, slice::IterMut};

/// A descriptor of `N` bytes, as it lies in memory.
pub type Slot<const N: usize> = [u8; N];

/// A descriptor of two halves.
#[inline]
pub(super) fn of_halves(first: Slot<8>, second: Slot<8>) -> Slot<16> {
    let mut slot = [0; 16];
    if let Some(half) = slot.first_chunk_mut() {
        *half = first;
    }
    if let Some(half) = slot.last_chunk_mut() {
        *half = second;
    }
    slot
}

/// Memory that a device can read: what the CPU writes there, and where the device has it.
///
/// That both are the same memory, and that the device may look at it when it does, is the caller's business: no
/// memory of this crate is involved.
pub struct ListMemory<'a, A, const N: usize> {
    pub(super) addr: A,
    pub(super) slots: &'a mut [Slot<N>],
}

impl<'a, A, const N: usize> ListMemory<'a, A, N> {
    /// `slots`, which the device has at `addr`.
    pub const fn new(addr: A, slots: &'a mut [Slot<N>]) -> Self {
        Self { addr, slots }
    }
}

impl<A: fmt::Debug, const N: usize> fmt::Debug for ListMemory<'_, A, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ListMemory")
            .field("addr", &self.addr)
            .field("slots", &self.slots.len())
            .finish()
    }
}

/// The slots of chained lists, in order, without the last one of each but the last list, which leads on.
pub(super) struct Entries<'l, 'a, A, const N: usize> {
    slots: IterMut<'l, Slot<N>>,
    lists: IterMut<'l, ListMemory<'a, A, N>>,
}

impl<'l, 'a, A, const N: usize> Entries<'l, 'a, A, N> {
    pub(super) fn new(lists: &'l mut [ListMemory<'a, A, N>]) -> Self {
        Self { slots: IterMut::default(), lists: lists.iter_mut() }
    }

    /// Writes the next entry.
    #[inline]
    pub(super) fn push(&mut self, entry: Slot<N>) {
        loop {
            if let Some(slot) = self.slots.next() {
                *slot = entry;
                return;
            }
            let Some(list) = self.lists.next() else {
                return;
            };
            let leads_on = usize::from(self.lists.len() > 0);
            let room = list.slots.len().saturating_sub(leads_on);
            self.slots = list.slots.get_mut(..room).unwrap_or_default().iter_mut();
        }
    }
}

/// Writes what leads from each list to the next one: `lead` gets the number of the next one.
pub(super) fn link<A, const N: usize>(
    lists: &mut [ListMemory<'_, A, N>],
    mut lead: impl FnMut(usize, &ListMemory<'_, A, N>) -> Slot<N>,
) {
    for behind in 1..lists.len() {
        let leads = lists.get(behind).map(|list| lead(behind, list));
        let slot = lists.get_mut(behind.minus(1)).and_then(|list| list.slots.last_mut());
        if let (Some(slot), Some(leads)) = (slot, leads) {
            *slot = leads;
        }
    }
}
