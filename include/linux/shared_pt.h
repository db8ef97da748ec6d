/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Page tables shared by all processes that map a file: MAP_SHARED_PT.
 *
 * A region belongs to one file mapping and one class of access.  Its page
 * tables live in a host mm that no task owns; the VMAs of the processes that
 * use them are its guests.  Documentation/mm/shared_pt.rst has the design.
 */
#ifndef _LINUX_SHARED_PT_H
#define _LINUX_SHARED_PT_H

#include <linux/mm.h>
#include <linux/sched/coredump.h>
#include <linux/workqueue.h>

struct mmu_gather;

/* Why something cannot be done with shared page tables, for the tracepoint. */
enum shared_pt_refusal {
	SHARED_PT_NOT_SHARED,		/* not a shared mapping of a file */
	SHARED_PT_ALIGNMENT,		/* of address, length or offset */
	SHARED_PT_EXEC_ONLY,		/* needs a protection key */
	SHARED_PT_PKEY,			/* a right of one process */
	SHARED_PT_FILE,			/* not only page cache in its tables */
	SHARED_PT_RANGE,		/* beyond the end of a host mm */
	SHARED_PT_NOTIFIER,		/* process has, or wants, mmu notifiers */
	SHARED_PT_SPLIT,		/* not at a multiple of PMD_SIZE */
	SHARED_PT_CEILING,		/* more than was asked for at mmap() */
	SHARED_PT_READ_ONLY,		/* protection of this class is fixed */
	SHARED_PT_SEALED,		/* readers rely on F_SEAL_SHRINK */
	SHARED_PT_MLOCK,
	SHARED_PT_MREMAP,		/* also remap_file_pages() */
	SHARED_PT_MSEAL,
	SHARED_PT_MADVISE,
	SHARED_PT_USERFAULTFD,
	NR_SHARED_PT_REFUSALS,
};

#ifdef CONFIG_SHARED_PT

/**
 * struct shared_pt_region - the page tables of a file in one class of access
 * @node: In shared_pt_regions, until the last reference is gone.
 * @mapping: The file mapping; pinned by the file of the host VMA.
 * @class: The SHARED_PT_CLASS flags of all guests.
 * @mm: The host mm.
 * @guests: The guest VMAs, by file offset.  They are here and not in
 *          @mapping->i_mmap, but under the same lock.
 * @nr_guests: How many guest VMAs there are.
 * @refs: One for each guest VMA, and for each mmap() and fault under way.
 * @end: Ends the region when @refs has become zero.
 * @end.task_work: In the task that released the last one.
 * @end.work: Where there is no such task.
 * @free: Frees it later.
 */
struct shared_pt_region {
	struct hlist_node node;
	struct address_space *mapping;
	vm_flags_t class;
	struct mm_struct *mm;
	struct rb_root_cached guests;
	atomic_t nr_guests;
	refcount_t refs;
	union {
		struct callback_head task_work;
		struct work_struct work;
	} end;
	struct rcu_work free;
};

int shared_pt_refuse(enum shared_pt_refusal reason);

unsigned long shared_pt_mmap_prepare(struct file *file, unsigned long addr,
				     unsigned long len, unsigned long prot,
				     unsigned long flags, unsigned long pgoff);
unsigned long shared_pt_mmap_region(struct file *file, unsigned long addr,
				    unsigned long len, vm_flags_t vm_flags,
				    unsigned long pgoff, struct list_head *uf);
struct file *shared_pt_file(struct file *file, unsigned long addr,
			    unsigned long len, unsigned long prot,
			    unsigned long flags, unsigned long pgoff);

struct mm_struct *mm_alloc_shared_pt_host(void);

struct shared_pt_region *shared_pt_region_get(struct file *file,
					      vm_flags_t vm_flags,
					      pgoff_t pgoff, unsigned long len);
void shared_pt_region_put(struct shared_pt_region *region);
void shared_pt_vma_attach(struct vm_area_struct *vma);
void __shared_pt_vma_dup(struct vm_area_struct *vma);
void __shared_pt_vma_free(struct vm_area_struct *vma);
void shared_pt_flush_tlb(void);

vm_fault_t shared_pt_fault(struct vm_area_struct *vma, unsigned long address,
			   unsigned int flags);
vm_fault_t shared_pt_host_fault(struct vm_area_struct *hvma,
				unsigned long haddr, unsigned int flags);
void shared_pt_unlink(struct mmu_gather *tlb, struct vm_area_struct *vma,
		      unsigned long start, unsigned long end);
int shared_pt_mprotect(struct vm_area_struct *vma, unsigned long start,
		       unsigned long end, vm_flags_t newflags);
int shared_pt_madvise(int behavior);
bool shared_pt_mm_has_guests(struct mm_struct *mm);
struct vm_area_struct *shared_pt_find_guest(struct address_space *mapping,
					    pgoff_t pgoff,
					    struct mm_struct *mm);
unsigned int __shared_pt_sharers(struct vm_area_struct *vma);
unsigned long __shared_pt_oom_pages(struct mm_struct *mm);

/**
 * vma_is_shared_pt - is this VMA a guest of a region?
 * @vma: The VMA.
 *
 * Return: true if the page tables under @vma are those of a host mm: whoever
 * walks them through @vma may read them, but must not change an entry.
 */
static inline bool vma_is_shared_pt(const struct vm_area_struct *vma)
{
	return vma->vm_flags & VM_SHARED_PT;
}

/**
 * mm_is_shared_pt_host - is this the mm that owns the tables of a region?
 * @mm: The mm.
 *
 * Return: true if other mms hold links to the page tables of @mm, so that
 * mm_cpumask(@mm) and @mm->owner say nothing about who uses them.
 */
