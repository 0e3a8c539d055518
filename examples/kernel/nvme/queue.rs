// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Queue`]: a ring of commands, and a ring of what became of them.

use crate::{command::Command, registers::Registers};
use kernel::{
    device::{Bound, Device},
    dma::Coherent,
    io::{io_project, io_read, poll::read_poll_timeout, Io as _},
    prelude::*,
    time::Delta,
};

/// The entries of a ring. One command runs at a time, so these are the fewest that there may be.
pub(crate) const ENTRIES: usize = 2;

/// Both rings, in memory that the controller reaches.
pub(crate) struct Queue {
    number: u16,
    commands: Coherent<[Command]>,
    completions: Coherent<[[u32; 4]]>,
    /// Where the next command goes, and where the next completion comes.
    next: [usize; 2],
    /// The bit that a new completion has: the other one in each turn of the ring.
    phase: u32,
}

impl Queue {
    /// The admin queue has the number 0.
    pub(crate) fn new(device: &Device<Bound>, number: u16) -> Result<Self> {
        Ok(Self {
            number,
            commands: Coherent::zeroed_slice(device, ENTRIES, GFP_KERNEL)?,
            completions: Coherent::zeroed_slice(device, ENTRIES, GFP_KERNEL)?,
            next: [0, 0],
            phase: 1,
        })
    }

    pub(crate) fn number(&self) -> u16 {
        self.number
    }

    pub(crate) fn commands(&self) -> &Coherent<[Command]> {
        &self.commands
    }

    pub(crate) fn completions(&self) -> &Coherent<[[u32; 4]]> {
        &self.completions
    }

    /// Gives the controller a command, when it has none of this queue.
    pub(crate) fn submit(&mut self, registers: &Registers, command: Command) -> Result {
        let [tail, _] = &mut self.next;
        io_project!(self.commands, [try: *tail]).copy_write(command);
        *tail = (*tail + 1) % ENTRIES;
        registers.ring(self.number, false, *tail)
    }

    /// What became of a command, if one has ended.
    pub(crate) fn completed(&mut self, registers: &Registers) -> Result<Option<Result>> {
        let [_, head] = &mut self.next;
        let status = io_read!(self.completions, [try: *head][try: 3]) >> 16;
        if status & 1 != self.phase {
            return Ok(None);
        }
        *head = (*head + 1) % ENTRIES;
        self.phase ^= u32::from(*head == 0);
        registers.ring(self.number, true, *head)?;
        Ok(Some(match status >> 1 {
            0 => Ok(()),
            status => {
                pr_info!("a command has failed: status {:#x}\n", status);
                Err(EIO)
            }
        }))
    }

    /// The same, when the controller is asked for something whose end is looked for.
    pub(crate) fn run(&mut self, registers: &Registers, command: Command) -> Result {
        self.submit(registers, command)?;
        let (pause, patience) = (Delta::from_millis(1), Delta::from_millis(5000));
        read_poll_timeout(|| self.completed(registers), Option::is_some, pause, patience)?
            .unwrap_or(Err(EIO))
    }
}
