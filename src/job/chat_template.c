#include "job/chat_template.h"

#include <string.h>

/* ---- recognising ---- */

const char *sl_chat_name(sl_chat_family family) {
    static const char *const names[] = {"ChatML",    "Qwen3",   "Llama 2",   "Llama 3",
                                        "Llama 3.1", "Mistral", "Mistral v3"};
    return (unsigned)family < sizeof names / sizeof names[0] ? names[family] : "?";
}

/* Marks of families that are known by name only. */
static const struct {
    const char *mark, *name;
} strangers[] = {
    {"<|im_sep|>", "Phi-4"},
    {"<start_of_turn>", "Gemma"},
    {"<|channel|>", "gpt-oss"},
    {"[SYSTEM_PROMPT]", "Mistral v7"},
    {"<|START_OF_TURN_TOKEN|>", "Command R"},
    {"<\xef\xbd\x9c", "DeepSeek"},
    {"[gMASK]", "ChatGLM"},
    {"<|header_start|>", "Llama 4"},
    {"<|user|>", "Zephyr or Phi-3"},
    {"### Instruction", "Alpaca"},
    {"USER: ", "Vicuna"},
};

static sl_status refuse(const char *text, const char *variant_of) {
    static const char known[] = "expected ChatML, Qwen3, Llama 2, Llama 3 or Mistral";
    if (variant_of)
        return SL_FAIL(SL_ERR_FORMAT, "the model's chat template is a variant of %s, %s",
                       variant_of, known);
    for (size_t i = 0; i < sizeof strangers / sizeof strangers[0]; i++) {
        if (strstr(text, strangers[i].mark))
            return SL_FAIL(SL_ERR_FORMAT, "the model's chat template is that of %s, %s",
                           strangers[i].name, known);
    }
    return SL_FAIL(SL_ERR_FORMAT,
                   "the model's chat template is not known (it begins \"%.40s\"), %s", text, known);
}

static int has(const char *text, const char *part) {
    return strstr(text, part) != NULL;
}

/* Length of a newline at `at`: a real one, or as written in a string; 0: none. */
static size_t newline_at(const char *at) {
    return at[0] == '\n' ? 1 : at[0] == '\\' && at[1] == 'n' ? 2 : 0;
}

/* A literal system turn is what is said where the conversation has none of its own. */
static void find_system(const char *text, sl_chat_template *out) {
    static const char begin[] = "<|im_start|>system";
    for (const char *at = strstr(text, begin); at; at = strstr(at + 1, begin)) {
        const char *from = at + sizeof begin - 1;
        from += newline_at(from);
        const char *end = strstr(from, "<|im_end|>");
        if (!end || end == from || memchr(from, '{', (size_t)(end - from)) || *from == '\'' ||
            *from == '"')
            continue;
        out->system = from;
        out->system_bytes = (size_t)(end - from);
        return;
    }
}

static sl_status recognise_chatml(const char *text, sl_chat_template *out) {
    if (has(text, "<|im_sep|>") || has(text, "<|channel|>")) return refuse(text, NULL);
    const int thinks = has(text, "</think>");
    if (thinks && !has(text, "last_query_index")) return refuse(text, "ChatML with thoughts");
    if (!thinks && (has(text, "trim") || has(text, "strip(")))
        return refuse(text, "ChatML that trims its turns");
    out->family = thinks ? SL_CHAT_QWEN3 : SL_CHAT_CHATML;
    out->with_bos = has(text, "bos_token");
    out->opens_thought = has(text, "assistant\\n<think>\\n'");
    if (!thinks) find_system(text, out);
    return SL_OK;
}

static sl_status recognise_inst(const char *text, sl_chat_template *out) {
    if (has(text, "[SYSTEM_PROMPT]")) return refuse(text, NULL);
    if (has(text, "<<SYS>>")) {
        if (!has(text, "bos_token + '[INST] '") || !has(text, "content.strip()"))
            return refuse(text, "Llama 2");
        out->family = SL_CHAT_LLAMA2;
        return SL_OK;
    }
    if (has(text, "\"[INST] \" + message[\"content\"] + \"[/INST]\"") &&
        has(text, "loop.last and system_message is defined") &&
        has(text, "\" \" + message[\"content\"]|trim + eos_token")) {
        out->family = SL_CHAT_MISTRAL_V3;
        return SL_OK;
    }
    if (has(text, "'[INST] ' + message['content'] + ' [/INST]'") &&
        has(text, "message['content'] + eos_token") && has(text, "{{ bos_token }}")) {
        out->family = SL_CHAT_MISTRAL;
        out->space_after_eos = has(text, "eos_token + ' '");
        return SL_OK;
    }
    return refuse(text, "Mistral");
}

