// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Identity`]: what a controller says of itself and of its disk, and the limits that follow for a command.

use crate::{
    command::{Command, NAMESPACE},
    lists::LONGEST,
    queue::Queue,
    registers::Registers,
};
use kernel::{
    debugfs::Writer,
    device::{Bound, Device},
    dma::Coherent,
    fmt,
    io::io_read,
    prelude::*,
};
use pinned_sgl::{
    descriptor::{DescriptorError, NvmeSgl, Prp, TransferLimits},
    PageSize,
};

pub(crate) struct Identity {
    /// The bytes of a sector, and how many there are.
    sector: u64,
    sectors: u64,
    /// The bytes of a command at most.
    max_len: u64,
    /// Which scatter-gather lists it takes.
    sgls: u32,
}

impl Identity {
    /// Asks the controller. What the DMA API maps has `most` bytes.
    pub(crate) fn read(
        device: &Device<Bound>,
        registers: &Registers,
        admin: &mut Queue,
        most: u64,
    ) -> Result<Self> {
        let answer = Coherent::<u32>::zeroed_slice(device, 1024, GFP_KERNEL)?;

        admin.run(registers, Command::identify(1, 0, answer.dma_address()))?;
        let max_len = match io_read!(answer, [try: 19]) >> 8 & 0xff {
            0 => LONGEST,
            pages => 1u64.checked_shl(12 + pages).unwrap_or(LONGEST).min(LONGEST),
        };
        let sgls = io_read!(answer, [try: 134]);

        admin.run(registers, Command::identify(0, NAMESPACE, answer.dma_address()))?;
        let format = io_read!(answer, [try: 6]) >> 16 & 0xf;
        let shift = io_read!(answer, [try: 32 + format as usize]) >> 16 & 0xff;
        let sector = 1u64.checked_shl(shift).ok_or(EINVAL)?;
        let sectors = [io_read!(answer, [try: 0]), io_read!(answer, [try: 1])];
        let sectors = u64::from(sectors[1]) << 32 | u64::from(sectors[0]);
        Ok(Self { sector, sectors, max_len: max_len.min(most), sgls })
    }

    /// How many sectors `len` bytes are, which are on the disk from `lba` on.
    pub(crate) fn sectors(&self, lba: u64, len: u64) -> Result<u16> {
        if len == 0 || len > self.max_len || len % self.sector != 0 {
            return Err(EINVAL);
        }
        let count = len / self.sector;
        if lba.checked_add(count).is_none_or(|end| end > self.sectors) {
            return Err(EINVAL);
        }
        Ok(count.try_into()?)
    }

    fn limits(&self) -> Result<TransferLimits, DescriptorError> {
        TransferLimits::NONE.max_len(self.max_len).sector(self.sector)
    }

    pub(crate) fn prp(&self) -> Result<Prp, DescriptorError> {
        Prp::new(PageSize::SIZE_4K, self.limits()?)
    }

    pub(crate) fn sgl(&self) -> Result<NvmeSgl, DescriptorError> {
        NvmeSgl::new(self.sgls, self.limits()?)
    }
}

impl Writer for Identity {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "sector {}", self.sector)?;
        writeln!(f, "sectors {}", self.sectors)?;
        writeln!(f, "max {}", self.max_len)?;
        writeln!(f, "sgls {:#x}", self.sgls)
    }
}
