/* timeline.h - how busy every queue of every rank was over the time of a run, for the report.
 *
 * Each rank sums the busy time of its queues over pieces of time (job/bins.h), and keeps the spans
 * of a moment in the run's later half one by one, to be looked at closely.  The memory is fixed;
 * the whole of a run, span by span, is what job/trace.h is for.
 *     sl_timeline_open()    ... the engine is opened with sl_timeline_add and the timeline ...
 *     sl_timeline_start()   when the work begins
 *     sl_timeline_gather()  when it is over
 * Layer: job.  May include: base, engine.  Thread safety: one thread, the engine's.
 */
#ifndef SL_JOB_TIMELINE_H
#define SL_JOB_TIMELINE_H

#include <stdint.h>

#include "base/status.h"
#include "engine/span.h"
#include "engine/transport.h"
#include "job/bins.h"

enum { SL_TIMELINE_SPANS = 512, SL_TIMELINE_NAME_BYTES = 20 };

/* A span of the moment that is kept. */
typedef struct {
    double start_s, end_s;
    int32_t queue, layer, micro_batch;
    char name[SL_TIMELINE_NAME_BYTES]; /* cut where it is longer */
} sl_timeline_span;

/* One rank's; plain data, as it is sent. */
typedef struct {
    sl_bin_axis axis; /* clock of the first rank, 0 is where its timeline was started */
    double busy_s[SL_QUEUE_COUNT][SL_BINS];
    int32_t n_spans;
    sl_timeline_span span[SL_TIMELINE_SPANS]; /* same clock */
} sl_timeline_rank;

typedef struct sl_timeline sl_timeline;

/* Not collective; all ranks open one or none.  transport is borrowed until close.
 * Errors: SL_ERR_NOMEM. */
sl_status sl_timeline_open(sl_transport *transport, sl_timeline **out);
void sl_timeline_close(sl_timeline *timeline); /* NULL is allowed */

/* Collective.  Time begins now, on all ranks.  Errors: SL_ERR_COMM. */
sl_status sl_timeline_start(sl_timeline *timeline);

/* First rank: where the time begins on its clock. */
double sl_timeline_zero_s(const sl_timeline *timeline);

/* Takes a span in (a sl_span_callback, `timeline` is a sl_timeline); those from before the start
 * are left out. */
void sl_timeline_add(void *timeline, const sl_span *span);

/* Collective.  On the first rank *out is [n_ranks], the caller's to free; elsewhere NULL.
 * Errors: SL_ERR_ARG (not started), SL_ERR_NOMEM, SL_ERR_COMM. */
sl_status sl_timeline_gather(sl_timeline *timeline, sl_timeline_rank **out);

#endif
