// SPDX-License-Identifier: GPL-2.0-only
/*
 * What MAP_SHARED_PT saves, at a glance: N processes map one memfd and read
 * every page of it, first without the flag, then with it.
 *
 * usage: demo [-n PROCESSES] [-s MiB]
 * Exit: 0 done, 1 failed, 4 this kernel has no MAP_SHARED_PT.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef MAP_SHARED_PT
#define MAP_SHARED_PT	0x400000
#endif

#define UNIT		(2UL << 20)	/* what one page table maps */
#define MAX_PROCS	2000
#define BAR		45		/* columns of the longest bar */
#define EXIT_SKIP	4

struct kid {
	pid_t pid;
	int fd;
};

/* What a child has to say when it has read everything. */
struct report {
	const char *failed;	/* a string constant, the same in all processes */
	int error;
	long faults;
};

struct outcome {
	const char *name;
	long tables;		/* kB, growth of PageTables in /proc/meminfo */
	long vmpte;		/* kB, sum of VmPTE over the processes */
	long faults;
	double seconds;
};

static struct kid kids[MAX_PROCS];
static int procs = 64;
static size_t size = 512UL << 20;
static long page;

static void die(const char *fmt, ...)
{
	va_list ap;

	fflush(stdout);
	fprintf(stderr, "demo: ");
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fprintf(stderr, "\n");
	exit(1);
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

/* The number of kB after a key in a file of /proc. */
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

static long page_tables(void)
{
	char c;
	int fd = open("/proc/sys/vm/stat_refresh", O_RDONLY);

	/* root gets exact counters: each CPU adds up what it has kept back */
	if (fd >= 0) {
		if (read(fd, &c, 1) < 0)
			errno = 0;
		close(fd);
	}
	return proc_kb("/proc/meminfo", "PageTables:");
}

/* The same, once tables of processes that are gone have been freed. */
static long page_tables_at_rest(void)
{
	const struct timespec wait = { .tv_nsec = 50 * 1000 * 1000 };
	long last, kb = page_tables();

	do {
		last = kb;
		nanosleep(&wait, NULL);
		kb = page_tables();
	} while (kb < last);
	return kb;
}

/* Map len bytes of fd at a multiple of 2 MiB, which the flag asks for. */
static unsigned char *map(int fd, size_t len, int flags)
{
	unsigned long addr;
	void *hole;

	hole = mmap(NULL, len + UNIT, PROT_NONE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (hole == MAP_FAILED)
		return hole;
	addr = ((unsigned long)hole + UNIT - 1) & ~(UNIT - 1);
	return mmap((void *)addr, len, PROT_READ | PROT_WRITE,
		    flags | MAP_FIXED, fd, 0);
}

static int make_memfd(size_t len)
{
	int fd = memfd_create("demo", MFD_CLOEXEC);

	if (fd < 0)
		die("memfd_create: %s", strerror(errno));
	if (ftruncate(fd, len))
		die("ftruncate: %s", strerror(errno));
	return fd;
}

static int have_shared_pt(void)
{
	int fd = make_memfd(UNIT);
	void *p = map(fd, UNIT, MAP_SHARED_VALIDATE | MAP_SHARED_PT);

	if (p == MAP_FAILED && errno != EOPNOTSUPP)
		die("mmap(MAP_SHARED_PT): %s", strerror(errno));
	if (p != MAP_FAILED)
		munmap(p, UNIT);
	close(fd);
	return p != MAP_FAILED;
}

/* Every page begins with a byte of its own, so that readers can check. */
static unsigned char mark(size_t i)
{
	return i * 7 + 1;
}

static void populate(int fd)
{
	unsigned char *buf = calloc(1, page);
	size_t i;

	if (!buf)
		die("out of memory");
	for (i = 0; i < size / page; i++) {
		buf[0] = mark(i);
		if (write(fd, buf, page) != page)
			die("no room for %zu MiB of data: %s", size >> 20,
			    strerror(errno));
	}
	free(buf);
}

static struct report read_all(int fd, int flags)
{
	struct report rep = { .failed = NULL };
	struct rusage before, after;
	unsigned char *p;
	size_t i;

	getrusage(RUSAGE_SELF, &before);
	p = map(fd, size, flags);
	if (p == MAP_FAILED) {
		rep.failed = "mmap";
		rep.error = errno;
		return rep;
	}
	for (i = 0; i < size / page; i++) {
		if (p[i * page] != mark(i)) {
			rep.failed = "wrong data";
			rep.error = EIO;
			break;
		}
	}
	getrusage(RUSAGE_SELF, &after);
	rep.faults = after.ru_minflt - before.ru_minflt;
	return rep;
}

static void child(int sock, int fd, int flags)
{
	struct report rep;
	char c;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (read(sock, &c, 1) != 1)
		_exit(1);
	rep = read_all(fd, flags);
	if (write(sock, &rep, sizeof(rep)) != sizeof(rep))
		_exit(1);
	/* stay alive until everything is counted */
	_exit(read(sock, &c, 1) != 1);
}

static void start(struct kid *k, int fd, int flags)
{
	int s[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, s))
		die("socketpair: %s", strerror(errno));
	fflush(stdout);
	k->pid = fork();
	if (k->pid < 0)
		die("fork: %s", strerror(errno));
	if (!k->pid) {
		close(s[0]);
		child(s[1], fd, flags);
	}
	close(s[1]);
	k->fd = s[0];
}

static void release(struct kid *k)
{
	if (send(k->fd, "", 1, MSG_NOSIGNAL) != 1)
		die("process %d is gone", k->pid);
}

static struct outcome measure(const char *name, int fd, int flags)
{
	struct outcome o = { .name = name };
	long before = page_tables_at_rest();
	struct report rep;
	char path[64];
	int i, status;
	double t0;

	for (i = 0; i < procs; i++)
		start(&kids[i], fd, flags);
	t0 = now();
	for (i = 0; i < procs; i++)
		release(&kids[i]);
	for (i = 0; i < procs; i++) {
		if (read(kids[i].fd, &rep, sizeof(rep)) != sizeof(rep))
			die("process %d of %d died", i + 1, procs);
		if (rep.failed)
			die("process %d of %d: %s: %s", i + 1, procs,
			    rep.failed, strerror(rep.error));
		o.faults += rep.faults;
	}
	o.seconds = now() - t0;

	/* all of them are alive, and have everything mapped */
	o.tables = page_tables() - before;
	for (i = 0; i < procs; i++) {
		snprintf(path, sizeof(path), "/proc/%d/status", kids[i].pid);
		o.vmpte += proc_kb(path, "VmPTE:");
	}
	for (i = 0; i < procs; i++) {
		release(&kids[i]);
		if (waitpid(kids[i].pid, &status, 0) != kids[i].pid || status)
			die("process %d of %d failed at its end", i + 1, procs);
		close(kids[i].fd);
	}
	return o;
}

/* 1234567 as 1,234,567 */
static const char *commas(long n, char *buf, size_t len)
{
	char digits[32];
	size_t i, out = 0, nr = snprintf(digits, sizeof(digits), "%ld", n);

	for (i = 0; i < nr && out + 2 < len; i++) {
		if (i && (nr - i) % 3 == 0 && digits[i - 1] != '-')
			buf[out++] = ',';
		buf[out++] = digits[i];
	}
	buf[out] = '\0';
	return buf;
}

static void rule(void)
{
	int i;

	printf("  ");
	for (i = 0; i < 76; i++)
		printf("─");
	printf("\n");
}

static void row(const struct outcome *o)
{
	char buf[32];

	printf("  %-15s %10.1f MiB %10.1f MiB %15s %12.2f s\n", o->name,
	       o->tables / 1024.0, o->vmpte / 1024.0,
	       commas(o->faults, buf, sizeof(buf)), o->seconds);
}

/* A bar drawn to an eighth of a column. */
static void bar(const struct outcome *o, long most)
{
	static const char * const part[] = {
		"", "▏", "▎", "▍", "▌", "▋", "▊", "▉"
	};
	long eighths = most > 0 ? o->tables * BAR * 8 / most : 0;
	int i, used;

	if (eighths < 1)
		eighths = 1;
	if (eighths > BAR * 8)
		eighths = BAR * 8;
	used = (eighths + 7) / 8;
	printf("  %-15s ", o->name);
	for (i = 0; i < eighths / 8; i++)
		printf("█");
	printf("%s%*s %10.1f MiB\n", part[eighths % 8], BAR - used, "",
	       o->tables / 1024.0);
}

static void show(const struct outcome *without, const struct outcome *with)
{
	long most = without->tables > with->tables ?
		    without->tables : with->tables;

	printf("  %-15s %14s %14s %15s %14s\n", "", "page tables,",
	       "sum of VmPTE,", "page faults,", "time until all");
	printf("  %-15s %14s %14s %15s %14s\n", "mmap() with", "whole system",
	       "all processes", "all processes", "have read all");
	rule();
	row(without);
	row(with);
	rule();
	printf("\n  Memory spent on page tables, on top of %zu MiB of data:\n\n",
	       size >> 20);
	bar(without, most);
	bar(with, most);
	printf("\n");
	if (with->tables > 0 && without->tables >= 2 * with->tables)
		printf("  %.1f times less with MAP_SHARED_PT: one set of page tables serves\n"
		       "  all %d processes, %.1f MiB saved.\n",
		       (double)without->tables / with->tables, procs,
		       (without->tables - with->tables) / 1024.0);
	else
		printf("  Hardly anything saved: try more processes (-n), more data (-s).\n");
}

static long to_long(const char *arg, const char *what, long min, long max)
{
	char *end;
	long n = strtol(arg, &end, 10);

	if (end == arg || *end || n < min || n > max)
		die("%s must be a number from %ld to %ld: %s", what, min, max, arg);
	return n;
}

int main(int argc, char **argv)
{
	struct outcome without, with;
	struct rlimit files;
	int fd, opt;

	while ((opt = getopt(argc, argv, "n:s:h")) != -1) {
		switch (opt) {
		case 'n':
			procs = to_long(optarg, "-n", 1, MAX_PROCS);
			break;
		case 's':
			size = to_long(optarg, "-s", 2, 1 << 20) << 20;
			break;
		default:
			fprintf(opt == 'h' ? stdout : stderr,
				"usage: demo [-n PROCESSES] [-s MiB]\n"
				"Processes map the same memory and read it, without and with\n"
				"MAP_SHARED_PT. Default: -n 64 -s 512; MiB are even.\n");
			return opt != 'h';
		}
	}
	if (optind < argc)
		die("unknown argument: %s", argv[optind]);
	if (size % UNIT)
		die("-s must be even: page tables are shared in units of 2 MiB");
	page = sysconf(_SC_PAGESIZE);
	if (!getrlimit(RLIMIT_NOFILE, &files)) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}

	if (!have_shared_pt()) {
		printf("This kernel does not know MAP_SHARED_PT: nothing to show.\n"
		       "Boot one with the patches and CONFIG_SHARED_PT=y.\n");
		return EXIT_SKIP;
	}

	printf("\n  %d processes share %zu MiB of memory, and each reads all of it.\n\n",
	       procs, size >> 20);
	fflush(stdout);
	fd = make_memfd(size);
	populate(fd);
	without = measure("MAP_SHARED", fd, MAP_SHARED);
	with = measure("+ MAP_SHARED_PT", fd,
		       MAP_SHARED_VALIDATE | MAP_SHARED_PT);
	show(&without, &with);
	printf("\n");
	return 0;
}
