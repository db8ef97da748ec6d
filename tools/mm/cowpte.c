// SPDX-License-Identifier: GPL-2.0
/*
 * cowpte - run a program whose forks share PTE tables
 *
 *	cowpte [-d] PROGRAM [ARGUMENT...]
 *
 * -d: switch it off instead. Exits with 125 if the kernel cannot do it, 127 if the
 * program cannot be run.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#ifndef PR_SET_COW_PTE
#define PR_SET_COW_PTE	0x434f5750
#endif

int main(int argc, char **argv)
{
	int enable = 1, first = 1;

	if (argc > 1 && !strcmp(argv[1], "-d")) {
		enable = 0;
		first++;
	}
	if (first >= argc) {
		fprintf(stderr, "usage: %s [-d] PROGRAM [ARGUMENT...]\n", argv[0]);
		return 125;
	}
	if (prctl(PR_SET_COW_PTE, enable, 0, 0, 0)) {
		fprintf(stderr, "%s: PR_SET_COW_PTE: %s\n", argv[0], strerror(errno));
		return 125;
	}
	execvp(argv[first], argv + first);
	fprintf(stderr, "%s: %s: %s\n", argv[0], argv[first], strerror(errno));
	return 127;
}
