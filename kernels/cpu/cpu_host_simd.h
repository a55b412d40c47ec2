/* cpu_host_simd.h - the vector kernels of decode attention, in terms of the operations that the
 * file which includes this header has defined for its instruction set:
 *
 *   INLINE, LANES          cpu_simd_*.h
 *   PARTS                  vectors of a group: SL_GROUP_ELEMS / LANES
 *   REDUCED                vectors that reduce() takes
 *   MAX_QUERIES            queries of a block: 1, 2 or 4
 *   vec, zero, load, store, splat, mul, fmadd, first_lane
 *   raw, load_raw          what the parts of a Q4G64 group are made from
 *   part                   elements of one part in float32
 *   reduce                 the sum over the lanes of each of REDUCED vectors, added up in the same
 *                          order for every vector: equal keys have equal scores
 *
 * Layer: kernels/cpu.  Only for cpu_host_*.c.
 */
#ifndef SL_CPU_HOST_SIMD_H
#define SL_CPU_HOST_SIMD_H

enum { MAX_GROUPS = 8, CACHE_LINE = 64 };
_Static_assert(MAX_GROUPS *SL_GROUP_ELEMS >= SL_MAX_HEAD_DIM, "pairs of a page fit");

/* One head's data with its sizes at hand. */
typedef struct {
    sl_dtype dtype;
    const char *data, *next; /* next is data where there is none: asking for it again is cheap */
    size_t row_bytes, group_bytes;
    int n_groups;
    int last_width;                              /* elements of the last group */
    float pair[SL_PAGE_TOKENS * MAX_GROUPS * 2]; /* step and min of [token or index][group] */
} head;

INLINE int is_grouped(sl_dtype dtype) {
    return dtype == SL_DTYPE_Q8G64 || dtype == SL_DTYPE_Q4G64;
}

INLINE void head_open(head *h, sl_dtype dtype, const sl_cpu_host_part *p) {
    h->dtype = dtype;
    h->data = p->data;
    h->next = p->next ? p->next : p->data;
    h->row_bytes = sl_kv_row_bytes(p->format);
    h->group_bytes = dtype == SL_DTYPE_F32 ? SL_GROUP_ELEMS * 4
                     : dtype == SL_DTYPE_F16
                         ? SL_GROUP_ELEMS * 2
                         : SL_GROUP_ELEMS * (dtype == SL_DTYPE_Q8G64 ? 8 : 4) / 8;
    h->n_groups = sl_cpu_host_groups(p->format->head_dim);
    h->last_width = p->format->head_dim - (h->n_groups - 1) * SL_GROUP_ELEMS;
    if (!is_grouped(dtype)) return;
    const size_t codes = SL_PAGE_TOKENS * h->row_bytes;
    for (int i = 0; i < SL_PAGE_TOKENS * h->n_groups * 4; i += CACHE_LINE)
        __builtin_prefetch(h->next + codes + i);
}

/* Pairs of all tokens; 8 halves at a time, of which there are 2 * SL_PAGE_TOKENS a group. */
INLINE void all_pairs(head *h) {
    const char *from = h->data + SL_PAGE_TOKENS * h->row_bytes;
    for (int i = 0; i < 2 * SL_PAGE_TOKENS * h->n_groups; i += 8)
        _mm256_storeu_ps(h->pair + i, _mm256_cvtph_ps(_mm_loadu_si128(
                                          (const __m128i *)(const void *)(from + i * 2))));
}

/* Pair i * n_groups + g is that of token[i]. */
INLINE void chosen_pairs(head *h, const uint8_t *token, int n) {
    const char *from = h->data + SL_PAGE_TOKENS * h->row_bytes;
    float *to = h->pair;
    for (int i = 0; i < n; i++) {
        for (int g = 0; g < h->n_groups; g++, to += 2) {
            int32_t both;
            memcpy(&both, from + (token[i] * h->n_groups + g) * 4, sizeof both);
            _mm_storel_pi((__m64 *)(void *)to, _mm_cvtph_ps(_mm_cvtsi32_si128(both)));
        }
    }
}

