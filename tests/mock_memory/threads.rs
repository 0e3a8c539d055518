// SPDX-License-Identifier: MIT OR Apache-2.0
//! Threads that pin what others move or unmap.

use super::{at, pin, range, unpin, with, LONG, P, WRITE};
use pinned_sgl::{Pfn, PhysAddr};
use pinned_sgl_mock::{Bus, Memory, PinFault, Process, Vma, Zone};

#[test]
fn pinning_and_moving_exclude_each_other() {
    let memory = Memory::builder()
        .zone(Zone::Normal, 0x100..0x140)
        .zone(Zone::Movable, 0x200..0x240)
        .build()
        .unwrap();
    let process = with(&memory, 8, Vma::read_write().huge(1).zone(Zone::Movable));
    for page in 0..8 {
        process.write(at(page), &[page as u8]).unwrap();
    }
    let rounds = 2000;
    std::thread::scope(|scope| {
        for thread in 0..2u64 {
            let (process, memory) = (&process, &memory);
            scope.spawn(move || {
                for round in 0..rounds {
                    let page = (round + thread) % 7;
                    let flags = if round % 16 == 0 { WRITE | LONG } else { WRITE };
                    let runs = match pin(process, range(page, 2), flags) {
                        Ok(runs) => runs,
                        Err(PinFault::Busy(_)) => continue,
                        Err(other) => panic!("{other}"),
                    };
                    // While it is pinned it stays, and holds what belongs there.
                    let mut pfns = runs.iter().flat_map(|run| run.start().get()..run.end().get());
                    for page in page..page + 2 {
                        let pfn = pfns.next().unwrap();
                        assert_eq!(process.frame_at(at(page)), Some(Pfn::new(pfn)));
                        let mut bytes = [0];
                        Bus::read(memory, PhysAddr::new(pfn * P), &mut bytes).unwrap();
                        assert_eq!(bytes[0], page as u8);
                    }
                    unpin(process, &runs, false);
                }
            });
        }
        scope.spawn(|| {
            for round in 0..rounds {
                match round % 4 {
                    0 => drop(process.migrate(range(0, 8), Zone::Normal)),
                    1 => drop(process.migrate(range(0, 8), Zone::Movable)),
                    2 => drop(process.swap_out(range(round % 8, 1))),
                    _ => drop(process.fork()),
                }
                memory.compact();
            }
        });
    });
    memory.assert_no_leak();
    memory.witness().assert_clean();
    drop(process);
    assert_eq!((memory.free_frames(Zone::Normal), memory.free_frames(Zone::Movable)), (64, 64));
}

#[test]
fn unmapping_while_pinning_frees_every_frame() {
    let memory = Memory::with_frames(64);
    let process = Process::new(&memory);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..2000 {
                process.map(range(0, 4), Vma::read_write().huge(1)).unwrap();
                process.touch(range(0, 4), true).unwrap();
                process.unmap(range(0, 4)).unwrap();
            }
        });
        for _ in 0..2000 {
            match pin(&process, range(0, 4), WRITE) {
                Ok(runs) => unpin(&process, &runs, false),
                Err(PinFault::NotMapped(_)) => {}
                Err(other) => panic!("{other}"),
            }
        }
    });
    memory.assert_no_leak();
    memory.witness().assert_clean();
    assert_eq!(memory.free_frames(Zone::Normal), 64);
}
