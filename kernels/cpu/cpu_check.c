#include "cpu/cpu_check.h"

sl_status sl_cpu_check_shape(const char *op, const void *y, const void *x, int n_rows, int cols) {
    if (n_rows < 0 || cols < 1) return SL_FAIL(SL_ERR_ARG, "%s on [%d, %d]", op, n_rows, cols);
    if (n_rows > 0 && (!y || !x)) return SL_FAIL(SL_ERR_ARG, "%s on a null buffer", op);
    return SL_OK;
}

static sl_status check_weight(const char *op, const sl_weight *w) {
    if (!w || w->n_slabs < 1 || !w->slabs)
        return SL_FAIL(SL_ERR_ARG, "%s with an absent matrix", op);
    if (w->rows < 1 || w->cols < 1)
        return SL_FAIL(SL_ERR_ARG, "%s with a matrix of [%d, %d]", op, w->rows, w->cols);
    int next = 0;
    for (int s = 0; s < w->n_slabs; s++) {
        const sl_slab *slab = &w->slabs[s];
        size_t row_bytes;
        SL_TRY(sl_dtype_row_bytes(slab->dtype, w->cols, &row_bytes));
        if (!slab->data || slab->cols != w->cols || slab->row0 != next || slab->n_rows < 1 ||
            slab->n_rows > w->rows - next || slab->row_bytes < row_bytes)
            return SL_FAIL(SL_ERR_ARG,
                           "%s: slab %d has rows [%d, +%d) of %d columns and %zu bytes, expected "
                           "from row %d, within %d, of %d columns and %zu bytes",
                           op, s, slab->row0, slab->n_rows, slab->cols, slab->row_bytes, next,
                           w->rows, w->cols, row_bytes);
        next += slab->n_rows;
    }
    if (next != w->rows)
        return SL_FAIL(SL_ERR_ARG, "%s: slabs hold %d rows of %d", op, next, w->rows);
    return SL_OK;
}

static sl_status check_rows(const char *op, const sl_rows *rows) {
    if (!rows || rows->n_rows < 0) return SL_FAIL(SL_ERR_ARG, "%s without rows", op);
    return SL_OK;
}

/* Every `id` + offset is a row of the table. */
static sl_status check_ids(const char *op, const int32_t *id, int offset, const sl_rows *rows,
                           const sl_weight *table) {
    if (rows->n_rows > 0 && !id) return SL_FAIL(SL_ERR_ARG, "%s without ids", op);
    for (int r = 0; r < rows->n_rows; r++) {
        const int64_t row = (int64_t)id[r] + offset;
        if (row < 0 || row >= table->rows)
            return SL_FAIL(SL_ERR_ARG, "%s: row %d asks for %lld of a table of %d", op, r,
                           (long long)row, table->rows);
    }
    return SL_OK;
}

sl_status sl_cpu_check_embed(const void *y, const sl_weight *token_table, const sl_rows *rows) {
    SL_TRY(check_rows("embed", rows));
    SL_TRY(check_weight("embed", token_table));
    SL_TRY(sl_cpu_check_shape("embed", y, y, rows->n_rows, token_table->cols));
    return check_ids("embed", rows->token, 0, rows, token_table);
}

sl_status sl_cpu_check_add_positions(const void *y, const sl_weight *pos_table, int position_offset,
                                     const sl_rows *rows) {
    SL_TRY(check_rows("add_positions", rows));
    SL_TRY(check_weight("add_positions", pos_table));
    SL_TRY(sl_cpu_check_shape("add_positions", y, y, rows->n_rows, pos_table->cols));
    return check_ids("add_positions", rows->position, position_offset, rows, pos_table);
}

sl_status sl_cpu_check_norm(const void *y, const void *x, sl_norm_kind kind, float eps, int n_rows,
                            int cols) {
    SL_TRY(sl_cpu_check_shape("norm", y, x, n_rows, cols));
    if (kind != SL_NORM_LAYER && kind != SL_NORM_RMS)
        return SL_FAIL(SL_ERR_ARG, "norm of kind %d", (int)kind);
    if (!(eps >= 0.0f)) return SL_FAIL(SL_ERR_ARG, "norm with eps %g", (double)eps);
    return SL_OK;
}

