/* sluice plan: the fastest block shape and placement, as a cost model predicts it. */
#include <stdio.h>
#include <stdlib.h>

#include "commands.h"
#include "model/source.h"
#include "options.h"
#include "plan_measured.h"
#include "plan_report.h"

#define GIB 1073741824.0

enum { N_PERCENT = 6 };

static const char *const cost_models[] = {"measured", "flexgen", NULL};
enum { MEASURED, FLEXGEN };

typedef struct {
    const char *model;
    int cost_model;
    int prompt_len, gen_len;
    size_t mem_bytes[SL_TIER_COUNT];
    double alpha;
    int micro_batch, num_micro_batches; /* 0: chosen */
    sl_option_ints percent;
    int compress_weights, json;
    /* What goes with one cost model only: whether it was given. */
    int with_flexgen, with_measured;
    sl_plan_measured_options measured;
} plan_options;

static const char epilogue[] =
    "The measured cost model takes the machine's rates from a profile (sluice profile), the\n"
    "engine's own memory plan and its schedule. It tries blocks of many shapes and solves linear\n"
    "programs for the placement in each; `sluice run --policy FILE` takes what --save wrote.\n"
    "The flexgen cost model is that of the FlexGen paper with the rates of its own machine "
    "(NVIDIA\n"
    "T4, PCIe 3, 1.5 TB of NVMe): micro-batches of 1, 2, 3, 4, 8, 16, ... sequences, and sizes of\n"
    "OPT, whose layers have 8 width^2 + 4 width MLP bytes of weights.\n\n"
    "Exit status: 0 a plan, 2 wrong usage, 1 nothing fits or another failure; with --json 3 when\n"
    "nothing fits, after an object with \"feasible\": false that says what is lacking.\n";

/* The words after the first of "--percent 20 80 0 100 0 100". */
static sl_status take_percent_words(const char *const *words, int n, sl_option_ints *percent) {
    if (n == 0) return SL_OK;
    if (percent->n != 1 || n != N_PERCENT - 1)
        return SL_FAIL(SL_ERR_ARG, "found \"%s\", which is no option; see sluice plan --help",
                       words[0]);
    for (int i = 0; i < n; i++) {
        char *end = NULL;
        const long value = strtol(words[i], &end, 10);
        if (end == words[i] || *end || value < 0 || value > 100)
            return SL_FAIL(SL_ERR_ARG, "--percent: found \"%s\", expected 0 to 100", words[i]);
        percent->values[percent->n++] = (int)value;
    }
    return SL_OK;
}

static sl_status check_percent(const sl_option_ints *percent) {
    static const char *const names[] = {"weights", "cache", "hidden"};
    const int *p = percent->values;
    if (percent->n == 0) return SL_OK;
    if (percent->n != N_PERCENT)
        return SL_FAIL(SL_ERR_ARG,
                       "--percent: found %d numbers, expected %d, such as "
                       "20,80,0,100,0,100",
                       percent->n, (int)N_PERCENT);
    for (int k = 0; k < SL_FLEXGEN_N_KINDS; k++) {
        const int sum = p[2 * k] + p[2 * k + 1];
        if (sum > 100 || (k == SL_FLEXGEN_HIDDEN && sum < 100))
            return SL_FAIL(SL_ERR_ARG, "--percent: found %d + %d for %s, expected %s 100 together",
                           p[2 * k], p[2 * k + 1], names[k],
                           k == SL_FLEXGEN_HIDDEN ? "exactly" : "at most");
    }
    return SL_OK;
}

static sl_status check_together(const plan_options *o) {
    if (o->cost_model == MEASURED && o->with_flexgen)
        return SL_FAIL(SL_ERR_ARG, "--alpha, --percent and --compress-weights go with "
                                   "--cost-model flexgen");
    if (o->cost_model == FLEXGEN && o->with_measured)
        return SL_FAIL(SL_ERR_ARG,
                       "--profile, --cluster, --may-idle, --num-prompts, --ranks, --max-rows, "
                       "--max-context, --weights, "
                       "--cache, --quality, --max-latency and --save go with --cost-model "
                       "measured");
    if (o->cost_model == MEASURED &&
        (o->micro_batch > SL_PLAN_MAX_MICRO_BATCH || o->num_micro_batches > SL_PLAN_MAX_NUM))
        return SL_FAIL(SL_ERR_ARG,
                       "--micro-batch, --num-micro-batches: found %d and %d, expected "
                       "at most %d and %d",
                       o->micro_batch, o->num_micro_batches, (int)SL_PLAN_MAX_MICRO_BATCH,
                       (int)SL_PLAN_MAX_NUM);
    return SL_OK;
}