static inline bool mm_is_shared_pt_host(const struct mm_struct *mm)
{
	return test_bit(MMF_SHARED_PT_HOST, &mm->flags);
}

/**
 * shared_pt_vma_dup - account for a new copy of a VMA
 * @vma: The copy.  Nothing is done unless it is a guest.
 */
static inline void shared_pt_vma_dup(struct vm_area_struct *vma)
{
	if (unlikely(vma_is_shared_pt(vma)))
		__shared_pt_vma_dup(vma);
}

/**
 * shared_pt_vma_free - account for a VMA that is freed, or will be by RCU
 * @vma: The VMA.  Nothing is done unless it is a guest.
 *
 * Context: As shared_pt_region_put(), for a guest.
 */
static inline void shared_pt_vma_free(struct vm_area_struct *vma)
{
	if (unlikely(vma_is_shared_pt(vma)))
		__shared_pt_vma_free(vma);
}

/**
 * shared_pt_sharers - by how many to divide what is mapped here once
 * @vma: Any VMA.
 *
 * Return: The number of guests that share the page tables of @vma; 1 if it
 *         has its own.
 */
static inline unsigned int shared_pt_sharers(struct vm_area_struct *vma)
{
	return vma_is_shared_pt(vma) ? __shared_pt_sharers(vma) : 1;
}

/**
 * shared_pt_oom_pages - what a process uses of regions, for its OOM badness
 * @mm: Its mm.
 *
 * Context: Caller holds task_lock() of a task that uses @mm.
 * Return: The number of pages.
 */
static inline unsigned long shared_pt_oom_pages(struct mm_struct *mm)
{
	return test_bit(MMF_HAS_SHARED_PT, &mm->flags) ?
	       __shared_pt_oom_pages(mm) : 0;
}

/**
 * shared_pt_dup_mm - the copy of an mm has guests if the original has
 * @mm: The copy.
 * @oldmm: The original.
 *
 * Context: Caller holds the mmap_lock of both for writing.
 */
static inline void shared_pt_dup_mm(struct mm_struct *mm,
				    struct mm_struct *oldmm)
{
	if (test_bit(MMF_HAS_SHARED_PT, &oldmm->flags))
		set_bit(MMF_HAS_SHARED_PT, &mm->flags);
}

#else /* !CONFIG_SHARED_PT */

static inline bool vma_is_shared_pt(const struct vm_area_struct *vma)
{
	return false;
}

static inline bool mm_is_shared_pt_host(const struct mm_struct *mm)
{
	return false;
}

static inline int shared_pt_refuse(enum shared_pt_refusal reason)
{
	return -EINVAL;
}

static inline unsigned long
shared_pt_mmap_prepare(struct file *file, unsigned long addr,
		       unsigned long len, unsigned long prot,
		       unsigned long flags, unsigned long pgoff)
{
	return -EOPNOTSUPP;
}

static inline struct file *
shared_pt_file(struct file *file, unsigned long addr, unsigned long len,
	       unsigned long prot, unsigned long flags, unsigned long pgoff)
{
	return file;
}

static inline unsigned long
shared_pt_mmap_region(struct file *file, unsigned long addr,
		      unsigned long len, vm_flags_t vm_flags,
		      unsigned long pgoff, struct list_head *uf)
{
	return -EOPNOTSUPP;
}

static inline void shared_pt_vma_attach(struct vm_area_struct *vma)
{
}

static inline void shared_pt_vma_dup(struct vm_area_struct *vma)
{
}

static inline void shared_pt_vma_free(struct vm_area_struct *vma)
{
}

static inline void shared_pt_flush_tlb(void)
{
}

static inline unsigned int shared_pt_sharers(struct vm_area_struct *vma)
{
	return 1;
}

static inline unsigned long shared_pt_oom_pages(struct mm_struct *mm)
{
	return 0;
}

static inline void shared_pt_dup_mm(struct mm_struct *mm,
				    struct mm_struct *oldmm)
{
}

static inline vm_fault_t shared_pt_fault(struct vm_area_struct *vma,
					 unsigned long address,
					 unsigned int flags)
{
	return VM_FAULT_SIGBUS;
}

static inline void shared_pt_unlink(struct mmu_gather *tlb,
				    struct vm_area_struct *vma,
				    unsigned long start, unsigned long end)
{
}

static inline int shared_pt_mprotect(struct vm_area_struct *vma,
				     unsigned long start, unsigned long end,
				     vm_flags_t newflags)
{
	return -EINVAL;
}

static inline int shared_pt_madvise(int behavior)
{
	return 0;
}

static inline bool shared_pt_mm_has_guests(struct mm_struct *mm)
{
	return false;
}

static inline struct vm_area_struct *
shared_pt_find_guest(struct address_space *mapping, pgoff_t pgoff,
		     struct mm_struct *mm)
{
	return NULL;
}

#endif /* CONFIG_SHARED_PT */

/**
 * vma_i_mmap - the interval tree in which rmap finds a file VMA, or not
 * @vma: The VMA.
 * @mapping: Its file mapping.
 *
 * What maps a folio is the host, once, however many guests there are.  So
 * guests stay out of @mapping->i_mmap, and rmap costs the same for any number
 * of them and acts once.
 *
 * Context: Caller holds @mapping->i_mmap_rwsem.
 * Return: The tree to insert @vma in, and to remove it from.
 */
static inline struct rb_root_cached *vma_i_mmap(struct vm_area_struct *vma,
						struct address_space *mapping)
{
#ifdef CONFIG_SHARED_PT
	if (unlikely(vma_is_shared_pt(vma)))
		return &vma->vm_shared_pt->guests;
#endif
	return &mapping->i_mmap;
}

#endif /* _LINUX_SHARED_PT_H */
