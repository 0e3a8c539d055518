// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Registers`]: what switches a controller on and off, and says that there is something in a queue.

use crate::queue::{Queue, ENTRIES};
use kernel::{
    device::Bound,
    io::{poll::read_poll_timeout, Io as _},
    pci::{self, DevresBar},
    prelude::*,
    time::Delta,
};

mod regs {
    pub(super) const CAPABILITIES: usize = 0x00;
    pub(super) const CONFIGURATION: usize = 0x14;
    pub(super) const STATUS: usize = 0x1c;
    pub(super) const ADMIN_QUEUE_SIZES: usize = 0x24;
    pub(super) const ADMIN_COMMANDS: usize = 0x28;
    pub(super) const ADMIN_COMPLETIONS: usize = 0x30;
    pub(super) const END: usize = 0x38;
    /// Two of each queue, at distances that the capabilities say.
    pub(super) const DOORBELLS: usize = 0x1000;

    /// Enabled, with commands of 2^6 bytes, completions of 2^4, and pages of 4 KiB.
    pub(super) const ENABLE: u32 = 4 << 20 | 6 << 16 | 1;

    pub(super) const READY: u32 = 1;
    pub(super) const FATAL: u32 = 2;
}

/// The registers of a controller, which is disabled when they are dropped. They can be reached as long as the driver
/// is bound.
pub(crate) struct Registers {
    bar: DevresBar<{ regs::END }>,
    capabilities: u64,
}

impl Registers {
    /// Of a controller with pages of 4 KiB, as those that are known have.
    pub(crate) fn new(device: &pci::Device<Bound>) -> Result<Self> {
        let bar = device.iomap_region_sized(0, c"nvme_sgl")?;
        let capabilities = bar.try_read64(regs::CAPABILITIES)?;
        match capabilities >> 48 & 0xf {
            0 => Ok(Self { bar: bar.into_devres()?, capabilities }),
            _ => Err(EOPNOTSUPP),
        }
    }

    /// Enables the controller, whatever has become of it before.
    pub(crate) fn enable(&self, admin: &Queue) -> Result {
        self.disable()?;
        let sizes = (ENTRIES as u32 - 1) * (1 << 16 | 1);
        let access = self.bar.try_access_with(|bar| {
            bar.write32(sizes, regs::ADMIN_QUEUE_SIZES);
            bar.try_write64(admin.commands().dma_address(), regs::ADMIN_COMMANDS)?;
            bar.try_write64(admin.completions().dma_address(), regs::ADMIN_COMPLETIONS)?;
            bar.write32(regs::ENABLE, regs::CONFIGURATION);
            Ok::<_, Error>(())
        });
        access.ok_or(ENODEV)??;
        match self.wait(|status| status & (regs::READY | regs::FATAL) != 0)? & regs::FATAL {
            0 => Ok(()),
            _ => Err(EIO),
        }
    }

    /// Disables it: from then on it reaches no memory, and has forgotten all commands.
    pub(crate) fn disable(&self) -> Result {
        self.bar.try_access().ok_or(ENODEV)?.write32(0, regs::CONFIGURATION);
        self.wait(|status| status & regs::READY == 0).map(drop)
    }

    /// Waits as long as the controller says that it may take.
    fn wait(&self, mut until: impl FnMut(u32) -> bool) -> Result<u32> {
        let patience = Delta::from_millis(500 * (self.capabilities >> 24 & 0xff) as i64);
        let read = || Ok(self.bar.try_access().ok_or(ENODEV)?.read32(regs::STATUS));
        read_poll_timeout(read, |status| until(*status), Delta::from_millis(1), patience)
    }

    /// Says how far the commands of a queue were written, or its completions read.
    pub(crate) fn ring(&self, queue: u16, completions: bool, entry: usize) -> Result {
        let stride = 4 << (self.capabilities >> 32 & 0xf);
        let bell = usize::from(queue) * 2 + usize::from(completions);
        let bar = self.bar.try_access().ok_or(ENODEV)?;
        bar.try_write32(entry as u32, regs::DOORBELLS + bell * stride)
    }
}

impl Drop for Registers {
    fn drop(&mut self) {
        let _ = self.disable();
    }
}
