#include "engine/sweep.h"

#include <stdlib.h>

#include "base/bytes.h"

enum { VISITS_AHEAD = 2, DEEPEST_LAG = 2, MAX_PLACES = 2 + VISITS_AHEAD + DEEPEST_LAG };

/* ---- the list ---- */

static sl_status reserve(sl_sweep *s, size_t n) {
    if (n <= (size_t)s->capacity) return SL_OK;
    size_t bytes;
    SL_TRY(sl_size_mul(n, sizeof *s->task, &bytes));
    sl_task *task = realloc(s->task, bytes);
    if (!task) return SL_FAIL(SL_ERR_NOMEM, "out of host memory for a sweep of %zu tasks", n);
    s->task = task;
    s->capacity = (int)n;
    return SL_OK;
}

static int add(sl_sweep *s, sl_task_kind kind, sl_queue queue, int layer, int mb) {
    sl_task *t = &s->task[s->n_tasks];
    *t = (sl_task){.kind = kind, .queue = queue, .layer = layer, .micro_batch = mb, .place = -1};
    return s->n_tasks++;
}

/* Makes `task` wait for `dep`; -1 is nothing. */
static void after(sl_sweep *s, int task, int dep) {
    sl_task *t = &s->task[task];
    for (int d = 0; d < t->n_deps; d++)
        if (t->dep[d] == dep) return;
    if (dep >= 0) t->dep[t->n_deps++] = dep;
}

/* ---- rings of weights ---- */

/* One ring: the layers of the slice that pass through it, in cyclic order. */
typedef struct {
    const unsigned char *passes; /* [layers of the slice], NULL: none */
    int first_layer, last_layer;
    int n;                         /* layers that pass through */
    int n_added;                   /* of which loads have been added, those ahead included */
    int load[SL_SWEEP_RING];       /* last task of the loads added last, by place */
    int free_after[SL_SWEEP_RING]; /* task after which the place is free; -1: at once */
    sl_task_kind kind;             /* of a load */
    sl_queue queue;
} ring;

static ring make_ring(const sl_sweep_shape *shape, const unsigned char *passes, sl_task_kind kind,
                      sl_queue queue) {
    ring r = {.passes = passes,
              .first_layer = shape->first_layer,
              .last_layer = shape->last_layer,
              .kind = kind,
              .queue = queue};
    for (int l = 0; passes && l < shape->last_layer - shape->first_layer; l++) r.n += passes[l];
    for (int i = 0; i < SL_SWEEP_RING; i++) r.load[i] = r.free_after[i] = -1;
    return r;
}

static int passes_through(const ring *r, int layer) {
    return r->passes && r->passes[layer - r->first_layer];
}

/* The `index`th layer that passes through the ring. */
static int nth_layer(const ring *r, int index) {
    int layer = r->first_layer;
    while (!passes_through(r, layer) || index-- > 0) layer++;
    return layer;
}

/* Layers before this one that pass through the ring. */
static int index_of(const ring *r, int layer) {
    int n = 0;
    for (int l = r->first_layer; l < layer; l++) n += passes_through(r, l);
    return n;
}

/* Whether the next load may be added: within this sweep, or ahead for the next one; layers that all
 * fit in the ring are loaded once and stay. */
static int has_next(const ring *r) {
    const int end = r->n > SL_SWEEP_RING ? r->n + SL_SWEEP_RING : r->n;
    return r->n_added < end;
}

/* Layer of the next load; -1 if there is none. */
static int next_layer(const ring *r) {
    return has_next(r) ? nth_layer(r, r->n_added % r->n) : -1;
}

/* ---- the sweep being made ---- */

typedef struct {
    sl_sweep *s;
    const sl_sweep_shape *shape;
    int k, n_layers, lag, ahead;
    ring host, device;
    int layer_last; /* latest computation of the layer that is being left */
    int loading;    /* parts of the next load that have been added; -1: no load is due */
    int fetch;      /* of the load being added, -1: none */
    int n_visits;   /* places given out so far */
    int place_after[MAX_PLACES][3]; /* last tasks that use a place: compute, store, write */
    int *done;                      /* [k] last task of each micro-batch's layer before */
    int *stored;                    /* [k] VISIT_STORE of the layer before; -1: none */
    int *written;
    int *visit_place, *visit_load,
        *visit_fetch; /* [n_items ring of k + ahead] of visits under way */
} maker;

int sl_sweep_lag(int n_micro_batches, int attends_on_host, int hidden_travels) {
    const int most = n_micro_batches - 1 - (hidden_travels ? 1 : 0);
    if (!attends_on_host || most <= 0) return 0;
    return most < DEEPEST_LAG ? most : DEEPEST_LAG;
}

