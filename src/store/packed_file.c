#include "store/packed_file.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/bytes.h"
#include "base/hash.h"
#include "store/disk_impl.h"
#include "store/packed_impl.h"

enum { N_READS = 4 }; /* pieces under way while the whole file is verified */

struct sl_packed_file {
    sl_disk *disk;
    char *path;
    unsigned char *head;          /* as in the file, verified */
    const sl_packed_header *top;  /* in head */
    const sl_packed_entry *entry; /* [top->n_entries], in head */
    int n_layers;
    size_t *first; /* [n_layers + 1]: where a layer's pieces begin in `at` */
    int64_t *at;   /* entry of each piece, -1 where it is not in the file */
};

void *sl_packed_memory(size_t bytes) {
    void *memory = NULL;
    return posix_memalign(&memory, SL_DISK_ALIGN, bytes > 0 ? bytes : 1) == 0 ? memory : NULL;
}

const sl_layout *sl_packed_layout(const sl_packed_wanted *wanted, const sl_packed_entry *entry) {
    for (int i = 0; i < wanted->n_layers; i++)
        if (wanted->layout[i].layer == entry->layer) return &wanted->layout[i];
    return NULL;
}

uint64_t sl_packed_checksum(const unsigned char *head) {
    sl_packed_header top;
    memcpy(&top, head, sizeof top);
    const size_t rest = top.header_bytes - sizeof top;
    top.checksum = 0;
    return sl_hash(sl_hash(top.key, &top, sizeof top), head + sizeof top, rest);
}

/* The plan. */

static void free_plan(sl_packed_plan *plan) {
    free(plan->head);
    *plan = (sl_packed_plan){0};
}

static sl_status check_wanted(const sl_packed_wanted *wanted, size_t *n_out) {
    size_t n = 0;
    for (int i = 0; i < wanted->n_layers; i++) {
        const sl_layout *layout = &wanted->layout[i];
        for (int j = 0; j < i; j++)
            if (wanted->layout[j].layer == layout->layer)
                return SL_FAIL(SL_ERR_ARG, "packed weights: layer %d is there twice",
                               layout->layer);
        for (int p = 0; p < layout->n_pieces; p++) n += wanted->on_disk[i][p] != 0;
    }
    if (n == 0)
        return SL_FAIL(SL_ERR_ARG, "packed weights of %s: no piece of %d layers is on the disk",
                       sl_source_path(wanted->source), wanted->n_layers);
    *n_out = n;
    return SL_OK;
}

static sl_status add_entry(sl_packed_plan *plan, const sl_layout *layout, int piece) {
    const sl_piece *p = &layout->pieces[piece];
    size_t padded, end;
    SL_TRY(sl_size_add(p->bytes, SL_PACK_ALIGN - 1, &padded));
    padded &= ~(size_t)(SL_PACK_ALIGN - 1);
    SL_TRY(sl_size_add(plan->top->file_bytes, padded, &end));
    plan->entry[plan->top->n_entries++] = (sl_packed_entry){.layer = layout->layer,
                                                            .piece = piece,
                                                            .role = (int32_t)p->role,
                                                            .dtype = (int32_t)p->dtype,
                                                            .row0 = p->row0,
                                                            .n_rows = p->n_rows,
                                                            .cols = p->cols,
                                                            .offset = plan->top->file_bytes,
                                                            .bytes = p->bytes};
    if (padded > plan->longest_bytes) plan->longest_bytes = padded;
    plan->top->file_bytes = end;
    return SL_OK;
}

sl_status sl_packed_table_bytes(size_t n_pieces, size_t *out) {
    size_t bytes;
    SL_TRY(sl_size_mul(n_pieces, sizeof(sl_packed_entry), &bytes));
    SL_TRY(sl_size_add(bytes, sizeof(sl_packed_header) + SL_PACK_ALIGN - 1, &bytes));
    *out = bytes & ~(size_t)(SL_PACK_ALIGN - 1);
    return SL_OK;
}

