// SPDX-License-Identifier: MIT OR Apache-2.0
//! Real memory: what is pinned, what the kernel counts, and what it refuses.
//!
//! These tests need root: frame numbers are hidden from all others. Tests of what the kernel
//! refuses run in a child process that gives privileges up.
#![cfg(target_os = "linux")]

mod real;

use pinned_sgl::linux::{Buffer, BufferError, PageError, PageMap, Pages};
use pinned_sgl::umem::{
    PinError, PinErrorKind, PinFlags, PinRequest, Region, Umem, Unaccounted, UserRange,
};
use pinned_sgl::{Failed, Heap, MemoryKind, PageSize, PageSizes, Pfn, Sgl, SglBuilder, UserAddr};
use real::{alone, page, vm_pin, MIB};
use std::io::{self, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::{fs, num::NonZeroUsize, ops::ControlFlow, os::unix::process::CommandExt, process};

type Pinned = Umem<Box<Buffer>, &'static Unaccounted, Heap>;

/// All of `buffer`, as a device that reads and writes it needs it.
fn request(buffer: &Buffer) -> PinRequest {
    PinRequest::new(buffer.user_range(), PinFlags::WRITE | PinFlags::LONGTERM)
}

fn pin(buffer: Buffer) -> Result<Pinned, Failed<PinError<PageError>, Box<Buffer>>> {
    let request = request(&buffer);
    Umem::pin(Box::new(buffer), &Unaccounted, request)
}

/// Pins with `count` threads, and `progress` watching.
fn pin_parallel(
    buffer: Buffer,
    count: usize,
    progress: impl Fn(u64) -> ControlFlow<()> + Sync,
) -> Result<Pinned, Failed<PinError<PageError>, Box<Buffer>>> {
    let request = request(&buffer).with_progress(progress);
    Umem::pin_parallel(Box::new(buffer), &Unaccounted, request, threads(count))
}

fn unpin(pinned: Pinned) -> Buffer {
    *pinned.unpin().unwrap()
}

/// What is pinned at a time of a buffer of transparent huge pages.
fn at_a_time() -> u64 {
    let huge = Buffer::new(MIB, Pages::Transparent).unwrap().huge_page_size();
    huge.bytes().max(64 * MIB)
}

fn threads(count: usize) -> NonZeroUsize {
    NonZeroUsize::new(count).unwrap()
}

fn on(_: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// The list of `len` bytes from `start` on, page by page, as the page map has it now.
fn list_again(start: UserAddr, len: u64) -> Sgl<Heap> {
    let map = PageMap::open().unwrap();
    let page = map.page_size();
    let mut builder = SglBuilder::new(page).unwrap();
    for offset in (0..len).step_by(page.bytes() as usize) {
        let mut frame = [Pfn::default()];
        map.read(start.checked_add(offset).unwrap(), &mut frame).unwrap();
        builder.push_page(frame[0], MemoryKind::Ram).unwrap();
    }
    builder.finish().unwrap()
}

fn start_of(pinned: &Pinned) -> UserAddr {
    pinned.user_range().start()
}

fn check_whole(pinned: &Pinned, len: u64) {
    assert_eq!(pinned.len(), len);
    assert_eq!(pinned.sgl().byte_len(), len);
    assert!(pinned.sgl().runs().all(|run| run.start().get() != 0));
    assert_eq!(*pinned.sgl(), list_again(start_of(pinned), len));
}

#[test]
fn the_kernel_counts_what_is_pinned_and_only_while_it_is() {
    let _alone = alone();
    for pages in [Pages::Base, Pages::Transparent] {
        for count in [1, 2, 3, 7] {
            let before = vm_pin();
            let len = 40 * MIB;
            let buffer = Buffer::new(len, pages).unwrap();
            assert_eq!(vm_pin(), before, "a buffer alone is not pinned");
            let pinned = pin_parallel(buffer, count, on).unwrap();
            assert_eq!(vm_pin() - before, len, "{pages:?}, {count} threads");
            check_whole(&pinned, len);
            drop(pinned);
            assert_eq!(vm_pin(), before, "{pages:?}, {count} threads");
        }
    }
}

#[test]
fn unpinning_gives_the_buffer_back_with_what_was_written() {
    let _alone = alone();
    let before = vm_pin();
    let pinned = pin(Buffer::new(3 * MIB, Pages::Base).unwrap()).unwrap();
    pinned.write(3 * MIB - 5, b"hello").unwrap();
    let start = pinned.user_addr().unwrap();

    let buffer = unpin(pinned);
    assert_eq!(vm_pin(), before);
    assert_eq!(buffer.user_addr(), start);
    let mut text = [0; 5];
    buffer.read(3 * MIB - 5, &mut text).unwrap();
    assert_eq!(&text, b"hello");

    let pinned = pin(buffer).unwrap();
    assert_eq!(vm_pin() - before, 3 * MIB);
    pinned.read(3 * MIB - 5, &mut text).unwrap();
    assert_eq!(&text, b"hello");
    drop(pinned);
    assert_eq!(vm_pin(), before);
}

#[test]
fn copies_stay_inside_the_buffer() {
    let buffer = Buffer::new(MIB, Pages::Base).unwrap();
    let mut byte = [7];
    buffer.read(MIB - 1, &mut byte).unwrap();
    assert_eq!(byte, [0], "fresh memory is zero");
    buffer.write(MIB, &[]).unwrap();
    for offset in [MIB, MIB + 1, u64::MAX] {
        for outcome in [buffer.write(offset, &byte), buffer.read(offset, &mut byte)] {
            assert!(matches!(
                outcome,
                Err(PageError::Beyond { offset: at, len: 1, available: MIB }) if at == offset
            ));
        }
    }
    assert!(buffer.write(MIB - 1, &[1, 2]).is_err());
    buffer.read(MIB - 1, &mut byte).unwrap();
    assert_eq!(byte, [0], "a copy that does not fit writes nothing");
}

#[test]
fn threads_build_the_list_that_one_thread_builds() {
    let _alone = alone();
    // Not a multiple of a huge page, and fewer huge pages than threads.
    for (len, pages) in [(70 * MIB + 3 * page(), Pages::Transparent), (4 * MIB, Pages::Transparent)]
    {
        let mut buffer = Buffer::new(len, pages).unwrap();
        for count in [1, 2, 3, 16] {
            let pinned = pin_parallel(buffer, count, on).unwrap();
            check_whole(&pinned, len);
            // Cut anywhere, listed apart and joined: the same list.
            let page = pinned.sgl().page_size();
            let cut = (len / 3) & !page.mask();
            let mut joined = SglBuilder::new(page).unwrap();
            joined.push_sgl(&list_again(start_of(&pinned), cut)).unwrap();
            let rest = start_of(&pinned).checked_add(cut).unwrap();
            joined.push_sgl(&list_again(rest, len - cut)).unwrap();
            assert_eq!(joined.finish().unwrap(), *pinned.sgl());
            buffer = unpin(pinned);
        }
    }
}

#[test]
fn progress_counts_every_byte_once() {
    let _alone = alone();
    for count in [1, 2] {
        let (calls, most) = (AtomicU64::new(0), AtomicU64::new(0));
        let len = 3 * at_a_time() + 8 * MIB;
        let buffer = Buffer::new(len, Pages::Transparent).unwrap();
        let pinned = pin_parallel(buffer, count, |pinned| {
            calls.fetch_add(1, Ordering::Relaxed);
            most.fetch_max(pinned, Ordering::Relaxed);
            ControlFlow::Continue(())
        });
        assert_eq!(pinned.unwrap().len(), len);
        assert_eq!(most.into_inner(), len);
        // What is pinned is reported at the latest when the next is to be.
        assert!(calls.into_inner() >= 4);
    }
}

#[test]
fn cancelling_half_way_leaves_nothing_pinned() {
    let _alone = alone();
    let before = vm_pin();
    let half = 2 * at_a_time();
    let mut buffer = Buffer::new(2 * half, Pages::Transparent).unwrap();
    for count in [1, 2] {
        let seen = AtomicU64::new(0);
        let error = pin_parallel(buffer, count, |pinned| {
            seen.fetch_max(vm_pin() - before, Ordering::Relaxed);
            if pinned >= half {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })
        .unwrap_err();
        assert!(matches!(&error.error().kind, PinErrorKind::Cancelled), "{error}");
        assert!(seen.into_inner() >= half, "it was pinned");
        assert!(error.error().pinned >= half);
        assert_eq!(vm_pin(), before, "{count} threads");
        buffer = *error.into_value();
    }
    drop(pin(buffer).unwrap());
    assert_eq!(vm_pin(), before);
}

#[test]
fn a_panic_in_the_middle_leaves_nothing_pinned() {
    let _alone = alone();
    let before = vm_pin();
    for count in [1, 2] {
        let pin = || {
            let buffer = Buffer::new(2 * at_a_time() + 2 * MIB, Pages::Transparent).unwrap();
            let _ = pin_parallel(buffer, count, |_| panic!("on purpose"));
        };
        assert!(std::panic::catch_unwind(pin).is_err());
        assert_eq!(vm_pin(), before);
    }
}

#[test]
fn regions_share_a_buffer() {
    let _alone = alone();
    let before = vm_pin();
    let buffer = Arc::new(Buffer::new(80 * MIB, Pages::Base).unwrap());
    let part = |from: u64, len: u64| {
        let start = buffer.user_addr().checked_add(from * MIB).unwrap();
        let range = UserRange::new(start, len * MIB).unwrap();
        let request = PinRequest::new(range, PinFlags::WRITE | PinFlags::LONGTERM);
        let umem = Umem::pin(Arc::clone(&buffer), &Unaccounted, request).unwrap();
        assert_eq!(*umem.sgl(), list_again(start, len * MIB));
        umem
    };
    let (whole, first, last) = (part(0, 80), part(0, 50), part(30, 50));
    assert_eq!(vm_pin() - before, 80 * MIB, "a page is charged once");
    first.write(40 * MIB, b"shared").unwrap();
    let mut text = [0; 6];
    last.read(10 * MIB, &mut text).unwrap();
    assert_eq!(&text, b"shared");
    drop(whole);
    drop(first);
    assert_eq!(*last.sgl(), list_again(last.user_range().start(), 50 * MIB));
    assert!(vm_pin() - before >= 50 * MIB);
    drop(last);
    assert_eq!(vm_pin(), before);
}

#[test]
fn a_region_that_was_leaked_stays() {
    let _alone = alone();
    let before = vm_pin();
    let buffer = Box::new(Buffer::new(2 * MIB, Pages::Base).unwrap());
    let request = request(&buffer);
    // The region borrows the buffer, so the buffer outlives it, leaked or not.
    let umem = Umem::pin(&*buffer, &Unaccounted, request).unwrap();
    umem.attach(true).unwrap();
    drop(umem);
    let start = buffer.user_addr();
    drop(buffer);
    assert_eq!(vm_pin() - before, 2 * MIB, "a device may still write to it");
    assert_eq!(list_again(start, 2 * MIB).byte_len(), 2 * MIB);
}

/// The bytes that the kernel has as transparent huge pages in the mapping that holds `addr`.
fn anon_huge_pages(addr: UserAddr) -> u64 {
    let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
    let holds = |line: &str| {
        let range = line.split(' ').next().and_then(|range| range.split_once('-'));
        let bound = |text| u64::from_str_radix(text, 16).ok();
        let range = range.and_then(|(from, to)| Some(bound(from)?..bound(to)?));
        range.is_some_and(|range| range.contains(&addr.get()))
    };
    let lines = smaps.lines().skip_while(|line| !holds(line));
    let mut lines = lines.filter_map(|line| line.strip_prefix("AnonHugePages:"));
    let line = lines.next().expect("the buffer in smaps");
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
}

#[test]
fn transparent_huge_pages_are_runs_of_huge_pages() {
    let _alone = alone();
    let len = 2 * at_a_time();
    let pinned = pin(Buffer::new(len, Pages::Transparent).unwrap()).unwrap();
    let huge = pinned.pinner().huge_page_size();
    assert!(start_of(&pinned).is_aligned(huge));
    let granted = anon_huge_pages(start_of(&pinned));
    let window = pinned.sgl().whole().unwrap();
    let sizes = PageSizes::from(huge) | PageSizes::from(pinned.pinner().page_size());
    let iova = pinned_sgl::Iova::new(1 << 40);
    let tiles = window.tiles(sizes, iova).unwrap();
    let in_huge: u64 = tiles.filter(|tile| tile.page_size == huge).map(|tile| tile.len()).sum();
    assert!(in_huge >= granted, "{granted} bytes in huge pages, {in_huge} found in the list");
    if granted == len {
        let best = window.best_page_size(sizes, iova).unwrap().unwrap();
        assert_eq!(best.page_size(), huge);
        let unit = huge.bytes() / pinned.pinner().page_size().bytes();
        assert!(pinned.sgl().runs().all(|run| run.count() % unit == 0));
    }
}

#[test]
fn base_pages_are_what_they_are_called() {
    let _alone = alone();
    let pinned = pin(Buffer::new(16 * MIB, Pages::Base).unwrap()).unwrap();
    assert_eq!(anon_huge_pages(start_of(&pinned)), 0);
}

/// The sizes of which this machine has huge pages, the smallest first.
fn huge_page_sizes() -> Vec<PageSize> {
    let pools = fs::read_dir("/sys/kernel/mm/hugepages").expect("a machine with huge pages");
    let size_of = |pool: io::Result<fs::DirEntry>| {
        let name = pool.unwrap().file_name().into_string().unwrap();
        let kib = name.strip_prefix("hugepages-").unwrap().strip_suffix("kB").unwrap();
        PageSize::new(kib.parse::<u64>().unwrap() * 1024).unwrap()
    };
    let mut sizes: Vec<_> = pools.map(size_of).collect();
    sizes.sort();
    sizes
}

/// Huge pages reserved for a test, and given back after it.
struct Reserved {
    path: String,
    before: u64,
    /// How many pages were reserved.
    count: u64,
}

impl Reserved {
    /// Reserves `count` pages, or as many as there are, but not fewer than `least`.
    fn pages(size: PageSize, least: u64, count: u64) -> Self {
        let kib = size.bytes() / 1024;
        let path = format!("/sys/kernel/mm/hugepages/hugepages-{kib}kB/nr_hugepages");
        let read = || fs::read_to_string(&path).ok()?.trim().parse::<u64>().ok();
        let Some(before) = read() else {
            panic!("this test needs a machine with huge pages of {size}: there is no {path}");
        };
        let wanted = before + count;
        if let Err(error) = fs::write(&path, wanted.to_string()) {
            panic!("this test needs to reserve {count} huge pages of {size} in {path}: {error}");
        }
        let mut reserved = Self { path: path.clone(), before, count };
        // What files have left in memory lies between: without it, and with what is left moved together,
        // there may be room for large pages.
        for (path, what) in [("drop_caches", "3"), ("compact_memory", "1")] {
            if read().unwrap() < wanted {
                let _ = fs::write(format!("/proc/sys/vm/{path}"), what);
                let _ = fs::write(&reserved.path, wanted.to_string());
            }
        }
        let got = read().unwrap();
        reserved.count = got.saturating_sub(before).min(count);
        assert!(
            reserved.count >= least,
            "this test needs {least} free huge pages of {size}: {path} is {got}"
        );
        reserved
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        let _ = fs::write(&self.path, self.before.to_string());
    }
}

#[test]
fn reserved_huge_pages_are_pinned_whole() {
    let _alone = alone();
    // A machine that has run for long may have little in pieces as large as those behind the first.
    let (mut least, mut count) = (40, 40);
    for size in huge_page_sizes() {
        let pages = Pages::Huge(size);
        let reserved = Reserved::pages(size, least, count);
        (least, count) = (0, 2);
        let len = reserved.count * size.bytes();
        if len == 0 {
            // Not captured, as what is printed would be: what was not pinned must be seen.
            let _ = writeln!(std::io::stderr(), "NOT PINNED: there is no free page of {size}");
            let error = Buffer::new(size.bytes(), pages).unwrap_err();
            let BufferError::NoHugePages { needed: 1, .. } = error else { panic!("{error}") };
            continue;
        }
        for threads in [1, 2, 5] {
            let before = vm_pin();
            let pinned = pin_parallel(Buffer::new(len, pages).unwrap(), threads, on).unwrap();
            assert_eq!(vm_pin() - before, len, "{pages:?}, {threads} threads");
            check_whole(&pinned, len);
            let window = pinned.sgl().whole().unwrap();
            let best = window.best_page_size(size.into(), pinned_sgl::Iova::new(1 << 40));
            assert_eq!(best.unwrap().expect("aligned huge pages").block_count(), reserved.count);
            drop(pinned);
            assert_eq!(vm_pin(), before);
        }
    }
}

#[test]
fn huge_pages_that_are_not_reserved_are_named() {
    let _alone = alone();
    let count = 1 << 20;
    let error = Buffer::new(count * 2 * MIB, Pages::Huge(PageSize::SIZE_2M)).unwrap_err();
    let BufferError::NoHugePages { size, needed, available, .. } = error else {
        panic!("{error}");
    };
    assert_eq!((size, needed), (PageSize::SIZE_2M, count));
    assert!(available < needed);
    assert!(error.to_string().contains("hugepages-2048kB/nr_hugepages"), "{error}");
}

#[test]
fn huge_pages_that_the_machine_does_not_have_are_named() {
    // A size of one byte would be, to the kernel, whichever it has by default.
    let page = Buffer::new(MIB, Pages::Base).unwrap().page_size();
    for size in [PageSize::from_shift(0).unwrap(), page, PageSize::from_shift(62).unwrap()] {
        let error = Buffer::new(size.bytes(), Pages::Huge(size)).unwrap_err();
        assert!(
            matches!(error, BufferError::NoSuchHugePages { size: of } if of == size),
            "{error}"
        );
    }
}

#[test]
fn sizes_that_are_none() {
    assert!(matches!(Buffer::new(0, Pages::Base), Err(BufferError::Empty)));
    for (len, pages) in [
        (1, Pages::Base),
        (MIB + 1, Pages::Transparent),
        (3 * MIB, Pages::Huge(PageSize::SIZE_2M)),
        (512 * MIB, Pages::Huge(PageSize::SIZE_1G)),
        (u64::MAX, Pages::Base),
    ] {
        match Buffer::new(len, pages) {
            Err(BufferError::NotAMultiple { len: reported, .. }) => assert_eq!(reported, len),
            other => panic!("{len} of {pages:?}: {other:?}"),
        }
    }
    for pages in [Pages::Base, Pages::Transparent] {
        let len = !(2 * MIB - 1);
        assert!(matches!(Buffer::new(len, pages), Err(BufferError::TooLarge { .. })));
        let error = Buffer::new(1 << 62, pages).unwrap_err();
        assert!(matches!(error, BufferError::Map { .. }), "{error}");
    }
}

#[test]
fn a_page_that_was_never_touched_has_no_frame() {
    let buffer = Buffer::new(MIB, Pages::Base).unwrap();
    let page = buffer.page_size().bytes();
    buffer.write(0, &[1]).unwrap();
    buffer.write(page, &[1]).unwrap();
    let map = PageMap::open().unwrap();
    let mut frames = [Pfn::default(); 4];
    let error = map.read(buffer.user_addr(), &mut frames).unwrap_err();
    assert!(matches!(error, PageError::NotPresent { offset } if offset == 2 * page), "{error}");
    map.read(buffer.user_addr(), &mut frames[..2]).unwrap();
    assert!(frames[0] != Pfn::new(0) && frames[0] != frames[1]);

    let odd = buffer.user_addr().checked_add(1).unwrap();
    let error = map.read(odd, &mut frames).unwrap_err();
    assert!(matches!(error, PageError::Misaligned { addr, .. } if addr == odd), "{error}");
}

/// Names what a child process is to do: see [`child`].
const CHILD: &str = "PINNED_SGL_TEST_CHILD";
const CAP_IPC_LOCK: libc::c_int = 14;

/// Runs this test binary again, with `CHILD` set to `role` and without the privileges that
/// `give_up` takes away; says what it printed.
fn child(role: &str, give_up: fn() -> libc::c_int) -> String {
    let mut command = process::Command::new("/proc/self/exe");
    command.args(["--exact", "children_that_were_refused", "--nocapture"]).env(CHILD, role);
    let before_exec = move || match give_up() {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    };
    // SAFETY: between fork and exec, `give_up` makes system calls and nothing else.
    unsafe { command.pre_exec(before_exec) };
    let output = command.output().expect("this test needs root, to give privileges up");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// A limit of 1 MiB of locked memory, for root without the capability to exceed it.
fn with_little_memory_to_lock() -> libc::c_int {
    let limit = libc::rlimit { rlim_cur: MIB, rlim_max: MIB };
    // SAFETY: the pointer is to a whole `rlimit`; the other calls take numbers. What is dropped
    // from the bounding set is gone after exec.
    unsafe {
        // All processes of a user share the limit: this is a user of its own, with the privileges of root.
        let user = libc::getpid().unsigned_abs() | 1 << 30;
        libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit)
            | libc::prctl(libc::PR_CAPBSET_DROP, CAP_IPC_LOCK)
            | libc::setresuid(user, !0, !0)
    }
}

fn as_nobody() -> libc::c_int {
    // SAFETY: the calls take numbers, and an empty list.
    unsafe { libc::setgroups(0, std::ptr::null()) | libc::setgid(65534) | libc::setuid(65534) }
}

/// A seccomp filter as container runtimes have it: there is no `io_uring_setup()`.
fn without_io_uring() -> libc::c_int {
    let operation =
        |code: u32, skip: u8, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: skip, k };
    let mut filter = [
        // The number of the system call is the first word of what a filter sees.
        operation(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0),
        operation(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, libc::SYS_io_uring_setup as u32),
        operation(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        operation(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program =
        libc::sock_fprog { len: filter.len() as libc::c_ushort, filter: filter.as_mut_ptr() };
    // SAFETY: the program and its filter live until the call returns, which copies them.
    unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) }
}

/// What the buffer said.
fn fault_of(error: &Failed<PinError<PageError>, Box<Buffer>>) -> &PageError {
    let PinErrorKind::Pinner(fault) = &error.error().kind else { panic!("{error}") };
    fault
}

#[test]
fn children_that_were_refused() {
    match std::env::var(CHILD).as_deref() {
        Ok("memlock") => {
            let before = vm_pin();
            let buffer = Buffer::new(128 * MIB, Pages::Base).unwrap();
            let error = pin(buffer).unwrap_err();
            let fault = fault_of(&error);
            assert!(
                matches!(fault, PageError::MemlockLimit { offset: 0, limit: MIB, .. }),
                "{error}"
            );
            assert_eq!((error.error().pinned, vm_pin()), (0, before));
            // Less than the limit is fine, with the buffer of an error too.
            let buffer = error.into_value();
            let part = UserRange::new(buffer.user_addr(), MIB / 2).unwrap();
            let flags = PinFlags::WRITE | PinFlags::LONGTERM;
            let pinned = Umem::pin(buffer, &Unaccounted, PinRequest::new(part, flags)).unwrap();
            assert_eq!(vm_pin() - before, MIB / 2);
            drop(pinned);
            println!("refused: memlock");
        }
        Ok("nobody") => {
            let error = pin(Buffer::new(MIB, Pages::Base).unwrap()).unwrap_err();
            let fault = fault_of(&error);
            assert!(matches!(fault, PageError::Hidden { .. }), "{error}");
            assert!(fault.to_string().contains("CAP_SYS_ADMIN"), "{fault}");
            assert_eq!((error.error().pinned, vm_pin()), (0, 0));
            assert!(matches!(PageMap::open(), Err(PageError::Hidden { .. })));
            println!("refused: nobody");
        }
        Ok("no io_uring") => {
            let error = pin(Buffer::new(MIB, Pages::Base).unwrap()).unwrap_err();
            let fault = fault_of(&error);
            let PageError::NoIoUring { source } = fault else { panic!("{error}") };
            assert_eq!(source.raw_os_error(), Some(libc::EPERM));
            assert!(fault.to_string().contains("kernel.io_uring_disabled"), "{fault}");
            println!("refused: no io_uring");
        }
        Ok(other) => panic!("no such role: {other}"),
        Err(_) => {
            assert!(child("memlock", with_little_memory_to_lock).contains("refused: memlock"));
            assert!(child("nobody", as_nobody).contains("refused: nobody"));
            let text = child("no io_uring", without_io_uring);
            assert!(text.contains("refused: no io_uring"));
        }
    }
}
