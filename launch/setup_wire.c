#include "setup_wire.h"

#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "capacity.h"
#ifdef SL_NCCL
#include "cuda/cuda_backend.h"
#include "transport_nccl.h"
#endif

enum { TRANSPORT_AUTO, TRANSPORT_MPI, TRANSPORT_NCCL };

static void say(const sl_wire_ask *ask, const char *what) {
    if (sl_launch_is_first(ask->launch) && !ask->quiet)
        fprintf(stderr, "sluice: hidden states go from rank to rank %s\n", what);
}

size_t sl_setup_wire_share(const sl_setup *setup, size_t budget_bytes) {
    return setup->wire_bytes < budget_bytes ? setup->wire_bytes : budget_bytes;
}

#ifdef SL_NCCL
enum { LINE_BYTES = 512 };

/* CUDA's number of the GPU that this rank will compute on; -1: none. */
static int find_device(const sl_wire_ask *ask) {
    const char *wanted = sl_setup_backends[ask->backend];
    const int n_devices = strcmp(wanted, "cpu") == 0 ? 0 : sl_cuda_device_count();
    return n_devices > 0 ? sl_capacity_gpu_of(ask->launch, n_devices).device : -1;
}

static sl_status open_nccl(const sl_wire_ask *ask, int device, sl_transport **transport,
                           size_t *bytes_out) {
    const sl_nccl_options options = {.device = device, .timeout_s = ask->timeout_s};
    SL_TRY(sl_transport_open_nccl(&options, *transport, transport));
    *bytes_out = sl_transport_nccl_bytes(*transport);
    return SL_OK;
}

static sl_status choose(const sl_wire_ask *ask, sl_transport **transport, size_t *bytes_out) {
    char why[LINE_BYTES] = "", line[LINE_BYTES + 64], bytes[32];
    const int device = find_device(ask), must = ask->transport == TRANSPORT_NCCL;
    int possible = 0;
    SL_TRY(sl_nccl_is_possible(*transport, device, &possible, why));
    if (!possible && must)
        return SL_FAIL(SL_ERR_ARG, "--transport nccl: %s, expected a GPU of its own for every rank",
                       why);
    if (possible) {
        const sl_status st = open_nccl(ask, device, transport, bytes_out);
        if (st != SL_OK && must) return st;
        if (st != SL_OK) snprintf(why, sizeof why, "%.400s", sl_error_message());
        possible = st == SL_OK;
    }
    if (possible)
        snprintf(line, sizeof line, "by NCCL, which takes %s of each GPU",
                 sl_bytes_format(*bytes_out, bytes, sizeof bytes));
    else
        snprintf(line, sizeof line, "by MPI, through host memory: %s", why);
    say(ask, line);
    return SL_OK;
}
#else
static sl_status choose(const sl_wire_ask *ask, sl_transport **transport, size_t *bytes_out) {
    (void)transport;
    (void)bytes_out;
    if (ask->transport == TRANSPORT_NCCL)
        return SL_FAIL(SL_ERR_ARG, "--transport nccl: this program was built without NCCL");
    say(ask, "by MPI, through host memory");
    return SL_OK;
}
#endif

sl_status sl_wire_open(const sl_wire_ask *ask, sl_transport **transport, size_t *bytes_out) {
    *bytes_out = 0;
    if (ask->launch->simulated || (*transport)->n_ranks == 1) {
        if (ask->transport != TRANSPORT_NCCL) return SL_OK;
        return SL_FAIL(SL_ERR_ARG, "--transport nccl: %s, expected ranks under mpirun",
                       ask->launch->simulated ? "the ranks are simulated" : "there is one rank");
    }
    if (ask->transport != TRANSPORT_MPI) return choose(ask, transport, bytes_out);
    say(ask, "by MPI, through host memory");
    return SL_OK;
}

sl_status sl_setup_open_wire(sl_setup *setup) {
    const sl_wire_ask ask = {.launch = setup->launch,
                             .backend = setup->options->backend,
                             .transport = setup->options->transport,
                             .timeout_s = setup->options->timeout_s,
                             .quiet = setup->options->quiet};
    return sl_wire_open(&ask, &setup->transport, &setup->wire_bytes);
}
