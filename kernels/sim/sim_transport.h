/* sim_transport.h - messages between the ranks of a simulation.
 *
 * A message takes wire_latency_s + bytes / wire_bps of its sender's wire, one after another.
 * Headers and results are carried over; of hidden states only the end, since there is nothing in
 * them but what a stage puts behind them.  Collectives take no time.
 * Layer: kernels.  May include: src.  Thread safety: one thread per transport, its rank's.
 */
#ifndef SL_SIM_TRANSPORT_H
#define SL_SIM_TRANSPORT_H

#include "engine/transport.h"
#include "sim/sim.h"

/* What the transports of a simulation share. */
typedef struct sl_sim_mail sl_sim_mail;

/* Opened before any rank enters, closed when all have left.  Errors: SL_ERR_NOMEM. */
sl_status sl_sim_mail_open(sl_sim *sim, sl_sim_mail **out);
void sl_sim_mail_close(sl_sim_mail *mail);

/* Errors: SL_ERR_NOMEM. */
sl_status sl_sim_transport_open(sl_sim_mail *mail, int rank, sl_transport **out);

#endif
