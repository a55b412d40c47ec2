/* Causal attention over pages, and what writes the pages.
 *
 * A work item is one key/value head of one tile of a segment's rows.  Each page is expanded once
 * and serves all rows of the tile and all query heads of the group: keys as a panel with lanes
 * along tokens, values as panels with lanes along the head dimension.  A row goes through its pages
 * in order with one online-softmax step per page, so its bits do not depend on the tile: a prompt
 * in one chunk, in many, or token by token gives the same. */
#include <math.h>
#include <string.h>

#include "base/bytes.h"
#include "cpu/cpu_ops.h"

_Static_assert((int)SL_STRIP == (int)SL_PAGE_TOKENS, "a page's keys are one strip");

/* Query vectors of a tile: enough that expanding a page costs a few per cent of using it, few
 * enough that queries, scores and sums (some 100 KiB at head_dim 64) stay in L2. */
enum { TILE_QUERIES = 112 };

typedef struct {
    int segment;
    int row0; /* of the segment */
    int n_rows;
} row_tile;

typedef struct {
    const sl_cpu *cpu;
    const sl_cpu_kernels *kernels;
    const row_tile *tiles;
    float *out;
    const float *q;
    int ldq;
    int n_heads;
    int group; /* query heads per key/value head */
    const sl_kv_view *cache;
    float scale;
    int window;
    const sl_rows *rows;
} attention;

/* Parts of a thread's scratch, in floats. */
typedef struct {
    float *q;       /* by group of <= SL_TILE queries: [head_dim, queries], scaled */
    float *keys;    /* [head_dim, SL_STRIP] */
    float *values;  /* [head_strips][SL_STRIP][SL_STRIP] */
    float *scores;  /* [queries, SL_STRIP] */
    float *mean;    /* [queries, head_strips * SL_STRIP], unnormalised */
    float *max;     /* [queries] */
    float *sum;     /* [queries] */
    float *scratch; /* expand()'s */
    size_t n_floats;
} workspace;

static int head_strips(int head_dim) {
    return (head_dim + SL_STRIP - 1) / SL_STRIP;
}

static float *take(float *base, size_t *used, size_t n_floats) {
    float *part = base ? base + *used : NULL;
    *used += sl_align_up(n_floats, 16); /* 64 bytes */
    return part;
}

/* Lays the parts out from `base`, which may be NULL to measure. */
static workspace workspace_at(float *base, int n_queries, int head_dim) {
    const size_t n = (size_t)n_queries, d = (size_t)head_dim;
    const size_t padded = (size_t)head_strips(head_dim) * SL_STRIP;
    workspace ws = {0};
    ws.q = take(base, &ws.n_floats, n * d);
    ws.keys = take(base, &ws.n_floats, d * SL_STRIP);
    ws.values = take(base, &ws.n_floats, padded * SL_STRIP);
    ws.scores = take(base, &ws.n_floats, n * SL_STRIP);
    ws.mean = take(base, &ws.n_floats, n * padded);
    ws.max = take(base, &ws.n_floats, n);
    ws.sum = take(base, &ws.n_floats, n);
    ws.scratch = take(base, &ws.n_floats, SL_EXPAND_SCRATCH);
    return ws;
}

/* First of query group i out of n_groups of nearly equal size. */
static int group_start(int i, int n_groups, int n_queries) {
    return (int)((int64_t)i * n_queries / n_groups);
}

/* Query i of a tile is row i / group, head i % group. */
static void load_queries(const attention *a, const row_tile *tile, int kv_head, int n_groups,
                         const workspace *ws) {
    const sl_segment *segment = &a->rows->segment[tile->segment];
    const int head_dim = a->cache->format.head_dim, n_queries = tile->n_rows * a->group;
    for (int i = 0; i < n_groups; i++) {
        const int q0 = group_start(i, n_groups, n_queries);
        const int n = group_start(i + 1, n_groups, n_queries) - q0;
        float *to = ws->q + (size_t)q0 * (size_t)head_dim;
        for (int j = 0; j < n; j++) {
            const int row = segment->row0 + tile->row0 + (q0 + j) / a->group;
            const int head = kv_head * a->group + (q0 + j) % a->group;
            const float *from =
                a->q + (size_t)row * (size_t)a->ldq + (size_t)head * (size_t)head_dim;
            for (int d = 0; d < head_dim; d++) to[d * n + j] = from[d] * a->scale;
        }
    }
}

