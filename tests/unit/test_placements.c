/* Engines on a CPU, with a part of host memory that stands in for a GPU's and without, give the
 * tokens of the one that has all in the computing tier, under every placement and precision. */
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "cpu/cpu_backend.h"
#include "cpu/cpu_host_attention.h"
#include "store/kv_format.h"
#include "support/placements.h"

/* Both attend in float32; only the order of sums differs.  Where keys and values are packed to 4
 * bits a difference in the last bit can move a code by one. */
static float tolerance_of(sl_dtype cache) {
    return cache == SL_DTYPE_F16 ? 5e-4f : 5e-3f;
}

static const char *const models[] = {"opt", "llama-gqa", "qwen2"};
enum { N_MODELS = 3 };

static char *disk_dir;

static int make_dir(void **state) {
    (void)state;
    disk_dir = strdup("/tmp/sl-place-XXXXXX");
    return disk_dir && mkdtemp(disk_dir) ? 0 : -1;
}

static int remove_dir(void **state) {
    (void)state;
    DIR *d = opendir(disk_dir);
    for (struct dirent *e; d && (e = readdir(d));) {
        char path[600];
        snprintf(path, sizeof path, "%s/%s", disk_dir, e->d_name);
        if (e->d_name[0] != '.') unlink(path);
    }
    if (d) closedir(d);
    const int rc = rmdir(disk_dir);
    free(disk_dir);
    return rc;
}

static sl_status open_parts(size_t device_bytes, sl_backend **be, sl_host_attention **host) {
    const sl_cpu_options cpu = {.n_threads = 2, .device_bytes = device_bytes};
    const sl_cpu_host_options attention = {.n_threads = 1};
    SL_TRY(sl_cpu_backend_open(&cpu, be));
    *host = NULL;
    return device_bytes ? sl_cpu_host_attention_open(&attention, host) : SL_OK;
}

static sl_status open_host(sl_backend **be, sl_host_attention **host) {
    return open_parts(0, be, host);
}

static sl_status open_stand_in(sl_backend **be, sl_host_attention **host) {
    return open_parts((size_t)64 << 20, be, host);
}

/* What must have happened, so that the test cannot pass without doing anything. */
static void check_traffic(const placement *p, const placement_outcome *o, int has_device) {
    const sl_engine_stats *s = &o->stats;
    assert_int_equal(s->weight_bytes[SL_TIER_DISK] > 0, p->weights[SL_TIER_DISK] > 0);
    const double disk = p->weights[SL_TIER_DISK] + p->cache[SL_TIER_DISK] + p->hidden[SL_TIER_DISK];
    assert_int_equal(s->moved_bytes[SL_QUEUE_DISK_READ] > 0, disk > 0);
    assert_int_equal(s->moved_bytes[SL_QUEUE_DISK_WRITE] > 0,
                     p->cache[SL_TIER_DISK] + p->hidden[SL_TIER_DISK] > 0);
    if (!has_device) return;
    const double below = p->cache[SL_TIER_CPU] + p->cache[SL_TIER_DISK];
    const double hidden = p->hidden[SL_TIER_CPU] + p->hidden[SL_TIER_DISK];
    assert_int_equal(s->moved_bytes[SL_QUEUE_D2H] > 0, below + hidden > 0);
    assert_int_equal(s->uploaded_bytes > 0, p->weights[SL_TIER_GPU] < 1);
    assert_int_equal(s->moved_bytes[SL_QUEUE_ATTEND] > 0, p->host_attends > 0 && below > 0);
    assert_int_equal(s->home_pages[SL_TIER_CPU] > 0, p->cache[SL_TIER_CPU] > 0);
    assert_int_equal(s->home_pages[SL_TIER_DISK] > 0, p->cache[SL_TIER_DISK] > 0);
}

