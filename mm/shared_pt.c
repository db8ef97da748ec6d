// SPDX-License-Identifier: GPL-2.0
/*
 * Page tables shared by all processes that map a file (MAP_SHARED_PT).
 *
 * A region is one file mapping in one class of access.  Its host mm maps the
 * file linearly: host address = file offset.  A guest, a VMA with VM_SHARED_PT
 * in some process, has no page tables of its own: its PMD entries are links to
 * the host's PTE tables, so that guests at different addresses, of different
 * lengths and offsets share whatever they have in common.
 *
 * Life of a link:
 *
 *   made       By a fault, under the guest's PMD lock, from a host PMD entry
 *              that was found populated, or populated for the purpose.
 *   seen by    The guest's hardware walks, its GUP-fast, and whoever walks its
 *              tables under its mmap_lock or VMA lock.
 *   ends       When the guest is unmapped (munmap, exec, exit) or by
 *              MADV_DONTNEED, in the zap phase, while the VMA is still in the
 *              region's tree.  shared_pt_unlink() then flushes the guest's
 *              TLB, paging structure caches included, and that IPI (or the
 *              RCU callback by which tables are freed) waits for GUP-fast.
 *
 * Life of a host table:
 *
 *   made       By a fault through any guest.
 *   seen by    Every link to it, and rmap through the host VMA.
 *   ends       With the region, after the last guest VMA is gone: nothing
 *              frees a host table before.  Whoever wants to, such as
 *              khugepaged, must leave a host mm alone.
 *
 * An entry of a host table changes under the table's own lock, like any other.
 * The flush that follows must reach every CPU that may run a guest, before the
 * page is freed or the lock is dropped, as the generic code has it;
 * flush_tlb_mm_range() sees to that.
 *
 * Locks, outermost first:
 *
 *   guest mmap_lock or VMA lock
 *     host mmap_lock or VMA lock
 *       folio lock, mapping->i_mmap_rwsem, ...
 *         page table locks
 *
 * A fault that may answer VM_FAULT_COMPLETED drops the guest's lock before it
 * takes one of the host, so that nobody waits for I/O under it.  Nothing that
 * holds a lock of the host takes one of a guest.
 */

#include <linux/file.h>
#include <linux/hashtable.h>
#include <linux/memfd.h>
#include <linux/mman.h>
#include <linux/mmu_notifier.h>
#include <linux/pagemap.h>
#include <linux/sched/mm.h>
#include <linux/security.h>
#include <linux/shared_pt.h>
#include <linux/shmem_fs.h>
#include <linux/slab.h>
#include <linux/task_work.h>

#include <asm/pgalloc.h>
#include <asm/tlb.h>
#include <asm/tlbflush.h>

#include "internal.h"

#define CREATE_TRACE_POINTS
#include <trace/events/shared_pt.h>

/*
 * What a process asked for at mmap() and what its file allows.  Guests of one
 * region agree on all of it, so that none of them can get by another's
 * mprotect() what it could not have had by its own.
 */
#define SHARED_PT_CLASS	(VM_READ | VM_WRITE | VM_EXEC |			\
			 VM_MAYREAD | VM_MAYWRITE | VM_MAYEXEC |	\
			 VM_SHARED | VM_MAYSHARE)

/* The error by which each refusal is answered; EINVAL where none is given. */
static const int shared_pt_errors[NR_SHARED_PT_REFUSALS] = {
	[SHARED_PT_FILE]	= -EOPNOTSUPP,
	[SHARED_PT_RANGE]	= -EOVERFLOW,
	[SHARED_PT_NOTIFIER]	= -EBUSY,
	[SHARED_PT_CEILING]	= -EACCES,
	[SHARED_PT_READ_ONLY]	= -EACCES,
	[SHARED_PT_SEALED]	= -EPERM,
};

#define SHARED_PT_HOST_END	ALIGN_DOWN(TASK_SIZE_MAX, PMD_SIZE)

/* Walked under RCU: how long its chains are is for users to say. */
static DEFINE_HASHTABLE(shared_pt_regions, 8);
/* To put into and take out of a chain, no more. */
static DEFINE_SPINLOCK(shared_pt_regions_lock);
/* Who holds it is the only one to add a region. */
static DEFINE_MUTEX(shared_pt_regions_mutex);

/* Where regions are freed, which must not have to wait for memory. */
static struct workqueue_struct *shared_pt_wq;

/*
 * Faults, mprotect() and GUP take the lock of the host while they hold that of
 * a guest.
 */
static struct lock_class_key shared_pt_host_mmap_lock_key;

/**
 * shared_pt_refuse - count and trace a refusal
 * @reason: What cannot be done.
 *
 * Context: Any.
 * Return: The negative errno for @reason.
 */
int shared_pt_refuse(enum shared_pt_refusal reason)
{
	int error = shared_pt_errors[reason] ?: -EINVAL;

	count_vm_event(SHARED_PT_REFUSED);
	trace_shared_pt_refused(current->mm, reason, error);
	return error;
}

static void shared_pt_region_free(struct work_struct *work)
{
	struct shared_pt_region *region = container_of(to_rcu_work(work),
						       struct shared_pt_region,
						       free);

	mmdrop(region->mm);
	kfree(region);
}

static void shared_pt_region_end(struct shared_pt_region *region)
{
	trace_shared_pt_region_free(region->mm, region->mapping, region->class);
	/* No guest has a link any more: nothing is to be flushed. */
	clear_bit(MMF_SHARED_PT_HOST, &region->mm->flags);
	/* Tables, pages and the file of the host VMA go here. */
	mmput(region->mm);
	/* Hash chains, and VMAs by the OOM killer, are walked under RCU. */
	queue_rcu_work(shared_pt_wq, &region->free);
}

static void shared_pt_region_end_task(struct callback_head *head)
{
	shared_pt_region_end(container_of(head, struct shared_pt_region,
					  end.task_work));
}

static void shared_pt_region_end_work(struct work_struct *work)
{
	shared_pt_region_end(container_of(work, struct shared_pt_region,
					  end.work));
}

