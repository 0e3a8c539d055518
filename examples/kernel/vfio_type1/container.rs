// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Container`]: what a program opens: its mappings, in every domain of its groups.
//!
//! ```text
//!  dmas    what the program has asked for: always
//!  ioas    the same, pinned and mapped in all domains: as long as there is a domain
//! ```

use crate::{
    abi::{self, UserBitmap},
    dirty,
    domain::{GroupDomain, GroupPtr},
    ffi,
    memory::{Memory, Pinned, PAGE, PAGE_SIZE},
    ranges::Ranges,
};
use kernel::{
    bindings, new_mutex,
    prelude::*,
    rbtree::{RBTree, RBTreeNodeReservation},
    sync::{Arc, Mutex, MutexGuard, UniqueArc},
    types::Opaque,
};
use pinned_sgl::{
    iommu::{DirtyBitmap, DomainId, IoasError, IovaRange, Placement, Prot},
    kernel::KmallocIoas,
    Iova, PageSize,
};

type Region = KBox<Pinned>;
type Domain = Arc<GroupDomain>;
type Space = KmallocIoas<Region, Domain>;

/// What a program has mapped.
pub(crate) struct Dma {
    range: IovaRange,
    prot: Prot,
    /// Whether the program has said that its memory will lie elsewhere.
    moving: bool,
    memory: Arc<Memory>,
    /// A bit for each page of the CPU, while pages are tracked. The program's pages are larger if those
    /// of the IOMMU are, which may change.
    dirty: Option<KVVec<u64>>,
}

impl Dma {
    fn first(&self) -> u64 {
        self.range.first().get()
    }

    fn last(&self) -> u64 {
        self.range.last().get()
    }

    /// How many bytes; as many as 64 bits can tell.
    fn len(&self) -> u64 {
        self.range.len().unwrap_or(u64::MAX)
    }

    /// Begins to track: pages that emulated devices have pinned count as written.
    fn track(&mut self, page: PageSize) -> Result {
        if self.len() >> page.shift() > abi::BITMAP_PAGES {
            return Err(EINVAL);
        }
        self.dirty = Some(blank(self.range, PAGE_SIZE)?);
        self.pinned_is_written();
        Ok(())
    }

    fn pinned_is_written(&mut self) {
        let memory = self.memory.clone();
        memory.each_external(|offset| self.written(offset, PAGE));
    }

    /// Marks bytes as written, if pages are tracked.
    fn written(&mut self, offset: u64, len: u64) {
        let Some(words) = &mut self.dirty else { return };
        let first = self.range.first().checked_add(offset);
        let written = first.and_then(|first| IovaRange::new(first, len).ok());
        if let (Ok(mut bits), Some(written)) =
            (DirtyBitmap::new(words, self.range, PAGE_SIZE), written)
        {
            bits.set(written);
        }
    }

    fn all_written(&mut self) {
        self.written(0, self.len());
    }

    /// The bits for pages of another size.
    fn in_pages_of(&self, page: PageSize) -> Result<KVVec<u64>> {
        let fine = self.dirty.as_ref().ok_or(EINVAL)?;
        let mut words = blank(self.range, page)?;
        let mut bits = DirtyBitmap::new(&mut words, self.range, page).map_err(|_| EINVAL)?;
        dirty::coarsen(fine, PAGE_SIZE, &mut bits);
        Ok(words)
    }

