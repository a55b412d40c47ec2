#include "cpu/cpu_host_job.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/half.h"
#include "cpu/cpu_host_item.h"
#include "model/config.h"

/* ---- checks ---- */

static sl_status check_format(const sl_kv_format *f) {
    const int is_plain = f->dtype == SL_DTYPE_F16 || f->dtype == SL_DTYPE_F32;
    if ((!is_plain && !sl_dtype_group_bits(f->dtype)) || f->n_kv_heads < 1 || f->head_dim < 1 ||
        f->head_dim > SL_MAX_HEAD_DIM)
        return SL_FAIL(SL_ERR_ARG, "host attention: pages of %s with %d heads of %d",
                       sl_dtype_name(f->dtype), f->n_kv_heads, f->head_dim);
    const sl_kv_format made = sl_kv_format_make(f->dtype, f->n_kv_heads, f->head_dim);
    if (f->head_bytes != made.head_bytes || f->half_bytes != made.half_bytes ||
        f->page_bytes < made.page_bytes)
        return SL_FAIL(SL_ERR_ARG, "host attention: pages of %zu bytes, expected at least %zu",
                       f->page_bytes, made.page_bytes);
    return SL_OK;
}

static sl_status check_rows(const sl_host_job *job) {
    const int head_dim = job->format.head_dim, n_kv_heads = job->format.n_kv_heads;
    if (job->n_rows < 0) return SL_FAIL(SL_ERR_ARG, "host attention: %d rows", job->n_rows);
    if (job->n_rows == 0) return SL_OK;
    if (!job->row || !job->q || !job->k != !job->v || !job->out)
        return SL_FAIL(SL_ERR_ARG, "host attention: %d rows, of which something is null",
                       job->n_rows);
    const int64_t q_cols = (int64_t)job->n_heads * head_dim;
    if (job->ldq < q_cols || job->ldo < q_cols)
        return SL_FAIL(SL_ERR_ARG, "host attention: %d heads of %d in rows of %d, results in %d",
                       job->n_heads, head_dim, job->ldq, job->ldo);
    if (job->k && job->ldkv < (int64_t)n_kv_heads * head_dim)
        return SL_FAIL(SL_ERR_ARG, "host attention: %d key heads of %d in rows of %d", n_kv_heads,
                       head_dim, job->ldkv);
    for (int r = 0; r < job->n_rows; r++)
        if (job->row[r].n_tokens < 1 || !job->row[r].page)
            return SL_FAIL(SL_ERR_ARG, "host attention: row %d has %d tokens in pages at %p", r,
                           job->row[r].n_tokens, (const void *)job->row[r].page);
    return SL_OK;
}

sl_status sl_cpu_host_check(const sl_host_job *job) {
    SL_TRY(check_format(&job->format));
    if (job->act != SL_DTYPE_F16 && job->act != SL_DTYPE_F32)
        return SL_FAIL(SL_ERR_ARG, "host attention: activations in %s", sl_dtype_name(job->act));
    if (job->n_heads < 1 || job->n_heads % job->format.n_kv_heads != 0)
        return SL_FAIL(SL_ERR_ARG, "host attention: %d query heads over %d key heads", job->n_heads,
                       job->format.n_kv_heads);
    if (!(job->scale > 0.0f) || isinf(job->scale))
        return SL_FAIL(SL_ERR_ARG, "host attention: scores times %g", (double)job->scale);
    if (job->window < 0) return SL_FAIL(SL_ERR_ARG, "host attention: window of %d", job->window);
    if (!(job->sparsity >= 0.0f && job->sparsity <= 1.0f))
        return SL_FAIL(SL_ERR_ARG, "host attention: sparsity %g", (double)job->sparsity);
    return check_rows(job);
}

/* First position that a row sees. */
static int first_key(const sl_host_job *job, const sl_host_row *row) {
    return job->window > 0 && row->n_tokens > job->window ? row->n_tokens - job->window : 0;
}

