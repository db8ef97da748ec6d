/* SPDX-License-Identifier: GPL-2.0 */
/*
 * PTE tables that fork shares copy-on-write, see mm/cow_pte.c. All that the rest
 * of mm/ needs to know: a PMD entry for which pmd_cow_pte() is true points to a
 * table that other mms may use as well.
 */
#ifndef _LINUX_COW_PTE_H
#define _LINUX_COW_PTE_H

#include <linux/mm.h>

struct mmu_gather;
struct zap_details;

/* Why a table was not shared, or why no table of an mm was. */
enum cow_pte_refusal {
	COW_PTE_NOTIFIERS = 1,
	COW_PTE_UPROBES,
	COW_PTE_NO_MEMORY,
	COW_PTE_MANY,
	COW_PTE_VMA,
	COW_PTE_PINNED,
	COW_PTE_SPECIAL,
	COW_PTE_FEW,
};

typedef void (*cow_pte_sharer_fn)(struct mm_struct *mm, void *arg);

#ifdef CONFIG_COW_PTE

/* For dup_mmap() and mmput() */
void cow_pte_dup_mm(struct mm_struct *mm, struct mm_struct *oldmm);
void cow_pte_exit_mmap(struct mm_struct *mm);
void cow_pte_exit_mm(struct mm_struct *mm);
void cow_pte_dup_failed(struct mm_struct *mm);
void __cow_pte_sync(struct mm_struct *mm);
unsigned int cow_pte_share(struct mm_struct *dst_mm, struct vm_area_struct *src_vma,
			   pmd_t *dst_pmd, pmd_t *src_pmd, unsigned long addr,
			   unsigned long end);

/* For whoever is about to change entries, or to take references to pages */
vm_fault_t cow_pte_fault(struct vm_fault *vmf);
int cow_pte_unshare(struct mm_struct *mm, pmd_t *pmd);
int __cow_pte_unshare_range(struct mm_struct *mm, unsigned long start,
			    unsigned long end);
int __cow_pte_unshare_edges(struct mm_struct *mm, unsigned long start,
			    unsigned long end);
bool cow_pte_zap(struct mmu_gather *tlb, struct vm_area_struct *vma, pmd_t *pmd,
		 unsigned long addr, unsigned long end, struct zap_details *details);
bool cow_pte_has_entries(pte_t *pte, unsigned long addr, unsigned long end);
bool cow_pte_free(struct mmu_gather *tlb, pgtable_t table);
unsigned long cow_pte_unsettled(pmd_t pmd);
void cow_pte_settle(unsigned long cookie);
bool cow_pte_settled(pgtable_t table);

/* For whoever changes entries in place, for all sharers */
void __cow_pte_change_in_place(struct mm_struct *mm, pmd_t *pmd,
			       const struct folio *folio);
void cow_pte_iterate_sharers(struct mm_struct *mm, pmd_t *pmd, unsigned long addr,
			     cow_pte_sharer_fn fn, void *arg);
void cow_pte_add_rss(struct mm_struct *mm, pmd_t *pmd, unsigned long addr,
		     const int *rss);
void cow_pte_flush_sharers(struct mm_struct *mm, pmd_t *pmd, unsigned long start,
			   unsigned long end);
void cow_pte_truncated(struct mmu_gather *tlb, pmd_t *pmd, unsigned long end,
		       const int *rss);

/* For whoever concludes from an entry or a mapcount */
unsigned int cow_pte_sharers(pmd_t pmd);
bool cow_pte_shared_at(struct mm_struct *mm, unsigned long addr);
bool cow_pte_busy(struct mm_struct *mm, pmd_t *pmd);
bool cow_pte_busy_locked(struct mm_struct *mm, pmd_t *pmd);
bool cow_pte_swapless(pmd_t pmd);

int cow_pte_prctl_set(struct mm_struct *mm, unsigned long enable);

static inline void cow_pte_init_mm(struct mm_struct *mm)
{
	mm->cow_pte_family = NULL;
}

/* Does this mm have, or may it once have had, tables that others use? */
static inline bool mm_has_cow_pte(const struct mm_struct *mm)
{
	return READ_ONCE(mm->cow_pte_family);
}

#else /* !CONFIG_COW_PTE */

static inline void cow_pte_init_mm(struct mm_struct *mm)
{
}

static inline void cow_pte_dup_mm(struct mm_struct *mm, struct mm_struct *oldmm)
{
}

static inline void cow_pte_exit_mmap(struct mm_struct *mm)
{
}

static inline void cow_pte_exit_mm(struct mm_struct *mm)
{
}

static inline void cow_pte_dup_failed(struct mm_struct *mm)
{
}

static inline void __cow_pte_sync(struct mm_struct *mm)
{
}

static inline unsigned int cow_pte_share(struct mm_struct *dst_mm,
					 struct vm_area_struct *src_vma,
					 pmd_t *dst_pmd, pmd_t *src_pmd,
					 unsigned long addr, unsigned long end)
{
	return 0;
}

static inline vm_fault_t cow_pte_fault(struct vm_fault *vmf)
{
	return VM_FAULT_FALLBACK;
}

static inline int cow_pte_unshare(struct mm_struct *mm, pmd_t *pmd)
{
	return 0;
}

static inline int __cow_pte_unshare_range(struct mm_struct *mm,
					  unsigned long start, unsigned long end)
{
	return 0;
}

