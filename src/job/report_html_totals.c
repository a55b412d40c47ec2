/* The drawings of a report's page that show sums: links, memory, plan, the time of ranks. */
#include <math.h>
#include <stdio.h>

#include "base/bytes.h"
#include "job/report_html_parts.h"

enum { ROW = 20, ROW_GAP = 8, KEYS = 24 };

static void name_of(const sl_report *r, int rank, const char *what, char *text, size_t room) {
    if (r->n_ranks > 1) {
        snprintf(text, room, "rank %d %s", rank, what);
    } else {
        snprintf(text, room, "%s", what);
    }
}

/* ---- links ---- */

static double achieved_bps(const sl_engine_stats *rank, int q) {
    return rank->moved_bytes[q] && rank->busy_s[q] > 0
               ? (double)rank->moved_bytes[q] / rank->busy_s[q]
               : 0;
}

static double measured_bps(const sl_report *r, int rank, int q) {
    return r->links ? r->links[rank].bps[q] : 0;
}

/* How many links there are, and the powers of ten between which their rates lie: a disk and a GPU
 * do not fit a linear scale. */
static int find_links(const sl_report *r, double *least, double *most) {
    int n = 0;
    double least_bps = INFINITY, most_bps = 0;
    for (int i = 0; i < r->n_ranks; i++)
        for (int q = 0; q < SL_QUEUE_COUNT; q++) {
            const double reached = achieved_bps(&r->ranks[i], q);
            if (reached <= 0) continue;
            n++;
            least_bps = fmin(least_bps, reached);
            most_bps = fmax(most_bps, fmax(reached, measured_bps(r, i, q)));
        }
    *least = n ? floor(log10(least_bps) - 1e-9) : 0;
    *most = n ? ceil(log10(most_bps) - 1e-9) : 1;
    return n;
}

/* Lines at the powers of ten. */
static void put_decades(const sl_chart *c) {
    char text[32];
    for (double d = c->x_min; d <= c->x_max + 0.5; d++) {
        const double x = sl_chart_x(c, d);
        sl_svg_line(c->html, "grid", x, c->top, x, c->top + c->height);
        sl_chart_number(pow(10, d), text, sizeof text);
        sl_svg_text(c->html, "tick mid", x, c->top + c->height + 14, text);
    }
    sl_svg_text(c->html, "tick", c->left + c->width + 18, c->top + c->height + 14, "bytes/s");
}

static void put_link(const sl_chart *c, const sl_report *r, int rank, int q, double top) {
    const sl_engine_stats *stats = &r->ranks[rank];
    const double reached = achieved_bps(stats, q), measured = measured_bps(r, rank, q);
    const double at = log10(reached), peak = measured > 0 ? log10(measured) : c->x_min;
    char name[48], bytes[32], text[96], title[200];
    name_of(r, rank, sl_queue_name((sl_queue)q), name, sizeof name);
    sl_bytes_format(stats->moved_bytes[q], bytes, sizeof bytes);
    if (measured > 0) {
        snprintf(text, sizeof text, "%.3g of %.3g GB/s, %s", reached * 1e-9, measured * 1e-9,
                 bytes);
        snprintf(title, sizeof title, "%s; %.0f %% of what was measured", text,
                 100 * reached / measured);
    } else {
        snprintf(text, sizeof text, "%.3g GB/s, %s", reached * 1e-9, bytes);
        snprintf(title, sizeof title, "%s; what the link can do was not measured", text);
    }
    sl_chart_bar(c, "track", c->x_min, fmax(peak, at), top, ROW, title);
    sl_chart_bar(c, "blue", c->x_min, at, top + 4, ROW - 8, title);
    if (measured > 0) sl_svg_rect(c->html, "mark", sl_chart_x(c, peak) - 1, top, 2, ROW, title);
    sl_chart_row_text(c, top + ROW / 2.0, name, text);
}

static void put_links(sl_html *h, const sl_report *r, int n, double least, double most) {
    static const sl_chart_key keys[] = {{"blue", "reached while busy"},
                                        {"mark", "the profile of this machine"}};
    const double height = n * (ROW + ROW_GAP);
    sl_chart c = sl_report_html_chart(h, KEYS, height);
    double top = KEYS;
    c.x_min = least;
    c.x_max = most;
    sl_svg_begin(h, SL_CHART_WIDTH, KEYS + height + 24, "links");
    sl_chart_keys(&c, 4, keys, r->links ? 2 : 1);
    put_decades(&c);
    for (int i = 0; i < r->n_ranks; i++)
        for (int q = 0; q < SL_QUEUE_COUNT; q++) {
            if (achieved_bps(&r->ranks[i], q) <= 0) continue;
            put_link(&c, r, i, q, top);
            top += ROW + ROW_GAP;
        }
    sl_svg_end(h);
}

