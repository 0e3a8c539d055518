// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is asked for by a program, and done by the controller: the end of a command is an interrupt, whose thread
//! unmaps and unpins the memory.

use crate::{
    command::Command,
    lists::{Format, Lists},
    queue::Queue,
    registers::Registers,
};
use core::{mem, ops::Range};
use kernel::{
    device::{Bound, Device},
    dma::DataDirection,
    irq::{IrqReturn, ThreadedHandler},
    new_condvar, new_mutex,
    prelude::*,
    sync::{Arc, CondVar, Mutex, MutexGuard},
};
use pinned_sgl::kernel::{DevresDmaList, DevresDomain, DevresMapping, UserMem};

/// What a program asks for: the bytes `range` of its memory, which is pinned.
pub(crate) struct Transfer<'a> {
    pub(crate) device: &'a Device<Bound>,
    pub(crate) mem: KBox<UserMem>,
    pub(crate) range: Range<u64>,
    pub(crate) direction: DataDirection,
    pub(crate) format: Format,
    /// Without its memory.
    pub(crate) command: Command,
    pub(crate) again: bool,
}

/// What maps the memory, and writes its lists.
pub(crate) type Way = fn(Transfer<'_>, &Queue, &mut Lists) -> Result<Job>;

/// The memory of a job, mapped for the device. Dropping it unmaps it, unpins it, and gives back what was charged.
#[expect(dead_code, reason = "it is kept until it is dropped")]
pub(crate) enum Memory {
    DmaApi(DevresDmaList),
    Paging(DevresMapping),
}

/// What the controller has to do. All that it needs was allocated when it was made.
pub(crate) struct Job {
    pub(crate) memory: Option<Memory>,
    /// In which the device is until the job is done, if it is not in that of the DMA API.
    pub(crate) _domain: Option<DevresDomain>,
    pub(crate) command: Command,
    /// The controller is given the command once more when the memory is unmapped.
    pub(crate) again: bool,
}

struct State {
    // Dropped before what it has in its domain.
    job: Option<Job>,
    queue: Queue,
    lists: Lists,
    /// How the last job has ended.
    result: Result,
    /// The driver is being unbound: nothing is started any more.
    stopped: bool,
}

/// The jobs of a controller, one after the other.
#[pin_data]
pub(crate) struct Jobs {
    // Dropped first: the controller is disabled before its memory is freed.
    registers: Registers,
    _admin: Queue,
    /// Held by the call that has started the last job, until it has its result, or was interrupted.
    #[pin]
    turn: Mutex<()>,
    #[pin]
    state: Mutex<State>,
    #[pin]
    ended: CondVar,
}

impl Jobs {
    pub(crate) fn new(
        registers: Registers,
        admin: Queue,
        queue: Queue,
        lists: Lists,
    ) -> impl PinInit<Self, Error> {
        let state = State { job: None, queue, lists, result: Ok(()), stopped: false };
        try_pin_init!(Self {
            registers,
            _admin: admin,
            turn <- new_mutex!(()),
            state <- new_mutex!(state),
            ended <- new_condvar!(),
        })
    }

    /// Makes a job when no other is there, and waits for its end. A call that is interrupted leaves it behind, to be
    /// finished without it.
    pub(crate) fn run(&self, make: impl FnOnce(&Queue, &mut Lists) -> Result<Job>) -> Result {
        let _turn = self.turn.lock();
        let mut state = self.state.lock();
        self.wait(&mut state)?;
        if state.stopped {
            return Err(ENODEV);
        }
        let State { queue, lists, job, .. } = &mut *state;
        let command = job.insert(make(queue, lists)?).command;
        if let Err(error) = queue.submit(&self.registers, command) {
            *job = None;
            return Err(error);
        }
        self.wait(&mut state)?;
        state.result
    }

    /// Waits until there is no job.
    fn wait(&self, state: &mut MutexGuard<'_, State>) -> Result {
        while state.job.is_some() {
            if self.ended.wait_interruptible(state) {
                return Err(EINTR);
            }
        }
        Ok(())
    }

    /// Starts nothing any more, and stops the controller. What is left is dropped by [`abandon`](Self::abandon).
    pub(crate) fn stop(&self) -> Result {
        self.state.lock().stopped = true;
        self.registers.disable()
    }

    /// Drops the job whose command has not ended, after the controller was stopped.
    pub(crate) fn abandon(&self) {
        let mut state = self.state.lock();
        if state.job.take().is_some() {
            state.result = Err(ECANCELED);
            self.ended.notify_all();
        }
    }

    /// Looks for the end of a command; whether there was one.
    fn advance(&self, state: &mut State) -> Result<bool> {
        let Some(result) = state.queue.completed(&self.registers)? else {
            return Ok(false);
        };
        if let Some(job) = &mut state.job {
            // The controller has finished with it.
            job.memory = None;
            if mem::take(&mut job.again) && !state.stopped {
                state.queue.submit(&self.registers, job.command)?;
                return Ok(true);
            }
        }
        (state.job, state.result) = (None, result);
        self.ended.notify_all();
        Ok(true)
    }
}

/// In a thread of the interrupt, which may sleep.
pub(crate) struct Interrupt(pub(crate) Arc<Jobs>);

impl ThreadedHandler for Interrupt {
    fn handle_threaded(&self) -> IrqReturn {
        match self.0.advance(&mut self.0.state.lock()) {
            Ok(true) => IrqReturn::Handled,
            _ => IrqReturn::None,
        }
    }
}
