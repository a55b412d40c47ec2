/* The device's memory, copies and events. */
#include <stdlib.h>

#include "base/bytes.h"
#include "cuda/cuda_check.h"
#include "cuda/cuda_copy.h"
#include "cuda/cuda_state.h"
#include "store/numa.h"

struct sl_event {
    cudaEvent_t event;
};

sl_status sl_cuda_take(sl_cuda *cuda, size_t bytes, const char *what, void **out) {
    size_t offset;
    SL_TRY(sl_cuda_pool_take(&cuda->pool, bytes, what, &offset));
    *out = cuda->memory + offset;
    return SL_OK;
}

static sl_status take(sl_backend *be, size_t bytes, const char *what, void **out) {
    return sl_cuda_take(sl_cuda_of(be), bytes, what, out);
}

static void put(sl_backend *be, void *memory) {
    sl_cuda *cuda = sl_cuda_of(be);
    if (memory) sl_cuda_pool_put(&cuda->pool, (size_t)((char *)memory - cuda->memory));
}

static size_t budget_bytes(const sl_backend *be) {
    return ((const sl_cuda *)be)->pool.budget_bytes;
}

static size_t used_bytes(const sl_backend *be) {
    return ((const sl_cuda *)be)->pool.used_bytes;
}

static size_t peak_bytes(const sl_backend *be) {
    return ((const sl_cuda *)be)->pool.peak_bytes;
}

static sl_status pin(sl_backend *be, void *host, size_t bytes) {
    (void)be;
    /* Mapped: kernels reach it too. */
    return SL_CUDA(cudaHostRegister(host, bytes, cudaHostRegisterMapped), "pin host memory");
}

static void unpin(sl_backend *be, void *host) {
    (void)be;
    if (host) (void)SL_CUDA(cudaHostUnregister(host), "unpin host memory");
}

static int numa_node(const sl_backend *be) {
    char bus_id[32];
    const int device = ((const sl_cuda *)be)->device;
    if (SL_CUDA(cudaDeviceGetPCIBusId(bus_id, sizeof bus_id, device), "find the GPU's bus") !=
        SL_OK)
        return -1;
    return sl_numa_of_pci("", bus_id);
}

static sl_status check_stream(sl_stream stream) {
    if ((int)stream < 0 || stream >= SL_STREAM_COUNT)
        return SL_FAIL(SL_ERR_ARG, "cuda backend: stream %d", (int)stream);
    return SL_OK;
}

static sl_status copy(sl_backend *be, sl_stream stream, void *dst, const void *src, size_t bytes) {
    SL_TRY(check_stream(stream));
    if (bytes == 0) return SL_OK;
    if (stream == SL_STREAM_ASK || stream == SL_STREAM_ANSWER)
        return sl_cuda_copy_small(dst, src, bytes, sl_cuda_of(be)->stream[stream]);
    return SL_CUDA(
        cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDefault, sl_cuda_of(be)->stream[stream]),
        "queue a copy");
}

static sl_status drain(sl_backend *be) {
    sl_status st = SL_OK;
    for (int i = 0; i < SL_STREAM_COUNT; i++) {
        if (i == SL_STREAM_WIRE_IN || i == SL_STREAM_WIRE_OUT) continue;
        const sl_status now =
            SL_CUDA(cudaStreamSynchronize(sl_cuda_of(be)->stream[i]), "finish queued work");
        if (st == SL_OK) st = now;
    }
    return st;
}

static void *native_stream(sl_backend *be, sl_stream stream) {
    return (int)stream >= 0 && stream < SL_STREAM_COUNT ? sl_cuda_of(be)->stream[stream] : NULL;
}

static sl_status event_open(sl_backend *be, sl_event **out) {
    (void)be;
    sl_event *event = calloc(1, sizeof *event);
    if (!event) return SL_FAIL(SL_ERR_NOMEM, "cuda backend: out of host memory");
    const sl_status st = SL_CUDA(cudaEventCreate(&event->event), "make an event");
    if (st != SL_OK) {
        free(event);
        return st;
    }
    *out = event;
    return SL_OK;
}

static void event_close(sl_backend *be, sl_event *event) {
    (void)be;
    if (!event) return;
    (void)SL_CUDA(cudaEventDestroy(event->event), "end an event");
    free(event);
}

static sl_status record(sl_backend *be, sl_stream stream, sl_event *event) {
    SL_TRY(check_stream(stream));
    return SL_CUDA(cudaEventRecord(event->event, sl_cuda_of(be)->stream[stream]),
                   "record an event");
}

static sl_status wait(sl_backend *be, sl_stream stream, sl_event *event) {
    SL_TRY(check_stream(stream));
    return SL_CUDA(cudaStreamWaitEvent(sl_cuda_of(be)->stream[stream], event->event, 0),
                   "wait for an event");
}

static sl_status is_done(sl_backend *be, sl_event *event, int *done_out) {
    (void)be;
    const cudaError_t got = cudaEventQuery(event->event);
    if (got != cudaErrorNotReady) SL_TRY(SL_CUDA(got, "work before an event"));
    *done_out = got == cudaSuccess;
    return SL_OK;
}

static sl_status elapsed(sl_backend *be, sl_event *from, sl_event *to, double *seconds_out) {
    (void)be;
    float ms = 0.0f;
    SL_TRY(SL_CUDA(cudaEventElapsedTime(&ms, from->event, to->event), "time between events"));
    *seconds_out = (double)ms * 1e-3;
    return SL_OK;
}

const sl_device_ops sl_cuda_device_ops = {
    .take = take,
    .put = put,
    .budget_bytes = budget_bytes,
    .used_bytes = used_bytes,
    .peak_bytes = peak_bytes,
    .pin = pin,
    .unpin = unpin,
    .numa_node = numa_node,
    .copy = copy,
    .drain = drain,
    .native_stream = native_stream,
    .event_open = event_open,
    .event_close = event_close,
    .record = record,
    .wait = wait,
    .is_done = is_done,
    .elapsed = elapsed,
};
