// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tests of the crate with real memory and a real domain.
//!
//! They are asked for by the program `user.c`, which writes a [`Command`] to
//! `/sys/kernel/debug/pinned-sgl/command` and compares the answers with what it knows of its memory.

/// Fails the test, and says where.
macro_rules! check {
    ($what:expr) => {
        if !$what {
            pr_err!("{}:{}: {}\n", file!(), line!(), stringify!($what));
            return Err(EIO);
        }
    };
}

mod accountant;
mod bounce;
mod bound;
mod caches;
mod contexts;
mod device;
mod dma;
mod pgtable;
mod races;
mod thread;
mod walked;

use device::{Tester, COMMAND_FILE};
use kernel::{
    debugfs::{Scope, ScopedDir},
    device as linux_device, pci,
    prelude::*,
    sync::{aref::ARef, Arc},
    transmute::FromBytes,
    uaccess::{UserPtr, UserSlice, UserSliceReader},
};
use pinned_sgl::{
    kernel::{Counter, Kmalloc, MmAccountant, MmPinner, UserMem as Held},
    umem::{PinFlags, PinRequest, RunSlot, Umem, UserRange},
    UserAddr,
};

/// What a program asks for. What the arguments mean depends on `what`.
#[repr(C)]
struct Command {
    what: u64,
    /// A user address, or an offset in the region that is held.
    at: u64,
    len: u64,
    /// `PinFlags`; bit 16 counts in `mm->locked_vm`, bit 17 in that of the user, neither in `pinned_vm`.
    flags: u64,
    /// Memory of the program for the answer, or for bytes.
    answer: u64,
    answer_len: u64,
}

// SAFETY: numbers, any of which will do.
unsafe impl FromBytes for Command {}

const PIN: u64 = 1;
const RUNS: u64 = 2;
const UNPIN: u64 = 3;
const READ: u64 = 4;
const WRITE: u64 = 5;
const DOMAIN: u64 = 6;
const DMA: u64 = 7;
const PGTABLE: u64 = 8;
const CHARGE: u64 = 9;
const UNCHARGE: u64 = 10;
const RACES: u64 = 11;
const FORGET: u64 = 12;
const BELOW: u64 = 13;
const WAIT: u64 = 14;
const MANAGED: u64 = 15;
const BOUNCE: u64 = 16;
const KEEP: u64 = 17;
const LET_GO: u64 = 18;
const WALKED: u64 = 19;
const CACHES: u64 = 20;

fn counter(flags: u64) -> Counter {
    match flags >> 16 & 3 {
        0 => Counter::Pinned,
        1 => Counter::Locked,
        _ => Counter::User,
    }
}

/// Pins memory of the calling process, with few slots, so that several batches are needed.
fn pin(at: u64, len: u64, flags: u64) -> Result<Held> {
    let task = current!();
    let mm = task.mm().ok_or(ESRCH)?;
    let pinner = Arc::new(MmPinner::new(mm, GFP_KERNEL_ACCOUNT), GFP_KERNEL)?;
    let accountant = MmAccountant::new(task, counter(flags)).ok_or(ESRCH)?;
    let accountant = Arc::new(accountant, GFP_KERNEL)?;
    let mut slots = KVec::from_elem(RunSlot::None, 16, GFP_KERNEL)?;
    let range = UserRange::new(UserAddr::new(at), len)?;
    let request = PinRequest::new(range, PinFlags::from_bits_retain(flags as u32 & 0xffff));
    Ok(Umem::pin_in(pinner, accountant, Kmalloc::new(GFP_KERNEL_ACCOUNT), &mut slots, request)?)
}

/// Writes the runs of a region, as pairs of first frame and count, behind their number.
fn report_runs(held: &Held, command: &Command) -> Result {
    let user = UserPtr::from_addr(command.answer as usize);
    let mut writer = UserSlice::new(user, command.answer_len as usize).writer();
    writer.write(&held.sgl().run_count())?;
    for run in held.sgl().runs() {
        writer.write(&run.start().get())?;
        writer.write(&run.count())?;
    }
    Ok(())
}

