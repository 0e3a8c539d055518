// SPDX-License-Identifier: MIT OR Apache-2.0
//! A contest: one operation, several ways to do it, and what ours should reach.
//!
//! Every way is one closure that times itself. Criterion runs each on its own, for its statistics
//! and its comparison with the run before. The ratios come from a race: all ways in turn, round
//! after round, so that a busy machine disturbs them alike; the fastest round of each counts.

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput};
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Rounds of a race, and when it stops a way that is slow.
const ROUNDS: usize = 41;
const FEWEST: usize = 5;
const BUDGET: Duration = Duration::from_millis(700);

/// What a contest asks of one of our ways.
#[derive(Clone, Copy)]
pub(crate) enum Target {
    /// So many nanoseconds per item.
    Nanoseconds(f64),
    /// So many times what a peer takes.
    Times(f64, &'static str),
    /// So many times faster than a peer.
    Faster(f64, &'static str),
}

struct Way<'a> {
    name: &'static str,
    run: Box<dyn FnMut() -> Duration + 'a>,
    times: Vec<Duration>,
}

impl Way<'_> {
    fn best(&self) -> Duration {
        self.times.iter().copied().min().unwrap_or_default()
    }

    fn median(&self) -> Duration {
        let mut times = self.times.clone();
        times.sort_unstable();
        times.get(times.len() / 2).copied().unwrap_or_default()
    }
}

/// One operation on one input.
pub(crate) struct Contest<'a> {
    title: &'static str,
    item: &'static str,
    items: u64,
    ways: Vec<Way<'a>>,
    targets: Vec<(&'static str, Target)>,
}

impl<'a> Contest<'a> {
    /// A contest over `items` things, each called an `item`.
    pub(crate) fn new(title: &'static str, items: u64, item: &'static str) -> Self {
        Self { title, item, items, ways: Vec::new(), targets: Vec::new() }
    }

    /// Adds a way; the first is ours, and the one that others are compared with.
    ///
    /// What `work` returns is used, and dropped off the clock.
    pub(crate) fn way<T>(
        mut self,
        name: &'static str,
        mut work: impl FnMut() -> T + 'a,
    ) -> Contest<'a> {
        let run = Box::new(move || {
            let begin = Instant::now();
            let result = black_box(work());
            let took = begin.elapsed();
            drop(result);
            took
        });
        self.ways.push(Way { name, run, times: Vec::new() });
        self
    }

    /// What the way `name` should reach.
    pub(crate) fn target(mut self, name: &'static str, target: Target) -> Self {
        self.targets.push((name, target));
        self
    }

    fn criterion(&mut self, criterion: &mut Criterion) {
        let mut group = criterion.benchmark_group(self.title);
        group.sampling_mode(SamplingMode::Flat);
        group.throughput(Throughput::Elements(self.items));
        for way in &mut self.ways {
            group.bench_function(BenchmarkId::from_parameter(way.name), |bencher| {
                bencher.iter_custom(|times| (0..times).map(|_| (way.run)()).sum());
            });
        }
        group.finish();
    }

    fn race(&mut self, rounds: usize) {
        for round in 0..rounds {
            for way in &mut self.ways {
                if round < FEWEST || way.times.iter().sum::<Duration>() < BUDGET {
                    let took = (way.run)();
                    way.times.push(took);
                }
            }
        }
    }

    fn nanoseconds(&self, time: Duration) -> f64 {
        time.as_secs_f64() * 1e9 / self.items as f64
    }

    fn best_of(&self, name: &str) -> f64 {
        let way = self.ways.iter().find(|way| way.name == name);
        self.nanoseconds(way.expect("a way of this name").best())
    }

    fn verdict(&self, name: &str, target: Target) -> String {
        let ours = self.best_of(name);
        let (wish, reached, most) = match target {
            Target::Nanoseconds(most) => {
                (format!("at most {most} ns"), format!("{ours:.2} ns"), most)
            }
            Target::Times(factor, peer) => {
                let reached = ours / self.best_of(peer);
                (
                    format!("at most {factor} x {peer}"),
                    format!("{reached:.2} x"),
                    factor * self.best_of(peer),
                )
            }
            Target::Faster(factor, peer) => {
                let reached = self.best_of(peer) / ours;
                (
                    format!("{factor} x faster than {peer}"),
                    format!("{reached:.1} x"),
                    self.best_of(peer) / factor,
                )
            }
        };
        let verdict = if ours <= most {
            "met".to_owned()
        } else {
            format!("MISSED by {:.0} %", (ours / most - 1.0) * 100.0)
        };
        format!("{name}: {wish}: {reached}, {verdict}")
    }

    /// The table of the race.
    fn table(&self) -> String {
        let mut table = format!("{} ({} {}s)\n", self.title, self.items, self.item);
        let ours = self.best_of(self.ways[0].name);
        let per = format!("ns/{}", self.item);
        table += &format!("    {:<34} {per:>10} {:>9} {:>9}\n", "", "median", "ratio");
        for way in &self.ways {
            let best = self.nanoseconds(way.best());
            let median = self.nanoseconds(way.median());
            let ratio = best / ours;
            table += &format!("    {:<34} {best:>10.2} {median:>9.2} {ratio:>9.2}\n", way.name);
        }
        for (name, target) in &self.targets {
            table += &format!("  > {}\n", self.verdict(name, *target));
        }
        table
    }
}

