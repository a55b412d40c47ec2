/* Pages that sequences take as they grow: who may begin, and who goes on.
 *
 * Sequences of different ages need less memory together than as many of the longest.  Two rules
 * keep that from ending badly.  One is about what is likely: nobody begins when all of them, each a
 * token further in every turn, would be short of pages at some time.  The other is about what is
 * certain: there is always an order in which all could finish, the first with the pages that are
 * free, each next one with those that the ones before it gave back (Dijkstra's banker).  A page
 * that would break it is not given; its sequence sits out a turn.
 */
#include <stdlib.h>

#include "engine/scheduler_impl.h"
#include "store/kv_cache.h"

int sl_scheduler_whole_pages(const sl_request *r) {
    return sl_kv_pages_for(r->ask.n_prompt + r->ask.max_tokens);
}

int sl_scheduler_first_pages(const sl_scheduler *s, const sl_request *r, int home) {
    return home == s->grows ? sl_kv_pages_for(r->ask.n_prompt) : sl_scheduler_whole_pages(r);
}

/* Free, or as good as free. */
static int spare_pages(const sl_scheduler *s) {
    const int idle = s->prefixes ? sl_prefix_n_idle(s->prefixes, s->grows) : 0;
    return s->n_free_pages[s->grows] + idle;
}

/* Tokens that the sequence will still generate, as far as others have told. */
static double tokens_left(const sl_scheduler *s, const sl_sequence *q) {
    const sl_job_mix *m = &s->mix;
    const double part = (m->ended_tokens + 1.0) / (m->ended_most + 1.0);
    const double most = q->request->ask.max_tokens;
    const double mean = part * most - q->n_tokens, least = 0.5 * part * (most - q->n_tokens);
    return mean > least ? mean : least;
}

static sl_page_need need_of(const sl_scheduler *s, const sl_sequence *q) {
    return (sl_page_need){.missing = sl_scheduler_whole_pages(q->request) - q->n_held,
                          .sure = q->n_reserved,
                          .own = q->n_reserved + q->n_own_nodes,
                          .left = tokens_left(s, q) / SL_PAGE_TOKENS};
}

/* Those that run, in s->need. */
static int collect(sl_scheduler *s, long *missing_out) {
    int n = 0;
    *missing_out = 0;
    for (int i = 0; i < s->opt.n_block_slots * s->seats; i++) {
        const sl_sequence *q = s->seat[i];
        if (!q || sl_scheduler_home(s, i) != s->grows) continue;
        s->need[n] = need_of(s, q);
        *missing_out += s->need[n++].missing;
    }
    return n;
}

static int by_missing(const void *a, const void *b) {
    return ((const sl_page_need *)a)->missing - ((const sl_page_need *)b)->missing;
}

static int by_left(const void *a, const void *b) {
    const double x = ((const sl_page_need *)a)->left, y = ((const sl_page_need *)b)->left;
    return x < y ? -1 : x > y;
}

static int is_safe(sl_scheduler *s, int n, long spare) {
    qsort(s->need, (size_t)n, sizeof *s->need, by_missing);
    for (int i = 0; i < n; i++) {
        if (s->need[i].missing > spare) return 0;
        spare += s->need[i].sure;
    }
    return 1;
}

/* Whether all fit until the last one ends: the most is taken just before one of them does. */
static int fits_to_the_end(sl_scheduler *s, int n, long spare) {
    double own = 0;
    qsort(s->need, (size_t)n, sizeof *s->need, by_left);
    for (int i = 0; i < n; i++) own += s->need[i].own;
    const double room = (double)spare + own;
    for (int i = 0; i < n; i++) {
        if (own + (n - i) * s->need[i].left > room) return 0;
        own -= s->need[i].own;
    }
    return 1;
}

/* Sequences like this one that fit when their ages are spread evenly, and when all are at their
 * end; the tokens that they generate. */
static void steady_state(const sl_scheduler *s, const sl_sequence *q, int n_shared,
                         double *spread_out, double *together_out, double *tokens_out) {
    const double pages = s->opt.n_pages[s->grows], tokens = tokens_left(s, q);
    const double first =
        sl_scheduler_first_pages(s, q->request, s->grows) - n_shared + 0.5; /* of the last page */
    const double spread = pages / (first + 0.5 * tokens / SL_PAGE_TOKENS);
    *together_out = pages / (first + tokens / SL_PAGE_TOKENS);
    *spread_out = spread < s->n_growing_seats ? spread : s->n_growing_seats;
    *tokens_out = tokens;
}

/* Those that begin together end together, and then as few fit as if nobody grew: where many more
 * wait, one begins after the other, as fast as they will end. */
static int is_its_turn(sl_scheduler *s, const sl_sequence *q, int n_shared) {
    static const double worth = 1.15, rounds = 2, last_rounds = 0.5;
    double spread, together, tokens;
    steady_state(s, q, n_shared, &spread, &together, &tokens);
    const int many = (int)((s->begin_rate > 0 ? last_rounds : rounds) * spread);
    if (tokens < 1 || spread < worth * together || sl_scheduler_n_waiting(s, many) < many) {
        s->begin_rate = 0;
        return 1;
    }
    s->begin_rate = spread / tokens;
    return s->begin_credit >= 1;
}

