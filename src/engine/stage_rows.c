/* What a block's header asks of a stage: operations on sequences, and rows laid out by how they
 * attend. */
#include <stdlib.h>
#include <string.h>

#include "engine/stage_impl.h"

/* Copies a page in every layer. */
static sl_status copy_page(sl_stage *s, int slot, int32_t from, int32_t to) {
    const sl_tier_kind home = sl_kv_home(s->kv, slot);
    if (s->opt.backend->ops->hollow) return SL_OK; /* nothing is in it */
    for (int l = 0; l < sl_stage_n_layers(s); l++) {
        const sl_kv_view view = sl_kv_layer(s->kv, home, l);
        if (s->device && home == SL_TIER_CPU) {
            const size_t bytes = view.format.page_bytes;
            unsigned char *base = view.base;
            memcpy(base + (size_t)to * bytes, base + (size_t)from * bytes, bytes);
            continue;
        }
        SL_TRY(s->opt.backend->ops->page_copy(s->opt.backend, &view, from, to));
    }
    return SL_OK;
}

static sl_status apply_op(sl_stage *s, const sl_block_op *op) {
    int n_held = 0;
    int32_t from, to;
    (void)sl_kv_pages(s->kv, op->slot, &n_held);
    SL_TRY(sl_slots_apply(&s->slots, op, n_held * SL_PAGE_TOKENS));
    switch (op->kind) {
    case SL_OP_ADMIT:
        return SL_OK;
    case SL_OP_SHARE:
        return sl_kv_share(s->kv, op->slot, op->kept);
    case SL_OP_COPY:
        SL_TRY(sl_kv_copy(s->kv, op->slot, op->kept, &from, &to));
        return copy_page(s, op->slot, from, to);
    case SL_OP_RESERVE: /* all pages at once, so that they lie one after another */
        return sl_kv_extend(s->kv, op->slot, op->n_tokens);
    case SL_OP_KEEP:
        return sl_kv_keep(s->kv, op->slot, op->page, op->kept);
    case SL_OP_DROP:
        return sl_kv_drop(s->kv, op->kept);
    case SL_OP_RELEASE:
        sl_kv_release(s->kv, op->slot);
        return SL_OK;
    }
    return SL_FAIL(SL_ERR_COMM, "unknown operation %d", (int)op->kind);
}

static sl_part_kind kind_of(const sl_stage *s, const sl_block_segment *seg) {
    if (s->home[seg->slot] == sl_tier_get_kind(s->fast)) return SL_PART_HERE;
    const int on_host = s->host_rows > 0 && s->opt.seats[seg->slot].on_host;
    return on_host && seg->n_rows == 1 ? SL_PART_HOST : SL_PART_VISIT;
}

int sl_stage_stays(const sl_stage *s, const sl_block *b) {
    const sl_tier_kind here = sl_tier_get_kind(s->fast);
    for (int i = 0; i < b->n_ops; i++)
        if (b->op[i].kind != SL_OP_DROP && s->home[b->op[i].slot] != here) return 0;
    for (int i = 0; i < b->n_segments; i++)
        if (s->home[b->segment[i].slot] != here) return 0;
    return 1;
}

/* The part that the next segment belongs to: the last one, or a new one. */
static sl_status find_part(sl_stage_rows *m, sl_part_kind kind, int row, sl_stage_part **out) {
    if (m->n_parts > 0 && m->part[m->n_parts - 1].kind == kind) {
        *out = &m->part[m->n_parts - 1];
        return SL_OK;
    }
    if (m->n_parts == SL_ROW_PARTS || (kind == SL_PART_HOST && m->host_part >= 0))
        return SL_FAIL(SL_ERR_COMM, "a micro-batch whose rows are not in order of how they attend");
    if (kind == SL_PART_HOST) m->host_part = m->n_parts;
    *out = &m->part[m->n_parts++];
    **out = (sl_stage_part){.kind = kind, .row0 = row, .visitor0 = m->n_visitors};
    return SL_OK;
}

static sl_status lay_out_segment(sl_stage *s, const sl_block_segment *seg, const int32_t *token,
                                 int number, int *row, sl_stage_rows *m) {
    sl_stage_part *part;
    const sl_part_kind kind = kind_of(s, seg);
    SL_TRY(sl_slots_note(&s->slots, seg, token));
    SL_TRY(sl_kv_extend(s->kv, seg->slot, seg->position0 + seg->n_rows));
    SL_TRY(find_part(m, kind, *row, &part));
    sl_segment *out = &m->segment[number];
    *out =
        (sl_segment){.row0 = *row - part->row0, .n_rows = seg->n_rows, .position0 = seg->position0};
    int n_held;
    out->pages = sl_kv_pages(s->kv, seg->slot, &n_held);
    out->n_pages = sl_kv_pages_for(seg->position0 + seg->n_rows);
    if (kind != SL_PART_HERE)
        m->visitor[m->n_visitors++] = (sl_kv_visitor){.slot = seg->slot,
                                                      .position0 = seg->position0,
                                                      .n_rows = seg->n_rows,
                                                      .on_host = kind == SL_PART_HOST};
    if (!part->rows.segment) part->rows.segment = out;
    part->rows.n_segments++;
    part->rows.n_rows += seg->n_rows;
    for (int r = 0; r < seg->n_rows; r++, ++*row) {
        m->token[*row] = token[r];
        m->position[*row] = seg->position0 + r;
        const int is_last = r == seg->n_rows - 1;
        if (is_last ? seg->want_last : seg->score) m->rows.n_wanted++;
        if (is_last ? seg->want_last : seg->score) m->wanted[m->rows.n_wanted - 1] = *row;
    }
    return SL_OK;
}

