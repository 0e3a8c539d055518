// SPDX-License-Identifier: MIT OR Apache-2.0
//! A picture: what a list takes, and how long a lookup takes in it, for lists of one run to a million.

use crate::contest::Session;
use crate::inputs::{self, Run};
use crate::lookup::{by_byte, independent};
use crate::peers::{self, Lookup, Sampled, Scatterlist, Sorted};
use plotters::prelude::*;
use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

const TITLE: &str = "picture";
const LOOKUPS: usize = 1 << 16;
/// The fastest of so many rounds, in each of which all take turns.
const ROUNDS: usize = 9;
/// Who walks entry by entry does so for this long only.
const LONGEST_WALK: u64 = 1 << 12;

/// A line: its name, and a point for each length of a list.
type Line = (&'static str, Vec<(f64, f64)>);

struct Measured {
    lookups: Vec<Line>,
    sizes: Vec<Line>,
}

/// Looks up all offsets in one of the lists.
type Way<'a> = &'a dyn Fn(&[u64]) -> u64;

/// The fastest of the rounds of each, in nanoseconds a lookup.
fn race<const N: usize>(lists: [Way<'_>; N], offsets: &[u64]) -> [f64; N] {
    let mut best = [Duration::MAX; N];
    for _ in 0..ROUNDS {
        for (list, best) in lists.iter().zip(&mut best) {
            let begin = Instant::now();
            std::hint::black_box(list(std::hint::black_box(offsets)));
            *best = begin.elapsed().min(*best);
        }
    }
    best.map(|best| best.as_secs_f64() * 1e9 / offsets.len() as f64)
}

fn measure(lengths: impl Iterator<Item = u64>) -> Measured {
    let names = ["pinned-sgl", "BTreeMap", "sampled directory", "binary search in a Vec"];
    let mut lookups: Vec<Line> = names.map(|name| (name, Vec::new())).into();
    lookups.push(("scatterlist, entry by entry", Vec::new()));
    let mut sizes: Vec<Line> = vec![("pinned-sgl", Vec::new()), ("16 bytes a run", Vec::new())];
    sizes.extend([("scatterlist", Vec::new()), ("8 bytes a page", Vec::new())]);
    for length in lengths {
        let runs: Vec<Run> = inputs::small_runs(length);
        let frames = inputs::frames(&runs);
        let list = inputs::list(runs.iter().copied());
        let window = list.whole().unwrap();
        let btree = peers::btree_of(&frames);
        let (sampled, sorted) = (Sampled::new(&runs), Sorted::new(&runs));
        let offsets = by_byte(&runs, LOOKUPS);
        assert!(offsets
            .iter()
            .all(|offset| Lookup::phys(&window, *offset) == sorted.phys(*offset)));
        let times = race(
            [
                &|offsets| independent(&window, offsets),
                &|offsets| independent(&btree, offsets),
                &|offsets| independent(&sampled, offsets),
                &|offsets| independent(&sorted, offsets),
            ],
            &offsets,
        );
        let at = length as f64;
        for (line, time) in lookups.iter_mut().zip(times) {
            line.1.push((at, time));
        }
        if length <= LONGEST_WALK {
            let walked = Scatterlist::new(&frames);
            let few = &offsets[..LOOKUPS / 64];
            assert!(few.iter().all(|offset| walked.phys(*offset) == sorted.phys(*offset)));
            let [time] = race([&|offsets| independent(&walked, offsets)], few);
            lookups[4].1.push((at, time));
        }
        let bytes = [
            list.footprint() as u64,
            length * size_of::<Run>() as u64,
            crate::sizes::scatterlist(length),
            list.page_count() * 8,
        ];
        for (line, bytes) in sizes.iter_mut().zip(bytes) {
            line.1.push((at, bytes as f64 / at));
        }
    }
    Measured { lookups, sizes }
}

/// One half of the picture: both axes logarithmic, that of what was measured with marks at powers of `base`; the names in
/// a corner where no line is.
fn half(
    area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    caption: &str,
    (base, names): (f64, SeriesLabelPosition),
    lines: &[Line],
) -> Result<(), Box<dyn Error>> {
    let points = || lines.iter().flat_map(|line| &line.1);
    let last = points().map(|point| point.0).fold(2.0, f64::max);
    let least = points().map(|point| point.1).fold(f64::MAX, f64::min) / 1.5;
    let most = points().map(|point| point.1).fold(0.0, f64::max) * 1.5;
    let mut chart = ChartBuilder::on(area)
        .caption(caption, ("sans-serif", 17))
        .margin(12)
        .x_label_area_size(38)
        .y_label_area_size(52)
        .build_cartesian_2d((1.0..last).log_scale(), (least..most).log_scale().base(base))?;
    let number = |number: &f64| format!("{number}");
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_desc("runs in the list")
        .x_label_formatter(&number)
        .y_label_formatter(&number)
        .draw()?;
    for (index, (name, line)) in lines.iter().enumerate() {
        let color = Palette99::pick(index);
        let style = color.stroke_width(if index == 0 { 3 } else { 1 });
        chart
            .draw_series(LineSeries::new(line.iter().copied(), style))?
            .label(*name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], style));
    }
    chart.configure_series_labels().position(names).background_style(WHITE.mix(0.8)).draw()?;
    Ok(())
}

fn draw(measured: &Measured, path: &Path) -> Result<(), Box<dyn Error>> {
    let root = SVGBackend::new(path, (1000, 420)).into_drawing_area();
    root.fill(&WHITE)?;
    let (left, right) = root.split_horizontally(500);
    let (rising, falling) = (SeriesLabelPosition::UpperLeft, SeriesLabelPosition::UpperRight);
    half(&left, "Lookup of a byte: nanoseconds", (10.0, rising), &measured.lookups)?;
    half(&right, "Size: bytes a run", (2.0, falling), &measured.sizes)?;
    root.present()?;
    Ok(())
}

/// Draws `benches/picture.svg`, if it is asked for by name: the numbers are those of this machine. A test draws it
/// elsewhere.
pub(crate) fn run(session: &Session) {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/picture.svg");
    let (path, most) = match (session.is_test(), session.is_asked_for(TITLE)) {
        (true, _) => (std::env::temp_dir().join(format!("picture-{}.svg", std::process::id())), 4),
        (false, true) => (here, 20),
        (false, false) => return,
    };
    let measured = measure((0..=most).step_by(2).map(|power| 1 << power));
    draw(&measured, &path).expect("the picture can be drawn");
    let drawn = std::fs::read_to_string(&path).expect("the picture is there");
    assert!(measured.lookups.iter().all(|(name, _)| drawn.contains(name)));
    if session.is_test() {
        std::fs::remove_file(&path).expect("the picture was there");
    } else {
        println!("picture: {}", path.display());
    }
}
