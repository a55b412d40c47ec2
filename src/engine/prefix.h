/* prefix.h - the prompts whose keys and values are in the cache: a tree of pages.
 *
 * A node stands for one page of a prompt, below the node of the page before; its id is the page's
 * name in block headers.  Prompts are looked up by the hash of each page and of those before it,
 * and compared token by token.  Pages of different homes have trees of their own, for a sequence's
 * pages all live in one tier.  A node is used by the sequences whose prompts pass through it; one
 * that nobody uses stays until its page is needed, the one unused for longest first and none before
 * those below it.
 * Layer: engine.  May include: base, store.  Thread safety: one owner.
 */
#ifndef SL_ENGINE_PREFIX_H
#define SL_ENGINE_PREFIX_H

#include <stdint.h>

#include "base/status.h"
#include "engine/sampler.h"
#include "store/kv_format.h"
#include "store/tier.h"

typedef struct sl_prefix_node sl_prefix_node;

/* Managed by the tree; the scheduler sets the fields of the second group. */
struct sl_prefix_node {
    sl_prefix_node *parent, *first_child, *next, *before; /* next, before: of the same parent */
    sl_prefix_node *chain;                                /* of the same bucket */
    sl_prefix_node *newer, *older;                        /* among those that could be evicted */
    uint64_t hash;                                        /* of the tokens up to its end */
    int id, home, depth;                                  /* depth: pages up to its end; root 0 */
    int n_users;
    int n_tokens; /* fewer than a page at a prompt's end */
    int32_t token[SL_PAGE_TOKENS];

    int is_taken;     /* 1: a second sequence has used it */
    int is_ready;     /* 1: its rows are computed by every block from the next one on */
    int is_scoring;   /* 1: scores are under way */
    int n_logprobs;   /* of the scores */
    sl_choice *score; /* [SL_PAGE_TOKENS] of its tokens, or NULL; the first prompt token has none */
};

typedef struct sl_prefix_tree sl_prefix_tree;

/* n_pages: by home; there can be as many nodes. */
sl_status sl_prefix_open(const int n_pages[SL_TIER_COUNT], sl_prefix_tree **out);
void sl_prefix_close(sl_prefix_tree *tree);

/* What a prompt may take over. */
typedef struct {
    sl_prefix_node *node;    /* its page and those above are shared; the root: none */
    sl_prefix_node *partial; /* its first n_partial tokens are copied; NULL: none */
    sl_prefix_node *below;   /* holds the token after those taken, if it matches too; else NULL */
    int n_partial;
    int n_tokens; /* in all */
    int n_coming; /* tokens that will match once what is under way is computed, >= n_tokens */
    int n_idle;   /* nodes among these that nobody uses now */
} sl_prefix_match;

/*   most        tokens to take at most, of the prompt's n_prompt
 *   n_logprobs  scores of the tokens are wanted, with so many alternatives; -1: none are. The score
 *               of the token after those taken is among them.
 *   copies      0: whole pages only */
sl_prefix_match sl_prefix_find(const sl_prefix_tree *tree, int home, const int32_t *prompt,
                               int n_prompt, int most, int n_logprobs, int copies);

/* The child that holds exactly these tokens; NULL if there is none. */
sl_prefix_node *sl_prefix_child(const sl_prefix_tree *tree, const sl_prefix_node *parent,
                                const int32_t *token, int n_tokens);

/* One user more, or less, of a node and all above it; who holds has taken them over. */
void sl_prefix_hold(sl_prefix_tree *tree, sl_prefix_node *node);
void sl_prefix_leave(sl_prefix_tree *tree, sl_prefix_node *node);

/* A new node with one user below a parent that is in use.  Errors: SL_ERR_NOMEM. */
sl_status sl_prefix_add(sl_prefix_tree *tree, sl_prefix_node *parent, const int32_t *token,
                        int n_tokens, sl_prefix_node **out);

/* Takes an unused node without children out of the tree. */
void sl_prefix_remove(sl_prefix_tree *tree, sl_prefix_node *node);

/* The node of a home to be removed next; NULL if all are in use. */
sl_prefix_node *sl_prefix_oldest(const sl_prefix_tree *tree, int home);

/* Nodes of a home, and those that nobody uses. */
int sl_prefix_n_nodes(const sl_prefix_tree *tree, int home);
int sl_prefix_n_idle(const sl_prefix_tree *tree, int home);

#endif
