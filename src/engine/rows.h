/* rows.h - the rows of one micro-batch, as operators see them.
 *
 * A segment is a run of consecutive tokens of one sequence: one token for a decode step, more for a
 * prefill chunk.  Rows of all segments lie one after another; there is no padding.
 * Layer: engine.  May include: base.  Thread safety: plain data, immutable during a sweep.
 */
#ifndef SL_ENGINE_ROWS_H
#define SL_ENGINE_ROWS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    int row0;             /* first row of the segment in the micro-batch */
    int n_rows;           /* >= 1 */
    int position0;        /* position of its first row in the sequence */
    int n_pages;          /* pages that hold positions [0, position0 + n_rows) */
    const int32_t *pages; /* [n_pages] page numbers, in token order */
} sl_segment;

typedef struct {
    int n_rows;
    const int32_t *token;    /* [n_rows] */
    const int32_t *position; /* [n_rows] */
    int n_segments;
    const sl_segment *segment; /* [n_segments], by row0 */
    int n_wanted;
    const int32_t *wanted; /* [n_wanted] ascending row numbers whose logits are wanted */
    void *device;          /* the backend's copy of all this, set by bind_rows(); else NULL */
} sl_rows;

#ifdef __cplusplus
}
#endif
#endif
