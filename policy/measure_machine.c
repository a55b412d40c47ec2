#include "measure_machine.h"

#include <string.h>

#include "measure_attend.h"
#include "measure_beside.h"
#include "measure_disk.h"
#include "measure_dram.h"
#include "measure_engine.h"
#include "measure_gemm.h"
#include "measure_host.h"
#include "measure_links.h"
#include "measure_wire.h"

typedef struct {
    const char *what;
    double share; /* of the time, about */
    sl_status (*measure)(sl_measure *m, sl_profile *profile);
} part;

static const part parts[] = {
    {"copies to and from the device", 2, sl_measure_links},
    {"host memory", 1, sl_measure_dram},
    {"attention on the host", 4, sl_measure_host},
    {"matrix products", 8, sl_measure_gemm},
    {"attention", 5, sl_measure_attend},
    {"computing beside copies", 1, sl_measure_beside},
    {"the engine", 1, sl_measure_engine},
    {"the wire", 1, sl_measure_wire},
    {"the disk", 4, sl_measure_disk},
    /* Last: they may be left out where the time is over. */
    {"products with small matrices", 5, sl_measure_gemm_small},
    {"products with large matrices", 5, sl_measure_gemm_large},
};
enum { N_PARTS = sizeof parts / sizeof parts[0] };

static sl_status agree(const sl_measure *m, sl_status mine) {
    return m->opt->transport->ops->agree(m->opt->transport, mine);
}

sl_status sl_measure_machine(const sl_measure_options *options, sl_profile *out,
                             char disk_engine_out[SL_MEASURE_TEXT]) {
    sl_measure m = {0};
    sl_profile profile = {0};
    double all = 0.0, done = 0.0;
    if (!options || !options->transport)
        return SL_FAIL(SL_ERR_ARG, "measuring without options or a transport");
    sl_status st = sl_measure_open(options, &m);
    SL_GO(options->transport->ops->agree(options->transport, st));
    for (int i = 0; i < N_PARTS; i++) all += parts[i].share;
    for (int i = 0; i < N_PARTS; i++) {
        sl_measure_part(&m, parts[i].what, done / all, (done + parts[i].share) / all);
        SL_GO(agree(&m, parts[i].measure(&m, &profile)));
        done += parts[i].share;
    }
    sl_measure_point(&m, 1, 1);
    profile.n_threads = options->n_threads;
    *out = profile;
    if (disk_engine_out) memcpy(disk_engine_out, m.disk_engine, SL_MEASURE_TEXT);

fail:
    if (m.be) sl_measure_close(&m);
    return st;
}
