/* Unit tests of kernels/sim: whole jobs of models that no test machine holds, on a virtual clock.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <string.h>
#include <sys/resource.h>

#include "model/source.h"
#include "store/kv_cache.h"
#include "support/sim_run.h"

static sim_job job_of(const char *model, int n_micro_batches, int micro_batch, int prompt_len,
                      int gen_len) {
    sim_job job = {.model = model,
                   .prompt_len = prompt_len,
                   .gen_len = gen_len,
                   .n_prompts = n_micro_batches * micro_batch};
    sl_policy_init(&job.policy);
    job.policy.micro_batch = micro_batch;
    job.policy.num_micro_batches = n_micro_batches;
    job.policy.max_rows = micro_batch * prompt_len; /* every prompt in one piece */
    job.policy.max_context = prompt_len + gen_len;
    job.policy.weights_dtype = SL_DTYPE_F16;
    job.policy.weights = (sl_shares){{0, 1, 0}};
    job.policy.cache = (sl_shares){{0, 1, 0}};
    job.policy.host_attends = 1;
    return job;
}

static void run(const sim_job *job, const sl_sim_rates *rates, int n_ranks, sim_outcome *out) {
    if (sim_run(job, rates, n_ranks, out) != SL_OK) fail_msg("%s", sl_error_message());
}

/* Nothing is faster than its machine, nothing is busy for longer than there is time, and the steady
 * state is one. */
static void check_limits(const sim_outcome *o, const sl_sim_rates *r) {
    const sl_engine_stats *s = &o->stats;
    const double elapsed_s = o->end_s - o->start_s;
    const struct {
        sl_queue queue;
        double bps;
    } links[] = {{SL_QUEUE_H2D, sl_sim_curve_at(&r->h2d_bps, INFINITY)},
                 {SL_QUEUE_D2H, sl_sim_curve_at(&r->d2h_bps, INFINITY)},
                 {SL_QUEUE_DISK_READ, r->disk_read_bps.y[0]},
                 {SL_QUEUE_DISK_WRITE, r->disk_write_bps.y[0]},
                 {SL_QUEUE_ATTEND, r->dram_bps}};
    for (size_t i = 0; i < sizeof links / sizeof links[0]; i++) {
        const double moved = (double)s->moved_bytes[links[i].queue];
        if (moved > s->busy_s[links[i].queue] * links[i].bps * (1 + 1e-9))
            fail_msg("%s: %g bytes in %g s", sl_queue_name(links[i].queue), moved,
                     s->busy_s[links[i].queue]);
    }
    for (int q = 0; q < SL_QUEUE_COUNT; q++)
        if (s->busy_s[q] > elapsed_s * (1 + 1e-9))
            fail_msg("%s: busy %g s of %g s", sl_queue_name((sl_queue)q), s->busy_s[q], elapsed_s);
    assert_true(s->sweep_s <= elapsed_s * (1 + 1e-9));
    assert_int_equal(s->n_steady_allocs, 0);
    assert_int_equal(s->n_drains, 0);
    assert_int_equal(s->pages_free, s->pages_total);
    assert_true(s->gpu_peak_bytes <= s->gpu_budget_bytes);
    assert_true(s->cpu_peak_bytes <= s->cpu_budget_bytes);
}

static uint64_t n_layers_of(const char *model) {
    sl_source *source = NULL;
    assert_int_equal(sl_source_open(model, 0, &source), SL_OK);
    const int n = sl_source_config(source)->n_layers;
    sl_source_close(source);
    return (uint64_t)n;
}

/* With all weights in host memory and all attention on the host, every byte of every link can be
 * told beforehand. */
