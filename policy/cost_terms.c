/* The coefficients of every queue's time: bytes and operations of a sweep over the profile's rates.
 */
#include <math.h>
#include <string.h>

#include "base/dtype.h"
#include "cost_measured.h"
#include "engine/sweep.h"
#include "model/layout.h"
#include "store/disk.h"
#include "store/kv_format.h"

/* Mean bytes of a piece: pieces of a large matrix have that much at least, and not twice as much.
 */
static const double piece_bytes = 1.1 * SL_PIECE_BYTES;

typedef struct {
    const sl_cost_problem *problem;
    const sl_model_config *c;
    const sl_profile *m;
    int weights_format, cache_format;
    double act_bytes, layers, batches; /* batches: micro-batches of a block that have work */
    double weight_bytes;               /* of the matrices of one layer */
    double token_bytes, page_bytes;    /* of one token, one page in one layer */
    double row_bytes;                  /* of hidden states */
    double context;                    /* tokens that a decode row sees, mean over the job */
    double prompt_len;                 /* mean */
    double on_device_frac;
    double upload_bytes; /* of one copy of weights */
    sl_cost_terms *out;
} maker;

/* What a micro-batch holds in a mean sweep of a phase. */
typedef struct {
    double prefill_rows, pairs, earlier, prompts, decode_rows, decode_tokens, rows;
} mean_load;

static double matrix_bytes(sl_dtype dtype, double rows, int64_t cols) {
    size_t row_bytes = 0;
    if (sl_dtype_row_bytes(dtype, cols, &row_bytes) != SL_OK) return rows * (double)cols * 2;
    return rows * (double)row_bytes;
}

static void count_weights(maker *k, sl_dtype dtype) {
    const sl_model_config *c = k->c;
    const double q = (double)c->n_heads * c->head_dim, kv = (double)c->n_kv_heads * c->head_dim;
    const double n_wide = c->gated_mlp ? 2 : 1;
    k->weight_bytes = matrix_bytes(dtype, q + 2 * kv + n_wide * c->ffn, c->hidden) +
                      matrix_bytes(dtype, c->hidden, (int64_t)q) +
                      matrix_bytes(dtype, c->hidden, c->ffn);
}

/* Of a micro-batch that has work. */
static mean_load mean_of(const sl_sweep_load *l) {
    const double n = l->n_active > 0 ? l->n_active : 1;
    mean_load x = {.prefill_rows = l->prefill_rows / n,
                   .pairs = l->prefill_pairs / n,
                   .earlier = l->earlier_tokens / n,
                   .prompts = l->n_prompts / n,
                   .decode_rows = l->decode_rows / n,
                   .decode_tokens = l->decode_tokens / n};
    x.rows = x.prefill_rows + x.decode_rows;
    return x;
}

/* Seconds for so many bytes at the rate of one transfer's size. */
static double over(double bytes, const sl_curve *bps, double size) {
    return bytes > 0 ? bytes / sl_curve_at(bps, size) : 0;
}

static double run_bytes(const maker *k) {
    return ceil((k->context + 1) / SL_PAGE_TOKENS) * k->page_bytes;
}

/* Adds bytes over the link to the device, or from it, to variable v. */
static void add_copy(const maker *k, sl_cost_phase_terms *t, sl_cost_queue queue, sl_cost_var v,
                     double bytes, double size) {
    const sl_curve *bps = queue == SL_COST_H2D ? &k->m->h2d_bps : &k->m->d2h_bps;
    if (!k->problem->has_device || bytes <= 0) return;
    const double seconds = over(bytes, bps, size);
    t->coef[queue][v] += seconds;
    if (queue == SL_COST_H2D) t->coef[SL_COST_COMPUTE][v] += sl_profile_lost_frac(k->m) * seconds;
    t->bytes[queue][v] += bytes;
    if (k->m->duplex_bps > 0) t->coef[SL_COST_LINK][v] += bytes / k->m->duplex_bps;
    if (k->m->dram_beside_h2d_bps > 0)
        t->coef[SL_COST_DRAM][v] += bytes / k->m->dram_beside_h2d_bps;
}

