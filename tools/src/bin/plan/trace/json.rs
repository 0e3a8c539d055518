// SPDX-License-Identifier: MIT OR Apache-2.0
//! The answer as one JSON object.

use super::{
    why::{largest_that_fits, Why},
    Mapping, Process, Trace,
};
use crate::json::Array;
use pinned_sgl::PageSize;
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{json, Value};
use std::collections::BTreeMap;

fn entries(entries: &BTreeMap<PageSize, u64>) -> Vec<(u64, u64)> {
    entries.iter().map(|(size, count)| (size.bytes(), *count)).collect()
}

fn why(why: &Why) -> Value {
    json!({
        "reason": why.reason.name(),
        "largest": why.largest.map(PageSize::bytes),
        "next": why.next.map(PageSize::bytes),
    })
}

impl Process {
    fn to_json(&self) -> Value {
        let lengths = self.run_lengths().into_iter();
        let lengths = lengths.map(|(shift, (runs, pages))| {
            let min = 1u64.wrapping_shl(shift);
            json!({
                "min_pages": min, "max_pages": min.saturating_sub(1).saturating_add(min),
                "runs": runs, "pages": pages,
            })
        });
        let whys = self.whys.iter().map(|(reason, (mappings, bytes))| {
            json!({ "why": why(reason), "mappings": mappings, "bytes": bytes })
        });
        json!({
            "comm": self.comm,
            "pid": self.pid,
            "maps": self.maps,
            "mapped_bytes": self.list.byte_len(),
            "failed_maps": self.failed,
            "continued": self.continued,
            "unmaps": self.unmaps,
            "unmapped_bytes": self.unmapped_bytes,
            "runs": self.list.run_count(),
            "run_lengths": lengths.collect::<Vec<_>>(),
            "entries": entries(&self.entries),
            "list_bytes": self.list.footprint(),
            "why_not_larger": whys.collect::<Vec<_>>(),
        })
    }
}

impl Serialize for Trace {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mapping = |mapping: &Mapping| {
            json!({
                "line": mapping.line,
                "process": mapping.process,
                "iova": mapping.iova.get(),
                "phys": mapping.memory.phys.get(),
                "len": mapping.memory.len,
                "entries": entries(&mapping.entries(self.sizes)),
                "fits": largest_that_fits(mapping).map(PageSize::bytes),
                "why_not_larger": why(&Why::of(mapping, self.sizes)),
            })
        };
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("page_shift", &self.page.shift())?;
        map.serialize_entry("page_sizes", &self.sizes.bits())?;
        map.serialize_entry("skipped_lines", &self.skipped)?;
        map.serialize_entry("lost_events", &self.lost)?;
        map.serialize_entry("processes", &Array(self.processes.iter().map(Process::to_json)))?;
        map.serialize_entry("mappings", &Array(self.mappings.iter().map(mapping)))?;
        map.end()
    }
}
