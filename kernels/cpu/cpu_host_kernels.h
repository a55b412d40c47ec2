/* cpu_host_kernels.h - the inner kernels of decode attention over host pages, one table per
 * instruction set.
 *
 * One query vector meets each key once, so there is nothing to gain from expanding a page first, as
 * cpu_attention.c does for the many rows of a prompt: codes and halves become float32 in registers,
 * and memory is the limit.  In the group formats the step and the minimum of a group are applied
 * once to the sum over the codes, not to each element:
 *
 *   q . k    = sum over groups of  step * (q . code) + min * (sum of q)
 *   sum p v  = sum over tokens of  (p * step) * code, and beside it  sum over tokens of  p * min
 *
 * Layer: kernels/cpu.  Thread safety: pure functions.
 */
#ifndef SL_CPU_HOST_KERNELS_H
#define SL_CPU_HOST_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#include "base/dtype.h"
#include "cpu/cpu_kernels.h"
#include "store/kv_format.h"

/* Queries and means are kept in the order in which a kernel meets the elements, each group of 64 at
 * its own multiple of 64, what is behind head_dim zero. */
typedef struct {
    uint8_t place[SL_GROUP_ELEMS]; /* of a group's element within the 64 */
    float factor[SL_GROUP_ELEMS];  /* an exact power of two that its query and its mean are
                                    * multiplied with */
} sl_cpu_host_order;

enum { SL_HOST_SUM_LANES = 16 };

static inline int sl_cpu_host_groups(int head_dim) {
    return (head_dim + SL_GROUP_ELEMS - 1) / SL_GROUP_ELEMS;
}

/* Floats of a query: [groups][64] elements, then [groups][SL_HOST_SUM_LANES] with the sum of the
 * group's elements (without their factors) in lane 0 and zeros. */
static inline size_t sl_cpu_host_query_floats(int head_dim) {
    return (size_t)sl_cpu_host_groups(head_dim) * (SL_GROUP_ELEMS + SL_HOST_SUM_LANES);
}

/* Floats of a mean: [groups][64] elements, then [groups] sums of weight * min, to a multiple of 16.
 */
static inline size_t sl_cpu_host_mean_floats(int head_dim) {
    const size_t groups = (size_t)sl_cpu_host_groups(head_dim);
    return groups * SL_GROUP_ELEMS + (groups + 15) / 16 * 16;
}

/* The keys, or the values, of one head in one page. */
typedef struct {
    const sl_kv_format *format;
    const char *data; /* head_bytes */
    const char *next; /* another such part, asked for while this one is read; NULL: none */
} sl_cpu_host_part;

typedef struct {
    void (*order)(const sl_kv_format *format, sl_cpu_host_order *out);

    /* score[i, j] = q_i . key_j for tokens first <= j < last; anything for the others.
     *   score  [n_q, ldscore]: SL_PAGE_TOKENS columns, all of which may be written
     *   q      [n_q, sl_cpu_host_query_floats], 64-byte aligned */
    void (*scores)(float *score, size_t ldscore, const float *q, int n_q,
                   const sl_cpu_host_part *keys, int first, int last);

    /* mean_i = shrink[i] * mean_i + sum_j p[i, j] * value of token[j], j < n.
     *   mean   [n_q, sl_cpu_host_mean_floats], 64-byte aligned
     *   p      [n_q, SL_PAGE_TOKENS]
     *   token  [n] in [0, SL_PAGE_TOKENS), ascending: no other token's value is read */
    void (*mix)(float *mean, const float *shrink, const float *p, int n_q,
                const sl_cpu_host_part *values, const uint8_t *token, int n);

    /* y[i] = x[i], binary16.  x: unaligned is fine. */
    void (*from_f16)(float *y, const void *x, int n);

    /* How many of x[0..n) are >= bound. */
    int (*count_at_least)(const int32_t *x, int n, int32_t bound);
} sl_cpu_host_kernels;

/* Plain C; always there. */
const sl_cpu_host_kernels *sl_cpu_host_kernels_plain(void);

/* Only for a processor that has the instructions: where sl_cpu_kernels_avx2() and _avx512() have
 * said so. */
const sl_cpu_host_kernels *sl_cpu_host_kernels_avx2(void);
const sl_cpu_host_kernels *sl_cpu_host_kernels_avx512(void);

#endif
