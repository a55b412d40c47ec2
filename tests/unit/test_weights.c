/* Unit tests of src/store/placement.c and weights.c, and of engines whose weights live on disk:
 * they give the bits of the engine that has all in memory. */
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/rng.h"
#include "cpu/cpu_backend.h"
#include "engine/engine.h"
#include "store/placement.h"
#include "store/weights.h"

static const char model[] = SL_TESTS_DIR "/golden/models/llama-gqa";

static int make_dir(void **state) {
    char *dir = strdup("/tmp/sl-weights-XXXXXX");
    if (!dir || !mkdtemp(dir)) return -1;
    *state = dir;
    return 0;
}

/* Calls `f` for each file of the folder; returns their number. */
static int each_file(const char *dir, void (*f)(const char *path)) {
    DIR *d = opendir(dir);
    int n = 0;
    for (struct dirent *e; d && (e = readdir(d));) {
        char path[600];
        if (e->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
        if (f) f(path);
        n++;
    }
    if (d) closedir(d);
    return n;
}

static void remove_file(const char *path) {
    unlink(path);
}

static int remove_dir(void **state) {
    each_file(*state, remove_file);
    const int rc = rmdir(*state);
    free(*state);
    return rc;
}

/* ---- placement ---- */

static void shares_are_met_in_every_layer(void **state) {
    (void)state;
    sl_source *source = NULL;
    assert_int_equal(sl_source_open("dummy:opt-6.7b", 1, &source), SL_OK);
    const sl_shares shares = {{0.2, 0.5, 0.3}};
    sl_place_carry carry = {{0}};
    for (int layer = 0; layer < 4; layer++) {
        sl_layout layout;
        unsigned char home[512];
        double bytes[SL_TIER_COUNT] = {0}, total = 0;
        assert_int_equal(sl_layout_make(source, layer, 0, &layout), SL_OK);
        assert_in_range(layout.n_pieces, 20, 512);
        sl_place_layer(&layout, &shares, SL_TIER_GPU, &carry, home);
        for (int p = 0; p < layout.n_pieces; p++) {
            if (sl_role_is_vector(layout.pieces[p].role)) {
                assert_int_equal(home[p], SL_TIER_GPU);
                continue;
            }
            bytes[home[p]] += (double)layout.pieces[p].bytes;
            total += (double)layout.pieces[p].bytes;
        }
        for (int t = 0; t < SL_TIER_COUNT; t++) {
            const double found = bytes[t] / total;
            assert_true(found > shares.frac[t] - 0.04 && found < shares.frac[t] + 0.04);
        }
        sl_layout_free(&layout);
    }
    sl_source_close(source);
}

/* However the shares are, tiers follow each other once in a layer, and in the long run every tier
 * has its share, be it less than a piece of each layer. */
static void pieces_of_a_tier_lie_one_after_another(void **state) {
    (void)state;
    sl_source *source = NULL;
    sl_rng rng = {.key = 6};
    assert_int_equal(sl_source_open("dummy:opt-6.7b", 1, &source), SL_OK);
    sl_layout layout;
    assert_int_equal(sl_layout_make(source, 1, 0, &layout), SL_OK);
    for (int i = 0; i < 200; i++) {
        sl_shares shares = {{0}};
        double left = 1, bytes[SL_TIER_COUNT] = {0}, total = 0, largest = 0;
        for (int t = 0; t < SL_TIER_COUNT - 1; t++) {
            const double part = (double)sl_rng_below(&rng, 101) / 100;
            shares.frac[t] = sl_rng_below(&rng, 4) ? left * part * part : 0;
            left -= shares.frac[t];
        }
        shares.frac[SL_TIER_DISK] = left;
        sl_place_carry carry = {{0}};
        for (int layer = 0; layer < 32; layer++) {
            unsigned char home[512];
            sl_place_layer(&layout, &shares, SL_TIER_GPU, &carry, home);
            int last = 0;
            for (int p = layout.n_vectors; p < layout.n_pieces; p++) {
                assert_true(home[p] >= last && shares.frac[home[p]] > 0);
                last = home[p];
                bytes[home[p]] += (double)layout.pieces[p].bytes;
                total += (double)layout.pieces[p].bytes;
                if ((double)layout.pieces[p].bytes > largest)
                    largest = (double)layout.pieces[p].bytes;
            }
        }
        for (int t = 0; t < SL_TIER_COUNT; t++) {
            const double off = bytes[t] - shares.frac[t] * total;
            assert_true(off < 1.5 * largest && off > -1.5 * largest);
        }
    }
    sl_layout_free(&layout);
    sl_source_close(source);
}

static void shares_that_do_not_sum_to_one_are_refused(void **state) {
    (void)state;
    const sl_shares low = {{0.2, 0.2, 0.2}}, negative = {{-0.5, 1.0, 0.5}};
    assert_int_equal(sl_shares_check(&low, "weights"), SL_ERR_ARG);
    assert_non_null(strstr(sl_error_message(), "weights"));
    assert_int_equal(sl_shares_check(&negative, "weights"), SL_ERR_ARG);
    assert_non_null(strstr(sl_error_message(), "gpu"));
}

/* ---- engines ---- */

enum { N_REQUESTS = 5, GENERATE = 10 };

typedef struct {
    sl_choice token[N_REQUESTS][GENERATE];
    sl_engine_stats stats;
} outcome;

/* device_bytes > 0: on a device with that much memory of its own. */
static sl_status run_on(size_t device_bytes, const sl_policy *wanted, outcome *out) {
    sl_source *source = NULL;
    sl_backend *be = NULL;
    sl_transport *t = NULL;
    sl_engine *e = NULL;
    sl_policy policy = *wanted;
    const sl_cpu_options cpu = {.n_threads = 2, .device_bytes = device_bytes};
    assert_int_equal(sl_source_open(model, 0, &source), SL_OK);
    assert_int_equal(sl_cpu_backend_open(&cpu, &be), SL_OK);
    assert_int_equal(sl_transport_open_loopback(&t), SL_OK);
    sl_status st = sl_engine_open(source, be, t, &policy, NULL, &e);
    if (st == SL_OK) {
        for (intptr_t i = 0; i < N_REQUESTS; i++) {
            int32_t prompt[64];
            const int n = 3 + 11 * (int)i;
            for (int j = 0; j < n; j++)
                prompt[j] = (int32_t)(sl_rng_at((uint64_t)i, (uint64_t)j) %
                                      (uint64_t)sl_source_config(source)->vocab);
            const sl_engine_request r = {.prompt = prompt,
                                         .n_prompt = n,
                                         .max_tokens = GENERATE,
                                         .n = 1,
                                         .sampling = {.top_p = 1, .repetition_penalty = 1},
                                         .user = (void *)i};
            uint64_t id;
            assert_int_equal(sl_engine_submit(e, &r, &id), SL_OK);
        }
        sl_engine_finish(e);
        int done = 0;
        while (st == SL_OK && !done) {
            st = sl_engine_step(e, &done);
            const sl_engine_result *res = NULL;
            while (st == SL_OK && sl_engine_take(e, &res) == SL_OK && res) {
                memcpy(out->token[(intptr_t)res->user], res->choices[0].tokens,
                       sizeof out->token[0]);
                sl_engine_release(e, res);
            }
        }
        sl_engine_get_stats(e, &out->stats);
        /* All sequences are over: every page is free again. */
        if (st == SL_OK) assert_int_equal(out->stats.pages_free, out->stats.pages_total);
    }
    sl_engine_close(e);
    sl_transport_close(t);
    sl_backend_close(be);
    sl_source_close(source);
    return st;
}

static sl_status run_engine(const sl_policy *wanted, outcome *out) {
    return run_on(0, wanted, out);
}

static sl_policy base_policy(void) {
    sl_policy p;
    sl_policy_init(&p);
    p.micro_batch = 2;
    p.num_micro_batches = 2;
    p.max_rows = 16;
    p.max_context = 96;
    p.cpu_budget_bytes = 64 << 20;
    return p;
}

static void every_share_on_disk_gives_the_same_bits(void **state) {
    sl_policy p = base_policy();
    outcome memory = {0}, disk = {0};
    assert_int_equal(run_engine(&p, &memory), SL_OK);
    assert_int_equal(memory.stats.weight_bytes[SL_TIER_DISK], 0);
    p.disk_dir = *state;
    p.disk_budget_bytes = 64 << 20;
    const double fracs[] = {0.0, 0.1, 0.3, 0.5, 0.9, 1.0};
    for (size_t i = 0; i < sizeof fracs / sizeof fracs[0]; i++) {
        p.weights.frac[SL_TIER_DISK] = fracs[i];
        p.weights.frac[SL_TIER_CPU] = 1.0 - fracs[i];
        memset(&disk, 0, sizeof disk);
        assert_int_equal(run_engine(&p, &disk), SL_OK);
        for (int r = 0; r < N_REQUESTS; r++)
            for (int k = 0; k < GENERATE; k++) {
                assert_int_equal(disk.token[r][k].id, memory.token[r][k].id);
                assert_true(disk.token[r][k].logprob == memory.token[r][k].logprob);
            }
        assert_int_equal(disk.stats.n_steady_allocs, 0);
        assert_int_equal(disk.stats.weight_bytes[SL_TIER_DISK] > 0, fracs[i] > 0.0);
        assert_true(disk.stats.disk_read_bytes >= disk.stats.weight_bytes[SL_TIER_DISK]);
        assert_true(disk.stats.cpu_peak_bytes <= disk.stats.cpu_budget_bytes);
    }
}

static void assert_same(const outcome *a, const outcome *b) {
    for (int r = 0; r < N_REQUESTS; r++)
        for (int k = 0; k < GENERATE; k++) {
            assert_int_equal(a->token[r][k].id, b->token[r][k].id);
            assert_true(a->token[r][k].logprob == b->token[r][k].logprob);
        }
}

static void every_placement_on_a_device_gives_the_same_bits(void **state) {
    sl_policy p = base_policy();
    outcome memory = {0}, placed = {0};
    assert_int_equal(run_engine(&p, &memory), SL_OK);
    p.disk_dir = *state;
    p.disk_budget_bytes = 64 << 20;
    static const double shares[][SL_TIER_COUNT] = {
        {1, 0, 0},   {0, 1, 0},    {0, 0, 1},    {.5, .5, 0},  {.5, 0, .5},    {0, .5, .5},
        {.2, .8, 0}, {.3, .3, .4}, {.1, .1, .8}, {.8, .1, .1}, {.34, .33, .33}};
    for (size_t i = 0; i < sizeof shares / sizeof shares[0]; i++) {
        for (int k = 1; k <= 5; k += 2) {
            memcpy(p.weights.frac, shares[i], sizeof shares[i]);
            p.num_micro_batches = k;
            memset(&placed, 0, sizeof placed);
            assert_int_equal(run_on(32 << 20, &p, &placed), SL_OK);
            assert_same(&placed, &memory);
            assert_int_equal(placed.stats.n_steady_allocs, 0);
            assert_int_equal(placed.stats.weight_bytes[SL_TIER_DISK] > 0, shares[i][2] > 0);
            assert_int_equal(placed.stats.uploaded_bytes > 0, shares[i][0] < 1);
            assert_true(placed.stats.gpu_peak_bytes <= placed.stats.gpu_budget_bytes);
        }
    }
}

static void weights_are_placed_as_high_as_they_fit(void **state) {
    (void)state;
    sl_policy p = base_policy();
    outcome memory = {0}, placed = {0};
    assert_int_equal(run_engine(&p, &memory), SL_OK);
    assert_int_equal(run_on(32 << 20, &p, &placed), SL_OK);
    assert_int_equal(placed.stats.weight_bytes[SL_TIER_CPU], 0);
    size_t budget = placed.stats.gpu_peak_bytes;
    const size_t step = budget / 24;
    int n_mixed = 0;
    for (; budget > step; budget -= step) {
        const sl_status st = run_on(budget, &p, &placed);
        if (st != SL_OK) {
            assert_int_equal(st, SL_ERR_NOMEM);
            assert_non_null(strstr(sl_error_message(), "gpu"));
            break;
        }
        assert_same(&placed, &memory);
        assert_true(placed.stats.gpu_peak_bytes <= budget);
        n_mixed += placed.stats.weight_bytes[SL_TIER_CPU] > 0;
    }
    assert_true(n_mixed > 0);
}

static void a_budget_that_is_too_small_for_the_weights_spills_to_disk(void **state) {
    sl_policy p = base_policy();
    outcome memory = {0}, spilled = {0};
    assert_int_equal(run_engine(&p, &memory), SL_OK);
    p.disk_dir = *state;
    p.disk_budget_bytes = 64 << 20;
    size_t budget = memory.stats.cpu_peak_bytes;
    int n_spilled = 0;
    /* Less and less memory: the same tokens, or a refusal that names the budget; never more than
     * it. */
    for (int i = 0; i < 20; i++, budget -= memory.stats.cpu_peak_bytes / 20) {
        p.cpu_budget_bytes = budget;
        const sl_status st = run_engine(&p, &spilled);
        if (st != SL_OK) {
            assert_int_equal(st, SL_ERR_NOMEM);
            assert_non_null(strstr(sl_error_message(), "budget"));
            break;
        }
        assert_true(spilled.stats.cpu_peak_bytes <= budget);
        n_spilled += spilled.stats.weight_bytes[SL_TIER_DISK] > 0;
        for (int r = 0; r < N_REQUESTS; r++)
            for (int k = 0; k < GENERATE; k++)
                assert_int_equal(spilled.token[r][k].id, memory.token[r][k].id);
    }
    assert_true(n_spilled > 0);
}

static void the_packed_file_is_used_again(void **state) {
    sl_policy p = base_policy();
    outcome o = {0};
    p.disk_dir = *state;
    p.disk_budget_bytes = 64 << 20;
    p.weights.frac[SL_TIER_DISK] = p.weights.frac[SL_TIER_CPU] = 0.5;
    assert_int_equal(run_engine(&p, &o), SL_OK);
    assert_int_equal(each_file(*state, NULL), 1);
    assert_int_equal(run_engine(&p, &o), SL_OK);
    assert_int_equal(each_file(*state, NULL), 1);
}

static void a_disk_budget_that_is_too_small_is_refused(void **state) {
    sl_policy p = base_policy();
    outcome o = {0};
    p.disk_dir = *state;
    p.disk_budget_bytes = 8192;
    p.weights.frac[SL_TIER_DISK] = 1.0;
    assert_int_equal(run_engine(&p, &o), SL_ERR_NOMEM);
    assert_int_equal(each_file(*state, NULL), 0);
    p.disk_dir = "/nonexistent";
    p.disk_budget_bytes = 64 << 20;
    assert_int_equal(run_engine(&p, &o), SL_ERR_IO);
    assert_non_null(strstr(sl_error_message(), "/nonexistent"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shares_are_met_in_every_layer),
        cmocka_unit_test(pieces_of_a_tier_lie_one_after_another),
        cmocka_unit_test(shares_that_do_not_sum_to_one_are_refused),
        cmocka_unit_test_setup_teardown(every_share_on_disk_gives_the_same_bits, make_dir,
                                        remove_dir),
        cmocka_unit_test_setup_teardown(every_placement_on_a_device_gives_the_same_bits, make_dir,
                                        remove_dir),
        cmocka_unit_test(weights_are_placed_as_high_as_they_fit),
        cmocka_unit_test_setup_teardown(a_budget_that_is_too_small_for_the_weights_spills_to_disk,
                                        make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(the_packed_file_is_used_again, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(a_disk_budget_that_is_too_small_is_refused, make_dir,
                                        remove_dir),
    };
    return cmocka_run_group_tests_name("weights", tests, NULL, NULL);
}
