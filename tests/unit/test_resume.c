/* Unit tests of src/job/resume.c, answered.c and job_key.c: outputs and journals in every state
 * that a killed run can leave. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "job/answered.h"
#include "job/result.h"
#include "job/resume.h"
#include "support/files.h"

enum { SEED = 7, N_LINES = 5 };

/* An output and its journal in a folder of their own. */
typedef struct {
    char output[128], journal[140];
    sl_job_key key;
    sl_writer *writer;
    sl_resume *resume;
} fixture;

static void init(fixture *f, void **state) {
    *f = (fixture){0};
    snprintf(f->output, sizeof f->output, "%s/out", (char *)*state);
    snprintf(f->journal, sizeof f->journal, "%s/out.sluice", (char *)*state);
    assert_int_equal(sl_job_key_add(&f->key, "--model", "m"), SL_OK);
    assert_int_equal(sl_job_key_add(&f->key, "--seed", "%d", SEED), SL_OK);
}

static sl_status open_with(fixture *f, const sl_job_key *key, int overwrite) {
    assert_int_equal(sl_writer_open(f->output, &f->writer), SL_OK);
    const sl_resume_options options = {.output = f->output,
                                       .writer = f->writer,
                                       .key = key,
                                       .why_not = "the reason is told",
                                       .seed = SEED,
                                       .overwrite = overwrite};
    const sl_status st = sl_resume_open(&options, &f->resume);
    if (st != SL_OK) assert_null(f->resume);
    return st;
}

static void close_run(fixture *f) {
    sl_resume_close(f->resume);
    sl_writer_close(f->writer);
    f->resume = NULL;
    f->writer = NULL;
}

/* The result of line `line`; every third one is an error.  Appends to `b`. */
static void put_result(buffer *b, uint64_t line) {
    const sl_result_job job = {.model = "m", .seed = SEED};
    sl_json_text text = {0};
    sl_request request = {.line = line};
    char name[] = "a \"quoted\" \\ name, \n too"; /* nothing in it may confuse the reader */
    if (line % 3 == 0) {
        assert_int_equal(sl_request_refused_line(line, "no good", &request), SL_OK);
        assert_int_equal(sl_result_refusal(&job, &request, &text), SL_OK);
        sl_request_free(&request);
    } else {
        request.custom_id = (sl_string){name, sizeof name - 1};
        assert_int_equal(sl_result_answer(&job, &request, NULL, 1, &text), SL_OK);
    }
    put(b, text.data, text.n_bytes);
    sl_json_free(&text);
}

static void put_head(buffer *b, const sl_job_key *key) {
    sl_json_text text = {0};
    assert_int_equal(sl_job_key_write(key, &text), SL_OK);
    put(b, text.data, text.n_bytes);
    sl_json_free(&text);
}

static size_t size_of(const char *path) {
    buffer b = read_whole(path);
    free(b.at);
    return b.bytes;
}

static void expect_message(const char *part) {
    if (!strstr(sl_error_message(), part)) fail_msg("no \"%s\" in: %s", part, sl_error_message());
}

/* ---- the key ---- */

static void key_reads_back_and_tells_what_differs(void **state) {
    (void)state;
    sl_job_key a = {0}, b = {0}, back = {0};
    char text[512];
    assert_int_equal(sl_job_key_add(&a, "--model", "a \"b\"\n\xff"), SL_OK);
    assert_int_equal(sl_job_key_add(&a, "--seed", "1"), SL_OK);
    assert_int_equal(sl_job_key_same_form(&a, &back), SL_OK);
    sl_job_key_free(&a);
    assert_int_equal(sl_job_key_same_form(&back, &a), SL_OK);
    assert_int_equal(sl_job_key_differs(&back, &a, text, sizeof text), 0);
    assert_string_equal(text, "");

    assert_int_equal(sl_job_key_add(&b, "--seed", "2"), SL_OK);
    assert_int_equal(sl_job_key_add(&b, "new", "x"), SL_OK);
    assert_int_equal(sl_job_key_add(&b, "--model", "%s", a.entries[0].value), SL_OK);
    assert_int_equal(sl_job_key_differs(&a, &b, text, sizeof text), 2);
    assert_string_equal(text, "--seed was 1, is 2; new was not known, is x");
    assert_int_equal(sl_job_key_differs(&b, &a, text, sizeof text), 2);
    assert_string_equal(text, "--seed was 2, is 1; new was x, is not known");
    sl_job_key_free(&a);
    sl_job_key_free(&b);
    sl_job_key_free(&back);
}

