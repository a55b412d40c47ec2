/* What opening an engine takes of each tier is what was measured before, under random placements,
 * with and without a device (host memory that stands in for one). */
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
#include "cpu/cpu_host_attention.h"
#include "engine/engine.h"
#include "engine/footprint.h"

enum { N_RANDOM = 32, N_LAYERS = 4 };
static const size_t plenty = (size_t)256 << 20;

static char *disk_dir;

static int make_dir(void **state) {
    (void)state;
    disk_dir = strdup("/tmp/sl-measure-XXXXXX");
    return disk_dir && mkdtemp(disk_dir) ? 0 : -1;
}

static int remove_dir(void **state) {
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", disk_dir);
    free(disk_dir);
    return system(command);
}

static sl_source *open_tiny(void) {
    sl_model_config c;
    sl_source *source = NULL;
    assert_int_equal(sl_config_named("opt-125m", &c), SL_OK);
    c.n_layers = N_LAYERS;
    c.hidden = c.embed_dim = 128;
    c.n_heads = c.n_kv_heads = 4;
    c.head_dim = 32;
    c.ffn = 512;
    c.vocab = 1000;
    c.max_positions = 512;
    assert_int_equal(sl_source_open_dummy(&c, "tiny", 1, &source), SL_OK);
    return source;
}

/* Shares in steps of an eighth; without a device nothing of the weights on it. */
static sl_shares random_shares(sl_rng *rng, int with_gpu) {
    sl_shares s = {{0}};
    const int gpu = with_gpu ? (int)sl_rng_below(rng, 9) : 0;
    const int cpu = (int)sl_rng_below(rng, (uint64_t)(9 - gpu));
    s.frac[SL_TIER_GPU] = gpu / 8.0;
    s.frac[SL_TIER_CPU] = sl_rng_below(rng, 3) == 0 ? cpu / 8.0 : (8 - gpu) / 8.0;
    s.frac[SL_TIER_DISK] = 1.0 - s.frac[SL_TIER_GPU] - s.frac[SL_TIER_CPU];
    return s;
}

static sl_policy random_policy(sl_rng *rng, int has_device) {
    static const sl_dtype dtypes[] = {SL_DTYPE_F16, SL_DTYPE_Q8G64, SL_DTYPE_Q4G64};
    sl_policy p;
    sl_policy_init(&p);
    p.micro_batch = 1 + (int)sl_rng_below(rng, 4);
    p.num_micro_batches = 1 + (int)sl_rng_below(rng, 4);
    p.max_rows = 8 << sl_rng_below(rng, 5);
    p.max_context = 33 + (int)sl_rng_below(rng, 70);
    p.weights_dtype = dtypes[sl_rng_below(rng, 3)];
    p.cache_dtype = dtypes[sl_rng_below(rng, 3)];
    p.weights = random_shares(rng, has_device);
    p.cache = random_shares(rng, 1);
    if (sl_rng_below(rng, 2)) p.hidden = random_shares(rng, 1);
    p.host_attends = (double)sl_rng_below(rng, 5) / 4;
    p.cpu_budget_bytes = p.disk_budget_bytes = plenty;
    p.disk_dir = disk_dir;
    return p;
}

typedef struct {
    sl_backend *backend;
    sl_host_attention *host;
    sl_transport *transport;
    size_t own_bytes; /* of the device's memory, that the backend takes before */
    void *own;
} parts;

static sl_status open_engine(const sl_source *source, const sl_policy *policy, size_t gpu_bytes,
                             parts *p, sl_engine **out) {
    const sl_cpu_options cpu = {.n_threads = 1, .device_bytes = gpu_bytes};
    const sl_cpu_host_options host = {.n_threads = 1};
    sl_policy mine = *policy;
    assert_int_equal(sl_cpu_backend_open(&cpu, &p->backend), SL_OK);
    if (p->own_bytes > 0)
        assert_int_equal(
            p->backend->ops->device->take(p->backend, p->own_bytes, "its own", &p->own), SL_OK);
    assert_int_equal(sl_transport_open_loopback(&p->transport), SL_OK);
    p->host = NULL;
    if (gpu_bytes) assert_int_equal(sl_cpu_host_attention_open(&host, &p->host), SL_OK);
    mine.host_attention = p->host;
    return sl_engine_open(source, p->backend, p->transport, &mine, NULL, out);
}

static void close_engine(parts *p, sl_engine *engine) {
    sl_engine_close(engine);
    sl_host_attention_close(p->host);
    sl_transport_close(p->transport);
    if (p->own_bytes > 0) p->backend->ops->device->put(p->backend, p->own);
    sl_backend_close(p->backend);
}

/* All seats are taken by prompts of the longest context but one token. */
static void fill_seats(sl_engine *engine, const sl_policy *policy) {
    int32_t prompt[512] = {0};
    const int n = policy->micro_batch * policy->num_micro_batches;
    for (int i = 0; i < n; i++) {
        uint64_t id;
        for (int k = 0; k < policy->max_context; k++) prompt[k] = (i * 7 + k * 3) % 1000;
        const sl_engine_request r = {.prompt = prompt,
                                     .n_prompt = policy->max_context - 1,
                                     .max_tokens = 1,
                                     .n = 1,
                                     .sampling = {.top_p = 1, .repetition_penalty = 1}};
        assert_int_equal(sl_engine_submit(engine, &r, &id), SL_OK);
    }
    sl_engine_finish(engine);
    for (int done = 0; !done;)
        if (sl_engine_step(engine, &done) != SL_OK) fail_msg("%s", sl_error_message());
}

