/* The published FlexGen cost model against what its authors' program (experimental/cost_model.py,
 * pulp 2.6 with CBC) prints for the same inputs.  Optima can be degenerate: times are compared, not
 * placements. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "model/config.h"
#include "search_flexgen.h"
#include "shortage_flexgen.h"

#define GIB 1073741824.0

typedef struct {
    const char *model;
    int prompt_len;
    double gib[SL_TIER_COUNT], alpha;
    int micro_batch, num_micro_batches; /* 0: the full search */
    int percent[6];                     /* all 0: free */
    /* As printed; NULL: infeasible. */
    const char *total_s, *objective_s, *tokens_per_s;
} golden_row;

static const golden_row rows[] = {
    {"opt-1.3b", 512, {16, 200, 1500}, .8, 4, 8, {0}, "3.88987", "0.1215586", "263.25"},
    {"opt-6.7b", 512, {16, 200, 1500}, .8, 2, 1, {0}, "1.0518", "0.5259", "60.848"},
    {"opt-6.7b", 512, {16, 200, 1500}, .8, 24, 4, {0}, "112.629", "1.17322", "27.275"},
    {"opt-30b", 512, {16, 200, 1500}, .8, 48, 3, {0}, "660.743", "4.588492", "6.974"},
    {"opt-30b", 512, {16, 200, 1500}, .8, 32, 5, {0}, "721.663", "4.510391", "7.0947"},
    {"opt-30b",
     512,
     {16, 200, 1500},
     1.2,
     48,
     3,
     {20, 80, 0, 100, 0, 100},
     "645.764",
     "4.484473",
     "7.1357"},
    {"opt-30b",
     1024,
     {16, 200, 1500},
     1.2,
     20,
     4,
     {4, 96, 0, 100, 0, 100},
     "706.798",
     "8.834969",
     "3.622"},
    {"opt-175b",
     512,
     {16, 200, 1500},
     1.2,
     32,
     8,
     {0, 50, 0, 0, 0, 100},
     "53065.5",
     "207.2873",
     "0.15438"},
    {"opt-175b", 512, {16, 200, 1500}, .8, 32, 8, {0}, NULL, NULL, NULL},
    {"opt-175b", 512, {4, 32, 100}, .8, 8, 4, {0}, NULL, NULL, NULL},
};

static sl_flexgen_problem problem_of(const golden_row *row) {
    sl_model_config config;
    assert_int_equal(sl_config_named(row->model, &config), SL_OK);
    sl_flexgen_problem q = {
        .machine = &sl_flexgen_t4,
        .n_layers = config.n_layers,
        .hidden = config.hidden,
        .ffn = config.ffn,
        .n_heads = config.n_heads,
        .prompt_len = row->prompt_len,
        .gen_len = 32,
    };
    for (int t = 0; t < SL_TIER_COUNT; t++) q.budget_bytes[t] = row->alpha * row->gib[t] * GIB;
    for (int i = 0; i < 6; i++) {
        q.fixed[i / 2][i % 2] = row->percent[i] / 100.0;
        q.is_fixed |= row->percent[i] != 0;
    }
    return q;
}

/* Equal in every digit of `printed`: half a unit of its last place, and some rounding. */
static void assert_printed(const char *printed, double value) {
    const char *point = strchr(printed, '.');
    const int n_decimals = point ? (int)strlen(point + 1) : 0;
    char text[64];
    snprintf(text, sizeof text, "%.*f", n_decimals, value);
    assert_string_equal(text, printed);
}

static void plans_cost_what_the_authors_program_prints(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const golden_row *row = &rows[i];
        const sl_flexgen_problem q = problem_of(row);
        sl_flexgen_plan plan;
        assert_int_equal(sl_cost_flexgen(&q, row->micro_batch, row->num_micro_batches, &plan),
                         SL_OK);
        assert_int_equal(plan.is_feasible, row->total_s != NULL);
        if (!plan.is_feasible) continue;
        assert_printed(row->total_s, plan.total_s);
        assert_printed(row->objective_s, plan.objective_s);
        assert_printed(row->tokens_per_s, plan.tokens_per_s);
    }
}

static void block_beyond_the_gpu_lacks_what_the_authors_program_needs(void **state) {
    (void)state;
    const sl_flexgen_problem q = problem_of(&rows[8]);
    sl_flexgen_shortage s;
    assert_int_equal(sl_shortage_flexgen(&q, 32, 8, &s), SL_OK);
    assert_printed("13.5", (q.budget_bytes[SL_TIER_GPU] + s.alone_bytes[SL_TIER_GPU]) / GIB);
    assert_int_equal(s.alone_peak[SL_TIER_GPU], SL_FLEXGEN_GPU_P);
}

static void search_finds_the_authors_blocks(void **state) {
    (void)state;
    static const struct {
        golden_row row;
        int micro_batch, num_micro_batches;
    } searches[] = {
        {{"opt-30b", 512, {16, 200, 1500}, .8, 0, 0, {0}, NULL, NULL, "7.09"}, 32, 5},
        {{"opt-30b", 512, {15, 204, 1500}, 1, 0, 0, {0}, NULL, NULL, "7.48"}, 32, 7},
        {{"opt-175b", 512, {16, 200, 1500}, .8, 0, 0, {0}, NULL, NULL, "0.17"}, 1, 432},
        {{"opt-6.7b", 512, {16, 200, 1500}, .8, 0, 0, {0}, NULL, NULL, "60.85"}, 1, 2},
    };
    for (size_t i = 0; i < sizeof searches / sizeof searches[0]; i++) {
        const sl_flexgen_problem q = problem_of(&searches[i].row);
        sl_flexgen_found found;
        assert_int_equal(sl_search_flexgen(&q, 0, 0, &found), SL_OK);
        assert_true(found.best.is_feasible);
        assert_int_equal(found.best.micro_batch, searches[i].micro_batch);
        assert_int_equal(found.best.num_micro_batches, searches[i].num_micro_batches);
        assert_printed(searches[i].row.tokens_per_s, found.best.tokens_per_s);
    }
}

static void placement_of_the_largest_model_is_the_authors(void **state) {
    (void)state;
    const golden_row row = {"opt-175b", 512, {16, 200, 1500}, .8, 1, 432, {0}, NULL, NULL, NULL};
    const sl_flexgen_problem q = problem_of(&row);
    sl_flexgen_plan plan;
    assert_int_equal(sl_cost_flexgen(&q, 1, 432, &plan), SL_OK);
    assert_printed("0.018", plan.share[SL_FLEXGEN_WEIGHTS][SL_TIER_GPU]);
    assert_printed("0.468", plan.share[SL_FLEXGEN_WEIGHTS][SL_TIER_CPU]);
    assert_printed("0.514", plan.share[SL_FLEXGEN_WEIGHTS][SL_TIER_DISK]);
    assert_printed("1.000", plan.share[SL_FLEXGEN_CACHE][SL_TIER_DISK]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plans_cost_what_the_authors_program_prints),
        cmocka_unit_test(block_beyond_the_gpu_lacks_what_the_authors_program_needs),
        cmocka_unit_test(search_finds_the_authors_blocks),
        cmocka_unit_test(placement_of_the_largest_model_is_the_authors),
    };
    return cmocka_run_group_tests_name("cost_model", tests, NULL, NULL);
}
