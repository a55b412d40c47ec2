/* backend.h - what a compute device offers to the engine: memory, copies and operators.
 *
 * A backend is a table of functions and its state.  The engine knows no device beyond it.
 * Activations are rows of `act_bytes`-wide elements (float32 on CPUs) in the backend's memory.
 * Operators are queued in order and may return before they are done; sl_backend_sync() waits.  The
 * CPU backend computes before it returns.
 * Results of a row never depend on the other rows of the call.  On CPUs an operator gives the same
 * bits for a row alone and among others; on a GPU the order of summation of a matrix product
 * follows the number of rows, so that its results agree within rounding.  This is what makes every
 * batch composition and rank count agree. Layer: engine.  May include: base, model, store.  Thread
 * safety: one thread per backend.
 */
#ifndef SL_ENGINE_BACKEND_H
#define SL_ENGINE_BACKEND_H

#include <stddef.h>
#include <stdint.h>

#include "base/dtype.h"
#include "base/status.h"
#include "engine/rows.h"
#include "engine/sampler.h"
#include "model/config.h"
#include "store/device.h"
#include "store/hollow.h"
#include "store/kv_format.h"
#include "store/weights.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sl_backend sl_backend;

/* Rows of a micro-batch, and the runs of them that attend to different pages, for two blocks. */
enum { SL_ROW_PARTS = 4, SL_BOUND_PER_BATCH = 2 * (1 + SL_ROW_PARTS) };

/* Rows whose tokens are being chosen at a time, at most. */
enum { SL_BEGUN_ROWS = 2048 };