static void key_of_another_form_is_refused(void **state) {
    static const char *const lines[] = {
        "",
        "{",
        "[1]",
        "{\"key\": {}}",
        "{\"sluice_job\": 2, \"key\": {}}",
        "{\"sluice_job\": 1}",
        "{\"sluice_job\": 1, \"key\": []}",
        "{\"sluice_job\": 1, \"key\": {\"a\": 1}}",
        "{\"sluice_job\": 1, \"key\": {\"a\": \"b\", \"a\": \"c\"}}",
    };
    (void)state;
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        sl_job_key key = {0};
        assert_int_equal(sl_job_key_parse(lines[i], strlen(lines[i]), &key), SL_ERR_FORMAT);
        assert_int_equal(key.n, 0);
    }
}

/* ---- torn ends ---- */

static void output_torn_at_any_byte_keeps_its_whole_lines(void **state) {
    buffer whole = {0}, head = {0};
    size_t ends[N_LINES + 1] = {0};
    fixture f;
    init(&f, state);
    put_head(&head, &f.key);
    write_buffer(f.journal, &head);
    for (int i = 1; i <= N_LINES; i++) {
        put_result(&whole, (uint64_t)i * 2); /* lines 2, 4, 6, 8, 10 of the input */
        ends[i] = whole.bytes;
    }
    for (size_t cut = 0; cut <= whole.bytes; cut++) {
        int n = 0;
        while (n < N_LINES && ends[n + 1] <= cut) n++;
        write_bytes(f.output, whole.at, cut);
        if (open_with(&f, &f.key, 0) != SL_OK) fail_msg("cut at %zu: %s", cut, sl_error_message());
        assert_int_equal(sl_resume_n_written(f.resume), n);
        assert_int_equal(sl_resume_n_refused(f.resume), n >= 3);
        for (int i = 1; i <= N_LINES; i++) {
            assert_int_equal(sl_resume_look(f.resume, (uint64_t)i * 2),
                             i <= n ? SL_RESUME_WRITTEN : SL_RESUME_TO_DO);
            assert_int_equal(sl_resume_look(f.resume, (uint64_t)i * 2 - 1), SL_RESUME_TO_DO);
        }
        assert_int_equal(size_of(f.output), cut); /* until the job starts nothing is changed */
        assert_int_equal(sl_resume_start(f.resume), SL_OK);
        assert_int_equal(size_of(f.output), ends[n]);
        close_run(&f);
    }
    free(whole.at);
    sl_job_key_free(&f.key);
}

static void journal_torn_at_any_byte_keeps_its_whole_results(void **state) {
    buffer whole = {0}, out = {0};
    size_t ends[4] = {0};
    fixture f;
    init(&f, state);
    put_result(&out, 1);
    write_buffer(f.output, &out);
    put_head(&whole, &f.key);
    ends[0] = whole.bytes;
    for (uint64_t i = 1; i <= 3; i++) { /* the first of them is written meanwhile */
        put_result(&whole, i);
        ends[i] = whole.bytes;
    }
    for (size_t cut = 0; cut <= whole.bytes; cut++) {
        write_bytes(f.journal, whole.at, cut);
        if (cut < ends[0]) { /* no run leaves such a journal */
            assert_int_equal(open_with(&f, &f.key, 0), SL_ERR_ARG);
            expect_message("out.sluice does not say which job they belong to");
            close_run(&f);
            continue;
        }
        if (open_with(&f, &f.key, 0) != SL_OK) fail_msg("cut at %zu: %s", cut, sl_error_message());
        const int n = (cut >= ends[2]) + (cut >= ends[3]);
        assert_int_equal(sl_resume_n_waiting(f.resume), n);
        assert_int_equal(sl_resume_look(f.resume, 1), SL_RESUME_WRITTEN);
        assert_int_equal(sl_resume_start(f.resume), SL_OK);
        for (int i = 2; i <= 3; i++) {
            const sl_resume_state wanted = i - 1 <= n ? SL_RESUME_HELD : SL_RESUME_TO_DO;
            assert_int_equal(sl_resume_look(f.resume, (uint64_t)i), wanted);
            if (wanted != SL_RESUME_HELD) continue;
            sl_json_text line = {0};
            int status = 0;
            assert_int_equal(sl_resume_take_held(f.resume, (uint64_t)i, &line, &status), SL_OK);
            assert_int_equal(status, i == 3 ? 400 : 200);
            assert_int_equal(line.n_bytes, ends[i] - ends[i - 1]);
            assert_memory_equal(line.data, whole.at + ends[i - 1], line.n_bytes);
            sl_json_free(&line);
        }
        assert_int_equal(sl_resume_n_waiting(f.resume), 0);
        close_run(&f);
    }
    free(whole.at);
    sl_job_key_free(&f.key);
}

