/* The sparse way: all keys first, then the values of the largest weights.
 * Source: FlexGen, section 4.3 (sparse attention: after the weights are known, only the top ones'
 * values are loaded). */
#include <math.h>
#include <string.h>

#include "cpu/cpu_host_item.h"

int sl_cpu_host_kept(float sparsity, int n_keys) {
    /* In float32, so that 0.1f of 10 keys is one key. */
    const int kept = (int)ceilf(sparsity * (float)n_keys);
    return kept < 1 ? 1 : kept > n_keys ? n_keys : kept;
}

/* A number that grows with x; equal for both zeros. */
static int32_t rank_of(float x) {
    int32_t bits;
    x += 0.0f;
    memcpy(&bits, &x, sizeof bits);
    return bits < 0 ? bits ^ INT32_MAX : bits;
}

/* The k-th largest of n ranks, 1 <= k <= n: the largest bound that k of them reach, bit by bit. */
static int32_t kth_largest(const sl_cpu_host_kernels *host, const int32_t *rank, int n, int k) {
    uint32_t found = 0; /* of rank + 2^31 */
    for (int bit = 31; bit >= 0; bit--) {
        const uint32_t next = found | UINT32_C(1) << bit;
        if (host->count_at_least(rank, n, (int32_t)(next ^ UINT32_C(0x80000000))) >= k)
            found = next;
    }
    return (int32_t)(found ^ UINT32_C(0x80000000));
}

/* Of a query head's scores the newest one counts always, and of the others those above *bound and
 * the first *ties of those that equal it. */
static void choose(const sl_cpu_host_work *w, const sl_cpu_host_scratch *s, const float *score,
                   int n_keys, int32_t *bound, int32_t *ties) {
    const int n_older = n_keys - 1, kept = sl_cpu_host_kept(w->job->sparsity, n_keys) - 1;
    *bound = INT32_MAX;
    *ties = 0;
    if (kept == 0) return;
    for (int i = 0; i < n_older; i++) s->rank[i] = rank_of(score[i]);
    *bound = kth_largest(w->host->host, s->rank, n_older, kept);
    const int above =
        *bound < INT32_MAX ? w->host->host->count_at_least(s->rank, n_older, *bound + 1) : 0;
    *ties = kept - above;
}

/* The chosen tokens of every query head in the page that holds position `base`, which is asked for;
 * pages are walked in order, since ties go to the lowest positions. */
static void list_page(const sl_cpu_host_work *w, const sl_cpu_host_item *item, int head, int base,
                      const sl_cpu_host_scratch *s, uint8_t *token, int32_t *n) {
    enum { CACHE_LINE = 64 };
    const sl_kv_format *f = &w->job->format;
    const size_t row_bytes = sl_kv_row_bytes(f), pair_bytes = (size_t)sl_kv_groups(f) * 4;
    const char *values = sl_cpu_host_keys(w, item, head, base) + f->half_bytes;
    const int slot0 = base - (item->first - item->first % SL_PAGE_TOKENS);
    for (int i = 0; i < w->group; i++) {
        const float *score = s->scores + (size_t)i * s->n_slots + slot0;
        n[i] = 0;
        for (int j = 0; j < SL_PAGE_TOKENS && base + j < item->last; j++) {
            if (base + j < item->first) continue;
            const int32_t rank = rank_of(score[j]);
            if (base + j < item->last - 1 && rank <= s->bound[i] &&
                !(rank == s->bound[i] && s->ties[i]-- > 0))
                continue;
            token[i * SL_PAGE_TOKENS + n[i]++] = (uint8_t)j;
            const char *row = values + (size_t)j * row_bytes;
            for (size_t b = 0; b < row_bytes; b += CACHE_LINE) __builtin_prefetch(row + b);
            if (pair_bytes > 0)
                __builtin_prefetch(values + SL_PAGE_TOKENS * row_bytes + (size_t)j * pair_bytes);
        }
    }
}

