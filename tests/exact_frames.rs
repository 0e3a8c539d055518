// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory of the mock kit in frames of the test's own choice.

mod rig;

use pinned_sgl::umem::{PinFlags, UserRange};
use pinned_sgl::{Pfn, RangeError, UserAddr};
use pinned_sgl_mock::{Fragmentation, Memory, Process, Vma, VmaError, Zone};
use rig::{Rig, BASE, P, WRITE_LONG};

const AT: UserAddr = UserAddr::new(BASE);

fn pfns(numbers: &[u64]) -> Vec<Pfn> {
    Pfn::from_slice(numbers).to_vec()
}

#[test]
fn a_pinned_region_has_these_frames_in_this_order() {
    let rig = Rig::new(Fragmentation::Reverse);
    let mut numbers: Vec<u64> = (0x1000..0x1400).collect();
    fastrand::Rng::with_seed(7).shuffle(&mut numbers);
    let frames = pfns(&numbers);
    let range = rig.process.map_frames(AT, &frames, Vma::read_write()).unwrap();
    assert_eq!(range, UserRange::new(AT, 0x400 * P).unwrap());
    let umem = rig.pin(range);
    assert!(umem.whole().unwrap().pages().eq(frames));
    let bytes = rig.fill(range, 1);
    let mut seen = vec![0; bytes.len()];
    umem.read(0, &mut seen).unwrap();
    assert!(seen == bytes);
    drop(umem);
    rig.process.exit();
    assert_eq!(rig.memory.free_frames(Zone::Normal), 0x4000);
    rig.witness.assert_clean();
}

#[test]
fn frames_that_are_not_free_are_refused_and_nothing_changes() {
    let rig = Rig::new(Fragmentation::None);
    let used = rig.buffer(0x100, 1, Vma::read_write());
    rig.process.touch(used, true).unwrap();
    let taken = rig.process.frame_at(used.start()).unwrap();
    let free = rig.memory.free_frames(Zone::Normal);
    for (frames, bad) in [
        (vec![Pfn::new(0x1100), taken], taken),
        (pfns(&[0x1100, 0x1101, 0x1100]), Pfn::new(0x1100)),
        (pfns(&[0x1100, 0x5000]), Pfn::new(0x5000)),
        (pfns(&[u64::MAX]), Pfn::new(u64::MAX)),
    ] {
        let refused = rig.process.map_frames(AT, &frames, Vma::read_write());
        assert_eq!(refused, Err(VmaError::NotFree(bad)));
        assert_eq!(rig.memory.free_frames(Zone::Normal), free);
    }
    let vma = Vma::read_write();
    let wraps = VmaError::Range(RangeError::Wraps);
    for (at, why) in [(AT.get() + 1, VmaError::Misaligned), (!(P - 1), wraps)] {
        let refused = rig.process.map_frames(UserAddr::new(at), &pfns(&[0x1100, 0x1101]), vma);
        assert_eq!(refused, Err(why));
    }
    assert_eq!(rig.process.map_frames(AT, &[], vma), Err(VmaError::Range(RangeError::Empty)));
    let refused = rig.process.map_frames(used.start(), &pfns(&[0x1100]), vma);
    assert_eq!(refused, Err(VmaError::Overlap(used.start())));
    // They are free, all of them, and can be had.
    rig.process.map_frames(AT, &pfns(&[0x1100, 0x1101]), vma).unwrap();
    assert_eq!(rig.memory.free_frames(Zone::Normal), free - 2);
}

#[test]
fn zones_and_children_treat_them_as_any_other() {
    let memory = Memory::builder()
        .zone(Zone::Normal, 0x10..0x20)
        .zone(Zone::Movable, 0x100..0x110)
        .build()
        .unwrap();
    let rig = Rig::on(memory);
    let (frames, vma) = (pfns(&[0x10f, 0x11]), Vma::read_write());
    let range = rig.process.map_frames(AT, &frames, vma).unwrap();
    let short = rig.pin_as(range, PinFlags::WRITE);
    assert!(short.whole().unwrap().pages().eq(frames.clone()));
    drop(short);
    // A pin for long moves the first one to the normal zone.
    let long = rig.pin_as(range, WRITE_LONG);
    let there: Vec<_> = long.whole().unwrap().pages().collect();
    assert_eq!((rig.memory.zone(there[0]), there[1]), (Some(Zone::Normal), frames[1]));
    drop(long);
    // A child has them until it writes.
    let child: Process = rig.process.fork().unwrap();
    assert_eq!(child.frame_at(range.last()), Some(frames[1]));
    child.write(range.last(), b"x").unwrap();
    assert_ne!(child.frame_at(range.last()), Some(frames[1]));
    rig.witness.assert_clean();
}
