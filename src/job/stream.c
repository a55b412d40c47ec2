#include "job/stream.h"

#include <stdlib.h>

#include "job/chunk.h"
#include "job/result_parts.h"

static sl_chunk_answer answer_of(const sl_item *it) {
    return (sl_chunk_answer){&it->shared->result, &it->request, it->created};
}

static int64_t index_of(const sl_item_part *pt, int choice) {
    return (pt - pt->item->parts) * (int64_t)pt->item->request.params.n + choice;
}

static sl_status echo_prompt(sl_item_part *pt, int64_t index) {
    sl_item *it = pt->item;
    const sl_chunk_answer a = answer_of(it);
    const sl_prompt *prompt = &it->request.prompts[pt - it->parts];
    char *text = NULL;
    size_t n_bytes = 0;
    if (prompt->text.bytes) {
        sl_chunk_text(&a, index, prompt->text.bytes, prompt->text.n_bytes, NULL, 0, &it->line);
        return SL_OK;
    }
    if (!a.job->tokenizer) return SL_OK;
    SL_TRY(sl_tokenizer_decode(a.job->tokenizer, prompt->ids, (size_t)prompt->n_ids,
                               it->request.params.skip_special_tokens, &text, &n_bytes));
    sl_chunk_text(&a, index, text, n_bytes, NULL, 0, &it->line);
    free(text);
    return SL_OK;
}

/* What comes before a choice's first text. */
static sl_status begin_choice(sl_item_part *pt, int choice) {
    sl_item *it = pt->item;
    const sl_chunk_answer a = answer_of(it);
    if (pt->sent_bytes[choice]) return SL_OK;
    pt->sent_bytes[choice] = 1;
    if (it->request.form == SL_ANSWER_CHAT) sl_chunk_role(&a, index_of(pt, choice), &it->line);
    return it->request.params.echo ? echo_prompt(pt, index_of(pt, choice)) : SL_OK;
}

sl_status sl_stream_token(sl_item_part *pt, int choice, const sl_choice *token) {
    sl_item *it = pt->item;
    const sl_chunk_answer a = answer_of(it);
    const sl_params *params = &it->request.params;
    const sl_choice_text *text = pt->texts[choice];
    SL_TRY(begin_choice(pt, choice));
    size_t n_bytes;
    const char *bytes = sl_choice_text_get(text, &n_bytes);
    const size_t from = pt->sent_bytes[choice] - 1, settled = sl_choice_text_settled(text);
    const size_t n_new = settled > from ? settled - from : 0;
    const int token_matters =
        params->logprobs >= 0 || params->return_token_ids || !a.job->tokenizer;
    if (n_new == 0 && !token_matters) return SL_OK;
    const int last = sl_choice_text_count(text) - 1;
    sl_chunk_text(&a, index_of(pt, choice), bytes + from, n_new, token,
                  sl_choice_text_offset(text, last), &it->line);
    pt->sent_bytes[choice] += n_new;
    return sl_json_status(&it->line);
}

static sl_status end_choice(sl_item_part *pt, int choice) {
    sl_item *it = pt->item;
    const sl_chunk_answer a = answer_of(it);
    const sl_choice_text *text = pt->texts[choice];
    SL_TRY(begin_choice(pt, choice));
    size_t n_bytes = 0;
    const char *bytes = text ? sl_choice_text_get(text, &n_bytes) : "";
    const size_t from = pt->sent_bytes[choice] - 1;
    if (n_bytes > from)
        sl_chunk_text(&a, index_of(pt, choice), bytes + from, n_bytes - from, NULL, 0, &it->line);
    sl_chunk_finish(&a, index_of(pt, choice), sl_result_finish(&pt->result->choices[choice], text),
                    &it->line);
    return SL_OK;
}

sl_status sl_stream_end(sl_item *it, const sl_result_part *parts) {
    const sl_chunk_answer a = answer_of(it);
    for (int p = 0; p < it->request.n_prompts; p++) {
        for (int c = 0; c < it->parts[p].n_texts; c++) SL_TRY(end_choice(&it->parts[p], c));
    }
    if (it->request.include_usage) sl_chunk_usage(&a, parts, &it->line);
    sl_chunk_done(&it->line);
    return sl_json_status(&it->line);
}
