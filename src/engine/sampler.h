/* sampler.h - from logits to a token and its log-probabilities: the reference in plain C.
 *
 * Every decision depends on the row's logits, its parameters and (key, step) alone, never on what
 * else is in the batch.
 * Layer: engine.  May include: base.  Thread safety: pure functions with caller's scratch.
 */
#ifndef SL_ENGINE_SAMPLER_H
#define SL_ENGINE_SAMPLER_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum {
    SL_MAX_LOGPROBS = 20, /* top alternatives per token, as in the completions API of vLLM */
    SL_MAX_STOP_IDS = 16,
};

typedef struct {
    int32_t id;
    float bias;
} sl_logit_bias;

/* Sampling parameters of one sequence.  Zero temperature is greedy. */
typedef struct {
    float temperature;        /* >= 0 */
    int top_k;                /* 0 or -1: off */
    float top_p;              /* (0, 1]; 1: off */
    float min_p;              /* [0, 1]; 0: off */
    float repetition_penalty; /* > 0; 1: off; over prompt and output, as in HF */
    float frequency_penalty;  /* [-2, 2]; over output */
    float presence_penalty;   /* [-2, 2]; over output */
    uint64_t key;             /* random key of this sequence (seed, request, choice) */
    int min_tokens;           /* ban[] stays banned until that many tokens are out */
    int n_ban;
    int32_t ban[SL_MAX_STOP_IDS]; /* end-of-sequence and stop ids, banned before min_tokens */
    int n_bias;
    const sl_logit_bias *bias; /* [n_bias], added to the logits; borrowed */
    int n_logprobs;            /* -1: no log-probabilities at all; else 0 .. SL_MAX_LOGPROBS */
} sl_sampling;

/* What is asked of one row. */
typedef struct {
    const sl_sampling *sampling;
    int32_t target;        /* >= 0: score this token instead of choosing one (prompt rows) */
    int step;              /* tokens generated so far in this sequence: the random counter */
    const int32_t *prompt; /* [n_prompt] tokens for the repetition penalty; may be NULL */
    int n_prompt;
    const int32_t *output; /* [step] tokens generated so far; may be NULL if no penalty is on */
} sl_choice_ask;

typedef struct {
    int32_t id;
    float logprob; /* natural log, of softmax over the raw logits (no temperature, no penalties) */
} sl_logprob;

typedef struct {
    int32_t id;    /* chosen token, or the target */
    float logprob; /* of `id`; the same number as in top[] where it is among them; 0 when n_logprobs
                    * is -1 and nothing is scored */
    int n_top;
    sl_logprob top[SL_MAX_LOGPROBS]; /* highest first, ties by lower id */
} sl_choice;

/* Whether logits are to be adjusted before the choice, by biases or by the tokens so far. */
static inline int sl_choice_is_adjusted(const sl_choice_ask *ask) {
    const sl_sampling *s = ask->sampling;
    return ask->target < 0 && (s->repetition_penalty != 1.0f || s->frequency_penalty != 0.0f ||
                               s->presence_penalty != 0.0f || s->n_bias != 0);
}

/* Checks what is asked of a row against its vocabulary, as sl_sampler_choose() does first.
 * Errors: SL_ERR_ARG naming the parameter. */
sl_status sl_sampler_check(const sl_choice_ask *ask, int vocab);

/* Bytes of scratch that sl_sampler_choose() needs for one row. */
size_t sl_sampler_scratch_bytes(int vocab);

/* Chooses or scores one row.
 *   logits   host, float32, [vocab]; overwritten
 *   scratch  sl_sampler_scratch_bytes(vocab), aligned for float, any content
 * The choice is made after penalties, bias, bans, temperature, top_k, top_p, min_p, in this order;
 * each filter keeps the first tokens by (logit, lower id), at least one.  top_p is a share of what
 * top_k left.  The random number sl_rng_at(key, step) inverts the cumulative distribution of what
 * is left in the order of ids.  Greedy takes the lowest id among equals.  Log-probabilities come
 * from the logits before bias, penalties and temperature, and need no choice to be among top[].
 * Errors: SL_ERR_DEVICE (a logit is NaN or +inf, or all are -inf), SL_ERR_ARG (a parameter or id
 * out of range, or all tokens banned). */
sl_status sl_sampler_choose(float *logits, int vocab, const sl_choice_ask *ask, void *scratch,
                            sl_choice *out);

#endif
