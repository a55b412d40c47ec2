#include "measure_disk.h"

#include <string.h>

#include "base/clock.h"
#include "store/disk.h"
#include "store/host_memory.h"

/* Pages of the cache come in some KiB, weights in pieces of some MiB; beyond SL_DISK_REQUEST_BYTES
 * requests are split. */
static const size_t sizes[] = {64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20};
enum { N_SIZES = sizeof sizes / sizeof sizes[0] };
/* Under way at once: as many bytes as fill a disk's queue, and requests for a disk of long latency.
 */
enum { FLIGHT_BYTES = 32 << 20, FLIGHT_MIN = 2, FLIGHT_MAX = 32 };
/* Larger than what a disk keeps in memory of its own, small enough to be written in time. */
enum { FILE_BYTES = 1 << 30, SAMPLES = 3 };

typedef struct {
    sl_measure *m;
    sl_disk *disk;
    char *buffer; /* [FLIGHT_BYTES] */
    size_t file_bytes, written_bytes;
} disk_bench;

static sl_status start(disk_bench *b, int writes, size_t offset, size_t bytes, int slot,
                       sl_disk_ticket *out) {
    char *at = b->buffer + (size_t)slot * bytes;
    return writes ? sl_disk_write(b->disk, offset, bytes, at, out)
                  : sl_disk_read(b->disk, offset, bytes, at, out);
}

/* Bytes per second over the file from its start, again and again, oldest request first. */
static sl_status measure_size(disk_bench *b, int writes, size_t bytes, double seconds,
                              double *bps_out) {
    sl_disk_ticket ticket[FLIGHT_MAX] = {0};
    const size_t fit = FLIGHT_BYTES / bytes;
    const int flight = fit > FLIGHT_MAX ? FLIGHT_MAX : fit < FLIGHT_MIN ? FLIGHT_MIN : (int)fit;
    const size_t span = (writes ? b->file_bytes : b->written_bytes) / bytes * bytes;
    size_t at = 0, moved = 0;
    sl_status st = SL_OK;
    if (span < bytes) return SL_FAIL(SL_ERR_ARG, "a disk file of %zu bytes", b->file_bytes);
    const double start_s = sl_clock_s();
    double end_s = start_s;
    for (int slot = 0; end_s - start_s < seconds; slot = (slot + 1) % flight) {
        if (ticket[slot]) {
            const sl_disk_ticket oldest = ticket[slot];
            ticket[slot] = 0;
            SL_GO(sl_disk_wait(b->disk, oldest));
            moved += bytes;
            end_s = sl_clock_s();
        }
        SL_GO(start(b, writes, at, bytes, slot, &ticket[slot]));
        at = at + bytes < span ? at + bytes : 0;
        if (writes && at > b->written_bytes) b->written_bytes = at;
        if (writes && at == 0) b->written_bytes = span;
    }

fail:
    for (int i = 0; i < flight; i++) {
        if (!ticket[i]) continue;
        const sl_status ended = sl_disk_wait(b->disk, ticket[i]);
        if (st == SL_OK) st = ended;
        moved += bytes;
    }
    if (st == SL_OK) *bps_out = (double)moved / (sl_clock_s() - start_s);
    return st;
}

static sl_status measure_sizes(disk_bench *b, sl_profile *p) {
    const double seconds = SAMPLES * b->m->opt->sample_s;
    double bps;
    /* What is read is to be on the disk, not in its promise of zeros. */
    SL_TRY(measure_size(b, 1, sizes[2] < b->file_bytes ? sizes[2] : b->file_bytes, 2.0 * seconds,
                        &bps));
    for (int i = 0; i < N_SIZES; i++) {
        if (sizes[i] > b->written_bytes) break;
        SL_TRY(measure_size(b, 1, sizes[i], seconds, &bps));
        SL_TRY(sl_curve_add(&p->disk_write_bps, (double)sizes[i], sl_measure_round(bps)));
        SL_TRY(measure_size(b, 0, sizes[i], seconds, &bps));
        SL_TRY(sl_curve_add(&p->disk_read_bps, (double)sizes[i], sl_measure_round(bps)));
        sl_measure_point(b->m, i + 1, N_SIZES);
        if (sl_measure_is_late(b->m)) break;
    }
    return SL_OK;
}

sl_status sl_measure_disk(sl_measure *m, sl_profile *profile, const char **engine_out) {
    disk_bench b = {.m = m};
    void *buffer = NULL;
    sl_status st = SL_OK;
    if (!m->opt->disk_dir) return SL_OK;
    b.file_bytes = m->opt->disk_bytes < FILE_BYTES ? m->opt->disk_bytes : FILE_BYTES;
    b.file_bytes -= b.file_bytes % SL_DISK_ALIGN;
    if (b.file_bytes < sizes[0])
        return SL_FAIL(SL_ERR_IO, "%s: %zu bytes of disk space, too few to measure with",
                       m->opt->disk_dir, m->opt->disk_bytes);
    SL_GO(sl_tier_take_touched(m->host, FLIGHT_BYTES, "disk transfers", &buffer));
    b.buffer = buffer;
    memset(buffer, 0x5a, FLIGHT_BYTES); /* no zeros, which some disks do not store */
    SL_GO(sl_disk_open_scratch(m->opt->disk_dir, b.file_bytes, &b.disk));
    SL_GO(measure_sizes(&b, profile));
    if (engine_out) *engine_out = sl_disk_engine(b.disk);

fail:
    sl_disk_close(b.disk);
    sl_tier_put(m->host, buffer);
    return st;
}
