// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`DescriptorError`]: why a format cannot express some memory, or cannot be written where it should be.
#![forbid(unsafe_code)]

use core::fmt;

/// Why no list of descriptors can be written. Nothing has been written then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DescriptorError {
    /// There are no bytes.
    Empty,
    /// The format itself cannot be: a page of less than 4 KiB or more than 128 MiB, flags that do not fit, ..
    Format,
    /// Bytes begin at no multiple of what the format wants there.
    Start {
        /// Where in the memory.
        offset: u64,
        /// Where the device has them.
        addr: u64,
        /// What it has to be a multiple of.
        align: u64,
    },
    /// Contiguous bytes end at no multiple of what the format wants there.
    End {
        /// Where in the memory.
        offset: u64,
        /// What the address has to be a multiple of.
        align: u64,
    },
    /// A byte has an address that the device cannot use.
    Unreachable {
        /// Where in the memory it is: the first one.
        offset: u64,
        /// Its address.
        addr: u64,
        /// The last address that the device can use.
        last: u64,
    },
    /// The device does not take so many bytes, or none that are no multiple of its sectors.
    Length {
        /// The bytes.
        len: u64,
        /// The most that it takes.
        max: u64,
        /// The bytes of a sector.
        sector: u64,
    },
    /// There is too little room for the descriptors.
    Room {
        /// How many slots are needed, those that lead from list to list included.
        needed: u64,
        /// How many there are.
        given: u64,
    },
    /// The memory of a list is not as the format wants it.
    List {
        /// The number of the list.
        index: usize,
        /// Where the device has it.
        addr: u64,
        /// What the address has to be a multiple of.
        align: u64,
        /// How many slots it has to have; zero, if any number will do.
        slots: usize,
    },
    /// The device cannot use the address of a list.
    ListUnreachable {
        /// The number of the list.
        index: usize,
        /// Where it is.
        addr: u64,
        /// The last address that the device can use.
        last: u64,
    },
}

impl fmt::Display for DescriptorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("there are no bytes"),
            Self::Format => f.write_str("no controller has such a format"),
            Self::Start { offset, addr, align } => write!(
                f,
                "byte {offset:#x} lies at {addr:#x}, and must lie at a multiple of {align:#x}"
            ),
            Self::End { offset, align } => write!(
                f,
                "contiguous bytes end before byte {offset:#x}, and must \
                 end at a multiple of {align:#x}"
            ),
            Self::Unreachable { offset, addr, last } => write!(
                f,
                "byte {offset:#x} lies at {addr:#x}, and the device reaches \
                 no further than {last:#x}"
            ),
            Self::Length { len, max, sector } => write!(
                f,
                "{len:#x} bytes, of a device that takes multiples of {sector:#x} up to {max:#x}"
            ),
            Self::Room { needed, given } => {
                write!(f, "there are {given} slots for descriptors, and {needed} are needed")
            }
            Self::List { index, addr, align, slots } => {
                write!(
                    f,
                    "list {index} lies at {addr:#x}, and must lie at a multiple \
                     of {align:#x}"
                )?;
                match slots {
                    0 => Ok(()),
                    slots => write!(f, " and have {slots} slots"),
                }
            }
            Self::ListUnreachable { index, addr, last } => write!(
                f,
                "list {index} lies at {addr:#x}, and the device reaches \
                 no further than {last:#x}"
            ),
        }
    }
}

impl core::error::Error for DescriptorError {}
