/* sim_machine.h - the queues of one simulated machine, and how they slow each other down.
 *
 * Every queue does its work in order.  Work that runs alone takes the time that it was given; work
 * that shares something goes slower, as long as it does:
 *
 *   one direction of the link   transfers in it take turns, so each gets an equal part
 *   both directions             together at most duplex_bps
 *   host memory                 copies, the disk and attention on the host together at most
 *                               dram_beside_h2d_bps, without copies dram_bps; what they want is
 *                               cut by the same factor.  (H100 host of 16 cores: reading at 148
 *                               GB/s and copying at 53.7 gave 118 and 45: 0.80 and 0.84.)
 *   the device                  computation beside copies to it: compute_beside_h2d_frac of its
 *                               speed alone
 *
 * A mark in a queue is reached when all before it is done; other queues can wait for it.
 * Layer: kernels/sim.  May include: src.  Thread safety: one thread at a time.
 */
#ifndef SL_SIM_MACHINE_H
#define SL_SIM_MACHINE_H

#include <stdint.h>

#include "base/status.h"
#include "sim/sim_rates.h"
#include "store/device.h"

/* The device's streams are queues of the same number. */
typedef enum {
    SL_SIM_HOST = SL_STREAM_COUNT, /* the thread that drives all others */
    SL_SIM_ATTEND,
    SL_SIM_DISK_READ,
    SL_SIM_DISK_WRITE,
    SL_SIM_WIRE,
    SL_SIM_QUEUE_COUNT
} sl_sim_queue;

/* Work for a queue: how long it takes alone, and what it takes of what is shared meanwhile. */
typedef struct {
    double seconds;
    double h2d_bps, d2h_bps; /* over the link; one of them at most */
    double dram_bps;         /* of host memory */
} sl_sim_load;

typedef struct {
    uint64_t n_recorded, n_reached; /* times */
    double at_s;                    /* when it was reached last */
    int rank[2];                    /* who wants to know; -1: nobody */
} sl_sim_mark;

static inline int sl_sim_mark_is_reached(const sl_sim_mark *mark) {
    return mark->n_reached == mark->n_recorded;
}

typedef struct sl_sim_machine sl_sim_machine;

/* Called for each mark when it is reached. */
typedef void (*sl_sim_on_mark)(void *user, const sl_sim_mark *mark);

/* `rates` is copied.  Errors: SL_ERR_NOMEM. */
sl_status sl_sim_machine_open(const sl_sim_rates *rates, sl_sim_on_mark on_mark, void *user,
                              sl_sim_machine **out);
void sl_sim_machine_close(sl_sim_machine *machine);

const sl_sim_rates *sl_sim_machine_rates(const sl_sim_machine *machine);

/* Put something at the end of a queue; the machine's time is that of the last run().
 * A mark stays where it is until it is reached.  Errors: SL_ERR_NOMEM. */
sl_status sl_sim_machine_work(sl_sim_machine *machine, int queue, const sl_sim_load *load);
sl_status sl_sim_machine_mark(sl_sim_machine *machine, int queue, sl_sim_mark *mark);
/* Waits for the mark as it is recorded now. */
sl_status sl_sim_machine_wait(sl_sim_machine *machine, int queue, const sl_sim_mark *mark);

/* When the next work ends, as far as is known now; infinity when none is under way. */
double sl_sim_machine_next_s(const sl_sim_machine *machine);

/* Goes on until then; time never goes back. */
void sl_sim_machine_run(sl_sim_machine *machine, double until_s);

#endif
