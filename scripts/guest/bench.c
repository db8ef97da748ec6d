// SPDX-License-Identifier: GPL-2.0-only
/*
 * Cost of shared page tables, and of what must not become dearer. Meant for a
 * guest with one CPU under icount, where a nanosecond is an instruction.
 * Prints "<name> <value> <unit>" lines; lines that begin with # are comments.
 *
 * usage: bench [-l] [-n PROCESSES] [-s MiB] [-r REPEATS] [CASE...]
 *
 * Each case runs in a process of its own on a file of its own, so that a case
 * gives the same figures alone and among others, and one that dies takes no
 * other along. Exit: 0 all cases done, 1 one failed.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.h"

#ifndef MAP_SHARED_PT
#define MAP_SHARED_PT	0x400000
#endif

#define PAGE		4096UL
#define UNIT		(2UL << 20)	/* what one page table maps */
#define MAX_PROCS	500

#define PLAIN		MAP_SHARED
#define SHARED		(MAP_SHARED_VALIDATE | MAP_SHARED_PT)

static int procs = 8;
static int repeats = 5;
static size_t size = 512UL << 20;

static long minflt(void)
{
	struct rusage ru;

	getrusage(RUSAGE_SELF, &ru);
	return ru.ru_minflt;
}

static void emit_mean_max(const char *name, const struct series *s,
			  const char *unit)
{
	char max[64];

	emit(name, (double)s->sum / s->n, unit);
	snprintf(max, sizeof(max), "%s_max", name);
	emit(max, s->max, unit);
}

/* ---- page tables in use -------------------------------------------------- */

static long proc_kb(const char *path, const char *key)
{
	char line[256];
	long kb = -1;
	FILE *f = fopen(path, "r");

	if (!f)
		die("%s: %s", path, strerror(errno));
	while (kb < 0 && fgets(line, sizeof(line), f)) {
		if (!strncmp(line, key, strlen(key)))
			kb = atol(line + strlen(key));
	}
	fclose(f);
	if (kb < 0)
		die("%s: no %s", path, key);
	return kb;
}

static long vmpte(pid_t pid)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	return proc_kb(path, "VmPTE:");
}

static long page_tables(void)
{
	char c;
	int fd = open("/proc/sys/vm/stat_refresh", O_RDONLY);

	/* makes each CPU add up what it has kept back */
	if (fd >= 0) {
		if (read(fd, &c, 1) < 0)
			errno = 0;
		close(fd);
	}
	return proc_kb("/proc/meminfo", "PageTables:");
}

/* Wait until no more tables are being freed. */
static long page_tables_at_rest(void)
{
	long last, kb = page_tables();

	do {
		last = kb;
		pause_ms(200);
		kb = page_tables();
	} while (kb < last);
	return kb;
}

/* ---- files and mappings -------------------------------------------------- */

/* A memfd with all its pages in the page cache. */
static int make_file(size_t len)
{
	static char buf[PAGE];
	size_t i;
	int fd = memfd_create("bench", MFD_CLOEXEC);

	if (fd < 0 || ftruncate(fd, len))
		die("memfd: %s", strerror(errno));
	buf[0] = 1;
	for (i = 0; i < len / PAGE; i++) {
		if (write(fd, buf, PAGE) != (ssize_t)PAGE)
			die("write to memfd: %s", strerror(errno));
	}
	return fd;
}

/* An address with len bytes of nothing behind it, a multiple of 2 MiB. */
static char *find_hole(size_t len)
{
	char *p = mmap(NULL, len + UNIT, PROT_NONE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED)
		die("no room for %zu MiB: %s", len >> 20, strerror(errno));
	munmap(p, len + UNIT);
	return (char *)(((unsigned long)p + UNIT - 1) & ~(UNIT - 1));
}

