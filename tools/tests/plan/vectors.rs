// SPDX-License-Identifier: MIT OR Apache-2.0
//! What Linux answers: facts from running its code, as batch requests.

use super::{answer, answers};
use serde_json::{json, Value};

/// `ib_umem_find_best_pgsz()` and the block iterator: the run and offset, the length, the sizes and
/// the IOVA; the best page size (0: none), how many blocks, and the first of them.
#[test]
fn best_page_size_and_cover_blocks() {
    let m4 = (1u64 << 12) | (1 << 21);
    let k64 = (1u64 << 12) | (1 << 16) | (1 << 18);
    let cases = [
        ("200+4", 0, 0x4000, m4 | 1 << 30, 0, 1u64 << 21, &[0x20_0000][..]),
        ("400+64", 0, 0x4_0000, k64, 0x40_0000, 1 << 18, &[0x40_0000]),
        (
            "400+64",
            0,
            0x4_0000,
            k64,
            0x41_0000,
            1 << 16,
            &[0x40_0000, 0x41_0000, 0x42_0000, 0x43_0000],
        ),
        ("413+4", 0, 0x4000, 1 << 13 | 1 << 21, 0, 0, &[]),
        ("700", 0x800, 0x400, m4, 0x7f_0800, 1 << 12, &[0x70_0000]),
        ("700", 0x800, 0x400, 0x1e00, 0x7f_0800, 1 << 10, &[0x70_0800]),
        ("700", 0x800, 0x400, 1 << 12, 0, 0, &[]),
        // A size above all of the window is not taken where a smaller one covers it as well.
        ("200+4", 0, 0x4000, k64, 0, 1 << 16, &[0x20_0000]),
    ];
    for (run, offset, length, sizes, iova, best, blocks) in cases {
        let found = answer(json!({"runs": [run], "offset": offset, "length": length,
            "page_sizes": sizes, "iova": iova}));
        let expected = if best == 0 { Value::Null } else { json!(best) };
        assert_eq!(found["best_page_size"], expected, "{run} at {iova:#x}");
        assert_eq!(found["blocks"], json!(blocks), "{run} at {iova:#x}");
    }
    let pages = answer(json!({"runs": ["400+64"], "page_sizes": k64, "iova": 0x40_1000}));
    assert_eq!(pages["best_page_size"], json!(4096));
    assert_eq!(pages["blocks"].as_array().unwrap().len(), 64);
    let wraps = answer(json!({"runs": ["400+64"], "iova": 0xffff_ffff_ffff_0000_u64}));
    assert_eq!(
        wraps["error"],
        "iova: 0x40000 bytes at IOVA 0xffffffffffff0000 need more than 64 bits"
    );
}

/// `iommu_pgsize()` for 4K, 2M and 1G: IOVA, memory, bytes; the first tile.
#[test]
fn exact_tiles() {
    let (k4, m2, g1) = (1u64 << 12, 1u64 << 21, 1u64 << 30);
    let cases = [
        (0u64, 0u64, k4, k4, 1u64),
        (0x1000, 0x1000, 0x40_0000, k4, 511),
        (0x1000, 0x1000, 0x20_1000, k4, 513),
        (0x1000, 0x2000, 0x60_0000, k4, 1536),
        (0x20_0000, 0x20_0000, g1, m2, 512),
        (0x3fe0_0000, 0x3fe0_0000, 2 * g1, m2, 1),
        (0, 0, 3 * g1, g1, 3),
        (0xffff_ffff_ffff_f000, 0x1000, k4, k4, 1),
    ];
    let requests = cases.map(|(iova, phys, bytes, _, _)| {
        json!({"runs": [format!("{:x}+{}", phys / k4, bytes / k4)], "iova": iova})
    });
    for ((iova, phys, bytes, size, count), found) in cases.into_iter().zip(answers(&requests)) {
        assert_eq!(
            found["tiles"][0],
            json!([iova, phys, size, count, "ram"]),
            "{bytes:#x} at {iova:#x}"
        );
    }
}

#[test]
fn a_full_split() {
    let found = answer(json!({"runs": ["3ff+0x402"], "iova": 0x1f_f000, "page_sizes": 0x20_1000}));
    let expected = json!([
        [0x1f_f000, 0x3f_f000, 0x1000, 1, "ram"],
        [0x20_0000, 0x40_0000, 0x20_0000, 2, "ram"],
        [0x60_0000, 0x80_0000, 0x1000, 1, "ram"],
    ]);
    assert_eq!(found["tiles"], expected);
}
