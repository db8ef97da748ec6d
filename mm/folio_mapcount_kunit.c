// SPDX-License-Identifier: GPL-2.0
/*
 * The rules of folio_mapcount.h, one at a time and on a real folio. Random
 * sequences are left to tools/testing/folio_mapcount.
 */
#include <kunit/test.h>
#include <linux/mm.h>

#define PAGES	16
#define A	((mm_id_t)MM_ID_MIN)
#define B	((mm_id_t)1000)
#define C	((mm_id_t)MM_ID_MAX)
#define HOST	((mm_id_t)MM_ID_UNTRACKED)

#define EXPECT_SLOT(slot, id, count) do {				\
	KUNIT_EXPECT_EQ(test, folio_mm_id(folio->_mm_ids, slot),	\
			(mm_id_t)(id));					\
	KUNIT_EXPECT_EQ(test, folio->_mm_id_mapcount[slot], (count) - 1);\
} while (0)

/* The bit itself: with one mapping only, nobody asks for it. */
#define EXPECT_SHARED(shared)						\
	KUNIT_EXPECT_EQ(test, folio_mappings_maybe_shared(folio), shared)

static int folio_mapcount_init(struct kunit *test)
{
	struct folio *folio = folio_alloc(GFP_KERNEL, ilog2(PAGES));

	KUNIT_ASSERT_NOT_NULL(test, folio);
	test->priv = folio;
	return 0;
}

static void folio_mapcount_exit(struct kunit *test)
{
	struct folio *folio = test->priv;

	if (!folio)
		return;
	/* Freeing it checks as much, but only where checks are enabled. */
	KUNIT_EXPECT_EQ(test, folio->_mm_ids, 0UL);
	KUNIT_EXPECT_EQ(test, folio->_mm_id_mapcount[0], -1);
	KUNIT_EXPECT_EQ(test, folio->_mm_id_mapcount[1], -1);
	KUNIT_EXPECT_EQ(test, folio_mapcount(folio), 0);
	folio_put(folio);
}

static void new_folio_is_empty(struct kunit *test)
{
	struct folio *folio = test->priv;

	EXPECT_SLOT(0, MM_ID_DUMMY, 0);
	EXPECT_SLOT(1, MM_ID_DUMMY, 0);
	EXPECT_SHARED(false);
	KUNIT_EXPECT_EQ(test, folio_nr_pages(folio), (long)PAGES);
	/* What a page of its own would take for its ->private. */
	KUNIT_EXPECT_EQ(test, page_private(folio_page(folio, 1)), 0UL);
}

static void one_mm(struct kunit *test)
{
	struct folio *folio = test->priv;

	folio_set_mappings(folio, PAGES, A);
	EXPECT_SLOT(0, A, PAGES);
	EXPECT_SHARED(false);
	KUNIT_EXPECT_EQ(test, folio_sub_mappings(folio, 6, A), PAGES - 6);
	EXPECT_SLOT(0, A, PAGES - 6);
	KUNIT_EXPECT_EQ(test, folio_add_mappings(folio, 1, A), PAGES - 5);
	KUNIT_EXPECT_EQ(test, folio_sub_mappings(folio, PAGES - 5, A), 0);
	EXPECT_SLOT(0, MM_ID_DUMMY, 0);
}

/* fork and exit, whoever exits first. */
static void two_mms(struct kunit *test)
{
	struct folio *folio = test->priv;
	mm_id_t first, last;

	for (first = A; first; first = first == A ? B : MM_ID_DUMMY) {
		last = first == A ? B : A;
		folio_set_mappings(folio, PAGES, A);
		KUNIT_EXPECT_EQ(test, folio_add_mappings(folio, PAGES, B),
				2 * PAGES);
		EXPECT_SLOT(0, A, PAGES);
		EXPECT_SLOT(1, B, PAGES);
		EXPECT_SHARED(true);
		/* Part of it is not enough. */
		folio_sub_mappings(folio, PAGES - 1, first);
		EXPECT_SHARED(true);
		folio_sub_mappings(folio, 1, first);
		EXPECT_SHARED(false);
		KUNIT_EXPECT_EQ(test, folio_mapcount(folio), PAGES);
		folio_sub_mappings(folio, PAGES, last);
	}
}

