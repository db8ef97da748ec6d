// SPDX-License-Identifier: GPL-2.0
/*
 * PTE tables that fork shares: nobody may notice. Every case runs twice, with
 * prctl(PR_SET_COW_PTE) and without, and has to come to the same result. That tables
 * are shared at all is a case of its own.
 *
 * Needs root; swap, hugetlb or NUMA nodes for some cases.
 *
 * Environment: COW_PTE_ROUNDS=n, rounds of the storms, each for a minute at most.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../../../../mm/gup_test.h"
#include "../kselftest_harness.h"

/* Not in the usual include/uapi */
#include <lib/test_hmm_uapi.h>

#ifndef PR_SET_COW_PTE
#define PR_SET_COW_PTE	0x434f5750
#define PR_GET_COW_PTE	0x434f5751
#endif
#ifndef MADV_PAGEOUT
#define MADV_COLD	20
#define MADV_PAGEOUT	21
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE	25
#endif

#define KB	1024UL
#define MB	(KB * KB)
#define GB	(KB * MB)
#define PAGE	4096UL
#define TABLE	(2 * MB)
#define PAGES	(TABLE / PAGE)
#define SIZE	(4 * TABLE)

/* ---- what the kernel says ------------------------------------------------ */

static int write_to(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);
	int ret = fd < 0 ? -1 : write(fd, text, strlen(text));

	if (fd >= 0)
		close(fd);
	return ret < 0 ? -1 : 0;
}

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

static long status(const char *key)
{
	return number_in("/proc/self/status", key);
}

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

static uint64_t pagemap(const void *p)
{
	int fd = open("/proc/self/pagemap", O_RDONLY);
	uint64_t entry = 0;

	if (pread(fd, &entry, 8, (unsigned long)p / PAGE * 8) != 8)
		entry = 0;
	close(fd);
	return entry;
}

#define PM_PRESENT	(1ULL << 63)
#define PM_SWAP		(1ULL << 62)
#define PM_EXCLUSIVE	(1ULL << 56)
#define PM_SOFT_DIRTY	(1ULL << 55)

/* ---- memory with a content ------------------------------------------------ */

static char *reserve(size_t size)
{
	char *p = mmap(NULL, size + TABLE, PROT_NONE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	char *a = (char *)(((unsigned long)p + TABLE - 1) & ~(TABLE - 1));

	if (p == MAP_FAILED)
		return NULL;
	munmap(p, size + TABLE);
	return a;
}

static uint64_t word(size_t i, unsigned int gen)
{
	return (i + 1) * 0x9e3779b97f4a7c15ULL ^ (uint64_t)gen << 32;
}

static uint64_t *at(char *p, size_t page)
{
	return (uint64_t *)(p + page * PAGE);
}

static void fill(char *p, size_t size, unsigned int gen)
{
	size_t i;

	for (i = 0; i < size / PAGE; i++) {
		at(p, i)[0] = word(i, gen);
		at(p, i)[511] = ~word(i, gen);
	}
}

/* The first page that has not the content of generation @gen, -1 if all have. */
static long differs(char *p, size_t from, size_t to, unsigned int gen)
{
	size_t i;

	for (i = from; i < to; i++) {
		volatile uint64_t *w = at(p, i);

		if (w[0] != word(i, gen) || w[511] != ~word(i, gen))
			return i;
	}
	return -1;
}

static char *anon(size_t size, unsigned int gen)
{
	char *p = reserve(size);

	p = mmap(p, size, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	madvise(p, size, MADV_NOHUGEPAGE);
	fill(p, size, gen);
	return p;
}

/* ---- children -------------------------------------------------------------- */

/* Runs @code in a child; its exit status tells whether all of it was as expected. */
#define IN_CHILD(...) ({						\
	pid_t pid_ = fork();						\
	if (!pid_) {							\
		__VA_ARGS__;						\
		_exit(0);						\
	}								\
	pid_;								\
})
#define CHECK(what) do {						\
	if (!(what)) {							\
		printf("# %d: not so: %s (errno %d)\n", __LINE__, #what, errno); \
		fflush(stdout);						\
		_exit(1);						\
	}								\
} while (0)

static int status_of(pid_t pid)
{
	int status;

	if (waitpid(pid, &status, 0) != pid)
		return -1;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

/* Two processes that take turns. */
struct turns {
	int up[2], down[2];
};

static void turns_init(struct turns *t)
{
	if (pipe(t->up) || pipe(t->down))
		abort();
}

static void tell(int fd)
{
	if (write(fd, "", 1) != 1)
		_exit(99);
}

static void await(int fd)
{
	char c;

	if (read(fd, &c, 1) != 1)
		_exit(98);
}

static unsigned long now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000UL + ts.tv_nsec / 1000;
}

/* Where a debugging kernel is slow, so many rounds since @start will do. */
static bool enough(unsigned long start)
{
	unsigned long seconds = getenv("COW_PTE_ROUNDS") ? 60 : 6;

	return now_us() - start > seconds * 1000000UL;
}

/* If there is such a CPU */
static void stay_on(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	sched_setaffinity(0, sizeof(set), &set);
}

static sigjmp_buf fault;
static void on_fault(int sig)
{
	siglongjmp(fault, sig);
}

/* 0, or the signal that reading @p gives. */
static int try_read(volatile char *p)
{
	int sig;

	signal(SIGSEGV, on_fault);
	signal(SIGBUS, on_fault);
	sig = sigsetjmp(fault, 1);
	if (!sig)
		(void)*p;
	signal(SIGSEGV, SIG_DFL);
	signal(SIGBUS, SIG_DFL);
	return sig;
}

/* ---- the fixture ----------------------------------------------------------- */

FIXTURE(cow_pte) {
	bool on;
	struct turns t;
};

FIXTURE_VARIANT(cow_pte) {
	bool on;
};

FIXTURE_VARIANT_ADD(cow_pte, off) { .on = false };
FIXTURE_VARIANT_ADD(cow_pte, on) { .on = true };

FIXTURE_SETUP(cow_pte)
{
	self->on = variant->on;
	if (variant->on && prctl(PR_SET_COW_PTE, 1, 0, 0, 0)) {
		if (getenv("COW_PTE_REQUIRED"))
			ASSERT_STREQ("", strerror(errno));
		SKIP(return, "no PR_SET_COW_PTE: %s", strerror(errno));
	}
	turns_init(&self->t);
}

FIXTURE_TEARDOWN(cow_pte)
{
	prctl(PR_SET_COW_PTE, 0, 0, 0, 0);
}

TEST(prctl_contract)
{
	if (prctl(PR_GET_COW_PTE, 0, 0, 0, 0) < 0)
		SKIP(return, "no PR_GET_COW_PTE");

	ASSERT_EQ(0, prctl(PR_GET_COW_PTE, 0, 0, 0, 0));
	EXPECT_EQ(-1, prctl(PR_SET_COW_PTE, 2, 0, 0, 0));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(-1, prctl(PR_SET_COW_PTE, -1UL, 0, 0, 0));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(-1, prctl(PR_SET_COW_PTE, 1, 1, 0, 0));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(-1, prctl(PR_SET_COW_PTE, 1, 0, 1, 0));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(-1, prctl(PR_SET_COW_PTE, 1, 0, 0, 1));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(-1, prctl(PR_GET_COW_PTE, 1, 0, 0, 0));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(-1, prctl(PR_GET_COW_PTE, 0, 0, 0, 1));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(0, prctl(PR_GET_COW_PTE, 0, 0, 0, 0));

	ASSERT_EQ(0, prctl(PR_SET_COW_PTE, 1, 0, 0, 0));
	EXPECT_EQ(1, prctl(PR_GET_COW_PTE, 0, 0, 0, 0));
	/* inherited, and the child's own */
	EXPECT_EQ(0, status_of(IN_CHILD(
		CHECK(prctl(PR_GET_COW_PTE, 0, 0, 0, 0) == 1);
		CHECK(!prctl(PR_SET_COW_PTE, 0, 0, 0, 0)))));
	EXPECT_EQ(1, prctl(PR_GET_COW_PTE, 0, 0, 0, 0));
	/* kept over execve */
	EXPECT_EQ(11, status_of(IN_CHILD(
		execl("/proc/self/exe", "cow_pte", "--get", NULL))));
	ASSERT_EQ(0, prctl(PR_SET_COW_PTE, 0, 0, 0, 0));
	EXPECT_EQ(0, prctl(PR_GET_COW_PTE, 0, 0, 0, 0));
	EXPECT_EQ(10, status_of(IN_CHILD(
		execl("/proc/self/exe", "cow_pte", "--get", NULL))));
}

/* What the rest is about: that there is something to be noticed. */
TEST_F(cow_pte, tables_are_shared)
{
	long before = number_in("/proc/vmstat", "cow_pte_shared ");
	long unshared = number_in("/proc/vmstat", "cow_pte_unshared ");
	char *p = anon(SIZE, 1);
	long vmpte = status("VmPTE:");

	EXPECT_EQ(0, status_of(IN_CHILD(
		CHECK(!self->on || status("VmPTE:") <= vmpte - 4 * (long)(SIZE / TABLE) + 4);
		CHECK(differs(p, 0, SIZE / PAGE, 1) < 0);
		/* To read is not to unshare. */
		CHECK(!self->on || status("VmPTE:") <= vmpte - 4 * (long)(SIZE / TABLE) + 4);
		at(p, 5)[0] = 0)));
	if (self->on) {
		EXPECT_LE(before + (long)(SIZE / TABLE),
			  number_in("/proc/vmstat", "cow_pte_shared "));
		EXPECT_LT(unshared, number_in("/proc/vmstat", "cow_pte_unshared "));
	} else {
		EXPECT_EQ(before, number_in("/proc/vmstat", "cow_pte_shared "));
	}
	EXPECT_EQ(vmpte, status("VmPTE:"));
	EXPECT_EQ(-1, differs(p, 0, SIZE / PAGE, 1));
}

TEST_F(cow_pte, rss_is_that_of_fork)
{
	char *p = anon(SIZE, 1);
	long rss = status("VmRSS:"), anon_kb = smaps_kb(p, "Anonymous:");
	long got[3];
	int fds[2];
	pid_t pid;

	ASSERT_EQ(0, pipe(fds));
	pid = fork();
	if (!pid) {
		got[0] = status("RssAnon:");
		got[1] = smaps_kb(p, "Rss:");
		got[2] = smaps_kb(p, "Private_Dirty:") + smaps_kb(p, "Private_Clean:");
		CHECK(write(fds[1], got, sizeof(got)) == sizeof(got));
		await(self->t.down[0]);
		/* alone */
		CHECK(smaps_kb(p, "Rss:") == (long)(SIZE / KB));
		_exit(0);
	}
	ASSERT_EQ(sizeof(got), read(fds[0], got, sizeof(got)));
	EXPECT_EQ(SIZE / KB, (unsigned long)got[1]);
	EXPECT_EQ(0, got[2]);
	EXPECT_GT(256, labs(rss - status("VmRSS:")));
	EXPECT_EQ(SIZE / KB, (unsigned long)anon_kb);
	/* Two have it: half each. */
	EXPECT_EQ(SIZE / KB / 2, (unsigned long)smaps_kb(p, "Pss:"));
	EXPECT_EQ(0, pagemap(p) & PM_EXCLUSIVE);
	tell(self->t.down[1]);
	EXPECT_EQ(0, status_of(pid));
	EXPECT_EQ(SIZE / KB, (unsigned long)smaps_kb(p, "Pss:"));
	EXPECT_NE(0, pagemap(p) & PM_EXCLUSIVE);
	munmap(p, SIZE);
	EXPECT_GT(256, labs(rss - (long)(SIZE / KB) - status("VmRSS:")));
}

/* Each writes to all pages, in either order; nobody sees the other's. */
TEST_F(cow_pte, writes_stay_with_the_writer)
{
	char *p = anon(SIZE, 1);
	int first;

	for (first = 0; first < 2; first++) {
		pid_t pid = fork();

		if (!pid) {
			if (first) {
				await(self->t.down[0]);
				CHECK(differs(p, 0, SIZE / PAGE, 1 + first) < 0);
			}
			fill(p, SIZE, 10);
			tell(self->t.up[1]);
			await(self->t.down[0]);
			CHECK(differs(p, 0, SIZE / PAGE, 10) < 0);
			_exit(0);
		}
		if (first) {
			fill(p, SIZE, 3);
			tell(self->t.down[1]);
		}
		await(self->t.up[0]);
		EXPECT_EQ(-1, differs(p, 0, SIZE / PAGE, first ? 3 : 1));
		if (!first)
			fill(p, SIZE, 2);
		tell(self->t.down[1]);
		EXPECT_EQ(0, status_of(pid));
		EXPECT_EQ(-1, differs(p, 0, SIZE / PAGE, 2 + first));
	}
}

/* A table that one copied is not to be written in place by the one who is left. */
TEST_F(cow_pte, last_sharer_spares_the_copies)
{
	char *p = anon(SIZE, 1);
	size_t i;
	pid_t pid = fork();

	if (!pid) {
		for (i = 0; i < SIZE / PAGE; i += PAGES)
			at(p, i)[1] = 77;
		tell(self->t.up[1]);
		await(self->t.down[0]);
		CHECK(differs(p, 0, SIZE / PAGE, 1) < 0);
		_exit(0);
	}
	await(self->t.up[0]);
	fill(p, SIZE, 2);
	tell(self->t.down[1]);
	EXPECT_EQ(0, status_of(pid));

	/* the other way round */
	pid = fork();
	if (!pid) {
		await(self->t.down[0]);
		fill(p, SIZE, 3);
		_exit(0);
	}
	for (i = 0; i < SIZE / PAGE; i += PAGES)
		at(p, i)[1] = 78;
	tell(self->t.down[1]);
	EXPECT_EQ(0, status_of(pid));
	EXPECT_EQ(-1, differs(p, 0, SIZE / PAGE, 2));
}

