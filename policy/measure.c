#include "measure.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"

sl_status sl_measure_open(const sl_measure_options *options, sl_measure *out) {
    const sl_measure_options *o = options;
    if (!o->backend || !o->transport || !o->host_attention || o->n_threads < 1 ||
        o->host_bytes == 0 || !(o->sample_s > 0.0) || !(o->limit_s > 0.0))
        return SL_FAIL(SL_ERR_ARG, "measuring with %d threads, %zu bytes, %g of %g seconds",
                       o->n_threads, o->host_bytes, o->sample_s, o->limit_s);
    sl_measure m = {.opt = o, .be = o->backend, .device = o->backend->ops->device, .what = ""};
    SL_TRY(sl_tier_open_cpu(o->host_bytes, &m.host));
    if (m.device) sl_tier_set_node(m.host, m.device->numa_node(m.be));
    m.pinned = (sl_pinned_from){.cpu = m.host, .be = m.be, .device = m.device};
    m.end_s = sl_clock_s() + o->limit_s;
    *out = m;
    return SL_OK;
}

void sl_measure_close(sl_measure *m) {
    if (m->be) (void)sl_measure_wait(m);
    sl_tier_close(m->host);
    *m = (sl_measure){0};
}

void sl_measure_part(sl_measure *m, const char *what, double from_frac, double to_frac) {
    m->what = what;
    m->from_frac = from_frac;
    m->to_frac = to_frac;
    sl_measure_point(m, 0, 1);
}

void sl_measure_point(const sl_measure *m, int done, int of) {
    if (!m->opt->on_progress) return;
    const double part = m->to_frac - m->from_frac;
    m->opt->on_progress(m->opt->user, m->what, m->from_frac + part * done / of);
}

int sl_measure_is_late(const sl_measure *m) {
    return sl_clock_s() > m->end_s;
}

sl_status sl_measure_wait(const sl_measure *m) {
    SL_TRY(m->be->ops->sync(m->be));
    return m->device ? m->device->drain(m->be) : SL_OK;
}

static sl_status time_batch(const sl_measure *m, sl_measure_work *work, void *context, int *run,
                            int n, double *seconds_out) {
    const double start_s = sl_clock_s();
    for (int i = 0; i < n; i++) SL_TRY(work(context, (*run)++));
    SL_TRY(sl_measure_wait(m));
    *seconds_out = sl_clock_s() - start_s;
    return SL_OK;
}

static int by_size(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double sl_measure_median(double *values, int n) {
    qsort(values, (size_t)n, sizeof *values, by_size);
    return values[n / 2];
}

sl_status sl_measure_time(const sl_measure *m, sl_measure_work *work, void *context,
                          double *seconds_out) {
    enum { MOST = 1 << 16 };
    const double sample_s = m->opt->sample_s;
    double s[3];
    int run = 0, n = 1;
    /* The first may load code and choose kernels: a tenth of a second where the work is a
     * microsecond. */
    SL_TRY(time_batch(m, work, context, &run, 1, &s[0]));
    if (s[0] < fmax(10.0 * sample_s, 1.0)) SL_TRY(time_batch(m, work, context, &run, 1, &s[0]));
    while (s[0] < sample_s / 4 && n < MOST) {
        const double factor = s[0] > 0.0 ? sample_s / 3 / s[0] : 8.0;
        n = factor < 8.0 ? (int)(n * fmax(factor, 1.5)) + 1 : n * 8;
        SL_TRY(time_batch(m, work, context, &run, n, &s[0]));
    }
    if (s[0] < sample_s) {
        for (int i = 1; i < 3; i++) SL_TRY(time_batch(m, work, context, &run, n, &s[i]));
        s[0] = sl_measure_median(s, 3);
    }
    *seconds_out = fmax(s[0] / n, 1e-9);
    return SL_OK;
}

sl_status sl_measure_take(sl_measure *m, size_t bytes, const char *what, void **out) {
    return m->device ? m->device->take(m->be, bytes, what, out)
                     : sl_tier_take_touched(m->host, bytes, what, out);
}

void sl_measure_put(sl_measure *m, void *memory) {
    if (!memory) return;
    if (m->device)
        m->device->put(m->be, memory);
    else
        sl_tier_put(m->host, memory);
}

size_t sl_measure_room(const sl_measure *m) {
    return m->device ? m->device->budget_bytes(m->be) - m->device->used_bytes(m->be)
                     : sl_tier_budget_bytes(m->host) - sl_tier_used_bytes(m->host);
}

sl_status sl_measure_upload(const sl_measure *m, void *to, const void *from, size_t bytes) {
    if (!m->device) {
        memcpy(to, from, bytes);
        return SL_OK;
    }
    SL_TRY(m->device->copy(m->be, SL_STREAM_COMPUTE, to, from, bytes));
    return m->be->ops->sync(m->be);
}

double sl_measure_round(double value) {
    char text[32];
    snprintf(text, sizeof text, "%.3g", value);
    return strtod(text, NULL);
}
