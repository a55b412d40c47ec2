#include "capacity.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "cores.h"
#ifdef SL_CUDA
#include "cuda/cuda_backend.h"
#endif
#include "host.h"
#include "store/numa.h"

typedef struct {
    char host[256];
    sl_cores_rank cores;
} rank_place;

static int overlap(const uint8_t *a, const uint8_t *b) {
    for (int i = 0; i < SL_HOST_MASK_BYTES; i++) {
        if (a[i] & b[i]) return 1;
    }
    return 0;
}

/* mpirun binds each of one or two ranks to a single processor by default, which is rarely what is
 * wanted of a program with threads.  The launcher itself is not bound: its mask says what the ranks
 * of this host could have. */
static void warn_if_bound(const rank_place *places, int n_ranks, int n_mine) {
    uint8_t used[SL_HOST_MASK_BYTES] = {0}, could[SL_HOST_MASK_BYTES];
    const int n_could = sl_host_processors(getppid(), could);
    for (int r = 0; r < n_ranks; r++) {
        if (strcmp(places[r].host, places[0].host) != 0) continue;
        for (int i = 0; i < SL_HOST_MASK_BYTES; i++) used[i] |= places[r].cores.mask[i];
    }
    if (sl_cores_count(used) >= n_could) return;
    fprintf(stderr,
            "sluice: note: this rank is bound to %d of %d processors; `mpirun --bind-to none` lets "
            "the ranks use all of them\n",
            n_mine, n_could);
}

static int n_local_ranks(const sl_launch *launch) {
    return launch->info.n_local_ranks > 0 ? launch->info.n_local_ranks : 1;
}

static int share_host(const sl_launch *launch, const rank_place *places, int a, int b) {
    const sl_mpi_place *at = launch->info.place;
    return at ? at[a].host == at[b].host : strcmp(places[a].host, places[b].host) == 0;
}

/* Binds this rank to its part of what its host's ranks share; n_out: processors of the part.
 * Returns 0 where they are not divided. */
static int take_part(const sl_launch *launch, const rank_place *places, int n_ranks, int rank,
                     int *n_out) {
    uint8_t part[SL_HOST_MASK_BYTES];
    int n = 0, mine = 0;
    sl_cores_rank *mates = calloc((size_t)n_ranks, sizeof *mates);
    for (int r = 0; mates && r < n_ranks; r++) {
        if (!share_host(launch, places, r, rank)) continue;
        if (r == rank) mine = n;
        mates[n++] = places[r].cores;
    }
    const int is_part = mates && sl_cores_divide(mates, n, mine, part) && sl_cores_bind(part);
    free(mates);
    if (is_part) *n_out = sl_cores_count(part);
    return is_part;
}

sl_status sl_capacity_threads(const sl_launch *launch, sl_transport *transport, int gpu_node,
                              int quiet, int *out) {
    const int n_ranks = transport->n_ranks;
    rank_place mine;
    memset(&mine, 0, sizeof mine);
    mine.cores.node = gpu_node;
    sl_status st = SL_OK;
    rank_place *places = calloc((size_t)n_ranks, sizeof *places);
    if (!places) st = SL_FAIL(SL_ERR_NOMEM, "%d ranks: out of host memory", n_ranks);
    SL_GO(transport->ops->agree(transport, st));

    snprintf(mine.host, sizeof mine.host, "%s", launch->info.host);
    const int n_mine = sl_host_processors(0, mine.cores.mask);
    SL_GO(transport->ops->gather(transport, &mine, sizeof mine, places));
    SL_GO(transport->ops->broadcast(transport, 0, places, (size_t)n_ranks * sizeof *places));
    int n_sharing = 0;
    for (int r = 0; r < n_ranks; r++)
        n_sharing += share_host(launch, places, r, transport->rank) &&
                     overlap(places[r].cores.mask, mine.cores.mask);

    int n_threads = n_sharing > 0 ? n_mine / n_sharing : n_mine;
    if (n_sharing > 1) take_part(launch, places, n_ranks, transport->rank, &n_threads);
    const double quota = sl_host_cpu_quota("");
    const int n_local = n_local_ranks(launch);
    if (quota > 0 && n_threads > quota / n_local) n_threads = (int)(quota / n_local);
    *out = n_threads > 0 ? n_threads : 1;
    if (launch->is_mpi && transport->rank == 0 && !quiet) warn_if_bound(places, n_ranks, n_mine);

fail:
    free(places);
    return st;
}

sl_status sl_capacity_cpu(const sl_launch *launch, size_t *out) {
    const size_t available = sl_host_available_bytes("");
    if (available == 0)
        return SL_FAIL(SL_ERR_IO, "the memory of %s cannot be told from /proc; give --cpu-mem",
                       launch->info.host[0] ? launch->info.host : "this host");
    /* The rest is for text, threads and the page cache. */
    *out = available / 10 * 8 / (size_t)n_local_ranks(launch);
    return SL_OK;
}

sl_status sl_capacity_disk(const sl_launch *launch, const char *dir, size_t *out) {
    struct statvfs fs;
    if (statvfs(dir, &fs) != 0)
        return SL_FAIL(SL_ERR_IO, "--disk-dir %s: %s", dir, strerror(errno));
    *out = (size_t)fs.f_bavail * fs.f_frsize / 10 * 8 / (size_t)n_local_ranks(launch);
    return SL_OK;
}

sl_capacity_gpu sl_capacity_gpu_of(const sl_launch *launch, int n_devices) {
    const int n_local = n_local_ranks(launch);
    return (sl_capacity_gpu){.device = launch->info.local_rank % n_devices,
                             .n_sharing = (n_local + n_devices - 1) / n_devices};
}

int sl_capacity_gpu_node(const sl_launch *launch, int without_gpu) {
#ifdef SL_CUDA
    const int n_devices = without_gpu ? 0 : sl_cuda_device_count();
    sl_cuda_identity identity;
    if (n_devices > 0 &&
        sl_cuda_identify(sl_capacity_gpu_of(launch, n_devices).device, &identity) == SL_OK)
        return sl_numa_of_pci("", identity.bus);
#else
    (void)launch, (void)without_gpu;
#endif
    return -1;
}

size_t sl_capacity_gpu_bytes(const sl_capacity_gpu *gpu, size_t free_bytes) {
    return free_bytes / 10 * 9 / (size_t)gpu->n_sharing;
}
