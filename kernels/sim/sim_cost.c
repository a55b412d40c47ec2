#include "sim/sim_cost.h"

#include "base/product_rate.h"
#include "store/disk.h"

sl_status sl_sim_gemm_s(const sl_sim_rates *r, const sl_weight *w, int n_rows, double *out) {
    const sl_dtype dtype = w->n_slabs > 0 ? w->slabs[0].dtype : SL_DTYPE_F16;
    const double elems = (double)w->rows * (double)w->cols;
    const int f = sl_sim_format(dtype);
    const double size = sl_product_size(f > 0, (double)w->rows, (double)w->cols);
    const double rate = sl_product_rate(sl_sim_curve_at(&r->gemm_small_flops[f], n_rows),
                                        sl_sim_curve_at(&r->gemm_flops[f], n_rows),
                                        sl_sim_curve_at(&r->gemm_large_flops[f], n_rows), size);
    if (rate == 0.0)
        return SL_FAIL(SL_ERR_ARG, "the simulated machine has no rate for products with %s weights",
                       sl_dtype_name(dtype));
    *out = 2.0 * n_rows * elems / rate;
    return SL_OK;
}

/* Keys that the row at `position` sees. */
static double keys_seen(int position, int window) {
    const int n = position + 1;
    return window > 0 && n > window ? window : n;
}

static sl_status no_rate(const char *what, sl_dtype dtype) {
    return SL_FAIL(SL_ERR_ARG, "the simulated machine has no rate for %s over %s pages", what,
                   sl_dtype_name(dtype));
}

sl_status sl_sim_attend_s(const sl_sim_rates *r, const sl_kv_format *format, int width, int window,
                          double share, const sl_rows *rows, double *out) {
    const int f = sl_sim_format(format->dtype);
    const double token_bytes = (double)format->page_bytes / SL_PAGE_TOKENS;
    double seconds = 0.0, decode_tokens = 0.0;
    for (int s = 0; s < rows->n_segments; s++) {
        const sl_segment *g = &rows->segment[s];
        if (g->n_rows == 1) {
            decode_tokens += keys_seen(g->position0, window);
            continue;
        }
        double keys = 0.0;
        for (int i = 0; i < g->n_rows; i++) keys += keys_seen(g->position0 + i, window);
        const double rate = sl_sim_curve_at(&r->prefill_attend_flops[f], g->position0 + g->n_rows);
        if (rate == 0.0) return no_rate("attention of prompts", format->dtype);
        seconds += 4.0 * keys * width / rate;
    }
    if (decode_tokens > 0.0) {
        const double rate = sl_sim_curve_at(&r->attend_bps[f], decode_tokens / 512.0);
        if (rate == 0.0) return no_rate("decode attention", format->dtype);
        seconds += share * decode_tokens * token_bytes / rate;
    }
    *out = seconds;
    return SL_OK;
}

sl_status sl_sim_host_attend(const sl_sim_rates *r, const sl_host_job *job, sl_sim_load *load_out,
                             double *bytes_out) {
    const sl_sim_curve *curve = &r->host_attend_bps[sl_sim_format(job->format.dtype)];
    const double token_bytes = (double)job->format.page_bytes / SL_PAGE_TOKENS;
    /* Sparse attention reads all keys and some of the values. */
    const double share = job->sparsity > 0.0f ? 0.5 * (1.0 + (double)job->sparsity) : 1.0;
    double bytes = 0.0, seconds = r->host_job_s;
    if (curve->n == 0) return no_rate("attention on the host", job->format.dtype);
    for (int i = 0; i < job->n_rows; i++) {
        const double tokens = keys_seen(job->row[i].n_tokens - 1, job->window);
        const double row_bytes = share * tokens * token_bytes;
        bytes += row_bytes;
        seconds += row_bytes / sl_sim_curve_at(curve, tokens);
    }
    *load_out = (sl_sim_load){.seconds = seconds, .dram_bps = bytes / seconds};
    *bytes_out = bytes;
    return SL_OK;
}

double sl_sim_memory_s(const sl_sim_rates *r, double bytes) {
    return bytes / r->memory_bps;
}

sl_sim_load sl_sim_copy(const sl_sim_rates *r, int to_device, double bytes) {
    const double rate = sl_sim_curve_at(to_device ? &r->h2d_bps : &r->d2h_bps, bytes);
    sl_sim_load load = {.seconds = bytes / rate, .dram_bps = rate};
    *(to_device ? &load.h2d_bps : &load.d2h_bps) = rate;
    return load;
}

sl_sim_load sl_sim_transfer(const sl_sim_rates *r, int is_write, double bytes) {
    /* The disk layer splits long transfers, and the file is asked for several parts at a time. */
    const double request = bytes < SL_DISK_REQUEST_BYTES ? bytes : SL_DISK_REQUEST_BYTES;
    const double rate = sl_sim_curve_at(is_write ? &r->disk_write_bps : &r->disk_read_bps, request);
    return (sl_sim_load){.seconds = bytes / rate, .dram_bps = rate};
}

sl_sim_load sl_sim_message(const sl_sim_rates *r, double bytes) {
    return (sl_sim_load){.seconds = r->wire_latency_s + bytes / r->wire_bps};
}
