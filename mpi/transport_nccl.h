/* transport_nccl.h - hidden states from GPU to GPU by NCCL, all else by another transport.
 *
 * Neighbours share a communicator of two, so that a link that breaks takes no other with it.
 * Nothing in here waits longer than a time-out.
 * Layer: mpi.  May include: src.  Thread safety: one thread per transport.
 */
#ifndef SL_MPI_TRANSPORT_NCCL_H
#define SL_MPI_TRANSPORT_NCCL_H

#include <stddef.h>

#include "base/status.h"
#include "engine/transport.h"

enum { SL_NCCL_WHY_BYTES = 160 };

/* Collective.  Whether every rank has a GPU of its own, which NCCL needs; if not, `why` says so.
 *   device  CUDA's number of this rank's GPU, -1: it has none */
sl_status sl_nccl_is_possible(sl_transport *t, int device, int *possible_out,
                              char why[SL_NCCL_WHY_BYTES]);

typedef struct {
    int device;       /* CUDA's number of this rank's GPU */
    double timeout_s; /* a transfer that both sides have begun takes no longer */
} sl_nccl_options;

/* Collective; of two ranks or more.  Owns `inner` once it has succeeded.  All ranks get the same
 * status.  Errors: SL_ERR_COMM, with NCCL's own words. */
sl_status sl_transport_open_nccl(const sl_nccl_options *options, sl_transport *inner,
                                 sl_transport **out);

/* The GPU's memory that NCCL took when it was opened: buffers and code. */
size_t sl_transport_nccl_bytes(const sl_transport *t);

#endif
