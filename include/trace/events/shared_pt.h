/* SPDX-License-Identifier: GPL-2.0 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM shared_pt

#if !defined(_TRACE_SHARED_PT_H) || defined(TRACE_HEADER_MULTI_READ)
#define _TRACE_SHARED_PT_H

#include <linux/fs.h>
#include <linux/mm.h>
#include <linux/tracepoint.h>
#include <trace/events/mmflags.h>

#define SHARED_PT_REFUSAL						\
	EM(SHARED_PT_NOT_SHARED,	"not_shared")			\
	EM(SHARED_PT_ALIGNMENT,		"alignment")			\
	EM(SHARED_PT_EXEC_ONLY,		"exec_only")			\
	EM(SHARED_PT_PKEY,		"pkey")				\
	EM(SHARED_PT_FILE,		"file")				\
	EM(SHARED_PT_RANGE,		"range")			\
	EM(SHARED_PT_NOTIFIER,		"mmu_notifier")			\
	EM(SHARED_PT_SPLIT,		"split")			\
	EM(SHARED_PT_CEILING,		"ceiling")			\
	EM(SHARED_PT_READ_ONLY,		"read_only")			\
	EM(SHARED_PT_SEALED,		"sealed")			\
	EM(SHARED_PT_MLOCK,		"mlock")			\
	EM(SHARED_PT_MREMAP,		"mremap")			\
	EM(SHARED_PT_MSEAL,		"mseal")			\
	EM(SHARED_PT_MADVISE,		"madvise")			\
	EMe(SHARED_PT_USERFAULTFD,	"userfaultfd")

#undef EM
#undef EMe
#define EM(a, b)	TRACE_DEFINE_ENUM(a);
#define EMe(a, b)	TRACE_DEFINE_ENUM(a);

SHARED_PT_REFUSAL

#undef EM
#undef EMe
#define EM(a, b)	{ a, b },
#define EMe(a, b)	{ a, b }

DECLARE_EVENT_CLASS(shared_pt_region,

	TP_PROTO(struct mm_struct *host, struct address_space *mapping,
		 unsigned long class),

	TP_ARGS(host, mapping, class),

	TP_STRUCT__entry(
		__field(struct mm_struct *, host)
		__field(dev_t, dev)
		__field(unsigned long, ino)
		__field(unsigned long, class)
	),

	TP_fast_assign(
		__entry->host = host;
		__entry->dev = mapping->host->i_sb->s_dev;
		__entry->ino = mapping->host->i_ino;
		__entry->class = class;
	),

	TP_printk("host=%p dev=%d:%d ino=%lu class=%s",
		  __entry->host, MAJOR(__entry->dev), MINOR(__entry->dev),
		  __entry->ino, show_vma_flags(__entry->class))
);

/**
 * shared_pt_region_create - a file got page tables to share
 * @host: The mm that owns them.
 * @mapping: The file mapping.
 * @class: The access flags all guests agree on.
 */
DEFINE_EVENT(shared_pt_region, shared_pt_region_create,
	TP_PROTO(struct mm_struct *host, struct address_space *mapping,
		 unsigned long class),
	TP_ARGS(host, mapping, class)
);

/**
 * shared_pt_region_free - the page tables of a region are about to be freed
 * @host: The mm that owns them.
 * @mapping: The file mapping.
 * @class: The access flags all guests agreed on.
 */
DEFINE_EVENT(shared_pt_region, shared_pt_region_free,
	TP_PROTO(struct mm_struct *host, struct address_space *mapping,
		 unsigned long class),
	TP_ARGS(host, mapping, class)
);

/**
 * shared_pt_link - a guest has linked a table of its host
 * @mm: The mm of the guest.
 * @host: The host mm.
 * @address: The address in the guest.
 * @haddr: The address in the host, which is the file offset.
 */
TRACE_EVENT(shared_pt_link,

	TP_PROTO(struct mm_struct *mm, struct mm_struct *host,
		 unsigned long address, unsigned long haddr),

	TP_ARGS(mm, host, address, haddr),

	TP_STRUCT__entry(
		__field(struct mm_struct *, mm)
		__field(struct mm_struct *, host)
		__field(unsigned long, address)
		__field(unsigned long, haddr)
	),

	TP_fast_assign(
		__entry->mm = mm;
		__entry->host = host;
		__entry->address = address;
		__entry->haddr = haddr;
	),

	TP_printk("mm=%p host=%p address=0x%lx haddr=0x%lx",
		  __entry->mm, __entry->host, __entry->address, __entry->haddr)
);

/**
 * shared_pt_unlink - a guest has dropped links
 * @mm: The mm of the guest.
 * @start: Start of the range in the guest.
 * @end: End of the range in the guest.
 * @links: How many links there were.
 */
TRACE_EVENT(shared_pt_unlink,

	TP_PROTO(struct mm_struct *mm, unsigned long start, unsigned long end,
		 unsigned long links),

	TP_ARGS(mm, start, end, links),

	TP_STRUCT__entry(
		__field(struct mm_struct *, mm)
		__field(unsigned long, start)
		__field(unsigned long, end)
		__field(unsigned long, links)
	),

	TP_fast_assign(
		__entry->mm = mm;
		__entry->start = start;
		__entry->end = end;
		__entry->links = links;
	),

	TP_printk("mm=%p start=0x%lx end=0x%lx links=%lu",
		  __entry->mm, __entry->start, __entry->end, __entry->links)
);

/**
 * shared_pt_refused - something cannot be done with shared page tables
 * @mm: The mm of the process that asked for it.
 * @reason: What it was.
 * @error: The error it gets.
 */
TRACE_EVENT(shared_pt_refused,

	TP_PROTO(struct mm_struct *mm, int reason, int error),

	TP_ARGS(mm, reason, error),

	TP_STRUCT__entry(
		__field(struct mm_struct *, mm)
		__field(int, reason)
		__field(int, error)
	),

	TP_fast_assign(
		__entry->mm = mm;
		__entry->reason = reason;
		__entry->error = error;
	),

	TP_printk("mm=%p reason=%s error=%d", __entry->mm,
		  __print_symbolic(__entry->reason, SHARED_PT_REFUSAL),
		  __entry->error)
);

#undef EM
#undef EMe
#endif /* _TRACE_SHARED_PT_H */

/* This part must be outside protection */
#include <trace/define_trace.h>
