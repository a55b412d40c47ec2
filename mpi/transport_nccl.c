#include "transport_nccl.h"

#include <cuda_runtime_api.h>
#include <nccl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "mpi_check.h"

/* The link to the rank before, in which this rank is the second, and that to the rank after. */
enum { LINK_IN, LINK_OUT, N_LINKS };
enum { TRY_BYTES = 1 << 20 };

/* Blocks of a transfer's kernel: they take the processors from products for a moment only, and are
 * enough for NVLink to be no bottleneck.  They bound NCCL's buffers, too. */
enum { MAX_CTAS = 8 };
static const char BUFFER_BYTES[] = "1048576"; /* NCCL_BUFFSIZE unless it is set */

/* Neighbours find each other within this; NCCL looks at every network interface first. */
static const double OPEN_S = 60.0;
static const double CLOSE_S = 2.0;

typedef struct {
    sl_transport base;
    sl_transport *inner;
    ncclComm_t comm[N_LINKS]; /* NULL: there is no such rank, or it has been cut */
    int is_cut;
    double timeout_s;
    size_t bytes;
} transport_nccl;

static transport_nccl *self_of(sl_transport *t) {
    return (transport_nccl *)t;
}

/* ---- checks ---- */

static sl_status cuda_status(cudaError_t err, const char *what) {
    if (err == cudaSuccess) return SL_OK;
    (void)cudaGetLastError();
    return SL_FAIL(SL_ERR_COMM, "nccl transport: %s: %s (%s)", what, cudaGetErrorString(err),
                   cudaGetErrorName(err));
}

static const char *peer_word(int link) {
    return link == LINK_IN ? "from" : "to";
}

static int peer_of(const transport_nccl *t, int link) {
    return t->base.rank + (link == LINK_IN ? -1 : 1);
}

static sl_status link_failed(const transport_nccl *t, int link, const char *what, ncclResult_t r) {
    const char *more = ncclGetLastError(t->comm[link]);
    return SL_FAIL(SL_ERR_COMM, "nccl transport: %s %s rank %d: %s%s%.300s", what, peer_word(link),
                   peer_of(t, link), ncclGetErrorString(r), more && *more ? ": " : "",
                   more ? more : "");
}

/* Of a call that returned `r`: until NCCL has done with it. */
static sl_status settle(const transport_nccl *t, int link, ncclResult_t r, const char *what,
                        double timeout_s) {
    const double until_s = sl_clock_s() + timeout_s;
    sl_backoff backoff = {0};
    while (r == ncclInProgress) {
        if (sl_clock_s() > until_s)
            return SL_FAIL(SL_ERR_COMM, "nccl transport: %s %s rank %d: nothing for %.3g s", what,
                           peer_word(link), peer_of(t, link), timeout_s);
        sl_backoff_pause(&backoff);
        ncclResult_t state = ncclSuccess;
        const ncclResult_t asked = ncclCommGetAsyncError(t->comm[link], &state);
        r = asked == ncclSuccess ? state : asked;
    }
    return r == ncclSuccess ? SL_OK : link_failed(t, link, what, r);
}

/* ---- transfers ---- */

static sl_status check_link(const transport_nccl *t, int link) {
    if (t->comm[link]) return SL_OK;
    return t->is_cut ? SL_FAIL(SL_ERR_COMM, "nccl transport: rank %d is cut off", peer_of(t, link))
                     : SL_FAIL(SL_ERR_ARG, "nccl transport: rank %d has no neighbour %d of %d",
                               t->base.rank, peer_of(t, link), t->base.n_ranks);
}

static sl_status nccl_send_device(sl_transport *base, const void *memory, size_t bytes,
                                  void *stream) {
    transport_nccl *t = self_of(base);
    SL_TRY(check_link(t, LINK_OUT));
    if (bytes == 0) return SL_OK;
    return settle(t, LINK_OUT,
                  ncclSend(memory, bytes, ncclUint8, 1, t->comm[LINK_OUT], (cudaStream_t)stream),
                  "send hidden states", t->timeout_s);
}

static sl_status nccl_recv_device(sl_transport *base, void *memory, size_t bytes, void *stream) {
    transport_nccl *t = self_of(base);
    SL_TRY(check_link(t, LINK_IN));
    if (bytes == 0) return SL_OK;
    return settle(t, LINK_IN,
                  ncclRecv(memory, bytes, ncclUint8, 0, t->comm[LINK_IN], (cudaStream_t)stream),
                  "receive hidden states", t->timeout_s);
}