/* Hidden states cannot be uploaded before the layer before has stored them. */
static int visits_ahead(int k, int lag, int hidden_travels) {
    if (!hidden_travels) return VISITS_AHEAD;
    const int most = k - 1 - lag;
    return most < 0 ? 0 : most < VISITS_AHEAD ? most : VISITS_AHEAD;
}

int sl_sweep_places(int n_micro_batches, int attends_on_host, int hidden_travels) {
    const int lag = sl_sweep_lag(n_micro_batches, attends_on_host, hidden_travels);
    return lag + 1 + visits_ahead(n_micro_batches, lag, hidden_travels);
}

static int visit_bits(const maker *m, int mb) {
    int bits = m->shape->visit ? m->shape->visit[mb] : 0;
    if (m->shape->hidden_travels) bits |= SL_VISIT_UPLOAD | SL_VISIT_STORE;
    return bits;
}

static ring *computed_ring(maker *m) {
    return m->shape->has_device ? &m->device : &m->host;
}

/* Adds part `part` of the next load of the computing ring, with the fetch from disk that the first
 * part waits for; the last upload frees the fetch's place. */
static void add_load(maker *m, int part, int n_parts) {
    sl_sweep *s = m->s;
    ring *r = computed_ring(m);
    const int place = r->n_added % SL_SWEEP_RING, layer = next_layer(r);
    const int host_place = m->host.n_added % SL_SWEEP_RING;
    if (part == 0) {
        m->fetch = -1;
        if (has_next(&m->host) && next_layer(&m->host) == layer) {
            m->fetch = add(s, m->host.kind, m->host.queue, layer, -1);
            after(s, m->fetch, m->host.free_after[host_place]);
            m->host.load[host_place] = m->fetch;
            m->host.n_added++;
        }
    }
    if (!m->shape->has_device) return;
    const int task = add(s, r->kind, r->queue, layer, -1);
    s->task[task].part = part;
    s->task[task].n_parts = n_parts;
    after(s, task, r->free_after[place]);
    after(s, task, m->fetch);
    r->load[place] = task;
    if (part < n_parts - 1) return;
    r->n_added++;
    if (m->fetch >= 0) m->host.free_after[(m->host.n_added - 1) % SL_SWEEP_RING] = task;
}

/* The layer's last micro-batch is computed: its place in the ring is free. */
static void end_layer(maker *m, int layer, int last) {
    ring *r = computed_ring(m);
    if (!passes_through(r, layer)) return;
    r->free_after[index_of(r, layer) % SL_SWEEP_RING] = last;
    m->loading = has_next(r) ? 0 : -1;
}

/* Adds a part of the load that is due, so that a layer's weights come between the visits of the
 * layer before; `all`: what is left of it. */
static void spread_load(maker *m, int all) {
    const int n_parts = m->shape->has_device ? m->k - m->lag : 1;
    while (m->loading >= 0) {
        add_load(m, m->loading, n_parts);
        if (++m->loading == n_parts) m->loading = -1;
        if (!all) return;
    }
}

/* ---- visits ---- */

/* Takes the next place for a task that fills it. */
static int take_place(maker *m, int task) {
    const int place = m->n_visits++ % m->shape->n_places;
    for (int i = 0; i < 3; i++) after(m->s, task, m->place_after[place][i]);
    return place;
}

static void leave_place(maker *m, int place, int compute, int store, int write) {
    m->place_after[place][0] = compute;
    m->place_after[place][1] = store;
    m->place_after[place][2] = write;
}

static int slot_of(const maker *m, int item) {
    return item % (m->k + m->ahead);
}

/* What item `item` (layer by layer, micro-batch by micro-batch) needs before it is computed. */
static void add_visit(maker *m, int item) {
    if (item >= m->n_layers * m->k) return;
    sl_sweep *s = m->s;
    const int mb = item % m->k, layer = m->shape->first_layer + item / m->k;
    const int bits = visit_bits(m, mb), at = slot_of(m, item);
    m->visit_place[at] = m->visit_load[at] = m->visit_fetch[at] = -1;
    if (!(bits & ~SL_VISIT_HOST)) return;
    int fetch = -1, load = -1, place = -1;
    if (bits & SL_VISIT_FETCH) {
        fetch = add(s, SL_TASK_VISIT_FETCH, SL_QUEUE_DISK_READ, layer, mb);
        place = take_place(m, fetch);
        if (m->shape->hidden_travels) after(s, fetch, m->written[mb]);
        if (m->shape->hidden_travels) after(s, fetch, m->stored[mb]);
        s->task[fetch].place = place;
    }
    if (bits & SL_VISIT_UPLOAD) {
        load = add(s, SL_TASK_VISIT_UPLOAD, SL_QUEUE_H2D, layer, mb);
        if (place < 0) place = take_place(m, load);
        after(s, load, fetch);
        if (m->shape->hidden_travels) after(s, load, m->stored[mb]);
        s->task[load].place = place;
    }
    m->visit_place[at] = place;
    m->visit_fetch[at] = fetch;
    m->visit_load[at] = load;
}