static sl_status check_pages(const sl_host_job *job) {
    enum { PAGE_ALIGN = 64 };
    for (int r = 0; r < job->n_rows; r++) {
        const sl_host_row *row = &job->row[r];
        const int last = (row->n_tokens - 1) / SL_PAGE_TOKENS;
        for (int p = first_key(job, row) / SL_PAGE_TOKENS; p <= last; p++)
            if (!row->page[p] || (uintptr_t)row->page[p] % PAGE_ALIGN != 0)
                return SL_FAIL(SL_ERR_ARG,
                               "host attention: page %d of row %d of %d is at %p, expected a "
                               "multiple of %d",
                               p, r, job->n_rows, row->page[p], PAGE_ALIGN);
    }
    return SL_OK;
}

/* ---- one item ---- */

/* y: float32 of n elements of a matrix in the job's dtype, from element `at`. */
static void load_elems(const sl_cpu_host_work *w, float *y, const void *matrix, size_t at, int n) {
    if (w->job->act == SL_DTYPE_F32)
        memcpy(y, (const float *)matrix + at, (size_t)n * sizeof *y);
    else
        w->host->host->from_f16(y, (const sl_f16 *)matrix + at, n);
}

/* sl_kv_put() by the vector kernels. */
static void put_token(const sl_cpu_host_work *w, char *head, int token, const float *x) {
    const sl_kv_format *f = &w->job->format;
    const size_t row_bytes = sl_kv_row_bytes(f);
    char *row = head + (size_t)token * row_bytes;
    if (f->dtype == SL_DTYPE_F32) {
        memcpy(row, x, row_bytes);
    } else if (f->dtype == SL_DTYPE_F16) {
        w->host->kernels->to_f16(row, x, f->head_dim);
        for (int d = 0; d < f->head_dim; d++) {
            if (x[d] == x[d]) continue;
            const sl_f16 nan = sl_f32_to_f16(x[d]); /* the processor would keep what it says */
            memcpy(row + (size_t)d * sizeof nan, &nan, sizeof nan);
        }
    } else {
        const int bits = sl_dtype_group_bits(f->dtype), n_groups = sl_kv_groups(f);
        char *pairs = head + SL_PAGE_TOKENS * row_bytes + token * n_groups * 4;
        for (int g = 0; g < n_groups; g++) {
            const int at = g * SL_GROUP_ELEMS, left = f->head_dim - at;
            uint16_t pair[2];
            w->host->kernels->pack_group((uint8_t *)row + at * bits / 8, pair, x + at, bits,
                                         left < SL_GROUP_ELEMS ? left : SL_GROUP_ELEMS);
            memcpy(pairs + g * 4, pair, sizeof pair);
        }
    }
}

static void append(const sl_cpu_host_work *w, const sl_cpu_host_item *item,
                   const sl_cpu_host_scratch *s) {
    const sl_kv_format *f = &w->job->format;
    const int position = item->last - 1, token = position % SL_PAGE_TOKENS;
    const size_t at = (size_t)(item->row - w->job->row) * (size_t)w->job->ldkv +
                      (size_t)item->head0 * (size_t)f->head_dim;
    for (int half = 0; half < 2; half++) {
        load_elems(w, s->x, half == 0 ? w->job->k : w->job->v, at, item->n_heads * f->head_dim);
        for (int h = 0; h < item->n_heads; h++)
            put_token(w,
                      sl_cpu_host_keys(w, item, item->head0 + h, position) +
                          (half == 0 ? 0 : f->half_bytes),
                      token, s->x + h * f->head_dim);
    }
}

/* Where the item's query heads begin in a row of q or out. */
static size_t query_at(const sl_cpu_host_work *w, const sl_cpu_host_item *item, int ld) {
    return (size_t)(item->row - w->job->row) * (size_t)ld +
           (size_t)(item->head0 * w->group) * (size_t)w->job->format.head_dim;
}