static sl_status nccl_check_device(sl_transport *base, double waited_s) {
    transport_nccl *t = self_of(base);
    for (int link = 0; link < N_LINKS; link++) {
        ncclResult_t state = ncclSuccess;
        if (!t->comm[link]) continue;
        const ncclResult_t asked = ncclCommGetAsyncError(t->comm[link], &state);
        if (asked != ncclSuccess || (state != ncclSuccess && state != ncclInProgress))
            return link_failed(t, link, "transfers", asked != ncclSuccess ? asked : state);
    }
    if (waited_s <= t->timeout_s) return SL_OK;
    return SL_FAIL(SL_ERR_COMM,
                   "nccl transport: a transfer of hidden states has not ended in %.3g s: a "
                   "neighbour of rank %d, its GPU or the link to it is down",
                   t->timeout_s, base->rank);
}

static void nccl_cut_device(sl_transport *base) {
    transport_nccl *t = self_of(base);
    for (int link = 0; link < N_LINKS; link++) {
        if (t->comm[link]) (void)ncclCommAbort(t->comm[link]);
        t->comm[link] = NULL;
    }
    t->is_cut = 1;
}

/* ---- all else ---- */

static sl_status nccl_send(sl_transport *t, int to, sl_channel channel, const void *buf,
                           size_t bytes, sl_ticket *ticket_out) {
    sl_transport *inner = self_of(t)->inner;
    return inner->ops->send(inner, to, channel, buf, bytes, ticket_out);
}

static sl_status nccl_recv(sl_transport *t, int from, sl_channel channel, void *buf, size_t bytes,
                           sl_ticket *ticket_out) {
    sl_transport *inner = self_of(t)->inner;
    return inner->ops->recv(inner, from, channel, buf, bytes, ticket_out);
}

static sl_status nccl_test(sl_transport *t, sl_ticket ticket, int *done_out) {
    sl_transport *inner = self_of(t)->inner;
    return inner->ops->test(inner, ticket, done_out);
}

static sl_status nccl_wait(sl_transport *t, sl_ticket ticket) {
    sl_transport *inner = self_of(t)->inner;
    return inner->ops->wait(inner, ticket);
}

static sl_status nccl_recv_message(sl_transport *t, int from, sl_channel channel, int wait,
                                   void **buf_out, size_t *bytes_out) {
    sl_transport *inner = self_of(t)->inner;
    return inner->ops->recv_message(inner, from, channel, wait, buf_out, bytes_out);
}

static sl_status nccl_agree(sl_transport *t, sl_status mine) {
    sl_transport *inner = self_of(t)->inner;
    return inner->ops->agree(inner, mine);
}

static sl_status nccl_min_i64(sl_transport *t, int64_t *values, int n) {
    sl_transport *inner = self_of(t)->inner;
    return inner->ops->min_i64(inner, values, n);
}

static sl_status nccl_broadcast(sl_transport *t, int root, void *buf, size_t bytes) {
    sl_transport *inner = self_of(t)->inner;
    return inner->ops->broadcast(inner, root, buf, bytes);
}

static sl_status nccl_gather(sl_transport *t, const void *mine, size_t bytes, void *out) {
    sl_transport *inner = self_of(t)->inner;
    return inner->ops->gather(inner, mine, bytes, out);
}

/* ---- the end ---- */

/* Both sides of a link end it together; one that does not come is not waited for. */
static void close_links(transport_nccl *t) {
    ncclResult_t ending[N_LINKS] = {ncclSuccess, ncclSuccess};
    for (int link = 0; link < N_LINKS; link++)
        if (t->comm[link]) ending[link] = ncclCommFinalize(t->comm[link]);
    const double until_s = sl_clock_s() + CLOSE_S;
    for (int link = 0; link < N_LINKS; link++) {
        const double left_s = until_s - sl_clock_s();
        if (!t->comm[link]) continue;
        if (settle(t, link, ending[link], "end the link", left_s > 0.0 ? left_s : 0.0) == SL_OK)
            (void)ncclCommDestroy(t->comm[link]);
        else
            (void)ncclCommAbort(t->comm[link]);
        t->comm[link] = NULL;
    }
}

static void nccl_close(sl_transport *base) {
    transport_nccl *t = self_of(base);
    close_links(t);
    sl_transport_close(t->inner);
    free(t);
}

