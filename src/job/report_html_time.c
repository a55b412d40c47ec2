/* The drawings of a report's page that have time along x. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "job/report_html_parts.h"

enum { PANEL = 110, PANEL_GAP = 34, ROW = 22, ROW_GAP = 6 };

/* The end of everything, on the timeline's clock. */
static double end_of(const sl_report *r) {
    const sl_bin_axis *axis = &r->pace.history.axis;
    double end_s = axis->bin_s > 0 ? axis->end_s - r->zero_s : 0;
    for (int i = 0; r->timeline && i < r->n_ranks; i++)
        end_s = fmax(end_s, r->timeline[i].axis.end_s);
    return end_s;
}

/* ---- speed ---- */

/* Edges of the history's bins, [n + 1]. */
static void edges_of(const sl_report *r, int n, double *x) {
    const sl_bin_axis *axis = &r->pace.history.axis;
    for (int b = 0; b <= n; b++)
        x[b] = fmin(axis->start_s + b * axis->bin_s, axis->end_s) - r->zero_s;
}

static void put_panel(sl_chart *c, const char *class_name, const char *y_name, const double *x,
                      const double *y, int n) {
    double most = 0;
    for (int b = 0; b < n; b++) most = fmax(most, y[b]);
    if (most > 0) {
        const double step = sl_chart_step(most, 4);
        c->y_max = ceil(most / step - 1e-9) * step;
    } else {
        c->y_max = 1;
    }
    sl_chart_scale(c, "s", y_name);
    if (most > 0) {
        sl_chart_steps(c, class_name, x, y, n);
    } else {
        sl_svg_text(c->html, "tick mid", c->left + c->width / 2, c->top + c->height / 2, "none");
    }
}

static void put_speed(sl_html *h, const sl_report *r, int n) {
    static const struct {
        const char *class_name, *y_name;
        sl_history_series series;
    } panels[] = {{"curve blue", "prefill, tokens/s", SL_HISTORY_PREFILL},
                  {"curve green", "decode, tokens/s", SL_HISTORY_DECODE}};
    const sl_history *history = &r->pace.history;
    double x[SL_BINS + 1], y[SL_BINS], sum = 0;
    sl_chart c = sl_report_html_chart(h, 8, PANEL);
    edges_of(r, n, x);
    c.x_max = end_of(r);
    sl_svg_begin(h, SL_CHART_WIDTH, 8 + 3 * (PANEL + PANEL_GAP), "speed over time");
    for (int p = 0; p < 2; p++) {
        for (int b = 0; b < n; b++) y[b] = sl_history_rate(history, panels[p].series, b);
        put_panel(&c, panels[p].class_name + strlen("curve "), panels[p].y_name, x, y, n);
        c.top += PANEL + PANEL_GAP;
    }
    for (int b = 0; b < n; b++) y[b] = sum += history->sum[SL_HISTORY_REQUESTS][b];
    put_panel(&c, "violet", "requests answered", x, y, n);
    sl_svg_end(h);
}

void sl_report_html_speed(sl_html *h, const sl_report *r) {
    const int n = sl_bins_used(&r->pace.history.axis);
    sl_report_html_begin(h, "speed", "Speed over time",
                         "Tokens of prompts and of answers that were computed each second, and "
                         "requests answered since the start.");
    if (n == 0) {
        sl_report_html_none(h, "Nothing was computed.");
    } else {
        put_speed(h, r, n);
    }
    sl_report_html_end(h);
}

/* ---- queues ---- */

static int used_queues(const sl_engine_stats *rank) {
    int n = 0;
    for (int q = 0; q < SL_QUEUE_COUNT; q++) n += rank->busy_s[q] > 0;
    return n;
}

static double rows_height(const sl_report *r) {
    int n = 0;
    for (int i = 0; i < r->n_ranks; i++) n += used_queues(&r->ranks[i]);
    return n * (ROW + ROW_GAP) + r->n_ranks * ROW;
}

static void put_rank_name(const sl_chart *c, const sl_engine_stats *rank, double top) {
    char text[80];
    snprintf(text, sizeof text, "rank %d, layers %d to %d", rank->rank, rank->first_layer,
             rank->last_layer - 1);
    sl_svg_text(c->html, "row head", c->left, top + ROW - 7, text);
}

static void class_of(int queue, char text[8]) {
    snprintf(text, 8, "q%d", queue % 10);
}

/* One queue: how much of each piece of time it was busy. */
static void put_queue(const sl_chart *c, const sl_report *r, int rank, int q, double top) {
    const sl_timeline_rank *t = &r->timeline[rank];
    const int n = sl_bins_used(&t->axis);
    char class_name[8], text[96], share[32];
    class_of(q, class_name);
    sl_svg_rect(c->html, "track", c->left, top, c->width, ROW, NULL);
    for (int b = 0; b < n; b++) {
        const double width_s = sl_bins_width_s(&t->axis, b);
        const double frac = width_s > 0 ? fmin(1, t->busy_s[q][b] / width_s) : 0;
        const double from_s = t->axis.start_s + b * t->axis.bin_s;
        if (frac <= 0) continue;
        snprintf(text, sizeof text, "from %.3g s: busy %.0f %%", from_s, 100 * frac);
        sl_chart_bar(c, class_name, from_s, from_s + width_s, top + ROW * (1 - frac), ROW * frac,
                     text);
    }
    const double over_s = t->axis.end_s - t->axis.start_s;
    snprintf(share, sizeof share, "%.1f %% busy",
             over_s > 0 ? 100 * r->ranks[rank].busy_s[q] / over_s : 0);
    sl_chart_row_text(c, top + ROW / 2.0, sl_queue_name((sl_queue)q), share);
}