/*
 * Map the whole file into the host, by the file's own ->mmap().  Done before
 * the guest's mmap() unmaps anything, which leaves time to refuse: a file that
 * puts anything but page cache folios into page tables cannot be shared.
 */
static int shared_pt_host_mmap(struct shared_pt_region *region,
			       struct file *file, pgoff_t pgoff,
			       unsigned long len)
{
	struct mm_struct *host = region->mm;
	struct vm_area_struct *vma;
	bool refused = false;
	int ret;

	vma = vm_area_alloc(host);
	if (!vma)
		return -ENOMEM;

	/*
	 * Let ->mmap() prepare as much of the file as the guest will map, not
	 * all of it; it is called again for each guest.
	 */
	vma_set_range(vma, pgoff << PAGE_SHIFT, (pgoff << PAGE_SHIFT) + len,
		      pgoff);
	/*
	 * A PMD leaf would live in each guest's own table, unknown to rmap.
	 * There is no soft-dirty tracking of a host, and no need for its faults.
	 */
	vm_flags_init(vma, region->class | VM_NOHUGEPAGE | VM_SOFTDIRTY);
	vma->vm_page_prot = vm_get_page_prot(vma->vm_flags);
	vma->vm_file = get_file(file);

	/* Nobody else knows this mm, but ->mmap() may change vm_flags. */
	mmap_write_lock(host);
	ret = mmap_file(file, vma);
	if (ret)
		goto out_fput;

	if (vma->vm_file != file || !vma->vm_ops || !vma->vm_ops->fault ||
	    vma->vm_ops->open || vma->vm_ops->close ||
	    vma->vm_flags & (VM_IO | VM_PFNMAP | VM_MIXEDMAP | VM_HUGETLB) ||
	    (vma->vm_flags & SHARED_PT_CLASS) != region->class) {
		refused = true;
	} else {
		/*
		 * The guests are counted in mapping->i_mmap_writable, and the
		 * host must not be: a fault may keep it after they have gone,
		 * and F_SEAL_WRITE would fail.  Nothing else that a host meets
		 * looks at VM_MAYWRITE.
		 */
		vm_flags_clear(vma, VM_MAYWRITE);
		vma_set_page_prot(vma);
		vma_set_range(vma, 0, SHARED_PT_HOST_END, 0);
	}

	/*
	 * Also if it is refused: ->mmap() may have filled page tables, which
	 * exit_mmap() finds by the VMA.
	 */
	ret = insert_vm_struct(host, vma);
	if (ret)
		goto out_close;
	mmap_write_unlock(host);
	return refused ? shared_pt_refuse(SHARED_PT_FILE) : 0;

out_close:
	vma_close(vma);
out_fput:
	mmap_write_unlock(host);
	fput(vma->vm_file);
	vm_area_free(vma);
	return ret;
}

static struct shared_pt_region *
shared_pt_region_alloc(struct file *file, vm_flags_t class, pgoff_t pgoff,
		       unsigned long len)
{
	struct shared_pt_region *region;
	int ret = -ENOMEM;

	region = kzalloc(sizeof(*region), GFP_KERNEL_ACCOUNT);
	if (!region)
		return ERR_PTR(-ENOMEM);

	region->mm = mm_alloc_shared_pt_host();
	if (!region->mm)
		goto out_free;
	lockdep_set_class_and_name(&region->mm->mmap_lock,
				   &shared_pt_host_mmap_lock_key,
				   "shared_pt_host->mmap_lock");

	region->mapping = file->f_mapping;
	region->class = class;
	region->guests = RB_ROOT_CACHED;
	refcount_set(&region->refs, 1);
	INIT_RCU_WORK(&region->free, shared_pt_region_free);
	/* Its counters may be looked at after its end. */
	mmgrab(region->mm);

	ret = shared_pt_host_mmap(region, file, pgoff, len);
	if (ret)
		goto out_mmput;
	trace_shared_pt_region_create(region->mm, region->mapping, class);
	return region;

out_mmput:
	mmput(region->mm);
	mmdrop(region->mm);
out_free:
	kfree(region);
	return ERR_PTR(ret);
}

/* Takes a reference.  A region that is about to die is not found. */
static struct shared_pt_region *
shared_pt_region_find(struct address_space *mapping, vm_flags_t class)
{
	struct shared_pt_region *region;

	rcu_read_lock();
	hash_for_each_possible_rcu(shared_pt_regions, region, node,
				   (unsigned long)mapping) {
		if (region->mapping == mapping && region->class == class &&
		    refcount_inc_not_zero(&region->refs))
			break;
	}
	rcu_read_unlock();
	return region;
}

/**
 * shared_pt_region_get - find or make the region for a new guest
 * @file: The file to be mapped.
 * @vm_flags: The flags of the VMA to be; they tell the class.
 * @pgoff: The offset into @file, in pages, of what is to be mapped.
 * @len: How much is to be mapped, in bytes.
 *
 * Context: May sleep.  Caller holds its own mmap_lock for writing, so that
 *          ->mmap() of @file is called in the context it knows.
 * Return: The region, to be released by shared_pt_region_put(), or
 *         ERR_PTR(-ENOMEM), ERR_PTR(-EOPNOTSUPP) if the page tables of this
 *         file cannot be shared, or what ->mmap() of @file returned.
 */
struct shared_pt_region *shared_pt_region_get(struct file *file,
					      vm_flags_t vm_flags,
					      pgoff_t pgoff, unsigned long len)
{
	struct address_space *mapping = file->f_mapping;
	vm_flags_t class = vm_flags & SHARED_PT_CLASS;
	struct shared_pt_region *region, *new;

	region = shared_pt_region_find(mapping, class);
	if (region)
		return region;

	new = shared_pt_region_alloc(file, class, pgoff, len);
	if (IS_ERR(new))
		return new;

	mutex_lock(&shared_pt_regions_mutex);
	region = shared_pt_region_find(mapping, class);
	if (!region) {
		spin_lock(&shared_pt_regions_lock);
		hash_add_rcu(shared_pt_regions, &new->node,
			     (unsigned long)mapping);
		spin_unlock(&shared_pt_regions_lock);
	}
	mutex_unlock(&shared_pt_regions_mutex);
	if (!region)
		return new;

	/* Somebody was faster.  Nobody has seen the new one. */
	shared_pt_region_end(new);
	return region;
}

