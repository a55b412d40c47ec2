#include "cpu/cpu_backend.h"

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "cpu/cpu_check.h"
#include "cpu/cpu_choose.h"
#include "cpu/cpu_ops.h"
#include "cpu/cpu_reference.h"
#include "cpu/cpu_state.h"

enum { BUFFER_ALIGN = 64 };

static void buffer_free(sl_cpu_buffer *buffer) {
    free(buffer->data);
    *buffer = (sl_cpu_buffer){0};
}

sl_status sl_cpu_reserve(sl_cpu_buffer *buffer, size_t bytes, const char *what) {
    if (bytes <= buffer->bytes) return SL_OK;
    size_t room;
    SL_TRY(sl_size_add(bytes, BUFFER_ALIGN - 1, &room));
    room -= room % BUFFER_ALIGN;
    buffer_free(buffer); /* first: nothing is kept, and both at once may not fit */
    void *data = aligned_alloc(BUFFER_ALIGN, room);
    if (!data)
        return SL_FAIL(SL_ERR_NOMEM, "cpu backend: no %zu bytes of scratch for %s", room, what);
    *buffer = (sl_cpu_buffer){.data = data, .bytes = room};
    return SL_OK;
}

sl_status sl_cpu_reserve_own(sl_cpu *cpu, size_t bytes, const char *what) {
    if (bytes <= cpu->own_bytes) return SL_OK;
    /* Parts a page apart: threads share no cache line. */
    enum { PART_ALIGN = 4096 };
    size_t part, total;
    SL_TRY(sl_size_add(bytes, PART_ALIGN - 1, &part));
    part -= part % PART_ALIGN;
    SL_TRY(sl_size_mul(part, (size_t)cpu->n_threads, &total));
    cpu->own_bytes = 0;
    SL_TRY(sl_cpu_reserve(&cpu->own, total, what));
    cpu->own_bytes = part;
    return SL_OK;
}

typedef struct {
    sl_cpu_row_range *compute;
    void *context;
    int n_rows;
    int n_ranges;
} row_ranges;

static void compute_range(void *context, int item, int thread) {
    const row_ranges *r = context;
    const int begin = (int)((int64_t)item * r->n_rows / r->n_ranges);
    const int end = (int)((int64_t)(item + 1) * r->n_rows / r->n_ranges);
    r->compute(r->context, begin, end, thread);
}

void sl_cpu_run(sl_cpu *cpu, double work, int n_items, sl_cpu_item *compute, void *context) {
    if (work < 32768.0) { /* some 5 microseconds */
        for (int i = 0; i < n_items; i++) compute(context, i, 0);
        return;
    }
    sl_cpu_team_run(cpu->team, n_items, compute, context);
}

void sl_cpu_for_rows(sl_cpu *cpu, double work, int n_rows, sl_cpu_row_range *compute,
                     void *context) {
    enum { RANGES_PER_THREAD = 4 }; /* evens out threads that start late */
    row_ranges r = {.compute = compute, .context = context, .n_rows = n_rows};
    r.n_ranges =
        cpu->n_threads > n_rows / RANGES_PER_THREAD ? n_rows : cpu->n_threads * RANGES_PER_THREAD;
    sl_cpu_run(cpu, work, r.n_ranges, compute_range, &r);
}

static void backend_close(sl_backend *be) {
    sl_cpu *cpu = sl_cpu_of(be);
    sl_cpu_sparse_close(cpu->sparse);
    sl_cpu_team_close(cpu->team);
    sl_cpu_device_close(cpu->device);
    buffer_free(&cpu->shared);
    buffer_free(&cpu->own);
    buffer_free(&cpu->rope_table);
    buffer_free(&cpu->rope_freq);
    free(cpu->begun);
    free(cpu);
}

static sl_status backend_sync(sl_backend *be) {
    (void)be; /* every operator has computed before it returned */
    return SL_OK;
}

static sl_status embed(sl_backend *be, void *y, const sl_weight *token_table, const sl_rows *rows) {
    SL_TRY(sl_cpu_check_embed(y, token_table, rows));
    sl_cpu_embed(sl_cpu_of(be), y, token_table, rows);
    return SL_OK;
}

static sl_status add_positions(sl_backend *be, void *y, const sl_weight *pos_table,
                               int position_offset, const sl_rows *rows) {
    SL_TRY(sl_cpu_check_add_positions(y, pos_table, position_offset, rows));
    return sl_cpu_add_positions(sl_cpu_of(be), y, pos_table, position_offset, rows);
}

static sl_status norm(sl_backend *be, void *y, const void *x, const float *gain, const float *bias,
                      sl_norm_kind kind, float eps, int n_rows, int cols) {
    SL_TRY(sl_cpu_check_norm(y, x, kind, eps, n_rows, cols));
    if (sl_cpu_of(be)->reference)
        sl_cpu_reference_norm(y, x, gain, bias, kind, eps, n_rows, cols);
    else
        sl_cpu_norm(sl_cpu_of(be), y, x, gain, bias, kind, eps, n_rows, cols);
    return SL_OK;
}

