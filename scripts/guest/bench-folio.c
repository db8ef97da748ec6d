// SPDX-License-Identifier: GPL-2.0-only
/*
 * Cost of mapping, unmapping and copying memory in folios of each size, mapped
 * by PTEs. Meant for a guest with one CPU under icount, where a nanosecond is an
 * instruction. Prints "<name> <value> <unit>" lines.
 *
 * usage: bench-folio [-s MiB] [-r REPEATS] [KiB...]
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.h"

#define PAGE	4096UL
#define PMD	(2UL << 20)

static size_t size = 64UL << 20;
static int repeats = 2;
static int waiting[2];	/* the pipe on which a child waits */

static void set_size(long kb, const char *how)
{
	char path[128];
	int fd;

	snprintf(path, sizeof(path),
		 "/sys/kernel/mm/transparent_hugepage/hugepages-%ldkB/enabled", kb);
	fd = open(path, O_WRONLY);
	if (fd < 0 || write(fd, how, strlen(how)) < 0)
		die("%s: %s", path, strerror(errno));
	close(fd);
}

/* To read first would map the zero page. */
static void touch(char *p)
{
	char *end = p + size;

	for (; p < end; p += PAGE)
		*(volatile char *)p = 1;
}

/* Memory in folios of that size, all of them there and mapped by PTEs. */
static char *folios(long kb)
{
	char *p = mmap(NULL, size + PMD, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	size_t i;

	if (p == MAP_FAILED)
		die("mmap: %s", strerror(errno));
	p = (char *)(((unsigned long)p + PMD - 1) & -PMD);
	if (kb > 4)
		set_size(kb, "always");
	touch(p);
	if (kb > 4)
		set_size(kb, "never");
	/* To protect a page splits the PMD, not the folio. */
	for (i = 0; kb << 10 == PMD && i < size; i += PMD) {
		if (mprotect(p + i, PAGE, PROT_READ) ||
		    mprotect(p + i, PAGE, PROT_READ | PROT_WRITE))
			die("mprotect: %s", strerror(errno));
	}
	return p;
}

/* A child that has the same, until told to go. */
static pid_t child(long *took)
{
	long t0 = now();
	pid_t pid = fork();
	char c;

	if (!pid)
		_exit(read(waiting[0], &c, 1) != 1);
	*took = now() - t0;
	if (pid < 0)
		die("fork: %s", strerror(errno));
	pause_ms(20);
	return pid;
}

static void dismiss(pid_t pid)
{
	int status;

	if (write(waiting[1], "", 1) != 1 || waitpid(pid, &status, 0) != pid ||
	    status)
		die("a child failed");
}

/*
 * Each measures all sizes before the next: what the kernel with the slots keeps
 * in one piece after the reuse would be free memory of another shape.
 */
static void bench_munmap(long kb)
{
	struct series munmaps = { 0 };
	long t0;
	char *p;
	int r;

	for (r = 0; r < repeats; r++) {
		p = folios(kb);
		t0 = now();
		munmap(p, size);
		add(&munmaps, now() - t0);
	}
	emit("munmap", munmaps.min, "instr");
}

static void bench_cow(long kb)
{
	struct series cows = { 0 };
	long t0, took;
	pid_t pid;
	char *p;
	int r;

	for (r = 0; r < repeats; r++) {
		p = folios(kb);
		pid = child(&took);
		t0 = now();
		touch(p);
		add(&cows, now() - t0);
		dismiss(pid);
		munmap(p, size);
	}
	emit("cow", cows.min, "instr");
}

static void bench_fork(long kb)
{
	struct series forks = { 0 }, reuses = { 0 };
	long t0, took;
	pid_t pid;
	char *p;
	int r;

	for (r = 0; r < repeats; r++) {
		p = folios(kb);
		pid = child(&took);
		add(&forks, took);
		dismiss(pid);
		/* Nobody else has these pages any more. */
		t0 = now();
		touch(p);
		add(&reuses, now() - t0);
		munmap(p, size);
	}
	emit("fork", forks.min, "instr");
	emit("reuse", reuses.min, "instr");
}

int main(int argc, char **argv)
{
	static const long sizes[] = { 4, 16, 32, 64, 128, 256, 512, 1024, 2048 };
	static void (*const benches[])(long kb) = {
		bench_munmap, bench_cow, bench_fork,
	};
	static char name[32];
	size_t s, b;
	int opt, i;

	while ((opt = getopt(argc, argv, "s:r:")) != -1) {
		switch (opt) {
		case 's':
			size = atol(optarg) << 20;
			break;
		case 'r':
			repeats = atoi(optarg);
			break;
		default:
			die("usage: bench-folio [-s MiB] [-r REPEATS] [KiB...]");
		}
	}
	if (!size || size % PMD || repeats < 1)
		die("-s takes an even number of MiB, -r at least 1");
	if (pipe2(waiting, O_CLOEXEC))
		die("pipe: %s", strerror(errno));
	setvbuf(stdout, NULL, _IOLBF, 0);
	printf("# bench-folio: %zu MiB of folios of each size, mapped by PTEs, best of %d\n",
	       size >> 20, repeats);
	prefix = name;
	for (b = 0; b < sizeof(benches) / sizeof(benches[0]); b++) {
		for (s = 0; s < sizeof(sizes) / sizeof(sizes[0]); s++) {
			for (i = optind; i < argc && atol(argv[i]) != sizes[s]; i++)
				;
			if (optind < argc && i == argc)
				continue;
			snprintf(name, sizeof(name), "folio.%ldK", sizes[s]);
			benches[b](sizes[s]);
		}
	}
	return 0;
}
