// SPDX-License-Identifier: GPL-2.0
/*
 * Who maps a large folio, as far as a process can tell: by what is copied on
 * write and what is not, by what others see, and by what /proc says.
 *
 * Needs root, transparent huge pages and CONFIG_MM_ID; swap for some cases.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <linux/kernel-page-flags.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "../kselftest_harness.h"
#include "vm_util.h"

#define KB		1024UL
#define MB		(KB * KB)
#define PAGE		4096UL
#define ROOM		(2 * MB)	/* a folio is somewhere in as much */
#define SECONDS		120		/* until a test has hung */
#define THP		"/sys/kernel/mm/transparent_hugepage/"
#define CGROUP		"/sys/fs/cgroup/"

#ifndef __NR_pidfd_open
#define __NR_pidfd_open	434
#endif
#ifndef __NR_process_madvise
#define __NR_process_madvise	440
#endif
#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT	21
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE	25
#endif

/* ---- what the kernel says ------------------------------------------------ */

static int pagemap_fd, kpagecount_fd, kpageflags_fd;

static int write_to(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);
	int ret = fd < 0 ? -1 : write(fd, text, strlen(text));

	if (fd >= 0)
		close(fd);
	return ret < 0 ? -1 : 0;
}

/* The number after @key in a file of lines; -1 if there is none. */
static long number_in(const char *path, const char *key)
{
	FILE *f = fopen(path, "r");
	char line[256];
	long n = -1;

	while (f && n < 0 && fgets(line, sizeof(line), f))
		if (!strncmp(line, key, strlen(key)))
			n = atol(line + strlen(key));
	if (f)
		fclose(f);
	return n;
}

/* In smaps of the mapping at @p. */
static long smaps_kb(void *p, const char *key)
{
	FILE *f = fopen("/proc/self/smaps", "r");
	unsigned long start, end;
	bool here = false;
	char line[512];
	long n = -1;

	while (f && n < 0 && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
			here = start <= (unsigned long)p && (unsigned long)p < end;
		else if (here && !strncmp(line, key, strlen(key)))
			n = atol(line + strlen(key));
	}
	if (f)
		fclose(f);
	return n;
}

/* A counter as the sum of what all CPUs have. */
static long settled(const char *path, const char *key)
{
	write_to("/proc/sys/vm/stat_refresh", "1");
	return number_in(path, key);
}

static unsigned long pfn(char *p)
{
	return pagemap_get_pfn(pagemap_fd, p);
}

static bool exclusive(char *p)
{
	return pagemap_get_entry(pagemap_fd, p) >> 56 & 1;
}

static bool present(char *p)
{
	return pagemap_get_entry(pagemap_fd, p) >> 63 & 1;
}

static uint64_t kpagecount(unsigned long pfn)
{
	uint64_t n = -1;

	if (pread(kpagecount_fd, &n, 8, pfn * 8) != 8)
		return -1;
	return n;
}

static bool has_flag(unsigned long pfn, int flag)
{
	uint64_t flags;

	return pread(kpageflags_fd, &flags, 8, pfn * 8) == 8 &&
	       flags >> flag & 1;
}

/* Of no page does a CPU hold a reference, for the LRU lists, after that. */
static void drain_lru(void)
{
	write_to("/proc/sys/vm/drop_caches", "1");
}

/* Reclaim from this process alone, until the page at @p is not mapped. */
static bool reclaim(char *p, const char *group)
{
	char path[128];
	int i;

	snprintf(path, sizeof(path), "%s/memory.reclaim", group);
	for (i = 0; i < 100 && present(p); i++)
		write_to(path, "64M");
	return !present(p);
}

/* Move to a new cgroup, from which only what it has can be reclaimed. */
static bool own_cgroup(char group[64])
{
	char path[128];

	write_to(CGROUP "cgroup.subtree_control", "+memory");
	snprintf(group, 64, CGROUP "folio_mapcount_%d", getpid());
	snprintf(path, sizeof(path), "%s/memory.reclaim", group);
	if (mkdir(group, 0755) || access(path, W_OK))
		return false;
	snprintf(path, sizeof(path), "%s/cgroup.procs", group);
	return !write_to(path, "0");
}

static void leave_cgroup(const char *group)
{
	int i;

	write_to(CGROUP "cgroup.procs", "0");
	for (i = 0; i < 50 && rmdir(group); i++)
		usleep(20000);
}

/* ---- folios -------------------------------------------------------------- */

