#include "engine/request.h"

#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "store/kv_format.h"

sl_status sl_request_open(const sl_engine_request *ask, uint64_t id, sl_request **out) {
    sl_status st = SL_OK;
    sl_request *r = calloc(1, sizeof *r);
    if (!r) return SL_FAIL(SL_ERR_NOMEM, "request: out of host memory");
    const size_t n_prompt = (size_t)ask->n_prompt, n_bias = (size_t)ask->sampling.n_bias;
    r->ask = *ask;
    r->id = id;
    r->prompt = malloc(n_prompt * sizeof *r->prompt);
    r->bias = n_bias ? malloc(n_bias * sizeof *r->bias) : NULL;
    r->score = ask->echo_logprobs ? calloc(n_prompt, sizeof *r->score) : NULL;
    r->sequence = calloc((size_t)ask->n, sizeof *r->sequence);
    r->choices = calloc((size_t)ask->n, sizeof *r->choices);
    if (!r->prompt || (n_bias && !r->bias) || (ask->echo_logprobs && !r->score) || !r->sequence ||
        !r->choices) {
        st = SL_FAIL(SL_ERR_NOMEM, "request of %d tokens: out of host memory", ask->n_prompt);
        goto fail;
    }
    memcpy(r->prompt, ask->prompt, n_prompt * sizeof *r->prompt);
    if (n_bias) memcpy(r->bias, ask->sampling.bias, n_bias * sizeof *r->bias);
    r->ask.prompt = r->prompt;
    r->ask.sampling.bias = r->bias;
    r->n_sequences = ask->max_tokens > 0 ? ask->n : 1;
    for (int c = 0; c < ask->n; c++)
        r->sequence[c] =
            (sl_sequence){.request = r, .choice = c, .slot = -1, .finish = SL_FINISH_LENGTH};
    *out = r;
    return SL_OK;

fail:
    sl_request_close(r);
    return st;
}

void sl_request_close(sl_request *r) {
    if (!r) return;
    for (int c = 0; r->sequence && c < r->ask.n; c++) free(r->sequence[c].token);
    free(r->choices);
    free(r->sequence);
    free(r->score);
    free(r->bias);
    free(r->prompt);
    free(r);
}

int sl_request_prompt_rows(const sl_request *r) {
    if (r->ask.max_tokens > 0) return r->ask.n_prompt;
    return r->score ? r->ask.n_prompt - 1 : 0;
}

void sl_request_finish(sl_request *r) {
    for (int c = 0; c < r->ask.n; c++) {
        const sl_sequence *s = &r->sequence[c];
        r->choices[c] = (sl_engine_choice){s->finish, s->n_tokens, s->token};
    }
    r->result = (sl_engine_result){.user = r->ask.user,
                                   .id = r->id,
                                   .n_prompt = r->ask.n_prompt,
                                   .prompt = r->prompt,
                                   .prompt_scores = r->score,
                                   .n_choices = r->ask.n,
                                   .choices = r->choices};
}

void sl_request_push(sl_request_queue *q, sl_request *r) {
    r->next = NULL;
    if (q->tail)
        q->tail->next = r;
    else
        q->head = r;
    q->tail = r;
    q->n++;
}

sl_request *sl_request_pop(sl_request_queue *q) {
    sl_request *r = q->head;
    if (!r) return NULL;
    q->head = r->next;
    if (!q->head) q->tail = NULL;
    q->n--;
    r->next = NULL;
    return r;
}

sl_request *sl_request_unlink(sl_request_queue *q, sl_request *before) {
    sl_request *r = before ? before->next : q->head;
    *(before ? &before->next : &q->head) = r->next;
    if (q->tail == r) q->tail = before;
    q->n--;
    r->next = NULL;
    return r;
}

sl_request *sl_request_remove(sl_request_queue *q, uint64_t id) {
    sl_request *before = NULL, *r = q->head;
    for (; r && r->id != id; r = r->next) before = r;
    return r ? sl_request_unlink(q, before) : NULL;
}

/* ---- groups ---- */

typedef struct {
    sl_request *request;
    uint64_t hash;    /* of the prompt's first page */
    int place, group; /* in order of arrival: its own, and its group's first */
} grouped;

static int by_hash(const void *a, const void *b) {
    const grouped *x = a, *y = b;
    if (x->hash != y->hash) return x->hash < y->hash ? -1 : 1;
    return x->place - y->place;
}

static int by_prompt(const void *a, const void *b) {
    const grouped *x = a, *y = b;
    if (x->group != y->group) return x->group - y->group;
    const sl_engine_request *p = &x->request->ask, *q = &y->request->ask;
    for (int i = 0; i < p->n_prompt && i < q->n_prompt; i++)
        if (p->prompt[i] != q->prompt[i]) return p->prompt[i] < q->prompt[i] ? -1 : 1;
    if (p->n_prompt != q->n_prompt) return p->n_prompt - q->n_prompt;
    return x->place - y->place;
}

void sl_request_append_grouped(sl_request_queue *q, sl_request_queue *from) {
    grouped *all = from->n > 1 ? calloc((size_t)from->n, sizeof *all) : NULL;
    int n = 0;
    if (!all) { /* no memory to spare: in order of arrival */
        for (sl_request *r; (r = sl_request_pop(from));) sl_request_push(q, r);
        return;
    }
    for (sl_request *r; (r = sl_request_pop(from)); n++) {
        const size_t page =
            (size_t)(r->ask.n_prompt < SL_PAGE_TOKENS ? r->ask.n_prompt : SL_PAGE_TOKENS);
        all[n] = (grouped){r, sl_hash(0, r->prompt, page * sizeof *r->prompt), n, n};
    }
    qsort(all, (size_t)n, sizeof all[0], by_hash);
    for (int i = 1; i < n; i++)
        if (all[i].hash == all[i - 1].hash) all[i].group = all[i - 1].group;
    qsort(all, (size_t)n, sizeof all[0], by_prompt);
    for (int i = 0; i < n; i++) sl_request_push(q, all[i].request);
    free(all);
}
