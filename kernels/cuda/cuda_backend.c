#include "cuda/cuda_backend.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/bytes.h"
#include "cuda/cuda_check.h"
#include "cuda/cuda_copy.h"
#include "cuda/cuda_kv.h"
#include "cuda/cuda_linear.h"
#include "cuda/cuda_norm.h"
#include "cuda/cuda_pointwise.h"
#include "cuda/cuda_state.h"

enum { OLDEST_MAJOR = 7, OLDEST_MINOR = 5 };

static void backend_close(sl_backend *be) {
    sl_cuda *cuda = sl_cuda_of(be);
    /* What is queued may still use the memory. */
    for (int i = 0; i < SL_STREAM_COUNT; i++)
        if (cuda->stream[i]) cudaStreamSynchronize(cuda->stream[i]);
    sl_cuda_close_bound(cuda);
    sl_cuda_gemm_close(cuda->gemm);
    cudaFreeHost(cuda->ask);
    cudaFreeHost(cuda->answer);
    cudaFree(cuda->memory);
    for (int i = 0; i < SL_STREAM_COUNT; i++)
        if (cuda->stream[i]) cudaStreamDestroy(cuda->stream[i]);
    (void)cudaGetLastError(); /* a failure of the work itself has been reported by who waited */
    sl_cuda_pool_free(&cuda->pool);
    free(cuda->biases.run);
    free(cuda->logits_row);
    free(cuda->logits_scratch);
    free(cuda);
}

static sl_status backend_sync(sl_backend *be) {
    return SL_CUDA(cudaStreamSynchronize(sl_cuda_compute(sl_cuda_of(be))), "finish queued work");
}

/* ---- operators ---- */

/* y (+)= table rows of the ids, run by run of the table's slabs. */
static sl_status look_up(sl_cuda *cuda, const char *op, void *y, const sl_weight *table,
                         const int32_t *id, int64_t least, int64_t most, int offset, int n,
                         int accumulate) {
    SL_TRY(sl_cuda_check_weight(op, table));
    if (n == 0) return SL_OK;
    if (!y || !id) return SL_FAIL(SL_ERR_ARG, "%s on a null buffer", op);
    if (least + offset < 0 || most + offset >= table->rows)
        return SL_FAIL(SL_ERR_ARG, "%s: rows ask for %lld to %lld of a table of %d", op,
                       (long long)(least + offset), (long long)(most + offset), table->rows);
    for (int s = 0, next; s < table->n_slabs; s = next) {
        const sl_slab *slab = &table->slabs[s];
        int count;
        next = sl_cuda_next_run(table, s, &count);
        const sl_cuda_table run = {slab->data, slab->dtype, slab->row_bytes,
                                   slab->row0, count,       table->cols};
        SL_TRY(sl_cuda_embed(y, &run, id, offset, n, accumulate, sl_cuda_compute(cuda)));
    }
    return SL_OK;
}

static sl_status embed(sl_backend *be, void *y, const sl_weight *token_table, const sl_rows *rows) {
    const sl_cuda_bound *b;
    SL_TRY(sl_cuda_bound_rows(sl_cuda_of(be), rows, &b));
    return look_up(sl_cuda_of(be), "embed", y, token_table, b->rows.token, b->least_token,
                   b->most_token, 0, b->rows.n_rows, 0);
}

static sl_status add_positions(sl_backend *be, void *y, const sl_weight *pos_table,
                               int position_offset, const sl_rows *rows) {
    const sl_cuda_bound *b;
    SL_TRY(sl_cuda_bound_rows(sl_cuda_of(be), rows, &b));
    return look_up(sl_cuda_of(be), "add_positions", y, pos_table, b->rows.position, 0,
                   b->most_position, position_offset, b->rows.n_rows, 1);
}

static sl_status check_shape(const char *op, const void *y, const void *x, int n_rows, int cols) {
    if (n_rows < 0 || cols < 1) return SL_FAIL(SL_ERR_ARG, "%s on [%d, %d]", op, n_rows, cols);
    if (n_rows > 0 && (!y || !x)) return SL_FAIL(SL_ERR_ARG, "%s on a null buffer", op);
    return SL_OK;
}