/* Change a setting with a word in brackets, which is kept in @old. */
static bool change(const char *path, const char *how, char old[16])
{
	char text[256] = "", *start, *end;
	int fd = open(path, O_RDONLY);

	if (fd < 0 || read(fd, text, sizeof(text) - 1) <= 0)
		return false;
	close(fd);
	start = strchr(text, '[');
	end = start ? strchr(start, ']') : NULL;
	if (!end)
		return false;
	*end = 0;
	snprintf(old, 16, "%.15s", start + 1);
	return !write_to(path, how);
}

static bool is_folio(char *p, unsigned long size)
{
	unsigned long i, first = pfn(p);

	if (first == -1UL || !has_flag(first, KPF_COMPOUND_HEAD))
		return false;
	for (i = 1; i < size / PAGE; i++)
		if (pfn(p + i * PAGE) != first + i ||
		    !has_flag(first + i, KPF_COMPOUND_TAIL))
			return false;
	return !has_flag(first + i, KPF_COMPOUND_TAIL);
}

/*
 * An anonymous folio of @size, each page filled with its number, mapped by PTEs
 * unless that of a PMD is asked for; NULL if there is none to be had.
 */
static char *new_folio_mapped(unsigned long size, bool pmd)
{
	char *room, *p, path[128], old[16];
	unsigned long i;

	snprintf(path, sizeof(path), THP "hugepages-%lukB/enabled", size / KB);
	room = mmap(NULL, ROOM + size, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (room == MAP_FAILED)
		return NULL;
	p = (char *)(((unsigned long)room + size - 1) & -size);
	/* Nothing else in this VMA, so that smaps is about the folio. */
	if (p > room)
		munmap(room, p - room);
	munmap(p + size, room + ROOM - p);
	if (!change(path, "always", old))
		return NULL;
	p[0] = 0;
	write_to(path, old);
	/* To protect a page and back again splits the PMD, not the folio. */
	if (!pmd && (mprotect(p, PAGE, PROT_READ) ||
		     mprotect(p, PAGE, PROT_READ | PROT_WRITE)))
		return NULL;
	if (!is_folio(p, size))
		return NULL;
	for (i = 0; i < size / PAGE; i++)
		p[i * PAGE] = i;
	return p;
}

static char *new_folio(unsigned long size)
{
	return new_folio_mapped(size, false);
}

/* ---- processes ----------------------------------------------------------- */

struct control {
	int ready, go, value;
};

#define load(p)		__atomic_load_n(p, __ATOMIC_SEQ_CST)
#define store(p, v)	__atomic_store_n(p, v, __ATOMIC_SEQ_CST)

static pid_t spawn(void)
{
	pid_t parent = getpid(), pid = fork();

	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent)
			_exit(99);
	}
	return pid;
}

static int reap(pid_t pid)
{
	int status;

	if (pid <= 0 || waitpid(pid, &status, 0) != pid)
		return 255;
	return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static bool wait_for(int *p, int v)
{
	int i;

	for (i = 0; i < 60000 && load(p) < v; i++)
		usleep(1000);
	return load(p) >= v;
}

/* ---- fixture ------------------------------------------------------------- */

FIXTURE(folio)
{
	char *p;
	unsigned long size, nr;
	unsigned long pfns[512];
	struct control *ctl;
};

FIXTURE_VARIANT(folio)
{
	unsigned long size;
};

FIXTURE_VARIANT_ADD(folio, 16K)
{
	.size = 16 * KB,
};

FIXTURE_VARIANT_ADD(folio, 64K)
{
	.size = 64 * KB,
};

FIXTURE_VARIANT_ADD(folio, 2M)
{
	.size = 2 * MB,
};

FIXTURE_SETUP(folio)
{
	unsigned long i;

	if (sizeof(long) < 8)
		SKIP(return, "not tracked on 32-bit");
	pagemap_fd = open("/proc/self/pagemap", O_RDONLY);
	kpagecount_fd = open("/proc/kpagecount", O_RDONLY);
	kpageflags_fd = open("/proc/kpageflags", O_RDONLY);
	if (pagemap_fd < 0 || kpagecount_fd < 0 || kpageflags_fd < 0)
		SKIP(return, "needs root");
	self->ctl = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, self->ctl);
	self->size = variant->size;
	self->nr = self->size / PAGE;
	self->p = new_folio(self->size);
	if (!self->p)
		SKIP(return, "no folio of this size");
	for (i = 0; i < self->nr; i++)
		self->pfns[i] = pfn(self->p + i * PAGE);
}

FIXTURE_TEARDOWN(folio)
{
}

