/* golden_mix.h - the requests of a golden test: golden prompts, alone or among strangers.
 *
 * Strangers are random prompts of other lengths, sampled at temperature 1, with several choices,
 * cut short or scored only: whatever they do must not show in the golden ones.
 */
#ifndef SL_TESTS_GOLDEN_MIX_H
#define SL_TESTS_GOLDEN_MIX_H

#include "support/golden.h"

enum { GOLDEN_MIX_MAX = 64, GOLDEN_MIX_MAX_PROMPT = 80 };

typedef struct {
    int n;
    sl_engine_request requests[GOLDEN_MIX_MAX];
    const golden_case *golden[GOLDEN_MIX_MAX]; /* NULL for strangers */
    int32_t prompts[GOLDEN_MIX_MAX][GOLDEN_MIX_MAX_PROMPT];
} golden_mix;

/* The set's first cases, each followed by a stranger if `with_strangers`.  vocab bounds their ids.
 * Borrows the set. */
void golden_mix_make(const golden_set *set, int with_strangers, int vocab, golden_mix *out);

/* Differences of all golden results; results: [mix->n]. */
int golden_mix_compare(const golden_mix *mix, const run_result *results, double tolerance,
                       const char *label);

#endif
