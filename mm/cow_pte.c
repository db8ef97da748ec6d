// SPDX-License-Identifier: GPL-2.0
/*
 * PTE tables that fork shares copy-on-write.
 *
 * The unit of sharing is the table. A table that several mms use holds one
 * reference and one mapcount for each of its entries, whatever the number of its
 * sharers. At fork its entries stay as they are, writable and PageAnonExclusive
 * ones too: what protects it is that the PMD entry of every sharer lacks the write
 * permission (pmd_cow_pte()). So "exclusive" means "exclusive, and in a table that
 * nobody shares"; whoever depends on that unshares the table first.
 *
 * Who can reach a shared table, and what ends that
 * ------------------------------------------------
 * A sharer, by its PMD entry at the same address in all of them: only fork makes
 * sharers, and who moves pages to other addresses unshares first. A sharer joins and
 * leaves under the lock of the table, and its PMD entry changes with it. All sharers
 * are members of one family, the mms that came from one by fork; so under the lock of
 * the table those members whose PMD entry points to it are the sharers, all of them,
 * and stay so.
 *
 * A sharer leaves
 *  - by unsharing (cow_pte_unshare()): it gets a copy, in which each entry has a
 *    reference and mapcount of its own. The entries of both tables become read-only
 *    and not exclusive, as fork would have made them. The PMD entry goes from one
 *    table to the other in one step; there is no time at which it is empty.
 *  - by dropping the table (cow_pte_zap()): it unmaps all that the table maps.
 *  - by exit.
 * In the first two cases its TLB is flushed, page walk caches and lazy CPUs included,
 * while the lock of the table is still held and it still counts as a sharer. So who
 * finds itself alone (pt_cow_sharers is 1) can rely on that nobody else has a
 * translation through the table left. Who exits has been flushed in
 * cow_pte_exit_mmap(), when nobody could run in it any more.
 *
 * Who is alone makes its PMD entry writable again, and has an ordinary table.
 *
 * Who holds pages
 * ---------------
 * While a table is shared nobody takes a reference to a page through it, but for
 * the kernel in passing (reclaim, migration): GUP-fast gives up when it sees the PMD
 * entry, and slow GUP unshares. A table with a page that may be pinned is not shared.
 * References from before the fork remain with who took them, the mm that had the table
 * then. If another is the last sharer, the entries become read-only and not exclusive
 * before it has the table for itself.
 *
 * Who changes entries in place
 * ----------------------------
 * rmap (try_to_unmap(), try_to_migrate() and back) and truncation, which may not fail
 * or allocate. They do it once, under the lock of the table, for all sharers: flush
 * all, count for all.
 *
 * Counters
 * --------
 * A shared table knows how many of its entries are counted as what (pt_cow_rss), so
 * that to join and to leave is O(1). The table itself, in mm_pgtables_bytes(), is
 * counted with its owner: the sharer that had it before the fork, and with
 * CONFIG_MM_ID the one to whose number the mappings of large folios are charged. When
 * the owner leaves, nobody is the owner; who has to act on such a table becomes it.
 * With CONFIG_MM_ID that looks at all entries, once for each.
 *
 * Life time
 * ---------
 * A table that once was shared is freed after an RCU grace period, since someone may
 * still be about to take its lock, having found it through the PMD entry of a former
 * sharer.
 *
 * Lock order: mmap_lock or VMA lock -> lock of the table -> family->lock ->
 * mmlist_lock. The PMD lock is not needed: who takes it changes entries that are empty
 * or huge.
 */
#include <linux/cow_pte.h>
#include <linux/hugetlb.h>
#include <linux/mm.h>
#include <linux/mmu_context.h>
#include <linux/mmu_notifier.h>
#include <linux/pgtable.h>
#include <linux/prctl.h>
#include <linux/rmap.h>
#include <linux/sched/coredump.h>
#include <linux/slab.h>
#include <linux/swap.h>
#include <linux/swapops.h>
#include <linux/userfaultfd_k.h>

#include <asm/pgalloc.h>
#include <asm/tlb.h>
#include <asm/tlbflush.h>

#include "internal.h"
#include "swap.h"

#define CREATE_TRACE_POINTS
#include <trace/events/cow_pte.h>

struct cow_pte_family {
	refcount_t refs;		/* one for each member */
	spinlock_t lock;		/* protects members */
	struct list_head members;	/* mm_struct.cow_pte_member */
};

/*
 * ptdesc->pt_cow_rss: how many entries count as what, a field for each member of
 * mm->rss_stat; and from the first share on, until the table is freed, that there
 * was one. Sums and differences of such words work on all fields at once, as no
 * field can exceed PTRS_PER_PTE or get below 0.
 */
#define PT_COW_RSS_BITS		12
#define PT_COW_RSS_MASK		((1UL << PT_COW_RSS_BITS) - 1)
#define PT_COW_EVER_SHARED	(1UL << 63)

static_assert(PTRS_PER_PTE <= PT_COW_RSS_MASK);
static_assert(NR_MM_COUNTERS * PT_COW_RSS_BITS < 63);

/*
 * With fewer entries a table is not worth sharing: to copy them now costs less than to
 * copy a table soon, as for the stack.
 */
#define COW_PTE_MIN		16

/*
 * With so many relatives, copy for more of them: whoever acts for all sharers of a
 * table looks at each, with locks held.
 */
#define COW_PTE_MAX_FAMILY	1024

/* What a VMA over a shared table must not be. */
#define COW_PTE_VM_REFUSED	(VM_SHARED | VM_MAYSHARE | VM_HUGETLB |		\
				 VM_PFNMAP | VM_MIXEDMAP | VM_IO | VM_DONTCOPY |	\
				 VM_WIPEONFORK | VM_LOCKED | VM_LOCKONFAULT |	\
				 VM_UFFD_MISSING | VM_UFFD_WP | VM_UFFD_MINOR |	\
				 VM_SHADOW_STACK)

static unsigned long rss_unit(int member)
{
	return 1UL << (member * PT_COW_RSS_BITS);
}

static int rss_get(unsigned long counts, int member)
{
	return (counts >> (member * PT_COW_RSS_BITS)) & PT_COW_RSS_MASK;
}

static struct ptdesc *pmd_table(pmd_t pmd)
{
	return page_ptdesc(pmd_cow_pte_page(pmd));
}

/* What most tables of large memory have: an anonymous page in each entry. */
#define FULL_TABLE	(PT_COW_EVER_SHARED | PTRS_PER_PTE * rss_unit(MM_ANONPAGES))

/* Add what a table maps to the counters of an mm, or take it away from them. */
static void add_counts(struct mm_struct *mm, unsigned long counts, int sign)
{
	int i, n;

	if (likely(counts == FULL_TABLE)) {
		add_mm_counter(mm, MM_ANONPAGES, sign * PTRS_PER_PTE);
		return;
	}
	for (i = 0; i < NR_MM_COUNTERS; i++) {
		n = rss_get(counts, i);
		if (n)
			add_mm_counter(mm, i, sign * n);
	}
}