/* Write to each page; how many are where they were? */
static unsigned long write_all(char *p, unsigned long nr, unsigned long *pfns)
{
	unsigned long i, same = 0;

	for (i = 0; i < nr; i++) {
		p[i * PAGE] ^= 0x55;
		same += pfn(p + i * PAGE) == pfns[i];
		p[i * PAGE] ^= 0x55;
	}
	return same;
}

static unsigned long wrong(char *p, unsigned long nr)
{
	unsigned long i, n = 0;

	for (i = 0; i < nr; i++)
		n += p[i * PAGE] != (char)i;
	return n;
}

/* ---- copy on write -------------------------------------------------------- */

TEST_F_TIMEOUT(folio, reused_after_child_exit, SECONDS)
{
	pid_t pid = spawn();

	if (!pid)
		_exit(wrong(self->p, self->nr) != 0);
	ASSERT_EQ(0, reap(pid));
	EXPECT_EQ(self->nr, write_all(self->p, self->nr, self->pfns));
	EXPECT_EQ(0, wrong(self->p, self->nr));
}

TEST_F_TIMEOUT(folio, copied_while_child_lives, SECONDS)
{
	pid_t pid = spawn();

	if (!pid) {
		if (!wait_for(&self->ctl->go, 1))
			_exit(2);
		_exit(wrong(self->p, self->nr) != 0);
	}
	memset(self->p, 0xee, self->size);
	EXPECT_NE(self->pfns[0], pfn(self->p));
	EXPECT_NE(self->pfns[self->nr - 1], pfn(self->p + self->size - PAGE));
	store(&self->ctl->go, 1);
	EXPECT_EQ(0, reap(pid));
}

TEST_F_TIMEOUT(folio, child_writes_are_its_own, SECONDS)
{
	pid_t pid = spawn();

	if (!pid) {
		memset(self->p, 0xee, self->size);
		_exit(0);
	}
	ASSERT_EQ(0, reap(pid));
	EXPECT_EQ(0, wrong(self->p, self->nr));
	EXPECT_EQ(self->nr, write_all(self->p, self->nr, self->pfns));
}

/* It is the child that is left. */
TEST_F_TIMEOUT(folio, reused_by_the_child, SECONDS)
{
	pid_t pid = spawn();

	if (!pid) {
		if (!wait_for(&self->ctl->go, 1))
			_exit(2);
		close(pagemap_fd);
		pagemap_fd = open("/proc/self/pagemap", O_RDONLY);
		_exit(write_all(self->p, self->nr, self->pfns) != self->nr);
	}
	ASSERT_EQ(0, munmap(self->p, self->size));
	store(&self->ctl->go, 1);
	EXPECT_EQ(0, reap(pid));
}

/* A page that somebody else has a reference to is not ours alone. */
TEST_F_TIMEOUT(folio, not_reused_while_a_pipe_has_it, SECONDS)
{
	struct iovec iov = { .iov_base = self->p, .iov_len = PAGE };
	int fds[2], v;
	pid_t pid;

	ASSERT_EQ(0, pipe(fds));
	self->p[8] = 1;
	pid = spawn();
	if (!pid) {
		if (vmsplice(fds[1], &iov, 1, 0) != PAGE)
			_exit(1);
		_exit(0);
	}
	ASSERT_EQ(0, reap(pid));
	self->p[8] = 2;
	ASSERT_EQ(4, read(fds[0], &v, 4));
	ASSERT_EQ(4, read(fds[0], &v, 4));
	ASSERT_EQ(4, read(fds[0], &v, 4));
	EXPECT_EQ(1, v & 0xff);
	EXPECT_EQ(2, self->p[8]);
}

/* The last page is copied, so that the folio can be freed. */
TEST_F_TIMEOUT(folio, last_page_is_copied, SECONDS)
{
	char *last = self->p + self->size - PAGE;
	pid_t pid;

	ASSERT_EQ(0, madvise(self->p, self->size - PAGE, MADV_DONTNEED));
	pid = spawn();
	if (!pid)
		_exit(0);
	ASSERT_EQ(0, reap(pid));
	*last = 1;
	EXPECT_NE(self->pfns[self->nr - 1], pfn(last));
}

