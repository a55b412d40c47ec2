/* The report's part of a setup: what all ranks add to it, and the files that it goes to. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "job/report_html.h"
#include "setup.h"

/* ---- what links were measured to give ---- */

/* The rate of large copies. */
static double most_of(const sl_curve *curve) {
    return curve->n > 0 ? curve->y[curve->n - 1] : 0;
}

static sl_report_links links_of(const sl_setup *setup) {
    enum { TYPICAL_TOKENS = 512 };
    const sl_profile *p = &setup->profile;
    sl_report_links links = {{0}};
    if (!setup->has_profile) return links;
    const int format = sl_profile_format(sl_engine_policy(setup->engine)->cache_dtype);
    links.bps[SL_QUEUE_H2D] = most_of(&p->h2d_bps);
    links.bps[SL_QUEUE_D2H] = most_of(&p->d2h_bps);
    links.bps[SL_QUEUE_DISK_READ] = most_of(&p->disk_read_bps);
    links.bps[SL_QUEUE_DISK_WRITE] = most_of(&p->disk_write_bps);
    links.bps[SL_QUEUE_ATTEND] = sl_curve_at(&p->host_attend_bps[format], TYPICAL_TOKENS);
    links.bps[SL_QUEUE_WIRE_OUT] = p->wire_bps;
    return links;
}

/* Collective. */
static sl_status gather_links(sl_setup *setup) {
    sl_transport *wire = setup->transport;
    const int is_first = sl_transport_is_first(wire);
    const sl_report_links mine = links_of(setup);
    sl_status st = SL_OK;
    if (is_first && !setup->links) {
        setup->links = calloc((size_t)wire->n_ranks, sizeof *setup->links);
        if (!setup->links) st = SL_FAIL(SL_ERR_NOMEM, "report: out of host memory");
    }
    SL_TRY(sl_setup_agree(setup, st));
    SL_TRY(wire->ops->gather(wire, &mine, sizeof mine, setup->links));
    for (int r = 1; is_first && r < wire->n_ranks; r++)
        setup->links[r].bps[SL_QUEUE_WIRE_IN] = setup->links[r - 1].bps[SL_QUEUE_WIRE_OUT];
    return SL_OK;
}

/* ---- the report ---- */

sl_status sl_setup_report(sl_setup *setup, sl_report *report, sl_engine_stats **ranks_out) {
    sl_engine_stats *ranks = NULL;
    sl_status st;
    SL_TRY(sl_report_gather(setup->engine, setup->transport, &ranks));
    SL_GO(gather_links(setup));
    if (setup->timeline && !setup->timelines)
        SL_GO(sl_timeline_gather(setup->timeline, &setup->timelines));
    report->model = setup->options->model;
    report->backend = setup->backend_name;
    report->transport = setup->transport->ops->name;
    report->n_threads = setup->n_threads;
    report->policy = sl_engine_policy(setup->engine);
    report->open_s = setup->open_s;
    report->n_ranks = setup->transport->n_ranks;
    report->ranks = ranks;
    report->plan = setup->predicted.is_there ? &setup->predicted : NULL;
    report->links = setup->has_profile ? setup->links : NULL;
    report->timeline = setup->timelines;
    report->zero_s =
        setup->timeline ? sl_timeline_zero_s(setup->timeline) : report->pace.history.axis.start_s;
    *ranks_out = ranks;
    return SL_OK;

fail:
    free(ranks);
    return st;
}

/* ---- files ---- */

static sl_status write_metrics(const sl_report *report, const char *path) {
    sl_json_text text = {0};
    FILE *file = NULL;
    sl_status st = SL_OK;
    sl_report whole = *report;
    whole.has_series = 1;
    SL_GO(sl_report_json(&whole, &text));
    sl_json_raw(&text, "\n");
    SL_GO(sl_json_status(&text));
    file = fopen(path, "w");
    if (!file || fwrite(text.data, 1, text.n_bytes, file) != text.n_bytes || fflush(file) != 0)
        st = SL_FAIL(SL_ERR_IO, "write metrics to %s: %s", path, strerror(errno));

fail:
    if (file) fclose(file);
    sl_json_free(&text);
    return st;
}

sl_status sl_setup_write_report(const sl_setup *setup, const sl_report *report) {
    const sl_setup_options *o = setup->options;
    if (o->metrics_path) SL_TRY(write_metrics(report, o->metrics_path));
    return o->report_path ? sl_report_html_write(report, o->report_path) : SL_OK;
}
