// SPDX-License-Identifier: GPL-2.0
/*
 * Who maps a large folio, as far as a process can tell: by what is copied on
 * write and what is not, by what others see, and by what /proc says.
 *
 * Needs root, transparent huge pages and CONFIG_MM_ID; swap for some cases.
 *
 * Environment: FOLIO_MAPCOUNT_STRESS=n, turns of the storms.
 * FOLIO_MAPCOUNT_REQUIRED, that the kernel has CONFIG_MM_ID: if it does not seem
 * so, that is a failure and nothing to skip.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <linux/io_uring.h>
#include <linux/kernel-page-flags.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/klog.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "../kselftest_harness.h"
#include "../../../../mm/gup_test.h"
#include "vm_util.h"

#define KB		1024UL
#define MB		(KB * KB)
#define PAGE		4096UL
#define ROOM		(2 * MB)	/* a folio is somewhere in as much */
#define SECONDS		120		/* until a test has hung */
#define THP		"/sys/kernel/mm/transparent_hugepage/"
#define CGROUP		"/sys/fs/cgroup/"
#define DEBUGFS		"/sys/kernel/debug/"

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
static bool reclaim_from(char *p, const char *group)
{
	char path[128];
	int i;

	snprintf(path, sizeof(path), "%s/memory.reclaim", group);
	for (i = 0; i < 100 && present(p); i++)
		write_to(path, "64M");
	return !present(p);
}

/*
 * Move to a new cgroup, from which only what it has can be reclaimed. The name is
 * kept in @group, for the teardown.
 */
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

/* Whoever was in it is dead or dying. */
static void remove_cgroup(const char *group)
{
	int i;

	for (i = 0; i < 250 && rmdir(group) && errno == EBUSY; i++)
		usleep(20000);
}

/* ---- folios -------------------------------------------------------------- */

static const unsigned long sizes[] = { 16 * KB, 32 * KB, 64 * KB, 2 * MB };
static const char * const settings[] = { "enabled", "shmem_enabled" };

/* What each of the settings was when the program started. */
static char original[ARRAY_SIZE(sizes)][ARRAY_SIZE(settings)][16];

static void setting_path(char path[128], unsigned long size, const char *name)
{
	snprintf(path, 128, THP "hugepages-%lukB/%s", size / KB, name);
}

/* Read the word in brackets of a setting. */
static bool read_setting(const char *path, char word[16])
{
	char text[256] = "", *start, *end;
	int fd = open(path, O_RDONLY);
	ssize_t n;

	if (fd < 0)
		return false;
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	start = n > 0 ? strchr(text, '[') : NULL;
	end = start ? strchr(start, ']') : NULL;
	if (!end)
		return false;
	*end = 0;
	snprintf(word, 16, "%.15s", start + 1);
	return true;
}

/* Write a setting, and keep what it was in @old. */
static bool change(const char *path, const char *how, char old[16])
{
	return read_setting(path, old) && !write_to(path, how);
}

/* However a test ended. */
static void restore_settings(void)
{
	char path[128], now[16];
	unsigned int i, j;

	for (i = 0; i < ARRAY_SIZE(sizes); i++) {
		for (j = 0; j < ARRAY_SIZE(settings); j++) {
			setting_path(path, sizes[i], settings[j]);
			if (original[i][j][0] && read_setting(path, now) &&
			    strcmp(now, original[i][j]))
				write_to(path, original[i][j]);
		}
	}
}

static void __attribute__((constructor)) save_settings(void)
{
	unsigned int i, j;
	char path[128];

	for (i = 0; i < ARRAY_SIZE(sizes); i++) {
		for (j = 0; j < ARRAY_SIZE(settings); j++) {
			setting_path(path, sizes[i], settings[j]);
			read_setting(path, original[i][j]);
		}
	}
	/* For a test that timed out, of which no process is left. */
	atexit(restore_settings);
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

	setting_path(path, size, "enabled");
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
	char group[64];
};

FIXTURE_VARIANT(folio)
{
	unsigned long size;
};

FIXTURE_VARIANT_ADD(folio, 16K)
{
	.size = 16 * KB,
};

FIXTURE_VARIANT_ADD(folio, 32K)
{
	.size = 32 * KB,
};

FIXTURE_VARIANT_ADD(folio, 64K)
{
	.size = 64 * KB,
};

FIXTURE_VARIANT_ADD(folio, 2M)
{
	.size = 2 * MB,
};

/*
 * Does the kernel know that nobody else maps a large folio any more? One without
 * CONFIG_MM_ID copies each page of it.
 */
static bool is_tracked(unsigned long size, bool *known)
{
	char *p = new_folio(size);
	unsigned long old;
	bool same;
	pid_t pid;

	*known = false;
	if (!p)
		return false;
	old = pfn(p);
	pid = spawn();
	if (!pid)
		_exit(0);
	*known = !reap(pid);
	p[0] = 1;
	same = pfn(p) == old;
	munmap(p, size);
	return same;
}

