// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is asked for by a program, and done by the device: each end of a transfer is an interrupt, whose thread starts
//! the next one, and unmaps and unpins the memory after the last.

use crate::engine::{Engine, Transfer};
use kernel::{
    irq::{IrqReturn, ThreadedHandler},
    new_condvar, new_mutex,
    prelude::*,
    sync::{Arc, CondVar, CondVarTimeoutResult, Mutex, MutexGuard},
    time::msecs_to_jiffies,
};
use pinned_sgl::kernel::{DevresDmaList, DevresDomain, DevresMapping};

/// The memory of a job, mapped for the device. Dropping it unmaps it, unpins it, and gives back what was charged.
#[expect(dead_code, reason = "it is kept until it is dropped")]
pub(crate) enum Memory {
    DmaApi(DevresDmaList, DevresDmaList),
    Paging(DevresMapping, DevresMapping),
}

/// What the device has to do. All that it needs was allocated when it was made.
pub(crate) struct Job {
    pub(crate) memory: Option<Memory>,
    /// In which the device is until the job is done, if it is not in that of the DMA API.
    pub(crate) _domain: Option<DevresDomain>,
    pub(crate) copy: KVec<Transfer>,
    /// What the device tries once the memory is unmapped.
    pub(crate) again: KVec<Transfer>,
    pub(crate) next: usize,
}

impl Job {
    /// The next transfer, if there is one, after all before it have ended.
    fn next(&mut self) -> Option<Transfer> {
        let next = self.next;
        self.next += 1;
        self.copy.get(next).copied().or_else(|| {
            // The device has finished with it.
            self.memory = None;
            self.again.get(next - self.copy.len()).copied()
        })
    }
}

struct State {
    job: Option<Job>,
    /// How the last job has ended.
    result: Result,
    /// The driver is being unbound: nothing is started any more.
    stopped: bool,
}

/// The jobs of a device, one after the other.
#[pin_data]
pub(crate) struct Jobs {
    engine: Engine,
    /// Held by the call that has started the last job, until it has its result, or was interrupted.
    #[pin]
    turn: Mutex<()>,
    #[pin]
    state: Mutex<State>,
    #[pin]
    ended: CondVar,
}

impl Jobs {
    pub(crate) fn new(engine: Engine) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            engine,
            turn <- new_mutex!(()),
            state <- new_mutex!(State { job: None, result: Ok(()), stopped: false }),
            ended <- new_condvar!(),
        })
    }

    /// Makes a job when no other is there, and waits for its end. A call that is interrupted leaves it behind, to be
    /// finished without it.
    pub(crate) fn run(&self, make: impl FnOnce() -> Result<Job>) -> Result {
        let _turn = self.turn.lock();
        let mut state = self.state.lock();
        self.wait(&mut state)?;
        if state.stopped {
            return Err(ENODEV);
        }
        state.job = Some(make()?);
        self.advance(&mut state);
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

    /// Starts what comes next; or the job has ended.
    fn advance(&self, state: &mut State) {
        let Some(job) = &mut state.job else {
            return;
        };
        state.result = match job.next() {
            Some(_) if state.stopped => Err(ECANCELED),
            Some(transfer) => match self.engine.start(transfer) {
                Ok(()) => return,
                error => error,
            },
            None => Ok(()),
        };
        state.job = None;
        self.ended.notify_all();
    }

    /// Lets the running transfer end, and starts no other; whether it has ended. What is left is dropped by
    /// [`abandon`](Self::abandon).
    pub(crate) fn stop(&self) -> bool {
        let mut state = self.state.lock();
        state.stopped = true;
        while state.job.is_some() {
            let patience = msecs_to_jiffies(5000);
            match self.ended.wait_interruptible_timeout(&mut state, patience) {
                CondVarTimeoutResult::Woken { .. } => {}
                CondVarTimeoutResult::Timeout | CondVarTimeoutResult::Signal { .. } => {
                    return false
                }
            }
        }
        true
    }

    /// Drops the job whose transfer has not ended, after the device was stopped otherwise.
    pub(crate) fn abandon(&self) {
        self.state.lock().job = None;
    }
}

/// In a thread of the interrupt, which may sleep.
pub(crate) struct Interrupt(pub(crate) Arc<Jobs>);

impl ThreadedHandler for Interrupt {
    fn handle_threaded(&self) -> IrqReturn {
        let mut state = self.0.state.lock();
        if !self.0.engine.has_ended() {
            return IrqReturn::None;
        }
        self.0.advance(&mut state);
        IrqReturn::Handled
    }
}