static sl_status linear(sl_backend *be, void *y, int ldy, const void *x, const sl_weight *w,
                        const float *bias, int n_rows, int accumulate) {
    sl_cpu *cpu = sl_cpu_of(be);
    SL_TRY(sl_cpu_check_linear(y, ldy, x, w, n_rows));
    if (n_rows == 0) return SL_OK;
    if (!cpu->reference) return sl_cpu_linear(cpu, y, ldy, x, w, bias, n_rows, accumulate);
    SL_TRY(sl_cpu_reserve(&cpu->shared, (size_t)w->cols * sizeof(float), "a weight row"));
    sl_cpu_reference_linear(y, ldy, x, w, bias, n_rows, accumulate, cpu->shared.data);
    return SL_OK;
}

static sl_status rope(sl_backend *be, void *x, int ldx, int n_heads, int head_dim,
                      const float *inv_freq, const sl_rows *rows) {
    SL_TRY(sl_cpu_check_rope(x, ldx, n_heads, head_dim, inv_freq, rows));
    if (!sl_cpu_of(be)->reference)
        return sl_cpu_rope(sl_cpu_of(be), x, ldx, n_heads, head_dim, inv_freq, rows);
    sl_cpu_reference_rope(x, ldx, n_heads, head_dim, inv_freq, rows);
    return SL_OK;
}

static sl_status kv_append(sl_backend *be, const sl_kv_view *cache, const void *k, const void *v,
                           int ld, const sl_rows *rows) {
    SL_TRY(sl_cpu_check_kv_append(cache, k, v, ld, rows));
    sl_cpu_kv_append(sl_cpu_of(be), cache, k, v, ld, rows);
    return SL_OK;
}

static sl_status attend(sl_backend *be, void *out, const void *q, int ldq, int n_heads,
                        const sl_kv_view *cache, float scale, int window, const sl_rows *rows) {
    sl_cpu *cpu = sl_cpu_of(be);
    SL_TRY(sl_cpu_check_attend(out, q, ldq, n_heads, cache, window, rows));
    if (rows->n_rows == 0) return SL_OK;
    if (!cpu->reference)
        return sl_cpu_attend(cpu, out, q, ldq, n_heads, cache, scale, window, rows);
    size_t n_keys = 0;
    for (int s = 0; s < rows->n_segments; s++) {
        const size_t n = (size_t)rows->segment[s].position0 + (size_t)rows->segment[s].n_rows;
        if (n > n_keys) n_keys = n;
    }
    SL_TRY(sl_cpu_reserve(&cpu->shared, (n_keys + (size_t)cache->format.head_dim) * sizeof(double),
                          "attention weights"));
    sl_cpu_reference_attend(out, q, ldq, n_heads, cache, scale, window, rows, cpu->shared.data);
    return SL_OK;
}

static sl_status attend_sparse(sl_backend *be, void *out, const void *q, int ldq, int n_heads,
                               const sl_kv_view *cache, float scale, int window, float sparsity,
                               const sl_rows *rows) {
    SL_TRY(sl_cpu_check_attend(out, q, ldq, n_heads, cache, window, rows));
    if (rows->n_rows == 0) return SL_OK;
    return sl_cpu_attend_sparse(sl_cpu_of(be), out, q, ldq, n_heads, cache, scale, window, sparsity,
                                rows);
}

static sl_status activate(sl_backend *be, void *y, const void *g, const void *u, int ld,
                          sl_activation act, int n_rows, int n_cols) {
    SL_TRY(sl_cpu_check_activate(y, g, ld, act, n_rows, n_cols));
    if (sl_cpu_of(be)->reference)
        sl_cpu_reference_activate(y, g, u, ld, act, n_rows, n_cols);
    else
        sl_cpu_activate(sl_cpu_of(be), y, g, u, ld, act, n_rows, n_cols);
    return SL_OK;
}

static sl_status add(sl_backend *be, void *y, const void *x, int n_rows, int cols) {
    SL_TRY(sl_cpu_check_shape("add", y, x, n_rows, cols));
    sl_cpu_add(sl_cpu_of(be), y, x, n_rows, cols);
    return SL_OK;
}

static sl_status gather(sl_backend *be, void *y, const void *x, const int32_t *index, int n,
                        int cols) {
    SL_TRY(sl_cpu_check_gather(y, x, index, n, cols));
    sl_cpu_gather(sl_cpu_of(be), y, x, index, n, cols);
    return SL_OK;
}

static sl_status choose(sl_backend *be, void *logits, int n_rows, int vocab,
                        const sl_choice_ask *ask, sl_choice *out) {
    SL_TRY(sl_cpu_check_choose(logits, n_rows, vocab, ask, out));
    return sl_cpu_choose(sl_cpu_of(be), logits, n_rows, vocab, ask, out);
}

