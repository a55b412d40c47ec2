#include "support/placements.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/rng.h"

#define GPU                                                                                        \
    { 1, 0, 0 }
#define CPU                                                                                        \
    { 0, 1, 0 }
#define DISK                                                                                       \
    { 0, 0, 1 }
#define NONE                                                                                       \
    { 0, 0, 0 }

const placement placements[] = {
    /* name, weights, cache, hidden, host, K, micro-batch, sparsity, no overlap */
    {"weights cpu", CPU, GPU, GPU, 0, 1, 2, 0, 0},
    {"weights disk", DISK, GPU, GPU, 0, 2, 2, 0, 0},
    {"weights gpu+cpu", {.2, .8, 0}, GPU, GPU, 0, 3, 2, 0, 0},
    {"weights gpu+disk", {.5, 0, .5}, GPU, GPU, 0, 4, 2, 0, 0},
    {"weights cpu+disk", {0, .5, .5}, GPU, GPU, 0, 5, 2, 0, 0},
    {"weights everywhere", {.3, .3, .4}, GPU, NONE, 0, 2, 3, 0, 0},
    {"cache cpu", GPU, CPU, GPU, 0, 1, 3, 0, 0},
    {"cache cpu, host", GPU, CPU, GPU, 1, 1, 3, 0, 0},
    {"cache cpu, half host", GPU, CPU, GPU, .5, 3, 2, 0, 0},
    {"cache cpu, host, many", GPU, CPU, GPU, 1, 5, 1, 0, 0},
    {"cache disk", GPU, DISK, GPU, 0, 2, 3, 0, 0},
    {"cache disk, host", GPU, DISK, GPU, 1, 3, 2, 0, 0},
    {"cache disk, half host", GPU, DISK, GPU, .5, 2, 4, 0, 0},
    {"cache gpu+cpu", GPU, {.5, .5, 0}, GPU, 0, 4, 2, 0, 0},
    {"cache gpu+cpu, host", GPU, {.5, .5, 0}, GPU, 1, 4, 2, 0, 0},
    {"cache gpu+disk", GPU, {.4, 0, .6}, GPU, 0, 2, 3, 0, 0},
    {"cache cpu+disk, half host", GPU, {0, .5, .5}, GPU, .5, 2, 4, 0, 0},
    {"cache everywhere, half host", GPU, {.3, .3, .4}, GPU, .5, 2, 3, 0, 0},
    {"hidden cpu", GPU, GPU, CPU, 0, 1, 3, 0, 0},
    {"hidden disk", GPU, GPU, DISK, 0, 2, 3, 0, 0},
    {"hidden gpu+cpu", GPU, GPU, {.4, .6, 0}, 0, 3, 3, 0, 0},
    {"hidden gpu+disk", GPU, GPU, {.5, 0, .5}, 0, 4, 2, 0, 0},
    {"hidden everywhere", GPU, GPU, {.3, .3, .4}, 0, 5, 2, 0, 0},
    {"all cpu", CPU, CPU, CPU, 0, 2, 2, 0, 0},
    {"all cpu, host", CPU, CPU, CPU, 1, 4, 2, 0, 0},
    {"all disk", DISK, DISK, DISK, 0, 2, 2, 0, 0},
    {"all disk, host", DISK, DISK, DISK, 1, 3, 2, 0, 0},
    {"20 80 0 100 0 100", {.2, .8, 0}, CPU, CPU, 0, 3, 2, 0, 0},
    {"0 50 0 0 0 100", {0, .5, .5}, DISK, CPU, .5, 3, 3, 0, 0},
    {"everything everywhere", {.3, .3, .4}, {.3, .3, .4}, {.3, .3, .4}, .5, 3, 2, 0, 0},
    {"everything everywhere, serially", {.3, .3, .4}, {.3, .3, .4}, {.3, .3, .4}, .5, 2, 3, 0, 1},
    {"sparse at 1.0, gpu", GPU, GPU, GPU, 0, 2, 3, 1, 0},
    {"sparse at 1.0, cpu", GPU, CPU, GPU, .5, 3, 2, 1, 0},
    {"sparse at 1.0, disk", GPU, DISK, GPU, .5, 2, 4, 1, 0},
};
const int n_placements = (int)(sizeof placements / sizeof placements[0]);

const sl_dtype placement_precisions[][2] = {{SL_DTYPE_F16, SL_DTYPE_F16},
                                            {SL_DTYPE_Q8G64, SL_DTYPE_Q8G64},
                                            {SL_DTYPE_Q4G64, SL_DTYPE_Q4G64},
                                            {SL_DTYPE_Q4G64, SL_DTYPE_F16}};

