#include "job/timeline.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "job/trace_clock.h"

struct sl_timeline {
    sl_transport *transport;
    sl_trace_clock *clock; /* [n_ranks], first rank */
    int is_started;
    double zero_s; /* this rank's clock */
    double busy_until_s[SL_QUEUE_COUNT];
    sl_timeline_rank mine; /* this rank's clock */
};

sl_status sl_timeline_open(sl_transport *transport, sl_timeline **out) {
    const int is_first = sl_transport_is_first(transport);
    sl_timeline *t = calloc(1, sizeof *t);
    if (t && is_first) t->clock = calloc((size_t)transport->n_ranks, sizeof *t->clock);
    if (!t || (is_first && !t->clock)) {
        free(t);
        return SL_FAIL(SL_ERR_NOMEM, "timeline of %d ranks: out of host memory",
                       transport->n_ranks);
    }
    t->transport = transport;
    *out = t;
    return SL_OK;
}

void sl_timeline_close(sl_timeline *t) {
    if (!t) return;
    free(t->clock);
    free(t);
}

sl_status sl_timeline_start(sl_timeline *t) {
    SL_TRY(sl_trace_clock_read(t->transport, t->clock));
    t->zero_s = sl_clock_s();
    sl_bins_begin(&t->mine.axis, t->zero_s);
    for (int q = 0; q < SL_QUEUE_COUNT; q++) t->busy_until_s[q] = t->zero_s;
    t->is_started = 1;
    return SL_OK;
}

double sl_timeline_zero_s(const sl_timeline *t) {
    return t->zero_s;
}

/* ---- collecting ---- */

static void keep_span(sl_timeline_rank *r, const sl_span *span) {
    if (r->n_spans == SL_TIMELINE_SPANS) return;
    sl_timeline_span *k = &r->span[r->n_spans++];
    *k = (sl_timeline_span){.start_s = span->start_s,
                            .end_s = span->end_s,
                            .queue = (int32_t)span->queue,
                            .layer = span->layer,
                            .micro_batch = span->micro_batch};
    strncpy(k->name, span->name, sizeof k->name - 1);
}

void sl_timeline_add(void *timeline, const sl_span *span) {
    sl_timeline *t = timeline;
    sl_timeline_rank *r = &t->mine;
    if (!t->is_started || span->start_s < t->zero_s || span->end_s < span->start_s) return;
    const int n_times = sl_bins_reach(&r->axis, span->end_s);
    if (n_times) {
        for (int q = 0; q < SL_QUEUE_COUNT; q++) sl_bins_fold(r->busy_s[q], n_times);
        r->n_spans = 0; /* the run is twice as long by now: look at a later moment */
    }
    keep_span(r, span);
    /* Transfers that run beside each other count once. */
    double *until_s = &t->busy_until_s[span->queue];
    const double from_s = span->start_s > *until_s ? span->start_s : *until_s;
    if (span->end_s <= *until_s) return;
    sl_bins_spread(&r->axis, from_s, span->end_s, span->end_s - from_s, r->busy_s[span->queue]);
    *until_s = span->end_s;
}

/* ---- at the end ---- */

static void move_clock(sl_timeline_rank *r, double by_s) {
    r->axis.start_s += by_s;
    r->axis.end_s += by_s;
    for (int i = 0; i < r->n_spans; i++) {
        r->span[i].start_s += by_s;
        r->span[i].end_s += by_s;
    }
}

sl_status sl_timeline_gather(sl_timeline *t, sl_timeline_rank **out) {
    sl_transport *wire = t->transport;
    const int is_first = sl_transport_is_first(wire);
    sl_timeline_rank *all = is_first ? calloc((size_t)wire->n_ranks, sizeof *all) : NULL;
    sl_status st = t->is_started ? SL_OK : SL_FAIL(SL_ERR_ARG, "the timeline was never started");
    if (st == SL_OK && is_first && !all)
        st = SL_FAIL(SL_ERR_NOMEM, "timeline of %d ranks: out of host memory", wire->n_ranks);
    st = wire->ops->agree(wire, st);
    if (st == SL_OK) st = wire->ops->gather(wire, &t->mine, sizeof t->mine, all);
    if (st != SL_OK) {
        free(all);
        return st;
    }
    for (int r = 0; is_first && r < wire->n_ranks; r++)
        move_clock(&all[r], -t->zero_s - sl_trace_clock_ahead_s(&t->clock[0], &t->clock[r]));
    *out = all;
    return SL_OK;
}