static void load_queries(const sl_cpu_host_work *w, const sl_cpu_host_item *item,
                         const sl_cpu_host_scratch *s) {
    const int n = item->n_heads * w->group, head_dim = w->job->format.head_dim;
    const int n_groups = sl_cpu_host_groups(head_dim);
    load_elems(w, s->x, w->job->q, query_at(w, item, w->job->ldq), n * head_dim);
    memset(s->q, 0, (size_t)n * w->query_floats * sizeof *s->q);
    for (int i = 0; i < n; i++) {
        const float *x = s->x + i * head_dim;
        float *q = s->q + (size_t)i * w->query_floats;
        for (int g = 0; g < n_groups; g++, x += SL_GROUP_ELEMS) {
            const int left = head_dim - g * SL_GROUP_ELEMS;
            const int width = left < SL_GROUP_ELEMS ? left : SL_GROUP_ELEMS;
            float sum[4] = {0}; /* four chains */
            for (int e = 0; e < width; e++) {
                const float scaled = x[e] * w->job->scale;
                sum[e % 4] += scaled;
                q[g * SL_GROUP_ELEMS + w->order.place[e]] = scaled * w->order.factor[e];
            }
            q[n_groups * SL_GROUP_ELEMS + g * SL_HOST_SUM_LANES] =
                (sum[0] + sum[1]) + (sum[2] + sum[3]);
        }
    }
}

static void store_results(const sl_cpu_host_work *w, const sl_cpu_host_item *item,
                          const sl_cpu_host_scratch *s) {
    const int n = item->n_heads * w->group, head_dim = w->job->format.head_dim;
    const int n_groups = sl_cpu_host_groups(head_dim);
    for (int i = 0; i < n; i++) {
        const float *mean = s->mean + (size_t)i * w->mean_floats;
        float *y = s->x + i * head_dim;
        const float scale = 1.0f / s->sum[i];
        for (int d = 0; d < head_dim; d++) {
            const int g = d / SL_GROUP_ELEMS, e = d % SL_GROUP_ELEMS;
            const float sum = mean[g * SL_GROUP_ELEMS + w->order.place[e]] * w->order.factor[e];
            y[d] = (sum + mean[n_groups * SL_GROUP_ELEMS + g]) * scale;
        }
    }
    const size_t at = query_at(w, item, w->job->ldo);
    if (w->job->act == SL_DTYPE_F32)
        memcpy((float *)w->job->out + at, s->x, (size_t)(n * head_dim) * sizeof *s->x);
    else
        w->host->kernels->to_f16((sl_f16 *)w->job->out + at, s->x, n * head_dim);
}

/* Page by page, all heads of the item in each: their keys are one run of memory, and so are their
 * values. */
static void attend_dense(const sl_cpu_host_work *w, const sl_cpu_host_item *item,
                         const sl_cpu_host_scratch *s) {
    const sl_kv_format *f = &w->job->format;
    const int group = w->group;
    uint8_t token[SL_PAGE_TOKENS];
    for (int base = item->first - item->first % SL_PAGE_TOKENS; base < item->last;
         base += SL_PAGE_TOKENS) {
        const int first = item->first > base ? item->first - base : 0;
        const int last = item->last - base < SL_PAGE_TOKENS ? item->last - base : SL_PAGE_TOKENS;
        for (int j = first; j < last; j++) token[j - first] = (uint8_t)j;
        for (int h = 0; h < item->n_heads; h++) {
            const char *keys = sl_cpu_host_keys(w, item, item->head0 + h, base), *next = NULL;
            if (h + 1 < item->n_heads)
                next = keys + f->head_bytes;
            else if (base + SL_PAGE_TOKENS < item->last)
                next = sl_cpu_host_keys(w, item, item->head0, base + SL_PAGE_TOKENS);
            const sl_cpu_host_part k = {.format = f, .data = keys, .next = next};
            const sl_cpu_host_part v = {.format = f,
                                        .data = keys + f->half_bytes,
                                        .next = next ? next + f->half_bytes : NULL};
            const int i0 = h * group;
            w->host->host->scores(s->score, SL_PAGE_TOKENS, s->q + (size_t)i0 * w->query_floats,
                                  group, &k, first, last);
            for (int i = 0; i < group; i++) {
                float *p = s->score + i * SL_PAGE_TOKENS;
                s->shrink[i] =
                    w->host->kernels->softmax(p, first, last, &s->max[i0 + i], &s->sum[i0 + i]);
                if (first > 0) memmove(p, p + first, (size_t)(last - first) * sizeof *p);
            }
            w->host->host->mix(s->mean + (size_t)i0 * w->mean_floats, s->shrink, s->score, group,
                               &v, token, last - first);
        }
    }
}

