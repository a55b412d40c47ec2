/* trace_file.h - a file in the Chrome trace format, which Perfetto and chrome://tracing show.
 *
 * {"traceEvents": [...], "displayTimeUnit": "ms", "otherData": {...}}: a process is a rank, a
 * thread one of its queues, an event a span.  Events are written as they come, never held in
 * memory. A failed write is remembered; closing tells of it. Layer: job.  May include: base,
 * engine.  Thread safety: one owner. Source: "Trace Event Format", the JSON object format.
 */
#ifndef SL_JOB_TRACE_FILE_H
#define SL_JOB_TRACE_FILE_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "engine/span.h"

typedef struct sl_trace_file sl_trace_file;

/* Creates or empties the file.  Errors: SL_ERR_IO naming the path, SL_ERR_NOMEM. */
sl_status sl_trace_file_open(const char *path, sl_trace_file **out);

/* Names a rank and its queues.
 *   queues     bit q: queue q has spans
 *   n_dropped  spans of the rank that were not kept; told beside its name if there are any */
void sl_trace_file_rank(sl_trace_file *file, int rank, const char *host, uint32_t queues,
                        uint64_t n_dropped);

/* One span; zero_s is the trace's start on the rank's clock. */
void sl_trace_file_span(sl_trace_file *file, int rank, double zero_s, const sl_span *span);

/* Writes the end (with the sums of spans written and dropped) and closes the file.  NULL is
 * allowed. Errors: SL_ERR_IO naming the path and the system's reason, SL_ERR_NOMEM. */
sl_status sl_trace_file_close(sl_trace_file *file);

#endif
