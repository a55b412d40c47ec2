/* Golden prompts among strangers. */
#include "support/golden_mix.h"

#include <stdio.h>
#include <string.h>

#include "base/rng.h"

static sl_engine_request stranger(sl_rng *rng, int vocab, int32_t *prompt) {
    const int n_prompt = 1 + (int)sl_rng_below(rng, GOLDEN_MIX_MAX_PROMPT);
    for (int i = 0; i < n_prompt; i++) prompt[i] = (int32_t)sl_rng_below(rng, (uint64_t)vocab);
    sl_engine_request r = run_greedy_request(prompt, n_prompt, (int)sl_rng_below(rng, 24));
    r.echo_logprobs = r.max_tokens == 0 || sl_rng_below(rng, 2) == 0;
    r.n = 1 + (int)sl_rng_below(rng, 3);
    r.sampling.temperature = 0.8f + 0.4f * (float)sl_rng_unit(sl_rng_next(rng));
    r.sampling.top_p = sl_rng_below(rng, 2) == 0 ? 0.9f : 1.0f;
    r.sampling.top_k = sl_rng_below(rng, 2) == 0 ? 20 : 0;
    r.sampling.repetition_penalty = sl_rng_below(rng, 2) == 0 ? 1.2f : 1.0f;
    r.sampling.presence_penalty = sl_rng_below(rng, 2) == 0 ? 0.5f : 0.0f;
    r.sampling.key = sl_rng_next(rng);
    r.sampling.n_logprobs = (int)sl_rng_below(rng, 6) - 1;
    if (r.echo_logprobs && r.sampling.n_logprobs < 0) r.sampling.n_logprobs = 0;
    r.n_stop_ids = 1; /* one in `vocab` tokens, sooner in a sampled loop */
    r.stop_ids[0] = (int32_t)sl_rng_below(rng, (uint64_t)vocab);
    return r;
}

void golden_mix_make(const golden_set *set, int with_strangers, int vocab, golden_mix *out) {
    sl_rng rng = {.key = sl_rng_hash("golden_mix")};
    memset(out, 0, sizeof *out);
    for (int i = 0; i < set->n_cases && out->n + 2 <= GOLDEN_MIX_MAX; i++) {
        out->golden[out->n] = &set->cases[i];
        out->requests[out->n++] = golden_request(set, &set->cases[i]);
        if (!with_strangers) continue;
        out->requests[out->n] = stranger(&rng, vocab, out->prompts[out->n]);
        out->n++;
    }
}

int golden_mix_compare(const golden_mix *mix, const run_result *results, double tolerance,
                       const char *label) {
    int n_bad = 0;
    for (int i = 0; i < mix->n; i++) {
        if (mix->golden[i]) {
            n_bad += golden_compare(mix->golden[i], &results[i], tolerance, label, NULL);
        } else if (results[i].status != SL_OK || results[i].n_choices != mix->requests[i].n) {
            fprintf(stderr, "%s: stranger %d: %s\n", label, i, results[i].message);
            n_bad++;
        }
    }
    return n_bad;
}