/* The same place of the next part.  Into L2: this part and the next one, keys and values, would
 * crowd each other out of L1.  On 2 cores of an EPYC 7001 shared with others, 2026-11-28,
 * `bench_host_attention threads=1 rows=8 formats=f16,q4`, mean of 4 and 3 runs: into L2 5.6 and 1.6
 * GB/s, into L1 5.5 and 1.3, no asking 5.2 and 1.4. */
INLINE void ask_ahead(const head *h, size_t offset) {
    for (size_t i = 0; i < h->group_bytes; i += CACHE_LINE)
        __builtin_prefetch(h->next + offset + i, 0, 2);
}

/* ---- scores ---- */

/* total[i * n_t + t] gets group g's share of the product of query i and token at[t]. */
INLINE void add_products(vec *total, const float *q, size_t ldq, const head *h, sl_dtype dtype,
                         const int *at, int g, int width, int n_q, int n_t) {
    const float *q_sum = q + h->n_groups * SL_GROUP_ELEMS + g * SL_HOST_SUM_LANES;
    q += g * SL_GROUP_ELEMS;
    SL_UNROLL
    for (int t = 0; t < n_t; t++) {
        const size_t offset = (size_t)at[t] * h->row_bytes + (size_t)g * h->group_bytes;
        ask_ahead(h, offset);
        const char *from = h->data + offset;
        const raw codes = load_raw(dtype, from, width);
        vec sum[MAX_QUERIES];
        SL_UNROLL
        for (int i = 0; i < n_q; i++) sum[i] = is_grouped(dtype) ? zero() : total[i * n_t + t];
        SL_UNROLL
        for (int p = 0; p < PARTS; p++) {
            if (!has_part(dtype, p, width)) break;
            const vec k = part(dtype, codes, from, p, width);
            SL_UNROLL
            for (int i = 0; i < n_q; i++)
                sum[i] = fmadd(k, load(q + (size_t)i * ldq + p * LANES), sum[i]);
        }
        const float *pair = h->pair + (at[t] * h->n_groups + g) * 2;
        SL_UNROLL
        for (int i = 0; i < n_q; i++) {
            vec *to = &total[i * n_t + t];
            *to = is_grouped(dtype) ? fmadd(load(q_sum + (size_t)i * ldq), splat(pair + 1),
                                            fmadd(sum[i], splat(pair), *to))
                                    : sum[i];
        }
    }
}

/* n_q queries with n_t tokens at a time; both are constants. */
INLINE void score_block(float *score, size_t ldscore, const float *q, size_t ldq, const head *h,
                        sl_dtype dtype, int first, int last, int n_q, int n_t) {
    for (int j0 = first - first % n_t; j0 < last; j0 += n_t) {
        vec total[16];
        int at[8];
        SL_UNROLL
        for (int i = 0; i < n_q * n_t; i++) total[i] = zero();
        SL_UNROLL
        for (int t = 0; t < n_t; t++) { /* what is not to be read repeats a neighbour */
            const int j = j0 + t < last ? j0 + t : last - 1;
            at[t] = j < first ? first : j;
        }
        const int n_full = h->last_width == SL_GROUP_ELEMS ? h->n_groups : h->n_groups - 1;
        for (int g = 0; g < n_full; g++)
            add_products(total, q, ldq, h, dtype, at, g, SL_GROUP_ELEMS, n_q, n_t);
        if (n_full < h->n_groups)
            add_products(total, q, ldq, h, dtype, at, n_full, h->last_width, n_q, n_t);
        float sum[16];
        SL_UNROLL
        for (int i = 0; i < n_q * n_t; i += REDUCED) reduce(sum + i, total + i);
        SL_UNROLL
        for (int i = 0; i < n_q; i++)
            memcpy(score + (size_t)i * ldscore + j0, sum + i * n_t, (size_t)n_t * sizeof *sum);
    }
}