static sl_status parse_options(const sl_launch *launch, int argc, char **argv, int first,
                               plan_options *o, int *help_out) {
    const sl_option table[] = {
        {"model", 'm', SL_OPTION_TEXT, &o->model, "MODEL",
         "The model: a folder as on the Hugging Face hub, a .gguf file, or dummy:NAME for a "
         "published size (dummy:opt-30b) or a config.json (dummy:PATH). Required.",
         0, 0, NULL, NULL},
        {"prompt-len", 0, SL_OPTION_INT, &o->prompt_len, "N", "Tokens of a prompt. Default 512.", 1,
         1 << 24, NULL, NULL},
        {"gen-len", 0, SL_OPTION_INT, &o->gen_len, "N", "Tokens to generate. Default 32.", 1,
         1 << 24, NULL, NULL},
        {"num-prompts", 0, SL_OPTION_INT, &o->measured.n_prompts, "N",
         "Prompts of the job (measured). Default 1000.", 1, 1 << 30, NULL, &o->with_measured},
        {"cost-model", 0, SL_OPTION_CHOICE, &o->cost_model, "measured|flexgen",
         "What predicts the times. Default measured.", 0, 0, cost_models, NULL},
        {"profile", 0, SL_OPTION_TEXT, &o->measured.profile_path, "FILE",
         "The machine, as sluice profile wrote it (measured). Default: this machine, measured now "
         "unless it was before.",
         0, 0, NULL, &o->with_measured},
        {"cluster", 0, SL_OPTION_TEXTS, &o->measured.cluster, "FILE",
         "The same for a pipeline (measured): given several times the machines of the first rank, "
         "the second, ...; where they differ, each gets layers for what it can do.",
         0, 0, NULL, &o->with_measured},
        {"may-idle", 0, SL_OPTION_FLAG, &o->measured.may_idle, NULL,
         "Machines of --cluster that only do harm may be left out (measured).", 0, 0, NULL,
         &o->with_measured},
        {"ranks", 0, SL_OPTION_INT, &o->measured.ask.n_ranks, "N",
         "Ranks of a pipeline; the last --cluster stands for those that have none of their own "
         "(measured). Default: as many as --cluster is given, else 1.",
         1, 4096, NULL, &o->with_measured},

        {"", 0, SL_OPTION_FLAG, NULL, NULL, "Memory:", 0, 0, NULL, NULL},
        {"gpu-mem", 0, SL_OPTION_BYTES, &o->mem_bytes[SL_TIER_GPU], "SIZE",
         "Memory of the GPU. Default: the profile's; flexgen: 15GiB.", 0, 0, NULL, NULL},
        {"cpu-mem", 0, SL_OPTION_BYTES, &o->mem_bytes[SL_TIER_CPU], "SIZE",
         "Host memory. Default: the profile's; flexgen: 200GiB.", 0, 0, NULL, NULL},
        {"disk-mem", 0, SL_OPTION_BYTES, &o->mem_bytes[SL_TIER_DISK], "SIZE",
         "Disk space. Default: the profile's; flexgen: 1500GiB.", 0, 0, NULL, NULL},
        {"alpha", 0, SL_OPTION_REAL, &o->alpha, "A",
         "Part of each memory to plan with (flexgen, whose peaks are estimates); above 1 to try "
         "more than it thinks possible. Default 0.8.",
         0.001, 1000, NULL, &o->with_flexgen},

        {"", 0, SL_OPTION_FLAG, NULL, NULL, "Policy (what is not given is chosen):", 0, 0, NULL,
         NULL},
        {"micro-batch", 0, SL_OPTION_INT, &o->micro_batch, "N",
         "Sequences that are computed together.", 1, SL_SEARCH_FLEXGEN_MAX_MICRO_BATCH, NULL, NULL},
        {"num-micro-batches", 0, SL_OPTION_INT, &o->num_micro_batches, "K",
         "Micro-batches of a block, which share one reading of the weights.", 1,
         SL_SEARCH_FLEXGEN_MAX_NUM, NULL, NULL},
        {"max-rows", 0, SL_OPTION_INT, &o->measured.ask.max_rows, "N",
         "Rows of a micro-batch: bounds how much of the prompts is computed at a time (measured).",
         1, SL_PLAN_MAX_ROWS, NULL, &o->with_measured},
        {"max-context", 0, SL_OPTION_INT, &o->measured.ask.max_context, "N",
         "Longest prompt and output together (measured). Default: what the job needs.", 1, 1 << 24,
         NULL, &o->with_measured},
        {"weights", 0, SL_OPTION_CHOICE, &o->measured.ask.weights, "auto|f16|q8|q4",
         "Precision of the weights (measured); auto: the fastest that --quality allows. Default "
         "auto.",
         0, 0, sl_planner_precisions, &o->with_measured},
        {"cache", 0, SL_OPTION_CHOICE, &o->measured.ask.cache, "auto|f16|q8|q4",
         "The same for keys and values.", 0, 0, sl_planner_precisions, &o->with_measured},
        {"quality", 0, SL_OPTION_CHOICE, &o->measured.ask.quality, "f16|q8|q4",
         "Lowest precision that auto may choose (measured). Default f16.", 0, 0,
         sl_planner_qualities, &o->with_measured},
        {"max-latency", 0, SL_OPTION_REAL, &o->measured.ask.max_request_s, "SECONDS",
         "Longest time from a request's start to its end, waiting in the queue apart (measured). "
         "Default: any.",
         1e-3, 1e9, NULL, &o->with_measured},
        {"percent", 0, SL_OPTION_INTS, &o->percent, "WG,WC,CG,CC,HG,HC",
         "Percent of the weights, the cache and the hidden states on the GPU and in host memory, "
         "the rest on disk (hidden states: none), such as 20,80,0,100,0,100. Six words do too "
         "(flexgen).",
         0, 100, NULL, &o->with_flexgen},
        {"compress-weights", 0, SL_OPTION_FLAG, &o->compress_weights, NULL,
         "Weights in 4 bits: a quarter of their bytes (flexgen).", 0, 0, NULL, &o->with_flexgen},

        {"", 0, SL_OPTION_FLAG, NULL, NULL, "Other:", 0, 0, NULL, NULL},
        {"json", 0, SL_OPTION_FLAG, &o->json, NULL, "One JSON object; shares are from 0 to 1.", 0,
         0, NULL, NULL},
        {"save", 0, SL_OPTION_TEXT, &o->measured.save_path, "FILE",
         "Write the policy to FILE, for sluice run --policy (measured).", 0, 0, NULL,
         &o->with_measured},
        {NULL, 0, SL_OPTION_FLAG, NULL, NULL, NULL, 0, 0, NULL, NULL},
    };
    const sl_command command = {
        .usage = "sluice plan --model MODEL [options]",
        .summary = "Predicts the fastest block shape and the best placement of weights, cache and "
                   "hidden states for a job, what it takes, and what it is bound by. Runs nothing "
                   "and reads no weights.",
        .options = table,
        .n_operands_max = N_PERCENT - 1,
        .epilogue = epilogue,
    };
    const char *words[N_PERCENT - 1];
    int n_words = 0;
    SL_TRY(sl_options_parse(&command, argc, argv, first, words, &n_words, help_out));
    if (*help_out) {
        if (sl_launch_is_first(launch)) sl_options_help(&command, stdout);
        return SL_OK;
    }
    SL_TRY(take_percent_words(words, n_words, &o->percent));
    if (!o->model) return SL_FAIL(SL_ERR_ARG, "--model: not given, expected a model");
    SL_TRY(check_together(o));
    return check_percent(&o->percent);
}

