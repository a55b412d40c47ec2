/* mpi_check.h - turns MPI results into sl_status, and waits without burning a core.
 *
 * Layer: mpi.  May include: src.  Thread safety: pure functions; one owner per sl_backoff.
 */
#ifndef SL_MPI_CHECK_H
#define SL_MPI_CHECK_H

#include <mpi.h>

#include "base/status.h"

/* SL_OK, or SL_ERR_COMM with MPI's own text; `what` names the operation in the words of the
 * caller: "send to rank 3". */
sl_status sl_mpi_status_at(int err, const char *what, const char *file, int line);
#define SL_MPI(err, what) sl_mpi_status_at((err), (what), __FILE__, __LINE__)

/* One wait: zero-initialise, then pause between two looks.  The first pauses spin for some
 * microseconds (a peer on another core is about to answer), later ones sleep ever longer, so that
 * more ranks than cores do not steal each other's time. */
typedef struct {
    double started_s; /* 0: no pause yet */
    double sleep_s;
} sl_backoff;
void sl_backoff_pause(sl_backoff *backoff);

/* Waits, with pauses, until *request is done; `what` as above.  status_out may be NULL. */
sl_status sl_mpi_wait(MPI_Request *request, const char *what, MPI_Status *status_out);

#endif
