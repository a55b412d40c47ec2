/* The rows of micro-batches, checked and brought to the device. */
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "cuda/cuda_check.h"
#include "cuda/cuda_state.h"

/* Where the arrays of one bound micro-batch lie, bytes from its start. */
typedef struct {
    size_t token, position, in_segment, segment, pages, bytes;
} layout;

static layout layout_for(int max_rows, int max_pages) {
    const size_t ids = sl_align_up((size_t)max_rows * sizeof(int32_t), 16);
    layout l = {.token = 0, .position = ids, .in_segment = 2 * ids, .segment = 3 * ids};
    l.pages = l.segment + (size_t)max_rows * sizeof(sl_cuda_segment);
    l.bytes = l.pages + sl_align_up((size_t)max_pages * sizeof(int32_t), 16);
    return l;
}

size_t sl_cuda_bound_bytes(int max_rows, int max_pages) {
    return layout_for(max_rows, max_pages).bytes;
}

sl_status sl_cuda_open_bound(sl_cuda *cuda) {
    const size_t bytes = sl_cuda_bound_bytes(cuda->max_rows, cuda->max_pages);
    cuda->bound = calloc((size_t)cuda->n_bound + 1, sizeof *cuda->bound);
    if (!cuda->bound) return SL_FAIL(SL_ERR_NOMEM, "cuda backend: out of host memory");
    for (int i = 0; i <= cuda->n_bound; i++) {
        sl_cuda_bound *b = &cuda->bound[i];
        SL_TRY(sl_cuda_take(cuda, bytes, "the rows of a micro-batch", &b->device));
        SL_TRY(SL_CUDA(cudaHostAlloc(&b->host, bytes, cudaHostAllocDefault),
                       "pin the rows of a micro-batch"));
        SL_TRY(
            SL_CUDA(cudaEventCreateWithFlags(&b->sent, cudaEventDisableTiming), "make an event"));
    }
    return SL_OK;
}

void sl_cuda_close_bound(sl_cuda *cuda) {
    for (int i = 0; cuda->bound && i <= cuda->n_bound; i++) {
        if (cuda->bound[i].sent) cudaEventDestroy(cuda->bound[i].sent);
        cudaFreeHost(cuda->bound[i].host);
    }
    free(cuda->bound);
    cuda->bound = NULL;
}

static sl_status check_rows(const sl_cuda *cuda, const sl_rows *rows) {
    if (rows->n_rows < 0 || rows->n_rows > cuda->max_rows)
        return SL_FAIL(SL_ERR_ARG, "cuda backend: %d rows, opened for %d", rows->n_rows,
                       cuda->max_rows);
    if (rows->n_segments < 0 || (rows->n_segments > 0 && !rows->segment))
        return SL_FAIL(SL_ERR_ARG, "cuda backend: %d segments at null", rows->n_segments);
    int next = 0;
    int64_t n_pages = 0;
    for (int s = 0; s < rows->n_segments; s++) {
        const sl_segment *g = &rows->segment[s];
        if (g->row0 != next || g->n_rows < 1 || g->n_rows > rows->n_rows - next)
            return SL_FAIL(SL_ERR_ARG,
                           "cuda backend: segment %d has rows [%d, +%d), expected from %d in %d", s,
                           g->row0, g->n_rows, next, rows->n_rows);
        const int64_t n_tokens = (int64_t)g->position0 + g->n_rows;
        if (g->position0 < 0 || n_tokens > INT32_MAX || !g->pages ||
            (int64_t)g->n_pages * SL_PAGE_TOKENS < n_tokens)
            return SL_FAIL(SL_ERR_ARG,
                           "cuda backend: segment %d needs positions [%d, +%d), which %d pages do "
                           "not hold",
                           s, g->position0, g->n_rows, g->n_pages);
        for (int i = 0; i < g->n_pages; i++)
            if (g->pages[i] < 0)
                return SL_FAIL(SL_ERR_ARG, "cuda backend: page %d of segment %d has number %d", i,
                               s, (int)g->pages[i]);
        next += g->n_rows;
        n_pages += g->n_pages;
    }
    if (rows->n_segments > 0 && next != rows->n_rows)
        return SL_FAIL(SL_ERR_ARG, "cuda backend: segments hold %d rows of %d", next, rows->n_rows);
    if (n_pages > cuda->max_pages)
        return SL_FAIL(SL_ERR_ARG, "cuda backend: page lists of %lld entries, opened for %d",
                       (long long)n_pages, cuda->max_pages);
    return SL_OK;
}