/* Keys [*first, *last) of the page whose first token has position `base` that `position` sees. */
static void visible(const attention *a, int position, int base, int *first, int *last) {
    const int low = a->window > 0 && position >= a->window ? position + 1 - a->window : 0;
    *first = low > base ? low - base : 0;
    *last = position + 1 - base < SL_PAGE_TOKENS ? position + 1 - base : SL_PAGE_TOKENS;
}

/* Softmax step of queries [q0, q0 + n) over one page, whose scores become weights.
 * Returns whether any of them sees a key of it. */
static int weigh(const attention *a, int position0, int base, int q0, int n, int padded,
                 const workspace *ws) {
    int any = 0;
    for (int i = q0; i < q0 + n; i++) {
        float *score = ws->scores + (size_t)i * SL_STRIP;
        int first, last;
        visible(a, position0 + i / a->group, base, &first, &last);
        if (first >= last) {
            memset(score, 0, SL_STRIP * sizeof *score);
            continue;
        }
        any = 1;
        const float shrink = a->kernels->softmax(score, first, last, &ws->max[i], &ws->sum[i]);
        if (shrink == 1.0f) continue;
        float *mean = ws->mean + (size_t)i * (size_t)padded;
        for (int d = 0; d < padded; d++) mean[d] *= shrink;
    }
    return any;
}

/* Keys of one head of the page that holds position `base`. */
static const char *head_keys(const attention *a, const sl_segment *segment, int kv_head, int base) {
    const sl_kv_format *format = &a->cache->format;
    return (const char *)a->cache->base +
           (size_t)segment->pages[base / SL_PAGE_TOKENS] * format->page_bytes +
           (size_t)kv_head * format->head_bytes;
}

/* Pages lie anywhere, so the hardware cannot guess the next one.  Its keys are asked for before
 * this page is expanded and its values afterwards: a core waits when it has some 16 lines under
 * way. */
static void prefetch_head(const sl_kv_format *format, const char *head) {
    enum { CACHE_LINE = 64 };
    for (size_t i = 0; i < format->head_bytes; i += CACHE_LINE) __builtin_prefetch(head + i);
}

/* One head's codes and pairs in a page of a group format. */
static sl_cpu_group_rows group_rows(const sl_kv_format *format, const char *head) {
    const size_t row_bytes = sl_kv_row_bytes(format);
    const uint8_t *codes = (const uint8_t *)head;
    return (sl_cpu_group_rows){.codes = codes,
                               .code_stride = row_bytes,
                               .pairs = codes + SL_PAGE_TOKENS * row_bytes,
                               .pair_stride = (size_t)sl_kv_groups(format) * 4,
                               .bits = sl_dtype_group_bits(format->dtype)};
}

/* Keys and values of one head of a page, whose first n_valid tokens are there, as panels. */
static void expand_head(const attention *a, const workspace *ws, const char *keys, int n_valid) {
    const sl_kv_format *format = &a->cache->format;
    const int head_dim = format->head_dim, is_grouped = sl_dtype_group_bits(format->dtype) != 0;
    const char *values = keys + format->half_bytes;
    const sl_cpu_group_rows key_rows = group_rows(format, keys);
    for (int d0 = 0; d0 < head_dim; d0 += SL_PANEL_DEPTH) {
        const int n_d = head_dim - d0 < SL_PANEL_DEPTH ? head_dim - d0 : SL_PANEL_DEPTH;
        float *panel = ws->keys + (size_t)d0 * SL_STRIP;
        if (is_grouped)
            a->kernels->expand_groups(panel, &key_rows, n_valid, d0, n_d);
        else
            a->kernels->expand(panel, keys, format->dtype, key_rows.code_stride, n_valid, d0, n_d,
                               ws->scratch);
    }
    if (is_grouped) {
        const sl_cpu_group_rows value_rows = group_rows(format, values);
        a->kernels->group_values(ws->values, &value_rows, head_dim, n_valid);
    } else {
        a->kernels->values(ws->values, values, format->dtype, head_dim, n_valid);
    }
}