/// `COUNT_WAY` and `COUNT_ROUNDS`: run one way so many times and nothing else, for a profiler.
fn count_from_env() -> Option<(String, usize)> {
    let rounds = std::env::var("COUNT_ROUNDS").ok()?.parse().ok()?;
    Some((std::env::var("COUNT_WAY").ok()?, rounds))
}

/// One run of the program.
pub(crate) struct Session {
    criterion: Criterion,
    test: bool,
    filter: Option<String>,
    count: Option<(String, usize)>,
    tables: Vec<String>,
}

impl Session {
    /// As `cargo bench`, or `cargo test`, asks for it.
    pub(crate) fn from_args() -> Self {
        let args: Vec<String> = std::env::args().skip(1).collect();
        let has = |flag: &str| args.iter().any(|arg| arg == flag);
        let criterion = Criterion::default()
            .warm_up_time(Duration::from_millis(100))
            .measurement_time(Duration::from_millis(400))
            .sample_size(10)
            .configure_from_args();
        Self {
            criterion,
            test: has("--test") || !has("--bench"),
            filter: args.into_iter().find(|arg| !arg.starts_with('-')),
            count: count_from_env(),
            tables: Vec::new(),
        }
    }

    /// Whether all that matters is that it runs.
    pub(crate) fn is_test(&self) -> bool {
        self.test
    }

    /// Whether a contest of this title is asked for.
    pub(crate) fn wants(&self, title: &str) -> bool {
        self.filter.as_ref().is_none_or(|word| title.contains(word))
    }

    /// Whether this alone is asked for.
    pub(crate) fn is_asked_for(&self, title: &str) -> bool {
        self.filter.as_deref() == Some(title)
    }

    /// Runs a contest, unless it was filtered out.
    pub(crate) fn run(&mut self, mut contest: Contest<'_>) {
        if !self.wants(contest.title) {
            return;
        }
        if let Some((way, rounds)) = &self.count {
            contest.ways.retain(|other| other.name == way);
            for _ in 0..*rounds {
                contest.race(1);
            }
            return println!(
                "{}: {} {}s, {rounds} times",
                contest.title, contest.items, contest.item
            );
        }
        contest.criterion(&mut self.criterion);
        contest.race(if self.test { 1 } else { ROUNDS });
        self.tables.push(contest.table());
    }

    /// Whether only instructions are counted.
    pub(crate) fn is_count(&self) -> bool {
        self.count.is_some()
    }

    /// Prints the tables.
    pub(crate) fn finish(&self) {
        println!(
            "\nThe fastest round of each, the median, and how many times the first line's time:"
        );
        for table in &self.tables {
            println!("\n{}", table.trim_end());
        }
    }
}
