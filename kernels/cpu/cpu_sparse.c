/* Sparse attention of the CPU backend: decode rows by the kernels of host attention, prompts as
 * ever.
 */
#include <stdlib.h>

#include "cpu/cpu_choose.h"
#include "cpu/cpu_host_job.h"
#include "cpu/cpu_ops.h"

struct sl_cpu_sparse {
    sl_cpu_host host; /* on the backend's team */
    sl_cpu_buffer page_list;
};

static sl_status sparse_of(sl_cpu *cpu, struct sl_cpu_sparse **out) {
    if (!cpu->sparse) {
        cpu->sparse = calloc(1, sizeof *cpu->sparse);
        if (!cpu->sparse) return SL_FAIL(SL_ERR_NOMEM, "cpu backend: out of host memory");
        cpu->sparse->host = (sl_cpu_host){.n_threads = cpu->n_threads,
                                          .team = cpu->team,
                                          .kernels = cpu->kernels,
                                          .host = sl_cpu_choose_host_kernels(cpu->kernels)};
    }
    *out = cpu->sparse;
    return SL_OK;
}

void sl_cpu_sparse_close(struct sl_cpu_sparse *sparse) {
    if (!sparse) return;
    free(sparse->host.own.data);
    free(sparse->page_list.data);
    free(sparse);
}

/* Rows that may be handed over at a time. */
enum { MOST_ROWS = 256 };

/* Segments [first, first + n) of one row each, rows one after another. */
static sl_status attend_decode(sl_cpu *cpu, float *out, const float *q, int ldq, int n_heads,
                               const sl_kv_view *cache, float scale, int window, float sparsity,
                               const sl_segment *segment, int n) {
    sl_host_row row[MOST_ROWS];
    const int head_dim = cache->format.head_dim;
    struct sl_cpu_sparse *sparse;
    size_t n_pages = 0;
    uint64_t bytes;
    SL_TRY(sparse_of(cpu, &sparse));
    for (int i = 0; i < n; i++) n_pages += (size_t)segment[i].n_pages;
    SL_TRY(sl_cpu_reserve(&sparse->page_list, n_pages * sizeof(void *), "page lists"));
    void **page = sparse->page_list.data;
    for (int i = 0; i < n; i++) {
        row[i] = (sl_host_row){.n_tokens = segment[i].position0 + 1, .page = page};
        for (int k = 0; k < segment[i].n_pages; k++)
            *page++ = (char *)cache->base + (size_t)segment[i].pages[k] * cache->format.page_bytes;
    }
    const sl_host_job job = {.format = cache->format,
                             .act = SL_DTYPE_F32,
                             .n_heads = n_heads,
                             .scale = scale,
                             .window = window,
                             .sparsity = sparsity,
                             .n_rows = n,
                             .row = row,
                             .q = q + (size_t)segment[0].row0 * (size_t)ldq,
                             .ldq = ldq,
                             .out = out + (size_t)segment[0].row0 * (size_t)(n_heads * head_dim),
                             .ldo = n_heads * head_dim};
    SL_TRY(sl_cpu_host_check(&job));
    return sl_cpu_host_run(&sparse->host, &job, &bytes);
}

sl_status sl_cpu_attend_sparse(sl_cpu *cpu, float *out, const float *q, int ldq, int n_heads,
                               const sl_kv_view *cache, float scale, int window, float sparsity,
                               const sl_rows *rows) {
    const size_t ldo = (size_t)(n_heads * cache->format.head_dim);
    for (int s = 0, end; s < rows->n_segments; s = end) {
        end = s;
        while (end < rows->n_segments && rows->segment[end].n_rows == 1 && end - s < MOST_ROWS)
            end++;
        if (end > s) {
            SL_TRY(attend_decode(cpu, out, q, ldq, n_heads, cache, scale, window, sparsity,
                                 &rows->segment[s], end - s));
            continue;
        }
        sl_segment prompt = rows->segment[s];
        const size_t row0 = (size_t)prompt.row0;
        prompt.row0 = 0;
        const sl_rows part = {.n_rows = prompt.n_rows, .n_segments = 1, .segment = &prompt};
        SL_TRY(sl_cpu_attend(cpu, out + row0 * ldo, q + row0 * (size_t)ldq, ldq, n_heads, cache,
                             scale, window, &part));
        end = s + 1;
    }
    return SL_OK;
}