/*
 * A chain of processes does what comes to its mind, each to its own copy; each knows
 * what must be in its pages.
 */
#define MODEL_TABLES	3
#define MODEL_PAGES	(MODEL_TABLES * PAGES)
#define ABSENT		0xffff

static unsigned int model_seed;
static unsigned int rnd(unsigned int n)
{
	model_seed = model_seed * 1103515245 + 12345;
	return (model_seed >> 8) % n;
}

static void model_check(char *p, const uint16_t *gen, int who)
{
	size_t i;

	for (i = 0; i < MODEL_PAGES; i++) {
		volatile uint64_t *w = at(p, i);
		uint64_t want = gen[i] == ABSENT ? 0 : word(i, gen[i]);
		uint64_t last = gen[i] == ABSENT ? 0 : ~want;

		if (w[0] == want && w[511] == last)
			continue;
		printf("# %d, page %zu: %llx, should be %llx of %d\n", who, i,
		       (unsigned long long)w[0], (unsigned long long)want, gen[i]);
		fflush(stdout);
		_exit(1);
	}
}

static void model_write(char *p, uint16_t *gen, size_t i, int g)
{
	at(p, i)[0] = word(i, g);
	at(p, i)[511] = ~word(i, g);
	gen[i] = g;
}

static void model_step(char *p, uint16_t *gen, int *next)
{
	size_t i = rnd(MODEL_PAGES), n = 1 + rnd(rnd(4) ? 20 : 2 * PAGES), k;
	char *q = p + i * PAGE;

	if (i + n > MODEL_PAGES)
		n = MODEL_PAGES - i;
	switch (rnd(12)) {
	case 0: case 1: case 2:
		for (k = i; k < i + n; k++)
			model_write(p, gen, k, *next);
		(*next)++;
		break;
	case 3:
		for (k = i % PAGES; k < MODEL_PAGES; k += PAGES)
			model_write(p, gen, k, *next);
		(*next)++;
		break;
	case 4:
		CHECK(!madvise(q, n * PAGE, MADV_DONTNEED));
		for (k = i; k < i + n; k++)
			gen[k] = ABSENT;
		break;
	case 5:
		CHECK(mmap(q, n * PAGE, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == q);
		madvise(q, n * PAGE, MADV_NOHUGEPAGE);
		for (k = i; k < i + n; k++)
			gen[k] = ABSENT;
		break;
	case 6:
		madvise(q, n * PAGE, MADV_PAGEOUT);
		break;
	case 7:
		CHECK(!mprotect(q, n * PAGE, PROT_READ));
		CHECK(!mprotect(q, n * PAGE, PROT_READ | PROT_WRITE));
		break;
	case 8: {
		char *r = reserve(n * PAGE);

		/* away and back */
		r = mremap(q, n * PAGE, n * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, r);
		if (r == MAP_FAILED) {
			CHECK(errno == EFAULT);	/* several VMAs */
			break;
		}
		CHECK(mremap(r, n * PAGE, n * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, q) == q);
		break;
	}
	case 9:
		write_to("/proc/self/clear_refs", rnd(2) ? "1" : "4");
		break;
	case 10: {
		void *pages[8];
		int nodes[8], st[8];

		for (k = 0; k < 8; k++) {
			pages[k] = p + rnd(MODEL_PAGES) * PAGE;
			nodes[k] = rnd(2);
		}
		syscall(SYS_move_pages, 0, 8, pages, nodes, st, 4 /* MPOL_MF_MOVE_ALL */);
		break;
	}
	case 11:
		if (madvise(p + i / PAGES * TABLE, TABLE, MADV_COLLAPSE) == 0)
			madvise(p + i / PAGES * TABLE, TABLE, MADV_NOHUGEPAGE);
		break;
	}
}

static void model_run(char *p, uint16_t *gen, int depth, int steps, unsigned int seed)
{
	uint16_t mine[MODEL_PAGES];
	int next = 1 + depth * 1000, s;
	pid_t children[4];
	int nr = 0;

	memcpy(mine, gen, sizeof(mine));
	model_seed = seed;
	for (s = 0; s < steps; s++) {
		model_step(p, mine, &next);
		if (depth < 3 && nr < 2 && !rnd(steps / 3)) {
			pid_t pid = fork();

			CHECK(pid >= 0);
			if (!pid) {
				model_run(p, mine, depth + 1, steps, seed * 31 + nr + 1);
				_exit(0);
			}
			children[nr++] = pid;
		}
		if (!rnd(8))
			model_check(p, mine, depth);
	}
	model_check(p, mine, depth);
	/* half of them leave before their children do */
	if (depth && rnd(2))
		return;
	while (nr)
		CHECK(!status_of(children[--nr]));
	model_check(p, mine, depth);
}

TEST_F_TIMEOUT(cow_pte, random_family, 300)
{
	const char *env = getenv("COW_PTE_ROUNDS");
	int round, rounds = env ? atoi(env) : 4;
	unsigned int seed = env ? time(NULL) : 42;
	unsigned long start = now_us();

	for (round = 0; round < rounds && !enough(start); round++) {
		pid_t pid;

		TH_LOG("seed %u", seed + round);
		pid = IN_CHILD({
			uint16_t gen[MODEL_PAGES];
			char *p = anon(MODEL_TABLES * TABLE, 1);
			size_t i;

			/* orphans report to us */
			CHECK(!prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0));
			for (i = 0; i < MODEL_PAGES; i++)
				gen[i] = 1;
			model_run(p, gen, 0, 60, seed + round);
			while (1) {
				int st;

				if (wait(&st) < 0)
					break;
				CHECK(!st);
			}
		});
		ASSERT_EQ(0, status_of(pid));
	}
}

/* Part of a table goes in the child: its other pages stay, and all of the parent's. */
TEST_F(cow_pte, unmap_a_part)
{
	static const char *const what[] = { "dontneed", "munmap", "fixed", "free" };
	char *p = anon(SIZE, 1);
	size_t from = PAGES + 100, to = PAGES + 117, i;
	unsigned int k;

	for (k = 0; k < ARRAY_SIZE(what); k++) {
		EXPECT_EQ(0, status_of(IN_CHILD(
			char *q = p + from * PAGE;
			size_t len = (to - from) * PAGE;

			switch (k) {
			case 0:
				CHECK(!madvise(q, len, MADV_DONTNEED));
				break;
			case 1:
				CHECK(!munmap(q, len));
				for (i = from; i < to; i++)
					CHECK(try_read(p + i * PAGE) == SIGSEGV);
				break;
			case 2:
				CHECK(mmap(q, len, PROT_READ, MAP_PRIVATE |
					   MAP_ANONYMOUS | MAP_FIXED, -1, 0) == q);
				break;
			case 3:
				CHECK(!madvise(q, len, MADV_FREE));
				break;
			}
			if (k == 0 || k == 2) {
				for (i = from; i < to; i++)
					CHECK(!at(p, i)[0]);
			}
			CHECK(differs(p, 0, from, 1) < 0);
			CHECK(differs(p, to, SIZE / PAGE, 1) < 0)))) {
			TH_LOG("%s", what[k]);
		}
		EXPECT_EQ(-1, differs(p, 0, SIZE / PAGE, 1));
	}
	/* ... and in the parent, while the child looks. */
	for (k = 0; k < 2; k++) {
		pid_t pid = fork();

		if (!pid) {
			await(self->t.down[0]);
			CHECK(differs(p, k ? to : 0, SIZE / PAGE, 1) < 0);
			_exit(0);
		}
		if (k == 0) {
			EXPECT_EQ(0, madvise(p + from * PAGE, (to - from) * PAGE,
					     MADV_DONTNEED));
		} else {
			EXPECT_EQ(0, munmap(p, from * PAGE));
		}
		tell(self->t.down[1]);
		EXPECT_EQ(0, status_of(pid));
		EXPECT_EQ(-1, differs(p, to, SIZE / PAGE, 1));
	}
}

/* The whole of a table goes, in parent or child. */
TEST_F(cow_pte, unmap_the_whole)
{
	char *p = anon(SIZE, 1);
	long rss = smaps_kb(p, "Rss:");
	pid_t pid;

	EXPECT_EQ(0, status_of(IN_CHILD(
		CHECK(!madvise(p + TABLE, TABLE, MADV_DONTNEED));
		CHECK(smaps_kb(p, "Rss:") == rss - (long)(TABLE / KB));
		CHECK(!at(p, PAGES)[0] && !at(p, 2 * PAGES - 1)[0]);
		CHECK(!munmap(p + 2 * TABLE, TABLE));
		CHECK(try_read(p + 2 * TABLE) == SIGSEGV);
		CHECK(differs(p, 0, PAGES, 1) < 0);
		CHECK(differs(p, 3 * PAGES, 4 * PAGES, 1) < 0);
		fill(p, 2 * TABLE, 2))));
	EXPECT_EQ(-1, differs(p, 0, SIZE / PAGE, 1));
	EXPECT_EQ(rss, smaps_kb(p, "Rss:"));

	pid = fork();
	if (!pid) {
		await(self->t.down[0]);
		CHECK(differs(p, 0, SIZE / PAGE, 1) < 0);
		fill(p, SIZE, 4);
		CHECK(differs(p, 0, SIZE / PAGE, 4) < 0);
		_exit(0);
	}
	EXPECT_EQ(0, munmap(p, SIZE));
	tell(self->t.down[1]);
	EXPECT_EQ(0, status_of(pid));
}

