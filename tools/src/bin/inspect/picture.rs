// SPDX-License-Identifier: MIT OR Apache-2.0
//! The layout as a picture: virtual offset to the right, physical address upwards, a line for each
//! run, and below it the runs in the order of the buffer.
//!
//! Runs that are smaller than a dot are gathered into dots, so that a picture of millions of runs
//! is as quick to show as one of ten. Where physical memory is far apart, the axis is broken.

use crate::bands::Band;
use crate::facts::{Facts, Footprint};
use crate::process::Looked;
use crate::units::{bytes, grouped, percent};
use pinned_sgl::Segment;
use std::collections::BTreeMap;
use std::fmt::Write;
use svg::node::element::{Group, Line, Path, Rectangle, Style, Text};
use svg::Document;

const WIDTH: f64 = 1200.0;
const HEIGHT: f64 = 745.0;
/// The plot.
const LEFT: f64 = 150.0;
const RIGHT: f64 = 1160.0;
const TOP: f64 = 128.0;
const BOTTOM: f64 = 640.0;
/// The strip of runs below it.
const STRIP: f64 = 654.0;
const STRIP_HEIGHT: f64 = 16.0;
/// The side of a dot.
const DOT: f64 = 3.0;

/// Runs by length, and their colours, which can be distinguished without seeing red or green.
const CLASSES: [(u64, &str, &str); 4] = [
    (0, "#d55e00", "under 64 KiB"),
    (64 << 10, "#e69f00", "64 KiB to 2 MiB"),
    (2 << 20, "#0072b2", "2 MiB to 1 GiB"),
    (1 << 30, "#009e73", "1 GiB and more"),
];

const STYLE: &str = "text { font-family: system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif; \
    font-size: 13px; fill: #444 } .title { font-size: 21px; font-weight: 600; fill: #111 } \
    .tick { font-size: 12px } .end { text-anchor: end } .middle { text-anchor: middle }";

fn class(len: u64) -> usize {
    CLASSES.iter().rposition(|(from, ..)| len >= *from).unwrap_or(0)
}

/// What a picture says in words.
pub(crate) struct Words {
    pub(crate) title: String,
    pub(crate) about: String,
    /// What goes to the right.
    pub(crate) axis: &'static str,
}

impl Words {
    /// Those about a buffer.
    pub(crate) fn of(facts: &Facts) -> Self {
        let size = bytes(facts.bytes);
        let title = match facts.mock_seed {
            Some(_) => format!("{size} of made-up memory, as if of {}", facts.kind),
            None => format!("Where {size} of {} lie in physical memory", facts.kind),
        };
        let about = about(facts.pages, facts.page_size, facts.runs, &facts.footprint);
        Self { title, about, axis: "Offset in the buffer" }
    }

    /// Those about a process.
    pub(crate) fn of_process(looked: &Looked) -> Self {
        let (pages, size) = (looked.total.present_pages, looked.page_size);
        let title = format!(
            "Where {} of process {} ({}) lay in physical memory",
            bytes(pages * size),
            looked.pid,
            looked.name
        );
        let about = about(pages, size, looked.total.runs, &looked.footprint);
        let about = format!("Looked at, not pinned. {about}");
        Self { title, about, axis: "Offset in the memory that is present, mapping after mapping" }
    }
}

fn about(pages: u64, page_size: u64, runs: u64, footprint: &Footprint) -> String {
    format!(
        "{} pages of {} in {} runs. The list takes {}; a page list would take {}.",
        grouped(pages),
        bytes(page_size),
        grouped(runs),
        bytes(footprint.pinned_sgl_bytes),
        bytes(footprint.page_list_bytes)
    )
}

/// Draws `len` bytes in runs.
pub(crate) fn draw<I: Iterator<Item = Segment> + Clone>(
    words: &Words,
    len: u64,
    runs: I,
) -> Document {
    let bands = Band::all(runs.clone(), TOP..BOTTOM);
    let background =
        Rectangle::new().set("width", "100%").set("height", "100%").set("fill", "#fff");
    let heading = Group::new().add(text(LEFT, 42.0, "title", words.title.clone())).add(text(
        LEFT,
        66.0,
        "",
        words.about.clone(),
    ));
    Document::new()
        .set("viewBox", (0, 0, WIDTH, HEIGHT))
        .set("width", WIDTH)
        .set("height", HEIGHT)
        .add(Style::new(STYLE))
        .add(background)
        .add(heading)
        .add(legend(len, runs.clone()))
        .add(offsets(len, words.axis))
        .add(addresses(&bands))
        .add(plot(len, runs.clone(), &bands))
        .add(strip(len, runs))
}

fn text(x: f64, y: f64, class: &str, content: impl Into<String>) -> Text {
    Text::new(content).set("x", x).set("y", y).set("class", class)
}

