// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Dma`]: where a device sees a list that has no table.

use crate::{
    abi::IbUmem,
    ffi::{self, IovaState},
    registration::Pinned,
};
use kernel::{error::to_result, prelude::*};
use pinned_sgl::SegmentLimits;

/// What was mapped for a device, of which each page follows from its place in the list.
pub(crate) enum Dma {
    /// Nothing: there is a table.
    None,
    /// Nothing: the device translates nothing.
    Virtual,
    /// Every run, by itself: addresses of memory, and as much.
    Moved(u64),
    /// All runs, one behind the other.
    Space(IovaState),
}

impl Dma {
    /// Maps all of a list for the device of a registration; or nothing, where a table is needed for that.
    ///
    /// # Safety
    ///
    /// The device of `umem` is there, and the list is its memory. What is returned is given to [`unmap`](Self::unmap),
    /// with the same list and `umem`.
    pub(crate) unsafe fn map(list: &Pinned, umem: &IbUmem) -> Option<Self> {
        // SAFETY: "pointers are to what their types say, which is there": the device is, as the caller promises.
        if unsafe { ffi::ib_umem_is_virtual(umem.device) } {
            return Some(Self::Virtual);
        }
        let mut dma = Self::Moved(0);
        let mut space = IovaState::default();
        let all = list.whole().ok()?.len();
        // SAFETY: as above; `space` is a local.
        if unsafe { ffi::ib_umem_space(umem.device, &mut space, all as usize) } {
            dma = Self::Space(space);
        }
        let mut mapped = 0u64;
        // SAFETY: "the device of `umem` is there": as the caller promises; "nothing of the list is mapped yet": by this.
        let added = unsafe { dma.add_all(list, umem, &mut mapped) };
        if added.is_err() {
            // SAFETY: "the first `mapped` bytes are mapped, and no more": as `add_all` has counted; "the device does not
            // reach them any more": no driver knows of them yet.
            unsafe { dma.unmap_first(list, umem, mapped) };
        }
        added.is_ok().then_some(dma)
    }

    /// Maps each run, and counts the bytes that are mapped.
    ///
    /// # Safety
    ///
    /// The device of `umem` is there, and nothing of the list is mapped yet.
    unsafe fn add_all(&mut self, list: &Pinned, umem: &IbUmem, mapped: &mut u64) -> Result {
        let (device, attrs) = (umem.device, umem.dma_attrs);
        for segment in list.whole()?.segments(&SegmentLimits::NONE)? {
            let (phys, len) = (segment.phys.get(), segment.len as usize);
            match self {
                Self::None | Self::Virtual => {}
                Self::Moved(by) => {
                    // SAFETY: "pointers are to what .., which is there": the device is, as the caller promises.
                    let at = unsafe { ffi::ib_umem_map_run(device, phys, len, attrs) };
                    if at == u64::MAX {
                        return Err(EIO);
                    }
                    let moved = at.wrapping_sub(phys);
                    if *mapped == 0 {
                        *by = moved;
                    } else if *by != moved {
                        // SAFETY: "so many bytes are mapped there, with these attributes": just now; "the device does
                        // not reach them any more": no driver knows of them yet.
                        unsafe { ffi::ib_umem_unmap_run(device, at, len, attrs) };
                        return Err(EIO);
                    }
                }
                Self::Space(space) => {
                    let at = *mapped as usize;
                    // SAFETY: "pointers are to what .., which is there": the device is, as the caller promises; "there
                    // is room for `len` bytes at `at`, where nothing is linked yet": for all runs, one after the other.
                    let linked = unsafe { ffi::ib_umem_link(device, space, phys, at, len, attrs) };
                    to_result(linked)?;
                }
            }
            *mapped = mapped.wrapping_add(segment.len);
        }
        if let Self::Space(space) = self {
            // SAFETY: "so many bytes are linked": as was counted.
            to_result(unsafe { ffi::ib_umem_sync(device, space, *mapped as usize) })?;
        }
        Ok(())
    }

    /// The address at which the device sees a byte, and how many bytes from there on continue it.
    pub(crate) fn run(&self, list: &Pinned, offset: u64) -> Option<(u64, u64)> {
        let whole = list.whole().ok()?;
        if let Self::Space(space) = self {
            let left = whole.len().checked_sub(offset).filter(|left| *left > 0)?;
            return Some((space.addr.wrapping_add(offset), left));
        }
        let (begin, segment) = whole.segment_at(offset)?;
        let skip = offset.checked_sub(begin)?;
        let phys = segment.phys.get().checked_add(skip)?;
        let at = match self {
            Self::Moved(by) => phys.wrapping_add(*by),
            Self::Virtual => ffi::ib_umem_virtual(phys),
            Self::None | Self::Space(_) => return None,
        };
        Some((at, segment.len.checked_sub(skip)?))
    }

    /// Unmaps what [`map`](Self::map) has mapped.
    ///
    /// # Safety
    ///
    /// `map` has returned it for the same list and `umem`, whose device does not reach the memory any more.
    pub(crate) unsafe fn unmap(&mut self, list: &Pinned, umem: &IbUmem) {
        // SAFETY: "the first `mapped` bytes are mapped, and no more": all of them are, by `map`; "the device does not
        // reach them any more": as the caller promises.
        unsafe { self.unmap_first(list, umem, u64::MAX) };
        *self = Self::None;
    }

    /// Unmaps the first bytes.
    ///
    /// # Safety
    ///
    /// The first `mapped` bytes are mapped, and no more: all of them, if there are fewer. The device does not reach them
    /// any more.
    unsafe fn unmap_first(&mut self, list: &Pinned, umem: &IbUmem, mapped: u64) {
        let (device, attrs) = (umem.device, umem.dma_attrs);
        let Ok(whole) = list.whole() else { return };
        let mapped = mapped.min(whole.len());
        match self {
            Self::None | Self::Virtual => {}
            // SAFETY: "so many bytes are linked, with these attributes; the device does not reach them any more": as the
            // caller promises.
            Self::Space(space) => unsafe {
                ffi::ib_umem_unlink(device, space, mapped as usize, attrs);
            },
            Self::Moved(by) => {
                let mut done = 0u64;
                for segment in whole.segments(&SegmentLimits::NONE).into_iter().flatten() {
                    if done == mapped {
                        break;
                    }
                    let at = segment.phys.get().wrapping_add(*by);
                    // SAFETY: "so many bytes are mapped there, with these attributes": this run is; "the device does
                    // not reach them any more": as the caller promises.
                    unsafe { ffi::ib_umem_unmap_run(device, at, segment.len as usize, attrs) };
                    done = done.wrapping_add(segment.len);
                }
            }
        }
    }
}