/* A VMA that is all that the table maps, and smaller than it. */
TEST_F(cow_pte, unmap_a_small_vma)
{
	char *p = reserve(TABLE);

	ASSERT_EQ(p + 8 * PAGE, mmap(p + 8 * PAGE, 16 * PAGE, PROT_READ | PROT_WRITE,
		  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
	fill(p + 8 * PAGE, 16 * PAGE, 1);
	EXPECT_EQ(0, status_of(IN_CHILD(
		CHECK(!munmap(p + 8 * PAGE, 16 * PAGE));
		CHECK(try_read(p + 8 * PAGE) == SIGSEGV))));
	EXPECT_EQ(0, status_of(IN_CHILD(
		CHECK(!madvise(p + 8 * PAGE, 16 * PAGE, MADV_DONTNEED));
		CHECK(!at(p, 8)[0]))));
	/* with another flag since the fork */
	EXPECT_EQ(0, status_of(IN_CHILD(
		CHECK(!madvise(p + 8 * PAGE, 16 * PAGE, MADV_DONTFORK));
		CHECK(!munmap(p + 8 * PAGE, 16 * PAGE)))));
	EXPECT_EQ(-1, differs(p + 8 * PAGE, 0, 16, 1));
}

/* One table, many VMAs, of which some must not be shared. */
TEST_F(cow_pte, many_vmas_in_a_table)
{
	int fd = memfd_create("cow_pte", 0), round;
	size_t step = 64 * KB, n = step / PAGE;
	char *p = anon(TABLE, 1);

	ASSERT_EQ(0, ftruncate(fd, step));
	ASSERT_EQ(0, madvise(p + step, step, MADV_DONTFORK));
	ASSERT_EQ(0, madvise(p + 3 * step, step, MADV_WIPEONFORK));
	ASSERT_EQ(p + 5 * step, mmap(p + 5 * step, step, PROT_READ | PROT_WRITE,
		  MAP_SHARED | MAP_FIXED, fd, 0));
	ASSERT_EQ(0, mlock(p + 7 * step, step));

	for (round = 0; round < 5; round++) {
		at(p, 5 * n)[0] = 100 + round;
		EXPECT_EQ(0, status_of(IN_CHILD(
			CHECK(try_read(p + step) == SIGSEGV);
			CHECK(!at(p, 3 * n)[0] && !at(p, 4 * n - 1)[0]);
			CHECK(at(p, 5 * n)[0] == 100 + round);
			at(p, 5 * n + 1)[0] = 200 + round;
			CHECK(differs(p, 0, n, 1) < 0);
			CHECK(differs(p, 2 * n, 3 * n, 1) < 0);
			CHECK(differs(p, 4 * n, 5 * n, 1) < 0);
			CHECK(differs(p, 6 * n, PAGES, 1) < 0);
			fill(p, step, 9))));
		EXPECT_EQ(200 + round, at(p, 5 * n + 1)[0]);
		EXPECT_EQ(-1, differs(p, 0, 5 * n, 1));
		EXPECT_EQ(-1, differs(p, 6 * n, PAGES, 1));
	}
	/* Only plain ones: shared. A new neighbour must not get into the table. */
	ASSERT_EQ(0, munlock(p + 7 * step, step));
	ASSERT_EQ(0, madvise(p + step, step, MADV_DOFORK));
	ASSERT_EQ(0, madvise(p + 3 * step, step, MADV_KEEPONFORK));
	ASSERT_EQ(0, munmap(p + 5 * step, step));
	EXPECT_EQ(0, status_of(IN_CHILD(
		CHECK(mmap(p + 5 * step, step, PROT_READ | PROT_WRITE,
			   MAP_SHARED | MAP_FIXED, fd, 0) == p + 5 * step);
		CHECK(at(p, 5 * n)[0] == 104);
		at(p, 5 * n)[0] = 300;
		CHECK(differs(p, 0, 5 * n, 1) < 0);
		CHECK(!munmap(p + 5 * step, step));
		CHECK(differs(p, 6 * n, PAGES, 1) < 0))));
	EXPECT_EQ(SIGSEGV, try_read(p + 5 * step));
	EXPECT_EQ(-1, differs(p, 0, 5 * n, 1));
	EXPECT_EQ(-1, differs(p, 6 * n, PAGES, 1));
	close(fd);
}

/* Reads of what is not there yet do not make it be there for others. */
TEST_F(cow_pte, absent_pages)
{
	char *p = anon(TABLE, 1);

	ASSERT_EQ(0, madvise(p + 10 * PAGE, 20 * PAGE, MADV_DONTNEED));
	EXPECT_EQ(0, status_of(IN_CHILD(
		CHECK(!at(p, 10)[0]);
		CHECK(pagemap(p + 10 * PAGE) & PM_PRESENT);
		at(p, 11)[0] = 1)));
	EXPECT_EQ(0, pagemap(p + 10 * PAGE) & PM_PRESENT);
	EXPECT_EQ(0, pagemap(p + 11 * PAGE) & PM_PRESENT);
	EXPECT_EQ(-1, differs(p, 0, 10, 1));
}

TEST_F(cow_pte, protections)
{
	char *p = anon(SIZE, 1);
	pid_t pid;

	EXPECT_EQ(0, status_of(IN_CHILD(
		CHECK(!mprotect(p, SIZE, PROT_NONE));
		CHECK(try_read(p) == SIGSEGV))));
	EXPECT_EQ(-1, differs(p, 0, SIZE / PAGE, 1));
	EXPECT_EQ(0, status_of(IN_CHILD(
		CHECK(!mprotect(p, SIZE, PROT_READ));
		CHECK(!mprotect(p, SIZE, PROT_READ | PROT_WRITE));
		fill(p, SIZE, 2))));
	EXPECT_EQ(-1, differs(p, 0, SIZE / PAGE, 1));

	pid = fork();
	if (!pid) {
		await(self->t.down[0]);
		CHECK(differs(p, 0, SIZE / PAGE, 1) < 0);
		fill(p, SIZE, 3);
		_exit(0);
	}
	ASSERT_EQ(0, mprotect(p + 3 * PAGE, TABLE, PROT_NONE));
	EXPECT_EQ(SIGSEGV, try_read(p + 3 * PAGE));
	tell(self->t.down[1]);
	EXPECT_EQ(0, status_of(pid));
	ASSERT_EQ(0, mprotect(p + 3 * PAGE, TABLE, PROT_READ));
	EXPECT_EQ(-1, differs(p, 0, SIZE / PAGE, 1));
}

TEST_F(cow_pte, mremap_moves_ones_own)
{
	char *p = anon(SIZE, 1), *q = anon(TABLE, 5), *r;
	pid_t pid = fork();

	if (!pid) {
		/* into the middle of what is shared as well */
		r = mremap(p + PAGE, 64 * KB, 64 * KB, MREMAP_MAYMOVE | MREMAP_FIXED,
			   q + MB);
		CHECK(r == q + MB);
		CHECK(at(r, 0)[0] == word(1, 1));
		CHECK(differs(q, 0, MB / PAGE, 5) < 0);
		CHECK(try_read(p + PAGE) == SIGSEGV);
		/* whole tables */
		r = reserve(2 * TABLE);
		CHECK(mremap(p + TABLE, 2 * TABLE, 2 * TABLE,
			     MREMAP_MAYMOVE | MREMAP_FIXED, r) == r);
		CHECK(at(r, 3)[0] == word(PAGES + 3, 1));
		memset(r, 1, 2 * TABLE);
		_exit(0);
	}
	EXPECT_EQ(0, status_of(pid));
	EXPECT_EQ(-1, differs(p, 0, SIZE / PAGE, 1));
	EXPECT_EQ(-1, differs(q, 0, TABLE / PAGE, 5));
}

/* By a whole gigabyte, where the table of tables is moved. */
TEST_F(cow_pte, mremap_moves_a_gigabyte)
{
	char *p, *q, *base;
	size_t i;
	pid_t pid;

	base = mmap(NULL, 6 * GB, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
		    -1, 0);
	ASSERT_NE(MAP_FAILED, base);
	p = (char *)(((unsigned long)base + GB - 1) & ~(GB - 1));
	q = p + 2 * GB;
	ASSERT_EQ(p, mmap(p, GB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS |
			  MAP_NORESERVE | MAP_FIXED, -1, 0));
	madvise(p, GB, MADV_NOHUGEPAGE);
	for (i = 0; i < GB / TABLE; i += 100)
		fill(p + i * TABLE, TABLE, i);
	pid = fork();
	if (!pid) {
		CHECK(mremap(p, GB, GB, MREMAP_MAYMOVE | MREMAP_FIXED, q) == q);
		for (i = 0; i < GB / TABLE; i += 100) {
			CHECK(differs(q + i * TABLE, 0, PAGES, i) < 0);
			CHECK(try_read(p + i * TABLE) == SIGSEGV);
		}
		tell(self->t.up[1]);
		await(self->t.down[0]);
		for (i = 0; i < GB / TABLE; i += 100) {
			CHECK(differs(q + i * TABLE, 0, PAGES, i) < 0);
			fill(q + i * TABLE, TABLE, 7);
		}
		_exit(0);
	}
	await(self->t.up[0]);
	for (i = 0; i < GB / TABLE; i += 100) {
		EXPECT_EQ(-1, differs(p + i * TABLE, 0, PAGES, i));
		fill(p + i * TABLE, TABLE, 9);
	}
	tell(self->t.down[1]);
	EXPECT_EQ(0, status_of(pid));
	for (i = 0; i < GB / TABLE; i += 100)
		EXPECT_EQ(-1, differs(p + i * TABLE, 0, PAGES, 9));
	munmap(base, 6 * GB);
}

/* Freed lazily by one: the other's pages must not go. */
TEST_F(cow_pte, madv_free_is_ones_own)
{
	char *p = anon(SIZE, 1);
	pid_t pid = fork();

	if (!pid) {
		CHECK(!madvise(p, SIZE, MADV_FREE));
		madvise(p, SIZE, MADV_PAGEOUT);
		tell(self->t.up[1]);
		await(self->t.down[0]);
		_exit(0);
	}
	await(self->t.up[0]);
	madvise(p, SIZE, MADV_PAGEOUT);
	EXPECT_EQ(-1, differs(p, 0, SIZE / PAGE, 1));
	tell(self->t.down[1]);
	EXPECT_EQ(0, status_of(pid));
	EXPECT_EQ(-1, differs(p, 0, SIZE / PAGE, 1));
}

TEST_F(cow_pte, soft_dirty_is_ones_own)
{
	char *p = anon(TABLE, 1);

	EXPECT_EQ(0, status_of(IN_CHILD(
		CHECK(!write_to("/proc/self/clear_refs", "4"));
		CHECK(!(pagemap(p) & PM_SOFT_DIRTY));
		at(p, 1)[0] = 1)));
	EXPECT_NE(0, pagemap(p) & PM_SOFT_DIRTY);
	EXPECT_NE(0, pagemap(p + PAGE) & PM_SOFT_DIRTY);
}

/* References that the kernel gives out. */
TEST_F(cow_pte, direct_io_into_a_page)
{
	char name[] = "cow_pte.XXXXXX";
	char *p = anon(SIZE, 1), *src;
	int fd = mkstemp(name), who;

	if (fd < 0)
		SKIP(return, "cannot write to the current directory");
	src = anon(TABLE, 7);
	ASSERT_EQ(TABLE, (unsigned long)write(fd, src, TABLE));
	close(fd);
	for (who = 0; who < 2; who++) {
		pid_t pid = fork();

		if (!pid) {
			if (!who) {
				fd = open(name, O_RDONLY | O_DIRECT);
				CHECK(fd >= 0);
				CHECK(read(fd, p + PAGE, 8 * PAGE) == 8 * PAGE);
				CHECK(at(p, 1)[0] == word(0, 7));
			} else {
				await(self->t.down[0]);
				CHECK(differs(p, 0, SIZE / PAGE, 1) < 0);
			}
			_exit(0);
		}
		if (who) {
			fd = open(name, O_RDONLY | O_DIRECT);
			ASSERT_LE(0, fd);
			EXPECT_EQ(8 * PAGE, (unsigned long)read(fd, p + PAGE, 8 * PAGE));
			EXPECT_EQ(word(0, 7), at(p, 1)[0]);
			tell(self->t.down[1]);
		}
		EXPECT_EQ(0, status_of(pid));
		if (!who)
			EXPECT_EQ(-1, differs(p, 0, SIZE / PAGE, 1));
	}
	unlink(name);
}

/* Who has given pages to a device keeps them, and a child gets copies, as ever. */
TEST_F(cow_pte, pinned_pages_stay)
{
	char *p = anon(TABLE, 1), *seen = anon(2 * PAGE, 0);
	struct pin_longterm_test pin = {
		.addr = (unsigned long)at(p, 5),
		.size = 2 * PAGE,
		.flags = PIN_LONGTERM_TEST_FLAG_USE_WRITE,
	};
	uint64_t to = (unsigned long)seen;
	int fd = open("/sys/kernel/debug/gup_test", O_RDWR);
	pid_t pid;

	if (fd < 0)
		SKIP(return, "needs CONFIG_GUP_TEST");
	ASSERT_EQ(0, ioctl(fd, PIN_LONGTERM_TEST_START, &pin));
	pid = IN_CHILD(
		await(self->t.down[0]);
		CHECK(differs(p, 0, PAGES, 1) < 0));
	at(p, 5)[0] = 2;
	at(p, 6)[511] = 3;
	ASSERT_EQ(0, ioctl(fd, PIN_LONGTERM_TEST_READ, &to));
	EXPECT_EQ(0, memcmp(seen, at(p, 5), 2 * PAGE));
	tell(self->t.down[1]);
	EXPECT_EQ(0, status_of(pid));
	ASSERT_EQ(0, ioctl(fd, PIN_LONGTERM_TEST_STOP));
	close(fd);
}

TEST_F(cow_pte, forced_write_of_a_debugger)
{
	char *p = anon(TABLE, 1);
	int fd = open("/proc/self/mem", O_RDWR);
	uint64_t v = 4711;
	pid_t pid;

	ASSERT_EQ(0, mprotect(p, TABLE, PROT_READ));
	pid = fork();
	if (!pid) {
		await(self->t.down[0]);
		CHECK(differs(p, 0, PAGES, 1) < 0);
		_exit(0);
	}
	ASSERT_EQ(8, pwrite(fd, &v, 8, (unsigned long)p));
	EXPECT_EQ(v, at(p, 0)[0]);
	tell(self->t.down[1]);
	EXPECT_EQ(0, status_of(pid));
	close(fd);
}

/* A pipe holds the page of a child that has left; the parent's writes are not for it. */
TEST_F(cow_pte, a_pipe_keeps_the_old_content)
{
	char *p = anon(TABLE, 1);
	uint64_t buf[512];
	int fds[2];

	ASSERT_EQ(0, pipe(fds));
	EXPECT_EQ(0, status_of(IN_CHILD(
		struct iovec iov = { p, PAGE };

		CHECK(vmsplice(fds[1], &iov, 1, 0) == (ssize_t)PAGE);
		CHECK(!munmap(p, TABLE)))));
	fill(p, TABLE, 2);
	ASSERT_EQ(PAGE, (unsigned long)read(fds[0], buf, PAGE));
	EXPECT_EQ(word(0, 1), buf[0]);
	close(fds[0]);
	close(fds[1]);
}

/*
 * A reference from before the fork is that of who took it: another, though the last
 * one to map the page, must not write where the pipe sees it.
 */
TEST_F(cow_pte, a_pipe_of_the_parent_keeps_the_old_content)
{
	char *p = anon(TABLE, 1);
	uint64_t buf[512];
	int fds[2];

	ASSERT_EQ(0, pipe(fds));
	EXPECT_EQ(0, status_of(IN_CHILD(
		struct iovec iov = { p, PAGE };
		pid_t pid;

		at(p, 0)[0] = 0xbeef;
		CHECK(vmsplice(fds[1], &iov, 1, 0) == (ssize_t)PAGE);
		pid = fork();
		if (!pid) {
			/* until the one that had the page has gone */
			await(self->t.down[0]);
			fill(p, TABLE, 2);
			CHECK(read(fds[0], buf, PAGE) == (ssize_t)PAGE);
			CHECK(buf[0] == 0xbeef);
			CHECK(differs(p, 0, PAGES, 2) < 0);
			tell(self->t.up[1]);
			_exit(0);
		})));
	tell(self->t.down[1]);
	await(self->t.up[0]);
	EXPECT_EQ(-1, differs(p, 0, PAGES, 1));
	close(fds[0]);
	close(fds[1]);
}

static void ignore(int sig)
{
}

/* The poisoned page is gone for all, and nothing else is. */
TEST_F(cow_pte, hwpoison)
{
	char *p = anon(TABLE, 1);
	pid_t pid = fork();

	if (!pid) {
		await(self->t.down[0]);
		CHECK(differs(p, 0, 7, 1) < 0);
		CHECK(try_read((char *)at(p, 7)) == SIGBUS);
		CHECK(differs(p, 8, PAGES, 1) < 0);
		at(p, 8)[0] = 1;
		_exit(0);
	}
	signal(SIGBUS, ignore);
	if (madvise(at(p, 7), PAGE, MADV_HWPOISON))
		SKIP(tell(self->t.down[1]); status_of(pid); return, "no memory failure");
	EXPECT_EQ(SIGBUS, try_read((char *)at(p, 7)));
	tell(self->t.down[1]);
	EXPECT_EQ(0, status_of(pid));
	EXPECT_EQ(-1, differs(p, 0, 7, 1));
	EXPECT_EQ(-1, differs(p, 8, PAGES, 1));
	munmap(p, TABLE);
}

TEST_F(cow_pte, others_read_and_write_its_memory)
{
	char *p = anon(TABLE, 1);
	uint64_t v = 0;
	char name[32];
	int fd;
	pid_t pid = fork();

	if (!pid) {
		await(self->t.down[0]);
		CHECK(at(p, 5)[0] == 99);
		CHECK(differs(p, 6, PAGES, 1) < 0);
		_exit(0);
	}
	sprintf(name, "/proc/%d/mem", pid);
	fd = open(name, O_RDWR);
	ASSERT_LE(0, fd);
	EXPECT_EQ(8, pread(fd, &v, 8, (unsigned long)p + 5 * PAGE));
	EXPECT_EQ(word(5, 1), v);
	v = 99;
	EXPECT_EQ(8, pwrite(fd, &v, 8, (unsigned long)p + 5 * PAGE));
	close(fd);
	EXPECT_EQ(-1, differs(p, 0, PAGES, 1));
	tell(self->t.down[1]);
	EXPECT_EQ(0, status_of(pid));
}

/* ---- swap and migration ---------------------------------------------------- */

static size_t swapped(char *p, size_t size)
{
	size_t i, n = 0;

	for (i = 0; i < size / PAGE; i++)
		n += !!(pagemap(p + i * PAGE) & PM_SWAP);
	return n;
}

/* For reclaim from a memcg: MADV_PAGEOUT does not touch what others use. */
static void reclaim(const char *amount)
{
	write_to("/sys/fs/cgroup/memory.reclaim", amount);
}

TEST_F(cow_pte, pageout_spares_relatives)
{
	char *p = anon(TABLE, 1);
	int i;

	if (number_in("/proc/meminfo", "SwapTotal:") <= 0)
		SKIP(return, "no swap");
	EXPECT_EQ(0, status_of(IN_CHILD(
		for (i = 0; i < 3; i++)
			madvise(p, TABLE, MADV_PAGEOUT);
		CHECK(!swapped(p, TABLE)))));
	EXPECT_EQ(0, swapped(p, TABLE));
	EXPECT_EQ(-1, differs(p, 0, PAGES, 1));
	/* Alone again */
	for (i = 0; i < 20 && !swapped(p, TABLE); i++)
		madvise(p, TABLE, MADV_PAGEOUT);
	EXPECT_LT(0, swapped(p, TABLE));
	EXPECT_EQ(-1, differs(p, 0, PAGES, 1));
}

TEST_F(cow_pte, swapped_out_before)
{
	char *p = anon(SIZE, 1);
	long swap;
	pid_t pid;

	madvise(p, SIZE, MADV_PAGEOUT);
	swap = smaps_kb(p, "Swap:");
	if (swapped(p, SIZE) < SIZE / PAGE / 2)
		SKIP(return, "no swap");
	pid = fork();
	if (!pid) {
		CHECK(smaps_kb(p, "Swap:") == swap);
		fill(p, TABLE, 2);
		await(self->t.down[0]);
		CHECK(differs(p, 0, PAGES, 2) < 0);
		CHECK(differs(p, PAGES, SIZE / PAGE, 1) < 0);
		_exit(0);
	}
	EXPECT_EQ(-1, differs(p, 0, 2 * PAGES, 1));
	fill(p + TABLE, TABLE, 3);
	tell(self->t.down[1]);
	EXPECT_EQ(0, status_of(pid));
	EXPECT_EQ(-1, differs(p, 0, PAGES, 1));
	EXPECT_EQ(-1, differs(p + TABLE, 0, PAGES, 3));
	EXPECT_EQ(-1, differs(p, 2 * PAGES, 4 * PAGES, 1));
	EXPECT_EQ(0, smaps_kb(p, "Swap:"));
}

TEST_F(cow_pte, swapped_out_while_shared)
{
	char *p = anon(SIZE, 1);
	long rss[2], vmpte;
	int i;
	pid_t pid;

	if (number_in("/proc/meminfo", "SwapTotal:") <= 0)
		SKIP(return, "no swap");
	vmpte = status("VmPTE:");
	pid = fork();
	if (!pid) {
		await(self->t.down[0]);
		/* Reclaim has not unshared anything. */
		CHECK(!self->on || status("VmPTE:") <= vmpte - 4 * (long)(SIZE / TABLE) + 4);
		/* RSS and swap are counted for both */
		CHECK(smaps_kb(p, "Rss:") + smaps_kb(p, "Swap:") == (long)(SIZE / KB));
		CHECK(status("RssAnon:") + status("VmSwap:") >= (long)(SIZE / KB));
		CHECK(differs(p, 0, SIZE / PAGE, 1) < 0);
		fill(p, SIZE, 2);
		_exit(0);
	}
	for (i = 0; i < 20 && swapped(p, SIZE) < PAGES; i++)
		reclaim("8M");
	EXPECT_LE(PAGES, swapped(p, SIZE));
	rss[0] = status("RssAnon:");
	rss[1] = status("VmSwap:");
	EXPECT_LE((long)(SIZE / KB), rss[0] + rss[1]);
	tell(self->t.down[1]);
	EXPECT_EQ(0, status_of(pid));
	EXPECT_EQ(-1, differs(p, 0, SIZE / PAGE, 1));
	rss[0] = status("RssAnon:") + status("VmSwap:");
	munmap(p, SIZE);
	EXPECT_EQ((long)(SIZE / KB), rss[0] - status("RssAnon:") - status("VmSwap:"));
}

TEST_F(cow_pte, swapoff_finds_the_orphan)
{
	char *p = anon(SIZE, 1);
	pid_t pid;

	if (access("/dev/zram0", F_OK) || number_in("/proc/meminfo", "SwapTotal:") <= 0)
		SKIP(return, "no swap on zram0");
	madvise(p, SIZE, MADV_PAGEOUT);
	pid = fork();
	if (!pid) {
		await(self->t.down[0]);
		CHECK(differs(p, 0, SIZE / PAGE, 1) < 0);
		CHECK(!status("VmSwap:"));
		fill(p, SIZE, 2);
		CHECK(differs(p, 0, SIZE / PAGE, 2) < 0);
		_exit(0);
	}
	EXPECT_EQ(0, munmap(p, SIZE));
	ASSERT_EQ(0, swapoff("/dev/zram0"));
	ASSERT_EQ(0, swapon("/dev/zram0", 0));
	tell(self->t.down[1]);
	EXPECT_EQ(0, status_of(pid));
}

/* And each of several who have a table together. */
TEST_F_TIMEOUT(cow_pte, swapoff_serves_relatives, 120)
{
	char *p = anon(SIZE, 1);
	pid_t pid;

	if (access("/dev/zram0", F_OK) || number_in("/proc/meminfo", "SwapTotal:") <= 0)
		SKIP(return, "no swap on zram0");
	madvise(p, SIZE, MADV_PAGEOUT);
	pid = fork();
	if (!pid) {
		await(self->t.down[0]);
		CHECK(!status("VmSwap:"));
		CHECK(differs(p, 0, SIZE / PAGE, 1) < 0);
		fill(p, SIZE, 2);
		_exit(0);
	}
	ASSERT_EQ(0, swapoff("/dev/zram0"));
	ASSERT_EQ(0, swapon("/dev/zram0", 0));
	EXPECT_EQ(0, status("VmSwap:"));
	tell(self->t.down[1]);
	EXPECT_EQ(0, status_of(pid));
	EXPECT_EQ(-1, differs(p, 0, SIZE / PAGE, 1));
}

/* A reader on each side, while pages are moved and swapped out under them. */
TEST_F_TIMEOUT(cow_pte, readers_during_reclaim_and_migration, 120)
{
	size_t size = 2 * TABLE, i;
	unsigned long start = now_us();
	char *p = anon(size, 1);
	pid_t pid[2];
	int k, round;
	bool *stop = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
			  MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	for (k = 0; k < 2; k++) {
		pid[k] = IN_CHILD(
			while (!*(volatile bool *)stop)
				CHECK(differs(p, 0, size / PAGE, 1) < 0));
	}
	for (round = 0; round < 30 && !enough(start); round++) {
		void *pages[PAGES];
		int nodes[PAGES], st[PAGES];
		char *waste;

		for (i = 0; i < PAGES; i++) {
			pages[i] = p + i * 2 * PAGE;
			nodes[i] = round & 1;
		}
		syscall(SYS_move_pages, 0, PAGES, pages, nodes, st, 4);
		reclaim("4M");
		waste = mmap(NULL, size, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
		memset(waste, 0xee, size);
		munmap(waste, size);
	}
	*stop = true;
	for (k = 0; k < 2; k++)
		EXPECT_EQ(0, status_of(pid[k]));
	EXPECT_EQ(-1, differs(p, 0, size / PAGE, 1));
}

/*
 * Reclaim looks at the oldest relative first, who leaves the table meanwhile, at any time
 * but in the first round, which tells how long it takes.
 */
TEST_F_TIMEOUT(cow_pte, writer_leaves_during_reclaim, 120)
{
	unsigned long start = now_us(), us = 0;
	char *p = anon(SIZE, 1);
	size_t i, k;
	int round;

	/* Longer than enough(): few rounds hit the moment. */
	for (round = 0; round < 15 && now_us() - start < 20 * 1000000UL; round++) {
		unsigned long begin;
		pid_t pid = IN_CHILD(
			tell(self->t.up[1]);
			for (k = 0; k < 20 && swapped(p, SIZE) < 3 * PAGES; k++)
				reclaim("8M"));

		await(self->t.up[0]);
		begin = now_us();
		if (round)
			usleep(rand() % us);
		for (i = 0; round && i < SIZE / TABLE; i++) {
			k = i * PAGES + 1 + round;
			at(p, k)[0] = word(k, 1);
		}
		ASSERT_EQ(0, status_of(pid));
		if (!round) {
			us = now_us() - begin;
			if (swapped(p, SIZE) < PAGES)
				SKIP(break, "needs swap");
		}
		ASSERT_EQ(-1, differs(p, 0, SIZE / PAGE, 1));
	}
	munmap(p, SIZE);
}

/* Not for one process alone to move what others use. */
TEST_F(cow_pte, move_pages_of_others)
{
	char *p = anon(TABLE, 1);
	void *pages[1] = { p + 7 * PAGE };
	int node, st;

	if (access("/sys/devices/system/node/node1", F_OK) ||
	    syscall(SYS_move_pages, 0, 1, pages, NULL, &st, 0) || st < 0)
		SKIP(return, "needs two nodes");
	node = !st;
	EXPECT_EQ(0, status_of(IN_CHILD(
		int s = 99, n = node;

		syscall(SYS_move_pages, 0, 1, pages, &n, &s, 2 /* MPOL_MF_MOVE */);
		CHECK(s == -EACCES))));
	/* Alone again */
	EXPECT_EQ(0, syscall(SYS_move_pages, 0, 1, pages, &node, &st, 2));
	EXPECT_EQ(node, st);
	EXPECT_EQ(-1, differs(p, 0, PAGES, 1));
}

/* ---- files ----------------------------------------------------------------- */

TEST_F(cow_pte, private_file_mapping)
{
	char name[] = "cow_pte.XXXXXX";
	char *src = anon(TABLE, 7), *p = reserve(TABLE);
	int fd = mkstemp(name);
	size_t i;
	pid_t pid;

	if (fd < 0)
		SKIP(return, "cannot write to the current directory");
	unlink(name);
	ASSERT_EQ(TABLE, (unsigned long)write(fd, src, TABLE));
	ASSERT_EQ(p, mmap(p, TABLE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED,
			  fd, 0));
	EXPECT_EQ(-1, differs(p, 0, PAGES, 7));
	for (i = 0; i < PAGES; i += 2) {
		at(p, i)[0] = word(i, 8);
		at(p, i)[511] = ~word(i, 8);
	}
	pid = fork();
	if (!pid) {
		long rss = smaps_kb(p, "Rss:");

		for (i = 0; i < PAGES; i++)
			CHECK(differs(p, i, i + 1, 7 + !(i & 1)) < 0);
		tell(self->t.up[1]);
		await(self->t.down[0]);
		CHECK(smaps_kb(p, "Rss:") == rss - (long)(MB / KB));
		for (i = 0; i < PAGES / 2; i++)
			CHECK(differs(p, i, i + 1, 7 + !(i & 1)) < 0);
		CHECK(try_read(p + MB) == SIGBUS);
		at(p, 3)[0] = 1;
		_exit(0);
	}
	await(self->t.up[0]);
	/* Truncation takes private copies too, from everybody. */
	ASSERT_EQ(0, ftruncate(fd, MB));
	EXPECT_EQ(SIGBUS, try_read(p + MB));
	EXPECT_EQ(SIGBUS, try_read(p + TABLE - PAGE));
	tell(self->t.down[1]);
	EXPECT_EQ(0, status_of(pid));
	for (i = 0; i < PAGES / 2; i++)
		EXPECT_EQ(-1, differs(p, i, i + 1, 7 + !(i & 1)));
	munmap(p, TABLE);
	close(fd);
}

/*
 * Once truncation is over nobody reads the old pages, who had just done so neither. Short,
 * in shmem, and often, since a reader that is interrupted finds out in any case.
 */
TEST_F_TIMEOUT(cow_pte, truncation_stops_readers, 120)
{
	struct {
		volatile bool reading, gone;
	} *seen = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
		       -1, 0);
	int fd = memfd_create("cow_pte", 0), round;
	unsigned long start = now_us();
	char *p = reserve(TABLE);
	size_t i;
	pid_t pid;

	ASSERT_EQ(p, mmap(p, TABLE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED,
			  fd, 0));
	stay_on(0);
	for (round = 0; round < 20 && !enough(start); round++) {
		ASSERT_EQ(0, ftruncate(fd, TABLE));
		for (i = 0; i < PAGES; i++)
			at(p, i)[0] = 1;
		seen->reading = false;
		seen->gone = false;
		pid = IN_CHILD(
			stay_on(1);
			signal(SIGBUS, on_fault);
			if (!sigsetjmp(fault, 1)) {
				for (;;) {
					bool gone = seen->gone;

					(void)*(volatile uint64_t *)at(p, 5);
					CHECK(!gone);
					seen->reading = true;
				}
			});
		while (!seen->reading)
			sched_yield();
		ASSERT_EQ(0, ftruncate(fd, 0));
		seen->gone = true;
		ASSERT_EQ(0, status_of(pid));
		ASSERT_EQ(SIGBUS, try_read(p));
	}
	munmap(p, TABLE);
	close(fd);
}

/* The file goes from all, and with it what each had of its own. */
TEST_F_TIMEOUT(cow_pte, truncate_with_many_sharers, 120)
{
	enum { MANY = 100 };
	char name[] = "cow_pte.XXXXXX";
	char *src = anon(2 * TABLE, 7), *p = reserve(2 * TABLE);
	int fd = mkstemp(name), i;
	pid_t pid[MANY];

	if (fd < 0)
		SKIP(return, "cannot write to the current directory");
	unlink(name);
	ASSERT_EQ(2 * TABLE, (unsigned long)write(fd, src, 2 * TABLE));
	ASSERT_EQ(p, mmap(p, 2 * TABLE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED,
			  fd, 0));
	madvise(p, 2 * TABLE, MADV_NOHUGEPAGE);
	EXPECT_EQ(-1, differs(p, 0, 2 * PAGES, 7));
	for (i = 0; i < (int)PAGES; i += 2)
		at(p, PAGES + i)[0] = 1;
	for (i = 0; i < MANY; i++) {
		pid[i] = IN_CHILD(
			long rss = smaps_kb(p, "Rss:");

			/* Some have left. */
			if (i % 10 == 3)
				at(p, PAGES + 1)[0] = 2;
			tell(self->t.up[1]);
			await(self->t.down[0]);
			CHECK(rss == (long)(2 * TABLE / KB));
			CHECK(try_read((char *)at(p, PAGES - 1)) == 0);
			CHECK(try_read((char *)at(p, PAGES)) == SIGBUS);
			CHECK(try_read((char *)at(p, PAGES + 1)) == SIGBUS);
			CHECK(smaps_kb(p, "Rss:") == (long)(TABLE / KB));
			CHECK(smaps_kb(p, "Private_Dirty:") == 0);
			CHECK(differs(p, 0, PAGES, 7) < 0));
		ASSERT_LT(0, pid[i]);
	}
	for (i = 0; i < MANY; i++)
		await(self->t.up[0]);
	ASSERT_EQ(0, ftruncate(fd, TABLE));
	for (i = 0; i < MANY; i++)
		tell(self->t.down[1]);
	for (i = 0; i < MANY; i++)
		EXPECT_EQ(0, status_of(pid[i]));
	EXPECT_EQ(SIGBUS, try_read((char *)at(p, PAGES)));
	EXPECT_EQ(-1, differs(p, 0, PAGES, 7));
	munmap(p, 2 * TABLE);
	close(fd);
}

/* ---- those who look at one mm ---------------------------------------------- */

#ifdef __x86_64__
#define UPROBE_EVENTS	"/sys/kernel/tracing/uprobe_events"
#define PROBE		"/sys/kernel/tracing/events/uprobes/cow_pte_probe/enable"

static long probe_hits(void)
{
	FILE *f = fopen("/sys/kernel/tracing/uprobe_profile", "r");
	char line[512], *s;
	long n = -1;

	while (f && n < 0 && fgets(line, sizeof(line), f)) {
		s = strstr(line, " cow_pte_probe ");
		if (s)
			n = atol(s + strlen(" cow_pte_probe "));
	}
	if (f)
		fclose(f);
	return n;
}

static void remove_probe(void)
{
	write_to(PROBE, "0");
	write_to(UPROBE_EVENTS, "-:cow_pte_probe");
}

/* A breakpoint reaches every process that has the text mapped, and goes from each. */
TEST_F(cow_pte, uprobe_in_shared_text)
{
	/* push %rbp; pop %rbp; lea 1(%rdi),%eax; ret */
	static const char code[] = "\x55\x5d\x8d\x47\x01\xc3";
	long shared = number_in("/proc/vmstat", "cow_pte_shared ");
	char name[] = "cow_pte.XXXXXX", cwd[256], spec[600];
	char *src = anon(TABLE, 7), *p = reserve(TABLE);
	int (*probed)(int) = (void *)p;
	int fd = mkstemp(name), status;
	bool installed;
	long hits;
	pid_t pid;

	if (fd < 0)
		SKIP(return, "cannot write to the current directory");
	memcpy(src, code, sizeof(code));
	ASSERT_EQ(TABLE, (unsigned long)write(fd, src, TABLE));
	ASSERT_NE(NULL, getcwd(cwd, sizeof(cwd)));
	snprintf(spec, sizeof(spec), "p:cow_pte_probe %s/%s:0x0", cwd, name);
	remove_probe();
	installed = !access(UPROBE_EVENTS, W_OK) && !write_to(UPROBE_EVENTS, spec);
	if (!installed)
		SKIP(unlink(name); return, "no uprobe_events");

	ASSERT_EQ(p, mmap(p, TABLE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED,
			  fd, 0));
	madvise(p, TABLE, MADV_NOHUGEPAGE);
	EXPECT_EQ(-1, differs(p, 1, PAGES, 7));
	fill(p + TABLE / 2, TABLE / 2, 8);
	ASSERT_EQ(0, mprotect(p, TABLE, PROT_READ | PROT_EXEC));
	EXPECT_EQ(1, probed(0));

	pid = IN_CHILD(
		await(self->t.down[0]);
		CHECK(probed(1) == 2);
		tell(self->t.up[1]);
		await(self->t.down[0]);
		CHECK(probed(2) == 3));
	if (self->on)
		EXPECT_LT(shared, number_in("/proc/vmstat", "cow_pte_shared "));
	EXPECT_EQ(0, write_to(PROBE, "1"));
	hits = probe_hits();
	EXPECT_EQ(4, probed(3));
	EXPECT_EQ(hits + 1, probe_hits());
	tell(self->t.down[1]);
	/* Or it has died of the breakpoint. */
	while (!poll(&(struct pollfd){ self->t.up[0], POLLIN }, 1, 100) &&
	       !waitpid(pid, &status, WNOHANG))
		;
	EXPECT_EQ(hits + 2, probe_hits());
	/* Born with it, and with tables of its own */
	shared = number_in("/proc/vmstat", "cow_pte_shared ");
	EXPECT_EQ(0, status_of(IN_CHILD(CHECK(probed(4) == 5))));
	EXPECT_EQ(shared, number_in("/proc/vmstat", "cow_pte_shared "));
	EXPECT_EQ(hits + 3, probe_hits());
	EXPECT_EQ(0, write_to(PROBE, "0"));
	tell(self->t.down[1]);
	EXPECT_EQ(0, status_of(pid));
	EXPECT_EQ(6, probed(5));
	EXPECT_EQ(hits + 3, probe_hits());
	EXPECT_EQ(-1, differs(p + TABLE / 2, 0, PAGES / 2, 8));
	remove_probe();
	unlink(name);
}
#endif

static int mirror(int fd, unsigned long request, char *p, void *to, size_t pages)
{
	struct hmm_dmirror_cmd cmd = {
		.addr = (unsigned long)p, .ptr = (unsigned long)to, .npages = pages,
	};

	if (ioctl(fd, request, &cmd))
		return -1;
	return cmd.cpages == pages ? 0 : -1;
}

/*
 * A device that follows the page tables of one process sees that process's pages.
 * What it takes to itself is on the device for relatives too, in a table that they
 * share, and comes back for each.
 */
TEST_F(cow_pte, mirrored_by_a_device)
{
	char *p = anon(2 * TABLE, 1), *to = anon(TABLE, 9);
	pid_t pid;
	int fd;

	if (access("/dev/hmm_dmirror0", R_OK | W_OK))
		SKIP(return, "no test_hmm");
	pid = IN_CHILD(
		pid_t grandchild = IN_CHILD(
			await(self->t.down[0]);
			CHECK(differs(p, 0, 8, 1) < 0);
			fill(p, TABLE, 6);
			CHECK(differs(p, PAGES, 2 * PAGES, 1) < 0));

		tell(self->t.up[1]);
		CHECK(status_of(grandchild) == 0);
		CHECK(differs(p, 0, 2 * PAGES, 1) < 0);
		fill(p, TABLE, 3));
	ASSERT_LT(0, pid);
	await(self->t.up[0]);
	/* It follows who opens it. */
	fd = open("/dev/hmm_dmirror0", O_RDWR);
	ASSERT_LE(0, fd);
	EXPECT_EQ(0, mirror(fd, HMM_DMIRROR_READ, p, to, PAGES));
	EXPECT_EQ(-1, differs(to, 0, PAGES, 1));
	EXPECT_EQ(0, mirror(fd, HMM_DMIRROR_MIGRATE_TO_DEV, p, to, 16));
	EXPECT_EQ(0, mirror(fd, HMM_DMIRROR_MIGRATE_TO_DEV, p + TABLE, to, 16));
	tell(self->t.down[1]);
	EXPECT_EQ(0, status_of(pid));
	/* They have written since. */
	EXPECT_EQ(0, mirror(fd, HMM_DMIRROR_READ, p, to, PAGES));
	EXPECT_EQ(-1, differs(to, 0, PAGES, 1));
	fill(to, TABLE, 5);
	EXPECT_EQ(0, mirror(fd, HMM_DMIRROR_WRITE, p, to, PAGES));
	EXPECT_EQ(-1, differs(p, 0, PAGES, 5));
	EXPECT_EQ(-1, differs(p, PAGES, 2 * PAGES, 1));
	close(fd);
}

/*
 * Reclaim visits one mm of those that share a table, and calls the notifiers of that
 * one: not ours, whose VMA has become the last one to be found.
 */
static void mirror_during_reclaim(int fd, char *p, char *to)
{
	int i;

	CHECK(fd >= 0);
	CHECK(!madvise(p + TABLE / 2, TABLE / 2, MADV_DONTDUMP));
	CHECK(!madvise(p + TABLE / 2, TABLE / 2, MADV_DODUMP));
	CHECK(!mirror(fd, HMM_DMIRROR_READ, p, to, PAGES));
	CHECK(differs(to, 0, PAGES, 1) < 0);
	for (i = 0; i < 20 && swapped(p, TABLE) < PAGES; i++)
		reclaim("8M");
	CHECK(swapped(p, TABLE));
	/* Not by way of a copy, of which the notifiers would be told. */
	anon(SIZE, 9);
	CHECK(!mirror(fd, HMM_DMIRROR_READ, p, to, PAGES));
	CHECK(differs(to, 0, PAGES, 1) < 0);
}

TEST_F_TIMEOUT(cow_pte, device_is_told_of_reclaim, 120)
{
	char *p = anon(TABLE, 1), *to = anon(TABLE, 9);

	if (access("/dev/hmm_dmirror0", R_OK | W_OK))
		SKIP(return, "no test_hmm");
	if (number_in("/proc/meminfo", "SwapTotal:") <= 0)
		SKIP(return, "no swap");
	/* No NUMA balancing, of whose scans the device would be told */
	syscall(SYS_set_mempolicy, 4 /* MPOL_LOCAL */, NULL, 0);
	/* One that comes to share */
	EXPECT_EQ(0, status_of(IN_CHILD(
		mirror_during_reclaim(open("/dev/hmm_dmirror0", O_RDWR), p, to))));
	EXPECT_EQ(-1, differs(p, 0, PAGES, 1));
	/* One whose child would */
	EXPECT_EQ(0, status_of(IN_CHILD(
		int fd = open("/dev/hmm_dmirror0", O_RDWR);
		pid_t pid = IN_CHILD(
			await(self->t.down[0]);
			CHECK(differs(p, 0, PAGES, 1) < 0));

		mirror_during_reclaim(fd, p, to);
		tell(self->t.down[1]);
		CHECK(!status_of(pid)))));
	EXPECT_EQ(-1, differs(p, 0, PAGES, 1));
}

/* What is taken from a process that is being killed is not its relatives'. */
TEST_F_TIMEOUT(cow_pte, reaped_while_dying, 120)
{
	struct sched_param param = { .sched_priority = 1 };
	unsigned long start = now_us();
	char *p = anon(SIZE, 1);
	int round, reaped = 0;

	/* A table of two VMAs, of which one is reaped first */
	ASSERT_EQ(0, madvise(p + TABLE / 2, TABLE / 2, MADV_DONTDUMP));
	/* They are not to die by themselves before. */
	stay_on(0);
	if (sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &param))
		SKIP(return, "no right to real-time priority");
	for (round = 0; round < 50 && !enough(start); round++) {
		pid_t pid = IN_CHILD(
			char *own = anon(SIZE, 2);

			at(p, PAGES + round % PAGES)[0] = 5;
			CHECK(own);
			tell(self->t.up[1]);
			pause());
		int pidfd = syscall(SYS_pidfd_open, pid, 0);

		await(self->t.up[0]);
		ASSERT_LE(0, pidfd);
		ASSERT_EQ(0, kill(pid, SIGKILL));
		if (!syscall(SYS_process_mrelease, pidfd, 0))
			reaped++;
		else
			ASSERT_EQ(ESRCH, errno);	/* dead already */
		ASSERT_EQ(-1, differs(p, 0, SIZE / PAGE, 1));
		close(pidfd);
		ASSERT_EQ(1000 + SIGKILL, status_of(pid));
	}
	EXPECT_LT(0, reaped);
	ASSERT_EQ(-1, differs(p, 0, SIZE / PAGE, 1));
}

/* Nor do the pages stay because it is dying, and has no use for them any more. */
TEST_F_TIMEOUT(cow_pte, reclaim_beside_the_dying, 120)
{
	char *p = anon(TABLE, 1);
	int i, status, pidfd;
	pid_t pid;

	if (number_in("/proc/meminfo", "SwapTotal:") <= 0)
		SKIP(return, "no swap");
	/* Two VMAs, so that the table is not the dying one's to drop */
	ASSERT_EQ(0, madvise(p + TABLE / 2, TABLE / 2, MADV_DONTDUMP));
	pid = IN_CHILD(pause());
	/* It stops when it is dead, but for its mm. */
	ASSERT_EQ(0, ptrace(PTRACE_SEIZE, pid, 0, PTRACE_O_TRACEEXIT));
	pidfd = syscall(SYS_pidfd_open, pid, 0);
	ASSERT_LE(0, pidfd);
	ASSERT_EQ(0, kill(pid, SIGKILL));
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	ASSERT_EQ(SIGTRAP | PTRACE_EVENT_EXIT << 8, status >> 8);
	ASSERT_EQ(0, syscall(SYS_process_mrelease, pidfd, 0));
	for (i = 0; i < 20 && swapped(p, TABLE) < PAGES / 2; i++)
		reclaim("8M");
	EXPECT_LE(PAGES / 2, swapped(p, TABLE));
	ASSERT_EQ(0, ptrace(PTRACE_CONT, pid, 0, 0));
	EXPECT_EQ(1000 + SIGKILL, status_of(pid));
	EXPECT_EQ(-1, differs(p, 0, PAGES, 1));
	close(pidfd);
}

/* ---- life time ------------------------------------------------------------- */

TEST_F(cow_pte, parent_leaves_first)
{
	int fds[2];
	char ok = 0;
	pid_t pid;

	ASSERT_EQ(0, pipe(fds));
	pid = IN_CHILD(
		char *p = anon(SIZE, 1);
		pid_t parent = getpid();

		if (!fork()) {
			/* a grandchild, too */
			pid_t g = fork();

			/* The orphan, and its child, after its parent has gone. */
			while (g ? getppid() == parent : !kill(parent, 0))
				usleep(1000);
			CHECK(differs(p, 0, SIZE / PAGE, 1) < 0);
			fill(p, SIZE, g ? 2 : 3);
			CHECK(differs(p, 0, SIZE / PAGE, g ? 2 : 3) < 0);
			if (g) {
				CHECK(!status_of(g));
				CHECK(write(fds[1], "k", 1) == 1);
			}
		});
	EXPECT_EQ(0, status_of(pid));
	close(fds[1]);
	EXPECT_EQ(1, read(fds[0], &ok, 1));
	EXPECT_EQ('k', ok);
	close(fds[0]);
}

TEST_F(cow_pte, children_exec_and_die)
{
	char *p = anon(SIZE, 1);
	int i;

	for (i = 0; i < 50; i++) {
		pid_t pid = fork();

		if (!pid) {
			if (i & 1)
				execl("/proc/self/exe", "cow_pte", "--get", NULL);
			at(p, i)[0] = 0;
			if (i & 2)
				kill(getpid(), SIGKILL);
			_exit(7);
		}
		if (!(i % 5))
			kill(pid, SIGKILL);
		EXPECT_LT(0, status_of(pid));
	}
	EXPECT_EQ(-1, differs(p, 0, SIZE / PAGE, 1));
}

/* Huge pages that are mapped by PTEs, or NULL. */
static char *huge_by_ptes(size_t size)
{
	char *p = reserve(size);
	size_t i;

	p = mmap(p, size, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	madvise(p, size, MADV_HUGEPAGE);
	fill(p, size, 1);
	if (smaps_kb(p, "AnonHugePages:") != (long)(size / KB))
		return NULL;
	/* splits the PMD, not the folio */
	for (i = 0; i < size; i += TABLE) {
		if (mprotect(p + i, PAGE, PROT_READ) ||
		    mprotect(p + i, PAGE, PROT_READ | PROT_WRITE))
			return NULL;
	}
	return p;
}

/* Threads write to pages of one table at once, after every fork. */
struct storm {
	char *p;
	pthread_barrier_t go, done;
	volatile bool stop;
	volatile unsigned int gen;
	size_t page;
};

#define STORM_THREADS	4
static struct storm storm;

static void *storm_thread(void *arg)
{
	size_t me = (size_t)arg;

	while (1) {
		pthread_barrier_wait(&storm.go);
		if (storm.stop)
			return NULL;
		at(storm.p, me * 50 + storm.page)[1] = storm.gen;
		(void)*(volatile uint64_t *)at(storm.p, me * 50 + 20);
		at(storm.p, PAGES + me)[1] = storm.gen;
		pthread_barrier_wait(&storm.done);
	}
}

/* Each writes to @pages pages in turn. */
static void storm_after_forks(struct __test_metadata *_metadata, char *p, int rounds,
			      int pages)
{
	pthread_t th[STORM_THREADS];
	unsigned long start = now_us();
	int round;
	size_t i;

	storm.p = p;
	storm.stop = false;
	pthread_barrier_init(&storm.go, NULL, STORM_THREADS + 1);
	pthread_barrier_init(&storm.done, NULL, STORM_THREADS + 1);
	for (i = 0; i < STORM_THREADS; i++)
		pthread_create(&th[i], NULL, storm_thread, (void *)i);
	for (round = 0; round < rounds && !enough(start); round++) {
		uint64_t before = round < pages ? 0 : round - pages + 1;
		pid_t pid;

		storm.page = round % pages;
		pid = fork();
		if (!pid) {
			int k;

			for (k = 0; k < 3; k++) {
				CHECK(differs(p, 0, 2 * PAGES, 1) < 0);
				for (i = 0; i < STORM_THREADS; i++) {
					CHECK(at(p, i * 50 + storm.page)[1] == before);
					CHECK(at(p, PAGES + i)[1] == (uint64_t)round);
				}
			}
			if (round & 1)
				fill(p, TABLE, 5);
			_exit(0);
		}
		storm.gen = round + 1;
		pthread_barrier_wait(&storm.go);
		pthread_barrier_wait(&storm.done);
		for (i = 0; i < STORM_THREADS; i++) {
			ASSERT_EQ(round + 1, at(p, i * 50 + storm.page)[1]);
			ASSERT_EQ(round + 1, at(p, PAGES + i)[1]);
		}
		ASSERT_EQ(0, status_of(pid));
	}
	storm.stop = true;
	pthread_barrier_wait(&storm.go);
	for (i = 0; i < STORM_THREADS; i++)
		pthread_join(th[i], NULL);
	EXPECT_EQ(-1, differs(p, 0, 2 * PAGES, 1));
}

TEST_F_TIMEOUT(cow_pte, threads_write_after_fork, 120)
{
	const char *env = getenv("COW_PTE_ROUNDS");

	storm_after_forks(_metadata, anon(2 * TABLE, 1), env ? atoi(env) * 100 : 200, 1);
}

/*
 * One thread has the copy of a table already, when it looks whether the large folio to
 * which it writes is its process' alone; another has yet to let go of the old table.
 */
TEST_F_TIMEOUT(cow_pte, threads_write_to_large_folios_after_fork, 120)
{
	char *p = huge_by_ptes(2 * TABLE);

	if (!p)
		SKIP(return, "no huge pages");
	storm_after_forks(_metadata, p, 50, 50);
}

/* A thread that writes for as long as its process goes on with something else */
struct writer {
	char *p;
	volatile bool stop;
};

static void *touch_second_half(void *arg)
{
	struct writer *w = arg;
	size_t i;

	while (!w->stop) {
		for (i = PAGES / 2; i < PAGES; i++)
			at(w->p, i)[0] = 1;
	}
	return NULL;
}

/*
 * A thread has pages come into a VMA, under the lock of that alone, while another forks
 * and is at a VMA before it, with which the table is shared. The child does not see what
 * comes later.
 */
TEST_F_TIMEOUT(cow_pte, faults_beside_the_fork, 120)
{
	struct writer w = { .p = anon(TABLE, 1) };
	unsigned long start = now_us();
	pthread_t thread;
	int round;

	ASSERT_EQ(0, madvise(w.p + TABLE / 2, TABLE / 2, MADV_DONTDUMP));
	ASSERT_EQ(0, pthread_create(&thread, NULL, touch_second_half, &w));
	for (round = 0; round < 60 && !enough(start); round++) {
		ASSERT_EQ(0, madvise(w.p + TABLE / 2, TABLE / 2, MADV_DONTNEED));
		ASSERT_EQ(0, status_of(IN_CHILD(
			uint64_t before[PAGES / 2];
			uint64_t after[PAGES / 2];
			int fd = open("/proc/self/pagemap", O_RDONLY);
			off_t offset = (unsigned long)at(w.p, PAGES / 2) / PAGE * 8;

			CHECK(pread(fd, before, sizeof(before), offset) == sizeof(before));
			sched_yield();
			CHECK(pread(fd, after, sizeof(after), offset) == sizeof(after));
			for (size_t i = 0; i < PAGES / 2; i++)
				CHECK(!(before[i] & (PM_PRESENT | PM_SWAP)) ==
				      !(after[i] & (PM_PRESENT | PM_SWAP)));
			CHECK(differs(w.p, 0, PAGES / 2, 1) < 0))));
	}
	w.stop = true;
	pthread_join(thread, NULL);
	EXPECT_EQ(-1, differs(w.p, 0, PAGES / 2, 1));
	munmap(w.p, TABLE);
}

/*
 * A thread writes to a VMA, by which its process leaves the table, while another forks
 * and is at a VMA before it. What the fork copies must not be what a relative, whose
 * the table now is, makes of it.
 */
struct neighbour {
	char *p;
	unsigned long fork_us;
	int go[2], done[2];
	volatile int *written;
};

static __always_inline void spin(unsigned long rounds)
{
	while (rounds--)
		asm volatile("");
}

/*
 * The fork write-protects the stack, which cannot be written to before it has ended:
 * between the spinning and the message to the relative nothing is, not even by the
 * kernel, which notes in there that a thread was preempted (rseq).
 */
static void *neighbour_thread(void *arg)
{
	struct sched_param param = { .sched_priority = 1 };
	struct neighbour *n = arg;
	unsigned long start, per_us;
	char c;

	stay_on(1);
	sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &param);
	start = now_us();
	spin(1 << 22);
	per_us = (1 << 22) / (now_us() - start + 1) + 1;
	while (read(n->go[0], &c, 1) == 1) {
		volatile int *written = n->written;
		volatile char *last = n->p + TABLE - PAGE;
		/* Some time during the fork, which copies and so takes longer. */
		unsigned long rounds = rand() % (4 * n->fork_us + 1) * per_us;

		spin(rounds);
		last[512] = 1;
		*written = 1;
		tell(n->done[1]);
	}
	return NULL;
}

TEST_F_TIMEOUT(cow_pte, neighbour_writes_during_fork, 120)
{
	struct neighbour n = { .p = anon(TABLE, 1) };
	unsigned long begin = now_us();
	pthread_t thread;
	int round;

	if (pipe(n.go) || pipe(n.done))
		abort();
	n.written = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
			 -1, 0);
	/* Two VMAs */
	ASSERT_EQ(0, madvise(n.p + TABLE / 2, TABLE / 2, MADV_DONTDUMP));
	ASSERT_EQ(0, pthread_create(&thread, NULL, neighbour_thread, &n));
	/* Nobody of the three waits for the CPU of another. */
	stay_on(0);
	for (round = 0; round < 100 && !enough(begin); round++) {
		unsigned long start = now_us();
		pid_t relative, child;

		*n.written = 0;
		relative = IN_CHILD(
			stay_on(2);
			tell(self->t.up[1]);
			while (!*n.written)
				sched_yield();
			fill(n.p, TABLE / 2, 7);
			madvise(n.p, TABLE / 2, MADV_DONTNEED));
		await(self->t.up[0]);
		n.fork_us = now_us() - start;
		/* So that the next fork has to copy. */
		if (self->on)
			prctl(PR_SET_COW_PTE, 0, 0, 0, 0);
		tell(n.go[1]);
		child = IN_CHILD(CHECK(differs(n.p, 0, PAGES / 2, 1) < 0));
		await(n.done[0]);
		if (self->on)
			prctl(PR_SET_COW_PTE, 1, 0, 0, 0);
		ASSERT_EQ(0, status_of(relative));
		ASSERT_EQ(0, status_of(child));
		ASSERT_EQ(-1, differs(n.p, 0, PAGES, 1));
	}
	close(n.go[1]);
	pthread_join(thread, NULL);
}

