/* packed_file.h - the packed weights of a slice in one file that later runs use again.
 *
 * The file holds a header that names what it was made from, a table of the disk-homed pieces with
 * their checksums, and the pieces as sl_layout_read() packs them, each starting at a multiple of
 * SL_PACK_ALIGN, so that a piece is read with O_DIRECT straight into place.  Matrix pieces that
 * follow each other in a layer do so in the file, at the same distance: a run of them is one read.
 * It is written under a temporary name and renamed when it is whole and synced: a killed run leaves
 * no half file under the real name.
 * Layer: store.  May include: base, model.  Thread safety: one thread per object.
 */
#ifndef SL_STORE_PACKED_FILE_H
#define SL_STORE_PACKED_FILE_H

#include <stddef.h>
#include <stdint.h>

#include "base/pulse.h"
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
    sl_pulse *pulse;                     /* counts pieces, and while another process is waited for;
                                          * NULL is allowed */
} sl_packed_wanted;

typedef struct sl_packed_file sl_packed_file;

/* Finds the file for these pieces in `dir`, verifies it, or makes it.
 *
 * The name is derived from a key over the checkpoint (each file's full name, size, modification
 * time and table of contents; a dummy model's name), the pieces (place, shape, format), and samples
 * of the data: a row of every tensor, which tells the seeds of dummy weights apart, and a piece as
 * packed.  A file of that name whose header, table, size or checksum of the table does not match is
 * refused by name, never silently used or replaced.  When another process is making the file it is
 * waited for; what a dead one left unfinished is removed.  Host memory: two pieces.
 *   dir           existing folder, borrowed for the call, as is `wanted`
 *   budget_bytes  the disk tier's; the file is not made or used when it exceeds it
 *   made_out      1 when this call wrote the file, 0 when it was used again; may be NULL
 * Errors: SL_ERR_ARG (nothing is disk-homed), SL_ERR_IO (disk full included: the temporary file is
 * removed), SL_ERR_FORMAT (refused), SL_ERR_NOMEM (budget, with the numbers).  Blocks. */
sl_status sl_packed_open(const char *dir, const sl_packed_wanted *wanted, size_t budget_bytes,
                         int *made_out, sl_packed_file **out);
void sl_packed_close(sl_packed_file *file);

/* Where a piece lies: offset and bytes rounded up to SL_DISK_ALIGN, for sl_disk_read() on
 * sl_packed_disk().  `layer` counts from the slice's first, as in sl_packed_wanted.
 * Errors: SL_ERR_ARG (no such piece, or not in the file). */
sl_status sl_packed_find(const sl_packed_file *file, int layer, int piece, size_t *offset_out,
                         size_t *bytes_out);
sl_disk *sl_packed_disk(const sl_packed_file *file);
/* Bytes of a file before its first piece. */
sl_status sl_packed_table_bytes(size_t n_pieces, size_t *out);
size_t sl_packed_bytes(const sl_packed_file *file); /* of the whole file */
const char *sl_packed_path(const sl_packed_file *file);

/* Opening verifies the header and the table, not the data, which would be read twice.  The data is
 * verified by either of these; each compares with the checksum that was taken when the file was
 * made.  Errors: SL_ERR_FORMAT with file, tensor, layer and offset; those of reading. */

/* One piece just read: data [bytes of sl_packed_find()].  Runs at the speed of memory. */
sl_status sl_packed_check(const sl_packed_file *file, int layer, int piece, const void *data);

/* All of them, reading the whole file once.  Blocks. */
sl_status sl_packed_verify(sl_packed_file *file);

#endif
