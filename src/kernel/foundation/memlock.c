// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * Counters of pinned and locked pages: see memlock.rs.
 */

#include <linux/capability.h>
#include <linux/mm.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/sched/user.h>
#include "helpers.h"

/* Whether current may lock as much as it likes. */
__rust_helper bool rust_helper_memlock_is_unlimited(void)
{
	return capable(CAP_IPC_LOCK);
}

/* The user of current, with a reference: for free_uid(). */
__rust_helper struct user_struct *rust_helper_memlock_current_user(void)
{
	return get_uid(current_user());
}

/* The variants of `Account` in memlock.rs. */
enum { MEMLOCK_PINNED, MEMLOCK_LOCKED, MEMLOCK_USER };

static bool memlock_fits(u64 counted, u64 pages, u64 limit, u64 *sum)
{
	return !check_add_overflow(counted, pages, sum) && *sum <= limit && *sum <= S64_MAX;
}

static int memlock_charge_pinned(struct mm_struct *mm, u64 pages, u64 limit, u64 *charged)
{
	s64 old = atomic64_read(&mm->pinned_vm);
	u64 sum;

	do {
		*charged = old;
		if (!memlock_fits(old, pages, limit, &sum))
			return -ENOMEM;
	} while (!atomic64_try_cmpxchg(&mm->pinned_vm, &old, sum));
	return 0;
}

static int memlock_charge_locked(struct mm_struct *mm, u64 pages, u64 limit, u64 *charged)
{
	int error = mmap_write_lock_killable(mm);
	u64 sum;

	if (error)
		return error;
	*charged = mm->locked_vm;
	if (memlock_fits(mm->locked_vm, pages, limit, &sum))
		mm->locked_vm = sum;
	else
		error = -ENOMEM;
	mmap_write_unlock(mm);
	return error;
}

/* The condition of linux/sched/user.h. */
#if defined(CONFIG_NET) || defined(CONFIG_IO_URING) || defined(CONFIG_VFIO_PCI_ZDEV_KVM) || \
	IS_ENABLED(CONFIG_IOMMUFD) || defined(CONFIG_SECRETMEM)
static atomic_long_t *memlock_of_user(struct user_struct *user)
{
	return &user->locked_vm;
}
#else
/* Nothing is counted by user in this kernel, nor can be. */
static atomic_long_t *memlock_of_user(struct user_struct *user)
{
	return NULL;
}
#endif

static int memlock_charge_user(struct user_struct *user, u64 pages, u64 limit, u64 *charged)
{
	atomic_long_t *counter = memlock_of_user(user);
	long old;
	u64 sum;

	if (!counter)
		return -ENOMEM;
	old = atomic_long_read(counter);
	do {
		*charged = old;
		if (!memlock_fits(old, pages, limit, &sum))
			return -ENOMEM;
	} while (!atomic_long_try_cmpxchg(counter, &old, sum));
	return 0;
}

/*
 * Charges `pages` in one of the counters, within the limit of `task`, which is none without one:
 * ENOMEM beyond the limit, with what is counted, and the limit; EINTR if current is killed while it
 * waits.
 */
__rust_helper int rust_helper_memlock_charge(u32 counter, struct mm_struct *mm,
					     struct user_struct *user, struct task_struct *task,
					     u64 pages, u64 *charged, u64 *limit)
{
	int error;

	*limit = task ? task_rlimit(task, RLIMIT_MEMLOCK) >> PAGE_SHIFT : U64_MAX;
	switch (counter) {
	case MEMLOCK_PINNED:
		return memlock_charge_pinned(mm, pages, *limit, charged);
	case MEMLOCK_LOCKED:
		return memlock_charge_locked(mm, pages, *limit, charged);
	}
	error = memlock_charge_user(user, pages, *limit, charged);
	/* Where it is shown, and not limited. */
	if (!error)
		atomic64_add(pages, &mm->pinned_vm);
	return error;
}

/* What is left: nothing at the least. If less is counted than was charged, others have taken it. */
static s64 memlock_less(s64 counted, u64 pages)
{
	return counted > (s64)pages ? counted - (s64)pages : min(counted, 0);
}

static void memlock_report_missing(const char *of, s64 counted, u64 pages)
{
	if (counted < (s64)pages)
		pr_warn_ratelimited("memlock: %llu pages were charged, and %s has only %lld\n",
				    pages, of, counted);
}

static void memlock_uncharge_pinned(struct mm_struct *mm, u64 pages)
{
	s64 old = atomic64_read(&mm->pinned_vm);

	while (!atomic64_try_cmpxchg(&mm->pinned_vm, &old, memlock_less(old, pages)))
		;
	memlock_report_missing("pinned_vm", old, pages);
}

static void memlock_uncharge_user(struct user_struct *user, u64 pages)
{
	atomic_long_t *counter = memlock_of_user(user);
	long old;

	if (!counter)
		return;
	old = atomic_long_read(counter);
	while (!atomic_long_try_cmpxchg(counter, &old, memlock_less(old, pages)))
		;
	memlock_report_missing("locked_vm of the user", old, pages);
}

__rust_helper void rust_helper_memlock_uncharge(u32 counter, struct mm_struct *mm,
						struct user_struct *user, u64 pages)
{
	if (counter == MEMLOCK_LOCKED) {
		/* Not killable: what was charged must go back. */
		mmap_write_lock(mm);
		memlock_report_missing("locked_vm", mm->locked_vm, pages);
		mm->locked_vm = memlock_less(mm->locked_vm, pages);
		mmap_write_unlock(mm);
		return;
	}
	if (counter == MEMLOCK_USER)
		memlock_uncharge_user(user, pages);
	memlock_uncharge_pinned(mm, pages);
}

/* Warns in the log of a caller that gives back what it does not have. */
__rust_helper void rust_helper_memlock_report_excess(u64 pages)
{
	pr_warn_ratelimited("memlock: %llu pages more than were charged were to be uncharged\n",
			    pages);
}