/* More children than a family has room for: the last ones get copies. */
TEST_F_TIMEOUT(cow_pte, many_relatives, 240)
{
	enum { MANY = 1100 };
	long refused = number_in("/proc/vmstat", "cow_pte_refused ");
	char *p = anon(TABLE, 1);
	pid_t pid[MANY];
	int i;

	for (i = 0; i < MANY; i++) {
		pid[i] = IN_CHILD(
			await(self->t.down[0]);
			CHECK(differs(p, 0, PAGES, 1) < 0));
		ASSERT_LT(0, pid[i]);
	}
	if (self->on)
		EXPECT_LT(refused, number_in("/proc/vmstat", "cow_pte_refused "));
	fill(p, TABLE, 2);
	for (i = 0; i < MANY; i++)
		tell(self->t.down[1]);
	for (i = 0; i < MANY; i++)
		EXPECT_EQ(0, status_of(pid[i]));
	EXPECT_EQ(-1, differs(p, 0, PAGES, 2));
}

/*
 * The child unmaps while a thread of it reads on another CPU; the parent, then alone,
 * writes in place. The thread must not see that through what its TLB has kept.
 */
static char *victim;
static volatile bool victim_gone;
static void *victim_reader(void *arg)
{
	long *secrets = arg;
	volatile uint64_t *w;
	size_t i;

	signal(SIGSEGV, on_fault);
	for (i = 0; !victim_gone; i++) {
		w = at(victim, i % PAGES);
		if (sigsetjmp(fault, 1))
			break;
		if (w[0] == 0x5ec2e7)
			(*secrets)++;
	}
	return NULL;
}

