// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Container`]: what a program opens: its mappings, in every domain of its groups.
//!
//! ```text
//!  dmas    what the program has asked for: always
//!  ioas    the same, pinned and mapped in all domains: as long as there is a domain
//! ```

use crate::{
    abi::{self, UserBitmap},
    dma::Dma,
    domain::GroupDomain,
    ffi,
    groups::Group,
    memory::{Pinned, PAGE, PAGE_SIZE},
    ranges::Ranges,
};
use kernel::{
    bindings, new_mutex,
    prelude::*,
    rbtree::RBTree,
    sync::{Arc, Mutex, MutexGuard},
    types::Opaque,
};
use pinned_sgl::{iommu::IovaRange, kernel::KmallocIoas, PageSize};

type Region = KBox<Pinned>;
pub(crate) type Domain = Arc<GroupDomain>;
pub(crate) type Space = KmallocIoas<Region, Domain>;

pub(crate) struct State {
    pub(crate) v2: bool,
    // Dropped first: unmaps and unpins.
    pub(crate) ioas: Space,
    pub(crate) dmas: RBTree<u64, Dma>,
    pub(crate) groups: KVec<Group>,
    /// The addresses that can be used.
    pub(crate) ranges: Ranges,
    /// Mappings that may still be made.
    pub(crate) available: u32,
    /// Mappings whose memory will lie elsewhere.
    pub(crate) moving: usize,
    pub(crate) tracking: bool,
    /// Devices that are notified of an unmap. They are in memory, so that it cannot overflow.
    pub(crate) devices: usize,
    /// What is being unmapped while devices are notified: nothing of it is pinned any more.
    pub(crate) going: Option<IovaRange>,
}

/// A container of vfio.
#[pin_data(PinnedDrop)]
pub(crate) struct Container {
    #[pin]
    state: Mutex<State>,
    /// The devices. Never taken with `state` locked: a device that is notified takes that one.
    #[pin]
    devices: Mutex<Devices>,
}

struct Devices(KBox<Opaque<bindings::list_head>>);

// SAFETY: a list, which is used under a lock.
unsafe impl Send for Devices {}

impl Devices {
    fn new() -> Result<Self> {
        let list = KBox::new(Opaque::uninit(), GFP_KERNEL_ACCOUNT)?;
        // SAFETY: there is room for it, and it stays where it is.
        unsafe { ffi::vfio_type1_devices_init(list.get()) };
        Ok(Self(list))
    }
}