int sl_scheduler_may_begin(sl_scheduler *s, const sl_sequence *q, int n_shared, int n_idle) {
    const int first = sl_scheduler_first_pages(s, q->request, s->grows) - n_shared;
    const int whole = sl_scheduler_whole_pages(q->request) - n_shared;
    const long spare = (long)spare_pages(s) - n_idle - first;
    long missing;
    if (spare < 0) return 0;
    int n = collect(s, &missing);
    const int is_its = is_its_turn(s, q, n_shared);
    if (n == 0) return spare >= whole - first;
    if (!is_its) return 0;
    if (spare >= missing + whole - first) return 1;
    /* Nothing of it is sure: all of its pages may go to the tree. */
    s->need[n++] = (sl_page_need){
        .missing = whole - first, .own = first, .left = tokens_left(s, q) / SL_PAGE_TOKENS};
    return is_safe(s, n, spare) && fits_to_the_end(s, n, spare);
}

/* Its next row begins a page that it does not hold. */
static int wants_page(const sl_scheduler *s, const sl_sequence *q) {
    return q && q->state == SL_SEQ_RUNNING && sl_scheduler_home(s, q->slot) == s->grows &&
           q->n_sent >= sl_request_prompt_rows(q->request) &&
           sl_kv_pages_for(q->n_sent + 1) > q->n_held;
}

/* Whether all can still finish when n pages are given away that are counted already. */
static int can_give(sl_scheduler *s, int n) {
    const long spare = (long)spare_pages(s) - n;
    long missing;
    if (spare < 0) return 0;
    const int n_needs = collect(s, &missing);
    return spare >= missing || is_safe(s, n_needs, spare);
}

static int by_age(const void *a, const void *b) {
    const uint64_t x = (*(sl_sequence *const *)a)->admission,
                   y = (*(sl_sequence *const *)b)->admission;
    return x < y ? -1 : x > y;
}

/* In the books: a page more, or one less again. */
static void count_page(sl_sequence *q, int n) {
    q->n_held += n;
    q->n_reserved += n;
}

void sl_scheduler_note_begun(sl_scheduler *s, int home) {
    if (home == s->grows && s->begin_credit >= 1) s->begin_credit--;
}

sl_status sl_scheduler_grow(sl_scheduler *s, int b, sl_block *block) {
    int n = 0, n_given = 0;
    if (s->grows < 0) return SL_OK;
    const double rate = s->begin_rate / s->opt.n_block_slots;
    s->begin_credit += rate;
    if (s->begin_credit > 1 + rate) s->begin_credit = 1 + rate;
    for (int i = b * s->seats; i < (b + 1) * s->seats; i++) {
        sl_sequence *q = s->seat[i];
        if (q) q->sits_out = 0;
        if (wants_page(s, q)) s->growing[n++] = q;
    }
    if (n == 0) return SL_OK;
    for (int i = 0; i < n; i++) count_page(s->growing[i], 1);
    n_given = n;
    if (!can_give(s, n)) {
        /* Oldest first; who gets none sits out. */
        qsort(s->growing, (size_t)n, sizeof *s->growing, by_age);
        for (int i = 0; i < n; i++) count_page(s->growing[i], -1);
        n_given = 0;
        for (int i = 0; i < n; i++) {
            count_page(s->growing[i], 1);
            if (can_give(s, n_given + 1)) {
                n_given++;
                continue;
            }
            count_page(s->growing[i], -1);
            s->growing[i]->sits_out = 1;
        }
    }
    SL_TRY(sl_scheduler_make_room(s, s->grows, n_given, block));
    s->n_free_pages[s->grows] -= n_given;
    return SL_OK;
}

sl_status sl_scheduler_open_pages(sl_scheduler *s) {
    const sl_scheduler_options *o = &s->opt;
    const size_t n_seats = (size_t)o->n_block_slots * (size_t)s->seats;
    s->grows = -1;
    s->need = calloc(n_seats + 1, sizeof *s->need);
    s->growing = calloc((size_t)s->seats, sizeof *s->growing);
    if (!s->need || !s->growing)
        return SL_FAIL(SL_ERR_NOMEM, "scheduler: out of host memory for %zu seats", n_seats);
    for (size_t i = 0; i < n_seats; i++)
        s->n_growing_seats += sl_scheduler_home(s, (int)i) == SL_TIER_GPU;
    /* Pages of lower tiers are read one after another: those are taken together.  Where all fit,
     * nothing is gained. */
    const long all = (long)s->n_growing_seats * sl_kv_pages_for(o->max_context);
    if (!o->two_phase && o->n_pages[SL_TIER_GPU] < all) s->grows = SL_TIER_GPU;
    s->begin_credit = 1;
    return SL_OK;
}

void sl_scheduler_close_pages(sl_scheduler *s) {
    free(s->need);
    free(s->growing);
}
