/* SPDX-License-Identifier: MIT */
/* Core: quoting, sizes, dtypes, tensor checks, the generator, the task queue. */
#include "core/dtype.h"
#include "core/error.h"
#include "core/items.h"
#include "core/parallel.h"
#include "core/rng.h"
#include "core/size.h"
#include "core/tensor.h"
#include "tests.h"
#include <fenv.h>
#include <math.h>

static void quotes_hostile_names(void **state)
{
    (void)state;
    assert_string_equal(tn_quote("plain.weight").text, "plain.weight");
    assert_string_equal(tn_quote("a\nb\\\x7f").text, "a\\x0ab\\x5c\\x7f");
    char big[500];
    memset(big, 7, sizeof big);
    const tn_quoted cut = tn_quote_bytes(big, sizeof big);
    assert_true(strlen(cut.text) < sizeof cut.text);
    assert_non_null(strstr(cut.text, "..."));
}

/* C40: a list says how many it leaves out, whether they are many or long. */
static void c40_lists_are_cut_with_a_count(void **state)
{
    (void)state;
    char data[200] = "";
    tn_text text = {data, sizeof data, 0};
    tn_items items = {.text = &text};
    for (int i = 0; i < 528; i++)
        tn_items_add(&items, "n%d", i);
    tn_items_end(&items);
    assert_string_equal(data, "n0, n1, n2, n3, n4, n5, n6, n7 and 520 more");
    text = (tn_text){data, sizeof data, 0};
    items = (tn_items){.text = &text, .most = INT64_MAX};
    for (int i = 0; i < 5; i++)
        tn_items_add(&items, "%060d", i);
    tn_items_end(&items);
    assert_string_equal(data + strlen(data) - 11, " and 3 more");
    text = (tn_text){data, sizeof data, 0};
    tn_items_add(&items, "a");
    tn_items_add(&items, "b");
    tn_items_end(&items);
    assert_string_equal(data, "a, b");
}

/* C37: a sentence that is too long ends at the end of a character. */
static void c37_sentences_are_cut_between_characters(void **state)
{
    (void)state;
    char wide[4 * 1024 + 1] = "", data[64];
    static const char *const characters[] = {"\xc3\xb6", "\xe6\x8a\x95", "\xf0\x9f\xa6\x99"};
    for (size_t c = 0; c < 3; c++) {
        const size_t length = strlen(characters[c]);
        for (size_t at = 0; at + length < sizeof wide; at += length)
            memcpy(wide + at, characters[c], length + 1);
        for (int before = 0; before < 4; before++) {
            tenon_error error;
            tn_text text = {data, sizeof data, 0};
            (void)tn_fail(&error, TENON_INVALID, "%.*s%s%s", before, "abc", wide, wide);
            const size_t kept = strlen(error.message);
            assert_true(kept > TENON_ERROR_SIZE - 1 - length && (kept - (size_t)before) % length == 0);
            tn_text_add(&text, "%.*s%s", before, "abc", wide);
            tn_text_add(&text, "never seen");
            assert_true(text.length == strlen(data) && (text.length - (size_t)before) % length == 0);
        }
    }
}

static const char *quoted(const char *text, size_t capacity)
{
    static char shown[256];
    memset(shown, '#', sizeof shown);
    const size_t length = tenon_quote(shown, capacity, text, strlen(text));
    assert_true(length < capacity && shown[length] == '\0' && strlen(shown) == length);
    if (capacity < sizeof shown) assert_int_equal(shown[capacity], '#');
    return shown;
}