void sl_report_html_links(sl_html *h, const sl_report *r) {
    double least, most;
    const int n = find_links(r, &least, &most);
    sl_report_html_begin(h, "links", "Links",
                         "Bytes that each queue moved, and how fast while it was busy.");
    if (n == 0) {
        sl_report_html_none(h, "Nothing was moved: all of it lives where it is computed.");
    } else {
        put_links(h, r, n, least, most);
    }
    sl_report_html_end(h);
}

/* ---- memory ---- */

static int has_tier(const sl_engine_stats *rank, int tier) {
    return sl_report_budget_bytes(rank, tier) > 0 || sl_report_peak_bytes(rank, tier) > 0;
}

static void put_tier(const sl_chart *c, const sl_report *r, int rank, int tier, double top) {
    const double peak = (double)sl_report_peak_bytes(&r->ranks[rank], tier);
    const double budget = (double)sl_report_budget_bytes(&r->ranks[rank], tier);
    const double planned = r->plan ? (double)r->plan->peak_bytes[tier] : 0;
    const double whole = fmax(budget, peak);
    char name[48], a[32], b[32], p[32], text[96], title[200];
    name_of(r, rank, sl_report_tier_name(tier), name, sizeof name);
    sl_bytes_format((size_t)peak, a, sizeof a);
    sl_bytes_format((size_t)budget, b, sizeof b);
    snprintf(text, sizeof text, "%s of %s", a, b);
    snprintf(title, sizeof title, "peak %s, planned %s, budget %s", a,
             planned > 0 ? sl_bytes_format((size_t)planned, p, sizeof p) : "nothing", b);
    sl_chart_bar(c, "track", 0, 1, top, ROW, title);
    sl_chart_bar(c, peak > budget ? "red" : "green", 0, peak / whole, top + 4, ROW - 8, title);
    if (planned > 0)
        sl_svg_rect(c->html, "mark", sl_chart_x(c, fmin(1, planned / whole)) - 1, top, 2, ROW,
                    title);
    sl_chart_row_text(c, top + ROW / 2.0, name, text);
}

void sl_report_html_memory(sl_html *h, const sl_report *r) {
    static const sl_chart_key keys[] = {
        {"green", "peak"}, {"track", "budget"}, {"mark", "planned peak"}};
    int n = 0;
    for (int i = 0; i < r->n_ranks; i++)
        for (int t = 0; t < SL_TIER_COUNT; t++) n += has_tier(&r->ranks[i], t);
    const double height = n * (ROW + ROW_GAP);
    sl_chart c = sl_report_html_chart(h, KEYS, height);
    double top = KEYS;
    c.x_max = 1;
    sl_report_html_begin(h, "memory", "Memory",
                         "The most that was in use of each tier, against what it was allowed.");
    sl_svg_begin(h, SL_CHART_WIDTH, KEYS + height, "memory of each tier");
    sl_chart_keys(&c, 4, keys, r->plan ? 3 : 2);
    for (int i = 0; i < r->n_ranks; i++)
        for (int t = 0; t < SL_TIER_COUNT; t++) {
            if (!has_tier(&r->ranks[i], t)) continue;
            put_tier(&c, r, i, t, top);
            top += ROW + ROW_GAP;
        }
    sl_svg_end(h);
    sl_report_html_end(h);
}

/* ---- plan ---- */

static void put_expected(const sl_chart *c, const char *name, double planned_s, double reached_s,
                         double top) {
    char text[64], title[128];
    int n = snprintf(text, sizeof text, "%.3g s", reached_s);
    if (planned_s > 0 && reached_s > 0)
        snprintf(text + n, sizeof text - (size_t)n, " (%+.1f %%)",
                 100 * (reached_s / planned_s - 1));
    snprintf(title, sizeof title, "%s: %.4g s expected, %.4g s reached", name, planned_s,
             reached_s);
    sl_chart_bar(c, "grey", 0, planned_s, top, ROW / 2.0 - 1, title);
    sl_chart_bar(c, "orange", 0, reached_s, top + ROW / 2.0, ROW / 2.0 - 1, title);
    sl_chart_row_text(c, top + ROW / 2.0, name, text);
}

