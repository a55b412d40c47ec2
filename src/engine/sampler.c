#include "engine/sampler.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "base/bytes.h"
#include "base/rng.h"

/* The scratch of a row: the adjusted logits, and token ids or counts. */
typedef struct {
    float *adjusted; /* [vocab] */
    int32_t *work;   /* [vocab] */
} scratch_parts;

size_t sl_sampler_scratch_bytes(int vocab) {
    return vocab > 0 ? (size_t)vocab * (sizeof(float) + sizeof(int32_t)) : 0;
}

static scratch_parts split_scratch(void *scratch, int vocab) {
    scratch_parts p;
    p.adjusted = scratch;
    p.work = (int32_t *)(p.adjusted + vocab);
    return p;
}

/* ---- arguments ---- */

static sl_status check_tokens(const char *what, const int32_t *tokens, int n, int vocab) {
    for (int i = 0; i < n; i++)
        if (tokens[i] < 0 || tokens[i] >= vocab)
            return SL_FAIL(SL_ERR_ARG, "sampler: %s token %d is id %d, the vocabulary has %d", what,
                           i, (int)tokens[i], vocab);
    return SL_OK;
}

static sl_status check_filters(const sl_sampling *s) {
    if (!(s->temperature >= 0.0f) || !isfinite(s->temperature))
        return SL_FAIL(SL_ERR_ARG, "sampler: temperature %g, expected >= 0", s->temperature);
    if (s->temperature > 0.0f) {
        if (s->top_k < -1)
            return SL_FAIL(SL_ERR_ARG, "sampler: top_k %d, expected >= -1", s->top_k);
        if (!(s->top_p > 0.0f && s->top_p <= 1.0f))
            return SL_FAIL(SL_ERR_ARG, "sampler: top_p %g, expected (0, 1]", s->top_p);
        if (!(s->min_p >= 0.0f && s->min_p <= 1.0f))
            return SL_FAIL(SL_ERR_ARG, "sampler: min_p %g, expected [0, 1]", s->min_p);
    }
    if (!(s->repetition_penalty > 0.0f) || !isfinite(s->repetition_penalty))
        return SL_FAIL(SL_ERR_ARG, "sampler: repetition_penalty %g, expected > 0",
                       s->repetition_penalty);
    if (!isfinite(s->frequency_penalty) || !isfinite(s->presence_penalty))
        return SL_FAIL(SL_ERR_ARG, "sampler: frequency_penalty %g, presence_penalty %g",
                       s->frequency_penalty, s->presence_penalty);
    return SL_OK;
}

static int counts_output(const sl_sampling *s) {
    return s->frequency_penalty != 0.0f || s->presence_penalty != 0.0f;
}

static int is_penalised(const sl_sampling *s) {
    return s->repetition_penalty != 1.0f || counts_output(s);
}

static sl_status check_choice(const sl_choice_ask *ask, int vocab) {
    const sl_sampling *s = ask->sampling;
    SL_TRY(check_filters(s));
    if (ask->step < 0) return SL_FAIL(SL_ERR_ARG, "sampler: step %d", ask->step);
    if (s->n_ban < 0 || s->n_ban > SL_MAX_STOP_IDS)
        return SL_FAIL(SL_ERR_ARG, "sampler: %d banned ids, at most %d", s->n_ban, SL_MAX_STOP_IDS);
    SL_TRY(check_tokens("banned", s->ban, s->n_ban, vocab));
    for (int i = 0; i < s->n_bias; i++)
        if (s->bias[i].id < 0 || s->bias[i].id >= vocab || !isfinite(s->bias[i].bias))
            return SL_FAIL(SL_ERR_ARG, "sampler: bias %g of id %d, the vocabulary has %d",
                           s->bias[i].bias, (int)s->bias[i].id, vocab);
    if (is_penalised(s)) {
        if (ask->prompt) SL_TRY(check_tokens("prompt", ask->prompt, ask->n_prompt, vocab));
        if (ask->step > 0 && !ask->output)
            return SL_FAIL(SL_ERR_ARG, "sampler: a penalty is on, but the output is not given");
        SL_TRY(check_tokens("output", ask->output, ask->step, vocab));
    }
    return SL_OK;
}

