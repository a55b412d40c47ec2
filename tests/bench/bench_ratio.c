/* bench_ratio - the engine beside OpenBLAS: a prefill of one prompt and a decode step of a full
 * micro-batch, against the time that OpenBLAS's float32 sgemm takes, with as many threads and in
 * turns, for nothing but the matrix products of the same rows: all layers, and the head on the rows
 * whose logits are wanted.  Then what the engine's time goes into, operator by operator.
 *
 * One thread is measured in processor time, which others on the machine disturb less, several in
 * time.
 *
 * Usage: bench_ratio [-t THREADS] [-r ROUNDS] [-c CONTEXT] [-w WEIGHTS] [-k CACHE] [MODEL]
 *   MODEL    default: the file that SLUICE_TEST_GGUF names
 *   THREADS  default: the processors that the process may run on
 *   ROUNDS   of each measurement, default 5; the best counts: others on the machine only add
 *   CONTEXT  tokens of each sequence at the first decode step, default 128
 *   WEIGHTS  stored, f32, f16, q8 or q4;  CACHE: f32, f16, q8 or q4; default stored, f16 */
#include <cblas.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/rng.h"
#include "cpu/cpu_backend.h"
#include "engine/engine.h"
#include "model/layout.h"

enum { PREFILL_ROWS = 512, DECODE_ROWS = 32, DECODE_STEPS = 16 };

typedef struct {
    const char *model;
    int n_threads, n_rounds, context;
    sl_dtype weights, cache;
} bench_options;

static void check(sl_status st) {
    if (st == SL_OK) return;
    fprintf(stderr, "bench_ratio: %s\n", sl_error_message());
    exit(1);
}

static clockid_t clock_used = CLOCK_MONOTONIC;