static void links_move_what_the_schedule_says_to_the_byte(void **state) {
    (void)state;
    const sim_job job = job_of("dummy:opt-30b", 4, 16, 64, 24);
    const sl_sim_rates rates = sim_t4();
    const uint64_t n_layers = n_layers_of(job.model), n = (uint64_t)job.n_prompts;
    sim_outcome o;
    run(&job, &rates, 1, &o);
    check_limits(&o, &rates);
    const sl_engine_stats *s = &o.stats;
    /* One sweep for the prompts, then one for each token but the first. */
    assert_int_equal(s->n_blocks, job.gen_len);
    assert_int_equal(o.n_tokens, n * (uint64_t)job.gen_len);
    /* A sweep loads each layer once, and two ahead for the next one. */
    const uint64_t layer_bytes = s->weight_bytes[SL_TIER_CPU] / n_layers;
    assert_int_equal(s->weight_bytes[SL_TIER_CPU] % n_layers, 0);
    assert_int_equal(s->uploaded_bytes, layer_bytes * (n_layers * s->n_blocks + 2));
    assert_int_equal(s->moved_bytes[SL_QUEUE_H2D], s->uploaded_bytes); /* no page comes back up */
    /* Of each prompt whole pages go down, once. */
    const uint64_t pages = (uint64_t)sl_kv_pages_for(job.prompt_len);
    assert_int_equal(s->moved_bytes[SL_QUEUE_D2H], n * pages * n_layers * s->page_bytes);
    /* Token k + 1 is chosen by a row that sees prompt_len + k tokens, its own included. */
    uint64_t n_seen = 0;
    for (int k = 1; k < job.gen_len; k++) n_seen += (uint64_t)(job.prompt_len + k);
    assert_int_equal(s->moved_bytes[SL_QUEUE_ATTEND],
                     n * n_seen * n_layers * (s->page_bytes / SL_PAGE_TOKENS));
    /* Queries, new keys and values in f16; results. */
    const uint64_t rows = n * (uint64_t)(job.gen_len - 1) * n_layers;
    assert_int_equal(s->moved_bytes[SL_QUEUE_ASK], rows * 3 * 7168 * 2);
    assert_int_equal(s->moved_bytes[SL_QUEUE_ANSWER], rows * 7168 * 2);
}

static void queue_that_binds_is_never_idle(void **state) {
    (void)state;
    /* Weights over the link in every sweep: 60 GB at 11.6 GB/s, far more than anything else. */
    sim_job job = job_of("dummy:opt-30b", 4, 16, 64, 24);
    job.policy.cache = (sl_shares){{1, 0, 0}};
    const sl_sim_rates rates = sim_t4();
    sim_outcome o;
    run(&job, &rates, 1, &o);
    assert_true(o.stats.busy_s[SL_QUEUE_H2D] > 0.98 * o.stats.sweep_s);
    /* At the rate of its pieces, which is between those of 4 and of 16 MiB. */
    const double bps = (double)o.stats.moved_bytes[SL_QUEUE_H2D] / o.stats.busy_s[SL_QUEUE_H2D];
    assert_true(bps > 11.4e9 && bps < 12e9);
}

static void overlap_takes_the_longest_and_its_lack_the_sum(void **state) {
    (void)state;
    sim_job job = job_of("dummy:opt-30b", 4, 16, 64, 8);
    const sl_sim_rates rates = sim_t4();
    sim_outcome with, without;
    run(&job, &rates, 1, &with);
    job.policy.no_overlap = 1;
    run(&job, &rates, 1, &without);
    double sum_s = 0.0;
    for (int q = 0; q < SL_QUEUE_COUNT; q++) sum_s += without.stats.busy_s[q];
    assert_true(fabs(without.stats.sweep_s - sum_s) < 0.02 * sum_s);
    assert_true(with.stats.sweep_s < 0.9 * without.stats.sweep_s);
    assert_int_equal(with.stats.moved_bytes[SL_QUEUE_H2D], without.stats.moved_bytes[SL_QUEUE_H2D]);
    assert_int_equal(with.hash, without.hash);
}

/* 350 GB of weights, of which 40 % fit in host memory, and a cache on disk. */
static void opt_175b_streams_from_disk_at_its_rate(void **state) {
    (void)state;
    sim_job job = job_of("dummy:opt-175b", 8, 8, 512, 8);
    job.policy.max_rows = 4096;
    job.policy.weights = (sl_shares){{0, 0.4, 0.6}};
    job.policy.cache = (sl_shares){{0, 0, 1}};
    job.policy.host_attends = 0.5;
    const sl_sim_rates rates = sim_t4();
    sim_outcome o;
    run(&job, &rates, 1, &o);
    check_limits(&o, &rates);
    const sl_engine_stats *s = &o.stats;
    assert_true(s->weight_bytes[SL_TIER_DISK] > 200e9);
    /* All of it in every sweep, but for the two layers ahead of the last. */
    assert_true(s->disk_read_bytes > s->weight_bytes[SL_TIER_DISK] * s->n_blocks);
    assert_true(s->disk_read_bytes < s->weight_bytes[SL_TIER_DISK] * (s->n_blocks + 1));
    assert_true(s->busy_s[SL_QUEUE_DISK_READ] > 0.8 * s->sweep_s);
    const double bps = (double)s->moved_bytes[SL_QUEUE_DISK_READ] / s->busy_s[SL_QUEUE_DISK_READ];
    assert_true(bps > 1.98e9);
}

