// SPDX-License-Identifier: MIT OR Apache-2.0
//! The answer as one JSON object. Its lists are written as they are made: none is held in memory.

use crate::answer::Plan;
use pinned_sgl::MemoryKind;
use serde::ser::{Serialize, SerializeMap, Serializer};

/// A kind of memory, written as a string: as runs are read.
struct Kind(MemoryKind);

impl Serialize for Kind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// An iterator that is written as an array.
pub(crate) struct Array<I>(pub(crate) I);

impl<I> Serialize for Array<I>
where
    I: Iterator<Item: Serialize> + Clone,
{
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.clone())
    }
}

impl Serialize for Plan<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let runs = self.sgl.runs().map(|run| (run.start().get(), run.count(), Kind(run.kind())));
        let segments =
            self.segments().map(|segment| (segment.phys.get(), segment.len, Kind(segment.kind)));
        let blocks = self.blocks().map(|block| block.get());
        let tiles = self.tiles().map(|tile| {
            let (iova, phys, size) = (tile.iova.get(), tile.phys.get(), tile.page_size.bytes());
            (iova, phys, size, tile.count, Kind(tile.kind))
        });
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("page_shift", &self.sgl.page_size().shift())?;
        map.serialize_entry("pages", &self.sgl.page_count())?;
        map.serialize_entry("runs", &Array(runs))?;
        map.serialize_entry("offset", &self.window.offset())?;
        map.serialize_entry("length", &self.window.len())?;
        map.serialize_entry("iova", &self.view.iova.get())?;
        map.serialize_entry("page_sizes", &self.view.page_sizes.bits())?;
        map.serialize_entry("max_seg", &self.view.max_seg)?;
        map.serialize_entry("boundary", &self.view.boundary)?;
        map.serialize_entry("segments", &Array(segments))?;
        map.serialize_entry("best_page_size", &self.best.map(|best| best.page_size().bytes()))?;
        map.serialize_entry("blocks", &Array(blocks))?;
        match &self.tiles {
            Ok(_) => map.serialize_entry("tiles", &Array(tiles))?,
            Err(error) => map.serialize_entry("tiles_error", &error.to_string())?,
        }
        map.end()
    }
}
