/* The NCCL transport on two ranks or more.  With a GPU for each: the contract of all transports,
 * and hidden states from GPU to GPU; with fewer: that it is refused, and why. */
#include <cuda_runtime_api.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "mpi/transport_contract.h"
#include "transport_nccl.h"

enum { N_SIZES = 6, N_ROUNDS = 40 };
static const size_t sizes[N_SIZES] = {1, 2, 4099, 262144, 3 << 20, 59 << 20};
static const double TIMEOUT_S = 2.0;

#define CHECK_CUDA(call) CHECK_THAT((call) == cudaSuccess, "%s", #call)

typedef struct {
    cudaStream_t in, out;
    unsigned char *received, *sent; /* device, the largest size */
    unsigned char *host;            /* pinned */
} side;

static void open_side(side *s) {
    CHECK_CUDA(cudaStreamCreateWithFlags(&s->in, cudaStreamNonBlocking));
    CHECK_CUDA(cudaStreamCreateWithFlags(&s->out, cudaStreamNonBlocking));
    CHECK_CUDA(cudaMalloc((void **)&s->received, sizes[N_SIZES - 1]));
    CHECK_CUDA(cudaMalloc((void **)&s->sent, sizes[N_SIZES - 1]));
    CHECK_CUDA(cudaMallocHost((void **)&s->host, sizes[N_SIZES - 1]));
}

static void close_side(side *s) {
    cudaStreamDestroy(s->in);
    cudaStreamDestroy(s->out);
    cudaFree(s->received);
    cudaFree(s->sent);
    cudaFreeHost(s->host);
}

static void finish(sl_transport *t, cudaStream_t stream) {
    const double start_s = sl_clock_s();
    for (;;) {
        const cudaError_t got = cudaStreamQuery(stream);
        if (got == cudaSuccess) return;
        CHECK_THAT(got == cudaErrorNotReady, "%s", cudaGetErrorString(got));
        CHECK_OK(t->ops->check_device(t, sl_clock_s() - start_s));
    }
}

static unsigned char byte_of(int rank, int round, size_t i) {
    return (unsigned char)(rank * 101 + round * 7 + (int)(i * 31 % 251));
}

/* Down the pipeline, sizes mixed, behind what computes on the sender's stream. */
static void transfers_arrive_whole_and_in_order(sl_transport *t, side *s) {
    for (int round = 0; round < N_ROUNDS; round++) {
        const size_t bytes = sizes[round % N_SIZES];
        if (!sl_transport_is_first(t)) {
            CHECK_CUDA(cudaMemsetAsync(s->received, 0xee, bytes, s->in));
            CHECK_OK(t->ops->recv_device(t, s->received, bytes, s->in));
        }
        if (!sl_transport_is_last(t)) {
            for (size_t i = 0; i < bytes; i++) s->host[i] = byte_of(t->rank, round, i);
            CHECK_CUDA(cudaMemcpyAsync(s->sent, s->host, bytes, cudaMemcpyHostToDevice, s->out));
            CHECK_OK(t->ops->send_device(t, s->sent, bytes, s->out));
            finish(t, s->out);
        }
        if (sl_transport_is_first(t)) continue;
        finish(t, s->in);
        CHECK_CUDA(cudaMemcpy(s->host, s->received, bytes, cudaMemcpyDeviceToHost));
        for (size_t i = 0; i < bytes; i++)
            CHECK_THAT(s->host[i] == byte_of(t->rank - 1, round, i), "round %d, byte %zu of %zu",
                       round, i, bytes);
    }
    CHECK_OK(t->ops->agree(t, SL_OK));
}

/* Two that are queued at once keep their order. */
static void queued_transfers_keep_their_order(sl_transport *t, side *s) {
    enum { N = 8, EACH = 100000 };
    for (int i = 0; i < N && !sl_transport_is_first(t); i++)
        CHECK_OK(t->ops->recv_device(t, s->received + i * EACH, EACH, s->in));
    for (int i = 0; i < N && !sl_transport_is_last(t); i++) {
        CHECK_CUDA(cudaMemsetAsync(s->sent + i * EACH, 10 + i, EACH, s->out));
        CHECK_OK(t->ops->send_device(t, s->sent + i * EACH, EACH, s->out));
    }
    finish(t, s->out);
    finish(t, s->in);
    if (sl_transport_is_first(t)) return;
    CHECK_CUDA(cudaMemcpy(s->host, s->received, N * EACH, cudaMemcpyDeviceToHost));
    for (int i = 0; i < N * EACH; i++) CHECK(s->host[i] == 10 + i / EACH);
}

static void ends_have_no_neighbours(sl_transport *t, side *s) {
    if (sl_transport_is_first(t))
        CHECK_FAILS(t->ops->recv_device(t, s->received, 1, s->in), SL_ERR_ARG, "neighbour");
    if (sl_transport_is_last(t))
        CHECK_FAILS(t->ops->send_device(t, s->sent, 1, s->out), SL_ERR_ARG, "neighbour");
}