static void same_job_takes_the_same_time_to_the_last_bit(void **state) {
    (void)state;
    sim_job job = job_of("dummy:opt-6.7b", 3, 8, 64, 8);
    job.policy.weights = (sl_shares){{0.3, 0.3, 0.4}};
    job.policy.cache = (sl_shares){{0.3, 0.3, 0.4}};
    job.policy.hidden = (sl_shares){{0.3, 0.3, 0.4}};
    job.policy.host_attends = 0.5;
    const sl_sim_rates rates[2] = {sim_t4(), sim_t4()};
    for (int n_ranks = 1; n_ranks <= 2; n_ranks++) {
        sim_outcome a[2], b[2];
        run(&job, rates, n_ranks, a);
        run(&job, rates, n_ranks, b);
        for (int r = 0; r < n_ranks; r++) {
            check_limits(&a[r], &rates[r]);
            assert_memory_equal(&a[r].stats.busy_s, &b[r].stats.busy_s, sizeof a[r].stats.busy_s);
            assert_memory_equal(&a[r].end_s, &b[r].end_s, sizeof a[r].end_s);
        }
        assert_int_equal(a[0].hash, b[0].hash);
    }
}

static void faster_disk_makes_a_job_faster_only_where_it_binds(void **state) {
    (void)state;
    sim_job job = job_of("dummy:opt-6.7b", 4, 8, 64, 8);
    sl_sim_rates rates = sim_t4();
    sim_outcome slow, fast;
    job.policy.weights = (sl_shares){{0, 0, 1}};
    run(&job, &rates, 1, &slow);
    rates.disk_read_bps.y[0] *= 2;
    run(&job, &rates, 1, &fast);
    assert_true(sim_tps(&fast) > 1.9 * sim_tps(&slow));
    job.policy.weights = (sl_shares){{0, 1, 0}};
    run(&job, &rates, 1, &fast);
    rates.disk_read_bps.y[0] /= 2;
    run(&job, &rates, 1, &slow);
    assert_true(sim_tps(&fast) == sim_tps(&slow));
}

static void machine_without_a_device_computes_in_host_memory(void **state) {
    (void)state;
    sim_job job = job_of("dummy:opt-6.7b", 2, 16, 64, 8);
    job.policy.host_attends = 0;
    job.policy.weights = (sl_shares){{0, 0.5, 0.5}};
    sl_sim_rates rates = sim_t4();
    rates.gpu_bytes = 0;
    rates.h2d_bps.n = rates.d2h_bps.n = 0;
    sim_outcome o;
    run(&job, &rates, 1, &o);
    check_limits(&o, &rates);
    assert_int_equal(o.n_tokens, job.n_prompts * job.gen_len);
    assert_int_equal(o.stats.gpu_budget_bytes, 0);
    assert_true(o.stats.busy_s[SL_QUEUE_COMPUTE] > 0 && o.stats.busy_s[SL_QUEUE_DISK_READ] > 0);
}

/* ---- several ranks ---- */

static void ranks_choose_the_tokens_of_one_rank(void **state) {
    (void)state;
    sim_job job = job_of("dummy:opt-6.7b", 2, 8, 64, 12);
    job.n_prompts *= 4; /* a block for each rank */
    sl_sim_rates rates[4];
    sim_outcome one, out[4];
    for (int r = 0; r < 4; r++) rates[r] = sim_t4();
    run(&job, rates, 1, &one);
    for (int n_ranks = 2; n_ranks <= 4; n_ranks++) {
        run(&job, rates, n_ranks, out);
        int n_layers = 0;
        for (int r = 0; r < n_ranks; r++) {
            check_limits(&out[r], &rates[r]);
            n_layers += out[r].stats.last_layer - out[r].stats.first_layer;
            assert_int_equal(out[r].stats.n_blocks, out[0].stats.n_blocks);
        }
        assert_int_equal(n_layers, 32);
        assert_int_equal(out[0].hash, one.hash);
        /* Hidden states of every row go to each next rank, in f16, with 256 bytes behind each
         * micro-batch. */
        const uint64_t rows = out[0].stats.n_prefill_rows + out[0].stats.n_decode_rows;
        assert_true(out[0].stats.sent_bytes > rows * 4096 * 2);
        assert_true(out[0].stats.sent_bytes < rows * 4096 * 2 * 5 / 4);
    }
}

static void ranks_share_the_work_and_fill_the_pipeline(void **state) {
    (void)state;
    /* Weights stream on every rank: four links carry a quarter of the layers each. */
    sim_job job = job_of("dummy:opt-30b", 2, 16, 64, 24);
    job.n_prompts *= 4;
    sl_sim_rates rates[4];
    sim_outcome one, out[4];
    for (int r = 0; r < 4; r++) rates[r] = sim_t4();
    sim_job alone = job;
    alone.policy.num_micro_batches = 8; /* the same sequences at a time */
    run(&alone, rates, 1, &one);
    run(&job, rates, 4, out);
    assert_true(sim_tps(&out[0]) < 4 * sim_tps(&one));
    assert_true(sim_tps(&out[0]) > 0.8 * sim_tps(&one));
}