/**
 * shared_pt_region_put - release a region
 * @region: The region.
 *
 * The caller has unlinked what it linked, and flushed it.  So nobody but GUP-fast
 * may still walk the tables, and they are freed as those of any mm: where flushes do
 * without the IPI that waits for it, by RCU.
 *
 * What the last one releases is gone when its system call returns, or its exit is
 * seen, as with any mapping; but it holds locks now that exit_mmap() of the host
 * should not be called with.
 *
 * Context: Process context; mmap_lock may be held.
 */
void shared_pt_region_put(struct shared_pt_region *region)
{
	if (!refcount_dec_and_test(&region->refs))
		return;

	spin_lock(&shared_pt_regions_lock);
	hash_del_rcu(&region->node);
	spin_unlock(&shared_pt_regions_lock);

	if (!(current->flags & (PF_KTHREAD | PF_USER_WORKER))) {
		init_task_work(&region->end.task_work, shared_pt_region_end_task);
		if (!task_work_add(current, &region->end.task_work, TWA_RESUME))
			return;
	}
	INIT_WORK(&region->end.work, shared_pt_region_end_work);
	queue_work(shared_pt_wq, &region->end.work);
}

static int __init shared_pt_init(void)
{
	shared_pt_wq = alloc_workqueue("shared_pt",
				       WQ_UNBOUND | WQ_MEM_RECLAIM, 0);
	return shared_pt_wq ? 0 : -ENOMEM;
}
subsys_initcall(shared_pt_init);

/**
 * shared_pt_vma_attach - make a new VMA a guest
 * @vma: The VMA, with VM_SHARED_PT set, not yet in the tree.
 *
 * Context: Caller holds a reference on the region of @vma's file and class,
 *          and keeps it.
 */
void shared_pt_vma_attach(struct vm_area_struct *vma)
{
	vma->vm_shared_pt = shared_pt_region_find(vma->vm_file->f_mapping,
						  vma->vm_flags & SHARED_PT_CLASS);

	/* ->mmap() has done to @vma what it did not do to the host VMA. */
	if (WARN_ON_ONCE(!vma->vm_shared_pt)) {
		vm_flags_clear(vma, VM_SHARED_PT);
		return;
	}
	atomic_inc(&vma->vm_shared_pt->nr_guests);
	set_bit(MMF_HAS_SHARED_PT, &vma->vm_mm->flags);
}

void __shared_pt_vma_dup(struct vm_area_struct *vma)
{
	atomic_inc(&vma->vm_shared_pt->nr_guests);
	refcount_inc(&vma->vm_shared_pt->refs);
}

void __shared_pt_vma_free(struct vm_area_struct *vma)
{
	struct shared_pt_region *region = vma->vm_shared_pt;

	/* Not attached yet, or here a second time, by RCU */
	if (!region)
		return;
	/* The OOM killer may look. */
	WRITE_ONCE(vma->vm_shared_pt, NULL);
	atomic_dec(&region->nr_guests);
	shared_pt_region_put(region);
}

/**
 * shared_pt_flush_tlb - flush the TLB after a change in a host mm
 *
 * The entries of a host are cached by CPUs that run guests, under the guests'
 * PCIDs and at the guests' addresses, and none of them is in the mm_cpumask()
 * of the host.  A guest that is not running anywhere has entries too.  So drop
 * everything everywhere.
 *
 * Context: Interrupts are enabled, as for flush_tlb_mm_range().
 */
void shared_pt_flush_tlb(void)
{
	count_vm_event(SHARED_PT_FLUSH);
	flush_tlb_all();
}

static unsigned long shared_pt_host_address(struct vm_area_struct *vma,
					    unsigned long address)
{
	return address - vma->vm_start + (vma->vm_pgoff << PAGE_SHIFT);
}

/*
 * The PMD entry that maps @address, or NULL if a table above it is missing.
 * *@next is the address up to @end where to go on: never beyond the level above,
 * since a level that is folded knows no end of its own.
 */
static pmd_t *shared_pt_find_pmd(struct mm_struct *mm, unsigned long address,
				 unsigned long end, unsigned long *next)
{
	pgd_t *pgd = pgd_offset(mm, address);
	p4d_t *p4d;
	pud_t *pud;

	*next = pgd_addr_end(address, end);
	if (!pgd_present(READ_ONCE(*pgd)))
		return NULL;
	p4d = p4d_offset(pgd, address);
	*next = p4d_addr_end(address, *next);
	if (!p4d_present(READ_ONCE(*p4d)))
		return NULL;
	pud = pud_offset(p4d, address);
	*next = pud_addr_end(address, *next);
	if (!pud_present(READ_ONCE(*pud)))
		return NULL;
	*next = pmd_addr_end(address, *next);
	return pmd_offset(pud, address);
}

static pmd_t *shared_pt_alloc_pmd(struct mm_struct *mm, unsigned long address)
{
	pgd_t *pgd = pgd_offset(mm, address);
	p4d_t *p4d = p4d_alloc(mm, pgd, address);
	pud_t *pud = p4d ? pud_alloc(mm, p4d, address) : NULL;

	return pud ? pmd_alloc(mm, pud, address) : NULL;
}

static bool shared_pt_present(pmd_t *hpmd, unsigned long haddr)
{
	pte_t *pte = pte_offset_map(hpmd, haddr);
	bool present = pte && pte_present(ptep_get_lockless(pte));

	if (pte)
		pte_unmap(pte);
	return present;
}

/*
 * Link the host's PTE table for @haddr at @address of the guest; if there is
 * none yet, make it.  No lock of the host is needed for either: it stays, and
 * its tables do, as long as the guest.  Nor does it matter what the entries in
 * the table permit now, since that is for the hardware to find out.  A link is
 * not counted in the guest's nr_ptes.
 *
 * Returns VM_FAULT_NOPAGE if the page is there now, so that the access can be
 * tried again; 0 if the fault has to be handled; or an error.
 */