static void mix_page(const sl_cpu_host_work *w, const sl_cpu_host_item *item, int h, int base,
                     const sl_cpu_host_scratch *s, const uint8_t *token, const int32_t *n) {
    const sl_kv_format *f = &w->job->format;
    const sl_cpu_host_part values = {
        .format = f, .data = sl_cpu_host_keys(w, item, item->head0 + h, base) + f->half_bytes};
    const int first = item->first > base ? item->first - base : 0;
    const int last = item->last - base < SL_PAGE_TOKENS ? item->last - base : SL_PAGE_TOKENS;
    const int slot0 = base - (item->first - item->first % SL_PAGE_TOKENS);
    for (int i = 0; i < w->group; i++) {
        if (n[i] == 0) continue;
        const size_t query = (size_t)(h * w->group + i);
        float p[SL_PAGE_TOKENS], max = s->max[query], sum = 0.0f;
        memcpy(p, s->scores + (size_t)i * s->n_slots + slot0, sizeof p);
        const float one = w->host->kernels->softmax(p, first, last, &max, &sum);
        /* Tokens ascend, so none is overwritten before it is read. */
        for (int j = 0; j < n[i]; j++) p[j] = p[token[i * SL_PAGE_TOKENS + j]];
        w->host->host->mix(s->mean + query * w->mean_floats, &one, p, 1, &values,
                           token + i * SL_PAGE_TOKENS, n[i]);
    }
}

/* Scores of one key/value head's group against all keys; maxima and sums of the dense softmax. */
static void score_keys(const sl_cpu_host_work *w, const sl_cpu_host_item *item, int h,
                       const sl_cpu_host_scratch *s) {
    const int page0 = item->first - item->first % SL_PAGE_TOKENS;
    for (int base = page0; base < item->last; base += SL_PAGE_TOKENS) {
        const int first = item->first > base ? item->first - base : 0;
        const int last = item->last - base < SL_PAGE_TOKENS ? item->last - base : SL_PAGE_TOKENS;
        const int next = base + SL_PAGE_TOKENS;
        const sl_cpu_host_part keys = {
            .format = &w->job->format,
            .data = sl_cpu_host_keys(w, item, item->head0 + h, base),
            .next = next < item->last ? sl_cpu_host_keys(w, item, item->head0 + h, next) : NULL};
        float *scores = s->scores + (base - page0);
        w->host->host->scores(scores, s->n_slots, s->q + (size_t)(h * w->group) * w->query_floats,
                              w->group, &keys, first, last);
        for (int i = 0; i < w->group; i++) {
            float p[SL_PAGE_TOKENS];
            memcpy(p, scores + (size_t)i * s->n_slots, sizeof p);
            w->host->kernels->softmax(p, first, last, &s->max[h * w->group + i],
                                      &s->sum[h * w->group + i]);
        }
    }
}

void sl_cpu_host_sparse(const sl_cpu_host_work *w, const sl_cpu_host_item *item,
                        const sl_cpu_host_scratch *s) {
    const int page0 = item->first - item->first % SL_PAGE_TOKENS;
    uint8_t *token[2] = {s->token, s->token + w->group * SL_PAGE_TOKENS};
    int32_t *n[2] = {s->n, s->n + w->group};
    for (int h = 0; h < item->n_heads; h++) {
        score_keys(w, item, h, s);
        for (int i = 0; i < w->group; i++)
            choose(w, s, s->scores + (size_t)i * s->n_slots + item->first % SL_PAGE_TOKENS,
                   item->last - item->first, &s->bound[i], &s->ties[i]);
        list_page(w, item, item->head0 + h, page0, s, token[0], n[0]);
        int now = 0;
        for (int base = page0; base < item->last; base += SL_PAGE_TOKENS, now = !now) {
            if (base + SL_PAGE_TOKENS < item->last)
                list_page(w, item, item->head0 + h, base + SL_PAGE_TOKENS, s, token[!now], n[!now]);
            mix_page(w, item, h, base, s, token[now], n[now]);
        }
    }
}