    /// Writes the bits to the program, whose bitmap begins at `base`. Bits of other mappings in the
    /// first word stay.
    fn tell(&self, page: PageSize, base: u64, user: &UserBitmap) -> Result {
        let larger = if page == PAGE_SIZE { None } else { Some(self.in_pages_of(page)?) };
        let words = larger.as_ref().or(self.dirty.as_ref()).ok_or(EINVAL)?;
        let bit = self.first().checked_sub(base).ok_or(EINVAL)? >> page.shift();
        let shift = u32::try_from(bit & 63)?;
        let at = (bit >> 6).checked_mul(8).and_then(|offset| user.data.checked_add(offset));
        let mut at = at.and_then(|at| usize::try_from(at).ok()).ok_or(EFAULT)?;
        let bits = (self.len() >> page.shift()).checked_add(shift.into()).ok_or(EINVAL)?;
        let mut left = usize::try_from(bits.div_ceil(64)).map_err(|_| EFAULT)?;
        let mut carry = if shift == 0 { 0 } else { abi::Words::<2>::read(at)?.u64(0) };
        let mut words = words.iter();
        let mut bytes = KVec::with_capacity(left.min(512).saturating_mul(8), GFP_KERNEL)?;
        while left > 0 {
            let some = left.min(512);
            bytes.clear();
            for _ in 0..some {
                let word = words.next().copied().unwrap_or(0);
                let (low, high) = dirty::split(word, shift);
                bytes.extend_from_slice(&(low | carry).to_ne_bytes(), GFP_KERNEL)?;
                carry = high;
            }
            abi::write(at, &bytes)?;
            at = at.checked_add(bytes.len()).ok_or(EFAULT)?;
            left = left.saturating_sub(some);
        }
        Ok(())
    }
}

/// A bitmap for the pages of a range, none of which is written.
fn blank(range: IovaRange, page: PageSize) -> Result<KVVec<u64>> {
    let words = usize::try_from(DirtyBitmap::words_for(range, page)).map_err(|_| ENOMEM)?;
    Ok(KVVec::from_elem(0, words, GFP_KERNEL)?)
}

/// A group of devices in the container.
struct Group {
    raw: GroupPtr,
    /// Its domain; none if its devices are emulated.
    domain: Option<DomainId>,
    /// Whether its devices write only to pages that they have pinned.
    pins_what_it_writes: bool,
}

/// What to map.
pub(crate) struct Request {
    pub(crate) flags: u32,
    pub(crate) vaddr: u64,
    pub(crate) range: IovaRange,
}

pub(crate) struct State {
    v2: bool,
    // Dropped first: unmaps and unpins.
    ioas: Space,
    dmas: RBTree<u64, Dma>,
    groups: KVec<Group>,
    /// The addresses that can be used.
    ranges: Ranges,
    /// Mappings that may still be made.
    available: u32,
    /// Mappings whose memory will lie elsewhere.
    moving: usize,
    tracking: bool,
    /// Devices that are told of what is unmapped. They are in memory, so that it cannot overflow.
    devices: usize,
    /// What is being unmapped while devices are told: nothing of it is pinned any more.
    going: Option<IovaRange>,
}

