#include "tickets.h"

#include <stdlib.h>

#include "base/bytes.h"

void sl_tickets_init(sl_tickets *t) {
    *t = (sl_tickets){.first_free = -1};
}

void sl_tickets_free(sl_tickets *t) {
    for (int i = 0; i < t->n; i++) {
        if (t->place[i]->requests != &t->place[i]->one) free(t->place[i]->requests);
        free(t->place[i]);
    }
    free(t->place);
    sl_tickets_init(t);
}

/* Adds one place and makes it the first free one. */
static sl_status grow(sl_tickets *t) {
    sl_transfer **place = realloc(t->place, ((size_t)t->n + 1) * sizeof(sl_transfer *));
    if (!place) return SL_FAIL(SL_ERR_NOMEM, "transfer %d: out of host memory", t->n + 1);
    t->place = place;
    sl_transfer *x = calloc(1, sizeof *x);
    if (!x) return SL_FAIL(SL_ERR_NOMEM, "transfer %d: out of host memory", t->n + 1);
    x->generation = 1;
    x->requests = &x->one;
    x->next_free = t->first_free;
    t->first_free = t->n;
    t->place[t->n++] = x;
    return SL_OK;
}

sl_status sl_tickets_get(sl_tickets *t, int n_requests, sl_ticket *ticket_out, sl_transfer **out) {
    if (t->first_free < 0) SL_TRY(grow(t));
    const int index = t->first_free;
    sl_transfer *x = t->place[index];
    MPI_Request *requests = &x->one;
    if (n_requests > 1) {
        size_t bytes;
        SL_TRY(sl_size_mul((size_t)n_requests, sizeof(MPI_Request), &bytes));
        requests = malloc(bytes);
        if (!requests)
            return SL_FAIL(SL_ERR_NOMEM, "message of %d pieces: out of host memory", n_requests);
    }
    for (int i = 0; i < n_requests; i++) requests[i] = MPI_REQUEST_NULL;
    t->first_free = x->next_free;
    *x = (sl_transfer){.n_requests = n_requests,
                       .requests = requests,
                       .one = MPI_REQUEST_NULL,
                       .generation = x->generation,
                       .is_open = 1,
                       .next_free = -1};
    *ticket_out = (uint64_t)x->generation << 32 | (uint32_t)(index + 1);
    *out = x;
    return SL_OK;
}

sl_transfer *sl_tickets_find(const sl_tickets *t, sl_ticket ticket) {
    const uint32_t number = (uint32_t)ticket;
    if (number < 1 || number > (uint32_t)t->n) return NULL;
    sl_transfer *x = t->place[number - 1];
    return x->is_open && x->generation == (uint32_t)(ticket >> 32) ? x : NULL;
}

void sl_tickets_put(sl_tickets *t, sl_ticket ticket) {
    sl_transfer *x = sl_tickets_find(t, ticket);
    if (!x) return;
    if (x->requests != &x->one) free(x->requests);
    x->requests = &x->one;
    x->is_open = 0;
    x->generation++;
    x->next_free = t->first_free;
    t->first_free = (int)(uint32_t)ticket - 1;
}