static sl_status norm(sl_backend *be, void *y, const void *x, const float *gain, const float *bias,
                      sl_norm_kind kind, float eps, int n_rows, int cols) {
    SL_TRY(check_shape("norm", y, x, n_rows, cols));
    return sl_cuda_norm(y, x, gain, bias, kind, eps, n_rows, cols, sl_cuda_compute(sl_cuda_of(be)));
}

static sl_status rope(sl_backend *be, void *x, int ldx, int n_heads, int head_dim,
                      const float *inv_freq, const sl_rows *rows) {
    const sl_cuda_bound *b;
    SL_TRY(sl_cuda_bound_rows(sl_cuda_of(be), rows, &b));
    SL_TRY(check_shape("rope", x, x, b->rows.n_rows, n_heads));
    if (!inv_freq || (b->rows.n_rows > 0 && !b->rows.position))
        return SL_FAIL(SL_ERR_ARG, "rope without frequencies or positions");
    return sl_cuda_rope(x, ldx, n_heads, head_dim, inv_freq, b->rows.position, b->rows.n_rows,
                        sl_cuda_compute(sl_cuda_of(be)));
}

static sl_status covered_rows(sl_cuda *cuda, const char *op, const sl_rows *rows,
                              const sl_cuda_bound **out) {
    SL_TRY(sl_cuda_bound_rows(cuda, rows, out));
    if (!(*out)->covered)
        return SL_FAIL(SL_ERR_ARG, "%s: no segments cover the %d rows", op, (*out)->rows.n_rows);
    return SL_OK;
}

static sl_status kv_append(sl_backend *be, const sl_kv_view *cache, const void *k, const void *v,
                           int ld, const sl_rows *rows) {
    const sl_cuda_bound *b;
    SL_TRY(covered_rows(sl_cuda_of(be), "kv_append", rows, &b));
    SL_TRY(check_shape("kv_append", k, v, b->rows.n_rows, ld));
    return sl_cuda_kv_append(cache, k, v, ld, &b->rows, sl_cuda_compute(sl_cuda_of(be)));
}

static sl_status attend_sparse(sl_backend *be, void *out, const void *q, int ldq, int n_heads,
                               const sl_kv_view *cache, float scale, int window, float sparsity,
                               const sl_rows *rows) {
    sl_cuda *cuda = sl_cuda_of(be);
    const sl_cuda_bound *b;
    SL_TRY(covered_rows(cuda, "attend", rows, &b));
    SL_TRY(check_shape("attend", out, q, b->rows.n_rows, n_heads));
    return sl_cuda_attend(out, q, ldq, n_heads, cache, scale, window, sparsity, &b->rows,
                          cuda->partial, cuda->attend_bytes, sl_cuda_compute(cuda));
}

static sl_status attend(sl_backend *be, void *out, const void *q, int ldq, int n_heads,
                        const sl_kv_view *cache, float scale, int window, const sl_rows *rows) {
    return attend_sparse(be, out, q, ldq, n_heads, cache, scale, window, 0.0f, rows);
}

static sl_status activate(sl_backend *be, void *y, const void *g, const void *u, int ld,
                          sl_activation act, int n_rows, int n_cols) {
    SL_TRY(check_shape("activate", y, g, n_rows, n_cols));
    return sl_cuda_activate(y, g, u, ld, act, n_rows, n_cols, sl_cuda_compute(sl_cuda_of(be)));
}

static sl_status add(sl_backend *be, void *y, const void *x, int n_rows, int cols) {
    SL_TRY(check_shape("add", y, x, n_rows, cols));
    return sl_cuda_add(y, x, (size_t)n_rows * (size_t)cols, sl_cuda_compute(sl_cuda_of(be)));
}

static sl_status gather(sl_backend *be, void *y, const void *x, const int32_t *index, int n,
                        int cols) {
    SL_TRY(check_shape("gather", y, x, n, cols));
    if (n > 0 && !index) return SL_FAIL(SL_ERR_ARG, "gather without an index");
    return sl_cuda_gather(y, x, index, n, cols, sl_cuda_compute(sl_cuda_of(be)));
}

