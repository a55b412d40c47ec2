/* packed_file.h - the packed weights of a slice in one file that later runs use again.
 *
 * The file holds a header that names what it was made from, a table of layers and pieces, and the
 * layers' packed bytes as sl_layout lays them out, each starting at a multiple of SL_PACK_ALIGN, so
 * that a piece is read with O_DIRECT straight into place.  It is written under a temporary name and
 * renamed when it is whole and synced: a killed run leaves no half file under the real name.
 * Layer: store.  May include: base, model.  Thread safety: one thread per object.
 */
#ifndef SL_STORE_PACKED_FILE_H
#define SL_STORE_PACKED_FILE_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "model/layout.h"
#include "model/source.h"
#include "store/disk.h"

/* Which pieces of which layers a file holds. */
typedef struct {
    const sl_source *source;
    int n_layers;                        /* of the slice */
    const sl_layout *layout;             /* [n_layers] */
    const unsigned char *const *on_disk; /* [n_layers][n_pieces]: 1 when the piece is disk-homed */
} sl_packed_wanted;

typedef struct sl_packed_file sl_packed_file;

/* Finds the file for these pieces in `dir`, verifies it, or makes it: the name is derived from a
 * key over the checkpoint (each file's name, size, modification time and table of contents), the
 * layouts and the disk-homed set.  A file whose header, size or checksum of the table does not
 * match is refused by name when it claims the same key, never silently used; one that another
 * process is making is waited for or made apart. budget_bytes  the disk tier's; SL_ERR_NOMEM with
 * the numbers when the file would exceed it made_out      1 when the file was written by this call,
 * 0 when it was used again; may be NULL Errors: SL_ERR_IO (disk full included: the temporary file
 * is removed), SL_ERR_FORMAT, SL_ERR_NOMEM. Blocks. */
sl_status sl_packed_open(const char *dir, const sl_packed_wanted *wanted, size_t budget_bytes,
                         int *made_out, sl_packed_file **out);
void sl_packed_close(sl_packed_file *file);

/* Where a piece lies: offset and bytes rounded up to SL_DISK_ALIGN, for sl_disk_read() on
 * sl_packed_disk(). */
sl_status sl_packed_find(const sl_packed_file *file, int layer, int piece, size_t *offset_out,
                         size_t *bytes_out);
sl_disk *sl_packed_disk(const sl_packed_file *file);
size_t sl_packed_bytes(const sl_packed_file *file); /* of the whole file */
const char *sl_packed_path(const sl_packed_file *file);

#endif
