#include "job/report_html.h"

#include <inttypes.h>
#include <stdio.h>

#include "base/dtype.h"
#include "job/report_html_parts.h"
#include "model/layout.h"

static const char head[] =
    "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
    "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
    "<link rel=\"icon\" href=\"data:,\">\n";

static const char style[] =
    "<style>\n"
    "body{font:15px/1.45 system-ui,sans-serif;color:#1b1f24;background:#fff;max-width:1000px;"
    "margin:24px auto;padding:0 20px}\n"
    "h1{font-size:22px;margin:0 0 4px}\n"
    "figure{margin:30px 0 0}\n"
    "figcaption b{font-size:17px}figcaption p,.note{margin:2px 0 8px;color:#59636e}\n"
    "svg{width:100%;height:auto;display:block;font:12px system-ui,sans-serif}\n"
    "table{border-collapse:collapse;margin-top:14px}\n"
    "td,th{padding:3px 18px 3px 0;text-align:left;border-bottom:1px solid #d8dee4;"
    "font-weight:normal;vertical-align:top}\n"
    "th{color:#59636e}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}\n"
    ".none{padding:14px;background:#f6f8fa;color:#59636e;border-radius:6px}\n"
    ".grid{stroke:#d8dee4;stroke-width:1}.axis{stroke:#818b98;stroke-width:1}\n"
    ".tick{fill:#59636e;font-size:11px}.row{fill:#1b1f24}.end{text-anchor:end}"
    ".mid{text-anchor:middle}.head{font-weight:600}\n"
    ".area{stroke:none;fill-opacity:.25}.curve{fill:none;stroke-width:1.5}\n"
    ".track{fill:#eaeef2}.mark{fill:#1b1f24}.over{fill:none;stroke:#1b1f24;stroke-dasharray:3 2}\n"
    ".blue{fill:#1f6feb}.green{fill:#1a7f37}.orange{fill:#d4730b}.grey{fill:#8c959f}"
    ".violet{fill:#8250df}.red{fill:#cf222e}\n"
    ".curve.blue{fill:none;stroke:#1f6feb}.curve.green{fill:none;stroke:#1a7f37}"
    ".curve.violet{fill:none;stroke:#8250df}.curve.orange{fill:none;stroke:#d4730b}\n"
    ".q0{fill:#8a6d00}.q1{fill:#1f6feb}.q2{fill:#bf3989}.q3{fill:#54aeff}.q4{fill:#1a7f37}"
    ".q5{fill:#2da2a2}.q6{fill:#8250df}.q7{fill:#d4730b}.q8{fill:#b35900}.q9{fill:#e85aad}\n"
    "</style>\n</head>\n<body>\n";

/* ---- what the drawings share ---- */

void sl_report_html_begin(sl_html *h, const char *name, const char *title, const char *words) {
    sl_html_raw(h, "<figure id=\"chart-");
    sl_html_raw(h, name);
    sl_html_raw(h, "\">\n<figcaption>");
    sl_html_element(h, "b", NULL, title);
    sl_html_element(h, "p", NULL, words);
    sl_html_raw(h, "</figcaption>\n");
}

void sl_report_html_end(sl_html *h) {
    sl_html_raw(h, "</figure>\n");
}

void sl_report_html_none(sl_html *h, const char *why) {
    sl_html_element(h, "div", "none", why);
}

sl_chart sl_report_html_chart(sl_html *h, double top, double height) {
    return (sl_chart){.html = h,
                      .left = SL_CHART_LEFT,
                      .top = top,
                      .width = SL_CHART_WIDTH - SL_CHART_LEFT - SL_CHART_RIGHT,
                      .height = height};
}

/* ---- the head of the page ---- */