/* Choices of a stand-in for a device are kept until they are asked for. */
static sl_status choose_begin(sl_backend *be, void *logits, int n_rows, int vocab,
                              const sl_choice_ask *ask) {
    sl_cpu *cpu = sl_cpu_of(be);
    if (!cpu->begun && !(cpu->begun = calloc(SL_BEGUN_ROWS, sizeof *cpu->begun)))
        return SL_FAIL(SL_ERR_NOMEM, "cpu backend: out of host memory for choices");
    if (n_rows > SL_BEGUN_ROWS - cpu->n_begun)
        return SL_FAIL(SL_ERR_ARG, "cpu backend: choices of %d rows beside %d, at most %d", n_rows,
                       cpu->n_begun, (int)SL_BEGUN_ROWS);
    SL_TRY(choose(be, logits, n_rows, vocab, ask, cpu->begun + cpu->n_begun));
    cpu->n_begun += n_rows;
    return SL_OK;
}

static sl_status choose_end(sl_backend *be, int n_rows, int vocab, const sl_choice_ask *ask,
                            sl_choice *out) {
    sl_cpu *cpu = sl_cpu_of(be);
    (void)vocab, (void)ask;
    if (n_rows > cpu->n_begun - cpu->n_ended)
        return SL_FAIL(SL_ERR_ARG, "cpu backend: %d choices, %d are under way", n_rows,
                       cpu->n_begun - cpu->n_ended);
    memcpy(out, cpu->begun + cpu->n_ended, (size_t)n_rows * sizeof *out);
    cpu->n_ended += n_rows;
    if (cpu->n_ended == cpu->n_begun) cpu->n_ended = cpu->n_begun = 0;
    return SL_OK;
}

static sl_status page_copy(sl_backend *be, const sl_kv_view *cache, int32_t from, int32_t to) {
    (void)be;
    SL_TRY(sl_cpu_check_page_copy(cache, from, to));
    sl_cpu_page_copy(cache, from, to);
    return SL_OK;
}

static sl_status logits(sl_backend *be, float *y, const void *x, const sl_weight *w, int n_rows) {
    return linear(be, y, w ? w->rows : 0, x, w, NULL, n_rows, 0); /* activations are float32 */
}

static const sl_backend_ops cpu_ops = {
    .name = "cpu",
    .act_bytes = sizeof(float),
    .close = backend_close,
    .sync = backend_sync,
    .embed = embed,
    .add_positions = add_positions,
    .norm = norm,
    .linear = linear,
    .logits = logits,
    .rope = rope,
    .kv_append = kv_append,
    .attend = attend,
    .attend_sparse = attend_sparse,
    .activate = activate,
    .add = add,
    .gather = gather,
    .choose = choose,
    .page_copy = page_copy,
};

sl_status sl_cpu_backend_open(const sl_cpu_options *options, sl_backend **out) {
    if (!options || !out) return SL_FAIL(SL_ERR_ARG, "cpu backend: no options or no result");
    if (options->n_threads < 0)
        return SL_FAIL(SL_ERR_ARG, "cpu backend: %d threads", options->n_threads);
    const sl_cpu_kernels *kernels = NULL;
    const int is_plain = options->reference && options->simd == SL_CPU_AUTO;
    SL_TRY(sl_cpu_choose_kernels(is_plain ? SL_CPU_PLAIN_C : options->simd, &kernels));

    sl_cpu *cpu = calloc(1, sizeof *cpu);
    if (!cpu) return SL_FAIL(SL_ERR_NOMEM, "cpu backend: no %zu bytes for its state", sizeof *cpu);
    cpu->ops = cpu_ops;
    cpu->base.ops = &cpu->ops;
    cpu->n_threads = options->reference ? 1 : sl_cpu_choose_threads(options->n_threads);
    cpu->reference = options->reference != 0;
    cpu->kernels = kernels;
    sl_status st = SL_OK;
    if (options->device_bytes) {
        SL_GO(sl_cpu_device_open(options->device_bytes, &cpu->device));
        cpu->ops.device = &sl_cpu_device_ops;
        cpu->ops.choose_begin = choose_begin;
        cpu->ops.choose_end = choose_end;
    }
    SL_GO(sl_cpu_team_open(cpu->n_threads, &cpu->team));
    *out = &cpu->base;
    return SL_OK;

fail:
    sl_cpu_device_close(cpu->device);
    free(cpu);
    return st;
}

sl_cpu_device *sl_cpu_device_of(const sl_backend *be) {
    return ((const sl_cpu *)be)->device;
}

int sl_cpu_backend_threads(const sl_backend *be) {
    return ((const sl_cpu *)be)->n_threads;
}

const char *sl_cpu_backend_simd(const sl_backend *be) {
    return ((const sl_cpu *)be)->kernels->name;
}