/// One entry for each class that there is.
fn legend(len: u64, runs: impl Iterator<Item = Segment>) -> Group {
    let mut totals = [(0u64, 0u64); CLASSES.len()];
    for run in runs {
        let (count, bytes) = &mut totals[class(run.len)];
        *count += 1;
        *bytes += run.len;
    }
    let mut group = Group::new();
    let mut x = LEFT;
    for ((_, colour, name), (count, bytes)) in CLASSES.into_iter().zip(totals) {
        if count == 0 {
            continue;
        }
        let share = percent(bytes as f64 / len as f64);
        let plural = if count == 1 { "" } else { "s" };
        let label = format!("{name}: {} run{plural}, {share}", grouped(count));
        let swatch = Rectangle::new()
            .set("x", x)
            .set("y", 88)
            .set("width", 12)
            .set("height", 12)
            .set("rx", 2)
            .set("fill", colour);
        group = group.add(swatch).add(text(x + 19.0, 98.5, "", label.clone()));
        x += 19.0 + label.chars().count() as f64 * 7.2 + 22.0;
    }
    group
}

/// The axis of virtual offsets.
fn offsets(len: u64, axis: &str) -> Group {
    let mut group =
        Group::new().add(text((LEFT + RIGHT) / 2.0, STRIP + STRIP_HEIGHT + 48.0, "middle", axis));
    let step = step(len, 9);
    for at in (0..=len / step).map(|tick| tick * step) {
        let x = x_of(at, len);
        let line = Line::new()
            .set("x1", x)
            .set("x2", x)
            .set("y1", TOP)
            .set("y2", STRIP + STRIP_HEIGHT + 6.0)
            .set("stroke", "#e8e8e8");
        let label = if at == 0 { "0".into() } else { bytes(at) };
        group = group.add(line).add(text(x, STRIP + STRIP_HEIGHT + 23.0, "tick middle", label));
    }
    let strip = text(LEFT - 12.0, STRIP + 12.5, "tick end", "run by run");
    group.add(strip)
}

/// The axis of physical addresses, in as many pieces as there are bands.
fn addresses(bands: &[Band]) -> Group {
    let middle = (TOP + BOTTOM) / 2.0;
    let name = text(34.0, middle, "middle", "Physical address")
        .set("transform", format!("rotate(-90 34 {middle})"));
    let mut group = Group::new().add(name);
    for (index, band) in bands.iter().enumerate() {
        let height = band.bottom - band.top;
        let frame = Rectangle::new()
            .set("x", LEFT)
            .set("y", band.top)
            .set("width", RIGHT - LEFT)
            .set("height", height)
            .set("fill", "none")
            .set("stroke", "#c4c4c4");
        group = group.add(frame);
        let span = band.end - band.start;
        let step = step(span, (height / 34.0) as u64).max(4096);
        let mut ticks: Vec<u64> =
            (band.start.div_ceil(step)..=band.end / step).map(|tick| tick * step).collect();
        if ticks.is_empty() {
            ticks.push(band.start);
        }
        for at in ticks {
            let y = band.y_of(at);
            let line = Line::new()
                .set("x1", LEFT - 5.0)
                .set("x2", RIGHT)
                .set("y1", y)
                .set("y2", y)
                .set("stroke", "#e8e8e8");
            group = group.add(line).add(text(LEFT - 10.0, y + 4.0, "tick end", hex(at)));
        }
        if let Some(above) = bands.get(index + 1) {
            let y = (band.top + above.bottom) / 2.0;
            let gap = format!("{} of other memory between", bytes(above.start - band.end));
            group = group
                .add(text((LEFT + RIGHT) / 2.0, y + 4.0, "tick middle", gap).set("opacity", 0.75));
            for y in [y - 3.0, y + 3.0] {
                let mark = Line::new()
                    .set("x1", LEFT - 6.0)
                    .set("x2", LEFT + 6.0)
                    .set("y1", y + 3.0)
                    .set("y2", y - 3.0)
                    .set("stroke", "#777");
                group = group.add(mark);
            }
        }
    }
    group
}