static void slow_wire_binds_the_pipeline(void **state) {
    (void)state;
    sim_job job = job_of("dummy:opt-6.7b", 2, 8, 64, 8);
    job.policy.weights = (sl_shares){{0.9, 0.1, 0}};
    job.n_prompts *= 2;
    sl_sim_rates rates[2] = {sim_t4(), sim_t4()};
    sim_outcome fast[2], slow[2];
    run(&job, rates, 2, fast);
    rates[0].wire_bps = 5e6;
    rates[1].wire_bps = 0; /* results go back by the same wire */
    run(&job, rates, 2, slow);
    assert_true(sim_tps(&slow[0]) < 0.5 * sim_tps(&fast[0]));
    /* Every byte that was sent took its time on the wire. */
    assert_true(slow[0].end_s - slow[0].start_s >= (double)slow[0].stats.sent_bytes / 5e6);
}

/* Where nothing of a slice moves, the next block is ready before the one under way is over: the
 * time that a sweep takes of the host, here half of what it takes of the device, does not show. */
static void host_prepares_the_next_block_meanwhile(void **state) {
    (void)state;
    sim_job job = job_of("dummy:opt-1.3b", 1, 16, 64, 64);
    job.policy.weights = job.policy.cache = (sl_shares){{1, 0, 0}};
    job.policy.host_attends = 0;
    job.policy.blocks_in_flight = 4;
    job.n_prompts *= 8;
    sl_sim_rates rates[2] = {sim_t4(), sim_t4()};
    sim_outcome free_of_it[2], out[2];
    rates[0].sweep_s = rates[1].sweep_s = 0;
    run(&job, rates, 2, free_of_it);
    const double sweep_s = free_of_it[1].stats.compute_s / (double)free_of_it[1].stats.n_blocks;
    rates[0].sweep_s = rates[1].sweep_s = sweep_s / 2;
    run(&job, rates, 2, out);
    assert_int_equal(out[0].stats.n_blocks, free_of_it[0].stats.n_blocks);
    assert_int_equal(out[0].hash, free_of_it[0].hash);
    const double took_s = out[0].end_s - out[0].start_s;
    const double least_s = free_of_it[0].end_s - free_of_it[0].start_s;
    print_message("%.3f s, %.3f s with half a sweep of the host's time\n", least_s, took_s);
    assert_true(took_s < 1.1 * least_s);
}

static void failure_of_one_rank_is_the_failure_of_all(void **state) {
    (void)state;
    sim_job job = job_of("dummy:opt-6.7b", 2, 8, 64, 8);
    sl_sim_rates rates[2] = {sim_t4(), sim_t4()};
    sim_outcome out[2];
    rates[1].gpu_bytes = 1 << 20;
    assert_int_equal(sim_run(&job, rates, 2, out), SL_ERR_NOMEM);
    assert_non_null(strstr(sl_error_message(), "rank 1: gpu tier"));
    rates[1] = sim_t4();
    rates[1].host_attend_bps[0].n = 0; /* fails in the middle of the job */
    assert_int_equal(sim_run(&job, rates, 2, out), SL_ERR_ARG);
    assert_non_null(strstr(sl_error_message(), "rank 1: the simulated machine has no rate"));
}

static void all_this_took_little_memory(void **state) {
    (void)state;
    struct rusage usage;
    assert_int_equal(getrusage(RUSAGE_SELF, &usage), 0);
    assert_true(usage.ru_maxrss < 1 << 20); /* KiB */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(links_move_what_the_schedule_says_to_the_byte),
        cmocka_unit_test(queue_that_binds_is_never_idle),
        cmocka_unit_test(overlap_takes_the_longest_and_its_lack_the_sum),
        cmocka_unit_test(opt_175b_streams_from_disk_at_its_rate),
        cmocka_unit_test(same_job_takes_the_same_time_to_the_last_bit),
        cmocka_unit_test(faster_disk_makes_a_job_faster_only_where_it_binds),
        cmocka_unit_test(machine_without_a_device_computes_in_host_memory),
        cmocka_unit_test(ranks_choose_the_tokens_of_one_rank),
        cmocka_unit_test(ranks_share_the_work_and_fill_the_pipeline),
        cmocka_unit_test(slow_wire_binds_the_pipeline),
        cmocka_unit_test(host_prepares_the_next_block_meanwhile),
        cmocka_unit_test(failure_of_one_rank_is_the_failure_of_all),
        cmocka_unit_test(all_this_took_little_memory),
    };
    return cmocka_run_group_tests_name("sim", tests, NULL, NULL);
}