static void put_plan(sl_html *h, const sl_report *r) {
    static const sl_chart_key keys[] = {{"grey", "expected"}, {"orange", "reached"}};
    const sl_report_plan *p = r->plan;
    const char *name[SL_QUEUE_COUNT + 2] = {"prefill", "decode"};
    double planned_s[SL_QUEUE_COUNT + 2] = {p->prefill_s, p->decode_s};
    double reached_s[SL_QUEUE_COUNT + 2] = {r->pace.prefill_s, r->pace.decode_s};
    int n = 2;
    for (int q = 0; q < SL_QUEUE_COUNT; q++) {
        const double busy_s = sl_report_most_busy_s(r, q);
        if (p->busy_s[q] <= 0 && busy_s <= 0) continue;
        name[n] = sl_queue_name((sl_queue)q);
        planned_s[n] = p->busy_s[q];
        reached_s[n++] = busy_s;
    }
    sl_chart c = sl_report_html_chart(h, KEYS, n * (ROW + ROW_GAP));
    for (int i = 0; i < n; i++) c.x_max = fmax(c.x_max, fmax(planned_s[i], reached_s[i]));
    sl_svg_begin(h, SL_CHART_WIDTH, KEYS + c.height + 24, "plan and outcome");
    sl_chart_keys(&c, 4, keys, 2);
    sl_chart_scale_x(&c, "s");
    for (int i = 0; i < n; i++)
        put_expected(&c, name[i], planned_s[i], reached_s[i], KEYS + i * (double)(ROW + ROW_GAP));
    sl_svg_end(h);
}

void sl_report_html_plan(sl_html *h, const sl_report *r) {
    char words[320] = "What was expected of the job, beside what happened.";
    if (r->plan)
        snprintf(words, sizeof words,
                 "Expected for %s and %d requests of %.0f + %.0f tokens: %.1f tokens/s; reached: "
                 "%.1f. Times of the rank that took longest.",
                 r->plan->machine, r->plan->n_prompts, r->plan->prompt_len, r->plan->gen_len,
                 r->plan->tokens_per_s, sl_report_total_tps(r));
    sl_report_html_begin(h, "plan", "Plan and outcome", words);
    if (!r->plan) {
        sl_report_html_none(h, "Nothing was expected: no profile of the machine was at hand "
                               "(--profile, sluice profile).");
    } else {
        put_plan(h, r);
    }
    sl_report_html_end(h);
}

/* ---- where the time of ranks went ---- */

static void put_rank_time(const sl_chart *c, const sl_report *r, int rank, double top) {
    static const char *const classes[] = {"green", "grey", "violet", "orange"};
    static const char *const names[] = {"computing", "nothing to compute yet",
                                        "waiting for other ranks", "waiting for the wire"};
    const sl_engine_stats *s = &r->ranks[rank];
    const double wait_s = s->start_s + s->bubble_s + s->exposed_wire_s;
    const double part_s[] = {fmax(0, s->run_s - wait_s), s->start_s, s->bubble_s,
                             s->exposed_wire_s};
    char name[48], title[128], text[48];
    double at_s = 0;
    for (int i = 0; i < 4; i++) {
        snprintf(title, sizeof title, "%s: %.4g s", names[i], part_s[i]);
        sl_chart_bar(c, classes[i], at_s, at_s + part_s[i], top, ROW, title);
        at_s += part_s[i];
    }
    snprintf(name, sizeof name, "rank %d", s->rank);
    snprintf(text, sizeof text, "wire %.1f %%",
             s->run_s > 0 ? 100 * s->exposed_wire_s / s->run_s : 0);
    sl_chart_row_text(c, top + ROW / 2.0, name, text);
}

void sl_report_html_ranks(sl_html *h, const sl_report *r) {
    static const sl_chart_key keys[] = {{"green", "its own work"},
                                        {"grey", "nothing to compute yet"},
                                        {"violet", "waiting for other ranks"},
                                        {"orange", "for the wire"}};
    if (r->n_ranks < 2) return; /* one rank waits for nobody */
    sl_chart c = sl_report_html_chart(h, KEYS, r->n_ranks * (double)(ROW + ROW_GAP));
    for (int i = 0; i < r->n_ranks; i++) c.x_max = fmax(c.x_max, r->ranks[i].run_s);
    sl_report_html_begin(h, "ranks", "Time of each rank",
                         "From its first block to its last, and what of that was waiting.");
    sl_svg_begin(h, SL_CHART_WIDTH, KEYS + c.height + 24, "time of each rank");
    sl_chart_keys(&c, 4, keys, 4);
    sl_chart_scale_x(&c, "s");
    for (int i = 0; i < r->n_ranks; i++)
        put_rank_time(&c, r, i, KEYS + i * (double)(ROW + ROW_GAP));
    sl_svg_end(h);
    sl_report_html_end(h);
}
