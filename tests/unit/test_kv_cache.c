/* Unit tests of src/store/kv_cache.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"
#include "store/kv_cache.h"
#include "store/tier.h"

static sl_kv_cache *open_cache(sl_tier **tier, int n_pages, int n_slots) {
    assert_int_equal(sl_tier_open_cpu(64 << 20, tier), SL_OK);
    const sl_kv_options opt = {.format = sl_kv_format_make(SL_DTYPE_F16, 2, 8),
                               .n_layers = 3,
                               .n_slots = n_slots,
                               .max_context = 8 * SL_PAGE_TOKENS,
                               .n_pages = {0, n_pages, 0},
                               .host = {.cpu = *tier}};
    sl_kv_cache *kv = NULL;
    assert_int_equal(sl_kv_open(&opt, &kv), SL_OK);
    return kv;
}

static void pages_are_taken_as_tokens_come_and_free_at_once(void **state) {
    (void)state;
    sl_tier *tier;
    sl_kv_cache *kv = open_cache(&tier, 4, 2);
    int n;
    assert_int_equal(sl_kv_extend(kv, 0, 1), SL_OK);
    assert_int_equal(sl_kv_extend(kv, 0, SL_PAGE_TOKENS), SL_OK);
    (void)sl_kv_pages(kv, 0, &n);
    assert_int_equal(n, 1);
    assert_int_equal(sl_kv_extend(kv, 0, SL_PAGE_TOKENS + 1), SL_OK);
    assert_int_equal(sl_kv_extend(kv, 1, 2 * SL_PAGE_TOKENS), SL_OK);
    assert_int_equal(sl_kv_n_free(kv, SL_TIER_CPU), 0);
    assert_int_equal(sl_kv_extend(kv, 1, 2 * SL_PAGE_TOKENS + 1), SL_ERR_NOMEM);
    sl_kv_release(kv, 0);
    assert_int_equal(sl_kv_n_free(kv, SL_TIER_CPU), 2);
    assert_int_equal(sl_kv_extend(kv, 1, 2 * SL_PAGE_TOKENS + 1), SL_OK);
    assert_int_equal(sl_kv_peak(kv, SL_TIER_CPU), 4);
    assert_int_equal(sl_kv_extend(kv, 1, 8 * SL_PAGE_TOKENS + 1), SL_ERR_ARG);
    assert_int_equal(sl_kv_extend(kv, 2, 1), SL_ERR_ARG);
    sl_kv_close(kv);
    sl_tier_close(tier);
}

static void fork_shares_whole_pages_and_copies_the_last(void **state) {
    (void)state;
    sl_tier *tier;
    sl_kv_cache *kv = open_cache(&tier, 8, 3);
    const int n_tokens = 2 * SL_PAGE_TOKENS + 5;
    int32_t from, to;
    int n;
    assert_int_equal(sl_kv_extend(kv, 0, n_tokens + 3), SL_OK);
    assert_int_equal(sl_kv_fork(kv, 0, 1, n_tokens, &from, &to), SL_OK);
    const int32_t *a = sl_kv_pages(kv, 0, &n), *b = sl_kv_pages(kv, 1, &n);
    assert_int_equal(n, 3);
    assert_int_equal(a[0], b[0]);
    assert_int_equal(a[1], b[1]);
    assert_int_equal(from, a[2]);
    assert_int_equal(to, b[2]);
    assert_int_not_equal(from, to);
    assert_int_equal(sl_kv_n_free(kv, SL_TIER_CPU), 4);
    sl_kv_release(kv, 0);
    assert_int_equal(sl_kv_n_free(kv, SL_TIER_CPU), 5); /* the shared pages stay */
    assert_int_equal(sl_kv_fork(kv, 1, 2, 2 * SL_PAGE_TOKENS, &from, &to), SL_OK);
    assert_int_equal(from, -1);
    assert_int_equal(to, -1);
    assert_int_equal(sl_kv_fork(kv, 1, 2, 1, &from, &to), SL_ERR_ARG); /* not empty */
    sl_kv_release(kv, 1);
    sl_kv_release(kv, 2);
    assert_int_equal(sl_kv_n_free(kv, SL_TIER_CPU), 8);
    sl_kv_close(kv);
    sl_tier_close(tier);
}

