// SPDX-License-Identifier: MIT OR Apache-2.0
//! **Tiles** are the window: in order, gap-free, not a byte more, each as large as can be.

use super::{
    alloc::vec::Vec,
    block_law::iova,
    input, iterators,
    oracle::{Atoms, Page, PlainTile},
};
use arbitrary::{Result, Unstructured};
use pinned_sgl::granule::{Tile, TileError};
use pinned_sgl::{Iova, PageSize, PageSizes};

pub use super::block_law::Case;

fn plain(tile: Tile) -> PlainTile {
    (tile.iova.get(), tile.phys.get(), tile.page_size, tile.count, tile.kind)
}

pub fn check(page: PageSize, pages: &[Page], case: Case) {
    let Case { offset, len, iova, sizes } = case;
    let sgl = input::build(page, pages);
    let window = sgl.window(offset, len).unwrap();
    let tiles = window.tiles(sizes, Iova::new(iova));
    let Some(smallest) = sizes.smallest() else {
        assert_eq!(tiles.unwrap_err(), TileError::NoPageSizes);
        return;
    };
    if iova.checked_add(len - 1).is_none() {
        assert_eq!(tiles.unwrap_err(), TileError::Wraps { iova: Iova::new(iova), len });
        return;
    }
    let Some(atoms) = Atoms::of(pages, page, offset, len, iova, &[smallest.bytes()]) else {
        return;
    };
    let count = window.tile_count(sizes, Iova::new(iova));
    let Some(expected) = atoms.tiles(sizes) else {
        let error = tiles.unwrap_err();
        assert_eq!(count, Err(error));
        // The error names the first thing that is not a multiple of the smallest size.
        match error {
            TileError::MisalignedIova { iova: at, .. } => {
                assert_eq!((at.get(), at.is_aligned(smallest)), (iova, false));
            }
            TileError::MisalignedMemory { offset, phys, .. } => {
                let atom = atoms.atoms[(offset / atoms.step) as usize];
                assert_eq!((phys.get(), phys.is_aligned(smallest)), (atom.phys, false));
            }
            TileError::MisalignedEnd { offset, .. } => {
                assert_ne!(offset % smallest.bytes(), 0);
                let end = (offset / atoms.step) as usize;
                assert!(end == atoms.atoms.len() || !atoms.continues(end));
            }
            other => panic!("{other}"),
        }
        return;
    };
    let tiles = tiles.unwrap();
    let all: Vec<_> = tiles.clone().map(plain).collect();
    assert_eq!(all, expected, "{pages:?} {case:?}");
    assert_eq!(count, Ok(expected.len() as u64));
    iterators::check(tiles, plain, &expected);
}

pub fn from_bytes(u: &mut Unstructured<'_>) -> Result<()> {
    let input::Short { page, pages, offset, len, step } = input::short(u)?;
    let mut sizes = input::page_sizes(u, page)?;
    if u.ratio(2, 3)? {
        // A size that divides the window, so that there is something to tile.
        sizes |= PageSizes::from_bits_retain(1 << step);
    }
    let mut iova = iova(u, page, &pages, offset)?;
    if let (Some(smallest), true) = (sizes.smallest(), u.ratio(3, 4)?) {
        iova &= !smallest.mask();
    }
    check(page, &pages, Case { offset, len, iova, sizes });
    Ok(())
}
