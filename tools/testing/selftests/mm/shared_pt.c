// SPDX-License-Identifier: GPL-2.0
/*
 * MAP_SHARED_PT: page tables shared by all processes that map a file.
 *
 * A "region" below is what such processes share.  Most tests run once for each
 * kind of file; those of the fixture "once" need only one.  Where a test shows
 * that something does not happen, a control shows that it would: mostly the
 * same thing done to an ordinary mapping.
 *
 * SHARED_PT_EXT4	a directory on ext4 (default /mnt/ext4, or the current
 *			directory)
 * SHARED_PT_STRESS=1	storms of a size for hardware; the default is meant for
 *			an emulated machine and a kernel full of checks
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/futex.h>
#include <linux/io_uring.h>
#include <linux/magic.h>
#include <linux/membarrier.h>
#include <linux/userfaultfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <sys/wait.h>

#include "../kselftest_harness.h"

#ifndef MAP_SHARED_PT
#define MAP_SHARED_PT		0x400000
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE		25
#endif
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ	22
#define MADV_POPULATE_WRITE	23
#endif
#ifndef MAP_SYNC
#define MAP_SYNC		0x80000
#endif
#ifndef MFD_HUGETLB
#define MFD_HUGETLB		0x0004U
#endif
#ifndef __NR_memfd_secret
#define __NR_memfd_secret	447
#endif
#ifndef __NR_process_mrelease
#define __NR_process_mrelease	448
#endif
#ifndef __NR_mseal
#define __NR_mseal		462
#endif
#ifndef MPOL_MF_MOVE
#define MPOL_BIND		2
#define MPOL_MF_MOVE		0x2
#define MPOL_MF_MOVE_ALL	0x4
#endif

#define PAGE		4096
#define UNIT		(2UL << 20)		/* what one link covers */
#define SIZE		(4 * UNIT)		/* of the file of most tests */
#define RW		(PROT_READ | PROT_WRITE)
#define PT		(MAP_SHARED_VALIDATE | MAP_SHARED_PT)
#define SECONDS		120			/* until a test has hung */

#define load(p)		__atomic_load_n(p, __ATOMIC_SEQ_CST)
#define store(p, v)	__atomic_store_n(p, v, __ATOMIC_SEQ_CST)
#define add(p, v)	__atomic_add_fetch(p, v, __ATOMIC_SEQ_CST)

/* A plain shared page by which the processes of a test talk to each other. */
struct control {
	int ready;		/* processes that came so far */
	int go;			/* the step that may be taken */
	int stop;
	int futex;
	int value[64];
};

/* ---- accesses that may fail --------------------------------------------- */

struct outcome {
	int sig;		/* 0: the access was permitted */
	int code;
	void *addr;
	unsigned char value;
};

static __thread sigjmp_buf fault_env;
static __thread bool fault_armed;
static __thread struct outcome outcome;

static void fault_handler(int sig, siginfo_t *info, void *context)
{
	(void)context;
	if (!fault_armed) {
		/* A bug of the test: let the access kill it. */
		signal(sig, SIG_DFL);
		return;
	}
	outcome.sig = sig;
	outcome.code = info->si_code;
	outcome.addr = info->si_addr;
	siglongjmp(fault_env, 1);
}

static void catch_faults(void)
{
	struct sigaction action = {
		.sa_sigaction = fault_handler,
		.sa_flags = SA_SIGINFO,
	};

	sigaction(SIGSEGV, &action, NULL);
	sigaction(SIGBUS, &action, NULL);
}

static struct outcome try_read(void *p)
{
	memset(&outcome, 0, sizeof(outcome));
	fault_armed = true;
	if (!sigsetjmp(fault_env, 1))
		outcome.value = load((unsigned char *)p);
	fault_armed = false;
	return outcome;
}

static struct outcome try_write(void *p, unsigned char value)
{
	memset(&outcome, 0, sizeof(outcome));
	fault_armed = true;
	if (!sigsetjmp(fault_env, 1))
		store((unsigned char *)p, value);
	fault_armed = false;
	return outcome;
}

/* Only sensible where a page holds code; a return instruction will do. */
static struct outcome try_exec(void *p)
{
	void (*code)(void) = p;

	memset(&outcome, 0, sizeof(outcome));
	fault_armed = true;
	if (!sigsetjmp(fault_env, 1))
		code();
	fault_armed = false;
	return outcome;
}

/*
 * Read again and again, with no system call in between that could hide a
 * missing TLB flush, until the access fails or @forbidden is seen.
 */
static struct outcome spin_read(int *p, int forbidden, int *turns)
{
	memset(&outcome, 0, sizeof(outcome));
	fault_armed = true;
	if (!sigsetjmp(fault_env, 1)) {
		while (load(p) != forbidden)
			add(turns, 1);
		outcome.value = 1;
	}
	fault_armed = false;
	return outcome;
}

/* As spin_read(), with stores. */
static struct outcome spin_write(int *p, int *turns, int *stop)
{
	memset(&outcome, 0, sizeof(outcome));
	fault_armed = true;
	if (!sigsetjmp(fault_env, 1)) {
		while (!load(stop))
			store(p, add(turns, 1));
	}
	fault_armed = false;
	return outcome;
}

#define EXPECT_OK(access)	EXPECT_EQ(0, (access).sig)

#define EXPECT_ACCERR(access, p) do {					\
	struct outcome _o = (access);					\
									\
	EXPECT_EQ(SIGSEGV, _o.sig);					\
	EXPECT_EQ(SEGV_ACCERR, _o.code);				\
	EXPECT_EQ((void *)(p), _o.addr);				\
} while (0)

#define EXPECT_SIGBUS(access, p) do {					\
	struct outcome _o = (access);					\
									\
	EXPECT_EQ(SIGBUS, _o.sig);					\
	EXPECT_EQ(BUS_ADRERR, _o.code);					\
	EXPECT_EQ((void *)(p), _o.addr);				\
} while (0)

#define EXPECT_ERRNO(error, call) do {					\
	errno = 0;							\
	EXPECT_EQ(-1, (long)(call));					\
	EXPECT_EQ(error, errno);					\
} while (0)

/* ---- processes ---------------------------------------------------------- */

/* fork(); the child does not outlive the test. */
static pid_t spawn(void)
{
	pid_t parent = getpid();
	pid_t pid = fork();

	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent)
			_exit(1);
	}
	return pid;
}

/* What a child exited with, or minus the signal that killed it. */
static int reap(pid_t pid)
{
	int status;

	if (pid <= 0 || waitpid(pid, &status, 0) != pid)
		return 255;
	return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static int put_down(pid_t pid)
{
	if (pid > 0)
		kill(pid, SIGKILL);
	return reap(pid);
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

static void sleep_ms(int ms)
{
	usleep(ms * 1000);
}

/* Wait for another process; false if it does not come. */
static bool wait_for(int *p, int at_least)
{
	double end = now() + SECONDS / 2;

	while (load(p) < at_least) {
		if (now() > end)
			return false;
		usleep(500);
	}
	return true;
}

static void pin(int cpu)
{
	int n = sysconf(_SC_NPROCESSORS_ONLN);
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu % n, &set);
	sched_setaffinity(0, sizeof(set), &set);
}

static int cpus(void)
{
	return sysconf(_SC_NPROCESSORS_ONLN);
}

/* How often, how many: little for an emulated machine, or much. */
static int scale(int little, int much)
{
	char *stress = getenv("SHARED_PT_STRESS");

	return stress && atoi(stress) ? much : little;
}

/* ---- what /proc says ---------------------------------------------------- */

/* The number after @key in a file of lines "key: number kB"; -1 if absent. */
static long number_in(const char *path, const char *key)
{
	FILE *f = fopen(path, "r");
	size_t len = strlen(key);
	char line[256];
	long n = -1;

	while (f && fgets(line, sizeof(line), f)) {
		if (!strncmp(line, key, len)) {
			n = atol(line + len);
			break;
		}
	}
	if (f)
		fclose(f);
	return n;
}

static long vm_pte(void)
{
	return number_in("/proc/self/status", "VmPTE:");
}

/*
 * Is there such a letter pair in VmFlags of the mapping at @p, or of any
 * mapping if @p is NULL?
 */
static bool vm_flag(void *p, const char *flag)
{
	FILE *f = fopen("/proc/self/smaps", "r");
	unsigned long start, end;
	bool here = false, found = false;
	char line[512], word[8];

	snprintf(word, sizeof(word), " %s ", flag);
	while (f && !found && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
			here = !p || (start <= (unsigned long)p &&
				      (unsigned long)p < end);
		else if (here && !strncmp(line, "VmFlags:", 8))
			found = strstr(line, word);
	}
	if (f)
		fclose(f);
	return found;
}

/* How many mappings are there? */
static int nr_mappings(void)
{
	FILE *f = fopen("/proc/self/maps", "r");
	int c, n = 0;

	while (f && (c = fgetc(f)) != EOF)
		n += c == '\n';
	if (f)
		fclose(f);
	return n;
}

/* The kB after @key in smaps of the mapping at @p. */
static long smaps_kb(void *p, const char *key)
{
	FILE *f = fopen("/proc/self/smaps", "r");
	unsigned long start, end;
	size_t len = strlen(key);
	bool here = false;
	char line[512];
	long n = -1;

	while (f && n < 0 && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
			here = start <= (unsigned long)p &&
			       (unsigned long)p < end;
		else if (here && !strncmp(line, key, len))
			n = atol(line + len);
	}
	if (f)
		fclose(f);
	return n;
}

static __u64 page_state(void *p)
{
	int fd = open("/proc/self/pagemap", O_RDONLY);
	__u64 entry = 0;

	if (pread(fd, &entry, 8, (unsigned long)p / PAGE * 8) != 8)
		entry = 0;
	close(fd);
	return entry;
}

static bool present(void *p)
{
	return page_state(p) >> 63 & 1;
}

static bool soft_dirty(void *p)
{
	return page_state(p) >> 55 & 1;
}

static bool exclusive(void *p)
{
	return page_state(p) >> 56 & 1;
}

static int write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);
	int ret = fd < 0 ? -1 : write(fd, text, strlen(text));

	if (fd >= 0)
		close(fd);
	return ret < 0 ? -1 : 0;
}

/* ---- files and mappings ------------------------------------------------- */

/* Addresses are congruent to offsets already, so NULL will do as a hint. */
static void *map_pt(int fd, int prot, size_t len, off_t offset)
{
	return mmap(NULL, len, prot, PT, fd, offset);
}

/* What everything is compared with. */
static void *map_plain(int fd, int prot, size_t len, off_t offset)
{
	return mmap(NULL, len, prot, MAP_SHARED, fd, offset);
}

/* Room for a mapping of @len and a guard on both sides, at a multiple of 2M. */
static char *reserve(size_t len)
{
	char *p = mmap(NULL, len + 3 * UNIT, PROT_NONE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED)
		return p;
	return (char *)(((unsigned long)p + 2 * UNIT - 1) & -UNIT);
}

/* Another open file description of the same file, e.g. a read-only one. */
static int reopen(int fd, int flags)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return open(path, flags);
}

static bool on_fs(const char *dir, long magic)
{
	struct statfs st;

	return dir && !statfs(dir, &st) && st.f_type == magic;
}

static const char *tmpfs_dir(void)
{
	return on_fs("/tmp", TMPFS_MAGIC) ? "/tmp" :
	       on_fs("/dev/shm", TMPFS_MAGIC) ? "/dev/shm" : NULL;
}

static const char *ext4_dir(void)
{
	char *dir = getenv("SHARED_PT_EXT4");

	if (on_fs(dir, EXT4_SUPER_MAGIC))
		return dir;
	if (on_fs("/mnt/ext4", EXT4_SUPER_MAGIC))
		return "/mnt/ext4";
	return on_fs(".", EXT4_SUPER_MAGIC) ? "." : NULL;
}

static int unlinked_file(const char *dir)
{
	char path[256];
	int fd;

	snprintf(path, sizeof(path), "%s/shared_pt.XXXXXX", dir);
	fd = mkostemp(path, O_RDWR);
	if (fd >= 0)
		unlink(path);
	return fd;
}

static int punch(int fd, off_t offset, off_t len)
{
	return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			 offset, len);
}

/* Anonymous shared memory has a file too; with privilege it can be opened. */
static int file_of_mapping(char *p, size_t len)
{
	char path[128];

	snprintf(path, sizeof(path), "/proc/self/map_files/%lx-%lx",
		 (unsigned long)p, (unsigned long)p + len);
	return open(path, O_RDWR);
}

#define CGROUP	"/sys/fs/cgroup"

static const char *cg_file(const char *group, const char *name)
{
	static char path[256];

	snprintf(path, sizeof(path), CGROUP "/%s/%s", group, name);
	return path;
}

/* A new group for memory; its name, or NULL if there cannot be one. */
static const char *cg_new(const char *name)
{
	static char groups[4][64];
	static int n;
	char *group = groups[n++ % 4];

	write_file(CGROUP "/cgroup.subtree_control", "+memory");
	snprintf(group, 64, "shared_pt_%s_%d", name, getpid());
	if (mkdir(cg_file(group, ""), 0755) && errno != EEXIST)
		return NULL;
	if (access(cg_file(group, "memory.reclaim"), W_OK)) {
		rmdir(cg_file(group, ""));
		return NULL;
	}
	return group;
}

static int cg_enter(const char *group)
{
	return write_file(cg_file(group, "cgroup.procs"), "0");
}

static void cg_remove(const char *group)
{
	int i;

	write_file(CGROUP "/cgroup.procs", "0");
	/* It may have processes that are not quite dead. */
	for (i = 0; i < 50 && rmdir(cg_file(group, "")); i++)
		sleep_ms(20);
}

static long cg_number(const char *group, const char *name, const char *key)
{
	return number_in(cg_file(group, name), key);
}

enum backing {
	MEMFD,
	TMPFS,
	EXT4,
	ANON,
};

/*
 * @map is a mapping of the whole file with shared page tables, which children
 * inherit; others are made from @fd.
 */
FIXTURE(region)
{
	int fd;
	char *map;
	struct control *ctl;
};

FIXTURE_VARIANT(region)
{
	enum backing backing;
};

FIXTURE_VARIANT_ADD(region, memfd)
{
	.backing = MEMFD,
};

FIXTURE_VARIANT_ADD(region, tmpfs)
{
	.backing = TMPFS,
};

FIXTURE_VARIANT_ADD(region, ext4)
{
	.backing = EXT4,
};

FIXTURE_VARIANT_ADD(region, anon)
{
	.backing = ANON,
};

