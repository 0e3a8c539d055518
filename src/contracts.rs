// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every contract that `unsafe` stands for: what keeps it, what relies on it, and the test
//! that shows it.
//!
//! Safe code keeps none of these: whatever it calls, in whatever order, with whatever values, it cannot
//! make the crate unpin a page that a device reaches, unpin one twice, map over another mapping, or
//! panic. So the left column is all that has to be read to trust an implementation, and all that the
//! crate relies on.
//!
//! The tests are files of the repository: `tests/outsiders/` calls everything that is safe with stale
//! and foreign parts, as does `tests/outsiders_real.rs` on
//! real memory, `tests/unwind.rs` lets foreign code panic at each of its calls, `tests/breach.rs`
//! has domains that lie, `tests/fail_nth.rs` lets each call fail, `tests/compile_fail` has what must not
//! compile, `tests/laws` are properties that fuzzers check as well, `tests/loom` tries every order of
//! threads, and `tests/kernel` is a real kernel.
//!
//! # Where lists and tables are kept
//!
//! | [`Storage`] promises | on which relies | shown by |
//! |---|---|---|
//! | a piece keeps its bytes and its length; each number has bytes of its own | [`Sgl`]: what it returns is unpinned and shown to devices | `laws/packed_roundtrip`, unit tests of `Heap` and `Pool` |
//! | `grow` adds one piece or changes nothing, also where it is asked for a size that no piece has, and where it unwinds | [`SglBuilder`]: all or nothing | `laws/merge_law`, `unwind`, `outsiders` |
//! | `shrink` removes the last piece; no other method unwinds | taking back what a storage held before, and what a failed push added | `outsiders`, `unwind` |
//!
//! A storage need not be empty when it is lent: what is there is taken back first.
//!
//! | [`Slab`] promises | on which relies | shown by |
//! |---|---|---|
//! | a value stays under its key until it is removed; no two have one key | [`Ioas`]: what it holds decides what is unmapped and unpinned | `laws/ioas_ops`, unit tests of the slabs |
//! | `remove` does not allocate; no method unwinds | taking a mapping down, which cannot fail | `fail_nth`, `laws/ioas_ops` |
//!
//! # Pointers
//!
//! | [`Holder`], [`SharedHolder`] promise | on which relies | shown by |
//! |---|---|---|
//! | `deref` returns one value for ever, which lives as long as the holder, and does not unwind | all that unpins through the pinner that has pinned, and unmaps in the domain that has mapped | implemented for `&`, `Box`, `Rc`, `Arc`; `loom` |
//! | a clone leads to the same value | [`Mapping::split_at`], [`Ioas::split`], [`Ioas::copy_from`] | `cutting`, `laws/ioas_ops` |
//!
//! Clones and ends of holders, and of what they hold, may unwind: `unwind`.
//!
//! # Pins
//!
//! | [`Pinner`] promises | on which relies | shown by |
//! |---|---|---|
//! | runs are the frames of the next pages, of the kind that they are, each page with a pin that is the batch's | [`Umem`], [`Stream`]: what is shown to devices; the kernel's scatterlists: where a page structure is looked for | `laws/umem_ops`, `linux_pinner` and `kernel` against the page map |
//! | a pinned page keeps its frame until it is unpinned as often, also if the pinner is dropped or leaked | [`Region::attach`] | `mock_memory`, `linux_pinner`, `loom` |
//! | its address kind is true: where it is `User`, runs are the pages of this process, which stay mapped until they are unpinned | [`Region::attach`]; a device of the other kind is refused | `by_user_addr` |
//! | `WRITE` and `LONGTERM` mean what they say; the size of pages never changes | [`Umem`], [`Stream`] | `umem_pin`, `kernel` |
//! | where `pin` unwinds, what it pushed is in the batch; where `unpin` unwinds, those pins are taken for given back | all of `umem` | `unwind` |
//!
//! | asks its caller | kept by | shown by |
//! |---|---|---|
//! | [`PinBatch::push`]: the run is what the contract of the pinner says | the pinner; no other can have the batch, which only a [`PinnedBatch`] of its own lends to it | `compile_fail/batch_of_another`, `compile_fail/batches_swapped`, `outsiders` |
//! | [`Pinner::unpin`]: these pages were pushed for these addresses, are unpinned once, and no device reaches them | [`PinnedBatch`], [`Umem`], [`Stream`], each on its end | `umem_pin`, `laws/umem_ops`, `unwind`; the witness of the mock |
//! | [`PageAccess::read`], [`PageAccess::write`]: the bytes are those of pages that this pinner has pinned, for writing | [`Umem`], which holds both; an address space reads through its regions ([`CpuRegion`]) | `compile_fail/access_of_another`, `descriptors` |
//!
//! [`Accountant`] is a safe trait: nothing relies on it but the count.
//!
//! # Regions
//!
//! | [`Region`] promises | on which relies | shown by |
//! |---|---|---|
//! | the list, the offset and the length are those of the memory and never change; kinds are true | [`Mapping`], [`Ioas`], [`MemoryRegion`]: what is shown to devices | `mapping`, `memory_region`, `laws/umem_ops` |
//! | its address kind is true | each attachment: the one place that makes it compares the device's | `by_user_addr` |
//! | while it is attached, memory stays where it is, also if the region is dropped or leaked | the same | `compile_fail/unpin_while_mapped`, `umem_pin`, `loom` |
//! | where it is not writable, an attachment for writing is refused; one that unwinds has attached nothing | the same | `dirty_marks`, `unwind` |
//!
//! | asks its caller | kept by | shown by |
//! |---|---|---|
//! | [`Region::detach`]: once for each attachment; the device cannot reach the memory any more | [`Attachment`], which cannot be copied, and is leaked unless it is released | `compile_fail/released_twice` |
//! | [`Attachment::release`]: the device cannot reach the memory any more | [`Mapping`], [`Ioas`], [`MemoryRegion`], after unmapping and flushing; a driver whose device translates by itself | `breach`, `unwind`, the witness of the mock |
//!
//! What follows from these answers, windows of a region, is in [`RegionExt`], which cannot be overridden.
//!
//! # Domains
//!
//! | [`Domain`] promises | on which relies | shown by |
//! |---|---|---|
//! | `map` refuses what is in use, also from two threads at once, and reports no byte that it did not map | safe `map` of [`Mapping`], [`Ioas`] and [`Stream`], which know nothing of each other | `outsiders`, `threads`, `loom/domain`, `kernel` |
//! | devices reach exactly what was reported, and never write without `WRITE` | the same | `mock_iommu`, `kernel` |
//! | after `unmap` reports, exactly these entries are gone; after `flush`, no device reaches them | [`Attachment::release`] | `mapping`, `stream`, the witness of the mock |
//! | when a domain is dropped, nothing is reached through it | streams and mappings that are leaked | the witness of the mock |
//! | addresses of tiles are used as what its address kind says | the same, which map no list of the other kind | `by_user_addr`, `kernel` |
//! | sizes, aperture and [`Cuts`] never change | tiles that are computed again when memory is unmapped | `alignments`, `cutting`, `laws/ioas_ops` |
//! | it may unwind; what it was asked for may be done in part then | values leak the pins of the memory | `unwind` |
//!
//! Numbers that cannot be true are a [`Breach`]: pins are leaked and reported ([`Pinner::leaked`]), never
//! freed: `breach`.
//!
//! | asks its caller | kept by | shown by |
//! |---|---|---|
//! | [`Domain::map`], [`Domain::map_runs`]: the memory stays what it is until it was unmapped and flushed; for ever after a breach or if the call unwinds | the attachment, or the pins, that [`Mapping`], [`Ioas`] and [`Stream`] hold | `unwind`, `breach`, the witness of the mock |
//! | [`Domain::unmap`], [`Domain::unmap_range`]: the caller's own bytes, reported by `map`, cut where the domain can | the same: each knows what it mapped, and asks for the [`Cuts`] before it cuts | `cutting`, `laws/ioas_ops` |
//!
//! | [`ReadDomain`] promises | on which relies | shown by |
//! |---|---|---|
//! | `read` may be called at any time; for what is mapped and not being unmapped, it returns the entry and no byte outside of it | [`Stream`], which stores no list: what is unpinned | `stream`, `laws/umem_ops`, `kernel` |
//!
//! | [`DirtyDomain`] promises | on which relies | shown by |
//! |---|---|---|
//! | a page that was written since it was last cleared is reported | [`Ioas::read_dirty`] and [`Ioas::detach`], and callers that move a virtual machine by it; no pin does | `ioas_dirty`, `laws/ioas_ops` |
//!
//! # Cards
//!
//! | [`BlockTable`] promises | on which relies | shown by |
//! |---|---|---|
//! | under a key, exactly the bytes of the range are reached, for what the access allows | [`MemoryRegion`] | `memory_region` |
//! | after `register` failed or `invalidate` succeeded, nothing reaches the memory; a call that unwinds may have done anything | the same: otherwise pins are leaked | `memory_region`, `unwind` |
//!
//! | asks its caller | kept by | shown by |
//! |---|---|---|
//! | [`BlockTable::register`]: the bytes stay what they are until the key was invalidated; all bits of the access are flags | [`MemoryRegion`], by its attachment | `memory_region`, `outsiders` |
//! | [`BlockTable::invalidate`]: a key of this table, once | [`MemoryRegion`], which alone invalidates it | `memory_region` |
//!
//! [`Storage`]: crate::Storage
//! [`Sgl`]: crate::Sgl
//! [`SglBuilder`]: crate::SglBuilder
//! [`Slab`]: crate::store::Slab
//! [`Ioas`]: crate::iommu::Ioas
//! [`Ioas::split`]: crate::iommu::Ioas::split
//! [`Ioas::copy_from`]: crate::iommu::Ioas::copy_from
//! [`Ioas::read_dirty`]: crate::iommu::Ioas::read_dirty
//! [`Ioas::detach`]: crate::iommu::Ioas::detach
//! [`Mapping`]: crate::iommu::Mapping
//! [`Mapping::split_at`]: crate::iommu::Mapping::split_at
//! [`Stream`]: crate::iommu::Stream
//! [`Domain`]: crate::iommu::Domain
//! [`Domain::map`]: crate::iommu::Domain::map
//! [`Domain::map_runs`]: crate::iommu::Domain::map_runs
//! [`Domain::unmap`]: crate::iommu::Domain::unmap
//! [`Domain::unmap_range`]: crate::iommu::Domain::unmap_range
//! [`ReadDomain`]: crate::iommu::ReadDomain
//! [`DirtyDomain`]: crate::iommu::DirtyDomain
//! [`Breach`]: crate::iommu::Breach
//! [`Cuts`]: crate::iommu::Cuts
//! [`Holder`]: crate::umem::Holder
//! [`SharedHolder`]: crate::umem::SharedHolder
//! [`Pinner`]: crate::umem::Pinner
//! [`Pinner::unpin`]: crate::umem::Pinner::unpin
//! [`Pinner::leaked`]: crate::umem::Pinner::leaked
//! [`PinBatch::push`]: crate::umem::PinBatch::push
//! [`PinnedBatch`]: crate::umem::PinnedBatch
//! [`Umem`]: crate::umem::Umem
//! [`Accountant`]: crate::umem::Accountant
//! [`PageAccess::read`]: crate::umem::PageAccess::read
//! [`PageAccess::write`]: crate::umem::PageAccess::write
//! [`CpuRegion`]: crate::umem::CpuRegion
//! [`Region`]: crate::umem::Region
//! [`RegionExt`]: crate::umem::RegionExt
//! [`Region::attach`]: crate::umem::Region::attach
//! [`Region::detach`]: crate::umem::Region::detach
//! [`Attachment`]: crate::umem::Attachment
//! [`Attachment::release`]: crate::umem::Attachment::release
//! [`BlockTable`]: crate::rdma::BlockTable
//! [`BlockTable::register`]: crate::rdma::BlockTable::register
//! [`BlockTable::invalidate`]: crate::rdma::BlockTable::invalidate
//! [`MemoryRegion`]: crate::rdma::MemoryRegion