/* ---- log-probabilities ---- */

/* The highest of n numbers, -inf if there is none; NaNs do not count.  In lanes, so that the
 * compiler takes vectors. */
static float highest(const float *x, int n) {
    enum { LANES = 16 };
    float lane[LANES];
    int i = 0;
    for (int l = 0; l < LANES; l++) lane[l] = -INFINITY;
    for (; i + LANES <= n; i += LANES)
        for (int l = 0; l < LANES; l++) lane[l] = x[i + l] > lane[l] ? x[i + l] : lane[l];
    for (; i < n; i++) lane[0] = x[i] > lane[0] ? x[i] : lane[0];
    for (int l = 1; l < LANES; l++) lane[0] = lane[l] > lane[0] ? lane[l] : lane[0];
    return lane[0];
}

/* Largest logit.  NaN and +inf make every probability meaningless; a row without a finite logit
 * has none. */
static sl_status find_max(const float *logits, int vocab, float *max_out) {
    int n_bad = 0;
    for (int i = 0; i < vocab; i++) n_bad += !(logits[i] <= FLT_MAX);
    for (int i = 0; n_bad > 0 && i < vocab; i++)
        if (!(logits[i] <= FLT_MAX))
            return SL_FAIL(SL_ERR_DEVICE,
                           "the logit of token %d is %f: the model's output is broken", i,
                           logits[i]);
    const float max = highest(logits, vocab);
    if (max == -INFINITY)
        return SL_FAIL(SL_ERR_DEVICE, "all %d logits are -inf: the model's output is broken",
                       vocab);
    *max_out = max;
    return SL_OK;
}

/* log(sum_i exp(logits[i])), accumulated in double. */
static double log_sum_exp(const float *logits, int vocab, float max) {
    double sum = 0.0;
    for (int i = 0; i < vocab; i++) sum += exp((double)logits[i] - max);
    return max + log(sum);
}

/* The one place where a log-probability is rounded: evaluation harnesses compare the chosen
 * token's with the maximum of the alternatives by equality. */
static float logprob_of(const float *logits, int32_t id, double lse) {
    return (float)(logits[id] - lse);
}

/* The n highest logits into top[], highest first, ties by lower id.  Returns how many (<= n). */
static int select_top(const float *logits, int vocab, int n, double lse, sl_logprob *top) {
    int32_t ids[SL_MAX_LOGPROBS];
    int n_top = 0;
    for (int i = 0; n > 0 && i < vocab; i++) {
        if (n_top == n && !(logits[i] > logits[ids[n - 1]])) continue;
        int at = n_top < n ? n_top++ : n - 1;
        for (; at > 0 && logits[i] > logits[ids[at - 1]]; at--) ids[at] = ids[at - 1];
        ids[at] = i;
    }
    for (int i = 0; i < n_top; i++) top[i] = (sl_logprob){ids[i], logprob_of(logits, ids[i], lse)};
    return n_top;
}

/* ---- penalties, bias, bans ---- */

/* Keeps a sum or quotient that overflowed comparable with the others. */
static float clamp_high(float x) {
    return x > FLT_MAX ? FLT_MAX : x;
}

static void penalise_token(float *logits, int32_t id, int32_t *count, const sl_sampling *s) {
    if (count[id] < 0) return; /* done already */
    float x = logits[id];
    x = x > 0.0f ? x / s->repetition_penalty : x * s->repetition_penalty;
    x -= s->frequency_penalty * (float)count[id];
    if (count[id] > 0) x -= s->presence_penalty;
    logits[id] = clamp_high(x);
    count[id] = -1;
}

/* Repetition: each distinct token of prompt and output once.  Frequency and presence: by the count
 * in the output. */
