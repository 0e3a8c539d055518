// SPDX-License-Identifier: MIT OR Apache-2.0
//! **Merge law**: however the pages arrive, the runs are the unique maximal runs of the sequence;
//! and a push that fails has changed nothing.

use super::{
    alloc::{vec, vec::Vec},
    input, oracle,
    storage::{store, Failing, Store},
};
use arbitrary::{Result, Unstructured};
use pinned_sgl::{BuildError, MemoryKind, PageRun, PageSize, Pfn, Sgl, SglBuilder};

/// One way in which pages arrive.
#[derive(Clone, Debug)]
pub enum Op {
    Page(Pfn, MemoryKind),
    Pages(Vec<Pfn>, MemoryKind),
    Run(PageRun),
    Runs(Vec<PageRun>),
    /// A list that was built elsewhere.
    Sgl(Vec<PageRun>),
    /// From here on, the storage has memory for so many pieces.
    Memory(usize),
}

/// The runs that an operation brings.
fn runs_of(op: &Op) -> Vec<PageRun> {
    let page = |pfn: &Pfn, kind| PageRun::new(*pfn, 1, kind).unwrap();
    match op {
        Op::Page(pfn, kind) => vec![page(pfn, *kind)],
        Op::Pages(pages, kind) => pages.iter().map(|pfn| page(pfn, *kind)).collect(),
        Op::Run(run) => vec![*run],
        Op::Runs(runs) | Op::Sgl(runs) => runs.clone(),
        Op::Memory(_) => vec![],
    }
}

pub fn sgl(page: PageSize, runs: &[PageRun]) -> Sgl<Store> {
    let mut builder = SglBuilder::new_in(page, store()).unwrap();
    builder.push_runs(runs.iter().copied()).unwrap();
    builder.finish().unwrap()
}

fn assert_same<S: pinned_sgl::Storage>(sgl: &Sgl<S>, model: &[PageRun]) {
    let pages: u64 = model.iter().map(PageRun::count).sum();
    assert_eq!((sgl.page_count(), sgl.run_count()), (pages, model.len() as u64));
    assert!(sgl.runs().eq(model.iter().copied()), "{:?}\n{model:?}", sgl.runs());
}

/// Does `ops` one after another, and looks at the builder after each.
pub fn check(page: PageSize, ops: &[Op]) {
    let (storage, budget) = Failing::new(store(), usize::MAX);
    let mut builder = SglBuilder::new_in(page, storage).unwrap();
    let mut taken: Vec<PageRun> = Vec::new();
    for op in ops {
        let result = match op {
            Op::Page(pfn, kind) => builder.push_page(*pfn, *kind),
            Op::Pages(pages, kind) => builder.push_pages(pages, *kind),
            Op::Run(run) => builder.push_run(*run),
            Op::Runs(runs) => builder.push_runs(runs.iter().copied()),
            Op::Sgl(runs) => builder.push_sgl(&sgl(page, runs)),
            Op::Memory(pieces) => {
                budget.set(*pieces);
                Ok(())
            }
        };
        match result {
            Ok(()) => taken.extend(runs_of(op)),
            Err(BuildError::OutOfMemory { .. }) => {
                assert!(budget.get() < 2, "memory was there: {}", budget.get());
            }
            Err(BuildError::TooManyPages { .. }) => {
                let refused = runs_of(op);
                let pages = taken.iter().chain(&refused).map(|run| u128::from(run.count()));
                assert!(pages.sum::<u128>() > u128::from(u64::MAX >> page.shift()));
            }
            Err(other) => panic!("{other}"),
        }
        let model = oracle::joined(&taken);
        let pages: u64 = model.iter().map(PageRun::count).sum();
        assert_eq!((builder.page_count(), builder.run_count()), (pages, model.len() as u64));
    }
    let model = oracle::joined(&taken);
    let sgl = match builder.finish() {
        Ok(sgl) => sgl,
        Err(error) => {
            assert!(budget.get() < 2);
            budget.set(usize::MAX);
            error.into_value().finish().unwrap()
        }
    };
    assert_same(&sgl, &model);
}

pub fn from_bytes(u: &mut Unstructured<'_>) -> Result<()> {
    let page = input::page_size(u)?;
    let mut ops = Vec::new();
    let mut last = 0;
    while !u.is_empty() && ops.len() < 40 {
        let most = *u.choose(&[1, 4, 512, u64::MAX])?;
        let op = match u.arbitrary::<u8>()? % 8 {
            0 => Op::Page(input::run(u, page, last, 1)?.start(), input::kind(u)?),
            1 | 2 => {
                let start = input::run(u, page, last, 1)?.start().get();
                let (count, stride) = (u.int_in_range(0..=300)?, u.int_in_range(0..=2)?);
                let pfn =
                    |i: u64| Pfn::new((start + i * stride + i / 40).min(input::highest(page)));
                Op::Pages((0..count).map(pfn).collect(), input::kind(u)?)
            }
            3 => Op::Run(input::run(u, page, last, most)?),
            4..=6 => {
                let take = u.int_in_range(0..=64usize)?.min(u.len());
                let bytes = u.bytes(take)?;
                let runs = input::runs(&mut Unstructured::new(bytes), page, most)?;
                if u.ratio(1, 2)? {
                    Op::Sgl(runs)
                } else {
                    Op::Runs(runs)
                }
            }
            _ => Op::Memory(u.int_in_range(0..=3)?),
        };
        last = runs_of(&op).last().map_or(last, |run| run.end().get());
        ops.push(op);
    }
    check(page, &ops);
    Ok(())
}
