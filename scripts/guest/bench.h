/* SPDX-License-Identifier: GPL-2.0-only */
/* What bench.c and bench-folio.c have in common: the time, and how to tell it. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static void die(const char *fmt, ...)
{
	va_list ap;

	fflush(stdout);
	fprintf(stderr, "%s: ", program_invocation_short_name);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fprintf(stderr, "\n");
	exit(1);
}

static long now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000L + ts.tv_nsec;
}

static void pause_ms(int ms)
{
	struct timespec ts = { .tv_nsec = ms * 1000000L };

	nanosleep(&ts, NULL);
}

/* ---- output ------------------------------------------------------------ */

static const char *prefix;	/* of the names that emit() prints */

static void emit(const char *name, double value, const char *unit)
{
	printf("%s.%s %.*f %s\n", prefix, name, value == (long)value ? 0 : 1,
	       value, unit);
}

/* A series of values of one kind, one for each process or repetition. */
struct series {
	long n, sum, min, max;
};

static void add(struct series *s, long v)
{
	if (!s->n || v < s->min)
		s->min = v;
	if (!s->n || v > s->max)
		s->max = v;
	s->sum += v;
	s->n++;
}
