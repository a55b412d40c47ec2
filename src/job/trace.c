#include "job/trace.h"

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "job/trace_clock.h"
#include "job/trace_file.h"

enum { CHUNK_SPANS = 4096, MAX_NAMES = 64, NAME_BYTES = 48 };

/* A span as it is kept and sent: a pointer to its name would mean nothing to another rank. */
typedef struct {
    double start_s, end_s; /* this rank's clock */
    uint64_t bytes;
    int32_t layer, micro_batch;
    uint32_t queue, name; /* name: index into the rank's names */
} kept_span;

/* What the first rank has to know of a rank beside its spans. */
typedef struct {
    uint64_t n_spans, n_dropped;
    uint32_t queues; /* bit q: queue q has spans */
    uint32_t n_names;
    char name[MAX_NAMES][NAME_BYTES];
} rank_head;

struct sl_trace {
    sl_transport *transport;
    size_t max_spans;
    size_t n_chunks;
    kept_span **chunk; /* [max_spans / CHUNK_SPANS, rounded up]; the first n_chunks are there */
    const char *seen[MAX_NAMES]; /* where the names of `head` came from, to find them quickly */
    rank_head head;
    int is_started;
    sl_trace_clock *clock; /* [n_ranks], first rank */
};

sl_status sl_trace_open(sl_transport *transport, size_t max_spans, sl_trace **out) {
    sl_status st = SL_OK;
    const size_t n_ranks = (size_t)transport->n_ranks;
    sl_trace *t = calloc(1, sizeof *t);
    if (!t) return SL_FAIL(SL_ERR_NOMEM, "trace: out of host memory");
    t->transport = transport;
    if (max_spans == 0) max_spans = SL_TRACE_MAX_SPANS;
    t->max_spans = max_spans / n_ranks > 0 ? max_spans / n_ranks : 1;
    t->chunk = calloc((t->max_spans - 1) / CHUNK_SPANS + 1, sizeof *t->chunk);
    /* The first chunk is there always: it is also what a rank sends that has no more. */
    kept_span *first = calloc(CHUNK_SPANS, sizeof *first);
    t->clock = transport->rank == 0 ? calloc(n_ranks, sizeof *t->clock) : NULL;
    if (!t->chunk || !first || (transport->rank == 0 && !t->clock)) {
        free(first);
        st = SL_FAIL(SL_ERR_NOMEM, "trace of %zu spans: out of host memory", t->max_spans);
        goto fail;
    }
    t->chunk[t->n_chunks++] = first;
    *out = t;
    return SL_OK;

fail:
    sl_trace_close(t);
    return st;
}

void sl_trace_close(sl_trace *t) {
    if (!t) return;
    for (size_t i = 0; i < t->n_chunks; i++) free(t->chunk[i]);
    free(t->chunk);
    free(t->clock);
    free(t);
}

sl_status sl_trace_start(sl_trace *t) {
    SL_TRY(sl_trace_clock_read(t->transport, t->clock));
    t->is_started = 1;
    return SL_OK;
}

/* ---- collecting ---- */

/* The name's index.  Names are constants: few, and mostly known by their address. */
static uint32_t index_of_name(sl_trace *t, const char *name) {
    rank_head *h = &t->head;
    for (uint32_t i = 0; i < h->n_names; i++)
        if (t->seen[i] == name) return i;
    for (uint32_t i = 0; i < h->n_names; i++)
        if (strncmp(h->name[i], name, NAME_BYTES - 1) == 0) return i;
    if (h->n_names == MAX_NAMES) return MAX_NAMES - 1;
    const uint32_t i = h->n_names++;
    t->seen[i] = name;
    strncpy(h->name[i], i < MAX_NAMES - 1 ? name : "other", NAME_BYTES - 1);
    return i;
}

/* The place of the next span; NULL: there is none. */
static kept_span *next_place(sl_trace *t) {
    const uint64_t n = t->head.n_spans;
    if (n >= t->max_spans || t->head.n_dropped > 0) return NULL;
    if (n / CHUNK_SPANS == t->n_chunks) {
        /* Zeroed: the last one is sent whole. */
        kept_span *chunk = calloc(CHUNK_SPANS, sizeof *chunk);
        if (!chunk) return NULL;
        t->chunk[t->n_chunks++] = chunk;
    }
    return &t->chunk[n / CHUNK_SPANS][n % CHUNK_SPANS];
}