/* Let swapoff look for swap entries in @mm. */
static void add_to_mmlist(struct mm_struct *mm)
{
	if (!list_empty(&mm->mmlist))
		return;
	spin_lock(&mmlist_lock);
	if (list_empty(&mm->mmlist))
		list_add(&mm->mmlist, &init_mm.mmlist);
	spin_unlock(&mmlist_lock);
}

/*
 * The mm's TLB forgets all of its translations and what its page walks have cached,
 * also on CPUs where it is only borrowed.
 */
static void flush_mm(struct mm_struct *mm)
{
	flush_tlb_mm_range(mm, 0UL, TLB_FLUSH_ALL, 0, true);
}

static bool cow_pte_refuse(struct mm_struct *mm, unsigned long addr,
			   enum cow_pte_refusal reason)
{
	trace_cow_pte_refuse(mm, addr, reason);
	count_vm_event(COW_PTE_REFUSED);
	return false;
}

/* ---- the family ------------------------------------------------------------ */

static void family_add(struct cow_pte_family *family, struct mm_struct *mm)
{
	spin_lock(&family->lock);
	list_add(&mm->cow_pte_member, &family->members);
	WRITE_ONCE(mm->cow_pte_family, family);
	spin_unlock(&family->lock);
}

/**
 * cow_pte_dup_mm - let a child be able to share the tables of its parent
 * @mm: The child.
 * @oldmm: The parent.
 *
 * Nothing is shared if the parent has not asked for it by prctl(2), if something
 * looks at its page tables in a way that other sharers would disturb, if it has too
 * many relatives, or if memory is short.
 *
 * Context: Caller holds the mmap_lock of both for writing. May sleep.
 */
void cow_pte_dup_mm(struct mm_struct *mm, struct mm_struct *oldmm)
{
	struct cow_pte_family *family = oldmm->cow_pte_family;

	if (likely(!test_bit(MMF_COW_PTE, &oldmm->flags)))
		return;

	/* A secondary MMU is told of what its own mm does only. */
	if (mm_has_notifiers(oldmm)) {
		cow_pte_refuse(oldmm, 0, COW_PTE_NOTIFIERS);
		return;
	}
	/* A breakpoint is to be hit in one mm only. */
	if (test_bit(MMF_HAS_UPROBES, &oldmm->flags)) {
		cow_pte_refuse(oldmm, 0, COW_PTE_UPROBES);
		return;
	}

	if (!family) {
		family = kmalloc(sizeof(*family), GFP_KERNEL | __GFP_NOWARN);
		if (!family) {
			cow_pte_refuse(oldmm, 0, COW_PTE_NO_MEMORY);
			return;
		}
		refcount_set(&family->refs, 1);
		spin_lock_init(&family->lock);
		INIT_LIST_HEAD(&family->members);
		family_add(family, oldmm);
	}
	/* May be exceeded by as many as fork at once. */
	if (refcount_read(&family->refs) >= COW_PTE_MAX_FAMILY) {
		cow_pte_refuse(oldmm, 0, COW_PTE_MANY);
		return;
	}
	refcount_inc(&family->refs);
	family_add(family, mm);
}

static void leave_lazily(void *mm)
{
	if (current->active_mm == mm)
		switch_mm_irqs_off(NULL, &init_mm, NULL);
}

/**
 * cow_pte_exit_mmap - prepare an mm to leave all shared tables
 * @mm: The mm, which has no users left.
 *
 * Once now, rather than with a flush for each table. Nobody can run in @mm any more,
 * and CPUs that still have it loaded lazily switch away from it here, by an IPI of its
 * own: a hypervisor may flush for a CPU and leave it where it is.
 *
 * Context: May sleep.
 */
void cow_pte_exit_mmap(struct mm_struct *mm)
{
	if (!mm_has_cow_pte(mm))
		return;
	flush_mm(mm);
	on_each_cpu_mask(mm_cpumask(mm), leave_lazily, mm, true);
}

/*
 * Who had @mm loaded lazily while it called firmware, which is done in an mm of its own, has
 * come back to it since. Called after each table that is left, which may be freed before
 * the mmu_gather is done.
 */
static void flush_whoever_came_back(struct mm_struct *mm)
{
	if (!IS_ENABLED(CONFIG_EFI))
		return;
	smp_mb(); /* Pairs with what is implied when switch_mm_irqs_off() writes CR3. */
	if (!cpumask_empty(mm_cpumask(mm)))
		flush_mm(mm);
}

/**
 * cow_pte_exit_mm - an mm without any tables is no member of its family any more
 * @mm: The mm, after exit_mmap().
 *
 * Context: May sleep.
 */
void cow_pte_exit_mm(struct mm_struct *mm)
{
	struct cow_pte_family *family = mm->cow_pte_family;

	if (!family)
		return;
	spin_lock(&family->lock);
	list_del(&mm->cow_pte_member);
	mm->cow_pte_family = NULL;
	spin_unlock(&family->lock);
	if (refcount_dec_and_test(&family->refs))
		kfree(family);
}

/**
 * __cow_pte_sync - wait for those who look at the page tables of a relative
 * @mm: The mm, of which a table has just been unhooked from that above it.
 *
 * They hold the lock of the family while they do. Afterwards nobody can find the table
 * any more, and it may be freed.
 *
 * Context: May not be called with the lock of a PTE table held.
 */
void __cow_pte_sync(struct mm_struct *mm)
{
	spin_lock(&mm->cow_pte_family->lock);
	spin_unlock(&mm->cow_pte_family->lock);
}

/*
 * The PMD entry that maps @addr, or an empty one. The lock of the family, which the
 * caller holds, keeps the tables above it from being freed, see cow_pte_sync(); the
 * CPU need not be one of those that a flush of @mm would wait for.
 */
static pmd_t family_pmd(struct mm_struct *mm, unsigned long addr)
{
	pgd_t *pgdp = pgd_offset(mm, addr), pgd = READ_ONCE(*pgdp);
	p4d_t *p4dp, p4d;
	pud_t *pudp, pud;

	if (!pgd_present(pgd))
		return __pmd(0);
	p4dp = p4d_offset_lockless(pgdp, pgd, addr);
	p4d = READ_ONCE(*p4dp);
	if (!p4d_present(p4d))
		return __pmd(0);
	pudp = pud_offset_lockless(p4dp, p4d, addr);
	pud = READ_ONCE(*pudp);
	if (!pud_present(pud) || pud_leaf(pud))
		return __pmd(0);
	return pmdp_get_lockless(pmd_offset_lockless(pudp, pud, addr));
}

static bool family_member_shares(struct mm_struct *mm, unsigned long addr,
				 struct ptdesc *table)
{
	pmd_t pmd = family_pmd(mm, addr);

	return pmd_cow_pte(pmd) && pmd_table(pmd) == table;
}

/**
 * cow_pte_iterate_sharers - do something for every mm that uses a shared table
 * @mm: One of them.
 * @pmd: Its PMD entry, pmd_cow_pte().
 * @addr: An address that the table maps.
 * @fn: What to do; must not sleep.
 * @arg: For @fn.
 *
 * Context: Caller holds the lock of the table.
 */
