/* sluice run: answers a file of requests. */
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "commands.h"
#include "expect.h"
#include "job/job.h"
#include "run_key.h"
#include "setup.h"
#include "signals.h"
#include "simulate.h"

typedef struct {
    sl_setup_options setup;
    const char *input, *output;
    int format, order; /* sl_job_format, sl_job_order */
    int overwrite, resume, no_resume;
    sl_params defaults;
    sl_option_texts stops;
    int no_special_tokens;
    uint64_t *n_refused_out;
} run_options;

/* First rank only. */
typedef struct {
    sl_reader *reader;
    sl_writer *writer;
    sl_resume *resume;
    int64_t n_lines; /* requests, -1: cannot be known ahead */
} run_files;

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
    "A run that was interrupted, killed or short of disk space goes on when the same command is\n"
    "given again: what the output answers is neither computed nor written a second time. "
    "OUT.sluice\n"
    "beside the output OUT says which job it belongs to, and keeps results that wait for an older\n"
    "line; move it along with the output, and remove it when the job is done. Input, model, seed,\n"
    "precisions and defaults must be the same; ranks, threads, memory and placement need not. "
    "Input\n"
    "and output must be files. A signal ends the run after the tokens that are being computed, or\n"
    "after six seconds; the requests under way are computed again later. A second signal ends it "
    "at\n"
    "once.\n"
    "\n"
    "Exit status: 0 all lines are answered, 3 some lines got an error result, 2 wrong usage,\n"
    "1 the run failed or was stopped.\n";

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
         "Begin anew and replace an output that is not empty.", 0, 0, NULL, NULL},
        {"resume", 0, SL_OPTION_FLAG, &o->resume, NULL,
         "Go on with an output that is not empty, if it belongs to the same input and parameters; "
         "an output of another job is refused. The default.",
         0, 0, NULL, NULL},
        {"no-resume", 0, SL_OPTION_FLAG, &o->no_resume, NULL,
         "Keep no OUT.sluice, so that the run cannot be gone on with; an output that is not empty "
         "is refused.",
         0, 0, NULL, NULL},
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
    if (o->resume && (o->no_resume || o->overwrite))
        return SL_FAIL(SL_ERR_ARG, "--resume: given together with %s",
                       o->no_resume ? "--no-resume" : "--overwrite");
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

/* First rank.  Finds out whether the output can be gone on with. */
static sl_status open_resume(const run_options *o, run_files *files) {
    const char *why_not = o->no_resume ? "--no-resume is given" : NULL;
    sl_job_key key = {0};
    sl_run_key_parts parts = {.setup = &o->setup,
                              .defaults = &o->defaults,
                              .format = format_names[o->format],
                              .order = order_names[o->order]};
    files->n_lines = parts.n_lines = sl_reader_count(files->reader, &parts.input_hash);
    if (!why_not && files->n_lines < 0)
        why_not = "the input is no file, which could be told to be the same";
    const int has_key = !why_not && sl_writer_is_file(files->writer);
    if (has_key) SL_TRY(sl_run_key(&parts, &key));
    const sl_resume_options options = {.output = o->output,
                                       .writer = files->writer,
                                       .key = has_key ? &key : NULL,
                                       .why_not = why_not,
                                       .seed = o->setup.seed,
                                       .overwrite = o->overwrite};
    const sl_status st = sl_resume_open(&options, &files->resume);
    sl_job_key_free(&key);
    return st;
}

/* First rank. */
static sl_status open_files(const run_options *o, run_files *files) {
    if (is_same_file(o->input, o->output))
        return SL_FAIL(SL_ERR_ARG, "--output: found the input itself, %s", o->output);
    SL_TRY(sl_reader_open(o->input, 0, &files->reader));
    SL_TRY(sl_writer_open(o->output, &files->writer));
    return open_resume(o, files);
}

static void close_files(run_files *files) {
    sl_resume_close(files->resume);
    sl_writer_close(files->writer);
    sl_reader_close(files->reader);
}

/* First rank: says what is left to do; 0 if nothing is. */
static int tell_what_is_left(const run_options *o, const run_files *files) {
    const uint64_t n_written = sl_resume_n_written(files->resume);
    const int is_done = n_written > 0 && n_written == (uint64_t)files->n_lines;
    if (o->setup.quiet || n_written == 0) return !is_done;
    fprintf(stderr, "sluice: note: %s %s: %" PRIu64 " of %" PRId64 " requests are answered\n",
            is_done ? "nothing to do for" : "going on with", o->output, n_written, files->n_lines);
    return !is_done;
}

