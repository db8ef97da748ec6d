/* SPDX-License-Identifier: GPL-2.0 */
/*
 * How often a large folio is mapped, and by whom.
 *
 * Besides the number of all its mappings, a large folio has two slots, each with
 * the number (mm_id_t) of an mm and how many of the mappings are that mm's. If
 * the count of a slot equals the count of all, then that mm alone maps the
 * folio. More mms than two go untracked, so a count can be too low, for an mm
 * that came when both slots were taken and stayed until one was free, but never
 * too high. An mm with more mappings than its slot can count, which only files
 * can have, goes untracked too. So "one mm alone" is never said in error; "maybe
 * shared" can be. MM_ID_UNTRACKED never gets a slot.
 *
 * folio->_mm_ids holds, from the top: the shared bit; the number in slot 1; the
 * lock; the number in slot 0. It is 0 while the folio is not mapped, which is
 * what ->private of a tail page has to be when the folio is split or freed. All
 * counts are stored minus one, so that "none" is the same as in ->_mapcount.
 *
 * The shared bit is clear if one of the slots accounts for all mappings; it may be
 * if an mm that was alone all the time lost its slot to the number of mappings.
 * It is set in most other cases, always if two mms or MM_ID_UNTRACKED have any.
 *
 * What decides is here, and compiles in userland too: see
 * tools/testing/folio_mapcount.
 */
#ifndef _LINUX_FOLIO_MAPCOUNT_H
#define _LINUX_FOLIO_MAPCOUNT_H

#include <linux/bit_spinlock.h>
#include <linux/limits.h>
#include <linux/mm_types.h>
#include <linux/mmdebug.h>
#include <linux/page_ref.h>

#ifdef CONFIG_MM_ID

#define FOLIO_MM_IDS_LOCK_BITNUM	MM_ID_BITS
#define FOLIO_MM_IDS_SHARED_BITNUM	63

#ifndef MM_ID_MAPCOUNT_MAX
#define MM_ID_MAPCOUNT_MAX		SHRT_MAX
#endif

#define FOLIO_MM_IDS_SLOT_SHIFT		32
#define FOLIO_MM_IDS_SLOT0		((unsigned long)MM_ID_MAX)
#define FOLIO_MM_IDS_SLOT1		(FOLIO_MM_IDS_SLOT0 << FOLIO_MM_IDS_SLOT_SHIFT)
#define FOLIO_MM_IDS_LOCK		(1UL << FOLIO_MM_IDS_LOCK_BITNUM)
#define FOLIO_MM_IDS_SHARED		(1UL << FOLIO_MM_IDS_SHARED_BITNUM)

/* Returns _mm_ids without the lock bit. */
static __always_inline unsigned long folio_lock_large_mapcount(struct folio *folio)
{
	bit_spin_lock(FOLIO_MM_IDS_LOCK_BITNUM, &folio->_mm_ids);
	return READ_ONCE(folio->_mm_ids) & ~FOLIO_MM_IDS_LOCK;
}

/*
 * While it is locked nobody else can change the word, only try to set a bit that
 * is set. So the new value and the release can be one store.
 */
static __always_inline void folio_unlock_large_mapcount(struct folio *folio,
							unsigned long ids)
{
	smp_store_release(&folio->_mm_ids, ids);
	preempt_enable();
	__release(bitlock);
}

static __always_inline mm_id_t folio_mm_id(unsigned long ids, int slot)
{
	return (ids >> (slot * FOLIO_MM_IDS_SLOT_SHIFT)) & MM_ID_MAX;
}

static __always_inline void folio_init_mm_ids(struct folio *folio)
{
	folio->_mm_id_mapcount[0] = -1;
	folio->_mm_id_mapcount[1] = -1;
	folio->_mm_ids = 0;
}

/* The first mappings of a folio that nobody else can see yet. */
static __always_inline void folio_set_mappings(struct folio *folio, int nr,
					       mm_id_t id)
{
	VM_WARN_ON_ONCE(folio->_mm_ids || id < MM_ID_MIN || id > MM_ID_MAX);
	VM_WARN_ON_ONCE(nr > MM_ID_MAPCOUNT_MAX);
	atomic_set(&folio->_large_mapcount, nr - 1);
	folio->_mm_id_mapcount[0] = nr - 1;
	folio->_mm_ids = id;
}

/**
 * folio_add_mappings - count more mappings of a large folio
 * @folio: The folio, not of hugetlb.
 * @nr: How many.
 * @id: The number of the mm whose they are.
 *
 * Context: Any but interrupts; takes the bit lock of @folio.
 * Return: How often @folio is mapped now.
 */