void cow_pte_iterate_sharers(struct mm_struct *mm, pmd_t *pmd, unsigned long addr,
			     cow_pte_sharer_fn fn, void *arg)
{
	struct ptdesc *table = pmd_table(*pmd);
	struct cow_pte_family *family = mm->cow_pte_family;
	unsigned int left = table->pt_cow_sharers;
	struct mm_struct *m;

	if (left == 1) {
		fn(mm, arg);
		return;
	}

	spin_lock(&family->lock);
	list_for_each_entry(m, &family->members, cow_pte_member) {
		if (!family_member_shares(m, addr, table))
			continue;
		fn(m, arg);
		if (!--left)
			break;
	}
	spin_unlock(&family->lock);
	VM_WARN_ON_ONCE(left);
}

/*
 * Lock the table that @pmd points to, if it is one that others may use. While it is
 * locked the entry stays as it is: whoever makes it point elsewhere, or an ordinary
 * one, holds the lock.
 */
static struct ptdesc *lock_shared_table(pmd_t *pmdp)
{
	struct ptdesc *table = NULL;
	pmd_t pmd;

	/* Whoever frees a table that was shared waits for this. */
	rcu_read_lock();
	while (pmd_cow_pte(pmd = pmdp_get_lockless(pmdp))) {
		table = pmd_table(pmd);
		spin_lock(ptlock_ptr(table));
		if (likely(pmd_same(pmd, pmdp_get(pmdp))))
			break;
		spin_unlock(ptlock_ptr(table));
		table = NULL;
	}
	rcu_read_unlock();
	return table;
}

static void unlock_table(struct ptdesc *table)
{
	spin_unlock(ptlock_ptr(table));
}

/* ---- the check of who changes entries -------------------------------------- */

#ifdef CONFIG_DEBUG_VM
/**
 * cow_pte_check_change - warn of a change of a shared table made for one mm alone
 * @mm: The mm that the caller has in mind.
 * @pte: An entry that is about to be set or cleared.
 *
 * Whoever may do that has called cow_pte_allow_change(). But for fork none takes it
 * back, which would be one more thing to be done wherever the lock is dropped; so a
 * task that once was right to change a table may do wrong unnoticed. What only takes
 * the write permission away is not looked at: the other sharers bear it.
 *
 * Context: Any. Caller holds the lock of the table, if it is a shared one.
 */
void cow_pte_check_change(struct mm_struct *mm, const pte_t *pte)
{
	const struct ptdesc *table;

	if (likely(!mm_has_cow_pte(mm)))
		return;
	table = virt_to_ptdesc(pte);
	VM_WARN_ON_ONCE((table->pt_cow_rss & PT_COW_EVER_SHARED) &&
			table->pt_cow_sharers > 1 &&
			table->pt_cow_changer != (u16)current->pid);
}

/**
 * cow_pte_allow_change - what this task does to a table is for all its sharers
 * @pmd: A PMD entry that points to the table, which need not be a shared one.
 * @allow: Whether that begins or ends.
 *
 * Context: Caller holds the lock of the table.
 */
void cow_pte_allow_change(pmd_t pmd, bool allow)
{
	if (pmd_cow_pte(pmd))
		pmd_table(pmd)->pt_cow_changer = allow ? current->pid : 0;
}
#endif

/* ---- the owner ------------------------------------------------------------- */

/* Charge the mappings of large folios to an mm, or to nobody. */
static void charge_mappings(struct ptdesc *table, struct mm_struct *mm, bool charge)
{
#ifdef CONFIG_MM_ID
	pte_t *pte = ptdesc_address(table), *end = pte + PTRS_PER_PTE;
	int nr;

	for (; pte < end; pte += nr) {
		pte_t ptent = ptep_get(pte);
		struct folio *folio;

		nr = 1;
		if (!pte_present(ptent) || pte_special(ptent))
			continue;
		folio = page_folio(pte_page(ptent));
		if (!folio_test_large(folio))
			continue;
		nr = folio_pte_batch(folio, 0, pte, ptent, end - pte,
				     FPB_IGNORE_DIRTY | FPB_IGNORE_SOFT_DIRTY,
				     NULL, NULL, NULL);
		if (charge)
			folio_charge_mappings(folio, nr, mm->mm_id);
		else
			folio_uncharge_mappings(folio, nr, mm->mm_id);
	}
#endif
}

/* Nobody owns the table any more; others still use it. */
static void disown(struct ptdesc *table)
{
	charge_mappings(table, table->pt_cow_owner, false);
	table->pt_cow_owner = NULL;
	table->pt_cow_inherited = true;
}

/* Become the owner of a shared table, which is locked. */
static void claim(struct ptdesc *table, struct mm_struct *mm)
{
	struct mm_struct *owner = table->pt_cow_owner;

	if (likely(owner == mm))
		return;
	if (owner) {
		mm_dec_nr_ptes(owner);
		disown(table);
	}
	charge_mappings(table, mm, true);
	mm_inc_nr_ptes(mm);
	table->pt_cow_owner = mm;
}

/**
 * __cow_pte_change_in_place - prepare to change entries of a shared table for all
 * @mm: A sharer.
 * @pmd: Its PMD entry, pmd_cow_pte().
 * @folio: What the entries map, or NULL for anything.
 *
 * The rmap functions take the mappings of large folios from, and give them to, the mm
 * of the VMA that they are called with, so it has to be the owner.
 *
 * Context: Caller holds the lock of the table.
 */
void __cow_pte_change_in_place(struct mm_struct *mm, pmd_t *pmd,
			       const struct folio *folio)
{
	struct ptdesc *table = pmd_table(*pmd);

	cow_pte_allow_change(*pmd, true);
	if (!folio || folio_test_large(folio))
		claim(table, mm);
}

/* ---- to join --------------------------------------------------------------- */

static bool vma_shareable(struct vm_area_struct *vma)
{
	/* Without an anon_vma, fork leaves it to faults to fill the child's table. */
	return (vma->vm_flags & (COW_PTE_VM_REFUSED | VM_MAYWRITE)) == VM_MAYWRITE &&
	       vma->anon_vma && !vma_is_dax(vma);
}

/*
 * All VMAs over a table have to be shareable, and locked: dup_mmap() may not have
 * come to the later ones yet. Tells which entries they are for.
 */
static bool range_shareable(struct mm_struct *mm, unsigned long start,
			    unsigned int *first, unsigned int *last)
{
	unsigned long end = start + PMD_SIZE;
	VMA_ITERATOR(vmi, mm, start);
	struct vm_area_struct *vma;

	*first = PTRS_PER_PTE;
	*last = 0;
	for_each_vma_range(vmi, vma, end) {
		vma_start_write(vma);
		if (!vma_shareable(vma))
			return false;
		if (!*last)
			*first = (max(vma->vm_start, start) - start) >> PAGE_SHIFT;
		*last = (min(vma->vm_end, end) - start) >> PAGE_SHIFT;
	}
	return true;
}

