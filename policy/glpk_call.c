#include "glpk_call.h"

#include <setjmp.h>
#include <stddef.h>
#include <string.h>

#include <glpk.h>

typedef struct {
    jmp_buf back;
    char said[320]; /* what GLPK printed last; on a failure, why */
    size_t n_said;
} trap;

static void on_failure(void *info) {
    trap *t = info;
    longjmp(t->back, 1);
}

/* GLPK switches its output on before it reports a failure; nonzero: keep it off the terminal. */
static int on_output(void *info, const char *text) {
    trap *t = info;
    for (; *text && t->n_said < sizeof t->said - 1; text++)
        t->said[t->n_said++] = *text == '\n' ? ' ' : *text;
    t->said[t->n_said] = '\0';
    return 1;
}

/* Holds no locals that change between setjmp and longjmp; the trap is the caller's. */
static sl_status call_trapped(trap *t, sl_status (*body)(void *arg), void *arg) {
    if (setjmp(t->back) != 0) {
        while (t->n_said > 0 && t->said[t->n_said - 1] == ' ') t->said[--t->n_said] = '\0';
        return SL_FAIL(SL_ERR_ARG, "GLPK: %s", t->n_said ? t->said : "failed without a message");
    }
    glp_term_out(GLP_OFF);
    glp_term_hook(on_output, t);
    glp_error_hook(on_failure, t);
    return body(arg);
}

sl_status sl_glpk_call(sl_status (*body)(void *arg), void *arg) {
    trap t;
    memset(&t, 0, sizeof t);
    /* Asked for by name: made on first use, a failure would abort before there is a hook. */
    if (glp_init_env() > 1) return SL_FAIL(SL_ERR_NOMEM, "GLPK's environment cannot be set up");
    const sl_status st = call_trapped(&t, body, arg);
    glp_free_env(); /* after a failure the only legal call; otherwise nothing is left to threads */
    return st;
}