static __always_inline int folio_add_mappings(struct folio *folio, int nr,
					      mm_id_t id)
{
	unsigned long ids = folio_lock_large_mapcount(folio);
	int total = atomic_read(&folio->_large_mapcount) + nr;

	VM_WARN_ON_ONCE(id < MM_ID_MIN || nr <= 0 || nr > MM_ID_MAPCOUNT_MAX);

	if (folio_mm_id(ids, 0) == id) {
		int count = folio->_mm_id_mapcount[0] + nr;

		if (unlikely(count > MM_ID_MAPCOUNT_MAX)) {
			count = -1;
			ids &= ~FOLIO_MM_IDS_SLOT0;
		}
		folio->_mm_id_mapcount[0] = count;
	} else if (folio_mm_id(ids, 1) == id) {
		int count = folio->_mm_id_mapcount[1] + nr;

		if (unlikely(count > MM_ID_MAPCOUNT_MAX)) {
			count = -1;
			ids &= ~FOLIO_MM_IDS_SLOT1;
		}
		folio->_mm_id_mapcount[1] = count;
	} else if (!(ids & FOLIO_MM_IDS_SLOT0) && id <= MM_ID_MAX) {
		folio->_mm_id_mapcount[0] = nr - 1;
		ids |= id;
		/* There are others, be it in slot 1 or untracked. */
		if (total >= nr)
			ids |= FOLIO_MM_IDS_SHARED;
	} else {
		if (!(ids & FOLIO_MM_IDS_SLOT1) && id <= MM_ID_MAX) {
			folio->_mm_id_mapcount[1] = nr - 1;
			ids |= (unsigned long)id << FOLIO_MM_IDS_SLOT_SHIFT;
		}
		ids |= FOLIO_MM_IDS_SHARED;
	}
	atomic_set(&folio->_large_mapcount, total);
	folio_unlock_large_mapcount(folio, ids);
	return total + 1;
}

/**
 * folio_sub_mappings - count fewer mappings of a large folio
 * @folio: The folio, not of hugetlb.
 * @nr: How many.
 * @id: The number of the mm whose they were.
 *
 * Context: Any but interrupts; takes the bit lock of @folio.
 * Return: How often @folio is mapped now.
 */
static __always_inline int folio_sub_mappings(struct folio *folio, int nr,
					      mm_id_t id)
{
	unsigned long ids = folio_lock_large_mapcount(folio);
	int total = atomic_read(&folio->_large_mapcount) - nr;

	VM_WARN_ON_ONCE(total < -1 || nr <= 0);
	atomic_set(&folio->_large_mapcount, total);

	if (total == -1) {
		/* The last ones, mostly all at once: none was anyone else's. */
		VM_WARN_ON_ONCE(folio_mm_id(ids, 0) && folio_mm_id(ids, 0) != id);
		VM_WARN_ON_ONCE(folio_mm_id(ids, 1) && folio_mm_id(ids, 1) != id);
		VM_WARN_ON_ONCE(folio->_mm_id_mapcount[0] >= nr ||
				folio->_mm_id_mapcount[1] >= nr);
		folio->_mm_id_mapcount[0] = -1;
		folio->_mm_id_mapcount[1] = -1;
		ids = 0;
		goto unlock;
	}

	if (folio_mm_id(ids, 0) == id) {
		folio->_mm_id_mapcount[0] -= nr;
		if (folio->_mm_id_mapcount[0] >= 0)
			goto unlock;
		folio->_mm_id_mapcount[0] = -1;
		ids &= ~FOLIO_MM_IDS_SLOT0;
	} else if (folio_mm_id(ids, 1) == id) {
		folio->_mm_id_mapcount[1] -= nr;
		if (folio->_mm_id_mapcount[1] >= 0)
			goto unlock;
		folio->_mm_id_mapcount[1] = -1;
		ids &= ~FOLIO_MM_IDS_SLOT1;
	}
	/* Who is left may be alone now. */
	if (folio->_mm_id_mapcount[0] == total ||
	    folio->_mm_id_mapcount[1] == total)
		ids &= ~FOLIO_MM_IDS_SHARED;
unlock:
	/* A slot with more than there are has been charged to the wrong mm. */
	VM_WARN_ON_ONCE(folio->_mm_id_mapcount[0] > total ||
			folio->_mm_id_mapcount[1] > total);
	folio_unlock_large_mapcount(folio, ids);
	return total + 1;
}

#ifdef CONFIG_COW_PTE
/**
 * folio_uncharge_mappings - let mappings of a large folio be nobody's
 * @folio: The folio, not of hugetlb.
 * @nr: How many.
 * @id: The number of the mm whose they were.
 *
 * Context: Any but interrupts; takes the bit lock of @folio.
 */