static void C37_names_are_shown_safely(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"", ""},
        {"a\nb\x1b[31m", "a\\x0ab\\x1b[31m"},
        {"\xc3\xbc \xe4\xb8\xad \xf0\x9f\x98\x80", "\xc3\xbc \xe4\xb8\xad \xf0\x9f\x98\x80"}, /* printable */
        {"\xc2\x9b"
         "31m",
         "\\u009b"
         "31m"},                                                                 /* CSI in one character */
        {"\xe2\x80\xaex", "\\u202ex"},                                           /* right to left */
        {"\xef\xbb\xbfx\xe2\x80\xa8", "\\ufeffx\\u2028"},                        /* byte order mark, line separator */
        {"\xf3\xa0\x81\x81", "\\U000e0041"},                                     /* tag */
        {"\xff\xc3\xc0\xaf\xed\xa0\x80", "\\xff\\xc3\\xc0\\xaf\\xed\\xa0\\x80"}, /* not UTF-8 */
        {"\xe2\x80", "\\xe2\\x80"},                                              /* ends early */
        {"\\x1b `lr`", "\\x5cx1b \\x60lr\\x60"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_string_equal(quoted(cases[i][0], 64), cases[i][1]);
    assert_string_equal(quoted("model.vision_tower.layers.17.mlp.fc1.weight", 32), "model.vision_t...mlp.fc1.weight");
    assert_string_equal(quoted("0123456789012345678901234567890", 32), "0123456789012345678901234567890");
    for (size_t capacity = 32; capacity < 60; capacity++) {
        quoted("\xe4\xb8\xad\xe4\xb8\xad\xe4\xb8\xad\xe4\xb8\xad\xe4\xb8\xad\xe4\xb8\xad\xe4\xb8\xad\xe4\xb8\xad\xe4"
               "\xb8\xad"
               "\xe4\xb8\xad\xe4\xb8\xad\xe4\xb8\xad\xe4\xb8\xad\xe4\xb8\xad\xe4\xb8\xad\xe4\xb8\xad\xe4\xb8\xad\xe4"
               "\xb8\xad",
               capacity);
        quoted("\a\a\a\a\a\a\a\a\a\a\a\a\a\a\a\a\a\a\a\a\a\a\a\a\a\a\a\a\a\a\a\a\a\a\a\a\a", capacity);
    }
}

static void nearest_names(void **state)
{
    (void)state;
    static const char *const names[] = {"pool_window", "pool_heads", "prefix_tokens", "ragged", "in_dim", "type"};
    static const char *const cases[][2] = {
        {"pool_windw", "pool_window"},
        {"windw", "pool_window"},
        {"window", "pool_window"},
        {"pool-window", "pool_window"},
        {"Pool_Heads", "pool_heads"},
        {"poolheads", "pool_heads"},
        {"raged", "ragged"},
        {"typ", "type"},
        {"tpye", "type"},
        {"colour", NULL},
        {"keep", NULL},
        {"", NULL},
        {"x", NULL},
        {"tokens", "prefix_tokens"},
        {"num_prefix_tokens", "prefix_tokens"},
        {"0123456789012345678901234567890123456789012345678901234567890123456789", NULL}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *found = tenon_nearest_name(cases[i][0], names, sizeof names / sizeof *names);
        if (cases[i][1] == NULL) {
            assert_null(found);
        } else {
            assert_non_null(found);
            assert_string_equal(found, cases[i][1]);
        }
    }
    assert_null(tenon_nearest_name("type", names, 0));
}

static void shape_bytes_are_checked(void **state)
{
    (void)state;
    size_t bytes = 77;
    assert_true(tn_shape_bytes(2, (int64_t[]){3, 5}, 4, &bytes));
    assert_int_equal(bytes, 60);
    assert_true(tn_shape_bytes(2, (int64_t[]){INT64_MAX, 0}, 4, &bytes));
    assert_int_equal(bytes, 0);
    assert_true(tn_shape_bytes(0, NULL, 4, &bytes));
    assert_int_equal(bytes, 4);
    assert_false(tn_shape_bytes(2, (int64_t[]){INT64_C(1) << 62, 4}, 1, &bytes));
    assert_false(tn_shape_bytes(2, (int64_t[]){-1, 0}, 1, &bytes));
}

/* Every binary16 and bfloat16 survives widening and rounding, NaN as NaN. */
static void half_formats_round_trip(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 65536; i++) {
        const float f16 = tn_f16_to_f32((uint16_t)i), bf16 = tn_bf16_to_f32((uint16_t)i);
        if (isnan(f16)) {
            assert_true(isnan(tn_f16_to_f32(tn_f32_to_f16(f16))));
        } else {
            assert_int_equal(tn_f32_to_f16(f16), i);
        }
        if (isnan(bf16)) {
            assert_true(isnan(tn_bf16_to_f32(tn_f32_to_bf16(bf16))));
        } else {
            assert_int_equal(tn_f32_to_bf16(bf16), i);
        }
    }
    assert_int_equal(tn_f32_to_f16(65504.0f), 0x7bff);
    assert_int_equal(tn_f32_to_f16(65519.99f), 0x7bff);
    assert_int_equal(tn_f32_to_f16(65520.0f), 0x7c00);
    assert_int_equal(tn_f32_to_f16(0x1p-25f), 0); /* tie to even */
    assert_int_equal(tn_f32_to_f16(0x1.8p-25f), 1);
    assert_int_equal(tn_f32_to_f16(1.0f + 0x1p-11f), 0x3c00); /* tie to even */
    assert_int_equal(tn_f32_to_bf16(1.0f + 0x1p-8f), 0x3f80); /* tie to even */
    assert_int_equal(tn_f32_to_bf16(1.0f + 0x3p-8f), 0x3f82);
    assert_true(tn_bf16_to_f32(0x3f80) == 1.0f); /* B41 */
}