/* What goes back once `done` (computation) and `attended` (on the host, or -1) are over. */
static void end_visit(maker *m, int layer, int mb, int place, int done, int attended) {
    sl_sweep *s = m->s;
    const int bits = visit_bits(m, mb);
    int store = -1, write = -1;
    if (bits & SL_VISIT_STORE) {
        store = add(s, SL_TASK_VISIT_STORE, SL_QUEUE_D2H, layer, mb);
        s->task[store].place = place;
        after(s, store, done);
    }
    if (bits & SL_VISIT_WRITE) {
        write = add(s, SL_TASK_VISIT_WRITE, SL_QUEUE_DISK_WRITE, layer, mb);
        s->task[write].place = place;
        after(s, write, store >= 0 ? store : done);
        after(s, write, attended);
    }
    m->stored[mb] = store;
    m->written[mb] = write;
    if (place >= 0) leave_place(m, place, done, store, write);
}

/* ---- layers ---- */

/* Last layer: a hand-off follows each micro-batch at once. */
static void hand_off(maker *m, int mb, int done, int place) {
    sl_sweep *s = m->s;
    if (m->shape->is_last_rank) {
        const int head = add(s, SL_TASK_HEAD, SL_QUEUE_COMPUTE, -1, mb);
        s->task[head].place = place;
        after(s, head, done);
        if (place >= 0) m->place_after[place][0] = head;
        return;
    }
    if (!m->shape->is_direct && (m->shape->has_device || m->shape->hidden_travels)) {
        const int lower = add(s, SL_TASK_LOWER, SL_QUEUE_D2H, -1, mb);
        s->task[lower].place = place;
        after(s, lower, done);
        if (place >= 0) m->place_after[place][0] = lower;
        done = lower;
    }
    after(s, add(s, SL_TASK_SEND, SL_QUEUE_WIRE_OUT, -1, mb), done);
}

/* The micro-batch has left the layer with task `done`. */
static void leave_layer(maker *m, int item, int done, int attended) {
    const int mb = item % m->k, layer = m->shape->first_layer + item / m->k;
    const int place = m->visit_place[slot_of(m, item)];
    m->done[mb] = done;
    if (mb == 0 || done > m->layer_last) m->layer_last = done;
    end_visit(m, layer, mb, place, done, attended);
    if (layer == m->shape->last_layer - 1) hand_off(m, mb, done, place);
    if (mb == m->k - 1) end_layer(m, layer, m->layer_last);
}

/* An item that has been computed up to where it waits for the host. */
typedef struct {
    int task;           /* LAYER or BEFORE */
    int answer, attend; /* -1: the item does not attend on the host */
} pending;

static pending ask_host(maker *m, int item, int before) {
    sl_sweep *s = m->s;
    const int mb = item % m->k, layer = m->shape->first_layer + item / m->k;
    const int ask = add(s, SL_TASK_ASK, SL_QUEUE_ASK, layer, mb);
    after(s, ask, before);
    const int attend = add(s, SL_TASK_ATTEND, SL_QUEUE_ATTEND, layer, mb);
    after(s, attend, ask);
    after(s, attend, m->visit_fetch[slot_of(m, item)]);
    s->task[attend].place = m->visit_place[slot_of(m, item)];
    const int answer = add(s, SL_TASK_ANSWER, SL_QUEUE_ANSWER, layer, mb);
    after(s, answer, attend);
    return (pending){before, answer, attend};
}

/* All items leave their layer in order, `lag` items after they were begun. */
static void finish_item(maker *m, int item, const pending *p) {
    const int mb = item % m->k, layer = m->shape->first_layer + item / m->k;
    int task = p->task;
    if (p->answer >= 0) {
        task = add(m->s, SL_TASK_AFTER, SL_QUEUE_COMPUTE, layer, mb);
        m->s->task[task].place = m->visit_place[slot_of(m, item)];
        after(m->s, task, p->answer);
    }
    leave_layer(m, item, task, p->attend);
}

static pending compute_item(maker *m, int item) {
    sl_sweep *s = m->s;
    const int mb = item % m->k, layer = m->shape->first_layer + item / m->k, at = slot_of(m, item);
    const int on_host = (visit_bits(m, mb) & SL_VISIT_HOST) != 0;
    const ring *r = computed_ring(m);
    const int task = add(s, on_host ? SL_TASK_BEFORE : SL_TASK_LAYER, SL_QUEUE_COMPUTE, layer, mb);
    s->task[task].place = m->visit_place[at];
    after(s, task, m->done[mb]);
    if (passes_through(r, layer)) after(s, task, r->load[index_of(r, layer) % SL_SWEEP_RING]);
    after(s, task, m->visit_load[at] >= 0 ? m->visit_load[at] : on_host ? -1 : m->visit_fetch[at]);
    return on_host ? ask_host(m, item, task) : (pending){task, -1, -1};
}

