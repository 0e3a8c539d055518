// SPDX-License-Identifier: MIT OR Apache-2.0
//! The device: its registers, and the engine that copies between memory and the device's buffer.

use core::ops::Range;
use kernel::{
    device::Bound,
    dma::DmaAddress,
    io::Io,
    pci::{self, DevresBar},
    prelude::*,
};

/// How many bits an address has that the device can reach.
pub(crate) const ADDRESS_BITS: u32 = 28;
/// How many bytes the device's buffer has: the most that one transfer moves.
pub(crate) const BUFFER_LEN: u32 = 4096;
/// Where the buffer is, as the device counts.
const BUFFER: u32 = 0x4_0000;

mod regs {
    pub(super) const STATUS: usize = 0x24;
    pub(super) const ACKNOWLEDGE: usize = 0x64;
    pub(super) const SOURCE: usize = 0x80;
    pub(super) const DESTINATION: usize = 0x88;
    pub(super) const COUNT: usize = 0x90;
    pub(super) const COMMAND: usize = 0x98;
    pub(super) const END: usize = 0xa0;

    /// Starts; is set until the transfer is complete.
    pub(super) const START: u32 = 1;
    /// From the buffer to memory, and not the other way.
    pub(super) const TO_MEMORY: u32 = 2;
    /// Interrupts at the end.
    pub(super) const INTERRUPT: u32 = 4;

    /// Why it interrupts.
    pub(super) const TRANSFER_ENDED: u32 = 0x100;
}

/// Part of a copy: bytes that go from memory to the buffer, or from there to memory.
#[derive(Clone, Copy)]
pub(crate) struct Transfer {
    addr: u32,
    count: u32,
    to_memory: bool,
}

impl Transfer {
    pub(crate) fn new(addr: DmaAddress, count: u64, to_memory: bool) -> Result<Self> {
        // The device would drop the upper bits, and reach something else.
        if addr.checked_add(count).ok_or(EFAULT)? > 1 << ADDRESS_BITS {
            return Err(EFAULT);
        }
        Ok(Self { addr: addr.try_into()?, count: count.try_into()?, to_memory })
    }
}

/// The transfers that copy what the device sees at the addresses `from` to the addresses `to`, which are as many.
/// Each is a list of parts, and their borders need not be the same.
pub(crate) fn transfers(
    mut from: impl Iterator<Item = Range<u64>>,
    mut to: impl Iterator<Item = Range<u64>>,
) -> Result<KVec<Transfer>> {
    let (mut source, mut destination) = (0..0, 0..0);
    let mut transfers = KVec::new();
    loop {
        if source.is_empty() {
            source = match from.next() {
                Some(part) => part,
                None => return Ok(transfers),
            };
        }
        if destination.is_empty() {
            destination = to.next().ok_or(EINVAL)?;
        }
        let count = (source.end - source.start)
            .min(destination.end - destination.start)
            .min(BUFFER_LEN.into());
        transfers.push(Transfer::new(source.start, count, false)?, GFP_KERNEL_ACCOUNT)?;
        transfers.push(Transfer::new(destination.start, count, true)?, GFP_KERNEL_ACCOUNT)?;
        source.start += count;
        destination.start += count;
    }
}

/// The engine. Its registers can be reached as long as the driver is bound.
pub(crate) struct Engine {
    bar: DevresBar<{ regs::END }>,
}

impl Engine {
    pub(crate) fn new(device: &pci::Device<Bound>) -> Result<Self> {
        let bar = device.iomap_region_sized(0, c"edu")?;
        // A transfer for whose end another driver has not waited.
        if bar.read32(regs::COMMAND) & regs::START != 0 {
            return Err(EBUSY);
        }
        Ok(Self { bar: bar.into_devres()? })
    }

    /// Starts a transfer. Its end is an interrupt.
    pub(crate) fn start(&self, transfer: Transfer) -> Result {
        let bar = self.bar.try_access().ok_or(ENODEV)?;
        let (source, destination, direction) = match transfer.to_memory {
            true => (BUFFER, transfer.addr, regs::TO_MEMORY),
            false => (transfer.addr, BUFFER, 0),
        };
        bar.write32(source, regs::SOURCE);
        bar.write32(destination, regs::DESTINATION);
        bar.write32(transfer.count, regs::COUNT);
        bar.write32(regs::START | regs::INTERRUPT | direction, regs::COMMAND);
        Ok(())
    }

    /// Whether a transfer has ended since this was asked the last time.
    pub(crate) fn has_ended(&self) -> bool {
        let Some(bar) = self.bar.try_access() else {
            return false;
        };
        let status = bar.read32(regs::STATUS);
        bar.write32(status, regs::ACKNOWLEDGE);
        status & regs::TRANSFER_ENDED != 0
    }
}
