/* A sweep that counts for nothing.  A device loads a kernel when it is first called, and libraries
 * choose theirs then: a tenth of a second or two, which on a pipeline would pass rank after rank,
 * for each waits for the one before, and with transfers of the wire stuck behind. */
#include <stdlib.h>
#include <string.h>

#include "engine/stage_impl.h"

enum { CHOSEN_ROWS = 64 };

/* A decoder layer whose weights are where they are computed; -1: all pass through a ring. */
static int resident_layer(const sl_stage *s) {
    for (int l = 0; l < sl_stage_n_layers(s); l++)
        if (!s->is_uploaded[l]) return s->opt.first_layer + l;
    return -1;
}

/* Hidden states of zeros: what memory held before may be no number. */
static sl_status clear(sl_stage *s, void *hidden, int n_rows) {
    const size_t row = sl_stage_row_bytes(s);
    void *zeros = calloc(CHOSEN_ROWS, row);
    if (!zeros) return SL_FAIL(SL_ERR_NOMEM, "stage: out of host memory");
    sl_status st = SL_OK;
    for (int r = 0; r < n_rows && st == SL_OK; r += CHOSEN_ROWS) {
        const int n = n_rows - r < CHOSEN_ROWS ? n_rows - r : CHOSEN_ROWS;
        st = s->device->copy(s->opt.backend, SL_STREAM_COMPUTE, (char *)hidden + (size_t)r * row,
                             zeros, (size_t)n * row);
    }
    if (st == SL_OK) st = s->opt.backend->ops->sync(s->opt.backend);
    free(zeros);
    return st;
}

/* Rows of token 0 in segments of `length` from position `position0` on, all in the same pages. */
static void lay_out(const sl_stage *s, sl_stage_rows *m, int length, int position0,
                    const int32_t *pages) {
    int row = 0, n = 0;
    for (; n < s->opt.micro_batch && row < s->opt.max_rows; n++) {
        const int left = s->opt.max_rows - row, n_rows = left < length ? left : length;
        m->segment[n] = (sl_segment){.row0 = row,
                                     .n_rows = n_rows,
                                     .position0 = position0,
                                     .n_pages = sl_kv_pages_for(position0 + n_rows),
                                     .pages = pages};
        for (int r = 0; r < n_rows; r++, row++) {
            m->token[row] = 0;
            m->position[row] = position0 + r;
            m->wanted[row] = row;
        }
    }
    m->rows = (sl_rows){.n_rows = row,
                        .token = m->token,
                        .position = m->position,
                        .n_segments = n,
                        .segment = m->segment,
                        .n_wanted = row < CHOSEN_ROWS ? row : CHOSEN_ROWS,
                        .wanted = m->wanted};
}

/* One layer over these rows, and the products of the layer for fewer. */
static sl_status compute(sl_stage *s, sl_stage_rows *m, int layer, void *hidden) {
    const sl_backend_ops *op = s->opt.backend->ops;
    const sl_layer_weights *w = sl_weights_layer(s->weights, layer);
    if (op->bind_rows) SL_TRY(op->bind_rows(s->opt.backend, 0, &m->rows));
    const sl_program_part part = {
        .rows = &m->rows,
        .cache = sl_kv_layer(s->kv, sl_tier_get_kind(s->fast), layer - s->opt.first_layer)};
    if (s->is_first)
        SL_TRY(sl_program_embed(s->program, sl_weights_layer(s->weights, SL_LAYER_EMBED), &m->rows,
                                hidden));
    else
        SL_TRY(clear(s, hidden, m->rows.n_rows));
    SL_TRY(sl_program_before(s->program, w, &m->rows, &part, 1, 0, hidden));
    for (int n = m->rows.n_rows; n > 0; n /= 2)
        SL_TRY(sl_program_after(s->program, w, n, 0, hidden));
    return SL_OK;
}

static sl_status choose(sl_stage *s, sl_stage_rows *m, void *hidden) {
    const sl_sampling greedy = {.top_p = 1.0f, .repetition_penalty = 1.0f, .n_logprobs = -1};
    sl_choice_ask ask[CHOSEN_ROWS];
    sl_choice chosen[CHOSEN_ROWS];
    for (int i = 0; i < CHOSEN_ROWS; i++)
        ask[i] = (sl_choice_ask){.sampling = &greedy, .target = -1};
    SL_TRY(clear(s, hidden, m->rows.n_rows));
    /* Of a model whose logits of this are no numbers only the kernels are of interest. */
    (void)sl_program_head(s->program, sl_weights_layer(s->weights, s->config.n_layers), &m->rows,
                          hidden, ask, chosen);
    return SL_OK;
}

sl_status sl_stage_rehearse(sl_stage *s) {
    const int layer = s->device && !s->opt.backend->ops->hollow ? resident_layer(s) : -1;
    const int n_pages = s->device ? sl_kv_n_pages(s->kv, SL_TIER_GPU) : 0;
    if (layer < 0 || n_pages < 1 || s->travels) return SL_OK;
    int length = s->opt.max_context < n_pages * SL_PAGE_TOKENS ? s->opt.max_context
                                                               : n_pages * SL_PAGE_TOKENS;
    if (length > s->opt.max_rows) length = s->opt.max_rows;
    const int n_held = sl_kv_pages_for(length);
    int32_t *pages = malloc((size_t)n_held * sizeof *pages);
    if (!pages) return SL_FAIL(SL_ERR_NOMEM, "stage: out of host memory");
    for (int i = 0; i < n_held; i++) pages[i] = i;
    sl_stage_rows *m = &s->turn[0].mb[0];
    void *hidden = s->hidden[0][0];
    lay_out(s, m, length, 0, pages);
    sl_status st = compute(s, m, layer, hidden);
    if (st == SL_OK) {
        lay_out(s, m, 1, length - 1, pages);
        st = compute(s, m, layer, hidden);
    }
    if (st == SL_OK && s->is_last) st = choose(s, m, hidden);
    const sl_status done = s->opt.backend->ops->sync(s->opt.backend);
    free(pages);
    return st == SL_OK ? done : st;
}
