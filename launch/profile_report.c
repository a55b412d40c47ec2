#include "profile_report.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/clock.h"

/* ---- the bar ---- */

void sl_profile_bar_init(sl_profile_bar *bar, FILE *stream) {
    *bar = (sl_profile_bar){.stream = stream, .last_what = ""};
    bar->is_terminal = stream && isatty(fileno(stream));
}

void sl_profile_bar_update(void *user, const char *what, double done_frac) {
    enum { WIDTH = 30 };
    static const double PERIOD_S = 0.1;
    sl_profile_bar *bar = user;
    const double now_s = sl_clock_s();
    const int is_new = strcmp(what, bar->last_what) != 0;
    if (!bar->stream || (!is_new && (!bar->is_terminal || now_s - bar->last_s < PERIOD_S))) return;
    bar->last_s = now_s;
    bar->last_what = what;
    if (!bar->is_terminal) {
        fprintf(bar->stream, "%3.0f %%  measuring %s\n", done_frac * 100.0, what);
        return;
    }
    const int full = (int)(done_frac * WIDTH);
    fprintf(bar->stream, "\r[%.*s%*s] %3.0f %%  measuring %s\033[K", full,
            "##############################", WIDTH - full, "", done_frac * 100.0, what);
    fflush(bar->stream);
}

void sl_profile_bar_clear(sl_profile_bar *bar) {
    if (bar->stream && bar->is_terminal && bar->last_what[0]) fputs("\r\033[K", bar->stream);
}

/* ---- the tables ---- */

/* Three digits. */
static const char *number(double value, char buf[32]) {
    snprintf(buf, 32, value >= 100.0 ? "%.0f" : value >= 10.0 ? "%.1f" : "%.2f", value);
    return buf;
}

static const char *bytes_text(double bytes, char buf[32]) {
    return sl_bytes_format((size_t)bytes, buf, 32);
}

/* "64K", "16M". */
static const char *size_text(double bytes, char buf[32]) {
    static const char units[] = " KMGT";
    int unit = 0;
    for (; bytes >= 1024.0 && unit < 4; unit++) bytes /= 1024.0;
    snprintf(buf, 32, unit ? "%.0f%c" : "%.0f", bytes, units[unit]);
    return buf;
}

static void print_curve(const char *label, const sl_curve *curve, double unit, int x_is_bytes,
                        FILE *stream) {
    char x[32], y[32];
    if (curve->n == 0) return;
    fprintf(stream, "  %-13s", label);
    for (int i = 0; i < curve->n; i++) {
        if (i > 0 && i % 7 == 0) fprintf(stream, "\n  %-13s", "");
        if (x_is_bytes) {
            size_text(curve->x[i], x);
        } else {
            snprintf(x, sizeof x, "%.0f", curve->x[i]);
        }
        fprintf(stream, " %5s:%6s", x, number(curve->y[i] / unit, y));
    }
    fputc('\n', stream);
}

static void print_curves(const char *title, const sl_curve *curves, double unit, FILE *stream) {
    fprintf(stream, "%s\n", title);
    for (int f = 0; f < SL_PROFILE_FORMATS; f++)
        print_curve(sl_profile_format_names[f], &curves[f], unit, 0, stream);
}

/* Tera for a GPU, giga for processors. */
static void print_flops(const char *what, const char *by, const sl_curve *curves, FILE *stream) {
    char title[96];
    const int n = curves[0].n, is_tera = n > 0 && curves[0].y[n - 1] >= 1e12;
    snprintf(title, sizeof title, "%s, %cFLOP/s by %s", what, is_tera ? 'T' : 'G', by);
    print_curves(title, curves, is_tera ? 1e12 : 1e9, stream);
}

static void print_number(const char *label, double value, const char *unit, FILE *stream) {
    char buf[32];
    if (value > 0.0) fprintf(stream, "  %-28s %8s %s\n", label, number(value, buf), unit);
}

/* What unpacking 4-bit weights adds to a product of rows, in elements of weights per second; 0
 * where the curves do not tell. */
static double unpack_elems_per_s(const sl_profile *p) {
    const double rows = 512.0;
    const double f16 = sl_curve_at(&p->gemm_flops[0], rows),
                 q4 = sl_curve_at(&p->gemm_flops[2], rows);
    if (!(f16 > 0.0) || !(q4 > 0.0) || !(f16 > q4)) return 0.0;
    return 1.0 / (2.0 * rows / q4 - 2.0 * rows / f16);
}

void sl_profile_report(const sl_profile *p, int rank, FILE *stream) {
    char gpu[32], cpu[32], disk[32];
    if (rank >= 0) fprintf(stream, "rank %d\n", rank);
    fprintf(stream, "machine    %s\nthreads    %d\n", p->name, p->n_threads);
    if (p->device[0]) fprintf(stream, "device     %s\n", p->device);
    fprintf(stream, "source     %s\n", p->source);
    fprintf(stream, "may use    gpu %s, cpu %s, disk %s\n\n", bytes_text(p->gpu_bytes, gpu),
            bytes_text(p->cpu_bytes, cpu), bytes_text(p->disk_bytes, disk));

    if (p->h2d_bps.n) {
        fprintf(stream, "copies, GB/s by bytes of one\n");
        print_curve("to device", &p->h2d_bps, 1e9, 1, stream);
        print_curve("from device", &p->d2h_bps, 1e9, 1, stream);
        print_number("both at once", p->duplex_bps * 1e-9, "GB/s", stream);
    }
    fprintf(stream, "reading host memory, GB/s by threads\n");
    print_curve("alone", &p->dram_threads_bps, 1e9, 0, stream);
    if (p->device[0])
        print_number("beside copies, with them", p->dram_beside_h2d_bps * 1e-9, "GB/s", stream);
    if (p->disk_read_bps.n) {
        fprintf(stream, "disk, GB/s by bytes of a request\n");
        print_curve("read", &p->disk_read_bps, 1e9, 1, stream);
        print_curve("write", &p->disk_write_bps, 1e9, 1, stream);
    }
    if (p->wire_bps > 0.0) {
        fprintf(stream, "wire to the next rank\n");
        print_number("bandwidth", p->wire_bps * 1e-9, "GB/s", stream);
        print_number("latency", p->wire_latency_s * 1e6, "us", stream);
    }
    if (p->compute_beside_h2d_frac > 0.0) {
        fprintf(stream, "computing while copies to the device run\n");
        print_number("of its speed", 100.0 * p->compute_beside_h2d_frac, "%", stream);
    }
    print_curves("attention on the host, GB/s of pages by tokens of a sequence", p->host_attend_bps,
                 1e9, stream);
    print_flops("products", "rows", p->gemm_flops, stream);
    if (p->gemm_small_flops[0].n)
        print_flops("products with small matrices", "rows", p->gemm_small_flops, stream);
    if (p->gemm_large_flops[0].n)
        print_flops("products with large matrices", "rows", p->gemm_large_flops, stream);
    print_number("unpacking 4 bit, 512 rows", unpack_elems_per_s(p) * 1e-9, "G elements/s", stream);
    print_curves("attention, GB/s of pages by sequences of 512 tokens", p->attend_bps, 1e9, stream);
    print_flops("attention of prompts", "tokens", p->prefill_attend_flops, stream);
    fprintf(stream, "other\n");
    print_number("memory that computes", p->memory_bps * 1e-9, "GB/s", stream);
    print_number("one layer, beside its work", p->layer_s * 1e6, "us", stream);
    print_number("one sweep, beside its work", p->sweep_s * 1e6, "us", stream);
    print_number("one job on the host", p->host_job_s * 1e6, "us", stream);
}