static void add_disk(const maker *k, sl_cost_phase_terms *t, sl_cost_queue queue, sl_cost_var v,
                     double bytes, double size) {
    const sl_curve *bps = queue == SL_COST_DISK_READ ? &k->m->disk_read_bps : &k->m->disk_write_bps;
    if (bytes <= 0) return;
    t->coef[queue][v] += over(bytes, bps, fmin(size, SL_DISK_REQUEST_BYTES));
    t->bytes[queue][v] += bytes;
    if (k->problem->has_device && k->m->dram_beside_h2d_bps > 0)
        t->coef[SL_COST_DRAM][v] += bytes / k->m->dram_beside_h2d_bps;
}

/* Pieces that lie one after another are copied as one, in as many parts as a layer comes in. */
static double upload_bytes(const maker *k, const sl_policy *p) {
    const int lag = sl_sweep_lag((int)k->batches, p->host_attends > 0, 0);
    const double streamed = sl_shares_are_set(&p->weights) ? 1 - p->weights.frac[SL_TIER_GPU] : 1;
    return fmax(piece_bytes, k->weight_bytes * streamed / (k->batches - lag));
}

/* Layers that all fit in the ring are loaded once. */
static void add_weights(const maker *k, sl_cost_phase_terms *t) {
    const double bytes = k->layers * k->weight_bytes;
    if (k->layers <= SL_SWEEP_RING) return;
    add_copy(k, t, SL_COST_H2D, SL_COST_WEIGHTS_CPU, bytes, k->upload_bytes);
    add_copy(k, t, SL_COST_H2D, SL_COST_WEIGHTS_DISK, bytes, k->upload_bytes);
    add_disk(k, t, SL_COST_DISK_READ, SL_COST_WEIGHTS_DISK, bytes, piece_bytes);
}

/* What is added between the two comes of decode rows. */
static void begin_decode(sl_cost_phase_terms *t) {
    memcpy(t->decode_coef, t->coef, sizeof t->coef);
    memcpy(t->decode_bytes, t->bytes, sizeof t->bytes);
}

static void end_decode(sl_cost_phase_terms *t) {
    for (int q = 0; q < SL_COST_N_QUEUES; q++)
        for (int v = 0; v < SL_COST_N_VARS; v++) {
            t->decode_coef[q][v] = t->coef[q][v] - t->decode_coef[q][v];
            t->decode_bytes[q][v] = t->bytes[q][v] - t->decode_bytes[q][v];
        }
}

/* Pages that visit: before a layer those that hold earlier tokens, after it those that hold new
 * ones; whole pages, half of the last one is empty in the mean. */
static void add_cache(const maker *k, sl_cost_phase_terms *t, const mean_load *x) {
    static const sl_cost_var visits[] = {SL_COST_CACHE_CPU_VISITS, SL_COST_CACHE_DISK_VISITS};
    static const sl_cost_var attends[] = {SL_COST_CACHE_CPU_ATTENDS, SL_COST_CACHE_DISK_ATTENDS};
    const double all = k->layers * k->batches * k->token_bytes, half = SL_PAGE_TOKENS / 2.0;
    const double run = run_bytes(k), full = all * fmax(0, x->decode_tokens - half * x->decode_rows);
    const double prefill_in = all * x->earlier;
    const double prefill_out =
        all * (x->prefill_rows + (x->prefill_rows > 0 ? half * (x->prompts + 1) : 0));
    const double decode_in = all * (x->decode_tokens + (half - 1) * x->decode_rows);
    const double decode_out = all * SL_PAGE_TOKENS * x->decode_rows;
    for (int i = 0; i < 2; i++) {
        add_copy(k, t, SL_COST_H2D, visits[i], prefill_in, run);
        add_copy(k, t, SL_COST_H2D, attends[i], prefill_in, run);
        add_copy(k, t, SL_COST_D2H, visits[i], prefill_out, run);
        add_copy(k, t, SL_COST_D2H, attends[i], prefill_out, run);
    }
    for (int i = 0; i < 2; i++) {
        const sl_cost_var v = i ? SL_COST_CACHE_DISK_ATTENDS : SL_COST_CACHE_DISK_VISITS;
        add_disk(k, t, SL_COST_DISK_READ, v, prefill_in, run);
        add_disk(k, t, SL_COST_DISK_WRITE, v, prefill_out, run);
    }
    begin_decode(t);
    for (int i = 0; i < 2; i++) {
        add_copy(k, t, SL_COST_H2D, visits[i], decode_in, run);
        add_copy(k, t, SL_COST_D2H, visits[i], decode_out, k->page_bytes);
    }
    for (int i = 0; i < 2; i++) {
        const sl_cost_var v = i ? SL_COST_CACHE_DISK_ATTENDS : SL_COST_CACHE_DISK_VISITS;
        add_disk(k, t, SL_COST_DISK_READ, v, full, run);
        add_disk(k, t, SL_COST_DISK_WRITE, v, all * x->decode_rows, k->page_bytes);
    }
    end_decode(t);
}

