#include "sim/sim_machine.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef enum { ITEM_WORK, ITEM_MARK, ITEM_WAIT } item_kind;

typedef struct {
    item_kind kind;
    sl_sim_load load; /* WORK; seconds: what is left */
    union {
        sl_sim_mark *mark;         /* MARK */
        const sl_sim_mark *wanted; /* WAIT */
    } at;
    uint64_t n_wanted; /* WAIT: times that the mark must have been reached */
} item;

/* Items [first, end), those before are done. */
typedef struct {
    item *item;
    size_t first, end, capacity;
} queue;

struct sl_sim_machine {
    sl_sim_rates rates;
    sl_sim_on_mark on_mark;
    void *user;
    double now_s, next_s;
    double since_s; /* when speeds changed last: what is left of work is as of then */
    queue queue[SL_SIM_QUEUE_COUNT];
    double speed[SL_SIM_QUEUE_COUNT]; /* of the work at its head, 1: alone; 0: none is running */
    double end_s[SL_SIM_QUEUE_COUNT]; /* of that work, at this speed */
};

sl_status sl_sim_machine_open(const sl_sim_rates *rates, sl_sim_on_mark on_mark, void *user,
                              sl_sim_machine **out) {
    sl_sim_machine *m = calloc(1, sizeof *m);
    if (!m) return SL_FAIL(SL_ERR_NOMEM, "simulated machine: out of host memory");
    m->rates = *rates;
    m->on_mark = on_mark;
    m->user = user;
    m->next_s = INFINITY;
    *out = m;
    return SL_OK;
}

void sl_sim_machine_close(sl_sim_machine *m) {
    if (!m) return;
    for (int q = 0; q < SL_SIM_QUEUE_COUNT; q++) free(m->queue[q].item);
    free(m);
}

const sl_sim_rates *sl_sim_machine_rates(const sl_sim_machine *m) {
    return &m->rates;
}

double sl_sim_machine_next_s(const sl_sim_machine *m) {
    return m->next_s;
}

/* ---- what runs, and how fast ---- */

static item *head_of(sl_sim_machine *m, int q) {
    queue *all = &m->queue[q];
    return all->first < all->end ? &all->item[all->first] : NULL;
}

/* Passes the marks at the queue's head, and waits that are over.  Returns whether a mark was
 * reached. */
static int pass_marks(sl_sim_machine *m, int q) {
    int reached = 0;
    for (item *i; (i = head_of(m, q)) && i->kind != ITEM_WORK; m->queue[q].first++) {
        if (i->kind == ITEM_WAIT) {
            if (i->at.wanted->n_reached < i->n_wanted) break;
            continue;
        }
        i->at.mark->n_reached++;
        i->at.mark->at_s = m->now_s;
        m->on_mark(m->user, i->at.mark);
        reached = 1;
    }
    return reached;
}

static void slow(sl_sim_machine *m, const unsigned char who[SL_SIM_QUEUE_COUNT], double factor) {
    for (int q = 0; q < SL_SIM_QUEUE_COUNT; q++)
        if (who[q]) m->speed[q] *= factor;
}

static void share_link(sl_sim_machine *m) {
    unsigned char h2d[SL_SIM_QUEUE_COUNT] = {0}, d2h[SL_SIM_QUEUE_COUNT] = {0},
                  both[SL_SIM_QUEUE_COUNT] = {0};
    int n_h2d = 0, n_d2h = 0;
    for (int q = 0; q < SL_SIM_QUEUE_COUNT; q++) {
        if (m->speed[q] == 0.0) continue;
        const sl_sim_load *l = &head_of(m, q)->load;
        n_h2d += h2d[q] = l->h2d_bps > 0.0;
        n_d2h += d2h[q] = l->d2h_bps > 0.0;
        both[q] = h2d[q] | d2h[q];
    }
    if (n_h2d > 0 && m->rates.compute_beside_h2d_frac > 0.0)
        m->speed[SL_STREAM_COMPUTE] *= m->rates.compute_beside_h2d_frac;
    if (n_h2d > 1) slow(m, h2d, 1.0 / n_h2d);
    if (n_d2h > 1) slow(m, d2h, 1.0 / n_d2h);
    if (n_h2d == 0 || n_d2h == 0 || m->rates.duplex_bps == 0.0) return;
    double sum = 0.0;
    for (int q = 0; q < SL_SIM_QUEUE_COUNT; q++)
        if (both[q])
            sum += m->speed[q] * (head_of(m, q)->load.h2d_bps + head_of(m, q)->load.d2h_bps);
    if (sum > m->rates.duplex_bps) slow(m, both, m->rates.duplex_bps / sum);
}