TEST_F_TIMEOUT(cow_pte, no_secrets_after_unmap, 120)
{
	unsigned long start = now_us();
	int round;

	for (round = 0; round < 60 && !enough(start); round++) {
		char *p = anon(TABLE, 1);
		size_t i;
		pid_t pid = fork();

		if (!pid) {
			long secrets = 0;
			pthread_t th;

			victim = p;
			pthread_create(&th, NULL, victim_reader, &secrets);
			usleep(1000 + round * 20);
			if (round & 1)
				CHECK(!munmap(p, TABLE));
			else
				CHECK(!madvise(p, TABLE, MADV_DONTNEED));
			tell(self->t.up[1]);
			await(self->t.down[0]);
			victim_gone = true;
			pthread_join(th, NULL);
			CHECK(!secrets);
			_exit(0);
		}
		await(self->t.up[0]);
		for (i = 0; i < PAGES; i++)
			at(p, i)[0] = 0x5ec2e7;
		usleep(1000);
		tell(self->t.down[1]);
		ASSERT_EQ(0, status_of(pid));
		munmap(p, TABLE);
	}
}

/*
 * Reclaim looks for sharers in the page tables of relatives, which come and go, and with
 * them the tables above.
 */
TEST_F_TIMEOUT(cow_pte, relatives_come_and_go_during_reclaim, 120)
{
	const char *env = getenv("COW_PTE_ROUNDS");
	int i, rounds = env ? atoi(env) * 20 : 40;
	unsigned long start = now_us();
	char *p = anon(SIZE, 1);
	pid_t pid[4];

	for (i = 0; i < 4; i++) {
		pid[i] = fork();
		if (!pid[i]) {
			int k;

			for (k = 0; k < rounds && !enough(start); k++)
				CHECK(!status_of(IN_CHILD(
					/* Whole, and with it the level above. */
					CHECK(k & 1 ? !munmap(p, SIZE) :
					      differs(p, 0, SIZE / PAGE, 1) < 0))));
			_exit(0);
		}
	}
	for (i = 0; i < rounds && !enough(start); i++) {
		madvise(p, SIZE, MADV_PAGEOUT);
		reclaim("8M");
		ASSERT_EQ(-1, differs(p, 0, SIZE / PAGE, 1));
	}
	for (i = 0; i < 4; i++)
		EXPECT_EQ(0, status_of(pid[i]));
	EXPECT_EQ(-1, differs(p, 0, SIZE / PAGE, 1));
}