static void begin(maker *m) {
    sl_sweep *s = m->s;
    const int travels = m->shape->hidden_travels;
    for (int i = 0; i < SL_SWEEP_RING; i++) {
        if (!has_next(computed_ring(m))) break;
        add_load(m, 0, 1);
    }
    for (int mb = 0; mb < m->k; mb++) {
        m->stored[mb] = m->written[mb] = -1;
        if (!m->shape->is_first_rank) {
            m->done[mb] = add(s, SL_TASK_RECEIVE, SL_QUEUE_WIRE_IN, -1, mb);
            continue;
        }
        const int embed = add(s, SL_TASK_EMBED, SL_QUEUE_COMPUTE, -1, mb);
        m->done[mb] = embed;
        if (!travels) continue;
        const int place = take_place(m, embed);
        s->task[embed].place = place;
        end_visit(m, -1, mb, place, embed, -1);
    }
}

static sl_status make(maker *m) {
    const int n_items = m->n_layers * m->k;
    pending waiting[DEEPEST_LAG + 1];
    begin(m);
    for (int i = 0; i < m->ahead; i++) add_visit(m, i);
    for (int i = 0; i < n_items; i++) {
        add_visit(m, i + m->ahead);
        waiting[i % (m->lag + 1)] = compute_item(m, i);
        if (i >= m->lag) finish_item(m, i - m->lag, &waiting[(i - m->lag) % (m->lag + 1)]);
        if (i % m->k >= m->lag) spread_load(m, 0);
    }
    for (int i = n_items - m->lag; i < n_items; i++) finish_item(m, i, &waiting[i % (m->lag + 1)]);
    spread_load(m, 1);
    return SL_OK;
}

sl_status sl_sweep_make(const sl_sweep_shape *shape, sl_sweep *s) {
    const int k = shape->n_micro_batches;
    const int n_layers = shape->last_layer - shape->first_layer;
    if (n_layers < 1 || k < 1)
        return SL_FAIL(SL_ERR_ARG, "sweep of %d layers over %d micro-batches", n_layers, k);
    int on_host = 0, bits = 0;
    for (int mb = 0; shape->visit && mb < k; mb++) bits |= shape->visit[mb];
    on_host = (bits & SL_VISIT_HOST) != 0;
    const int visits = (bits & ~SL_VISIT_HOST) || shape->hidden_travels;
    const int lag = sl_sweep_lag(k, on_host, shape->hidden_travels);
    int ahead = visits_ahead(k, lag, shape->hidden_travels);
    if (visits && (shape->n_places < lag + 1 || shape->n_places > MAX_PLACES))
        return SL_FAIL(SL_ERR_ARG, "sweep with %d places for visits, expected %d to %d",
                       shape->n_places, lag + 1, (int)MAX_PLACES);
    if (visits && ahead > shape->n_places - lag - 1) ahead = shape->n_places - lag - 1;
    if (!visits) ahead = 0;
    /* Per item at most ten tasks; per layer K parts of a load and a fetch. */
    SL_TRY(reserve(s, 10 * (size_t)k * ((size_t)n_layers + 1) +
                          ((size_t)n_layers + SL_SWEEP_RING) * ((size_t)k + 1)));
    s->n_tasks = 0;
    int *scratch = calloc((size_t)(3 * k + 3 * (k + ahead)), sizeof *scratch);
    if (!scratch) return SL_FAIL(SL_ERR_NOMEM, "out of host memory for a sweep");
    maker m = {.s = s,
               .shape = shape,
               .k = k,
               .n_layers = n_layers,
               .lag = lag,
               .ahead = ahead,
               .host = make_ring(shape, shape->is_fetched, SL_TASK_FETCH, SL_QUEUE_DISK_READ),
               .device = make_ring(shape, shape->is_uploaded, SL_TASK_UPLOAD, SL_QUEUE_H2D),
               .loading = -1,
               .fetch = -1,
               .done = scratch,
               .stored = scratch + k,
               .written = scratch + 2 * k,
               .visit_place = scratch + 3 * k,
               .visit_load = scratch + 3 * k + (k + ahead),
               .visit_fetch = scratch + 3 * k + 2 * (k + ahead)};
    for (int p = 0; p < MAX_PLACES; p++)
        for (int i = 0; i < 3; i++) m.place_after[p][i] = -1;
    const sl_status st = make(&m);
    free(scratch);
    return st;
}

void sl_sweep_free(sl_sweep *s) {
    free(s->task);
    *s = (sl_sweep){0};
}