/*
 * Are there pages in all entries of a table, none of them special? Cheap, since most
 * tables of large memory are so. Plain reads: what the CPU may change meanwhile are
 * other bits.
 */
static __no_kcsan bool all_pages(const pte_t *pte)
{
	pteval_t all = ~0UL, any = 0;
	int i;

	for (i = 0; i < PTRS_PER_PTE; i += 8) {
		all &= pte[i].pte;
		all &= pte[i + 1].pte;
		all &= pte[i + 2].pte;
		all &= pte[i + 3].pte;
		all &= pte[i + 4].pte;
		all &= pte[i + 5].pte;
		all &= pte[i + 6].pte;
		all &= pte[i + 7].pte;
	}
	if (!(all & _PAGE_PRESENT))
		return false;
	/* The zero page is not writable. */
	if (all & _PAGE_RW)
		return true;

	for (i = 0; i < PTRS_PER_PTE; i += 4) {
		any |= pte[i].pte;
		any |= pte[i + 1].pte;
		any |= pte[i + 2].pte;
		any |= pte[i + 3].pte;
	}
	return !(any & _PAGE_SPECIAL);
}

/*
 * Count what @nr entries are. @anon: they are a whole table, of one anonymous VMA.
 * With a reason, if one of them cannot be shared.
 */
static enum cow_pte_refusal count_entries(struct mm_struct *mm, pte_t *pte,
					  unsigned int nr, bool anon,
					  unsigned long *counts)
{
	bool pins = test_bit(MMF_HAS_PINNED, &mm->flags);
	pte_t *end = pte + nr;
	unsigned int used = 0;
	unsigned long sum = 0;

	if (anon && !pins && all_pages(pte)) {
		*counts = PTRS_PER_PTE * rss_unit(MM_ANONPAGES);
		return 0;
	}

	for (; pte < end; pte++) {
		pte_t ptent = ptep_get(pte);
		struct folio *folio;
		struct page *page;
		swp_entry_t entry;

		if (pte_none(ptent))
			continue;
		used++;

		if (pte_present(ptent)) {
			if (pte_special(ptent)) {
				/* KSM's are dirty, and counted for each mm. */
				if (!is_zero_pfn(pte_pfn(ptent)) || pte_dirty(ptent))
					return COW_PTE_SPECIAL;
				continue;
			}
			if (anon && !pins) {
				sum += rss_unit(MM_ANONPAGES);
				continue;
			}
			if (pte_devmap(ptent))
				return COW_PTE_SPECIAL;
			page = pte_page(ptent);
			folio = page_folio(page);
			if (pins && folio_test_anon(folio) &&
			    PageAnonExclusive(page) && folio_maybe_dma_pinned(folio))
				return COW_PTE_PINNED;
			sum += rss_unit(mm_counter(folio));
			continue;
		}

		entry = pte_to_swp_entry(ptent);
		if (!non_swap_entry(entry))
			sum += rss_unit(MM_SWAPENTS);
		else if (is_migration_entry(entry))
			sum += rss_unit(mm_counter(pfn_swap_entry_folio(entry)));
		else if (!is_hwpoison_entry(entry) && !is_poisoned_swp_entry(entry))
			return COW_PTE_SPECIAL;
	}
	*counts = sum;
	return used < COW_PTE_MIN ? COW_PTE_FEW : 0;
}

/* A child has what a table counts as. Returns 1. */
static noinline unsigned int join_counts(struct mm_struct *mm, unsigned long counts)
{
	add_counts(mm, counts, 1);
	/* Where swapoff will look for it; later it is added when need be. */
	if (rss_get(counts, MM_SWAPENTS))
		add_to_mmlist(mm);
	return 1;
}

/*
 * Tables that are shared already, and wholly in the VMA: nothing about them is to be
 * checked, and fork is to take next to no time for them. Returns how many.
 */
static noinline unsigned int share_again(struct mm_struct *dst_mm, pmd_t *dst_pmd,
					 pmd_t *src_pmd, unsigned long addr,
					 unsigned long end)
{
	pmd_t *src = src_pmd, *last = src_pmd + ((end - addr) >> PMD_SHIFT);
	unsigned int others = 0;

	if (addr & ~PMD_MASK)
		return 0;

	/* See lock_shared_table() */
	rcu_read_lock();
	for (; src != last; src++, dst_pmd++) {
		pmd_t pmd = pmdp_get_lockless(src);
		struct ptdesc *table;
		spinlock_t *ptl;

		if (!pmd_cow_pte(pmd))
			break;
		table = pmd_table(pmd);
		ptl = ptlock_ptr(table);
		spin_lock(ptl);
		if (unlikely(!pmd_same(pmd, pmdp_get(src)))) {
			spin_unlock(ptl);
			break;
		}
		table->pt_cow_sharers++;
		/* From now on the child may be found as a sharer. */
		set_pmd(dst_pmd, pmd);
		if (unlikely(table->pt_cow_rss != FULL_TABLE))
			others += join_counts(dst_mm, table->pt_cow_rss);
		spin_unlock(ptl);
	}
	rcu_read_unlock();
	if (src - src_pmd != others)
		add_mm_counter(dst_mm, MM_ANONPAGES,
			       (src - src_pmd - others) * PTRS_PER_PTE);
	return src - src_pmd;
}

static bool share_one(struct mm_struct *dst_mm, struct vm_area_struct *src_vma,
		      pmd_t *dst_pmd, pmd_t *src_pmd, unsigned long addr)
{
	struct mm_struct *mm = src_vma->vm_mm;
	unsigned int first = 0, last = PTRS_PER_PTE;
	unsigned long start = addr & PMD_MASK;
	enum cow_pte_refusal reason;
	unsigned long counts;
	struct ptdesc *table;
	spinlock_t *ptl;
	bool whole;
	pte_t *pte;

	whole = start >= src_vma->vm_start && start + PMD_SIZE <= src_vma->vm_end;
	if (whole ? !vma_shareable(src_vma) :
		    !range_shareable(mm, start, &first, &last))
		return cow_pte_refuse(mm, addr, COW_PTE_VMA);

	table = lock_shared_table(src_pmd);
	if (!table) {
		/* khugepaged may have removed it since, as rmap leads it here. */
		pte = pte_offset_map_lock(mm, src_pmd, start, &ptl);
		if (unlikely(!pte))
			return false;
		reason = count_entries(mm, pte + first, last - first,
				       whole && vma_is_anonymous(src_vma), &counts);
		if (unlikely(reason)) {
			pte_unmap_unlock(pte, ptl);
			return cow_pte_refuse(mm, addr, reason);
		}
		pte_unmap(pte);
		table = pmd_table(pmdp_get(src_pmd));
		table->pt_cow_rss = counts | PT_COW_EVER_SHARED;
		table->pt_cow_sharers = 1;
		table->pt_cow_owner = mm;
		table->pt_cow_inherited = false;
#ifdef CONFIG_DEBUG_VM
		table->pt_cow_changer = 0;
#endif
		pmdp_mkcow_pte(src_pmd);
	}
	table->pt_cow_sharers++;
	set_pmd(dst_pmd, pmdp_get(src_pmd));
	join_counts(dst_mm, table->pt_cow_rss);
	unlock_table(table);
	return true;
}