static void attend_tile(const attention *a, const row_tile *tile, int kv_head, float *own) {
    const sl_kv_format *format = &a->cache->format;
    const sl_segment *segment = &a->rows->segment[tile->segment];
    const int head_dim = format->head_dim, strips = head_strips(head_dim);
    const int padded = strips * SL_STRIP;
    const int n_queries = tile->n_rows * a->group;
    const int n_groups = (n_queries + SL_TILE - 1) / SL_TILE;
    const workspace ws = workspace_at(own, n_queries, head_dim);
    load_queries(a, tile, kv_head, n_groups, &ws);
    memset(ws.mean, 0, (size_t)n_queries * (size_t)padded * sizeof(float));
    memset(ws.sum, 0, (size_t)n_queries * sizeof(float));
    for (int i = 0; i < n_queries; i++) ws.max[i] = -INFINITY;

    const int position0 = segment->position0 + tile->row0; /* of the tile's first row */
    const int end = position0 + tile->n_rows;
    const int start = a->window > 0 && position0 >= a->window ? position0 + 1 - a->window : 0;
    for (int base = start - start % SL_PAGE_TOKENS; base < end; base += SL_PAGE_TOKENS) {
        const int n_valid = end - base < SL_PAGE_TOKENS ? end - base : SL_PAGE_TOKENS;
        const char *keys = head_keys(a, segment, kv_head, base);
        const char *next = base + SL_PAGE_TOKENS < end
                               ? head_keys(a, segment, kv_head, base + SL_PAGE_TOKENS)
                               : NULL;
        if (next) prefetch_head(format, next);
        expand_head(a, &ws, keys, n_valid);
        if (next) prefetch_head(format, next + format->half_bytes);
        for (int i = 0; i < n_groups; i++) {
            const int q0 = group_start(i, n_groups, n_queries);
            const int n = group_start(i + 1, n_groups, n_queries) - q0;
            a->kernels->multiply(ws.scores + (size_t)q0 * SL_STRIP, SL_STRIP,
                                 ws.q + (size_t)q0 * (size_t)head_dim, ws.keys, n, head_dim,
                                 SL_STRIP, 0);
            if (!weigh(a, position0, base, q0, n, padded, &ws)) continue;
            for (int s = 0; s < strips; s++)
                a->kernels->mix(ws.mean + (size_t)q0 * (size_t)padded + s * SL_STRIP, padded,
                                ws.scores + (size_t)q0 * SL_STRIP,
                                ws.values + (size_t)s * SL_STRIP * SL_STRIP, n);
        }
    }
    for (int i = 0; i < n_queries; i++) {
        const size_t row = (size_t)(segment->row0 + tile->row0 + i / a->group);
        const size_t head = (size_t)(kv_head * a->group + i % a->group);
        const float *mean = ws.mean + (size_t)i * (size_t)padded;
        float *out = a->out + (row * (size_t)a->n_heads + head) * (size_t)head_dim;
        const float scale = 1.0f / ws.sum[i];
        for (int d = 0; d < head_dim; d++) out[d] = mean[d] * scale;
    }
}

static void attend_item(void *context, int item, int thread) {
    const attention *a = context;
    const int n_kv_heads = a->cache->format.n_kv_heads;
    attend_tile(a, &a->tiles[item / n_kv_heads], item % n_kv_heads, sl_cpu_own(a->cpu, thread));
}

static int tile_rows(int group) {
    return group < TILE_QUERIES ? TILE_QUERIES / group : 1;
}

/* Cuts the segments into tiles, the last rows first: they see the most keys, and the longest work
 * should not start last. */
static int cut_tiles(const sl_rows *rows, int rows_per_tile, row_tile *tiles) {
    int n = 0;
    for (int s = 0; s < rows->n_segments; s++) {
        for (int end = rows->segment[s].n_rows; end > 0; end -= rows_per_tile) {
            const int row0 = end > rows_per_tile ? end - rows_per_tile : 0;
            if (tiles) tiles[n] = (row_tile){.segment = s, .row0 = row0, .n_rows = end - row0};
            n++;
        }
    }
    return n;
}

sl_status sl_cpu_attend(sl_cpu *cpu, float *out, const float *q, int ldq, int n_heads,
                        const sl_kv_view *cache, float scale, int window, const sl_rows *rows) {
    const int n_kv_heads = cache->format.n_kv_heads, head_dim = cache->format.head_dim;
    attention a = {.cpu = cpu,
                   .kernels = cpu->kernels,
                   .out = out,
                   .q = q,
                   .ldq = ldq,
                   .n_heads = n_heads,
                   .group = n_heads / n_kv_heads,
                   .cache = cache,
                   .scale = scale,
                   .window = window,
                   .rows = rows};
    const int rows_per_tile = tile_rows(a.group);
    const workspace measured = workspace_at(NULL, rows_per_tile * a.group, head_dim);
    SL_TRY(sl_cpu_reserve_own(cpu, measured.n_floats * sizeof(float), "attention"));
    const int n_tiles = cut_tiles(rows, rows_per_tile, NULL);
    SL_TRY(sl_cpu_reserve(&cpu->shared, (size_t)n_tiles * sizeof(row_tile), "attention tiles"));
    row_tile *tiles = cpu->shared.data;
    cut_tiles(rows, rows_per_tile, tiles);

    a.tiles = tiles;
    sl_cpu_team_run(cpu->team, n_tiles * n_kv_heads, attend_item, &a);
    return SL_OK;
}

