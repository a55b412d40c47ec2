/* packed_impl.h - the packed file as it is written, shared by its key, its writer and its reader.
 *
 * A file is a header, a table with an entry per piece, zeros up to SL_PACK_ALIGN, then each piece's
 * bytes, padded to SL_PACK_ALIGN with zeros, in the order of layers and pieces.  Numbers are in the
 * machine's own order: the magic number of another order does not match.
 * Private to src/store and its tests.
 * Layer: store.  May include: base, model.  Thread safety: plain data.
 */
#ifndef SL_STORE_PACKED_IMPL_H
#define SL_STORE_PACKED_IMPL_H

#include "store/packed_file.h"

/* Goes up whenever these structs or the way of packing change; it is part of the key, so that older
 * files are left alone and newer ones not misread. */
enum { SL_PACKED_VERSION = 1 };
#define SL_PACKED_MAGIC 0x3144454b43415053u /* "SPACKED1" on a little-endian machine */

typedef struct {
    uint64_t magic;
    uint64_t version;
    uint64_t key;
    uint64_t header_bytes; /* of header, table and padding; the first piece's offset */
    uint64_t file_bytes;
    uint64_t n_entries;
    uint64_t checksum;   /* of the header_bytes with zero in this place */
    char made_from[200]; /* the model's path or name, cut to fit; for people */
} sl_packed_header;

typedef struct {
    int32_t layer; /* the model's number */
    int32_t piece; /* in the layer's layout */
    int32_t role, dtype;
    int64_t row0, n_rows, cols;
    uint64_t offset;   /* in the file */
    uint64_t bytes;    /* without padding */
    uint64_t checksum; /* of the bytes and their padding */
} sl_packed_entry;

_Static_assert(sizeof(sl_packed_header) == 256 && sizeof(sl_packed_entry) == 64,
               "the file's structs have no padding");

/* What a file for these pieces is to be: the first header_bytes of it, checksums apart. */
typedef struct {
    unsigned char *head;    /* [header_bytes], aligned to SL_DISK_ALIGN; owned */
    size_t longest_bytes;   /* of a piece, with padding */
    sl_packed_header *top;  /* in head */
    sl_packed_entry *entry; /* [n_entries], in head */
} sl_packed_plan;

/* The key of a file with these entries: of the checkpoint's files and contents, of the table, and
 * of samples of the data (a row of each tensor, a piece as packed).  Blocks on the disk.
 * Errors: SL_ERR_IO, SL_ERR_NOMEM and those of sl_layout_read(). */
sl_status sl_packed_key(const sl_packed_wanted *wanted, const sl_packed_plan *plan,
                        uint64_t *key_out);

/* Writes the file under a temporary name beside `path`, completing the plan's checksums, and
 * renames it when it is whole.  Errors: SL_ERR_IO (the temporary file is removed), SL_ERR_NOMEM and
 * those of sl_layout_read().  Blocks. */
sl_status sl_packed_write(const char *path, const sl_packed_wanted *wanted, sl_packed_plan *plan);

/* Removes temporary files that dead processes left for `path`.  When a process that lives is making
 * the file, waits for its end and says so; the pulse goes on meanwhile.  Errors: SL_ERR_IO,
 * SL_ERR_NOMEM. */
sl_status sl_packed_await(const char *path, sl_pulse *pulse, int *waited_out);

/* The checksum of a plan or of a file's head, whose length it tells. */
uint64_t sl_packed_checksum(const unsigned char *head);

/* SL_DISK_ALIGN-aligned memory, released with free(); NULL when there is none. */
void *sl_packed_memory(size_t bytes);

/* The layout that an entry's piece belongs to; NULL if the slice has none. */
const sl_layout *sl_packed_layout(const sl_packed_wanted *wanted, const sl_packed_entry *entry);

#endif
