/* commands.h - the subcommands of `sluice` and what they are told about this process.
 *
 * A subcommand parses its options, does its work, and returns a status with its message; main.c
 * prints the message and picks the exit status.
 * Layer: launch.  May include: all.
 */
#ifndef SL_LAUNCH_COMMANDS_H
#define SL_LAUNCH_COMMANDS_H

#include <stdint.h>

#include "base/status.h"
#include "session.h"

struct sl_simulated;

typedef struct {
    int is_mpi;       /* 1: started by mpirun or the like; every rank runs the same subcommand */
    sl_mpi_info info; /* rank 0 of 1 without MPI */
    const struct sl_simulated *simulated; /* NULL: this rank is real (simulate.h) */
} sl_launch;

/* Whether this process speaks to the user. */
static inline int sl_launch_is_first(const sl_launch *launch) {
    return launch->info.rank == 0;
}

/* argv[first..] are the words after the subcommand's name.
 * *n_refused_out: questions that were answered with an error, such as lines of input.
 * SL_ERR_ARG means wrong usage.  Collective under MPI: all ranks return the same status. */
typedef sl_status (*sl_command_main)(const sl_launch *launch, int argc, char **argv, int first,
                                     uint64_t *n_refused_out);

sl_status sl_cmd_run(const sl_launch *launch, int argc, char **argv, int first,
                     uint64_t *n_refused_out);
sl_status sl_cmd_serve(const sl_launch *launch, int argc, char **argv, int first,
                       uint64_t *n_refused_out);
sl_status sl_cmd_bench(const sl_launch *launch, int argc, char **argv, int first,
                       uint64_t *n_refused_out);
sl_status sl_cmd_plan(const sl_launch *launch, int argc, char **argv, int first,
                      uint64_t *n_refused_out);
sl_status sl_cmd_profile(const sl_launch *launch, int argc, char **argv, int first,
                         uint64_t *n_refused_out);
sl_status sl_cmd_inspect(const sl_launch *launch, int argc, char **argv, int first,
                         uint64_t *n_refused_out);
sl_status sl_cmd_version(const sl_launch *launch, int argc, char **argv, int first,
                         uint64_t *n_refused_out);

#endif