/* Whoever is left of three, nobody sees what another writes. */
TEST_F_TIMEOUT(folio, three_processes, SECONDS)
{
	pid_t a, b;
	int i;

	for (i = 0; i < 3; i++) {
		memset(self->ctl, 0, sizeof(*self->ctl));
		a = spawn();
		if (!a) {
			b = spawn();
			if (!b) {
				if (!wait_for(&self->ctl->go, i == 0 ? 2 : 1))
					_exit(2);
				if (wrong(self->p, self->nr))
					_exit(1);
				memset(self->p, 0xbb, self->size);
				_exit(0);
			}
			if (!wait_for(&self->ctl->go, i == 1 ? 2 : 1))
				_exit(2);
			if (wrong(self->p, self->nr))
				_exit(1);
			memset(self->p, 0xaa, self->size);
			_exit(reap(b));
		}
		store(&self->ctl->go, 1);
		usleep(20000);
		store(&self->ctl->go, 2);
		ASSERT_EQ(0, reap(a));
		EXPECT_EQ(0, wrong(self->p, self->nr));
		EXPECT_EQ(self->nr, write_all(self->p, self->nr, self->pfns));
	}
}

/* The third to map it was not tracked, and is left alone with it. */
TEST_F_TIMEOUT(folio, untracked_survivor, SECONDS)
{
	struct control *ctl = self->ctl;
	pid_t a, b, c;

	a = spawn();
	if (!a) {
		b = spawn();
		if (b) {
			wait_for(&ctl->ready, 1);
			_exit(0);
		}
		prctl(PR_SET_PDEATHSIG, 0);
		store(&ctl->ready, 1);
		if (!wait_for(&ctl->go, 1))
			_exit(2);
		c = spawn();
		if (!c) {
			memset(self->p, 0xcc, self->size);
			_exit(0);
		}
		if (!reap(c) && !wrong(self->p, self->nr)) {
			c = spawn();
			if (!c) {
				wait_for(&ctl->go, 2);
				_exit(wrong(self->p, self->nr) != 0);
			}
			memset(self->p, 0xbb, self->size);
			store(&ctl->go, 2);
			store(&ctl->value, reap(c) ? -1 : 1);
		} else {
			store(&ctl->value, -1);
		}
		_exit(0);
	}
	ASSERT_EQ(0, reap(a));
	ASSERT_EQ(0, munmap(self->p, self->size));
	store(&ctl->go, 1);
	wait_for(&ctl->value, 1);
	EXPECT_EQ(1, load(&ctl->value));
}

/* What is in swap for both is the child's as well, whatever the parent does. */
TEST_F_TIMEOUT(folio, swap_of_a_child, SECONDS)
{
	unsigned long i;
	char group[64];
	pid_t pid;

	if (number_in("/proc/meminfo", "SwapFree:") < 65536)
		SKIP(return, "needs swap");
	if (!own_cgroup(group)) {
		rmdir(group);
		SKIP(return, "needs the memory controller");
	}
	self->p = new_folio(self->size);
	ASSERT_NE(NULL, self->p);
	pid = spawn();
	if (!pid) {
		if (!wait_for(&self->ctl->go, 1))
			_exit(2);
		_exit(wrong(self->p, self->nr) != 0);
	}
	EXPECT_TRUE(reclaim(self->p, group));
	EXPECT_TRUE(reclaim(self->p + self->size - PAGE, group));
	/* Half of it is in the swap cache when it gets written to. */
	EXPECT_EQ(0, wrong(self->p, self->nr / 2));
	drain_lru();
	memset(self->p, 0xee, self->size);
	store(&self->ctl->go, 1);
	EXPECT_EQ(0, reap(pid));
	for (i = 0; i < self->size && self->p[i] == (char)0xee; i++)
		;
	EXPECT_EQ(self->size, i);
	munmap(self->p, self->size);
	leave_cgroup(group);
}

/* Alone again, out to swap, and in: there is nobody to copy it for. */
TEST_F_TIMEOUT(folio, swapped_out_and_in, SECONDS)
{
	unsigned long i;
	pid_t pid;

	if (number_in("/proc/meminfo", "SwapFree:") < 65536)
		SKIP(return, "needs swap");
	for (i = 0; i < 100 && present(self->p); i++)
		madvise(self->p, self->size, MADV_PAGEOUT);
	ASSERT_FALSE(present(self->p));
	EXPECT_EQ(0, wrong(self->p, self->nr));
	for (i = 0; i < self->nr; i++)
		self->pfns[i] = pfn(self->p + i * PAGE);
	pid = spawn();
	if (!pid) {
		memset(self->p, 1, self->size);
		_exit(0);
	}
	ASSERT_EQ(0, reap(pid));
	EXPECT_EQ(0, wrong(self->p, self->nr));
	drain_lru();
	EXPECT_EQ(self->nr, write_all(self->p, self->nr, self->pfns));
	EXPECT_EQ(0, wrong(self->p, self->nr));
}