static void add_hidden(const maker *k, sl_cost_phase_terms *t, const mean_load *x) {
    const double one = x->rows * k->row_bytes, bytes = k->layers * k->batches * one;
    add_copy(k, t, SL_COST_H2D, SL_COST_HIDDEN_CPU, bytes, one);
    add_copy(k, t, SL_COST_D2H, SL_COST_HIDDEN_CPU, bytes, one);
    add_copy(k, t, SL_COST_H2D, SL_COST_HIDDEN_DISK, bytes, one);
    add_copy(k, t, SL_COST_D2H, SL_COST_HIDDEN_DISK, bytes, one);
    add_disk(k, t, SL_COST_DISK_READ, SL_COST_HIDDEN_DISK, bytes, one);
    add_disk(k, t, SL_COST_DISK_WRITE, SL_COST_HIDDEN_DISK, bytes, one);
}

/* Norms, the activation, rows in and out of attention: what a row moves beside its products. */
static double moved_elems(const sl_model_config *c) {
    const double q = (double)c->n_heads * c->head_dim, kv = (double)c->n_kv_heads * c->head_dim;
    return 4.0 * c->hidden + 2 * q + 4 * kv + (c->gated_mlp ? 3.0 : 2.0) * c->ffn;
}

/* Of one layer: queries, keys and values; what follows attention.
 */
static void products_s(const maker *k, double rows, double *before_out, double *after_out) {
    const sl_model_config *c = k->c;
    const double width = c->hidden, n_wide = c->gated_mlp ? 2 : 1;
    const double q = (double)c->n_heads * c->head_dim, kv = (double)c->n_kv_heads * c->head_dim;
    const int f = k->weights_format;
    /* One matrix of all three, but where heads are normed (engine/program.c). */
    *before_out = c->qk_norm ? sl_profile_product_s(k->m, f, rows, q, width) +
                                   2 * sl_profile_product_s(k->m, f, rows, kv, width)
                             : sl_profile_product_s(k->m, f, rows, q + 2 * kv, width);
    *after_out = sl_profile_product_s(k->m, f, rows, width, q) +
                 n_wide * sl_profile_product_s(k->m, f, rows, c->ffn, width) +
                 sl_profile_product_s(k->m, f, rows, width, c->ffn);
}

