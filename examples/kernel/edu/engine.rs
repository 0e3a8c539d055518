// SPDX-License-Identifier: MIT OR Apache-2.0
//! The device: its registers, and the engine that copies between memory and the device's buffer.

use core::ops::Range;
use kernel::{
    device::Bound,
    io::{poll::read_poll_timeout, Io},
    pci,
    prelude::*,
    time::Delta,
};

/// How many bits an address has that the device can reach.
pub(crate) const ADDRESS_BITS: u32 = 28;
/// How many bytes the device's buffer has: the most that one transfer moves.
pub(crate) const BUFFER_LEN: u32 = 4096;
/// Where the buffer is, as the device counts.
const BUFFER: u32 = 0x4_0000;

mod regs {
    pub(super) const SOURCE: usize = 0x80;
    pub(super) const DESTINATION: usize = 0x88;
    pub(super) const COUNT: usize = 0x90;
    pub(super) const COMMAND: usize = 0x98;
    pub(super) const END: usize = 0xa0;

    /// Starts; is set until the transfer is complete.
    pub(super) const START: u32 = 1;
    /// From the buffer to memory, and not the other way.
    pub(super) const TO_MEMORY: u32 = 2;
}

/// The engine, which was idle when this was made. There is one at a time, because it claims the
/// registers: only what is called here starts the device.
pub(crate) struct Engine<'a> {
    bar: pci::Bar<'a, { regs::END }>,
}

impl<'a> Engine<'a> {
    pub(crate) fn new(device: &'a pci::Device<Bound>) -> Result<Self> {
        let engine = Self { bar: device.iomap_region_sized(0, c"edu")? };
        // A transfer whose caller did not wait any longer.
        if engine.is_busy() {
            return Err(EBUSY);
        }
        Ok(engine)
    }

    /// Whether the device may still reach the memory of the last transfer.
    pub(crate) fn is_busy(&self) -> bool {
        self.bar.read32(regs::COMMAND) & regs::START != 0
    }

    /// Fills the buffer from `addr`.
    pub(crate) fn read(&self, addr: u64, count: u64) -> Result {
        self.transfer(addr, count, 0)
    }

    /// Empties the buffer to `addr`.
    pub(crate) fn write(&self, addr: u64, count: u64) -> Result {
        self.transfer(addr, count, regs::TO_MEMORY)
    }

    /// One transfer, to the end, which is polled for: a `Completion` has no timeout.
    fn transfer(&self, addr: u64, count: u64, direction: u32) -> Result {
        // The device would drop the upper bits, and reach something else.
        if addr.checked_add(count).ok_or(EFAULT)? > 1 << ADDRESS_BITS {
            return Err(EFAULT);
        }
        let (addr, count) = (u32::try_from(addr)?, u32::try_from(count)?);
        let (source, destination) =
            if direction == regs::TO_MEMORY { (BUFFER, addr) } else { (addr, BUFFER) };
        self.bar.write32(source, regs::SOURCE);
        self.bar.write32(destination, regs::DESTINATION);
        self.bar.write32(count, regs::COUNT);
        self.bar.write32(regs::START | direction, regs::COMMAND);
        read_poll_timeout(
            || Ok(self.is_busy()),
            |busy| !busy,
            Delta::from_millis(5),
            Delta::from_secs(5),
        )?;
        Ok(())
    }

    /// Copies what the device sees at the addresses `from` to the addresses `to`, which are as many.
    /// Each is a list of parts, and their borders need not be the same.
    pub(crate) fn copy(
        &self,
        mut from: impl Iterator<Item = Range<u64>>,
        mut to: impl Iterator<Item = Range<u64>>,
    ) -> Result {
        let (mut source, mut destination) = (0..0, 0..0);
        loop {
            if source.is_empty() {
                source = match from.next() {
                    Some(part) => part,
                    None => return Ok(()),
                };
            }
            if destination.is_empty() {
                destination = to.next().ok_or(EINVAL)?;
            }
            let count = (source.end - source.start)
                .min(destination.end - destination.start)
                .min(BUFFER_LEN.into());
            self.read(source.start, count)?;
            self.write(destination.start, count)?;
            source.start += count;
            destination.start += count;
        }
    }
}
