/* partition.h - which layers each rank owns.
 *
 * Layer: engine.  May include: base, model.  Thread safety: pure functions.
 */
#ifndef SL_ENGINE_PARTITION_H
#define SL_ENGINE_PARTITION_H

#include "base/status.h"
#include "model/source.h"

/* Splits the decoder layers into n_ranks contiguous slices, at least one layer each, such that the
 * costliest rank costs least, and costs are as even as that allows; cost counts the multiplications
 * of a row: each layer's matrices, the projections and, as logits are wanted of few rows, a quarter
 * of the head (the embedding is a look-up and costs none).
 *   first_out  [n_ranks + 1]: rank r owns [first_out[r], first_out[r + 1])
 * Errors: SL_ERR_ARG when there are more ranks than layers. */
sl_status sl_partition_by_cost(const sl_source *source, int n_ranks, int *first_out);

/* The same from explicit counts, [n_ranks], each >= 1 and summing to the model's layers. */
sl_status sl_partition_explicit(const sl_source *source, int n_ranks, const int *layers_per_rank,
                                int *first_out);

#endif