static void share_dram(sl_sim_machine *m) {
    unsigned char users[SL_SIM_QUEUE_COUNT] = {0};
    double sum = 0.0;
    int has_copies = 0;
    for (int q = 0; q < SL_SIM_QUEUE_COUNT; q++) {
        if (m->speed[q] == 0.0) continue;
        const sl_sim_load *l = &head_of(m, q)->load;
        users[q] = l->dram_bps > 0.0;
        sum += m->speed[q] * l->dram_bps;
        has_copies |= l->h2d_bps > 0.0 || l->d2h_bps > 0.0;
    }
    const double most = has_copies ? m->rates.dram_beside_h2d_bps : m->rates.dram_bps;
    if (most > 0.0 && sum > most) slow(m, users, most / sum);
}

/* Takes off what has been done since speeds changed last. */
static void take_stock(sl_sim_machine *m) {
    for (int q = 0; q < SL_SIM_QUEUE_COUNT; q++)
        if (m->speed[q] > 0.0) head_of(m, q)->load.seconds -= m->speed[q] * (m->now_s - m->since_s);
    m->since_s = m->now_s;
}

/* Brings speeds and ends up to date, after take_stock(). */
static void settle(sl_sim_machine *m) {
    for (int moved = 1; moved;) { /* a mark may free another queue's wait */
        moved = 0;
        for (int q = 0; q < SL_SIM_QUEUE_COUNT; q++) moved |= pass_marks(m, q);
    }
    for (int q = 0; q < SL_SIM_QUEUE_COUNT; q++) {
        const item *i = head_of(m, q);
        m->speed[q] = i && i->kind == ITEM_WORK ? 1.0 : 0.0;
    }
    share_link(m);
    share_dram(m);
    m->next_s = INFINITY;
    for (int q = 0; q < SL_SIM_QUEUE_COUNT; q++) {
        if (m->speed[q] == 0.0) continue;
        const double left_s = fmax(head_of(m, q)->load.seconds, 0.0) / m->speed[q];
        m->end_s[q] = m->now_s + left_s;
        m->next_s = fmin(m->next_s, m->end_s[q]);
    }
}

void sl_sim_machine_run(sl_sim_machine *m, double until_s) {
    while (m->next_s <= until_s) {
        m->now_s = m->next_s;
        take_stock(m);
        for (int q = 0; q < SL_SIM_QUEUE_COUNT; q++)
            if (m->speed[q] > 0.0 && m->end_s[q] <= m->now_s) m->queue[q].first++;
        settle(m);
    }
    m->now_s = fmax(m->now_s, until_s);
}

/* ---- putting in ---- */

static sl_status put(sl_sim_machine *m, int q, const item *what) {
    queue *all = &m->queue[q];
    const int was_idle = all->first == all->end;
    if (was_idle) all->first = all->end = 0;
    if (all->end == all->capacity && all->first >= all->capacity / 2 && all->first > 0) {
        memmove(all->item, all->item + all->first, (all->end - all->first) * sizeof *all->item);
        all->end -= all->first;
        all->first = 0;
    }
    if (all->end == all->capacity) {
        const size_t more = all->capacity ? 2 * all->capacity : 64;
        item *grown = realloc(all->item, more * sizeof *grown);
        if (!grown) return SL_FAIL(SL_ERR_NOMEM, "simulated machine: out of host memory");
        all->item = grown;
        all->capacity = more;
    }
    all->item[all->end++] = *what;
    if (!was_idle) return SL_OK;
    take_stock(m);
    settle(m);
    return SL_OK;
}

sl_status sl_sim_machine_work(sl_sim_machine *m, int q, const sl_sim_load *load) {
    const item what = {.kind = ITEM_WORK, .load = *load};
    if (!(load->seconds > 0.0)) return SL_OK;
    return put(m, q, &what);
}

sl_status sl_sim_machine_mark(sl_sim_machine *m, int q, sl_sim_mark *mark) {
    const item what = {.kind = ITEM_MARK, .at.mark = mark};
    mark->n_recorded++;
    const sl_status st = put(m, q, &what);
    if (st != SL_OK) mark->n_recorded--;
    return st;
}

sl_status sl_sim_machine_wait(sl_sim_machine *m, int q, const sl_sim_mark *mark) {
    const item what = {.kind = ITEM_WAIT, .at.wanted = mark, .n_wanted = mark->n_recorded};
    if (sl_sim_mark_is_reached(mark)) return SL_OK;
    return put(m, q, &what);
}