static char *map_at(char *addr, int fd, size_t len, int flags)
{
	char *p = mmap(addr, len, PROT_READ | PROT_WRITE, flags | MAP_FIXED,
		       fd, 0);

	if (p == MAP_FAILED)
		die("mmap with flags %#x: %s", flags, strerror(errno));
	return p;
}

static char *map_anon(size_t len)
{
	char *p = mmap(NULL, len, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		die("mmap: %s", strerror(errno));
	return p;
}

static void protect(char *p, size_t len, int prot)
{
	if (mprotect(p, len, prot))
		die("mprotect: %s", strerror(errno));
}

static void touch_read(const char *p, size_t len, size_t step)
{
	const char *end = p + len;

	/* the "memory" clobber keeps the load */
	for (; p < end; p += step)
		asm volatile("" : : "r" (*p) : "memory");
}

static void touch_write(char *p, size_t len)
{
	char *end = p + len;

	for (; p < end; p += PAGE) {
		*p = 1;
		asm volatile("" : : : "memory");
	}
}

static int have_shared_pt(void)
{
	int fd = make_file(UNIT);
	void *p = mmap(find_hole(UNIT), UNIT, PROT_READ | PROT_WRITE,
		       SHARED | MAP_FIXED, fd, 0);

	if (p == MAP_FAILED && errno != EOPNOTSUPP)
		die("mmap(MAP_SHARED_PT): %s", strerror(errno));
	if (p != MAP_FAILED)
		munmap(p, UNIT);
	close(fd);
	return p != MAP_FAILED;
}

/* ---- workers: processes that do one thing at a time when told ------------ */

enum command {
	CMD_TOUCH,		/* map the file, read every page */
	CMD_PROTECT,		/* mprotect all: read only ... */
	CMD_UNPROTECT,		/* ... and back */
	CMD_PROTECT_PAGE,	/* mprotect one page, there and back, often */
	CMD_CHURN,		/* map 2 MiB, read a byte, unmap, often */
	CMD_EXIT,
};

#define PAGE_LOOPS	500
#define CHURN_LOOPS	500

/* What a worker answers; sent before it does anything, too. */
struct answer {
	long map;		/* ns */
	long work;		/* ns */
	long faults;
};

struct job {
	int fd;
	size_t len;
	int flags;
};

struct worker {
	pid_t pid;
	int to, from;
};

static void do_touch(const struct job *job, char *addr, struct answer *a)
{
	long t0, t1, faults = minflt();

	t0 = now();
	map_at(addr, job->fd, job->len, job->flags);
	t1 = now();
	touch_read(addr, job->len, PAGE);
	a->work = now() - t1;
	a->map = t1 - t0;
	a->faults = minflt() - faults;
}

static void do_protect(const struct job *job, char *addr, int prot,
		       struct answer *a)
{
	long t0 = now();

	protect(addr, job->len, prot);
	a->work = now() - t0;
}

static void do_protect_page(const struct job *job, char *addr,
			    struct answer *a)
{
	char *p = addr + job->len / 2 + 8 * PAGE;
	long t0 = now();
	int i;

	for (i = 0; i < PAGE_LOOPS; i++) {
		protect(p, PAGE, PROT_READ);
		protect(p, PAGE, PROT_READ | PROT_WRITE);
	}
	a->work = now() - t0;
}

static void do_churn(const struct job *job, struct answer *a)
{
	char *addr = find_hole(UNIT);
	long t0 = now();
	int i;

	for (i = 0; i < CHURN_LOOPS; i++) {
		map_at(addr, job->fd, UNIT, job->flags);
		touch_read(addr, 1, 1);
		if (munmap(addr, UNIT))
			die("munmap: %s", strerror(errno));
	}
	a->work = now() - t0;
}

static void answer(int fd, const struct answer *a)
{
	if (write(fd, a, sizeof(*a)) != sizeof(*a))
		_exit(1);
}

static void work(int in, int out, const struct job *job)
{
	char *addr = find_hole(job->len);
	struct answer a = { .faults = minflt() };
	char cmd;

	a.work = now();
	answer(out, &a);
	while (read(in, &cmd, 1) == 1 && cmd != CMD_EXIT) {
		memset(&a, 0, sizeof(a));
		switch (cmd) {
		case CMD_TOUCH:
			do_touch(job, addr, &a);
			break;
		case CMD_PROTECT:
			do_protect(job, addr, PROT_READ, &a);
			break;
		case CMD_UNPROTECT:
			do_protect(job, addr, PROT_READ | PROT_WRITE, &a);
			break;
		case CMD_PROTECT_PAGE:
			do_protect_page(job, addr, &a);
			break;
		case CMD_CHURN:
			do_churn(job, &a);
			break;
		}
		answer(out, &a);
	}
	_exit(0);
}

static struct answer hear(const struct worker *w)
{
	struct answer a;

	if (read(w->from, &a, sizeof(a)) != sizeof(a))
		die("worker %d died", w->pid);
	return a;
}

static void say(const struct worker *w, char cmd)
{
	if (write(w->to, &cmd, 1) != 1)
		die("worker %d is gone", w->pid);
}

static struct answer tell(const struct worker *w, char cmd)
{
	say(w, cmd);
	return hear(w);
}

static struct worker start(const struct job *job)
{
	struct worker w;
	int to[2], from[2];

	if (pipe2(to, O_CLOEXEC) || pipe2(from, O_CLOEXEC))
		die("pipe: %s", strerror(errno));
	fflush(stdout);
	w.pid = fork();
	if (w.pid < 0)
		die("fork: %s", strerror(errno));
	if (!w.pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(to[1]);
		close(from[0]);
		work(to[0], from[1], job);
	}
	close(to[0]);
	close(from[1]);
	w.to = to[1];
	w.from = from[0];
	hear(&w);
	return w;
}

/* Let a worker exit; how long until it is gone. */
static long stop(struct worker *w)
{
	int status;
	long t0 = now(), t1;
	pid_t pid;

	say(w, CMD_EXIT);
	pid = waitpid(w->pid, &status, 0);
	t1 = now();
	if (pid != w->pid || status)
		die("worker %d ended with status %#x", w->pid, status);
	close(w->to);
	close(w->from);
	return t1 - t0;
}

/* ---- each further process ------------------------------------------------ */

static void further(int flags)
{
	struct job job = { .fd = make_file(size), .len = size, .flags = flags };
	struct series map = { 0 }, touch = { 0 }, faults = { 0 };
	struct series exits = { 0 }, tables = { 0 };
	long before, with_first, idle_kb, delta;
	struct worker first, idle, w[MAX_PROCS];
	struct answer a;
	int i;

	before = page_tables_at_rest();
	idle = start(&job);
	first = start(&job);
	a = tell(&first, CMD_TOUCH);
	emit("first_touch", a.work, "instr");

	with_first = page_tables();
	for (i = 0; i < procs; i++) {
		w[i] = start(&job);
		a = tell(&w[i], CMD_TOUCH);
		add(&map, a.map);
		add(&touch, a.work);
		add(&faults, a.faults);
	}
	delta = page_tables() - with_first;
	for (i = 0; i < procs; i++)
		add(&tables, vmpte(w[i].pid));
	idle_kb = vmpte(idle.pid);
	for (i = 0; i < procs; i++)
		add(&exits, stop(&w[i]));

	emit_mean_max("vmpte", &tables, "kB");
	emit("vmpte_idle", idle_kb, "kB");
	emit("pagetables", (double)delta / procs, "kB");
	emit_mean_max("faults", &faults, "faults");
	/* the cheapest: a timer interrupt in one of the calls shows in the mean */
	emit("mmap", map.min, "instr");
	emit_mean_max("touch", &touch, "instr");
	emit_mean_max("exit", &exits, "instr");
	emit("exit_idle", stop(&idle), "instr");
	emit("exit_last", stop(&first), "instr");
	emit("pagetables_left", page_tables_at_rest() - before, "kB");
}

/* ---- mprotect of everything, for everybody ------------------------------- */

static void protect_all(int flags)
{
	struct job job = { .fd = make_file(size), .len = size, .flags = flags };
	/* the flag's mprotect acts on all sharers: one call is enough */
	int i, r, calls = flags == SHARED ? 1 : procs;
	struct series down = { 0 }, up = { 0 };
	struct worker w[MAX_PROCS];
	long sum;

	for (i = 0; i < procs; i++) {
		w[i] = start(&job);
		tell(&w[i], CMD_TOUCH);
	}
	for (r = 0; r < repeats; r++) {
		for (i = 0, sum = 0; i < calls; i++)
			sum += tell(&w[i], CMD_PROTECT).work;
		add(&down, sum);
		for (i = 0, sum = 0; i < calls; i++)
			sum += tell(&w[i], CMD_UNPROTECT).work;
		add(&up, sum);
	}
	emit("calls", calls, "calls");
	emit("to_read_only", down.min, "instr");
	emit("to_writable", up.min, "instr");
	for (i = 0; i < procs; i++)
		stop(&w[i]);
}

/* ---- where sharing costs ------------------------------------------------- */

static void first_touch(int flags)
{
	struct job job = { .fd = make_file(size), .len = size, .flags = flags };
	struct series touch = { 0 }, exits = { 0 };
	struct worker w;
	int r;

	for (r = 0; r < repeats; r++) {
		page_tables_at_rest();
		w = start(&job);
		add(&touch, tell(&w, CMD_TOUCH).work);
		add(&exits, stop(&w));
	}
	emit("touch", touch.min, "instr");
	emit("exit", exits.min, "instr");
}

static void protect_page(int flags)
{
	struct job job = { .fd = make_file(size), .len = size, .flags = flags };
	struct series loop = { 0 };
	struct worker w = start(&job);
	int r;

	tell(&w, CMD_TOUCH);
	for (r = 0; r < repeats; r++)
		add(&loop, tell(&w, CMD_PROTECT_PAGE).work);
	emit("call", loop.min / (2.0 * PAGE_LOOPS), "instr");
	stop(&w);
}

/*
 * With a holder the region lives on; without, it is made and dies each time,
 * and what has not died by the end of a loop is left_after.
 */
static void churn(int flags, int with_holder)
{
	struct job job = { .fd = make_file(size), .len = size, .flags = flags };
	struct series loop = { 0 }, left = { 0 };
	struct worker w, holder;
	long before;
	int r;

	if (with_holder) {
		holder = start(&job);
		tell(&holder, CMD_TOUCH);
	}
	w = start(&job);
	tell(&w, CMD_CHURN);
	for (r = 0; r < repeats; r++) {
		before = page_tables_at_rest();
		add(&loop, tell(&w, CMD_CHURN).work);
		add(&left, page_tables() - before);
	}
	emit("cycle", (double)loop.min / CHURN_LOOPS, "instr");
	emit("left_after", left.max, "kB");
	stop(&w);
	if (with_holder)
		stop(&holder);
}

static void churn_alone(int flags)
{
	churn(flags, 0);
}

static void churn_guest(int flags)
{
	churn(flags, 1);
}

/* ---- plain processes ----------------------------------------------------- */

#define FORK_LEN	(64UL << 20)
#define SMALL_LEN	(64UL << 10)
#define SMALL_LOOPS	1000
#define FAULT_LEN	(16UL << 20)
#define FILE_LEN	(64UL << 20)
#define AROUND		(64UL << 10)	/* a read fault of a file maps this */
#define PROTECT_LEN	(4UL << 20)
#define PROTECT_LOOPS	50

static void proc_fork(int unused)
{
	struct series forks = { 0 }, exits = { 0 }, all = { 0 };
	char *p = map_anon(FORK_LEN);
	long t0, t1, t2, t3;
	int r, status, fds[2];
	pid_t pid;
	char c;

	(void)unused;
	madvise(p, FORK_LEN, MADV_NOHUGEPAGE);
	touch_write(p, FORK_LEN);
	if (pipe2(fds, O_CLOEXEC))
		die("pipe: %s", strerror(errno));
	for (r = 0; r < repeats; r++) {
		/* the child waits, so that fork and exit do not mingle */
		t0 = now();
		pid = fork();
		if (!pid)
			_exit(read(fds[0], &c, 1) != 1);
		t1 = now();
		if (pid < 0)
			die("fork: %s", strerror(errno));
		pause_ms(20);
		t2 = now();
		if (write(fds[1], "", 1) != 1 || waitpid(pid, &status, 0) != pid)
			die("child: %s", strerror(errno));
		t3 = now();
		if (status)
			die("child ended with status %#x", status);
		add(&forks, t1 - t0);
		add(&exits, t3 - t2);
		add(&all, t1 - t0 + t3 - t2);
	}
	emit("fork", forks.min, "instr");
	emit("exit_wait", exits.min, "instr");
	emit("fork_exit_wait", all.min, "instr");
}

static void proc_mmap(int unused)
{
	struct series s = { 0 };
	char *p;
	long t0;
	int i, r;

	(void)unused;
	for (r = 0; r <= repeats; r++) {
		t0 = now();
		for (i = 0; i < SMALL_LOOPS; i++) {
			p = map_anon(SMALL_LEN);
			touch_write(p, SMALL_LEN);
			munmap(p, SMALL_LEN);
		}
		add(&s, now() - t0);
	}
	emit("mmap_touch_munmap_64k", (double)s.min / SMALL_LOOPS, "instr");
}

/*
 * plain.mmap is one call; these say what a call costs for certain: the cheapest one, for
 * which neither a slab nor RCU had to do anything else. When they do differs from boot to
 * boot, by more than what two kernels do, as the mean of all calls shows. Nothing is
 * touched; munmap() looks at more if there is a page table, because of a page beside.
 */
static void proc_mmap_file(int unused)
{
	int i, fd = make_file(SMALL_LEN);
	char *addr = find_hole(3 * UNIT) + UNIT;
	struct series alone = { 0 }, beside = { 0 };
	long t0;

	(void)unused;
	for (i = 0; i < 8 * repeats * SMALL_LOOPS; i++) {
		if (i == 4 * repeats * SMALL_LOOPS)
			*map_at(addr + SMALL_LEN, fd, PAGE, MAP_SHARED) = 1;
		t0 = now();
		map_at(addr, fd, SMALL_LEN, MAP_SHARED);
		munmap(addr, SMALL_LEN);
		add(i < 4 * repeats * SMALL_LOOPS ? &alone : &beside, now() - t0);
	}
	emit("mmap_munmap_file", alone.min, "instr");
	emit("mmap_munmap_file_mean", (double)alone.sum / alone.n, "instr");
	emit("mmap_munmap_file_beside", beside.min, "instr");
}

static void proc_anon(int unused)
{
	struct series fault = { 0 }, unmap = { 0 };
	long t0, t1, t2;
	char *p;
	int r;

	(void)unused;
	for (r = 0; r <= repeats; r++) {
		p = map_anon(FAULT_LEN);
		madvise(p, FAULT_LEN, MADV_NOHUGEPAGE);
		t0 = now();
		touch_write(p, FAULT_LEN);
		t1 = now();
		munmap(p, FAULT_LEN);
		t2 = now();
		add(&fault, t1 - t0);
		add(&unmap, t2 - t1);
	}
	emit("anon_fault", (double)fault.min / (FAULT_LEN / PAGE), "instr");
	emit("anon_munmap_16m", unmap.min, "instr");
}

static void proc_file(int unused)
{
	struct series rd = { 0 }, wr = { 0 }, unmap = { 0 };
	int r, fd = make_file(FILE_LEN);
	char *addr = find_hole(FILE_LEN);
	long t0, t1, t2;

	(void)unused;
	for (r = 0; r <= repeats; r++) {
		map_at(addr, fd, FILE_LEN, MAP_SHARED);
		t0 = now();
		touch_read(addr, FILE_LEN, AROUND);
		t1 = now();
		munmap(addr, FILE_LEN);
		t2 = now();
		add(&rd, t1 - t0);
		add(&unmap, t2 - t1);

		map_at(addr, fd, FAULT_LEN, MAP_SHARED);
		t0 = now();
		touch_write(addr, FAULT_LEN);
		add(&wr, now() - t0);
		munmap(addr, FAULT_LEN);
	}
	emit("file_read_fault", (double)rd.min / (FILE_LEN / AROUND), "instr");
	emit("file_write_fault", (double)wr.min / (FAULT_LEN / PAGE), "instr");
	emit("file_munmap_64m", unmap.min, "instr");
}

static void proc_mprotect(int unused)
{
	struct series s = { 0 };
	char *p = map_anon(PROTECT_LEN);
	long t0;
	int i, r;

	(void)unused;
	madvise(p, PROTECT_LEN, MADV_NOHUGEPAGE);
	touch_write(p, PROTECT_LEN);
	for (r = 0; r <= repeats; r++) {
		t0 = now();
		for (i = 0; i < PROTECT_LOOPS; i++) {
			protect(p, PROTECT_LEN, PROT_READ);
			protect(p, PROTECT_LEN, PROT_READ | PROT_WRITE);
		}
		add(&s, now() - t0);
	}
	emit("mprotect_4m", s.min / (2.0 * PROTECT_LOOPS), "instr");
}

/* ---- the cases ------------------------------------------------------------ */

struct bench {
	const char *name;	/* for the command line */
	const char *prefix;	/* of the lines it prints */
	void (*run)(int flags);
	int flags;
	const char *what;
};

static const struct bench cases[] = {
	{ "further.plain", "plain", further, PLAIN,
	  "each further process that maps and reads a file" },
	{ "further.shared_pt", "shared_pt", further, SHARED,
	  "the same with MAP_SHARED_PT" },
	{ "proc.fork", "proc", proc_fork, 0,
	  "fork, exit, wait with 64 MiB of touched memory" },
	{ "proc.mmap", "proc", proc_mmap, 0,
	  "mmap, touch, munmap of 64 KiB" },
	{ "proc.mmap_file", "proc", proc_mmap_file, 0,
	  "mmap and munmap of a file that is not touched" },
	{ "proc.anon", "proc", proc_anon, 0,
	  "anonymous faults, munmap of 16 MiB" },
	{ "proc.file", "proc", proc_file, 0,
	  "file faults with MAP_SHARED, munmap of 64 MiB" },
	{ "proc.mprotect", "proc", proc_mprotect, 0,
	  "mprotect of 4 MiB" },
	{ "mprotect.plain", "mprotect.plain", protect_all, PLAIN,
	  "protect the file's memory in all processes, a call in each" },
	{ "mprotect.shared_pt", "mprotect.shared_pt", protect_all, SHARED,
	  "the same with MAP_SHARED_PT, one call" },
	{ "lose.first_touch.plain", "lose.first_touch.plain",
	  first_touch, PLAIN, "the only process that maps and reads a file" },
	{ "lose.first_touch.shared_pt", "lose.first_touch.shared_pt",
	  first_touch, SHARED, "the same with MAP_SHARED_PT: a new region" },
	{ "lose.mprotect_page.plain", "lose.mprotect_page.plain",
	  protect_page, PLAIN, "mprotect of one page, in the only process" },
	{ "lose.mprotect_page.shared_pt", "lose.mprotect_page.shared_pt",
	  protect_page, SHARED, "the same with MAP_SHARED_PT: flushes all CPUs" },
	{ "lose.churn_alone.plain", "lose.churn_alone.plain",
	  churn_alone, PLAIN, "map, read a byte, unmap 2 MiB" },
	{ "lose.churn_alone.shared_pt", "lose.churn_alone.shared_pt",
	  churn_alone, SHARED, "the same with MAP_SHARED_PT: regions come and go" },
	{ "lose.churn_guest.plain", "lose.churn_guest.plain",
	  churn_guest, PLAIN, "the same while another process has the file mapped" },
	{ "lose.churn_guest.shared_pt", "lose.churn_guest.shared_pt",
	  churn_guest, SHARED, "the same with MAP_SHARED_PT: the region lives" },
};

#define ARRAY_SIZE(a)	(sizeof(a) / sizeof((a)[0]))
#define NR_CASES	ARRAY_SIZE(cases)

/* "lose" selects all of "lose.", "lose.churn_alone" both of its kind. */
static int selects(const char *arg, const char *name)
{
	size_t len = strlen(arg);

	return !strncmp(arg, name, len) && (!name[len] || name[len] == '.');
}

static int run(const struct bench *b)
{
	int status;
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (pid < 0)
		die("fork: %s", strerror(errno));
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		prefix = b->prefix;
		b->run(b->flags);
		exit(0);
	}
	if (waitpid(pid, &status, 0) == pid && !status)
		return 0;
	printf("# failed: %s, status %#x\n", b->name, status);
	return 1;
}

