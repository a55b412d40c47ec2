/* dummy.h - seeded random weights of realistic scale, without a file.
 *
 * Every element is a function of (seed, layer, role, element index) alone, made of integers and
 * exactly rounded arithmetic: any rank, any row range and any machine gives the same bits.
 * Matrices are f16, near-normal, with a standard deviation of 1/sqrt(cols), those that write to the
 * residual stream smaller by sqrt(2 n_layers); so activations stay near 1 at any depth and logits
 * differ by whole units.  Norm gains are 1 + 0.05 z, biases 0.02 z, both float32.
 * Layer: model.  May include: base.  Thread safety: immutable after open.
 */
#ifndef SL_MODEL_DUMMY_H
#define SL_MODEL_DUMMY_H

#include <stdint.h>

#include "base/dtype.h"
#include "base/status.h"
#include "model/config.h"
#include "model/source.h"

typedef struct sl_dummy sl_dummy;

/* Errors: SL_ERR_NOMEM. */
sl_status sl_dummy_open(const sl_model_config *config, uint64_t seed, sl_dummy **out);
void sl_dummy_close(sl_dummy *dummy);

/* F16 for matrices, F32 for vectors. */
sl_dtype sl_dummy_dtype(sl_role role);

/* Fills dst with rows [row0, row0 + n_rows) of a tensor of `cols` columns.
 *   dst  host, sl_dummy_dtype(role), [n_rows, cols], any alignment */
void sl_dummy_read_rows(const sl_dummy *dummy, int layer, sl_role role, int64_t row0,
                        int64_t n_rows, int64_t cols, void *dst);

#endif