static void put_queues(sl_html *h, const sl_report *r) {
    const double height = rows_height(r);
    sl_chart c = sl_report_html_chart(h, 0, height);
    double top = 0;
    c.x_max = end_of(r);
    sl_svg_begin(h, SL_CHART_WIDTH, height + 24, "queues over time");
    for (int i = 0; i < r->n_ranks; i++) {
        put_rank_name(&c, &r->ranks[i], top);
        top += ROW;
        for (int q = 0; q < SL_QUEUE_COUNT; q++) {
            if (r->ranks[i].busy_s[q] <= 0) continue;
            put_queue(&c, r, i, q, top);
            top += ROW + ROW_GAP;
        }
    }
    sl_chart_scale_x(&c, "s");
    sl_svg_end(h);
}

void sl_report_html_queues(sl_html *h, const sl_report *r) {
    int n = 0;
    for (int i = 0; i < r->n_ranks; i++) n += used_queues(&r->ranks[i]);
    sl_report_html_begin(h, "queues", "Queues over time",
                         "Computing, copies, disk and wire of each rank; the higher, the more of "
                         "that time the queue was busy.");
    if (!r->timeline) {
        sl_report_html_none(h, "Not recorded.");
    } else if (n == 0) {
        sl_report_html_none(h, "Nothing was computed.");
    } else {
        put_queues(h, r);
    }
    sl_report_html_end(h);
}

/* ---- a moment, span by span ---- */

/* From the first span to where a rank has no more: each keeps as many, be they short or long. */
static int find_moment(const sl_report *r, double *from_s, double *to_s) {
    *from_s = *to_s = INFINITY;
    for (int i = 0; r->timeline && i < r->n_ranks; i++) {
        const sl_timeline_rank *t = &r->timeline[i];
        double end_s = 0;
        if (t->n_spans == 0) continue;
        for (int s = 0; s < t->n_spans; s++) {
            *from_s = fmin(*from_s, t->span[s].start_s);
            end_s = fmax(end_s, t->span[s].end_s);
        }
        *to_s = fmin(*to_s, end_s);
    }
    return isfinite(*to_s) && *to_s > *from_s;
}

static void put_span(const sl_chart *c, const sl_timeline_span *span, double top) {
    char class_name[8], text[128];
    int n = snprintf(text, sizeof text, "%.20s", span->name);
    if (span->layer >= 0)
        n += snprintf(text + n, sizeof text - (size_t)n, ", layer %" PRId32, span->layer);
    if (span->micro_batch >= 0)
        n += snprintf(text + n, sizeof text - (size_t)n, ", micro-batch %" PRId32,
                      span->micro_batch);
    snprintf(text + n, sizeof text - (size_t)n, ": %.3g ms", (span->end_s - span->start_s) * 1e3);
    class_of(span->queue, class_name);
    if (span->start_s >= c->x_max) return;
    const double end_s = fmin(span->end_s, c->x_max);
    /* Thin ones stay visible. */
    const double width = sl_chart_x(c, end_s) - sl_chart_x(c, span->start_s);
    sl_svg_rect(c->html, class_name, sl_chart_x(c, span->start_s), top,
                width > 1.2 ? width - 0.5 : fmax(width, 0.4), ROW, text);
}

static void put_moment(sl_html *h, const sl_report *r, double from_s, double to_s) {
    const double height = rows_height(r);
    sl_chart c = sl_report_html_chart(h, 0, height);
    double top = 0;
    c.x_min = from_s;
    c.x_max = to_s;
    sl_svg_begin(h, SL_CHART_WIDTH, height + 24, "queues in one moment");
    for (int i = 0; i < r->n_ranks; i++) {
        const sl_timeline_rank *t = &r->timeline[i];
        put_rank_name(&c, &r->ranks[i], top);
        top += ROW;
        for (int q = 0; q < SL_QUEUE_COUNT; q++) {
            if (r->ranks[i].busy_s[q] <= 0) continue;
            sl_svg_rect(h, "track", c.left, top, c.width, ROW, NULL);
            for (int s = 0; s < t->n_spans; s++)
                if (t->span[s].queue == q) put_span(&c, &t->span[s], top);
            sl_chart_row_text(&c, top + ROW / 2.0, sl_queue_name((sl_queue)q), NULL);
            top += ROW + ROW_GAP;
        }
    }
    sl_chart_scale_x(&c, "s");
    sl_svg_end(h);
}

void sl_report_html_moment(sl_html *h, const sl_report *r) {
    double from_s, to_s;
    sl_report_html_begin(h, "moment", "A moment of it",
                         "Some hundred tasks of each rank, one by one. --trace FILE writes those "
                         "of the whole run.");
    if (!find_moment(r, &from_s, &to_s)) {
        sl_report_html_none(h, r->timeline ? "Nothing was computed." : "Not recorded.");
    } else {
        put_moment(h, r, from_s, to_s);
    }
    sl_report_html_end(h);
}