void sl_trace_add(void *trace, const sl_span *span) {
    sl_trace *t = trace;
    if (!t->is_started) return;
    kept_span *place = next_place(t);
    if (!place) {
        t->head.n_dropped++;
        return;
    }
    *place = (kept_span){span->start_s,
                         span->end_s,
                         span->bytes,
                         span->layer,
                         span->micro_batch,
                         (uint32_t)span->queue,
                         index_of_name(t, span->name)};
    t->head.queues |= (uint32_t)1 << span->queue;
    t->head.n_spans++;
}

uint64_t sl_trace_n_kept(const sl_trace *t) {
    return t->head.n_spans;
}
uint64_t sl_trace_n_dropped(const sl_trace *t) {
    return t->head.n_dropped;
}

/* ---- writing ---- */

/* What is gathered, and where it goes; all NULL on other ranks than the first. */
typedef struct {
    rank_head *head;     /* [n_ranks] */
    kept_span *span;     /* [n_ranks, n of a round] */
    sl_trace_file *file; /* NULL on other ranks */
} output;

static sl_status open_output(const sl_trace *t, const char *path, output *out) {
    const size_t n_ranks = (size_t)t->transport->n_ranks;
    out->head = calloc(n_ranks, sizeof *out->head);
    out->span = calloc(n_ranks * CHUNK_SPANS, sizeof *out->span);
    if (!out->head || !out->span)
        return SL_FAIL(SL_ERR_NOMEM, "trace of %zu ranks: out of host memory", n_ranks);
    return sl_trace_file_open(path, &out->file);
}

static sl_status close_output(output *out) {
    const sl_status st = sl_trace_file_close(out->file);
    free(out->head);
    free(out->span);
    *out = (output){0};
    return st;
}

static void write_heads(const sl_trace *t, const output *out) {
    for (int r = 0; r < t->transport->n_ranks; r++)
        sl_trace_file_rank(out->file, r, t->clock[r].host, out->head[r].queues,
                           out->head[r].n_dropped);
}

/* Spans [first, first + n) of every rank, as far as it has them. */
static void write_round(const sl_trace *t, const output *out, uint64_t first, size_t n) {
    const double zero_s = t->clock[0].at_s[SL_TRACE_CLOCK_ROUNDS - 1];
    for (int r = 0; r < t->transport->n_ranks; r++) {
        const rank_head *head = &out->head[r];
        const double ahead_s = sl_trace_clock_ahead_s(&t->clock[0], &t->clock[r]);
        for (size_t i = 0; i < n && first + i < head->n_spans; i++) {
            const kept_span *k = &out->span[(size_t)r * n + i];
            const sl_span span = {head->name[k->name], (sl_queue)k->queue, k->layer,
                                  k->micro_batch,      k->start_s,         k->end_s,
                                  (size_t)k->bytes};
            sl_trace_file_span(out->file, r, zero_s + ahead_s, &span);
        }
    }
}

/* Collective.  Everything goes through the first rank's `out`; only the wire can fail. */
static sl_status gather(sl_trace *t, output *out) {
    sl_transport *wire = t->transport;
    int64_t least = -(int64_t)t->head.n_spans;
    SL_TRY(wire->ops->min_i64(wire, &least, 1));
    const uint64_t most = (uint64_t)-least; /* spans of the rank that has most */
    SL_TRY(wire->ops->gather(wire, &t->head, sizeof t->head, out->head));
    if (out->file) write_heads(t, out);
    for (uint64_t first = 0; first < most; first += CHUNK_SPANS) {
        const size_t n = most - first < CHUNK_SPANS ? (size_t)(most - first) : CHUNK_SPANS;
        const size_t c = (size_t)(first / CHUNK_SPANS);
        const kept_span *mine = t->chunk[c < t->n_chunks ? c : 0];
        SL_TRY(wire->ops->gather(wire, mine, n * sizeof *mine, out->span));
        if (out->file) write_round(t, out, first, n);
    }
    return SL_OK;
}

sl_status sl_trace_write(sl_trace *t, const char *path) {
    sl_transport *wire = t->transport;
    output out = {0};
    sl_status st = t->is_started ? SL_OK : SL_FAIL(SL_ERR_ARG, "the trace was never started");
    if (st == SL_OK && wire->rank == 0) st = open_output(t, path, &out);
    st = wire->ops->agree(wire, st);
    if (st == SL_OK) st = gather(t, &out);
    const sl_status closed = close_output(&out);
    if (st != SL_OK) return st;
    return wire->ops->agree(wire, closed);
}
