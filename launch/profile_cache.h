/* profile_cache.h - the profile of this rank's machine: found where an earlier run left it, or
 * measured now and left there.
 *
 * Rates are kept in $XDG_CACHE_HOME/sluice, else ~/.cache/sluice, in a file whose name follows from
 * what they depend on: processors and threads, GPU and driver, the disk's folder, this program's
 * version, ranks of the host.  Capacities change from hour to hour and are always told anew.
 * Layer: launch.  May include: all.  Thread safety: that of the transport.
 */
#ifndef SL_LAUNCH_PROFILE_CACHE_H
#define SL_LAUNCH_PROFILE_CACHE_H

#include <stddef.h>

#include "base/status.h"
#include "commands.h"
#include "measure.h"
#include "profile.h"

typedef struct {
    const sl_launch *launch;
    sl_transport *transport; /* borrowed for the call */
    int backend;             /* index into sl_setup_backends */
    int n_threads;           /* 0: this rank's share of the processors */
    /* What may be used; 0: this rank's share of what is free.  gpu_mem_bytes with the cpu backend
     * asks for a stand-in device of that size. */
    size_t gpu_mem_bytes, cpu_mem_bytes, disk_mem_bytes;
    const char *disk_dir;            /* NULL: no disk */
    double sample_s;                 /* about as long for each number; 0: 0.1 */
    int refresh;                     /* 1: measure although there is a file */
    int only_cached;                 /* 1: measure nothing; without files *out stays as it is */
    int quiet;                       /* 1: no notes on standard error */
    sl_measure_progress on_progress; /* is told while it measures; may be NULL */
    void *user;
} sl_profile_ask;

typedef struct {
    int was_cached;                    /* 1: on all ranks; nothing was measured */
    double measured_s;                 /* 0: nothing was measured */
    char path[1024];                   /* this rank's file; "" where there is no folder for it */
    char disk_engine[SL_MEASURE_TEXT]; /* how the disk was reached; "" without one or from the cache
                                        */
} sl_profile_origin;

/* The profile of this rank, checked.  Where one rank has no file all of them measure, together.
 * Takes milliseconds from the cache, else some 30 seconds and never much more than a minute, with
 * up to 4 GiB of host and device memory.  A cache that cannot be written is a note, no error.
 * Collective; all ranks get the same status.
 *   origin_out  may be NULL
 * Errors: SL_ERR_ARG (backend), SL_ERR_NOMEM, SL_ERR_IO, SL_ERR_DEVICE, SL_ERR_COMM. */
sl_status sl_launch_profile(const sl_profile_ask *ask, sl_profile *out,
                            sl_profile_origin *origin_out);

#endif