/* What one process does to another is counted for the other. */
TEST_F_TIMEOUT(folio, remote_pageout, SECONDS)
{
	struct iovec iov = { .iov_base = self->p, .iov_len = self->size };
	int i, pidfd;
	pid_t pid;

	if (number_in("/proc/meminfo", "SwapFree:") < 65536)
		SKIP(return, "needs swap");
	pidfd = syscall(__NR_pidfd_open, getpid(), 0);
	ASSERT_LE(0, pidfd);
	pid = spawn();
	if (!pid) {
		/* Nothing of it is the child's own. */
		munmap(self->p, self->size);
		for (i = 0; i < 10; i++)
			syscall(__NR_process_madvise, pidfd, &iov, 1, MADV_PAGEOUT, 0);
		_exit(0);
	}
	ASSERT_EQ(0, reap(pid));
	EXPECT_FALSE(present(self->p));
	EXPECT_EQ(0, wrong(self->p, self->nr));
}

TEST_F_TIMEOUT(folio, remote_collapse, SECONDS)
{
	struct iovec iov = { .iov_base = self->p, .iov_len = self->size };
	unsigned long i;
	int pidfd, go[2];
	char c = 0;
	pid_t pid;

	if (self->size != 2 * MB)
		SKIP(return, "collapses to PMD size only");
	pidfd = syscall(__NR_pidfd_open, getpid(), 0);
	ASSERT_LE(0, pidfd);
	ASSERT_EQ(0, pipe(go));
	/* Small ones instead: huge pages were enabled for a moment only. */
	ASSERT_EQ(0, madvise(self->p, self->size, MADV_DONTNEED));
	pid = spawn();
	if (!pid) {
		/* What fork() has made read-only would not be collapsed. */
		if (read(go[0], &c, 1) != 1)
			_exit(1);
		for (i = 0; i < 10; i++)
			if (syscall(__NR_process_madvise, pidfd, &iov, 1,
				    MADV_COLLAPSE, 0) == (long)self->size)
				_exit(0);
		_exit(1);
	}
	for (i = 0; i < self->nr; i++)
		self->p[i * PAGE] = i;
	ASSERT_FALSE(is_folio(self->p, self->size));
	ASSERT_EQ(1, write(go[1], &c, 1));
	ASSERT_EQ(0, reap(pid));
	ASSERT_TRUE(is_folio(self->p, self->size));
	mprotect(self->p, PAGE, PROT_READ);
	mprotect(self->p, PAGE, PROT_READ | PROT_WRITE);
	for (i = 0; i < self->nr; i++)
		self->pfns[i] = pfn(self->p + i * PAGE);
	pid = spawn();
	if (!pid)
		_exit(0);
	ASSERT_EQ(0, reap(pid));
	EXPECT_EQ(self->nr, write_all(self->p, self->nr, self->pfns));
	EXPECT_EQ(0, wrong(self->p, self->nr));
}

static long counted(const char *key)
{
	return settled("/proc/meminfo", key);
}

/*
 * What migration maps again is as much the process's own as before, though it is
 * another that migrates it.
 */
TEST_F_TIMEOUT(folio, reused_after_migration, SECONDS)
{
	int status[512], nodes[512];
	void *pages[512];
	unsigned long i;
	pid_t pid;

	if (access("/sys/devices/system/node/node1", F_OK))
		SKIP(return, "one NUMA node");
	for (i = 0; i < self->nr; i++)
		pages[i] = self->p + i * PAGE;
	pid = spawn();
	if (!pid) {
		munmap(self->p, self->size);
		if (syscall(SYS_move_pages, getppid(), 1UL, pages, NULL, status, 0))
			_exit(1);
		for (i = 0; i < self->nr; i++)
			nodes[i] = !status[0];
		_exit(!!syscall(SYS_move_pages, getppid(), self->nr, pages, nodes,
				status, 2));
	}
	ASSERT_EQ(0, reap(pid));
	EXPECT_EQ(0, wrong(self->p, self->nr));
	EXPECT_NE(self->pfns[0], pfn(self->p));
	ASSERT_TRUE(is_folio(self->p, self->size));
	for (i = 0; i < self->nr; i++)
		self->pfns[i] = pfn(self->p + i * PAGE);
	pid = spawn();
	if (!pid)
		_exit(0);
	ASSERT_EQ(0, reap(pid));
	EXPECT_EQ(self->nr, write_all(self->p, self->nr, self->pfns));
}

/* ---- statistics ----------------------------------------------------------- */

/* Does the kernel count for each page, or only for the folio? */
static bool per_page(char *p, unsigned long other_pfn)
{
	madvise(p, PAGE, MADV_DONTNEED);
	return !kpagecount(other_pfn);
}

