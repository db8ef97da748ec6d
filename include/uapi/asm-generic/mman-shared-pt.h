/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
#ifndef __ASM_GENERIC_MMAN_SHARED_PT_H
#define __ASM_GENERIC_MMAN_SHARED_PT_H

/*
 * With MAP_SHARED or MAP_SHARED_VALIDATE: share the page tables of the mapping
 * with all processes that map the same file in the same way.  The same bit on
 * all architectures.
 */
#define MAP_SHARED_PT	0x400000

#endif /* __ASM_GENERIC_MMAN_SHARED_PT_H */
