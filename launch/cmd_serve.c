/* sluice serve: answers requests over HTTP. */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/rng.h"
#include "commands.h"
#include "job/job.h"
#include "job/service.h"
#include "serve_auth.h"
#ifdef SL_HTTP
#include "serve_http.h"
#endif
#include "setup.h"
#include "signals.h"

typedef struct {
    sl_setup_options setup;
    const char *host, *token_file, *name;
    int port, max_queue, timeout_s, idle_timeout_s, drain_s, max_tokens;
    size_t max_body_bytes;
    char *token; /* owned; NULL: none */
} serve_options;

static const char epilogue[] =
    "Routes:\n"
    "  POST /v1/completions       as of the OpenAI API, stream included\n"
    "  POST /v1/chat/completions  the same, with the model's chat template\n"
    "  GET  /v1/models            the model\n"
    "  POST /tokenize             {\"prompt\": \"...\"} or {\"messages\": [...]} to token ids\n"
    "  POST /detokenize           {\"tokens\": [...]} to text\n"
    "  GET  /health               200 as long as requests are taken\n"
    "  GET  /metrics              counters for Prometheus\n"
    "On SIGTERM or SIGINT no more requests are taken and those under way are finished.\n"
    "\n"
    "Exit status: 0 stopped by a signal, 2 wrong usage, 1 the server failed.\n";

/* ---- options ---- */

static sl_status parse_options(const sl_launch *launch, int argc, char **argv, int first,
                               serve_options *o, int *help_out) {
    const sl_option table[] = {
        SL_SETUP_MODEL_OPTIONS(o->setup),
        {"name", 0, SL_OPTION_TEXT, &o->name, "NAME",
         "The model's name in requests and answers. Default: the last part of its path.", 0, 0,
         NULL, NULL},
        {"host", 0, SL_OPTION_TEXT, &o->host, "ADDRESS",
         "Numeric address to listen on; 0.0.0.0 or :: for all. Default 127.0.0.1.", 0, 0, NULL,
         NULL},
        {"port", 'p', SL_OPTION_INT, &o->port, "PORT",
         "Port to listen on; 0: any that is free, see the first message. Default 8000.", 0, 65535,
         NULL, NULL},
        {"token-file", 0, SL_OPTION_TEXT, &o->token_file, "FILE",
         "Clients have to send the first line of FILE as their bearer token (API key). Default: "
         "the environment's SLUICE_TOKEN; without either none is asked for.",
         0, 0, NULL, NULL},
        {"max-tokens", 'n', SL_OPTION_INT, &o->max_tokens, "N",
         "Tokens of a completion that does not say how many. A chat that does not say may fill "
         "the context. Default 16.",
         0, 1e9, NULL, NULL},

        {"", 0, SL_OPTION_FLAG, NULL, NULL, "Limits:", 0, 0, NULL, NULL},
        {"max-body", 0, SL_OPTION_BYTES, &o->max_body_bytes, "SIZE",
         "Largest body of a request. Default 16MiB.", 0, 0, NULL, NULL},
        {"max-queue", 0, SL_OPTION_INT, &o->max_queue, "N",
         "Requests under way and waiting; more are answered with 429. Default 1024.", 1, 1 << 16,
         NULL, NULL},
        {"request-timeout", 0, SL_OPTION_INT, &o->timeout_s, "SECONDS",
         "Longest time from a request's arrival to the end of its answer; later it is given up "
         "with 503. 0: no limit. Default 3600.",
         0, 1e9, NULL, NULL},
        {"idle-timeout", 0, SL_OPTION_INT, &o->idle_timeout_s, "SECONDS",
         "A connection on which the client neither sends nor reads for so long is closed. "
         "Default 60.",
         1, 1e6, NULL, NULL},
        {"drain", 0, SL_OPTION_INT, &o->drain_s, "SECONDS",
         "Time that requests under way have to finish after a signal. Default 30.", 0, 1e6, NULL,
         NULL},

        SL_SETUP_POLICY_OPTIONS(o->setup),

        {"", 0, SL_OPTION_FLAG, NULL, NULL, "Other:", 0, 0, NULL, NULL},
        SL_SETUP_REPORT_OPTIONS(o->setup),
        {NULL, 0, SL_OPTION_FLAG, NULL, NULL, NULL, 0, 0, NULL, NULL},
    };
    const sl_command command = {
        .usage = "sluice serve --model MODEL [--host ADDRESS] [--port PORT] [options]",
        .summary = "Answers requests over HTTP with a model. Requests queue, and join the blocks "
                   "that are running. Under mpirun the model's layers are split among the ranks; "
                   "the first one listens.",
        .options = table,
        .epilogue = epilogue,
    };
    SL_TRY(sl_options_parse(&command, argc, argv, first, NULL, NULL, help_out));
    if (*help_out && sl_launch_is_first(launch)) sl_options_help(&command, stdout);
    return SL_OK;
}

