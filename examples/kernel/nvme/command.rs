// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Command`]: what a controller is asked for, as it lies in a queue.

use crate::queue::{Queue, ENTRIES};
use kernel::prelude::*;

/// The one namespace, which is the disk.
pub(crate) const NAMESPACE: u32 = 1;

/// Where the bytes of a command are: PRP1 and PRP2, or SGL1.
#[derive(Clone, Copy)]
pub(crate) enum Data {
    Prp([u64; 2]),
    Sgl([u8; 16]),
}

/// 64 bytes. The numbers are little-endian, as the machine is.
#[repr(C)]
#[derive(Clone, Copy, Default, FromBytes, IntoBytes)]
pub(crate) struct Command {
    opcode: u8,
    flags: u8,
    id: u16,
    namespace: u32,
    unused: [u64; 2],
    data: [u64; 2],
    words: [u32; 6],
}

const _: () = assert!(cfg!(target_endian = "little"));
// SAFETY: numbers, without anything between them.
unsafe impl kernel::transmute::AsBytes for Command {}
// SAFETY: numbers, any of which will do.
unsafe impl kernel::transmute::FromBytes for Command {}

impl Command {
    /// Bytes of the disk, to it or from there; where they are in memory is not said yet.
    pub(crate) fn transfer(writes: bool, lba: u64, sectors: u16) -> Self {
        let words = [lba as u32, (lba >> 32) as u32, (sectors - 1).into(), 0, 0, 0];
        let opcode = if writes { 0x01 } else { 0x02 };
        Self { opcode, namespace: NAMESPACE, words, ..Self::default() }
    }

    /// With bytes in memory.
    pub(crate) fn with(self, data: Data) -> Self {
        match data {
            Data::Prp(data) => Self { flags: 0, data, ..self },
            Data::Sgl(bytes) => Self { flags: 1 << 6, data: zerocopy::transmute!(bytes), ..self },
        }
    }

    /// What there is to know of a controller (`what` is 1), or of a namespace (0): a page at `addr`.
    pub(crate) fn identify(what: u32, namespace: u32, addr: u64) -> Self {
        let words = [what, 0, 0, 0, 0, 0];
        Self { opcode: 0x06, namespace, data: [addr, 0], words, ..Self::default() }
    }

    /// With interrupts, by the first vector, which all queues have: a line has no other.
    pub(crate) fn create_completion_queue(queue: &Queue) -> Self {
        let number = u32::from(queue.number());
        Self::create_queue(0x05, number, queue.completions().dma_address(), 0b11)
    }

    pub(crate) fn create_submission_queue(queue: &Queue) -> Self {
        let number = u32::from(queue.number());
        Self::create_queue(0x01, number, queue.commands().dma_address(), number << 16 | 0b01)
    }

    fn create_queue(opcode: u8, number: u32, addr: u64, how: u32) -> Self {
        let words = [number | (ENTRIES as u32 - 1) << 16, how, 0, 0, 0, 0];
        Self { opcode, data: [addr, 0], words, ..Self::default() }
    }
}