static void penalise(float *logits, const sl_choice_ask *ask, int32_t *count) {
    const int n_prompt = ask->prompt ? ask->n_prompt : 0;
    /* Only the entries that are looked at below need a value. */
    for (int i = 0; i < n_prompt; i++) count[ask->prompt[i]] = 0;
    for (int i = 0; i < ask->step; i++) count[ask->output[i]] = 0;
    for (int i = 0; i < ask->step; i++) count[ask->output[i]]++;
    for (int i = 0; i < n_prompt; i++) penalise_token(logits, ask->prompt[i], count, ask->sampling);
    for (int i = 0; i < ask->step; i++)
        penalise_token(logits, ask->output[i], count, ask->sampling);
}

/* The logits that the choice is made from: `raw` itself, or a changed copy in scratch. */
static const float *adjust(const float *raw, int vocab, const sl_choice_ask *ask,
                           const scratch_parts *scratch) {
    const sl_sampling *s = ask->sampling;
    const int n_ban = ask->step < s->min_tokens ? s->n_ban : 0;
    if (!is_penalised(s) && s->n_bias == 0 && n_ban == 0) return raw;

    float *x = scratch->adjusted;
    memcpy(x, raw, (size_t)vocab * sizeof *x);
    if (is_penalised(s)) penalise(x, ask, scratch->work);
    for (int i = 0; i < s->n_bias; i++)
        x[s->bias[i].id] = clamp_high(x[s->bias[i].id] + s->bias[i].bias);
    for (int i = 0; i < n_ban; i++) x[s->ban[i]] = -INFINITY;
    return x;
}

/* ---- the choice ---- */

/* The highest logit, the lowest id among equals; -1 if all are -inf. */
static int32_t choose_greedy(const float *logits, int vocab) {
    const float max = highest(logits, vocab);
    if (max == -INFINITY) return -1;
    int32_t best = 0;
    while (logits[best] != max) best++;
    return best;
}

/* Order of all filters: higher logit first, ties by lower id. */
static int comes_before(const float *logits, int32_t a, int32_t b) {
    return logits[a] > logits[b] || (logits[a] == logits[b] && a < b);
}

static void sift_down(const float *logits, int32_t *heap, int n, int at) {
    const int32_t id = heap[at];
    for (int child; (child = 2 * at + 1) < n; at = child) {
        if (child + 1 < n && comes_before(logits, heap[child + 1], heap[child])) child++;
        if (!comes_before(logits, heap[child], id)) break;
        heap[at] = heap[child];
    }
    heap[at] = id;
}

/* Moves the first id of heap[0..n) to heap[n - 1] and returns it. */
static int32_t pop_first(const float *logits, int32_t *heap, int n) {
    const int32_t id = heap[0];
    heap[0] = heap[n - 1];
    sift_down(logits, heap, n - 1, 0);
    heap[n - 1] = id;
    return id;
}

/* Probability relative to the most likely token's. */
static double weight_of(float logit, float max, float temperature) {
    return exp(((double)logit - max) / temperature);
}

/* The last token, in the order of comes_before, that top_k, then top_p, then min_p let through.
 *   heap  scratch, [vocab] */
static int32_t find_cut(const float *logits, int vocab, const sl_sampling *s, float max,
                        int32_t *heap) {
    int n = 0;
    for (int i = 0; i < vocab; i++)
        if (logits[i] > -INFINITY) heap[n++] = i;
    for (int i = n / 2; i-- > 0;) sift_down(logits, heap, n, i);

    /* top_p is a share of what top_k left, so that must be summed first. */
    const int n_kept = s->top_k > 0 && s->top_k < n ? s->top_k : n;
    double total = 0.0;
    int n_popped = 0;
    if (n_kept < n) {
        for (; n_popped < n_kept; n_popped++)
            total += weight_of(logits[pop_first(logits, heap, n - n_popped)], max, s->temperature);
    } else if (s->top_p < 1.0f) {
        for (int i = 0; i < vocab; i++) total += weight_of(logits[i], max, s->temperature);
    }

    int32_t cut = -1;
    double sum = 0.0;
    for (int i = 0; i < n_kept; i++) {
        const int32_t id =
            i < n_popped ? heap[n - 1 - i] : pop_first(logits, heap, n - i); /* i-th in order */
        const double w = weight_of(logits[id], max, s->temperature);
        if (i > 0 && (w < s->min_p || (s->top_p < 1.0f && sum >= s->top_p * total))) break;
        sum += w;
        cut = id;
    }
    return cut;
}

