/* roles.h - which tensors a config calls for, where they belong, and their shapes.
 *
 * Pure facts about sl_model_config; neither checkpoints nor names occur here.
 * Layer: model.  May include: base.  Thread safety: pure functions.
 */
#ifndef SL_MODEL_ROLES_H
#define SL_MODEL_ROLES_H

#include <stdint.h>

#include "model/config.h"
#include "model/source.h"

/* Where a role's tensor lives: SL_LAYER_EMBED, every decoder layer, or layer n_layers. */
typedef enum { SL_PLACE_EMBED, SL_PLACE_DECODER, SL_PLACE_FINAL } sl_place;

sl_place sl_role_place(sl_role role);

/* The place of layer number `layer` (SL_LAYER_EMBED .. n_layers).  Undefined outside. */
sl_place sl_layer_place(const sl_model_config *config, int layer);

/* 1 if layer `layer` computes with a tensor of that role.  The head is wanted in layer n_layers
 * whether it is tied or not; 0 for layers and roles out of range. */
int sl_role_wanted(const sl_model_config *config, int layer, sl_role role);

/* [rows, cols] that the config gives a role; vectors have one row.  `role` is in range. */
void sl_role_shape(const sl_model_config *config, sl_role role, int64_t *rows_out,
                   int64_t *cols_out);

#endif
