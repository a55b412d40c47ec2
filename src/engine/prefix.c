#include "engine/prefix.h"

#include <stdlib.h>
#include <string.h>

#include "base/hash.h"

/* Siblings that are looked at for a page that agrees in part, the newest ones. */
enum { MAX_SIBLINGS = 64 };

/* Fewer tokens are sooner computed than a page copied in every layer.  Pages homed in host memory
 * while a device computes are copied by the processors, before a sweep begins. */
enum { MIN_COPY = 8, MIN_COPY_ON_HOST = 16 };

typedef struct {
    sl_prefix_node root;
    sl_prefix_node *oldest, *newest; /* unused nodes without children */
    int n_nodes, n_idle;
} home_tree;

struct sl_prefix_tree {
    home_tree home[SL_TIER_COUNT];
    int n_ids, n_free;
    int *free_id; /* [n_ids] */
    size_t n_buckets;
    sl_prefix_node **bucket;
};

sl_status sl_prefix_open(const int n_pages[SL_TIER_COUNT], sl_prefix_tree **out) {
    sl_prefix_tree *t = calloc(1, sizeof *t);
    if (!t) return SL_FAIL(SL_ERR_NOMEM, "prefixes: out of host memory");
    for (int h = 0; h < SL_TIER_COUNT; h++) {
        t->home[h].root = (sl_prefix_node){.home = h, .hash = (uint64_t)h, .is_ready = 1};
        t->n_ids += n_pages[h];
    }
    t->n_buckets = 64;
    while (t->n_buckets < (size_t)t->n_ids) t->n_buckets *= 2;
    t->free_id = calloc((size_t)t->n_ids + 1, sizeof *t->free_id);
    t->bucket = calloc(t->n_buckets, sizeof *t->bucket);
    if (!t->free_id || !t->bucket) {
        const sl_status st =
            SL_FAIL(SL_ERR_NOMEM, "prefixes of %d pages: out of host memory", t->n_ids);
        sl_prefix_close(t);
        return st;
    }
    while (t->n_free < t->n_ids) {
        t->free_id[t->n_free] = t->n_ids - 1 - t->n_free;
        t->n_free++;
    }
    *out = t;
    return SL_OK;
}

static void free_node(sl_prefix_node *n) {
    free(n->score);
    free(n);
}

void sl_prefix_close(sl_prefix_tree *t) {
    if (!t) return;
    for (size_t b = 0; t->bucket && b < t->n_buckets; b++) {
        for (sl_prefix_node *n = t->bucket[b], *chain; n; n = chain) {
            chain = n->chain;
            free_node(n);
        }
    }
    free(t->bucket);
    free(t->free_id);
    free(t);
}

static home_tree *tree_of(sl_prefix_tree *t, const sl_prefix_node *n) {
    return &t->home[n->home];
}

static sl_prefix_node **bucket_of(const sl_prefix_tree *t, uint64_t hash) {
    return &t->bucket[hash & (t->n_buckets - 1)];
}

static uint64_t hash_below(const sl_prefix_node *parent, const int32_t *token, int n_tokens) {
    return sl_hash(parent->hash, token, (size_t)n_tokens * sizeof *token);
}

/* ---- nodes that could be evicted ---- */

static void unlink_idle(home_tree *h, sl_prefix_node *n) {
    *(n->older ? &n->older->newer : &h->oldest) = n->newer;
    *(n->newer ? &n->newer->older : &h->newest) = n->older;
    n->older = n->newer = NULL;
}

static int is_root(const sl_prefix_node *n) {
    return n->depth == 0;
}

static void push_newest(home_tree *h, sl_prefix_node *n) {
    n->older = h->newest;
    *(h->newest ? &h->newest->newer : &h->oldest) = n;
    h->newest = n;
}

static void push_oldest(home_tree *h, sl_prefix_node *n) {
    n->newer = h->oldest;
    *(h->oldest ? &h->oldest->older : &h->newest) = n;
    h->oldest = n;
}

void sl_prefix_hold(sl_prefix_tree *t, sl_prefix_node *n) {
    home_tree *h = tree_of(t, n);
    for (; !is_root(n); n = n->parent) {
        n->is_taken = 1;
        if (n->n_users++ > 0) continue;
        h->n_idle--;
        if (!n->first_child) unlink_idle(h, n);
    }
}

void sl_prefix_leave(sl_prefix_tree *t, sl_prefix_node *n) {
    home_tree *h = tree_of(t, n);
    for (; !is_root(n); n = n->parent) {
        if (--n->n_users > 0) continue;
        h->n_idle++;
        if (!n->first_child) push_newest(h, n);
    }
}

/* ---- the tree ---- */

sl_status sl_prefix_add(sl_prefix_tree *t, sl_prefix_node *parent, const int32_t *token,
                        int n_tokens, sl_prefix_node **out) {
    home_tree *h = tree_of(t, parent);
    if (t->n_free == 0)
        return SL_FAIL(SL_ERR_NOMEM, "prefixes: all %d pages are in the tree", t->n_ids);
    sl_prefix_node *n = calloc(1, sizeof *n);
    if (!n) return SL_FAIL(SL_ERR_NOMEM, "prefixes: out of host memory");
    memcpy(n->token, token, (size_t)n_tokens * sizeof *token);
    n->n_tokens = n_tokens;
    n->hash = hash_below(parent, token, n_tokens);
    n->id = t->free_id[--t->n_free];
    n->home = parent->home;
    n->depth = parent->depth + 1;
    n->n_users = 1;
    n->parent = parent;
    n->next = parent->first_child;
    if (n->next) n->next->before = n;
    parent->first_child = n;
    sl_prefix_node **bucket = bucket_of(t, n->hash);
    n->chain = *bucket;
    *bucket = n;
    h->n_nodes++;
    *out = n;
    return SL_OK;
}

