/* delayed.h - a transport for tests: another one whose messages take longer to arrive.
 *
 * Each message carries the time at which it was sent and is kept back until it is old enough, as on
 * a wire with that latency: messages under way at once are late at once.  Clocks of the ranks have
 * to be the same, so their hosts are processes or network namespaces of one machine.  Collectives
 * are not delayed.
 * Layer: engine.  May include: base.  Thread safety: one thread per transport.
 */
#ifndef SL_ENGINE_DELAYED_H
#define SL_ENGINE_DELAYED_H

#include "engine/transport.h"

/* Takes over `inner`, which is closed with it; on failure it stays the caller's.  All ranks need
 * the same wrapping.  Errors: SL_ERR_ARG (a delay below 0), SL_ERR_NOMEM. */
sl_status sl_transport_open_delayed(sl_transport *inner, double delay_s, sl_transport **out);

#endif
