/* torch_zip.h - the zip that torch.save writes: where its entries lie in the file.
 *
 * libzip reads the directory and the pickle; storages are stored uncompressed, so that rows of them
 * can be read straight from the file.
 * Layer: model.  May include: base.  Thread safety: one thread per object.
 */
#ifndef SL_MODEL_TORCH_ZIP_H
#define SL_MODEL_TORCH_ZIP_H

#include "model/checkpoint_impl.h"

typedef struct sl_torch_zip sl_torch_zip;

/* Opens the zip; `file` is borrowed until close.
 * Errors: SL_ERR_FORMAT (no zip, no single data.pkl, big-endian), SL_ERR_IO. */
sl_status sl_torch_zip_open(const sl_checkpoint_file *file, sl_torch_zip **out);
void sl_torch_zip_close(sl_torch_zip *zip);

/* The contents of data.pkl, owned by the zip. */
const unsigned char *sl_torch_zip_pickle(const sl_torch_zip *zip, size_t *bytes_out);

/* Where the entry "data/KEY" lies in the file.  Errors: SL_ERR_FORMAT (missing, compressed,
 * encrypted, outside the file), naming the entry. */
sl_status sl_torch_zip_storage(sl_torch_zip *zip, const char *key, size_t key_bytes,
                               uint64_t *offset_out, uint64_t *bytes_out);

#endif