/* More than a swap map can count in a byte. */
TEST_F_TIMEOUT(cow_pte, many_copies_of_swap_entries, 120)
{
	char *p = anon(TABLE, 1);
	pid_t pid[80];
	int i;

	/* Room for many counts that was made before has gone then. */
	if (swapoff("/dev/zram0") || swapon("/dev/zram0", 0))
		SKIP(return, "no swap on zram0");
	for (i = 0; i < 20 && swapped(p, TABLE) < PAGES / 2; i++)
		madvise(p, TABLE, MADV_PAGEOUT);
	if (swapped(p, TABLE) < PAGES / 2)
		SKIP(return, "needs swap");
	for (i = 0; i < 80; i++) {
		pid[i] = fork();
		ASSERT_LE(0, pid[i]);
		if (!pid[i]) {
			/* A table of its own, with all the others' swap entries. */
			at(p, i)[0] = i;
			tell(self->t.up[1]);
			await(self->t.down[0]);
			CHECK(at(p, i)[0] == (uint64_t)i);
			CHECK(differs(p, i + 1, PAGES, 1) < 0);
			_exit(0);
		}
		await(self->t.up[0]);
	}
	EXPECT_LT(PAGES / 4, swapped(p, TABLE));
	for (i = 0; i < 80; i++)
		tell(self->t.down[1]);
	for (i = 0; i < 80; i++)
		EXPECT_EQ(0, status_of(pid[i]));
	EXPECT_EQ(-1, differs(p, 0, PAGES, 1));
}