static inline void folio_uncharge_mappings(struct folio *folio, int nr, mm_id_t id)
{
	unsigned long ids = folio_lock_large_mapcount(folio);

	if (folio_mm_id(ids, 0) == id) {
		folio->_mm_id_mapcount[0] -= nr;
		if (folio->_mm_id_mapcount[0] < 0) {
			folio->_mm_id_mapcount[0] = -1;
			ids &= ~FOLIO_MM_IDS_SLOT0;
		}
	} else if (folio_mm_id(ids, 1) == id) {
		folio->_mm_id_mapcount[1] -= nr;
		if (folio->_mm_id_mapcount[1] < 0) {
			folio->_mm_id_mapcount[1] = -1;
			ids &= ~FOLIO_MM_IDS_SLOT1;
		}
	}
	folio_unlock_large_mapcount(folio, ids | FOLIO_MM_IDS_SHARED);
}

/**
 * folio_charge_mappings - let mappings of a large folio that were nobody's be an mm's
 * @folio: The folio, not of hugetlb.
 * @nr: How many.
 * @id: The number of the mm.
 *
 * Context: Any but interrupts; takes the bit lock of @folio.
 */
static inline void folio_charge_mappings(struct folio *folio, int nr, mm_id_t id)
{
	unsigned long ids = folio_lock_large_mapcount(folio);
	int total = atomic_read(&folio->_large_mapcount);

	if (folio_mm_id(ids, 0) == id &&
	    folio->_mm_id_mapcount[0] + nr <= MM_ID_MAPCOUNT_MAX) {
		folio->_mm_id_mapcount[0] += nr;
	} else if (folio_mm_id(ids, 1) == id &&
		   folio->_mm_id_mapcount[1] + nr <= MM_ID_MAPCOUNT_MAX) {
		folio->_mm_id_mapcount[1] += nr;
	} else if (folio_mm_id(ids, 0) != id && folio_mm_id(ids, 1) != id) {
		if (!(ids & FOLIO_MM_IDS_SLOT0)) {
			folio->_mm_id_mapcount[0] = nr - 1;
			ids |= id;
		} else if (!(ids & FOLIO_MM_IDS_SLOT1)) {
			folio->_mm_id_mapcount[1] = nr - 1;
			ids |= (unsigned long)id << FOLIO_MM_IDS_SLOT_SHIFT;
		}
	}
	if (folio->_mm_id_mapcount[0] == total ||
	    folio->_mm_id_mapcount[1] == total)
		ids &= ~FOLIO_MM_IDS_SHARED;
	folio_unlock_large_mapcount(folio, ids);
}
#endif /* CONFIG_COW_PTE */

/* May more than one mm map this large folio? Stale as soon as it is known. */
static __always_inline bool folio_mappings_maybe_shared(const struct folio *folio)
{
	return READ_ONCE(folio->_mm_ids) & FOLIO_MM_IDS_SHARED;
}

/**
 * folio_used_by_only - do all uses of a large folio come from one mm's mappings?
 * @folio: The folio, anonymous, not of hugetlb, not mapped by a PMD.
 * @id: The number of the mm.
 *
 * Each mapping comes with a reference, as is not so for files.  So with as many
 * references as mappings, while no mapping can come or go, nobody else holds one,
 * and whoever comes to hold one later has it from this mm.  A former mapper may have
 * a page in a TLB after its mapping is no longer counted, but not after the last
 * reference that came with it is gone: mmu_gather, and whoever batches flushes as
 * reclaim and migration do, keeps one until it has flushed.
 *
 * While a PMD is split there are more mappings than references for a moment, but of
 * the one mm that cannot get here meanwhile.
 *
 * Context: Caller holds a page table lock of the mm, under which @folio is
 *          mapped.  Takes the bit lock of @folio.
 * Return: true if so, false if not or if that is not known.
 */
static __always_inline bool folio_used_by_only(struct folio *folio, mm_id_t id)
{
	unsigned long ids = folio_lock_large_mapcount(folio);
	int total = atomic_read(&folio->_large_mapcount);
	int refs = folio_ref_count(folio);
	int mine = -1;

	if (folio_mm_id(ids, 0) == id)
		mine = folio->_mm_id_mapcount[0];
	else if (folio_mm_id(ids, 1) == id)
		mine = folio->_mm_id_mapcount[1];
	folio_unlock_large_mapcount(folio, ids);

	VM_WARN_ON_ONCE(mine == total && refs < total + 1);
	return mine == total && refs == total + 1;
}

#else /* !CONFIG_MM_ID */

static inline void folio_init_mm_ids(struct folio *folio)
{
}

#endif /* CONFIG_MM_ID */

#endif /* _LINUX_FOLIO_MAPCOUNT_H */