static void add_compute(const maker *k, sl_cost_phase_terms *t, const mean_load *x) {
    static const sl_cost_var on_device[] = {SL_COST_CACHE_GPU, SL_COST_CACHE_CPU_VISITS,
                                            SL_COST_CACHE_DISK_VISITS};
    static const sl_cost_var below[] = {SL_COST_CACHE_CPU_ATTENDS, SL_COST_CACHE_DISK_ATTENDS};
    const sl_model_config *c = k->c;
    const sl_profile *m = k->m;
    const double items = k->layers * k->batches, q = (double)c->n_heads * c->head_dim;
    double before_s, after_s;
    products_s(k, x->rows, &before_s, &after_s);
    t->products_s = items * (before_s + after_s + m->layer_s +
                             x->rows * moved_elems(c) * k->act_bytes / m->memory_bps);
    t->before_frac = x->rows > 0 ? before_s / (before_s + after_s) : 0;
    double prefill_s = 0;
    if (x->pairs > 0)
        prefill_s = items * 4 * x->pairs * q /
                    sl_curve_at(&m->prefill_attend_flops[k->cache_format], k->prompt_len);
    /* The sampler reads the logits a few times. */
    const double wanted = x->decode_rows + x->prompts;
    if (wanted > 0)
        t->head_s = k->batches * (sl_profile_product_s(m, 0, wanted, c->vocab, c->embed_dim) +
                                  wanted * c->vocab * 4 * sizeof(float) / m->memory_bps);
    t->embed_s = k->batches * x->rows * 3 * k->row_bytes / m->memory_bps;
    const sl_cost_problem *problem = k->problem;
    if (problem->is_one_rank && problem->rank < problem->n_ranks - 1) t->head_s = 0;
    if (problem->is_one_rank && problem->rank > 0) t->embed_s = 0;
    t->coef[SL_COST_COMPUTE][SL_COST_ONE] = t->products_s + prefill_s + t->head_s + t->embed_s;
    if (x->decode_rows <= 0) return;
    const double n = x->decode_rows * k->on_device_frac;
    const double at = n * x->decode_tokens / x->decode_rows / 512;
    const double attend_s = items * x->decode_tokens * k->token_bytes /
                            sl_curve_at(&m->attend_bps[k->cache_format], at);
    for (int i = 0; i < 5; i++) {
        const sl_cost_var v = i < 3 ? on_device[i] : below[i - 3];
        if (i >= 3 && k->problem->has_device) continue;
        t->coef[SL_COST_COMPUTE][v] += attend_s;
        t->decode_coef[SL_COST_COMPUTE][v] += attend_s;
    }
}

static void add_host(const maker *k, sl_cost_phase_terms *t, const mean_load *x) {
    static const sl_cost_var attends[] = {SL_COST_CACHE_CPU_ATTENDS, SL_COST_CACHE_DISK_ATTENDS};
    const sl_curve *bps = &k->m->host_attend_bps[k->cache_format];
    const double bytes = k->layers * k->batches * k->token_bytes * x->decode_tokens;
    if (!k->problem->has_device || x->decode_rows <= 0) return;
    t->host_jobs_s = k->layers * k->batches * k->m->host_job_s;
    const double q = (double)k->c->n_heads * k->c->head_dim;
    const double kv = (double)k->c->n_kv_heads * k->c->head_dim;
    t->ask_bytes = x->decode_rows * (q + 2 * kv) * k->act_bytes;
    t->answer_bytes = x->decode_rows * q * k->act_bytes;
    const double rate = sl_curve_at(bps, x->decode_tokens / x->decode_rows);
    for (int i = 0; i < 2; i++) {
        t->coef[SL_COST_ATTEND][attends[i]] = bytes / rate;
        t->decode_coef[SL_COST_ATTEND][attends[i]] = bytes / rate;
        if (k->m->dram_beside_h2d_bps > 0)
            t->coef[SL_COST_DRAM][attends[i]] += bytes / k->m->dram_beside_h2d_bps;
    }
    t->host_attend_bps = rate;
}

static void make_phase(const maker *whole, int phase) {
    maker some = *whole, *k = &some;
    sl_cost_phase_terms *t = &k->out->phase[phase];
    const sl_sweep_load *load = &k->out->turns.load[phase];
    const mean_load x = mean_of(load);
    memset(t, 0, sizeof *t);
    if (load->n_sweeps <= 0) return;
    /* The last prompts fill block after block. */
    const double n_working = fmin(1, load->n_active / load->n_sweeps) * k->out->turns.n_batches;
    t->n_blocks = fmin(k->out->n_blocks, fmax(1, ceil(n_working / k->out->n_batches - 1e-9)));
    k->batches = t->n_batches = n_working / t->n_blocks;
    t->n_sweeps = load->n_sweeps * t->n_blocks;
    t->decode_rows = x.decode_rows * k->batches;
    t->prefill_rows = x.prefill_rows * k->batches;
    add_weights(k, t);
    add_cache(k, t, &x);
    add_hidden(k, t, &x);
    add_compute(k, t, &x);
    add_host(k, t, &x);
    if (k->problem->n_ranks > 1)
        t->coef[SL_COST_WIRE][SL_COST_ONE] =
            k->batches * (x.rows * k->row_bytes / k->m->wire_bps + k->m->wire_latency_s);
}

static sl_status want(int is_there, const char *key, const char *format, const char *why) {
    if (is_there) return SL_OK;
    return SL_FAIL(SL_ERR_ARG, "the machine profile has no %s%s%s, which %s needs", key,
                   format ? "." : "", format ? format : "", why);
}