sl_status sl_chat_recognise(const char *text, sl_chat_template *out) {
    sl_chat_template tmpl = {0};
    sl_status st;
    if (!text) return SL_FAIL(SL_ERR_FORMAT, "the model brings no chat template");
    if (has(text, "<|im_start|>")) {
        st = recognise_chatml(text, &tmpl);
    } else if (has(text, "<|start_header_id|>") && has(text, "<|eot_id|>")) {
        tmpl.family = has(text, "Cutting Knowledge Date") ? SL_CHAT_LLAMA31 : SL_CHAT_LLAMA3;
        tmpl.current_date = has(text, "strftime_now(");
        st = has(text, "trim") && has(text, "bos_token") ? SL_OK : refuse(text, "Llama 3");
    } else if (has(text, "[INST]")) {
        st = recognise_inst(text, &tmpl);
    } else {
        st = refuse(text, NULL);
    }
    if (st == SL_OK) *out = tmpl;
    return st;
}

/* ---- writing ---- */

typedef struct {
    const sl_chat_template *tmpl;
    const sl_chat_setting *setting;
    const sl_chat_message *message; /* [n] */
    int n;
    sl_json_text *out;
} conversation;

static int is_role(const sl_chat_message *m, const char *role) {
    return strcmp(m->role, role) == 0;
}

static void put(const conversation *c, const char *text) {
    sl_json_raw(c->out, text);
}

static void put_content(const conversation *c, const sl_chat_message *m) {
    sl_json_bytes(c->out, m->content, m->content_bytes);
}

static int is_space(char ch) {
    return ch == ' ' || (ch >= '\t' && ch <= '\r');
}

static void put_trimmed(const conversation *c, const sl_chat_message *m) {
    const char *from = m->content, *end = from + m->content_bytes;
    while (from < end && is_space(*from)) from++;
    while (end > from && is_space(end[-1])) end--;
    sl_json_bytes(c->out, from, (size_t)(end - from));
}

/* The template's own text, in which a newline is written as \n. */
static void put_literal(const conversation *c, const char *text, size_t n_bytes) {
    for (size_t i = 0; i < n_bytes; i++) {
        const int is_newline = text[i] == '\\' && i + 1 < n_bytes && text[i + 1] == 'n';
        sl_json_bytes(c->out, is_newline ? "\n" : text + i, 1);
        i += (size_t)is_newline;
    }
}

/* Without what precedes the end of the model's thoughts.
 * Source: content.split('</think>')[-1].lstrip('\n') in the template of Qwen3. */
static void put_without_thoughts(const conversation *c, const sl_chat_message *m) {
    static const char mark[] = "</think>";
    const char *from = m->content, *end = from + m->content_bytes;
    for (const char *at; (at = memmem(from, (size_t)(end - from), mark, sizeof mark - 1));) {
        from = at + sizeof mark - 1;
    }
    while (from > m->content && from < end && *from == '\n') from++;
    sl_json_bytes(c->out, from, (size_t)(end - from));
}

/* Source: tokenizer_config.json of Qwen2.5, SmolLM2 and Qwen3. */
static void write_chatml(const conversation *c) {
    const sl_chat_template *t = c->tmpl;
    if (t->with_bos) put(c, c->setting->bos);
    if (t->system && !is_role(&c->message[0], "system")) {
        put(c, "<|im_start|>system\n");
        put_literal(c, t->system, t->system_bytes);
        put(c, "<|im_end|>\n");
    }
    for (int i = 0; i < c->n; i++) {
        put(c, "<|im_start|>");
        put(c, c->message[i].role);
        put(c, "\n");
        if (t->family == SL_CHAT_QWEN3 && is_role(&c->message[i], "assistant")) {
            put_without_thoughts(c, &c->message[i]);
        } else {
            put_content(c, &c->message[i]);
        }
        put(c, "<|im_end|>\n");
    }
    put(c, "<|im_start|>assistant\n");
    if (t->opens_thought) put(c, "<think>\n");
    if (t->family == SL_CHAT_QWEN3 && !t->opens_thought && c->setting->no_thinking)
        put(c, "<think>\n\n</think>\n\n");
}

static void write_header(const conversation *c, const char *role) {
    put(c, "<|start_header_id|>");
    put(c, role);
    put(c, "<|end_header_id|>\n\n");
}

/* Source: tokenizer_config.json of Meta-Llama-3-8B-Instruct and Llama-3.1-8B-Instruct. */
static void write_llama3(const conversation *c) {
    int i = 0;
    put(c, c->setting->bos);
    if (c->tmpl->family == SL_CHAT_LLAMA31) {
        write_header(c, "system");
        put(c, "Cutting Knowledge Date: December 2023\nToday Date: ");
        put(c, c->tmpl->current_date ? c->setting->date : "26 Jul 2024");
        put(c, "\n\n");
        if (is_role(&c->message[0], "system")) put_trimmed(c, &c->message[i++]);
        put(c, "<|eot_id|>");
    }
    for (; i < c->n; i++) {
        write_header(c, c->message[i].role);
        put_trimmed(c, &c->message[i]);
        put(c, "<|eot_id|>");
    }
    write_header(c, "assistant");
}

/* Source: tokenizer_config.json of Llama-2-7b-chat-hf: the system text becomes part of the first
 * turn, before that is trimmed. */