static void slot_is_reused(struct kunit *test)
{
	struct folio *folio = test->priv;

	folio_add_mappings(folio, 1, A);
	folio_add_mappings(folio, 2, B);
	folio_sub_mappings(folio, 1, A);
	EXPECT_SLOT(0, MM_ID_DUMMY, 0);
	EXPECT_SHARED(false);
	/* Into slot 0, but not alone. */
	folio_add_mappings(folio, 2, C);
	EXPECT_SLOT(0, C, 2);
	EXPECT_SLOT(1, B, 2);
	EXPECT_SHARED(true);
	folio_sub_mappings(folio, 2, B);
	EXPECT_SHARED(false);
	folio_sub_mappings(folio, 2, C);
}

static void third_mm_is_untracked(struct kunit *test)
{
	struct folio *folio = test->priv;

	folio_add_mappings(folio, 2, A);
	folio_add_mappings(folio, 2, B);
	KUNIT_EXPECT_EQ(test, folio_add_mappings(folio, 2, C), 6);
	EXPECT_SLOT(0, A, 2);
	EXPECT_SLOT(1, B, 2);
	folio_sub_mappings(folio, 2, A);
	folio_sub_mappings(folio, 2, B);
	/* Alone, but nobody knows; with one mapping left, everybody does. */
	EXPECT_SHARED(true);
	KUNIT_EXPECT_TRUE(test, folio_maybe_mapped_shared(folio));
	folio_sub_mappings(folio, 1, C);
	KUNIT_EXPECT_FALSE(test, folio_maybe_mapped_shared(folio));
	folio_sub_mappings(folio, 1, C);
	EXPECT_SHARED(false);
}

/* When it goes, whoever is left may be alone. */
static void untracked_mm_leaves(struct kunit *test)
{
	struct folio *folio = test->priv;

	folio_add_mappings(folio, 3, A);
	folio_add_mappings(folio, 1, B);
	folio_add_mappings(folio, 2, C);
	folio_sub_mappings(folio, 1, B);
	folio_sub_mappings(folio, 1, C);
	EXPECT_SHARED(true);
	KUNIT_EXPECT_EQ(test, folio_sub_mappings(folio, 1, C), 3);
	EXPECT_SHARED(false);
	folio_sub_mappings(folio, 3, A);
}

/* It gets no slot, and leaves those there are to others. */
static void host_is_never_alone(struct kunit *test)
{
	struct folio *folio = test->priv;

	KUNIT_EXPECT_EQ(test, folio_add_mappings(folio, 2, HOST), 2);
	EXPECT_SLOT(0, MM_ID_DUMMY, 0);
	EXPECT_SLOT(1, MM_ID_DUMMY, 0);
	KUNIT_EXPECT_TRUE(test, folio_maybe_mapped_shared(folio));
	folio_ref_add(folio, 2);
	KUNIT_EXPECT_FALSE(test, folio_used_by_only(folio, HOST));
	folio_ref_sub(folio, 2);
	folio_add_mappings(folio, 3, A);
	EXPECT_SLOT(0, A, 3);
	folio_add_mappings(folio, 1, HOST);
	EXPECT_SLOT(1, MM_ID_DUMMY, 0);
	EXPECT_SHARED(true);
	KUNIT_EXPECT_EQ(test, folio_sub_mappings(folio, 3, HOST), 3);
	EXPECT_SLOT(0, A, 3);
	EXPECT_SHARED(false);
	folio_add_mappings(folio, 2, HOST);
	folio_sub_mappings(folio, 3, A);
	EXPECT_SHARED(true);
	KUNIT_EXPECT_EQ(test, folio_sub_mappings(folio, 2, HOST), 0);
}

/* Some before the slot was free, some after: it counts those only. */
static void count_can_be_too_low(struct kunit *test)
{
	struct folio *folio = test->priv;

	folio_add_mappings(folio, 1, A);
	folio_add_mappings(folio, 1, B);
	folio_add_mappings(folio, 4, C);
	folio_sub_mappings(folio, 1, A);
	folio_add_mappings(folio, 2, C);
	EXPECT_SLOT(0, C, 2);
	folio_sub_mappings(folio, 3, C);
	EXPECT_SLOT(0, MM_ID_DUMMY, 0);
	EXPECT_SLOT(1, B, 1);
	EXPECT_SHARED(true);
	KUNIT_EXPECT_EQ(test, folio_sub_mappings(folio, 3, C), 1);
	EXPECT_SHARED(false);
	folio_sub_mappings(folio, 1, B);
}

