/* Unit tests of policy/lp.c and policy/glpk_call.c. */
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <glpk.h>

#include "glpk_call.h"
#include "lp.h"

static const sl_lp_method methods[] = {SL_LP_AUTO, SL_LP_PLAIN, SL_LP_PRESOLVE};
enum { N_METHODS = sizeof methods / sizeof methods[0] };

static sl_lp *open_lp(int n_cols, int n_rows) {
    sl_lp *lp = NULL;
    assert_int_equal(sl_lp_open(n_cols, n_rows, &lp), SL_OK);
    return lp;
}

static void col(sl_lp *lp, int c, double lower, double upper, double cost) {
    assert_int_equal(sl_lp_set_col(lp, c, lower, upper, cost), SL_OK);
}

static void row2(sl_lp *lp, double a, double b, double lower, double upper) {
    const double coefs[] = {a, b};
    assert_int_equal(sl_lp_add_row(lp, coefs, lower, upper), SL_OK);
}

/* Most of 3 x + 5 y under x <= 4, 2 y <= 12, 3 x + 2 y <= 18: at (2, 6). */
static void lp_of_a_textbook_is_solved_in_every_way(void **state) {
    (void)state;
    sl_lp *lp = open_lp(2, 3);
    col(lp, 0, 0, 4, -3);
    col(lp, 1, 0, INFINITY, -5);
    row2(lp, 0, 2, -INFINITY, 12);
    row2(lp, 3, 2, -INFINITY, 18);
    for (int m = 0; m < N_METHODS; m++) {
        double x[2];
        sl_lp_outcome outcome;
        assert_int_equal(sl_lp_solve(lp, methods[m], x, &outcome), SL_OK);
        assert_int_equal(outcome, SL_LP_OPTIMAL);
        assert_true(fabs(x[0] - 2) < 1e-9 && fabs(x[1] - 6) < 1e-9);
    }
    sl_lp_close(lp);
}

/* Without presolver GLPK says so by a status, with it by a code. */
static void lp_without_a_point_is_infeasible_in_every_way(void **state) {
    (void)state;
    sl_lp *lp = open_lp(2, 2);
    row2(lp, 1, 1, 3, INFINITY);
    row2(lp, 1, 2, -INFINITY, 2);
    for (int m = 0; m < N_METHODS; m++) {
        double x[2] = {7, 8};
        sl_lp_outcome outcome;
        assert_int_equal(sl_lp_solve(lp, methods[m], x, &outcome), SL_OK);
        assert_int_equal(outcome, SL_LP_INFEASIBLE);
        assert_true(x[0] == 7 && x[1] == 8);
    }
    sl_lp_close(lp);
}

static void lp_without_an_end_is_an_error_in_every_way(void **state) {
    (void)state;
    sl_lp *lp = open_lp(2, 1);
    col(lp, 0, 0, INFINITY, -1);
    row2(lp, 1, -1, -INFINITY, 1);
    for (int m = 0; m < N_METHODS; m++) {
        double x[2];
        sl_lp_outcome outcome;
        assert_int_equal(sl_lp_solve(lp, methods[m], x, &outcome), SL_ERR_ARG);
        assert_non_null(strstr(sl_error_message(), "unbounded"));
    }
    sl_lp_close(lp);
}

static void lp_without_rows_goes_to_its_bounds(void **state) {
    (void)state;
    double x[2];
    sl_lp_outcome outcome;
    sl_lp *lp = open_lp(2, 1);
    col(lp, 0, 2, 5, 1);
    col(lp, 1, -3, 4, -1);
    assert_int_equal(sl_lp_solve(lp, SL_LP_AUTO, x, &outcome), SL_OK);
    assert_int_equal(outcome, SL_LP_OPTIMAL);
    assert_true(x[0] == 2 && x[1] == 4);
    sl_lp_close(lp);
}

/* Fourteen orders of magnitude, as sizes in bytes beside shares have. */
static void lp_of_huge_and_tiny_numbers_is_solved(void **state) {
    (void)state;
    double x[2];
    sl_lp_outcome outcome;
    sl_lp *lp = open_lp(2, 2);
    col(lp, 0, 0, INFINITY, 1e-9);
    col(lp, 1, 0, 1, 0);
    row2(lp, 1e-6, 1e8, 5e7, INFINITY);
    row2(lp, 0, 1e12, -INFINITY, 2.5e11);
    assert_int_equal(sl_lp_solve(lp, SL_LP_AUTO, x, &outcome), SL_OK);
    assert_int_equal(outcome, SL_LP_OPTIMAL);
    assert_true(fabs(x[1] - 0.25) < 1e-8);
    assert_true(fabs(x[0] / 2.5e13 - 1) < 1e-6);
    sl_lp_close(lp);
}