static void put_title(sl_html *h, const sl_report *r) {
    char line[512];
    sl_html_raw(h, head);
    snprintf(line, sizeof line, "sluice %s: %.300s", r->program, r->model);
    sl_html_element(h, "title", NULL, line);
    sl_html_raw(h, style);
    sl_html_element(h, "h1", NULL, line);
    snprintf(line, sizeof line, "%d rank%s, %s, %d thread%s on the first, transport %s", r->n_ranks,
             r->n_ranks == 1 ? "" : "s", r->backend, r->n_threads, r->n_threads == 1 ? "" : "s",
             r->transport);
    sl_html_element(h, "p", "note", line);
}

static void put_policy(sl_html *h, const sl_policy *p) {
    char line[400];
    const char *weights =
        p->weights_dtype == SL_DTYPE_AS_STORED ? "stored" : sl_dtype_name(p->weights_dtype);
    snprintf(line, sizeof line,
             "Micro-batches of %d sequences, %d a block, %d block%s in flight, at most %d rows, "
             "context %d, %s weights, %s cache%s%s.",
             p->micro_batch, p->num_micro_batches, p->blocks_in_flight,
             p->blocks_in_flight == 1 ? "" : "s", p->max_rows, p->max_context, weights,
             sl_dtype_name(p->cache_dtype), p->no_sharing ? ", no prefix sharing" : "",
             p->two_phase ? ", two phases" : "");
    sl_html_element(h, "p", "note", line);
}

static void put_row(sl_html *h, const char *what, uint64_t tokens, double seconds, double tps) {
    char text[64];
    sl_html_raw(h, "<tr>");
    sl_html_element(h, "td", NULL, what);
    snprintf(text, sizeof text, "%" PRIu64, tokens);
    sl_html_element(h, "td", "n", text);
    sl_html_raw(h, "<td class=\"n\">");
    sl_html_number(h, seconds, 2);
    sl_html_raw(h, "</td><td class=\"n\">");
    sl_html_number(h, tps, 1);
    sl_html_raw(h, "</td></tr>\n");
}

static void put_summary(sl_html *h, const sl_report *r) {
    const sl_pace *pace = &r->pace;
    char text[160];
    sl_html_raw(h, "<table id=\"summary\">\n<tr><th></th><th class=\"n\">tokens</th>"
                   "<th class=\"n\">seconds</th><th class=\"n\">tokens/s</th></tr>\n");
    put_row(h, "prefill", pace->n_prefill_rows, pace->prefill_s, sl_pace_prefill_tps(pace));
    put_row(h, "decode", pace->n_pure_decode_rows, pace->decode_s, sl_pace_decode_tps(pace));
    put_row(h, "generated in all", r->n_generated_tokens, pace->prefill_s + pace->decode_s,
            sl_report_total_tps(r));
    sl_html_raw(h, "</table>\n");
    snprintf(text, sizeof text,
             "%" PRIu64 " requests (%" PRIu64 " refused) with %" PRIu64 " prompt tokens; %" PRIu64
             " tokens were decoded beside prompts.",
             r->n_requests, r->n_refused, r->n_prompt_tokens,
             pace->n_decode_rows - pace->n_pure_decode_rows);
    sl_html_element(h, "p", "note", text);
    sl_html_raw(h, "<p class=\"note\">Reading the model took ");
    sl_html_number(h, r->open_s, 2);
    sl_html_raw(h, " s, the job ");
    sl_html_number(h, r->wall_s, 2);
    sl_html_raw(h, " s.</p>\n");
}

sl_status sl_report_html_write(const sl_report *report, const char *path) {
    sl_html *h = NULL;
    SL_TRY(sl_html_open(path, &h));
    put_title(h, report);
    put_policy(h, report->policy);
    put_summary(h, report);
    sl_report_html_speed(h, report);
    sl_report_html_queues(h, report);
    sl_report_html_moment(h, report);
    sl_report_html_ranks(h, report);
    sl_report_html_links(h, report);
    sl_report_html_memory(h, report);
    sl_report_html_plan(h, report);
    sl_report_html_prefix(h, report);
    sl_html_raw(h, "</body>\n</html>\n");
    return sl_html_close(h, 1);
}