static vm_fault_t shared_pt_link(struct vm_area_struct *vma,
				 unsigned long address, unsigned long haddr)
{
	struct mm_struct *host = vma->vm_shared_pt->mm;
	struct mm_struct *mm = vma->vm_mm;
	vm_fault_t ret = 0;
	pmd_t *pmd, *hpmd;
	pmd_t hentry;
	spinlock_t *ptl;

	/* The host keeps its tables: nobody is to leave any where no file is. */
	if ((haddr & PAGE_MASK) >= i_size_read(vma->vm_shared_pt->mapping->host))
		return VM_FAULT_SIGBUS;

	hpmd = shared_pt_alloc_pmd(host, haddr);
	if (!hpmd)
		return VM_FAULT_OOM;
	hentry = pmdp_get_lockless(hpmd);
	if (pmd_none(hentry)) {
		if (__pte_alloc(host, hpmd))
			return VM_FAULT_OOM;
		hentry = pmdp_get_lockless(hpmd);
	} else if (shared_pt_present(hpmd, haddr)) {
		ret = VM_FAULT_NOPAGE;
	}

	pmd = shared_pt_alloc_pmd(mm, address);
	if (!pmd)
		return VM_FAULT_OOM;

	ptl = pmd_lock(mm, pmd);
	if (pmd_none(*pmd)) {
		/* Pairs with the dependent loads of a walk, as in pmd_install() */
		smp_wmb();
		pmd_populate(mm, pmd, pmd_pgtable(hentry));
		count_vm_event(SHARED_PT_LINK);
		trace_shared_pt_link(mm, host, address, haddr);
	} else if (WARN_ON_ONCE(pmd_pfn(*pmd) != pmd_pfn(hentry))) {
		/* A table of its own, where free_pgtables() left none. */
		ret = VM_FAULT_SIGBUS;
	} else {
		ret = 0;
	}
	spin_unlock(ptl);
	return ret;
}

/*
 * Lock the host for a fault that has no lock of the guest to lose: with the VMA
 * lock if nobody is changing the protection, or else with the mmap_lock.  Others
 * may have that for as long as their I/O takes, or a file system is frozen: NULL if
 * a fatal signal came first.
 */
static struct vm_area_struct *shared_pt_lock_host(struct mm_struct *host,
						  unsigned long haddr,
						  unsigned int *flags)
{
	struct vm_area_struct *hvma = lock_vma_under_rcu(host, haddr);

	if (hvma) {
		*flags |= FAULT_FLAG_VMA_LOCK;
		return hvma;
	}
	*flags &= ~FAULT_FLAG_VMA_LOCK;
	if (mmap_read_lock_killable(host))
		return NULL;
	/* The host maps the whole file; mprotect() only splits and merges. */
	return vma_lookup(host, haddr);
}

static void shared_pt_unlock(struct vm_area_struct *vma, unsigned int flags)
{
	if (flags & FAULT_FLAG_VMA_LOCK)
		vma_end_read(vma);
	else
		mmap_read_unlock(vma->vm_mm);
}

/* What the region permits now, which is for its mprotect() to say. */
static vm_fault_t shared_pt_host_fault_permitted(struct vm_area_struct *hvma,
						 unsigned long haddr,
						 unsigned int flags)
{
	vm_flags_t needed = VM_ACCESS_FLAGS;

	if (flags & FAULT_FLAG_WRITE)
		needed = VM_WRITE;
	else if (flags & FAULT_FLAG_INSTRUCTION)
		needed = VM_EXEC;

	if (!(hvma->vm_flags & needed))
		return VM_FAULT_SIGSEGV | VM_FAULT_ACCERR;
	return shared_pt_host_fault(hvma, haddr, flags);
}

/*
 * The first try of a fault whose caller can do without the lock of the guest
 * afterwards.  Drop it first: what the core drops before it waits for I/O is
 * the lock of the host, and nobody should wait for the I/O under the other.
 *
 * The caller learns by VM_FAULT_COMPLETED that all is well and the lock gone,
 * and by VM_FAULT_RETRY that the lock is gone.  An error can only be told with
 * the lock held, so that is left for the second try.
 */
static vm_fault_t shared_pt_fault_unlocked(struct vm_area_struct *vma,
					   unsigned long haddr,
					   unsigned int flags)
{
	struct shared_pt_region *region = vma->vm_shared_pt;
	struct vm_area_struct *hvma;
	vm_fault_t ret = VM_FAULT_RETRY;
	unsigned int hflags = flags;

	refcount_inc(&region->refs);
	shared_pt_unlock(vma, flags);

	hvma = shared_pt_lock_host(region->mm, haddr, &hflags);
	if (hvma) {
		ret = shared_pt_host_fault_permitted(hvma, haddr, hflags);
		if (!(ret & (VM_FAULT_RETRY | VM_FAULT_COMPLETED)))
			shared_pt_unlock(hvma, hflags);
	}
	shared_pt_region_put(region);

	if (ret & (VM_FAULT_RETRY | VM_FAULT_ERROR))
		return VM_FAULT_RETRY | (ret & VM_FAULT_MAJOR);
	return VM_FAULT_COMPLETED | (ret & VM_FAULT_MAJOR);
}

/**
 * shared_pt_fault - handle a fault in a guest
 * @vma: The guest VMA.
 * @address: The address in the guest.
 * @flags: FAULT_FLAG_xxx flags of the guest's fault.
 *
 * The guest gets a link to the host's table; the fault happens in the host.
 *
 * Context: Caller holds the guest's VMA lock (FAULT_FLAG_VMA_LOCK) or
 *          mmap_lock, which is dropped or not as for handle_mm_fault().
 *          May sleep.
 * Return: As handle_mm_fault(); VM_FAULT_SIGSEGV | VM_FAULT_ACCERR if the
 *         region does not permit the access at present.
 */
