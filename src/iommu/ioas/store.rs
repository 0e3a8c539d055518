// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`IoasStore`]: where an address space keeps its mappings and its domains.
#![forbid(unsafe_code)]

use super::area::Area;
use super::domains::DomainLink;
use super::tree::{Node, TreeStore};
use crate::store::{SlabSlot, Slabs};
use crate::umem::RegionHolder;

/// What can keep the mappings and the domains of an [`Ioas`](super::Ioas): every storage that has [`Slabs`] of all
/// values. There is nothing to implement.
pub trait IoasStore<U: RegionHolder, D>: TreeStore<Area<U>> + Slabs<DomainLink<D>> {}

impl<U: RegionHolder, D, S: TreeStore<Area<U>> + Slabs<DomainLink<D>>> IoasStore<U, D> for S {}

/// Room for one mapping or reservation of an [`Ioas`](super::Ioas), to be lent to a [`PoolIoas`](super::PoolIoas).
pub type MappingSlot<U> = SlabSlot<Area<U>>;

/// Room for one node of the tree of an [`Ioas`](super::Ioas), to be lent to a [`PoolIoas`](super::PoolIoas),
/// which never needs more than [so many](SlabSlot::needed_for).
pub type NodeSlot = SlabSlot<Node>;

/// Room for one domain of an [`Ioas`](super::Ioas), to be lent to a [`PoolIoas`](super::PoolIoas).
pub type DomainSlot<D> = SlabSlot<DomainLink<D>>;
