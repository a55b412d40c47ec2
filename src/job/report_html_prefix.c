/* The drawing of a report's page that shows common beginnings of prompts. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include "job/report_html_parts.h"

enum { BAR = 22, BAR_TOP = 26, PANEL_TOP = 66, PANEL = 90, FOOT = 24 };

/* Share of the prompt tokens of sequences that began in each bin; time without any keeps 0. */
static void put_share(sl_html *h, const sl_report *r) {
    const sl_history *history = &r->pace.history;
    const int n = sl_bins_used(&history->axis);
    double x[SL_BINS + 1], y[SL_BINS];
    sl_chart c = sl_report_html_chart(h, PANEL_TOP, PANEL);
    for (int b = 0; b <= n; b++)
        x[b] =
            fmin(history->axis.start_s + b * history->axis.bin_s, history->axis.end_s) - r->zero_s;
    for (int b = 0; b < n; b++) {
        const double admitted = history->sum[SL_HISTORY_ADMITTED][b];
        y[b] = admitted > 0 ? 100 * history->sum[SL_HISTORY_SHARED][b] / admitted : 0;
    }
    c.x_max = n > 0 ? x[n] : 0;
    c.y_max = 100;
    sl_chart_scale(&c, "s", "shared, %");
    sl_chart_steps(&c, "orange", x, y, n);
}

static void put_sum(sl_html *h, const sl_report *r) {
    static const sl_chart_key keys[] = {{"blue", "computed"}, {"orange", "shared"}};
    const double all = (double)r->pace.n_admitted_tokens, shared = (double)r->pace.n_shared_tokens;
    char text[96];
    sl_chart c = sl_report_html_chart(h, BAR_TOP, BAR);
    c.x_max = all;
    sl_chart_keys(&c, 4, keys, 2);
    snprintf(text, sizeof text, "%" PRIu64 " tokens computed",
             r->pace.n_admitted_tokens - r->pace.n_shared_tokens);
    sl_chart_bar(&c, "blue", 0, all - shared, BAR_TOP, BAR, text);
    snprintf(text, sizeof text, "%" PRIu64 " tokens shared", r->pace.n_shared_tokens);
    sl_chart_bar(&c, "orange", all - shared, all, BAR_TOP, BAR, text);
    snprintf(text, sizeof text, "%.1f %% shared", 100 * sl_pace_hits_frac(&r->pace));
    sl_chart_row_text(&c, BAR_TOP + BAR / 2.0, "prompt tokens", text);
}

void sl_report_html_prefix(sl_html *h, const sl_report *r) {
    char words[160];
    snprintf(words, sizeof words,
             "Of %" PRIu64 " prompt tokens, %" PRIu64
             " began a prompt as another one did, and were not computed again.",
             r->pace.n_admitted_tokens, r->pace.n_shared_tokens);
    sl_report_html_begin(h, "prefix", "Common beginnings of prompts", words);
    if (r->pace.n_admitted_tokens == 0) {
        sl_report_html_none(h, "No prompt has begun.");
    } else {
        sl_svg_begin(h, SL_CHART_WIDTH, PANEL_TOP + PANEL + FOOT, "prompt tokens");
        put_sum(h, r);
        put_share(h, r);
        sl_svg_end(h);
    }
    sl_report_html_end(h);
}