vm_fault_t shared_pt_fault(struct vm_area_struct *vma, unsigned long address,
			   unsigned int flags)
{
	unsigned long haddr = shared_pt_host_address(vma, address);
	struct mm_struct *host = vma->vm_shared_pt->mm;
	vm_fault_t ret;

	ret = shared_pt_link(vma, address, haddr);
	if (ret)
		return ret;

	if (fault_flag_allow_retry_first(flags) &&
	    !(flags & FAULT_FLAG_RETRY_NOWAIT))
		return shared_pt_fault_unlocked(vma, haddr, flags);

	/*
	 * Here the lock of the guest is its mmap_lock, and is kept.  With
	 * FAULT_FLAG_RETRY_NOWAIT or without FAULT_FLAG_ALLOW_RETRY the core
	 * does not drop the lock of the host either; a second try drops it
	 * only if a fatal signal ends the wait for a folio, or for the host.
	 */
	if (flags & FAULT_FLAG_RETRY_NOWAIT) {
		if (!mmap_read_trylock(host))
			return VM_FAULT_RETRY;
	} else if (mmap_read_lock_killable(host)) {
		/* A caller that does not expect it is to fail, and keeps its lock. */
		if (!(flags & FAULT_FLAG_KILLABLE))
			return VM_FAULT_SIGBUS;
		mmap_read_unlock(vma->vm_mm);
		return VM_FAULT_RETRY;
	}
	ret = shared_pt_host_fault_permitted(vma_lookup(host, haddr), haddr,
					     flags);
	if (!(ret & (VM_FAULT_RETRY | VM_FAULT_COMPLETED)) ||
	    flags & FAULT_FLAG_RETRY_NOWAIT)
		mmap_read_unlock(host);
	else
		mmap_read_unlock(vma->vm_mm);
	return ret;
}

/**
 * shared_pt_unlink - drop the links of a guest
 * @tlb: The mmu_gather of the guest.
 * @vma: The guest VMA.
 * @start: Start of the range.
 * @end: End of the range.
 *
 * Links that the range covers in part only stay: MADV_DONTNEED may ask for
 * any range, and does not lose anything by it.
 *
 * A link leads to 4 KiB entries, so those are what the TLB may hold, besides
 * the link itself in the paging structure caches.
 *
 * Context: Zap phase; caller holds the guest's mmap_lock or is its last user.
 *          May sleep.
 */
void shared_pt_unlink(struct mmu_gather *tlb, struct vm_area_struct *vma,
		      unsigned long start, unsigned long end)
{
	struct mm_struct *mm = vma->vm_mm;
	unsigned long address, next, links = 0;

	/* A link that belongs to two VMAs would be left to free_pgtables(). */
	VM_WARN_ON_ONCE(!IS_ALIGNED(vma->vm_start | vma->vm_end, PMD_SIZE));

	end = ALIGN_DOWN(end, PMD_SIZE);
	for (address = ALIGN(start, PMD_SIZE); address < end; address = next) {
		pmd_t *pmd = shared_pt_find_pmd(mm, address, end, &next);
		spinlock_t *ptl;

		cond_resched();
		if (!pmd || pmd_none(pmdp_get_lockless(pmd)))
			continue;

		ptl = pmd_lock(mm, pmd);
		if (!pmd_none(*pmd)) {
			pmd_clear(pmd);
			tlb_flush_pte_range(tlb, address, PMD_SIZE);
			tlb->freed_tables = 1;
			links++;
		}
		spin_unlock(ptl);
	}

	/*
	 * Nothing else will tell that the guest can still write: there are no
	 * folios in @tlb whose references F_SEAL_WRITE would see.  So flush
	 * before the VMA leaves the count of writable mappings.
	 */
	if (links)
		tlb_flush_mmu_tlbonly(tlb);
	count_vm_events(SHARED_PT_UNLINK, links);
	trace_shared_pt_unlink(mm, start, end, links);
}

static bool shared_pt_sealed_shrink(struct file *file)
{
	long seals = memfd_fcntl(file, F_GET_SEALS, 0);

	return seals > 0 && seals & F_SEAL_SHRINK;
}

/*
 * Lock the VMAs of a part of a host, and those beside it, with which they may be
 * merged.  A fault may hold one for as long as its I/O takes, as with the mmap_lock.
 */
static int shared_pt_host_start_write(struct mm_struct *host,
				      unsigned long hstart, unsigned long hend)
{
#ifdef CONFIG_PER_VMA_LOCK
	VMA_ITERATOR(vmi, host, hstart ? hstart - 1 : 0);
	struct vm_area_struct *hvma;
	unsigned int seq;

	for_each_vma_range(vmi, hvma, hend + 1) {
		/* vma_start_write() */
		if (__is_vma_write_locked(hvma, &seq))
			continue;
		if (down_write_killable(&hvma->vm_lock->lock))
			return -EINTR;
		WRITE_ONCE(hvma->vm_lock_seq, seq);
		up_write(&hvma->vm_lock->lock);
	}
#endif
	return 0;
}

/* Change the protection of a part of a host, whose mmap_lock is held for writing. */
static int shared_pt_host_mprotect(struct mm_struct *host, unsigned long hstart,
				   unsigned long hend, vm_flags_t access)
{
	VMA_ITERATOR(vmi, host, hstart);
	struct vm_area_struct *hvma, *prev;
	struct mmu_gather tlb;
	int ret;

	ret = shared_pt_host_start_write(host, hstart, hend);
	if (ret)
		return ret;

	hvma = vma_find(&vmi, hend);
	prev = vma_prev(&vmi);
	if (hstart > hvma->vm_start)
		prev = hvma;

	tlb_gather_mmu(&tlb, host);
	for_each_vma_range(vmi, hvma, hend) {
		vm_flags_t flags = (hvma->vm_flags & ~VM_ACCESS_FLAGS) | access;
		unsigned long next = min(hvma->vm_end, hend);

		ret = mprotect_fixup(&vmi, &tlb, hvma, &prev, hstart, next,
				     flags);
		if (ret)
			break;
		hstart = vma_iter_end(&vmi);
	}
	tlb_finish_mmu(&tlb);
	return ret;
}

