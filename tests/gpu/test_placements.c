/* Engines on a GPU under every placement of the weights give the tokens of the one that has all on
 * the GPU, and in f16 those of the CPU oracle; prompts are distinct and ragged. */
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

#include "base/rng.h"
#include "cpu/cpu_backend.h"
#include "cuda/cuda_backend.h"
#include "engine/engine.h"

enum { N_REQUESTS = 7, GENERATE = 12 };

/* Rounding differs with the number of rows in a product, so tokens may part where the best two are
 * closer than this: f16 activations carry 11 bits, and logits here are of the order of 10. */
static const float CLOSE = 0.05f;

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

typedef struct {
    sl_choice token[N_REQUESTS][GENERATE];
    sl_engine_stats stats;
} outcome;

static sl_backend *open_backend(int on_gpu) {
    sl_backend *be = NULL;
    const sl_cpu_options cpu = {.n_threads = 4};
    const sl_cuda_options cuda = {.memory_bytes = (size_t)1 << 30, .max_rows = 64};
    const sl_status st = on_gpu ? sl_cuda_backend_open(&cuda, &be) : sl_cpu_backend_open(&cpu, &be);
    if (st != SL_OK) fail_msg("%s", sl_error_message());
    return be;
}

static void run_engine(const char *model, int on_gpu, const sl_policy *wanted, outcome *out) {
    char path[600];
    sl_source *source = NULL;
    sl_transport *t = NULL;
    sl_engine *e = NULL;
    sl_policy policy = *wanted;
    sl_backend *be = open_backend(on_gpu);
    snprintf(path, sizeof path, "%s/golden/models/%s", SL_TESTS_DIR, model);
    assert_int_equal(sl_source_open(path, 0, &source), SL_OK);
    assert_int_equal(sl_transport_open_loopback(&t), SL_OK);
    if (sl_engine_open(source, be, t, &policy, NULL, &e) != SL_OK)
        fail_msg("%s: %s", model, sl_error_message());
    for (intptr_t i = 0; i < N_REQUESTS; i++) {
        int32_t prompt[80];
        const int n = 1 + 11 * (int)i;
        for (int j = 0; j < n; j++)
            prompt[j] = (int32_t)(sl_rng_at((uint64_t)i, (uint64_t)j) %
                                  (uint64_t)sl_source_config(source)->vocab);
        const sl_engine_request r = {
            .prompt = prompt,
            .n_prompt = n,
            .max_tokens = GENERATE,
            .n = 1,
            .sampling = {.top_p = 1, .repetition_penalty = 1, .n_logprobs = 2},
            .user = (void *)i};
        uint64_t id;
        assert_int_equal(sl_engine_submit(e, &r, &id), SL_OK);
    }
    sl_engine_finish(e);
    for (int done = 0; !done;) {
        if (sl_engine_step(e, &done) != SL_OK) fail_msg("%s: %s", model, sl_error_message());
        const sl_engine_result *res = NULL;
        while (sl_engine_take(e, &res) == SL_OK && res) {
            memcpy(out->token[(intptr_t)res->user], res->choices[0].tokens, sizeof out->token[0]);
            sl_engine_release(e, res);
        }
    }
    sl_engine_get_stats(e, &out->stats);
    assert_int_equal(out->stats.n_steady_allocs, 0);
    assert_int_equal(out->stats.pages_free, out->stats.pages_total);
    assert_true(out->stats.gpu_peak_bytes <= out->stats.gpu_budget_bytes);
    sl_engine_close(e);
    sl_transport_close(t);
    sl_backend_close(be);
    sl_source_close(source);
}

/* Tokens are equal up to a place where the best two were close; returns how many were compared. */
static int compare(const char *what, const outcome *found, const outcome *expected) {
    int n = 0;
    for (int r = 0; r < N_REQUESTS; r++) {
        for (int k = 0; k < GENERATE; k++, n++) {
            const sl_choice *x = &expected->token[r][k], *y = &found->token[r][k];
            if (x->id == y->id) continue;
            if (x->top[0].logprob - x->top[1].logprob < CLOSE) break;
            fail_msg("%s: request %d, token %d is %d, expected %d by a margin of %g", what, r, k,
                     (int)y->id, (int)x->id, (double)(x->top[0].logprob - x->top[1].logprob));
        }
    }
    return n;
}