static void tensor_checks_name_the_fault(void **state)
{
    (void)state;
    float data[12] = {0};
    int64_t shape[3] = {2, 3, 2};
    DLTensor t = {data, {kDLCPU, 0}, 3, {kDLFloat, 32, 1}, shape, NULL, 0};
    tn_tensor view;
    tenon_error error;
    assert_int_equal(tn_tensor_view(&t, "x", 3, &view, &error), TENON_OK);
    assert_int_equal(view.stride[0], 6);
    assert_true(tn_tensor_is_dense(&view));
    t.device.device_type = kDLCUDA;
    assert_int_equal(tn_tensor_view(&t, "x", 3, &view, &error), TENON_UNSUPPORTED);
    assert_non_null(strstr(error.message, "x is on DLPack device 2:0"));
    t.device.device_type = kDLCUDAHost; /* pinned, but the host's */
    assert_int_equal(tn_tensor_view(&t, "x", 3, &view, &error), TENON_OK);
    t.device.device_type = kDLCPU;
    t.dtype.bits = 64;
    assert_int_equal(tn_tensor_view(&t, "x", 3, &view, &error), TENON_UNSUPPORTED);
    assert_non_null(strstr(error.message, "float64"));
    t.dtype.bits = 32;
    assert_int_equal(tn_tensor_view(&t, "x", 2, &view, &error), TENON_MISMATCH);
    assert_non_null(strstr(error.message, "3 dimensions [2, 3, 2]; expected 2"));
    shape[0] = INT64_C(1) << 60;
    shape[1] = 1 << 10;
    assert_int_equal(tn_tensor_view(&t, "x", 3, &view, &error), TENON_INVALID);
    shape[0] = 2, shape[1] = 3;
    int64_t wild[3] = {INT64_MAX, INT64_MAX, 1};
    t.strides = wild;
    assert_int_equal(tn_tensor_view(&t, "x", 3, &view, &error), TENON_INVALID);
    assert_non_null(strstr(error.message, "strides"));
    int64_t apart[3] = {INT64_MAX - 8, INT64_MIN + 100, 1};
    t.strides = apart;
    assert_int_equal(tn_tensor_view(&t, "x", 3, &view, &error), TENON_INVALID);
    int64_t single[3] = {INT64_MIN, 2, 1}; /* the stride of an axis of one element does not matter */
    shape[0] = 1;
    t.strides = single;
    assert_int_equal(tn_tensor_view(&t, "x", 3, &view, &error), TENON_OK);
    assert_true(tn_tensor_is_injective(&view));
    shape[0] = 0, shape[1] = INT64_C(1) << 62, shape[2] = 8;
    t.strides = NULL;
    assert_int_equal(tn_tensor_view(&t, "x", 3, &view, &error), TENON_OK);
    t.shape = NULL;
    assert_int_equal(tn_tensor_view(&t, "x", 3, &view, &error), TENON_INVALID);
    assert_non_null(strstr(error.message, "x has no shape"));
    t.shape = shape;
    shape[0] = 2, shape[1] = 3, shape[2] = 2;
    t.byte_offset = 2;
    assert_int_equal(tn_tensor_view(&t, "x", 3, &view, &error), TENON_INVALID);
    t.byte_offset = 0;
    t.data = NULL;
    assert_int_equal(tn_tensor_view(&t, "x", 3, &view, NULL), TENON_INVALID);
    shape[1] = 0;
    assert_int_equal(tn_tensor_view(&t, "x", 3, &view, NULL), TENON_OK);
    int64_t zeros[3] = {0, 0, 0}; /* as NumPy has them for arrays without elements */
    t.strides = zeros;
    assert_int_equal(tn_tensor_view(&t, "x", 3, &view, NULL), TENON_OK);
    assert_int_equal(view.stride[2], 1);
}

static void overlap_is_seen(void **state)
{
    (void)state;
    float data[64];
    tn_tensor a = {data, TN_F32, 1, {10}, {1}}, b = {data + 10, TN_F32, 1, {10}, {1}};
    assert_false(tn_tensor_overlap(&a, 4, &b, 4));
    b.data = data + 9;
    assert_true(tn_tensor_overlap(&a, 4, &b, 4));
    tn_tensor back = {data + 20, TN_F32, 1, {5}, {-2}};
    b.data = data + 12, b.shape[0] = 1;
    assert_true(tn_tensor_overlap(&back, 4, &b, 4));
    b.data = data + 11;
    assert_false(tn_tensor_overlap(&back, 4, &b, 4));
}