typedef struct {
    const char *name; /* "cpu", "cuda" */
    size_t act_bytes; /* bytes of one activation element */

    /* Memory, copies and events of a device with memory of its own; NULL: operators read and write
     * host memory, and what is queued is done when the call returns. */
    const sl_device_ops *device;
    /* Of a backend that computes nothing: what it gives in place of contents; else NULL. */
    const sl_hollow_ops *hollow;

    void (*close)(sl_backend *be);

    /* Devices only, else NULL.  Queues the upload of a micro-batch's rows, once for all operators
     * of its sweep: number in [0, SL_BOUND_PER_BATCH * micro-batches).  Sets rows->device; the host
     * arrays may change when the call returns.  A later bind of the same number waits for the
     * earlier's use. */
    sl_status (*bind_rows)(sl_backend *be, int number, sl_rows *rows);

    /* Waits until all queued work is done and returns its first failure. */
    sl_status (*sync)(sl_backend *be);

    /* y[r,:] = token_table[token[r],:]; y: [n_rows, token_table->cols].  Ids are within the table.
     */
    sl_status (*embed)(sl_backend *be, void *y, const sl_weight *token_table, const sl_rows *rows);
    /* y[r,:] += pos_table[position[r] + position_offset,:]; y: [n_rows, pos_table->cols]. */
    sl_status (*add_positions)(sl_backend *be, void *y, const sl_weight *pos_table,
                               int position_offset, const sl_rows *rows);

    /* y[r,:] = norm(x[r,:]) * gain + bias; y, x: [n_rows, cols], may be the same; gain, bias:
     * float32 [cols] or NULL (gain 1, bias 0).  LAYER subtracts the mean, RMS does not.
     * With cols = head_dim and n_rows = rows * heads it is the per-head norm of Qwen3. */
    sl_status (*norm)(sl_backend *be, void *y, const void *x, const float *gain, const float *bias,
                      sl_norm_kind kind, float eps, int n_rows, int cols);

    /* y[r, :] = x[r,:] W^T + bias, or y += that when `accumulate`.
     *   y     [n_rows, ldy], columns [0, w->rows) written; x: [n_rows, w->cols], dense
     *   bias  float32 [w->rows] or NULL.   y and x do not overlap. */
    sl_status (*linear)(sl_backend *be, void *y, int ldy, const void *x, const sl_weight *w,
                        const float *bias, int n_rows, int accumulate);
    /* Devices only, else NULL.  Declares that bias, float32 [n], stays as it is until
     * forget_biases(), so that linear() may use a copy in a form that suits it; the copy is queued.
     */
    sl_status (*keep_bias)(sl_backend *be, const float *bias, int n);
    void (*forget_biases)(sl_backend *be);
    /* y[r,:] = x[r,:] W^T in float32 whatever the activations are; y: [n_rows, w->rows], dense. */
    sl_status (*logits)(sl_backend *be, float *y, const void *x, const sl_weight *w, int n_rows);

    /* Rotates the heads of x in place: x is [n_rows, ldx], the first n_heads*head_dim columns of
     * each row are heads; inv_freq: float32 [head_dim/2], host.  Half-split pairs (i, i +
     * head_dim/2). */
    sl_status (*rope)(sl_backend *be, void *x, int ldx, int n_heads, int head_dim,
                      const float *inv_freq, const sl_rows *rows);

    /* Writes the rows' keys and values into the pages of one layer.
     *   k, v  [n_rows, ld], n_kv_heads*head_dim columns each */
    sl_status (*kv_append)(sl_backend *be, const sl_kv_view *cache, const void *k, const void *v,
                           int ld, const sl_rows *rows);

    /* out[r] = causal attention of row r over keys [max(0, p+1-window), p] of its sequence, p its
     * position; every key, the row's own included, is read from the pages, so kv_append comes
     * first. out  [n_rows, n_heads*head_dim];  q: [n_rows, ldq];  scale: usually 1/sqrt(head_dim)
     *   window  0: no limit.   Query head h reads key/value head h / (n_heads / n_kv_heads). */
    sl_status (*attend)(sl_backend *be, void *out, const void *q, int ldq, int n_heads,
                        const sl_kv_view *cache, float scale, int window, const sl_rows *rows);

    /* The same, but of a segment of one row (decode) each query head takes only the values of the
     * ceil(sparsity * keys) largest weights, the row's own key always among them; the weights are
     * those over all keys, not made to sum to 1 again.  sparsity: (0, 1], 1 takes all.
     * Source: FlexGen, section 4.3 (sparse attention). */
    sl_status (*attend_sparse)(sl_backend *be, void *out, const void *q, int ldq, int n_heads,
                               const sl_kv_view *cache, float scale, int window, float sparsity,
                               const sl_rows *rows);

    /* y[r,c] = act(g[r,c]) * u[r,c], or act(g[r,c]) when u is NULL.  y may be g.
     * y: [n_rows, n_cols] dense; g, u: [n_rows, ld]. */
    sl_status (*activate)(sl_backend *be, void *y, const void *g, const void *u, int ld,
                          sl_activation act, int n_rows, int n_cols);

    /* y[r,:] += x[r,:]; both [n_rows, cols], dense. */
    sl_status (*add)(sl_backend *be, void *y, const void *x, int n_rows, int cols);

    /* y[i,:] = x[index[i],:]; index: host [n]. */
    sl_status (*gather)(sl_backend *be, void *y, const void *x, const int32_t *index, int n,
                        int cols);

    /* Chooses or scores a token for each row of logits; blocks until out is filled.
     *   logits  [n_rows, vocab], overwritten;  ask, out: host [n_rows] */
    sl_status (*choose)(sl_backend *be, void *logits, int n_rows, int vocab,
                        const sl_choice_ask *ask, sl_choice *out);

    /* Devices only, else NULL: choose() in two parts.  Begin queues it and returns at once; end
     * gives the results, once an event behind it is done.  Several may be under way, of
     * SL_BEGUN_ROWS rows in all, and end in the order in which they were begun, failed ones too.
     * Rows that sl_choice_is_adjusted() are for choose() alone. */
    sl_status (*choose_begin)(sl_backend *be, void *logits, int n_rows, int vocab,
                              const sl_choice_ask *ask);
    sl_status (*choose_end)(sl_backend *be, int n_rows, int vocab, const sl_choice_ask *ask,
                            sl_choice *out);

    /* Copies page `from` to page `to` within a layer (copy on write). */
    sl_status (*page_copy)(sl_backend *be, const sl_kv_view *cache, int32_t from, int32_t to);
} sl_backend_ops;

/* Every backend's state begins with this. */
struct sl_backend {
    const sl_backend_ops *ops;
};

static inline void sl_backend_close(sl_backend *be) {
    if (be) be->ops->close(be);
}

#ifdef __cplusplus
}
#endif
#endif