static sl_status finish_options(const sl_launch *launch, serve_options *o) {
    if (!o->setup.model) return SL_FAIL(SL_ERR_ARG, "--model: not given, expected a model");
    if (o->max_body_bytes == 0) return SL_FAIL(SL_ERR_ARG, "--max-body: found 0");
    if (!o->name) {
        const char *slash = strrchr(o->setup.model, '/');
        o->name = slash && slash[1] ? slash + 1 : o->setup.model;
    }
    if (!sl_launch_is_first(launch)) return SL_OK;
    if (o->token_file) return sl_auth_read_token(o->token_file, &o->token);
    const char *token = getenv("SLUICE_TOKEN");
    if (!token || !*token) return SL_OK;
    o->token = strdup(token);
    return o->token ? SL_OK : SL_FAIL(SL_ERR_NOMEM, "SLUICE_TOKEN: out of host memory");
}

#ifdef SL_HTTP

/* ---- serving ---- */

static int is_local(const char *host) {
    return strncmp(host, "127.", 4) == 0 || strcmp(host, "::1") == 0 ||
           strcmp(host, "localhost") == 0;
}

static void greet(const serve_options *o, const sl_http *http, const sl_api *api) {
    if (o->setup.quiet) return;
    fprintf(stderr, "sluice: serving %s on http://%s\n", o->name, sl_http_address(http));
    if (api->has_chat) {
        fprintf(stderr, "sluice: chats are written as %s\n", sl_chat_name(api->chat.family));
    } else {
        fprintf(stderr, "sluice: note: no chats: %s\n", api->chat_refusal);
    }
    if (!o->token && !is_local(o->host))
        fprintf(stderr,
                "sluice: note: everybody who reaches %s may use it; --token-file asks for "
                "a token\n",
                o->host);
    fflush(stderr);
}

static void make_api(const serve_options *o, const sl_setup *setup, sl_api *out) {
    sl_api_init(setup->tokenizer, out);
    out->model_name = o->name;
    out->model_path = o->setup.model;
    out->created = (int64_t)time(NULL);
    out->max_context = sl_engine_policy(setup->engine)->max_context;
    out->defaults.max_tokens = o->max_tokens;
}

/* First rank.  What was computed since the start, for the report. */
static void sum_up(sl_service *service, sl_report *report) {
    sl_metrics m;
    sl_service_metrics(service, &m);
    uint64_t n_answered = 0;
    for (int b = 0; b <= SL_METRIC_BUCKETS; b++) n_answered += m.whole.counts[b];
    report->n_requests = n_answered + m.n_refused;
    report->n_refused = m.n_refused;
    report->n_prompt_tokens = m.n_prompt_tokens;
    report->n_generated_tokens = m.n_generated_tokens;
    report->pace = *sl_service_pace(service);
}

/* First rank. */
static sl_status serve_clients(const serve_options *o, const sl_setup *setup, sl_http *http,
                               const sl_api *api, sl_report *report, int *engine_failed_out) {
    sl_service *service = NULL;
    /* A request without a seed draws anew each time, and after a restart too. */
    const uint64_t start = (uint64_t)time(NULL) ^ (uint64_t)(sl_clock_s() * 1e9);
    const sl_service_options options = {.engine = setup->engine,
                                        .config = &setup->config,
                                        .api = api,
                                        .seed = sl_rng_at(o->setup.seed, start),
                                        .max_queue = o->max_queue,
                                        .timeout_s = o->timeout_s,
                                        .drain_s = o->drain_s,
                                        .wake = sl_http_wake,
                                        .is_gone = sl_http_is_gone};
    SL_TRY(sl_service_open(&options, &service));
    sl_status st = sl_http_start(http, service);
    if (st == SL_OK) {
        greet(o, http, api);
        st = sl_service_run(service, engine_failed_out);
    }
    sum_up(service, report);
    sl_http_close(http); /* before the service, which its connections use */
    sl_service_close(service);
    return st;
}

