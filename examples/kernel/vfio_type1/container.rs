// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Container`]: what a program opens: its mappings, in every domain of its groups.
//!
//! ```text
//!  dmas    what the program has asked for: always
//!  ioas    the same, pinned and mapped in all domains: as long as there is a domain
//! ```

use crate::{
    abi::{self, UserBitmap},
    domain::{GroupDomain, GroupPtr},
    ffi,
    memory::{Memory, Pinned, PAGE},
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
    iommu::{
        Area, DirtyBitmap, DomainId, DomainLink, Ioas, IoasError, IovaRange, Node, Placement, Prot,
    },
    kernel::PieceSlab,
    Iova, PageSize,
};

type Region = KBox<Pinned>;
type Domain = Arc<GroupDomain>;
type Space = Ioas<Region, Domain, PieceSlab<Node<Area<Region>>>, PieceSlab<DomainLink<Domain>>>;

/// What a program has mapped.
pub(crate) struct Dma {
    last: u64,
    prot: Prot,
    /// Whether the program has said that its memory will lie elsewhere.
    moving: bool,
    memory: Arc<Memory>,
    /// A bit for each page, while pages are tracked.
    dirty: Option<KVVec<u64>>,
}

impl Dma {
    fn range(&self, first: u64) -> Result<IovaRange> {
        IovaRange::inclusive(Iova::new(first), Iova::new(self.last)).map_err(|_| EINVAL)
    }

    /// Begins to track: pages that emulated devices have pinned count as written.
    fn track(&mut self, first: u64, page: PageSize) -> Result {
        let pages = ((self.last - first) >> page.shift()) + 1;
        if pages > abi::BITMAP_PAGES {
            return Err(EINVAL);
        }
        let words = usize::try_from(pages.div_ceil(64)).map_err(|_| ENOMEM)?;
        self.dirty = Some(KVVec::from_elem(0, words, GFP_KERNEL)?);
        let memory = self.memory.clone();
        memory.each_external(|offset| self.written(first, page, offset, PAGE));
        Ok(())
    }

    /// Marks bytes as written, if pages are tracked.
    fn written(&mut self, first: u64, page: PageSize, offset: u64, len: u64) {
        let (Ok(range), Some(words)) = (self.range(first), &mut self.dirty) else {
            return;
        };
        let written = IovaRange::new(Iova::new(first.wrapping_add(offset)), len);
        if let (Ok(mut bitmap), Ok(written)) = (DirtyBitmap::new(words, range, page), written) {
            bitmap.set(written);
        }
    }

    fn all_written(&mut self, first: u64, page: PageSize) {
        let len = (self.last - first).saturating_add(1);
        self.written(first, page, 0, len);
    }

