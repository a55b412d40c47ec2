/* What sequences leave behind: seats, pages, beginnings that others may share. */
#include <stdlib.h>
#include <string.h>

#include "engine/scheduler_impl.h"
#include "store/kv_cache.h"

/* Pages are scarce below a quarter of all; requests that are looked at to see what is wanted next.
 */
enum { SCARCE = 4, NEXT_ONES = 16 };

/* Whether one of the next requests begins in the same way as this one. */
static int is_awaited(const sl_scheduler *s, const sl_request *r) {
    int n = 0;
    const int page = SL_PAGE_TOKENS;
    for (const sl_request *w = s->waiting.head; w && n < NEXT_ONES; w = w->next, n++)
        if (w != r && w->ask.n_prompt >= page && r->ask.n_prompt >= page &&
            memcmp(w->prompt, r->prompt, (size_t)page * sizeof *w->prompt) == 0)
            return 1;
    return 0;
}

/* Where pages are scarce, a prompt that nobody has shared is not kept: its pages are given up
 * together, so that the next sequence's lie one after another. */
static int is_worth_keeping(const sl_scheduler *s, const sl_sequence *q) {
    const int home = q->node->home;
    return s->n_free_pages[home] >= s->opt.n_pages[home] / SCARCE || is_awaited(s, q->request);
}

/* Pages that were not computed in the end leave the tree with their writer. */
static void leave_nodes(sl_scheduler *s, sl_sequence *q) {
    sl_prefix_node *n = q->node;
    if (!n) return;
    const int keeps = is_worth_keeping(s, q);
    sl_prefix_leave(s->prefixes, n);
    for (; q->n_own_nodes > 0; q->n_own_nodes--) {
        sl_prefix_node *parent = n->parent;
        n->is_scoring = 0;
        if (!n->is_ready || (!keeps && !n->is_taken && n->n_users == 0 && !n->first_child)) {
            s->dropped[s->n_dropped++] = n->id;
            s->n_free_pages[n->home]++;
            sl_prefix_remove(s->prefixes, n);
        }
        n = parent;
    }
    q->node = NULL;
}

/* What has ended counts less and less. */
static void note_end(sl_scheduler *s, const sl_sequence *q) {
    sl_job_mix *m = &s->mix;
    m->begun_most -= q->request->ask.max_tokens;
    m->ended_most += q->request->ask.max_tokens;
    m->ended_tokens += q->n_tokens;
    if (++m->n_ended < 4 * s->seats * s->opt.n_block_slots) return;
    m->n_ended /= 2;
    /* The rows of those that run stay as they are, in proportion to their tokens. */
    const double all = m->begun_most + m->ended_most;
    if (all > 0) m->begun_rows *= (m->begun_most + m->ended_most / 2) / all;
    m->ended_most /= 2;
    m->ended_tokens /= 2;
}

void sl_scheduler_leave_seat(sl_scheduler *s, sl_sequence *q) {
    note_end(s, q);
    s->seat[q->slot] = NULL;
    s->block[q->slot / s->seats].n_seated--;
    s->released[s->n_released++] = q->slot;
    s->n_free_pages[sl_scheduler_home(s, q->slot)] += q->n_reserved;
    q->n_reserved = q->n_held = 0;
    leave_nodes(s, q);
    q->slot = -1;
    q->state = SL_SEQ_DONE;
}

void sl_scheduler_note_sent(sl_scheduler *s, sl_sequence *q) {
    (void)s;
    sl_prefix_node *n = q->node;
    for (int i = 0; i < q->n_own_nodes; i++, n = n->parent) {
        if (n->is_ready) return; /* and all above it */
        n->is_ready = (n->depth - 1) * SL_PAGE_TOKENS + n->n_tokens <= q->n_sent;
    }
}

void sl_scheduler_note_scores(sl_scheduler *s, const sl_sequence *q) {
    const sl_request *r = q->request;
    if (!s->prefixes || !q->node) return;
    const int n_tokens = sl_request_prompt_rows(r);
    sl_prefix_node *n = q->node;
    while (n->depth > 0) n = n->parent;
    /* From the top: pages that somebody computed without scores get them too. */
    for (int from = 0; from < n_tokens; from += SL_PAGE_TOKENS) {
        const int rest = n_tokens - from, page = rest < SL_PAGE_TOKENS ? rest : SL_PAGE_TOKENS;
        n = sl_prefix_child(s->prefixes, n, r->prompt + from, page);
        if (!n) return;
        if ((n->score || n->is_scoring) && n->n_logprobs >= sl_scheduler_logprobs(r) &&
            !(n->is_scoring && !n->score))
            continue;
        /* Without memory for them the next one computes them again. */
        if (!n->score) n->score = calloc(SL_PAGE_TOKENS, sizeof *n->score);
        if (!n->score) return;
        memcpy(n->score, r->score + from, (size_t)page * sizeof *n->score);
        n->n_logprobs = sl_scheduler_logprobs(r);
    }
}