/* Ends the other ranks where this one did not get to serving. */
static void end_others(sl_engine *engine) {
    int done = 0;
    sl_engine_stop(engine);
    while (!done && sl_engine_step(engine, &done) == SL_OK) {
    }
}

static sl_status open_http(const serve_options *o, const sl_api *api, sl_http **out) {
    const sl_http_options http = {.host = o->host,
                                  .port = o->port,
                                  .token = o->token,
                                  .max_body_bytes = o->max_body_bytes,
                                  .idle_timeout_s = o->idle_timeout_s,
                                  .max_connections = o->max_queue + 512,
                                  .api = api,
                                  .stop = sl_signals_stop_anywhere()};
    return sl_http_open(&http, out);
}

static sl_status report_end(sl_setup *setup, sl_report *report) {
    sl_engine_stats *ranks = NULL;
    SL_TRY(sl_setup_report(setup, report, &ranks));
    sl_status st = SL_OK;
    if (sl_launch_is_first(setup->launch)) {
        if (!setup->options->quiet) sl_report_print(report, stderr);
        st = sl_setup_write_report(setup, report);
    }
    free(ranks);
    return sl_setup_agree(setup, st);
}

static sl_status serve(const sl_launch *launch, const serve_options *o) {
    sl_status st;
    sl_setup setup = {0};
    sl_http *http = NULL;
    sl_api api;
    int engine_failed = 0;
    sl_report report = {.program = "serve"};
    const int is_first = sl_launch_is_first(launch);

    SL_TRY(sl_setup_begin(launch, &o->setup, &setup));
    /* Before the model is read: an address in use is said at once. */
    SL_GO(sl_setup_agree(&setup, is_first ? open_http(o, &api, &http) : SL_OK));
    SL_GO(sl_setup_open(&setup, 1, sl_service_on_token));
    sl_signals_catch(1, 0);

    const double start_s = sl_clock_s();
    if (is_first) {
        make_api(o, &setup, &api);
        st = serve_clients(o, &setup, http, &api, &report, &engine_failed);
        http = NULL;
        if (engine_failed) goto fail; /* all ranks know of it */
        if (st != SL_OK) end_others(setup.engine);
    } else {
        SL_GO(sl_job_follow(setup.engine));
    }
    SL_GO(sl_setup_agree(&setup, st)); /* a failure of the first rank's own */
    report.wall_s = sl_clock_s() - start_s;
    SL_GO(report_end(&setup, &report));
    SL_GO(sl_setup_write_trace(&setup));

fail:
    sl_http_close(http);
    sl_setup_close(&setup, st);
    return st;
}

#else

static sl_status serve(const sl_launch *launch, const serve_options *o) {
    (void)launch, (void)o;
    return SL_FAIL(SL_ERR_ARG, "this program was built without libmicrohttpd, which serve needs: "
                               "install libmicrohttpd-dev and build again");
}

#endif

sl_status sl_cmd_serve(const sl_launch *launch, int argc, char **argv, int first,
                       uint64_t *n_refused_out) {
    serve_options o = {.host = "127.0.0.1",
                       .port = 8000,
                       .max_queue = 1024,
                       .timeout_s = 3600,
                       .idle_timeout_s = 60,
                       .drain_s = 30,
                       .max_tokens = 16,
                       .max_body_bytes = 16 << 20};
    int help = 0;
    (void)n_refused_out;
    sl_setup_options_init(&o.setup);
    sl_status st = parse_options(launch, argc, argv, first, &o, &help);
    if (st == SL_OK && !help) {
        st = finish_options(launch, &o);
        o.setup.patience_s = o.drain_s + SL_SETUP_PATIENCE_S; /* a signal lets calls end */
        if (st == SL_OK) st = serve(launch, &o);
    }
    free(o.token);
    return st;
}
