/* placements.h - runs tiny models under many placements of weights, cache and hidden states, and
 * compares their tokens.
 *
 * The same table serves CPU and GPU tests.
 */
#ifndef SL_TESTS_PLACEMENTS_H
#define SL_TESTS_PLACEMENTS_H

#include "engine/engine.h"

enum { PLACEMENT_REQUESTS = 7, PLACEMENT_TOKENS = 12 };

typedef struct {
    const char *name;
    double weights[SL_TIER_COUNT], cache[SL_TIER_COUNT], hidden[SL_TIER_COUNT];
    double host_attends;
    int n_micro_batches, micro_batch;
    float sparsity;
    int no_overlap;
} placement;

/* Every tier alone, every mixture, 1 to 5 micro-batches, host attention 0, half and all, sparse at
 * 1.0, without overlap. */
extern const placement placements[];
extern const int n_placements;

/* Weights and cache: f16 and f16, q8 and q8, q4 and q4, q4 and f16. */
extern const sl_dtype placement_precisions[][2];
enum { N_PLACEMENT_PRECISIONS = 4 };

typedef struct {
    sl_choice token[PLACEMENT_REQUESTS][PLACEMENT_TOKENS];
    sl_engine_stats stats;
} placement_outcome;

/* How a test gets what computes; closed by the run. */
typedef struct {
    sl_status (*open)(sl_backend **backend_out, sl_host_attention **host_out);
    int common;     /* 1: prompts that begin in the same way, instead of distinct ones */
    int no_sharing; /* 1: computed for each of them */
} placement_parts;

/* Everything in the computing tier, with these precisions. */
placement placement_all_in_one(int on_device);

/* Runs ragged prompts; checks that the steady state allocated nothing, that all pages
 * came back and that no tier exceeded its budget.  has_device 0: the gpu's shares go to the cpu.
 * Errors: the engine's, or SL_ERR_ARG naming what does not hold. */
sl_status placement_run(const char *model, const placement *p, sl_dtype weights, sl_dtype cache,
                        const char *disk_dir, const placement_parts *parts, int has_device,
                        placement_outcome *out);

/* How far outcomes that should be equal lie apart. */
typedef struct {
    float largest;   /* difference of log-probabilities of equal tokens */
    float margin;    /* of the best two, where another token was chosen */
    double sum;      /* of those differences */
    int n, n_turned; /* tokens compared; requests in which another token was chosen */
} placement_drift;

/* The largest difference of log-probabilities that rounding makes where activations are f16: their
 * 11 bits, on logits of the order of 10.  Where keys and values are packed, a difference in the
 * last bit of one can move its code by one: a 15th of its group's range at 4 bits, which in models
 * as small as these reaches far.  test_rounding shows what rounding alone does. */
float placement_tolerance(sl_dtype cache);

/* Compares token by token, each request up to the first token that differs.  Log-probabilities of
 * equal tokens must agree within `tolerance`, and within a third of it on average, and tokens may
 * differ only where the best two of `expected` were within twice of it.
 * Returns the number of tokens compared; -1, said on stderr, where that does not hold.
 * drift: takes up what was seen. */
int placement_compare(const char *what, const placement_outcome *found,
                      const placement_outcome *expected, float tolerance, placement_drift *drift);

/* "mean 0.01, largest 0.1, 2 turned at margins up to 0.05", for a report. */
const char *placement_drift_text(const placement_drift *drift, char *text, size_t size);

/* Whether two outcomes are the same to the bit. */
int placement_same(const placement_outcome *a, const placement_outcome *b);

#endif