/* ---- other users of page tables -------------------------------------------- */

/* To a page of each table: where none is writable nothing is collapsed. */
static void write_a_little(char *p, size_t size)
{
	size_t i;

	for (i = 0; i < size; i += TABLE)
		*(volatile char *)(p + i) = p[i];
}

TEST_F(cow_pte, collapse)
{
	char *p = anon(SIZE, 1);
	pid_t pid;

	if (access("/sys/kernel/mm/transparent_hugepage/enabled", F_OK))
		SKIP(return, "no huge pages");
	pid = fork();
	if (!pid) {
		CHECK(!madvise(p, SIZE, MADV_HUGEPAGE));
		/* As all is read-only after a fork. */
		CHECK(madvise(p, TABLE, MADV_COLLAPSE) && errno == EINVAL);
		write_a_little(p, TABLE);
		CHECK(!madvise(p, TABLE, MADV_COLLAPSE));
		CHECK(smaps_kb(p, "AnonHugePages:") == (long)(TABLE / KB));
		CHECK(differs(p, 0, SIZE / PAGE, 1) < 0);
		fill(p, SIZE, 2);
		/* To isolate pages is not for two at a time. */
		tell(self->t.up[1]);
		await(self->t.down[0]);
		CHECK(differs(p, 0, SIZE / PAGE, 2) < 0);
		_exit(0);
	}
	await(self->t.up[0]);
	EXPECT_EQ(0, madvise(p, SIZE, MADV_HUGEPAGE));
	EXPECT_EQ(-1, madvise(p, 2 * TABLE, MADV_COLLAPSE));
	EXPECT_EQ(EINVAL, errno);
	write_a_little(p, 2 * TABLE);
	EXPECT_EQ(0, madvise(p, 2 * TABLE, MADV_COLLAPSE));
	EXPECT_EQ(2 * TABLE / KB, (unsigned long)smaps_kb(p, "AnonHugePages:"));
	EXPECT_EQ(-1, differs(p, 0, SIZE / PAGE, 1));
	fill(p, SIZE, 3);
	tell(self->t.down[1]);
	EXPECT_EQ(0, status_of(pid));
	EXPECT_EQ(-1, differs(p, 0, SIZE / PAGE, 3));
	EXPECT_EQ(0, munmap(p + 5 * PAGE, PAGE));
	EXPECT_EQ(-1, differs(p, 6, SIZE / PAGE, 3));
}

/* They, and small ones of them. */
TEST_F(cow_pte, large_folios)
{
	char *p = huge_by_ptes(SIZE);
	int round;

	if (!p)
		SKIP(return, "no huge pages");
	for (round = 0; round < 3; round++) {
		pid_t pid = fork();

		if (!pid) {
			pid_t g = fork();

			if (!g) {
				usleep(20000);
				CHECK(differs(p, 0, SIZE / PAGE, 1) < 0);
				at(p, 3)[0] = 7;
				_exit(0);
			}
			CHECK(differs(p, 0, SIZE / PAGE, 1) < 0);
			if (round == 1)
				fill(p, TABLE, 2);
			if (round == 2)
				CHECK(!munmap(p + TABLE, 2 * TABLE));
			CHECK(!status_of(g));
			_exit(0);
		}
		if (round)
			fill(p + TABLE, 16 * PAGE, 4);
		EXPECT_EQ(0, status_of(pid));
		fill(p + TABLE, 16 * PAGE, 4);
		for (size_t i = PAGES; i < PAGES + 16; i++) {
			at(p, i)[0] = word(i, 1);
			at(p, i)[511] = ~word(i, 1);
		}
		EXPECT_EQ(-1, differs(p, 0, SIZE / PAGE, 1));
	}
	/* the first owner leaves, the rest is the child's */
	EXPECT_EQ(0, status_of(IN_CHILD(
		pid_t g = fork();

		if (!g) {
			usleep(50000);
			CHECK(differs(p, 0, SIZE / PAGE, 1) < 0);
			fill(p, SIZE, 6);
			CHECK(differs(p, 0, SIZE / PAGE, 6) < 0);
			CHECK(!munmap(p, SIZE));
			tell(self->t.up[1]);
		})));
	await(self->t.up[0]);
	EXPECT_EQ(-1, differs(p, 0, SIZE / PAGE, 1));
}

/* Swapped out when the one whose they were has left them to others. */
TEST_F(cow_pte, large_folios_without_their_owner)
{
	char *p = huge_by_ptes(SIZE);
	int i, k;
	pid_t pid;

	if (!p)
		SKIP(return, "no huge pages");
	if (number_in("/proc/meminfo", "SwapTotal:") <= 0)
		SKIP(return, "no swap");
	pid = fork();
	if (!pid) {
		pid_t g = fork();

		await(self->t.down[0]);
		for (i = 0; g && i < 20 && swapped(p, SIZE) < PAGES; i++)
			reclaim("8M");
		CHECK(!g || swapped(p, SIZE) >= PAGES);
		for (k = 0; k < 2; k++) {
			CHECK(differs(p, 0, SIZE / PAGE, g ? 1 + k : 1) < 0);
			if (g && !k)
				fill(p, SIZE, 2);
			usleep(20000);
		}
		CHECK(!munmap(p, SIZE));
		if (g)
			CHECK(!status_of(g));
		_exit(0);
	}
	ASSERT_EQ(0, munmap(p, SIZE));
	tell(self->t.down[1]);
	tell(self->t.down[1]);
	EXPECT_EQ(0, status_of(pid));
}

/* Reclaim comes first to a process that the mappings are not charged to. */
TEST_F_TIMEOUT(cow_pte, large_folios_of_another, 240)
{
	char *p = huge_by_ptes(SIZE);
	pid_t pid;
	int i;

	if (!p)
		SKIP(return, "no huge pages");
	if (number_in("/proc/meminfo", "SwapTotal:") <= 0)
		SKIP(return, "no swap");
	pid = IN_CHILD(
		await(self->t.down[0]);
		CHECK(differs(p, 0, SIZE / PAGE, 1) < 0));
	/* A VMA that has been changed goes behind the others. */
	ASSERT_EQ(0, mprotect(p + SIZE - PAGE, PAGE, PROT_READ));
	ASSERT_EQ(0, mprotect(p + SIZE - PAGE, PAGE, PROT_READ | PROT_WRITE));
	for (i = 0; i < 20 && swapped(p, SIZE) < PAGES; i++)
		reclaim("8M");
	EXPECT_LE(PAGES, swapped(p, SIZE));
	tell(self->t.down[1]);
	EXPECT_EQ(0, status_of(pid));
	EXPECT_EQ(-1, differs(p, 0, SIZE / PAGE, 1));
	munmap(p, SIZE);
}

