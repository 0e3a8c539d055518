// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * The runs that were found last, as examples/kernel/ib_umem/recent.h keeps them, in a program: threads ask for bytes of one
 * list at once, in order and at random, and none of them ever gets what is not true.
 */
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t u64;

/* Now and then another thread comes in between, as interrupts do. */
static void stop(void)
{
	static _Thread_local unsigned int calls;

	if (++calls % 499 == 0)
		sched_yield();
}

/* What the kernel has, in the words of C11. */
#define unrolled_full
#define READ_ONCE(of) (stop(), __atomic_load_n(&(of), __ATOMIC_RELAXED))
#define WRITE_ONCE(of, value) (stop(), __atomic_store_n(&(of), value, __ATOMIC_RELAXED))
#define smp_load_acquire(from) __atomic_load_n(from, __ATOMIC_ACQUIRE)
#define smp_store_release(to, value) __atomic_store_n(to, value, __ATOMIC_RELEASE)
#define smp_rmb() __atomic_thread_fence(__ATOMIC_ACQUIRE)
#define cmpxchg(at, old, new) ({						\
	unsigned long _was = old;						\
	__atomic_thread_fence(__ATOMIC_SEQ_CST);				\
	__atomic_compare_exchange_n(at, &_was, new, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);	\
	__atomic_thread_fence(__ATOMIC_SEQ_CST);				\
	_was;									\
})

#include "../../../examples/kernel/ib_umem/recent.h"

enum { RUNS = 1000, THREADS = 4, LOOKUPS = 1000000 };

static u64 ends[RUNS], moved[RUNS];
static struct ib_umem_recent recent;

static int run_of(u64 at)
{
	int low = 0, high = RUNS - 1;

	while (low < high) {
		int middle = (low + high) / 2;

		if (at < ends[middle])
			high = middle;
		else
			low = middle + 1;
	}
	return low;
}

static void expect(bool it_is, const char *what, u64 at)
{
	if (it_is)
		return;
	fprintf(stderr, "recent: %s, at byte %#lx\n", what, (unsigned long)at);
	exit(1);
}

/* As glue.c does it. */
static bool ask(u64 at)
{
	u64 next = READ_ONCE(recent.begin) + READ_ONCE(recent.bytes), phys = 0;
	u64 len = ib_umem_recall(&recent, at, &phys);
	struct ib_umem_recent found = {};
	int run = run_of(at), count = 0;

	if (len) {
		expect(len == ends[run] - at, "another length", at);
		expect(phys == at + moved[run], "another address", at);
		return true;
	}
	found.begin = run ? ends[run - 1] : 0;
	for (; run < RUNS && count < (at == next ? IB_UMEM_RECENT : 1); run++, count++) {
		found.runs[count].end = ends[run];
		found.runs[count].moved = moved[run];
		found.bytes = ends[run] - found.begin;
	}
	ib_umem_remember(&recent, &found, count);
	return false;
}

static u64 random_of(u64 *seed)
{
	*seed = *seed * 6364136223846793005ull + 1442695040888963407ull;
	return *seed >> 11;
}

/* One in order, and one in few places, which are often recent; the others anywhere. */
static void *asks(void *number)
{
	u64 seed = (uintptr_t)number, at = 0, all = ends[RUNS - 1], recalled = 0;

	for (int i = 0; i < LOOKUPS; i++) {
		switch ((uintptr_t)number) {
		case 0: at = at + 4096 < all ? at + 4096 : 0; break;
		case 1: at = random_of(&seed) % (all / 128); break;
		default: at = random_of(&seed) % all;
		}
		recalled += ask(at);
	}
	return (void *)recalled;
}

int main(void)
{
	u64 seed = 1, phys, recalled = 0;
	pthread_t threads[THREADS];
	void *of_one;

	for (int i = 0; i < RUNS; i++) {
		ends[i] = (i ? ends[i - 1] : 0) + ((random_of(&seed) % 4 + 1) << 12);
		moved[i] = random_of(&seed) << 12;
	}
	expect(!ib_umem_recall(&recent, 0, &phys), "something is recent", 0);
	/* By one alone: in order, the first of each eight runs is looked up. */
	for (u64 at = 0; at < ends[RUNS - 1]; at += 4096)
		recalled += ask(at);
	expect(recalled == ends[RUNS - 1] / 4096 - (RUNS + 7) / 8, "too many are looked up", 0);
	expect(!ib_umem_recall(&recent, ends[RUNS - 1], &phys), "something is behind the end", ends[RUNS - 1]);
	for (uintptr_t i = 0; i < THREADS; i++)
		expect(!pthread_create(&threads[i], NULL, asks, (void *)i), "no thread", i);
	recalled = 0;
	for (int i = 0; i < THREADS; i++) {
		pthread_join(threads[i], &of_one);
		recalled += (uintptr_t)of_one;
	}
	expect(recalled > 0, "nothing was recalled", 0);
	printf("test: rdma: recent runs: %d threads, %lu of %d lookups recalled, all of them true\n", THREADS,
	       (unsigned long)recalled, THREADS * LOOKUPS);
	return 0;
}