static sl_status make_plan(const sl_packed_wanted *wanted, sl_packed_plan *out) {
    sl_status st = SL_OK;
    sl_packed_plan plan = {0};
    size_t n, bytes;
    SL_TRY(check_wanted(wanted, &n));
    SL_TRY(sl_packed_table_bytes(n, &bytes));
    plan.head = sl_packed_memory(bytes);
    if (!plan.head)
        return SL_FAIL(SL_ERR_NOMEM, "packed weights: no host memory for a table of %zu pieces", n);
    memset(plan.head, 0, bytes);
    plan.top = (sl_packed_header *)(void *)plan.head;
    plan.entry = (sl_packed_entry *)(void *)(plan.head + sizeof *plan.top);
    *plan.top = (sl_packed_header){.magic = SL_PACKED_MAGIC,
                                   .version = SL_PACKED_VERSION,
                                   .header_bytes = bytes,
                                   .file_bytes = bytes};
    snprintf(plan.top->made_from, sizeof plan.top->made_from, "%s", sl_source_path(wanted->source));
    for (int i = 0; i < wanted->n_layers; i++)
        for (int p = 0; p < wanted->layout[i].n_pieces; p++)
            if (wanted->on_disk[i][p]) SL_GO(add_entry(&plan, &wanted->layout[i], p));
    SL_GO(sl_packed_key(wanted, &plan, &plan.top->key));
    *out = plan;
    return SL_OK;

fail:
    free_plan(&plan);
    return st;
}

/* Opening. */

/* Refuses the file; `...` says what is wrong with it. */
#define REFUSE(path, fmt, ...)                                                                     \
    SL_FAIL(SL_ERR_FORMAT, "packed weights %s: " fmt "; remove the file to have it made again",    \
            path, __VA_ARGS__)

static sl_status check_head(const char *path, const unsigned char *head,
                            const sl_packed_plan *plan) {
    sl_packed_header found;
    const sl_packed_header *want = plan->top;
    memcpy(&found, head, sizeof found);
    if (found.magic != want->magic)
        return REFUSE(path, "begins with %016" PRIx64 ", expected %016" PRIx64, found.magic,
                      want->magic);
    if (found.version != want->version)
        return REFUSE(path, "is of version %" PRIu64 ", expected %" PRIu64, found.version,
                      want->version);
    if (found.key != want->key)
        return REFUSE(path, "has the key %016" PRIx64 ", expected %016" PRIx64, found.key,
                      want->key);
    if (found.header_bytes != want->header_bytes || found.n_entries != want->n_entries ||
        found.file_bytes != want->file_bytes)
        return REFUSE(path,
                      "says %" PRIu64 " pieces, %" PRIu64 " bytes with %" PRIu64
                      " of table, expected %" PRIu64 ", %" PRIu64 " with %" PRIu64,
                      found.n_entries, found.file_bytes, found.header_bytes, want->n_entries,
                      want->file_bytes, want->header_bytes);
    const uint64_t checksum = sl_packed_checksum(head);
    if (found.checksum != checksum)
        return REFUSE(path, "has the checksum %016" PRIx64 " over its table, expected %016" PRIx64,
                      checksum, found.checksum);
    for (uint64_t i = 0; i < want->n_entries; i++) {
        sl_packed_entry e;
        memcpy(&e, head + sizeof found + i * sizeof e, sizeof e);
        e.checksum = plan->entry[i].checksum; /* of the data, known from the file alone */
        if (memcmp(&e, &plan->entry[i], sizeof e) != 0)
            return REFUSE(path,
                          "has piece %d of layer %d, %" PRIu64 " bytes at %" PRIu64
                          ", where piece %d of layer %d, %" PRIu64 " bytes at %" PRIu64
                          ", is expected",
                          e.piece, e.layer, e.bytes, e.offset, plan->entry[i].piece,
                          plan->entry[i].layer, plan->entry[i].bytes, plan->entry[i].offset);
    }
    return SL_OK;
}

static sl_status read_head(sl_packed_file *f, const sl_packed_plan *plan) {
    const size_t bytes = plan->top->header_bytes;
    sl_disk_ticket ticket;
    if (sl_disk_bytes(f->disk) != plan->top->file_bytes)
        return REFUSE(f->path, "is %zu bytes long, expected %" PRIu64, sl_disk_bytes(f->disk),
                      plan->top->file_bytes);
    f->head = sl_packed_memory(bytes);
    if (!f->head)
        return SL_FAIL(SL_ERR_NOMEM, "%s: no host memory for a table of %zu bytes", f->path, bytes);
    SL_TRY(sl_disk_read(f->disk, 0, bytes, f->head, &ticket));
    SL_TRY(sl_disk_wait(f->disk, ticket));
    SL_TRY(check_head(f->path, f->head, plan));
    f->top = (const sl_packed_header *)(const void *)f->head;
    f->entry = (const sl_packed_entry *)(const void *)(f->head + sizeof *f->top);
    return SL_OK;
}