static sl_status page_copy(sl_backend *be, const sl_kv_view *cache, int32_t from, int32_t to) {
    SL_TRY(sl_cuda_check_cache("page_copy", cache));
    if (from < 0 || to < 0 || from == to)
        return SL_FAIL(SL_ERR_ARG, "page_copy from %d to %d", (int)from, (int)to);
    char *base = cache->base;
    const size_t bytes = cache->format.page_bytes;
    return SL_CUDA(cudaMemcpyAsync(base + (size_t)to * bytes, base + (size_t)from * bytes, bytes,
                                   cudaMemcpyDeviceToDevice, sl_cuda_compute(sl_cuda_of(be))),
                   "copy a page");
}

static const sl_backend_ops cuda_ops = {
    .name = "cuda",
    .act_bytes = sizeof(uint16_t),
    .device = &sl_cuda_device_ops,
    .close = backend_close,
    .bind_rows = sl_cuda_bind_rows,
    .sync = backend_sync,
    .embed = embed,
    .add_positions = add_positions,
    .norm = norm,
    .linear = sl_cuda_op_linear,
    .keep_bias = sl_cuda_keep_bias,
    .forget_biases = sl_cuda_forget_biases,
    .logits = sl_cuda_op_logits,
    .rope = rope,
    .kv_append = kv_append,
    .attend = attend,
    .attend_sparse = attend_sparse,
    .activate = activate,
    .add = add,
    .gather = gather,
    .choose = sl_cuda_op_choose,
    .choose_begin = sl_cuda_op_choose_begin,
    .choose_end = sl_cuda_op_choose_end,
    .page_copy = page_copy,
};

/* ---- opening ---- */

int sl_cuda_device_count(void) {
    int n = 0;
    if (cudaGetDeviceCount(&n) == cudaSuccess) return n;
    (void)cudaGetLastError();
    return 0;
}

sl_status sl_cuda_free_bytes(int device, size_t *out) {
    size_t free_bytes, all_bytes;
    SL_TRY(SL_CUDA(cudaSetDevice(device), "use the GPU"));
    SL_TRY(SL_CUDA(cudaMemGetInfo(&free_bytes, &all_bytes), "ask for the GPU's free memory"));
    *out = free_bytes;
    return SL_OK;
}

sl_status sl_cuda_identify(int device, sl_cuda_identity *out) {
    struct cudaDeviceProp prop;
    sl_cuda_identity identity = {.driver = 0};
    SL_TRY(SL_CUDA(cudaGetDeviceProperties(&prop, device), "ask for the GPU's name"));
    SL_TRY(SL_CUDA(cudaDriverGetVersion(&identity.driver), "ask for the driver's version"));
    SL_TRY(SL_CUDA(cudaRuntimeGetVersion(&identity.runtime), "ask for CUDA's version"));
    snprintf(identity.name, sizeof identity.name, "%.63s", prop.name);
    snprintf(identity.bus, sizeof identity.bus, "%04x:%02x:%02x.0",
             (unsigned)prop.pciDomainID & 0xffffu, (unsigned)prop.pciBusID & 0xffu,
             (unsigned)prop.pciDeviceID & 0xffu);
    identity.major = prop.major;
    identity.minor = prop.minor;
    *out = identity;
    return SL_OK;
}

static sl_status check_device(int device) {
    int major = 0, minor = 0;
    SL_TRY(SL_CUDA(cudaSetDevice(device), "use the GPU"));
    SL_TRY(SL_CUDA(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device),
                   "ask for the GPU's compute capability"));
    SL_TRY(SL_CUDA(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device),
                   "ask for the GPU's compute capability"));
    if (major < OLDEST_MAJOR || (major == OLDEST_MAJOR && minor < OLDEST_MINOR))
        return SL_FAIL(SL_ERR_DEVICE, "GPU %d has compute capability %d.%d, %d.%d is the oldest",
                       device, major, minor, OLDEST_MAJOR, OLDEST_MINOR);
    return SL_OK;
}