/* ---- scratch and the team ---- */

static void *take(char *base, size_t *used, size_t bytes) {
    void *part = base ? base + *used : NULL;
    *used += sl_align_up(bytes, 64);
    return part;
}

/* Lays the parts out from `base`, which may be NULL to measure. */
static sl_cpu_host_scratch scratch_at(const sl_cpu_host_work *w, size_t n_slots, char *base) {
    const size_t group = (size_t)w->group, n = (size_t)w->heads * group;
    sl_cpu_host_scratch s = {.n_slots = n_slots};
    size_t *used = &s.bytes;
    s.x = take(base, used, n * (size_t)w->job->format.head_dim * sizeof *s.x);
    s.q = take(base, used, n * w->query_floats * sizeof *s.q);
    s.mean = take(base, used, n * w->mean_floats * sizeof *s.mean);
    s.score = take(base, used, group * SL_PAGE_TOKENS * sizeof *s.score);
    s.max = take(base, used, n * sizeof *s.max);
    s.sum = take(base, used, n * sizeof *s.sum);
    s.shrink = take(base, used, group * sizeof *s.shrink);
    if (n_slots == 0) return s;
    s.scores = take(base, used, group * n_slots * sizeof *s.scores);
    s.rank = take(base, used, n_slots * sizeof *s.rank);
    s.bound = take(base, used, group * sizeof *s.bound);
    s.ties = take(base, used, group * sizeof *s.ties);
    s.token = take(base, used, 2 * group * SL_PAGE_TOKENS);
    s.n = take(base, used, 2 * group * sizeof *s.n);
    return s;
}

/* The first page's first head, which no page before it asks for: on its way while keys, values and
 * queries are packed. */
static void ask_first(const sl_cpu_host_work *w, const sl_cpu_host_item *item) {
    enum { CACHE_LINE = 64 };
    const sl_kv_format *f = &w->job->format;
    const char *keys = sl_cpu_host_keys(w, item, item->head0, item->first);
    for (size_t i = 0; i < f->head_bytes; i += CACHE_LINE) __builtin_prefetch(keys + i);
    for (size_t i = 0; i < f->head_bytes && w->job->sparsity == 0.0f; i += CACHE_LINE)
        __builtin_prefetch(keys + f->half_bytes + i);
}

typedef struct {
    sl_cpu_host_work work;
    size_t n_slots;
} run;

static void run_item(void *context, int number, int thread) {
    const run *r = context;
    const sl_cpu_host_work *w = &r->work;
    const sl_cpu_host *host = w->host;
    const sl_cpu_host_scratch s =
        scratch_at(w, r->n_slots, (char *)host->own.data + (size_t)thread * host->own_bytes);
    sl_cpu_host_item item = {.row = &w->job->row[number / w->items_per_row],
                             .head0 = number % w->items_per_row * w->heads};
    const int left = w->job->format.n_kv_heads - item.head0;
    item.n_heads = left < w->heads ? left : w->heads;
    item.first = first_key(w->job, item.row);
    item.last = item.row->n_tokens;

    ask_first(w, &item);
    if (w->job->k) append(w, &item, &s);
    load_queries(w, &item, &s);
    const int n = item.n_heads * w->group;
    memset(s.mean, 0, (size_t)n * w->mean_floats * sizeof *s.mean);
    for (int i = 0; i < n; i++) {
        s.max[i] = -INFINITY;
        s.sum[i] = 0.0f;
    }
    if (w->job->sparsity > 0.0f)
        sl_cpu_host_sparse(w, &item, &s);
    else
        attend_dense(w, &item, &s);
    store_results(w, &item, &s);
}