/* PR_SET_MDWE: nothing becomes executable that is not, whatever could be asked for. */
static bool shared_pt_mdwe_denies(struct mm_struct *host, unsigned long hstart,
				  unsigned long hend, vm_flags_t access)
{
	VMA_ITERATOR(vmi, host, hstart);
	struct vm_area_struct *hvma;

	for_each_vma_range(vmi, hvma, hend) {
		if (map_deny_write_exec(hvma->vm_flags, access))
			return true;
	}
	return false;
}

/**
 * shared_pt_mprotect - change the protection of part of a region
 * @vma: The guest VMA through which it is done.
 * @start: Start of the range, within @vma.
 * @end: End of the range, within @vma.
 * @newflags: The access flags to be, among others.
 *
 * All guests of the region see the change at once: their VMAs stay as they
 * are, it is the host VMA that is split, and the one flush of its mmu_gather
 * reaches all CPUs.
 *
 * Who opened the file read-only, or maps a memfd sealed against writing, shares
 * with nobody who may write, but perhaps with somebody who relies on being able
 * to read.  So the protection of such a class is fixed.
 *
 * Who maps a memfd that is sealed against shrinking relies on that, too, and
 * the right to read is not taken from him.  That is tested under the lock of
 * the host: after a call of his own, no call goes on that found no seal.
 *
 * Context: Caller holds the guest's mmap_lock for writing.  Takes the host's.
 * Return: 0; -EACCES if @newflags exceed what the class asked for at mmap(),
 *         the class is a read-only one, or PR_SET_MDWE forbids it; -EPERM if a
 *         seal does;
 *         -ENOMEM if the host VMA cannot be split; -EINTR if a fatal signal
 *         is pending.
 */
int shared_pt_mprotect(struct vm_area_struct *vma, unsigned long start,
		       unsigned long end, vm_flags_t newflags)
{
	struct mm_struct *host = vma->vm_shared_pt->mm;
	unsigned long hstart = shared_pt_host_address(vma, start);
	unsigned long hend = hstart + (end - start);
	vm_flags_t access = newflags & VM_ACCESS_FLAGS;
	vm_flags_t ceiling = vma->vm_flags & VM_ACCESS_FLAGS;
	int ret;

	if (access & ~ceiling)
		return shared_pt_refuse(SHARED_PT_CEILING);
	if (!vma_is_shared_maywrite(vma))
		return access == ceiling ? 0 :
					   shared_pt_refuse(SHARED_PT_READ_ONLY);

	if (mmap_write_lock_killable(host))
		return -EINTR;

	if (access != ceiling && !(access & VM_READ) &&
	    shared_pt_sealed_shrink(vma->vm_file))
		ret = shared_pt_refuse(SHARED_PT_SEALED);
	else if (shared_pt_mdwe_denies(host, hstart, hend, access))
		ret = shared_pt_refuse(SHARED_PT_CEILING);
	else
		ret = shared_pt_host_mprotect(host, hstart, hend, access);
	mmap_write_unlock(host);
	return ret;
}

/**
 * shared_pt_madvise - decide on an advice to a guest
 * @behavior: The MADV_xxx advice.
 *
 * Advice about the future use of the region by one of its sharers means
 * little for the others, so it is ignored.  What acts on the file, or on no more
 * than the caller's links and flags, is as for any other mapping.  The rest,
 * such as advice that changes entries of the tables, is refused.
 *
 * Return: 0 to act on the guest VMA as on any other; 1 to do nothing;
 *         -EINVAL to refuse.
 */
int shared_pt_madvise(int behavior)
{
	switch (behavior) {
	case MADV_NORMAL:
	case MADV_RANDOM:
	case MADV_SEQUENTIAL:
	case MADV_NOHUGEPAGE:
		return 1;
	case MADV_WILLNEED:
	case MADV_REMOVE:
	case MADV_DONTNEED:
	case MADV_DONTNEED_LOCKED:
	case MADV_DONTFORK:
	case MADV_DOFORK:
	case MADV_DONTDUMP:
	case MADV_DODUMP:
	case MADV_MERGEABLE:
	case MADV_UNMERGEABLE:
	case MADV_KEEPONFORK:
		return 0;
	default:
		return shared_pt_refuse(SHARED_PT_MADVISE);
	}
}

/**
 * shared_pt_mm_has_guests - does a process use any region?
 * @mm: Its mm.
 *
 * Context: Caller holds the mmap_lock of @mm.
 * Return: true if a VMA of @mm is a guest.
 */
bool shared_pt_mm_has_guests(struct mm_struct *mm)
{
	struct vm_area_struct *vma;
	VMA_ITERATOR(vmi, mm, 0);

	mmap_assert_locked(mm);
	for_each_vma(vmi, vma)
		if (vma_is_shared_pt(vma))
			return true;
	return false;
}

/**
 * shared_pt_find_guest - find a guest by file offset and mm
 * @mapping: The file mapping.
 * @pgoff: The offset, in pages.
 * @mm: The mm.
 *
 * For those who look for the processes that map a folio, where rmap only
 * knows about hosts.
 *
 * Context: Caller holds @mapping->i_mmap_rwsem and the RCU read lock.
 * Return: A guest VMA of @mm that covers @pgoff of @mapping, or NULL.
 */
struct vm_area_struct *shared_pt_find_guest(struct address_space *mapping,
					    pgoff_t pgoff,
					    struct mm_struct *mm)
{
	struct shared_pt_region *region;
	struct vm_area_struct *vma;

	hash_for_each_possible_rcu(shared_pt_regions, region, node,
				   (unsigned long)mapping) {
		if (region->mapping != mapping)
			continue;
		vma_interval_tree_foreach(vma, &region->guests, pgoff, pgoff)
			if (vma->vm_mm == mm)
				return vma;
	}
	return NULL;
}