static inline int __cow_pte_unshare_edges(struct mm_struct *mm,
					  unsigned long start, unsigned long end)
{
	return 0;
}

static inline bool cow_pte_zap(struct mmu_gather *tlb, struct vm_area_struct *vma,
			       pmd_t *pmd, unsigned long addr, unsigned long end,
			       struct zap_details *details)
{
	return false;
}

static inline bool cow_pte_has_entries(pte_t *pte, unsigned long addr,
				       unsigned long end)
{
	return true;
}

static inline bool cow_pte_free(struct mmu_gather *tlb, pgtable_t table)
{
	return false;
}

static inline unsigned long cow_pte_unsettled(pmd_t pmd)
{
	return 0;
}

static inline void cow_pte_settle(unsigned long cookie)
{
}

static inline bool cow_pte_settled(pgtable_t table)
{
	return true;
}

static inline void __cow_pte_change_in_place(struct mm_struct *mm, pmd_t *pmd,
					     const struct folio *folio)
{
}

static inline void cow_pte_iterate_sharers(struct mm_struct *mm, pmd_t *pmd,
					   unsigned long addr,
					   cow_pte_sharer_fn fn, void *arg)
{
}

static inline void cow_pte_add_rss(struct mm_struct *mm, pmd_t *pmd,
				   unsigned long addr, const int *rss)
{
}

static inline void cow_pte_flush_sharers(struct mm_struct *mm, pmd_t *pmd,
					 unsigned long start, unsigned long end)
{
}

static inline void cow_pte_truncated(struct mmu_gather *tlb, pmd_t *pmd,
				     unsigned long end, const int *rss)
{
}

static inline unsigned int cow_pte_sharers(pmd_t pmd)
{
	return 1;
}

static inline bool cow_pte_shared_at(struct mm_struct *mm, unsigned long addr)
{
	return false;
}

static inline bool cow_pte_busy(struct mm_struct *mm, pmd_t *pmd)
{
	return false;
}

static inline bool cow_pte_busy_locked(struct mm_struct *mm, pmd_t *pmd)
{
	return false;
}

static inline bool cow_pte_swapless(pmd_t pmd)
{
	return false;
}

static inline bool mm_has_cow_pte(const struct mm_struct *mm)
{
	return false;
}

#endif /* CONFIG_COW_PTE */

/* A table above the PTE tables has been unhooked, and is about to be freed. */
static inline void cow_pte_sync(struct mm_struct *mm)
{
	if (unlikely(mm_has_cow_pte(mm)))
		__cow_pte_sync(mm);
}

/* Private tables for whatever is mapped in [start, end), for good. */
static inline int cow_pte_unshare_range(struct mm_struct *mm, unsigned long start,
					unsigned long end)
{
	return mm_has_cow_pte(mm) ? __cow_pte_unshare_range(mm, start, end) : 0;
}

/* The same for the tables that also map something outside of [start, end). */
static inline int cow_pte_unshare_edges(struct mm_struct *mm, unsigned long start,
					unsigned long end)
{
	return mm_has_cow_pte(mm) ? __cow_pte_unshare_edges(mm, start, end) : 0;
}

/*
 * Has the mm left the table that @pte is in, which is locked, for a copy of its own,
 * since @pte was looked up? It is not its table any more then.
 */
static inline bool cow_pte_has_left(pmd_t *pmd, const pte_t *pte)
{
	return IS_ENABLED(CONFIG_COW_PTE) &&
	       unlikely(pmd_pfn(pmdp_get_lockless(pmd)) !=
			page_to_pfn(virt_to_page(pte)));
}

#if defined(CONFIG_COW_PTE) && defined(CONFIG_DEBUG_VM)
void cow_pte_allow_change(pmd_t pmd, bool allow);
#else
static inline void cow_pte_allow_change(pmd_t pmd, bool allow)
{
}
#endif

/* What is about to be done to entries, which map @folio or any, is for all sharers. */
static inline void cow_pte_change_in_place(struct mm_struct *mm, pmd_t *pmd,
					   const struct folio *folio)
{
	if (unlikely(pmd_cow_pte(*pmd)))
		__cow_pte_change_in_place(mm, pmd, folio);
}

/* One entry counts differently: for who uses its table. */
static inline void cow_pte_add_counter(struct mm_struct *mm, pmd_t *pmd,
				       unsigned long addr, int member, int value)
{
	if (unlikely(pmd_cow_pte(*pmd))) {
		int rss[NR_MM_COUNTERS] = {};

		rss[member] = value;
		cow_pte_add_rss(mm, pmd, addr, rss);
	} else {
		add_mm_counter(mm, member, value);
	}
}

static inline void cow_pte_count_swapped_out(struct mm_struct *mm, pmd_t *pmd,
					     unsigned long addr)
{
	if (unlikely(pmd_cow_pte(*pmd))) {
		const int rss[NR_MM_COUNTERS] = {
			[MM_ANONPAGES] = -1,
			[MM_SWAPENTS] = 1,
		};

		cow_pte_add_rss(mm, pmd, addr, rss);
	} else {
		dec_mm_counter(mm, MM_ANONPAGES);
		inc_mm_counter(mm, MM_SWAPENTS);
	}
}

#endif /* _LINUX_COW_PTE_H */
