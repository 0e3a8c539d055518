// SPDX-License-Identifier: MIT OR Apache-2.0
//! **Round trip**: what goes in comes out, by every way out, from every storage.

use super::{
    alloc::{vec, vec::Vec},
    input, oracle,
    storage::store,
};
use arbitrary::{Result, Unstructured};
use pinned_sgl::{PageRun, PageSize, Pool, Sgl, SglBuilder, Storage};

fn check_list<S: Storage>(sgl: &Sgl<S>, model: &[PageRun]) {
    assert_eq!(sgl.run_count(), model.len() as u64);
    // By `next`, by `fold`, by `fold` after some `next`s, by clones.
    assert!(sgl.runs().eq(model.iter().copied()));
    let folded = sgl.runs().fold(Vec::new(), |mut all, run| {
        all.push(run);
        all
    });
    assert_eq!(folded, model);
    for skip in [1, 63, 64, 65, model.len() / 2] {
        let mut runs = sgl.runs();
        let before = runs.by_ref().take(skip).count();
        assert!(runs.size_hint().0 <= model.len() - before);
        assert!(runs.size_hint().1.is_none_or(|most| most >= model.len() - before));
        assert_eq!(runs.clone().count(), model.len() - before);
        let mut rest = Vec::new();
        runs.clone().for_each(|run| rest.push(run));
        assert_eq!(rest, model[before..]);
        assert_eq!(runs.by_ref().count(), model.len() - before);
    }
    let mut runs = sgl.runs();
    while runs.next().is_some() {}
    assert_eq!(runs.next(), None);
    assert_eq!(runs.size_hint(), (0, Some(0)));
}

fn check_pool<const N: usize>(page: PageSize, runs: &[PageRun], model: &[PageRun]) {
    // Runs of 2^32 pages, should there be any, take a leaf each; and a directory half as much at most.
    let mut memory = vec![[0xa5u8; N]; runs.len() + runs.len() / 2 + 16];
    let mut builder = SglBuilder::new_in(page, Pool::new(&mut memory)).unwrap();
    builder.push_runs(runs.iter().copied()).unwrap();
    check_list(&builder.finish().unwrap(), model);
}

/// Packs `runs`, whose sum of bytes must fit 64 bits.
pub fn check(page: PageSize, runs: &[PageRun]) {
    let model = oracle::joined(runs);
    let mut builder = SglBuilder::new_in(page, store()).unwrap();
    builder.push_runs(runs.iter().copied()).unwrap();
    let sgl = builder.finish().unwrap();
    check_list(&sgl, &model);
    check_pool::<512>(page, runs, &model);
    check_pool::<4096>(page, runs, &model);
    assert!(sgl == super::merge_law::sgl(page, &model));
}

pub fn from_bytes(u: &mut Unstructured<'_>) -> Result<()> {
    let page = input::page_size(u)?;
    let most = *u.choose(&[1, 2, 512, 1 << 18, 1 << 33, u64::MAX])?;
    check(page, &input::runs(u, page, most)?);
    Ok(())
}
