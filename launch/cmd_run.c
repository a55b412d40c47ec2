/* sluice run: answers a file of requests. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "commands.h"
#include "job/job.h"
#include "setup.h"
#include "simulate.h"

typedef struct {
    sl_setup_options setup;
    const char *input, *output;
    int format, order; /* sl_job_format, sl_job_order */
    int overwrite;
    sl_params defaults;
    sl_option_texts stops;
    int no_special_tokens;
    uint64_t *n_refused_out;
} run_options;

static const char *const format_names[] = {"auto", "openai", "jsonl", "text", NULL};
static const char *const order_names[] = {"input", "finish", NULL};

static const char epilogue[] =
    "The input has one request a line, in one of three forms:\n"
    "  openai  {\"custom_id\": \"a\", \"method\": \"POST\", \"url\": \"/v1/completions\",\n"
    "           \"body\": {\"prompt\": \"...\", \"max_tokens\": 20}}\n"
    "  jsonl   {\"prompt\": \"...\", \"max_tokens\": 20}  (or token ids: {\"prompt\": [1, 2, 3]})\n"
    "  text    the prompt itself\n"
    "The output has one line for each request, in the form of OpenAI's batch output.\n"
    "\n"
    "Exit status: 0 all lines are answered, 3 some lines got an error result, 2 wrong usage,\n"
    "1 the run failed.\n";

/* Signals end the job early; what is finished is still written. */
static volatile sig_atomic_t stop_signal;

static void note_signal(int number) {
    stop_signal = number;
    signal(number, SIG_DFL); /* a second one ends the process at once */
}

