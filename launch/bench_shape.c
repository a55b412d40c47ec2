#include "bench_shape.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "base/rng.h"

/* Keys of what is drawn for a prompt, a group, or an output. */
enum { KEY_LENGTH = 1, KEY_GROUP, KEY_GEN };

static int common_len(const sl_bench_shape *s) {
    const int mean = s->mean_prompt ? s->mean_prompt : s->prompt_len;
    return (int)(s->common_frac * mean);
}

sl_status sl_bench_shape_check(const sl_bench_shape *s) {
    const char *name = s->name[0] ? s->name : "bench";
    if (s->mean_prompt > s->prompt_len || s->mean_gen > s->gen_len)
        return SL_FAIL(SL_ERR_ARG,
                       "%s: mean lengths of %d and %d, expected at most the longest, %d and %d",
                       name, s->mean_prompt, s->mean_gen, s->prompt_len, s->gen_len);
    if (s->ragged && (s->mean_prompt || s->common_frac > 0))
        return SL_FAIL(SL_ERR_ARG, "%s: --ragged goes with neither a mean nor a common prefix",
                       name);
    if (common_len(s) >= (s->mean_prompt ? s->mean_prompt : s->prompt_len))
        return SL_FAIL(SL_ERR_ARG, "%s: %d tokens in common of %d, expected fewer", name,
                       common_len(s), s->mean_prompt ? s->mean_prompt : s->prompt_len);
    return SL_OK;
}

/* ---- files ---- */

static sl_status read_shape(const char *path, json_t *from, int trials, double divide,
                            sl_bench_shape *out) {
    const char *name = NULL;
    int padded = 0, gen = 0, sequences = 0, mean_prompt = 0, mean_gen = 0;
    double common = 0;
    json_error_t e;
    if (json_unpack_ex(from, &e, 0, "{s:s, s:i, s:i, s:i, s:i, s:i, s:F}", "name", &name,
                       "padded_prompt", &padded, "gen", &gen, "sequences", &sequences,
                       "mean_prompt", &mean_prompt, "mean_gen", &mean_gen, "shared_prefix_frac",
                       &common) != 0)
        return SL_FAIL(SL_ERR_FORMAT, "%s: a scenario: %s", path, e.text);
    if (padded < 1 || padded > 1 << 24 || gen < 1 || gen > 1 << 24 || sequences < 1 ||
        sequences > 1 << 24 || mean_prompt < 1 || mean_gen < 1 || !(common >= 0 && common < 1))
        return SL_FAIL(SL_ERR_FORMAT, "%s: scenario %s has a number out of range", path, name);
    *out = (sl_bench_shape){.prompt_len = padded,
                            .gen_len = gen,
                            .mean_prompt = mean_prompt,
                            .mean_gen = mean_gen,
                            .n_prompts = (int)(sequences / divide + 0.5),
                            .common_frac = common,
                            .n_groups = trials};
    if (out->n_prompts < trials) out->n_prompts = trials;
    snprintf(out->name, sizeof out->name, "%s", name);
    return sl_bench_shape_check(out);
}

sl_status sl_bench_shapes_read(const char *path, const char *only, double divide,
                               sl_bench_shape *out, int *n_out) {
    sl_status st = SL_OK;
    json_error_t e;
    int n = 0, trials = 1;
    json_t *root = json_load_file(path, 0, &e);
    if (!root) return SL_FAIL(SL_ERR_FORMAT, "%s, line %d: %s", path, e.line, e.text);
    json_t *all = json_object_get(root, "scenarios");
    if (json_object_get(root, "trials"))
        trials = (int)json_integer_value(json_object_get(root, "trials"));
    if (!json_is_array(all) || json_array_size(all) > SL_BENCH_SHAPES || trials < 1) {
        st = SL_FAIL(SL_ERR_FORMAT, "%s: found no list of 1 to %d \"scenarios\", or %d \"trials\"",
                     path, (int)SL_BENCH_SHAPES, trials);
        goto fail;
    }
    for (size_t i = 0; i < json_array_size(all); i++) {
        SL_GO(read_shape(path, json_array_get(all, i), trials, divide, &out[n]));
        if (!only || strcmp(only, out[n].name) == 0) n++;
    }
    if (n == 0) {
        st = SL_FAIL(SL_ERR_ARG, "%s: no scenario is called %s", path, only ? only : "(any)");
        goto fail;
    }
    *n_out = n;

fail:
    json_decref(root);
    return st;
}

void sl_bench_shape_pad(sl_bench_shape *s) {
    s->mean_prompt = s->mean_gen = s->ragged = 0;
    s->common_frac = 0;
}

/* ---- lengths and tokens ---- */

/* Scenarios of a file have nothing in common. */
static uint64_t seed_of(const sl_bench_shape *s, uint64_t seed) {
    return s->name[0] ? sl_rng_at(seed, sl_rng_hash(s->name)) : seed;
}

/* Evenly drawn around a mean, as far to both sides as the bounds allow. */
static int draw(uint64_t key, int i, int mean, int least, int most) {
    if (mean == 0) return most;
    const int spread = mean - least < most - mean ? mean - least : most - mean;
    sl_rng rng = {.key = sl_rng_at(key, (uint64_t)i)};
    return spread <= 0 ? mean : mean - spread + (int)sl_rng_below(&rng, 2 * (uint64_t)spread + 1);
}

int sl_bench_prompt(const sl_bench_shape *s, uint64_t base, int vocab, int i, int32_t *ids) {
    const uint64_t seed = seed_of(s, base);
    sl_rng rng = {.key = sl_rng_at(seed, (uint64_t)i)};
    const int common = common_len(s);
    int n = draw(sl_rng_at(seed, UINT64_MAX - KEY_LENGTH), i, s->mean_prompt, common + 1,
                 s->prompt_len);
    if (s->ragged) n = 1 + (int)sl_rng_below(&rng, (uint64_t)s->prompt_len);
    const uint64_t group =
        sl_rng_at(sl_rng_at(seed, UINT64_MAX - KEY_GROUP), (uint64_t)(i % s->n_groups));
    for (int k = 0; k < n; k++)
        ids[k] = k < common ? (int32_t)(sl_rng_at(group, (uint64_t)k) % (uint64_t)vocab)
                            : (int32_t)sl_rng_below(&rng, (uint64_t)vocab);
    ids[common] = (int32_t)((sl_rng_mix(seed + 1) + (uint64_t)i) % (uint64_t)vocab);
    return n;
}

int sl_bench_gen(const sl_bench_shape *s, uint64_t seed, int i) {
    return draw(sl_rng_at(seed_of(s, seed), UINT64_MAX - KEY_GEN), i, s->mean_gen, 1, s->gen_len);
}