static void fill_problem(const plan_options *o, const sl_model_config *c, sl_flexgen_problem *q) {
    *q = (sl_flexgen_problem){
        .machine = &sl_flexgen_t4,
        .n_layers = c->n_layers,
        .hidden = c->hidden,
        .ffn = c->ffn,
        .n_heads = c->n_heads,
        .prompt_len = o->prompt_len,
        .gen_len = o->gen_len,
        .compress_weights = o->compress_weights,
        .is_fixed = o->percent.n > 0,
    };
    for (int t = 0; t < SL_TIER_COUNT; t++) q->budget_bytes[t] = o->alpha * (double)o->mem_bytes[t];
    for (int k = 0; k < SL_FLEXGEN_N_KINDS && q->is_fixed; k++) {
        q->fixed[k][SL_TIER_GPU] = o->percent.values[2 * k] / 100.0;
        q->fixed[k][SL_TIER_CPU] = o->percent.values[2 * k + 1] / 100.0;
    }
}

static sl_status print_json(const sl_plan_answer *answer) {
    sl_json_text text = {0};
    sl_status st = sl_plan_report_json(answer, &text);
    if (st == SL_OK && (puts(text.data) == EOF || fflush(stdout) != 0))
        st = SL_FAIL(SL_ERR_IO, "the plan cannot be written to standard output");
    sl_json_free(&text);
    return st;
}