static void write_llama2(const conversation *c) {
    const int first = is_role(&c->message[0], "system");
    for (int i = first; i < c->n; i++) {
        const sl_chat_message *m = &c->message[i];
        if (is_role(m, "assistant")) {
            put(c, " ");
            put_trimmed(c, m);
            put(c, " ");
            put(c, c->setting->eos);
            continue;
        }
        put(c, c->setting->bos);
        put(c, "[INST] ");
        if (first && i == first) {
            sl_json_text joined = {0};
            const conversation inner = {.out = &joined};
            put(&inner, "<<SYS>>\n");
            put_content(&inner, &c->message[0]);
            put(&inner, "\n<</SYS>>\n\n");
            put_content(&inner, m);
            const sl_chat_message both = {
                .role = m->role, .content = joined.data, .content_bytes = joined.n_bytes};
            if (joined.failed) c->out->failed = 1;
            if (!joined.failed) put_trimmed(c, &both);
            sl_json_free(&joined);
        } else {
            put_trimmed(c, m);
        }
        put(c, " [/INST]");
    }
}

/* Source: tokenizer_config.json of Mistral-7B-Instruct-v0.1 and v0.2 (first revisions). */
static void write_mistral(const conversation *c) {
    put(c, c->setting->bos);
    for (int i = 0; i < c->n; i++) {
        const int is_user = is_role(&c->message[i], "user");
        if (is_user) put(c, "[INST] ");
        put_content(c, &c->message[i]);
        put(c, is_user ? " [/INST]" : c->setting->eos);
        if (!is_user && c->tmpl->space_after_eos) put(c, " ");
    }
}

/* Source: tokenizer_config.json of Mistral-7B-Instruct-v0.3. */
static void write_mistral_v3(const conversation *c) {
    const int first = is_role(&c->message[0], "system");
    put(c, c->setting->bos);
    for (int i = first; i < c->n; i++) {
        const sl_chat_message *m = &c->message[i];
        if (is_role(m, "user")) {
            put(c, "[INST] ");
            if (first && i == c->n - 1) {
                put_content(c, &c->message[0]);
                put(c, "\n\n");
            }
            put_content(c, m);
            put(c, "[/INST]");
        } else {
            put(c, " ");
            put_trimmed(c, m);
            put(c, c->setting->eos);
        }
    }
}

/* ---- checking ---- */

static int check_roles(const conversation *c, sl_request_error *error) {
    for (int i = 0; i < c->n; i++) {
        const sl_chat_message *m = &c->message[i];
        if (!is_role(m, "system") && !is_role(m, "user") && !is_role(m, "assistant"))
            return sl_request_refuse(error, "messages",
                                     "messages: found role \"%.40s\" at place %d, expected system, "
                                     "user or assistant",
                                     m->role, i);
    }
    return 1;
}

/* [INST] templates raise an exception unless user and assistant take turns. */
static int check_turns(const conversation *c, sl_request_error *error) {
    const int has_system = is_role(&c->message[0], "system");
    const char *name = sl_chat_name(c->tmpl->family);
    if (has_system && c->tmpl->family == SL_CHAT_MISTRAL)
        return sl_request_refuse(error, "messages",
                                 "messages: found a system message, which the model's chat "
                                 "template (%s) does not have",
                                 name);
    for (int i = has_system; i < c->n; i++) {
        if (!is_role(&c->message[i], (i - has_system) % 2 ? "assistant" : "user"))
            return sl_request_refuse(error, "messages",
                                     "messages: found role \"%.40s\" at place %d: in the model's "
                                     "chat template (%s) user and assistant take turns",
                                     c->message[i].role, i, name);
    }
    return 1;
}

int sl_chat_render(const sl_chat_template *tmpl, const sl_chat_message *messages, int n,
                   const sl_chat_setting *setting, sl_json_text *out, sl_request_error *error) {
    const conversation c = {tmpl, setting, messages, n, out};
    if (n < 1) return sl_request_refuse(error, "messages", "messages: found none");
    if (!check_roles(&c, error)) return 0;
    if (!is_role(&messages[n - 1], "user"))
        return sl_request_refuse(error, "messages",
                                 "messages: the last one is from \"%.40s\", expected \"user\"",
                                 messages[n - 1].role);
    switch (tmpl->family) {
    case SL_CHAT_CHATML:
    case SL_CHAT_QWEN3:
        write_chatml(&c);
        return 1;
    case SL_CHAT_LLAMA3:
    case SL_CHAT_LLAMA31:
        write_llama3(&c);
        return 1;
    case SL_CHAT_LLAMA2:
        if (!check_turns(&c, error)) return 0;
        write_llama2(&c);
        return 1;
    case SL_CHAT_MISTRAL:
        if (!check_turns(&c, error)) return 0;
        write_mistral(&c);
        return 1;
    case SL_CHAT_MISTRAL_V3:
        if (!check_turns(&c, error)) return 0;
        write_mistral_v3(&c);
        return 1;
    }
    return sl_request_refuse(error, "messages", "messages: unknown chat template");
}