FIXTURE_SETUP(folio)
{
	bool tracked, known;
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
	/* Somebody may look at a page just then. */
	for (i = 0, tracked = false; i < 5 && !tracked; i++)
		tracked = is_tracked(self->size, &known);
	self->p = new_folio(self->size);
	if (!self->p || !known)
		SKIP(return, "no folio of this size");
	if (!tracked && !getenv("FOLIO_MAPCOUNT_REQUIRED"))
		SKIP(return, "needs CONFIG_MM_ID");
	ASSERT_TRUE(tracked);
	for (i = 0; i < self->nr; i++)
		self->pfns[i] = pfn(self->p + i * PAGE);
}

/* In the parent, for a test that crashed too. */
FIXTURE_TEARDOWN_PARENT(folio)
{
	restore_settings();
	if (self->group[0])
		remove_cgroup(self->group);
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

static int move_page(int uffd, char *dst, char *src)
{
	struct uffdio_move move = {
		.dst = (unsigned long)dst,
		.src = (unsigned long)src,
		.len = PAGE,
	};
	int ret;

	do {
		ret = ioctl(uffd, UFFDIO_MOVE, &move);
	} while (ret && errno == EAGAIN);
	return ret;
}

/* A page that is reused is exclusive, and its folio not as a whole. */
TEST_F_TIMEOUT(folio, what_is_reused_can_be_moved, SECONDS)
{
	struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_MOVE };
	struct uffdio_register reg = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	int fd = syscall(__NR_userfaultfd, O_CLOEXEC);
	unsigned long k = self->nr - 1;
	char *dst, *p = self->p, *q = new_folio(self->size);
	pid_t pid;

	ASSERT_NE(NULL, q);
	if (fd < 0 || ioctl(fd, UFFDIO_API, &api))
		SKIP(return, "no UFFDIO_MOVE");
	dst = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, dst);
	reg.range.start = (unsigned long)dst;
	reg.range.len = PAGE;
	ASSERT_EQ(0, ioctl(fd, UFFDIO_REGISTER, &reg));

	pid = spawn();
	if (!pid)
		_exit(0);
	ASSERT_EQ(0, reap(pid));
	/* The first is, the last is not: a refusal, that splits nothing. */
	q[0] = 0;
	EXPECT_EQ(-1, move_page(fd, dst, q + k * PAGE));
	EXPECT_EQ(EBUSY, errno);
	EXPECT_TRUE(is_folio(q, self->size));
	/* The last is, the first is not. */
	p[k * PAGE] = k;
	EXPECT_EQ(0, move_page(fd, dst, p + k * PAGE));
	EXPECT_EQ((char)k, dst[0]);
	EXPECT_EQ(0, wrong(p, k));
	close(fd);
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

/*
 * Three map parts of it when it is split. What they have stays what it was, and
 * is one's own again when the others are gone.
 */
TEST_F_TIMEOUT(folio, split_while_three_map_it, SECONDS)
{
	unsigned long half = self->size / 2, i;
	struct control *ctl = self->ctl;
	pid_t pid[2];
	char text[64];
	int j;

	if (access(DEBUGFS "split_huge_pages", W_OK))
		SKIP(return, "needs split_huge_pages of debugfs");
	/* Or pages of zeroes would be no pages any more. */
	for (i = 0; i < self->nr; i++)
		self->p[i * PAGE + 8] = 1;
	for (j = 0; j < 2; j++) {
		pid[j] = spawn();
		if (!pid[j]) {
			/* One has the first half, the other all but a page. */
			if (j == 0)
				munmap(self->p + half, half);
			else
				munmap(self->p, PAGE);
			__atomic_add_fetch(&ctl->ready, 1, __ATOMIC_SEQ_CST);
			if (!wait_for(&ctl->go, 1))
				_exit(2);
			if (j == 0)
				_exit(wrong(self->p, self->nr / 2) != 0);
			for (i = 1; i < self->nr; i++)
				if (self->p[i * PAGE] != (char)i)
					_exit(1);
			_exit(0);
		}
	}
	ASSERT_TRUE(wait_for(&ctl->ready, 2));
	snprintf(text, sizeof(text), "%d,0x%lx,0x%lx", getpid(),
		 (unsigned long)self->p, (unsigned long)self->p + self->size);
	EXPECT_EQ(0, write_to(DEBUGFS "split_huge_pages", text));
	EXPECT_FALSE(has_flag(pfn(self->p), KPF_COMPOUND_HEAD));
	EXPECT_FALSE(has_flag(pfn(self->p + PAGE), KPF_COMPOUND_TAIL));
	EXPECT_EQ(0, wrong(self->p, self->nr));
	self->p[8] = 2;
	store(&ctl->go, 1);
	for (j = 0; j < 2; j++)
		EXPECT_EQ(0, reap(pid[j]));
	for (i = 0; i < self->nr; i++)
		self->pfns[i] = pfn(self->p + i * PAGE);
	drain_lru();
	EXPECT_EQ(self->nr, write_all(self->p, self->nr, self->pfns));
	EXPECT_EQ(0, wrong(self->p, self->nr));
}