/* More than a slot can count: the mm loses it, and counts as any other. */
static void too_many_to_count(struct kunit *test)
{
	struct folio *folio = test->priv;

	folio_add_mappings(folio, 1, A);
	folio_add_mappings(folio, SHRT_MAX, B);
	folio_add_mappings(folio, 1, B);
	EXPECT_SLOT(1, B, SHRT_MAX + 1);
	KUNIT_EXPECT_EQ(test, folio_add_mappings(folio, 1, B), SHRT_MAX + 3);
	EXPECT_SLOT(1, MM_ID_DUMMY, 0);
	EXPECT_SHARED(true);
	folio_sub_mappings(folio, SHRT_MAX, B);
	EXPECT_SHARED(true);
	KUNIT_EXPECT_EQ(test, folio_sub_mappings(folio, 2, B), 1);
	EXPECT_SLOT(0, A, 1);
	EXPECT_SHARED(false);
	folio_sub_mappings(folio, 1, A);
}

/* The same if it is alone: then its next mapping is taken for another mm's. */
static void too_many_to_count_alone(struct kunit *test)
{
	struct folio *folio = test->priv;

	folio_add_mappings(folio, SHRT_MAX, B);
	folio_add_mappings(folio, 1, B);
	EXPECT_SLOT(0, B, SHRT_MAX + 1);
	folio_add_mappings(folio, 1, B);
	EXPECT_SLOT(0, MM_ID_DUMMY, 0);
	EXPECT_SHARED(false);
	folio_add_mappings(folio, 1, B);
	EXPECT_SLOT(0, B, 1);
	EXPECT_SHARED(true);
	KUNIT_EXPECT_EQ(test, folio_sub_mappings(folio, SHRT_MAX, B), 3);
	EXPECT_SLOT(0, MM_ID_DUMMY, 0);
	KUNIT_EXPECT_TRUE(test, folio_maybe_mapped_shared(folio));
	folio_sub_mappings(folio, 2, B);
	KUNIT_EXPECT_FALSE(test, folio_maybe_mapped_shared(folio));
	folio_sub_mappings(folio, 1, B);
}

static void used_by_only(struct kunit *test)
{
	struct folio *folio = test->priv;

	/* One of the references is for the test. */
	folio_set_mappings(folio, PAGES, A);
	folio_ref_add(folio, PAGES - 1);
	KUNIT_EXPECT_TRUE(test, folio_used_by_only(folio, A));
	KUNIT_EXPECT_FALSE(test, folio_used_by_only(folio, B));
	folio_get(folio);
	KUNIT_EXPECT_FALSE(test, folio_used_by_only(folio, A));

	folio_add_mappings(folio, 1, B);
	KUNIT_EXPECT_FALSE(test, folio_used_by_only(folio, A));
	KUNIT_EXPECT_FALSE(test, folio_used_by_only(folio, B));
	folio_sub_mappings(folio, 1, B);
	folio_put(folio);
	KUNIT_EXPECT_TRUE(test, folio_used_by_only(folio, A));

	folio_sub_mappings(folio, PAGES, A);
	folio_ref_sub(folio, PAGES - 1);
}

static struct kunit_case folio_mapcount_cases[] = {
	KUNIT_CASE(new_folio_is_empty),
	KUNIT_CASE(one_mm),
	KUNIT_CASE(two_mms),
	KUNIT_CASE(slot_is_reused),
	KUNIT_CASE(third_mm_is_untracked),
	KUNIT_CASE(untracked_mm_leaves),
	KUNIT_CASE(host_is_never_alone),
	KUNIT_CASE(count_can_be_too_low),
	KUNIT_CASE(too_many_to_count),
	KUNIT_CASE(too_many_to_count_alone),
	KUNIT_CASE(used_by_only),
	{}
};

static struct kunit_suite folio_mapcount_suite = {
	.name = "folio_mapcount",
	.init = folio_mapcount_init,
	.exit = folio_mapcount_exit,
	.test_cases = folio_mapcount_cases,
};

kunit_test_suite(folio_mapcount_suite);

MODULE_DESCRIPTION("KUnit tests of the mapcounts of large folios");
MODULE_LICENSE("GPL");