/* Where the visitors' pages will be.  A block that has none leaves those of the block under way
 * alone. */
static sl_status set_visitors(sl_stage *s, int mb, int stays, sl_stage_rows *m) {
    s->visit[mb] = m->host_part >= 0 ? SL_VISIT_HOST : 0;
    if (!s->visits || stays) return SL_OK;
    unsigned char bits = 0;
    SL_TRY(sl_kv_visits_set(s->visits, s->kv, mb, m->visitor, m->n_visitors, &bits));
    s->visit[mb] |= bits;
    for (int p = 0; p < m->n_parts; p++) {
        const sl_stage_part *part = &m->part[p];
        if (part->kind != SL_PART_VISIT) continue;
        sl_segment *segment = m->segment + (part->rows.segment - m->segment);
        for (int i = 0; i < part->rows.n_segments; i++)
            segment[i].pages = sl_kv_visits_pages(s->visits, mb, part->visitor0 + i);
    }
    return SL_OK;
}

/* Gives the rows to a device: all together, and each part that attends there. */
static sl_status bind(sl_stage *s, int set, int mb, sl_stage_rows *m) {
    const sl_backend_ops *op = s->opt.backend->ops;
    if (!op->bind_rows) return SL_OK;
    const int number = (set * s->opt.num_micro_batches + mb) * (1 + SL_ROW_PARTS);
    SL_TRY(op->bind_rows(s->opt.backend, number, &m->rows));
    if (m->rows.n_segments > 0) {
        m->part[0].rows.device = m->rows.device;
        return SL_OK;
    }
    for (int p = 0; p < m->n_parts; p++)
        if (m->part[p].kind != SL_PART_HOST)
            SL_TRY(op->bind_rows(s->opt.backend, number + 1 + p, &m->part[p].rows));
    return SL_OK;
}

/* Lays out the rows of one micro-batch from its header. */
static sl_status lay_out(sl_stage *s, const sl_block *b, int set, int mb, int stays) {
    sl_stage_rows *m = &s->turn[set].mb[mb];
    const sl_block_micro_batch *header = &b->micro_batch[mb];
    int row = 0;
    m->rows = (sl_rows){.token = m->token, .position = m->position, .wanted = m->wanted};
    m->n_parts = m->n_visitors = 0;
    m->host_part = -1;
    for (int i = 0; i < header->n_segments; i++) {
        const sl_block_segment *seg = &b->segment[header->segment0 + i];
        SL_TRY(lay_out_segment(s, seg, b->token + seg->token0, i, &row, m));
    }
    m->rows.n_rows = row;
    for (int p = 0; p < m->n_parts; p++) {
        m->part[p].rows.token = m->token + m->part[p].row0;
        m->part[p].rows.position = m->position + m->part[p].row0;
    }
    if (m->n_parts == 1 && m->part[0].kind == SL_PART_HERE) { /* no second copy is needed */
        m->rows.n_segments = header->n_segments;
        m->rows.segment = m->segment;
    }
    SL_TRY(set_visitors(s, mb, stays, m));
    return bind(s, set, mb, m);
}

/* What is asked of the micro-batch's wanted rows, and whether the device can answer by itself while
 * the host goes on. */
static void note_asks(sl_stage *s, const sl_block *b, int set, int mb) {
    const sl_block_micro_batch *header = &b->micro_batch[mb];
    sl_stage_rows *m = &s->turn[set].mb[mb];
    sl_choice_ask *ask = s->turn[set].ask + m->choice0;
    m->is_begun = sl_program_can_begin_head(s->program, m->rows.n_wanted);
    for (int i = 0; i < header->n_segments; i++) {
        const sl_block_segment *seg = &b->segment[header->segment0 + i];
        for (int r = 0; r < seg->n_rows; r++) {
            if (!(r == seg->n_rows - 1 ? seg->want_last : seg->score)) continue;
            *ask = sl_slots_ask(&s->slots, seg, r, b->token + seg->token0);
            if (sl_choice_is_adjusted(ask++)) m->is_begun = 0;
        }
    }
}

static sl_status reserve_asks(sl_stage *s, int set, int n) {
    if (n <= s->turn[set].ask_room) return SL_OK;
    sl_choice_ask *grown = realloc(s->turn[set].ask, (size_t)n * sizeof *grown);
    if (!grown) return SL_FAIL(SL_ERR_NOMEM, "stage: out of host memory for %d choices", n);
    s->turn[set].ask = grown;
    s->turn[set].ask_room = n;
    return SL_OK;
}

sl_status sl_stage_take_in(sl_stage *s, int set, const sl_block *b) {
    const int stays = sl_stage_stays(s, b);
    for (int i = 0; i < b->n_ops; i++) SL_TRY(apply_op(s, &b->op[i]));
    int choice0 = 0;
    for (int m = 0; m < b->n_micro_batches; m++) {
        if (b->micro_batch[m].n_segments > s->opt.micro_batch)
            return SL_FAIL(SL_ERR_COMM, "a micro-batch of %d sequences, at most %d",
                           b->micro_batch[m].n_segments, s->opt.micro_batch);
        SL_TRY(lay_out(s, b, set, m, stays));
        s->turn[set].mb[m].choice0 = choice0;
        choice0 += s->turn[set].mb[m].rows.n_wanted;
    }
    if (!s->is_last) return SL_OK;
    SL_TRY(reserve_asks(s, set, choice0));
    for (int m = 0; m < b->n_micro_batches; m++) {
        note_asks(s, b, set, m);
        if (choice0 > SL_BEGUN_ROWS) s->turn[set].mb[m].is_begun = 0;
    }
    return SL_OK;
}