INLINE void all_scores(float *score, size_t ldscore, const float *q, int n_q,
                       const sl_cpu_host_part *keys, sl_dtype dtype, int first, int last) {
    const size_t ldq = sl_cpu_host_query_floats(keys->format->head_dim);
    head h;
    head_open(&h, dtype, keys);
    if (is_grouped(dtype)) all_pairs(&h);
    while (n_q > 0) {
        int n;
        if (MAX_QUERIES >= 4 && n_q >= 4) {
            n = MAX_QUERIES; /* 4 */
            score_block(score, ldscore, q, ldq, &h, dtype, first, last, MAX_QUERIES, SCORED / 4);
        } else if (n_q >= 2) {
            n = 2;
            score_block(score, ldscore, q, ldq, &h, dtype, first, last, 2, SCORED / 2);
        } else {
            n = 1;
            score_block(score, ldscore, q, ldq, &h, dtype, first, last, 1, SCORED / 2);
        }
        n_q -= n;
        q += (size_t)n * ldq;
        score += (size_t)n * ldscore;
        h.next = h.data;
    }
}

/* ---- mix ---- */

/* Parts [part0, part0 + n_parts) of group g. */
INLINE void mix_parts(float *mean, size_t ldmean, const float *shrink, const float *p,
                      const head *h, sl_dtype dtype, const uint8_t *token, int n, int g, int width,
                      int n_q, int part0, int n_parts) {
    vec sum[MAX_QUERIES * PARTS], low[MAX_QUERIES];
    float *to = mean + g * SL_GROUP_ELEMS + part0 * LANES;
    SL_UNROLL
    for (int i = 0; i < n_q; i++) {
        low[i] = zero();
        SL_UNROLL
        for (int k = 0; k < n_parts; k++)
            sum[i * n_parts + k] =
                mul(load(to + (size_t)i * ldmean + k * LANES), splat(shrink + i));
    }
    const float *pair = h->pair + g * 2;
    for (int j = 0; j < n; j++, pair += 2 * h->n_groups) {
        const size_t offset = token[j] * h->row_bytes + (size_t)g * h->group_bytes;
        if (part0 == 0) ask_ahead(h, offset);
        const char *from = h->data + offset;
        const raw codes = load_raw(dtype, from, width);
        vec weight[MAX_QUERIES];
        SL_UNROLL
        for (int i = 0; i < n_q; i++) {
            weight[i] = splat(p + i * SL_PAGE_TOKENS + j);
            if (!is_grouped(dtype)) continue;
            if (part0 == 0) low[i] = fmadd(weight[i], splat(pair + 1), low[i]);
            weight[i] = mul(weight[i], splat(pair));
        }
        SL_UNROLL
        for (int k = 0; k < n_parts; k++) {
            if (!has_part(dtype, part0 + k, width)) break;
            const vec v = part(dtype, codes, from, part0 + k, width);
            SL_UNROLL
            for (int i = 0; i < n_q; i++)
                sum[i * n_parts + k] = fmadd(v, weight[i], sum[i * n_parts + k]);
        }
    }
    SL_UNROLL
    for (int i = 0; i < n_q; i++) {
        SL_UNROLL
        for (int k = 0; k < n_parts; k++)
            store(to + (size_t)i * ldmean + k * LANES, sum[i * n_parts + k]);
        if (!is_grouped(dtype) || part0 != 0) continue;
        float *sums = mean + (size_t)i * ldmean + h->n_groups * SL_GROUP_ELEMS;
        sums[g] = sums[g] * shrink[i] + first_lane(low[i]);
    }
}

