/* simulate.h - runs what a subcommand does on simulated machines (kernels/sim), for --backend sim.
 *
 * Every rank is a thread of this process.  Under mpirun the first process simulates all ranks, and
 * the others wait for the outcome: the report is the same.
 * Layer: launch.  May include: all.
 */
#ifndef SL_LAUNCH_SIMULATE_H
#define SL_LAUNCH_SIMULATE_H

#include "commands.h"
#include "profile.h"
#include "setup.h"
#include "sim/sim.h"
#include "sim/sim_transport.h"

/* A rank of a simulation: sl_launch.simulated. */
typedef struct sl_simulated {
    sl_sim *sim;
    sl_sim_mail *mail;
    int rank;
    const sl_profile *profile; /* of its machine */
} sl_simulated;

/* What a subcommand does on one rank. */
typedef sl_status (*sl_rank_main)(const sl_launch *launch, const void *options);

/* Collective.  Runs `main`: on this rank as it is, or with --backend sim on every rank of a
 * simulation.  options: the setup's part of `all`, which `main` gets.  All ranks of a simulation
 * have the same `all`.
 * Errors: SL_ERR_ARG (--sim-ranks without sim, sim without --cluster), those of profiles, main's.
 */
sl_status sl_simulate_or_run(const sl_launch *launch, const sl_setup_options *options,
                             sl_rank_main run, const void *all);

/* The parts of a rank; device_bytes 0: all that the machine has. */
sl_status sl_simulated_open_transport(const sl_simulated *rank, sl_transport **out);
sl_status sl_simulated_open_backend(const sl_simulated *rank, size_t device_bytes,
                                    sl_backend **out);
sl_status sl_simulated_open_host_attention(const sl_simulated *rank, sl_host_attention **out);

/* Fills in the budgets of host memory and disk that are 0, and a name for the disk's folder. */
void sl_simulated_set_budgets(const sl_simulated *rank, sl_policy *policy);

/* The rates of a machine. */
sl_sim_rates sl_simulated_rates(const sl_profile *profile);

#endif
