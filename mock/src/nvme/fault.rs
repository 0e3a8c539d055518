// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why a controller could not follow a list, and where.

use crate::DmaFault;
use std::fmt;

/// An entry of a list: which list, in the order in which they are found, and which of its slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// PRP1, PRP2 or SGL1, in the command.
    Command {
        /// The number of the pointer, from 1.
        pointer: u32,
    },
    /// In memory.
    List {
        /// The number of the list.
        list: u64,
        /// The number of the slot.
        slot: u64,
    },
}

/// Why a controller could not move bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NvmeFault {
    /// The bytes from `offset` on cannot be accessed where the list says; some of them may have been.
    Data {
        /// How many bytes come before.
        offset: u64,
        /// Why.
        fault: DmaFault,
    },
    /// An entry cannot be read.
    Unreadable {
        /// Which one.
        entry: Entry,
        /// Why.
        fault: DmaFault,
    },
    /// An entry has an address that is no multiple of what it must be.
    Misaligned {
        /// Which one.
        entry: Entry,
        /// The address.
        addr: u64,
        /// What it must be a multiple of.
        align: u64,
    },
    /// A descriptor is of a kind that may not be there: data before the end of a list that leads on, for example.
    Kind {
        /// Which one.
        entry: Entry,
        /// Its last byte.
        kind: u8,
    },
    /// What leads to a list says that it has so many bytes, which are no descriptors.
    ListLength {
        /// Which one.
        entry: Entry,
        /// The bytes.
        len: u32,
    },
    /// Scatter-gather lists describe fewer bytes than the command moves, or more.
    Length {
        /// As many as were found, or as many as there are at least.
        described: u64,
        /// As many as are moved.
        needed: u64,
    },
    /// There are more lists than any command needs: they may lead in a circle.
    TooManyLists,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Command { pointer } => write!(f, "pointer {pointer} of the command"),
            Self::List { list, slot } => write!(f, "slot {slot} of list {list}"),
        }
    }
}

impl fmt::Display for NvmeFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Data { offset, .. } => write!(f, "byte {offset:#x} cannot be moved"),
            Self::Unreadable { entry, .. } => write!(f, "{entry} cannot be read"),
            Self::Misaligned { entry, addr, align } => {
                write!(f, "{entry} has {addr:#x}, which is no multiple of {align:#x}")
            }
            Self::Kind { entry, kind } => write!(f, "{entry} is of the kind {kind:#x}"),
            Self::ListLength { entry, len } => {
                write!(f, "{entry} leads to a list of {len:#x} bytes")
            }
            Self::Length { described, needed } => {
                write!(f, "{described:#x} bytes are described, and {needed:#x} are moved")
            }
            Self::TooManyLists => f.write_str("the lists do not end"),
        }
    }
}

impl std::error::Error for NvmeFault {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Data { fault, .. } | Self::Unreadable { fault, .. } => Some(fault),
            _ => None,
        }
    }
}