/**
 * cow_pte_share - at fork, let the child use tables of its parent
 * @dst_mm: The child.
 * @src_vma: A VMA of the parent, whose pages are to be copied.
 * @dst_pmd: The child's PMD entry for @addr.
 * @src_pmd: The parent's, which points to a table.
 * @addr: An address in the VMA.
 * @end: The end of what is to be copied, at most that of the table above.
 *
 * Context: In copy_page_range(); the mmap_lock of both is held for writing, and the
 *          parent's TLB is flushed before that is released.
 * Return: For how many PMD entries, from these on, the child has all that the tables
 *         map. If 0, nothing has been changed, and it is to be copied as ever.
 */
unsigned int cow_pte_share(struct mm_struct *dst_mm, struct vm_area_struct *src_vma,
			   pmd_t *dst_pmd, pmd_t *src_pmd, unsigned long addr,
			   unsigned long end)
{
	unsigned int nr = 0;

	/* Shared when an earlier VMA was copied? */
	if (!pmd_none(*dst_pmd))
		return pmd_cow_pte(*dst_pmd) &&
		       pmd_table(*dst_pmd) == pmd_table(pmdp_get(src_pmd));

	if (vma_shareable(src_vma))
		nr = share_again(dst_mm, dst_pmd, src_pmd, addr, end);
	if (!nr)
		nr = share_one(dst_mm, src_vma, dst_pmd, src_pmd, addr);
	count_vm_events(COW_PTE_SHARED, nr);
	return nr;
}

/* ---- to leave -------------------------------------------------------------- */

/* An entry for a page that is elsewhere is not for one mm alone; as it is then. */
static pte_t demote_nonpresent(struct mm_struct *mm, pte_t *ptep, pte_t pte)
{
	swp_entry_t entry = pte_to_swp_entry(pte);
	pte_t new = pte;

	if (!non_swap_entry(entry)) {
		new = pte_swp_clear_exclusive(pte);
	} else if (is_migration_entry(entry) && !is_readable_migration_entry(entry)) {
		entry = make_readable_migration_entry(swp_offset(entry));
		new = swp_entry_to_pte(entry);
		if (pte_swp_soft_dirty(pte))
			new = pte_swp_mksoft_dirty(new);
	} else if (is_device_private_entry(entry)) {
		ClearPageAnonExclusive(pfn_swap_entry_to_page(entry));
		if (is_writable_device_private_entry(entry)) {
			entry = make_readable_device_private_entry(swp_offset(entry));
			new = swp_entry_to_pte(entry);
			if (pte_swp_soft_dirty(pte))
				new = pte_swp_mksoft_dirty(new);
		}
	}
	if (!pte_same(new, pte))
		set_pte_at(mm, 0, ptep, new);
	return new;
}

/*
 * Copy all entries of a shared table for @mm, as fork would.
 * Returns a swap entry that needs memory to be counted, or an empty one.
 */
static swp_entry_t copy_entries(struct mm_struct *mm, pte_t *src, pte_t *dst)
{
	/* All that the rmap functions want of it is the mm. */
	struct vm_area_struct vma = TLB_FLUSH_VMA(mm, 0);
	pte_t *end = src + PTRS_PER_PTE;
	int nr, i;

	for (; src < end; src += nr, dst += nr) {
		pte_t pte = ptep_get(src);
		struct folio *folio;
		struct page *page;
		swp_entry_t entry;

		nr = 1;
		if (pte_none(pte))
			continue;

		if (pte_present(pte)) {
			if (pte_special(pte)) {
				set_pte_at(mm, 0, dst, pte);
				continue;
			}
			page = pte_page(pte);
			folio = page_folio(page);
			if (folio_test_large(folio))
				nr = folio_pte_batch(folio, 0, src, pte, end - src,
						     FPB_IGNORE_DIRTY | FPB_IGNORE_SOFT_DIRTY,
						     NULL, NULL, NULL);
			folio_ref_add(folio, nr);
			/*
			 * Not folio_try_dup_anon_rmap_ptes(), which would refuse a
			 * page that looks pinned. None is, see above. What is left
			 * of it is the same as for files.
			 */
			folio_dup_file_rmap_ptes(folio, page, nr, &vma);
			for (i = 0; i < nr; i++) {
				if (folio_test_anon(folio) && PageAnonExclusive(page + i))
					ClearPageAnonExclusive(page + i);
				pte = ptep_get(src + i);
				if (pte_write(pte)) {
					ptep_set_wrprotect(mm, 0, src + i);
					pte = pte_wrprotect(pte);
				}
				set_pte_at(mm, 0, dst + i, pte);
			}
			continue;
		}

		entry = pte_to_swp_entry(pte);
		if (!non_swap_entry(entry) && swap_duplicate(entry) < 0)
			return entry;
		/* Not when it was shared, but migration may have put it here. */
		if (is_device_private_entry(entry)) {
			page = pfn_swap_entry_to_page(entry);
			folio_get(page_folio(page));
			folio_dup_file_rmap_pte(page_folio(page), page, &vma);
		}
		set_pte_at(mm, 0, dst, demote_nonpresent(mm, src, pte));
	}
	return (swp_entry_t){ 0 };
}

/* Take back what copy_entries() did to a table that has not been used yet. */
static void uncopy_entries(struct mm_struct *mm, pte_t *dst)
{
	struct vm_area_struct vma = TLB_FLUSH_VMA(mm, 0);
	pte_t *end = dst + PTRS_PER_PTE;

	for (; dst < end; dst++) {
		pte_t pte = ptep_get(dst);
		struct folio *folio;
		swp_entry_t entry;

		if (pte_none(pte))
			continue;
		ptep_get_and_clear(mm, 0, dst);
		if (pte_present(pte)) {
			if (pte_special(pte))
				continue;
			folio = page_folio(pte_page(pte));
			folio_remove_rmap_pte(folio, pte_page(pte), &vma);
			folio_put(folio);
			continue;
		}
		entry = pte_to_swp_entry(pte);
		if (!non_swap_entry(entry)) {
			swap_free(entry);
		} else if (is_device_private_entry(entry)) {
			struct page *page = pfn_swap_entry_to_page(entry);

			folio_remove_rmap_pte(page_folio(page), page, &vma);
			folio_put(page_folio(page));
		}
	}
}

/* Nothing in the table is for one mm alone, as far as its entries say. */
static void demote_entries(struct mm_struct *mm, pte_t *pte)
{
	pte_t *end = pte + PTRS_PER_PTE;

	for (; pte < end; pte++) {
		pte_t ptent = ptep_get(pte);

		if (pte_none(ptent))
			continue;
		if (pte_present(ptent)) {
			if (pte_special(ptent))
				continue;
			if (pte_write(ptent))
				ptep_set_wrprotect(mm, 0, pte);
			if (folio_test_anon(page_folio(pte_page(ptent))) &&
			    PageAnonExclusive(pte_page(ptent)))
				ClearPageAnonExclusive(pte_page(ptent));
		} else {
			demote_nonpresent(mm, pte, ptent);
		}
	}
}

