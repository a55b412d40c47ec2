/* shortage_measured.h - what is missing where no policy fits a machine, and what would help.
 *
 * Layer: policy.  May include: src, glpk.  Thread safety: pure functions.
 */
#ifndef SL_POLICY_SHORTAGE_MEASURED_H
#define SL_POLICY_SHORTAGE_MEASURED_H

#include "plan_problem.h"

typedef struct {
    sl_plan_shape shape;                  /* the smallest, which does not fit either */
    double alone_bytes[SL_TIER_COUNT];    /* more of this tier alone; INFINITY: would not help */
    double together_bytes[SL_TIER_COUNT]; /* the least in all that helps */
    int fits_in_4_bits; /* 1: it would with weights and cache in 4 bits, which is not allowed */
} sl_measured_shortage;

sl_status sl_shortage_measured(const sl_plan_problem *problem, const sl_plan_shape *smallest,
                               sl_measured_shortage *out);

#endif
