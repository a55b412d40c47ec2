/* progress.h - how far a job is: one line on a terminal, a plain line now and then elsewhere.
 *
 * Layer: job.  May include: base.  Thread safety: one owner.
 */
#ifndef SL_JOB_PROGRESS_H
#define SL_JOB_PROGRESS_H

#include <stdint.h>
#include <stdio.h>

typedef struct {
    FILE *stream;      /* NULL: silent; borrowed */
    int is_terminal;   /* 1: the line is rewritten in place */
    int64_t total;     /* requests, -1: unknown */
    uint64_t n_before; /* of them, answered by an earlier run; 0 after init */
    double start_s, last_s;
    uint64_t last_tokens;
    int line_open; /* the terminal's cursor is behind our line */
} sl_progress;

/* Starts the clock.  `stream` NULL gives a progress that never writes. */
void sl_progress_init(sl_progress *progress, FILE *stream, int64_t total);

/* Says how far the job is, at most twice a second on a terminal and every ten seconds elsewhere.
 *   n_done    requests answered by this run, refused ones included
 *   n_tokens  generated so far
 *   hits_frac share of prompt tokens that were not computed again, 0 to 1 */
void sl_progress_update(sl_progress *progress, uint64_t n_done, uint64_t n_tokens,
                        double hits_frac);

/* Wipes the terminal's line, so that other text can follow; the next update draws it again. */
void sl_progress_clear(sl_progress *progress);

#endif
