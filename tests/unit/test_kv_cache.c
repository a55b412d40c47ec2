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

static void kept_pages_are_shared_and_stay_until_dropped(void **state) {
    (void)state;
    sl_tier *tier;
    sl_kv_cache *kv = open_cache(&tier, 8, 3);
    int32_t from, to;
    int n;
    assert_int_equal(sl_kv_n_kept_max(kv), 8);
    assert_int_equal(sl_kv_extend(kv, 0, 2 * SL_PAGE_TOKENS + 5), SL_OK);
    for (int p = 0; p < 3; p++) assert_int_equal(sl_kv_keep(kv, 0, p, 7 - p), SL_OK);
    assert_int_equal(sl_kv_keep(kv, 0, 3, 0), SL_ERR_ARG); /* no such page */
    assert_int_equal(sl_kv_keep(kv, 0, 0, 7), SL_ERR_ARG); /* the number is taken */
    assert_int_equal(sl_kv_keep(kv, 0, 0, 8), SL_ERR_ARG);
    assert_int_equal(sl_kv_share(kv, 1, 7), SL_OK);
    assert_int_equal(sl_kv_share(kv, 1, 6), SL_OK);
    assert_int_equal(sl_kv_share(kv, 1, 4), SL_ERR_ARG);
    assert_int_equal(sl_kv_copy(kv, 1, 5, &from, &to), SL_OK);
    const int32_t *a = sl_kv_pages(kv, 0, &n), *b = sl_kv_pages(kv, 1, &n);
    assert_int_equal(n, 3);
    assert_int_equal(a[0], b[0]);
    assert_int_equal(a[1], b[1]);
    assert_int_equal(from, a[2]);
    assert_int_equal(to, b[2]);
    assert_int_not_equal(from, to);
    assert_int_equal(sl_kv_n_free(kv, SL_TIER_CPU), 4);
    sl_kv_release(kv, 0);
    assert_int_equal(sl_kv_n_free(kv, SL_TIER_CPU), 4); /* all are kept */
    assert_int_equal(sl_kv_drop(kv, 5), SL_OK);
    assert_int_equal(sl_kv_drop(kv, 5), SL_ERR_ARG);
    assert_int_equal(sl_kv_n_free(kv, SL_TIER_CPU), 5);
    assert_int_equal(sl_kv_drop(kv, 7), SL_OK);
    assert_int_equal(sl_kv_n_free(kv, SL_TIER_CPU), 5); /* slot 1 has it */
    sl_kv_release(kv, 1);
    assert_int_equal(sl_kv_n_free(kv, SL_TIER_CPU), 7);
    for (int p = 0; p < 8; p++) assert_int_equal(sl_kv_share(kv, 2, 6), SL_OK);
    assert_int_equal(sl_kv_share(kv, 2, 6), SL_ERR_ARG); /* a full context */
    sl_kv_drop_all(kv);
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
    assert_int_equal(sl_kv_keep(kv, 1, 0, 10), SL_OK);
    assert_int_equal(sl_kv_share(kv, 2, 10), SL_ERR_ARG); /* another home */
    assert_non_null(strstr(sl_error_message(), "disk"));
    assert_ptr_not_equal(sl_kv_tail(kv, 0, 1), sl_kv_tail(kv, 0, 3));
    assert_ptr_not_equal(sl_kv_tail(kv, 0, 1), sl_kv_tail(kv, 1, 1));

    assert_int_equal(sl_kv_share(kv, 3, 10), SL_OK);
    assert_int_equal(sl_kv_copy(kv, 3, 10, &from, &to), SL_ERR_ARG); /* not on disk */
    sl_kv_close(kv);
    opt.disk_dir = NULL;
    assert_int_equal(sl_kv_open(&opt, &kv), SL_ERR_ARG);
    assert_int_equal(sl_tier_used_bytes(tier), 0);
    sl_tier_close(tier);
}

/* A slot's pages are the ones that were put there, whatever else happens; a page is free when no
 * slot has it and it is not kept. */
