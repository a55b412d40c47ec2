#include "profile.h"

#include <math.h>
#include <string.h>

#include "profile_impl.h"

const char *const sl_profile_format_names[SL_PROFILE_FORMATS] = {"f16", "q8", "q4"};

#define PLACE(field) offsetof(sl_profile, field), sizeof(((sl_profile *)0)->field)
#define KEY(field, kind)                                                                           \
    { #field, kind, 0, PLACE(field) }
#define OPTIONAL_KEY(field, kind)                                                                  \
    { #field, kind, 1, PLACE(field) }

const sl_profile_key sl_profile_keys[SL_PROFILE_N_KEYS] = {
    KEY(name, SL_KEY_TEXT),
    KEY(source, SL_KEY_TEXT),
    KEY(device, SL_KEY_TEXT),
    KEY(n_threads, SL_KEY_COUNT),
    KEY(gpu_bytes, SL_KEY_NUMBER),
    KEY(cpu_bytes, SL_KEY_NUMBER),
    KEY(disk_bytes, SL_KEY_NUMBER),
    KEY(h2d_bps, SL_KEY_CURVE),
    KEY(d2h_bps, SL_KEY_CURVE),
    KEY(duplex_bps, SL_KEY_NUMBER),
    KEY(dram_bps, SL_KEY_NUMBER),
    KEY(dram_beside_h2d_bps, SL_KEY_NUMBER),
    KEY(dram_threads_bps, SL_KEY_CURVE),
    KEY(disk_read_bps, SL_KEY_CURVE),
    KEY(disk_write_bps, SL_KEY_CURVE),
    KEY(wire_bps, SL_KEY_NUMBER),
    KEY(wire_latency_s, SL_KEY_NUMBER),
    KEY(host_attend_bps, SL_KEY_CURVES),
    KEY(gemm_flops, SL_KEY_CURVES),
    OPTIONAL_KEY(gemm_small_flops, SL_KEY_CURVES),
    OPTIONAL_KEY(gemm_large_flops, SL_KEY_CURVES),
    KEY(attend_bps, SL_KEY_CURVES),
    KEY(prefill_attend_flops, SL_KEY_CURVES),
    KEY(memory_bps, SL_KEY_NUMBER),
    OPTIONAL_KEY(compute_beside_h2d_frac, SL_KEY_NUMBER),
    KEY(layer_s, SL_KEY_NUMBER),
    KEY(sweep_s, SL_KEY_NUMBER),
    KEY(host_job_s, SL_KEY_NUMBER),
};
/* ---- curves ---- */

double sl_curve_at(const sl_curve *curve, double x) {
    if (curve->n < 1) return 0.0;
    if (!(x > curve->x[0])) return curve->y[0];
    for (int i = 1; i < curve->n; i++) {
        if (x > curve->x[i]) continue;
        /* Logarithms first and weights that sum to 1: no quotient overflows, and the result stays
         * between the points, whatever a file says. */
        const double from = log(curve->x[i - 1]), span = log(curve->x[i]) - from;
        const double t = span > 0.0 ? fmin((log(x) - from) / span, 1.0) : 1.0;
        return curve->y[i - 1] * (1.0 - t) + curve->y[i] * t;
    }
    return curve->y[curve->n - 1];
}

sl_status sl_curve_add(sl_curve *curve, double x, double y) {
    if (curve->n >= SL_CURVE_MAX)
        return SL_FAIL(SL_ERR_ARG, "a curve has room for %d points", (int)SL_CURVE_MAX);
    const double least = curve->n > 0 ? curve->x[curve->n - 1] : 0.0;
    if (!(x > least) || !isfinite(x) || !(y > 0.0) || !isfinite(y))
        return SL_FAIL(SL_ERR_ARG, "a curve's point (%g, %g), expected x above %g and y above 0", x,
                       y, least);
    curve->x[curve->n] = x;
    curve->y[curve->n++] = y;
    return SL_OK;
}

int sl_profile_format(sl_dtype dtype) {
    switch (dtype) {
    case SL_DTYPE_F32:
    case SL_DTYPE_F16:
    case SL_DTYPE_BF16:
        return 0;
    case SL_DTYPE_Q4_0:
    case SL_DTYPE_Q4_1:
    case SL_DTYPE_Q5_0:
    case SL_DTYPE_Q5_1:
    case SL_DTYPE_Q4_K:
    case SL_DTYPE_Q5_K:
    case SL_DTYPE_Q4G64:
        return 2;
    default:
        return 1;
    }
}

double sl_profile_product_s(const sl_profile *p, int format, double rows, double outputs,
                            double cols) {
    const double size = sl_product_size(format > 0, outputs, cols);
    const int is_small = size < SL_PRODUCT_MEDIUM_ELEMS;
    const double beyond =
        sl_curve_at(is_small ? &p->gemm_small_flops[format] : &p->gemm_large_flops[format], rows);
    const double rate =
        sl_product_rate(is_small ? beyond : 0, sl_curve_at(&p->gemm_flops[format], rows),
                        is_small ? 0 : beyond, size);
    return 2 * rows * outputs * cols / rate;
}

double sl_profile_lost_frac(const sl_profile *p) {
    return p->compute_beside_h2d_frac > 0.0 ? 1.0 - p->compute_beside_h2d_frac : 0.0;
}

/* ---- checks ---- */

static sl_status check_curve(const char *name, const char *format, const sl_curve *c) {
    const char *dot = format ? "." : "", *of = format ? format : "";
    if (c->n < 0 || c->n > SL_CURVE_MAX)
        return SL_FAIL(SL_ERR_ARG, "%s%s%s: %d points, expected 0 to %d", name, dot, of, c->n,
                       (int)SL_CURVE_MAX);
    for (int i = 0; i < c->n; i++) {
        const double least = i > 0 ? c->x[i - 1] : 0.0;
        if (!(c->x[i] > least) || !isfinite(c->x[i]))
            return SL_FAIL(SL_ERR_ARG, "%s%s%s: point %d is at %g, expected above %g", name, dot,
                           of, i, c->x[i], least);
        if (!(c->y[i] > 0.0) || !isfinite(c->y[i]))
            return SL_FAIL(SL_ERR_ARG, "%s%s%s: %g at %g, expected above 0", name, dot, of, c->y[i],
                           c->x[i]);
    }
    return SL_OK;
}

static sl_status check_field(const sl_profile *p, const sl_profile_key *k) {
    const void *field = (const char *)p + k->offset;
    if (k->kind == SL_KEY_TEXT && !memchr(field, 0, k->bytes))
        return SL_FAIL(SL_ERR_ARG, "%s: expected at most %zu characters", k->name, k->bytes - 1);
    if (k->kind == SL_KEY_COUNT && *(const int *)field < 1)
        return SL_FAIL(SL_ERR_ARG, "%s: %d, expected at least 1", k->name, *(const int *)field);
    if (k->kind == SL_KEY_NUMBER) {
        const double value = *(const double *)field;
        if (!(value >= 0.0) || !isfinite(value))
            return SL_FAIL(SL_ERR_ARG, "%s: %g, expected 0 or more", k->name, value);
    }
    if (k->kind == SL_KEY_CURVE) return check_curve(k->name, NULL, field);
    for (int f = 0; k->kind == SL_KEY_CURVES && f < SL_PROFILE_FORMATS; f++)
        SL_TRY(check_curve(k->name, sl_profile_format_names[f], (const sl_curve *)field + f));
    return SL_OK;
}

static sl_status expect_number(const char *name, double value, const char *why) {
    return value > 0.0 ? SL_OK
                       : SL_FAIL(SL_ERR_ARG, "%s: %g, expected above 0 %s", name, value, why);
}

static sl_status expect_curve(const char *name, const sl_curve *curve, const char *why) {
    return curve->n > 0 ? SL_OK : SL_FAIL(SL_ERR_ARG, "%s: no points, expected some %s", name, why);
}

sl_status sl_profile_check(const sl_profile *p) {
    for (int k = 0; k < SL_PROFILE_N_KEYS; k++) SL_TRY(check_field(p, &sl_profile_keys[k]));
    SL_TRY(expect_number("cpu_bytes", p->cpu_bytes, "of every machine"));
    SL_TRY(expect_number("dram_bps", p->dram_bps, "of every machine"));
    SL_TRY(expect_curve("gemm_flops.f16", &p->gemm_flops[0], "of every machine"));
    SL_TRY(expect_curve("attend_bps.f16", &p->attend_bps[0], "of every machine"));
    SL_TRY(
        expect_curve("prefill_attend_flops.f16", &p->prefill_attend_flops[0], "of every machine"));
    SL_TRY(expect_number("memory_bps", p->memory_bps, "of every machine"));
    if (p->compute_beside_h2d_frac > 1.0)
        return SL_FAIL(SL_ERR_ARG, "compute_beside_h2d_frac: %g, expected at most 1",
                       p->compute_beside_h2d_frac);
    if (p->device[0]) {
        static const char why[] = "with a device";
        SL_TRY(expect_number("gpu_bytes", p->gpu_bytes, why));
        SL_TRY(expect_curve("h2d_bps", &p->h2d_bps, why));
        SL_TRY(expect_curve("d2h_bps", &p->d2h_bps, why));
        SL_TRY(expect_number("duplex_bps", p->duplex_bps, why));
        SL_TRY(expect_number("dram_beside_h2d_bps", p->dram_beside_h2d_bps, why));
        SL_TRY(expect_curve("host_attend_bps.f16", &p->host_attend_bps[0], why));
    } else if (p->gpu_bytes > 0.0) {
        return SL_FAIL(SL_ERR_ARG, "gpu_bytes: %g, expected 0 without a device", p->gpu_bytes);
    }
    if (p->disk_bytes > 0.0) {
        SL_TRY(expect_curve("disk_read_bps", &p->disk_read_bps, "with a disk"));
        SL_TRY(expect_curve("disk_write_bps", &p->disk_write_bps, "with a disk"));
    }
    return SL_OK;
}