/* The first rank sends, nobody receives: it gives up in time, and its GPU is free again.  Over
 * NVLink a send ends once its bytes are in the link's buffers, so it is more than these hold. */
static void a_silent_neighbour_is_given_up(sl_transport *t, side *s) {
    if (sl_transport_is_first(t)) {
        const double start_s = sl_clock_s();
        sl_status st = t->ops->send_device(t, s->sent, sizes[N_SIZES - 1], s->out);
        while (st == SL_OK && cudaStreamQuery(s->out) == cudaErrorNotReady) {
            st = t->ops->check_device(t, sl_clock_s() - start_s);
            sl_clock_sleep(1e-3);
        }
        CHECK_THAT(st == SL_ERR_COMM, "a send that nobody receives: %s", sl_status_name(st));
        CHECK_THAT(sl_clock_s() - start_s < TIMEOUT_S + 1.0, "it took %.1f s",
                   sl_clock_s() - start_s);
        t->ops->cut_device(t);
        CHECK(cudaStreamSynchronize(s->out) == cudaSuccess);
        CHECK_THAT(sl_clock_s() - start_s < TIMEOUT_S + 4.0, "cutting took %.1f s",
                   sl_clock_s() - start_s - TIMEOUT_S);
        CHECK_FAILS(t->ops->send_device(t, s->sent, 1, s->out), SL_ERR_COMM, "cut off");
    }
    CHECK_OK(t->ops->agree(t, SL_OK));
}

static void sharing_is_refused(sl_transport *mpi) {
    char why[SL_NCCL_WHY_BYTES] = "";
    int possible = 1;
    CHECK_OK(sl_nccl_is_possible(mpi, 0, &possible, why));
    CHECK_THAT(!possible && strcmp(why, "ranks 0 and 1 share a GPU") == 0, "\"%s\"", why);
    possible = 1;
    CHECK_OK(sl_nccl_is_possible(mpi, mpi->rank == 1 ? -1 : 0, &possible, why));
    CHECK_THAT(!possible && strcmp(why, "rank 1 has no GPU") == 0, "\"%s\"", why);
}

static void one_of_its_own(sl_transport *mpi) {
    const sl_nccl_options options = {.device = mpi->rank, .timeout_s = TIMEOUT_S};
    char why[SL_NCCL_WHY_BYTES] = "";
    int possible = 0;
    sl_transport *t = NULL;
    side s;
    CHECK_OK(sl_nccl_is_possible(mpi, mpi->rank, &possible, why));
    CHECK_THAT(possible, "not possible: %s", why);
    CHECK_OK(sl_transport_open_nccl(&options, mpi, &t));
    CHECK(t->rank == mpi->rank && t->n_ranks == mpi->n_ranks && strcmp(t->ops->name, "nccl") == 0);
    /* Mostly code that NCCL loads. */
    CHECK_THAT(sl_transport_nccl_bytes(t) < (size_t)768 << 20, "NCCL takes %zu bytes",
               sl_transport_nccl_bytes(t));
    if (t->rank == 0) printf("NCCL takes %.1f MiB\n", (double)sl_transport_nccl_bytes(t) / 1048576);
    keeps_the_contract(t);
    open_side(&s);
    transfers_arrive_whole_and_in_order(t, &s);
    queued_transfers_keep_their_order(t, &s);
    ends_have_no_neighbours(t, &s);
    CHECK_OK(t->ops->agree(t, SL_OK));
    sl_transport_close(t);

    sl_transport *again = NULL;
    CHECK_OK(sl_transport_open_mpi(&mpi));
    CHECK_OK(sl_transport_open_nccl(&options, mpi, &again));
    a_silent_neighbour_is_given_up(again, &s);
    sl_transport_close(again);
    close_side(&s);
}

int main(int argc, char **argv) {
    sl_mpi_info info = {0};
    sl_transport *mpi = NULL;
    int n_gpus = 0;
    CHECK_OK(sl_mpi_open(&argc, &argv, &info));
    mpi_test_rank = info.rank;
    if (cudaGetDeviceCount(&n_gpus) != cudaSuccess || n_gpus == 0) {
        if (info.rank == 0) printf("skipped: there is no NVIDIA GPU\n");
        sl_mpi_close();
        return 77;
    }
    CHECK_OK(sl_transport_open_mpi(&mpi));
    sharing_is_refused(mpi);
    if (n_gpus >= info.n_ranks)
        one_of_its_own(mpi);
    else
        sl_transport_close(mpi);
    sl_mpi_close();
    if (n_gpus >= info.n_ranks) return 0;
    if (info.rank == 0) printf("skipped: %d GPUs for %d ranks\n", n_gpus, info.n_ranks);
    return 77;
}
