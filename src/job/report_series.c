/* The part of a report's JSON that says what happened when. */
#include "job/report.h"

static void put_real(sl_json_text *out, const char *name, double value) {
    sl_json_cstring(out, name);
    sl_json_raw(out, ": ");
    sl_json_double(out, value);
}

static void put_bins(sl_json_text *out, const char *name, const double *sum, int n) {
    sl_json_cstring(out, name);
    sl_json_raw(out, ": [");
    for (int b = 0; b < n; b++) {
        if (b) sl_json_raw(out, ", ");
        sl_json_double(out, sum[b]);
    }
    sl_json_raw(out, "]");
}

/* {"start_s": ..., "end_s": ..., "bin_s": ... : seconds since the timeline's zero. */
static void put_axis(sl_json_text *out, const sl_bin_axis *axis, double zero_s) {
    sl_json_raw(out, "{");
    put_real(out, "start_s", axis->bin_s > 0 ? axis->start_s - zero_s : 0);
    sl_json_raw(out, ", ");
    put_real(out, "end_s", axis->bin_s > 0 ? axis->end_s - zero_s : 0);
    sl_json_raw(out, ", ");
    put_real(out, "bin_s", axis->bin_s);
}

void sl_report_history_json(const sl_report *report, sl_json_text *out) {
    const sl_history *h = &report->pace.history;
    put_axis(out, &h->axis, report->zero_s);
    for (int s = 0; s < SL_HISTORY_COUNT; s++) {
        sl_json_raw(out, ", ");
        put_bins(out, sl_history_name((sl_history_series)s), h->sum[s], sl_bins_used(&h->axis));
    }
    sl_json_raw(out, "}");
}

void sl_report_timeline_json(const sl_report *report, int rank, sl_json_text *out) {
    const sl_timeline_rank *t = &report->timeline[rank];
    int n = 0;
    put_axis(out, &t->axis, 0);
    sl_json_raw(out, ", \"busy_s\": {");
    for (int q = 0; q < SL_QUEUE_COUNT; q++) {
        if (report->ranks[rank].busy_s[q] <= 0) continue;
        if (n++) sl_json_raw(out, ", ");
        put_bins(out, sl_queue_name((sl_queue)q), t->busy_s[q], sl_bins_used(&t->axis));
    }
    sl_json_raw(out, "}}");
}
