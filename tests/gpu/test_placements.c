/* Engines on a GPU under every placement of weights, cache and hidden states give the tokens of the
 * one that has all on the GPU, and in f16 those of the CPU oracle; prompts are distinct and ragged.
 */
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
#include "cuda/cuda_backend.h"
#include "store/kv_format.h"
#include "support/placements.h"

static char *disk_dir;

static int make_dir(void **state) {
    (void)state;
    disk_dir = strdup("/tmp/sl-gpu-XXXXXX");
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

static sl_status open_gpu(sl_backend **be, sl_host_attention **host) {
    const sl_cuda_options cuda = {
        .memory_bytes = (size_t)1 << 30, .max_rows = 64, .n_bound = SL_BOUND_PER_BATCH * 5};
    const sl_cpu_host_options attention = {.n_threads = 3};
    *host = NULL;
    SL_TRY(sl_cuda_backend_open(&cuda, be));
    return sl_cpu_host_attention_open(&attention, host);
}

static sl_status open_cpu(sl_backend **be, sl_host_attention **host) {
    const sl_cpu_options cpu = {.n_threads = 4};
    *host = NULL;
    return sl_cpu_backend_open(&cpu, be);
}

static const placement_parts on_gpu = {.open = open_gpu}, on_cpu = {.open = open_cpu};
static const placement_parts shared_on_gpu = {open_gpu, 1, 0}, alone_on_gpu = {open_gpu, 1, 1};

static void run(const char *model, const placement *p, sl_dtype weights, sl_dtype cache,
                int with_gpu, placement_outcome *out) {
    if (placement_run(model, p, weights, cache, disk_dir, with_gpu ? &on_gpu : &on_cpu, with_gpu,
                      out) != SL_OK)
        fail_msg("%s, %s: %s", model, p->name, sl_error_message());
}

static const char *const models[] = {"opt", "llama-gqa", "qwen2"};
enum { N_MODELS = 3 };

static void f16_tokens_are_those_of_the_cpu_oracle(void **state) {
    (void)state;
    int n = 0;
    placement_drift drift = {0};
    for (int m = 0; m < N_MODELS; m++) {
        placement_outcome gpu, cpu;
        const placement gpu_alone = placement_all_in_one(1), cpu_alone = placement_all_in_one(0);
        run(models[m], &gpu_alone, SL_DTYPE_F16, SL_DTYPE_F16, 1, &gpu);
        run(models[m], &cpu_alone, SL_DTYPE_F16, SL_DTYPE_F32, 0, &cpu);
        const int compared =
            placement_compare(models[m], &gpu, &cpu, placement_tolerance(SL_DTYPE_F16), &drift);
        if (compared < 0) fail();
        n += compared;
    }
    assert_true(n > N_MODELS * PLACEMENT_REQUESTS * PLACEMENT_TOKENS * 3 / 4); /* few are close */
}

static void print_drifts(const placement_drift *drift) {
    char text[120];
    for (int d = 0; d < N_PLACEMENT_PRECISIONS; d++)
        printf("weights %s, cache %s: log-probabilities differ: %s\n",
               sl_dtype_name(placement_precisions[d][0]), sl_dtype_name(placement_precisions[d][1]),
               placement_drift_text(&drift[d], text, sizeof text));
}

static void every_placement_gives_the_tokens_of_the_gpu_alone(void **state) {
    (void)state;
    int n = 0, n_all = 0;
    placement_drift drift[N_PLACEMENT_PRECISIONS] = {{0}};
    for (int m = 0; m < N_MODELS; m++) {
        for (int d = 0; d < N_PLACEMENT_PRECISIONS; d++) {
            const sl_dtype *precision = placement_precisions[d];
            placement_outcome all, placed;
            const placement gpu_alone = placement_all_in_one(1);
            run(models[m], &gpu_alone, precision[0], precision[1], 1, &all);
            /* Half of them, the other half with the next precision: each meets all models. */
            for (int i = (m + d) % 2; i < n_placements; i += 2) {
                char what[160];
                run(models[m], &placements[i], precision[0], precision[1], 1, &placed);
                snprintf(what, sizeof what, "%s, %s, weights %s, cache %s", models[m],
                         placements[i].name, sl_dtype_name(precision[0]),
                         sl_dtype_name(precision[1]));
                const int compared = placement_compare(
                    what, &placed, &all, placement_tolerance(precision[1]), &drift[d]);
                if (compared < 0) fail();
                n += compared;
                n_all += PLACEMENT_REQUESTS * PLACEMENT_TOKENS;
            }
        }
    }
    print_drifts(drift);
    assert_true(n > n_all * 3 / 4);
}

/* Prompts that begin in the same way, computed once and computed for each. */
static void sharing_changes_nothing(void **state) {
    (void)state;
    int n = 0;
    placement_drift drift = {0};
    for (int i = 0; i < n_placements; i++) {
        const char *model = models[i % N_MODELS];
        const sl_dtype *precision = placement_precisions[i % N_PLACEMENT_PRECISIONS];
        const placement gpu_alone = placement_all_in_one(1);
        placement_outcome alone, shared;
        if (placement_run(model, &gpu_alone, precision[0], precision[1], disk_dir, &alone_on_gpu, 1,
                          &alone) != SL_OK ||
            placement_run(model, &placements[i], precision[0], precision[1], disk_dir,
                          &shared_on_gpu, 1, &shared) != SL_OK)
            fail_msg("%s, %s: %s", model, placements[i].name, sl_error_message());
        assert_int_equal(alone.stats.n_shared_tokens, 0);
        assert_true(shared.stats.n_shared_tokens >= 2 * SL_PAGE_TOKENS);
        const int compared = placement_compare(placements[i].name, &shared, &alone,
                                               placement_tolerance(precision[1]), &drift);
        if (compared < 0) fail();
        n += compared;
    }
    printf("log-probabilities differ by up to %g\n", (double)drift.largest);
    assert_true(n > n_placements * PLACEMENT_REQUESTS * PLACEMENT_TOKENS * 3 / 4);
}

/* What moves while others compute must not show: any race would. */
static void a_placement_gives_the_same_bits_again(void **state) {
    (void)state;
    for (int i = 0; i < n_placements; i++) {
        const sl_dtype *precision = placement_precisions[i % N_PLACEMENT_PRECISIONS];
        placement_outcome first, again;
        run(models[i % N_MODELS], &placements[i], precision[0], precision[1], 1, &first);
        run(models[i % N_MODELS], &placements[i], precision[0], precision[1], 1, &again);
        if (!placement_same(&first, &again)) fail_msg("%s: not the same", placements[i].name);
    }
}

static void weights_are_placed_as_high_as_they_fit(void **state) {
    (void)state;
    placement_outcome all, chosen;
    placement_drift drift = {0};
    placement p = placement_all_in_one(1);
    run("opt", &p, SL_DTYPE_F16, SL_DTYPE_F16, 1, &all);
    p.weights[SL_TIER_GPU] = 0.0; /* choose */
    run("opt", &p, SL_DTYPE_F16, SL_DTYPE_F16, 1, &chosen);
    assert_int_equal(chosen.stats.weight_bytes[SL_TIER_GPU], all.stats.weight_bytes[SL_TIER_GPU]);
    assert_true(
        placement_compare("chosen", &chosen, &all, placement_tolerance(SL_DTYPE_F16), &drift) > 0);
}

int main(void) {
    if (sl_cuda_device_count() == 0) {
        printf("skipped: no CUDA device is found\n");
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(f16_tokens_are_those_of_the_cpu_oracle),
        cmocka_unit_test(every_placement_gives_the_tokens_of_the_gpu_alone),
        cmocka_unit_test(sharing_changes_nothing),
        cmocka_unit_test(a_placement_gives_the_same_bits_again),
        cmocka_unit_test(weights_are_placed_as_high_as_they_fit),
    };
    return cmocka_run_group_tests_name("placements", tests, make_dir, remove_dir);
}