/*
 * The only sharer left: an ordinary table again. It is the only one to map the pages,
 * but whoever had them before the fork may have given away references to them, as
 * vmsplice() does, which must not see what is written now. To have its own references
 * see what it writes itself is nothing new. Nor does it matter for who is about to
 * unmap it all, without @keep.
 */
static void make_private(struct mm_struct *mm, pmd_t *pmd, bool keep)
{
	struct ptdesc *table = pmd_table(pmdp_get(pmd));

	claim(table, mm);
	if (keep && table->pt_cow_inherited)
		demote_entries(mm, ptdesc_address(table));
	/* From here on nobody else can find it: for cow_pte_settled(). */
	table->pt_cow_rcu = get_state_synchronize_rcu();
	set_pmd(pmd, pmd_clear_cow_pte(*pmd));
}

/**
 * cow_pte_unshare - have a PTE table of one's own
 * @mm: The mm.
 * @pmd: Its PMD entry, for addresses in a VMA.
 *
 * Afterwards, until the next fork, the entries of the table that @pmd points to are
 * those of @mm alone. They may have become read-only and not exclusive.
 *
 * Context: Caller holds the mmap_lock of @mm, or the lock of one of the VMAs that
 *          the table is for. May sleep.
 * Return: 0, or -ENOMEM, in which case nothing has changed for @mm.
 */
int cow_pte_unshare(struct mm_struct *mm, pmd_t *pmd)
{
	struct ptdesc *table;
	pgtable_t new = NULL;
	int error = 0;

	if (likely(!pmd_cow_pte(pmdp_get_lockless(pmd))))
		return 0;

	while (!error && (table = lock_shared_table(pmd))) {
		swp_entry_t entry = { 0 };
		bool done = true;

		if (table->pt_cow_sharers == 1) {
			make_private(mm, pmd, true);
			count_vm_event(COW_PTE_REUSED);
		} else if (!new) {
			done = false;
		} else {
			cow_pte_allow_change(*pmd, true);
			entry = copy_entries(mm, ptdesc_address(table),
					     page_address(new));
			done = !entry.val;
			if (done) {
				/*
				 * Before anybody can use the copy: if the mappings
				 * of both tables were charged to @mm, large folios
				 * would look like being its alone.
				 */
				if (table->pt_cow_owner == mm)
					disown(table);
				else
					mm_inc_nr_ptes(mm);
				/* See pmd_install() */
				smp_wmb();
				pmd_populate(mm, pmd, new);
				new = NULL;
				flush_mm(mm);
				table->pt_cow_sharers--;
				count_vm_event(COW_PTE_UNSHARED);
			}
		}
		unlock_table(table);

		if (done)
			break;
		if (entry.val) {
			uncopy_entries(mm, page_address(new));
			error = add_swap_count_continuation(entry, GFP_KERNEL);
		} else {
			new = pte_alloc_one(mm);
			if (!new)
				error = -ENOMEM;
		}
	}
	if (new)
		pte_free(mm, new);
	trace_cow_pte_unshare(mm, error);
	return error;
}

/**
 * cow_pte_fault - prepare for a page fault, which may change an entry
 * @vmf: The fault, for which there is no huge page.
 *
 * A table that is not shared here stays so until the next fork, which the lock that
 * the caller holds keeps off. A read of what is present changes nothing: it is left to
 * the CPU to set the accessed bit.
 *
 * Context: Caller holds the mmap_lock, or the lock of the VMA. May sleep.
 * Return: VM_FAULT_FALLBACK if the entry has to be dealt with as ever, 0 if there is
 * nothing more to do, VM_FAULT_OOM if memory is short.
 */
vm_fault_t cow_pte_fault(struct vm_fault *vmf)
{
	bool reads = !(vmf->flags & (FAULT_FLAG_WRITE | FAULT_FLAG_UNSHARE));
	pte_t entry, *pte;

	if (likely(!pmd_cow_pte(pmdp_get_lockless(vmf->pmd))))
		return VM_FAULT_FALLBACK;

	pte = reads ? pte_offset_map(vmf->pmd, vmf->address) : NULL;
	if (pte) {
		entry = ptep_get_lockless(pte);
		pte_unmap(pte);
		if (pte_present(entry) && !pte_protnone(entry))
			return 0;
	}

	if (cow_pte_unshare(vmf->vma->vm_mm, vmf->pmd))
		return VM_FAULT_OOM;
	return VM_FAULT_FALLBACK;
}

/* The PMD entry of the next table at or after *@addr, below @end. */
static pmd_t *next_pmd(struct mm_struct *mm, unsigned long *addr, unsigned long end)
{
	unsigned long a = *addr & PMD_MASK;

	while (a < end) {
		pgd_t *pgd = pgd_offset(mm, a);
		p4d_t *p4d;
		pud_t *pud;

		if (!pgd_present(*pgd)) {
			a = pgd_addr_end(a, end);
			continue;
		}
		p4d = p4d_offset(pgd, a);
		if (!p4d_present(*p4d)) {
			/* It knows no end of its own where it is folded. */
			a = p4d_addr_end(a, pgd_addr_end(a, end));
			continue;
		}
		pud = pud_offset(p4d, a);
		if (!pud_present(*pud) || pud_leaf(*pud)) {
			a = pud_addr_end(a, end);
			continue;
		}
		*addr = a;
		return pmd_offset(pud, a);
	}
	return NULL;
}

/**
 * __cow_pte_unshare_range - have all tables over a range for oneself
 * @mm: The mm.
 * @start: The first address.
 * @end: The address after the last.
 *
 * Context: Caller holds the mmap_lock of @mm. May sleep.
 * Return: 0, or -ENOMEM.
 */
int __cow_pte_unshare_range(struct mm_struct *mm, unsigned long start,
			    unsigned long end)
{
	pmd_t *pmd;
	int error;

	mmap_assert_locked(mm);
	while ((pmd = next_pmd(mm, &start, end))) {
		error = cow_pte_unshare(mm, pmd);
		if (error)
			return error;
		start += PMD_SIZE;
		if (!start)
			break;
		cond_resched();
	}
	return 0;
}

/*
 * Does the table over @addr also map something of @mm outside of [start, end)? Not
 * all who unmap hold the mmap_lock, but those who do not have a VMA of a kind that
 * is in no shared table, so that there are others.
 */
static bool table_has_others(struct mm_struct *mm, unsigned long addr,
			     unsigned long start, unsigned long end)
{
	unsigned long first = addr & PMD_MASK, last = first + PMD_SIZE;

	return (first < start && mt_find(&mm->mm_mt, &first, start - 1)) ||
	       (end < last && mt_find(&mm->mm_mt, &end, last - 1));
}

