/* sluice bench: prefill and decode rates on random prompts. */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "bench_shape.h"
#include "commands.h"
#include "setup.h"
#include "simulate.h"

typedef struct {
    sl_setup_options setup;
    sl_bench_shape shape; /* of the options */
    const char *shapes_path, *only;
    double divide;
    int padded;
    sl_bench_shape *shapes; /* [n_shapes], what is run */
    int n_shapes;
} bench_options;

/* A prompt that is under way. */
typedef struct {
    int gen, n_tokens; /* it stops after `gen` */
} bench_prompt;

static const char epilogue[] =
    "Every prompt is different. With --mean-gen outputs end early, as at a stop token; else each\n"
    "runs to its full length. As in the paper,\n"
    "throughput is generated tokens / (prefill time + decode time). A turn of the engine that\n"
    "computes any prompt token counts as prefill.\n"
    "The report goes to standard error, one line of JSON with the same numbers to standard "
    "output.\n";

static sl_status parse_options(const sl_launch *launch, int argc, char **argv, int first,
                               bench_options *o, int *help_out) {
    const sl_option table[] = {
        SL_SETUP_MODEL_OPTIONS(o->setup),
        {"prompt-len", 0, SL_OPTION_INT, &o->shape.prompt_len, "N",
         "Tokens of a prompt, of the longest where they differ. Default 128.", 1, 1 << 24, NULL,
         NULL},
        {"gen-len", 0, SL_OPTION_INT, &o->shape.gen_len, "N",
         "Tokens to generate at most. Default 32.", 1, 1 << 24, NULL, NULL},
        {"num-prompts", 0, SL_OPTION_INT, &o->shape.n_prompts, "N", "Prompts. Default 32.", 1,
         1 << 24, NULL, NULL},
        {"ragged", 0, SL_OPTION_FLAG, &o->shape.ragged, NULL,
         "Prompts of 1 to --prompt-len tokens instead of all the same length.", 0, 0, NULL, NULL},
        {"mean-prompt", 0, SL_OPTION_INT, &o->shape.mean_prompt, "N",
         "Mean length of prompts, which differ around it.", 1, 1 << 24, NULL, NULL},
        {"mean-gen", 0, SL_OPTION_INT, &o->shape.mean_gen, "N",
         "Mean length of outputs, which end at different lengths around it.", 1, 1 << 24, NULL,
         NULL},
        {"common-prefix", 0, SL_OPTION_REAL, &o->shape.common_frac, "SHARE",
         "Share of a mean prompt that all prompts of a group begin with. Default 0.", 0, 1, NULL,
         NULL},
        {"prefix-groups", 0, SL_OPTION_INT, &o->shape.n_groups, "N",
         "Groups of prompts with a beginning in common. Default 1.", 1, 1 << 24, NULL, NULL},
        {"shapes", 0, SL_OPTION_TEXT, &o->shapes_path, "FILE",
         "Run the scenarios of a file, such as tests/bench/helm7.json, one after another; prints a "
         "line of JSON for each before that of all.",
         0, 0, NULL, NULL},
        {"scenario", 0, SL_OPTION_TEXT, &o->only, "NAME", "Only this one of --shapes.", 0, 0, NULL,
         NULL},
        {"fewer", 0, SL_OPTION_REAL, &o->divide, "X",
         "So many times fewer prompts than --shapes says. Default 1.", 1, 1e6, NULL, NULL},
        {"padded", 0, SL_OPTION_FLAG, &o->padded, NULL,
         "Every prompt and output as long as the longest, and nothing in common: the work of a "
         "system that pads.",
         0, 0, NULL, NULL},

        SL_SETUP_POLICY_OPTIONS(o->setup),

        {"", 0, SL_OPTION_FLAG, NULL, NULL, "Other:", 0, 0, NULL, NULL},
        SL_SETUP_REPORT_OPTIONS(o->setup),
        {NULL, 0, SL_OPTION_FLAG, NULL, NULL, NULL, 0, 0, NULL, NULL},
    };
    const sl_command command = {
        .usage = "sluice bench --model MODEL [options]",
        .summary = "Measures prefill and decode on random prompts of token ids. Under mpirun the "
                   "model's layers are split among the ranks.",
        .options = table,
        .epilogue = epilogue,
    };
    SL_TRY(sl_options_parse(&command, argc, argv, first, NULL, NULL, help_out));
    if (*help_out && sl_launch_is_first(launch)) sl_options_help(&command, stdout);
    if (*help_out) return SL_OK;
    if (!o->setup.model) return SL_FAIL(SL_ERR_ARG, "--model: not given, expected a model");
    if (!o->shapes_path && (o->only || o->divide > 1))
        return SL_FAIL(SL_ERR_ARG, "--%s: goes with --shapes only", o->only ? "scenario" : "fewer");
    return SL_OK;
}