/* First and 1000th outputs for seed 5489, from the C++ standard's definition of std::mt19937. */
static void mt19937_is_the_standard_one(void **state)
{
    (void)state;
    tn_mt19937 rng;
    tn_mt19937_seed(&rng, 5489);
    assert_int_equal(tn_mt19937_draw(&rng), 3499211612u);
    for (int i = 2; i < 10000; i++)
        tn_mt19937_draw(&rng);
    assert_int_equal(tn_mt19937_draw(&rng), 4123659995u);
}

enum { num_tasks = 1000 };

static void count_task(void *argument, int64_t index, int worker)
{
    ((int *)argument)[index] += worker < 7 ? 1 : 100;
}

static void run_backwards(void *context, int count, void (*job)(void *argument, int index), void *argument)
{
    *(int *)context += 1;
    for (int i = count - 1; i >= 0; i--)
        job(argument, i);
}

static void every_task_runs_once(void **state)
{
    (void)state;
    int runs = 0;
    const tenon_executor own = {sizeof own, 5, run_backwards, &runs};
    for (int threads = 1; threads <= 7; threads += 3) {
        for (int with_executor = 0; with_executor < 2; with_executor++) {
            int hits[num_tasks] = {0};
            tn_parallel p;
            assert_int_equal(tn_parallel_init(&p, threads, with_executor ? &own : NULL, NULL), TENON_OK);
            tn_parallel_for(&p, num_tasks, count_task, hits);
            for (int i = 0; i < num_tasks; i++)
                assert_int_equal(hits[i], 1);
        }
    }
    assert_int_equal(runs, 2); /* one worker needs no executor */
    tn_parallel p;
    int threads;
    assert_int_equal(tn_parallel_init(&p, 0, NULL, NULL), TENON_OK);
    assert_int_equal(tenon_num_threads(&threads, NULL), TENON_OK);
    assert_int_equal(threads, p.workers);
}

static void numbers_of_threads_are_checked(void **state)
{
    (void)state;
    tn_parallel p;
    tenon_error error;
    tenon_executor own = {sizeof own, 5000, run_backwards, NULL};
    assert_int_equal(tn_parallel_init(&p, -1, NULL, &error), TENON_INVALID);
    assert_non_null(strstr(error.message, "threads"));
    assert_int_equal(tn_parallel_init(&p, 4097, NULL, &error), TENON_INVALID);
    assert_non_null(strstr(error.message, "4097; expected 0 (automatic) to 4096"));
    assert_int_equal(tn_parallel_init(&p, 0, &own, &error), TENON_INVALID);
    assert_non_null(strstr(error.message, "width of 5000 jobs at once; expected 1 to 4096"));
    own.run = NULL;
    assert_int_equal(tn_parallel_init(&p, 0, &own, &error), TENON_INVALID);
    assert_non_null(strstr(error.message, "no run function"));
    own.size = 0;
    assert_int_equal(tn_parallel_init(&p, 0, &own, &error), TENON_INVALID);
    assert_non_null(strstr(error.message, "tenon_executor_init"));
}

static void rounding_task(void *argument, int64_t index, int worker)
{
    (void)index;
    (void)worker;
    *(int *)argument |= fegetround() != FE_TONEAREST;
}

static void tasks_run_in_the_default_environment(void **state)
{
    (void)state;
    int wrong = 0;
    tn_parallel p;
    assert_int_equal(tn_parallel_init(&p, 2, NULL, NULL), TENON_OK);
    fesetround(FE_UPWARD);
    tn_parallel_for(&p, 8, rounding_task, &wrong);
    assert_int_equal(fegetround(), FE_UPWARD);
    fesetround(FE_TONEAREST);
    assert_int_equal(wrong, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(quotes_hostile_names),
        cmocka_unit_test(c40_lists_are_cut_with_a_count),
        cmocka_unit_test(c37_sentences_are_cut_between_characters),
        cmocka_unit_test(C37_names_are_shown_safely),
        cmocka_unit_test(nearest_names),
        cmocka_unit_test(shape_bytes_are_checked),
        cmocka_unit_test(half_formats_round_trip),
        cmocka_unit_test(tensor_checks_name_the_fault),
        cmocka_unit_test(overlap_is_seen),
        cmocka_unit_test(mt19937_is_the_standard_one),
        cmocka_unit_test(every_task_runs_once),
        cmocka_unit_test(tasks_run_in_the_default_environment),
        cmocka_unit_test(numbers_of_threads_are_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