/**
 * __shared_pt_sharers - count the guests of a region
 * @vma: One of them.
 *
 * Guests that do not cover the page in question count as well, and so does
 * each piece of a guest that was split.
 *
 * Context: Any.  The count may change at once.
 * Return: The number of guests, at least 1 for @vma.
 */
unsigned int __shared_pt_sharers(struct vm_area_struct *vma)
{
	return atomic_read(&vma->vm_shared_pt->nr_guests);
}

/* A region that a process uses, and how much of it its guests could hold. */
struct shared_pt_use {
	struct shared_pt_region *region;
	unsigned long room;
};

static unsigned long shared_pt_use_pages(const struct shared_pt_use *use)
{
	struct mm_struct *host = use->region->mm;

	return min(get_mm_rss(host) + mm_pgtables_bytes(host) / PAGE_SIZE,
		   use->room);
}

/**
 * __shared_pt_oom_pages - what a process uses of regions
 * @mm: Its mm.
 *
 * How much of a region lies behind a guest is not known, only how much there
 * is altogether, and how much there may be.  A region counts once, wherever its
 * guests are; who uses more than 16 regions in turn may have some counted again,
 * but never more than fits into all guests.  Of a process with very many VMAs only
 * the upper ones are looked at, since the OOM killer does this for all processes
 * and holds back everybody else.
 *
 * The VMAs are looked at under RCU only, since the OOM killer cannot wait for
 * an mmap_lock.  A region is freed a grace period after the last of them.
 *
 * Context: Any; @mm must not be on its way out (task_lock() of a user of it).
 * Return: Resident pages and page tables of the regions, in pages, as far as
 *         they fit into the guests of @mm.
 */
unsigned long __shared_pt_oom_pages(struct mm_struct *mm)
{
	MA_STATE(mas, &mm->mm_mt, ULONG_MAX, ULONG_MAX);
	unsigned int i, used = 0, oldest = 0, left = 1024;
	struct shared_pt_region *region;
	struct shared_pt_use uses[16];
	struct vm_area_struct *vma;
	unsigned long pages = 0;

	rcu_read_lock();
	while (left-- && (vma = mas_find_rev(&mas, 0))) {
		region = vma_is_shared_pt(vma) ? READ_ONCE(vma->vm_shared_pt) : NULL;
		if (!region)
			continue;
		for (i = 0; i < used; i++)
			if (uses[i].region == region)
				break;
		if (i == used && used < ARRAY_SIZE(uses)) {
			uses[used++] = (struct shared_pt_use){ region };
		} else if (i == used) {
			i = oldest++ % ARRAY_SIZE(uses);
			pages += shared_pt_use_pages(&uses[i]);
			uses[i] = (struct shared_pt_use){ region };
		}
		uses[i].room += vma_pages(vma) + vma_pages(vma) / PTRS_PER_PTE;
	}
	for (i = 0; i < used; i++)
		pages += shared_pt_use_pages(&uses[i]);
	rcu_read_unlock();
	return pages;
}

static bool shared_pt_file_ok(struct file *file)
{
	struct inode *inode = file_inode(file);

	if (!S_ISREG(inode->i_mode) || IS_DAX(inode))
		return false;
	return shmem_mapping(file->f_mapping) ||
	       inode->i_sb->s_type->fs_flags & FS_ALLOW_SHARED_PT;
}

/*
 * Can mmap(MAP_SHARED_PT) do what it is asked for?  May be asked before; what
 * counts is the answer while the caller holds its own mmap_lock for writing.
 */
static int shared_pt_mmap_check(struct file *file, unsigned long addr,
				unsigned long len, unsigned long prot,
				unsigned long flags, unsigned long pgoff)
{
	unsigned long type = flags & MAP_TYPE;

	if ((type != MAP_SHARED && type != MAP_SHARED_VALIDATE) || !file)
		return shared_pt_refuse(SHARED_PT_NOT_SHARED);
	if (!IS_ALIGNED(len, PMD_SIZE) ||
	    !IS_ALIGNED(pgoff, PMD_SIZE >> PAGE_SHIFT) ||
	    (flags & MAP_FIXED && !IS_ALIGNED(addr, PMD_SIZE)))
		return shared_pt_refuse(SHARED_PT_ALIGNMENT);
	/* Alone, PROT_EXEC is implemented by a protection key. */
	if (prot == PROT_EXEC)
		return shared_pt_refuse(SHARED_PT_EXEC_ONLY);
	if (flags & MAP_LOCKED)
		return shared_pt_refuse(SHARED_PT_MLOCK);
	/* MAP_SYNC is for DAX. */
	if (!shared_pt_file_ok(file) || flags & MAP_SYNC)
		return shared_pt_refuse(SHARED_PT_FILE);
	if (len > SHARED_PT_HOST_END ||
	    pgoff > (SHARED_PT_HOST_END - len) >> PAGE_SHIFT)
		return shared_pt_refuse(SHARED_PT_RANGE);
	if (mm_has_notifiers(current->mm))
		return shared_pt_refuse(SHARED_PT_NOTIFIER);
	return 0;
}

/* Is there no guest, or will soon be none? */
static bool shared_pt_deserted(struct shared_pt_region *region)
{
	bool ret;

	i_mmap_lock_read(region->mapping);
	ret = RB_EMPTY_ROOT(&region->guests.rb_root);
	i_mmap_unlock_read(region->mapping);
	return ret;
}

/* Is a part of it protected other than was asked for? */
static bool shared_pt_is_changed(struct shared_pt_region *region)
{
	VMA_ITERATOR(vmi, region->mm, 0);
	struct vm_area_struct *hvma;

	for_each_vma(vmi, hvma)
		if ((hvma->vm_flags ^ region->class) & VM_ACCESS_FLAGS)
			return true;
	return false;
}

/*
 * A region is found as long as a fault goes on that began before its last guest was
 * unmapped.  Who joins it then is to find what he would find a moment later: one that
 * is new, and not the protection that somebody left who is gone.
 */