/* What is to be run, from the options or a file. */
static sl_status find_shapes(bench_options *o) {
    if (o->shapes_path) {
        SL_TRY(sl_bench_shapes_read(o->shapes_path, o->only, o->divide, o->shapes, &o->n_shapes));
    } else {
        SL_TRY(sl_bench_shape_check(&o->shape));
        o->shapes[0] = o->shape;
        o->n_shapes = 1;
    }
    for (int i = 0; o->padded && i < o->n_shapes; i++) sl_bench_shape_pad(&o->shapes[i]);
    return SL_OK;
}

static int on_token(void *user, int choice, const sl_choice *token) {
    bench_prompt *p = user;
    (void)choice;
    (void)token;
    return ++p->n_tokens >= p->gen;
}

static sl_status submit_prompt(const bench_options *o, const sl_bench_shape *shape,
                               const sl_setup *setup, int i, int32_t *ids, bench_prompt *prompt) {
    prompt[i] = (bench_prompt){.gen = sl_bench_gen(shape, o->setup.seed, i)};
    sl_engine_request request = {
        .prompt = ids,
        .n_prompt = sl_bench_prompt(shape, o->setup.seed, setup->config.vocab, i, ids),
        .max_tokens = shape->gen_len,
        .n = 1,
        .sampling = {.top_p = 1, .repetition_penalty = 1, .n_logprobs = -1},
        .user = &prompt[i],
    };
    uint64_t id;
    return sl_engine_submit(setup->engine, &request, &id);
}

static sl_status take_results(sl_engine *engine, sl_report *report) {
    for (;;) {
        const sl_engine_result *result = NULL;
        SL_TRY(sl_engine_take(engine, &result));
        if (!result) return SL_OK;
        report->n_requests++;
        report->n_prompt_tokens += (uint64_t)result->n_prompt;
        for (int c = 0; c < result->n_choices; c++)
            report->n_generated_tokens += (uint64_t)result->choices[c].n_tokens;
        sl_engine_release(engine, result);
    }
}

/* Runs one shape until all of its prompts are answered.  *stepped_out: the engine's own failure. */
static sl_status drive_shape(const bench_options *o, const sl_bench_shape *shape, int is_last,
                             const sl_setup *setup, sl_report *report, int32_t *ids,
                             bench_prompt *prompt, sl_status *stepped_out) {
    sl_engine *engine = setup->engine;
    const uint64_t n_before = report->n_requests;
    int done = 0, n_submitted = 0;
    while (!done && report->n_requests - n_before < (uint64_t)shape->n_prompts) {
        while (n_submitted < shape->n_prompts &&
               sl_engine_n_queued(engine) < 4 * sl_engine_n_seats(engine))
            SL_TRY(submit_prompt(o, shape, setup, n_submitted++, ids, prompt));
        if (is_last && n_submitted == shape->n_prompts) sl_engine_finish(engine);
        *stepped_out = sl_pace_step(&report->pace, engine, &done);
        if (*stepped_out != SL_OK) return *stepped_out;
        SL_TRY(take_results(engine, report));
        sl_pace_answered(&report->pace, report->n_requests);
    }
    return SL_OK;
}

/* What a scenario added to the report, as a line of JSON. */
static sl_status print_shape(const sl_bench_shape *shape, const sl_report *before,
                             const sl_report *after) {
    sl_pace p = after->pace;
    p.prefill_s -= before->pace.prefill_s;
    p.decode_s -= before->pace.decode_s;
    const double seconds = p.prefill_s + p.decode_s;
    const uint64_t n = after->n_generated_tokens - before->n_generated_tokens;
    const int ok =
        printf("{\"scenario\": \"%s\", \"n_requests\": %d, \"n_prompt_tokens\": %llu, "
               "\"n_generated_tokens\": %llu, \"n_shared_tokens\": %llu, \"prefill_s\": %.6f, "
               "\"decode_s\": %.6f, \"seconds\": %.6f, \"total_tokens_per_s\": %.3f}\n",
               shape->name, shape->n_prompts,
               (unsigned long long)(after->n_prompt_tokens - before->n_prompt_tokens),
               (unsigned long long)n,
               (unsigned long long)(p.n_shared_tokens - before->pace.n_shared_tokens), p.prefill_s,
               p.decode_s, seconds, seconds > 0 ? (double)n / seconds : 0.0);
    return ok < 0 || fflush(stdout) != 0
               ? SL_FAIL(SL_ERR_IO, "the report cannot be written to standard output")
               : SL_OK;
}

static int longest_prompt(const bench_options *o) {
    int n = 0;
    for (int i = 0; i < o->n_shapes; i++)
        if (o->shapes[i].prompt_len > n) n = o->shapes[i].prompt_len;
    return n;
}

static int most_prompts(const bench_options *o) {
    int n = 0;
    for (int i = 0; i < o->n_shapes; i++)
        if (o->shapes[i].n_prompts > n) n = o->shapes[i].n_prompts;
    return n;
}

