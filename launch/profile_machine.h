/* profile_machine.h - the machine that a profile is of: what it is, what it has, what drives it.
 *
 * Layer: launch.  May include: all.  Thread safety: that of the transport.
 */
#ifndef SL_LAUNCH_PROFILE_MACHINE_H
#define SL_LAUNCH_PROFILE_MACHINE_H

#include <stddef.h>

#include "base/status.h"
#include "engine/backend.h"
#include "engine/host_attention.h"
#include "profile_cache.h"

enum { SL_MACHINE_KEY_BYTES = 2048 };

typedef struct {
    char host[256], next_host[256]; /* of this rank, of the next one ("" for the last) */
    char processor[128];
    char device[64];    /* "" where the host computes */
    char driver[256];   /* what drives the device */
    int gpu;            /* CUDA's number; -1: no GPU */
    int n_threads;      /* of this rank */
    int n_host_threads; /* that attend: one less beside a device, whose queues want a thread */
    size_t gpu_bytes, cpu_bytes, disk_bytes; /* that may be used */
} sl_machine;

/* Collective.  Errors: SL_ERR_ARG (a backend that is not built in), SL_ERR_DEVICE, SL_ERR_IO. */
sl_status sl_machine_find(const sl_profile_ask *ask, sl_machine *out);

/* Everything that rates depend on, as a text of one line a fact. */
void sl_machine_key(const sl_machine *machine, const sl_profile_ask *ask,
                    char key[SL_MACHINE_KEY_BYTES]);

/* Bytes of the computing device and of host memory that measuring takes. */
size_t sl_machine_device_room(const sl_machine *machine);
size_t sl_machine_host_room(const sl_machine *machine);

/* Opens what computes, with that room on a device, and what attends on the host; both are the
 * caller's to close, after a failure too.  Errors: those of the backends. */
sl_status sl_machine_open(const sl_machine *machine, sl_backend **backend_out,
                          sl_host_attention **host_attention_out);

#endif
