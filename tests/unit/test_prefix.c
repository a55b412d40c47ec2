/* Unit tests of src/engine/prefix.c: what is found, what may be taken, what goes first. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"
#include "engine/prefix.h"

enum { PAGE = SL_PAGE_TOKENS, MOST = 4 * SL_PAGE_TOKENS };

static const int N_PAGES[SL_TIER_COUNT] = {12, 3, 0};

static sl_prefix_tree *open_tree(void) {
    sl_prefix_tree *t = NULL;
    assert_int_equal(sl_prefix_open(N_PAGES, &t), SL_OK);
    return t;
}

/* A text of its own for each number. */
static void write_text(int32_t *token, int number) {
    for (int i = 0; i < MOST; i++)
        token[i] = (int32_t)(sl_rng_at((uint64_t)number, (uint64_t)i) % 5000);
}

static sl_prefix_match find(const sl_prefix_tree *t, const int32_t *prompt, int n) {
    return sl_prefix_find(t, SL_TIER_GPU, prompt, n, n - 1, -1, 1);
}

/* As the scheduler: takes what is there, adds the rest, all of it ready.  Returns the last node. */
static sl_prefix_node *put(sl_prefix_tree *t, const int32_t *prompt, int n) {
    sl_prefix_node *node = find(t, prompt, n).node;
    sl_prefix_hold(t, node);
    for (int from = node->depth * PAGE; from < n; from += PAGE) {
        const int page = n - from < PAGE ? n - from : PAGE;
        if (sl_prefix_child(t, node, prompt + from, page)) break;
        assert_int_equal(sl_prefix_add(t, node, prompt + from, page, &node), SL_OK);
        node->is_ready = 1;
    }
    return node;
}

static void whole_pages_are_shared_and_the_next_is_copied(void **state) {
    (void)state;
    sl_prefix_tree *t = open_tree();
    int32_t a[MOST], b[MOST];
    write_text(a, 1);
    (void)put(t, a, 2 * PAGE + 20);
    memcpy(b, a, sizeof b);
    sl_prefix_match m = find(t, b, MOST); /* goes on after what is there */
    assert_int_equal(m.n_tokens, 2 * PAGE + 20);
    assert_int_equal(m.node->depth, 2);
    assert_int_equal(m.n_partial, 20);
    assert_int_equal(m.partial->n_tokens, 20);
    assert_int_equal(m.n_idle, 0);
    b[2 * PAGE + 10]++; /* differs within the third page */
    m = find(t, b, MOST);
    assert_int_equal(m.n_tokens, 2 * PAGE + 10);
    m = sl_prefix_find(t, SL_TIER_GPU, b, MOST, MOST - 1, -1, 0);
    assert_int_equal(m.n_tokens, 2 * PAGE);
    assert_null(m.partial);
    b[2 * PAGE + 5]++; /* too few to be worth a copy */
    assert_int_equal(find(t, b, MOST).n_tokens, 2 * PAGE);
    /* The last token of the same prompt is computed, for its logits: the page above is copied. */
    m = find(t, a, 2 * PAGE);
    assert_int_equal(m.n_tokens, 2 * PAGE - 1);
    assert_int_equal(m.node->depth, 1);
    assert_int_equal(m.partial->depth, 2);
    b[0]++;
    assert_int_equal(find(t, b, MOST).n_tokens, 0);
    /* Another home has a tree of its own. */
    assert_int_equal(sl_prefix_find(t, SL_TIER_CPU, a, MOST, MOST - 1, -1, 1).n_tokens, 0);
    sl_prefix_close(t);
}

static void what_is_under_way_is_coming(void **state) {
    (void)state;
    sl_prefix_tree *t = open_tree();
    int32_t a[MOST];
    write_text(a, 1);
    sl_prefix_node *last = put(t, a, 3 * PAGE);
    last->is_ready = last->parent->is_ready = 0;
    const sl_prefix_match m = find(t, a, MOST);
    assert_int_equal(m.n_tokens, PAGE);
    assert_int_equal(m.n_coming, 3 * PAGE);
    sl_prefix_close(t);
}

static void scores_are_wanted_with_their_alternatives(void **state) {
    (void)state;
    static sl_choice score[2][PAGE];
    sl_prefix_tree *t = open_tree();
    int32_t a[MOST];
    write_text(a, 1);
    sl_prefix_node *last = put(t, a, 2 * PAGE);
    assert_int_equal(sl_prefix_find(t, SL_TIER_GPU, a, MOST, MOST, 0, 1).n_tokens, 0);
    last->score = score[1];
    last->parent->score = score[0];
    last->n_logprobs = last->parent->n_logprobs = 2;
    /* The row of the last token that matches gives the score of the one after it. */
    const sl_prefix_match m = sl_prefix_find(t, SL_TIER_GPU, a, MOST, MOST, 2, 1);
    assert_int_equal(m.n_tokens, 2 * PAGE - 1);
    assert_ptr_equal(m.below, last);
    assert_int_equal(sl_prefix_find(t, SL_TIER_GPU, a, MOST, MOST, 3, 1).n_tokens, 0);
    /* Without a copy the score of the first token that is computed is in the page below. */
    const sl_prefix_match whole = sl_prefix_find(t, SL_TIER_GPU, a, MOST, MOST, 2, 0);
    assert_int_equal(whole.n_tokens, PAGE);
    assert_ptr_equal(whole.below, last);
    last->score = last->parent->score = NULL; /* not its own */
    sl_prefix_close(t);
}