static const sl_transport_ops nccl_ops = {
    .name = "nccl",
    .close = nccl_close,
    .send = nccl_send,
    .recv = nccl_recv,
    .test = nccl_test,
    .wait = nccl_wait,
    .recv_message = nccl_recv_message,
    .agree = nccl_agree,
    .min_i64 = nccl_min_i64,
    .broadcast = nccl_broadcast,
    .gather = nccl_gather,
    .send_device = nccl_send_device,
    .recv_device = nccl_recv_device,
    .check_device = nccl_check_device,
    .cut_device = nccl_cut_device,
};

/* ---- the beginning ---- */

/* What a rank says of its GPU. */
typedef struct {
    int32_t has_one;
    char uuid[16];
} gpu_of_rank;

static sl_status find_gpu(int device, gpu_of_rank *out) {
    struct cudaDeviceProp prop;
    memset(out, 0, sizeof *out);
    if (device < 0) return SL_OK;
    SL_TRY(cuda_status(cudaGetDeviceProperties(&prop, device), "ask for the GPU's number"));
    out->has_one = 1;
    memcpy(out->uuid, prop.uuid.bytes, sizeof out->uuid);
    return SL_OK;
}

static int compare_gpus(const gpu_of_rank *all, int n, char why[SL_NCCL_WHY_BYTES]) {
    for (int i = 0; i < n; i++) {
        if (!all[i].has_one) {
            snprintf(why, SL_NCCL_WHY_BYTES, "rank %d has no GPU", i);
            return 0;
        }
        for (int j = 0; j < i; j++) {
            if (memcmp(all[i].uuid, all[j].uuid, sizeof all[i].uuid) != 0) continue;
            snprintf(why, SL_NCCL_WHY_BYTES, "ranks %d and %d share a GPU", j, i);
            return 0;
        }
    }
    return 1;
}

sl_status sl_nccl_is_possible(sl_transport *t, int device, int *possible_out,
                              char why[SL_NCCL_WHY_BYTES]) {
    gpu_of_rank mine;
    const size_t n = (size_t)t->n_ranks;
    gpu_of_rank *all = calloc(n, sizeof *all);
    sl_status st = all ? find_gpu(device, &mine)
                       : SL_FAIL(SL_ERR_NOMEM, "GPUs of %zu ranks: out of host memory", n);
    SL_GO(t->ops->agree(t, st));
    SL_GO(t->ops->gather(t, &mine, sizeof mine, all));
    SL_GO(t->ops->broadcast(t, 0, all, n * sizeof *all));
    *possible_out = compare_gpus(all, t->n_ranks, why);

fail:
    free(all);
    return st;
}

/* Each rank makes the id of its link to the next, and is told that of its link to the one before.
 */
static sl_status exchange_ids(transport_nccl *t, ncclUniqueId id[N_LINKS]) {
    sl_transport *in = t->inner;
    sl_ticket sent = 0, got = 0;
    ncclResult_t r = ncclSuccess;
    if (!sl_transport_is_last(in)) r = ncclGetUniqueId(&id[LINK_OUT]);
    const sl_status st = r == ncclSuccess ? SL_OK
                                          : SL_FAIL(SL_ERR_COMM, "nccl transport: make an id: %s",
                                                    ncclGetErrorString(r));
    SL_TRY(in->ops->agree(in, st));
    if (!sl_transport_is_first(in))
        SL_TRY(in->ops->recv(in, in->rank - 1, SL_CHANNEL_HEADER, &id[LINK_IN], sizeof *id, &got));
    if (!sl_transport_is_last(in))
        SL_TRY(
            in->ops->send(in, in->rank + 1, SL_CHANNEL_HEADER, &id[LINK_OUT], sizeof *id, &sent));
    SL_TRY(in->ops->wait(in, got));
    return in->ops->wait(in, sent);
}

static sl_status open_links(transport_nccl *t, const ncclUniqueId id[N_LINKS]) {
    ncclResult_t opening[N_LINKS] = {ncclSuccess, ncclSuccess};
    const int is_there[N_LINKS] = {!sl_transport_is_first(t->inner),
                                   !sl_transport_is_last(t->inner)};
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    config.minCTAs = 1;
    config.maxCTAs = MAX_CTAS;
    for (int link = 0; link < N_LINKS; link++)
        if (is_there[link])
            opening[link] = ncclCommInitRankConfig(&t->comm[link], 2, id[link],
                                                   link == LINK_IN ? 1 : 0, &config);
    for (int link = 0; link < N_LINKS; link++) {
        if (!is_there[link]) continue;
        if (opening[link] != ncclSuccess && opening[link] != ncclInProgress)
            return link_failed(t, link, "open the link", opening[link]);
        SL_TRY(settle(t, link, opening[link], "open the link", OPEN_S));
    }
    return SL_OK;
}