/* n_q is a constant; so many parts at a time that the sums stay in registers. */
INLINE void mix_block(float *mean, size_t ldmean, const float *shrink, const float *p,
                      const head *h, sl_dtype dtype, const uint8_t *token, int n, int n_q) {
    const int n_parts = MAX_SUMS / n_q < PARTS ? MAX_SUMS / n_q : PARTS;
    const int n_full = h->last_width == SL_GROUP_ELEMS ? h->n_groups : h->n_groups - 1;
    for (int g = 0; g < n_full; g++) {
        SL_UNROLL
        for (int k = 0; k < PARTS; k += n_parts)
            mix_parts(mean, ldmean, shrink, p, h, dtype, token, n, g, SL_GROUP_ELEMS, n_q, k,
                      n_parts);
    }
    if (n_full == h->n_groups) return;
    SL_UNROLL
    for (int k = 0; k < PARTS; k += n_parts)
        mix_parts(mean, ldmean, shrink, p, h, dtype, token, n, n_full, h->last_width, n_q, k,
                  n_parts);
}

INLINE void all_mixed(float *mean, const float *shrink, const float *p, int n_q,
                      const sl_cpu_host_part *values, sl_dtype dtype, const uint8_t *token, int n) {
    const size_t ldmean = sl_cpu_host_mean_floats(values->format->head_dim);
    head h;
    head_open(&h, dtype, values);
    if (is_grouped(dtype) && n == SL_PAGE_TOKENS)
        all_pairs(&h);
    else if (is_grouped(dtype))
        chosen_pairs(&h, token, n);
    while (n_q > 0) {
        int n_now;
        if (MAX_QUERIES >= 4 && n_q >= 4) {
            n_now = MAX_QUERIES; /* 4 */
            mix_block(mean, ldmean, shrink, p, &h, dtype, token, n, MAX_QUERIES);
        } else if (n_q >= 2) {
            n_now = 2;
            mix_block(mean, ldmean, shrink, p, &h, dtype, token, n, 2);
        } else {
            n_now = 1;
            mix_block(mean, ldmean, shrink, p, &h, dtype, token, n, 1);
        }
        n_q -= n_now;
        mean += (size_t)n_now * ldmean;
        shrink += n_now;
        p += n_now * SL_PAGE_TOKENS;
        h.next = h.data;
    }
}

/* One function a format: its sizes are constants within. */
#define SL_HOST_KERNELS(target, scores, mix)                                                       \
    target static void scores(float *score, size_t ldscore, const float *q, int n_q,               \
                              const sl_cpu_host_part *keys, int first, int last) {                 \
        switch (keys->format->dtype) {                                                             \
        case SL_DTYPE_F32:                                                                         \
            all_scores(score, ldscore, q, n_q, keys, SL_DTYPE_F32, first, last);                   \
            break;                                                                                 \
        case SL_DTYPE_F16:                                                                         \
            all_scores(score, ldscore, q, n_q, keys, SL_DTYPE_F16, first, last);                   \
            break;                                                                                 \
        case SL_DTYPE_Q8G64:                                                                       \
            all_scores(score, ldscore, q, n_q, keys, SL_DTYPE_Q8G64, first, last);                 \
            break;                                                                                 \
        default:                                                                                   \
            all_scores(score, ldscore, q, n_q, keys, SL_DTYPE_Q4G64, first, last);                 \
            break;                                                                                 \
        }                                                                                          \
    }                                                                                              \
    target static void mix(float *mean, const float *shrink, const float *p, int n_q,              \
                           const sl_cpu_host_part *values, const uint8_t *token, int n) {          \
        switch (values->format->dtype) {                                                           \
        case SL_DTYPE_F32:                                                                         \
            all_mixed(mean, shrink, p, n_q, values, SL_DTYPE_F32, token, n);                       \
            break;                                                                                 \
        case SL_DTYPE_F16:                                                                         \
            all_mixed(mean, shrink, p, n_q, values, SL_DTYPE_F16, token, n);                       \
            break;                                                                                 \
        case SL_DTYPE_Q8G64:                                                                       \
            all_mixed(mean, shrink, p, n_q, values, SL_DTYPE_Q8G64, token, n);                     \
            break;                                                                                 \
        default:                                                                                   \
            all_mixed(mean, shrink, p, n_q, values, SL_DTYPE_Q4G64, token, n);                     \
            break;                                                                                 \
        }                                                                                          \
    }

#endif
