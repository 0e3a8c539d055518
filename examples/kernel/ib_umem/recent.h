/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The runs of a list that were found last, for any number of CPUs that ask at once. Nothing is locked, and nobody waits,
 * as packets ask in interrupts: who finds others writes them, unless another one does; and who has read what was written
 * meanwhile asks the list. tests/kernel/rdma/recent.c includes this in a program.
 */
#ifndef IB_UMEM_RECENT_H
#define IB_UMEM_RECENT_H

#define IB_UMEM_RECENT 8

/* The byte behind it, and how far its bytes in memory are from those in the list. */
struct ib_umem_recent_run {
	u64 end, moved;
};

struct ib_umem_recent {
	/* Odd while the rest is written, and another number afterwards. */
	unsigned long turn;
	/* The first byte of the runs, counted from the first page of the list, and the bytes of all. */
	u64 begin, bytes;
	/* Some of them, in order. */
	struct ib_umem_recent_run runs[IB_UMEM_RECENT];
};

/* How many bytes from byte `at` on are contiguous, and the physical address of that; or 0, if it is in no recent run. */
static inline u64 ib_umem_recall(const struct ib_umem_recent *recent, u64 at, u64 *phys)
{
	unsigned long turn = smp_load_acquire(&recent->turn);
	const struct ib_umem_recent_run *run = recent->runs;
	u64 end;

	if (at - READ_ONCE(recent->begin) >= READ_ONCE(recent->bytes))
		return 0;
	unrolled_full for (int i = 0; i < IB_UMEM_RECENT; i++, run++) {
		end = READ_ONCE(run->end);
		if (at < end) {
			*phys = at + READ_ONCE(run->moved);
			/* Whoever has written any of this has made the number odd before. */
			smp_rmb();
			return !(turn & 1) && READ_ONCE(recent->turn) == turn ? end - at : 0;
		}
	}
	return 0;
}

/* Others are recent now: as many as `found` has, whose turn means nothing. */
static inline void ib_umem_remember(struct ib_umem_recent *recent, const struct ib_umem_recent *found, size_t count)
{
	unsigned long turn = READ_ONCE(recent->turn);

	/* A full barrier, so that the odd number comes before what is written. */
	if ((turn & 1) || cmpxchg(&recent->turn, turn, turn + 1) != turn)
		return;
	WRITE_ONCE(recent->begin, found->begin);
	WRITE_ONCE(recent->bytes, found->bytes);
	for (size_t i = 0; i < count && i < IB_UMEM_RECENT; i++) {
		WRITE_ONCE(recent->runs[i].end, found->runs[i].end);
		WRITE_ONCE(recent->runs[i].moved, found->runs[i].moved);
	}
	smp_store_release(&recent->turn, turn + 2);
}

#endif
