/* Unit tests of launch/cores.c: dividing made-up machines among ranks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cores.c"

enum { MAX_RANKS = 16 };

/* Ranks that may all run on processors [0, n); node -1: no GPU. */
static void all_on(sl_cores_rank *ranks, int n_ranks, int n, const int *nodes) {
    memset(ranks, 0, sizeof *ranks * (size_t)n_ranks);
    for (int r = 0; r < n_ranks; r++) {
        for (int p = 0; p < n; p++) add(ranks[r].mask, p);
        ranks[r].node = nodes ? nodes[r] : -1;
    }
}

static void expect_part(const sl_cores_rank *ranks, int n_ranks, int rank, const char *expected) {
    uint8_t part[SL_HOST_MASK_BYTES];
    char text[64];
    assert_int_equal(sl_cores_divide(ranks, n_ranks, rank, part), 1);
    assert_string_equal(sl_cores_format(part, text, sizeof text), expected);
}

static void threads_of_a_core_stay_together(void **state) {
    (void)state;
    sl_cores_rank ranks[MAX_RANKS];
    setenv("HWLOC_SYNTHETIC", "node:1 core:4 pu:2(indexes=0,4,1,5,2,6,3,7)", 1);
    all_on(ranks, 2, 8, NULL);
    expect_part(ranks, 2, 0, "0-1,4-5");
    expect_part(ranks, 2, 1, "2-3,6-7");
}

static void ranks_stay_near_their_gpus(void **state) {
    (void)state;
    sl_cores_rank ranks[MAX_RANKS];
    const int crossed[] = {1, 0, 1, 0}, crowded[] = {0, 0, 0, 0};
    setenv("HWLOC_SYNTHETIC", "node:2 core:4 pu:1", 1);
    all_on(ranks, 4, 8, crossed);
    expect_part(ranks, 4, 0, "4-5");
    expect_part(ranks, 4, 1, "0-1");
    expect_part(ranks, 4, 2, "6-7");
    expect_part(ranks, 4, 3, "2-3");
    all_on(ranks, 4, 8, crowded); /* nobody is near the other node's */
    for (int r = 0; r < 4; r++) {
        const char *const expected[] = {"0", "1", "2", "3"};
        expect_part(ranks, 4, r, expected[r]);
    }
}

static void a_node_with_too_few_processors_is_not_insisted_on(void **state) {
    (void)state;
    sl_cores_rank ranks[MAX_RANKS];
    const int nodes[] = {0, 0, 0, 1}, mixed[] = {0, -1, 0, 1};
    const char *const expected[] = {"0", "1", "2", "3"};
    setenv("HWLOC_SYNTHETIC", "node:2 core:2 pu:1", 1);
    for (int i = 0; i < 2; i++) {
        all_on(ranks, 4, 4, i ? mixed : nodes);
        for (int r = 0; r < 4; r++) expect_part(ranks, 4, r, expected[r]);
    }
}

static void parts_are_disjoint_and_all(void **state) {
    (void)state;
    sl_cores_rank ranks[MAX_RANKS];
    setenv("HWLOC_SYNTHETIC", "node:3 core:7 pu:2", 1);
    for (int n_ranks = 2; n_ranks <= MAX_RANKS; n_ranks++) {
        uint8_t seen[SL_HOST_MASK_BYTES] = {0}, part[SL_HOST_MASK_BYTES];
        all_on(ranks, n_ranks, 42, NULL);
        int sum = 0;
        for (int r = 0; r < n_ranks; r++) {
            assert_int_equal(sl_cores_divide(ranks, n_ranks, r, part), 1);
            assert_in_range(sl_cores_count(part), 42 / n_ranks, 42 / n_ranks + 1);
            for (int i = 0; i < SL_HOST_MASK_BYTES; i++) {
                assert_int_equal(seen[i] & part[i], 0);
                seen[i] |= part[i];
            }
            sum += sl_cores_count(part);
        }
        assert_int_equal(sum, 42);
    }
}

static void what_a_launcher_has_bound_is_left_alone(void **state) {
    (void)state;
    sl_cores_rank ranks[MAX_RANKS];
    uint8_t part[SL_HOST_MASK_BYTES];
    setenv("HWLOC_SYNTHETIC", "node:1 core:4 pu:1", 1);
    all_on(ranks, 2, 4, NULL);
    memset(ranks[1].mask, 0, sizeof ranks[1].mask);
    add(ranks[1].mask, 3);
    assert_int_equal(sl_cores_divide(ranks, 2, 0, part), 0);
    assert_int_equal(sl_cores_count(part), 4);
    assert_int_equal(sl_cores_divide(ranks, 2, 1, part), 0);
    assert_int_equal(sl_cores_count(part), 1);
}

static void more_ranks_than_processors_and_one_rank_share_all(void **state) {
    (void)state;
    sl_cores_rank ranks[MAX_RANKS];
    uint8_t part[SL_HOST_MASK_BYTES];
    setenv("HWLOC_SYNTHETIC", "node:1 core:2 pu:1", 1);
    all_on(ranks, 3, 2, NULL);
    assert_int_equal(sl_cores_divide(ranks, 3, 1, part), 0);
    assert_int_equal(sl_cores_count(part), 2);
    assert_int_equal(sl_cores_divide(ranks, 1, 0, part), 0);
}

static void long_lists_are_cut(void **state) {
    (void)state;
    uint8_t mask[SL_HOST_MASK_BYTES] = {0};
    char text[16];
    for (int p = 0; p < 100; p += 2) add(mask, p);
    assert_string_equal(sl_cores_format(mask, text, sizeof text), "0,2,4,6,8,10...");
    memset(mask, 0, sizeof mask);
    assert_string_equal(sl_cores_format(mask, text, sizeof text), "");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(threads_of_a_core_stay_together),
        cmocka_unit_test(ranks_stay_near_their_gpus),
        cmocka_unit_test(a_node_with_too_few_processors_is_not_insisted_on),
        cmocka_unit_test(parts_are_disjoint_and_all),
        cmocka_unit_test(what_a_launcher_has_bound_is_left_alone),
        cmocka_unit_test(more_ranks_than_processors_and_one_rank_share_all),
        cmocka_unit_test(long_lists_are_cut),
    };
    return cmocka_run_group_tests_name("cores", tests, NULL, NULL);
}
