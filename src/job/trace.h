/* trace.h - what every queue of every rank was busy with, and when, for a viewer of traces.
 *
 * Each rank keeps the spans that its engine reports; at the end the first rank writes those of all
 * ranks to one file (job/trace_file.h) on one clock (job/trace_clock.h).
 *     sl_trace_open()    ... the engine is opened with sl_trace_add and the trace ...
 *     sl_trace_start()   when the work begins
 *     sl_trace_write()   when it is over
 * Layer: job.  May include: base, engine.  Thread safety: one thread, the engine's.
 */
#ifndef SL_JOB_TRACE_H
#define SL_JOB_TRACE_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "engine/span.h"
#include "engine/transport.h"

typedef struct sl_trace sl_trace;

/* Spans of all ranks together that are kept: about 400 MB of text, which viewers still open. */
enum { SL_TRACE_MAX_SPANS = 2000000 };

/* Not collective; the caller sees to it that all ranks open one or none.
 *   transport  borrowed until close
 *   max_spans  of all ranks together, each keeps an equal part; 0: SL_TRACE_MAX_SPANS
 * Errors: SL_ERR_NOMEM. */
sl_status sl_trace_open(sl_transport *transport, size_t max_spans, sl_trace **out);
void sl_trace_close(sl_trace *trace); /* NULL is allowed */

/* Collective.  The trace's time begins now, on all ranks.  Errors: SL_ERR_COMM. */
sl_status sl_trace_start(sl_trace *trace);

/* Keeps a copy of a span (a sl_span_callback, `trace` is a sl_trace); its name must be valid until
 * close.  Spans of before sl_trace_start() are not kept.  What exceeds the rank's part, or finds no
 * memory, is dropped and counted, so that the trace is whole from its start up to a moment.  Memory
 * is taken in pieces of 160 KiB, beside the tiers. */
void sl_trace_add(void *trace, const sl_span *span);

/* Of this rank. */
uint64_t sl_trace_n_kept(const sl_trace *trace);
uint64_t sl_trace_n_dropped(const sl_trace *trace);

/* Collective.  Gathers all ranks' spans, a few thousand of each at a time, and writes them on the
 * first rank; other ranks do not look at `path`.  All ranks get the same status.
 * Errors: SL_ERR_ARG (not started), SL_ERR_IO naming the path, SL_ERR_NOMEM, SL_ERR_COMM. */
sl_status sl_trace_write(sl_trace *trace, const char *path);

#endif