static sl_status take_memory(sl_cuda *cuda, size_t bytes) {
    size_t free_bytes = 0, total_bytes = 0;
    SL_TRY(SL_CUDA(cudaMemGetInfo(&free_bytes, &total_bytes), "ask for the GPU's memory"));
    if (bytes > free_bytes) {
        char want[32], have[32], all[32];
        return SL_FAIL(SL_ERR_NOMEM, "GPU %d: the budget is %s, but %s of %s are free",
                       cuda->device, sl_bytes_format(bytes, want, sizeof want),
                       sl_bytes_format(free_bytes, have, sizeof have),
                       sl_bytes_format(total_bytes, all, sizeof all));
    }
    void *memory = NULL;
    SL_TRY(SL_CUDA(cudaMalloc(&memory, bytes), "take the GPU's memory"));
    cuda->memory = memory;
    sl_cuda_pool_init(&cuda->pool, bytes);
    return SL_OK;
}

/* Small copies that computation waits for go first, and what other ranks wait for. */
static sl_status open_streams(sl_cuda *cuda) {
    int least = 0, greatest = 0;
    SL_TRY(SL_CUDA(cudaDeviceGetStreamPriorityRange(&least, &greatest), "ask for priorities"));
    for (int i = 0; i < SL_STREAM_COUNT; i++) {
        const int is_urgent = i == SL_STREAM_ASK || i == SL_STREAM_ANSWER ||
                              i == SL_STREAM_WIRE_IN || i == SL_STREAM_WIRE_OUT;
        SL_TRY(SL_CUDA(cudaStreamCreateWithPriority(&cuda->stream[i], cudaStreamNonBlocking,
                                                    is_urgent ? greatest : least),
                       "make a stream"));
    }
    return SL_OK;
}

/* CUDA loads a kernel with its first launch, and then waits for what is queued: not in a sweep. */
static sl_status load_small_copies(sl_cuda *cuda) {
    SL_TRY(sl_cuda_copy_small(cuda->device_ask, cuda->ask, sizeof *cuda->ask,
                              cuda->stream[SL_STREAM_ANSWER]));
    return SL_CUDA(cudaStreamSynchronize(cuda->stream[SL_STREAM_ANSWER]), "try a small copy");
}

size_t sl_cuda_unpack_bytes(sl_dtype weights) {
    return (size_t)(sl_dtype_group_bits(weights) ? 64 : 1) << 20;
}

/* The options with what they leave open. */
static sl_cuda_options complete(const sl_cuda_options *options) {
    sl_cuda_options o = *options;
    if (!o.workspace_bytes) o.workspace_bytes = (size_t)32 << 20;
    if (!o.unpack_bytes) o.unpack_bytes = (size_t)64 << 20;
    if (!o.attend_bytes) o.attend_bytes = (size_t)32 << 20;
    if (!o.max_rows) o.max_rows = 4096;
    if (!o.max_pages) o.max_pages = 65536;
    if (!o.n_bound) o.n_bound = 16;
    return o;
}

size_t sl_cuda_overhead_bytes(const sl_cuda_options *options) {
    const sl_cuda_options o = complete(options);
    /* As open_buffers() takes them. */
    const size_t parts[] = {o.workspace_bytes,
                            o.unpack_bytes,
                            SL_CUDA_MAX_BIAS * sizeof(uint16_t),
                            SL_CUDA_KEPT_BIASES * sizeof(uint16_t),
                            o.attend_bytes,
                            SL_CUDA_ASKED_ROWS * sizeof(sl_cuda_ask),
                            SL_CUDA_ASKED_ROWS * sizeof(sl_cuda_answer)};
    size_t sum = 0;
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++)
        sum += sl_align_up(parts[i], SL_CUDA_POOL_ALIGN);
    const size_t bound = sl_cuda_bound_bytes(o.max_rows, o.max_pages);
    return sum + ((size_t)o.n_bound + 1) * sl_align_up(bound, SL_CUDA_POOL_ALIGN);
}

