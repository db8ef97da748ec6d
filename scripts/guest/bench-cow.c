// SPDX-License-Identifier: GPL-2.0-only
/*
 * Cost of fork, of the child's exit, and of writing to memory afterwards, with PTE
 * tables shared copy-on-write where the kernel can. Meant for a guest with one CPU
 * under icount, where a nanosecond is an instruction. Prints "<name> <value> <unit>"
 * lines.
 *
 * usage: bench-cow [-r REPEATS] [MiB...]
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
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

static long status(const char *key)
{
	FILE *f = fopen("/proc/self/status", "r");
	char line[256];
	long n = -1;

	while (n < 0 && fgets(line, sizeof(line), f))
		if (!strncmp(line, key, strlen(key)))
			n = atol(line + strlen(key));
	fclose(f);
	return n;
}

struct told {
	long vmpte, rss;
};

/* A child that tells what it has, and waits. */
static pid_t child(long *took, struct told *what)
{
	long t0 = now();
	pid_t pid = fork();
	char c;

	if (!pid) {
		struct told t = { status("VmPTE:"), status("VmRSS:") };

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
	struct told what = { 0 };
	long t0, took, rss = 0;
	char *p = memory();
	pid_t pid;
	int r, st;

	for (r = 0; r < repeats; r++) {
		touch(p, PAGE);
		/* All was written to since the last fork. */
		pid = child(&took, &what);
		add(&first, took);
		rss = status("VmRSS:");
		add(&leave, dismiss(pid));
		/* Nothing was. */
		pid = child(&took, &what);
		add(&again, took);
		add(&leave, dismiss(pid));
		/* The child is gone. */
		t0 = now();
		touch(p, PAGE);
		add(&gone, now() - t0);
		/* It is there. */
		pid = child(&took, &what);
		t0 = now();
		touch(p, PAGE);
		add(&alive, now() - t0);
		t0 = now();
		touch(p, PAGE);
		add(&second, now() - t0);
		dismiss(pid);
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
	}
	emit("fork_first", first.min, "instr");
	emit("fork_again", again.min, "instr");
	emit("exit", leave.min, "instr");
	emit("fork_exec", exec.min, "instr");
	emit("vmpte_child", what.vmpte, "kB");
	emit("rss_difference", labs(what.rss - rss) > 128 ? what.rss - rss : 0, "kB");
	emit("write_gone", gone.min, "instr");
	emit("write_alive", alive.min, "instr");
	emit("fork_and_write", first.min + alive.min, "instr");
	emit("write_again", second.min, "instr");
	emit("write_table", table.min, "instr");
	munmap(p, size);
}

int main(int argc, char **argv)
{
	static const long sizes[] = { 1, 64, 256, 1024 };
	static char name[32];
	size_t s;
	int opt, i;

	while ((opt = getopt(argc, argv, "r:")) != -1) {
		if (opt == 'r')
			repeats = atoi(optarg);
		else
			die("usage: %s [-r REPEATS] [MiB...]", argv[0]);
	}
	if (pipe(go) || pipe(told))
		die("pipe");
	printf("# bench-cow: anonymous memory of 4 KiB pages, best of %d, PR_SET_COW_PTE %s\n",
	       repeats, prctl(PR_SET_COW_PTE, 1, 0, 0, 0) ? "unknown" : "on");
	prefix = name;
	for (s = 0; s < sizeof(sizes) / sizeof(*sizes); s++) {
		size = sizes[s] << 20;
		for (i = optind; i < argc && atol(argv[i]) != sizes[s]; i++)
			;
		if (optind < argc && i == argc)
			continue;
		snprintf(name, sizeof(name), "cow.%ldM", sizes[s]);
		bench();
	}
	return 0;
}