static void every_placement(const placement_parts *parts, int has_device) {
    int n_compared = 0, n_all = 0;
    placement_drift drift[N_PLACEMENT_PRECISIONS] = {{0}};
    for (int m = 0; m < N_MODELS; m++) {
        for (int d = 0; d < N_PLACEMENT_PRECISIONS; d++) {
            const sl_dtype *precision = placement_precisions[d];
            placement_outcome all, placed;
            const placement one = placement_all_in_one(has_device);
            if (placement_run(models[m], &one, precision[0], precision[1], NULL, parts, has_device,
                              &all) != SL_OK)
                fail_msg("%s: %s", models[m], sl_error_message());
            /* Half of them, the other half with the next precision: each meets all models. */
            for (int i = (m + d) % 2; i < n_placements; i += 2) {
                if ((i / 2 + m + 3 * d) % SL_TEST_STEP != 0) continue;
                char what[160];
                snprintf(what, sizeof what, "%s, %s, weights %s, cache %s", models[m],
                         placements[i].name, sl_dtype_name(precision[0]),
                         sl_dtype_name(precision[1]));
                if (placement_run(models[m], &placements[i], precision[0], precision[1], disk_dir,
                                  parts, has_device, &placed) != SL_OK)
                    fail_msg("%s: %s", what, sl_error_message());
                const int n =
                    placement_compare(what, &placed, &all, tolerance_of(precision[1]), &drift[d]);
                if (n < 0) fail();
                n_compared += n;
                n_all += PLACEMENT_REQUESTS * PLACEMENT_TOKENS;
                check_traffic(&placements[i], &placed, has_device);
            }
        }
    }
    printf("log-probabilities differ by up to %g (f16), %g (q8), %g (q4), %g (q4, f16)\n",
           (double)drift[0].largest, (double)drift[1].largest, (double)drift[2].largest,
           (double)drift[3].largest);
    assert_true(n_compared > n_all * 9 / 10); /* few places are close */
}

static void every_placement_on_the_host_gives_the_same_tokens(void **state) {
    (void)state;
    const placement_parts parts = {.open = open_host};
    every_placement(&parts, 0);
}

static void every_placement_beside_a_device_gives_the_same_tokens(void **state) {
    (void)state;
    const placement_parts parts = {.open = open_stand_in};
    every_placement(&parts, 1);
}

/* The same prompts with their common beginning computed once and computed for each. */
static void sharing_changes_nothing(sl_status (*open)(sl_backend **, sl_host_attention **),
                                    int has_device) {
    const placement_parts shared = {open, 1, 0}, alone = {open, 1, 1};
    int n_compared = 0, n_all = 0;
    uint64_t n_shared = 0;
    placement_drift drift = {0};
    for (int i = 0; i < n_placements; i++) {
        const int m = i % N_MODELS;
        const sl_dtype *precision = placement_precisions[i % N_PLACEMENT_PRECISIONS];
        const placement one = placement_all_in_one(has_device);
        placement_outcome expected, found;
        if (placement_run(models[m], &one, precision[0], precision[1], NULL, &alone, has_device,
                          &expected) != SL_OK ||
            placement_run(models[m], &placements[i], precision[0], precision[1], disk_dir, &shared,
                          has_device, &found) != SL_OK)
            fail_msg("%s: %s", placements[i].name, sl_error_message());
        assert_int_equal(expected.stats.n_shared_tokens, 0);
        assert_true(found.stats.n_shared_tokens >= 2 * SL_PAGE_TOKENS);
        n_shared += found.stats.n_shared_tokens;
        const int n = placement_compare(placements[i].name, &found, &expected,
                                        tolerance_of(precision[1]), &drift);
        if (n < 0) fail();
        n_compared += n;
        n_all += PLACEMENT_REQUESTS * PLACEMENT_TOKENS;
    }
    printf("%d tokens shared; log-probabilities differ by up to %g\n", (int)n_shared,
           (double)drift.largest);
    assert_true(n_compared > n_all * 9 / 10);
}

static void sharing_on_the_host_changes_nothing(void **state) {
    (void)state;
    sharing_changes_nothing(open_host, 0);
}

static void sharing_beside_a_device_changes_nothing(void **state) {
    (void)state;
    sharing_changes_nothing(open_stand_in, 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_placement_on_the_host_gives_the_same_tokens),
        cmocka_unit_test(every_placement_beside_a_device_gives_the_same_tokens),
        cmocka_unit_test(sharing_on_the_host_changes_nothing),
        cmocka_unit_test(sharing_beside_a_device_changes_nothing),
    };
    return cmocka_run_group_tests_name("placements", tests, make_dir, remove_dir);
}