    /// Writes the bits to the program, whose bitmap begins at `base`. Bits of other mappings in the
    /// first word stay.
    fn tell(&self, first: u64, page: PageSize, base: u64, user: &UserBitmap) -> Result {
        let words = self.dirty.as_ref().ok_or(EINVAL)?;
        let bit = (first - base) >> page.shift();
        let shift = u32::try_from(bit % 64)?;
        let mut at = usize::try_from(user.data.wrapping_add(bit / 64 * 8)).map_err(|_| EFAULT)?;
        let bits = ((self.last - first) >> page.shift()) + 1 + u64::from(shift);
        let mut left = usize::try_from(bits.div_ceil(64)).map_err(|_| EFAULT)?;
        let mut carry = if shift == 0 { 0 } else { abi::Words::<2>::read(at)?.u64(0) };
        let mut words = words.iter();
        let mut bytes = KVec::with_capacity(left.min(512) * 8, GFP_KERNEL)?;
        while left > 0 {
            let some = left.min(512);
            bytes.clear();
            for _ in 0..some {
                let word = words.next().copied().unwrap_or(0);
                bytes.extend_from_slice(&((word << shift) | carry).to_ne_bytes(), GFP_KERNEL)?;
                carry = word.checked_shr(64 - shift).unwrap_or(0);
            }
            abi::write(at, &bytes)?;
            at = at.wrapping_add(some * 8);
            left -= some;
        }
        Ok(())
    }
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
    pub(crate) iova: u64,
    pub(crate) size: u64,
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
    /// Devices that are told of what is unmapped.
    devices: usize,
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
            ioas: Ioas::new_in(
                PieceSlab::new(GFP_KERNEL_ACCOUNT),
                PieceSlab::new(GFP_KERNEL_ACCOUNT),
            ),
            dmas: RBTree::new(),
            groups: KVec::new(),
            ranges: Ranges::new(),
            available: ffi::vfio_type1_entry_limit(),
            moving: 0,
            tracking: false,
            devices: 0,
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
        // SAFETY: the caller speaks for the device.
        unsafe { ffi::vfio_type1_devices_add(devices.0.get(), device) };
        drop(devices);
        self.state.lock().devices += 1;
    }

    /// # Safety
    ///
    /// The device was added.
    pub(crate) unsafe fn remove_device(&self, device: *mut ffi::VfioDevice) {
        self.state.lock().devices -= 1;
        let _devices = self.devices.lock();
        // SAFETY: the caller speaks for the device.
        unsafe { ffi::vfio_type1_devices_remove(device) };
    }

    /// Unmaps, and tells how many bytes. Devices that have pinned pages of it must let go first.
    pub(crate) fn unmap(
        &self,
        flags: u32,
        iova: u64,
        size: u64,
        bitmap: Option<UserBitmap>,
    ) -> Result<u64> {
        // A device that does not let go of its pages is a bug in its driver: it is asked ten times.
        let (mut asked, mut times) = (None, 0);
        while times < 10 {
            let mut state = self.state.lock();
            let range = state.check_unmap(flags, iova, size, bitmap.as_ref())?;
            if flags & abi::unmap::VADDR != 0 {
                return state.start_moving(range);
            }
            let Some((first, last)) = state.pinned_in(range) else {
                return state.unmap(range, bitmap.as_ref());
            };
            if state.devices == 0 {
                break;
            }
            times = if asked == Some(first) { times + 1 } else { 0 };
            asked = Some(first);
            // The devices will unpin, which takes the lock of the state.
            drop(state);
            let devices = self.devices.lock();
            let len = (last - first).wrapping_add(1);
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

    /// The sizes of pages that all domains have, as the program is told: smaller ones than those of
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

    /// The first mapping that has an address from `first` to `last`, and its first address.
    fn first_in(&self, first: u64, last: u64) -> Option<(u64, &Dma)> {
        // The one that begins there or behind, or the one before it.
        let before = match self.dmas.cursor_lower_bound(&first) {
            Some(cursor) => match cursor.peek_prev() {
                Some((at, dma)) if dma.last >= first => Some(*at),
                _ => Some(*cursor.current().0),
            },
            None => self.dmas.cursor_back().map(|cursor| *cursor.current().0),
        };
        let at = before?;
        let dma = self.dmas.get(&at)?;
        (dma.last >= first && at <= last).then_some((at, dma))
    }

    /// Calls `each` with all mappings that have an address from `first` to `last`, until it fails.
    fn each_in(
        &mut self,
        first: u64,
        last: u64,
        mut each: impl FnMut(&mut Space, u64, &mut Dma) -> Result,
    ) -> Result {
        let Some((at, _)) = self.first_in(first, last) else {
            return Ok(());
        };
        let mut cursor = self.dmas.cursor_lower_bound_mut(&at);
        while let Some(mut here) = cursor {
            let (at, dma) = here.current_mut();
            if *at > last {
                break;
            }
            each(&mut self.ioas, *at, dma)?;
            cursor = here.move_next();
        }
        Ok(())
    }

    /// Pins and maps a mapping in every domain.
    fn install(ioas: &mut Space, first: u64, dma: &Dma) -> Result {
        let len = (dma.last - first).checked_add(1).ok_or(EOVERFLOW)?;
        let region = KBox::new(dma.memory.pin_all(len)?, GFP_KERNEL_ACCOUNT)?;
        ioas.map(Placement::At(Iova::new(first)), region, dma.prot)?;
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
        let Request { flags, vaddr, iova, size } = *request;
        let page = self.page();
        if (vaddr | iova | size) & page.mask() != 0 {
            return Err(EINVAL);
        }
        let last = iova + (size - 1);
        let known = self.first_in(iova, last).map(|(at, dma)| (at, dma.last, dma.moving));
        if flags & abi::map::VADDR != 0 {
            let (first, end, moving) = known.ok_or(ENOENT)?;
            if !moving || (first, end) != (iova, last) {
                return Err(EINVAL);
            }
            let dma = self.dmas.get_mut(&iova).ok_or(ENOENT)?;
            dma.memory.move_to(vaddr)?;
            dma.moving = false;
            self.moving -= 1;
            return Ok(());
        }
        if known.is_some() {
            return Err(EEXIST);
        }
        if self.available == 0 {
            return Err(ENOSPC);
        }
        if !self.ranges.allow(iova, last) {
            return Err(EINVAL);
        }
        let mut prot = Prot::CACHE;
        prot.set(Prot::READ, flags & abi::map::READ != 0);
        prot.set(Prot::WRITE, flags & abi::map::WRITE != 0);
        let memory = Memory::new(vaddr, prot.contains(Prot::WRITE))?;
        let mut dma = Dma { last, prot, moving: false, memory, dirty: None };
        let node = RBTreeNodeReservation::new(GFP_KERNEL_ACCOUNT)?;
        if self.tracking {
            dma.track(iova, page)?;
        }
        if self.is_paged() {
            Self::install(&mut self.ioas, iova, &dma)?;
        }
        self.dmas.insert(node.into_node(iova, dma));
        self.available -= 1;
        Ok(())
    }

    /// What is to be unmapped, if it can be.
    fn check_unmap(
        &self,
        flags: u32,
        iova: u64,
        size: u64,
        bitmap: Option<&UserBitmap>,
    ) -> Result<(u64, u64)> {
        if flags & abi::unmap::VADDR != 0 && self.has_emulated() {
            return Err(EBUSY);
        }
        let page = self.page();
        if iova & page.mask() != 0 {
            return Err(EINVAL);
        }
        let all = flags & abi::unmap::ALL != 0;
        let last = if all {
            if iova != 0 || size != 0 {
                return Err(EINVAL);
            }
            u64::MAX
        } else {
            if size == 0 || size & page.mask() != 0 {
                return Err(EINVAL);
            }
            iova.checked_add(size - 1).ok_or(EOVERFLOW)?
        };
        if bitmap.is_some_and(|bitmap| !self.tracking || bitmap.page != page.bytes()) {
            return Err(EINVAL);
        }
        if self.v2 && !all && self.cuts(iova, last) {
            return Err(EINVAL);
        }
        Ok((iova, last))
    }

    /// Whether a mapping lies across an end of the range.
    fn cuts(&self, first: u64, last: u64) -> bool {
        self.first_in(first, first).is_some_and(|(at, _)| at != first)
            || self.first_in(last, last).is_some_and(|(_, dma)| dma.last != last)
    }

    /// The mappings that an unmap of a range takes, as the range from the first of the first to the
    /// last of the last. In a container of version 1, a mapping goes whole with its first address,
    /// and a range that begins inside of one takes nothing.
    fn span(&self, (first, last): (u64, u64)) -> Option<(u64, u64)> {
        let (from, _) = self.first_in(first, last)?;
        if from < first {
            return None;
        }
        let to = match self.first_in(last, last) {
            Some((_, dma)) => dma.last,
            None => last,
        };
        Some((from, to))
    }

    /// The first mapping of a range in which an emulated device has pinned pages.
    fn pinned_in(&mut self, range: (u64, u64)) -> Option<(u64, u64)> {
        let (first, last) = self.span(range)?;
        let mut found = None;
        let _ = self.each_in(first, last, |_, at, dma| {
            if dma.memory.has_external() {
                found = Some((at, dma.last));
                return Err(EAGAIN);
            }
            Ok(())
        });
        found
    }

    /// The memory behind a range will lie elsewhere.
    fn start_moving(&mut self, range: (u64, u64)) -> Result<u64> {
        let Some((first, last)) = self.span(range) else {
            return Ok(0);
        };
        self.each_in(first, last, |_, _, dma| if dma.moving { Err(EINVAL) } else { Ok(()) })?;
        let (mut bytes, mut count) = (0u64, 0);
        self.each_in(first, last, |_, at, dma| {
            dma.moving = true;
            count += 1;
            bytes = bytes.wrapping_add((dma.last - at).wrapping_add(1));
            Ok(())
        })?;
        self.moving += count;
        Ok(bytes)
    }

    /// Unmaps what is in a range; tells how many bytes.
    fn unmap(&mut self, range: (u64, u64), bitmap: Option<&UserBitmap>) -> Result<u64> {
        let Some((first, last)) = self.span(range) else {
            return Ok(0);
        };
        let (page, paged) = (self.page(), self.is_paged());
        if let Some(bitmap) = bitmap {
            let all_dirty = paged && self.writes_unseen();
            self.each_in(first, last, |_, at, dma| {
                if all_dirty {
                    dma.all_written(at, page);
                }
                dma.tell(at, page, range.0, bitmap)
            })?;
        }
        if paged {
            let whole = IovaRange::inclusive(Iova::new(first), Iova::new(last));
            // One flush for all of them.
            if whole.map_or(Err(EINVAL), |whole| Self::uninstall(&mut self.ioas, whole)).is_err() {
                // Something there is lost since the IOMMU has failed: around it.
                let _ = self.each_in(first, last, |ioas, at, dma| {
                    let _ = Self::uninstall(ioas, dma.range(at)?);
                    Ok(())
                });
            }
        }
        Ok(self.forget(first, last))
    }

    /// Forgets all mappings of a range, which are mapped nowhere any more.
    fn forget(&mut self, first: u64, last: u64) -> u64 {
        let mut bytes = 0u64;
        while let Some((at, _)) = self.first_in(first, last) {
            let Some(dma) = self.dmas.remove(&at) else { break };
            bytes = bytes.wrapping_add((dma.last - at).wrapping_add(1));
            self.moving -= usize::from(dma.moving);
            self.available = self.available.saturating_add(1);
        }
        bytes
    }

    /// Unmaps everything.
    fn remove_all(&mut self) {
        self.ioas.unmap_all();
        self.forget(0, u64::MAX);
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
        let tracked = self.each_in(0, u64::MAX, |_, at, dma| dma.track(at, page));
        self.tracking = tracked.is_ok();
        tracked.inspect_err(|_| self.stop_tracking())
    }

    pub(crate) fn stop_tracking(&mut self) {
        self.tracking = false;
        let _ = self.each_in(0, u64::MAX, |_, _, dma| {
            dma.dirty = None;
            Ok(())
        });
    }

    /// Tells which pages of a range are dirty. Those that are pinned are dirty again at once.
    pub(crate) fn read_dirty(&mut self, iova: u64, size: u64, user: &UserBitmap) -> Result {
        let page = self.page();
        let last = iova.checked_add(size - 1).ok_or(EOVERFLOW)?;
        if user.page != page.bytes() || (iova | size) & page.mask() != 0 || !self.tracking {
            return Err(EINVAL);
        }
        if self.cuts(iova, last) {
            return Err(EINVAL);
        }
        let all_dirty = self.is_paged() && self.writes_unseen();
        self.each_in(iova, last, |_, at, dma| {
            if all_dirty {
                dma.all_written(at, page);
            }
            dma.tell(at, page, iova, user)?;
            if let Some(words) = &mut dma.dirty {
                words.fill(0);
            }
            let memory = dma.memory.clone();
            memory.each_external(|offset| dma.written(at, page, offset, PAGE));
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
        if let Some((start, end)) = self.ranges.ends() {
            // Nothing in common, or mappings outside of what they have in common.
            let lost_before = first > start && self.first_in(start, first - 1).is_some();
            let lost_behind = last < end && self.first_in(last + 1, end).is_some();
            if first > end || last < start || lost_before || lost_behind {
                return Err(EINVAL);
            }
        }
        let reserved = reserved(raw)?;
        let strict = || reserved.iter().filter(|region| region.kind != abi::RESERVED_RELAXABLE);
        if strict().any(|region| self.first_in(region.first, region.last).is_some()) {
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
            outcome = self.each_in(0, u64::MAX, |ioas, at, dma| Self::install(ioas, at, dma));
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
            None if self.groups.is_empty() => self.remove_all(),
            None => {}
        }
        if !group.pins_what_it_writes && self.tracking {
            let page = self.page();
            let _ = self.each_in(0, u64::MAX, |_, at, dma| {
                dma.all_written(at, page);
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

    /// Pins pages for an emulated device, and tells where they are.
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
        let len = (pages.len() as u64).checked_mul(PAGE).ok_or(EOVERFLOW)?;
        iova.checked_add(len.saturating_sub(1)).ok_or(EOVERFLOW)?;
        if self.moving > 0 {
            kernel::warn_on!(true);
            return Err(EBUSY);
        }
        if self.devices == 0 {
            return Err(EINVAL);
        }
        let (charge, page, tracking) = (!self.is_paged(), self.page(), self.tracking);
        let mut done = 0;
        let mut outcome = Ok(());
        for slot in pages.iter_mut() {
            let at = iova + done * PAGE;
            match self.pin_page(at, prot, charge, tracking.then_some(page)) {
                Ok(pinned) => *slot = pinned,
                Err(error) => {
                    outcome = Err(error);
                    break;
                }
            }
            done += 1;
        }
        if outcome.is_err() {
            for index in 0..done {
                self.unpin_page(iova + index * PAGE, charge);
            }
            pages.fill(core::ptr::null_mut());
            return outcome;
        }
        if let Some(group) = self.groups.iter_mut().find(|group| group.raw == raw) {
            group.pins_what_it_writes = true;
        }
        Ok(())
    }

    fn pin_page(
        &mut self,
        at: u64,
        prot: u32,
        charge: bool,
        track: Option<PageSize>,
    ) -> Result<*mut bindings::page> {
        let (first, dma) = self.first_in(at, at.saturating_add(PAGE - 1)).ok_or(EINVAL)?;
        if dma.prot.bits() & prot != prot {
            return Err(EPERM);
        }
        let offset = at.wrapping_sub(first);
        let (pfn, fresh) = dma.memory.pin_page(offset, charge)?;
        if let (Some(page), true) = (track, fresh) {
            if let Some(dma) = self.dmas.get_mut(&first) {
                dma.written(first, page, offset, PAGE);
            }
        }
        Ok(ffi::vfio_type1_page(pfn))
    }

    fn unpin_page(&self, at: u64, uncharge: bool) -> bool {
        let found = self.first_in(at, at.saturating_add(PAGE - 1));
        if let Some((first, dma)) = found {
            dma.memory.unpin_page(at.wrapping_sub(first), uncharge);
        }
        found.is_some()
    }

    /// Unpins pages of an emulated device.
    pub(crate) fn unpin_pages(&mut self, iova: u64, count: u64) {
        let uncharge = !self.is_paged();
        for index in 0..count {
            let at = iova.checked_add(index * PAGE);
            if kernel::warn_on!(!at.is_some_and(|at| self.unpin_page(at, uncharge))) {
                return;
            }
        }
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
            kernel::warn_on!(true);
            return Err(EBUSY);
        }
        let (page, tracking) = (self.page(), self.tracking);
        while len > 0 {
            let (first, dma) = self.first_in(iova, iova).ok_or(EINVAL)?;
            // As vfio has it: what a device may not read, it does not write either.
            if !dma.prot.contains(Prot::READ) || write && !dma.prot.contains(Prot::WRITE) {
                return Err(EPERM);
            }
            let rest = usize::try_from(dma.last - iova).unwrap_or(usize::MAX).saturating_add(1);
            let (some, offset) = (len.min(rest), iova - first);
            dma.memory.copy(offset, data, some, write)?;
            if write && tracking {
                if let Some(dma) = self.dmas.get_mut(&first) {
                    dma.written(first, page, offset, some as u64);
                }
            }
            iova = iova.wrapping_add(some as u64);
            data = data.wrapping_add(some);
            len -= some;
        }
        Ok(())
    }
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