static void a_sequences_pages_lie_one_after_another(void **state) {
    (void)state;
    sl_tier *tier;
    sl_kv_cache *kv = open_cache(&tier, 16, 4);
    int n;
    for (int s = 0; s < 4; s++) assert_int_equal(sl_kv_extend(kv, s, 4 * SL_PAGE_TOKENS), SL_OK);
    sl_kv_release(kv, 1);
    sl_kv_release(kv, 2); /* 8 in a row, where a longer one fits */
    assert_int_equal(sl_kv_extend(kv, 1, 7 * SL_PAGE_TOKENS), SL_OK);
    const int32_t *pages = sl_kv_pages(kv, 1, &n);
    for (int p = 1; p < n; p++) assert_int_equal(pages[p], pages[p - 1] + 1);
    sl_kv_release(kv, 0); /* 4 and 1 free: no run of 5, all the same taken */
    assert_int_equal(sl_kv_extend(kv, 2, 5 * SL_PAGE_TOKENS), SL_OK);
    assert_int_equal(sl_kv_n_free(kv, SL_TIER_CPU), 0);
    assert_int_equal(sl_kv_extend(kv, 0, 1), SL_ERR_NOMEM);
    sl_kv_close(kv);
    sl_tier_close(tier);
}

static void homes_have_pools_of_their_own(void **state) {
    (void)state;
    static const unsigned char home[] = {SL_TIER_CPU, SL_TIER_DISK, SL_TIER_CPU, SL_TIER_DISK};
    sl_tier *tier;
    int32_t from, to;
    sl_kv_cache *kv = NULL;
    assert_int_equal(sl_tier_open_cpu(64 << 20, &tier), SL_OK);
    sl_kv_options opt = {.format = sl_kv_format_make(SL_DTYPE_F16, 2, 16),
                         .n_layers = 2,
                         .n_slots = 4,
                         .max_context = 4 * SL_PAGE_TOKENS,
                         .home = home,
                         .n_pages = {0, 3, 8},
                         .host = {.cpu = tier},
                         .disk_dir = "/tmp"};
    size_t bytes[SL_TIER_COUNT];
    assert_int_equal(sl_kv_measure(&opt, bytes), SL_OK);
    assert_int_equal(bytes[SL_TIER_DISK], 2 * 8 * 4096);
    assert_int_equal(bytes[SL_TIER_CPU], 2 * (3 + 2) * 4096); /* pages and tails */
    assert_int_equal(sl_kv_open(&opt, &kv), SL_OK);
    assert_int_equal(sl_tier_used_bytes(tier), bytes[SL_TIER_CPU]);
    assert_int_equal(sl_kv_extend(kv, 0, 3 * SL_PAGE_TOKENS), SL_OK);
    assert_int_equal(sl_kv_extend(kv, 2, 1), SL_ERR_NOMEM);
    assert_int_equal(sl_kv_extend(kv, 1, 4 * SL_PAGE_TOKENS), SL_OK);
    assert_int_equal(sl_kv_n_free(kv, SL_TIER_DISK), 4);
    assert_int_equal(sl_kv_fork(kv, 1, 2, 1, &from, &to), SL_ERR_ARG); /* another home */
    assert_non_null(strstr(sl_error_message(), "disk"));
    assert_ptr_not_equal(sl_kv_tail(kv, 0, 1), sl_kv_tail(kv, 0, 3));
    assert_ptr_not_equal(sl_kv_tail(kv, 0, 1), sl_kv_tail(kv, 1, 1));

    /* A fork's tail: from the source's own, or from disk once that page is full. */
    for (int l = 0; l < 2; l++) memset(sl_kv_tail(kv, l, 1), 17 + l, 4096);
    assert_int_equal(sl_kv_fork(kv, 1, 3, 40, &from, &to), SL_OK);
    assert_int_equal(sl_kv_copy_tail(kv, 1, 45, 3, 40), SL_OK);
    assert_int_equal(((unsigned char *)sl_kv_tail(kv, 1, 3))[4095], 18);
    sl_disk_ticket ticket;
    int n;
    const int32_t page = sl_kv_pages(kv, 1, &n)[1];
    assert_int_equal(sl_disk_write(sl_kv_disk(kv), sl_kv_disk_offset(kv, 1, page), 4096,
                                   sl_kv_tail(kv, 0, 1), &ticket),
                     SL_OK);
    assert_int_equal(sl_disk_wait(sl_kv_disk(kv), ticket), SL_OK);
    assert_int_equal(sl_kv_copy_tail(kv, 1, 70, 3, 40), SL_OK);
    assert_int_equal(((unsigned char *)sl_kv_tail(kv, 1, 3))[4095], 17);
    sl_kv_close(kv);
    opt.disk_dir = NULL;
    assert_int_equal(sl_kv_open(&opt, &kv), SL_ERR_ARG);
    assert_int_equal(sl_tier_used_bytes(tier), 0);
    sl_tier_close(tier);
}

