/* sim.h - simulated machines, one for each rank, on one virtual clock.
 *
 * A rank is a thread of this process.  Between sl_sim_enter() and sl_sim_leave() its clock
 * (base/clock.h) is the virtual one, and it runs only when it is its turn: one rank at a time, in
 * an order that follows from the simulation alone.  What a rank computes itself takes no time; what
 * it gives to the queues of its machine takes the time that the machine's rates say.  When all
 * ranks sleep or wait, time goes on to the next moment at which something ends that one of them may
 * wait for.  The same input gives the same times to the last bit, on any host.
 *
 * An engine in it wants the backend of sim_backend.h, for several ranks the transport of
 * sim_transport.h, and beside a device the attention of sim_host_attention.h.
 * Layer: kernels.  May include: src.  Thread safety: as said for each function.
 */
#ifndef SL_SIM_H
#define SL_SIM_H

#include "base/status.h"
#include "sim/sim_machine.h"
#include "sim/sim_rates.h"

typedef struct sl_sim sl_sim;

/* rates: [n_ranks], copied; the last one's wire, by which results go back, is that of the rank
 * before where it has none.  Errors: SL_ERR_ARG (sl_sim_rates_check(); no wire to the next rank),
 * SL_ERR_NOMEM. */
sl_status sl_sim_open(const sl_sim_rates *rates, int n_ranks, sl_sim **out);
/* All ranks have left, and what they opened is closed. */
void sl_sim_close(sl_sim *sim);

/* The calling thread is this rank until it leaves.  Waits until all ranks have entered and it is
 * this one's turn. */
void sl_sim_enter(sl_sim *sim, int rank);
void sl_sim_leave(sl_sim *sim, int rank);

int sl_sim_n_ranks(const sl_sim *sim);
double sl_sim_now_s(const sl_sim *sim);

/* The rest is for the parts of the simulation; the calling thread is the rank. */

/* The rank's machine, at the present time. */
sl_sim_machine *sl_sim_machine_of(sl_sim *sim, int rank);

/* A mark of which rank `rank` wants to know, and `other` too; -1: nobody. */
void sl_sim_mark_init(sl_sim_mark *mark, int rank, int other);

/* Until something may have happened that the rank waits for.  Errors: SL_ERR_COMM when nothing can
 * happen any more, because the ranks wait for each other. */
sl_status sl_sim_wait_any(sl_sim *sim, int rank, const char *what);
sl_status sl_sim_wait_mark(sl_sim *sim, int rank, const sl_sim_mark *mark, const char *what);

/* Collective.  Until all ranks are here. */
sl_status sl_sim_meet(sl_sim *sim, int rank);
/* Wakes a rank that waits. */
void sl_sim_wake(sl_sim *sim, int rank);
int sl_sim_has_left(const sl_sim *sim, int rank);

#endif
