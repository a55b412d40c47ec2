/* Peaks of the links that weights and pages travel: pinned copies by size and both ways at once,
 * and reads and writes of a folder's disk.  What g16.sh achieves is compared with these.
 *
 * Usage: bench_links [FOLDER]   with FOLDER the disk is measured too (4 GiB, removed at once) */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "cuda/cuda_backend.h"
#include "store/disk.h"
#include "store/pinned.h"
#include "store/tier.h"

enum { ROUND_BYTES = 1 << 30, DISK_BYTES = 1 << 30, DISK_PARTS = 4 };

static void check(sl_status st) {
    if (st == SL_OK) return;
    fprintf(stderr, "bench_links: %s\n", sl_error_message());
    exit(1);
}

/* Bytes per second of copying ROUND_BYTES in pieces: to the device, from it, or both. */
static double copy_rate(sl_backend *be, char *device, char *host, size_t piece, int in, int out) {
    const sl_device_ops *op = be->ops->device;
    double best = 0.0;
    for (int round = 0; round < 4; round++) {
        check(op->drain(be));
        const double t0 = sl_clock_s();
        for (size_t at = 0; at < ROUND_BYTES; at += piece) {
            if (in) check(op->copy(be, SL_STREAM_H2D, device + at, host + at, piece));
            if (out)
                check(op->copy(be, SL_STREAM_D2H, host + ROUND_BYTES + at,
                               device + ROUND_BYTES + at, piece));
        }
        check(op->drain(be));
        const double rate = (double)(in + out) * ROUND_BYTES / (sl_clock_s() - t0);
        if (rate > best) best = rate;
    }
    return best;
}

static double disk_rate(sl_disk *disk, char *memory, int write) {
    sl_disk_ticket ticket[DISK_PARTS];
    const size_t part = DISK_BYTES;
    const double t0 = sl_clock_s();
    for (int i = 0; i < DISK_PARTS; i++)
        check(write ? sl_disk_write(disk, (size_t)i * part, part, memory, &ticket[i])
                    : sl_disk_read(disk, (size_t)i * part, part, memory + (i % 2) * part,
                                   &ticket[i]));
    for (int i = 0; i < DISK_PARTS; i++) check(sl_disk_wait(disk, ticket[i]));
    return DISK_PARTS * (double)part / (sl_clock_s() - t0);
}

int main(int argc, char **argv) {
    const sl_cuda_options options = {.memory_bytes = (size_t)3 << 30, .n_bound = 1};
    sl_backend *be = NULL;
    sl_tier *cpu = NULL;
    void *device = NULL, *host = NULL;
    check(sl_cuda_backend_open(&options, &be));
    check(sl_tier_open_cpu((size_t)3 << 30, &cpu));
    const sl_pinned_from from = {cpu, be, be->ops->device, NULL};
    check(be->ops->device->take(be, 2 * (size_t)ROUND_BYTES, "copies", &device));
    check(sl_pinned_take(&from, 2 * (size_t)ROUND_BYTES, "copies", &host));
    memset(host, 1, 2 * (size_t)ROUND_BYTES);
    printf("copy     h2d GB/s  d2h GB/s  both GB/s\n");
    for (size_t piece = 64 << 10; piece <= (size_t)64 << 20; piece *= 4)
        printf("%5zu K  %8.1f  %8.1f  %9.1f\n", piece >> 10,
               copy_rate(be, device, host, piece, 1, 0) * 1e-9,
               copy_rate(be, device, host, piece, 0, 1) * 1e-9,
               copy_rate(be, device, host, piece, 1, 1) * 1e-9);
    if (argc > 1) {
        sl_disk *disk = NULL;
        check(sl_disk_open_scratch(argv[1], DISK_PARTS * (size_t)DISK_BYTES, &disk));
        const double write = disk_rate(disk, host, 1), read = disk_rate(disk, host, 0);
        printf("disk     read %.2f GB/s, write %.2f GB/s (%s)\n", read * 1e-9, write * 1e-9,
               sl_disk_engine(disk));
        sl_disk_close(disk);
    }
    sl_pinned_put(&from, host);
    sl_tier_close(cpu);
    be->ops->device->put(be, device);
    sl_backend_close(be);
    return 0;
}
