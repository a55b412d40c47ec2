/* bench_shape.h - made-up work of a given shape: lengths of prompts and outputs, and what prompts
 * have in common.
 *
 * Layer: launch.  May include: all.  Thread safety: pure functions.
 */
#ifndef SL_LAUNCH_BENCH_SHAPE_H
#define SL_LAUNCH_BENCH_SHAPE_H

#include <stdint.h>

#include "base/status.h"

enum { SL_BENCH_NAME = 64, SL_BENCH_SHAPES = 64 };

typedef struct {
    char name[SL_BENCH_NAME];
    int prompt_len, gen_len;   /* longest */
    int mean_prompt, mean_gen; /* 0: all are as long as the longest */
    int n_prompts;
    int ragged;         /* 1: prompts of 1 to prompt_len tokens */
    double common_frac; /* part of a mean prompt that all prompts of a group begin with */
    int n_groups;       /* >= 1; prompt i belongs to group i % n_groups */
} sl_bench_shape;

/* Errors: SL_ERR_ARG naming the shape, the number and what is expected. */
sl_status sl_bench_shape_check(const sl_bench_shape *shape);

/* Reads a file {"scenarios": [{"name", "padded_prompt", "gen", "sequences", "mean_prompt",
 * "mean_gen", "shared_prefix_frac"}, ...], "trials"}.
 *   only    the name of one of them, NULL: all
 *   divide  so many times fewer sequences, at least one a trial
 *   out     [SL_BENCH_SHAPES]
 * Errors: SL_ERR_IO, SL_ERR_FORMAT, SL_ERR_ARG. */
sl_status sl_bench_shapes_read(const char *path, const char *only, double divide,
                               sl_bench_shape *out, int *n_out);

/* The same work as a system does it that knows one length: every prompt and every output as long as
 * the longest, nothing in common. */
void sl_bench_shape_pad(sl_bench_shape *shape);

/* Writes prompt `i` of the shape to ids [prompt_len]; returns its length.  `seed` makes the work;
 * prompts differ from one another in the first token after what they have in common. */
int sl_bench_prompt(const sl_bench_shape *shape, uint64_t seed, int vocab, int i, int32_t *ids);

/* Tokens that prompt `i` generates until it stops. */
int sl_bench_gen(const sl_bench_shape *shape, uint64_t seed, int i);

#endif