sl_status sl_cpu_check_linear(const void *y, int ldy, const void *x, const sl_weight *w,
                              int n_rows) {
    SL_TRY(check_weight("linear", w));
    SL_TRY(sl_cpu_check_shape("linear", y, x, n_rows, w->cols));
    if (ldy < w->rows) return SL_FAIL(SL_ERR_ARG, "linear: %d outputs in rows of %d", w->rows, ldy);
    return SL_OK;
}

sl_status sl_cpu_check_rope(const void *x, int ldx, int n_heads, int head_dim,
                            const float *inv_freq, const sl_rows *rows) {
    SL_TRY(check_rows("rope", rows));
    SL_TRY(sl_cpu_check_shape("rope", x, x, rows->n_rows, n_heads));
    if (head_dim < 2 || head_dim % 2 != 0 || head_dim > SL_MAX_HEAD_DIM)
        return SL_FAIL(SL_ERR_ARG, "rope on heads of %d, expected even and at most %d", head_dim,
                       SL_MAX_HEAD_DIM);
    if (ldx < (int64_t)n_heads * head_dim)
        return SL_FAIL(SL_ERR_ARG, "rope: %d heads of %d in rows of %d", n_heads, head_dim, ldx);
    if (!inv_freq || (rows->n_rows > 0 && !rows->position))
        return SL_FAIL(SL_ERR_ARG, "rope without frequencies or positions");
    for (int r = 0; r < rows->n_rows; r++)
        if (rows->position[r] < 0)
            return SL_FAIL(SL_ERR_ARG, "rope: row %d has position %d", r, (int)rows->position[r]);
    return SL_OK;
}

static sl_status check_cache(const char *op, const sl_kv_view *cache) {
    if (!cache || !cache->base) return SL_FAIL(SL_ERR_ARG, "%s without a cache", op);
    const sl_kv_format *f = &cache->format;
    const int is_plain = f->dtype == SL_DTYPE_F16 || f->dtype == SL_DTYPE_F32;
    if ((!is_plain && !sl_dtype_group_bits(f->dtype)) || f->n_kv_heads < 1 || f->head_dim < 1 ||
        f->head_dim > SL_MAX_HEAD_DIM)
        return SL_FAIL(SL_ERR_ARG, "%s: a cache of %s with %d heads of %d", op,
                       sl_dtype_name(f->dtype), f->n_kv_heads, f->head_dim);
    const sl_kv_format made = sl_kv_format_make(f->dtype, f->n_kv_heads, f->head_dim);
    if (f->head_bytes != made.head_bytes || f->half_bytes != made.half_bytes ||
        f->page_bytes < made.page_bytes)
        return SL_FAIL(SL_ERR_ARG, "%s: a cache with pages of %zu bytes, expected at least %zu", op,
                       f->page_bytes, made.page_bytes);
    return SL_OK;
}

static sl_status check_segments(const char *op, const sl_rows *rows) {
    SL_TRY(check_rows(op, rows));
    if (rows->n_segments < 0 || (rows->n_segments > 0 && !rows->segment))
        return SL_FAIL(SL_ERR_ARG, "%s: %d segments at null", op, rows->n_segments);
    int next = 0;
    for (int s = 0; s < rows->n_segments; s++) {
        const sl_segment *g = &rows->segment[s];
        if (g->row0 != next || g->n_rows < 1 || g->n_rows > rows->n_rows - next)
            return SL_FAIL(SL_ERR_ARG, "%s: segment %d has rows [%d, +%d), expected from %d in %d",
                           op, s, g->row0, g->n_rows, next, rows->n_rows);
        const int64_t n_tokens = (int64_t)g->position0 + g->n_rows;
        if (g->position0 < 0 || n_tokens > INT32_MAX || !g->pages ||
            (int64_t)g->n_pages * SL_PAGE_TOKENS < n_tokens)
            return SL_FAIL(SL_ERR_ARG,
                           "%s: segment %d needs positions [%d, +%d), which %d pages do not hold",
                           op, s, g->position0, g->n_rows, g->n_pages);
        for (int i = 0; i < g->n_pages; i++)
            if (g->pages[i] < 0)
                return SL_FAIL(SL_ERR_ARG, "%s: page %d of segment %d has number %d", op, i, s,
                               (int)g->pages[i]);
        next += g->n_rows;
    }
    if (next != rows->n_rows)
        return SL_FAIL(SL_ERR_ARG, "%s: segments hold %d rows of %d", op, next, rows->n_rows);
    return SL_OK;
}