/* The segment of row `row`; segments are in row order and cover all rows. */
static const sl_segment *segment_of(const sl_rows *rows, int row) {
    int low = 0, high = rows->n_segments - 1;
    while (low < high) {
        const int middle = low + (high - low + 1) / 2;
        if (rows->segment[middle].row0 <= row)
            low = middle;
        else
            high = middle - 1;
    }
    return &rows->segment[low];
}

typedef struct {
    const sl_cpu_kernels *kernels;
    const sl_kv_view *cache;
    const float *k, *v;
    int ld;
    const sl_rows *rows;
} appending;

/* sl_kv_put() of a group format, by the vector kernels. */
static void put_groups(const appending *a, char *head, int token, const float *x) {
    const sl_kv_format *format = &a->cache->format;
    const int bits = sl_dtype_group_bits(format->dtype), n_groups = sl_kv_groups(format);
    const size_t row_bytes = sl_kv_row_bytes(format);
    uint8_t *codes = (uint8_t *)head + (size_t)token * row_bytes;
    char *pairs =
        head + SL_PAGE_TOKENS * row_bytes + (size_t)token * (size_t)n_groups * 2 * sizeof(uint16_t);
    for (int g = 0; g < n_groups; g++) {
        const int at = g * SL_GROUP_ELEMS, left = format->head_dim - at;
        uint16_t pair[2];
        a->kernels->pack_group(codes + at * bits / 8, pair, x + at, bits,
                               left < SL_GROUP_ELEMS ? left : SL_GROUP_ELEMS);
        memcpy(pairs + (size_t)g * sizeof pair, pair, sizeof pair);
    }
}

static void put_token(const appending *a, char *head, int token, const float *x) {
    const sl_kv_format *format = &a->cache->format;
    char *row = head + (size_t)token * sl_kv_row_bytes(format);
    if (format->dtype == SL_DTYPE_F16)
        a->kernels->to_f16(row, x, format->head_dim);
    else if (format->dtype == SL_DTYPE_F32)
        memcpy(row, x, (size_t)format->head_dim * sizeof *x);
    else
        put_groups(a, head, token, x);
}

static void append_rows(void *context, int begin, int end, int thread) {
    (void)thread;
    const appending *a = context;
    const sl_kv_format *format = &a->cache->format;
    for (int r = begin; r < end; r++) {
        const sl_segment *segment = segment_of(a->rows, r);
        const int position = segment->position0 + r - segment->row0;
        const int token = position % SL_PAGE_TOKENS;
        char *keys = (char *)a->cache->base +
                     (size_t)segment->pages[position / SL_PAGE_TOKENS] * format->page_bytes;
        size_t from = (size_t)r * (size_t)a->ld;
        for (int h = 0; h < format->n_kv_heads; h++) {
            put_token(a, keys, token, a->k + from);
            put_token(a, keys + format->half_bytes, token, a->v + from);
            keys += format->head_bytes;
            from += (size_t)format->head_dim;
        }
    }
}

void sl_cpu_kv_append(sl_cpu *cpu, const sl_kv_view *cache, const float *k, const float *v, int ld,
                      const sl_rows *rows) {
    appending a = {.kernels = cpu->kernels, .cache = cache, .k = k, .v = v, .ld = ld, .rows = rows};
    const double elems = 2.0 * rows->n_rows * cache->format.n_kv_heads * cache->format.head_dim;
    sl_cpu_for_rows(cpu, elems, rows->n_rows, append_rows, &a);
}

void sl_cpu_page_copy(const sl_kv_view *cache, int32_t from, int32_t to) {
    const size_t bytes = cache->format.page_bytes;
    memcpy((char *)cache->base + (size_t)to * bytes, (char *)cache->base + (size_t)from * bytes,
           bytes);
}
