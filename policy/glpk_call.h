/* glpk_call.h - runs code that calls GLPK so that GLPK cannot end the process.
 *
 * GLPK prints a message and calls abort() when it is misused, when an assertion of its own fails
 * and when memory runs out.  Here its message becomes a status instead. Layer: policy.  May
 * include: src, glpk.  Thread safety: any thread; GLPK's environment is per thread, and none of it
 * outlives the call.
 */
#ifndef SL_POLICY_GLPK_CALL_H
#define SL_POLICY_GLPK_CALL_H

#include "base/status.h"

/* Calls body(arg) with GLPK silent and returns its status.  When GLPK fails inside, body does not
 * return: what it owns besides GLPK's objects is the caller's to release, through arg.
 * GLPK objects of this thread are gone afterwards, those of before too, so none may be kept; calls
 * do not nest.
 * Errors: body's own; SL_ERR_NOMEM (no environment); SL_ERR_ARG with GLPK's message. */
sl_status sl_glpk_call(sl_status (*body)(void *arg), void *arg);

#endif
