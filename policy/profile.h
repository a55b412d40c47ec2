/* profile.h - what one rank's machine can do: measured capacities, bandwidths and rates.
 *
 * A profile is what the cost model reads.  It is measured (sluice profile), kept in a JSON file
 * (cluster/README.md lists the keys with their units) and used again while the machine is the same.
 * Layer: policy.  May include: src.  Thread safety: plain data, pure functions.
 */
#ifndef SL_POLICY_PROFILE_H
#define SL_POLICY_PROFILE_H

#include <stddef.h>

#include "base/dtype.h"
#include "base/status.h"

enum { SL_CURVE_MAX = 16, SL_PROFILE_FORMATS = 3 };

/* A rate as a function of a size: points with ascending x > 0; between them linear in log x, beyond
 * them constant.  n 0: the machine cannot do it. */
typedef struct {
    int n;
    double x[SL_CURVE_MAX], y[SL_CURVE_MAX];
} sl_curve;

double sl_curve_at(const sl_curve *curve, double x);

/* Index of a format in the arrays below: f16 0, q8 1, q4 2. */
int sl_profile_format(sl_dtype dtype);

typedef struct {
    char name[64];   /* of the machine, for people */
    char source[64]; /* "measured", or where the numbers are from */
    char device[64]; /* "" without a GPU */
    int n_threads;   /* that attend on the host, or compute without a GPU */

    /* Capacities that may be used. */
    double gpu_bytes, cpu_bytes, disk_bytes;

    /* Links.  x: bytes of one copy; y: bytes/s. */
    sl_curve h2d_bps, d2h_bps;
    double duplex_bps;          /* both directions at once, summed */
    double dram_bps;            /* all threads reading, nothing beside */
    double dram_beside_h2d_bps; /* all threads reading while copies to the device run, plus what the
                                 * copies move: what host memory gives in all */
    sl_curve disk_read_bps, disk_write_bps; /* x: bytes of one request, several under way */
    double wire_bps, wire_latency_s;        /* to the next rank */

    /* Attention on the host by format of the pages.  x: tokens of a sequence; y: page bytes/s with
     * n_threads threads. */
    sl_curve host_attend_bps[SL_PROFILE_FORMATS];

    /* What computes (GPU, or the processors without one).
     * gemm: by format of the weights; x: rows; y: flop/s of a product with a [4096, 4096] matrix or
     * larger (2 * rows * elements / s), decoding of packed weights included. */
    sl_curve gemm_flops[SL_PROFILE_FORMATS];
    /* Decode attention by format of the pages.  x: sequences in the call at 512 tokens; y: page
     * bytes/s. */
    sl_curve attend_bps[SL_PROFILE_FORMATS];
    /* Prefill attention.  x: tokens of a prompt; y: flop/s, counting 4 * tokens^2 / 2 * width. */
    sl_curve prefill_attend_flops[SL_PROFILE_FORMATS];
    double memory_bps; /* of the computing tier, read + write: norms, activations, copies */
    double layer_s;    /* fixed cost of one layer for one micro-batch: launches, gaps */
    double sweep_s;    /* fixed cost of one sweep: forming a block, sampling, ends of queues */
    double host_job_s; /* fixed cost of one job of attention on the host, copies of queries and
                        * results included */
} sl_profile;

/* Checks that numbers are finite, not negative and complete enough to plan with.
 * Errors: SL_ERR_ARG naming the key, the value and what was expected. */
sl_status sl_profile_check(const sl_profile *profile);

/* Reads and writes one profile as JSON.  Unknown keys are refused by name, missing ones too.
 * Errors: SL_ERR_IO, SL_ERR_FORMAT (file, key, what was found and expected). */
sl_status sl_profile_read(const char *path, sl_profile *out);
sl_status sl_profile_write(const sl_profile *profile, const char *path);

#endif
