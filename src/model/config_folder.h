/* config_folder.h - a model's config from the JSON files of an HF folder.
 *
 * Layer: model.  May include: base.  Thread safety: no shared state.
 */
#ifndef SL_MODEL_CONFIG_FOLDER_H
#define SL_MODEL_CONFIG_FOLDER_H

#include "base/status.h"
#include "model/config.h"

/* Reads one config.json.  Errors: SL_ERR_IO, SL_ERR_FORMAT naming the file; SL_ERR_NOMEM. */
sl_status sl_config_read_file(const char *path, sl_model_config *out);

/* Reads `dir`/config.json, and adds the end-of-sequence ids of generation_config.json if there is
 * one.  Errors: as above. */
sl_status sl_config_read_folder(const char *dir, sl_model_config *out);

#endif
