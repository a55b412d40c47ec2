/* settle.h - what follows from a policy: its defaults, its seats, and the stage that it asks for.
 *
 * Shared by who opens an engine and by who only measures what opening would take.
 * Layer: engine, private.  May include: base, model, store.  Thread safety: pure functions.
 */
#ifndef SL_ENGINE_SETTLE_H
#define SL_ENGINE_SETTLE_H

#include "engine/engine.h"
#include "engine/stage.h"

/* Checks the policy and fills in what it leaves open, but for the weights' shares.
 * Errors: SL_ERR_ARG. */
sl_status sl_settle_policy(sl_policy *policy, const sl_model_config *config, int n_ranks);

/* Sequences of all blocks of a settled policy. */
int sl_settle_n_seats(const sl_policy *policy);

/* Where each lives and attends; the caller frees *out, [sl_settle_n_seats()]. */
sl_status sl_settle_seats(const sl_policy *policy, sl_seat **out);

/* Options of the stage; source, backend, transport and slice are left to the caller.
 *   seats  borrowed by the result */
sl_stage_options sl_settle_stage(const sl_policy *policy, const sl_seat *seats);

#endif
