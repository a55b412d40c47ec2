/* profile.h - what one rank's machine can do: measured capacities, bandwidths and rates.
 *
 * A profile is what the cost model reads.  It is measured (sluice profile), kept in a JSON file
 * (cluster/README.md lists the keys with their units, which are the fields' names here) and used
 * again while the machine is the same.
 * Layer: policy.  May include: src.  Thread safety: plain data, pure functions.
 */
#ifndef SL_POLICY_PROFILE_H
#define SL_POLICY_PROFILE_H

#include <stddef.h>

#include "base/dtype.h"
#include "base/product_rate.h"
#include "base/status.h"
#include "job/json_text.h"

enum { SL_CURVE_MAX = 24, SL_PROFILE_FORMATS = 3 };

/* A rate as a function of a size: points with ascending x > 0; between them linear in log x, beyond
 * them constant.  n 0: the machine cannot do it. */
typedef struct {
    int n;
    double x[SL_CURVE_MAX], y[SL_CURVE_MAX];
} sl_curve;

/* 0 of a curve without points. */
double sl_curve_at(const sl_curve *curve, double x);

/* Appends a point.  Errors: SL_ERR_ARG (full, x not above the last one's, y not above 0). */
sl_status sl_curve_add(sl_curve *curve, double x, double y);

/* Index of a format in the arrays below: f16 0, q8 1, q4 2.  Other formats count as the one whose
 * elements take the most similar number of bytes: F32 and BF16 as f16, GGML's of 4 and 5 bits as
 * q4, its others as q8. */
int sl_profile_format(sl_dtype dtype);

/* "f16", "q8", "q4": the formats' names in files. */
extern const char *const sl_profile_format_names[SL_PROFILE_FORMATS];

typedef struct {
    char name[64];    /* of the machine, for people */
    char source[512]; /* "measured, VERSION", or which numbers are from where */
    char device[64];  /* "" without a GPU */
    int n_threads;    /* that attend on the host, or compute without a GPU */

    /* Capacities that may be used. */
    double gpu_bytes, cpu_bytes, disk_bytes;

    /* Links.  x: bytes of one copy; y: bytes/s. */
    sl_curve h2d_bps, d2h_bps;
    double duplex_bps;          /* both directions at once, summed */
    double dram_bps;            /* all threads reading, nothing beside */
    double dram_beside_h2d_bps; /* all threads reading while copies to the device run, plus what the
                                 * copies move: what host memory gives in all; dram_bps without
                                 * a GPU */
    sl_curve dram_threads_bps;  /* x: threads reading, nothing beside; y: bytes/s of them all */
    sl_curve disk_read_bps, disk_write_bps; /* x: bytes of one request, several under way */
    double wire_bps, wire_latency_s;        /* to the next rank; 0, 0 of the last one */

    /* Attention on the host by format of the pages.  x: tokens of a sequence; y: page bytes/s with
     * n_threads threads. */
    sl_curve host_attend_bps[SL_PROFILE_FORMATS];

    /* What computes (GPU, or the processors without one).
     * gemm: by format of the weights; x: rows; y: flop/s of a product with a [4096, 4096] matrix or
     * larger (2 * rows * elements / s), decoding of packed weights included; small and large: the
     * same with a matrix of SL_PRODUCT_SMALL_ELEMS and of SL_PRODUCT_LARGE_ELEMS elements, without
     * points where nobody measured them. */
    sl_curve gemm_flops[SL_PROFILE_FORMATS];
    sl_curve gemm_small_flops[SL_PROFILE_FORMATS], gemm_large_flops[SL_PROFILE_FORMATS];
    /* Decode attention by format of the pages.  x: sequences in the call at 512 tokens; y: page
     * bytes/s. */
    sl_curve attend_bps[SL_PROFILE_FORMATS];
    /* Prefill attention.  x: tokens of a prompt; y: flop/s, counting 4 * tokens^2 / 2 * width. */
    sl_curve prefill_attend_flops[SL_PROFILE_FORMATS];
    double memory_bps; /* of the computing tier, read + write: norms, activations, copies */
    double compute_beside_h2d_frac; /* of its speed alone that computation keeps while copies to the
                                     * device run, at most 1; 0 where nobody measured it: all */
    double layer_s;    /* fixed cost of one layer for one micro-batch: small kernels, gaps */
    double sweep_s;    /* fixed cost of one sweep: forming a block, sampling, ends of queues */
    double host_job_s; /* fixed cost of one job of attention on the host, copies of queries and
                        * results included */
} sl_profile;

/* Part of its speed that computation loses while copies to the device run: 0 to below 1. */
double sl_profile_lost_frac(const sl_profile *profile);

/* Seconds of a product of `rows` rows with a matrix [outputs, cols], both > 0, in a format (0..2)
 * that gemm_flops has points for. */
double sl_profile_product_s(const sl_profile *profile, int format, double rows, double outputs,
                            double cols);

/* Checks that numbers are finite, not negative and complete enough to plan with.
 * Errors: SL_ERR_ARG naming the key, the value and what was expected. */
sl_status sl_profile_check(const sl_profile *profile);

/* Reads and writes one profile as JSON.  Unknown keys are refused by name, missing ones too (but
 * for gemm_small_flops, gemm_large_flops and compute_beside_h2d_frac, which are written where they
 * are known), and values that sl_profile_check() refuses.  A file is written under another name
 * first, so that nobody reads half of it.
 *   text   [bytes], need not end with a zero;  where: names it in errors
 * Errors: SL_ERR_IO, SL_ERR_FORMAT (file, key, what was found and expected). */
sl_status sl_profile_read(const char *path, sl_profile *out);
sl_status sl_profile_parse(const char *text, size_t bytes, const char *where, sl_profile *out);
sl_status sl_profile_write(const sl_profile *profile, const char *path);
void sl_profile_print(const sl_profile *profile, sl_json_text *out);

#endif