/* Into folios that are large themselves, and are shared as the whole was. */
TEST_F_TIMEOUT(folio, split_to_large, SECONDS)
{
	unsigned long i;
	char text[64];
	pid_t pid;

	if (access(DEBUGFS "split_huge_pages", W_OK))
		SKIP(return, "needs split_huge_pages of debugfs");
	if (self->nr < 8)
		SKIP(return, "too small to be split to 16K");
	pid = spawn();
	if (!pid) {
		if (!wait_for(&self->ctl->go, 1))
			_exit(2);
		_exit(wrong(self->p, self->nr) != 0);
	}
	snprintf(text, sizeof(text), "%d,0x%lx,0x%lx,2", getpid(),
		 (unsigned long)self->p, (unsigned long)self->p + self->size);
	EXPECT_EQ(0, write_to(DEBUGFS "split_huge_pages", text));
	EXPECT_TRUE(is_folio(self->p, 16 * KB));
	EXPECT_TRUE(is_folio(self->p + self->size - 16 * KB, 16 * KB));
	for (i = 0; i < self->nr; i++)
		EXPECT_EQ(self->pfns[i], pfn(self->p + i * PAGE));
	/* The first folio while the child lives, the others later. */
	EXPECT_EQ(0, write_all(self->p, 4, self->pfns));
	store(&self->ctl->go, 1);
	EXPECT_EQ(0, reap(pid));
	EXPECT_EQ(self->nr - 4, write_all(self->p + 16 * KB, self->nr - 4,
					  self->pfns + 4));
	EXPECT_EQ(0, wrong(self->p, self->nr));
}

/* What is in swap for both is the child's as well, whatever the parent does. */
TEST_F_TIMEOUT(folio, swap_of_a_child, SECONDS)
{
	unsigned long i;
	pid_t pid;

	if (number_in("/proc/meminfo", "SwapFree:") < 65536)
		SKIP(return, "needs swap");
	if (!own_cgroup(self->group))
		SKIP(return, "needs the memory controller");
	self->p = new_folio(self->size);
	ASSERT_NE(NULL, self->p);
	pid = spawn();
	if (!pid) {
		if (!wait_for(&self->ctl->go, 1))
			_exit(2);
		_exit(wrong(self->p, self->nr) != 0);
	}
	EXPECT_TRUE(reclaim_from(self->p, self->group));
	EXPECT_TRUE(reclaim_from(self->p + self->size - PAGE, self->group));
	/* Half of it is in the swap cache when it gets written to. */
	EXPECT_EQ(0, wrong(self->p, self->nr / 2));
	drain_lru();
	memset(self->p, 0xee, self->size);
	store(&self->ctl->go, 1);
	EXPECT_EQ(0, reap(pid));
	for (i = 0; i < self->size && self->p[i] == (char)0xee; i++)
		;
	EXPECT_EQ(self->size, i);
}

struct other {
	char *p;
	unsigned long nr;
	int stop;
};

static void *read_all(void *arg)
{
	struct other *r = arg;
	unsigned long i;

	while (!load(&r->stop))
		for (i = 0; i < r->nr; i++)
			load(r->p + i * PAGE);
	return NULL;
}

static void *zap_all(void *arg)
{
	struct other *r = arg;

	while (!load(&r->stop))
		madvise(r->p, r->nr * PAGE, MADV_DONTNEED);
	return NULL;
}

/* Have the folio in the swap cache, by reading it while it is swapped out. */
static bool to_swap_cache(char *p, unsigned long size)
{
	struct other reader = { .p = p, .nr = size / PAGE };
	pthread_t thread;
	bool ret = false;
	int i;

	if (pthread_create(&thread, NULL, read_all, &reader))
		return false;
	for (i = 0; i < 500 && !ret && is_folio(p, size); i++) {
		madvise(p, size, MADV_PAGEOUT);
		/* It has to be read as a whole before it can be told. */
		wrong(p, size / PAGE);
		ret = is_folio(p, size) && has_flag(pfn(p), KPF_SWAPCACHE);
	}
	store(&reader.stop, 1);
	pthread_join(thread, NULL);
	return ret;
}