/// What it calls is not inlined: together, the tests would need more than the stack of a kernel thread.
fn command(tester: &Tester, reader: &mut UserSliceReader) -> Result {
    let command = reader.read::<Command>()?;
    if command.what == WAIT {
        return accountant::waits_for_the_lock(counter(command.flags));
    }
    let mut held = tester.held.lock();
    if command.what == PIN {
        if held.is_some() {
            return Err(EBUSY);
        }
        *held = Some(pin(command.at, command.len, command.flags)?);
        return Ok(());
    }
    if command.what == DOMAIN {
        return tester.domain(&pin(command.at, command.len, command.flags)?);
    }
    if command.what == DMA {
        return tester.dma(pin(command.at, command.len, command.flags)?);
    }
    if command.what == BOUNCE {
        return tester.bounce(&pin(command.at, command.len, command.flags)?);
    }
    if command.what == PGTABLE {
        return tester.page_table(&pin(command.at, command.len, command.flags)?);
    }
    if command.what == WALKED {
        return tester.walked(&pin(command.at, command.len, command.flags)?);
    }
    if command.what == CACHES {
        return tester.caches(&pin(command.at, command.len, command.flags)?);
    }
    match command.what {
        CHARGE => {
            return accountant::charge_in_a_kernel_thread(command.len, counter(command.flags))
        }
        UNCHARGE => return accountant::gives_back_what_it_has(counter(command.flags)),
        BELOW => return accountant::never_below_zero(counter(command.flags)),
        RACES => return tester.races(),
        MANAGED => return device::managed_by_its_driver(),
        FORGET => return tester.forget(),
        KEEP => return tester.keep(command.at, command.len, command.flags == 1),
        LET_GO => return bound::let_go(),
        _ => {}
    }
    let region = held.as_ref().ok_or(ENOENT)?;
    let user = UserPtr::from_addr(command.answer as usize);
    let mut bytes = KVec::zeroed(usize::try_from(command.len)?.min(1 << 16), GFP_KERNEL)?;
    match command.what {
        RUNS => report_runs(region, &command),
        READ => {
            region.read(command.at, &mut bytes)?;
            UserSlice::new(user, bytes.len()).writer().write_slice(&bytes)
        }
        WRITE => {
            UserSlice::new(user, bytes.len()).reader().read_slice(&mut bytes)?;
            Ok(region.write(command.at, &bytes)?)
        }
        UNPIN => {
            *held = None;
            Ok(())
        }
        _ => Err(EINVAL),
    }
}

fn files<'data, 'dir>(tester: &'data Tester, dir: &'dir ScopedDir<'data, 'dir>) {
    dir.write_only_callback_file(COMMAND_FILE, tester, &command);
}

struct Driver;

kernel::pci_device_table!(
    TABLE,
    <Driver as pci::Driver>::IdInfo,
    [(pci::DeviceId::from_id(pci::Vendor::REDHAT, 0x5), ())]
);

impl pci::Driver for Driver {
    type IdInfo = ();
    type Data<'bound> = Scope<Tester>;

    const ID_TABLE: pci::IdTable<Self::IdInfo> = &TABLE;

    fn probe<'bound>(
        pdev: &'bound pci::Device<linux_device::Core<'_>>,
        _: Option<&'bound Self::IdInfo>,
    ) -> impl PinInit<Self::Data<'bound>, Error> + 'bound {
        let device: &linux_device::Device = pdev.as_ref();
        Scope::dir(Tester::new(ARef::from(device)), c"pinned-sgl", files)
    }
}

kernel::module_pci_driver! {
    type: Driver,
    name: "selftest",
    authors: ["The authors of pinned-sgl"],
    description: "Tests of pinned-sgl in the kernel",
    license: "Dual MIT/GPL",
}
