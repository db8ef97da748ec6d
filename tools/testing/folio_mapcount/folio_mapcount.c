// SPDX-License-Identifier: GPL-2.0
/*
 * Random mappings of a large folio by several mms, counted by the rules of the
 * kernel and, to compare with, remembered one by one.
 *
 * usage: folio_mapcount [STEPS [SEED]]
 */
#include "shim.h"
#include "../../../include/linux/folio_mapcount.h"

int mapcount_max;

#define MMS	8
#define HOST	(MMS - 1)	/* Has MM_ID_UNTRACKED, in every other round. */
#define PAGES	16

static struct folio folio;

/* The model: how often each mm maps each page. */
static int mapped[MMS][PAGES];
static mm_id_t id[MMS];
static int of_mm[MMS];
static int total;
/* More mms or mappings than there is room for, since it was last unmapped? */
static bool crowded;

static unsigned long step, seed;
static unsigned long seen_exclusive, seen_shared, seen_wrongly_shared;
static unsigned long seen_untracked, seen_low, seen_used_by_only, seen_overflow;
static unsigned long seen_host_only;

#define CHECK(cond) do {						\
	if (!(cond)) {							\
		fprintf(stderr, "seed %lu, step %lu: not: %s\n", seed,	\
			step, #cond);					\
		dump();							\
		exit(1);						\
	}								\
} while (0)

static void dump(void)
{
	int mm;

	fprintf(stderr, "folio: total %d, ids %#lx, counts %d %d, refs %d\n",
		atomic_read(&folio._large_mapcount) + 1, folio._mm_ids,
		folio._mm_id_mapcount[0] + 1, folio._mm_id_mapcount[1] + 1,
		folio.refs);
	for (mm = 0; mm < MMS; mm++)
		fprintf(stderr, "mm %u: %d\n", id[mm], of_mm[mm]);
}

static unsigned long rnd(unsigned long n)
{
	static unsigned long state;

	if (!n) {
		state = seed * 2654435761UL + 1;
		return 0;
	}
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state % n;
}

/* A host counts for two: whatever it maps is shared. */
static int mms(void)
{
	int mm, n = 0;

	for (mm = 0; mm < MMS; mm++)
		n += (of_mm[mm] > 0) * (id[mm] == MM_ID_UNTRACKED ? 2 : 1);
	return n;
}

static void check(void)
{
	int mm, slot, tracked = 0;
	bool shared = folio._mm_ids & FOLIO_MM_IDS_SHARED;

	CHECK(atomic_read(&folio._large_mapcount) + 1 == total);
	CHECK(!(folio._mm_ids & FOLIO_MM_IDS_LOCK));
	if (!total) {
		CHECK(!folio._mm_ids);
		crowded = false;
	}
	if (mms() > 2)
		crowded = true;
	for (mm = 0; mm < MMS; mm++) {
		if (id[mm] == MM_ID_UNTRACKED)
			continue;
		if (of_mm[mm] > mapcount_max + 1) {
			crowded = true;
			seen_overflow++;
		}
	}

	/* A slot is free, or an mm's that maps the folio at least as often. */
	for (slot = 0; slot < 2; slot++) {
		mm_id_t owner = folio_mm_id(folio._mm_ids, slot);
		int count = folio._mm_id_mapcount[slot] + 1;

		if (!owner) {
			CHECK(!count);
			continue;
		}
		for (mm = 0; mm < MMS && id[mm] != owner; mm++)
			;
		CHECK(mm < MMS && owner <= MM_ID_MAX);
		CHECK(count > 0);
		CHECK(count <= mapcount_max + 1);
		CHECK(count <= of_mm[mm]);
		/* Whoever is seen to be alone is not called shared. */
		CHECK(!shared || count < total);
		seen_low += count < of_mm[mm];
		tracked++;
	}
	CHECK(!folio_mm_id(folio._mm_ids, 0) ||
	      folio_mm_id(folio._mm_ids, 0) != folio_mm_id(folio._mm_ids, 1));
	seen_untracked += tracked < 2 && tracked < mms();

	/* Not shared is certain; shared is, with two at most. */
	if (!shared)
		CHECK(mms() <= 1);
	if (!crowded)
		CHECK(shared == (mms() > 1));
	if (total > 1) {
		seen_exclusive += !shared;
		seen_shared += shared && mms() > 1;
		seen_wrongly_shared += shared && mms() == 1;
		seen_host_only += of_mm[HOST] == total && mms() == 2;
	}

	/* Another reference, or none. */
	folio.refs = total + rnd(2);
	mm = rnd(MMS);
	if (total && folio_used_by_only(&folio, id[mm])) {
		CHECK(of_mm[mm] == total && folio.refs == total);
		CHECK(id[mm] != MM_ID_UNTRACKED);
		seen_used_by_only++;
	} else if (total && !crowded && id[mm] != MM_ID_UNTRACKED) {
		CHECK(of_mm[mm] != total || folio.refs != total);
	}
}