static sl_status print_answer(const plan_options *o, const sl_plan_answer *answer,
                              uint64_t *n_refused_out) {
    if (o->json) {
        SL_TRY(print_json(answer));
        *n_refused_out = !answer->found.best.is_feasible;
        return SL_OK;
    }
    if (!answer->found.best.is_feasible) {
        char reason[768];
        return SL_FAIL(SL_ERR_INFEASIBLE, "%s",
                       sl_plan_report_shortage(answer, reason, sizeof reason));
    }
    sl_plan_report_text(answer, stdout);
    return SL_OK;
}

static sl_status plan_measured(const sl_launch *launch, plan_options *o, uint64_t *n_refused_out) {
    sl_plan_measured_options *m = &o->measured;
    m->model = o->model;
    m->prompt_len = o->prompt_len;
    m->gen_len = o->gen_len;
    m->json = o->json;
    m->ask.micro_batch = o->micro_batch;
    m->ask.num_micro_batches = o->num_micro_batches;
    for (int t = 0; t < SL_TIER_COUNT; t++) m->ask.cap_bytes[t] = o->mem_bytes[t];
    return sl_plan_measured(launch, m, n_refused_out);
}

static sl_status plan_flexgen(plan_options *o, uint64_t *n_refused_out) {
    static const double default_gib[SL_TIER_COUNT] = {15, 200, 1500};
    sl_source *source = NULL;
    sl_plan_answer answer = {.found = {.n_programs = 0}};
    for (int t = 0; t < SL_TIER_COUNT; t++)
        if (o->mem_bytes[t] == 0) o->mem_bytes[t] = (size_t)(default_gib[t] * GIB);
    SL_TRY(sl_source_open(o->model, 0, &source));
    answer.model = o->model;
    answer.alpha = o->alpha;
    answer.is_shape_set = o->micro_batch && o->num_micro_batches;
    fill_problem(o, sl_source_config(source), &answer.problem);
    sl_source_close(source);

    SL_TRY(sl_search_flexgen(&answer.problem, o->micro_batch, o->num_micro_batches, &answer.found));
    const sl_flexgen_plan *best = &answer.found.best;
    if (!best->is_feasible)
        SL_TRY(sl_shortage_flexgen(&answer.problem, best->micro_batch, best->num_micro_batches,
                                   &answer.shortage));
    return print_answer(o, &answer, n_refused_out);
}

sl_status sl_cmd_plan(const sl_launch *launch, int argc, char **argv, int first,
                      uint64_t *n_refused_out) {
    plan_options o = {
        .prompt_len = 512, .gen_len = 32, .alpha = 0.8, .measured = {.n_prompts = 1000}};
    int help = 0;
    SL_TRY(parse_options(launch, argc, argv, first, &o, &help));
    if (help || !sl_launch_is_first(launch)) return SL_OK;
    return o.cost_model == MEASURED ? plan_measured(launch, &o, n_refused_out)
                                    : plan_flexgen(&o, n_refused_out);
}