/**
 * __cow_pte_unshare_edges - prepare to unmap a range
 * @mm: The mm.
 * @start: The first address.
 * @end: The address after the last.
 *
 * What a shared table maps can be unmapped as a whole only. So those of which only a
 * part is in the range, at most two, are unshared, while it is still possible to fail.
 *
 * Context: Caller holds the mmap_lock of @mm. May sleep.
 * Return: 0, or -ENOMEM.
 */
int __cow_pte_unshare_edges(struct mm_struct *mm, unsigned long start,
			    unsigned long end)
{
	int error = 0;

	if (table_has_others(mm, start, start, end))
		error = __cow_pte_unshare_range(mm, start, start + 1);
	if (!error && table_has_others(mm, end - 1, start, end))
		error = __cow_pte_unshare_range(mm, end - 1, end);
	return error;
}

/* Leave a table, which is locked, and which others go on to use. */
static void drop_table(struct mm_struct *mm, pmd_t *pmd, struct ptdesc *table,
		       bool flush)
{
	/* At exit only the sum is asked for, and many tables go at once. */
	if (!flush && table->pt_cow_rss == FULL_TABLE)
		percpu_counter_add_local(&mm->rss_stat[MM_ANONPAGES], -PTRS_PER_PTE);
	else
		add_counts(mm, table->pt_cow_rss, -1);
	pmd_clear(pmd);
	if (flush)
		flush_mm(mm);
	else
		flush_whoever_came_back(mm);
	if (table->pt_cow_owner == mm) {
		mm_dec_nr_ptes(mm);
		disown(table);
	}
	table->pt_cow_sharers--;
}

/**
 * cow_pte_zap - unmap a range of which the table is shared
 * @tlb: The mmu_gather of who unmaps.
 * @vma: The VMA.
 * @pmd: The PMD entry, pmd_cow_pte() a moment ago.
 * @addr: The first address.
 * @end: The address after the last, at most that of the end of the table.
 * @details: As for zap_pte_range().
 *
 * If all that the table maps goes, so does the table. If not, then either @vma has no
 * pages in it, or it is the OOM reaper, which leaves to the others what they use:
 * all else has called cow_pte_unshare_edges() before.
 *
 * Context: Caller holds the mmap_lock, but for truncation.
 * Return: true if that was all; false if the entries have to be unmapped, be it that
 *         they are not shared, or for all sharers.
 */
bool cow_pte_zap(struct mmu_gather *tlb, struct vm_area_struct *vma, pmd_t *pmd,
		 unsigned long addr, unsigned long end, struct zap_details *details)
{
	struct mm_struct *mm = tlb->mm;
	struct ptdesc *table;

	if (tlb->fullmm) {
		/* All goes. */
	} else if (!details) {
		/* MADV_DONTNEED or the OOM reaper, which takes what is the mm's alone. */
		if (table_has_others(mm, addr, addr, end))
			return cow_pte_busy(mm, pmd);
	} else if (details->zap_flags & ZAP_FLAG_UNMAP) {
		/*
		 * If there were others than those that are unmapped now, then
		 * munmap() would have unshared the table. But mmap() may undo a
		 * VMA that never had a page, beside others that stay.
		 */
		if (!vma->anon_vma)
			return true;
	} else {
		/* Truncation is for all sharers. */
		return false;
	}

	table = lock_shared_table(pmd);
	if (!table)
		return false;
	if (table->pt_cow_sharers == 1) {
		make_private(mm, pmd, !tlb->fullmm);
		unlock_table(table);
		return false;
	}
	drop_table(mm, pmd, table, !tlb->fullmm);
	unlock_table(table);
	return true;
}

/**
 * cow_pte_dup_failed - a child gives back what it shares
 * @mm: The child, which will never run.
 *
 * It may lack VMAs for a part of what a table maps, so it must not become the last one
 * to use it. Its parent, whose mmap_lock is still held, is another.
 *
 * Context: Caller holds the mmap_lock of parent and child for writing.
 */
void cow_pte_dup_failed(struct mm_struct *mm)
{
	struct ptdesc *table;
	unsigned long addr = 0;
	pmd_t *pmd;

	if (!mm_has_cow_pte(mm))
		return;
	while ((pmd = next_pmd(mm, &addr, mm->task_size))) {
		addr += PMD_SIZE;
		cond_resched();
		table = lock_shared_table(pmd);
		if (!table)
			continue;
		drop_table(mm, pmd, table, false);
		unlock_table(table);
	}
}

static void free_table(struct rcu_head *head)
{
	struct ptdesc *table = container_of(head, struct ptdesc, pt_rcu_head);

	pte_free(NULL /* mm not passed and not used */, ptdesc_page(table));
}

/**
 * cow_pte_free - free a table that may once have been shared
 * @tlb: The mmu_gather of who frees it.
 * @table: The table, without entries, to which no PMD entry points any more.
 *
 * Return: Whether it has been taken care of. If not, it never was shared.
 */
bool cow_pte_free(struct mmu_gather *tlb, pgtable_t table)
{
	struct ptdesc *ptdesc = page_ptdesc(table);

	if (likely(!(ptdesc->pt_cow_rss & PT_COW_EVER_SHARED)))
		return false;
	if (tlb->fullmm)
		flush_whoever_came_back(tlb->mm);
	else
		flush_mm(tlb->mm);
	call_rcu(&ptdesc->pt_rcu_head, free_table);
	return true;
}

/**
 * cow_pte_unsettled - how long may someone still come upon a table through a relative?
 * @pmd: A PMD entry that points to it; it is not shared now.
 *
 * Context: Caller holds the mmap_lock.
 * Return: What to call cow_pte_settle() with.
 */
unsigned long cow_pte_unsettled(pmd_t pmd)
{
	struct ptdesc *table = pmd_table(pmd);

	return table->pt_cow_rss & PT_COW_EVER_SHARED ?
	       table->pt_cow_rcu : get_completed_synchronize_rcu();
}

/**
 * cow_pte_settle - wait until nobody comes upon a table through a relative any more
 * @cookie: From cow_pte_unsettled().
 *
 * Context: Sleeps for a grace period, if none has passed; so no locks should be held.
 */
void cow_pte_settle(unsigned long cookie)
{
	cond_synchronize_rcu(cookie);
}

/**
 * cow_pte_settled - is a table like one that never was shared?
 * @table: A table that is not shared.
 *
 * For who frees a table at once, or puts it aside for that.
 *
 * Context: Caller holds the mmap_lock for writing.
 * Return: Whether a grace period has passed since others used it.
 */
bool cow_pte_settled(pgtable_t table)
{
	struct ptdesc *ptdesc = page_ptdesc(table);

	if (!(ptdesc->pt_cow_rss & PT_COW_EVER_SHARED))
		return true;
	if (!poll_state_synchronize_rcu(ptdesc->pt_cow_rcu))
		return false;
	ptdesc->pt_cow_rss = 0;
	return true;
}

