/* metrics.h - a service's counters, and their text in the form that Prometheus reads.
 *
 * The names are those that vLLM made common, under the prefix "sluice:".
 * Layer: job.  May include: base, engine.  Thread safety: plain data, one owner.
 * Source: Prometheus text exposition format 0.0.4.
 */
#ifndef SL_JOB_METRICS_H
#define SL_JOB_METRICS_H

#include <stdint.h>

#include "engine/engine.h"
#include "job/json_text.h"

enum { SL_METRIC_BUCKETS = 15 };

/* How often a time fell below each bound; bounds in metrics.c. */
typedef struct {
    uint64_t counts[SL_METRIC_BUCKETS + 1]; /* the last: above all bounds */
    double sum_s;
} sl_histogram;

typedef struct {
    int n_running, n_waiting; /* requests in the engine: with a sequence under way, without */
    uint64_t n_prompt_tokens, n_generated_tokens;
    uint64_t n_stopped, n_cut,
        n_aborted;                   /* choices ended by stop and by length; requests given up */
    uint64_t n_refused;              /* requests answered with an error */
    sl_histogram first_token, whole; /* from a request's arrival, seconds */
    sl_engine_stats engine;          /* of the first rank */
} sl_metrics;

void sl_histogram_add(sl_histogram *histogram, double seconds);

/* Appends all of it.  A failed allocation is left in *out. */
void sl_metrics_write(const sl_metrics *metrics, const char *model, sl_json_text *out);

#endif
