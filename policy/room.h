/* room.h - what a block takes of each tier, as affine functions of the shares.
 *
 * Coefficients are differences of what the engine's own planning gives for whole shares
 * (engine/footprint.h).  Between those its numbers are nearly straight lines: whole sequences and
 * whole pieces make small steps, so a placement that was found is measured once more.
 * Layer: policy.  May include: src.  Thread safety: pure functions.
 */
#ifndef SL_POLICY_ROOM_H
#define SL_POLICY_ROOM_H

#include "plan_problem.h"

/* Of the weights in one precision. */
typedef struct {
    double matrix_bytes;               /* of the slice's decoder layers */
    double layer_bytes;                /* of one of them */
    double fixed_bytes[SL_TIER_COUNT]; /* embedding, head, vectors */
    double loading_bytes;              /* beside the layer that is loaded */
} sl_room_weights;

sl_status sl_room_weights_make(const sl_plan_problem *problem, sl_dtype dtype,
                               sl_room_weights *out);

/* How a block is run: what shares cannot say. */
typedef struct {
    int on_host; /* 1: some rows may attend on the host */
    int travels; /* 1: hidden states may leave the tier that computes */
} sl_room_mode;

typedef struct {
    double bytes[SL_TIER_COUNT][SL_COST_N_VARS]; /* need = sum of bytes * variable */
    double loading[SL_COST_N_VARS];              /* host memory while weights are loaded */
} sl_room;

sl_status sl_room_make(const sl_plan_problem *problem, const sl_plan_shape *shape,
                       const sl_room_weights *weights, sl_room_mode mode, sl_room *out);

#endif
