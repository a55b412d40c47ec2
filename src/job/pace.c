#include "job/pace.h"

#include "base/clock.h"

sl_status sl_pace_step(sl_pace *pace, sl_engine *engine, int *done_out) {
    sl_engine_stats before, after;
    sl_engine_get_stats(engine, &before);
    const double start_s = sl_clock_s();
    SL_TRY(sl_engine_step(engine, done_out));
    const double end_s = sl_clock_s(), spent_s = end_s - start_s;
    sl_engine_get_stats(engine, &after);

    const uint64_t n_prefill = after.n_prefill_rows - before.n_prefill_rows;
    const uint64_t n_decode = after.n_decode_rows - before.n_decode_rows;
    pace->n_prefill_rows += n_prefill;
    pace->n_decode_rows += n_decode;
    const uint64_t n_admitted = after.n_admitted_tokens - before.n_admitted_tokens;
    const uint64_t n_shared = after.n_shared_tokens - before.n_shared_tokens;
    pace->n_admitted_tokens += n_admitted;
    pace->n_shared_tokens += n_shared;
    const double amount[SL_HISTORY_COUNT] = {(double)n_prefill, (double)n_decode,
                                             (double)n_admitted, (double)n_shared, 0};
    sl_history_add(&pace->history, start_s, end_s, amount);
    /* Blocks are formed ahead of their sweeps: the engine knows what was under way. */
    if (after.prefill_s > before.prefill_s) {
        pace->prefill_s += spent_s;
    } else {
        pace->decode_s += spent_s;
        pace->n_pure_decode_rows += n_decode;
    }
    return SL_OK;
}

void sl_pace_answered(sl_pace *pace, uint64_t n_requests) {
    const double now_s = sl_clock_s();
    const double amount[SL_HISTORY_COUNT] = {[SL_HISTORY_REQUESTS] =
                                                 (double)(n_requests - pace->n_requests)};
    if (n_requests <= pace->n_requests) return;
    pace->n_requests = n_requests;
    sl_history_add(&pace->history, now_s, now_s, amount);
}

double sl_pace_prefill_tps(const sl_pace *pace) {
    return pace->prefill_s > 0 ? (double)pace->n_prefill_rows / pace->prefill_s : 0;
}

double sl_pace_decode_tps(const sl_pace *pace) {
    return pace->decode_s > 0 ? (double)pace->n_pure_decode_rows / pace->decode_s : 0;
}

double sl_pace_hits_frac(const sl_pace *pace) {
    return pace->n_admitted_tokens > 0
               ? (double)pace->n_shared_tokens / (double)pace->n_admitted_tokens
               : 0;
}
