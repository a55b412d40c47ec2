/* session.h - MPI's beginning and end, and who this rank is.
 *
 * Layer: mpi.  May include: src.  Thread safety: one thread (MPI_THREAD_FUNNELED).
 */
#ifndef SL_MPI_SESSION_H
#define SL_MPI_SESSION_H

#include "base/status.h"
#include "engine/transport.h"

/* Where a rank runs. */
typedef struct {
    char name[64]; /* of the host, cut to fit */
    int host;      /* the lowest rank on that host */
} sl_mpi_place;

typedef struct {
    int rank, n_ranks;
    int local_rank, n_local_ranks; /* among the ranks of this host */
    char host[256];
    sl_mpi_place *place; /* [n_ranks]; NULL without MPI */
} sl_mpi_info;

/* 1 when this process was started by mpirun, srun --mpi=pmix or the like, judged by the
 * environment, so that a plain `sluice run` needs no MPI at all. */
int sl_mpi_is_launched(void);

/* Collective.  Starts MPI, sets MPI_ERRORS_RETURN, and finds the local rank by a shared-memory
 * split (by host name where that gives singletons).  Errors: SL_ERR_COMM. */
sl_status sl_mpi_open(int *argc, char ***argv, sl_mpi_info *out);

/* Collective.  MPI_Finalize. */
void sl_mpi_close(void);

/* Not collective. */
void sl_mpi_info_free(sl_mpi_info *info);

/* Ends all ranks with this exit status; does not return.  For launch/ only. */
void sl_mpi_abort(int exit_status) __attribute__((noreturn));

/* The transport over MPI with host buffers, on a communicator of its own.  Collective. */
sl_status sl_transport_open_mpi(sl_transport **out);

#endif
