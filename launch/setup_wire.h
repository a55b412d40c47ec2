/* setup_wire.h - how the ranks of a run hand on hidden states: chosen when it starts.
 *
 * Layer: launch.  May include: all.
 */
#ifndef SL_LAUNCH_SETUP_WIRE_H
#define SL_LAUNCH_SETUP_WIRE_H

#include <stddef.h>

#include "base/status.h"
#include "setup.h"

typedef struct {
    const sl_launch *launch;
    int backend, transport; /* indices into sl_setup_backends and sl_setup_transports */
    double timeout_s;       /* of a transfer */
    int quiet;
} sl_wire_ask;

/* Collective.  Replaces *transport by one that goes from GPU to GPU where that is asked for, or
 * possible and not refused; the first rank says which it is, unless quiet.
 *   bytes_out  what it takes of this rank's GPU
 * Errors: SL_ERR_ARG (asked for what cannot be, with the reason), SL_ERR_COMM. */
sl_status sl_wire_open(const sl_wire_ask *ask, sl_transport **transport, size_t *bytes_out);

/* The same for a run, before its backend is opened. */
sl_status sl_setup_open_wire(sl_setup *setup);

/* What the transport has taken of this rank's GPU, of a budget of so many bytes. */
size_t sl_setup_wire_share(const sl_setup *setup, size_t budget_bytes);

#endif