/// A container of vfio.
#[pin_data(PinnedDrop)]
pub(crate) struct Container {
    #[pin]
    state: Mutex<State>,
    /// The devices. Nobody takes this lock with `state` locked: who is told takes that one.
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
        let range = state.check_unmap(flags, iova, size, bitmap.as_ref())?;
        if flags & abi::unmap::VADDR != 0 {
            return state.start_moving(range);
        }
        if state.pinned_in(range).is_none() {
            return state.unmap(range, bitmap.as_ref());
        }
        drop(state);
        // One at a time. The devices will unpin, which takes the lock of the state.
        let devices = self.devices.lock();
        // What the devices have pinned only gets less from now on.
        self.state.lock().going = Some(range);
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
            let range = state.check_unmap(flags, iova, size, bitmap.as_ref())?;
            let Some(pinned) = state.pinned_in(range) else {
                return state.unmap(range, bitmap.as_ref());
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
            unsafe { ffi::vfio_type1_devices_tell(devices.0.get(), first, len) };
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
    fn is_paged(&self) -> bool {
        self.ioas.domains().next().is_some()
    }

    pub(crate) fn has_emulated(&self) -> bool {
        self.groups.iter().any(|group| group.domain.is_none())
    }

    /// The sizes of pages that all domains have, as the program sees them: smaller ones than those of
    /// the CPU cannot be used.
    pub(crate) fn size_bits(&self) -> u64 {
        let all = if self.is_paged() { u64::MAX } else { !(PAGE - 1) };
        let bits = self.ioas.domains().fold(all, |bits, (_, domain)| bits & domain.size_bits());
        if bits & (PAGE - 1) != 0 {
            bits & !(PAGE - 1) | PAGE
        } else {
            bits
        }
    }

    /// The smallest page: the granule of everything.
    pub(crate) fn page(&self) -> PageSize {
        let bits = self.size_bits();
        PageSize::new(1u64.checked_shl(bits.trailing_zeros()).unwrap_or(PAGE))
            .unwrap_or(PageSize::SIZE_4K)
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

    /// The first mapping that has an address of a range.
    fn first_in(&self, range: IovaRange) -> Option<&Dma> {
        // The one that begins there or behind, or the one before it.
        let first = range.first().get();
        let before = match self.dmas.cursor_lower_bound(&first) {
            Some(cursor) => match cursor.peek_prev() {
                Some((at, dma)) if dma.last() >= first => Some(*at),
                _ => Some(*cursor.current().0),
            },
            None => self.dmas.cursor_back().map(|cursor| *cursor.current().0),
        };
        let dma = self.dmas.get(&before?)?;
        dma.range.intersection(&range).is_some().then_some(dma)
    }

    /// The mapping that has an address.
    fn at(&self, iova: u64) -> Option<&Dma> {
        self.first_in(IovaRange::new(Iova::new(iova), 1).ok()?)
    }

    /// Calls `each` with all mappings that have an address of a range, until it fails.
    fn each_in(
        &mut self,
        range: IovaRange,
        mut each: impl FnMut(&mut Space, &mut Dma) -> Result,
    ) -> Result {
        let Some(first) = self.first_in(range).map(Dma::first) else {
            return Ok(());
        };
        let mut cursor = self.dmas.cursor_lower_bound_mut(&first);
        while let Some(mut here) = cursor {
            let (at, dma) = here.current_mut();
            if *at > range.last().get() {
                break;
            }
            each(&mut self.ioas, dma)?;
            cursor = here.move_next();
        }
        Ok(())
    }

    /// Pins and maps a mapping in every domain.
    fn install(ioas: &mut Space, dma: &Dma) -> Result {
        let len = dma.range.len().ok_or(EOVERFLOW)?;
        let region = KBox::new(dma.memory.pin_all(len)?, GFP_KERNEL_ACCOUNT)?;
        ioas.map(Placement::At(dma.range.first()), region, dma.prot)?;
        Ok(())
    }

    /// Unmaps in every domain, and unpins.
    fn uninstall(ioas: &mut Space, range: IovaRange) -> Result {
        match ioas.unmap(range) {
            Ok(_) => Ok(()),
            // Said by the domain, and worth a line: the pages stay pinned.
            Err(IoasError::Breach(breach)) => {
                pr_err!("the IOMMU did not unmap: {:?}\n", breach);
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    pub(crate) fn map(&mut self, request: &Request) -> Result {
        let Request { flags, vaddr, range } = *request;
        let (page, iova) = (self.page(), range.first().get());
        if (vaddr | iova | range.len().ok_or(EOVERFLOW)?) & page.mask() != 0 {
            return Err(EINVAL);
        }
        let known = self.first_in(range).map(|dma| (dma.range, dma.moving));
        if flags & abi::map::VADDR != 0 {
            if known.ok_or(ENOENT)? != (range, true) {
                return Err(EINVAL);
            }
            let dma = self.dmas.get_mut(&iova).ok_or(ENOENT)?;
            dma.memory.move_to(vaddr)?;
            dma.moving = false;
            self.moving = self.moving.saturating_sub(1);
            return Ok(());
        }
        if known.is_some() {
            return Err(EEXIST);
        }
        let available = self.available.checked_sub(1).ok_or(ENOSPC)?;
        if !self.ranges.allow(iova, range.last().get()) {
            return Err(EINVAL);
        }
        let mut prot = Prot::CACHE;
        prot.set(Prot::READ, flags & abi::map::READ != 0);
        prot.set(Prot::WRITE, flags & abi::map::WRITE != 0);
        let memory = Memory::new(vaddr, prot.contains(Prot::WRITE))?;
        let mut dma = Dma { range, prot, moving: false, memory, dirty: None };
        let node = RBTreeNodeReservation::new(GFP_KERNEL_ACCOUNT)?;
        if self.is_paged() {
            Self::install(&mut self.ioas, &dma)?;
        }
        if self.tracking {
            let tracked = dma.track(page);
            if let (Err(error), true) = (tracked, self.is_paged()) {
                Self::uninstall(&mut self.ioas, range)?;
                return Err(error);
            }
            tracked?;
        }
        self.dmas.insert(node.into_node(iova, dma));
        self.available = available;
        Ok(())
    }

    /// What is to be unmapped, if it can be.
    fn check_unmap(
        &self,
        flags: u32,
        iova: u64,
        size: u64,
        bitmap: Option<&UserBitmap>,
    ) -> Result<IovaRange> {
        if flags & abi::unmap::VADDR != 0 && self.has_emulated() {
            return Err(EBUSY);
        }
        let (iova, size) = (abi::address(iova)?, abi::size(size)?);
        let page = self.page();
        if iova & page.mask() != 0 {
            return Err(EINVAL);
        }
        let all = flags & abi::unmap::ALL != 0;
        let range = if all {
            if iova != 0 || size != 0 {
                return Err(EINVAL);
            }
            IovaRange::ALL
        } else {
            if size == 0 || size & page.mask() != 0 {
                return Err(EINVAL);
            }
            abi::range(iova, size)?
        };
        if bitmap.is_some_and(|bitmap| !self.tracking || bitmap.page != page.bytes()) {
            return Err(EINVAL);
        }
        if self.v2 && !all && self.cuts(range) {
            return Err(EINVAL);
        }
        Ok(range)
    }

    /// Whether a mapping lies across an end of the range.
    fn cuts(&self, range: IovaRange) -> bool {
        let (first, last) = (range.first().get(), range.last().get());
        self.at(first).is_some_and(|dma| dma.first() != first)
            || self.at(last).is_some_and(|dma| dma.last() != last)
    }

    /// The mappings that an unmap of a range takes, as the range from the first of the first to the
    /// last of the last. In a container of version 1, a mapping goes whole with its first address,
    /// and a range that begins inside of one takes nothing.
    fn span(&self, range: IovaRange) -> Option<IovaRange> {
        let from = self.first_in(range)?.range.first();
        if from < range.first() {
            return None;
        }
        let to = self.at(range.last().get()).map_or(range.last(), |dma| dma.range.last());
        IovaRange::inclusive(from, to).ok()
    }

    /// The first mapping of a range in which an emulated device has pinned pages.
    fn pinned_in(&mut self, range: IovaRange) -> Option<IovaRange> {
        let mut found = None;
        let _ = self.each_in(self.span(range)?, |_, dma| {
            if dma.memory.has_external() {
                found = Some(dma.range);
                return Err(EAGAIN);
            }
            Ok(())
        });
        found
    }

    /// The memory behind a range will lie elsewhere.
    fn start_moving(&mut self, range: IovaRange) -> Result<u64> {
        let Some(span) = self.span(range) else {
            return Ok(0);
        };
        self.each_in(span, |_, dma| if dma.moving { Err(EINVAL) } else { Ok(()) })?;
        let (mut bytes, mut count) = (0u64, 0usize);
        self.each_in(span, |_, dma| {
            dma.moving = true;
            count = count.saturating_add(1);
            bytes = bytes.saturating_add(dma.len());
            Ok(())
        })?;
        self.moving = self.moving.saturating_add(count);
        Ok(bytes)
    }

    /// Unmaps what is in a range; returns how many bytes.
    fn unmap(&mut self, range: IovaRange, bitmap: Option<&UserBitmap>) -> Result<u64> {
        let Some(span) = self.span(range) else {
            return Ok(0);
        };
        let (page, paged) = (self.page(), self.is_paged());
        if let Some(bitmap) = bitmap {
            let all_dirty = paged && self.writes_unseen();
            self.each_in(span, |_, dma| {
                if all_dirty {
                    dma.all_written();
                }
                dma.tell(page, range.first().get(), bitmap)
            })?;
        }
        // One flush for all of them.
        if paged && Self::uninstall(&mut self.ioas, span).is_err() {
            // Something there is lost since the IOMMU has failed: around it.
            let _ = self.each_in(span, |ioas, dma| {
                let _ = Self::uninstall(ioas, dma.range);
                Ok(())
            });
        }
        Ok(self.forget(span))
    }

    /// Forgets all mappings of a range, which are mapped nowhere any more.
    fn forget(&mut self, range: IovaRange) -> u64 {
        let mut bytes = 0u64;
        while let Some(at) = self.first_in(range).map(Dma::first) {
            let Some(dma) = self.dmas.remove(&at) else { break };
            bytes = bytes.saturating_add(dma.len());
            self.moving = self.moving.saturating_sub(dma.moving.into());
            self.available = self.available.saturating_add(1);
        }
        bytes
    }

    /// Unmaps everything.
    fn remove_all(&mut self) {
        self.ioas.unmap_all();
        self.forget(IovaRange::ALL);
    }

    /// Whether devices write to pages that they have not pinned: then all pages are dirty.
    fn writes_unseen(&self) -> bool {
        self.groups.iter().any(|group| !group.pins_what_it_writes)
    }

    pub(crate) fn start_tracking(&mut self) -> Result {
        if self.tracking {
            return Ok(());
        }
        let page = self.page();
        let tracked = self.each_in(IovaRange::ALL, |_, dma| dma.track(page));
        self.tracking = tracked.is_ok();
        tracked.inspect_err(|_| self.stop_tracking())
    }

    pub(crate) fn stop_tracking(&mut self) {
        self.tracking = false;
        let _ = self.each_in(IovaRange::ALL, |_, dma| {
            dma.dirty = None;
            Ok(())
        });
    }

    /// Writes which pages of a range are dirty. Those that are pinned are dirty again at once.
    pub(crate) fn read_dirty(&mut self, range: IovaRange, user: &UserBitmap) -> Result {
        let (page, base) = (self.page(), range.first().get());
        let aligned = (base | range.len().unwrap_or(0)) & page.mask() == 0;
        if user.page != page.bytes() || !aligned || !self.tracking || self.cuts(range) {
            return Err(EINVAL);
        }
        let all_dirty = self.is_paged() && self.writes_unseen();
        self.each_in(range, |_, dma| {
            if all_dirty {
                dma.all_written();
            }
            dma.tell(page, base, user)?;
            if let Some(words) = &mut dma.dirty {
                words.fill(0);
            }
            dma.pinned_is_written();
            Ok(())
        })
    }

    /// Attaches a group of devices.
    pub(crate) fn attach(&mut self, raw: GroupPtr, emulated: bool) -> Result {
        if self.moving > 0 {
            return Err(EBUSY);
        }
        if self.groups.iter().any(|group| group.raw == raw) {
            return Err(EINVAL);
        }
        self.groups.reserve(1, GFP_KERNEL_ACCOUNT)?;
        let mut group = Group { raw, domain: None, pins_what_it_writes: emulated };
        if !emulated {
            let mut domain = UniqueArc::new(GroupDomain::new(raw)?, GFP_KERNEL_ACCOUNT)?;
            domain.attach(raw)?;
            let joined = match self.fit(raw, &mut domain) {
                Ok(fit) => self.join(raw, domain, fit),
                Err(error) => {
                    domain.detach(raw);
                    Err(error)
                }
            };
            group.domain = Some(joined?);
        }
        self.groups.push(group, GFP_KERNEL_ACCOUNT)?;
        Ok(())
    }

    /// The addresses that are left when a group is added, and where its interrupts go.
    fn fit(&self, raw: GroupPtr, domain: &mut GroupDomain) -> Result<(Ranges, Option<u64>)> {
        let aperture = pinned_sgl::iommu::Domain::aperture(domain);
        let (first, last) = (aperture.first().get(), aperture.last().get());
        // Whether there is a mapping between two addresses, if there are addresses between them.
        let used = |first: u64, last: u64| {
            let range = IovaRange::inclusive(Iova::new(first), Iova::new(last));
            range.is_ok_and(|range| self.first_in(range).is_some())
        };
        if let Some((start, end)) = self.ranges.ends() {
            // Nothing in common, or mappings outside of what they have in common.
            let lost_before = first.checked_sub(1).is_some_and(|before| used(start, before));
            let lost_behind = last.checked_add(1).is_some_and(|behind| used(behind, end));
            if first > end || last < start || lost_before || lost_behind {
                return Err(EINVAL);
            }
        }
        let reserved = reserved(raw)?;
        let strict = || reserved.iter().filter(|region| region.kind != abi::RESERVED_RELAXABLE);
        if strict().any(|region| used(region.first, region.last)) {
            return Err(EINVAL);
        }
        let mut ranges = self.ranges.try_clone()?;
        ranges.restrict(first, last)?;
        for region in strict() {
            ranges.exclude(region.first, region.last)?;
        }
        if ranges.is_empty() {
            return Err(EINVAL);
        }
        // SAFETY: vfio keeps the group while it is attached.
        let isolated = unsafe { bindings::iommu_group_has_isolated_msi(raw.0) };
        if !ffi::vfio_type1_unsafe_interrupts() && !isolated {
            pr_warn!("interrupts are not remapped: see the parameter allow_unsafe_interrupts\n");
            return Err(EPERM);
        }
        domain.enforce_coherency();
        let of_kind = |kind| reserved.iter().filter(move |region| region.kind == kind);
        let msi = match of_kind(abi::RESERVED_MSI).next() {
            Some(_) => None,
            None => of_kind(abi::RESERVED_SOFTWARE_MSI).next_back().map(|region| region.first),
        };
        Ok((ranges, msi))
    }

    /// Moves a group to a domain that is there, if it can be in it; or adds the domain, in which the
    /// group is.
    fn join(
        &mut self,
        raw: GroupPtr,
        domain: UniqueArc<GroupDomain>,
        (ranges, msi): (Ranges, Option<u64>),
    ) -> Result<DomainId> {
        let mut joined = None;
        for (id, known) in self.ioas.domains() {
            if !known.is_like(&domain) {
                continue;
            }
            domain.detach(raw);
            if known.attach(raw).is_ok() {
                joined = Some(id);
                break;
            }
            domain.attach(raw)?;
        }
        let id = match joined {
            Some(id) => id,
            None => self.add_domain(raw, domain, msi)?,
        };
        self.ranges = ranges;
        Ok(id)
    }

    fn add_domain(
        &mut self,
        raw: GroupPtr,
        domain: UniqueArc<GroupDomain>,
        msi: Option<u64>,
    ) -> Result<DomainId> {
        let is_first = !self.is_paged();
        let domain: Domain = domain.into();
        let undo = |error: Error| {
            domain.detach(raw);
            error
        };
        let id = self.ioas.attach(domain.clone()).map_err(|error| undo(error.into()))?;
        let mut outcome = Ok(());
        if is_first {
            outcome = self.each_in(IovaRange::ALL, |ioas, dma| Self::install(ioas, dma));
        }
        if let (Ok(()), Some(base)) = (&outcome, msi) {
            outcome = domain.reserve_msi(base);
        }
        match outcome {
            Ok(()) => Ok(id),
            Err(error) => {
                if is_first {
                    self.ioas.unmap_all();
                }
                let _ = self.ioas.detach(id);
                Err(undo(error))
            }
        }
    }

    /// Takes a group out of its domain.
    fn leave(&mut self, group: &Group) {
        if let Some((_, domain)) = self.ioas.domains().find(|(id, _)| Some(*id) == group.domain) {
            domain.detach(group.raw);
        }
    }

    /// Detaches a group. The last one takes all mappings with it; the last whose devices are real
    /// takes the pins.
    pub(crate) fn detach(&mut self, raw: GroupPtr) {
        let Some(index) = self.groups.iter().position(|group| group.raw == raw) else {
            return;
        };
        let Ok(group) = self.groups.remove(index) else { return };
        self.leave(&group);
        let used = |id| self.groups.iter().any(|group| group.domain == Some(id));
        match group.domain {
            Some(id) if !used(id) => {
                let is_last = self.ioas.domains().count() == 1;
                if is_last && !self.has_emulated() {
                    kernel::warn_on!(self.devices != 0);
                    self.remove_all();
                } else if is_last {
                    self.ioas.unmap_all();
                }
                if let Err(error) = self.ioas.detach(id) {
                    pr_err!("a domain of the IOMMU: {:?}\n", error);
                }
                let apertures = self
                    .ioas
                    .domains()
                    .map(|(_, domain)| pinned_sgl::iommu::Domain::aperture(&**domain));
                let whole = apertures.fold((0, u64::MAX), |(first, last), aperture| {
                    (first.max(aperture.first().get()), last.min(aperture.last().get()))
                });
                self.refresh(Some(whole));
            }
            Some(_) => self.refresh(None),
            None if self.groups.is_empty() => {
                kernel::warn_on!(self.devices != 0);
                self.remove_all();
            }
            None => {}
        }
        if !group.pins_what_it_writes && self.tracking {
            let _ = self.each_in(IovaRange::ALL, |_, dma| {
                dma.all_written();
                Ok(())
            });
        }
    }

    /// Works out anew which addresses can be used. Where that fails, it stays as it was: too strict.
    fn refresh(&mut self, whole: Option<(u64, u64)>) {
        let fresh = || -> Result<Ranges> {
            let (first, last) = whole.or(self.ranges.ends()).ok_or(EINVAL)?;
            let mut ranges = Ranges::new();
            ranges.restrict(first, last)?;
            for group in self.groups.iter().filter(|group| group.domain.is_some()) {
                for region in reserved(group.raw)? {
                    if region.kind != abi::RESERVED_RELAXABLE {
                        ranges.exclude(region.first, region.last)?;
                    }
                }
            }
            if ranges.is_empty() {
                Err(EINVAL)
            } else {
                Ok(ranges)
            }
        };
        if self.ranges.is_empty() {
            return;
        }
        if let Ok(ranges) = fresh() {
            self.ranges = ranges;
        }
    }

    /// The domain of a group.
    pub(crate) fn domain_of(&self, raw: GroupPtr) -> Result<*mut bindings::iommu_domain> {
        let group = self.groups.iter().find(|group| group.raw == raw).ok_or(ENODEV)?;
        let mut domains = self.ioas.domains();
        let (_, domain) = domains.find(|(id, _)| Some(*id) == group.domain).ok_or(ENODEV)?;
        Ok(domain.as_ptr())
    }

    /// Pins pages for an emulated device, and returns where they are.
    pub(crate) fn pin_pages(
        &mut self,
        raw: GroupPtr,
        iova: u64,
        prot: u32,
        pages: &mut [*mut bindings::page],
    ) -> Result {
        if !self.v2 {
            return Err(EACCES);
        }
        let addresses = each_page(iova, pages.len() as u64)?;
        if self.moving > 0 {
            kernel::do_once_lite! { kernel::warn_on!(true); }
            return Err(EBUSY);
        }
        if self.devices == 0 {
            return Err(EINVAL);
        }
        let charge = !self.is_paged();
        let mut done = 0u64;
        let mut outcome = Ok(());
        for (slot, at) in pages.iter_mut().zip(addresses) {
            match self.pin_page(at, prot, charge) {
                Ok(pinned) => *slot = pinned,
                Err(error) => {
                    outcome = Err(error);
                    break;
                }
            }
            done = done.saturating_add(1);
        }
        if outcome.is_err() {
            for at in each_page(iova, done)? {
                self.unpin_page(at, charge);
            }
            pages.fill(core::ptr::null_mut());
            return outcome;
        }
        if let Some(group) = self.groups.iter_mut().find(|group| group.raw == raw) {
            group.pins_what_it_writes = true;
        }
        Ok(())
    }

    fn pin_page(&mut self, at: u64, prot: u32, charge: bool) -> Result<*mut bindings::page> {
        let page = IovaRange::new(Iova::new(at), PAGE).map_err(|_| EOVERFLOW)?;
        if self.going.is_some_and(|going| going.intersection(&page).is_some()) {
            // As good as unmapped.
            return Err(EINVAL);
        }
        let dma = self.first_in(page).ok_or(EINVAL)?;
        if dma.prot.bits() & prot != prot {
            return Err(EPERM);
        }
        let (first, offset) = (dma.first(), at.checked_sub(dma.first()).ok_or(EINVAL)?);
        let (pfn, fresh) = dma.memory.pin_page(offset, charge)?;
        if let (Some(dma), true) = (self.dmas.get_mut(&first), fresh) {
            dma.written(offset, PAGE);
        }
        Ok(ffi::vfio_type1_page(pfn))
    }

    fn unpin_page(&self, at: u64, uncharge: bool) -> bool {
        let page = IovaRange::new(Iova::new(at), PAGE).ok();
        let found = page.and_then(|page| self.first_in(page));
        let Some(dma) = found else { return false };
        if let Some(offset) = at.checked_sub(dma.first()) {
            dma.memory.unpin_page(offset, uncharge);
        }
        true
    }

    /// Unpins pages of an emulated device.
    pub(crate) fn unpin_pages(&mut self, iova: u64, count: u64) {
        let uncharge = !self.is_paged();
        let known = each_page(iova, count)
            .is_ok_and(|mut pages| pages.all(|at| self.unpin_page(at, uncharge)));
        kernel::warn_on!(!known);
    }

    /// Copies bytes for an emulated device.
    ///
    /// # Safety
    ///
    /// There are `len` bytes at `data`.
    pub(crate) unsafe fn copy(
        &mut self,
        mut iova: u64,
        mut data: *mut u8,
        mut len: usize,
        write: bool,
    ) -> Result {
        if self.moving > 0 {
            kernel::do_once_lite! { kernel::warn_on!(true); }
            return Err(EBUSY);
        }
        while len > 0 {
            let dma = self.at(iova).ok_or(EINVAL)?;
            // As vfio has it: what a device may not read, it does not write either.
            if !dma.prot.contains(Prot::READ) || write && !dma.prot.contains(Prot::WRITE) {
                return Err(EPERM);
            }
            let (first, offset) = (dma.first(), iova.checked_sub(dma.first()).ok_or(EINVAL)?);
            let rest = dma.len().checked_sub(offset).ok_or(EINVAL)?;
            let some = usize::try_from(rest).unwrap_or(usize::MAX).min(len);
            dma.memory.copy(offset, data, some, write)?;
            if let (Some(dma), true) = (self.dmas.get_mut(&first), write) {
                dma.written(offset, some as u64);
            }
            // Behind the last address of all is nothing.
            iova = iova.checked_add(some as u64).unwrap_or(0);
            data = data.wrapping_add(some);
            len = len.saturating_sub(some);
        }
        Ok(())
    }
}

/// The addresses of pages that follow each other.
fn each_page(iova: u64, count: u64) -> Result<impl Iterator<Item = u64>> {
    let len = count.checked_mul(PAGE).ok_or(EOVERFLOW)?;
    iova.checked_add(len.saturating_sub(1)).ok_or(EOVERFLOW)?;
    Ok((0..count).filter_map(move |index| iova.checked_add(index.checked_mul(PAGE)?)))
}

/// What a group keeps for itself.
fn reserved(group: GroupPtr) -> Result<KVec<ffi::Reserved>> {
    let mut regions = KVec::new();
    loop {
        let room = i32::try_from(regions.len()).map_err(|_| EINVAL)?;
        // SAFETY: vfio keeps the group while it is attached, and there is room for as many.
        let count = unsafe { ffi::vfio_type1_reserved(group.0, regions.as_mut_ptr(), room) };
        let needed = usize::try_from(count).map_err(|_| Error::from_errno(count))?;
        if needed <= regions.len() {
            regions.truncate(needed);
            return Ok(regions);
        }
        regions.resize(needed, ffi::Reserved::default(), GFP_KERNEL)?;
    }
}
