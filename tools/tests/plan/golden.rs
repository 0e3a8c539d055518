// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the planner prints, to the letter.

use super::run::Folder;
use super::{plan, printed};
use std::fs;

const LOG: &str = "\
# a huge page, two pages of a device, one page of RAM
0x200+512
  400+1:device:3
401 + 0x1 : device:3   # continues it

9000
";

const TABLES: &str = "\
515 pages of 4K in 3 runs: 2.0 MiB
the device sees 2.0 MiB from offset 0x0, at IOVA 0x200000, with pages of 4K|2M|1G

Runs: 3
  first PFN  pages  bytes      kind
      0x200    512  2 MiB       ram
      0x400      2  8 KiB  device:3
     0x9000      1  4 KiB       ram

Segments: 4, none longer than 1 MiB, none across a multiple of 4 GiB
   physical    length  bytes      kind
   0x200000  0x100000  1 MiB       ram
   0x300000  0x100000  1 MiB       ram
   0x400000    0x2000  8 KiB  device:3
  0x9000000    0x1000  4 KiB       ram

Best page size: 4K, which makes 515 blocks
      IOVA  physical
  0x200000  0x200000
  0x201000  0x201000
  0x202000  0x202000
  0x203000  0x203000
  0x204000  0x204000
  0x205000  0x205000
  0x206000  0x206000
  0x207000  0x207000
  0x208000  0x208000
  0x209000  0x209000
  0x20a000  0x20a000
  0x20b000  0x20b000
  0x20c000  0x20c000
  0x20d000  0x20d000
  0x20e000  0x20e000
  0x20f000  0x20f000
  0x210000  0x210000
  0x211000  0x211000
  0x212000  0x212000
  0x213000  0x213000
  ... and 495 more (--all shows them)

Tiles: 3 map calls
      IOVA   physical  page size  count  bytes
  0x200000   0x200000         2M      1  2 MiB
  0x400000   0x400000         4K      2  8 KiB
  0x402000  0x9000000         4K      1  4 KiB
";

#[test]
fn tables_for_people() {
    let limits = ["--iova", "2M", "--max-seg", "1M", "--boundary", "4G"];
    assert_eq!(printed(&[&limits[..], &["-"]].concat(), LOG), TABLES);
}

#[test]
fn tables_say_why_there_is_nothing() {
    let stdout = printed(&["--offset", "0x10", "--length", "100", "-"], "1+2\n");
    let expected = "\
2 pages of 4K in 1 run: 8 KiB
the device sees 100 B from offset 0x10, at IOVA 0x0, with pages of 4K|2M|1G

Runs: 1
  first PFN  pages  bytes  kind
        0x1      2  8 KiB   ram

Segments: 1
  physical  length  bytes  kind
    0x1010    0x64  100 B   ram

Best page size: none
  memory and IOVA do not agree in the bits below 4K, the smallest page size, or a run ends inside such a page

Tiles: none
  memory at 0x1010, byte 0x0 of the window, is not a multiple of 4K, the smallest page size
";
    assert_eq!(stdout, expected);
}

#[test]
fn all_shows_every_row() {
    let log: String = (0..30).map(|run| format!("{:x}\n", run * 2)).collect();
    let (short, long) = (printed(&["-"], &log), printed(&["--all", "-"], &log));
    assert_eq!(short.matches("... and 10 more (--all shows them)").count(), 4);
    assert!(!short.contains("0x3a000"));
    assert!(!long.contains("more"));
    // A block and a tile at it, and a segment.
    assert_eq!(long.matches("  0x3a000").count(), 3);
}

#[test]
fn json_is_one_object_with_integers() {
    let args = ["--length", "16K", "--iova", "0x1000", "--page-sizes", "4K,2M", "--json", "-"];
    let expected = "{\"page_shift\":12,\"pages\":5,\"runs\":[[16,4,\"ram\"],[32,1,\"ram\"]],\
        \"offset\":0,\"length\":16384,\"iova\":4096,\"page_sizes\":2101248,\
        \"max_seg\":null,\"boundary\":null,\"segments\":[[65536,16384,\"ram\"]],\
        \"best_page_size\":4096,\"blocks\":[65536,69632,73728,77824],\
        \"tiles\":[[4096,65536,4096,4,\"ram\"]]}\n";
    assert_eq!(printed(&args, "10+4\n20\n"), expected);
    let bitmap = ["--length", "0x4000", "--iova", "4K", "--page-sizes", "0x201000", "--json", "-"];
    assert_eq!(printed(&bitmap, "0x10+0x4\r\n\r\n0X20"), expected);
}