/* Alone again, out to swap, and in: there is nobody to copy it for. */
TEST_F_TIMEOUT(folio, swapped_out_and_in, SECONDS)
{
	unsigned long i;
	pid_t pid;

	if (number_in("/proc/meminfo", "SwapFree:") < 65536)
		SKIP(return, "needs swap");

	/* Half way: the references of the swap cache are nobody's. */
	for (i = 0; i < 5; i++) {
		if (to_swap_cache(self->p, self->size))
			break;
		munmap(self->p, self->size);
		self->p = new_folio(self->size);
		ASSERT_NE(NULL, self->p);
	}
	if (i < 5) {
		for (i = 0; i < self->nr; i++)
			self->pfns[i] = pfn(self->p + i * PAGE);
		pid = spawn();
		if (!pid)
			_exit(0);
		ASSERT_EQ(0, reap(pid));
		drain_lru();
		EXPECT_EQ(self->nr, write_all(self->p, self->nr, self->pfns));
		EXPECT_EQ(0, wrong(self->p, self->nr));
	} else {
		TH_LOG("never seen in the swap cache");
	}

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

	/* Back again, whatever it is made of now, it is this process's. */
	for (i = 0; i < (int)self->nr; i++)
		self->pfns[i] = pfn(self->p + i * PAGE);
	pid = spawn();
	if (!pid)
		_exit(0);
	ASSERT_EQ(0, reap(pid));
	drain_lru();
	EXPECT_EQ(self->nr, write_all(self->p, self->nr, self->pfns));
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

/*
 * The third of three, left alone: nobody knows that it is, so each page is copied
 * until there is but one.  Without per-page counts, pagemap does not know either.
 */
TEST_F_TIMEOUT(folio, pagemap_of_untracked_survivor, SECONDS)
{
	struct control *ctl = self->ctl;
	unsigned long i;
	bool precise;
	pid_t b, c;

	b = spawn();
	if (!b) {
		munmap(self->p, self->size - PAGE);
		store(&ctl->ready, 1);
		wait_for(&ctl->go, 1);
		_exit(0);
	}
	ASSERT_TRUE(wait_for(&ctl->ready, 1));
	precise = exclusive(self->p);
	c = spawn();
	if (!c) {
		store(&ctl->ready, 2);
		if (!wait_for(&ctl->go, 2))
			_exit(2);
		close(pagemap_fd);
		pagemap_fd = open("/proc/self/pagemap", O_RDONLY);
		for (i = 0; i < self->nr; i++) {
			/* Only if it is the last one, it is known to be alone. */
			if (exclusive(self->p + i * PAGE) !=
			    (precise || i == self->nr - 1))
				_exit(3);
			self->p[i * PAGE] ^= 0x55;
			if (pfn(self->p + i * PAGE) == self->pfns[i])
				_exit(4);
			self->p[i * PAGE] ^= 0x55;
		}
		_exit(wrong(self->p, self->nr) != 0);
	}
	ASSERT_TRUE(wait_for(&ctl->ready, 2));
	ASSERT_EQ(0, munmap(self->p, self->size));
	store(&ctl->go, 1);
	ASSERT_EQ(0, reap(b));
	store(&ctl->go, 2);
	EXPECT_EQ(0, reap(c));
}

/* AnonHugePages has what any PMD maps as a whole, however else it is mapped. */
TEST_F_TIMEOUT(folio, anon_huge_pages, SECONDS)
{
	long before, kb = self->size / KB;
	struct control *ctl = self->ctl;
	char *p;
	pid_t pid;
	int i;

	if (self->size != 2 * MB)
		SKIP(return, "only a PMD can be split");
	for (i = 0; i < 4; i++) {
		memset(ctl, 0, sizeof(*ctl));
		before = counted("AnonHugePages:");
		p = new_folio_mapped(self->size, true);
		if (!p)
			SKIP(return, "memory is fragmented");
		EXPECT_EQ(before + kb, counted("AnonHugePages:"));
		pid = spawn();
		if (!pid) {
			/* Both have a PMD; one of them splits it. */
			if (i & 1)
				mprotect(p, PAGE, PROT_READ);
			store(&ctl->ready, 1);
			wait_for(&ctl->go, 1);
			if (i & 2)
				munmap(p, self->size);
			store(&ctl->ready, 2);
			wait_for(&ctl->go, 2);
			_exit(0);
		}
		ASSERT_TRUE(wait_for(&ctl->ready, 1));
		if (!(i & 1))
			mprotect(p, PAGE, PROT_READ);
		EXPECT_EQ(before + kb, counted("AnonHugePages:"));
		EXPECT_EQ(i & 1 ? kb : 0, smaps_kb(p + PAGE, "AnonHugePages:"));
		if (!(i & 2))
			munmap(p, self->size);
		store(&ctl->go, 1);
		ASSERT_TRUE(wait_for(&ctl->ready, 2));
		/* Left is the one that has the PMD, or the other. */
		EXPECT_EQ(before + (i == 0 || i == 3 ? kb : 0),
			  counted("AnonHugePages:"));
		store(&ctl->go, 2);
		EXPECT_EQ(0, reap(pid));
		munmap(p, self->size);
		EXPECT_EQ(before, counted("AnonHugePages:"));
	}
}

/* The number after @key in what follows the last @line in the kernel's log. */
static long last_logged(const char *line, const char *key)
{
	static char log[1 << 16];
	char *p = log, *found = NULL;
	int n = klogctl(3 /* SYSLOG_ACTION_READ_ALL */, log, sizeof(log) - 1);

	if (n < 0)
		return -2;
	log[n] = 0;
	while ((p = strstr(p, line)))
		found = p++;
	if (found)
		found = strstr(found, key);
	return found ? atol(found + strlen(key)) : -2;
}

/* To dump a page, of which the slots are part, must not do any harm. */
TEST_F_TIMEOUT(folio, dump_page, SECONDS)
{
	struct gup_test gup = {
		.addr = (unsigned long)self->p,
		.size = self->size,
		.nr_pages_per_call = self->nr,
		.which_pages = { 1, 2, 3, self->nr },
	};
	int fd = open(DEBUGFS "gup_test", O_RDWR);
	pid_t pid;

	if (fd < 0)
		SKIP(return, "needs CONFIG_GUP_TEST");
	pid = spawn();
	if (!pid)
		_exit(ioctl(fd, DUMP_USER_PAGES_TEST, &gup) ? 1 : 0);
	EXPECT_EQ(0, reap(pid));
	EXPECT_EQ(0, ioctl(fd, DUMP_USER_PAGES_TEST, &gup));
	/* The count of the page itself, unless it is said not to be known. */
	EXPECT_EQ(last_logged("head: order:", "nr_pages_mapped:") == -1 ? -1 : 1,
		  last_logged("page: refcount:", " mapcount:"));
	close(fd);
	EXPECT_EQ(self->nr, write_all(self->p, self->nr, self->pfns));
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

/* @size bytes of a new file, mapped where a folio of the size can be. */
static char *map_file(unsigned long size, int *fd)
{
	char *p;

	*fd = memfd_create("folio", 0);
	if (*fd < 0 || ftruncate(*fd, size))
		return NULL;
	p = mmap(NULL, size + ROOM, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		return NULL;
	p = (char *)(((unsigned long)p + ROOM - 1) & -ROOM);
	p = mmap(p, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, *fd, 0);
	return p == MAP_FAILED ? NULL : p;
}

/* PTEs instead of PMDs: what is mapped again is mapped page by page. */
static void unmap_file(char *p, unsigned long size)
{
	madvise(p, size, MADV_DONTNEED);
	madvise(p, size, MADV_NOHUGEPAGE);
}

/* The same, of folios of @size that nobody maps; NULL if there are none. */
static char *shmem_folios(unsigned long size, unsigned long folios, int *fd)
{
	char *p = map_file(size * folios, fd), path[128], old[16];
	unsigned long f;

	setting_path(path, size, "shmem_enabled");
	if (!p || !change(path, "always", old))
		return NULL;
	memset(p, 1, size * folios);
	write_to(path, old);
	for (f = 0; f < folios; f++)
		if (!is_folio(p + f * size, size))
			return NULL;
	unmap_file(p, size * folios);
	return p;
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
 * Two processes map and unmap shmem folios at the same time. A first or last
 * mapping that is missed or seen twice leaves some pages, or a folio's worth, for
 * ever.
 */
TEST_F_TIMEOUT(folio, mapped_returns, SECONDS)
{
	const unsigned long folios = 16 * MB / self->size;
	const unsigned long bytes = folios * self->size;
	const int turns = self->size < 512 * KB ? 4 * (int)(self->size / (16 * KB)) : 128;
	struct control *ctl = self->ctl;
	unsigned long f, i;
	pid_t pid[2];
	long before;
	int fd, j, t;
	char *p;

	p = shmem_folios(self->size, folios, &fd);
	if (!p)
		SKIP(return, "no such folios in shmem");
	before = counted("Mapped:");
	for (j = 0; j < 2; j++) {
		pid[j] = spawn();
		if (pid[j])
			continue;
		for (f = 0; f < folios; f++) {
			char *q = p + f * self->size;

			__atomic_add_fetch(&ctl->ready, 1, __ATOMIC_SEQ_CST);
			while (load(&ctl->ready) < 2 * (int)(f + 1))
				sched_yield();
			for (t = 0; t < turns; t++) {
				for (i = 0; i < self->size; i += PAGE)
					load(q + i);
				madvise(q, self->size, MADV_DONTNEED);
			}
		}
		_exit(0);
	}
	for (j = 0; j < 2; j++)
		EXPECT_EQ(0, reap(pid[j]));
	EXPECT_TRUE(back_to("Mapped:", before, MB / KB));
	memset(p, 2, bytes);
	EXPECT_LE(before + (long)(bytes / KB * 3 / 4), counted("Mapped:"));
	munmap(p, bytes);
	close(fd);
	EXPECT_TRUE(back_to("Mapped:", before, MB / KB));
}

/*
 * One thread unmaps the dirty pages of a shmem folio, which leaves rmap and the
 * slots behind for a moment, while another and another process write to them.
 */
TEST_F_TIMEOUT(folio, dirty_zap_against_write, SECONDS)
{
	struct other zapper = { .nr = self->nr };
	unsigned long i;
	int fd, j, bad = 0;
	pthread_t thread;
	pid_t pid;
	char *p;

	p = shmem_folios(self->size, 1, &fd);
	if (!p)
		SKIP(return, "no such folios in shmem");
	zapper.p = p;
	pid = spawn();
	/* Each process has its byte of each page. */
	if (pid)
		ASSERT_EQ(0, pthread_create(&thread, NULL, zap_all, &zapper));
	for (j = 0; j < 20 * 512 / (int)self->nr; j++) {
		for (i = 0; i < self->nr; i++)
			store(p + i * PAGE + !pid, j);
		for (i = 0; i < self->nr; i++)
			bad += load(p + i * PAGE + !pid) != (char)j;
		if (!pid && j % 8 == 0)
			madvise(p, self->size, MADV_DONTNEED);
	}
	if (!pid)
		_exit(bad != 0);
	store(&zapper.stop, 1);
	pthread_join(thread, NULL);
	EXPECT_EQ(0, reap(pid));
	EXPECT_EQ(0, bad);
	close(fd);
}

/* Collapsed by one process while another cuts the file and grows it again. */
TEST_F_TIMEOUT(folio, collapse_against_truncate, SECONDS)
{
	char *p, page[PAGE];
	int fd, i, n, bad = 0;
	unsigned long j;
	pid_t pid;

	if (self->size != 2 * MB)
		SKIP(return, "collapses to PMD size only");
	p = map_file(self->size, &fd);
	ASSERT_NE(NULL, p);
	pid = spawn();
	if (!pid) {
		while (!load(&self->ctl->go))
			if (!madvise(p, self->size, MADV_COLLAPSE))
				__atomic_add_fetch(&self->ctl->value, 1,
						   __ATOMIC_SEQ_CST);
		_exit(0);
	}
	memset(page, 0x5a, PAGE);
	for (i = 0; i < 60; i++) {
		n = load(&self->ctl->value);
		for (j = 0; j < self->nr; j++)
			bad += pwrite(fd, page, PAGE, j * PAGE) != PAGE;
		/* Sometimes when it is done, sometimes in the midst of it. */
		for (j = 0; i % 3 == 0 && j < 1000 && load(&self->ctl->value) == n; j++)
			usleep(100);
		bad += ftruncate(fd, self->size / 2 + PAGE + 1) != 0;
		bad += ftruncate(fd, self->size) != 0;
		for (j = 0; j < self->nr; j++) {
			bad += pread(fd, page, PAGE, j * PAGE) != PAGE;
			bad += page[0] != (j < self->nr / 2 + 2 ? 0x5a : 0);
			bad += page[1] != (j < self->nr / 2 + 1 ? 0x5a : 0);
		}
		memset(page, 0x5a, PAGE);
		bad += ftruncate(fd, 0) != 0;
		bad += ftruncate(fd, self->size) != 0;
	}
	store(&self->ctl->go, 1);
	EXPECT_EQ(0, reap(pid));
	EXPECT_EQ(0, bad);
	EXPECT_LT(0, load(&self->ctl->value));
	close(fd);
}

/* The pages that the folios have are what AnonPages has, and none is left. */
TEST_F_TIMEOUT(folio, anon_pages_return, SECONDS)
{
	long before, kb = 32 * KB;
	unsigned long i, n = 32 * MB / self->size;
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
	char path[128], name[128], old[16];
	unsigned long *p, page;
	pid_t pid;

	if (number_in("/proc/meminfo", "SwapFree:") < 131072)
		SKIP(return, "needs swap");
	if (!own_cgroup(self->group))
		SKIP(return, "needs the memory controller");
	snprintf(path, sizeof(path), "%s/memory.high", self->group);
	write_to(path, "8M");
	setting_path(name, self->size, "enabled");
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
}

/* ---- compound pages of others --------------------------------------------- */

#define POOL		"/proc/sys/vm/nr_hugepages"
#define POOL_VMEMMAP	"/proc/sys/vm/hugetlb_optimize_vmemmap"
#define SUBBUF		DEBUGFS "tracing/buffer_subbuf_size_kb"
#define HUGE_PAGES	4

/* Huge pages of hugetlb, which has no slots; and what drivers let processes map. */
FIXTURE(others)
{
	long pool, vmemmap, subbuf, used;
	char group[64];
};

static void write_number(const char *path, long n)
{
	char text[16];

	snprintf(text, sizeof(text), "%ld", n);
	if (n >= 0)
		write_to(path, text);
}

FIXTURE_SETUP(others)
{
	self->pool = number_in(POOL, "");
	self->vmemmap = number_in(POOL_VMEMMAP, "");
	self->subbuf = number_in(SUBBUF, "");
	self->used = number_in("/proc/meminfo", "HugePages_Total:") -
		     number_in("/proc/meminfo", "HugePages_Free:");
	pagemap_fd = open("/proc/self/pagemap", O_RDONLY);
	kpageflags_fd = open("/proc/kpageflags", O_RDONLY);
	if (pagemap_fd < 0 || kpageflags_fd < 0)
		SKIP(return, "needs root");
}

FIXTURE_TEARDOWN_PARENT(others)
{
	write_number(SUBBUF, self->subbuf);
	write_number(POOL_VMEMMAP, self->vmemmap);
	write_number(POOL, self->pool);
	if (self->group[0])
		remove_cgroup(self->group);
}

/* Has whatever was allocated since the test began been given back? */
static bool pool_is_back(long used)
{
	int i;

	for (i = 0; i < 100; i++) {
		if (number_in("/proc/meminfo", "HugePages_Total:") -
		    number_in("/proc/meminfo", "HugePages_Free:") == used)
			return true;
		usleep(20000);
	}
	return false;
}

/*
 * Two processes share the PMD table of a hugetlb mapping. Huge pages are moved under
 * them, and they leave in both orders.
 */
TEST_F_TIMEOUT(others, hugetlb_tables_of_two, SECONDS)
{
	const unsigned long gib = KB * MB;
	int status[HUGE_PAGES], nodes[HUGE_PAGES] = { 0 };
	bool two_nodes = !access("/sys/devices/system/node/node1", F_OK);
	struct control *ctl;
	void *pages[HUGE_PAGES];
	char *room, *p;
	int i, first;
	pid_t pid;

	/* As many again, for what they are moved to. */
	write_number(POOL, self->pool + 4 * HUGE_PAGES);
	room = mmap(NULL, 2 * gib, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS |
		    MAP_HUGETLB | MAP_NORESERVE, -1, 0);
	if (room == MAP_FAILED ||
	    number_in("/proc/meminfo", "HugePages_Free:") < 2 * HUGE_PAGES)
		SKIP(return, "no huge pages");
	munmap(room, 2 * gib);
	ctl = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, ctl);

	for (first = 0; first < 2; first++) {
		memset(ctl, 0, sizeof(*ctl));
		p = (char *)(((unsigned long)room + gib - 1) & -gib);
		p = mmap(p, gib, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS |
			 MAP_HUGETLB | MAP_NORESERVE | MAP_FIXED, -1, 0);
		ASSERT_NE(MAP_FAILED, p);
		for (i = 0; i < HUGE_PAGES; i++) {
			pages[i] = p + i * 2 * MB;
			p[i * 2 * MB] = i + 1;
			nodes[i] = 1;
		}
		pid = spawn();
		if (!pid) {
			for (i = 0; i < HUGE_PAGES; i++)
				if (p[i * 2 * MB] != i + 1)
					_exit(1);
			store(&ctl->ready, 1);
			wait_for(&ctl->go, 1);
			for (i = 0; i < HUGE_PAGES; i++)
				p[i * 2 * MB] += 8;
			_exit(0);
		}
		ASSERT_TRUE(wait_for(&ctl->ready, 1));
		/* Each is mapped once, and known to be shared by its table. */
		EXPECT_EQ(HUGE_PAGES * 2 * MB / KB, smaps_kb(p, "Shared_Hugetlb:"));
		if (two_nodes)
			EXPECT_EQ(0, syscall(__NR_move_pages, 0, HUGE_PAGES, pages, nodes,
					     status, 1 << 2 /* MPOL_MF_MOVE_ALL */));
		for (i = 0; i < HUGE_PAGES; i++)
			EXPECT_EQ(i + 1, p[i * 2 * MB]);
		if (first)
			munmap(p, gib);
		store(&ctl->go, 1);
		EXPECT_EQ(0, reap(pid));
		for (i = 0; !first && i < HUGE_PAGES; i++)
			EXPECT_EQ(i + 9, p[i * 2 * MB]);
		if (!first)
			munmap(p, gib);
		EXPECT_TRUE(pool_is_back(self->used));
	}
}

/*
 * Huge pages of which the struct pages of most tails are one and the same, charged to
 * a cgroup: they come, are copied on write, and go.
 */
TEST_F_TIMEOUT(others, hugetlb_without_vmemmap, SECONDS)
{
	char path[128];
	int i, turn;
	pid_t pid;
	char *p;

	if (self->vmemmap < 0 || write_to(POOL_VMEMMAP, "1"))
		SKIP(return, "needs HUGETLB_PAGE_OPTIMIZE_VMEMMAP");
	write_to(CGROUP "cgroup.subtree_control", "+hugetlb");
	if (!own_cgroup(self->group))
		SKIP(return, "needs the memory controller");
	snprintf(path, sizeof(path), "%s/hugetlb.2MB.current", self->group);

	for (turn = 0; turn < 3; turn++) {
		write_number(POOL, self->pool + 2 * HUGE_PAGES);
		p = mmap(NULL, HUGE_PAGES * 2 * MB, PROT_READ | PROT_WRITE, MAP_PRIVATE |
			 MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
		if (p == MAP_FAILED)
			SKIP(return, "no huge pages");
		for (i = 0; i < HUGE_PAGES; i++)
			p[i * 2 * MB] = i;
		if (!access(path, R_OK))
			EXPECT_EQ(HUGE_PAGES * 2 * MB, number_in(path, ""));
		pid = spawn();
		if (!pid) {
			for (i = 0; i < HUGE_PAGES; i++)
				p[i * 2 * MB + 1] = p[i * 2 * MB]++;
			_exit(0);
		}
		EXPECT_EQ(0, reap(pid));
		for (i = 0; i < HUGE_PAGES; i++)
			EXPECT_EQ(i, p[i * 2 * MB]++);
		munmap(p, HUGE_PAGES * 2 * MB);
		EXPECT_TRUE(pool_is_back(self->used));
		if (!access(path, R_OK))
			EXPECT_EQ(0, number_in(path, ""));
		write_number(POOL, self->pool);
		EXPECT_EQ(self->pool, number_in("/proc/meminfo", "HugePages_Total:"));
	}
}

/* @p is a compound page: fork if it can, unmap one page, then all, here and there. */
static bool map_and_go(char *p, unsigned long size)
{
	bool compound = has_flag(pfn(p), KPF_COMPOUND_HEAD);
	unsigned long i;
	pid_t pid;

	pid = spawn();
	/* The parent's first. Where fork has not copied it, there is nothing to unmap. */
	if (pid)
		munmap(p + PAGE, PAGE);
	else
		munmap(p, size / 2);
	if (!pid)
		_exit(0);
	for (i = 2 * PAGE; i < size; i += PAGE)
		load(p + i);
	munmap(p, PAGE);
	if (reap(pid))
		return false;
	munmap(p, size);
	return compound;
}

/* Rings of io_uring. */
TEST_F_TIMEOUT(others, rings_of_io_uring, SECONDS)
{
	struct io_uring_params params = { 0 };
	int fd = syscall(__NR_io_uring_setup, 1024, &params);
	unsigned long sqes = 1024 * sizeof(struct io_uring_sqe);
	unsigned long ring = params.cq_off.cqes +
			     params.cq_entries * sizeof(struct io_uring_cqe);
	char *p;

	if (fd < 0)
		SKIP(return, "needs io_uring");
	p = mmap(NULL, sqes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd,
		 IORING_OFF_SQES);
	ASSERT_NE(MAP_FAILED, p);
	EXPECT_TRUE(map_and_go(p, sqes));
	p = mmap(NULL, ring, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd,
		 IORING_OFF_SQ_RING);
	ASSERT_NE(MAP_FAILED, p);
	EXPECT_TRUE(map_and_go(p, ring & -PAGE));
	close(fd);
}

/* The ring buffer of the tracer, of subbuffers of several pages. */
TEST_F_TIMEOUT(others, rings_of_the_tracer, SECONDS)
{
	/* meta_page_size, meta_struct_len, subbuf_size, nr_subbufs: linux/trace_mmap.h */
	unsigned int *meta, sizes[4];
	char *p;
	int fd;

	if (self->subbuf < 0 || write_to(SUBBUF, "16"))
		SKIP(return, "needs the tracer");
	fd = open(DEBUGFS "tracing/per_cpu/cpu0/trace_pipe_raw", O_RDONLY | O_NONBLOCK);
	ASSERT_LE(0, fd);
	meta = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0);
	if (meta == MAP_FAILED)
		SKIP(return, "its buffer cannot be mapped");
	memcpy(sizes, meta, sizeof(sizes));
	EXPECT_EQ(16 * KB, sizes[2]);
	p = mmap(NULL, 16 * KB, PROT_READ, MAP_SHARED, fd, sizes[0]);
	ASSERT_NE(MAP_FAILED, p);
	EXPECT_TRUE(map_and_go(p, 16 * KB));
	munmap(meta, PAGE);
	close(fd);
}

TEST_HARNESS_MAIN