sl_status sl_cpu_check_kv_append(const sl_kv_view *cache, const void *k, const void *v, int ld,
                                 const sl_rows *rows) {
    SL_TRY(check_cache("kv_append", cache));
    SL_TRY(check_segments("kv_append", rows));
    const sl_kv_format *f = &cache->format;
    SL_TRY(sl_cpu_check_shape("kv_append", k, v, rows->n_rows, f->head_dim));
    if (ld < (int64_t)f->n_kv_heads * f->head_dim)
        return SL_FAIL(SL_ERR_ARG, "kv_append: %d heads of %d in rows of %d", f->n_kv_heads,
                       f->head_dim, ld);
    return SL_OK;
}

sl_status sl_cpu_check_attend(const void *out, const void *q, int ldq, int n_heads,
                              const sl_kv_view *cache, int window, const sl_rows *rows) {
    SL_TRY(check_cache("attend", cache));
    SL_TRY(check_segments("attend", rows));
    const sl_kv_format *f = &cache->format;
    SL_TRY(sl_cpu_check_shape("attend", out, q, rows->n_rows, n_heads));
    if (n_heads % f->n_kv_heads != 0)
        return SL_FAIL(SL_ERR_ARG, "attend: %d query heads over %d key heads", n_heads,
                       f->n_kv_heads);
    if (ldq < (int64_t)n_heads * f->head_dim)
        return SL_FAIL(SL_ERR_ARG, "attend: %d heads of %d in rows of %d", n_heads, f->head_dim,
                       ldq);
    if (window < 0) return SL_FAIL(SL_ERR_ARG, "attend with a window of %d", window);
    return SL_OK;
}

sl_status sl_cpu_check_activate(const void *y, const void *g, int ld, sl_activation act, int n_rows,
                                int n_cols) {
    SL_TRY(sl_cpu_check_shape("activate", y, g, n_rows, n_cols));
    if (ld < n_cols) return SL_FAIL(SL_ERR_ARG, "activate: %d columns in rows of %d", n_cols, ld);
    if (act != SL_ACT_RELU && act != SL_ACT_GELU && act != SL_ACT_GELU_TANH && act != SL_ACT_SILU)
        return SL_FAIL(SL_ERR_ARG, "activate with activation %d", (int)act);
    return SL_OK;
}

sl_status sl_cpu_check_gather(const void *y, const void *x, const int32_t *index, int n, int cols) {
    SL_TRY(sl_cpu_check_shape("gather", y, x, n, cols));
    if (n > 0 && !index) return SL_FAIL(SL_ERR_ARG, "gather without an index");
    for (int i = 0; i < n; i++)
        if (index[i] < 0)
            return SL_FAIL(SL_ERR_ARG, "gather: entry %d asks for row %d", i, (int)index[i]);
    return SL_OK;
}

sl_status sl_cpu_check_choose(const void *logits, int n_rows, int vocab, const sl_choice_ask *ask,
                              const sl_choice *out) {
    SL_TRY(sl_cpu_check_shape("choose", logits, ask, n_rows, vocab));
    if (n_rows > 0 && !out) return SL_FAIL(SL_ERR_ARG, "choose on a null result");
    return SL_OK;
}

sl_status sl_cpu_check_page_copy(const sl_kv_view *cache, int32_t from, int32_t to) {
    SL_TRY(check_cache("page_copy", cache));
    if (from < 0 || to < 0 || from == to)
        return SL_FAIL(SL_ERR_ARG, "page_copy from %d to %d", (int)from, (int)to);
    return SL_OK;
}