static struct control *new_control(void)
{
	catch_faults();
	return mmap(NULL, sizeof(struct control), RW,
		    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}

FIXTURE_SETUP(region)
{
	self->ctl = new_control();
	ASSERT_NE(MAP_FAILED, self->ctl);

	switch (variant->backing) {
	case MEMFD:
		self->fd = memfd_create("shared_pt", MFD_ALLOW_SEALING);
		break;
	case TMPFS:
		if (!tmpfs_dir())
			SKIP(return, "no tmpfs on /tmp or /dev/shm");
		self->fd = unlinked_file(tmpfs_dir());
		break;
	case EXT4:
		if (!ext4_dir())
			SKIP(return, "no ext4 on $SHARED_PT_EXT4 or /mnt/ext4");
		self->fd = unlinked_file(ext4_dir());
		break;
	case ANON:
		self->map = mmap(NULL, SIZE, RW, PT | MAP_ANONYMOUS, -1, 0);
		ASSERT_NE(MAP_FAILED, self->map);
		self->fd = file_of_mapping(self->map, SIZE);
		if (self->fd < 0)
			SKIP(return, "cannot open /proc/self/map_files");
		return;
	}
	ASSERT_LE(0, self->fd);
	ASSERT_EQ(0, ftruncate(self->fd, SIZE));
	self->map = map_pt(self->fd, RW, SIZE, 0);
	ASSERT_NE(MAP_FAILED, self->map);
}

FIXTURE_TEARDOWN(region)
{
}

/* For what does not depend on the kind of file: a memfd. */
FIXTURE(once)
{
	int fd;
	char *map;
	struct control *ctl;
};

FIXTURE_SETUP(once)
{
	self->ctl = new_control();
	ASSERT_NE(MAP_FAILED, self->ctl);
	self->fd = memfd_create("shared_pt", MFD_ALLOW_SEALING);
	ASSERT_LE(0, self->fd);
	ASSERT_EQ(0, ftruncate(self->fd, SIZE));
	self->map = map_pt(self->fd, RW, SIZE, 0);
	ASSERT_NE(MAP_FAILED, self->map);
}

FIXTURE_TEARDOWN(once)
{
}

/* ---- sharing ------------------------------------------------------------ */

/*
 * The point of it all.  Another process, at another address, finds the pages
 * in the tables: a fault for each 2 MiB, not for each page, and no tables of
 * its own.
 */
TEST_F_TIMEOUT(region, tables_are_shared, SECONDS)
{
	const size_t units = 16, len = units * UNIT;
	struct { long pte, faults; bool flag; } cost[2];
	struct rusage before, after;
	char *first, *p;
	int i, shared;
	long pte;
	pid_t pid;

	ASSERT_EQ(0, ftruncate(self->fd, len));
	first = map_pt(self->fd, RW, len, 0);
	ASSERT_NE(MAP_FAILED, first);
	memset(first, 1, UNIT);
	for (i = 1; i < (int)units; i++)
		first[i * UNIT] = 1;

	for (shared = 0; shared < 2; shared++) {
		pid = spawn();
		if (!pid) {
			/* The inherited mapping stays: another address. */
			p = mmap(NULL, len, RW, shared ? PT : MAP_SHARED,
				 self->fd, 0);
			ASSERT_NE(MAP_FAILED, p);
			pte = vm_pte();
			getrusage(RUSAGE_SELF, &before);
			for (i = 0; i < (int)(UNIT / PAGE); i++)
				p[i * PAGE] = 2;
			for (i = 1; i < (int)units; i++)
				p[i * UNIT] = 2;
			getrusage(RUSAGE_SELF, &after);
			self->ctl->value[0] = vm_pte() - pte;
			self->ctl->value[1] = after.ru_minflt - before.ru_minflt;
			self->ctl->value[2] = vm_flag(p, "pt");
			_exit(0);
		}
		ASSERT_EQ(0, reap(pid));
		cost[shared].pte = self->ctl->value[0];
		cost[shared].faults = self->ctl->value[1];
		cost[shared].flag = self->ctl->value[2];
	}
	/* Control: an ordinary mapping has 16 tables of 4 kB. */
	EXPECT_LE(64, cost[0].pte);
	EXPECT_LE(512 + 15, cost[0].faults);
	EXPECT_FALSE(cost[0].flag);
	/* What there is above PTE tables stays one's own. */
	EXPECT_GE(12, cost[1].pte);
	EXPECT_GE(32, cost[1].faults);
	EXPECT_TRUE(cost[1].flag);
}

/* All views of the file agree: the region, a plain mapping, read and write. */
TEST_F_TIMEOUT(region, coherent_with_other_views, SECONDS)
{
	char *plain = map_plain(self->fd, RW, SIZE, 0);
	char *other = map_pt(self->fd, RW, SIZE, 0);
	char buf[16] = "";

	ASSERT_NE(MAP_FAILED, plain);
	ASSERT_NE(MAP_FAILED, other);
	EXPECT_TRUE(vm_flag(other, "pt"));
	EXPECT_FALSE(vm_flag(plain, "pt"));

	memcpy(self->map + UNIT + 5, "region", 7);
	EXPECT_STREQ("region", plain + UNIT + 5);
	EXPECT_STREQ("region", other + UNIT + 5);
	EXPECT_EQ(7, pread(self->fd, buf, 7, UNIT + 5));
	EXPECT_STREQ("region", buf);

	EXPECT_EQ(6, pwrite(self->fd, "write", 6, UNIT + 5));
	EXPECT_STREQ("write", self->map + UNIT + 5);
	memcpy(plain + UNIT + 5, "plain", 6);
	EXPECT_STREQ("plain", self->map + UNIT + 5);
	EXPECT_STREQ("plain", other + UNIT + 5);
}

/*
 * Guests of any address, offset and length use the same tables, each at its
 * place: wrong arithmetic would show somebody the wrong page.
 */
TEST_F_TIMEOUT(region, different_address_offset_and_length, SECONDS)
{
	char *a, *b, *c, *plain;
	unsigned long i;
	pid_t pid;

	plain = map_plain(self->fd, RW, SIZE, 0);
	ASSERT_NE(MAP_FAILED, plain);
	for (i = 0; i < SIZE; i += UNIT / 4)
		*(unsigned long *)(plain + i) = i + 1;

	a = self->map;
	/* Another gigabyte, so that no index into any table is the same. */
	b = mmap((void *)(0x10000000000UL + 77 * UNIT), 2 * UNIT, RW,
		 PT | MAP_FIXED, self->fd, UNIT);
	ASSERT_EQ((void *)(0x10000000000UL + 77 * UNIT), b);
	/* Past the end of the file. */
	c = map_pt(self->fd, RW, 8 * UNIT, 3 * UNIT);
	ASSERT_NE(MAP_FAILED, c);

	pid = spawn();
	if (!pid) {
		for (i = 0; i < SIZE; i += UNIT / 4)
			EXPECT_EQ(i + 1, *(unsigned long *)(a + i));
		for (i = UNIT; i < 3 * UNIT; i += UNIT / 4)
			EXPECT_EQ(i + 1, *(unsigned long *)(b + i - UNIT));
		for (i = 3 * UNIT; i < SIZE; i += UNIT / 4)
			EXPECT_EQ(i + 1, *(unsigned long *)(c + i - 3 * UNIT));
		for (i = 1; i < 8; i++)
			EXPECT_SIGBUS(try_read(c + i * UNIT), c + i * UNIT);
		EXPECT_SIGBUS(try_write(c + 8 * UNIT - 1, 1),
			      c + 8 * UNIT - 1);
		_exit(0);
	}
	EXPECT_EQ(0, reap(pid));

	/* A's third unit is B's second, and C has none of it. */
	ASSERT_EQ(0, mprotect(a + 2 * UNIT, UNIT, PROT_READ));
	EXPECT_ACCERR(try_write(a + 2 * UNIT, 1), a + 2 * UNIT);
	EXPECT_ACCERR(try_write(a + 3 * UNIT - 1, 1), a + 3 * UNIT - 1);
	EXPECT_ACCERR(try_write(b + UNIT, 1), b + UNIT);
	EXPECT_ACCERR(try_write(b + 2 * UNIT - 1, 1), b + 2 * UNIT - 1);
	EXPECT_OK(try_write(a + 2 * UNIT - 1, 1));
	EXPECT_OK(try_write(a + 3 * UNIT, 1));
	EXPECT_OK(try_write(b + UNIT - 1, 1));
	EXPECT_OK(try_write(c, 1));
	EXPECT_OK(try_write(c + UNIT - 1, 1));
	/* Control: nor does an ordinary mapping. */
	EXPECT_OK(try_write(plain + 2 * UNIT, 1));

	ASSERT_EQ(0, mprotect(b + UNIT, UNIT, RW));
	EXPECT_OK(try_write(a + 2 * UNIT, 1));
}

/* A guest sees no more of the tables than its mapping covers. */
TEST_F_TIMEOUT(region, nothing_beyond_the_window, SECONDS)
{
	char *room, *p, *neighbour;
	unsigned long i;

	for (i = 0; i < SIZE; i += PAGE * 16)
		self->map[i] = 1;

	room = reserve(SIZE);
	ASSERT_NE(MAP_FAILED, room);
	p = mmap(room, 2 * UNIT, RW, PT | MAP_FIXED, self->fd, 0);
	ASSERT_EQ(room, p);
	EXPECT_EQ(1, try_read(p).value);
	EXPECT_EQ(1, try_read(p + 2 * UNIT - 16 * PAGE).value);
	EXPECT_ACCERR(try_read(p + 2 * UNIT), p + 2 * UNIT);
	EXPECT_ACCERR(try_read(p + 3 * UNIT), p + 3 * UNIT);
	EXPECT_ACCERR(try_read(p - 1), p - 1);

	ASSERT_EQ(0, munmap(p + 2 * UNIT, UNIT));
	EXPECT_EQ(SEGV_MAPERR, try_read(p + 2 * UNIT).code);

	/* Private memory right behind it has tables and pages of its own. */
	neighbour = mmap(p + 2 * UNIT, UNIT, RW,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	ASSERT_EQ(p + 2 * UNIT, neighbour);
	EXPECT_FALSE(present(neighbour));
	for (i = 0; i < UNIT; i += 16 * PAGE)
		EXPECT_EQ(0, neighbour[i]);
	neighbour[0] = 2;
	EXPECT_TRUE(exclusive(neighbour));
	EXPECT_EQ(1, self->map[2 * UNIT]);
	EXPECT_EQ(1, p[2 * UNIT - 16 * PAGE]);
	EXPECT_FALSE(vm_flag(neighbour, "pt"));
}

/*
 * Many tasks fault first on the same table at once: one table gets made, and
 * nobody's store is lost.
 */
TEST_F_TIMEOUT(region, concurrent_first_touch, SECONDS)
{
	const int n = 8, rounds = scale(4, 200);
	pid_t pid[8];
	char *p;
	int i, r;
	unsigned long page;

	for (i = 0; i < n; i++) {
		pid[i] = spawn();
		if (pid[i])
			continue;
		pin(i);
		p = i % 2 ? self->map : map_pt(self->fd, RW, SIZE, 0);
		ASSERT_NE(MAP_FAILED, p);
		for (r = 1; r <= rounds; r++) {
			ASSERT_TRUE(wait_for(&self->ctl->go, r));
			/* Bytes of their own in pages of all. */
			for (page = 0; page < SIZE; page += UNIT / 8)
				store(p + page + i, r);
			add(&self->ctl->ready, 1);
		}
		_exit(0);
	}
	for (r = 1; r <= rounds; r++) {
		ASSERT_EQ(0, punch(self->fd, 0, SIZE));
		store(&self->ctl->go, r);
		ASSERT_TRUE(wait_for(&self->ctl->ready, n * r));
		for (page = 0; page < SIZE; page += UNIT / 8) {
			for (i = 0; i < n; i++)
				ASSERT_EQ(r, self->map[page + i]);
		}
	}
	for (i = 0; i < n; i++)
		EXPECT_EQ(0, reap(pid[i]));
}

static bool have_process_vm(void)
{
	return !process_vm_readv(getpid(), NULL, 0, NULL, 0, 0);
}

/* ---- classes and mprotect ----------------------------------------------- */

/* An io_uring that has the page at @p as a fixed buffer; its fd or -errno. */
static int uring_with_buffer(void *p)
{
	struct io_uring_params params = {};
	struct iovec iov = { p, PAGE };
	int fd = syscall(__NR_io_uring_setup, 1, &params);
	int error;

	if (fd < 0)
		return -ENOSYS;
	if (syscall(__NR_io_uring_register, fd, IORING_REGISTER_BUFFERS,
		    &iov, 1)) {
		error = errno;
		close(fd);
		return -error;
	}
	return fd;
}

/*
 * Who opened the file read-only shares no entry with who may write, in
 * whatever order they come.
 */
TEST_F_TIMEOUT(region, read_only_opener_cannot_write, SECONDS)
{
	int ro = reopen(self->fd, O_RDONLY);
	struct iovec from = { self->ctl->value, 8 }, to = { NULL, 8 };
	unsigned long i;
	int order, pipes[2], gifts[2], disk = -1, other, uring;
	char *reader, *writer;
	struct iovec gift;
	pid_t pid;

	ASSERT_LE(0, ro);
	ASSERT_EQ(0, pipe(pipes));
	ASSERT_EQ(0, pipe(gifts));
	ASSERT_EQ(8, write(pipes[1], "abcdefg", 8));
	writer = self->map;
	other = memfd_create("other", 0);
	ASSERT_LE(0, other);
	if (ext4_dir()) {
		int fd = unlinked_file(ext4_dir());

		memset(self->ctl->value, 0, sizeof(self->ctl->value));
		ASSERT_EQ(PAGE, write(fd, self->ctl, PAGE));
		disk = reopen(fd, O_RDWR | O_DIRECT);
		ASSERT_LE(0, disk);
		close(fd);
	}

	for (order = 0; order < 2; order++) {
		off_t at = order * 2 * UNIT;

		reader = map_pt(ro, PROT_READ, SIZE, 0);
		ASSERT_NE(MAP_FAILED, reader);
		for (i = at; i < at + 2 * UNIT; i += PAGE * 16) {
			if (order)
				EXPECT_OK(try_read(reader + i));
			writer[i] = 3;
			EXPECT_EQ(3, reader[i]);
			EXPECT_ACCERR(try_write(reader + i, 4), reader + i);
		}
		EXPECT_EQ(3, writer[at]);

		/* Nor may the kernel write on the reader's behalf. */
		EXPECT_ERRNO(EFAULT, read(pipes[0], reader + at, 8));
		pid = spawn();
		if (!pid) {
			sleep(SECONDS);
			_exit(0);
		}
		if (have_process_vm()) {
			to.iov_base = reader + at;
			EXPECT_ERRNO(EFAULT, process_vm_writev(pid, &from, 1,
							       &to, 1, 0));
			/* Control: this does not fail for another reason. */
			to.iov_base = writer + at;
			EXPECT_EQ(8, process_vm_writev(pid, &from, 1,
						       &to, 1, 0));
		}
		put_down(pid);
		gift = (struct iovec){ reader + at, PAGE };
		EXPECT_ERRNO(EFAULT, vmsplice(pipes[0], &gift, 1, 0));
		/* The disk would write into the page, which is there. */
		writer[at] = 3;
		if (disk >= 0) {
			EXPECT_ERRNO(EFAULT, pread(disk, reader + at, PAGE, 0));
			EXPECT_EQ(3, writer[at]);
			EXPECT_EQ(PAGE, pread(disk, writer + at, PAGE, 0));
			EXPECT_EQ(0, writer[at]);
			writer[at] = 3;
		}
		/* So would a later read into a registered buffer. */
		uring = uring_with_buffer(reader + at);
		if (uring != -ENOSYS) {
			EXPECT_EQ(-EFAULT, uring);
			/* Which no file system with writeback permits anyway. */
			uring = uring_with_buffer(writer + at);
			EXPECT_EQ(variant->backing == EXT4, uring < 0)
				TH_LOG("%s", strerror(-uring));
			close(uring);
		}
		/* A page may be given away, but is not taken from the file. */
		EXPECT_EQ(PAGE, vmsplice(gifts[1], &gift, 1, SPLICE_F_GIFT));
		EXPECT_EQ(PAGE, splice(gifts[0], NULL, other, NULL, PAGE,
				       SPLICE_F_MOVE));
		EXPECT_EQ(1, pwrite(other, "x", 1, order * PAGE));
		EXPECT_EQ(3, reader[at]);
		EXPECT_EQ(3, writer[at]);
		writer[at] = 4;
		EXPECT_EQ(4, reader[at]);
		writer[at] = 3;
		EXPECT_ERRNO(EINVAL, madvise(reader + at, PAGE,
					     MADV_POPULATE_WRITE));
		munmap(reader, SIZE);
	}
	EXPECT_ERRNO(EACCES, map_pt(ro, RW, SIZE, 0));

	/* While a reader races with the writer, too. */
	reader = map_pt(ro, PROT_READ, SIZE, 0);
	pid = spawn();
	if (!pid) {
		spin_write((int *)writer, self->ctl->value, &self->ctl->stop);
		_exit(0);
	}
	EXPECT_TRUE(wait_for(self->ctl->value, 1));
	for (i = 0; i < (unsigned long)scale(200, 100000); i++) {
		EXPECT_OK(try_read(reader));
		EXPECT_ACCERR(try_write(reader + 8, 4), reader + 8);
	}
	store(&self->ctl->stop, 1);
	EXPECT_EQ(0, reap(pid));
	EXPECT_NE(4, writer[8]);
}

/*
 * What was asked for at mmap() is the ceiling, and the class: nobody gets more
 * by the mprotect() of somebody else.
 */
TEST_F_TIMEOUT(region, mprotect_raises_nobody_above_his_ceiling, SECONDS)
{
	char *a = self->map, *b;
	int i;

	b = map_pt(self->fd, PROT_READ, SIZE, 0);
	ASSERT_NE(MAP_FAILED, b);
	a[0] = 1;
	for (i = 0; i < scale(10, 1000); i++) {
		EXPECT_EQ(0, mprotect(a, SIZE, i % 2 ? RW : PROT_READ));
		EXPECT_EQ(1, try_read(b).value);
		EXPECT_ACCERR(try_write(b, 2), b);
		EXPECT_ERRNO(EACCES, mprotect(b, SIZE, RW));
		EXPECT_EQ(i % 2 ? 0 : SIGSEGV, try_write(a, 1).sig);
	}
	EXPECT_EQ(0, mprotect(a, SIZE, RW));

	/* Class of B, file opened for writing: may go down and up again. */
	EXPECT_EQ(0, mprotect(b, UNIT, PROT_NONE));
	EXPECT_ACCERR(try_read(b), b);
	EXPECT_OK(try_read(b + UNIT));
	EXPECT_OK(try_write(a, 1));
	EXPECT_ERRNO(EACCES, mprotect(b, UNIT, RW));
	EXPECT_EQ(0, mprotect(b, UNIT, PROT_READ));
	EXPECT_EQ(1, try_read(b).value);

	/* Control: an ordinary mapping may be raised. */
	b = map_plain(self->fd, PROT_READ, SIZE, 0);
	EXPECT_EQ(0, mprotect(b, SIZE, RW));
	EXPECT_OK(try_write(b, 1));
}

/* Not even to execute: that would be the stranger's code. */
TEST_F_TIMEOUT(region, execution_is_a_class_too, SECONDS)
{
	char *x, *r;

	x = map_pt(self->fd, RW | PROT_EXEC, UNIT, 0);
	if (x == MAP_FAILED && errno == EPERM)
		SKIP(return, "the file system is mounted noexec");
	ASSERT_NE(MAP_FAILED, x);
	r = map_pt(self->fd, PROT_READ, UNIT, 0);
	ASSERT_NE(MAP_FAILED, r);
#if defined(__x86_64__)
	x[0] = 0xc3;
	EXPECT_OK(try_exec(x));
	EXPECT_ACCERR(try_exec(r), r);
	EXPECT_ACCERR(try_exec(self->map), self->map);
	EXPECT_EQ(0, mprotect(x, UNIT, RW));
	EXPECT_ACCERR(try_exec(x), x);
	EXPECT_EQ(0, mprotect(x, UNIT, RW | PROT_EXEC));
	EXPECT_OK(try_exec(x));
	EXPECT_ACCERR(try_exec(r), r);
#endif
	EXPECT_ERRNO(EACCES, mprotect(r, UNIT, PROT_READ | PROT_EXEC));
	EXPECT_ERRNO(EACCES, mprotect(self->map, UNIT, RW | PROT_EXEC));
}

/* A read-only class has fixed protections: others may depend on them. */
TEST_F_TIMEOUT(region, mprotect_from_read_only_class, SECONDS)
{
	int ro = reopen(self->fd, O_RDONLY);
	char *p;

	ASSERT_LE(0, ro);
	p = map_pt(ro, PROT_READ, SIZE, 0);
	ASSERT_NE(MAP_FAILED, p);
	EXPECT_OK(try_read(p));
	EXPECT_ERRNO(EACCES, mprotect(p, PAGE, PROT_NONE));
	EXPECT_ERRNO(EACCES, mprotect(p, PAGE, RW));
	EXPECT_ERRNO(EACCES, mprotect(p, PAGE, PROT_READ | PROT_EXEC));
	EXPECT_EQ(0, mprotect(p, PAGE, PROT_READ));
	EXPECT_OK(try_read(p));
	EXPECT_ERRNO(EACCES, madvise(p, PAGE, MADV_REMOVE));

	/* Control: it is the way it was opened. */
	p = map_pt(self->fd, PROT_READ, SIZE, 0);
	EXPECT_EQ(0, mprotect(p, PAGE, PROT_NONE));
	EXPECT_ACCERR(try_read(p), p);
}

/* Any range of pages, for all sharers, at once and with the data kept. */
TEST_F_TIMEOUT(region, mprotect_acts_on_all_sharers, SECONDS)
{
	char *plain = map_plain(self->fd, RW, SIZE, 0);
	char *first = self->map + UNIT - PAGE, *p;
	struct control *ctl = self->ctl;
	int i, k;
	pid_t pid[2];

	self->map[UNIT - 2 * PAGE] = 1;
	first[0] = 2;
	first[PAGE] = 3;
	first[2 * PAGE] = 4;

	/* One inherits the mapping, the other makes its own. */
	for (i = 0; i < 2; i++) {
		pid[i] = spawn();
		if (pid[i])
			continue;
		p = i ? map_pt(self->fd, RW, SIZE, 0) : self->map;
		ASSERT_NE(MAP_FAILED, p);
		p += UNIT - PAGE;
		EXPECT_EQ(2, p[0]);
		EXPECT_OK(try_write(p + PAGE, 3));
		add(&ctl->ready, 1);

		ASSERT_TRUE(wait_for(&ctl->go, 1));
		EXPECT_ACCERR(try_read(p), p);
		EXPECT_ACCERR(try_read(p + PAGE), p + PAGE);
		EXPECT_ACCERR(try_write(p + 2 * PAGE - 1, 9), p + 2 * PAGE - 1);
		EXPECT_OK(try_write(p - PAGE, 1));
		EXPECT_EQ(4, try_read(p + 2 * PAGE).value);
		add(&ctl->ready, 1);

		ASSERT_TRUE(wait_for(&ctl->go, 2));
		EXPECT_EQ(2, try_read(p).value);
		EXPECT_ACCERR(try_write(p, 9), p);
		EXPECT_ACCERR(try_write(p + PAGE, 9), p + PAGE);
		add(&ctl->ready, 1);

		ASSERT_TRUE(wait_for(&ctl->go, 3));
		EXPECT_OK(try_write(p, 2));
		EXPECT_OK(try_write(p + PAGE, 3));
		add(&ctl->ready, 1);

		/* A sharer that did not make it may do the same. */
		ASSERT_TRUE(wait_for(&ctl->ready, 8));
		if (i)
			EXPECT_EQ(0, mprotect(p, 4 * PAGE, PROT_READ));
		_exit(0);
	}
	ASSERT_TRUE(wait_for(&ctl->ready, 2));
	ASSERT_EQ(0, mprotect(first, 2 * PAGE, PROT_NONE));
	EXPECT_ACCERR(try_read(first), first);
	for (k = 1; k <= 2; k++) {
		store(&ctl->go, k);
		ASSERT_TRUE(wait_for(&ctl->ready, 2 + 2 * k));
		/* Data and ordinary mappings are not concerned. */
		EXPECT_EQ(2, try_read(plain + UNIT - PAGE).value);
		EXPECT_OK(try_write(plain + UNIT, 3));
		ASSERT_EQ(0, mprotect(first, 2 * PAGE,
				      k == 1 ? PROT_READ : RW));
	}
	store(&ctl->go, 3);
	EXPECT_EQ(0, reap(pid[0]));
	EXPECT_EQ(0, reap(pid[1]));
	EXPECT_ACCERR(try_write(first + 3 * PAGE, 9), first + 3 * PAGE);
	EXPECT_OK(try_write(first + 4 * PAGE, 9));

	/* So does what comes later: protection belongs to the region. */
	p = map_pt(self->fd, RW, SIZE, 0);
	ASSERT_NE(MAP_FAILED, p);
	EXPECT_ACCERR(try_write(p + UNIT, 9), p + UNIT);
	EXPECT_EQ(3, try_read(p + UNIT).value);
}

/* PROT_NONE is a ceiling as well, and of no use to anybody. */
TEST_F_TIMEOUT(region, ceiling_of_none, SECONDS)
{
	char *p = map_pt(self->fd, PROT_NONE, SIZE, 0);

	ASSERT_NE(MAP_FAILED, p);
	self->map[0] = 1;
	EXPECT_ACCERR(try_read(p), p);
	EXPECT_ACCERR(try_write(p, 1), p);
	EXPECT_ERRNO(EACCES, mprotect(p, SIZE, PROT_READ));
	EXPECT_EQ(0, mprotect(p, SIZE, PROT_NONE));
	EXPECT_ACCERR(try_read(p), p);
}

/* ---- TLB ---------------------------------------------------------------- */

/*
 * Readers on all CPUs, in processes of their own, for which the only flush is
 * the one that a stranger's mprotect() causes.  When that has returned, none
 * of them may see anything new.
 */
static void revoke_from_readers(struct __test_metadata *_metadata,
				struct control *ctl, int fd, bool shared)
{
	const int n = scale(cpus() + 2, 64), old = 1, new = 2;
	struct outcome seen;
	pid_t pid[64];
	int *alias, *p;
	int i, k;

	memset(ctl, 0, sizeof(*ctl));
	alias = map_plain(fd, RW, SIZE, 0);
	ASSERT_NE(MAP_FAILED, alias);
	store(alias, old);
	p = mmap(NULL, SIZE, RW, shared ? PT : MAP_SHARED, fd, 0);
	ASSERT_NE(MAP_FAILED, p);

	for (i = 0; i < n; i++) {
		pid[i] = spawn();
		if (pid[i])
			continue;
		pin(i);
		p = mmap(NULL, SIZE, RW, shared ? PT : MAP_SHARED, fd, 0);
		ASSERT_NE(MAP_FAILED, p);
		seen = spin_read(p, new, &ctl->value[i]);
		if (!seen.sig)
			_exit(42);
		EXPECT_EQ(SIGSEGV, seen.sig);
		EXPECT_EQ(SEGV_ACCERR, seen.code);
		EXPECT_EQ((void *)p, seen.addr);
		_exit(0);
	}
	for (i = 0; i < n; i++)
		ASSERT_TRUE(wait_for(&ctl->value[i], 1000));
	ASSERT_EQ(0, mprotect(p, SIZE, PROT_NONE));
	store(alias, new);
	for (i = 0, k = 0; i < n; i++)
		k += reap(pid[i]) == 42;
	/* Control: an ordinary mapping lets every reader see it. */
	EXPECT_EQ(shared ? 0 : n, k);

	ASSERT_EQ(0, mprotect(p, SIZE, RW));
	munmap(p, SIZE);
	munmap(alias, SIZE);
}

TEST_F_TIMEOUT(region, revocation_reaches_all_cpus, SECONDS)
{
	int i;

	revoke_from_readers(_metadata, self->ctl, self->fd, false);
	for (i = 0; i < scale(2, 50); i++)
		revoke_from_readers(_metadata, self->ctl, self->fd, true);
}

/* The same for stores; what was written before must not be lost either. */
TEST_F_TIMEOUT(region, revocation_stops_writers, SECONDS)
{
	const int n = cpus();
	int *map = (int *)self->map, *p;
	int *disk = aligned_alloc(PAGE, PAGE);
	int kept[8];
	struct outcome seen;
	int i, r, fd;
	pid_t pid[8];

	ASSERT_GE(8, n);
	for (r = 0; r < scale(3, 100); r++) {
		memset(self->ctl, 0, sizeof(*self->ctl));
		for (i = 0; i < n; i++) {
			pid[i] = spawn();
			if (pid[i])
				continue;
			pin(i);
			p = map_pt(self->fd, RW, SIZE, 0);
			ASSERT_NE(MAP_FAILED, p);
			seen = spin_write(p + i, &self->ctl->value[i],
					  &self->ctl->stop);
			EXPECT_EQ(SIGSEGV, seen.sig);
			EXPECT_EQ(SEGV_ACCERR, seen.code);
			/* The last turn was counted but not stored. */
			EXPECT_EQ(self->ctl->value[i] - 1, map[i]);
			_exit(0);
		}
		for (i = 0; i < n; i++)
			ASSERT_TRUE(wait_for(&self->ctl->value[i], 1000));
		ASSERT_EQ(0, mprotect(self->map, SIZE, PROT_READ));
		memcpy(kept, map, sizeof(kept));
		ASSERT_EQ(0, fsync(self->fd));
		for (i = 0; i < n; i++)
			EXPECT_EQ(0, reap(pid[i]));
		EXPECT_EQ(0, memcmp(kept, map, sizeof(int) * n));

		/* What the page cache has is not asked. */
		if (variant->backing == EXT4) {
			fd = reopen(self->fd, O_RDONLY | O_DIRECT);
			ASSERT_LE(0, fd);
			ASSERT_EQ(PAGE, pread(fd, disk, PAGE, 0));
			EXPECT_EQ(0, memcmp(kept, disk, sizeof(int) * n));
			close(fd);
		}
		ASSERT_EQ(0, mprotect(self->map, SIZE, RW));
	}
}

/*
 * A page that left the file gets other content at once.  A reader that still
 * has it in its TLB would see that: one that never stops reading, and one that
 * slept meanwhile, its CPU idle or busy with somebody else.
 */
TEST_F_TIMEOUT(region, punched_page_is_not_seen_reused, SECONDS)
{
	const size_t len = scale(8, 512) * UNIT / 2;
	const int old = 0x0101, secret = 0x5ec2e7;
	struct control *ctl = self->ctl;
	int *map = (int *)self->map, *p;
	unsigned long i;
	pid_t spinner, sleeper;
	char *anon;
	int r;

	for (r = 0; r < scale(5, 200); r++) {
		memset(ctl, 0, sizeof(*ctl));
		for (i = 0; i < UNIT / sizeof(int); i += PAGE / sizeof(int))
			map[i] = old;
		spinner = spawn();
		if (!spinner) {
			pin(1);
			p = map_pt(self->fd, RW, SIZE, 0);
			ASSERT_NE(MAP_FAILED, p);
			for (i = 0; !load(&ctl->stop); i++) {
				int v = load(p + i % 512 * (PAGE / sizeof(int)));

				if (v && v != old)
					_exit(42);
				store(&ctl->value[0], i & 0xffff);
			}
			_exit(0);
		}
		sleeper = spawn();
		if (!sleeper) {
			pin(0);
			p = map_pt(self->fd, RW, SIZE, 0);
			ASSERT_NE(MAP_FAILED, p);
			for (i = 0; i < UNIT / sizeof(int);
			     i += PAGE / sizeof(int))
				EXPECT_EQ(old, load(p + i));
			store(&ctl->ready, 1);
			while (!load(&ctl->go))
				syscall(SYS_futex, &ctl->go, FUTEX_WAIT, 0,
					NULL, NULL, 0);
			for (i = 0; i < UNIT / sizeof(int);
			     i += PAGE / sizeof(int))
				EXPECT_EQ(0, load(p + i));
			_exit(0);
		}
		ASSERT_TRUE(wait_for(&ctl->ready, 1));
		ASSERT_TRUE(wait_for(&ctl->value[0], 600));

		ASSERT_EQ(0, punch(self->fd, 0, SIZE));
		anon = mmap(NULL, len, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		ASSERT_NE(MAP_FAILED, anon);
		for (i = 0; i < len; i += PAGE)
			*(int *)(anon + i) = secret;

		store(&ctl->go, 1);
		syscall(SYS_futex, &ctl->go, FUTEX_WAKE, 1, NULL, NULL, 0);
		EXPECT_EQ(0, reap(sleeper));
		store(&ctl->stop, 1);
		EXPECT_EQ(0, reap(spinner));
		munmap(anon, len);
	}
}

/*
 * munmap() drops one entry for 2 MiB, but the TLB may hold 512: what comes to
 * the same place must not be taken for what was there.
 */
TEST_F_TIMEOUT(region, no_stale_translations_after_unmap, SECONDS)
{
	unsigned long i;
	int kind, r;
	char *p, *q;

	pin(0);
	for (i = 0; i < 2 * UNIT; i += PAGE)
		self->map[i] = 1;

	for (r = 0; r < scale(2, 100); r++) {
		for (kind = 0; kind < 3; kind++) {
			p = map_pt(self->fd, RW, 2 * UNIT, 0);
			ASSERT_NE(MAP_FAILED, p);
			for (i = 0; i < 2 * UNIT; i += PAGE)
				ASSERT_EQ(1, load(p + i));
			if (kind == 0)
				ASSERT_EQ(0, munmap(p, 2 * UNIT));
			if (kind == 1)
				ASSERT_EQ(0, madvise(p, 2 * UNIT,
						     MADV_DONTNEED));
			q = mmap(p, 2 * UNIT, RW, MAP_PRIVATE | MAP_ANONYMOUS |
				 MAP_FIXED, -1, 0);
			ASSERT_EQ(p, q);
			for (i = 0; i < 2 * UNIT; i += PAGE)
				ASSERT_EQ(0, load(q + i));
			munmap(q, 2 * UNIT);
		}
		/* Control: the pages are still there. */
		ASSERT_EQ(1, load(self->map + 2 * UNIT - PAGE));
	}
}

/* ---- the kernel on behalf of a process ---------------------------------- */

static int futex_wait(int *p, int value)
{
	struct timespec soon = { 0, 1000000 };

	return syscall(SYS_futex, p, FUTEX_WAIT, value, &soon, NULL, 0);
}

/*
 * Whatever the kernel does with user memory honours the present protection,
 * which the VMA does not tell.
 */
TEST_F_TIMEOUT(region, kernel_access_after_revocation, SECONDS)
{
	char *p = self->map + UNIT;
	struct iovec remote, local = { self->ctl->value, 8 };
	struct iovec page = { p, PAGE };
	int pipes[2], disk = -1, go, round;
	pid_t pid;

	ASSERT_EQ(0, pipe(pipes));
	if (ext4_dir()) {
		disk = unlinked_file(ext4_dir());
		ASSERT_EQ(PAGE, write(disk, self->ctl, PAGE));
		go = reopen(disk, O_RDWR | O_DIRECT);
		close(disk);
		disk = go;
		ASSERT_LE(0, disk);
	}
	memset(p, 0, PAGE);

	pid = spawn();
	if (!pid) {
		/* A process with a mapping of its own, to be spied upon. */
		p = mmap(p, SIZE - UNIT, RW, PT | MAP_FIXED, self->fd, UNIT);
		ptrace(PTRACE_TRACEME, 0, 0, 0);
		raise(SIGSTOP);
		_exit(0);
	}
	ASSERT_EQ(pid, waitpid(pid, NULL, WUNTRACED));
	remote.iov_base = p;
	remote.iov_len = 8;

	/* Round 0 has the tables empty, 1 is the control, 2 has them full. */
	for (round = 0; round < 3; round++) {
		bool may = round == 1;
		int error = may ? 0 : -1;

		if (round == 0)
			ASSERT_EQ(0, punch(self->fd, 0, SIZE));
		ASSERT_EQ(0, mprotect(p, PAGE, may ? RW : PROT_NONE));

#define ALLOWED(error_code, call) do {					\
	errno = 0;							\
	EXPECT_EQ(error, (call) < 0 ? -1 : 0)				\
		TH_LOG("round %d: %s", round, #call);			\
	EXPECT_EQ(may ? 0 : (error_code), errno)			\
		TH_LOG("round %d: %s", round, #call);			\
} while (0)
		ALLOWED(EFAULT, write(pipes[1], p, 8));
		if (may)
			EXPECT_EQ(8, read(pipes[0], local.iov_base, 8));
		ALLOWED(EFAULT, vmsplice(pipes[1], &page, 1, 0));
		if (may)
			EXPECT_EQ(8, read(pipes[0], local.iov_base, 8));
		if (disk >= 0) {
			ALLOWED(EFAULT, pwrite(disk, p, PAGE, 0));
			ALLOWED(EFAULT, pread(disk, p, PAGE, 0));
		}
		if (have_process_vm()) {
			ALLOWED(EFAULT, process_vm_readv(pid, &local, 1,
							 &remote, 1, 0));
			ALLOWED(EFAULT, process_vm_writev(pid, &local, 1,
							  &remote, 1, 0));
		}
		ALLOWED(EIO, ptrace(PTRACE_PEEKDATA, pid, p, 0));
		ALLOWED(EIO, ptrace(PTRACE_POKEDATA, pid, p, 0));
		ALLOWED(EFAULT, madvise(p, PAGE, MADV_POPULATE_READ));
		ALLOWED(EFAULT, madvise(p, PAGE, MADV_POPULATE_WRITE));
#undef ALLOWED
		errno = 0;
		EXPECT_EQ(-1, futex_wait((int *)p, 0));
		EXPECT_EQ(may ? ETIMEDOUT : EFAULT, errno);
	}
	/* Reads only. */
	ASSERT_EQ(0, mprotect(p, PAGE, PROT_READ));
	EXPECT_EQ(8, write(pipes[1], p, 8));
	if (have_process_vm()) {
		EXPECT_ERRNO(EFAULT, process_vm_writev(pid, &local, 1,
						       &remote, 1, 0));
		EXPECT_EQ(8, process_vm_readv(pid, &local, 1, &remote, 1, 0));
	}
	EXPECT_ERRNO(EIO, ptrace(PTRACE_POKEDATA, pid, p, 0));
	EXPECT_EQ(0, madvise(p, PAGE, MADV_POPULATE_READ));
	EXPECT_ERRNO(EFAULT, madvise(p, PAGE, MADV_POPULATE_WRITE));
	if (disk >= 0) {
		EXPECT_EQ(PAGE, pwrite(disk, p, PAGE, 0));
		EXPECT_ERRNO(EFAULT, pread(disk, p, PAGE, 0));
	}
	put_down(pid);
}

/* ---- unmapping, fork, exec ---------------------------------------------- */

/* Unmapping is local, in units of what a link covers. */
TEST_F_TIMEOUT(region, unmap_part, SECONDS)
{
	char *p = self->map, *other, *q;
	int i;

	other = map_pt(self->fd, RW, SIZE, 0);
	ASSERT_NE(MAP_FAILED, other);
	for (i = 0; i < 4; i++)
		p[i * UNIT] = i + 1;

	/* Not on a boundary: refused, and nothing has happened. */
	EXPECT_ERRNO(EINVAL, munmap(p, PAGE));
	EXPECT_ERRNO(EINVAL, munmap(p + PAGE, SIZE - PAGE));
	EXPECT_ERRNO(EINVAL, munmap(p + UNIT / 2, UNIT));
	EXPECT_ERRNO(EINVAL, munmap(p, SIZE - PAGE));
	EXPECT_ERRNO(EINVAL, munmap(p + UNIT, PAGE));
	EXPECT_EQ(MAP_FAILED, mmap(p + PAGE, PAGE, RW, MAP_PRIVATE |
				   MAP_ANONYMOUS | MAP_FIXED, -1, 0));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(MAP_FAILED, mmap(p + UNIT, PAGE, RW, MAP_PRIVATE |
				   MAP_ANONYMOUS | MAP_FIXED, -1, 0));
	EXPECT_EQ(EINVAL, errno);
	/* Nor is it in two pieces. */
	EXPECT_EQ(SIZE >> 10, smaps_kb(p, "Size:"));
	for (i = 0; i < 4; i++)
		EXPECT_EQ(i + 1, try_read(p + i * UNIT).value);
	EXPECT_OK(try_write(p + SIZE - 1, 1));

	/* One out of the middle. */
	ASSERT_EQ(0, munmap(p + UNIT, UNIT));
	EXPECT_EQ(SEGV_MAPERR, try_read(p + UNIT).code);
	EXPECT_EQ(SEGV_MAPERR, try_read(p + 2 * UNIT - 1).code);
	EXPECT_EQ(1, try_read(p).value);
	EXPECT_EQ(3, try_read(p + 2 * UNIT).value);
	EXPECT_TRUE(vm_flag(p, "pt"));
	EXPECT_TRUE(vm_flag(p + 2 * UNIT, "pt"));
	for (i = 0; i < 4; i++)
		EXPECT_EQ(i + 1, try_read(other + i * UNIT).value);

	/* Mapped over by something else, and by itself. */
	q = mmap(p + 3 * UNIT, UNIT, RW, MAP_PRIVATE | MAP_ANONYMOUS |
		 MAP_FIXED, -1, 0);
	ASSERT_EQ(p + 3 * UNIT, q);
	EXPECT_EQ(0, try_read(q).value);
	q[0] = 9;
	q = mmap(p + UNIT, UNIT, RW, PT | MAP_FIXED, self->fd, 3 * UNIT);
	ASSERT_EQ(p + UNIT, q);
	EXPECT_EQ(4, try_read(q).value);
	q[1] = 10;
	EXPECT_EQ(10, try_read(other + 3 * UNIT + 1).value);
	EXPECT_EQ(4, try_read(other + 3 * UNIT).value);
	EXPECT_EQ(2, try_read(other + UNIT).value);

	/* An ordinary mapping of the same file in place of it. */
	q = mmap(p + 2 * UNIT, UNIT, RW, MAP_SHARED | MAP_FIXED, self->fd, 0);
	ASSERT_EQ(p + 2 * UNIT, q);
	EXPECT_EQ(1, try_read(q).value);
	EXPECT_FALSE(vm_flag(q, "pt"));
	EXPECT_EQ(3, try_read(other + 2 * UNIT).value);
	EXPECT_EQ(0, munmap(p, SIZE));
	EXPECT_EQ(1, try_read(other).value);
}

/*
 * A mapping of which only the upper part was touched, and is below another entry of
 * the uppermost table, the one before being empty.
 */
TEST_F_TIMEOUT(region, unmap_beyond_an_empty_entry, SECONDS)
{
	const unsigned long top = 1UL << 39;
	unsigned long at;
	char *p = MAP_FAILED;
	long links;

	for (at = 20 * top; p == MAP_FAILED && at < 120 * top; at += 10 * top)
		p = mmap((void *)(at - UNIT), 2 * UNIT, RW, MAP_SHARED |
			 MAP_SHARED_PT | MAP_FIXED_NOREPLACE, self->fd, 0);
	ASSERT_NE(MAP_FAILED, p);
	p[UNIT] = 1;
	links = number_in("/proc/vmstat", "shared_pt_unlink ");
	ASSERT_EQ(0, munmap(p, 2 * UNIT));
	EXPECT_EQ(links + 1, number_in("/proc/vmstat", "shared_pt_unlink "));
	EXPECT_EQ(1, try_read(self->map + UNIT).value);
}

/* fork() inherits the mapping, to any depth, and copies nothing. */
TEST_F_TIMEOUT(region, fork_inherits, SECONDS)
{
	char *p = self->map;
	unsigned long i;
	int depth;
	long pte;
	pid_t pid;

	for (i = 0; i < SIZE; i += 8 * PAGE)
		p[i] = 1;

	for (depth = 0; depth < 4; depth++) {
		pid = spawn();
		if (pid)
			break;
		EXPECT_TRUE(vm_flag(p, "pt"));
		pte = vm_pte();
		EXPECT_EQ(1 + depth, try_read(p).value);
		for (i = 0; i < SIZE; i += 8 * PAGE)
			EXPECT_OK(try_read(p + i));
		/* No more than the levels above the links. */
		EXPECT_GE(12, vm_pte() - pte);
		EXPECT_OK(try_write(p, 2 + depth));
		/* What the child does to its mapping is its own affair. */
		EXPECT_EQ(0, munmap(p + UNIT, UNIT));
		p = map_pt(self->fd, RW, SIZE, 0);
		ASSERT_NE(MAP_FAILED, p);
	}
	if (depth) {
		/* A descendant: ends after its own. */
		if (pid)
			_exit(reap(pid));
		_exit(0);
	}
	EXPECT_EQ(0, reap(pid));
	EXPECT_EQ(5, p[0]);
	for (i = 8 * PAGE; i < SIZE; i += 8 * PAGE)
		EXPECT_EQ(1, try_read(p + i).value);
}

TEST_F_TIMEOUT(region, madvise_dontfork, SECONDS)
{
	char *p = self->map;
	pid_t pid;
	int i;

	for (i = 0; i < 4; i++)
		p[i * UNIT] = 1;
	EXPECT_ERRNO(EINVAL, madvise(p, PAGE, MADV_DONTFORK));
	EXPECT_ERRNO(EINVAL, madvise(p + PAGE, SIZE - PAGE, MADV_DONTFORK));
	EXPECT_ERRNO(EINVAL, madvise(p + PAGE, PAGE, MADV_DONTDUMP));
	ASSERT_EQ(0, madvise(p + UNIT, UNIT, MADV_DONTFORK));
	ASSERT_EQ(0, madvise(p + 2 * UNIT, UNIT, MADV_DONTDUMP));
	pid = spawn();
	if (!pid) {
		EXPECT_EQ(1, try_read(p).value);
		EXPECT_EQ(SEGV_MAPERR, try_read(p + UNIT).code);
		EXPECT_EQ(1, try_read(p + 2 * UNIT).value);
		EXPECT_TRUE(vm_flag(p + 2 * UNIT, "dd"));
		EXPECT_FALSE(vm_flag(p, "dd"));
		_exit(0);
	}
	EXPECT_EQ(0, reap(pid));
	EXPECT_EQ(0, madvise(p + UNIT, UNIT, MADV_DOFORK));
	EXPECT_EQ(0, madvise(p + 2 * UNIT, UNIT, MADV_DODUMP));
	pid = spawn();
	if (!pid) {
		EXPECT_EQ(1, try_read(p + UNIT).value);
		_exit(0);
	}
	EXPECT_EQ(0, reap(pid));
}

/* ---- madvise ------------------------------------------------------------ */

TEST_F_TIMEOUT(region, madvise_by_advice, SECONDS)
{
	static const struct {
		int advice;
		int error;
		const char *name;
	} table[] = {
		{ MADV_NORMAL, 0, "NORMAL" },
		{ MADV_RANDOM, 0, "RANDOM" },
		{ MADV_SEQUENTIAL, 0, "SEQUENTIAL" },
		{ MADV_WILLNEED, 0, "WILLNEED" },
		{ MADV_NOHUGEPAGE, 0, "NOHUGEPAGE" },
		{ MADV_MERGEABLE, 0, "MERGEABLE" },
		{ MADV_POPULATE_READ, 0, "POPULATE_READ" },
		{ MADV_POPULATE_WRITE, 0, "POPULATE_WRITE" },
		{ MADV_DONTNEED, 0, "DONTNEED" },
		{ MADV_FREE, EINVAL, "FREE" },
		{ MADV_WIPEONFORK, EINVAL, "WIPEONFORK" },
		{ MADV_COLD, EINVAL, "COLD" },
		{ MADV_PAGEOUT, EINVAL, "PAGEOUT" },
		{ MADV_COLLAPSE, EINVAL, "COLLAPSE" },
		{ MADV_HUGEPAGE, EINVAL, "HUGEPAGE" },
		{ MADV_DONTDUMP, 0, "DONTDUMP" },
		{ MADV_DODUMP, 0, "DODUMP" },
	};
	unsigned long i, k;
	char *p = self->map;
	int ret;

	for (i = 0; i < SIZE; i += PAGE * 32)
		p[i] = 1;

	for (i = 0; i < ARRAY_SIZE(table); i++) {
		errno = 0;
		ret = madvise(p, SIZE, table[i].advice);
		/* Without KSM the kernel does not know this one. */
		if (table[i].advice == MADV_MERGEABLE && ret && errno == EINVAL &&
		    access("/sys/kernel/mm/ksm", F_OK))
			continue;
		EXPECT_EQ(table[i].error ? -1 : 0, ret)
			TH_LOG("MADV_%s", table[i].name);
		EXPECT_EQ(table[i].error, errno)
			TH_LOG("MADV_%s", table[i].name);
		for (k = 0; k < SIZE; k += PAGE * 32)
			ASSERT_EQ(1, try_read(p + k).value);
		EXPECT_TRUE(vm_flag(p, "pt"));
	}
	/* Those that say nothing about tables take any range of pages. */
	EXPECT_EQ(0, madvise(p + PAGE, PAGE, MADV_RANDOM));
	EXPECT_EQ(0, madvise(p + PAGE, PAGE, MADV_WILLNEED));
	EXPECT_EQ(0, madvise(p + PAGE, PAGE, MADV_NOHUGEPAGE));
	EXPECT_ERRNO(EINVAL, madvise(p + PAGE, PAGE, MADV_COLD));
	/* Nothing of that has split the mapping. */
	EXPECT_EQ(0, munmap(p, SIZE));
}

/*
 * MADV_DONTNEED gives up links, of whole units, of the caller; no data, and
 * nothing that belongs to others.
 */
TEST_F_TIMEOUT(region, madvise_dontneed_is_local, SECONDS)
{
	char *p = self->map;
	int ret, i;
	pid_t pid;

	for (i = 0; i < 4; i++)
		p[i * UNIT] = i + 1;
	pid = spawn();
	if (!pid) {
		for (i = 0; i < 4; i++)
			EXPECT_EQ(i + 1, try_read(p + i * UNIT).value);
		store(&self->ctl->ready, 1);
		ASSERT_TRUE(wait_for(&self->ctl->go, 1));
		for (i = 0; i < 4; i++)
			EXPECT_TRUE(present(p + i * UNIT));
		_exit(0);
	}
	ASSERT_TRUE(wait_for(&self->ctl->ready, 1));

	/* From the middle of the first unit to that of the last. */
	ret = madvise(p + UNIT / 2, 3 * UNIT, MADV_DONTNEED);
	EXPECT_EQ(0, ret);
	EXPECT_TRUE(present(p));
	EXPECT_FALSE(present(p + UNIT));
	EXPECT_FALSE(present(p + 2 * UNIT));
	EXPECT_TRUE(present(p + 3 * UNIT));
	store(&self->ctl->go, 1);
	EXPECT_EQ(0, reap(pid));
	for (i = 0; i < 4; i++)
		EXPECT_EQ(i + 1, try_read(p + i * UNIT).value);
}

/* Populating is done once for all: the others need no more than a link. */
TEST_F_TIMEOUT(region, madvise_populate, SECONDS)
{
	struct rusage before, after;
	char *p = self->map, *other;
	unsigned long i;

	other = map_pt(self->fd, RW, SIZE, 0);
	ASSERT_NE(MAP_FAILED, other);
	EXPECT_FALSE(present(p));
	ASSERT_EQ(0, madvise(p, UNIT, MADV_POPULATE_WRITE));
	ASSERT_EQ(0, madvise(p + UNIT, UNIT, MADV_POPULATE_READ));
	for (i = 0; i < 2 * UNIT; i += 64 * PAGE)
		EXPECT_TRUE(present(p + i));

	getrusage(RUSAGE_SELF, &before);
	for (i = 0; i < UNIT; i += PAGE) {
		store(other + i, 1);
		load(other + UNIT + i);
	}
	getrusage(RUSAGE_SELF, &after);
	EXPECT_GE(8, after.ru_minflt - before.ru_minflt);

	/* MAP_POPULATE as well. */
	other = mmap(NULL, SIZE, RW, PT | MAP_POPULATE, self->fd, 0);
	ASSERT_NE(MAP_FAILED, other);
	EXPECT_TRUE(present(other + SIZE - PAGE));
}

/* The errors of populating are told, and end it, as with any mapping. */
TEST_F_TIMEOUT(region, populate_what_cannot_be, SECONDS)
{
	char *plain, *p = self->map;
	int advice;
	pid_t pid;

	plain = map_plain(self->fd, RW, SIZE, 0);
	ASSERT_NE(MAP_FAILED, plain);
	ASSERT_EQ(0, ftruncate(self->fd, UNIT + PAGE));
	for (advice = MADV_POPULATE_READ; advice <= MADV_POPULATE_WRITE;
	     advice++) {
		EXPECT_ERRNO(EFAULT, madvise(plain, SIZE, advice));
		EXPECT_ERRNO(EFAULT, madvise(p, SIZE, advice));
	}
	EXPECT_TRUE(present(p + UNIT));

	/* mmap() ignores them, but must come to an end. */
	pid = spawn();
	if (!pid) {
		alarm(10);
		p = mmap(NULL, SIZE, RW, PT | MAP_POPULATE, self->fd, 0);
		ASSERT_NE(MAP_FAILED, p);
		EXPECT_TRUE(present(p + UNIT));
		EXPECT_SIGBUS(try_read(p + UNIT + PAGE), p + UNIT + PAGE);
		_exit(0);
	}
	EXPECT_EQ(0, reap(pid));

	ASSERT_EQ(0, ftruncate(self->fd, SIZE));
	ASSERT_EQ(0, mprotect(p + UNIT, PAGE, PROT_NONE));
	pid = spawn();
	if (!pid) {
		alarm(10);
		p = mmap(NULL, SIZE, RW, PT | MAP_POPULATE, self->fd, 0);
		ASSERT_NE(MAP_FAILED, p);
		EXPECT_TRUE(present(p + UNIT - PAGE));
		EXPECT_ACCERR(try_read(p + UNIT), p + UNIT);
		EXPECT_OK(try_read(p + UNIT + PAGE));
		_exit(0);
	}
	EXPECT_EQ(0, reap(pid));
}

/* MADV_REMOVE is for everyone, like the hole it punches. */
TEST_F_TIMEOUT(region, madvise_remove, SECONDS)
{
	char *other = map_pt(self->fd, RW, SIZE, 0);
	char *p = self->map;

	ASSERT_NE(MAP_FAILED, other);
	p[0] = 1;
	p[PAGE] = 2;
	other[2 * PAGE] = 3;
	ASSERT_EQ(0, madvise(other + PAGE, PAGE, MADV_REMOVE));
	EXPECT_EQ(1, try_read(p).value);
	EXPECT_EQ(0, try_read(p + PAGE).value);
	EXPECT_EQ(3, try_read(p + 2 * PAGE).value);
	EXPECT_OK(try_write(p + PAGE, 4));
	EXPECT_EQ(4, try_read(other + PAGE).value);
}

/* A hole is made in a file that somebody may watch, whoever has it open. */
TEST_F_TIMEOUT(region, holes_are_notified, SECONDS)
{
	char path[64], events[4096];
	int fd = inotify_init1(IN_NONBLOCK);

	if (fd < 0 && errno == ENOSYS)
		SKIP(return, "no inotify");
	ASSERT_LE(0, fd);
	self->map[PAGE] = 1;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", self->fd);
	ASSERT_LE(0, inotify_add_watch(fd, path, IN_MODIFY));
	ASSERT_EQ(0, madvise(self->map + PAGE, PAGE, MADV_REMOVE));
	EXPECT_LT(0, read(fd, events, sizeof(events)));
	EXPECT_EQ(-1, read(fd, events, sizeof(events)));
	EXPECT_EQ(EAGAIN, errno);
	close(fd);
}

/* ---- truncation --------------------------------------------------------- */

/* The file is the truth: its end and its holes are there for all at once. */
TEST_F_TIMEOUT(region, truncate_and_punch, SECONDS)
{
	struct control *ctl = self->ctl;
	char *p = self->map;
	long links;
	pid_t pid;
	int i;

	for (i = 0; i < 4; i++)
		p[i * UNIT + 5 * PAGE] = i + 1;
	pid = spawn();
	if (!pid) {
		p = map_pt(self->fd, RW, SIZE, 0);
		ASSERT_NE(MAP_FAILED, p);
		for (i = 0; i < 4; i++)
			EXPECT_EQ(i + 1, try_read(p + i * UNIT + 5 * PAGE).value);
		store(&ctl->ready, 1);

		ASSERT_TRUE(wait_for(&ctl->go, 1));
		p += UNIT;
		EXPECT_EQ(2, try_read(p + 5 * PAGE).value);
		EXPECT_SIGBUS(try_read(p + 6 * PAGE), p + 6 * PAGE);
		EXPECT_SIGBUS(try_write(p + UNIT, 1), p + UNIT);
		store(&ctl->ready, 2);

		ASSERT_TRUE(wait_for(&ctl->go, 2));
		EXPECT_EQ(0, try_read(p + 2 * UNIT + 5 * PAGE).value);
		EXPECT_OK(try_write(p + 2 * UNIT + 5 * PAGE, 7));
		EXPECT_EQ(0, try_read(p + 5 * PAGE).value);
		EXPECT_EQ(1, try_read(p - UNIT + 5 * PAGE).value);
		_exit(0);
	}
	ASSERT_TRUE(wait_for(&ctl->ready, 1));
	links = number_in("/proc/vmstat", "shared_pt_unlink ");
	ASSERT_LE(0, links);
	ASSERT_EQ(0, ftruncate(self->fd, UNIT + 6 * PAGE));
	/* It is done once, in the host: the guests' links are not touched. */
	EXPECT_EQ(links, number_in("/proc/vmstat", "shared_pt_unlink "));
	EXPECT_SIGBUS(try_read(p + SIZE - 1), p + SIZE - 1);
	EXPECT_SIGBUS(try_write(p + UNIT + 6 * PAGE, 1), p + UNIT + 6 * PAGE);
	store(&ctl->go, 1);
	ASSERT_TRUE(wait_for(&ctl->ready, 2));
	ASSERT_EQ(0, ftruncate(self->fd, SIZE));
	ASSERT_EQ(0, punch(self->fd, UNIT, UNIT));
	store(&ctl->go, 2);
	EXPECT_EQ(0, reap(pid));
	EXPECT_EQ(7, try_read(p + 3 * UNIT + 5 * PAGE).value);

	/* A file that never was as large as the mapping. */
	ASSERT_EQ(0, ftruncate(self->fd, 0));
	EXPECT_SIGBUS(try_read(p), p);
	ASSERT_EQ(0, ftruncate(self->fd, PAGE + 1));
	EXPECT_EQ(0, try_read(p + PAGE).value);
	EXPECT_OK(try_write(p + 2 * PAGE - 1, 1));
	EXPECT_SIGBUS(try_read(p + 2 * PAGE), p + 2 * PAGE);
}

/* What is not there takes no tables, which would be left to the others. */
TEST_F_TIMEOUT(region, no_tables_beyond_the_file, SECONDS)
{
	const int nr = 1024;
	char *p = map_pt(self->fd, RW, SIZE + nr * UNIT, 0);
	long before;
	int i;

	ASSERT_NE(MAP_FAILED, p);
	self->map[0] = 1;
	EXPECT_EQ(1, try_read(p).value);
	before = number_in("/proc/meminfo", "PageTables:");
	for (i = 0; i < nr; i++)
		EXPECT_SIGBUS(try_read(p + SIZE + i * UNIT), p + SIZE + i * UNIT);
	EXPECT_GT(nr, number_in("/proc/meminfo", "PageTables:") - before);
}

/* Nobody gets stuck or sees a page that is no longer of the file. */
TEST_F_TIMEOUT(region, writers_race_with_truncation, SECONDS)
{
	const int n = 3, rounds = scale(30, 3000);
	struct control *ctl = self->ctl;
	struct outcome seen;
	unsigned long at;
	pid_t pid[3];
	char *p;
	int i, r;

	for (i = 0; i < n; i++) {
		pid[i] = spawn();
		if (pid[i])
			continue;
		pin(i);
		p = i ? map_pt(self->fd, RW, SIZE, 0) : self->map;
		ASSERT_NE(MAP_FAILED, p);
		srand(i);
		for (; !load(&ctl->stop); add(&ctl->value[i], 1)) {
			at = rand() % (SIZE / PAGE) * PAGE;
			seen = try_write(p + at, 1 + i);
			if (seen.sig)
				EXPECT_EQ(SIGBUS, seen.sig);
			add(&ctl->value[seen.sig ? 10 : 11], 1);
		}
		_exit(0);
	}
	for (r = 0; r < rounds; r++) {
		ASSERT_EQ(0, ftruncate(self->fd, r % 3 * UNIT + r % 5 * PAGE));
		EXPECT_SIGBUS(try_read(self->map + SIZE - 1),
			      self->map + SIZE - 1);
		ASSERT_EQ(0, ftruncate(self->fd, SIZE));
		if (r % 4 == 0)
			ASSERT_EQ(0, punch(self->fd, UNIT / 2, 2 * UNIT));
		sched_yield();
	}
	for (i = 0; i < n; i++)
		EXPECT_TRUE(wait_for(&ctl->value[i], 1));
	store(&ctl->stop, 1);
	for (i = 0; i < n; i++)
		EXPECT_EQ(0, reap(pid[i]));

	/* Control: the last truncation wins over what they wrote. */
	ASSERT_EQ(0, ftruncate(self->fd, 0));
	ASSERT_EQ(0, ftruncate(self->fd, SIZE));
	for (at = 0; at < SIZE; at += PAGE * 16)
		EXPECT_EQ(0, try_read(self->map + at).value);
	EXPECT_LT(0, ctl->value[11]);
}

/* ---- mmap --------------------------------------------------------------- */

#define T	(1024UL << 30)

/*
 * A file is as long as the address space of a process, at most: 128 TiB, or
 * 64 PiB with five levels of page tables.
 */
static unsigned long address_space(void)
{
	FILE *f = fopen("/proc/cpuinfo", "r");
	unsigned long end = 128 * T;
	char line[4096];

	while (f && fgets(line, sizeof(line), f)) {
		if (!strncmp(line, "flags", 5) && strstr(line, " la57"))
			end = 64 * 1024 * T;
	}
	if (f)
		fclose(f);
	return end;
}

/* Address, length and offset are those of whole links, exactly. */
TEST_F_TIMEOUT(once, mmap_geometry, SECONDS)
{
	const unsigned long beyond = address_space();
	const struct {
		unsigned long addr, len, offset;
		int flags;
		int error;
	} table[] = {
		{ 0, UNIT, 0, 0, 0 },
		{ 0, 3 * UNIT, UNIT, 0, 0 },
		{ 0, UNIT, 100 * UNIT, 0, 0 },
		{ 0, 1UL << 30, 0, 0, 0 },
		{ 0, 513 * UNIT, 511 * UNIT, 0, 0 },
		{ 0, T, T, 0, 0 },
		{ 0, UNIT, 126 * T, 0, 0 },
		{ 0, UNIT, 127 * T - UNIT, 0, 0 },
		{ 0, UNIT, beyond - T, 0, 0 },
		{ 0, UNIT, beyond, 0, EOVERFLOW },
		{ 0, 2 * UNIT, beyond - UNIT, 0, EOVERFLOW },
		{ 0, 2 * T, beyond - T, 0, EOVERFLOW },
		{ 0, UNIT, 8 * beyond, 0, EOVERFLOW },
		{ 0, 0, 0, 0, EINVAL },
		{ 0, 1, 0, 0, EINVAL },
		{ 0, PAGE, 0, 0, EINVAL },
		{ 0, UNIT - 1, 0, 0, EINVAL },
		{ 0, UNIT - PAGE, 0, 0, EINVAL },
		{ 0, UNIT + 1, 0, 0, EINVAL },
		{ 0, UNIT + PAGE, 0, 0, EINVAL },
		{ 0, UNIT, PAGE, 0, EINVAL },
		{ 0, UNIT, UNIT / 2, 0, EINVAL },
		{ 0, UNIT, 1, 0, EINVAL },
		{ UNIT, UNIT, 0, MAP_FIXED, 0 },
		{ UNIT, UNIT, UNIT, MAP_FIXED_NOREPLACE, 0 },
		{ UNIT + PAGE, UNIT, 0, MAP_FIXED, EINVAL },
		{ UNIT + PAGE, UNIT, PAGE, MAP_FIXED, EINVAL },
		{ UNIT + PAGE, UNIT, 0, MAP_FIXED_NOREPLACE, EINVAL },
		{ UNIT + 1, UNIT, 0, MAP_FIXED, EINVAL },
		{ UNIT, UNIT - PAGE, 0, MAP_FIXED, EINVAL },
		/* Without MAP_FIXED an address is a hint. */
		{ UNIT + PAGE, UNIT, 0, 0, 0 },
		{ UNIT, UNIT, 0, 0, 0 },
	};
	static const int type[] = { MAP_SHARED, MAP_SHARED_VALIDATE };
	unsigned long i, k;
	char *p;

	for (i = 0; i < ARRAY_SIZE(table); i++) {
		for (k = 0; k < 2; k++) {
			/* MAP_SHARED_VALIDATE does not know this flag. */
			if (type[k] == MAP_SHARED_VALIDATE &&
			    table[i].flags == MAP_FIXED_NOREPLACE)
				continue;
			errno = 0;
			p = mmap((void *)(table[i].addr ?
					  0x200000000000UL + table[i].addr : 0),
				 table[i].len, RW,
				 type[k] | MAP_SHARED_PT | table[i].flags,
				 self->fd, table[i].offset);
			EXPECT_EQ(table[i].error, p == MAP_FAILED ? errno : 0)
				TH_LOG("row %lu, type %lu", i, k);
			if (p == MAP_FAILED)
				continue;
			EXPECT_EQ(0UL, (unsigned long)p % UNIT)
				TH_LOG("row %lu at %p", i, p);
			if (table[i].len >= 1UL << 30)
				EXPECT_EQ(table[i].offset % (1UL << 30),
					  (unsigned long)p % (1UL << 30))
					TH_LOG("row %lu at %p", i, p);
			EXPECT_TRUE(vm_flag(p, "pt"));
			EXPECT_EQ(0, munmap(p, table[i].len));
		}
	}
	/* A hint is for the page that it is in, and the first page for none. */
	p = mmap((void *)1, 1UL << 30, RW, PT, self->fd, 0);
	ASSERT_NE(MAP_FAILED, p);
	EXPECT_EQ(0UL, (unsigned long)p % (1UL << 30));
	EXPECT_EQ(0, munmap(p, 1UL << 30));
	p = mmap((void *)(0x200000000000UL + 1), UNIT, RW, PT, self->fd, 0);
	EXPECT_EQ((char *)0x200000000000UL, p);
	EXPECT_EQ(0, munmap(p, UNIT));
}

/* Who is refused has lost nothing. */
TEST_F_TIMEOUT(once, refused_mmap_leaves_what_was_there, SECONDS)
{
	int rw = self->fd, ro = reopen(self->fd, O_RDONLY);
	const unsigned long beyond = address_space();
	const struct {
		int prot, flags, fd;
		unsigned long offset, len;
		int error;
	} table[] = {
		{ RW, PT, rw, PAGE, UNIT, EINVAL },
		{ RW, PT, rw, 0, UNIT + PAGE, EINVAL },
		{ RW, PT, rw, beyond, UNIT, EOVERFLOW },
		{ RW, PT, ro, 0, UNIT, EACCES },
		{ PROT_EXEC, PT, rw, 0, UNIT, EINVAL },
		{ RW, PT | MAP_LOCKED, rw, 0, UNIT, EINVAL },
		{ RW, PT | MAP_SYNC, rw, 0, UNIT, EOPNOTSUPP },
		{ RW, MAP_SHARED | MAP_SHARED_PT | MAP_SYNC, rw, 0, UNIT, EOPNOTSUPP },
		{ RW, MAP_PRIVATE | MAP_SHARED_PT, rw, 0, UNIT, EINVAL },
		{ RW, PT, -1, 0, UNIT, EBADF },
	};
	char *p = reserve(2 * UNIT);
	unsigned long i;

	ASSERT_EQ(p, mmap(p, 2 * UNIT, RW, MAP_PRIVATE | MAP_ANONYMOUS |
			  MAP_FIXED, -1, 0));
	p[0] = 1;
	p[UNIT] = 2;
	for (i = 0; i < ARRAY_SIZE(table); i++) {
		errno = 0;
		EXPECT_EQ(MAP_FAILED,
			  mmap(p, table[i].len, table[i].prot,
			       table[i].flags | MAP_FIXED, table[i].fd,
			       table[i].offset));
		EXPECT_EQ(table[i].error, errno)
			TH_LOG("row %lu", i);
		EXPECT_EQ(1, try_read(p).value);
		EXPECT_EQ(2, try_read(p + UNIT).value);
	}
	EXPECT_EQ(MAP_FAILED, mmap(p, UNIT, RW, MAP_SHARED | MAP_SHARED_PT |
				   MAP_FIXED_NOREPLACE, self->fd, 0));
	EXPECT_EQ(EEXIST, errno);
	EXPECT_EQ(1, try_read(p).value);

	/* Control: replaced when all is well. */
	EXPECT_EQ(p, mmap(p, UNIT, RW, PT | MAP_FIXED, self->fd, 0));
	EXPECT_EQ(0, try_read(p).value);
	EXPECT_EQ(2, try_read(p + UNIT).value);
}

/* Both ways to say shared mean the same; private is another thing. */
TEST_F_TIMEOUT(once, mmap_types, SECONDS)
{
	static const int type[] = { MAP_SHARED, MAP_SHARED_VALIDATE };
	char *p;
	int k;

	for (k = 0; k < 2; k++) {
		p = mmap(NULL, UNIT, RW, type[k] | MAP_SHARED_PT, self->fd, 0);
		ASSERT_NE(MAP_FAILED, p);
		EXPECT_TRUE(vm_flag(p, "pt"));
		p = mmap(NULL, UNIT, RW, type[k] | MAP_SHARED_PT |
			 MAP_ANONYMOUS, -1, 0);
		ASSERT_NE(MAP_FAILED, p);
		EXPECT_TRUE(vm_flag(p, "pt"));
		p[0] = 1;
		p = mmap(NULL, UNIT, RW, type[k] | MAP_SHARED_PT |
			 MAP_NORESERVE, self->fd, 0);
		EXPECT_NE(MAP_FAILED, p);
		EXPECT_EQ(MAP_FAILED, mmap(NULL, UNIT, PROT_EXEC, type[k] |
					   MAP_SHARED_PT, self->fd, 0));
		EXPECT_EQ(EINVAL, errno);
		EXPECT_EQ(MAP_FAILED, mmap(NULL, UNIT, RW, type[k] |
					   MAP_SHARED_PT | MAP_LOCKED,
					   self->fd, 0));
		EXPECT_EQ(EINVAL, errno);
		EXPECT_EQ(MAP_FAILED, mmap(NULL, UNIT - PAGE, RW, type[k] |
					   MAP_SHARED_PT | MAP_ANONYMOUS,
					   -1, 0));
		EXPECT_EQ(EINVAL, errno);
	}
	EXPECT_EQ(MAP_FAILED, mmap(NULL, UNIT, RW, MAP_PRIVATE | MAP_SHARED_PT,
				   self->fd, 0));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(MAP_FAILED, mmap(NULL, UNIT, RW, MAP_PRIVATE | MAP_SHARED_PT |
				   MAP_ANONYMOUS, -1, 0));
	EXPECT_EQ(EINVAL, errno);
	/* Control: nothing else is wrong with them. */
	EXPECT_NE(MAP_FAILED, mmap(NULL, UNIT, RW, MAP_PRIVATE, self->fd, 0));
	EXPECT_NE(MAP_FAILED, mmap(NULL, UNIT, PROT_EXEC, MAP_SHARED,
				   self->fd, 0));
}

/* Anything but page cache in page tables cannot be shared. */
TEST_F_TIMEOUT(once, files_that_cannot_share, SECONDS)
{
	static const char * const paths[] = {
		"/dev/zero", "/dev/mem", "/proc/self/mem",
		"/sys/kernel/mm/transparent_hugepage/enabled",
		"/proc/self/status",
	};
	unsigned long i;
	int fd;

	for (i = 0; i < ARRAY_SIZE(paths); i++) {
		fd = open(paths[i], O_RDWR);
		if (fd < 0)
			fd = open(paths[i], O_RDONLY);
		if (fd < 0)
			continue;
		EXPECT_EQ(MAP_FAILED, map_pt(fd, PROT_READ, UNIT, 0));
		EXPECT_TRUE(errno == EOPNOTSUPP || errno == ENODEV ||
			    (errno == EPERM && i == 1))
			TH_LOG("%s: %s", paths[i], strerror(errno));
		close(fd);
	}
	/* /dev/zero is no file of its own: each mapping is another one. */
	fd = open("/dev/zero", O_RDWR);
	if (fd >= 0) {
		EXPECT_EQ(MAP_FAILED, map_pt(fd, RW, UNIT, 0));
		EXPECT_EQ(EOPNOTSUPP, errno);
		EXPECT_NE(MAP_FAILED, map_plain(fd, RW, UNIT, 0));
	}

	EXPECT_EQ(MAP_FAILED, mmap(NULL, UNIT, RW, PT | MAP_ANONYMOUS |
				   MAP_HUGETLB, -1, 0));
	EXPECT_EQ(EOPNOTSUPP, errno);
	fd = memfd_create("huge", MFD_HUGETLB);
	if (fd >= 0) {
		EXPECT_EQ(MAP_FAILED, map_pt(fd, RW, UNIT, 0));
		EXPECT_EQ(EOPNOTSUPP, errno);
		close(fd);
	}
	fd = syscall(__NR_memfd_secret, 0);
	if (fd >= 0) {
		EXPECT_EQ(0, ftruncate(fd, UNIT));
		EXPECT_EQ(MAP_FAILED, map_pt(fd, RW, UNIT, 0));
		EXPECT_EQ(EOPNOTSUPP, errno);
		close(fd);
	}
}

/* ---- what a guest cannot do --------------------------------------------- */

TEST_F_TIMEOUT(once, mprotect_errors, SECONDS)
{
	char *p = self->map, *r;
	int key;

	r = map_pt(self->fd, PROT_READ, SIZE, 0);
	ASSERT_NE(MAP_FAILED, r);
	p[0] = 1;
	EXPECT_ERRNO(EACCES, mprotect(p, PAGE, RW | PROT_EXEC));
	EXPECT_ERRNO(EACCES, mprotect(p, PAGE, PROT_READ | PROT_EXEC));
	EXPECT_ERRNO(EACCES, mprotect(r, PAGE, RW));
	EXPECT_ERRNO(EACCES, mprotect(r, PAGE, PROT_WRITE));
	EXPECT_ERRNO(EINVAL, mprotect(p, PAGE, PROT_EXEC));
	EXPECT_ERRNO(EINVAL, mprotect(p + 1, PAGE, PROT_READ));
	EXPECT_ERRNO(ENOMEM, mprotect(p + SIZE - PAGE, 1UL << 40, RW));
	EXPECT_OK(try_write(p, 1));
	EXPECT_EQ(0, mprotect(p, PAGE, RW));
	EXPECT_EQ(0, mprotect(p, SIZE, PROT_WRITE));
	EXPECT_EQ(0, mprotect(p, SIZE, RW));

	key = syscall(SYS_pkey_alloc, 0, 0);
	if (key < 0)
		SKIP(return, "no protection keys");
	EXPECT_ERRNO(EINVAL, syscall(SYS_pkey_mprotect, p, PAGE, RW, key));
	EXPECT_EQ(0, syscall(SYS_pkey_mprotect, p, PAGE, PROT_READ, -1));
	EXPECT_ACCERR(try_write(p, 1), p);
	EXPECT_EQ(0, syscall(SYS_pkey_mprotect, p, PAGE, RW, -1));
	EXPECT_OK(try_write(p, 1));
	/* Control: the key is good. */
	p = map_plain(self->fd, RW, SIZE, 0);
	EXPECT_EQ(0, syscall(SYS_pkey_mprotect, p, PAGE, RW, key));
}

TEST_F_TIMEOUT(once, refused_calls, SECONDS)
{
	char *p = self->map, *plain, *target = reserve(SIZE);

	plain = map_plain(self->fd, RW, SIZE, 0);
	ASSERT_NE(MAP_FAILED, plain);
	p[UNIT] = 7;

#define REFUSED(call) do {						\
	errno = 0;							\
	EXPECT_EQ(-1, (long)(call)) TH_LOG("%s", #call);		\
	EXPECT_EQ(EINVAL, errno) TH_LOG("%s", #call);			\
	EXPECT_EQ(7, try_read(p + UNIT).value) TH_LOG("%s", #call);	\
	EXPECT_EQ(SIGSEGV, try_read(target).sig) TH_LOG("%s", #call);	\
} while (0)
	REFUSED(mremap(p, SIZE, SIZE / 2, 0));
	REFUSED(mremap(p, SIZE, SIZE - PAGE, 0));
	REFUSED(mremap(p, SIZE, 2 * SIZE, 0));
	REFUSED(mremap(p, SIZE, 2 * SIZE, MREMAP_MAYMOVE));
	REFUSED(mremap(p, SIZE, SIZE, MREMAP_MAYMOVE | MREMAP_FIXED, target));
	REFUSED(mremap(p, UNIT, UNIT, MREMAP_MAYMOVE | MREMAP_FIXED, target));
	REFUSED(mremap(p, SIZE, SIZE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, 0));
	REFUSED(mremap(p, 0, SIZE, MREMAP_MAYMOVE));
	REFUSED(mremap(p, SIZE, SIZE, 0));
	REFUSED(remap_file_pages(p, UNIT, 0, 1, 0));
	REFUSED(mlock(p, SIZE));
	REFUSED(mlock(p + PAGE, PAGE));
	REFUSED(syscall(SYS_mlock2, p, SIZE, 1));
	REFUSED(syscall(__NR_mseal, p, SIZE, 0));
#undef REFUSED
	/* Control: all of these can be done to a mapping. */
	EXPECT_EQ(0, mlock(plain, PAGE));
	EXPECT_EQ(0, munlock(plain, PAGE));
	EXPECT_EQ(0, remap_file_pages(plain, UNIT, 0, 1, 0));
	EXPECT_EQ(target, mremap(plain, UNIT, UNIT, MREMAP_MAYMOVE |
				 MREMAP_FIXED, target));
	EXPECT_EQ(0, syscall(__NR_mseal, target, UNIT, 0));
	/* Not sealed. */
	EXPECT_EQ(0, munmap(p, SIZE));
}

/* mlockall() is about everything, so it cannot fail because of one mapping. */
TEST_F_TIMEOUT(once, mlockall_passes_over, SECONDS)
{
	char *p = self->map, *later;

	p[0] = 1;
	ASSERT_EQ(0, mlockall(MCL_CURRENT));
	EXPECT_FALSE(vm_flag(p, "lo"));
	/* Control: it did lock. */
	EXPECT_TRUE(vm_flag(&p, "lo"));
	ASSERT_EQ(0, mlockall(MCL_CURRENT | MCL_FUTURE));
	EXPECT_FALSE(vm_flag(p, "lo"));
	later = map_pt(self->fd, RW, SIZE, 0);
	ASSERT_NE(MAP_FAILED, later);
	EXPECT_FALSE(vm_flag(later, "lo"));
	EXPECT_EQ(1, try_read(later).value);
	later = map_plain(self->fd, RW, UNIT, 0);
	EXPECT_TRUE(vm_flag(later, "lo"));
	ASSERT_EQ(0, munlockall());
	EXPECT_EQ(1, try_read(p).value);
	EXPECT_EQ(0, munmap(p, SIZE));
}

/* What mlockall() cannot populate it passes over too. */
TEST_F_TIMEOUT(once, mlockall_beyond_the_end, SECONDS)
{
	char *above, *p;
	pid_t pid;

	ASSERT_EQ(0, ftruncate(self->fd, UNIT));
	pid = spawn();
	if (!pid) {
		alarm(10);
		above = mmap(NULL, PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		p = map_pt(self->fd, RW, SIZE, 0);
		ASSERT_NE(MAP_FAILED, p);
		ASSERT_LT(p, above);
		ASSERT_EQ(0, mlockall(MCL_CURRENT | MCL_FUTURE));
		EXPECT_TRUE(present(above));
		p = map_pt(self->fd, RW, SIZE, 0);
		ASSERT_NE(MAP_FAILED, p);
		_exit(0);
	}
	EXPECT_EQ(0, reap(pid));
}

TEST_F_TIMEOUT(once, userfaultfd_refused, SECONDS)
{
	static const __u64 modes[] = {
		UFFDIO_REGISTER_MODE_MISSING,
		UFFDIO_REGISTER_MODE_WP,
		UFFDIO_REGISTER_MODE_MINOR,
	};
	struct uffdio_register reg = { .range.len = SIZE };
	struct uffdio_api api = { .api = UFFD_API };
	int uffd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	unsigned long i;
	char *plain;

	if (uffd < 0)
		SKIP(return, "no userfaultfd");
	ASSERT_EQ(0, ioctl(uffd, UFFDIO_API, &api));
	plain = map_plain(self->fd, RW, SIZE, 0);
	for (i = 0; i < ARRAY_SIZE(modes); i++) {
		reg.mode = modes[i];
		reg.range.start = (unsigned long)self->map;
		EXPECT_ERRNO(EINVAL, ioctl(uffd, UFFDIO_REGISTER, &reg));
		EXPECT_OK(try_write(self->map, 1));
		/* Control: others can be registered. */
		reg.range.start = (unsigned long)plain;
		EXPECT_EQ(0, ioctl(uffd, UFFDIO_REGISTER, &reg));
		EXPECT_EQ(0, ioctl(uffd, UFFDIO_UNREGISTER, &reg.range));
	}
}

/*
 * Secondary page tables would not hear of what happens in a region: the two do
 * not go together, whichever comes first.
 */
TEST_F_TIMEOUT(once, no_mmu_notifiers, SECONDS)
{
	const char *device = "/dev/hmm_dmirror0";
	int fd;

	if (access(device, F_OK))
		SKIP(return, "no %s", device);
	EXPECT_OK(try_write(self->map, 1));
	EXPECT_EQ(-1, open(device, O_RDWR));
	EXPECT_EQ(EBUSY, errno);
	EXPECT_EQ(0, munmap(self->map, SIZE));

	/* Control: it was because of the mapping. */
	fd = open(device, O_RDWR);
	ASSERT_LE(0, fd);
	EXPECT_EQ(MAP_FAILED, map_pt(self->fd, RW, SIZE, 0));
	EXPECT_EQ(EBUSY, errno);
	EXPECT_NE(MAP_FAILED, map_plain(self->fd, RW, SIZE, 0));
	close(fd);
}

/* ---- lifetime and accounts ---------------------------------------------- */

static long page_tables(void)
{
	/* Or the figure would lack what each CPU has not yet reported. */
	write_file("/proc/sys/vm/stat_refresh", "1");
	return number_in("/proc/meminfo", "PageTables:");
}

/*
 * What there is when whatever came before has gone. Tables are freed by RCU: let
 * that pass, and nothing have changed for half a second.
 */
static long settled_page_tables(void)
{
	double end = now() + 10;
	long kb, before;
	int same = 0;

	syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0);
	kb = page_tables();
	while (same < 5 && now() < end) {
		before = kb;
		sleep_ms(100);
		kb = page_tables();
		same = kb == before ? same + 1 : 0;
	}
	return kb;
}

/* Tables are freed by RCU: give it time, but not for ever. */
static bool page_tables_back_to(long kb)
{
	double end = now() + 10;

	while (page_tables() > kb + 64) {
		if (now() > end)
			return false;
		sleep_ms(50);
	}
	return true;
}

/* Tables are counted once, for no process, until the last sharer is gone. */
TEST_F_TIMEOUT(region, tables_are_counted_once, SECONDS)
{
	const int n = 8, units = 64;
	long before, during = 0, plain = 0;
	struct control *ctl = self->ctl;
	pid_t pid[8];
	char *p;
	int i, k, shared;

	ASSERT_EQ(0, ftruncate(self->fd, units * UNIT));
	ASSERT_EQ(0, munmap(self->map, SIZE));
	before = settled_page_tables();
	for (shared = 1; shared >= 0; shared--) {
		memset(ctl, 0, sizeof(*ctl));
		for (i = 0; i < n; i++) {
			pid[i] = spawn();
			if (pid[i])
				continue;
			p = mmap(NULL, units * UNIT, RW,
				 shared ? PT : MAP_SHARED, self->fd, 0);
			ASSERT_NE(MAP_FAILED, p);
			for (k = 0; k < units; k++)
				p[k * UNIT] = 1;
			add(&ctl->ready, 1);
			/*
			 * One leaves by itself, the others get killed; but not
			 * before all are there, or there might be two regions.
			 */
			while (i)
				pause();
			wait_for(&ctl->ready, n);
			_exit(0);
		}
		ASSERT_TRUE(wait_for(&ctl->ready, n));
		EXPECT_EQ(0, reap(pid[0]));
		if (shared)
			during = page_tables() - before;
		else
			plain = page_tables() - before;
		for (i = 1; i < n; i++)
			put_down(pid[i]);
		if (shared)
			EXPECT_TRUE(page_tables_back_to(before));
	}
	/* 7 processes' own paging plus 64 tables, once or 7 times. */
	EXPECT_LT(during + 5 * units * 4, plain);
	EXPECT_LE(units * 4, during);
}

/* The file is not held any longer than its mappings. */
static long free_blocks(const char *dir)
{
	struct statfs st;

	return statfs(dir, &st) ? -1 : (long)st.f_bfree;
}

/* How many of the blocks of a file are still taken when it should be gone. */
static long left_of_file(bool by_exit)
{
	const size_t len = 2 * UNIT;
	long free = free_blocks(tmpfs_dir());
	int fd = unlinked_file(tmpfs_dir());
	pid_t pid = 0;
	char *p;

	if (fd < 0 || ftruncate(fd, len))
		return LONG_MAX;
	if (by_exit)
		pid = spawn();
	if (!pid) {
		p = map_pt(fd, RW, len, 0);
		if (p == MAP_FAILED)
			return LONG_MAX;
		close(fd);
		memset(p, 1, len);
		if (free - free_blocks(tmpfs_dir()) < (long)(len / PAGE))
			return LONG_MAX;
		if (by_exit)
			_exit(0);
		munmap(p, len);
	} else {
		close(fd);
		if (reap(pid))
			return LONG_MAX;
	}
	return free - free_blocks(tmpfs_dir());
}

/* At once: who waits for a child's exit, or for munmap(), need not wait for more. */
TEST_F_TIMEOUT(once, file_is_freed_with_the_last_mapping, SECONDS)
{
	int i;

	if (!tmpfs_dir())
		SKIP(return, "no tmpfs");
	for (i = 0; i < 10; i++) {
		/* Others may use the file system a little. */
		EXPECT_GE(16, left_of_file(false));
		EXPECT_GE(16, left_of_file(true));
	}
}

/* PR_SET_MDWE, the ceiling having been asked for before: as for other mappings. */
static int mdwe_case(int fd, bool pt)
{
	const int rx = PROT_READ | PROT_EXEC;
	char *p = pt ? map_pt(fd, rx, UNIT, 0) : map_plain(fd, rx, UNIT, 0);

	if (p == MAP_FAILED)
		return 1;
	if (mprotect(p, UNIT, rx))
		return 2;
	if (mprotect(p, PAGE, PROT_READ))
		return 3;
	if (!mprotect(p, PAGE, rx) || errno != EACCES)
		return 4;
	if (!mprotect(p, UNIT, rx) || errno != EACCES)
		return 5;
	return mprotect(p + PAGE, UNIT - PAGE, rx) ? 6 : 0;
}

TEST_F_TIMEOUT(once, mdwe, SECONDS)
{
	pid_t pid = spawn();

	if (!pid) {
		if (prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0))
			_exit(77);
		_exit(mdwe_case(self->fd, false) ?: 10 * mdwe_case(self->fd, true));
	}
	EXPECT_EQ(0, reap(pid));
}

/* Who comes after the last one does not find what he left. */
TEST_F_TIMEOUT(once, protection_ends_with_the_last_mapping, SECONDS)
{
	char *p;
	int i;

	ASSERT_EQ(0, munmap(self->map, SIZE));
	for (i = 0; i < 20; i++) {
		p = map_pt(self->fd, RW, SIZE, 0);
		ASSERT_NE(MAP_FAILED, p);
		EXPECT_OK(try_write(p, i));
		EXPECT_OK(try_write(p + 2 * UNIT, i));
		EXPECT_EQ(0, mprotect(p + UNIT, 2 * UNIT,
				      i & 1 ? PROT_READ : PROT_NONE));
		ASSERT_EQ(0, munmap(p, SIZE));
	}
}

/* The region of others must not keep the locks of who came first. */
TEST_F_TIMEOUT(once, locks_end_with_the_process, SECONDS)
{
	int fd = memfd_create("locked", 0);
	pid_t pid;

	ASSERT_LE(0, fd);
	ASSERT_EQ(0, ftruncate(fd, UNIT));
	pid = spawn();
	if (!pid) {
		int own = reopen(fd, O_RDWR);
		char *p = map_pt(own, RW, UNIT, 0);

		if (own < 0 || p == MAP_FAILED || flock(own, LOCK_EX))
			_exit(1);
		p[0] = 1;
		store(&self->ctl->ready, 1);
		pause();
		_exit(0);
	}
	ASSERT_TRUE(wait_for(&self->ctl->ready, 1));
	EXPECT_NE(MAP_FAILED, map_pt(fd, RW, UNIT, 0));
	EXPECT_ERRNO(EWOULDBLOCK, flock(fd, LOCK_EX | LOCK_NB));
	put_down(pid);
	EXPECT_EQ(0, flock(fd, LOCK_EX | LOCK_NB));
}

/* Sealing needs no luck: what counts is mappings, not the death of a region. */
TEST_F_TIMEOUT(once, seal_write_right_after_unmap, SECONDS)
{
	int fd, i, ro;
	char *p;

	EXPECT_ERRNO(EBUSY, fcntl(self->fd, F_ADD_SEALS, F_SEAL_WRITE));

	for (i = 0; i < scale(20, 1000); i++) {
		fd = memfd_create("sealed", MFD_ALLOW_SEALING);
		ASSERT_LE(0, fd);
		ASSERT_EQ(0, ftruncate(fd, UNIT));
		p = map_pt(fd, RW, UNIT, 0);
		ASSERT_NE(MAP_FAILED, p);
		p[0] = 1;
		ASSERT_EQ(0, munmap(p, UNIT));
		ASSERT_EQ(0, fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE));
		EXPECT_EQ(MAP_FAILED, map_pt(fd, RW, UNIT, 0));
		EXPECT_EQ(EPERM, errno);
		close(fd);
	}

	/* A child's mapping counts, and one that was mprotect()ed to read. */
	fd = memfd_create("sealed", MFD_ALLOW_SEALING);
	ASSERT_EQ(0, ftruncate(fd, UNIT));
	p = map_pt(fd, RW, UNIT, 0);
	i = spawn();
	if (!i) {
		pause();
		_exit(0);
	}
	EXPECT_EQ(0, mprotect(p, UNIT, PROT_READ));
	EXPECT_EQ(0, munmap(p, UNIT));
	EXPECT_ERRNO(EBUSY, fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE));
	put_down(i);
	ro = reopen(fd, O_RDONLY);
	p = map_pt(ro, PROT_READ, UNIT, 0);
	EXPECT_NE(MAP_FAILED, p);
	EXPECT_EQ(0, fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE));
	EXPECT_OK(try_read(p));
	EXPECT_ACCERR(try_write(p, 1), p);
}

struct late_writer {
	struct control *ctl;
	int *p;
};

static void *late_writer(void *arg)
{
	struct late_writer *w = arg;

	pin(1);
	store(&w->ctl->ready, 1);
	spin_write(w->p, &w->ctl->value[0], &w->ctl->stop);
	return NULL;
}

/* Seal as soon as that is possible; does the file still change afterwards? */
static int seal_and_watch(int fd, int ro, struct control *ctl)
{
	int *p = map_plain(ro, PROT_READ, UNIT, 0);
	double end;
	int v;

	pin(2);
	store(&ctl->go, 1);
	while (fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE))
		if (errno != EBUSY)
			return 1;
	v = load(p);
	for (end = now() + 0.05; now() < end;)
		if (load(p) != v)
			return 2;
	return 0;
}

/*
 * Once it is sealed, the file does not change, be it that of a thread that still
 * has the translation.  To unmap many other VMAs with it gives it time to try.
 */
TEST_F_TIMEOUT(once, no_write_after_seal, SECONDS)
{
	const int n = 3000;
	char *addr = reserve(UNIT + n * PAGE);
	int i, round, fd, ro, other;
	struct late_writer w;
	pthread_t thread;
	pid_t sealer;

	if (cpus() < 3)
		SKIP(return, "fewer than 3 CPUs");
	other = memfd_create("other", 0);
	ASSERT_EQ(0, ftruncate(other, n * PAGE));
	for (round = 0; round < scale(3, 50); round++) {
		memset(self->ctl, 0, sizeof(*self->ctl));
		fd = memfd_create("sealed", MFD_ALLOW_SEALING);
		ASSERT_EQ(0, ftruncate(fd, UNIT));
		ro = reopen(fd, O_RDONLY);
		sealer = spawn();
		if (!sealer) {
			if (!wait_for(&self->ctl->ready, 1))
				_exit(3);
			_exit(seal_and_watch(fd, ro, self->ctl));
		}
		ASSERT_EQ(addr, mmap(addr, UNIT, RW, PT | MAP_FIXED, fd, 0));
		/* Backwards, lest they become one VMA. */
		for (i = 0; i < n; i++)
			ASSERT_NE(MAP_FAILED,
				  mmap(addr + UNIT + i * PAGE, PAGE, PROT_READ,
				       MAP_SHARED | MAP_FIXED, other,
				       (n - 1 - i) * PAGE));
		pin(0);
		w.ctl = self->ctl;
		w.p = (int *)addr;
		ASSERT_EQ(0, pthread_create(&thread, NULL, late_writer, &w));
		ASSERT_TRUE(wait_for(&self->ctl->go, 1));
		ASSERT_TRUE(wait_for(&self->ctl->value[0], 1000));
		ASSERT_EQ(0, munmap(addr, UNIT + n * PAGE));
		EXPECT_EQ(0, reap(sealer));
		store(&self->ctl->stop, 1);
		pthread_join(thread, NULL);
		close(fd);
		close(ro);
	}
}

/*
 * Who is given a file that cannot shrink reads it without fear of a signal.
 * Nobody takes that away by mprotect() after the seal.
 */
TEST_F_TIMEOUT(once, seal_shrink, SECONDS)
{
	char *p = self->map, *r, *x;

	r = map_pt(self->fd, PROT_READ, SIZE, 0);
	ASSERT_NE(MAP_FAILED, r);
	x = map_pt(self->fd, RW | PROT_EXEC, SIZE, 0);
	ASSERT_NE(MAP_FAILED, x);
	p[0] = 1;

	/* Control: before the seal, and with other seals, it can be. */
	EXPECT_EQ(0, mprotect(r, PAGE, PROT_NONE));
	ASSERT_EQ(0, fcntl(self->fd, F_ADD_SEALS, F_SEAL_GROW));
	EXPECT_EQ(0, mprotect(p, PAGE, PROT_NONE));
	EXPECT_EQ(0, mprotect(p, PAGE, RW));
	ASSERT_EQ(0, fcntl(self->fd, F_ADD_SEALS, F_SEAL_SHRINK));

	/* Who wants to be sure asks for it after the seal. */
	EXPECT_ACCERR(try_read(r), r);
	EXPECT_EQ(0, mprotect(r, SIZE, PROT_READ));
	EXPECT_EQ(1, try_read(r).value);

	EXPECT_ERRNO(EPERM, mprotect(r, PAGE, PROT_NONE));
	EXPECT_ERRNO(EPERM, mprotect(p, SIZE, PROT_NONE));
	EXPECT_ERRNO(EPERM, mprotect(p + UNIT, PAGE, PROT_WRITE));
	EXPECT_ERRNO(EPERM, mprotect(x, PAGE, PROT_NONE));
	EXPECT_ERRNO(EACCES, mprotect(r, PAGE, PROT_WRITE));
	EXPECT_EQ(1, try_read(r).value);
	EXPECT_OK(try_write(p, 1));

	/* The right to write, or to execute, is another matter. */
	EXPECT_EQ(0, mprotect(p, SIZE, PROT_READ));
	EXPECT_ACCERR(try_write(p, 2), p);
	EXPECT_EQ(1, try_read(p).value);
	EXPECT_EQ(0, mprotect(p, SIZE, RW));
	EXPECT_OK(try_write(p, 2));
	EXPECT_EQ(0, mprotect(x, SIZE, PROT_READ));

	/* Control: an ordinary mapping is its owner's. */
	p = map_plain(self->fd, RW, SIZE, 0);
	EXPECT_EQ(0, mprotect(p, SIZE, PROT_NONE));
}

/* F_SEAL_FUTURE_WRITE leaves what there is and makes readers of newcomers. */
TEST_F_TIMEOUT(once, seal_future_write, SECONDS)
{
	char *p;

	ASSERT_EQ(0, fcntl(self->fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE));
	EXPECT_OK(try_write(self->map, 1));
	EXPECT_EQ(MAP_FAILED, map_pt(self->fd, RW, SIZE, 0));
	EXPECT_EQ(EPERM, errno);
	p = map_pt(self->fd, PROT_READ, SIZE, 0);
	ASSERT_NE(MAP_FAILED, p);
	EXPECT_EQ(1, try_read(p).value);
	EXPECT_OK(try_write(self->map, 2));
	EXPECT_EQ(2, try_read(p).value);
	EXPECT_ACCERR(try_write(p, 3), p);
	EXPECT_ERRNO(EACCES, mprotect(p, SIZE, RW));
}

/* ---- exec --------------------------------------------------------------- */

#define AFTER_EXEC	"--after-exec"

/* In the new program: nothing is left of the mapping, then wait to be killed. */
static int after_exec(void)
{
	if (vm_flag(NULL, "pt"))
		return 1;
	if (write(STDOUT_FILENO, "x", 1) != 1)
		return 1;
	pause();
	return 0;
}

TEST_F_TIMEOUT(once, exec_drops_the_mapping, SECONDS)
{
	int pipes[2];
	pid_t pid;
	char c;

	ASSERT_EQ(0, pipe(pipes));
	EXPECT_OK(try_write(self->map, 1));
	EXPECT_TRUE(vm_flag(NULL, "pt"));
	pid = spawn();
	if (!pid) {
		EXPECT_OK(try_write(self->map + UNIT, 1));
		dup2(pipes[1], STDOUT_FILENO);
		execl("/proc/self/exe", "shared_pt", AFTER_EXEC, NULL);
		_exit(1);
	}
	close(pipes[1]);
	ASSERT_EQ(1, read(pipes[0], &c, 1));
	/* Our own mapping prevents the seal; that of the child does no more. */
	EXPECT_ERRNO(EBUSY, fcntl(self->fd, F_ADD_SEALS, F_SEAL_WRITE));
	EXPECT_EQ(1, try_read(self->map + UNIT).value);
	EXPECT_EQ(0, munmap(self->map, SIZE));
	EXPECT_EQ(0, fcntl(self->fd, F_ADD_SEALS, F_SEAL_WRITE));
	put_down(pid);
}

/* ---- storms ------------------------------------------------------------- */

/* One life of a process among many, different for each @seed. */
static void short_life(char *map, int fd, unsigned int seed)
{
	char *p = map;
	int i;

	srand(seed);
	for (i = 0; i < 4; i++)
		try_write(p + rand() % (SIZE / PAGE) * PAGE, 1);
	switch (rand() % 7) {
	case 0:
		munmap(p, SIZE / 2);
		break;
	case 1:
		munmap(p + SIZE / 2, SIZE / 2);
		break;
	case 2:
		p = map_pt(fd, RW, SIZE, 0);
		if (p != MAP_FAILED)
			try_read(p + rand() % SIZE);
		break;
	case 3:
		mmap(p + UNIT, UNIT, RW, MAP_PRIVATE | MAP_ANONYMOUS |
		     MAP_FIXED, -1, 0);
		try_write(p + UNIT, 1);
		break;
	case 4:
		madvise(p, SIZE, MADV_DONTNEED);
		try_read(p);
		break;
	case 5:
		mprotect(p + UNIT, 3 * PAGE, rand() % 2 ? RW : PROT_READ);
		break;
	case 6:
		execl("/proc/self/exe", "shared_pt", "-h", NULL);
		break;
	}
	for (i = 0; i < 4; i++)
		try_read(p + rand() % (SIZE / PAGE) * PAGE);
	/* Some wait to be killed, some leave. */
	if (rand() % 2)
		pause();
	_exit(0);
}

/*
 * Processes that come and go, some by kill -9 at any moment.  The kernel log
 * shows what went wrong with counters; here is what must be back in the end.
 */
TEST_F_TIMEOUT(region, storm_of_fork_exec_exit_kill, 2 * SECONDS)
{
	const int lives = scale(40, 10000), at_once = 8;
	long before;
	pid_t pid[8] = { 0 };
	unsigned long at;
	int i, null;

	before = settled_page_tables();
	for (at = 0; at < SIZE; at += 64 * PAGE)
		self->map[at] = 1;
	for (i = 0; i < lives; i++) {
		put_down(pid[i % at_once]);
		pid[i % at_once] = spawn();
		if (!pid[i % at_once]) {
			null = open("/dev/null", O_RDWR);
			dup2(null, STDOUT_FILENO);
			dup2(null, STDERR_FILENO);
			short_life(self->map, self->fd, i);
		}
		if (i % 3 == 0)
			usleep(rand() % 2000);
	}
	for (i = 0; i < at_once; i++)
		put_down(pid[i]);

	/* We still have all of it. */
	EXPECT_EQ(0, mprotect(self->map, SIZE, RW));
	for (at = 0; at < SIZE; at += 64 * PAGE)
		EXPECT_EQ(1, try_read(self->map + at).value);
	EXPECT_EQ(0, munmap(self->map, SIZE));
	EXPECT_TRUE(page_tables_back_to(before));
}

/*
 * Regions that get made and die all the time: the next mmap() may find one on
 * the way out, and must not use it.
 */
TEST_F_TIMEOUT(region, storm_of_regions, SECONDS)
{
	const int n = 6, rounds = scale(60, 20000);
	struct control *ctl = self->ctl;
	pid_t pid[6];
	long before;
	int i, r;
	char *p;

	ASSERT_EQ(0, munmap(self->map, SIZE));
	before = settled_page_tables();
	ASSERT_EQ(1, pwrite(self->fd, "x", 1, UNIT));
	for (i = 0; i < n; i++) {
		pid[i] = spawn();
		if (pid[i])
			continue;
		pin(i);
		for (r = 0; r < rounds; r++) {
			p = map_pt(self->fd, RW, SIZE, 0);
			ASSERT_NE(MAP_FAILED, p);
			ASSERT_EQ('x', try_read(p + UNIT).value);
			ASSERT_EQ(0, try_write(p + i, r).sig);
			ASSERT_EQ(r & 0xff, try_read(p + i).value);
			ASSERT_EQ(0, munmap(p, SIZE));
			if (r % 16 == 0)
				usleep(1000);
		}
		add(&ctl->ready, 1);
		_exit(0);
	}
	for (i = 0; i < n; i++)
		EXPECT_EQ(0, reap(pid[i]));
	EXPECT_EQ(n, ctl->ready);
	EXPECT_TRUE(page_tables_back_to(before));
}

/* The region does not need who created it. */
TEST_F_TIMEOUT(region, creator_exits_during_faults, SECONDS)
{
	const int rounds = scale(6, 500), n = 3;
	pid_t pid[3], creator;
	char *p;
	int fd, i, r;
	unsigned long at;

	ASSERT_EQ(0, munmap(self->map, SIZE));
	for (r = 0; r < rounds; r++) {
		fd = self->fd;
		memset(self->ctl, 0, sizeof(*self->ctl));
		ASSERT_EQ(0, punch(fd, 0, SIZE));
		creator = spawn();
		if (!creator) {
			p = map_pt(fd, RW, SIZE, 0);
			ASSERT_NE(MAP_FAILED, p);
			store(p, 1);
			store(&self->ctl->ready, 1);
			for (at = 0;; at += PAGE)
				store(p + at % SIZE, 1);
		}
		ASSERT_TRUE(wait_for(&self->ctl->ready, 1));
		for (i = 0; i < n; i++) {
			pid[i] = spawn();
			if (pid[i])
				continue;
			p = map_pt(fd, RW, SIZE, 0);
			ASSERT_NE(MAP_FAILED, p);
			for (at = 0; at < SIZE; at += 8 * PAGE) {
				ASSERT_EQ(0, try_write(p + at + i + 1, i).sig);
				add(&self->ctl->value[0], 1);
			}
			for (at = 0; at < SIZE; at += 8 * PAGE)
				ASSERT_EQ(i, try_read(p + at + i + 1).value);
			_exit(0);
		}
		EXPECT_TRUE(wait_for(&self->ctl->value[0], 1 + r * 7));
		EXPECT_EQ(-SIGKILL, put_down(creator));
		for (i = 0; i < n; i++)
			EXPECT_EQ(0, reap(pid[i]));
	}
}

/* ---- fault path --------------------------------------------------------- */

struct thread_arg {
	char *map;
	struct control *ctl;
	int n;
};

static void *thread_touch(void *data)
{
	struct thread_arg *arg = data;
	unsigned long at;

	pin(arg->n);
	for (at = arg->n; !load(&arg->ctl->stop); at += 37 * PAGE) {
		if (try_write(arg->map + at % SIZE, 1).sig)
			return "fault";
		if (at / PAGE % 512 < 37)
			madvise(arg->map, UNIT, MADV_DONTNEED);
		add(&arg->ctl->value[arg->n], 1);
	}
	return NULL;
}

static void *thread_map(void *data)
{
	struct thread_arg *arg = data;
	char *p;

	while (!load(&arg->ctl->stop)) {
		/* Takes mmap_lock for writing, and so drives faults to it. */
		p = mmap(NULL, 4 * PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (p == MAP_FAILED)
			return "mmap";
		p[PAGE] = 1;
		mprotect(p + PAGE, PAGE, PROT_READ);
		munmap(p, 4 * PAGE);
		add(&arg->ctl->value[arg->n], 1);
	}
	return NULL;
}

static void *thread_mprotect(void *data)
{
	struct thread_arg *arg = data;
	int r;

	/* Makes and merges VMAs of the host, far from what is touched. */
	for (r = 0; !load(&arg->ctl->stop); r++) {
		if (mprotect(arg->map + SIZE + (r % 16) * PAGE, PAGE,
			     r % 3 ? RW : PROT_READ))
			return "mprotect";
		add(&arg->ctl->value[arg->n], 1);
	}
	return NULL;
}

/*
 * Two locks for each fault, each a VMA lock or an mmap_lock, and either side
 * may have to give up and try again: nothing hangs, nothing is left locked.
 */
TEST_F_TIMEOUT(region, threads_fault_while_locks_are_busy, SECONDS)
{
	void *(*job[])(void *) = {
		thread_touch, thread_touch, thread_touch, thread_touch,
		thread_map, thread_mprotect,
	};
	const int n = ARRAY_SIZE(job), at_least = scale(300, 100000);
	struct control *ctl = self->ctl;
	struct thread_arg arg[6];
	pthread_t thread[6];
	pid_t pid;
	void *ret;
	char *p;
	int i;

	ASSERT_EQ(0, ftruncate(self->fd, SIZE + UNIT));
	pid = spawn();
	if (!pid) {
		p = map_pt(self->fd, RW, SIZE + UNIT, 0);
		ASSERT_NE(MAP_FAILED, p);
		for (i = 0; i < n; i++) {
			arg[i] = (struct thread_arg){ p, ctl, i };
			ASSERT_EQ(0, pthread_create(thread + i, NULL, job[i],
						    arg + i));
		}
		for (i = 0; i < n; i++) {
			pthread_join(thread[i], &ret);
			EXPECT_EQ(NULL, ret)
				TH_LOG("thread %d: %s", i, (char *)ret);
		}
		_exit(0);
	}
	/* Meanwhile the pages go, so that there is something to fault. */
	for (i = 0; i < n; i++) {
		double end = now() + SECONDS / 2;

		while (load(&ctl->value[i]) < (i < 4 ? at_least : 30)) {
			ASSERT_GT(end, now());
			ASSERT_EQ(0, punch(self->fd, 0, SIZE));
			sleep_ms(1);
		}
	}
	store(&ctl->stop, 1);
	EXPECT_EQ(0, reap(pid));
	EXPECT_EQ(0, mprotect(self->map, SIZE, RW));
}

/* Killed at any point of a fault, a process leaves no lock behind. */
TEST_F_TIMEOUT(region, sigkill_during_faults, SECONDS)
{
	struct control *ctl = self->ctl;
	struct thread_arg arg[3];
	pthread_t thread[3];
	pid_t pid;
	char *p;
	int i, r;

	for (r = 0; r < scale(8, 1000); r++) {
		memset(ctl, 0, sizeof(*ctl));
		ASSERT_EQ(0, ftruncate(self->fd, SIZE + UNIT));
		pid = spawn();
		if (!pid) {
			p = map_pt(self->fd, RW, SIZE + UNIT, 0);
			for (i = 0; i < 3; i++) {
				arg[i] = (struct thread_arg){ p, ctl, i };
				pthread_create(thread + i, NULL, i < 2 ?
					       thread_touch : thread_mprotect,
					       arg + i);
			}
			pthread_join(thread[0], NULL);
			_exit(0);
		}
		ASSERT_TRUE(wait_for(&ctl->value[0], 1));
		usleep(r * 997 % 5000);
		EXPECT_EQ(-SIGKILL, put_down(pid));
		/* Any of these would wait for a lock that was left. */
		EXPECT_OK(try_write(self->map + r * PAGE, 1));
		EXPECT_EQ(0, mprotect(self->map, SIZE, PROT_READ));
		EXPECT_EQ(0, mprotect(self->map, SIZE, RW));
		ASSERT_EQ(0, punch(self->fd, 0, SIZE));
	}
}

/*
 * A fault that waits for the file system, and a change of the protection that waits
 * for the fault: others wait for both, but not against a signal that is to kill them.
 */
TEST_F_TIMEOUT(once, killed_while_the_host_is_locked, SECONDS)
{
	struct control *ctl = self->ctl;
	pid_t writer, killed[3];
	int dir, fd, i, status;
	char path[64], *p;

	if (!ext4_dir())
		SKIP(return, "no ext4 on $SHARED_PT_EXT4 or /mnt/ext4");
	fd = unlinked_file(ext4_dir());
	ASSERT_LE(0, fd);
	ASSERT_EQ(0, ftruncate(fd, SIZE));
	p = map_pt(fd, RW, SIZE, 0);
	ASSERT_NE(MAP_FAILED, p);
	p[0] = 1;
	dir = open(ext4_dir(), O_RDONLY);
	if (ioctl(dir, FIFREEZE, 0))
		SKIP(return, "cannot freeze: %s", strerror(errno));

	writer = spawn();
	if (!writer) {
		add(&ctl->ready, 1);
		p[0] = 2;
		store(&ctl->value[0], 1);
		_exit(0);
	}
	EXPECT_TRUE(wait_for(&ctl->ready, 1));
	sleep_ms(200);
	/* Waits for the writer, and all others for it. */
	killed[2] = spawn();
	if (!killed[2]) {
		add(&ctl->ready, 1);
		mprotect(p + UNIT, UNIT, PROT_READ);
		store(&ctl->value[1], 1);
		_exit(0);
	}
	EXPECT_TRUE(wait_for(&ctl->ready, 2));
	sleep_ms(200);
	killed[0] = spawn();
	if (!killed[0]) {
		add(&ctl->ready, 1);
		try_read(p + 2 * UNIT);
		store(&ctl->value[2], 1);
		_exit(0);
	}
	/* By the kernel, which does not say that it can be killed. */
	snprintf(path, sizeof(path), "/proc/%d/mem", getpid());
	killed[1] = spawn();
	if (!killed[1]) {
		char c;
		int mem = open(path, O_RDONLY);

		add(&ctl->ready, 1);
		if (pread(mem, &c, 1, (long)p + 3 * UNIT) == 1)
			store(&ctl->value[3], 1);
		_exit(0);
	}
	EXPECT_TRUE(wait_for(&ctl->ready, 4));
	sleep_ms(200);
	/* Control: all of them do wait. */
	for (i = 0; i < 4; i++)
		EXPECT_EQ(0, load(&ctl->value[i]));
	for (i = 0; i < 3; i++) {
		int n = 0;

		kill(killed[i], SIGKILL);
		while (n++ < 100 && !waitpid(killed[i], &status, WNOHANG))
			sleep_ms(50);
		EXPECT_GE(100, n);
		if (n <= 100)
			killed[i] = 0;
	}
	EXPECT_EQ(0, ioctl(dir, FITHAW, 0));
	for (i = 0; i < 3; i++)
		if (killed[i])
			reap(killed[i]);
	EXPECT_EQ(0, reap(writer));
	EXPECT_EQ(2, try_read(p).value);
}

/* ---- dirty pages -------------------------------------------------------- */

/*
 * Writeback makes the entry clean and read-only for all sharers at once.  The
 * next store, by anyone, must make the page dirty again, or it is lost.
 */
TEST_F_TIMEOUT(region, stores_after_writeback_reach_the_disk, SECONDS)
{
	unsigned char *buf = aligned_alloc(PAGE, PAGE);
	int direct, r, at;
	char *other;
	pid_t pid;

	if (variant->backing != EXT4)
		SKIP(return, "nothing is written back");
	other = map_pt(self->fd, RW, SIZE, 0);
	ASSERT_NE(MAP_FAILED, other);
	direct = reopen(self->fd, O_RDONLY | O_DIRECT);
	ASSERT_LE(0, direct);

	for (r = 1; r < scale(6, 100); r++) {
		at = r % 3 * UNIT;
		EXPECT_OK(try_write(self->map + at, r));
		ASSERT_EQ(0, r % 2 ? fsync(self->fd) :
				     msync(other + at, PAGE, MS_SYNC));
		EXPECT_OK(try_write(other + at + 1, r + 1));
		pid = spawn();
		if (!pid)
			_exit(try_write(self->map + at + 2, r + 2).sig);
		EXPECT_EQ(0, reap(pid));

		ASSERT_EQ(0, fsync(self->fd));
		write_file("/proc/sys/vm/drop_caches", "1");
		ASSERT_EQ(PAGE, pread(direct, buf, PAGE, at));
		EXPECT_EQ(r, buf[0]);
		EXPECT_EQ(r + 1, buf[1]);
		EXPECT_EQ(r + 2, buf[2]);
		EXPECT_EQ(r, self->map[at]);
	}
}

/* ---- swap, migration, collapse ------------------------------------------ */

static void fill(char *p, size_t len, unsigned long seed)
{
	unsigned long i;

	for (i = 0; i < len; i += PAGE)
		*(unsigned long *)(p + i) = seed + i;
}

/* 0, or 1 + the offset of the first page that is not as fill() left it. */
static unsigned long differs(char *p, size_t len, unsigned long seed)
{
	unsigned long i;

	for (i = 0; i < len; i += PAGE) {
		if (load((unsigned long *)(p + i)) != seed + i)
			return i + 1;
	}
	return 0;
}

static bool have_swap(void)
{
	return number_in("/proc/meminfo", "SwapFree:") > 64 << 10;
}

static int resident(char *p, size_t len)
{
	unsigned char vec[SIZE / PAGE];
	unsigned long i;
	int n = 0;

	if (mincore(p, len, vec))
		return -1;
	for (i = 0; i < len / PAGE; i++)
		n += vec[i] & 1;
	return n;
}

/* Reclaim until little of the file is left in memory. */
static bool page_out(const char *group, char *map)
{
	int i;

	for (i = 0; i < 30; i++) {
		write_file(cg_file(group, "memory.reclaim"), "4M");
		if (resident(map, SIZE) < (int)(SIZE / PAGE / 2))
			return true;
	}
	return false;
}

/*
 * Reclaim unmaps a page once for all sharers; they all find it again, by a
 * fault of whoever comes first.
 */
TEST_F_TIMEOUT(region, paged_out_and_in_again, SECONDS)
{
	const int n = 2, rounds = scale(2, 100);
	struct control *ctl = self->ctl;
	const char *group;
	pid_t pid[2];
	int i, r;
	char *p;

	group = cg_new("swap");
	if (!group)
		SKIP(return, "no memory controller");
	if (variant->backing != EXT4 && !have_swap())
		SKIP(return, "no swap");
	ASSERT_EQ(0, cg_enter(group));
	fill(self->map, SIZE, 0);

	for (i = 0; i < n; i++) {
		pid[i] = spawn();
		if (pid[i])
			continue;
		pin(i);
		p = i ? map_pt(self->fd, RW, SIZE, 0) : self->map;
		ASSERT_NE(MAP_FAILED, p);
		for (r = 1; r <= rounds; r++) {
			ASSERT_TRUE(wait_for(&ctl->go, r));
			ASSERT_EQ(0UL, differs(p, SIZE, r - 1));
			add(&ctl->ready, 1);
		}
		_exit(0);
	}
	for (r = 1; r <= rounds; r++) {
		ASSERT_EQ(0, fsync(self->fd));
		/* Control: there is something to find again. */
		for (i = 0; i < 20; i++) {
			EXPECT_TRUE(page_out(group, self->map));
			if (!present(self->map) || !present(self->map + UNIT) ||
			    !present(self->map + 2 * UNIT))
				break;
		}
		EXPECT_GT(20, i);
		store(&ctl->go, r);
		ASSERT_TRUE(wait_for(&ctl->ready, n * r));
		ASSERT_EQ(0UL, differs(self->map, SIZE, r - 1));
		fill(self->map, SIZE, r);
	}
	for (i = 0; i < n; i++)
		EXPECT_EQ(0, reap(pid[i]));
	cg_remove(group);
}

/* The same while all of them work on it. */
TEST_F_TIMEOUT(region, paged_out_in_use, SECONDS)
{
	const int n = 3;
	struct control *ctl = self->ctl;
	/* Reclaim of what is in use gets little and takes long. */
	double end = now() + scale(4, 100);
	unsigned int at, turn, seen;
	const char *group;
	pid_t pid[3];
	int i, r;
	char *p;

	group = cg_new("swap");
	if (!group)
		SKIP(return, "no memory controller");
	if (variant->backing != EXT4 && !have_swap())
		SKIP(return, "no swap");
	ASSERT_EQ(0, cg_enter(group));

	for (i = 0; i < n; i++) {
		pid[i] = spawn();
		if (pid[i])
			continue;
		pin(i);
		p = i ? map_pt(self->fd, RW, SIZE, 0) : self->map;
		ASSERT_NE(MAP_FAILED, p);
		/* A counter of its own in each of 64 pages. */
		for (turn = 0; !load(&ctl->stop); turn++) {
			at = turn % 64 * (SIZE / 64) + i * 8;
			seen = load((unsigned int *)(p + at));
			ASSERT_EQ(turn / 64, seen);
			store((unsigned int *)(p + at), seen + 1);
			store(&ctl->value[i], turn);
			if (turn % 64 == 0)
				sleep_ms(1);
		}
		_exit(0);
	}
	for (r = 0; r < scale(8, 1000) && now() < end; r++) {
		write_file(cg_file(group, "memory.reclaim"), "1M");
		sleep_ms(1);
	}
	for (i = 0; i < n; i++)
		EXPECT_TRUE(wait_for(&ctl->value[i], 128));
	store(&ctl->stop, 1);
	for (i = 0; i < n; i++)
		EXPECT_EQ(0, reap(pid[i]));
	cg_remove(group);
}

static int nodes(void)
{
	char path[64];
	int n = 0;

	do
		snprintf(path, sizeof(path), "/sys/devices/system/node/node%d",
			 n++);
	while (!access(path, F_OK));
	return n - 1;
}

static int move_page(void *p, int node, int flags)
{
	int status = -ENODATA;

	if (syscall(SYS_move_pages, 0, 1UL, &p, &node, &status, flags))
		return -errno;
	return status;
}

static int node_of(void *p)
{
	int status = -ENODATA;

	if (syscall(SYS_move_pages, 0, 1UL, &p, NULL, &status, 0))
		return -errno;
	return status;
}

static int bind_to(void *p, size_t len, int node, int flags)
{
	unsigned long mask = 1UL << node;

	return syscall(SYS_mbind, p, len, MPOL_BIND, &mask, 64, flags);
}

static int name_it(void *p, size_t len, const char *name)
{
	return prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, p, len, name);
}

/*
 * The mappings that a call for a part of one leaves behind end at multiples of 2 MiB,
 * also where the part could join a neighbour that is like it. Or else a link would
 * belong to neither, and outlive them both.
 */
TEST_F_TIMEOUT(region, parts_join_in_units_only, SECONDS)
{
	char *p = self->map, *second = p + UNIT, *third = p + 2 * UNIT;
	char *last = p + UNIT - PAGE;
	pid_t pid;
	int i, n;

	for (i = 0; i < 4; i++)
		p[i * UNIT] = 1 + i;
	pid = spawn();
	if (!pid) {
		n = nr_mappings();
		/* The start of the range would do, its end would not. */
		EXPECT_ERRNO(EINVAL, madvise(second, UNIT + PAGE, MADV_DONTDUMP));
		EXPECT_EQ(n, nr_mappings());

		ASSERT_EQ(0, madvise(second, UNIT, MADV_DONTDUMP));
		EXPECT_ERRNO(EINVAL, madvise(third, PAGE, MADV_DONTDUMP));
		EXPECT_ERRNO(EINVAL, madvise(last, PAGE, MADV_DONTDUMP));
		EXPECT_ERRNO(EINVAL, madvise(second, PAGE, MADV_DODUMP));
		EXPECT_ERRNO(EINVAL, madvise(third - PAGE, PAGE, MADV_DODUMP));
		EXPECT_FALSE(vm_flag(third, "dd"));
		EXPECT_FALSE(vm_flag(last, "dd"));
		EXPECT_TRUE(vm_flag(second, "dd"));
		EXPECT_TRUE(vm_flag(third - PAGE, "dd"));
		EXPECT_EQ(n + 2, nr_mappings());
		ASSERT_EQ(0, madvise(second, UNIT, MADV_DODUMP));
		EXPECT_EQ(n, nr_mappings());

		if (!bind_to(second, UNIT, 0, 0) && nr_mappings() == n + 2) {
			EXPECT_ERRNO(EINVAL, bind_to(third, PAGE, 0, 0));
			EXPECT_ERRNO(EINVAL, bind_to(last, PAGE, 0, 0));
			EXPECT_EQ(n + 2, nr_mappings());
		}
		if (!name_it(second, UNIT, "part")) {
			EXPECT_ERRNO(EINVAL, name_it(third, PAGE, "part"));
			EXPECT_ERRNO(EINVAL, name_it(last, PAGE, "part"));
		}

		ASSERT_EQ(0, madvise(second, UNIT, MADV_DONTFORK));
		EXPECT_ERRNO(EINVAL, madvise(third, PAGE, MADV_DONTFORK));
		EXPECT_ERRNO(EINVAL, madvise(last, PAGE, MADV_DONTFORK));
		EXPECT_ERRNO(EINVAL, munmap(p, UNIT + PAGE));
		EXPECT_EQ(0, munmap(p, UNIT));
		EXPECT_EQ(0, munmap(second, UNIT));
		_exit(0);
	}
	EXPECT_EQ(0, reap(pid));
	/* The tables are all there. */
	for (i = 0; i < 4; i++) {
		EXPECT_EQ(1 + i, try_read(p + i * UNIT).value);
		EXPECT_OK(try_write(p + i * UNIT + PAGE, i));
	}
}

/*
 * The bits are everybody's, so nobody resets them. Who looks for what has been
 * written since then has to find too much, not too little.
 */
TEST_F_TIMEOUT(region, always_soft_dirty, SECONDS)
{
	char *p = self->map, *plain;

	/* Read first: a page that is mapped writable without having been written. */
	EXPECT_EQ(0, try_read(p).value);
	if (!soft_dirty(p))
		SKIP(return, "needs CONFIG_MEM_SOFT_DIRTY");
	EXPECT_EQ(0, write_file("/proc/self/clear_refs", "4"));
	EXPECT_TRUE(soft_dirty(p));
	p[0] = 1;
	p[PAGE] = 1;
	EXPECT_TRUE(soft_dirty(p));
	EXPECT_TRUE(soft_dirty(p + PAGE));

	/* Control: an ordinary mapping. */
	plain = map_plain(self->fd, RW, SIZE, 0);
	plain[0] = 1;
	EXPECT_EQ(0, write_file("/proc/self/clear_refs", "4"));
	EXPECT_FALSE(soft_dirty(plain));
	plain[0] = 2;
	EXPECT_TRUE(soft_dirty(plain));
}

/* A page of a region is never one's own, whoever else uses it or not. */
TEST_F_TIMEOUT(region, pages_are_not_exclusive, SECONDS)
{
	char *p = self->map, *plain;
	int node;

	p[0] = 1;
	EXPECT_TRUE(present(p));
	EXPECT_FALSE(exclusive(p));
	if (nodes() < 2)
		SKIP(return, "one NUMA node");

	node = node_of(p);
	ASSERT_LE(0, node);
	EXPECT_EQ(node, move_page(p, node, MPOL_MF_MOVE));
	EXPECT_EQ(-EACCES, move_page(p, !node, MPOL_MF_MOVE));
	EXPECT_EQ(node, node_of(p));
	EXPECT_EQ(0, bind_to(p, SIZE, !node, MPOL_MF_MOVE));
	EXPECT_EQ(node, node_of(p));
	EXPECT_EQ(!node, move_page(p, !node, MPOL_MF_MOVE_ALL));
	EXPECT_EQ(!node, node_of(p));
	EXPECT_EQ(1, p[0]);

	/* Control: one's own page of an ordinary mapping. */
	plain = map_plain(self->fd, RW, SIZE, 0);
	plain[UNIT] = 1;
	EXPECT_TRUE(exclusive(plain + UNIT));
	node = node_of(plain + UNIT);
	EXPECT_EQ(!node, move_page(plain + UNIT, !node, MPOL_MF_MOVE));
	plain[2 * UNIT] = 1;
	node = node_of(plain + 2 * UNIT);
	EXPECT_EQ(0, bind_to(plain, SIZE, !node, MPOL_MF_MOVE));
	EXPECT_EQ(!node, node_of(plain + 2 * UNIT));
}

/* Each sharer bears its part, and none resets what it does not own. */
TEST_F_TIMEOUT(region, smaps_of_sharers, SECONDS)
{
	const long kb = UNIT >> 10;
	pid_t pid[3];
	char *plain;
	int i;

	memset(self->map, 1, UNIT);
	EXPECT_EQ(kb, smaps_kb(self->map, "Rss:"));
	EXPECT_EQ(kb, smaps_kb(self->map, "Pss:"));
	for (i = 0; i < 3; i++) {
		pid[i] = spawn();
		if (!pid[i]) {
			pause();
			_exit(0);
		}
	}
	EXPECT_EQ(kb, smaps_kb(self->map, "Rss:"));
	EXPECT_EQ(kb / 4, smaps_kb(self->map, "Pss:"));
	EXPECT_EQ(kb, smaps_kb(self->map, "Referenced:"));
	EXPECT_EQ(0, write_file("/proc/self/clear_refs", "1"));
	EXPECT_EQ(kb, smaps_kb(self->map, "Referenced:"));
	for (i = 0; i < 3; i++)
		put_down(pid[i]);
	EXPECT_EQ(kb, smaps_kb(self->map, "Pss:"));

	/* Control: an ordinary mapping of pages that nobody else maps. */
	plain = map_plain(self->fd, RW, SIZE, 0) + 2 * UNIT;
	memset(plain, 1, UNIT);
	EXPECT_EQ(kb, smaps_kb(plain, "Referenced:"));
	EXPECT_EQ(0, write_file("/proc/self/clear_refs", "1"));
	EXPECT_GT(kb, smaps_kb(plain, "Referenced:"));
}

/* Pages move under those who read and write them. */
TEST_F_TIMEOUT(region, migration_in_use, SECONDS)
{
	const int n = 3, pages = 16, rounds = scale(6, 1000);
	struct control *ctl = self->ctl;
	unsigned long turn, seen;
	unsigned int at;
	int i, k, r, moved = 0;
	char *p = self->map;
	pid_t pid[3];

	if (nodes() < 2)
		SKIP(return, "one NUMA node");
	fill(p, pages * PAGE, 5);
	for (i = 0; i < n; i++) {
		pid[i] = spawn();
		if (pid[i])
			continue;
		pin(i);
		p = i ? map_pt(self->fd, RW, SIZE, 0) : self->map;
		ASSERT_NE(MAP_FAILED, p);
		for (turn = 0; !load(&ctl->stop); turn++) {
			at = turn % pages * PAGE + 8 + i * 8;
			seen = load((unsigned long *)(p + at));
			ASSERT_EQ(turn / pages, seen);
			store((unsigned long *)(p + at), seen + 1);
			if (turn % pages == 0)
				ASSERT_EQ(0UL, differs(p, pages * PAGE, 5));
			store(&ctl->value[i], turn);
		}
		_exit(0);
	}
	for (r = 0; r < rounds; r++) {
		for (k = 0; k < pages; k++)
			moved += move_page(p + k * PAGE, r % 2,
					   MPOL_MF_MOVE_ALL) == r % 2;
	}
	for (i = 0; i < n; i++)
		EXPECT_TRUE(wait_for(&ctl->value[i], 2 * pages));
	store(&ctl->stop, 1);
	for (i = 0; i < n; i++)
		EXPECT_EQ(0, reap(pid[i]));
	/* Control: a page in use may be busy, but most did move. */
	EXPECT_LT(rounds * pages / 2, moved);
}

/* Compaction finds the same pages by itself. */
TEST_F_TIMEOUT(once, compaction_in_use, SECONDS)
{
	struct control *ctl = self->ctl;
	unsigned long turn;
	int i, r;
	pid_t pid[2];

	if (access("/proc/sys/vm/compact_memory", W_OK))
		SKIP(return, "no compaction");
	fill(self->map, SIZE, 9);
	for (i = 0; i < 2; i++) {
		pid[i] = spawn();
		if (pid[i])
			continue;
		pin(i);
		for (turn = 0; !load(&ctl->stop); turn++) {
			ASSERT_EQ(0UL, differs(self->map, SIZE, 9));
			store(&ctl->value[i], turn);
		}
		_exit(0);
	}
	for (r = 0; r < scale(3, 100); r++)
		EXPECT_EQ(0, write_file("/proc/sys/vm/compact_memory", "1"));
	for (i = 0; i < 2; i++)
		EXPECT_TRUE(wait_for(&ctl->value[i], 2));
	store(&ctl->stop, 1);
	for (i = 0; i < 2; i++)
		EXPECT_EQ(0, reap(pid[i]));
}

/* All but the first pages of the second unit, where there will be a hole. */
static bool collapse_intact(char *p)
{
	const size_t at = UNIT + 16 * PAGE;

	return !differs(p, UNIT, 1) && !differs(p + at, 2 * UNIT - at, 1 + at);
}

/*
 * khugepaged, on behalf of an ordinary mapping, puts a huge page in the place
 * of small ones and frees tables that it emptied.  Not these.
 */
TEST_F_TIMEOUT(region, collapse_by_others, SECONDS)
{
	struct control *ctl = self->ctl;
	char *room, *plain, *p;
	int i, r, error = 0, collapsed = 0;
	pid_t pid[2];

	fill(self->map, 2 * UNIT, 1);
	/* At a multiple of 2 MiB, or it would not be considered. */
	room = reserve(SIZE);
	plain = mmap(room, 2 * UNIT, RW, MAP_SHARED | MAP_FIXED, self->fd, 0);
	ASSERT_EQ(room, plain);
	madvise(plain, 2 * UNIT, MADV_HUGEPAGE);
	ASSERT_EQ(0UL, differs(plain, 2 * UNIT, 1));

	for (i = 0; i < 2; i++) {
		pid[i] = spawn();
		if (pid[i])
			continue;
		pin(i);
		p = i ? map_pt(self->fd, RW, SIZE, 0) : self->map;
		ASSERT_NE(MAP_FAILED, p);
		while (!load(&ctl->stop)) {
			ASSERT_TRUE(collapse_intact(p));
			store((unsigned long *)(p + UNIT / 2 + 8 + i * 8), 1);
			add(&ctl->value[i], 1);
			/* Who always has some page in use prevents it. */
			sleep_ms(10);
		}
		_exit(0);
	}
	for (r = 0; r < scale(20, 300) && collapsed < scale(3, 300); r++) {
		error = madvise(plain, 2 * UNIT, MADV_COLLAPSE) ? errno : 0;
		collapsed += !error;
		ASSERT_TRUE(collapse_intact(plain));
		ASSERT_TRUE(collapse_intact(self->map));
		/* Split one of them, for the next turn. */
		ASSERT_EQ(0, punch(self->fd, UNIT + PAGE, PAGE));
		EXPECT_EQ(0, try_read(self->map + UNIT + PAGE).value);
		EXPECT_OK(try_write(self->map + UNIT + PAGE, 1));
	}
	for (i = 0; i < 2; i++)
		EXPECT_TRUE(wait_for(&ctl->value[i], 2));
	store(&ctl->stop, 1);
	for (i = 0; i < 2; i++)
		EXPECT_EQ(0, reap(pid[i]));
	EXPECT_TRUE(vm_flag(self->map, "pt"));
	if (!collapsed)
		SKIP(return, "not collapsed: %s", strerror(error));
}

/* ---- memory failure ----------------------------------------------------- */

/* SIGBUS for a page at @p, if it comes within some seconds; its si_code or 0. */
static int told_of(void *p)
{
	struct timespec patience = { SECONDS / 4, 0 };
	siginfo_t info;
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGBUS);
	if (sigtimedwait(&set, &info, &patience) != SIGBUS)
		return 0;
	return info.si_addr == p ? info.si_code : -1;
}

/*
 * A page fails for all, once.  Who wants to know at once is told where it is for
 * him, and who touches it later finds it at an address of his own, too.
 */
TEST_F_TIMEOUT(once, memory_failure, SECONDS)
{
	struct control *ctl = self->ctl;
	struct outcome seen;
	sigset_t set;
	pid_t pid[4];
	char *p;
	int i;

	self->map[UNIT + PAGE] = 1;
	for (i = 0; i < 4; i++) {
		pid[i] = spawn();
		if (pid[i])
			continue;
		/* Address and offset are different for each of them. */
		munmap(self->map, SIZE);
		p = reserve(SIZE + i * UNIT) + i * UNIT;
		p = mmap(p, 2 * UNIT, RW, PT | MAP_FIXED, self->fd,
			 i % 2 * UNIT);
		ASSERT_NE(MAP_FAILED, p);
		p += (1 - i % 2) * UNIT + PAGE;
		if (i < 2)
			EXPECT_EQ(1, try_read(p).value);
		if (i == 2) {
			/* Touches nothing of it before. */
			sigemptyset(&set);
			sigaddset(&set, SIGBUS);
			sigprocmask(SIG_BLOCK, &set, NULL);
			ASSERT_EQ(0, prctl(PR_MCE_KILL, PR_MCE_KILL_SET,
					   PR_MCE_KILL_EARLY, 0, 0));
			store(&ctl->value[i], 1);
			EXPECT_EQ(BUS_MCEERR_AO, told_of(p));
			_exit(0);
		}
		if (i == 3) {
			/* Control: a plain mapping finds it failed as well. */
			p = map_plain(self->fd, RW, 2 * UNIT, 0) + UNIT + PAGE;
			EXPECT_EQ(1, try_read(p).value);
		}
		store(&ctl->value[i], 1);
		ASSERT_TRUE(wait_for(&ctl->go, 1));
		seen = i % 2 ? try_read(p) : try_write(p, 2);
		EXPECT_EQ(SIGBUS, seen.sig);
		EXPECT_EQ(BUS_MCEERR_AR, seen.code);
		EXPECT_EQ((void *)p, seen.addr);
		/* But for that one page all is well. */
		EXPECT_OK(try_write(p + PAGE, 1));
		_exit(0);
	}
	for (i = 0; i < 4; i++)
		ASSERT_TRUE(wait_for(&ctl->value[i], 1));

	/* Who says that it failed is taken for whoever has just touched it. */
	p = self->map + UNIT + PAGE;
	memset(&outcome, 0, sizeof(outcome));
	fault_armed = true;
	i = 0;
	if (!sigsetjmp(fault_env, 1) && madvise(p, PAGE, MADV_HWPOISON))
		i = errno;
	fault_armed = false;
	if (i == EPERM || i == EINVAL) {
		for (i = 0; i < 4; i++)
			put_down(pid[i]);
		SKIP(return, "memory cannot be made to fail");
	}
	EXPECT_EQ(0, i);
	EXPECT_EQ(SIGBUS, outcome.sig);
	EXPECT_EQ(BUS_MCEERR_AR, outcome.code);
	EXPECT_EQ((void *)p, outcome.addr);
	store(&ctl->go, 1);
	for (i = 0; i < 4; i++)
		EXPECT_EQ(0, reap(pid[i]));
}

/* ---- memory control ----------------------------------------------------- */

/*
 * What a task touches is charged to the group of that task, although the
 * tables belong to an mm that no task owns and that a stranger created.
 */
TEST_F_TIMEOUT(region, charged_to_who_touches, SECONDS)
{
	const char *creator_group = cg_new("creator");
	const char *toucher_group = cg_new("toucher");
	const long len = 2 * UNIT, units = 32;
	struct control *ctl = self->ctl;
	pid_t creator, toucher;
	long before, creator_before, tables, slack;
	unsigned long i;
	double end;
	char *p;

	if (!creator_group || !toucher_group)
		SKIP(return, "no memory controller");
	/* Charges are made in batches for each CPU. */
	slack = 64 * PAGE * cpus();

	ASSERT_EQ(0, munmap(self->map, SIZE));
	ASSERT_EQ(0, ftruncate(self->fd, units * UNIT));
	creator = spawn();
	if (!creator) {
		ASSERT_EQ(0, cg_enter(creator_group));
		p = map_pt(self->fd, RW, units * UNIT, 0);
		ASSERT_NE(MAP_FAILED, p);
		store(&ctl->ready, 1);
		wait_for(&ctl->go, 1);
		_exit(0);
	}
	ASSERT_TRUE(wait_for(&ctl->ready, 1));
	toucher = spawn();
	if (!toucher) {
		ASSERT_EQ(0, cg_enter(toucher_group));
		p = map_pt(self->fd, RW, units * UNIT, 0);
		ASSERT_NE(MAP_FAILED, p);
		store(&ctl->ready, 2);
		ASSERT_TRUE(wait_for(&ctl->go, 2));
		for (i = 0; i < (unsigned long)len; i += PAGE)
			p[i] = 1;
		for (i = 0; i < units * UNIT; i += UNIT)
			p[i] = 1;
		store(&ctl->ready, 3);
		wait_for(&ctl->go, 3);
		_exit(0);
	}
	ASSERT_TRUE(wait_for(&ctl->ready, 2));
	store(&ctl->go, 1);
	EXPECT_EQ(0, reap(creator));

	before = cg_number(toucher_group, "memory.current", "");
	creator_before = cg_number(creator_group, "memory.current", "");
	tables = cg_number(toucher_group, "memory.stat", "pagetables");
	store(&ctl->go, 2);
	ASSERT_TRUE(wait_for(&ctl->ready, 3));
	EXPECT_LE(len - slack,
		  cg_number(toucher_group, "memory.current", "") - before);
	EXPECT_GE(slack, cg_number(creator_group, "memory.current", "") -
			 creator_before);
	/* This figure is let to be some seconds old. */
	for (end = now() + 6; now() < end; sleep_ms(100)) {
		if (cg_number(toucher_group, "memory.stat", "pagetables") >=
		    tables + (units - 4) * PAGE)
			break;
	}
	EXPECT_LE(tables + (units - 4) * PAGE,
		  cg_number(toucher_group, "memory.stat", "pagetables"));
	store(&ctl->go, 3);
	EXPECT_EQ(0, reap(toucher));
	cg_remove(creator_group);
	cg_remove(toucher_group);
}

/*
 * Reclaim of a group finds out what is in use, by processes in the group, from
 * the entries of a host, which is in no group.
 */
TEST_F_TIMEOUT(region, pages_in_use_stay, SECONDS)
{
	const char *group = cg_new("user");
	const int half = SIZE / 2 / PAGE;
	int i, turn, hot = 0, cold = 0;
	pid_t pid;

	if (!group)
		SKIP(return, "no memory controller");
	if (variant->backing != EXT4)
		SKIP(return, "needs no swap there");
	for (turn = 0; turn < 11; turn++) {
		/* In a process with no TLB entries that could hide its use. */
		pid = spawn();
		if (!pid) {
			ASSERT_EQ(0, cg_enter(group));
			if (!turn)
				fill(self->map, SIZE, 1);
			for (i = 0; i < half; i++)
				load(self->map + i * PAGE);
			_exit(0);
		}
		ASSERT_EQ(0, reap(pid));
		if (!turn) {
			ASSERT_EQ(0, fsync(self->fd));
			continue;
		}
		write_file(cg_file(group, "memory.reclaim"), "256K");
		hot += half - resident(self->map, SIZE / 2);
		cold = half - resident(self->map + SIZE / 2, SIZE / 2);
	}
	/* Without that it would be the older half, which is in use. */
	EXPECT_LE(half / 4, cold);
	EXPECT_GT(cold, hot);
	cg_remove(group);
}

/* Nor can a limit be got by through a region of somebody else. */
TEST_F_TIMEOUT(once, limit_holds_in_a_strangers_region, SECONDS)
{
	const char *group = cg_new("limited");
	const size_t len = 16 * UNIT;
	int shared;
	size_t i;
	pid_t pid;
	char *p;

	if (!group)
		SKIP(return, "no memory controller");
	ASSERT_EQ(0, write_file(cg_file(group, "memory.max"), "16M"));
	write_file(cg_file(group, "memory.swap.max"), "0");

	for (shared = 1; shared >= 0; shared--) {
		ASSERT_EQ(0, ftruncate(self->fd, 0));
		ASSERT_EQ(0, ftruncate(self->fd, len));
		store(self->ctl->value, 0);
		pid = spawn();
		if (!pid) {
			cg_enter(group);
			p = mmap(NULL, len, RW, shared ? PT : MAP_SHARED,
				 self->fd, 0);
			for (i = 0; i < len; i += PAGE) {
				store(p + i, 1);
				store(self->ctl->value, i / PAGE);
			}
			_exit(0);
		}
		EXPECT_EQ(-SIGKILL, reap(pid));
		EXPECT_GE((16 << 20) / PAGE, load(self->ctl->value));
		EXPECT_LE((8 << 20) / PAGE, load(self->ctl->value));
	}
	EXPECT_OK(try_write(self->map, 1));
	cg_remove(group);
}

/* Which fails if any entry of the range has to be made anew. */
static long faults_to_read(char *p, size_t len)
{
	struct rusage before, after;
	size_t i;

	load(p);
	getrusage(RUSAGE_SELF, &before);
	for (i = 0; i < len; i += 4 * PAGE)
		load(p + i);
	getrusage(RUSAGE_SELF, &after);
	return after.ru_minflt - before.ru_minflt;
}

/*
 * The OOM reaper unmaps what a dying process has.  The tables of a region are
 * not what it has, whether it may write or only read.
 */
TEST_F_TIMEOUT(region, oom_reaper_spares_the_tables, SECONDS)
{
	const char *group = cg_new("victim");
	int ro = reopen(self->fd, O_RDONLY);
	int r, pidfd, kind, kills = 0, released = 0;
	struct sched_param param = {};
	pid_t pid;
	char *reader, *p;
	size_t i;

	if (!group)
		SKIP(return, "no memory controller");
	ASSERT_EQ(0, write_file(cg_file(group, "memory.max"), "16M"));
	write_file(cg_file(group, "memory.swap.max"), "0");
	ASSERT_LE(0, ro);
	reader = map_pt(ro, PROT_READ, SIZE, 0);
	ASSERT_NE(MAP_FAILED, reader);
	fill(self->map, 2 * UNIT, 3);
	ASSERT_EQ(0UL, differs(reader, 2 * UNIT, 3));
	/* Control: what faults_to_read() counts. */
	p = map_plain(self->fd, PROT_READ, SIZE, 0);
	madvise(p, SIZE, MADV_RANDOM);
	EXPECT_LE(4, faults_to_read(p, 2 * UNIT));

	pin(0);
	for (r = 0; r < scale(4, 200); r++) {
		kind = r % 2;
		store(&self->ctl->ready, 0);
		pid = spawn();
		if (!pid) {
			reader = map_pt(ro, PROT_READ, SIZE, 0);
			ASSERT_EQ(0UL, differs(reader, 2 * UNIT, 3));
			ASSERT_EQ(0UL, differs(self->map, 2 * UNIT, 3));
			if (!kind)
				cg_enter(group);
			p = mmap(NULL, 64 << 20, RW,
				 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
			for (i = 0; i < (kind ? 16 << 20 : 64 << 20); i += PAGE)
				store(p + i, 1);
			if (!kind)
				_exit(0);
			/* Dies when nobody else wants this CPU. */
			sched_setscheduler(0, SCHED_IDLE, &param);
			store(&self->ctl->ready, 1);
			pause();
			_exit(0);
		}
		if (kind) {
			/* The same from outside. */
			ASSERT_TRUE(wait_for(&self->ctl->ready, 1));
			pidfd = syscall(SYS_pidfd_open, pid, 0);
			kill(pid, SIGKILL);
			released += !syscall(__NR_process_mrelease, pidfd, 0);
			close(pidfd);
		} else {
			kills++;
		}
		EXPECT_EQ(-SIGKILL, reap(pid));
		EXPECT_GE(3, faults_to_read(self->map, 2 * UNIT));
		EXPECT_GE(3, faults_to_read(reader, 2 * UNIT));
		EXPECT_EQ(0UL, differs(self->map, 2 * UNIT, 3));
		EXPECT_EQ(0UL, differs(reader, 2 * UNIT, 3));
	}
	/* Control: some were reaped, and some killed for want of memory. */
	EXPECT_LE(1, released);
	EXPECT_LE(kills, cg_number(group, "memory.events", "oom_kill "));
	cg_remove(group);
}

static long badness(void)
{
	char text[32] = "";
	int fd = open("/proc/self/oom_score", O_RDONLY);
	ssize_t n = read(fd, text, sizeof(text) - 1);

	close(fd);
	return n > 0 ? atol(text) : -1;
}

/* Who uses much of a region gets a worse score by it, but once only. */
TEST_F_TIMEOUT(region, oom_score_counts_a_region_once, SECONDS)
{
	const int units = 32;
	long before, whole, little;
	char *p, *plain;
	size_t i;

	ASSERT_EQ(0, munmap(self->map, SIZE));
	ASSERT_EQ(0, ftruncate(self->fd, units * UNIT));
	before = badness();
	plain = map_plain(self->fd, RW, units * UNIT, 0);
	ASSERT_NE(MAP_FAILED, plain);
	for (i = 0; i < units * UNIT; i += PAGE)
		store(plain + i, 1);
	/* Control: it is seen in the score of an ordinary mapping. */
	whole = badness();
	EXPECT_LT(before + 2, whole);
	ASSERT_EQ(0, munmap(plain, units * UNIT));
	EXPECT_LE(badness(), before + 1);

	p = map_pt(self->fd, RW, units * UNIT, 0);
	ASSERT_NE(MAP_FAILED, p);
	for (i = 0; i < UNIT; i += PAGE)
		store(p + i, 1);
	little = badness();
	EXPECT_GE(before + (whole - before) / 4, little);
	/* Each piece could have all of it, but not all of them together. */
	for (i = 1; i < units; i += 2)
		ASSERT_EQ(0, munmap(p + i * UNIT, UNIT));
	EXPECT_GE(little + 1, badness());
	/* Nor if another region comes after each of them. */
	for (i = 1; i < units; i += 2)
		ASSERT_EQ(p + i * UNIT,
			  mmap(p + i * UNIT, UNIT, PROT_READ, PT | MAP_FIXED,
			       self->fd, i * UNIT));
	EXPECT_GE(little + 1, badness());

	p = map_pt(self->fd, RW, units * UNIT, 0);
	ASSERT_NE(MAP_FAILED, p);
	for (i = 0; i < units * UNIT; i += PAGE)
		store(p + i, 1);
	EXPECT_LE(whole - 1, badness());
	EXPECT_GE(whole + 2, badness());
}

/* ---- main --------------------------------------------------------------- */

static bool feature_present(void)
{
	int fd = memfd_create("shared_pt", 0);
	void *p = MAP_FAILED;

	if (fd >= 0 && !ftruncate(fd, UNIT))
		p = mmap(NULL, UNIT, RW, PT, fd, 0);
	if (fd >= 0)
		close(fd);
	if (p == MAP_FAILED)
		return errno != EOPNOTSUPP;
	munmap(p, UNIT);
	return true;
}

int main(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], AFTER_EXEC))
		return after_exec();

	if (getpagesize() != PAGE || !feature_present()) {
		ksft_print_header();
		ksft_exit_skip("the kernel has no MAP_SHARED_PT\n");
	}
	return test_harness_run(argc, argv);
}