static sl_status check(const maker *k, const sl_policy *p) {
    const sl_profile *m = k->m;
    if (p->micro_batch < 1 || p->num_micro_batches < 1 || p->max_rows < 1 ||
        k->problem->n_layers < 1 || k->problem->n_ranks < 1)
        return SL_FAIL(SL_ERR_ARG, "cost of %d x %d sequences, %d rows, %d layers, %d ranks",
                       p->micro_batch, p->num_micro_batches, p->max_rows, k->problem->n_layers,
                       k->problem->n_ranks);
    const char *weights = sl_profile_format_names[k->weights_format];
    const char *cache = sl_profile_format_names[k->cache_format];
    SL_TRY(want(m->gemm_flops[k->weights_format].n > 0, "gemm_flops", weights, "this precision"));
    SL_TRY(want(m->gemm_flops[0].n > 0, "gemm_flops", "f16", "the head"));
    SL_TRY(want(m->attend_bps[k->cache_format].n > 0, "attend_bps", cache, "this precision"));
    SL_TRY(want(m->prefill_attend_flops[k->cache_format].n > 0, "prefill_attend_flops", cache,
                "this precision"));
    SL_TRY(want(m->memory_bps > 0, "memory_bps", NULL, "every model"));
    SL_TRY(want(!k->problem->has_device || (m->h2d_bps.n > 0 && m->d2h_bps.n > 0),
                "h2d_bps and d2h_bps", NULL, "a device"));
    return want(k->problem->n_ranks == 1 || m->wire_bps > 0, "wire_bps", NULL, "a pipeline");
}

/* Few prompts are spread over all blocks. */
static void count_blocks(const maker *k, const sl_policy *p) {
    sl_cost_terms *out = k->out;
    const int blocks = p->blocks_in_flight > 0 ? p->blocks_in_flight : k->problem->n_ranks;
    out->n_blocks = out->turns.n_batches < blocks ? out->turns.n_batches : blocks;
    out->n_batches = (out->turns.n_batches + out->n_blocks - 1) / out->n_blocks;
}

sl_status sl_cost_terms_make(const sl_cost_problem *problem, const sl_policy *p,
                             const sl_turns *turns, double on_device_frac, sl_cost_terms *out) {
    const sl_model_config *c = problem->config;
    const sl_kv_format page = sl_kv_format_make(p->cache_dtype, c->n_kv_heads, c->head_dim);
    /* Most checkpoints are stored in it. */
    const sl_dtype weights =
        p->weights_dtype == SL_DTYPE_AS_STORED ? SL_DTYPE_F16 : p->weights_dtype;
    maker k = {.problem = problem,
               .c = c,
               .m = problem->profile,
               .weights_format = sl_profile_format(weights),
               .cache_format = sl_profile_format(p->cache_dtype),
               .act_bytes = problem->has_device ? 2 : 4,
               .layers = problem->n_layers,
               .page_bytes = (double)page.page_bytes,
               .token_bytes = (double)page.page_bytes / SL_PAGE_TOKENS,
               .on_device_frac = on_device_frac,
               .out = out};
    k.row_bytes = c->hidden * k.act_bytes;
    SL_TRY(check(&k, p));
    memset(out, 0, sizeof *out);
    out->turns = *turns;
    count_blocks(&k, p);
    k.batches = out->n_batches;
    count_weights(&k, weights);
    k.upload_bytes = upload_bytes(&k, p);
    k.prompt_len = turns->n_prompt_tokens / problem->workload->n_prompts;
    k.context = k.prompt_len + 0.5 * turns->n_tokens / problem->workload->n_prompts;
    for (int i = 0; i < SL_N_PHASES; i++) make_phase(&k, i);
    out->fixed_s = k.m->sweep_s;
    return SL_OK;
}

sl_status sl_cost_turns(const sl_cost_problem *problem, const sl_policy *p, sl_turns *out) {
    const int blocks = p->blocks_in_flight > 0 ? p->blocks_in_flight : problem->n_ranks;
    return sl_workload_turns(problem->workload, p->micro_batch, p->num_micro_batches, blocks,
                             p->max_rows, out);
}