void sl_prefix_remove(sl_prefix_tree *t, sl_prefix_node *n) {
    home_tree *h = tree_of(t, n);
    sl_prefix_node *parent = n->parent, **link = bucket_of(t, n->hash);
    unlink_idle(h, n);
    while (*link != n) link = &(*link)->chain;
    *link = n->chain;
    *(n->before ? &n->before->next : &parent->first_child) = n->next;
    if (n->next) n->next->before = n->before;
    t->free_id[t->n_free++] = n->id;
    h->n_nodes--;
    h->n_idle--;
    free_node(n);
    /* Nothing below it was used later: it is next. */
    if (!is_root(parent) && !parent->first_child && parent->n_users == 0) push_oldest(h, parent);
}

sl_prefix_node *sl_prefix_child(const sl_prefix_tree *t, const sl_prefix_node *parent,
                                const int32_t *token, int n_tokens) {
    const uint64_t hash = hash_below(parent, token, n_tokens);
    for (sl_prefix_node *n = *bucket_of(t, hash); n; n = n->chain)
        if (n->hash == hash && n->parent == parent && n->n_tokens == n_tokens &&
            memcmp(n->token, token, (size_t)n_tokens * sizeof *token) == 0)
            return n;
    return NULL;
}

sl_prefix_node *sl_prefix_oldest(const sl_prefix_tree *t, int home) {
    return t->home[home].oldest;
}

int sl_prefix_n_nodes(const sl_prefix_tree *t, int home) {
    return t->home[home].n_nodes;
}
int sl_prefix_n_idle(const sl_prefix_tree *t, int home) {
    return t->home[home].n_idle;
}

/* ---- looking up ---- */

static int has_scores(const sl_prefix_node *n, int n_logprobs) {
    return n_logprobs < 0 || (n->score && n->n_logprobs >= n_logprobs);
}

static int is_usable(const sl_prefix_node *n, int n_logprobs) {
    return n->is_ready && has_scores(n, n_logprobs);
}

static int is_coming(const sl_prefix_node *n, int n_logprobs) {
    return has_scores(n, n_logprobs) || (n->is_scoring && n->n_logprobs >= n_logprobs);
}

typedef struct {
    sl_prefix_node *node;    /* deepest of whole pages */
    sl_prefix_node *partial; /* below it, the one that agrees in most tokens */
    int n_tokens;
} walk;

/* Follows the prompt down the tree through nodes for which `may_pass` says so. */
static walk follow(const sl_prefix_tree *t, sl_prefix_node *root, const int32_t *prompt,
                   int n_prompt, int n_logprobs,
                   int (*may_pass)(const sl_prefix_node *n, int n_logprobs)) {
    walk w = {.node = root};
    while (n_prompt - w.n_tokens >= SL_PAGE_TOKENS) {
        sl_prefix_node *n = sl_prefix_child(t, w.node, prompt + w.n_tokens, SL_PAGE_TOKENS);
        if (!n || !may_pass(n, n_logprobs)) break;
        w.node = n;
        w.n_tokens += SL_PAGE_TOKENS;
    }
    const int32_t *rest = prompt + w.n_tokens;
    const int n_rest = n_prompt - w.n_tokens;
    int best = 0, n_seen = 0;
    for (sl_prefix_node *n = w.node->first_child; n && n_seen < MAX_SIBLINGS; n = n->next) {
        int same = 0;
        n_seen++;
        if (!may_pass(n, n_logprobs)) continue;
        while (same < n->n_tokens && same < n_rest && n->token[same] == rest[same]) same++;
        if (same <= best) continue;
        best = same;
        w.partial = n;
    }
    w.n_tokens += best;
    return w;
}

static int limited(const walk *w, int most, int scores, int copies, int home) {
    const int least = home == SL_TIER_CPU ? MIN_COPY_ON_HOST : MIN_COPY;
    int n = w->n_tokens - (scores && w->n_tokens > 0);
    if (n > most) n = most;
    if (!copies || n % SL_PAGE_TOKENS < least) n -= n % SL_PAGE_TOKENS;
    return n > 0 ? n : 0;
}

sl_prefix_match sl_prefix_find(const sl_prefix_tree *t, int home, const int32_t *prompt,
                               int n_prompt, int most, int n_logprobs, int copies) {
    sl_prefix_node *root = (sl_prefix_node *)&t->home[home].root;
    const int scores = n_logprobs >= 0;
    const walk now = follow(t, root, prompt, n_prompt, n_logprobs, is_usable);
    const walk later = follow(t, root, prompt, n_prompt, n_logprobs, is_coming);
    sl_prefix_match m = {.node = now.node,
                         .n_tokens = limited(&now, most, scores, copies, home),
                         .n_coming = limited(&later, most, scores, copies, home)};
    m.n_partial = m.n_tokens % SL_PAGE_TOKENS;
    sl_prefix_node *below = now.partial;
    for (; m.node->depth > m.n_tokens / SL_PAGE_TOKENS; m.node = m.node->parent) below = m.node;
    if (m.n_partial) m.partial = below;
    if (m.n_tokens < now.n_tokens) m.below = below;
    if (m.n_coming < m.n_tokens) m.n_coming = m.n_tokens;
    for (const sl_prefix_node *n = m.partial ? m.partial : m.node; !is_root(n); n = n->parent)
        m.n_idle += n->n_users == 0;
    return m;
}
