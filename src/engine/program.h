/* program.h - the operators of embedding, decoder layer and head, in order, for any architecture.
 *
 * The program reads the model's config and calls the backend; it owns the working buffers that the
 * operators of one micro-batch share.
 * Layer: engine.  May include: base, model, store.  Thread safety: one thread per program.
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
} sl_program_options;

/* Takes the working buffers from the tier.  Errors: SL_ERR_ARG, SL_ERR_NOMEM. */
sl_status sl_program_open(const sl_program_options *options, sl_program **out);
void sl_program_close(sl_program *program);

/* Bytes that open will take. */
sl_status sl_program_measure(const sl_program_options *options, size_t *bytes_out);

/* hidden[r,:] of the token and position of each row.
 *   hidden  backend memory, activations, [rows->n_rows, hidden], written */
sl_status sl_program_embed(sl_program *program, const sl_layer_weights *embed, const sl_rows *rows,
                           void *hidden);

/* Runs one decoder layer in place on hidden; appends the rows' keys and values to `cache` first. */
sl_status sl_program_layer(sl_program *program, const sl_layer_weights *layer,
                           const sl_kv_view *cache, const sl_rows *rows, void *hidden);

/* Final norm and head for the wanted rows, a chunk at a time so that [wanted, vocab] never has to
 * fit, and the choice of a token for each.
 *   ask, out  host, [rows->n_wanted], in the order of rows->wanted */
sl_status sl_program_head(sl_program *program, const sl_layer_weights *head, const sl_rows *rows,
                          const void *hidden, const sl_choice_ask *ask, sl_choice *out);

#endif