static void check_peak(const char *what, int i, size_t measured, size_t taken) {
    if (taken > measured || (double)taken < 0.95 * (double)measured)
        fail_msg("placement %d: %s: measured %zu, taken %zu", i, what, measured, taken);
}

static sl_footprint_options measure_options(const sl_source *source, const sl_policy *policy,
                                            size_t gpu_bytes) {
    return (sl_footprint_options){.source = source,
                                  .policy = policy,
                                  .n_ranks = 1,
                                  .last_layer = N_LAYERS,
                                  .attends_on_host = gpu_bytes > 0,
                                  .act_bytes = 4,
                                  .gpu_bytes = gpu_bytes};
}

static void try_placement(const sl_source *source, sl_rng *rng, int has_device, int i) {
    sl_policy policy = random_policy(rng, has_device);
    sl_footprint m;
    parts p = {.own_bytes = has_device && i % 2 == 1 ? 3 << 20 : 0};
    sl_engine *engine = NULL;
    sl_footprint_options o = measure_options(source, &policy, has_device ? plenty : 0);
    o.backend_bytes = p.own_bytes;
    if (sl_footprint_of(&o, &m) != SL_OK) fail_msg("%d: %s", i, sl_error_message());
    /* Budgets that hold it to the byte. */
    policy.cpu_budget_bytes = m.need_bytes[SL_TIER_CPU];
    policy.disk_budget_bytes = m.need_bytes[SL_TIER_DISK];
    const size_t gpu_bytes = has_device ? m.need_bytes[SL_TIER_GPU] : 0;
    if (open_engine(source, &policy, gpu_bytes, &p, &engine) != SL_OK)
        fail_msg("placement %d does not fit what was measured: %s", i, sl_error_message());
    sl_engine_stats s;
    fill_seats(engine, &policy);
    sl_engine_get_stats(engine, &s);
    check_peak("gpu", i, gpu_bytes, s.gpu_peak_bytes);
    check_peak("cpu", i, m.need_bytes[SL_TIER_CPU], s.cpu_peak_bytes);
    check_peak("disk", i, m.need_bytes[SL_TIER_DISK], s.disk_peak_bytes);
    assert_int_equal(s.pages_total,
                     m.context_pages * policy.micro_batch * policy.num_micro_batches);
    assert_memory_equal(s.weight_bytes, m.weight_bytes, sizeof s.weight_bytes);
    close_engine(&p, engine);
}

static void random_placements_beside_a_device_take_what_was_measured(void **state) {
    (void)state;
    sl_rng rng = {.key = 11};
    sl_source *source = open_tiny();
    for (int i = 0; i < N_RANDOM; i++) try_placement(source, &rng, 1, i);
    sl_source_close(source);
}

static void random_placements_on_the_host_take_what_was_measured(void **state) {
    (void)state;
    sl_rng rng = {.key = 12};
    sl_source *source = open_tiny();
    for (int i = 0; i < N_RANDOM; i++) try_placement(source, &rng, 0, i);
    sl_source_close(source);
}

static void least_bytes_open_an_engine_and_fewer_do_not(void **state) {
    (void)state;
    sl_rng rng = {.key = 13};
    sl_source *source = open_tiny();
    for (int i = 0; i < N_RANDOM / 4; i++) {
        sl_policy policy = random_policy(&rng, 1);
        sl_footprint m;
        parts p = {0};
        sl_engine *engine = NULL;
        sl_footprint_options o = measure_options(source, &policy, plenty);
        assert_int_equal(sl_footprint_of(&o, &m), SL_OK);
        policy.cpu_budget_bytes = m.least_bytes[SL_TIER_CPU];
        policy.disk_budget_bytes = m.least_bytes[SL_TIER_DISK];
        const size_t gpu_bytes = m.least_bytes[SL_TIER_GPU];
        if (open_engine(source, &policy, gpu_bytes, &p, &engine) != SL_OK)
            fail_msg("placement %d: %s", i, sl_error_message());
        close_engine(&p, engine);
        engine = NULL;
        policy.cpu_budget_bytes -= policy.cpu_budget_bytes / 12;
        assert_int_equal(open_engine(source, &policy, gpu_bytes, &p, &engine), SL_ERR_NOMEM);
        close_engine(&p, engine);
    }
    sl_source_close(source);
}

static void memory_of_the_backend_counts(void **state) {
    (void)state;
    sl_rng rng = {.key = 14};
    sl_source *source = open_tiny();
    const sl_policy policy = random_policy(&rng, 1);
    sl_footprint with, without;
    sl_footprint_options o = measure_options(source, &policy, plenty);
    assert_int_equal(sl_footprint_of(&o, &without), SL_OK);
    o.backend_bytes = 1 << 20;
    assert_int_equal(sl_footprint_of(&o, &with), SL_OK);
    assert_int_equal(with.need_bytes[SL_TIER_GPU] - without.need_bytes[SL_TIER_GPU], 1 << 20);
    assert_int_equal(with.need_bytes[SL_TIER_CPU], without.need_bytes[SL_TIER_CPU]);
    sl_source_close(source);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_placements_beside_a_device_take_what_was_measured),
        cmocka_unit_test(random_placements_on_the_host_take_what_was_measured),
        cmocka_unit_test(least_bytes_open_an_engine_and_fewer_do_not),
        cmocka_unit_test(memory_of_the_backend_counts),
    };
    return cmocka_run_group_tests_name("footprint", tests, make_dir, remove_dir);
}
