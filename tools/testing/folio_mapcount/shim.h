/* SPDX-License-Identifier: GPL-2.0 */
/* As much of the kernel as include/linux/folio_mapcount.h needs. */
#ifndef SHIM_H
#define SHIM_H

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#define CONFIG_MM_ID	1
#undef __always_inline
#define __always_inline	inline __attribute__((always_inline))

#define READ_ONCE(x)	(*(const volatile typeof(x) *)&(x))
#define WRITE_ONCE(x, v) (*(volatile typeof(x) *)&(x) = (v))
#define smp_store_release(p, v)	__atomic_store_n(p, v, __ATOMIC_RELEASE)
#define preempt_enable()	do { } while (0)
#define __release(x)		do { } while (0)

#define VM_WARN_ON_ONCE(cond) do {					\
	if (cond) {							\
		fprintf(stderr, "warning: %s\n", #cond);		\
		abort();						\
	}								\
} while (0)

typedef struct { int counter; } atomic_t;
#define atomic_read(v)		READ_ONCE((v)->counter)
#define atomic_set(v, i)	WRITE_ONCE((v)->counter, i)

typedef unsigned int mm_id_t;
#define MM_ID_BITS	31
#define MM_ID_DUMMY	0
#define MM_ID_MIN	(MM_ID_DUMMY + 1)
#define MM_ID_MAX	((1U << MM_ID_BITS) - 1)
#define MM_ID_UNTRACKED		(1U << MM_ID_BITS)

/* Low at times, so that a slot cannot hold all that an mm maps. */
extern int mapcount_max;
#define MM_ID_MAPCOUNT_MAX	mapcount_max
#define unlikely(x)		(x)

struct folio {
	atomic_t _large_mapcount;
	short _mm_id_mapcount[2];
	unsigned long _mm_ids;
	int refs;
};

#define folio_ref_count(folio)	((folio)->refs)

/* There is one thread: a lock that is taken already is a bug. */
static inline void bit_spin_lock(int bit, unsigned long *word)
{
	VM_WARN_ON_ONCE(*word & 1UL << bit);
	*word |= 1UL << bit;
}

#endif /* SHIM_H */
