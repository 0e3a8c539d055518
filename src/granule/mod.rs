// SPDX-License-Identifier: MIT OR Apache-2.0
//! Breaking a window up: pages, segments, blocks, tiles.
//!
//! One list serves every consumer; what a device can take is an argument here.
//!
//! | call | for | covers | sizes |
//! |---|---|---|---|
//! | [`Window::pages`] | CPU access, page by page | whole pages | the list's page size |
//! | [`Window::segments`] | a device with a scatter-gather engine | exactly the window | any, under [`SegmentLimits`] |
//! | [`Window::best_page_size`], then [`BlockSize::blocks`] | an RDMA NIC's translation table | may reach past the window | one |
//! | [`Window::tiles`] | an IOMMU's page table | exactly the window | several of a set |
//!
//! Blocks and tiles are different types on purpose. A block may show more memory than the window
//! has, and that is right for a NIC that checks bounds itself; mapped in an IOMMU it would show a
//! device foreign memory. Only tiles are exact.
//!
//! [`Window::pages`]: crate::Window::pages
//! [`Window::segments`]: crate::Window::segments
//! [`Window::best_page_size`]: crate::Window::best_page_size
//! [`Window::tiles`]: crate::Window::tiles

mod blocks;
mod pages;
mod segments;
mod tiles;

pub use blocks::{BlockSize, Blocks};
pub use pages::Pages;
pub use segments::{SegmentError, SegmentLimits, Segments};
pub use tiles::{SegmentTiles, Tile, TileError, Tiles};