/* First rank.  *engine_failed_out as in sl_job_counts. */
static sl_status drive(const bench_options *o, const sl_setup *setup, sl_report *report,
                       int *engine_failed_out) {
    sl_status st = SL_OK, stepped = SL_OK;
    char message[1024];
    int32_t *ids = malloc((size_t)longest_prompt(o) * sizeof *ids);
    bench_prompt *prompt = calloc((size_t)most_prompts(o), sizeof *prompt);
    if (!ids || !prompt)
        st = SL_FAIL(SL_ERR_NOMEM, "prompts of %d tokens: out of host memory", longest_prompt(o));
    for (int i = 0; i < o->n_shapes && st == SL_OK; i++) {
        const sl_report before = *report;
        st = drive_shape(o, &o->shapes[i], i == o->n_shapes - 1, setup, report, ids, prompt,
                         &stepped);
        if (st == SL_OK && o->shapes_path) st = print_shape(&o->shapes[i], &before, report);
    }
    *engine_failed_out = stepped != SL_OK;
    if (!*engine_failed_out) {
        /* The other ranks end too, whether this one has failed or all is answered. */
        int done = 0;
        snprintf(message, sizeof message, "%s", st == SL_OK ? "" : sl_error_message());
        if (st != SL_OK) sl_engine_stop(setup->engine);
        while (!done && stepped == SL_OK)
            stepped = sl_pace_step(&report->pace, setup->engine, &done);
        *engine_failed_out = stepped != SL_OK;
        st = stepped != SL_OK ? stepped : st == SL_OK ? SL_OK : sl_fail_text(st, message);
    }
    free(prompt);
    free(ids);
    return st;
}

/* First rank. */
static sl_status print_report(const sl_setup *setup, const sl_report *report) {
    sl_json_text text = {0};
    if (!setup->options->quiet) sl_report_print(report, stderr);
    sl_status st = sl_report_json(report, &text);
    if (st == SL_OK && (puts(text.data) == EOF || fflush(stdout) != 0))
        st = SL_FAIL(SL_ERR_IO, "the report cannot be written to standard output");
    sl_json_free(&text);
    return st == SL_OK ? sl_setup_write_report(setup, report) : st;
}

static sl_status follow(sl_engine *engine) {
    int done = 0;
    while (!done) SL_TRY(sl_engine_step(engine, &done));
    return SL_OK;
}

static sl_status bench(const sl_launch *launch, const void *options) {
    const bench_options *o = options;
    sl_status st;
    sl_setup setup = {0};
    sl_engine_stats *ranks = NULL;
    int engine_failed = 0;
    const int is_first = sl_launch_is_first(launch);
    sl_report report = {
        .program = "bench", .prompt_len = o->shape.prompt_len, .gen_len = o->shape.gen_len};

    SL_TRY(sl_setup_begin(launch, &o->setup, &setup));
    SL_GO(sl_setup_open(&setup, 0, on_token));
    const double start_s = sl_clock_s();
    if (is_first) {
        st = drive(o, &setup, &report, &engine_failed);
        if (engine_failed) goto fail;
    } else {
        SL_GO(follow(setup.engine));
    }
    report.wall_s = sl_clock_s() - start_s;
    SL_GO(sl_setup_agree(&setup, st));
    SL_GO(sl_setup_report(&setup, &report, &ranks));
    SL_GO(sl_setup_agree(&setup, is_first ? print_report(&setup, &report) : SL_OK));
    SL_GO(sl_setup_write_trace(&setup));

fail:
    free(ranks);
    sl_setup_close(&setup, st);
    return st;
}

sl_status sl_cmd_bench(const sl_launch *launch, int argc, char **argv, int first,
                       uint64_t *n_refused_out) {
    (void)n_refused_out;
    sl_bench_shape shapes[SL_BENCH_SHAPES];
    bench_options o = {.shape = {.prompt_len = 128, .gen_len = 32, .n_prompts = 32, .n_groups = 1},
                       .divide = 1,
                       .shapes = shapes};
    int help = 0;
    sl_setup_options_init(&o.setup);
    SL_TRY(parse_options(launch, argc, argv, first, &o, &help));
    if (help) return SL_OK;
    SL_TRY(find_shapes(&o));
    /* Room for exactly these sequences, unless asked for more. */
    int context = 0;
    for (int i = 0; i < o.n_shapes; i++)
        if (shapes[i].prompt_len + shapes[i].gen_len > context)
            context = shapes[i].prompt_len + shapes[i].gen_len;
    if (o.setup.max_context == 0 && !o.setup.policy_path) o.setup.max_context = context;
    o.setup.expected_prompt_len =
        shapes[0].mean_prompt ? shapes[0].mean_prompt : shapes[0].prompt_len;
    o.setup.expected_gen_len = shapes[0].mean_gen ? shapes[0].mean_gen : shapes[0].gen_len;
    o.setup.expected_prompts = shapes[0].n_prompts;
    return sl_simulate_or_run(launch, &o.setup, bench, &o);
}
