/* SPDX-License-Identifier: GPL-2.0 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM cow_pte

#if !defined(_TRACE_COW_PTE_H) || defined(TRACE_HEADER_MULTI_READ)
#define _TRACE_COW_PTE_H

#include <linux/cow_pte.h>
#include <linux/tracepoint.h>

#define COW_PTE_REFUSALS					\
	EM(COW_PTE_NOTIFIERS,	"mmu_notifiers")		\
	EM(COW_PTE_UPROBES,	"uprobes")			\
	EM(COW_PTE_NO_MEMORY,	"no_memory")			\
	EM(COW_PTE_MANY,	"many_relatives")		\
	EM(COW_PTE_VMA,		"vma")				\
	EM(COW_PTE_PINNED,	"pinned")			\
	EM(COW_PTE_SPECIAL,	"special_entry")		\
	EMe(COW_PTE_FEW,	"few_entries")

#undef EM
#undef EMe
#define EM(a, b)	TRACE_DEFINE_ENUM(a);
#define EMe(a, b)	TRACE_DEFINE_ENUM(a);

COW_PTE_REFUSALS

#undef EM
#undef EMe
#define EM(a, b)	{ a, b },
#define EMe(a, b)	{ a, b }

/**
 * cow_pte_refuse - called when fork does not share a table, or none at all
 * @mm: The parent.
 * @addr: Where, 0 if the reason is with the parent as a whole.
 * @reason: Why.
 */
TRACE_EVENT(cow_pte_refuse,

	TP_PROTO(struct mm_struct *mm, unsigned long addr,
		 enum cow_pte_refusal reason),

	TP_ARGS(mm, addr, reason),

	TP_STRUCT__entry(
		__field(struct mm_struct *,	mm)
		__field(unsigned long,		addr)
		__field(int,			reason)
	),

	TP_fast_assign(
		__entry->mm = mm;
		__entry->addr = addr;
		__entry->reason = reason;
	),

	TP_printk("mm=%p addr=0x%lx reason=%s", __entry->mm, __entry->addr,
		  __print_symbolic(__entry->reason, COW_PTE_REFUSALS))
);

/**
 * cow_pte_unshare - called when an mm wants a shared table for itself
 * @mm: The mm.
 * @error: 0, or why it could not have it.
 */
TRACE_EVENT(cow_pte_unshare,

	TP_PROTO(struct mm_struct *mm, int error),

	TP_ARGS(mm, error),

	TP_STRUCT__entry(
		__field(struct mm_struct *,	mm)
		__field(int,			error)
	),

	TP_fast_assign(
		__entry->mm = mm;
		__entry->error = error;
	),

	TP_printk("mm=%p error=%d", __entry->mm, __entry->error)
);

#endif /* _TRACE_COW_PTE_H */

#include <trace/define_trace.h>
