// SPDX-License-Identifier: GPL-2.0-only
/*
 * Cost of fork, of the child's exit, and of writing to memory afterwards, with PTE
 * tables shared copy-on-write where the kernel can. Meant for a guest with one CPU
 * under icount, where a nanosecond is an instruction. Prints "<name> <value> <unit>"
 * lines.
 *
 * usage: bench-cow [-r REPEATS] [CASE...]
 *
 * Cases: 1 64 256 1024 8192 (MiB of 4 KiB pages; 8192 only when asked for), thp
 * (1 GiB of huge pages), children (16 that stay), server (a loop that forks for each
 * request), file (256 MiB of a private file, only read, that the child reads), data
 * (the same with one page in each 2 MiB written to).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.h"

#ifndef PR_SET_COW_PTE
#define PR_SET_COW_PTE	0x434f5750
#endif

#define PAGE	4096UL
#define PMD	(2UL << 20)
/* More is not copied whole, for which there would have to be memory. */
#define MOST_TWICE	(1UL << 30)

static size_t size;
static int repeats = 3;
static int go[2], told[2];	/* pipes: to a child, and from it */

static char *memory(void)
{
	char *p = mmap(NULL, size + PMD, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		die("mmap: %s", strerror(errno));
	p = (char *)(((unsigned long)p + PMD - 1) & -PMD);
	madvise(p, size, MADV_NOHUGEPAGE);
	return p;
}

static void touch(char *p, size_t step)
{
	char *end = p + size;

	for (; p < end; p += step)
		*(volatile char *)p += 1;
}

/* Read each page. */
static void look(char *p)
{
	char *end = p + size;

	for (; p < end; p += PAGE)
		*(volatile char *)p;
}

/* Each page once, in an order without neighbours: a generator of full period. */
static void touch_random(char *p)
{
	size_t n = size / PAGE, page = 0, i;

	for (i = 0; i < n; i++) {
		page = (page * 1103515245 + 12345) & (n - 1);
		*(volatile char *)(p + page * PAGE) += 1;
	}
}

/* The number after @key in a file of /proc */
static long number(const char *file, const char *key)
{
	FILE *f = fopen(file, "r");
	char line[256];
	long n = -1;

	while (n < 0 && fgets(line, sizeof(line), f))
		if (!strncmp(line, key, strlen(key)))
			n = atol(line + strlen(key));
	fclose(f);
	return n;
}

/* With what each CPU has not yet reported. */
static long page_tables(void)
{
	int fd = open("/proc/sys/vm/stat_refresh", O_WRONLY);

	if (fd < 0 || write(fd, "1", 1) != 1)
		die("stat_refresh");
	close(fd);
	return number("/proc/meminfo", "PageTables:");
}

static long status(const char *key)
{
	return number("/proc/self/status", key);
}

struct told {
	long vmpte, rss, took;
};

/* A child that tells what it has, and waits. */
static pid_t child(long *took, struct told *what)
{
	long t0 = now();
	pid_t pid = fork();
	char c;

	if (!pid) {
		struct told t = { status("VmPTE:"), status("VmRSS:"), 0 };

		if (write(told[1], &t, sizeof(t)) != sizeof(t) || read(go[0], &c, 1) != 1)
			_exit(1);
		_exit(0);
	}
	*took = now() - t0;
	if (pid < 0)
		die("fork: %s", strerror(errno));
	if (read(told[0], what, sizeof(*what)) != sizeof(*what))
		die("a child failed");
	pause_ms(20);
	return pid;
}

static long dismiss(pid_t pid)
{
	long t0 = now();
	int st;

	if (write(go[1], "", 1) != 1 || waitpid(pid, &st, 0) != pid || st)
		die("a child failed");
	return now() - t0;
}

static void bench(void)
{
	struct series first = { 0 }, again = { 0 }, leave = { 0 }, exec = { 0 };
	struct series alive = { 0 }, gone = { 0 }, table = { 0 }, second = { 0 };
	struct series scattered = { 0 };
	struct told what = { 0 };
	long t0, took;
	char *p = memory();
	pid_t pid;
	int r, st;

	for (r = 0; r < repeats; r++) {
		touch(p, PAGE);
		/* All was written to since the last fork. */
		pid = child(&took, &what);
		add(&first, took);
		add(&leave, dismiss(pid));
		/* Nothing was. */
		pid = child(&took, &what);
		add(&again, took);
		add(&leave, dismiss(pid));
		/* The child is gone. */
		t0 = now();
		touch(p, PAGE);
		add(&gone, now() - t0);
		/* One write in each 2 MiB. */
		pid = child(&took, &what);
		t0 = now();
		touch(p, PMD);
		add(&table, (now() - t0) / (size / PMD ? size / PMD : 1));
		dismiss(pid);
		t0 = now();
		pid = fork();
		if (!pid) {
			execl("/bin/true", "true", NULL);
			_exit(1);
		}
		if (waitpid(pid, &st, 0) != pid || st)
			die("exec of /bin/true");
		add(&exec, now() - t0);
		if (size > MOST_TWICE)
			continue;
		/* The child is there. */
		pid = child(&took, &what);
		t0 = now();
		touch(p, PAGE);
		add(&alive, now() - t0);
		t0 = now();
		touch(p, PAGE);
		add(&second, now() - t0);
		dismiss(pid);
		pid = child(&took, &what);
		t0 = now();
		touch_random(p);
		add(&scattered, now() - t0);
		dismiss(pid);
	}
	emit("fork_first", first.min, "instr");
	emit("fork_again", again.min, "instr");
	emit("exit", leave.min, "instr");
	emit("fork_exec", exec.min, "instr");
	emit("vmpte_child", what.vmpte, "kB");
	emit("rss_child", what.rss, "kB");
	emit("write_gone", gone.min, "instr");
	emit("write_table", table.min, "instr");
	if (alive.n) {
		emit("write_alive", alive.min, "instr");
		emit("fork_and_write", first.min + alive.min, "instr");
		emit("write_again", second.min, "instr");
		emit("write_random", scattered.min, "instr");
	}
	munmap(p, size);
}

/* Huge pages have no PTE tables to share: nothing may be lost. */
static void thp(void)
{
	struct series first = { 0 }, leave = { 0 };
	struct told what;
	char *p, *q;
	long took;
	pid_t pid;
	int r;

	size = 1UL << 30;
	p = memory();
	madvise(p, size, MADV_HUGEPAGE);
	/* No read first, which would map zeroes; and once, as a write splits what is shared. */
	for (q = p; q < p + size; q += PMD)
		*(volatile char *)q = 1;
	emit("huge", number("/proc/meminfo", "AnonHugePages:"), "kB");
	for (r = 0; r < repeats; r++) {
		pid = child(&took, &what);
		add(&first, took);
		add(&leave, dismiss(pid));
	}
	emit("fork", first.min, "instr");
	emit("exit", leave.min, "instr");
	munmap(p, size);
}

/* Children that only are there, as the workers of a server before they work. */
static void children(void)
{
	long before, sum = 0, took;
	struct told what;
	pid_t pids[16];
	char *p;
	int i;

	/* What came before is freed by RCU. */
	pause_ms(500);
	before = page_tables();
	size = 256UL << 20;
	p = memory();
	touch(p, PAGE);
	for (i = 0; i < 16; i++) {
		pids[i] = child(&took, &what);
		sum += what.vmpte;
	}
	emit("vmpte_sum", sum, "kB");
	emit("pagetables", page_tables() - before, "kB");
	for (i = 0; i < 16; i++)
		if (write(go[1], "", 1) != 1)
			die("write");
	for (i = 0; i < 16; i++)
		waitpid(pids[i], NULL, 0);
	munmap(p, size);
	pause_ms(500);
	emit("pagetables_left", page_tables() - before, "kB");
}

/* A server that forks for each request, as fuzzers do; the child uses little. */
static void server(void)
{
	struct series turn = { 0 };
	char *p;
	int r, i, st;

	size = 64UL << 20;
	p = memory();
	touch(p, PAGE);
	for (r = 0; r < 20; r++) {
		long t0 = now();
		pid_t pid = fork();

		if (!pid) {
			for (i = 0; i < 16; i++)
				*(volatile char *)(p + i * PAGE) += 1;
			_exit(0);
		}
		if (waitpid(pid, &st, 0) != pid || st)
			die("a child failed");
		add(&turn, now() - t0);
	}
	emit("turn", turn.sum / turn.n, "instr");
	munmap(p, size);
}

/* Private memory of a file, of which the parent has written to a page each @step bytes. */
static void private_file(size_t step)
{
	struct series first = { 0 }, reading = { 0 }, leave = { 0 };
	struct told what = { 0 };
	int r, fd = memfd_create("bench", 0);
	long t0, took;
	char *p, *q;
	pid_t pid;

	size = 256UL << 20;
	p = memory();
	if (fd < 0 || ftruncate(fd, size) ||
	    mmap(p, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, fd, 0) != p)
		die("memfd: %s", strerror(errno));
	for (q = p; q < p + size; q += PAGE)
		if (pwrite(fd, "1", 1, q - p) != 1)
			die("pwrite: %s", strerror(errno));
	for (r = 0; r < repeats; r++) {
		look(p);
		if (step)
			touch(p, step);
		t0 = now();
		pid = fork();
		took = now() - t0;
		if (!pid) {
			t0 = now();
			look(p);
			what.took = now() - t0;
			what.vmpte = status("VmPTE:");
			if (write(told[1], &what, sizeof(what)) != sizeof(what) ||
			    read(go[0], &what, 1) != 1)
				_exit(1);
			_exit(0);
		}
		if (pid < 0 || read(told[0], &what, sizeof(what)) != sizeof(what))
			die("fork: %s", strerror(errno));
		pause_ms(20);
		add(&first, took);
		add(&reading, what.took);
		add(&leave, dismiss(pid));
	}
	emit("fork", first.min, "instr");
	emit("child_reads", reading.min, "instr");
	emit("exit", leave.min, "instr");
	emit("vmpte_child", what.vmpte, "kB");
	munmap(p, size);
	close(fd);
}

static void file(void)
{
	private_file(0);
}

static void data(void)
{
	private_file(PMD);
}

static bool wanted(int argc, char **argv, const char *name)
{
	int i;

	for (i = optind; i < argc && strcmp(argv[i], name); i++)
		;
	return i < argc;
}

int main(int argc, char **argv)
{
	static const char * const sizes[] = { "1", "64", "256", "1024", "8192" };
	static const struct {
		const char *name;
		void (*run)(void);
	} others[] = { { "thp", thp }, { "children", children }, { "server", server },
			{ "file", file }, { "data", data } };
	static char name[32];
	size_t i;
	int opt;

	while ((opt = getopt(argc, argv, "r:")) != -1) {
		if (opt == 'r')
			repeats = atoi(optarg);
		else
			die("usage: %s [-r REPEATS] [CASE...]", argv[0]);
	}
	if (pipe(go) || pipe(told))
		die("pipe");
	printf("# bench-cow: anonymous memory of 4 KiB pages, best of %d, PR_SET_COW_PTE %s\n",
	       repeats, prctl(PR_SET_COW_PTE, 1, 0, 0, 0) ? "unknown" : "on");
	prefix = name;
	for (i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
		size = strtoul(sizes[i], NULL, 10) << 20;
		if (optind == argc ? size > MOST_TWICE : !wanted(argc, argv, sizes[i]))
			continue;
		snprintf(name, sizeof(name), "cow.%sM", sizes[i]);
		bench();
	}
	for (i = 0; i < sizeof(others) / sizeof(*others); i++) {
		if (optind < argc && !wanted(argc, argv, others[i].name))
			continue;
		snprintf(name, sizeof(name), "cow.%s", others[i].name);
		others[i].run();
	}
	return 0;
}
