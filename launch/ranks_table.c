#include "ranks_table.h"

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "cores.h"
#include "host.h"

/* Plain bytes that travel between ranks. */
typedef struct {
    char host[64], device[112], processors[48];
    int n_threads, first_layer, last_layer;
    size_t weights[SL_TIER_COUNT], budget[SL_TIER_COUNT];
} table_row;

static table_row make_row(const sl_setup *setup) {
    table_row row;
    sl_engine_stats s;
    uint8_t mask[SL_HOST_MASK_BYTES];
    memset(&row, 0, sizeof row);
    sl_engine_get_stats(setup->engine, &s);
    snprintf(row.host, sizeof row.host, "%.63s", setup->launch->info.host);
    snprintf(row.device, sizeof row.device, "%.111s",
             setup->device_name[0] ? setup->device_name : setup->backend_name);
    sl_host_processors(0, mask);
    sl_cores_format(mask, row.processors, sizeof row.processors);
    row.n_threads = setup->n_threads;
    row.first_layer = s.first_layer;
    row.last_layer = s.last_layer;
    memcpy(row.weights, s.weight_bytes, sizeof row.weights);
    row.budget[SL_TIER_GPU] = s.gpu_budget_bytes;
    row.budget[SL_TIER_CPU] = s.cpu_budget_bytes;
    row.budget[SL_TIER_DISK] = s.disk_budget_bytes;
    return row;
}

/* "1.50 of 16.00 GiB", "-" where there is no such memory. */
static const char *format_tier(const table_row *row, int tier, char *buf, size_t room) {
    char used[32], budget[32];
    if (row->budget[tier] == 0) return "-";
    snprintf(buf, room, "%s of %s", sl_bytes_format(row->weights[tier], used, sizeof used),
             sl_bytes_format(row->budget[tier], budget, sizeof budget));
    return buf;
}

static int widest(const table_row *rows, int n, size_t offset) {
    size_t most = 0;
    for (int i = 0; i < n; i++) {
        const size_t length = strlen((const char *)&rows[i] + offset);
        if (length > most) most = length;
    }
    return (int)most;
}

static void write_rows(const table_row *rows, int n, FILE *stream) {
    int host = widest(rows, n, offsetof(table_row, host));
    int device = widest(rows, n, offsetof(table_row, device));
    int cores = widest(rows, n, offsetof(table_row, processors));
    if (host < 4) host = 4;
    if (device < 11) device = 11;
    if (cores < 10) cores = 10;
    fprintf(stream, "  rank  %-*s  %-*s  %-*s  threads  layers   %-24s  %-24s  %s\n", host, "host",
            device, "computes on", cores, "processors", "gpu: weights of budget", "cpu", "disk");
    for (int i = 0; i < n; i++) {
        char layers[32], tier[SL_TIER_COUNT][72];
        const table_row *r = &rows[i];
        snprintf(layers, sizeof layers, "%d-%d", r->first_layer, r->last_layer - 1);
        fprintf(stream, "  %4d  %-*s  %-*s  %-*s  %7d  %-7s  %-24s  %-24s  %s\n", i, host, r->host,
                device, r->device, cores, r->processors, r->n_threads, layers,
                format_tier(r, SL_TIER_GPU, tier[SL_TIER_GPU], sizeof tier[0]),
                format_tier(r, SL_TIER_CPU, tier[SL_TIER_CPU], sizeof tier[0]),
                format_tier(r, SL_TIER_DISK, tier[SL_TIER_DISK], sizeof tier[0]));
    }
}

sl_status sl_ranks_table_print(const sl_setup *setup, FILE *stream) {
    sl_transport *t = setup->transport;
    const table_row mine = make_row(setup);
    sl_status st = SL_OK;
    table_row *rows = calloc((size_t)t->n_ranks, sizeof *rows);
    if (!rows) st = SL_FAIL(SL_ERR_NOMEM, "table of %d ranks: out of host memory", t->n_ranks);
    SL_GO(sl_setup_agree(setup, st));
    SL_GO(t->ops->gather(t, &mine, sizeof mine, rows));
    if (sl_transport_is_first(t)) write_rows(rows, t->n_ranks, stream);
fail:
    free(rows);
    return st;
}