static void lp_refuses_what_glpk_would_abort_on(void **state) {
    (void)state;
    sl_lp *lp = NULL;
    const double nan_row[] = {1, NAN}, inf_row[] = {INFINITY, 1}, row[] = {1, 1};
    assert_int_equal(sl_lp_open(0, 1, &lp), SL_ERR_ARG);
    assert_int_equal(sl_lp_open(1, SL_LP_MAX_ROWS + 1, &lp), SL_ERR_ARG);
    assert_null(lp);
    lp = open_lp(2, 1);
    assert_int_equal(sl_lp_set_col(lp, 2, 0, 1, 0), SL_ERR_ARG);
    assert_int_equal(sl_lp_set_col(lp, -1, 0, 1, 0), SL_ERR_ARG);
    assert_int_equal(sl_lp_set_col(lp, 0, 2, 1, 0), SL_ERR_ARG);
    assert_int_equal(sl_lp_set_col(lp, 0, NAN, 1, 0), SL_ERR_ARG);
    assert_int_equal(sl_lp_set_col(lp, 0, INFINITY, INFINITY, 0), SL_ERR_ARG);
    assert_int_equal(sl_lp_set_col(lp, 0, 0, 1, INFINITY), SL_ERR_ARG);
    assert_int_equal(sl_lp_add_row(lp, nan_row, 0, 1), SL_ERR_ARG);
    assert_int_equal(sl_lp_add_row(lp, inf_row, 0, 1), SL_ERR_ARG);
    assert_int_equal(sl_lp_add_row(lp, row, 1, 0), SL_ERR_ARG);
    assert_int_equal(sl_lp_add_row(lp, row, 0, 1), SL_OK);
    assert_int_equal(sl_lp_add_row(lp, row, 0, 1), SL_ERR_ARG);
    assert_int_equal(sl_lp_n_rows(lp), 1);
    assert_int_equal(sl_lp_n_cols(lp), 2);
    sl_lp_close(lp);
    sl_lp_close(NULL);
}

/* x + y >= 10 with x <= 4 (group 0) and y <= 3 (group 1): 3 are missing. */
static void relaxing_finds_the_cheapest_shortage(void **state) {
    (void)state;
    static const int groups[] = {-1, 0, 1};
    double slack[2], x[2];
    sl_lp_outcome outcome;
    sl_lp *lp = open_lp(2, 3);
    col(lp, 0, 0, INFINITY, 1e6); /* the program's costs do not count */
    row2(lp, 1, 1, 10, INFINITY);
    row2(lp, 1, 0, -INFINITY, 4);
    row2(lp, 0, 1, -INFINITY, 3);

    const double second_dearer[] = {1, 2}, second_hard[] = {1, INFINITY},
                 first_hard[] = {INFINITY, 1}, both_hard[] = {INFINITY, INFINITY}, bad[] = {1, 0};
    assert_int_equal(sl_lp_relax(lp, groups, second_dearer, 2, slack, x, &outcome), SL_OK);
    assert_int_equal(outcome, SL_LP_OPTIMAL);
    assert_true(fabs(slack[0] - 3) < 1e-9 && fabs(slack[1]) < 1e-9);
    assert_true(fabs(x[0] - 7) < 1e-9 && fabs(x[1] - 3) < 1e-9);
    assert_int_equal(sl_lp_relax(lp, groups, second_hard, 2, slack, x, &outcome), SL_OK);
    assert_true(fabs(slack[0] - 3) < 1e-9 && slack[1] == 0);
    assert_int_equal(sl_lp_relax(lp, groups, first_hard, 2, slack, x, &outcome), SL_OK);
    assert_true(slack[0] == 0 && fabs(slack[1] - 3) < 1e-9);
    assert_int_equal(sl_lp_relax(lp, groups, both_hard, 2, slack, x, &outcome), SL_OK);
    assert_int_equal(outcome, SL_LP_INFEASIBLE);
    assert_int_equal(sl_lp_relax(lp, groups, bad, 2, slack, x, &outcome), SL_ERR_ARG);
    sl_lp_close(lp);
}

/* ---- GLPK's own failures ---- */

static sl_status misuse_glpk(void *arg) {
    (void)arg;
    glp_prob *p = glp_create_prob();
    glp_add_rows(p, -5); /* prints, then aborts the process */
    fail_msg("GLPK returned");
    return SL_OK;
}

static sl_status count_calls(void *arg) {
    ++*(int *)arg;
    return SL_FAIL(SL_ERR_IO, "from inside");
}

static void failure_inside_glpk_is_a_status_with_its_message(void **state) {
    (void)state;
    for (int i = 0; i < 3; i++) {
        assert_int_equal(sl_glpk_call(misuse_glpk, NULL), SL_ERR_ARG);
        assert_non_null(strstr(sl_error_message(), "GLPK: glp_add_rows: nrs = -5"));
    }
    lp_of_a_textbook_is_solved_in_every_way(state); /* and GLPK works again */
}

static void call_passes_the_bodys_status_on(void **state) {
    (void)state;
    int n = 0;
    assert_int_equal(sl_glpk_call(count_calls, &n), SL_ERR_IO);
    assert_int_equal(n, 1);
    assert_non_null(strstr(sl_error_message(), "from inside"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lp_of_a_textbook_is_solved_in_every_way),
        cmocka_unit_test(lp_without_a_point_is_infeasible_in_every_way),
        cmocka_unit_test(lp_without_an_end_is_an_error_in_every_way),
        cmocka_unit_test(lp_without_rows_goes_to_its_bounds),
        cmocka_unit_test(lp_of_huge_and_tiny_numbers_is_solved),
        cmocka_unit_test(lp_refuses_what_glpk_would_abort_on),
        cmocka_unit_test(relaxing_finds_the_cheapest_shortage),
        cmocka_unit_test(failure_inside_glpk_is_a_status_with_its_message),
        cmocka_unit_test(call_passes_the_bodys_status_on),
    };
    return cmocka_run_group_tests_name("lp", tests, NULL, NULL);
}