/// A device must not take the memory of another for RAM: a reader of the runs, the segments or the
/// map calls learns the kind of each, written as it is read.
#[test]
fn json_has_the_kind_of_everything_that_has_one() {
    let kinds = ["ram", "mmio", "device:0", "device:18446744073709551615"];
    let log: String = kinds.iter().zip(1..).map(|(kind, pfn)| format!("{pfn}:{kind}\n")).collect();
    let answer: serde_json::Value =
        serde_json::from_str(&printed(&["--json", "--page-sizes", "4K", "-"], &log)).unwrap();
    for list in ["runs", "segments", "tiles"] {
        let found = answer[list].as_array().unwrap();
        let found: Vec<_> =
            found.iter().map(|row| row.as_array().unwrap().last().unwrap()).collect();
        assert_eq!(found, kinds, "{list}");
    }
}

/// An answer says what was asked, as a request says it: asked again, it is the same.
#[test]
fn json_is_a_request_that_has_the_same_answer() {
    let args = ["--offset", "0x10", "--length", "8K", "--iova", "0x10", "--page-sizes", "4K|64K"];
    let limits = ["--max-seg", "3000", "--boundary", "4K", "--json", "-"];
    let log = "1+2\n7:device:3\n8+3:mmio\n";
    let asked = printed(&[&args[..], &limits].concat(), log);
    let answer: serde_json::Value = serde_json::from_str(&asked).unwrap();
    let mut request = serde_json::Map::new();
    for field in ["page_shift", "offset", "length", "iova", "page_sizes", "max_seg", "boundary"] {
        request.insert(field.to_owned(), answer[field].clone());
    }
    let runs = answer["runs"].as_array().unwrap().iter().map(|run| {
        let (pfn, count, kind) = (&run[0], &run[1], run[2].as_str().unwrap());
        format!("{:x}+{count}:{kind}", pfn.as_u64().unwrap()).into()
    });
    request.insert("runs".to_owned(), runs.collect::<Vec<serde_json::Value>>().into());
    let again = printed(&["--batch"], &serde_json::Value::Object(request).to_string());
    assert_eq!(again, asked);
}

#[test]
fn json_says_why_there_are_no_tiles() {
    let expected = "{\"page_shift\":12,\"pages\":1,\"runs\":[[1,1,\"ram\"]],\"offset\":0,\
        \"length\":4096,\"iova\":16,\"page_sizes\":1075843072,\"max_seg\":null,\
        \"boundary\":null,\"segments\":[[4096,4096,\"ram\"]],\
        \"best_page_size\":null,\"blocks\":[],\
        \"tiles_error\":\"IOVA 0x10 is not a multiple of 4K, the smallest page size\"}\n";
    assert_eq!(printed(&["--iova", "16", "--json", "-"], "1"), expected);
}

#[test]
fn pages_have_the_size_that_is_asked_for() {
    let args = ["--page-shift", "16", "--page-sizes", "64K", "--json", "-"];
    let expected = "{\"page_shift\":16,\"pages\":2,\"runs\":[[1,2,\"ram\"]],\"offset\":0,\
        \"length\":131072,\"iova\":0,\"page_sizes\":65536,\"max_seg\":null,\
        \"boundary\":null,\"segments\":[[65536,131072,\"ram\"]],\
        \"best_page_size\":65536,\"blocks\":[65536,131072],\
        \"tiles\":[[0,65536,65536,2,\"ram\"]]}\n";
    assert_eq!(printed(&args, "1+2"), expected);
}

#[test]
fn a_file_is_read_like_standard_input() {
    let folder = Folder::new("plan");
    let file = folder.0.join("log");
    fs::write(&file, LOG).unwrap();
    let path = file.to_str().unwrap();
    let (good, bad) = (plan(&[path], ""), plan(&["--page-shift", "30", "--length", "0", path], ""));
    fs::write(&file, "10\n20+x\n").unwrap();
    let worse = plan(&["--json", path], "");
    assert_eq!(good.stdout, printed(&["-"], LOG));
    assert_eq!((bad.status, bad.stdout.as_str()), (2, ""));
    assert_eq!((worse.status, worse.stdout.as_str()), (2, ""));
    let expected = "2:4: expected a page count, decimal or 0x hex, found \"x\"";
    assert_eq!(worse.stderr, format!("{path}:{expected}\n"));
}

#[test]
fn help_explains_the_formats() {
    let help = printed(&["--help"], "");
    for word in
        ["PFN[+COUNT][:KIND]", "best_page_size", "tiles_error", "[default: 4K,2M,1G]", "kind]"]
    {
        assert!(help.contains(word), "{word}");
    }
}