/* Segments of one row first: the two kernels of attention each take a range. */
static void put_segments(const sl_rows *rows, int decode, char *host, const layout *l,
                         sl_cuda_rows *out, int *n, int *n_pages) {
    sl_cuda_segment *segment = (sl_cuda_segment *)(host + l->segment);
    int32_t *in_segment = (int32_t *)(host + l->in_segment);
    int32_t *pages = (int32_t *)(host + l->pages);
    for (int s = 0; s < rows->n_segments; s++) {
        const sl_segment *g = &rows->segment[s];
        if ((g->n_rows == 1) != decode) continue;
        segment[*n] = (sl_cuda_segment){g->row0, g->n_rows, g->position0, *n_pages};
        memcpy(pages + *n_pages, g->pages, (size_t)g->n_pages * sizeof *pages);
        *n_pages += g->n_pages;
        for (int r = 0; r < g->n_rows; r++) in_segment[g->row0 + r] = *n;
        if (decode && g->position0 + 1 > out->max_decode_tokens)
            out->max_decode_tokens = g->position0 + 1;
        if (!decode && g->n_rows > out->max_prefill_rows) out->max_prefill_rows = g->n_rows;
        ++*n;
    }
}

static void put_ids(const int32_t *ids, int n, char *to, int64_t *least, int64_t *most) {
    *least = INT64_MAX;
    *most = -1;
    if (!ids) return;
    memcpy(to, ids, (size_t)n * sizeof *ids);
    for (int i = 0; i < n; i++) {
        *least = ids[i] < *least ? ids[i] : *least;
        *most = ids[i] > *most ? ids[i] : *most;
    }
}

static sl_status bind(sl_cuda *cuda, sl_cuda_bound *b, const sl_rows *rows) {
    SL_TRY(check_rows(cuda, rows));
    const layout l = layout_for(cuda->max_rows, cuda->max_pages);
    SL_TRY(SL_CUDA(cudaEventSynchronize(b->sent), "wait for a micro-batch's last rows"));
    char *host = b->host, *device = b->device;
    sl_cuda_rows out = {.n_rows = rows->n_rows, .n_segments = rows->n_segments};
    int n = 0, n_pages = 0;
    int64_t least_position;
    put_segments(rows, 1, host, &l, &out, &n, &n_pages);
    out.n_decode = n;
    put_segments(rows, 0, host, &l, &out, &n, &n_pages);
    put_ids(rows->token, rows->n_rows, host + l.token, &b->least_token, &b->most_token);
    put_ids(rows->position, rows->n_rows, host + l.position, &least_position, &b->most_position);
    if (rows->position && rows->n_rows > 0 && least_position < 0)
        return SL_FAIL(SL_ERR_ARG, "cuda backend: a row has position %lld",
                       (long long)least_position);
    out.token = rows->token ? (const int32_t *)(device + l.token) : NULL;
    out.position = rows->position ? (const int32_t *)(device + l.position) : NULL;
    out.in_segment = (const int32_t *)(device + l.in_segment);
    out.segment = (const sl_cuda_segment *)(device + l.segment);
    out.pages = (const int32_t *)(device + l.pages);
    b->rows = out;
    b->covered = rows->n_segments > 0 || rows->n_rows == 0;
    /* On the operators' own stream: behind those that still read the rows before, and ahead of
     * those that read these. */
    const size_t bytes = l.pages + (size_t)n_pages * sizeof(int32_t);
    SL_TRY(
        SL_CUDA(cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, sl_cuda_compute(cuda)),
                "copy a micro-batch's rows"));
    return SL_CUDA(cudaEventRecord(b->sent, sl_cuda_compute(cuda)), "record an event");
}

sl_status sl_cuda_bind_rows(sl_backend *be, int number, sl_rows *rows) {
    sl_cuda *cuda = sl_cuda_of(be);
    if (!rows) return SL_FAIL(SL_ERR_ARG, "cuda backend: no rows");
    if (number < 0 || number >= cuda->n_bound)
        return SL_FAIL(SL_ERR_ARG, "cuda backend: rows number %d, opened for %d", number,
                       cuda->n_bound);
    SL_TRY(bind(cuda, &cuda->bound[number], rows));
    rows->device = &cuda->bound[number];
    return SL_OK;
}

sl_status sl_cuda_bound_rows(sl_cuda *cuda, const sl_rows *rows, const sl_cuda_bound **out) {
    if (!rows) return SL_FAIL(SL_ERR_ARG, "cuda backend: no rows");
    if (!rows->device) SL_TRY(bind(cuda, &cuda->bound[cuda->n_bound], rows));
    *out = rows->device ? rows->device : &cuda->bound[cuda->n_bound];
    return SL_OK;
}