static long to_long(const char *arg, const char *what, long min, long max)
{
	char *end;
	long n = strtol(arg, &end, 10);

	if (end == arg || *end || n < min || n > max)
		die("%s takes a number from %ld to %ld: %s", what, min, max, arg);
	return n;
}

static void list(void)
{
	size_t c;

	for (c = 0; c < NR_CASES; c++)
		printf("%-30s %s\n", cases[c].name, cases[c].what);
}

int main(int argc, char **argv)
{
	int opt, i, shared, failed = 0, selected[NR_CASES] = { 0 };
	struct rlimit files;
	size_t c;

	while ((opt = getopt(argc, argv, "ln:s:r:h")) != -1) {
		switch (opt) {
		case 'l':
			list();
			return 0;
		case 'n':
			procs = to_long(optarg, "-n", 1, MAX_PROCS);
			break;
		case 's':
			size = to_long(optarg, "-s", 2, 1 << 20) << 20;
			break;
		case 'r':
			repeats = to_long(optarg, "-r", 1, 1000);
			break;
		default:
			fprintf(opt == 'h' ? stdout : stderr,
				"usage: bench [-l] [-n PROCESSES] [-s MiB] [-r REPEATS] [CASE...]\n"
				"A CASE is a name that -l lists, or the beginning of some.\n"
				"Default: -n 8 -s 512 -r 5, all cases; MiB are even.\n");
			return opt != 'h';
		}
	}
	if (size % UNIT)
		die("-s must be even: page tables are shared in units of 2 MiB");
	for (i = optind; i < argc; i++) {
		int found = 0;

		for (c = 0; c < NR_CASES; c++) {
			if (selects(argv[i], cases[c].name)) {
				selected[c] = 1;
				found = 1;
			}
		}
		if (!found)
			die("no case %s; bench -l lists them", argv[i]);
	}
	if (!getrlimit(RLIMIT_NOFILE, &files)) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	signal(SIGPIPE, SIG_IGN);
	setvbuf(stdout, NULL, _IOLBF, 0);

	shared = have_shared_pt();
	printf("# bench: %d further processes, %zu MiB, best of %d\n", procs,
	       size >> 20, repeats);
	for (c = 0; c < NR_CASES; c++) {
		if (optind < argc && !selected[c])
			continue;
		if (cases[c].flags == SHARED && !shared) {
			printf("# left out, no MAP_SHARED_PT here: %s\n",
			       cases[c].name);
			continue;
		}
		failed |= run(&cases[c]);
	}
	return failed;
}
