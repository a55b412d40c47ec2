/* setup_wire.h - how the ranks of a run hand on hidden states: chosen when it starts.
 *
 * Layer: launch.  May include: all.
 */
#ifndef SL_LAUNCH_SETUP_WIRE_H
#define SL_LAUNCH_SETUP_WIRE_H

#include <stddef.h>

#include "base/status.h"
#include "setup.h"

/* Collective.  Replaces setup->transport by one that goes from GPU to GPU where that is asked for,
 * or possible and not refused; the first rank says which it is, unless quiet.  Before the backend
 * is opened.  Errors: SL_ERR_ARG (asked for what cannot be, with the reason), SL_ERR_COMM. */
sl_status sl_setup_open_wire(sl_setup *setup);

/* What the transport has taken of this rank's GPU, of a budget of so many bytes. */
size_t sl_setup_wire_share(const sl_setup *setup, size_t budget_bytes);

#endif