static sl_status wait_stream(const transport_nccl *t, int link, cudaStream_t stream) {
    const double start_s = sl_clock_s();
    sl_backoff backoff = {0};
    for (;;) {
        const cudaError_t got = cudaStreamQuery(stream);
        if (got == cudaSuccess) return SL_OK;
        if (got != cudaErrorNotReady) return cuda_status(got, "try the links");
        if (sl_clock_s() - start_s > OPEN_S)
            return SL_FAIL(SL_ERR_COMM, "nccl transport: no byte %s rank %d in %.3g s",
                           peer_word(link), peer_of(t, link), OPEN_S);
        sl_backoff_pause(&backoff);
    }
}

/* The first transfer of a link makes its connections and takes its buffers: it is this one. */
static sl_status try_links(transport_nccl *t, char *memory, const cudaStream_t stream[N_LINKS]) {
    ncclResult_t began[N_LINKS] = {ncclSuccess, ncclSuccess};
    if (t->comm[LINK_IN])
        began[LINK_IN] =
            ncclRecv(memory, TRY_BYTES, ncclUint8, 0, t->comm[LINK_IN], stream[LINK_IN]);
    if (t->comm[LINK_OUT])
        began[LINK_OUT] = ncclSend(memory + TRY_BYTES, TRY_BYTES, ncclUint8, 1, t->comm[LINK_OUT],
                                   stream[LINK_OUT]);
    for (int link = 0; link < N_LINKS; link++) {
        if (!t->comm[link]) continue;
        SL_TRY(settle(t, link, began[link], "try the link", OPEN_S));
        SL_TRY(wait_stream(t, link, stream[link]));
    }
    return SL_OK;
}

static sl_status open_and_try(transport_nccl *t, const ncclUniqueId id[N_LINKS]) {
    sl_status st = SL_OK;
    size_t before = 0, after = 0, all = 0;
    void *memory = NULL;
    cudaStream_t stream[N_LINKS] = {NULL, NULL};
    SL_GO(cuda_status(cudaMalloc(&memory, (size_t)2 * TRY_BYTES), "take memory to try the links"));
    for (int link = 0; link < N_LINKS; link++)
        SL_GO(cuda_status(cudaStreamCreateWithFlags(&stream[link], cudaStreamNonBlocking),
                          "make a stream"));
    SL_GO(cuda_status(cudaMemGetInfo(&before, &all), "ask for the GPU's memory"));
    SL_GO(open_links(t, id));
    SL_GO(try_links(t, memory, stream));
    SL_GO(cuda_status(cudaMemGetInfo(&after, &all), "ask for the GPU's memory"));
    t->bytes = before > after ? before - after : 0;

fail:
    if (st != SL_OK) nccl_cut_device(&t->base); /* or freeing would wait for what hangs */
    for (int link = 0; link < N_LINKS; link++)
        if (stream[link]) cudaStreamDestroy(stream[link]);
    cudaFree(memory);
    (void)cudaGetLastError();
    return st;
}

sl_status sl_transport_open_nccl(const sl_nccl_options *o, sl_transport *inner,
                                 sl_transport **out) {
    ncclUniqueId id[N_LINKS];
    sl_status st = SL_OK;
    transport_nccl *t = calloc(1, sizeof *t);
    if (!t) st = SL_FAIL(SL_ERR_NOMEM, "nccl transport: out of host memory");
    if (st == SL_OK) st = cuda_status(cudaSetDevice(o->device), "use the GPU");
    if (st == SL_OK && inner->n_ranks < 2)
        st = SL_FAIL(SL_ERR_ARG, "nccl transport: %d rank, expected two or more", inner->n_ranks);
    SL_GO(inner->ops->agree(inner, st));
    t->base = (sl_transport){.ops = &nccl_ops, .rank = inner->rank, .n_ranks = inner->n_ranks};
    t->inner = inner;
    t->timeout_s = o->timeout_s;
    (void)setenv("NCCL_BUFFSIZE", BUFFER_BYTES, 0);
    SL_GO(exchange_ids(t, id));
    SL_GO(inner->ops->agree(inner, open_and_try(t, id)));
    *out = &t->base;
    return SL_OK;

fail:
    if (t && t->inner) nccl_cut_device(&t->base);
    free(t); /* inner stays the caller's */
    return st;
}

size_t sl_transport_nccl_bytes(const sl_transport *t) {
    return ((const transport_nccl *)t)->bytes;
}