/**
 * cow_pte_has_entries - is there something to be unmapped in a part of a table?
 * @pte: The first entry.
 * @addr: The address that it is for.
 * @end: The address after the last, in the same table or at its end.
 *
 * Context: Caller holds the lock of the table.
 * Return: Whether there is.
 */
bool cow_pte_has_entries(pte_t *pte, unsigned long addr, unsigned long end)
{
	for (; addr != end; addr += PAGE_SIZE, pte++) {
		if (!pte_none(ptep_get(pte)))
			return true;
	}
	return false;
}

/* ---- to act for all sharers ------------------------------------------------ */

static void add_rss_of_sharer(struct mm_struct *mm, void *arg)
{
	const int *rss = arg;
	int i;

	update_hiwater_rss(mm);
	for (i = 0; i < NR_MM_COUNTERS; i++) {
		if (rss[i])
			add_mm_counter(mm, i, rss[i]);
	}
	if (rss[MM_SWAPENTS] > 0)
		add_to_mmlist(mm);
}

/**
 * cow_pte_add_rss - count what has been changed in a shared table, for all sharers
 * @mm: One of them.
 * @pmd: Its PMD entry, pmd_cow_pte().
 * @addr: An address that the table maps.
 * @rss: By how much each counter changes.
 *
 * Context: Caller holds the lock of the table.
 */
void cow_pte_add_rss(struct mm_struct *mm, pmd_t *pmd, unsigned long addr,
		     const int *rss)
{
	struct ptdesc *table = pmd_table(*pmd);
	int i;

	for (i = 0; i < NR_MM_COUNTERS; i++)
		table->pt_cow_rss += rss[i] * rss_unit(i);
	cow_pte_iterate_sharers(mm, pmd, addr, add_rss_of_sharer, (void *)rss);
}

struct flush_range {
	unsigned long start, end;
};

static void flush_sharer(struct mm_struct *mm, void *arg)
{
	struct flush_range *range = arg;

	flush_tlb_mm_range(mm, range->start, range->end, PAGE_SHIFT, false);
}

/**
 * cow_pte_flush_sharers - flush a range of addresses from the TLBs of all sharers
 * @mm: One of them.
 * @pmd: Its PMD entry, pmd_cow_pte().
 * @start: The first address, in the table.
 * @end: The address after the last.
 *
 * Context: Caller holds the lock of the table.
 */
void cow_pte_flush_sharers(struct mm_struct *mm, pmd_t *pmd, unsigned long start,
			   unsigned long end)
{
	struct flush_range range = { start, end };

	cow_pte_iterate_sharers(mm, pmd, start, flush_sharer, &range);
}

/**
 * cow_pte_truncated - count and flush what truncation has taken from a shared table
 * @tlb: Who gathers it, for one of the sharers.
 * @pmd: Its PMD entry, pmd_cow_pte().
 * @end: The address after the last that was looked at, in the table or at its end.
 * @rss: By how much each counter of each sharer changes.
 *
 * The pages are freed before truncation visits the other sharers.
 *
 * Context: Caller holds the lock of the table.
 */
void cow_pte_truncated(struct mmu_gather *tlb, pmd_t *pmd, unsigned long end,
		       const int *rss)
{
	unsigned long addr = (end - 1) & PMD_MASK, start = max(tlb->start, addr);

	cow_pte_add_rss(tlb->mm, pmd, addr, rss);
	end = min(tlb->end, end);
	if (start < end)
		cow_pte_flush_sharers(tlb->mm, pmd, start, end);
}

/* ---- to know --------------------------------------------------------------- */

/**
 * cow_pte_busy - do others use a table?
 * @mm: An mm that uses it.
 * @pmd: Its PMD entry.
 *
 * For scanners, which rather pass over a table than unshare it. If it is used by @mm
 * alone it becomes an ordinary one.
 *
 * Context: Caller holds the mmap_lock of @mm, or the lock of one of the VMAs that
 *          the table is for, or the i_mmap lock of a file that one of them maps.
 * Return: Whether others use it, or did a moment ago.
 */
bool cow_pte_busy(struct mm_struct *mm, pmd_t *pmd)
{
	struct ptdesc *table;
	bool busy;

	if (likely(!pmd_cow_pte(pmdp_get_lockless(pmd))))
		return false;
	table = lock_shared_table(pmd);
	if (!table)
		return false;
	busy = cow_pte_busy_locked(mm, pmd);
	unlock_table(table);
	return busy;
}

/**
 * cow_pte_busy_locked - do others use a table?
 * @mm: An mm that uses it.
 * @pmd: Its PMD entry.
 *
 * Context: As cow_pte_busy(), and caller holds the lock of the table.
 * Return: Whether others use it.
 */
bool cow_pte_busy_locked(struct mm_struct *mm, pmd_t *pmd)
{
	if (likely(!pmd_cow_pte(*pmd)))
		return false;
	if (pmd_table(*pmd)->pt_cow_sharers > 1)
		return true;
	make_private(mm, pmd, true);
	return false;
}

/**
 * cow_pte_swapless - is there no swap entry in a shared table?
 * @pmd: A PMD entry that points to it.
 *
 * Context: Caller holds the mmap_lock, so that the table stays. The answer may be out
 *          of date at once, as that of a look at the entries.
 * Return: true if so, false if not, or if the table is an ordinary one.
 */
bool cow_pte_swapless(pmd_t pmd)
{
	return pmd_cow_pte(pmd) &&
	       !rss_get(READ_ONCE(pmd_table(pmd)->pt_cow_rss), MM_SWAPENTS);
}

/**
 * cow_pte_sharers - how many mms use a table
 * @pmd: A PMD entry that points to it.
 *
 * Context: Caller holds the lock of the table, or the answer may be out of date.
 * Return: How many, 1 if it is not shared.
 */
unsigned int cow_pte_sharers(pmd_t pmd)
{
	return pmd_cow_pte(pmd) ? READ_ONCE(pmd_table(pmd)->pt_cow_sharers) : 1;
}

/**
 * cow_pte_shared_at - may a page be mapped by others, though its mapcount says not?
 * @mm: An mm that maps it.
 * @addr: Where.
 *
 * Context: Caller holds the mmap_lock of @mm.
 * Return: Whether its table is shared.
 */
bool cow_pte_shared_at(struct mm_struct *mm, unsigned long addr)
{
	pmd_t *pmd;

	if (!mm_has_cow_pte(mm))
		return false;
	pmd = mm_find_pmd(mm, addr);
	return pmd && cow_pte_sharers(pmdp_get_lockless(pmd)) > 1;
}

/**
 * cow_pte_prctl_set - let the forks of a process share PTE tables, or not
 * @mm: The mm of the process.
 * @enable: 0 or 1.
 *
 * Context: May sleep.
 * Return: 0, -EINVAL for another value of @enable.
 */
int cow_pte_prctl_set(struct mm_struct *mm, unsigned long enable)
{
	if (enable > 1)
		return -EINVAL;
	if (enable)
		set_bit(MMF_COW_PTE, &mm->flags);
	else
		clear_bit(MMF_COW_PTE, &mm->flags);
	return 0;
}
