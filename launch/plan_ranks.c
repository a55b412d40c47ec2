/* A plan for ranks on different machines: what `sluice plan` prints of it. */
#include <stdio.h>
#include <stdlib.h>

#include "partition_measured.h"
#include "plan_measured.h"

#define GIB 1073741824.0

static const char *precision(sl_dtype dtype) {
    return sl_profile_format_names[sl_profile_format(dtype)];
}

static void print_text(const sl_plan_measured_options *o, const sl_plan_problem *q,
                       const sl_profile *profiles, const sl_partition_found *f) {
    const sl_policy *p = &f->policy;
    const sl_cost *c = &f->cost;
    printf("model        %s on %d ranks\n", o->model, q->n_ranks);
    printf("block        %d x %d sequences, %d rows, %d blocks in flight: --micro-batch %d "
           "--num-micro-batches %d --max-rows %d\n",
           p->micro_batch, p->num_micro_batches, p->max_rows, p->blocks_in_flight, p->micro_batch,
           p->num_micro_batches, p->max_rows);
    printf("precision    --weights %s --cache %s\n", precision(p->weights_dtype),
           precision(p->cache_dtype));
    printf("predicted    %.1f tokens/s, prefill %.1f s, decode %.1f s\n", c->tokens_per_s,
           c->prefill_s, c->decode_s);
    printf(
        "cache        %.0f %% on the gpus, %.0f %% in host memory; processors attend to %.0f %% of "
        "the latter\n",
        100 * p->cache.frac[SL_TIER_GPU], 100 * p->cache.frac[SL_TIER_CPU], 100 * p->host_attends);
    printf("layers       --layers ");
    for (int r = 0, n = 0; r < q->n_ranks; r++)
        if (f->layers[r] > 0) printf("%s%d", n++ ? "," : "", f->layers[r]);
    printf("\n\n  rank  layers  weights on gpu     cpu   gpu peak   cpu peak, GiB  machine\n");
    for (int r = 0; r < q->n_ranks; r++) {
        if (f->layers[r] == 0) {
            printf("  %4d  %6s  left out: without it the others are faster      %s\n", r, "-",
                   profiles[r].name);
            continue;
        }
        printf("  %4d  %6d  %12.1f %% %5.1f %% %10.2f %10.2f       %s\n", r, f->layers[r],
               100 * f->weights[r].frac[SL_TIER_GPU], 100 * f->weights[r].frac[SL_TIER_CPU],
               (double)f->memory[r].need_bytes[SL_TIER_GPU] / GIB,
               (double)f->memory[r].need_bytes[SL_TIER_CPU] / GIB, profiles[r].name);
    }
    printf(
        "\nEach rank is taken to have its machine for itself: ranks of one host share its memory,\n"
        "its links and its processors, which profiles measured by all of them at once contain.\n");
}

static void put_rank(sl_json_text *out, const sl_profile *profile, int layers,
                     const sl_shares *weights) {
    sl_json_raw(out, "{\"machine\": ");
    sl_json_cstring(out, profile->name);
    sl_json_raw(out, ", \"layers\": ");
    sl_json_int(out, layers);
    sl_json_raw(out, ", \"weights\": {\"gpu\": ");
    sl_json_double(out, weights->frac[SL_TIER_GPU]);
    sl_json_raw(out, ", \"cpu\": ");
    sl_json_double(out, weights->frac[SL_TIER_CPU]);
    sl_json_raw(out, ", \"disk\": ");
    sl_json_double(out, weights->frac[SL_TIER_DISK]);
    sl_json_raw(out, "}}");
}

static sl_status print_json(const sl_plan_measured_options *o, const sl_plan_problem *q,
                            const sl_profile *profiles, const sl_partition_found *f) {
    sl_json_text text = {0};
    sl_json_raw(&text, "{\"cost_model\": \"measured\", \"model\": ");
    sl_json_cstring(&text, o->model);
    sl_json_raw(&text, f->is_feasible ? ", \"feasible\": true" : ", \"feasible\": false");
    if (f->is_feasible) {
        sl_json_raw(&text, ", \"tokens_per_s\": ");
        sl_json_double(&text, f->cost.tokens_per_s);
        sl_json_raw(&text, ", \"micro_batch\": ");
        sl_json_int(&text, f->policy.micro_batch);
        sl_json_raw(&text, ", \"num_micro_batches\": ");
        sl_json_int(&text, f->policy.num_micro_batches);
        sl_json_raw(&text, ", \"max_rows\": ");
        sl_json_int(&text, f->policy.max_rows);
        sl_json_raw(&text, ", \"weights\": ");
        sl_json_cstring(&text, precision(f->policy.weights_dtype));
        sl_json_raw(&text, ", \"cache\": ");
        sl_json_cstring(&text, precision(f->policy.cache_dtype));
        sl_json_raw(&text, ", \"ranks\": [");
        for (int r = 0; r < q->n_ranks; r++) {
            if (r > 0) sl_json_raw(&text, ", ");
            put_rank(&text, &profiles[r], f->layers[r], &f->weights[r]);
        }
        sl_json_raw(&text, "]");
    }
    sl_json_raw(&text, "}");
    sl_status st = sl_json_status(&text);
    if (st == SL_OK && (puts(text.data) == EOF || fflush(stdout) != 0))
        st = SL_FAIL(SL_ERR_IO, "the plan cannot be written to standard output");
    sl_json_free(&text);
    return st;
}

sl_status sl_plan_ranks(const sl_plan_measured_options *o, const sl_plan_problem *q,
                        const sl_profile *profiles, uint64_t *n_refused_out) {
    double budget_bytes[SL_PARTITION_MAX_RANKS][SL_TIER_COUNT] = {{0}};
    if (o->save_path)
        return SL_FAIL(SL_ERR_ARG, "--save: a policy file holds no layers of ranks; sluice run "
                                   "with the same --cluster plans by itself");
    sl_partition_found *found = malloc(sizeof *found);
    if (!found) return SL_FAIL(SL_ERR_NOMEM, "plan: out of host memory");
    for (int r = 0; r < q->n_ranks; r++) {
        const double has[SL_TIER_COUNT] = {profiles[r].gpu_bytes, profiles[r].cpu_bytes, 0};
        for (int t = 0; t < SL_TIER_COUNT; t++) {
            const double cap = (double)o->ask.cap_bytes[t];
            budget_bytes[r][t] = cap > 0 && cap < has[t] ? cap : has[t];
        }
    }
    const sl_partition_ask ask = {.problem = q,
                                  .profile = profiles,
                                  .budget_bytes = (const double(*)[SL_TIER_COUNT])budget_bytes,
                                  .may_idle = o->may_idle};
    sl_status st = sl_partition_search(&ask, found);
    if (st == SL_OK && o->json) {
        st = print_json(o, q, profiles, found);
        *n_refused_out = !found->is_feasible;
    } else if (st == SL_OK && !found->is_feasible) {
        st = SL_FAIL(SL_ERR_INFEASIBLE,
                     "%s does not fit on these %d ranks; precisions of less bits, "
                     "a shorter context or another rank would help",
                     o->model, q->n_ranks);
    } else if (st == SL_OK) {
        print_text(o, q, profiles, found);
    }
    free(found);
    return st;
}
