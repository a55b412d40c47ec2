/* config_gguf.h - a model's config from the metadata of a GGUF file.
 *
 * Layer: model.  May include: base.  Thread safety: pure function of an open checkpoint.
 */
#ifndef SL_MODEL_CONFIG_GGUF_H
#define SL_MODEL_CONFIG_GGUF_H

#include "base/status.h"
#include "model/checkpoint.h"
#include "model/config.h"

/* Reads general.architecture, the sizes, the RoPE parameters and the special ids; whether matrices
 * have biases and the head is tied follows from which tensors are there, and the vocabulary from
 * the embedding's rows.  Reads the tensor of RoPE frequency divisors where there is one.
 * Errors: SL_ERR_FORMAT naming file, key and value; SL_ERR_IO. */
sl_status sl_config_read_gguf(const sl_checkpoint *gguf, sl_model_config *out);

#endif
