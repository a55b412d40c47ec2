/* sluice bench: prefill and decode rates on random prompts. */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/rng.h"
#include "commands.h"
#include "setup.h"
#include "simulate.h"

typedef struct {
    sl_setup_options setup;
    int prompt_len, gen_len, n_prompts;
    int ragged;
} bench_options;

static const char epilogue[] =
    "Every prompt is different, every generation runs to its full length. As in the paper,\n"
    "throughput is generated tokens / (prefill time + decode time). A turn of the engine that\n"
    "computes any prompt token counts as prefill.\n"
    "The report goes to standard error, one line of JSON with the same numbers to standard "
    "output.\n";

static sl_status parse_options(const sl_launch *launch, int argc, char **argv, int first,
                               bench_options *o, int *help_out) {
    const sl_option table[] = {
        SL_SETUP_MODEL_OPTIONS(o->setup),
        {"prompt-len", 0, SL_OPTION_INT, &o->prompt_len, "N", "Tokens of a prompt. Default 128.", 1,
         1 << 24, NULL, NULL},
        {"gen-len", 0, SL_OPTION_INT, &o->gen_len, "N", "Tokens to generate. Default 32.", 1,
         1 << 24, NULL, NULL},
        {"num-prompts", 0, SL_OPTION_INT, &o->n_prompts, "N", "Prompts. Default 32.", 1, 1 << 24,
         NULL, NULL},
        {"ragged", 0, SL_OPTION_FLAG, &o->ragged, NULL,
         "Prompts of 1 to --prompt-len tokens instead of all the same length.", 0, 0, NULL, NULL},

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
    if (!*help_out && !o->setup.model)
        return SL_FAIL(SL_ERR_ARG, "--model: not given, expected a model");
    return SL_OK;
}

static int on_token(void *user, int choice, const sl_choice *token) {
    (void)user;
    (void)choice;
    (void)token;
    return 0;
}

/* Prompt i; the first token alone makes it different from the vocab - 1 prompts before it. */
static int make_prompt(const bench_options *o, int vocab, int i, int32_t *ids) {
    sl_rng rng = {.key = sl_rng_at(o->setup.seed, (uint64_t)i)};
    const int n = o->ragged ? 1 + (int)sl_rng_below(&rng, (uint64_t)o->prompt_len) : o->prompt_len;
    for (int k = 0; k < n; k++) ids[k] = (int32_t)sl_rng_below(&rng, (uint64_t)vocab);
    ids[0] = (int32_t)((sl_rng_mix(o->setup.seed + 1) + (uint64_t)i) % (uint64_t)vocab);
    return n;
}

static sl_status submit_prompt(const bench_options *o, const sl_setup *setup, int i, int32_t *ids) {
    sl_engine_request request = {
        .prompt = ids,
        .n_prompt = make_prompt(o, setup->config.vocab, i, ids),
        .max_tokens = o->gen_len,
        .n = 1,
        .sampling = {.top_p = 1, .repetition_penalty = 1, .n_logprobs = -1},
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

/* First rank.  *engine_failed_out as in sl_job_counts. */
static sl_status drive(const bench_options *o, const sl_setup *setup, sl_report *report,
                       int *engine_failed_out) {
    sl_engine *engine = setup->engine;
    sl_status st = SL_OK;
    int done = 0, n_submitted = 0;
    int32_t *ids = malloc((size_t)o->prompt_len * sizeof *ids);
    if (!ids) {
        st = SL_FAIL(SL_ERR_NOMEM, "prompts of %d tokens: out of host memory", o->prompt_len);
        sl_engine_stop(engine);
    }
    while (!done) {
        while (st == SL_OK && n_submitted < o->n_prompts &&
               sl_engine_n_queued(engine) < 2 * sl_engine_n_seats(engine)) {
            st = submit_prompt(o, setup, n_submitted++, ids);
            if (st != SL_OK) sl_engine_stop(engine); /* the other ranks end too */
            if (n_submitted == o->n_prompts) sl_engine_finish(engine);
        }
        const sl_status stepped = sl_pace_step(&report->pace, engine, &done);
        if (stepped != SL_OK) {
            *engine_failed_out = 1;
            free(ids);
            return stepped;
        }
        if (st == SL_OK) st = take_results(engine, report);
    }
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
    return st == SL_OK ? sl_setup_write_metrics(setup, report) : st;
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
    sl_report report = {.program = "bench", .prompt_len = o->prompt_len, .gen_len = o->gen_len};

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
    bench_options o = {.prompt_len = 128, .gen_len = 32, .n_prompts = 32};
    int help = 0;
    sl_setup_options_init(&o.setup);
    SL_TRY(parse_options(launch, argc, argv, first, &o, &help));
    if (help) return SL_OK;
    /* Room for exactly these sequences, unless asked for more. */
    if (o.setup.max_context == 0 && !o.setup.policy_path)
        o.setup.max_context = o.prompt_len + o.gen_len;
    o.setup.expected_prompt_len = o.prompt_len;
    o.setup.expected_gen_len = o.gen_len;
    o.setup.expected_prompts = o.n_prompts;
    return sl_simulate_or_run(launch, &o.setup, bench, &o);
}