static sl_status make_index(sl_packed_file *f, const sl_packed_wanted *wanted) {
    f->n_layers = wanted->n_layers;
    f->first = calloc((size_t)wanted->n_layers + 1, sizeof *f->first);
    if (!f->first) return SL_FAIL(SL_ERR_NOMEM, "%s: out of host memory", f->path);
    for (int i = 0; i < wanted->n_layers; i++)
        f->first[i + 1] = f->first[i] + (size_t)wanted->layout[i].n_pieces;
    f->at = calloc(f->first[wanted->n_layers], sizeof *f->at);
    if (!f->at) return SL_FAIL(SL_ERR_NOMEM, "%s: out of host memory", f->path);
    int64_t n = 0;
    for (int i = 0; i < wanted->n_layers; i++)
        for (int p = 0; p < wanted->layout[i].n_pieces; p++)
            f->at[f->first[i] + (size_t)p] = wanted->on_disk[i][p] ? n++ : -1;
    return SL_OK;
}

static sl_status open_existing(const char *path, const sl_packed_wanted *wanted,
                               const sl_packed_plan *plan, sl_packed_file **out) {
    sl_status st = SL_OK;
    sl_packed_file *f = calloc(1, sizeof *f);
    if (!f) return SL_FAIL(SL_ERR_NOMEM, "%s: out of host memory", path);
    f->path = strdup(path);
    if (!f->path) {
        st = SL_FAIL(SL_ERR_NOMEM, "%s: out of host memory", path);
        goto fail;
    }
    SL_GO(sl_disk_open_read(path, &f->disk));
    SL_GO(read_head(f, plan));
    SL_GO(make_index(f, wanted));
    *out = f;
    return SL_OK;

fail:
    sl_packed_close(f);
    return st;
}

static sl_status check_budget(const sl_packed_wanted *wanted, const sl_packed_plan *plan,
                              size_t budget_bytes) {
    char need[32], have[32];
    if (plan->top->file_bytes <= budget_bytes) return SL_OK;
    return SL_FAIL(SL_ERR_NOMEM,
                   "packed weights of %s: %" PRIu64 " pieces take %" PRIu64
                   " bytes (%s), the disk tier has %zu (%s)",
                   sl_source_path(wanted->source), plan->top->n_entries, plan->top->file_bytes,
                   sl_bytes_format(plan->top->file_bytes, need, sizeof need), budget_bytes,
                   sl_bytes_format(budget_bytes, have, sizeof have));
}

/* Makes the file unless it is there, or another process has just made it. */
static sl_status make_if_missing(const char *path, const sl_packed_wanted *wanted,
                                 sl_packed_plan *plan, int *made_out) {
    struct stat info;
    for (;;) {
        int waited;
        *made_out = 0;
        if (stat(path, &info) == 0) return SL_OK;
        if (errno != ENOENT) return SL_FAIL(SL_ERR_IO, "%s: %s", path, strerror(errno));
        SL_TRY(sl_packed_await(path, wanted->pulse, &waited));
        if (waited) continue;
        *made_out = 1;
        return sl_packed_write(path, wanted, plan);
    }
}

sl_status sl_packed_open(const char *dir, const sl_packed_wanted *wanted, size_t budget_bytes,
                         int *made_out, sl_packed_file **out) {
    sl_status st = SL_OK;
    char path[4096];
    int made;
    sl_packed_file *file;
    sl_packed_plan plan;
    SL_TRY(make_plan(wanted, &plan));

    SL_GO(check_budget(wanted, &plan, budget_bytes));
    const int n =
        snprintf(path, sizeof path, "%s/sluice-%016" PRIx64 ".packed", dir, plan.top->key);
    if (n < 0 || (size_t)n >= sizeof path) {
        st = SL_FAIL(SL_ERR_ARG, "the disk folder's name is %d bytes long", n);
        goto fail;
    }
    SL_GO(make_if_missing(path, wanted, &plan, &made));
    SL_GO(open_existing(path, wanted, &plan, &file));
    free_plan(&plan);
    if (made_out) *made_out = made;
    *out = file;
    return SL_OK;

fail:
    free_plan(&plan);
    return st;
}

void sl_packed_close(sl_packed_file *file) {
    if (!file) return;
    sl_disk_close(file->disk);
    free(file->at);
    free(file->first);
    free(file->head);
    free(file->path);
    free(file);
}

/* Reading. */