static void the_longest_unused_goes_first_and_leaves_before_their_parents(void **state) {
    (void)state;
    sl_prefix_tree *t = open_tree();
    int32_t a[MOST], b[MOST], c[MOST];
    write_text(a, 1);
    write_text(b, 2);
    memcpy(c, a, sizeof c);
    c[PAGE]++;
    sl_prefix_node *last_a = put(t, a, 2 * PAGE), *last_b = put(t, b, PAGE);
    assert_null(sl_prefix_oldest(t, SL_TIER_GPU));
    sl_prefix_leave(t, last_a);
    sl_prefix_leave(t, last_b);
    assert_ptr_equal(sl_prefix_oldest(t, SL_TIER_GPU), last_a);
    sl_prefix_node *last_c = put(t, c, 2 * PAGE); /* shares a's first page */
    assert_ptr_equal(last_c->parent, last_a->parent);
    assert_int_equal(sl_prefix_n_idle(t, SL_TIER_GPU), 2);
    sl_prefix_hold(t, last_a);
    sl_prefix_leave(t, last_a); /* used after b */
    assert_ptr_equal(sl_prefix_oldest(t, SL_TIER_GPU), last_b);
    sl_prefix_remove(t, last_b);
    sl_prefix_remove(t, last_a);
    assert_null(sl_prefix_oldest(t, SL_TIER_GPU)); /* c is in use, and so is the page above */
    sl_prefix_node *top = last_c->parent;
    sl_prefix_leave(t, last_c);
    sl_prefix_remove(t, last_c);
    assert_ptr_equal(sl_prefix_oldest(t, SL_TIER_GPU), top);
    assert_int_equal(sl_prefix_n_nodes(t, SL_TIER_GPU), 1);
    sl_prefix_remove(t, top);
    assert_int_equal(sl_prefix_n_nodes(t, SL_TIER_GPU), 0);
    sl_prefix_close(t);
}

/* Random use: the tree never holds more nodes than pages, ids are never in use twice, and what is
 * found is what was put there. */
static void random_use_keeps_its_promises(void **state) {
    (void)state;
    enum { HELD = 3 };
    sl_prefix_tree *t = open_tree();
    sl_rng rng = {5, 0};
    sl_prefix_node *held[HELD] = {0};
    int n_found = 0;
    for (int step = 0; step < 20000; step++) {
        int32_t prompt[MOST];
        write_text(prompt, (int)sl_rng_below(&rng, 2));
        const int fork = (int)sl_rng_below(&rng, MOST), n = 1 + (int)sl_rng_below(&rng, MOST);
        for (int i = fork; i < MOST; i++) prompt[i] = (int32_t)sl_rng_below(&rng, 2) + 9000;
        const int h = (int)sl_rng_below(&rng, HELD);
        if (held[h]) {
            sl_prefix_leave(t, held[h]);
            held[h] = NULL;
            continue;
        }
        const sl_prefix_match m = find(t, prompt, n);
        assert_true(m.n_tokens < n);
        for (const sl_prefix_node *p = m.partial ? m.partial : m.node; p->depth; p = p->parent)
            for (int i = 0; i < p->n_tokens && (p->depth - 1) * PAGE + i < m.n_tokens; i++)
                assert_int_equal(p->token[i], prompt[(p->depth - 1) * PAGE + i]);
        n_found += m.n_tokens;
        const int need = (n + PAGE - 1) / PAGE - m.node->depth;
        sl_prefix_hold(t, m.node);
        while (N_PAGES[SL_TIER_GPU] - sl_prefix_n_nodes(t, SL_TIER_GPU) < need &&
               sl_prefix_oldest(t, SL_TIER_GPU))
            sl_prefix_remove(t, sl_prefix_oldest(t, SL_TIER_GPU));
        const int fits = N_PAGES[SL_TIER_GPU] - sl_prefix_n_nodes(t, SL_TIER_GPU) >= need;
        sl_prefix_leave(t, m.node);
        if (fits) held[h] = put(t, prompt, n);
        int idle = sl_prefix_n_nodes(t, SL_TIER_GPU), used[15] = {0};
        for (int i = 0; i < HELD; i++)
            for (const sl_prefix_node *p = held[i]; p && p->depth; p = p->parent) {
                assert_true(p->n_users > 0 && p->id >= 0 && p->id < 15);
                idle -= used[p->id]++ == 0;
            }
        assert_int_equal(sl_prefix_n_idle(t, SL_TIER_GPU), idle);
        assert_true(sl_prefix_n_nodes(t, SL_TIER_GPU) <= N_PAGES[SL_TIER_GPU]);
    }
    assert_true(n_found > 100000);
    sl_prefix_close(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(whole_pages_are_shared_and_the_next_is_copied),
        cmocka_unit_test(what_is_under_way_is_coming),
        cmocka_unit_test(scores_are_wanted_with_their_alternatives),
        cmocka_unit_test(the_longest_unused_goes_first_and_leaves_before_their_parents),
        cmocka_unit_test(random_use_keeps_its_promises),
    };
    return cmocka_run_group_tests_name("prefix", tests, NULL, NULL);
}
