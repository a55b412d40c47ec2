/* transport_mpi.h - the MPI transport with its inner measures, for tests.
 *
 * Layer: mpi.  May include: src.  Thread safety: one thread per transport.
 */
#ifndef SL_MPI_TRANSPORT_MPI_H
#define SL_MPI_TRANSPORT_MPI_H

#include <stddef.h>

#include "base/status.h"
#include "engine/transport.h"

/* sl_transport_open_mpi() with messages split into pieces of this size, in [1, INT_MAX], the same
 * on all ranks.  Collective. */
sl_status sl_transport_open_mpi_pieces(size_t piece_bytes, sl_transport **out);

/* Places in the table of transfers: the most that were under way at once. */
int sl_transport_mpi_n_places(const sl_transport *t);

#endif
