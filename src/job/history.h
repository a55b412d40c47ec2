/* history.h - what a job did when: tokens and requests over the time that it took.
 *
 * Layer: job.  May include: nothing.  Thread safety: plain data, one owner.
 */
#ifndef SL_JOB_HISTORY_H
#define SL_JOB_HISTORY_H

#include "job/bins.h"

typedef enum {
    SL_HISTORY_PREFILL,  /* prompt tokens computed */
    SL_HISTORY_DECODE,   /* generated tokens computed */
    SL_HISTORY_ADMITTED, /* prompt tokens of sequences that began */
    SL_HISTORY_SHARED,   /* of those, computed before */
    SL_HISTORY_REQUESTS, /* answered, with an error too */
    SL_HISTORY_COUNT
} sl_history_series;

/* All zero at first. */
typedef struct {
    sl_bin_axis axis;
    double sum[SL_HISTORY_COUNT][SL_BINS];
} sl_history;

/* "prefill_tokens", "decode_tokens", "admitted_tokens", "shared_tokens", "requests". */
const char *sl_history_name(sl_history_series series);

/* What happened from start_s to end_s, amount[series] of each. */
void sl_history_add(sl_history *history, double start_s, double end_s,
                    const double amount[SL_HISTORY_COUNT]);

/* Amount per second in bin b. */
double sl_history_rate(const sl_history *history, sl_history_series series, int b);

#endif
