#include "sim/sim_rates.h"

#include <math.h>

double sl_sim_curve_at(const sl_sim_curve *c, double x) {
    if (c->n == 0) return 0.0;
    if (x <= c->x[0]) return c->y[0];
    for (int i = 1; i < c->n; i++) {
        if (x > c->x[i]) continue;
        const double part = log(x / c->x[i - 1]) / log(c->x[i] / c->x[i - 1]);
        return c->y[i - 1] + part * (c->y[i] - c->y[i - 1]);
    }
    return c->y[c->n - 1];
}

int sl_sim_format(sl_dtype dtype) {
    const int bits = sl_dtype_group_bits(dtype);
    if (bits) return bits == 8 ? 1 : 2;
    const double bytes = (double)sl_dtype_block_bytes(dtype) / sl_dtype_block_elems(dtype);
    return bytes >= 2.0 ? 0 : bytes > 0.8 ? 1 : 2; /* Q6_K has 0.82, Q5_1 0.75 */
}

static sl_status check_curve(const char *name, const sl_sim_curve *c, int is_needed) {
    if (c->n < 0 || c->n > SL_SIM_CURVE_MAX)
        return SL_FAIL(SL_ERR_ARG, "simulated machine: %s has %d points, at most %d", name, c->n,
                       (int)SL_SIM_CURVE_MAX);
    if (c->n == 0 && is_needed)
        return SL_FAIL(SL_ERR_ARG, "simulated machine: %s is empty, but is needed", name);
    for (int i = 0; i < c->n; i++) {
        const int rises = c->x[i] > (i ? c->x[i - 1] : 0.0);
        if (!rises || !isfinite(c->x[i]) || !(c->y[i] > 0.0) || !isfinite(c->y[i]))
            return SL_FAIL(SL_ERR_ARG,
                           "simulated machine: point %d of %s is (%g, %g), expected an x that "
                           "rises and a rate above 0",
                           i, name, c->x[i], c->y[i]);
    }
    return SL_OK;
}

static sl_status check_number(const char *name, double value, int is_needed) {
    if (isfinite(value) && (is_needed ? value > 0.0 : value >= 0.0)) return SL_OK;
    return SL_FAIL(SL_ERR_ARG, "simulated machine: %s is %g, expected a number %s 0", name, value,
                   is_needed ? "above" : "of at least");
}

sl_status sl_sim_rates_check(const sl_sim_rates *r) {
    const int has_device = r->gpu_bytes > 0.0;
    const struct {
        const char *name;
        double value;
        int is_needed;
    } numbers[] = {{"gpu_bytes", r->gpu_bytes, 0},
                   {"cpu_bytes", r->cpu_bytes, 1},
                   {"disk_bytes", r->disk_bytes, 0},
                   {"duplex_bps", r->duplex_bps, 0},
                   {"dram_bps", r->dram_bps, 0},
                   {"dram_beside_h2d_bps", r->dram_beside_h2d_bps, 0},
                   {"wire_bps", r->wire_bps, 0},
                   {"wire_latency_s", r->wire_latency_s, 0},
                   {"memory_bps", r->memory_bps, 1},
                   {"layer_s", r->layer_s, 0},
                   {"sweep_s", r->sweep_s, 0},
                   {"host_job_s", r->host_job_s, 0},
                   {"compute_beside_h2d_frac", r->compute_beside_h2d_frac, 0}};
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
        SL_TRY(check_number(numbers[i].name, numbers[i].value, numbers[i].is_needed));
    if (r->compute_beside_h2d_frac > 1.0)
        return SL_FAIL(SL_ERR_ARG,
                       "simulated machine: compute_beside_h2d_frac is %g, expected at most 1",
                       r->compute_beside_h2d_frac);
    SL_TRY(check_curve("h2d_bps", &r->h2d_bps, has_device));
    SL_TRY(check_curve("d2h_bps", &r->d2h_bps, has_device));
    SL_TRY(check_curve("disk_read_bps", &r->disk_read_bps, r->disk_bytes > 0.0));
    SL_TRY(check_curve("disk_write_bps", &r->disk_write_bps, r->disk_bytes > 0.0));
    for (int f = 0; f < SL_SIM_FORMATS; f++) {
        SL_TRY(check_curve("host_attend_bps", &r->host_attend_bps[f], 0));
        SL_TRY(check_curve("gemm_flops", &r->gemm_flops[f], f == 0));
        SL_TRY(check_curve("gemm_small_flops", &r->gemm_small_flops[f], 0));
        SL_TRY(check_curve("gemm_large_flops", &r->gemm_large_flops[f], 0));
        SL_TRY(check_curve("attend_bps", &r->attend_bps[f], 0));
        SL_TRY(check_curve("prefill_attend_flops", &r->prefill_attend_flops[f], 0));
    }
    return SL_OK;
}