impl Container {
    pub(crate) fn new(v2: bool) -> Result<Pin<KBox<Self>>> {
        let state = State {
            v2,
            ioas: Space::new(GFP_KERNEL_ACCOUNT),
            dmas: RBTree::new(),
            groups: KVec::new(),
            ranges: Ranges::new(),
            available: ffi::vfio_type1_entry_limit(),
            moving: 0,
            tracking: false,
            devices: 0,
            going: None,
        };
        let devices = Devices::new()?;
        KBox::pin_init(
            pin_init!(Self {
                state <- new_mutex!(state),
                devices <- new_mutex!(devices),
            }? Error),
            GFP_KERNEL_ACCOUNT,
        )
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    pub(crate) fn is_coherent(&self) -> bool {
        self.state.lock().ioas.domains().all(|(_, domain)| domain.coherent)
    }

    pub(crate) fn has_emulated(&self) -> bool {
        self.state.lock().has_emulated()
    }

    /// # Safety
    ///
    /// The device stays until it is removed.
    pub(crate) unsafe fn add_device(&self, device: *mut ffi::VfioDevice) {
        let devices = self.devices.lock();
        // SAFETY: the list was made by `Devices::new()` and is locked; the device stays until it is removed, as the
        // caller promises.
        unsafe { ffi::vfio_type1_devices_add(devices.0.get(), device) };
        drop(devices);
        let mut state = self.state.lock();
        state.devices = state.devices.saturating_add(1);
    }

    /// # Safety
    ///
    /// The device was added.
    pub(crate) unsafe fn remove_device(&self, device: *mut ffi::VfioDevice) {
        let mut state = self.state.lock();
        state.devices = state.devices.saturating_sub(1);
        drop(state);
        let _devices = self.devices.lock();
        // SAFETY: the device was added, as the caller promises, to this list, which is locked.
        unsafe { ffi::vfio_type1_devices_remove(device) };
    }

    /// Unmaps, and returns how many bytes. Devices that have pinned pages of it must let go first.
    pub(crate) fn unmap(
        &self,
        flags: u32,
        iova: u64,
        size: u64,
        bitmap: Option<UserBitmap>,
    ) -> Result<u64> {
        let mut state = self.state.lock();
        let what = state.check_unmap(flags, iova, size, bitmap.as_ref())?;
        if flags & abi::unmap::VADDR != 0 {
            return state.start_moving(what);
        }
        if state.pinned_in(what).is_none() {
            return state.unmap(what, bitmap.as_ref());
        }
        drop(state);
        // One at a time. The devices will unpin, which takes the lock of the state.
        let devices = self.devices.lock();
        // What the devices have pinned only gets less from now on.
        self.state.lock().going = Some(what.range);
        let unmapped = self.unmap_pinned(&devices, flags, iova, size, bitmap);
        self.state.lock().going = None;
        unmapped
    }

    fn unmap_pinned(
        &self,
        devices: &Devices,
        flags: u32,
        iova: u64,
        size: u64,
        bitmap: Option<UserBitmap>,
    ) -> Result<u64> {
        // A device that does not let go of its pages is a bug in its driver: it is asked ten times more.
        let (mut asked, mut times) = (None, 0u32);
        while times < 10 {
            let mut state = self.state.lock();
            // Whatever was there may be another one now.
            let what = state.check_unmap(flags, iova, size, bitmap.as_ref())?;
            let Some(pinned) = state.pinned_in(what) else {
                return state.unmap(what, bitmap.as_ref());
            };
            if state.devices == 0 {
                break;
            }
            drop(state);
            if ffi::vfio_type1_killed() {
                return Err(EINTR);
            }
            times = if asked == Some(pinned) { times.saturating_add(1) } else { 0 };
            asked = Some(pinned);
            let (first, len) = (pinned.first().get(), pinned.len().unwrap_or(u64::MAX));
            // SAFETY: the devices are in the list as long as it is locked.
            unsafe { ffi::vfio_type1_devices_notify(devices.0.get(), first, len) };
        }
        kernel::warn_on!(true);
        Err(EBUSY)
    }
}

#[pinned_drop]
impl PinnedDrop for Container {
    fn drop(self: Pin<&mut Self>) {
        let mut state = self.state.lock();
        state.remove_all();
        let groups = core::mem::take(&mut state.groups);
        for group in groups {
            state.leave(&group);
        }
    }
}

/// What of a container is reached under its lock.
impl State {
    pub(crate) fn is_paged(&self) -> bool {
        self.ioas.domains().next().is_some()
    }

    pub(crate) fn has_emulated(&self) -> bool {
        self.groups.iter().any(|group| group.domain.is_none())
    }

    /// The sizes of pages that all domains have, as the program sees them: smaller ones than those of
    /// the CPU cannot be used.
    pub(crate) fn size_bits(&self) -> u64 {
        let each = self.ioas.domains().map(|(_, domain)| domain.size_bits());
        let bits = each.reduce(|bits, more| bits & more).unwrap_or(!(PAGE - 1));
        if bits & (PAGE - 1) != 0 {
            bits & !(PAGE - 1) | PAGE
        } else {
            bits
        }
    }

    /// The smallest page: the granule of everything.
    pub(crate) fn page(&self) -> PageSize {
        let bits = self.size_bits();
        PageSize::new(1u64.checked_shl(bits.trailing_zeros()).unwrap_or(PAGE)).unwrap_or(PAGE_SIZE)
    }

    pub(crate) fn is_v2(&self) -> bool {
        self.v2
    }

    pub(crate) fn available(&self) -> u32 {
        self.available
    }

    pub(crate) fn ranges(&self) -> &Ranges {
        &self.ranges
    }
}