placement placement_all_in_one(int on_device) {
    placement p = {.name = "all in one", .n_micro_batches = 2, .micro_batch = 2};
    p.weights[on_device ? SL_TIER_GPU : SL_TIER_CPU] = 1;
    return p;
}

static void set_shares(sl_shares *to, const double from[SL_TIER_COUNT], int has_device) {
    for (int t = 0; t < SL_TIER_COUNT; t++) to->frac[t] = from[t];
    if (has_device) return;
    to->frac[SL_TIER_CPU] += to->frac[SL_TIER_GPU];
    to->frac[SL_TIER_GPU] = 0;
}

static sl_policy policy_of(const placement *p, sl_dtype weights, sl_dtype cache,
                           const char *disk_dir, int has_device) {
    sl_policy policy;
    sl_policy_init(&policy);
    policy.micro_batch = p->micro_batch;
    policy.num_micro_batches = p->n_micro_batches;
    policy.max_rows = 32;
    policy.max_context = 96;
    policy.cpu_budget_bytes = 256 << 20;
    policy.disk_dir = disk_dir;
    policy.disk_budget_bytes = 256 << 20;
    policy.weights_dtype = weights;
    policy.cache_dtype = cache;
    policy.host_attends = p->host_attends;
    policy.sparsity = p->sparsity;
    policy.no_overlap = p->no_overlap;
    set_shares(&policy.weights, p->weights, has_device);
    set_shares(&policy.cache, p->cache, 1); /* the engine itself knows where there is no gpu */
    set_shares(&policy.hidden, p->hidden, 1);
    return policy;
}

/* Prompts of 1, 12, 23, ... tokens: shorter and longer than a page, in one chunk and in several. */
static int distinct_prompt(int vocab, intptr_t i, int32_t *prompt) {
    const int n = 1 + 11 * (int)i;
    for (int j = 0; j < n; j++)
        prompt[j] = (int32_t)(sl_rng_at((uint64_t)i, (uint64_t)j) % (uint64_t)vocab);
    return n;
}

/* The beginning of one text and tokens of its own: the same prompt twice, whole pages in common and
 * a part of the next, whole pages alone, less than a page, nothing. */
static int common_prompt(int vocab, intptr_t i, int32_t *prompt) {
    static const int common[PLACEMENT_REQUESTS] = {70, 70, 45, 64, 20, 70, 0};
    static const int own[PLACEMENT_REQUESTS] = {0, 0, 12, 7, 3, 10, 40};
    const int n = common[i] + own[i];
    for (int j = 0; j < n; j++)
        prompt[j] =
            (int32_t)(sl_rng_at(j < common[i] ? 99 : (uint64_t)i, (uint64_t)j) % (uint64_t)vocab);
    return n;
}

static sl_status submit(sl_engine *e, int vocab, const placement_parts *parts, intptr_t i) {
    int32_t prompt[96];
    const int n =
        parts->common ? common_prompt(vocab, i, prompt) : distinct_prompt(vocab, i, prompt);
    const sl_engine_request r = {.prompt = prompt,
                                 .n_prompt = n,
                                 .max_tokens = PLACEMENT_TOKENS,
                                 .n = 1,
                                 .sampling = {.top_p = 1, .repetition_penalty = 1, .n_logprobs = 2},
                                 .user = (void *)i};
    uint64_t id;
    return sl_engine_submit(e, &r, &id);
}

static sl_status drive(sl_engine *e, int vocab, const placement_parts *parts,
                       placement_outcome *out) {
    int n_answers = 0;
    for (intptr_t i = 0; i < PLACEMENT_REQUESTS; i++) SL_TRY(submit(e, vocab, parts, i));
    sl_engine_finish(e);
    for (int done = 0; !done;) {
        SL_TRY(sl_engine_step(e, &done));
        const sl_engine_result *res = NULL;
        while (sl_engine_take(e, &res) == SL_OK && res) {
            memcpy(out->token[(intptr_t)res->user], res->choices[0].tokens, sizeof out->token[0]);
            sl_engine_release(e, res);
            n_answers++;
        }
    }
    if (n_answers != PLACEMENT_REQUESTS)
        return SL_FAIL(SL_ERR_ARG, "%d answers, expected %d", n_answers, (int)PLACEMENT_REQUESTS);
    return SL_OK;
}