/// The runs: a line where there is room for one, otherwise a dot shared with others.
fn plot(len: u64, runs: impl Iterator<Item = Segment>, bands: &[Band]) -> Group {
    let mut lines: [String; CLASSES.len()] = Default::default();
    // The bytes in each dot, by row and column, and the class that has the most of them.
    let mut dots: BTreeMap<(u32, u32), [u64; CLASSES.len()]> = BTreeMap::new();
    let mut offset = 0;
    for run in runs {
        let (x1, x2) = (x_of(offset, len), x_of(offset + run.len, len));
        offset += run.len;
        let Some(band) = bands.iter().find(|band| band.contains(run.phys.get())) else {
            continue;
        };
        let (y1, y2) = (band.y_of(run.phys.get()), band.y_of(run.last().get()));
        if x2 - x1 >= DOT || y1 - y2 >= DOT {
            // Wide enough to be seen, however steep.
            let x2 = x2.max(x1 + 1.0);
            let _ = write!(lines[class(run.len)], "M{x1:.1} {y1:.1}L{x2:.1} {y2:.1}");
        } else {
            let dot = ((y1 / DOT) as u32, (x1 / DOT) as u32);
            dots.entry(dot).or_default()[class(run.len)] += run.len;
        }
    }
    let mut group = Group::new().set("fill", "none").set("stroke-width", DOT);
    for (class, dots) in dots_by_shade(&dots) {
        for (shade, path) in dots.into_iter().enumerate().filter(|(_, path)| !path.is_empty()) {
            let opacity = [0.65, 0.85, 1.0][shade];
            let path = Path::new().set("d", path).set("stroke", CLASSES[class].1);
            group = group.add(path.set("stroke-opacity", opacity));
        }
    }
    for ((_, colour, _), path) in CLASSES.into_iter().zip(lines) {
        if !path.is_empty() {
            group = group.add(Path::new().set("d", path).set("stroke", colour));
        }
    }
    group
}

/// The dots of each class as paths of three shades: the more of a dot's share of the buffer lies
/// in it, the darker.
fn dots_by_shade(
    dots: &BTreeMap<(u32, u32), [u64; CLASSES.len()]>,
) -> [(usize, [String; 3]); CLASSES.len()] {
    let mut paths: [(usize, [String; 3]); CLASSES.len()] = Default::default();
    for (class, (number, _)) in paths.iter_mut().enumerate() {
        *number = class;
    }
    let fullest = dots.values().map(|bytes| bytes.iter().sum::<u64>()).max().unwrap_or(1);
    for ((row, column), bytes) in dots {
        let class = (0..CLASSES.len()).max_by_key(|class| bytes[*class]).unwrap_or(0);
        let shade = (bytes.iter().sum::<u64>() * 3).div_ceil(fullest).clamp(1, 3) as usize - 1;
        let (x, y) = (f64::from(*column) * DOT, (f64::from(*row) + 0.5) * DOT);
        let _ = write!(paths[class].1[shade], "M{x} {y}h{DOT}");
    }
    paths
}

/// The runs side by side. Where several share a column, it has the colour of most of its bytes.
fn strip(len: u64, runs: impl Iterator<Item = Segment>) -> Group {
    let columns = ((RIGHT - LEFT) / DOT).ceil() as usize;
    let mut shares = vec![[0.0f64; CLASSES.len()]; columns];
    let mut seams = String::new();
    let mut offset = 0;
    for run in runs {
        let (x1, x2) = (x_of(offset, len), x_of(offset + run.len, len));
        // In columns.
        let (from, to) = ((x1 - LEFT) / DOT, (x2 - LEFT) / DOT);
        let last = (to.ceil() as usize).min(columns);
        for (column, share) in shares.iter_mut().enumerate().take(last).skip(from as usize) {
            let column = column as f64;
            share[class(run.len)] += to.min(column + 1.0) - from.max(column);
        }
        if offset > 0 && x2 - x1 >= DOT {
            let _ = write!(seams, "M{x1:.1} {STRIP}v{STRIP_HEIGHT}");
        }
        offset += run.len;
    }
    let most = |share: &[f64; CLASSES.len()]| {
        (0..CLASSES.len()).max_by(|a, b| share[*a].total_cmp(&share[*b])).unwrap_or(0)
    };
    let mut group = Group::new();
    let mut x = LEFT;
    for stretch in shares.chunk_by(|a, b| most(a) == most(b)) {
        let end = (x + stretch.len() as f64 * DOT).min(RIGHT);
        let rectangle = Rectangle::new()
            .set("x", x)
            .set("y", STRIP)
            .set("width", end - x)
            .set("height", STRIP_HEIGHT)
            .set("fill", CLASSES[most(&stretch[0])].1);
        group = group.add(rectangle);
        x = end;
    }
    group.add(Path::new().set("d", seams).set("stroke", "#fff").set("fill", "none"))
}

fn x_of(offset: u64, len: u64) -> f64 {
    LEFT + (RIGHT - LEFT) * offset as f64 / len as f64
}

/// The power of two that cuts `span` into at most `most` parts.
fn step(span: u64, most: u64) -> u64 {
    span.div_ceil(most.max(1)).max(1).next_power_of_two()
}

/// An address with its digits in groups of four.
fn hex(address: u64) -> String {
    let digits = format!("{address:x}");
    let mut out = String::from("0x");
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 4 == 0 {
            out.push('_');
        }
        out.push(digit);
    }
    out
}
