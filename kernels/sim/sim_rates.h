/* sim_rates.h - what a simulated machine can do: capacities, bandwidths and rates.
 *
 * Plain numbers that the caller fills in, from a measured profile for example.
 * Layer: kernels.  May include: src.  Thread safety: plain data, pure functions.
 */
#ifndef SL_SIM_RATES_H
#define SL_SIM_RATES_H

#include <stddef.h>

#include "base/dtype.h"
#include "base/status.h"

enum { SL_SIM_CURVE_MAX = 24, SL_SIM_FORMATS = 3 };

/* A rate as a function of a size: points with ascending x > 0; between them linear in log x, beyond
 * them constant.  n 0: the machine cannot do it. */
typedef struct {
    int n;
    double x[SL_SIM_CURVE_MAX], y[SL_SIM_CURVE_MAX];
} sl_sim_curve;

/* The rate at x; 0 for an empty curve. */
double sl_sim_curve_at(const sl_sim_curve *curve, double x);

/* Index of a format in the arrays below: f16 0, q8 1, q4 2; others as the one whose elements take
 * the most similar number of bytes. */
int sl_sim_format(sl_dtype dtype);

typedef struct {
    double gpu_bytes;             /* of the device; 0: the processors compute in host memory */
    double cpu_bytes, disk_bytes; /* what may be used; 0 bytes of disk: there is none */

    /* Links.  x: bytes of one copy; y: bytes/s. */
    sl_sim_curve h2d_bps, d2h_bps;
    double duplex_bps;          /* both directions at once, summed; 0: each as if alone */
    double dram_bps;            /* what host memory gives to processors alone; 0: no limit */
    double dram_beside_h2d_bps; /* what it gives to processors and copies together; 0: no limit */
    sl_sim_curve disk_read_bps, disk_write_bps; /* x: bytes of one request, several under way */
    double wire_bps, wire_latency_s;            /* to the next rank; needed with several ranks */

    /* Attention on the host by format of the pages.  x: tokens of a sequence; y: page bytes/s. */
    sl_sim_curve host_attend_bps[SL_SIM_FORMATS];

    /* What computes: the device, or the processors without one.  By format:
     * gemm_flops            of the weights;  x: rows; y: 2 * rows * elements / s; small and large:
     *                       where matrices of these sizes (base/product_rate.h) have other rates
     * attend_bps            decode, of the pages;  x: sequences of 512 tokens in the call; y: page
     *                       bytes/s
     * prefill_attend_flops  of the pages;  x: tokens of a prompt; y: 4 * keys * width / s, summed
     *                       over rows */
    sl_sim_curve gemm_flops[SL_SIM_FORMATS];
    sl_sim_curve gemm_small_flops[SL_SIM_FORMATS], gemm_large_flops[SL_SIM_FORMATS];
    sl_sim_curve attend_bps[SL_SIM_FORMATS];
    sl_sim_curve prefill_attend_flops[SL_SIM_FORMATS];
    double memory_bps;              /* of the computing tier, read + write */
    double compute_beside_h2d_frac; /* of its speed that the device's computation keeps while copies
                                     * to it run; 0: all */
    double layer_s;                 /* fixed cost of one layer for one micro-batch */
    double sweep_s;                 /* fixed cost of one sweep */
    double host_job_s;              /* fixed cost of one job of attention on the host */
} sl_sim_rates;

/* Checks that what every run needs is there: host memory, a GEMM, attention, and with a device its
 * links.  Errors: SL_ERR_ARG naming what is missing. */
sl_status sl_sim_rates_check(const sl_sim_rates *rates);

#endif
