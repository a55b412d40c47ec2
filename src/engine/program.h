/* program.h - the operators of embedding, decoder layer and head, in order, for any architecture.
 *
 * The program reads the model's config and calls the backend; it owns the working buffers that the
 * operators of one micro-batch share.  A layer has two parts, before and after attention.  Where
 * some rows attend on the host, micro-batches between their two parts each have a lane of their
 * own. Layer: engine.  May include: base, model, store.  Thread safety: one thread per program.
 */
#ifndef SL_ENGINE_PROGRAM_H
#define SL_ENGINE_PROGRAM_H

#include <stddef.h>

#include "base/status.h"
#include "engine/backend.h"
#include "engine/rows.h"
#include "engine/sampler.h"
#include "model/config.h"
#include "store/tier.h"
#include "store/weights.h"

typedef struct sl_program sl_program;

typedef struct {
    const sl_model_config *config; /* borrowed until close */
    sl_backend *backend;           /* borrowed until close */
    sl_tier *tier;                 /* borrowed until close */
    int max_rows;                  /* of a micro-batch */
    int has_head;                  /* 1: this rank computes logits */
    int n_lanes;                   /* micro-batches between BEFORE and AFTER at a time; >= 1 */
    int host_rows;                 /* rows of a micro-batch that may attend on the host; 0: none */
    float sparsity;                /* of attention to values, (0, 1]; 0: dense */
} sl_program_options;

/* A run of a micro-batch's rows that attend to pages of one place. */
typedef struct {
    int row0;            /* its first row in the micro-batch */
    const sl_rows *rows; /* segments and positions, counted from row0 */
    sl_kv_view cache;    /* base NULL: these rows attend on the host */
} sl_program_part;

/* Takes the working buffers from the tier.  Errors: SL_ERR_ARG, SL_ERR_NOMEM. */
sl_status sl_program_open(const sl_program_options *options, sl_program **out);
void sl_program_close(sl_program *program);

/* Bytes that open will take. */
sl_status sl_program_measure(const sl_program_options *options, size_t *bytes_out);

/* hidden[r,:] of the token and position of each row.
 *   hidden  backend memory, activations, [rows->n_rows, hidden], written */
sl_status sl_program_embed(sl_program *program, const sl_layer_weights *embed, const sl_rows *rows,
                           void *hidden);

/* One decoder layer up to attention: norm, queries, keys and values; keys and values go to the
 * pages and rows attend, part by part; of rows that attend on the host, queries, keys and values go
 * to the lane's outbox.  parts: cover the rows in order.  hidden: [rows->n_rows, hidden], read. */
sl_status sl_program_before(sl_program *program, const sl_layer_weights *layer, const sl_rows *rows,
                            const sl_program_part *parts, int n_parts, int lane, void *hidden);

/* The rest of the layer, in place on hidden. */
sl_status sl_program_after(sl_program *program, const sl_layer_weights *layer, int n_rows, int lane,
                           void *hidden);

/* Where keys and values begin among the elements of an outbox for n rows, queries first, and
 * elements between rows; n * (n_heads + 2 * n_kv_heads) * head_dim in all. */
typedef struct {
    size_t k, v;
    int ldq, ldkv;
} sl_program_outbox_shape;

/* The lane's outbox: queries, keys and values for the host; and where results of row `row0` and
 * those after it are to be put, [n, n_heads * head_dim]. */
void *sl_program_outbox(const sl_program *program, int lane);
sl_program_outbox_shape sl_program_outbox_of(const sl_program *program, int n);
void *sl_program_inbox(const sl_program *program, int lane, int row0);
/* Elements of a row of queries, and of keys; the scale of attention scores. */
int sl_program_q_cols(const sl_program *program);
int sl_program_kv_cols(const sl_program *program);
float sl_program_scale(const sl_program *program);

/* Final norm and head for the wanted rows, a chunk at a time so that [wanted, vocab] never has to
 * fit, and the choice of a token for each.
 *   ask, out  host, [rows->n_wanted], in the order of rows->wanted */
sl_status sl_program_head(sl_program *program, const sl_layer_weights *head, const sl_rows *rows,
                          const void *hidden, const sl_choice_ask *ask, sl_choice *out);

/* The same in two parts, where the backend has them (sl_backend_ops.choose_begin, with what it asks
 * of rows) and so many rows are one chunk: begin queues all and returns, end gives the results once
 * an event behind it is done. */
int sl_program_can_begin_head(const sl_program *program, int n_wanted);
sl_status sl_program_begin_head(sl_program *program, const sl_layer_weights *head,
                                const sl_rows *rows, const void *hidden, const sl_choice_ask *ask);
sl_status sl_program_end_head(sl_program *program, int n_wanted, const sl_choice_ask *ask,
                              sl_choice *out);

#endif