/* So many heads that their keys in a page are a run of some size, which the processor's own
 * prefetcher follows, as long as every thread gets several items. */
static int heads_of_item(const sl_cpu_host *host, const sl_host_job *job) {
    enum { RUN_BYTES = 16384, ITEMS_PER_THREAD = 4 };
    const int n_kv_heads = job->format.n_kv_heads;
    size_t heads = (RUN_BYTES + job->format.head_bytes - 1) / job->format.head_bytes;
    if (heads > (size_t)n_kv_heads) heads = (size_t)n_kv_heads;
    int n = (int)heads;
    while (n > 1 && (int64_t)job->n_rows * ((n_kv_heads + n - 1) / n) <
                        (int64_t)host->n_threads * ITEMS_PER_THREAD)
        n = (n + 1) / 2;
    return n;
}

static sl_status reserve(sl_cpu_host *host, size_t bytes) {
    enum { PART_ALIGN = 4096 }; /* threads share no cache line */
    if (bytes <= host->own_bytes) return SL_OK;
    const size_t part = sl_align_up(bytes, PART_ALIGN);
    size_t total;
    SL_TRY(sl_size_mul(part, (size_t)host->n_threads, &total));
    host->own_bytes = 0;
    SL_TRY(sl_cpu_reserve(&host->own, total, "host attention"));
    host->own_bytes = part;
    return SL_OK;
}

/* Bytes of one token of one head, keys or values. */
static uint64_t token_bytes(const sl_kv_format *f) {
    return sl_kv_row_bytes(f) + (uint64_t)sl_kv_groups(f) * 4;
}

sl_status sl_cpu_host_run(sl_cpu_host *host, const sl_host_job *job, uint64_t *bytes_out) {
    *bytes_out = 0;
    if (job->n_rows == 0) return SL_OK;
    SL_TRY(check_pages(job));
    run r = {.work = {.host = host,
                      .job = job,
                      .group = job->n_heads / job->format.n_kv_heads,
                      .heads = heads_of_item(host, job),
                      .query_floats = sl_cpu_host_query_floats(job->format.head_dim),
                      .mean_floats = sl_cpu_host_mean_floats(job->format.head_dim)}};
    sl_cpu_host_work *w = &r.work;
    host->host->order(&job->format, &w->order);
    w->items_per_row = (job->format.n_kv_heads + w->heads - 1) / w->heads;
    uint64_t n_parts = 0; /* tokens of one head, keys or values, that are read */
    for (int i = 0; i < job->n_rows; i++) {
        const sl_host_row *row = &job->row[i];
        const int first = first_key(job, row), n_keys = row->n_tokens - first;
        const uint64_t all = (uint64_t)n_keys * (uint64_t)job->format.n_kv_heads;
        uint64_t values = all;
        if (job->sparsity > 0.0f) {
            /* Query heads of a group may choose the same ones. */
            const uint64_t kept =
                (uint64_t)sl_cpu_host_kept(job->sparsity, n_keys) * (uint64_t)job->n_heads;
            values = kept < all ? kept : all;
            const size_t pages =
                (size_t)((row->n_tokens - 1) / SL_PAGE_TOKENS - first / SL_PAGE_TOKENS + 1);
            if (pages * SL_PAGE_TOKENS > r.n_slots) r.n_slots = pages * SL_PAGE_TOKENS;
        }
        n_parts += all + values;
    }
    const sl_cpu_host_scratch measured = scratch_at(w, r.n_slots, NULL);
    SL_TRY(reserve(host, measured.bytes));
    int64_t n_items = (int64_t)job->n_rows * w->items_per_row;
    if (n_items > INT32_MAX)
        return SL_FAIL(SL_ERR_ARG, "host attention: %d rows of %d heads are too many", job->n_rows,
                       job->format.n_kv_heads);
    sl_cpu_team_run(host->team, (int)n_items, run_item, &r);
    *bytes_out = n_parts * token_bytes(&job->format);
    return SL_OK;
}
