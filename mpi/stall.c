#include "stall.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    uint64_t n_done;
    double moved_s; /* when n_done was seen to rise */
    char at[160];
} rank_state;

struct sl_stall {
    double patience_s, since_s; /* since_s: from when on time counts */
    int n_ranks;
    rank_state rank[];
};

sl_status sl_stall_open(int n_ranks, double patience_s, double now_s, sl_stall **out) {
    sl_stall *s = calloc(1, sizeof *s + (size_t)n_ranks * sizeof s->rank[0]);
    if (!s) return SL_FAIL(SL_ERR_NOMEM, "watch %d ranks: out of host memory", n_ranks);
    s->patience_s = patience_s;
    s->since_s = now_s;
    s->n_ranks = n_ranks;
    for (int r = 0; r < n_ranks; r++) s->rank[r].moved_s = now_s;
    *out = s;
    return SL_OK;
}

void sl_stall_close(sl_stall *s) {
    free(s);
}

void sl_stall_describe(const sl_pulse_view *p, char *text, size_t room) {
    char many[48] = "", layer[32] = "";
    text[0] = '\0';
    if (p->n_begun < 1 || !p->name) return;
    if (p->n_begun > 1) snprintf(many, sizeof many, "%d tasks, the last begun ", p->n_begun);
    if (p->layer >= 0) snprintf(layer, sizeof layer, " of layer %d", p->layer);
    snprintf(text, room, "%s\"%s\"%s", many, p->name, layer);
}

void sl_stall_note(sl_stall *s, int rank, uint64_t n_done, const char *at, double now_s) {
    rank_state *r = &s->rank[rank];
    if (r->n_done != n_done) r->moved_s = now_s;
    r->n_done = n_done;
    snprintf(r->at, sizeof r->at, "%s", at);
}

void sl_stall_forgive(sl_stall *s, double now_s) {
    s->since_s = now_s;
}

int sl_stall_check(const sl_stall *s, double now_s, int *rank_out, char *text, size_t room) {
    const rank_state *first = NULL;
    if (now_s - s->since_s <= s->patience_s) return 0;
    for (int i = 0; i < s->n_ranks; i++) {
        const rank_state *r = &s->rank[i];
        if (now_s - r->moved_s <= s->patience_s) return 0;
        if (r->at[0] && (!first || r->moved_s < first->moved_s)) first = r;
    }
    const int is_alone = s->n_ranks == 1;
    *rank_out = first ? (int)(first - s->rank) : -1;
    const int n =
        snprintf(text, room, "stalled: nothing has got done%s for %.3g s (--stall-timeout)",
                 is_alone ? "" : " on any rank", s->patience_s);
    if (n < 0 || (size_t)n >= room) return 1;
    if (first)
        snprintf(text + n, room - (size_t)n, "; under way%s: %s", is_alone ? "" : " on this one",
                 first->at);
    else
        snprintf(text + n, room - (size_t)n, ": %s",
                 is_alone ? "no task is under way" : "each waits for another");
    return 1;
}