static int shared_pt_renew(struct shared_pt_region *region)
{
	int ret = 0;

	if (!is_shared_maywrite(region->class) || !shared_pt_deserted(region))
		return 0;
	if (mmap_write_lock_killable(region->mm))
		return -EINTR;
	/* A guest that comes after this has still to take the lock for mprotect(). */
	if (shared_pt_deserted(region) && shared_pt_is_changed(region))
		ret = shared_pt_host_mprotect(region->mm, 0, SHARED_PT_HOST_END,
					      region->class & VM_ACCESS_FLAGS);
	mmap_write_unlock(region->mm);
	return ret;
}

/**
 * shared_pt_mmap_region - mmap_region() for a guest
 * @file: The file.
 * @addr: The address.
 * @len: The length in bytes.
 * @vm_flags: The flags of the VMA to be.
 * @pgoff: The offset into @file, in pages.
 * @uf: The userfaultfd list_head.
 *
 * The region is made first: what may fail should do so before an old mapping
 * is gone.
 *
 * Context: As mmap_region(); caller holds its own mmap_lock for writing.
 * Return: The address, or a negative errno, that of shared_pt_region_get() or
 *         of mmap_region(), or -EINTR if a fatal signal is pending.
 */
unsigned long shared_pt_mmap_region(struct file *file, unsigned long addr,
				    unsigned long len, vm_flags_t vm_flags,
				    unsigned long pgoff, struct list_head *uf)
{
	struct shared_pt_region *region;
	unsigned long ret;

	region = shared_pt_region_get(file, vm_flags, pgoff, len);
	if (IS_ERR(region))
		return PTR_ERR(region);
	ret = shared_pt_renew(region);
	if (!ret)
		ret = mmap_region(file, addr, len, vm_flags, pgoff, uf);
	shared_pt_region_put(region);
	return ret;
}

/**
 * shared_pt_file - get the file for a guest to map
 * @file: The file that was given to mmap(); NULL if none was.
 * @addr: The address, which counts if it is fixed.
 * @len: The length in bytes.
 * @prot: PROT_xxx flags.
 * @flags: MAP_xxx flags.
 * @pgoff: The offset into @file, in pages.
 *
 * The host keeps the file of its first guest open for as long as there is any
 * guest.  That must not be a file a process has locks or leases on, which it
 * would hold beyond its exit.  So the guest maps a file opened anew; whether it
 * may map the one it has is asked before, since a security module may know
 * something about that one.
 *
 * An anonymous mapping gets its file here rather than in mmap_region(), since
 * the region is found by the file.
 *
 * Context: May sleep; caller does not hold mmap_lock.
 * Return: @file or, its reference dropped, what replaces it, or ERR_PTR(): as
 *         shared_pt_mmap_prepare(), or what a security module or opening the
 *         file returned.
 */
struct file *shared_pt_file(struct file *file, unsigned long addr,
			    unsigned long len, unsigned long prot,
			    unsigned long flags, unsigned long pgoff)
{
	unsigned long type = flags & MAP_TYPE;
	vm_flags_t vm_flags = 0;
	struct file *new;
	int ret;

	if (!file && (type == MAP_SHARED || type == MAP_SHARED_VALIDATE)) {
		if (flags & MAP_NORESERVE &&
		    sysctl_overcommit_memory != OVERCOMMIT_NEVER)
			vm_flags = VM_NORESERVE;
		return shmem_kernel_file_setup("dev/zero", len, vm_flags);
	}

	ret = shared_pt_mmap_check(file, addr, len, prot, flags, pgoff);
	if (!ret)
		ret = security_mmap_file(file, prot, flags);
	if (ret) {
		new = ERR_PTR(ret);
	} else {
		/* Not to be waited for, or noticed: the file is open already. */
		new = dentry_open(&file->f_path, O_LARGEFILE | O_NONBLOCK |
				  __FMODE_NONOTIFY |
				  (file->f_flags & (O_ACCMODE | O_NOATIME)),
				  file->f_cred);
	}
	if (file)
		fput(file);
	return new;
}

/**
 * shared_pt_mmap_prepare - check mmap(MAP_SHARED_PT), and find room for it
 * @file: The file, or NULL.
 * @addr: The address, which is a wish unless it is fixed.
 * @len: The length in bytes, as the caller gave it.
 * @prot: PROT_xxx flags.
 * @flags: MAP_xxx flags.
 * @pgoff: The offset into @file, in pages.
 *
 * A guest of a gigabyte or more gets an address congruent to its offset modulo
 * PUD_SIZE, if there is room, so that tables of a higher level match too.
 *
 * Context: Caller holds its own mmap_lock for writing.
 * Return: An address that is a multiple of PMD_SIZE; -EINVAL if the mapping is
 *         not a shared one, if a fixed @addr, @len or @pgoff is no such
 *         multiple, or if @prot or @flags ask for what a guest cannot have;
 *         -EOPNOTSUPP if page tables of @file cannot be shared; -EOVERFLOW if
 *         the range does not fit into a host; -EBUSY if the process has mmu
 *         notifiers; what get_unmapped_area() returns if there is no room.
 */
unsigned long shared_pt_mmap_prepare(struct file *file, unsigned long addr,
				     unsigned long len, unsigned long prot,
				     unsigned long flags, unsigned long pgoff)
{
	unsigned long align = len >= PUD_SIZE ? PUD_SIZE : PMD_SIZE;
	unsigned long offset = pgoff << PAGE_SHIFT;
	struct mm_struct *mm = current->mm;
	unsigned long ret;

	ret = shared_pt_mmap_check(file, addr, len, prot, flags, pgoff);
	if (ret)
		return ret;
	if (flags & MAP_FIXED)
		return addr;
	if (addr) {
		addr = ALIGN(addr, PMD_SIZE);
		ret = mm_get_unmapped_area(mm, file, addr, len, pgoff, flags);
		if (ret == addr)
			return ret;
	}

retry:
	ret = mm_get_unmapped_area(mm, file, addr, len + align, pgoff, flags);
	if (!IS_ERR_VALUE(ret))
		return ret + ((offset - ret) & (align - 1));
	if (align == PMD_SIZE)
		return ret;
	align = PMD_SIZE;
	goto retry;
}
