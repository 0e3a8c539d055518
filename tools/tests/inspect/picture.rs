// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the picture goes.

use super::bands::Band;
use super::program;
use super::run::{ended, Folder};
use pinned_sgl::{Heap, PageRun, PageSize, Pfn, SglBuilder};
use std::fs;

#[test]
fn a_dash_is_standard_output_and_nothing_else_goes_there() {
    let folder = Folder::new("dash");
    let run = |svg| {
        let args = ["--mock", "--size", "8M", "--pages", "4k", "--svg", svg];
        let ended = ended(program().args(args).current_dir(&folder.0));
        assert_eq!((ended.status, ended.stderr.as_str()), (0, ""), "{svg}");
        ended.stdout
    };
    let picture = run("-");
    assert!(picture.starts_with("<svg ") && picture.ends_with("</svg>\n"), "{picture}");
    assert_eq!(picture.matches("<svg").count(), 1);
    assert_eq!(run("/dev/stdout"), picture);
    assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 0, "no file named -");
    // A file of that name can still be had, and is the same picture.
    let report = run("./-");
    assert!(report.contains("The picture is in ./-"), "{report}");
    assert_eq!(fs::read_to_string(folder.0.join("-")).unwrap() + "\n", picture);
}

/// The bands by sorting all runs: cut at the widest gap, as long as that is a sixth of what is left.
fn bands(runs: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let mut runs = runs.to_vec();
    runs.sort_unstable();
    let (start, mut end) = runs[0];
    let mut gaps = Vec::new();
    for (from, to) in runs {
        if from > end {
            gaps.push((from - end, end, from));
        }
        end = end.max(to);
    }
    gaps.sort_unstable();
    let mut drawn = end - start;
    let mut cuts = Vec::new();
    while let Some((gap, below, above)) = gaps.pop().filter(|gap| gap.0 >= drawn / 6) {
        if cuts.len() == 5 {
            break;
        }
        drawn -= gap;
        cuts.push((below, above));
    }
    cuts.sort_unstable();
    let starts = std::iter::once(start).chain(cuts.iter().map(|cut| cut.1));
    starts.zip(cuts.iter().map(|cut| cut.0).chain([end])).collect()
}

/// Runs near each other and far apart, at all scales.
#[test]
fn the_axis_is_broken_at_the_widest_gaps() {
    let mut rng = fastrand::Rng::with_seed(40);
    let mut counts = [0; 7];
    for _ in 0..2000 {
        let mut builder = SglBuilder::<Heap>::new(PageSize::SIZE_4K).unwrap();
        let mut runs = Vec::new();
        let spread = rng.u32(1..40);
        for _ in 0..rng.usize(1..12) {
            let mut below = |bits: u32| {
                let bits = rng.u32(..=bits);
                rng.u64(..1 << bits)
            };
            let cluster = below(spread);
            for _ in 0..20 {
                let (start, count) = (cluster + below(12), 1 + below(9));
                builder.push_run(PageRun::ram(Pfn::new(start), count).unwrap()).unwrap();
                runs.push((start << 12, (start + count) << 12));
            }
        }
        let sgl = builder.finish().unwrap();
        let found = Band::all(sgl.whole().unwrap().iter(), 0.0..512.0);
        let found: Vec<_> = found.iter().map(|band| (band.start, band.end)).collect();
        assert_eq!(found, bands(&runs));
        counts[found.len()] += 1;
    }
    assert!(counts[1..].iter().all(|count| *count > 20), "{counts:?}");
}
