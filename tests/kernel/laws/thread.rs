// SPDX-License-Identifier: MIT OR Apache-2.0
//! A thread of the kernel, and the wait for its end.

use kernel::{
    bindings,
    prelude::*,
    sync::{Arc, Completion},
    workqueue::Queue,
};

pub(crate) struct Thread(Arc<Completion>);

impl Thread {
    pub(crate) fn start(act: impl FnOnce() + Send + 'static) -> Result<Self> {
        let ended = Arc::pin_init(Completion::new(), GFP_KERNEL)?;
        let end = ended.clone();
        // SAFETY: this queue is there as long as the kernel is.
        let queue = unsafe { Queue::from_raw(bindings::system_dfl_wq) };
        queue.try_spawn(GFP_KERNEL, move || {
            act();
            end.complete_all();
        })?;
        Ok(Self(ended))
    }

    pub(crate) fn join(self) {
        self.0.wait_for_completion();
    }
}