/* Each page at most @limit times by one mm: once, as anonymous ones. */
static int map(int mm, int limit)
{
	int first = rnd(PAGES), n = rnd(PAGES - first) + 1, nr, i;

	for (nr = 0; nr < n && mapped[mm][first + nr] < limit; nr++)
		;
	if (!nr)
		return 0;
	for (i = 0; i < nr; i++)
		mapped[mm][first + i]++;
	of_mm[mm] += nr;
	total += nr;
	if (total == nr && nr == PAGES && id[mm] != MM_ID_UNTRACKED && rnd(2))
		folio_set_mappings(&folio, nr, id[mm]);
	else
		CHECK(folio_add_mappings(&folio, nr, id[mm]) == total);
	return nr;
}

static int unmap(int mm)
{
	int first = rnd(PAGES), n = rnd(PAGES - first) + 1, nr, i;

	for (nr = 0; nr < n && mapped[mm][first + nr]; nr++)
		;
	if (!nr)
		return 0;
	for (i = 0; i < nr; i++)
		mapped[mm][first + i]--;
	of_mm[mm] -= nr;
	total -= nr;
	CHECK(folio_sub_mappings(&folio, nr, id[mm]) == total);
	return nr;
}

/* An mm ends, and the next one may get its number. */
static void exit_mm(int mm)
{
	static mm_id_t last = MMS;

	while (of_mm[mm])
		unmap(mm);
	if (id[mm] != MM_ID_UNTRACKED && rnd(4) == 0)
		id[mm] = last++ % MM_ID_MAX + 1;
}

/* A child maps what its parent does. */
static void fork_mm(int parent, int child)
{
	int page, nr;

	if (parent == child)
		return;
	exit_mm(child);
	for (page = 0; page < PAGES; page += nr) {
		for (nr = 0; page + nr < PAGES && mapped[parent][page + nr]; nr++)
			mapped[child][page + nr]++;
		if (nr) {
			of_mm[child] += nr;
			total += nr;
			CHECK(folio_add_mappings(&folio, nr, id[child]) == total);
		} else {
			nr = 1;
		}
	}
}

int main(int argc, char **argv)
{
	unsigned long steps = argc > 1 ? strtoul(argv[1], NULL, 0) : 1000000;
	unsigned long first = argc > 2 ? strtoul(argv[2], NULL, 0) : 1;
	int mm, limit, active, base;

	for (seed = first; seed < first + 8; seed++) {
		rnd(0);
		atomic_set(&folio._large_mapcount, -1);
		folio_init_mm_ids(&folio);
		for (mm = 0; mm < MMS; mm++)
			id[mm] = seed & 1 ? (mm_id_t)mm + 1 : MM_ID_MAX - mm;
		if ((seed ^ seed >> 1 ^ seed >> 2) & 1)
			id[HOST] = MM_ID_UNTRACKED;
		limit = seed & 2 ? 1 : 3;
		mapcount_max = seed & 4 ? 20 : 32767;
		active = MMS;
		base = 0;

		for (step = 0; step < steps / 8; step++) {
			/* Many at times, then few: any of them may be left. */
			if (rnd(32) == 0) {
				active = rnd(rnd(MMS) + 1) + 1;
				base = rnd(MMS);
				for (mm = active; mm < MMS; mm++)
					exit_mm((base + mm) % MMS);
			}
			mm = (base + rnd(active)) % MMS;
			switch (rnd(16)) {
			case 0:
				exit_mm(mm);
				break;
			case 1:
				fork_mm(mm, (base + rnd(active)) % MMS);
				break;
			case 2 ... 8:
				map(mm, limit);
				break;
			default:
				unmap(mm);
				break;
			}
			check();
		}
		for (mm = 0; mm < MMS; mm++)
			exit_mm(mm);
		check();
	}
	printf("%lu steps, of which %lu exclusive, %lu shared, %lu wrongly shared,\n",
	       steps, seen_exclusive, seen_shared, seen_wrongly_shared);
	printf("%lu with an mm untracked, %lu too many to count, %lu with a count too low, %lu used by one only,\n",
	       seen_untracked, seen_overflow, seen_low, seen_used_by_only);
	printf("%lu mapped by a host only\n", seen_host_only);
	/* What never came up was not tested. */
	if (steps >= 100000)
		CHECK(seen_exclusive && seen_shared && seen_wrongly_shared &&
		      seen_untracked && seen_overflow && seen_low &&
		      seen_used_by_only && seen_host_only);
	return 0;
}
