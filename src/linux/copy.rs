// SPDX-License-Identifier: MIT OR Apache-2.0
//! Copies to and from memory that a device may use at the same time: each byte once, volatile.
//!
//! ```text
//!        word      word      word      word
//!    ┼─────────┼─────────┼─────────┼─────────┼
//!         ├bytes┤├──── words ─────┤├bytes┤
//! ```

use core::ptr;

const WORD: usize = size_of::<usize>();

/// How many bytes lie before the first whole word, and how many words follow, of `len` bytes from
/// the address `addr` on.
fn split(addr: usize, len: usize) -> (usize, usize) {
    let head = (addr.wrapping_neg() & WORD.wrapping_sub(1)).min(len);
    (head, len.wrapping_sub(head) & !WORD.wrapping_sub(1))
}

/// Copies `bytes.len()` bytes from `from` on out of memory.
///
/// # Safety
///
/// They are readable, no reference to them exists, and no thread of this process writes to them.
pub(super) unsafe fn read(from: *const u8, bytes: &mut [u8]) {
    let (head, words) = split(from.addr(), bytes.len());
    let mut place = from;
    let single = |place: &mut *const u8, byte: &mut u8| {
        // SAFETY: one of the bytes that the caller answers for; a device may write, and the read is
        // volatile.
        *byte = unsafe { ptr::read_volatile(*place) };
        *place = place.wrapping_add(1);
    };
    let (before, rest) = bytes.split_at_mut_checked(head).unwrap_or_default();
    let (middle, after) = rest.split_at_mut_checked(words).unwrap_or_default();
    before.iter_mut().for_each(|byte| single(&mut place, byte));
    for word in middle.chunks_exact_mut(WORD) {
        // SAFETY: "valid for reads, aligned, initialised": the bytes of a whole word, for which the
        // caller answers; it is aligned, as `head` bytes were skipped to make it so, and whole words
        // since. A device may write them; the read is volatile.
        let value = unsafe { ptr::read_volatile(place.cast::<usize>()) };
        word.copy_from_slice(&value.to_ne_bytes());
        place = place.wrapping_add(WORD);
    }
    after.iter_mut().for_each(|byte| single(&mut place, byte));
}

/// Copies `bytes` to the memory from `to` on.
///
/// # Safety
///
/// The memory is writable, no reference to it exists, and no other thread of this process reads or
/// writes it.
pub(super) unsafe fn write(to: *mut u8, bytes: &[u8]) {
    let (head, words) = split(to.addr(), bytes.len());
    let mut place = to;
    let single = |place: &mut *mut u8, byte: u8| {
        // SAFETY: one of the bytes that the caller answers for; a device may read, and the write is
        // volatile.
        unsafe { ptr::write_volatile(*place, byte) };
        *place = place.wrapping_add(1);
    };
    let (before, rest) = bytes.split_at_checked(head).unwrap_or_default();
    let (middle, after) = rest.split_at_checked(words).unwrap_or_default();
    before.iter().for_each(|byte| single(&mut place, *byte));
    for word in middle.chunks_exact(WORD) {
        let value = word.try_into().map_or(0, usize::from_ne_bytes);
        // SAFETY: "valid for writes, aligned": the bytes of a whole word, for which the caller answers;
        // it is aligned, as `head` bytes were skipped to make it so, and whole words since. A device may
        // read them; the write is volatile.
        unsafe { ptr::write_volatile(place.cast::<usize>(), value) };
        place = place.wrapping_add(WORD);
    }
    after.iter().for_each(|byte| single(&mut place, *byte));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn every_alignment_and_length_is_copied_and_nothing_else() {
        for start in 0..2 * WORD {
            for len in 0..4 * WORD {
                let mut memory = [0xee_u8; 8 * WORD];
                let bytes: Vec<u8> = (1..).take(len).collect();
                // SAFETY: the bytes lie in the array, which only this thread knows.
                unsafe { write(memory.as_mut_ptr().add(start), &bytes) };
                let mut expected = [0xee_u8; 8 * WORD];
                expected[start..start + len].copy_from_slice(&bytes);
                assert_eq!(memory, expected);
                let mut back = std::vec![0; len];
                // SAFETY: the bytes lie in the array, which only this thread knows.
                unsafe { read(memory.as_ptr().add(start), &mut back) };
                assert_eq!(back, bytes);
            }
        }
    }
}