TEST_F(cow_pte, userfaultfd_registers_ones_own)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = { .mode = UFFDIO_REGISTER_MODE_WP };
	struct uffdio_writeprotect wp = { .mode = UFFDIO_WRITEPROTECT_MODE_WP };
	char *p = anon(TABLE, 1);
	int fd = syscall(SYS_userfaultfd, O_NONBLOCK | O_CLOEXEC);
	struct pollfd pfd = { .events = POLLIN };
	pid_t pid;

	if (fd < 0)
		SKIP(return, "no userfaultfd");
	close(fd);
	pid = fork();
	if (!pid) {
		fd = syscall(SYS_userfaultfd, O_NONBLOCK | O_CLOEXEC);
		CHECK(fd >= 0 && !ioctl(fd, UFFDIO_API, &api));
		wp.range = (struct uffdio_range){ (unsigned long)p, TABLE };
		reg.range = wp.range;
		CHECK(!ioctl(fd, UFFDIO_REGISTER, &reg));
		CHECK(!ioctl(fd, UFFDIO_WRITEPROTECT, &wp));
		tell(self->t.up[1]);
		await(self->t.down[0]);
		/* the parent has written to all; that is no event of ours */
		pfd.fd = fd;
		CHECK(poll(&pfd, 1, 50) == 0);
		CHECK(differs(p, 0, PAGES, 1) < 0);
		_exit(0);
	}
	await(self->t.up[0]);
	fill(p, TABLE, 2);
	tell(self->t.down[1]);
	EXPECT_EQ(0, status_of(pid));
	EXPECT_EQ(-1, differs(p, 0, PAGES, 2));
}

/* What relatives map too stays where it is. */
TEST_F(cow_pte, userfaultfd_moves_ones_own)
{
	struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_MOVE };
	struct uffdio_register reg = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	struct uffdio_move move = { .len = PAGE };
	char *p = anon(TABLE, 1), *to = reserve(TABLE);
	int fd = syscall(SYS_userfaultfd, O_NONBLOCK | O_CLOEXEC);

	if (fd < 0)
		SKIP(return, "no userfaultfd");
	close(fd);
	ASSERT_EQ(to, mmap(to, TABLE, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
	reg.range = (struct uffdio_range){ (unsigned long)to, TABLE };
	move.dst = (unsigned long)to;
	move.src = (unsigned long)p;
	EXPECT_EQ(0, status_of(IN_CHILD(
		fd = syscall(SYS_userfaultfd, O_NONBLOCK | O_CLOEXEC);
		CHECK(!ioctl(fd, UFFDIO_API, &api));
		CHECK(!ioctl(fd, UFFDIO_REGISTER, &reg));
		CHECK(ioctl(fd, UFFDIO_MOVE, &move) == -1 && errno == EBUSY);
		CHECK(differs(p, 0, PAGES, 1) < 0);
		/* But a copy that only we have */
		at(p, 0)[1] = 7;
		CHECK(!ioctl(fd, UFFDIO_MOVE, &move));
		CHECK(at(to, 0)[1] == 7 && at(to, 0)[0] == word(0, 1)))));
	EXPECT_EQ(-1, differs(p, 0, PAGES, 1));
}

TEST_F_TIMEOUT(cow_pte, locked_memory, 120)
{
	char *p = anon(SIZE, 1);
	pid_t pid = fork();
	long before;
	int i;

	if (!pid) {
		CHECK(!mlock(p, TABLE));
		CHECK(smaps_kb(p, "Locked:") == (long)(TABLE / KB) ||
		      smaps_kb(p, "Locked:") == (long)(TABLE / KB / 2));
		await(self->t.down[0]);
		CHECK(differs(p, 0, SIZE / PAGE, 1) < 0);
		_exit(0);
	}
	fill(p, SIZE, 2);
	tell(self->t.down[1]);
	EXPECT_EQ(0, status_of(pid));
	EXPECT_EQ(-1, differs(p, 0, SIZE / PAGE, 2));

	/* What is there is locked at once, until who locked it has gone. */
	before = number_in("/proc/meminfo", "Mlocked:");
	EXPECT_EQ(0, status_of(IN_CHILD(
		CHECK(!syscall(SYS_mlock2, p, SIZE, MLOCK_ONFAULT));
		CHECK(smaps_kb(p, "Locked:") > 0))));
	for (i = 0; i < 100; i++) {
		if (number_in("/proc/meminfo", "Mlocked:") < before + (long)(MB / KB))
			break;
		usleep(100000);
	}
	EXPECT_GT(100, i);
	EXPECT_EQ(-1, differs(p, 0, SIZE / PAGE, 2));
}

TEST_F(cow_pte, ksm)
{
	char *p = anon(TABLE, 1);
	size_t i;

	for (i = 0; i < PAGES; i++)
		memset(at(p, i), 0x55, PAGE);
	if (madvise(p, TABLE, MADV_MERGEABLE))
		SKIP(return, "no KSM");
	write_to("/sys/kernel/mm/ksm/pages_to_scan", "10000");
	write_to("/sys/kernel/mm/ksm/sleep_millisecs", "1");
	write_to("/sys/kernel/mm/ksm/run", "1");
	EXPECT_EQ(0, status_of(IN_CHILD(
		usleep(300000);
		for (i = 0; i < PAGES; i++)
			CHECK(at(p, i)[7] == 0x5555555555555555ULL);
		at(p, 3)[0] = 1;
		usleep(100000))));
	for (i = 0; i < 100 && number_in("/sys/kernel/mm/ksm/pages_sharing", "") <
	     (long)PAGES / 2; i++)
		usleep(100000);
	EXPECT_GT(100, i);
	for (i = 0; i < PAGES; i++)
		EXPECT_EQ(0x5555555555555555ULL, at(p, i)[7]);
	at(p, 5)[0] = 2;
	EXPECT_EQ(0x5555555555555555ULL, at(p, 6)[0]);
	write_to("/sys/kernel/mm/ksm/run", "2");
}

/* ---- short of memory -------------------------------------------------------- */

/* Let the n-th allocation of this thread fail, the first one being 1; 0: none. */
static void fail_nth(int n)
{
	char text[16];

	sprintf(text, "%d", n);
	write_to("/proc/thread-self/fail-nth", text);
}

/* Has it? Disarms it, too. */
static bool has_failed(void)
{
	bool ret = number_in("/proc/thread-self/fail-nth", "") == 0;

	fail_nth(0);
	return ret;
}

static bool can_fail(void)
{
	if (access("/proc/thread-self/fail-nth", W_OK))
		return false;
	write_to("/sys/kernel/debug/fail_page_alloc/ignore-gfp-wait", "N");
	write_to("/sys/kernel/debug/fail_page_alloc/min-order", "0");
	write_to("/sys/kernel/debug/failslab/ignore-gfp-wait", "N");
	/* A stack for each of hundreds says nothing. */
	write_to("/sys/kernel/debug/fail_page_alloc/verbose", "0");
	write_to("/sys/kernel/debug/failslab/verbose", "0");
	return true;
}

/*
 * Forks that fail at any of their allocations leave everything as it was, also those
 * between two VMAs that a table is for.
 */
TEST_F_TIMEOUT(cow_pte, fork_fails, 240)
{
	int n, failed = 0, whole = 0;
	char *p = anon(SIZE, 1);
	long rss;
	size_t i;

	if (!can_fail())
		SKIP(return, "needs CONFIG_FAULT_INJECTION");
	for (i = 0; i < SIZE / PAGE; i += 300)
		ASSERT_EQ(0, mprotect(at(p, i), PAGE, PROT_READ));
	rss = status("RssAnon:");
	for (n = 1; n < 2000 && whole < 3; n++) {
		bool injected;
		pid_t pid;

		/* What is shared already, and what is not. */
		if (n & 1)
			at(p, (n * 37) % (SIZE / PAGE) / 300 * 300 + 1)[0] =
				word((n * 37) % (SIZE / PAGE) / 300 * 300 + 1, 1);
		fail_nth(n);
		pid = fork();
		if (!pid) {
			CHECK(differs(p, 0, SIZE / PAGE, 1) < 0);
			at(p, 1)[0] = 3;
			CHECK(!munmap(p, SIZE));
			_exit(0);
		}
		injected = has_failed();
		if (pid < 0) {
			ASSERT_EQ(ENOMEM, errno);
		} else {
			ASSERT_EQ(0, status_of(pid));
		}
		failed += pid < 0;
		whole += !injected;
		ASSERT_EQ(-1, differs(p, 0, SIZE / PAGE, 1));
	}
	EXPECT_LT(10, failed);
	EXPECT_EQ(3, whole);
	EXPECT_GT(512, labs(rss - status("RssAnon:")));
	EXPECT_EQ(0, munmap(p, SIZE));
}

static void *write_backwards(void *arg)
{
	struct writer *w = arg;
	int i;

	while (!w->stop) {
		for (i = SIZE / TABLE - 1; i >= 0; i--) {
			volatile uint64_t *word0 = at(w->p, i * PAGES + 1);

			*word0 = *word0;
		}
	}
	return NULL;
}

/*
 * A child that never was may lack VMAs of tables that it shares, so it must not be the
 * last who has one, when another thread of its parent leaves the table.
 */
TEST_F_TIMEOUT(cow_pte, fork_fails_beside_a_writer, 240)
{
	struct writer w = { .p = anon(SIZE, 1) };
	unsigned long start = now_us();
	int n, failed = 0, pages = 0;
	pthread_t th;
	size_t i;

	if (!can_fail())
		SKIP(return, "needs CONFIG_FAULT_INJECTION");
	for (i = 0; i < SIZE / PAGE; i += 100)
		ASSERT_EQ(0, mprotect(at(w.p, i), PAGE, PROT_READ));
	ASSERT_EQ(0, pthread_create(&th, NULL, write_backwards, &w));
	for (n = 50; n < 1000 && !enough(start); n++) {
		pid_t pid;

		fail_nth(n % 250 + 1);
		pid = fork();
		if (!pid)
			_exit(0);
		fail_nth(0);
		if (pid < 0)
			failed++;
		else
			ASSERT_EQ(0, status_of(pid));
	}
	w.stop = true;
	pthread_join(th, NULL);
	EXPECT_LT(10, failed);
	EXPECT_EQ(-1, differs(w.p, 0, SIZE / PAGE, 1));
	for (i = 0; i < SIZE / PAGE; i++)
		pages += !!(pagemap(at(w.p, i)) & PM_EXCLUSIVE);
	EXPECT_EQ((int)(SIZE / PAGE), pages);
}

/* So do system calls that would have to change a table that others use. */
TEST_F_TIMEOUT(cow_pte, calls_fail, 240)
{
	static const char *const names[] = { "munmap", "mprotect", "mremap", "write" };
	char *p = anon(2 * TABLE, 1), *where = reserve(TABLE);
	int call, n, failed = 0;

	if (!can_fail())
		SKIP(return, "needs CONFIG_FAULT_INJECTION");
	for (call = 0; call < 4; call++) {
		bool injected = true;

		for (n = 1; n < 200 && injected; n++) {
			pid_t pid = fork();
			int r;

			ASSERT_LE(0, pid);
			if (!pid) {
				fail_nth(n);
				switch (call) {
				case 0:
					r = munmap(p + 10 * PAGE, PAGE);
					break;
				case 1:
					r = mprotect(p + 10 * PAGE, PAGE, PROT_NONE);
					break;
				case 2:
					r = mremap(p + 10 * PAGE, PAGE, PAGE,
						   MREMAP_MAYMOVE | MREMAP_FIXED,
						   where) == MAP_FAILED ? -1 : 0;
					break;
				default:
					at(p, 10)[0] = 77;
					r = 0;
				}
				injected = has_failed();
				CHECK(r == 0 || errno == ENOMEM);
				if (r)
					CHECK(differs(p, 0, 2 * PAGES, 1) < 0);
				CHECK(differs(p, 0, 10, 1) < 0);
				CHECK(differs(p, 11, 2 * PAGES, 1) < 0);
				_exit(10 + !!injected + 2 * !!r);
			}
			r = status_of(pid) - 10;
			ASSERT_LE(0, r) TH_LOG("%s, allocation %d", names[call], n);
			ASSERT_GE(3, r);
			injected = r & 1;
			failed += r >> 1;
			ASSERT_EQ(-1, differs(p, 0, 2 * PAGES, 1));
		}
		EXPECT_FALSE(injected);
	}
	EXPECT_LT(0, failed);
}

/* Where mlockall() says that it has locked all, it has. */
TEST_F_TIMEOUT(cow_pte, mlockall_fails, 120)
{
	bool injected = true;
	int n, failed = 0;
	char *p = anon(TABLE, 1);

	if (!can_fail())
		SKIP(return, "needs CONFIG_FAULT_INJECTION");
	/* Nothing to be merged with, which may fail as well */
	ASSERT_EQ(0, madvise(p, TABLE, MADV_DONTDUMP));
	for (n = 1; n < 200 && injected; n++) {
		int r = status_of(IN_CHILD(
			fail_nth(n);
			r = mlockall(MCL_CURRENT | MCL_ONFAULT);
			injected = has_failed();
			CHECK(r ? errno == ENOMEM : smaps_kb(p, "Locked:") > 0);
			_exit(10 + injected + 2 * !!r)));

		ASSERT_LE(10, r);
		ASSERT_GE(13, r);
		injected = (r - 10) & 1;
		failed += (r - 10) >> 1;
	}
	EXPECT_FALSE(injected);
	if (self->on)
		EXPECT_LT(0, failed);
}

int main(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], "--get"))
		return 10 + prctl(PR_GET_COW_PTE, 0, 0, 0, 0);
	return test_harness_run(argc, argv);
}
