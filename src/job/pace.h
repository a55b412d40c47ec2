/* pace.h - how fast an engine goes: wall time and rows, split into prefill and decode.
 *
 * A turn of the engine counts as prefill when it computed any prompt row and as decode otherwise,
 * so the two times add up to the time spent in the engine, as the first rank sees it. Layer: job.
 * May include: base, engine.  Thread safety: one owner.
 */
#ifndef SL_JOB_PACE_H
#define SL_JOB_PACE_H

#include <stdint.h>

#include "engine/engine.h"
#include "job/history.h"

typedef struct {
    double prefill_s, decode_s;
    uint64_t n_prefill_rows;     /* prompt tokens computed */
    uint64_t n_decode_rows;      /* generated tokens computed, in turns of either kind */
    uint64_t n_pure_decode_rows; /* of those, in decode turns */
    /* Prompt tokens of sequences that have begun, and those that others had computed. */
    uint64_t n_admitted_tokens, n_shared_tokens;
    uint64_t n_requests; /* answered, as far as sl_pace_answered() was told */
    sl_history history;
} sl_pace;

/* sl_engine_step(), counted. */
sl_status sl_pace_step(sl_pace *pace, sl_engine *engine, int *done_out);

/* So many requests are answered by now, with an error or without. */
void sl_pace_answered(sl_pace *pace, uint64_t n_requests);

/* Tokens per second; 0 where there was no such turn. */
double sl_pace_prefill_tps(const sl_pace *pace);
double sl_pace_decode_tps(const sl_pace *pace);

/* Share of the prompts' tokens that were not computed again, 0 to 1. */
double sl_pace_hits_frac(const sl_pace *pace);

#endif