static void zeros_of_a_lost_host_are_cut_off(void **state) {
    buffer b = {0};
    fixture f;
    init(&f, state);
    put_head(&b, &f.key);
    write_buffer(f.journal, &b);
    put_result(&b, 1);
    const size_t whole = b.bytes;
    put_zeros(&b, 100);
    put_text(&b, "\n");
    put_result(&b, 2);
    write_buffer(f.output, &b);
    assert_int_equal(open_with(&f, &f.key, 0), SL_OK);
    assert_int_equal(sl_resume_n_written(f.resume), 1);
    assert_int_equal(sl_resume_start(f.resume), SL_OK);
    assert_int_equal(size_of(f.output), whole);
    close_run(&f);
    sl_job_key_free(&f.key);
}

/* ---- what cannot be gone on with ---- */

static void output_of_another_job_is_refused_with_what_differs(void **state) {
    buffer b = {0};
    fixture f;
    init(&f, state);
    put_head(&b, &f.key);
    write_buffer(f.journal, &b);
    put_result(&b, 1);
    write_buffer(f.output, &b);
    free(f.key.entries[1].value);
    f.key.entries[1].value = strdup("8");
    const size_t size = size_of(f.output);
    assert_int_equal(open_with(&f, &f.key, 0), SL_ERR_ARG);
    expect_message("belong to another job: --seed was 7, is 8; name another file, or give "
                   "--overwrite");
    close_run(&f);
    assert_int_equal(size_of(f.output), size);

    assert_int_equal(open_with(&f, NULL, 0), SL_ERR_ARG);
    expect_message("the reason is told");
    close_run(&f);
    assert_int_equal(remove(f.journal), 0);
    assert_int_equal(open_with(&f, &f.key, 0), SL_ERR_ARG);
    expect_message("there is no ");
    expect_message("out.sluice");
    close_run(&f);
    assert_int_equal(size_of(f.output), size);
    sl_job_key_free(&f.key);
}

static void output_that_is_not_ours_is_refused(void **state) {
    static const char *const lines[] = {"notes of mine\n", "\n", "{}\n"};
    buffer head = {0};
    fixture f;
    init(&f, state);
    put_head(&head, &f.key);
    write_buffer(f.journal, &head);
    for (size_t i = 0; i < 3; i++) {
        buffer b = {0};
        put_result(&b, 1);
        put_text(&b, lines[i]);
        put_result(&b, 2);
        write_buffer(f.output, &b);
        assert_int_equal(open_with(&f, &f.key, 0), SL_ERR_FORMAT);
        expect_message("no result of this program");
        close_run(&f);
    }
    buffer twice = {0};
    put_result(&twice, 1);
    put_result(&twice, 1);
    write_buffer(f.output, &twice);
    assert_int_equal(open_with(&f, &f.key, 0), SL_ERR_ARG);
    expect_message("twice");
    close_run(&f);
    sl_job_key_free(&f.key);
}

/* ---- beginning anew ---- */

static void overwrite_begins_anew_and_forgets_the_journal(void **state) {
    buffer b = {0};
    fixture f;
    init(&f, state);
    put_head(&b, &f.key);
    const size_t head = b.bytes;
    put_result(&b, 2);
    write_buffer(f.journal, &b);
    put_result(&b, 1);
    write_buffer(f.output, &b);
    assert_int_equal(open_with(&f, &f.key, 1), SL_OK);
    assert_int_equal(sl_resume_look(f.resume, 1), SL_RESUME_TO_DO);
    assert_int_equal(sl_resume_look(f.resume, 2), SL_RESUME_TO_DO);
    assert_non_null(strstr(sl_resume_way_on(f.resume), "without --overwrite"));
    assert_int_equal(sl_resume_start(f.resume), SL_OK);
    assert_int_equal(size_of(f.output), 0);
    assert_int_equal(size_of(f.journal), head);
    close_run(&f);

    /* Without a journal of its own the run leaves none of another job behind. */
    assert_int_equal(open_with(&f, NULL, 1), SL_OK);
    assert_false(sl_resume_is_on(f.resume));
    assert_string_equal(sl_resume_way_on(f.resume), "");
    assert_int_equal(sl_resume_start(f.resume), SL_OK);
    assert_int_equal(access(f.journal, F_OK), -1);
    assert_int_equal(sl_resume_hold(f.resume, "x\n", 2), SL_OK);
    assert_int_equal(sl_resume_finish(f.resume, 1), SL_OK);
    close_run(&f);
    sl_job_key_free(&f.key);
}