TEST_F_TIMEOUT(folio, kpagecount_and_pss, SECONDS)
{
	unsigned long i, kb = self->size / KB;
	bool precise;
	pid_t pid;

	for (i = 0; i < self->nr; i++) {
		EXPECT_EQ(1, kpagecount(self->pfns[i]));
		EXPECT_TRUE(exclusive(self->p + i * PAGE));
	}
	EXPECT_EQ(kb, smaps_kb(self->p, "Pss:"));
	EXPECT_EQ(kb, smaps_kb(self->p, "Private_Dirty:"));

	pid = spawn();
	if (!pid) {
		wait_for(&self->ctl->go, 1);
		/* All but one page: still somebody else's too. */
		munmap(self->p, self->size - PAGE);
		store(&self->ctl->ready, 1);
		wait_for(&self->ctl->go, 2);
		_exit(0);
	}
	for (i = 0; i < self->nr; i++) {
		EXPECT_EQ(2, kpagecount(self->pfns[i]));
		EXPECT_FALSE(exclusive(self->p + i * PAGE));
	}
	EXPECT_EQ(kb / 2, smaps_kb(self->p, "Pss:"));
	EXPECT_EQ(kb, smaps_kb(self->p, "Shared_Dirty:"));
	store(&self->ctl->go, 1);
	ASSERT_TRUE(wait_for(&self->ctl->ready, 1));
	precise = exclusive(self->p);
	EXPECT_FALSE(exclusive(self->p + self->size - PAGE));
	EXPECT_EQ(1, kpagecount(self->pfns[0]));
	/* nr + 1 mappings of nr pages: 1 on average, or exactly. */
	EXPECT_EQ(precise ? 2 : 1, kpagecount(self->pfns[self->nr - 1]));
	EXPECT_EQ(precise ? kb - 4 : 0, smaps_kb(self->p, "Private_Dirty:"));
	store(&self->ctl->go, 2);
	ASSERT_EQ(0, reap(pid));
	for (i = 0; i < self->nr; i++)
		EXPECT_TRUE(exclusive(self->p + i * PAGE));
	EXPECT_EQ(kb, smaps_kb(self->p, "Private_Dirty:"));

	/* A page that is not mapped: 0, or what the others are. */
	EXPECT_EQ(precise, per_page(self->p, self->pfns[0]));
	if (self->nr > 2)
		madvise(self->p + PAGE, (self->nr - 2) * PAGE, MADV_DONTNEED);
	EXPECT_EQ(1, kpagecount(self->pfns[self->nr - 1]));
	EXPECT_EQ(!precise, kpagecount(self->pfns[0]));
}

/* A folio of which part is unmapped for good is queued to be split. */
TEST_F_TIMEOUT(folio, deferred_split, SECONDS)
{
	const char *key = "thp_deferred_split_page ";
	long before;
	pid_t pid;
	int i;

	if (self->size != 2 * MB)
		SKIP(return, "counted for PMD size only");
	/*
	 * Somebody who came and went makes no difference. But for all that the
	 * counter tells, one of somebody else's may have been queued.
	 */
	for (i = 0; i < 5; i++) {
		before = number_in("/proc/vmstat", key);
		ASSERT_LE(0, before);
		pid = spawn();
		if (!pid)
			_exit(0);
		ASSERT_EQ(0, reap(pid));
		if (before == number_in("/proc/vmstat", key))
			break;
	}
	EXPECT_GT(5, i);
	before = number_in("/proc/vmstat", key);
	ASSERT_EQ(0, madvise(self->p, self->size / 2, MADV_DONTNEED));
	EXPECT_LT(before, number_in("/proc/vmstat", key));
}

struct mapper {
	char *p;
	unsigned long nr, turns;
};

static void *map_and_unmap(void *arg)
{
	struct mapper *m = arg;
	unsigned long t, i;
	char sum = 0;

	for (t = 0; t < m->turns; t++) {
		for (i = 0; i < m->nr; i++)
			sum += load(m->p + i * PAGE);
		madvise(m->p, m->nr * PAGE, MADV_DONTNEED);
	}
	return (void *)(long)sum;
}

/* Does the counter come back to @kb, but for @less? */
static bool back_to(const char *key, long kb, long less)
{
	int i;

	for (i = 0; i < 100; i++) {
		if (labs(counted(key) - kb) < less)
			return true;
		usleep(100000);
	}
	return false;
}