/* Collective.  *left_out = 0: every request is answered already, and the files are in order. */
static sl_status find_what_is_left(const sl_setup *setup, const run_options *o,
                                   const run_files *files, int *left_out) {
    sl_status st = SL_OK;
    int left = 1;
    if (files->resume) {
        left = tell_what_is_left(o, files);
        if (!left) st = sl_resume_start(files->resume);
        if (!left && st == SL_OK) st = sl_resume_finish(files->resume, 1);
    }
    SL_TRY(sl_setup_agree(setup, st));
    SL_TRY(setup->transport->ops->broadcast(setup->transport, 0, &left, sizeof left));
    *left_out = left;
    return SL_OK;
}

/* ---- the job ---- */

static sl_status answer(const run_options *o, const sl_setup *setup, const run_files *files,
                        sl_job_counts *counts) {
    sl_progress progress;
    /* Of simulated hours a person sees seconds. */
    const int is_silent = o->setup.quiet || setup->launch->simulated;
    sl_progress_init(&progress, is_silent ? NULL : stderr, files->n_lines);
    const sl_job_options options = {.engine = setup->engine,
                                    .config = &setup->config,
                                    .tokenizer = setup->tokenizer,
                                    .reader = files->reader,
                                    .writer = files->writer,
                                    .resume = files->resume,
                                    .format = (sl_job_format)o->format,
                                    .order = (sl_job_order)o->order,
                                    .defaults = o->defaults,
                                    .seed = o->setup.seed,
                                    .model_name = o->setup.model,
                                    .progress = &progress,
                                    .warn = o->setup.quiet ? NULL : warn,
                                    .stop = sl_signals_stop()};
    return sl_job_run(&options, counts);
}

/* Collective.  What the run did, for people and programs. */
static sl_status report_run(sl_setup *setup, const sl_job_counts *counts, double wall_s) {
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
        st = sl_setup_write_report(setup, &report);
    }
    free(ranks);
    return sl_setup_agree(setup, st);
}

typedef struct {
    const run_options *o;
    const run_files *files;
} run_input;

/* What the input says of the job, where it is a file. */
static sl_status expect(const void *user, const sl_setup *setup, sl_workload *workload) {
    const run_input *in = user;
    const run_files *f = in->files;
    if (!f->resume || f->n_lines < 1) return SL_OK;
    const int64_t n_left = f->n_lines - (int64_t)sl_resume_n_written(f->resume);
    if (strcmp(in->o->input, "-") == 0) { /* a file, but it can be read only once */
        workload->n_prompts = n_left < 1 ? 1 : n_left < INT_MAX ? (int)n_left : INT_MAX;
        return SL_OK;
    }
    const int positions = setup->config.max_positions, wanted = in->o->setup.max_context;
    const sl_expect_ask ask = {.input = in->o->input,
                               .n_lines = f->n_lines,
                               .n_left = n_left,
                               .format = (sl_job_format)in->o->format,
                               .defaults = &in->o->defaults,
                               .tokenizer = setup->tokenizer,
                               .max_context =
                                   wanted > 0 && wanted < positions ? wanted : positions};
    return sl_expect_from_file(&ask, workload);
}

static sl_status run(const sl_launch *launch, const void *options) {
    const run_options *o = options;
    sl_status st;
    sl_setup setup = {0};
    run_files files = {0};
    sl_job_counts counts = {0};
    const int is_first = sl_launch_is_first(launch);
    int left = 1;

    SL_TRY(sl_setup_begin(launch, &o->setup, &setup));
    SL_GO(sl_setup_agree(&setup, is_first ? open_files(o, &files) : SL_OK));
    SL_GO(find_what_is_left(&setup, o, &files, &left));
    const uint64_t n_refused_before = is_first ? sl_resume_n_refused(files.resume) : 0;
    if (left) {
        const run_input input = {o, &files};
        setup.expect = expect;
        setup.expect_user = &input;
        SL_GO(sl_setup_open(&setup, 1, sl_job_on_token));
        /* They end the job early; what is finished is kept. */
        sl_signals_catch(0, launch->is_mpi ? 0 : (int)SL_SETUP_PATIENCE_S);
        const double start_s = sl_clock_s();
        if (is_first) {
            st = answer(o, &setup, &files, &counts);
            if (counts.engine_failed) goto fail; /* all ranks know of it */
        } else {
            SL_GO(sl_job_follow(setup.engine));
        }
        SL_GO(sl_setup_agree(&setup, st)); /* a failure of the first rank's own */
        SL_GO(report_run(&setup, &counts, sl_clock_s() - start_s));
        SL_GO(sl_setup_write_trace(&setup));
    }
    if (is_first) *o->n_refused_out = n_refused_before + counts.n_refused;

fail:
    close_files(&files);
    sl_setup_close(&setup, st);
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