static sl_status find_entry(const sl_packed_file *file, int layer, int piece,
                            const sl_packed_entry **out) {
    if (layer < 0 || layer >= file->n_layers)
        return SL_FAIL(SL_ERR_ARG, "%s: layer %d of the slice, expected 0 to %d", file->path, layer,
                       file->n_layers - 1);
    const size_t n = file->first[layer + 1] - file->first[layer];
    if (piece < 0 || (size_t)piece >= n)
        return SL_FAIL(SL_ERR_ARG, "%s: piece %d of the slice's layer %d, which has %zu",
                       file->path, piece, layer, n);
    const int64_t at = file->at[file->first[layer] + (size_t)piece];
    if (at < 0)
        return SL_FAIL(SL_ERR_ARG, "%s: piece %d of the slice's layer %d is not on the disk",
                       file->path, piece, layer);
    *out = &file->entry[at];
    return SL_OK;
}

sl_status sl_packed_find(const sl_packed_file *file, int layer, int piece, size_t *offset_out,
                         size_t *bytes_out) {
    const sl_packed_entry *e;
    SL_TRY(find_entry(file, layer, piece, &e));
    *offset_out = e->offset;
    *bytes_out = sl_align_up(e->bytes, SL_DISK_ALIGN);
    return SL_OK;
}

static sl_status check_data(const sl_packed_file *file, const sl_packed_entry *e,
                            const void *data) {
    const uint64_t found = sl_hash(file->top->key, data, sl_align_up(e->bytes, SL_DISK_ALIGN));
    if (found == e->checksum) return SL_OK;
    return REFUSE(file->path,
                  "%s of layer %d, rows from %" PRId64 " on, %" PRIu64 " bytes at offset %" PRIu64
                  ", has the checksum %016" PRIx64 ", expected %016" PRIx64,
                  sl_role_name((sl_role)e->role), e->layer, e->row0, e->bytes, e->offset, found,
                  e->checksum);
}

sl_status sl_packed_check(const sl_packed_file *file, int layer, int piece, const void *data) {
    const sl_packed_entry *e;
    SL_TRY(find_entry(file, layer, piece, &e));
    return check_data(file, e, data);
}

/* Waits for reads that still need their memory after one has failed; the first failure's message
 * stays. */
static void drain(sl_disk *disk, const sl_disk_ticket *ticket) {
    char message[1024];
    snprintf(message, sizeof message, "%s", sl_error_message());
    for (int b = 0; b < N_READS; b++)
        if (ticket[b]) (void)sl_disk_wait(disk, ticket[b]);
    sl_fail_text(SL_OK, message);
}

sl_status sl_packed_verify(sl_packed_file *file) {
    sl_status st = SL_OK;
    unsigned char *buffer[N_READS] = {NULL};
    sl_disk_ticket ticket[N_READS] = {0};
    const uint64_t n = file->top->n_entries;
    size_t longest = 0;
    for (uint64_t i = 0; i < n; i++)
        if (file->entry[i].bytes > longest) longest = file->entry[i].bytes;
    for (int b = 0; b < N_READS; b++) {
        buffer[b] = sl_packed_memory(sl_align_up(longest, SL_DISK_ALIGN));
        if (!buffer[b]) {
            st = SL_FAIL(SL_ERR_NOMEM, "verify %s: no memory for a piece of %zu bytes", file->path,
                         longest);
            goto fail;
        }
    }
    /* Reads run N_READS pieces ahead of the checks. */
    for (uint64_t i = 0; i < n + N_READS; i++) {
        const int b = (int)(i % N_READS);
        if (i >= N_READS && i - N_READS < n) {
            const sl_disk_ticket due = ticket[b];
            ticket[b] = 0;
            SL_GO(sl_disk_wait(file->disk, due));
            SL_GO(check_data(file, &file->entry[i - N_READS], buffer[b]));
        }
        if (i < n)
            SL_GO(sl_disk_read(file->disk, file->entry[i].offset,
                               sl_align_up(file->entry[i].bytes, SL_DISK_ALIGN), buffer[b],
                               &ticket[b]));
    }

fail: /* also the way out of success */
    drain(file->disk, ticket);
    for (int b = 0; b < N_READS; b++) free(buffer[b]);
    return st;
}

sl_disk *sl_packed_disk(const sl_packed_file *file) {
    return file->disk;
}

size_t sl_packed_bytes(const sl_packed_file *file) {
    return file->top->file_bytes;
}

const char *sl_packed_path(const sl_packed_file *file) {
    return file->path;
}