static int passes(const float *logits, int32_t id, int32_t cut) {
    return cut < 0 || id == cut || comes_before(logits, id, cut);
}

/* Draws from the tokens that pass the filters, inverting their cumulative distribution in the
 * order of ids. */
static int32_t choose_random(const float *logits, int vocab, const sl_choice_ask *ask,
                             int32_t *heap) {
    const sl_sampling *s = ask->sampling;
    const int32_t best = choose_greedy(logits, vocab);
    if (best < 0) return -1;
    const float max = logits[best];
    const int filtered = s->top_k > 0 || s->top_p < 1.0f || s->min_p > 0.0f;
    const int32_t cut = filtered ? find_cut(logits, vocab, s, max, heap) : -1;

    double total = 0.0;
    for (int i = 0; i < vocab; i++)
        if (passes(logits, i, cut)) total += weight_of(logits[i], max, s->temperature);
    const double goal = sl_rng_unit(sl_rng_at(s->key, (uint64_t)ask->step)) * total;

    double sum = 0.0;
    int32_t last = best; /* the product above may round up to the total itself */
    for (int i = 0; i < vocab; i++) {
        if (!passes(logits, i, cut)) continue;
        const double w = weight_of(logits[i], max, s->temperature);
        if (w == 0.0) continue;
        sum += w;
        last = i;
        if (sum > goal) break;
    }
    return last;
}

sl_status sl_sampler_check(const sl_choice_ask *ask, int vocab) {
    if (vocab < 1) return SL_FAIL(SL_ERR_ARG, "sampler: a vocabulary of %d", vocab);
    if (ask->target >= vocab)
        return SL_FAIL(SL_ERR_ARG, "sampler: target id %d, the vocabulary has %d", (int)ask->target,
                       vocab);
    if (ask->sampling->n_logprobs > SL_MAX_LOGPROBS)
        return SL_FAIL(SL_ERR_ARG, "sampler: %d log-probabilities, at most %d",
                       ask->sampling->n_logprobs, SL_MAX_LOGPROBS);
    return ask->target >= 0 ? SL_OK : check_choice(ask, vocab);
}

sl_status sl_sampler_choose(float *logits, int vocab, const sl_choice_ask *ask, void *scratch,
                            sl_choice *out) {
    SL_TRY(sl_sampler_check(ask, vocab));
    const sl_sampling *s = ask->sampling;
    const int scores = ask->target >= 0;

    float max = 0.0f;
    SL_TRY(find_max(logits, vocab, &max));

    sl_choice choice = {.id = ask->target};
    if (!scores) {
        const scratch_parts parts = split_scratch(scratch, vocab);
        const float *adjusted = adjust(logits, vocab, ask, &parts);
        choice.id = s->temperature > 0.0f ? choose_random(adjusted, vocab, ask, parts.work)
                                          : choose_greedy(adjusted, vocab);
        if (choice.id < 0)
            return SL_FAIL(SL_ERR_ARG, "sampler: the %d banned ids leave none of %d tokens",
                           s->n_ban, vocab);
    }
    if (scores || s->n_logprobs >= 0) {
        const double lse = log_sum_exp(logits, vocab, max);
        choice.logprob = logprob_of(logits, choice.id, lse);
        choice.n_top = select_top(logits, vocab, s->n_logprobs, lse, choice.top);
    }
    *out = choice;
    return SL_OK;
}