static void random_use_agrees_with_a_simple_model(void **state) {
    (void)state;
    enum { SLOTS = 6, PAGES = 30, MOST = 8 };
    sl_tier *tier;
    sl_kv_cache *kv = open_cache(&tier, PAGES, SLOTS);
    sl_rng rng = {7, 0};
    int32_t has[SLOTS][MOST], kept[PAGES], from, to;
    int n_has[SLOTS] = {0}, n_shared = 0, n_refused = 0;
    for (int k = 0; k < PAGES; k++) kept[k] = -1;
    for (int step = 0; step < 40000; step++) {
        const int s = (int)sl_rng_below(&rng, SLOTS), k = (int)sl_rng_below(&rng, PAGES);
        const int dice = (int)sl_rng_below(&rng, 12), n_free = sl_kv_n_free(kv, SL_TIER_CPU);
        sl_status st = SL_OK;
        if (dice < 4) {
            const int want = n_has[s] + (int)sl_rng_below(&rng, 4);
            if (want > MOST) continue;
            st = sl_kv_extend(kv, s, want * SL_PAGE_TOKENS);
            assert_int_equal(st, want - n_has[s] > n_free ? SL_ERR_NOMEM : SL_OK);
            int n;
            const int32_t *pages = sl_kv_pages(kv, s, &n);
            if (st == SL_OK) memcpy(has[s], pages, (size_t)want * sizeof pages[0]);
            if (st == SL_OK) n_has[s] = want;
        } else if (dice < 6) {
            sl_kv_release(kv, s);
            n_has[s] = 0;
        } else if (dice < 8) {
            const int p = (int)sl_rng_below(&rng, MOST);
            st = sl_kv_keep(kv, s, p, k);
            assert_int_equal(st, p < n_has[s] && kept[k] < 0 ? SL_OK : SL_ERR_ARG);
            if (st == SL_OK) kept[k] = has[s][p];
        } else if (dice < 10) {
            st = sl_kv_share(kv, s, k);
            assert_int_equal(st, kept[k] >= 0 && n_has[s] < MOST ? SL_OK : SL_ERR_ARG);
            if (st == SL_OK) has[s][n_has[s]++] = kept[k];
            n_shared += st == SL_OK;
        } else if (dice < 11) {
            st = sl_kv_copy(kv, s, k, &from, &to);
            const int may = kept[k] >= 0 && n_has[s] < MOST;
            assert_int_equal(st, !may ? SL_ERR_ARG : n_free ? SL_OK : SL_ERR_NOMEM);
            if (st == SL_OK) assert_int_equal(from, kept[k]);
            if (st == SL_OK) has[s][n_has[s]++] = to;
        } else {
            st = sl_kv_drop(kv, k);
            assert_int_equal(st, kept[k] >= 0 ? SL_OK : SL_ERR_ARG);
            kept[k] = -1;
        }
        n_refused += st != SL_OK;
        unsigned char used[PAGES] = {0};
        int n_used = 0;
        for (int i = 0; i < SLOTS; i++) {
            int n;
            const int32_t *pages = sl_kv_pages(kv, i, &n);
            assert_int_equal(n, n_has[i]);
            if (n) assert_memory_equal(pages, has[i], (size_t)n * sizeof pages[0]);
            for (int p = 0; p < n; p++) used[pages[p]] = 1;
        }
        for (int i = 0; i < PAGES; i++)
            if (kept[i] >= 0) used[kept[i]] = 1;
        for (int i = 0; i < PAGES; i++) n_used += used[i];
        assert_int_equal(n_used + sl_kv_n_free(kv, SL_TIER_CPU), PAGES);
    }
    assert_true(n_shared > 1000 && n_refused > 1000);
    sl_kv_close(kv);
    sl_tier_close(tier);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pages_are_taken_as_tokens_come_and_free_at_once),
        cmocka_unit_test(kept_pages_are_shared_and_stay_until_dropped),
        cmocka_unit_test(a_sequences_pages_lie_one_after_another),
        cmocka_unit_test(homes_have_pools_of_their_own),
        cmocka_unit_test(random_use_agrees_with_a_simple_model),
    };
    return cmocka_run_group_tests_name("kv_cache", tests, NULL, NULL);
}