static void random_use_never_shares_a_page_by_mistake(void **state) {
    (void)state;
    enum { SLOTS = 6, PAGES = 30 };
    sl_tier *tier;
    sl_kv_cache *kv = open_cache(&tier, PAGES, SLOTS);
    sl_rng rng = {7, 0};
    int tokens[SLOTS] = {0};
    for (int step = 0; step < 20000; step++) {
        const int s = (int)sl_rng_below(&rng, SLOTS), t = (int)sl_rng_below(&rng, SLOTS);
        const int dice = (int)sl_rng_below(&rng, 10);
        int32_t from, to;
        if (dice < 6 && tokens[s] < 8 * SL_PAGE_TOKENS) {
            const int more = tokens[s] + 1 + (int)sl_rng_below(&rng, 20);
            if (more <= 8 * SL_PAGE_TOKENS && sl_kv_extend(kv, s, more) == SL_OK) tokens[s] = more;
        } else if (dice < 8) {
            sl_kv_release(kv, s);
            tokens[s] = 0;
        } else if (s != t) {
            sl_kv_release(kv, t);
            tokens[t] = 0;
            const int n = tokens[s] ? 1 + (int)sl_rng_below(&rng, (uint64_t)tokens[s]) : 0;
            if (n && sl_kv_fork(kv, s, t, n, &from, &to) == SL_OK) tokens[t] = n;
        }
        /* A page in use by two slots stands at the same place in both; free + used = all. */
        int where[PAGES], used = 0;
        memset(where, -1, sizeof where);
        for (int i = 0; i < SLOTS; i++) {
            int n;
            const int32_t *pages = sl_kv_pages(kv, i, &n);
            for (int p = 0; p < n; p++) {
                if (where[pages[p]] < 0) used++;
                assert_true(where[pages[p]] < 0 || where[pages[p]] == p);
                where[pages[p]] = p;
            }
        }
        assert_int_equal(used + sl_kv_n_free(kv, SL_TIER_CPU), PAGES);
    }
    sl_kv_close(kv);
    sl_tier_close(tier);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pages_are_taken_as_tokens_come_and_free_at_once),
        cmocka_unit_test(fork_shares_whole_pages_and_copies_the_last),
        cmocka_unit_test(a_sequences_pages_lie_one_after_another),
        cmocka_unit_test(homes_have_pools_of_their_own),
        cmocka_unit_test(random_use_never_shares_a_page_by_mistake),
    };
    return cmocka_run_group_tests_name("kv_cache", tests, NULL, NULL);
}