static sl_status open_buffers(sl_cuda *cuda, const sl_cuda_options *o) {
    const size_t workspace_bytes = o->workspace_bytes;
    void *ask = NULL, *answer = NULL, *biases = NULL;
    SL_TRY(sl_cuda_take(cuda, workspace_bytes, "cuBLAS", &cuda->workspace));
    SL_TRY(sl_cuda_take(cuda, cuda->unpack_bytes, "unpacked weights", &cuda->unpacked));
    SL_TRY(sl_cuda_take(cuda, SL_CUDA_MAX_BIAS * sizeof(uint16_t), "a bias", &cuda->bias));
    SL_TRY(sl_cuda_take(cuda, SL_CUDA_KEPT_BIASES * sizeof(uint16_t), "biases", &biases));
    cuda->biases.copy = biases;
    SL_TRY(sl_cuda_take(cuda, cuda->attend_bytes, "attention results", &cuda->partial));
    SL_TRY(sl_cuda_take(cuda, SL_CUDA_ASKED_ROWS * sizeof(sl_cuda_ask), "sampling", &ask));
    cuda->device_ask = ask;
    SL_TRY(sl_cuda_take(cuda, SL_CUDA_ASKED_ROWS * sizeof(sl_cuda_answer), "tokens", &answer));
    cuda->device_answer = answer;
    SL_TRY(SL_CUDA(cudaHostAlloc((void **)&cuda->ask, SL_CUDA_ASKED_ROWS * sizeof *cuda->ask,
                                 cudaHostAllocDefault),
                   "pin sampling parameters"));
    SL_TRY(SL_CUDA(cudaHostAlloc((void **)&cuda->answer, SL_CUDA_ASKED_ROWS * sizeof *cuda->answer,
                                 cudaHostAllocDefault),
                   "pin tokens"));
    SL_TRY(sl_cuda_open_bound(cuda));
    return sl_cuda_gemm_open(cuda->workspace, workspace_bytes, &cuda->gemm);
}

sl_status sl_cuda_backend_open(const sl_cuda_options *options, sl_backend **out) {
    if (!options || !out) return SL_FAIL(SL_ERR_ARG, "cuda backend: no options or no result");
    const sl_cuda_options whole = complete(options), *o = &whole;
    if (o->memory_bytes == 0) return SL_FAIL(SL_ERR_ARG, "cuda backend: a budget of zero bytes");
    if (o->max_rows < 0 || o->max_pages < 0 || o->n_bound < 0 || o->device < 0)
        return SL_FAIL(SL_ERR_ARG, "cuda backend: device %d, %d rows, %d pages, %d numbers",
                       o->device, o->max_rows, o->max_pages, o->n_bound);
    SL_TRY(check_device(o->device));

    sl_status st = SL_OK;
    sl_cuda *cuda = calloc(1, sizeof *cuda);
    if (!cuda) return SL_FAIL(SL_ERR_NOMEM, "cuda backend: out of host memory");
    cuda->base.ops = &cuda_ops;
    cuda->device = o->device;
    SL_GO(SL_CUDA(
        cudaDeviceGetAttribute(&cuda->n_processors, cudaDevAttrMultiProcessorCount, o->device),
        "count processors"));
    SL_GO(sl_cuda_linear_mid_open(o->device, &cuda->has_mid));
    SL_GO(sl_cuda_linear_wgmma_open(o->device, &cuda->has_wgmma));
    cuda->max_rows = o->max_rows;
    cuda->max_pages = o->max_pages;
    cuda->n_bound = o->n_bound;
    cuda->unpack_bytes = o->unpack_bytes;
    cuda->attend_bytes = o->attend_bytes;
    SL_GO(open_streams(cuda));
    SL_GO(take_memory(cuda, o->memory_bytes));
    SL_GO(open_buffers(cuda, o));
    SL_GO(load_small_copies(cuda));
    *out = &cuda->base;
    return SL_OK;

fail:
    backend_close(&cuda->base);
    return st;
}
