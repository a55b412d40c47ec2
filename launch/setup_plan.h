/* setup_plan.h - the plan of a run whose options leave the policy open, and what it expects.
 *
 * Layer: launch.  May include: all.  Every function is collective unless it says otherwise, and
 * all ranks get the same status.
 */
#ifndef SL_LAUNCH_SETUP_PLAN_H
#define SL_LAUNCH_SETUP_PLAN_H

#include "base/status.h"
#include "setup.h"

/* The policy of a job that needs no plan: one that is small, or that fits into the memory that
 * computes with room to spare.  budgets: this rank's.
 *   *is_simple_out  1: *out is the policy, on every rank; 0: *out is unchanged */
sl_status sl_setup_plan_simple(const sl_setup *setup, const sl_policy *budgets, int *is_simple_out,
                               sl_policy *out);

/* The profile of this rank's machine into *setup: of --cluster or --profile, of the simulation,
 * from an earlier run, or, where it may, measured now.  setup->has_profile says whether there is
 * one. */
sl_status sl_setup_find_profile(sl_setup *setup, const sl_policy *budgets, int may_measure);

/* Whether the ranks differ so much that they want a partition of their own; 0 where no profile is
 * at hand.  The same on all ranks. */
sl_status sl_setup_is_uneven(sl_setup *setup, const sl_policy *budgets, int *out);

/* Searches for the fastest policy; with the profile.  *out is right on the first rank.  Where ranks
 * are unequal, their layers and weights come out in *setup, on all of them.
 * Errors: SL_ERR_INFEASIBLE with what is lacking, SL_ERR_ARG (the profile is of another kind of
 * machine, precisions without a plan). */
sl_status sl_setup_plan(sl_setup *setup, const sl_policy *budgets, sl_policy *out);

/* With a profile and an open engine: what is expected of the job, into *setup. */
sl_status sl_setup_predict(sl_setup *setup);

#endif