static sl_policy base_policy(sl_dtype weights, sl_dtype cache, int k) {
    sl_policy p;
    sl_policy_init(&p);
    p.micro_batch = 2;
    p.num_micro_batches = k;
    p.max_rows = 32;
    p.max_context = 96;
    p.cpu_budget_bytes = 256 << 20;
    p.disk_dir = disk_dir;
    p.disk_budget_bytes = 256 << 20;
    p.weights_dtype = weights;
    p.cache_dtype = cache;
    p.weights.frac[SL_TIER_GPU] = 1.0;
    return p;
}

static const char *const models[] = {"opt", "llama-gqa", "qwen2"};
enum { N_MODELS = 3 };

static void f16_tokens_are_those_of_the_cpu_oracle(void **state) {
    (void)state;
    int n = 0;
    for (int m = 0; m < N_MODELS; m++) {
        outcome gpu, cpu;
        sl_policy p = base_policy(SL_DTYPE_F16, SL_DTYPE_F16, 2);
        run_engine(models[m], 1, &p, &gpu);
        p = base_policy(SL_DTYPE_F16, SL_DTYPE_F32, 2);
        p.weights.frac[SL_TIER_GPU] = 0.0;
        p.weights.frac[SL_TIER_CPU] = 1.0;
        run_engine(models[m], 0, &p, &cpu);
        n += compare(models[m], &gpu, &cpu);
    }
    assert_true(n > N_MODELS * N_REQUESTS * GENERATE * 3 / 4); /* few places are close */
}

static void every_placement_gives_the_tokens_of_the_gpu_alone(void **state) {
    (void)state;
    static const double shares[][SL_TIER_COUNT] = {{0, 1, 0},    {0, 0, 1},    {.5, .5, 0},
                                                   {.5, 0, .5},  {0, .5, .5},  {.2, .8, 0},
                                                   {.3, .3, .4}, {.1, .1, .8}, {.8, .1, .1}};
    static const sl_dtype precisions[][2] = {{SL_DTYPE_F16, SL_DTYPE_F16},
                                             {SL_DTYPE_Q8G64, SL_DTYPE_Q8G64},
                                             {SL_DTYPE_Q4G64, SL_DTYPE_Q4G64},
                                             {SL_DTYPE_Q4G64, SL_DTYPE_F16}};
    for (int m = 0; m < N_MODELS; m++) {
        for (size_t d = 0; d < sizeof precisions / sizeof precisions[0]; d++) {
            outcome all, placed;
            sl_policy p = base_policy(precisions[d][0], precisions[d][1], 2);
            run_engine(models[m], 1, &p, &all);
            for (size_t i = 0; i < sizeof shares / sizeof shares[0]; i++) {
                char what[128];
                p = base_policy(precisions[d][0], precisions[d][1], 1 + (int)i % 5);
                memcpy(p.weights.frac, shares[i], sizeof shares[i]);
                run_engine(models[m], 1, &p, &placed);
                snprintf(what, sizeof what, "%s, weights %s, cache %s, at %g/%g/%g", models[m],
                         sl_dtype_name(precisions[d][0]), sl_dtype_name(precisions[d][1]),
                         shares[i][0], shares[i][1], shares[i][2]);
                compare(what, &placed, &all);
                assert_int_equal(placed.stats.weight_bytes[SL_TIER_DISK] > 0, shares[i][2] > 0);
                assert_true(placed.stats.uploaded_bytes > 0);
            }
        }
    }
}

static void weights_are_placed_as_high_as_they_fit(void **state) {
    (void)state;
    outcome all, chosen;
    sl_policy p = base_policy(SL_DTYPE_F16, SL_DTYPE_F16, 2);
    run_engine("opt", 1, &p, &all);
    p.weights.frac[SL_TIER_GPU] = 0.0; /* choose */
    run_engine("opt", 1, &p, &chosen);
    assert_int_equal(chosen.stats.weight_bytes[SL_TIER_GPU], all.stats.weight_bytes[SL_TIER_GPU]);
    compare("chosen", &chosen, &all);
}

int main(void) {
    if (sl_cuda_device_count() == 0) {
        printf("skipped: no CUDA device is found\n");
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(f16_tokens_are_those_of_the_cpu_oracle),
        cmocka_unit_test(every_placement_gives_the_tokens_of_the_gpu_alone),
        cmocka_unit_test(weights_are_placed_as_high_as_they_fit),
    };
    return cmocka_run_group_tests_name("placements", tests, make_dir, remove_dir);
}