static sl_status check_stats(const sl_engine_stats *s, const sl_policy *p) {
    if (s->n_steady_allocs || s->n_drains)
        return SL_FAIL(SL_ERR_ARG, "%d allocations and %d waits for the device, expected none",
                       (int)s->n_steady_allocs, (int)s->n_drains);
    if (s->pages_free != s->pages_total)
        return SL_FAIL(SL_ERR_ARG, "%d of %d pages are free at the end", s->pages_free,
                       s->pages_total);
    if (s->gpu_peak_bytes > s->gpu_budget_bytes || s->cpu_peak_bytes > p->cpu_budget_bytes ||
        s->disk_peak_bytes > p->disk_budget_bytes)
        return SL_FAIL(SL_ERR_ARG, "a tier is over its budget");
    return SL_OK;
}

sl_status placement_run(const char *model, const placement *p, sl_dtype weights, sl_dtype cache,
                        const char *disk_dir, const placement_parts *parts, int has_device,
                        placement_outcome *out) {
    sl_status st = SL_OK;
    char path[600];
    sl_source *source = NULL;
    sl_transport *t = NULL;
    sl_engine *e = NULL;
    sl_backend *be = NULL;
    sl_policy policy = policy_of(p, weights, cache, disk_dir, has_device);
    policy.no_sharing = parts->no_sharing;
    snprintf(path, sizeof path, "%s/golden/models/%s", SL_TESTS_DIR, model);
    SL_GO(parts->open(&be, &policy.host_attention));
    SL_GO(sl_source_open(path, 0, &source));
    SL_GO(sl_transport_open_loopback(&t));
    SL_GO(sl_engine_open(source, be, t, &policy, NULL, &e));
    SL_GO(drive(e, sl_source_config(source)->vocab, parts, out));
    sl_engine_get_stats(e, &out->stats);
    SL_GO(check_stats(&out->stats, &policy));

fail:
    sl_engine_close(e);
    sl_transport_close(t);
    sl_source_close(source);
    sl_host_attention_close(policy.host_attention);
    sl_backend_close(be);
    return st;
}

float placement_tolerance(sl_dtype cache) {
    if (cache == SL_DTYPE_Q4G64) return 0.4f;
    return cache == SL_DTYPE_Q8G64 ? 0.1f : 0.025f;
}

/* Of one request, up to the first token that differs; tokens compared, -1 where they may not. */
static int compare_request(const char *what, int r, const placement_outcome *found,
                           const placement_outcome *expected, float tolerance,
                           placement_drift *drift) {
    for (int k = 0; k < PLACEMENT_TOKENS; k++) {
        const sl_choice *x = &expected->token[r][k], *y = &found->token[r][k];
        const float margin = x->top[0].logprob - x->top[1].logprob;
        const int same = x->id == y->id;
        const float off = same ? fabsf(x->logprob - y->logprob) : 0.0f;
        if (same ? !(off <= tolerance) : !(margin < 2.0f * tolerance)) {
            fprintf(stderr,
                    "%s: request %d, token %d is %d (%g), expected %d (%g) by a margin of %g\n",
                    what, r, k, (int)y->id, (double)y->logprob, (int)x->id, (double)x->logprob,
                    (double)margin);
            return -1;
        }
        if (!same) {
            drift->n_turned++;
            if (margin > drift->margin) drift->margin = margin;
            return k;
        }
        if (off > drift->largest) drift->largest = off;
        drift->sum += (double)off;
        drift->n++;
    }
    return PLACEMENT_TOKENS;
}

int placement_compare(const char *what, const placement_outcome *found,
                      const placement_outcome *expected, float tolerance, placement_drift *drift) {
    const placement_drift before = *drift;
    int n = 0;
    for (int r = 0; r < PLACEMENT_REQUESTS; r++) {
        const int compared = compare_request(what, r, found, expected, tolerance, drift);
        if (compared < 0) return -1;
        n += compared;
    }
    const double mean = n ? (drift->sum - before.sum) / n : 0.0;
    if (mean <= (double)tolerance / 3) return n;
    fprintf(stderr, "%s: log-probabilities differ by %g on average, expected up to %g\n", what,
            mean, (double)tolerance / 3);
    return -1;
}

const char *placement_drift_text(const placement_drift *d, char *text, size_t size) {
    snprintf(text, size, "mean %.2g, largest %.2g, %d turned at margins up to %.2g",
             d->n ? d->sum / d->n : 0.0, (double)d->largest, d->n_turned, (double)d->margin);
    return text;
}

int placement_same(const placement_outcome *a, const placement_outcome *b) {
    for (int r = 0; r < PLACEMENT_REQUESTS; r++) {
        for (int k = 0; k < PLACEMENT_TOKENS; k++) {
            const sl_choice *x = &a->token[r][k], *y = &b->token[r][k];
            if (x->id != y->id || memcmp(&x->logprob, &y->logprob, sizeof x->logprob) != 0)
                return 0;
        }
    }
    return 1;
}