static void catch_signals(void) {
    struct sigaction action = {.sa_handler = note_signal}; /* no SA_RESTART: waits are cut short */
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

static void warn(void *context, const char *text) {
    (void)context;
    fprintf(stderr, "sluice: note: %s\n", text);
}

/* ---- options ---- */

static sl_status parse_options(const sl_launch *launch, int argc, char **argv, int first,
                               run_options *o, int *help_out) {
    const sl_option table[] = {
        SL_SETUP_MODEL_OPTIONS(o->setup),
        {"input", 'i', SL_OPTION_TEXT, &o->input, "FILE",
         "Requests, one a line; - is standard input. Default -.", 0, 0, NULL, NULL},
        {"output", 'o', SL_OPTION_TEXT, &o->output, "FILE",
         "Results, one a line; - is standard output. Default -.", 0, 0, NULL, NULL},
        {"overwrite", 0, SL_OPTION_FLAG, &o->overwrite, NULL,
         "Replace an output that is not empty; without it such an output is refused.", 0, 0, NULL,
         NULL},
        {"format", 0, SL_OPTION_CHOICE, &o->format, "FORM",
         "Form of the requests: auto (told from the first line), openai, jsonl or text. "
         "Default auto.",
         0, 0, format_names, NULL},
        {"order", 0, SL_OPTION_CHOICE, &o->order, "ORDER",
         "Order of the results: input, or finish to write each as soon as it is there. "
         "Default input.",
         0, 0, order_names, NULL},

        {"", 0, SL_OPTION_FLAG, NULL, NULL, "Defaults for what a request does not say:", 0, 0, NULL,
         NULL},
        {"max-tokens", 'n', SL_OPTION_INT, &o->defaults.max_tokens, "N",
         "Tokens to generate at most. Default 16.", 0, 1e9, NULL, NULL},
        {"min-tokens", 0, SL_OPTION_INT, &o->defaults.min_tokens, "N",
         "Tokens before which nothing ends a choice. Default 0.", 0, 1e9, NULL, NULL},
        {"choices", 0, SL_OPTION_INT, &o->defaults.n, "N", "Choices for each prompt. Default 1.", 1,
         SL_MAX_CHOICES, NULL, NULL},
        {"temperature", 't', SL_OPTION_REAL, &o->defaults.temperature, "T",
         "0 takes the most likely token; above, tokens are drawn. Default 1.", 0, 100, NULL, NULL},
        {"top-k", 0, SL_OPTION_INT, &o->defaults.top_k, "K",
         "Draw from the K most likely tokens; 0: from all. Default 0.", -1, 1e9, NULL, NULL},
        {"top-p", 0, SL_OPTION_REAL, &o->defaults.top_p, "P",
         "Draw from the fewest tokens whose probabilities add up to P. Default 1.", 1e-9, 1, NULL,
         NULL},
        {"min-p", 0, SL_OPTION_REAL, &o->defaults.min_p, "P",
         "Draw from tokens at least P times as likely as the likeliest. Default 0.", 0, 1, NULL,
         NULL},
        {"repetition-penalty", 0, SL_OPTION_REAL, &o->defaults.repetition_penalty, "R",
         "Above 1 makes tokens of prompt and output less likely. Default 1.", 1e-6, 1e6, NULL,
         NULL},
        {"frequency-penalty", 0, SL_OPTION_REAL, &o->defaults.frequency_penalty, "F",
         "Lowers tokens by how often they were generated. Default 0.", -2, 2, NULL, NULL},
        {"presence-penalty", 0, SL_OPTION_REAL, &o->defaults.presence_penalty, "F",
         "Lowers tokens that were generated. Default 0.", -2, 2, NULL, NULL},
        {"stop", 0, SL_OPTION_TEXTS, &o->stops, "TEXT",
         "End a choice before this text; may be given several times.", 0, 0, NULL, NULL},
        {"ignore-eos", 0, SL_OPTION_FLAG, &o->defaults.ignore_eos, NULL,
         "Do not end at the model's end-of-text token.", 0, 0, NULL, NULL},
        {"logprobs", 0, SL_OPTION_INT, &o->defaults.logprobs, "K",
         "Give each token's log-probability and those of the K most likely ones.", 0,
         SL_MAX_LOGPROBS, NULL, NULL},
        {"echo", 0, SL_OPTION_FLAG, &o->defaults.echo, NULL,
         "Put the prompt before the text, and its log-probabilities before the others.", 0, 0, NULL,
         NULL},
        {"return-token-ids", 0, SL_OPTION_FLAG, &o->defaults.return_token_ids, NULL,
         "Give the token ids of prompt and output too.", 0, 0, NULL, NULL},
        {"no-special-tokens", 0, SL_OPTION_FLAG, &o->no_special_tokens, NULL,
         "Do not add the tokenizer's special tokens (such as a begin-of-text) to text prompts.", 0,
         0, NULL, NULL},

        SL_SETUP_POLICY_OPTIONS(o->setup),

        {"", 0, SL_OPTION_FLAG, NULL, NULL, "Other:", 0, 0, NULL, NULL},
        SL_SETUP_REPORT_OPTIONS(o->setup),
        {NULL, 0, SL_OPTION_FLAG, NULL, NULL, NULL, 0, 0, NULL, NULL},
    };
    const sl_command command = {
        .usage = "sluice run --model MODEL [--input FILE] [--output FILE] [options]",
        .summary = "Answers every request of the input with a model. Under mpirun the model's "
                   "layers are split among the ranks.",
        .options = table,
        .epilogue = epilogue,
    };
    SL_TRY(sl_options_parse(&command, argc, argv, first, NULL, NULL, help_out));
    if (*help_out && sl_launch_is_first(launch)) sl_options_help(&command, stdout);
    return SL_OK;
}

/* The values that follow from several options. */
static sl_status finish_options(run_options *o) {
    sl_params *params = &o->defaults;
    if (!o->setup.model) return SL_FAIL(SL_ERR_ARG, "--model: not given, expected a model");
    if (params->min_tokens > params->max_tokens)
        return SL_FAIL(SL_ERR_ARG, "--min-tokens: found %d, expected at most --max-tokens, %d",
                       params->min_tokens, params->max_tokens);
    params->add_special_tokens = !o->no_special_tokens;
    for (int i = 0; i < o->stops.n; i++) {
        const char *text = o->stops.values[i];
        if (!*text) return SL_FAIL(SL_ERR_ARG, "--stop: found an empty text");
        params->stops[i].bytes = strdup(text);
        if (!params->stops[i].bytes) return SL_FAIL(SL_ERR_NOMEM, "--stop: out of host memory");
        params->stops[i].n_bytes = strlen(text);
        params->n_stops++;
    }
    return SL_OK;
}

/* ---- files ---- */

static int is_same_file(const char *a, const char *b) {
    struct stat x, y;
    return strcmp(a, "-") != 0 && strcmp(b, "-") != 0 && stat(a, &x) == 0 && stat(b, &y) == 0 &&
           S_ISREG(x.st_mode) && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

/* First rank. */
static sl_status open_files(const run_options *o, sl_reader **reader_out, sl_writer **writer_out) {
    if (is_same_file(o->input, o->output))
        return SL_FAIL(SL_ERR_ARG, "--output: found the input itself, %s", o->output);
    SL_TRY(sl_reader_open(o->input, 0, reader_out));
    return sl_writer_open(o->output, o->overwrite, writer_out);
}

/* ---- the job ---- */

static sl_status answer(const run_options *o, const sl_setup *setup, sl_reader *reader,
                        sl_writer *writer, sl_job_counts *counts) {
    sl_progress progress;
    /* Of simulated hours a person sees seconds. */
    const int is_silent = o->setup.quiet || setup->launch->simulated;
    sl_progress_init(&progress, is_silent ? NULL : stderr, sl_reader_count(reader));
    const sl_job_options options = {.engine = setup->engine,
                                    .config = &setup->config,
                                    .tokenizer = setup->tokenizer,
                                    .reader = reader,
                                    .writer = writer,
                                    .format = (sl_job_format)o->format,
                                    .order = (sl_job_order)o->order,
                                    .defaults = o->defaults,
                                    .seed = o->setup.seed,
                                    .model_name = o->setup.model,
                                    .progress = &progress,
                                    .warn = o->setup.quiet ? NULL : warn,
                                    .stop = &stop_signal};
    return sl_job_run(&options, counts);
}

/* Collective.  What the run did, for people and programs. */
static sl_status report_run(const sl_setup *setup, const sl_job_counts *counts, double wall_s) {
    sl_engine_stats *ranks = NULL;
    sl_report report = {.program = "run",
                        .wall_s = wall_s,
                        .pace = counts->pace,
                        .n_requests = counts->n_lines,
                        .n_refused = counts->n_refused,
                        .n_prompt_tokens = counts->n_prompt_tokens,
                        .n_generated_tokens = counts->n_generated_tokens};
    SL_TRY(sl_setup_report(setup, &report, &ranks));
    sl_status st = SL_OK;
    if (sl_launch_is_first(setup->launch)) {
        if (!setup->options->quiet) sl_report_print(&report, stderr);
        st = sl_setup_write_metrics(setup, &report);
    }
    free(ranks);
    return sl_setup_agree(setup, st);
}

static sl_status run(const sl_launch *launch, const void *options) {
    const run_options *o = options;
    sl_status st;
    sl_setup setup = {0};
    sl_reader *reader = NULL;
    sl_writer *writer = NULL;
    sl_job_counts counts = {0};
    const int is_first = sl_launch_is_first(launch);

    SL_TRY(sl_setup_begin(launch, &o->setup, &setup));
    SL_GO(sl_setup_agree(&setup, is_first ? open_files(o, &reader, &writer) : SL_OK));
    SL_GO(sl_setup_open(&setup, 1, sl_job_on_token));
    catch_signals();

    const double start_s = sl_clock_s();
    if (is_first) {
        st = answer(o, &setup, reader, writer, &counts);
        if (counts.engine_failed) goto fail; /* all ranks know of it */
    } else {
        SL_GO(sl_job_follow(setup.engine));
    }
    SL_GO(sl_setup_agree(&setup, st)); /* a failure of the first rank's own */
    SL_GO(report_run(&setup, &counts, sl_clock_s() - start_s));
    SL_GO(sl_setup_write_trace(&setup));
    if (is_first) *o->n_refused_out = counts.n_refused;

fail:
    sl_writer_close(writer);
    sl_reader_close(reader);
    sl_setup_close(&setup);
    return st;
}

sl_status sl_cmd_run(const sl_launch *launch, int argc, char **argv, int first,
                     uint64_t *n_refused_out) {
    run_options o = {.input = "-", .output = "-", .n_refused_out = n_refused_out};
    int help = 0;
    sl_setup_options_init(&o.setup);
    sl_params_init(&o.defaults);
    sl_status st = parse_options(launch, argc, argv, first, &o, &help);
    if (st == SL_OK && !help) {
        st = finish_options(&o);
        o.setup.expected_gen_len = o.defaults.max_tokens;
        if (st == SL_OK) st = sl_simulate_or_run(launch, &o.setup, run, &o);
    }
    sl_params_free(&o.defaults);
    return st;
}