static void removed_output_begins_anew(void **state) {
    buffer b = {0};
    fixture f;
    init(&f, state);
    put_head(&b, &f.key);
    put_result(&b, 2);
    write_buffer(f.journal, &b);
    assert_int_equal(open_with(&f, &f.key, 0), SL_OK); /* makes the output */
    assert_int_equal(sl_resume_n_waiting(f.resume), 0);
    close_run(&f);
    assert_int_equal(open_with(&f, &f.key, 0), SL_OK); /* empty, but there */
    assert_int_equal(sl_resume_n_waiting(f.resume), 1);
    close_run(&f);
    sl_job_key_free(&f.key);
}

/* ---- the journal ---- */

static void held_results_survive_and_the_journal_is_renewed(void **state) {
    buffer two = {0}, three = {0};
    fixture f;
    init(&f, state);
    put_result(&two, 2);
    put_result(&three, 3);
    assert_int_equal(open_with(&f, &f.key, 0), SL_OK);
    assert_int_equal(sl_resume_start(f.resume), SL_OK);
    const size_t head = size_of(f.journal);
    assert_int_equal(sl_resume_hold(f.resume, (char *)two.at, two.bytes), SL_OK);
    assert_int_equal(sl_resume_hold(f.resume, (char *)three.at, three.bytes), SL_OK);
    assert_false(sl_resume_is_long(f.resume, 0));
    while (!sl_resume_is_long(f.resume, three.bytes))
        assert_int_equal(sl_resume_hold(f.resume, (char *)two.at, two.bytes), SL_OK);
    assert_int_equal(sl_resume_renew_begin(f.resume), SL_OK);
    assert_int_equal(sl_resume_hold(f.resume, (char *)three.at, three.bytes), SL_OK);
    assert_int_equal(sl_resume_renew_end(f.resume), SL_OK);
    assert_int_equal(size_of(f.journal), head + three.bytes);
    assert_int_equal(sl_resume_hold(f.resume, (char *)two.at, two.bytes), SL_OK);
    assert_int_equal(sl_resume_sync(f.resume, 10), SL_OK);
    close_run(&f);

    assert_int_equal(open_with(&f, &f.key, 0), SL_OK);
    assert_int_equal(sl_resume_n_waiting(f.resume), 2);
    assert_int_equal(sl_resume_look(f.resume, 3), SL_RESUME_HELD);
    assert_int_equal(sl_resume_start(f.resume), SL_OK);
    assert_int_equal(sl_resume_finish(f.resume, 0), SL_OK);
    assert_int_equal(size_of(f.journal), head + two.bytes + three.bytes);
    assert_int_equal(sl_resume_finish(f.resume, 1), SL_OK);
    assert_int_equal(size_of(f.journal), head);
    close_run(&f);
    free(two.at);
    free(three.at);
    sl_job_key_free(&f.key);
}

#define RESUME_TEST(name) cmocka_unit_test_setup_teardown(name, make_dir, remove_dir)

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(key_reads_back_and_tells_what_differs),
        cmocka_unit_test(key_of_another_form_is_refused),
        RESUME_TEST(output_torn_at_any_byte_keeps_its_whole_lines),
        RESUME_TEST(journal_torn_at_any_byte_keeps_its_whole_results),
        RESUME_TEST(zeros_of_a_lost_host_are_cut_off),
        RESUME_TEST(output_of_another_job_is_refused_with_what_differs),
        RESUME_TEST(output_that_is_not_ours_is_refused),
        RESUME_TEST(overwrite_begins_anew_and_forgets_the_journal),
        RESUME_TEST(removed_output_begins_anew),
        RESUME_TEST(held_results_survive_and_the_journal_is_renewed),
    };
    return cmocka_run_group_tests_name("resume", tests, NULL, NULL);
}