static double now_s(void) {
    struct timespec t;
    clock_gettime(clock_used, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static float *random_floats(size_t n, uint64_t key) {
    float *data = malloc(n * sizeof *data);
    if (!data) check(SL_FAIL(SL_ERR_NOMEM, "no memory for %zu numbers", n));
    for (size_t i = 0; i < n; i++) data[i] = (float)sl_rng_unit(sl_rng_mix(key + i)) - 0.5f;
    return data;
}

/* ---- the products alone ---- */

typedef struct {
    int rows, cols;
    int on_picked; /* 1: only rows whose logits are wanted go through it */
    float *data;   /* [rows, cols] */
} matrix;

typedef struct {
    int n;
    matrix *matrices; /* in the order of a sweep */
    size_t largest;   /* inputs or outputs of a row */
} products;

static void add_matrix(products *p, const sl_source *source, int layer, sl_role role) {
    if (!sl_source_has(source, layer, role)) return;
    int64_t rows, cols;
    sl_dtype dtype;
    check(sl_source_shape(source, layer, role, &rows, &cols, &dtype));
    matrix *m = &p->matrices[p->n++];
    *m = (matrix){.rows = (int)rows,
                  .cols = (int)cols,
                  .on_picked = role == SL_ROLE_HEAD || role == SL_ROLE_PROJECT_OUT};
    m->data = random_floats((size_t)rows * (size_t)cols, (uint64_t)p->n);
    const size_t larger = (size_t)(rows > cols ? rows : cols);
    if (larger > p->largest) p->largest = larger;
}

static products products_make(const sl_source *source) {
    static const sl_role decoder[] = {SL_ROLE_Q,    SL_ROLE_K,  SL_ROLE_V,   SL_ROLE_O,
                                      SL_ROLE_GATE, SL_ROLE_UP, SL_ROLE_DOWN};
    enum { N_DECODER = sizeof decoder / sizeof decoder[0] };
    const int n_layers = sl_source_config(source)->n_layers;
    products p = {.matrices = calloc((size_t)n_layers * N_DECODER + 3, sizeof(matrix))};
    if (!p.matrices) check(SL_FAIL(SL_ERR_NOMEM, "no memory for %d layers", n_layers));
    add_matrix(&p, source, SL_LAYER_EMBED, SL_ROLE_PROJECT_IN);
    for (int layer = 0; layer < n_layers; layer++)
        for (int i = 0; i < N_DECODER; i++) add_matrix(&p, source, layer, decoder[i]);
    add_matrix(&p, source, n_layers, SL_ROLE_PROJECT_OUT);
    add_matrix(&p, source, n_layers, SL_ROLE_HEAD);
    return p;
}

static double products_flop(const products *p, int n_rows, int n_picked) {
    double flop = 0;
    for (int i = 0; i < p->n; i++)
        flop += 2.0 * p->matrices[i].rows * p->matrices[i].cols *
                (p->matrices[i].on_picked ? n_picked : n_rows);
    return flop;
}

static double products_s(const products *p, const float *x, float *y, int n_rows, int n_picked) {
    const double start_s = now_s();
    for (int i = 0; i < p->n; i++) {
        const matrix *m = &p->matrices[i];
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, m->on_picked ? n_picked : n_rows,
                    m->rows, m->cols, 1.0f, x, m->cols, m->data, m->cols, 0.0f, y, m->rows);
    }
    return now_s() - start_s;
}

/* ---- a backend that measures another's operators ---- */

enum {
    OP_LINEAR,
    OP_LOGITS,
    OP_ATTEND,
    OP_KV_APPEND,
    OP_NORM,
    OP_ACTIVATE,
    OP_ROPE,
    OP_CHOOSE,
    OP_OTHER,
    N_OPS
};
static const char *const op_names[N_OPS] = {"linear",    "logits", "attend",
                                            "kv_append", "norm",   "activate",
                                            "rope",      "choose", "embed, add, gather"};

typedef struct {
    sl_backend base;
    sl_backend_ops ops;
    sl_backend *inner;
    double spent_s[N_OPS];
} timed_backend;

#define TIMED(op, call)                                                                            \
    timed_backend *t = (timed_backend *)be;                                                        \
    const double start_s = now_s();                                                                \
    be = t->inner;                                                                                 \
    const sl_status st = be->ops->call;                                                            \
    t->spent_s[op] += now_s() - start_s;                                                           \
    return st

static sl_status timed_embed(sl_backend *be, void *y, const sl_weight *table, const sl_rows *rows) {
    TIMED(OP_OTHER, embed(be, y, table, rows));
}

static sl_status timed_add_positions(sl_backend *be, void *y, const sl_weight *table, int offset,
                                     const sl_rows *rows) {
    TIMED(OP_OTHER, add_positions(be, y, table, offset, rows));
}

static sl_status timed_norm(sl_backend *be, void *y, const void *x, const float *gain,
                            const float *bias, sl_norm_kind kind, float eps, int n_rows, int cols) {
    TIMED(OP_NORM, norm(be, y, x, gain, bias, kind, eps, n_rows, cols));
}

static sl_status timed_linear(sl_backend *be, void *y, int ldy, const void *x, const sl_weight *w,
                              const float *bias, int n_rows, int accumulate) {
    TIMED(OP_LINEAR, linear(be, y, ldy, x, w, bias, n_rows, accumulate));
}

static sl_status timed_logits(sl_backend *be, float *y, const void *x, const sl_weight *w,
                              int n_rows) {
    TIMED(OP_LOGITS, logits(be, y, x, w, n_rows));
}

static sl_status timed_rope(sl_backend *be, void *x, int ldx, int n_heads, int head_dim,
                            const float *inv_freq, const sl_rows *rows) {
    TIMED(OP_ROPE, rope(be, x, ldx, n_heads, head_dim, inv_freq, rows));
}

static sl_status timed_kv_append(sl_backend *be, const sl_kv_view *cache, const void *k,
                                 const void *v, int ld, const sl_rows *rows) {
    TIMED(OP_KV_APPEND, kv_append(be, cache, k, v, ld, rows));
}

static sl_status timed_attend(sl_backend *be, void *out, const void *q, int ldq, int n_heads,
                              const sl_kv_view *cache, float scale, int window,
                              const sl_rows *rows) {
    TIMED(OP_ATTEND, attend(be, out, q, ldq, n_heads, cache, scale, window, rows));
}

static sl_status timed_attend_sparse(sl_backend *be, void *out, const void *q, int ldq, int n_heads,
                                     const sl_kv_view *cache, float scale, int window,
                                     float sparsity, const sl_rows *rows) {
    TIMED(OP_ATTEND, attend_sparse(be, out, q, ldq, n_heads, cache, scale, window, sparsity, rows));
}

static sl_status timed_activate(sl_backend *be, void *y, const void *g, const void *u, int ld,
                                sl_activation act, int n_rows, int n_cols) {
    TIMED(OP_ACTIVATE, activate(be, y, g, u, ld, act, n_rows, n_cols));
}

static sl_status timed_add(sl_backend *be, void *y, const void *x, int n_rows, int cols) {
    TIMED(OP_OTHER, add(be, y, x, n_rows, cols));
}

static sl_status timed_gather(sl_backend *be, void *y, const void *x, const int32_t *index, int n,
                              int cols) {
    TIMED(OP_OTHER, gather(be, y, x, index, n, cols));
}

static sl_status timed_choose(sl_backend *be, void *logits, int n_rows, int vocab,
                              const sl_choice_ask *ask, sl_choice *out) {
    TIMED(OP_CHOOSE, choose(be, logits, n_rows, vocab, ask, out));
}

static sl_status timed_choose_begin(sl_backend *be, void *logits, int n_rows, int vocab,
                                    const sl_choice_ask *ask) {
    TIMED(OP_CHOOSE, choose_begin(be, logits, n_rows, vocab, ask));
}

static sl_status timed_choose_end(sl_backend *be, int n_rows, int vocab, const sl_choice_ask *ask,
                                  sl_choice *out) {
    TIMED(OP_CHOOSE, choose_end(be, n_rows, vocab, ask, out));
}

static sl_status timed_page_copy(sl_backend *be, const sl_kv_view *cache, int32_t from,
                                 int32_t to) {
    TIMED(OP_OTHER, page_copy(be, cache, from, to));
}

static sl_status timed_sync(sl_backend *be) {
    TIMED(OP_OTHER, sync(be));
}

static void timed_close(sl_backend *be) {
    sl_backend_close(((timed_backend *)be)->inner);
}

/* An operator that is not covered would take the wrapper for the state of the backend itself. */
_Static_assert(sizeof(sl_backend_ops) == 25 * sizeof(void *), "a new operator");

static void timed_open(timed_backend *t, sl_backend *inner) {
    *t = (timed_backend){.inner = inner, .ops = *inner->ops};
    t->ops.close = timed_close;
    t->ops.sync = timed_sync;
    t->ops.embed = timed_embed;
    t->ops.add_positions = timed_add_positions;
    t->ops.norm = timed_norm;
    t->ops.linear = timed_linear;
    t->ops.logits = timed_logits;
    t->ops.rope = timed_rope;
    t->ops.kv_append = timed_kv_append;
    t->ops.attend = timed_attend;
    t->ops.attend_sparse = timed_attend_sparse;
    t->ops.activate = timed_activate;
    t->ops.add = timed_add;
    t->ops.gather = timed_gather;
    t->ops.choose = timed_choose;
    if (inner->ops->choose_begin) t->ops.choose_begin = timed_choose_begin;
    if (inner->ops->choose_end) t->ops.choose_end = timed_choose_end;
    t->ops.page_copy = timed_page_copy;
    t->base.ops = &t->ops;
}

/* ---- the engine ---- */

/* The best step seen, and what it went into. */
typedef struct {
    double best_s;
    double spent_s[N_OPS]; /* in that step */
} best_step;

typedef struct {
    sl_engine *engine;
    timed_backend *backend;
    int vocab;
    uint64_t n_submitted;
} bench_engine;

static void submit(bench_engine *b, int n_prompt, int max_tokens) {
    int32_t *ids = malloc((size_t)n_prompt * sizeof *ids);
    if (!ids) check(SL_FAIL(SL_ERR_NOMEM, "no memory for a prompt of %d", n_prompt));
    sl_rng rng = {.key = sl_rng_mix(b->n_submitted++)};
    for (int i = 0; i < n_prompt; i++) ids[i] = (int32_t)sl_rng_below(&rng, (uint64_t)b->vocab);
    const sl_engine_request request = {
        .prompt = ids,
        .n_prompt = n_prompt,
        .max_tokens = max_tokens,
        .n = 1,
        .sampling = {.top_p = 1, .repetition_penalty = 1, .n_logprobs = -1}};
    uint64_t id;
    check(sl_engine_submit(b->engine, &request, &id));
    free(ids);
}

/* One step; where it computed exactly these rows, it is measured. */
static void step(bench_engine *b, uint64_t n_prefill, uint64_t n_decode, best_step *best) {
    sl_engine_stats before, after;
    int done;
    sl_engine_get_stats(b->engine, &before);
    memset(b->backend->spent_s, 0, sizeof b->backend->spent_s);
    const double start_s = now_s();
    check(sl_engine_step(b->engine, &done));
    const double spent_s = now_s() - start_s;
    sl_engine_get_stats(b->engine, &after);
    if (after.n_prefill_rows - before.n_prefill_rows == n_prefill &&
        after.n_decode_rows - before.n_decode_rows == n_decode && spent_s < best->best_s) {
        best->best_s = spent_s;
        memcpy(best->spent_s, b->backend->spent_s, sizeof best->spent_s);
    }
    const sl_engine_result *result = NULL;
    for (check(sl_engine_take(b->engine, &result)); result;
         check(sl_engine_take(b->engine, &result)))
        sl_engine_release(b->engine, result);
}

static void drain(bench_engine *b, uint64_t n_prefill, uint64_t n_decode, best_step *best) {
    while (sl_engine_n_queued(b->engine) + sl_engine_n_running(b->engine) > 0)
        step(b, n_prefill, n_decode, best);
}

/* ---- the report ---- */

static void print_line(const char *what, int n_rows, double flop, double sgemm_s,
                       const best_step *best) {
    printf("%-8s %4d  %8.2f  %8.2f %8.1f %9.1f  %8.2f %8.1f %9.1f  %6.2f\n", what, n_rows,
           flop * 1e-9, sgemm_s * 1e3, flop / sgemm_s * 1e-9, n_rows / sgemm_s, best->best_s * 1e3,
           flop / best->best_s * 1e-9, n_rows / best->best_s, sgemm_s / best->best_s);
}

static void print_parts(const char *what, const best_step *best) {
    double left_s = best->best_s;
    printf("%s, %.2f ms:", what, best->best_s * 1e3);
    for (int i = 0; i < N_OPS; i++) {
        printf(" %s %.2f (%.0f %%),", op_names[i], best->spent_s[i] * 1e3,
               100.0 * best->spent_s[i] / best->best_s);
        left_s -= best->spent_s[i];
    }
    printf(" engine %.2f (%.0f %%)\n", left_s * 1e3, 100.0 * left_s / best->best_s);
}

static sl_dtype parse_dtype(const char *word) {
    static const struct {
        const char *name;
        sl_dtype dtype;
    } known[] = {{"stored", SL_DTYPE_AS_STORED},
                 {"f32", SL_DTYPE_F32},
                 {"f16", SL_DTYPE_F16},
                 {"q8", SL_DTYPE_Q8G64},
                 {"q4", SL_DTYPE_Q4G64}};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (strcmp(word, known[i].name) == 0) return known[i].dtype;
    check(SL_FAIL(SL_ERR_ARG, "found \"%s\", expected stored, f32, f16, q8 or q4", word));
    return SL_DTYPE_COUNT;
}

static bench_options parse(int argc, char **argv) {
    bench_options o = {.model = getenv("SLUICE_TEST_GGUF"),
                       .n_rounds = 5,
                       .context = 128,
                       .weights = SL_DTYPE_AS_STORED,
                       .cache = SL_DTYPE_F16};
    for (int c; (c = getopt(argc, argv, "t:r:c:w:k:")) != -1;) {
        switch (c) {
        case 't':
            o.n_threads = atoi(optarg);
            break;
        case 'r':
            o.n_rounds = atoi(optarg);
            break;
        case 'c':
            o.context = atoi(optarg);
            break;
        case 'w':
            o.weights = parse_dtype(optarg);
            break;
        case 'k':
            o.cache = parse_dtype(optarg);
            break;
        default:
            exit(2);
        }
    }
    if (optind < argc) o.model = argv[optind];
    if (!o.model || o.n_rounds < 1 || o.context < 1 || o.n_threads < 0)
        check(SL_FAIL(SL_ERR_ARG, "no model (SLUICE_TEST_GGUF), or a number below 1"));
    return o;
}

int main(int argc, char **argv) {
    const bench_options o = parse(argc, argv);
    const sl_cpu_options cpu = {.n_threads = o.n_threads};
    sl_source *source = NULL;
    sl_backend *inner = NULL;
    sl_transport *transport = NULL;
    timed_backend backend;
    check(sl_source_open(o.model, 1, &source));
    check(sl_cpu_backend_open(&cpu, &inner));
    check(sl_transport_open_loopback(&transport));
    const int n_threads = sl_cpu_backend_threads(inner);
    openblas_set_num_threads(n_threads);
    if (n_threads == 1) clock_used = CLOCK_PROCESS_CPUTIME_ID;

    products p = products_make(source);
    float *x = random_floats(PREFILL_ROWS * p.largest, 1);
    float *y = random_floats(PREFILL_ROWS * p.largest, 2);
    bench_engine b = {.backend = &backend, .vocab = sl_source_config(source)->vocab};
    timed_open(&backend, inner);
    const int decode_end = o.context + DECODE_STEPS + 1;
    sl_policy policy;
    sl_policy_init(&policy);
    policy.micro_batch = DECODE_ROWS;
    policy.num_micro_batches = 1;
    policy.max_rows = PREFILL_ROWS;
    policy.max_context = decode_end > PREFILL_ROWS + 1 ? decode_end : PREFILL_ROWS + 1;
    policy.weights_dtype = o.weights;
    policy.cache_dtype = o.cache;
    policy.cpu_budget_bytes = (size_t)1 << 40;
    check(sl_engine_open(source, &backend.base, transport, &policy, NULL, &b.engine));
    sl_source_close(source);

    double sgemm_s[2] = {1e30, 1e30};
    best_step best[2] = {{.best_s = 1e30}, {.best_s = 1e30}};
    for (int round = 0; round < o.n_rounds; round++) {
        const double prefill_s = products_s(&p, x, y, PREFILL_ROWS, 1);
        if (prefill_s < sgemm_s[0]) sgemm_s[0] = prefill_s;
        submit(&b, PREFILL_ROWS, 1);
        drain(&b, PREFILL_ROWS, 0, &best[0]);
        for (int i = 0; i < DECODE_STEPS; i++) {
            const double decode_s = products_s(&p, x, y, DECODE_ROWS, DECODE_ROWS);
            if (decode_s < sgemm_s[1]) sgemm_s[1] = decode_s;
        }
        for (int i = 0; i < DECODE_ROWS; i++) submit(&b, o.context, DECODE_STEPS + 1);
        drain(&b, 0, DECODE_ROWS, &best[1]);
    }

    printf("%s, %s weights, %s cache, %d thread%s, %s; OpenBLAS %s\n", o.model,
           o.weights == SL_DTYPE_AS_STORED ? "stored" : sl_dtype_name(o.weights),
           sl_dtype_name(o.cache), n_threads, n_threads == 1 ? " (processor time)" : "s",
           sl_cpu_backend_simd(inner), openblas_get_corename());
    printf("               products     sgemm alone, f32               engine\n"
           "         rows     GFLOP        ms  GFLOP/s   rows/s        ms  GFLOP/s    rows/s   "
           "ratio\n");
    print_line("prefill", PREFILL_ROWS, products_flop(&p, PREFILL_ROWS, 1), sgemm_s[0], &best[0]);
    print_line("decode", DECODE_ROWS, products_flop(&p, DECODE_ROWS, DECODE_ROWS), sgemm_s[1],
               &best[1]);
    print_parts("prefill", &best[0]);
    print_parts("decode", &best[1]);

    sl_engine_close(b.engine);
    sl_transport_close(transport);
    sl_backend_close(&backend.base);
    for (int i = 0; i < p.n; i++) free(p.matrices[i].data);
    free(p.matrices);
    free(y);
    free(x);
    return 0;
}
