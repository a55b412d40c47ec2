#include "job/metrics.h"

#include <inttypes.h>
#include <stdio.h>

static const double bounds_s[SL_METRIC_BUCKETS] = {0.01, 0.025, 0.05, 0.1, 0.25, 0.5,  1,   2.5,
                                                   5,    10,    30,   60,  300,  1800, 7200};

void sl_histogram_add(sl_histogram *h, double seconds) {
    int b = 0;
    while (b < SL_METRIC_BUCKETS && seconds > bounds_s[b]) b++;
    h->counts[b]++;
    h->sum_s += seconds;
}

typedef struct {
    const char *model;
    sl_json_text *out;
} writing;

static void begin_family(const writing *w, const char *name, const char *type, const char *help) {
    char line[320];
    snprintf(line, sizeof line, "# HELP sluice:%s %s\n# TYPE sluice:%s %s\n", name, help, name,
             type);
    sl_json_raw(w->out, line);
}

/* A label's value: backslash, quote and newline are escaped. */
static void put_label(const writing *w, const char *value) {
    for (; *value; value++) {
        if (*value == '\n') {
            sl_json_raw(w->out, "\\n");
            continue;
        }
        if (*value == '\\' || *value == '"') sl_json_raw(w->out, "\\");
        sl_json_bytes(w->out, value, 1);
    }
}

/* name{model_name="...",label="value"} number */
static void put_sample(const writing *w, const char *name, const char *label, const char *value,
                       const char *number) {
    sl_json_raw(w->out, "sluice:");
    sl_json_raw(w->out, name);
    sl_json_raw(w->out, "{model_name=\"");
    put_label(w, w->model);
    if (label) {
        sl_json_raw(w->out, "\",");
        sl_json_raw(w->out, label);
        sl_json_raw(w->out, "=\"");
        put_label(w, value);
    }
    sl_json_raw(w->out, "\"} ");
    sl_json_raw(w->out, number);
    sl_json_raw(w->out, "\n");
}

static void put_count(const writing *w, const char *name, const char *label, const char *value,
                      uint64_t count) {
    char number[32];
    snprintf(number, sizeof number, "%" PRIu64, count);
    put_sample(w, name, label, value, number);
}

static void put_real(const writing *w, const char *name, const char *label, const char *value,
                     double real) {
    char number[40];
    snprintf(number, sizeof number, "%.9g", real);
    put_sample(w, name, label, value, number);
}

static void put_histogram(const writing *w, const char *name, const char *help,
                          const sl_histogram *h) {
    char part[80];
    uint64_t sum = 0;
    begin_family(w, name, "histogram", help);
    snprintf(part, sizeof part, "%s_bucket", name);
    for (int b = 0; b < SL_METRIC_BUCKETS; b++) {
        char bound[32];
        sum += h->counts[b];
        snprintf(bound, sizeof bound, "%g", bounds_s[b]);
        put_count(w, part, "le", bound, sum);
    }
    sum += h->counts[SL_METRIC_BUCKETS];
    put_count(w, part, "le", "+Inf", sum);
    snprintf(part, sizeof part, "%s_sum", name);
    put_real(w, part, NULL, NULL, h->sum_s);
    snprintf(part, sizeof part, "%s_count", name);
    put_count(w, part, NULL, NULL, sum);
}

static void put_links(const writing *w, const sl_engine_stats *e) {
    begin_family(w, "link_bytes_total", "counter", "Bytes moved by each queue of the first rank.");
    for (int q = 0; q < SL_QUEUE_COUNT; q++)
        put_count(w, "link_bytes_total", "queue", sl_queue_name((sl_queue)q), e->moved_bytes[q]);
    begin_family(w, "queue_busy_seconds_total", "counter",
                 "Time that each queue of the first rank was busy.");
    for (int q = 0; q < SL_QUEUE_COUNT; q++)
        put_real(w, "queue_busy_seconds_total", "queue", sl_queue_name((sl_queue)q), e->busy_s[q]);
    begin_family(w, "wire_bytes_total", "counter", "Bytes between the first rank and others.");
    put_count(w, "wire_bytes_total", "direction", "sent", e->sent_bytes);
    put_count(w, "wire_bytes_total", "direction", "received", e->received_bytes);
}

void sl_metrics_write(const sl_metrics *m, const char *model, sl_json_text *out) {
    const writing w = {model, out};
    const sl_engine_stats *e = &m->engine;
    const int used = e->pages_total - e->pages_free - e->pages_idle;
    begin_family(&w, "num_requests_running", "gauge", "Sequences under way.");
    put_count(&w, "num_requests_running", NULL, NULL, (uint64_t)m->n_running);
    begin_family(&w, "num_requests_waiting", "gauge", "Requests that wait for a place.");
    put_count(&w, "num_requests_waiting", NULL, NULL, (uint64_t)m->n_waiting);
    begin_family(&w, "kv_cache_usage_perc", "gauge", "Pages of sequences under way, 1 is all.");
    put_real(&w, "kv_cache_usage_perc", NULL, NULL,
             e->pages_total ? (double)used / e->pages_total : 0);
    begin_family(&w, "prefix_cache_queries_total", "counter", "Prompt tokens of what has begun.");
    put_count(&w, "prefix_cache_queries_total", NULL, NULL, e->n_admitted_tokens);
    begin_family(&w, "prefix_cache_hits_total", "counter", "Of those, tokens computed before.");
    put_count(&w, "prefix_cache_hits_total", NULL, NULL, e->n_shared_tokens);
    begin_family(&w, "prompt_tokens_total", "counter", "Tokens of answered prompts.");
    put_count(&w, "prompt_tokens_total", NULL, NULL, m->n_prompt_tokens);
    begin_family(&w, "generation_tokens_total", "counter", "Tokens generated.");
    put_count(&w, "generation_tokens_total", NULL, NULL, m->n_generated_tokens);
    begin_family(&w, "request_success_total", "counter", "Choices by how they ended.");
    put_count(&w, "request_success_total", "finished_reason", "stop", m->n_stopped);
    put_count(&w, "request_success_total", "finished_reason", "length", m->n_cut);
    put_count(&w, "request_success_total", "finished_reason", "abort", m->n_aborted);
    begin_family(&w, "request_refused_total", "counter", "Requests answered with an error.");
    put_count(&w, "request_refused_total", NULL, NULL, m->n_refused);
    put_histogram(&w, "time_to_first_token_seconds", "From a request's arrival to its first token.",
                  &m->first_token);
    put_histogram(&w, "e2e_request_latency_seconds", "From a request's arrival to its answer.",
                  &m->whole);
    put_links(&w, e);
}