/*
 * Threads map and unmap the halves of one shmem folio. A first or last mapping
 * that is missed or seen twice leaves a folio's worth for ever.
 */
TEST_F_TIMEOUT(folio, mapped_returns, SECONDS)
{
	const unsigned long size = self->size;
	char *p, path[128], old[16];
	pthread_t thread[2];
	struct mapper m[2];
	int fd, t, round;
	long before = 0;

	/* Less than that comes and goes with the pages of the program. */
	if (size != 2 * MB)
		SKIP(return, "too little to be seen in Mapped");
	snprintf(path, sizeof(path), THP "hugepages-%lukB/shmem_enabled", size / KB);
	if (!change(path, "always", old))
		SKIP(return, "no huge pages in shmem");
	fd = memfd_create("folio", 0);
	ASSERT_LE(0, fd);
	ASSERT_EQ(0, ftruncate(fd, size));
	p = mmap(NULL, 2 * ROOM, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	p = (char *)(((unsigned long)p + ROOM - 1) & -ROOM);
	p = mmap(p, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
	ASSERT_NE(MAP_FAILED, p);
	memset(p, 1, size);
	write_to(path, old);
	ASSERT_TRUE(is_folio(p, size));
	/* From PMD to PTEs: what is mapped again is mapped page by page. */
	madvise(p, size, MADV_DONTNEED);
	madvise(p, size, MADV_NOHUGEPAGE);
	/* The first round maps what the threads need of the program. */
	for (round = 0; round < 2; round++) {
		before = counted("Mapped:");
		for (t = 0; t < 2; t++) {
			m[t].p = p + t * size / 2;
			m[t].nr = size / 2 / PAGE;
			m[t].turns = round ? 2000 : 1;
			ASSERT_EQ(0, pthread_create(thread + t, NULL,
						    map_and_unmap, m + t));
		}
		for (t = 0; t < 2; t++)
			pthread_join(thread[t], NULL);
	}
	EXPECT_TRUE(back_to("Mapped:", before, size / KB / 2));
	memset(p, 2, size);
	EXPECT_LE(before + (long)(size / KB / 2), counted("Mapped:"));
	munmap(p, size);
	close(fd);
	EXPECT_TRUE(back_to("Mapped:", before, size / KB / 2));
}

/* The pages that the folios have are what AnonPages has, and none is left. */
TEST_F_TIMEOUT(folio, anon_pages_return, SECONDS)
{
	long before, kb = 64 * KB;
	unsigned long i, n = 64 * MB / self->size;
	char *p[n];
	pid_t pid;

	before = counted("AnonPages:");
	for (i = 0; i < n; i++) {
		p[i] = new_folio(self->size);
		if (!p[i])
			SKIP(return, "memory is fragmented");
	}
	EXPECT_LE(before + kb * 3 / 4, counted("AnonPages:"));
	EXPECT_GE(before + kb * 5 / 4, counted("AnonPages:"));
	pid = spawn();
	if (!pid) {
		for (i = 0; i < n; i++) {
			p[i][0] = 1;
			munmap(p[i] + PAGE, self->size - PAGE);
		}
		_exit(0);
	}
	ASSERT_EQ(0, reap(pid));
	for (i = 0; i < n; i++) {
		p[i][PAGE] = 1;
		munmap(p[i], self->size);
	}
	EXPECT_TRUE(back_to("AnonPages:", before, 2 * KB));
}

/* ---- storm ---------------------------------------------------------------- */

static int turns(int little)
{
	char *stress = getenv("FOLIO_MAPCOUNT_STRESS");

	return stress ? atoi(stress) : little;
}

/*
 * Processes that share folios come and go, protect parts of them, write to them,
 * have them split, collapsed and swapped out. None may see another's.
 */
TEST_F_TIMEOUT(folio, storm, 600)
{
	int i, j, n = turns(30);
	pid_t pid[4];

	for (i = 0; i < n; i++) {
		/* The last one is in pieces by now. */
		munmap(self->p, self->size);
		self->p = new_folio(self->size);
		if (!self->p)
			SKIP(return, "memory is fragmented");
		for (j = 0; j < 4; j++) {
			pid[j] = spawn();
			if (pid[j])
				continue;
			srand(i * 4 + j);
			if (rand() % 2)
				munmap(self->p + self->size / 2, PAGE);
			if (rand() % 2) {
				mprotect(self->p, PAGE, PROT_READ);
				mprotect(self->p, PAGE, PROT_READ | PROT_WRITE);
			}
			if (rand() % 4 == 0)
				madvise(self->p, self->size, MADV_PAGEOUT);
			if (rand() % 2 && self->p[PAGE] != 1)
				_exit(1);
			self->p[0] = j;
			self->p[PAGE] = j + 1;
			usleep(rand() % 2000);
			if (self->p[0] != j || self->p[PAGE] != j + 1)
				_exit(2);
			if (rand() % 4 == 0)
				madvise(self->p, self->size, MADV_COLLAPSE);
			if (rand() % 4 == 0)
				kill(getpid(), SIGKILL);
			_exit(0);
		}
		if (i % 4 == 0)
			madvise(self->p, self->size, MADV_PAGEOUT);
		write_all(self->p, self->nr, self->pfns);
		for (j = 0; j < 4; j++) {
			int status = reap(pid[j]);

			EXPECT_TRUE(!status || status == -SIGKILL)
				TH_LOG("a process saw another's write: %d", status);
		}
		ASSERT_EQ(0, wrong(self->p, self->nr));
	}
}

/*
 * One process unmaps the whole, while the other, which has just got it for
 * itself, splits its mapping and writes: for a moment neither the mapping of the
 * entire folio nor those of its pages tell how often it is mapped.
 */
TEST_F_TIMEOUT(folio, split_while_another_unmaps, 600)
{
	int i, n = turns(50);
	pid_t pid;
	char *p;

	if (self->size != 2 * MB)
		SKIP(return, "only a PMD can be split");
	for (i = 0; i < n; i++) {
		store(&self->ctl->ready, 0);
		store(&self->ctl->go, 0);
		p = new_folio_mapped(self->size, true);
		if (!p)
			SKIP(return, "memory is fragmented");
		pid = spawn();
		if (!pid) {
			store(&self->ctl->ready, 1);
			while (!load(&self->ctl->go))
				;
			/* Some keep a page, so that it stays shared. */
			munmap(p, self->size - (i % 3 ? 0 : PAGE));
			_exit(i % 3 ? 0 : p[self->size - PAGE] != (char)511);
		}
		ASSERT_TRUE(wait_for(&self->ctl->ready, 1));
		store(&self->ctl->go, 1);
		if (i % 2)
			usleep(rand() % 200);
		mprotect(p, 16 * PAGE, PROT_READ);
		mprotect(p, 16 * PAGE, PROT_READ | PROT_WRITE);
		memset(p + PAGE, 0xee, 8 * PAGE);
		p[self->size - PAGE] = 0x77;
		EXPECT_EQ(0, reap(pid));
		EXPECT_EQ(0, p[0]);
		EXPECT_EQ(0x77, p[self->size - PAGE]);
		EXPECT_EQ(20, p[20 * PAGE]);
		munmap(p, self->size);
	}
}

/*
 * Several times as much as the group may have, in folios, written, read and
 * copied at random by two processes: through swap and back. Each page says which
 * it is, and who wrote it.
 */
TEST_F_TIMEOUT(folio, swap_storm, 600)
{
	const unsigned long bytes = 16 * MB, pages = bytes / PAGE;
	int i, k, bad = 0, n = turns(4);
	char group[64], path[128], name[128], old[16];
	unsigned long *p, page;
	pid_t pid;

	if (number_in("/proc/meminfo", "SwapFree:") < 131072)
		SKIP(return, "needs swap");
	if (!own_cgroup(group)) {
		rmdir(group);
		SKIP(return, "needs the memory controller");
	}
	snprintf(path, sizeof(path), "%s/memory.high", group);
	write_to(path, "8M");
	snprintf(name, sizeof(name), THP "hugepages-%lukB/enabled", self->size / KB);
	ASSERT_TRUE(change(name, "always", old));
	for (i = 0; i < n; i++) {
		p = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		ASSERT_NE(MAP_FAILED, p);
		for (page = 0; page < pages; page++)
			p[page * 512] = page;
		pid = spawn();
		srand(i + !pid);
		for (k = 0; k < 2000; k++) {
			page = rand() % pages;
			if (k & 1)
				p[page * 512] = (page << 1 | 1) << 32 | !pid;
			else if (p[page * 512] != page &&
				 p[page * 512] != ((page << 1 | 1) << 32 | !pid))
				bad++;
		}
		if (!pid)
			_exit(bad != 0);
		EXPECT_EQ(0, reap(pid));
		for (page = 0; page < pages; page++)
			if (p[page * 512] != page &&
			    p[page * 512] != (page << 1 | 1) << 32)
				bad++;
		munmap(p, bytes);
	}
	EXPECT_EQ(0, bad);
	write_to(name, old);
	leave_cgroup(group);
}

TEST_HARNESS_MAIN
