/* SPDX-License-Identifier: MIT */
/* Memory: hostile headers make no large allocations, and every allocation that fails is a sentence, leaks nothing and
 * leaves no file behind. Linked so that the library's calls of malloc and its kin come here (see CMakeLists.txt). */
#include "scratch.h"
#include <dirent.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define DATA TESTS_DIR "/data/formats/"

static int64_t calls;    /* since start_counting */
static int64_t fail_at;  /* the call that fails, counted from 1; 0: none */
static size_t requested; /* bytes asked for since start_counting */

static bool may_allocate(size_t size)
{
    requested += size;
    return ++calls != fail_at;
}

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *data, size_t size);
char *__real_strdup(const char *text);
char *__real_strndup(const char *text, size_t size);

void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *data, size_t size);
char *__wrap_strdup(const char *text);
char *__wrap_strndup(const char *text, size_t size);

void *__wrap_malloc(size_t size)
{
    return may_allocate(size) ? __real_malloc(size) : NULL;
}

void *__wrap_calloc(size_t count, size_t size)
{
    return may_allocate(count * size) ? __real_calloc(count, size) : NULL;
}

void *__wrap_realloc(void *data, size_t size)
{
    return may_allocate(size) ? __real_realloc(data, size) : NULL;
}

char *__wrap_strdup(const char *text)
{
    return may_allocate(strlen(text) + 1) ? __real_strdup(text) : NULL;
}

char *__wrap_strndup(const char *text, size_t size)
{
    return may_allocate(size + 1) ? __real_strndup(text, size) : NULL;
}

static void start_counting(int64_t fail)
{
    calls = 0;
    requested = 0;
    fail_at = fail;
}

static int count_descriptors(void)
{
    int count = 0;
    DIR *folder = opendir("/proc/self/fd");
    if (folder == NULL) return 0;
    while (readdir(folder) != NULL)
        count++;
    closedir(folder);
    return count;
}

/* ---- hostile sizes ---- */

/* B84, B85, B106: whatever a 12- to 80-byte file announces, less than 64 KiB are asked for in all. */
static void hostile_headers_allocate_little(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        size_t size;
    } files[] = {
        {"\x40\x9d\xdf\x07\0\0\0\0{\"a\":{\"dtyp", 20}, /* B84 */
        {"\0\0\0\0\0\0\0\x80{\"a\":{\"d", 16},          /* B85 */
        {"\xff\xff\xff\xff\xff\xff\xff\xff{\"a\":{\"d", 16},
        {"\xf8\xff\xff\xff\xff\xff\xff\xff{\"a\":{\"d", 16},
        {"\x09\0\0\0\0\0\0\0{\"a\":{\"d", 16},
        {"\0\0\0\0\0\0\0\0{\"a\":{\"d", 16},
        {"GGUF\3\0\0\0\xff\xff\xff\xff\xff\xff\xff\x0f\0\0\0\0\0\0\0\0", 24}, /* B95 */
        {"GGUF\3\0\0\0\0\0\0\0\0\0\0\0\xff\xff\xff\xff\xff\xff\xff\x0f", 24},
        {"GGUF\3\0\0\0\0\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff........", 40},
        {"GGUF\3\0\0\0\0\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0k\x08\0\0\0\0\0\0\0\1\0\0\0", 45},
        {"\x93NUMPY\2\0\xf0\xff\xff\xff", 12}, /* B106 */
        {"\x93NUMPY\1\0\xff\xff{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }            ", 80},
    };
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        const char *path = scratch_write("hostile", files[i].bytes, files[i].size);
        tenon_file *file = NULL;
        start_counting(0);
        assert_int_equal(tenon_file_open(path, NULL, &file, NULL), TENON_BAD_FILE);
        assert_true(requested < 65536);
    }
    static const char *const shapes[] = {"[1000,1000]", "[4611686018427387904]", "[2305843009213693952,0,4]"};
    for (int i = 0; i < 3; i++) { /* B86 */
        char header[256];
        snprintf(header, sizeof header, "{\"a\":{\"dtype\":\"F8_E4M3\",\"shape\":%s,\"data_offsets\":[0,0]}}",
                 shapes[i]);
        const char *path = scratch_safetensors("hostile", header, NULL, 0);
        tenon_file *file = NULL;
        start_counting(0);
        assert_int_equal(tenon_file_open(path, NULL, &file, NULL), i < 2 ? TENON_BAD_FILE : TENON_OK);
        if (file != NULL) assert_int_equal(tenon_file_read(file, 0, 0, INT64_C(1) << 61, NULL, 0, NULL), TENON_OK);
        assert_true(requested < 65536);
        tenon_file_close(file);
    }
}

/* Reading a tensor, converted or not, allocates nothing. */
static void reads_allocate_nothing(void **state)
{
    (void)state;
    static const char *const paths[] = {DATA "dtypes.safetensors", DATA "types.gguf"};
    for (int p = 0; p < 2; p++) {
        tenon_file *file = NULL;
        assert_int_equal(tenon_file_open(paths[p], NULL, &file, NULL), TENON_OK);
        start_counting(0);
        char data[4096];
        tenon_file_tensor tensor;
        tenon_file_tensor_init(&tensor);
        for (int64_t i = 0; i < tenon_file_num_tensors(file); i++) {
            assert_int_equal(tenon_file_get_tensor(file, i, &tensor, NULL), TENON_OK);
            const int64_t slices = tensor.ndim > 0 ? tensor.shape[0] : 1;
            assert_int_equal(tenon_file_read(file, i, 0, slices, data, sizeof data, NULL), TENON_OK);
        }
        assert_int_equal(calls, 0);
        tenon_file_close(file);
    }
}

/* B116: of a large unaligned file only what is asked for is read; nothing is copied on the way. */
static void b116_large_file_small_tensor(void **state)
{
    (void)state;
    char header[256];
    snprintf(header, sizeof header,
             "{\"s\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},\"large\":{\"dtype\":\"U8\","
             "\"shape\":[67108864],\"data_offsets\":[8,67108872]}}");
    while (strlen(header) % 8 != 1)
        strcat(header, " ");
    const char *path = scratch_safetensors("large", header, "\0\0\x80\x3f\0\0\0\x40", 8);
    assert_int_equal(truncate(path, (off_t)(8 + strlen(header) + 67108872)), 0);
    tenon_file *file = NULL;
    start_counting(0);
    assert_int_equal(tenon_file_open(path, NULL, &file, NULL), TENON_OK);
    float data[2];
    assert_int_equal(tenon_file_read(file, 0, 0, 2, data, sizeof data, NULL), TENON_OK);
    assert_true(data[0] == 1 && data[1] == 2);
    assert_true(requested < 65536);
    tenon_file_close(file);
}

/* ---- allocations that fail ---- */

typedef tenon_status (*action)(tenon_error *error);

/* Runs the action with its first allocation failing, then its second, ... until it succeeds. */
static tenon_adapter *adapter;

static tenon_status save_adapter(tenon_error *error)
{
    return tenon_adapter_save(adapter, scratch_path("memory-adapter.safetensors"), NULL, error);
}

static tenon_status save_trainer(tenon_error *error)
{
    tenon_trainer *trainer = NULL;
    tenon_status status = tenon_trainer_new(adapter, NULL, &trainer, error);
    if (status == TENON_OK) {
        status = tenon_trainer_save(trainer, scratch_path("memory-run.safetensors"), "{}", error);
    }
    tenon_trainer_free(trainer);
    return status;
}

static void fail_each_allocation(action run)
{
    const int files = scratch_count();
    tenon_error error;
    start_counting(0);
    assert_int_equal(run(&error), TENON_OK);
    const int64_t all = calls;
    assert_true(all > 3);
    const int descriptors = count_descriptors(), files_after = scratch_count();
    for (int64_t n = 1; n <= all; n++) {
        error.message[0] = 0;
        start_counting(n);
        const tenon_status status = run(&error);
        start_counting(0);
        if (status != TENON_NO_MEMORY) fail_msg("allocation %d: %d %s", (int)n, status, error.message);
        expect_message(&error, "out of memory", NULL);
        assert_int_equal(count_descriptors(), descriptors);
        assert_int_equal(scratch_count(), files_after);
    }
    assert_true(files_after <= files + 1);
}

static tenon_status open_path(const char *path, tenon_error *error)
{
    tenon_file *file = NULL;
    const tenon_status status = tenon_file_open(path, NULL, &file, error);
    if (status == TENON_OK) tenon_file_close(file);
    if (status != TENON_OK) assert_null(file);
    return status;
}

static tenon_status open_safetensors(tenon_error *error)
{
    return open_path(DATA "dtypes.safetensors", error);
}

static tenon_status open_gguf(tenon_error *error)
{
    return open_path(DATA "types.gguf", error);
}

static tenon_status open_folder(tenon_error *error)
{
    return open_path(DATA "sharded", error);
}

/* An index that is a link, of a shard that is not there. */
static tenon_status open_absent(tenon_error *error)
{
    return open_path(scratch_path("absent.json"), error);
}

static tenon_status open_stream(tenon_error *error)
{
    int ends[2];
    char data[512];
    FILE *in = fopen(DATA "version1.npy", "rb");
    const size_t size = fread(data, 1, sizeof data, in);
    fclose(in);
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(write(ends[1], data, size), size);
    close(ends[1]);
    tenon_file *file = NULL;
    const tenon_status status = tenon_file_open_stream(ends[0], "a pipe", NULL, &file, error);
    close(ends[0]);
    tenon_file_close(file);
    return status;
}

static tenon_status open_npy(tenon_error *error)
{
    return open_path(DATA "version1.npy", error);
}

static tenon_status fill_gguf(tenon_writer *writer, tenon_error *error)
{
    const float values[64] = {0};
    tenon_status status = tenon_writer_set_metadata(writer, "key", "value", error);
    if (status == TENON_OK) status = tenon_writer_add_as(writer, "tensor", "Q8_0", 1, (int64_t[]){64}, NULL, error);
    if (status == TENON_OK) status = tenon_writer_write(writer, 0, values, sizeof values, error);
    return status == TENON_OK ? tenon_writer_commit(writer, error) : status;
}

static tenon_status write_gguf(tenon_error *error)
{
    tenon_writer *writer = NULL;
    tenon_status status = tenon_writer_new(scratch_path("memory.gguf"), &writer, error);
    if (status != TENON_OK) return status;
    status = fill_gguf(writer, error);
    tenon_writer_free(writer);
    return status;
}

static tenon_status fill_writer(tenon_writer *writer, bool is_npy, tenon_error *error)
{
    int64_t index = 0;
    if (!is_npy) {
        tenon_status status = tenon_writer_set_metadata(writer, "format", "pt", error);
        if (status != TENON_OK) return status;
    }
    for (int i = 0; i < (is_npy ? 1 : 20); i++) {
        char name[32];
        snprintf(name, sizeof name, "tensor%d", i);
        tenon_status status =
            tenon_writer_add(writer, name, (DLDataType){kDLUInt, 8, 1}, 2, (int64_t[]){2, 2}, &index, error);
        if (status != TENON_OK) return status;
    }
    for (int i = 0; i <= index; i++) {
        tenon_status status = tenon_writer_write(writer, i, "abcd", 4, error);
        if (status != TENON_OK) return status;
    }
    return tenon_writer_commit(writer, error);
}

static tenon_status write_path(const char *path, bool is_npy, tenon_error *error)
{
    tenon_writer *writer = NULL;
    tenon_status status = tenon_writer_new(path, &writer, error);
    if (status != TENON_OK) return status;
    status = fill_writer(writer, is_npy, error);
    tenon_writer_free(writer);
    return status;
}

static tenon_status write_safetensors(tenon_error *error)
{
    return write_path(scratch_path("memory.safetensors"), false, error);
}

static tenon_status write_npy(tenon_error *error)
{
    return write_path(scratch_path("memory.npy"), true, error);
}

static tenon_status write_through_link(tenon_error *error)
{
    return write_path(scratch_path("memory-link.npy"), true, error);
}

static void each_failure_is_told(void **state)
{
    (void)state;
    fail_each_allocation(open_safetensors);
    fail_each_allocation(open_folder);
    fail_each_allocation(open_npy);
    fail_each_allocation(open_stream);
    const char index[] = "{\"weight_map\":{\"a\":\"1.safetensors\",\"b\":\"1.safetensors\"}}";
    scratch_write("real.json", index, sizeof index - 1);
    assert_int_equal(symlink("real.json", scratch_path("absent.json")), 0);
    fail_each_allocation(open_absent);
    /* Jansson's parser is left out: it asserts, or drops characters, where an allocation of its own fails. */
    json_set_alloc_funcs(__wrap_malloc, free);
    fail_each_allocation(open_gguf);
    fail_each_allocation(write_safetensors);
    fail_each_allocation(write_npy);
    fail_each_allocation(write_gguf);
    assert_int_equal(symlink("memory-linked.npy", scratch_path("memory-link.npy")), 0);
    fail_each_allocation(write_through_link);
    json_set_alloc_funcs(malloc, free);
}

/* The same of connectors and trainers; a file that is there stays. */
static void each_failure_of_training_is_told(void **state)
{
    (void)state;
    tenon_config *config;
    tenon_error error;
    assert_int_equal(tenon_config_new("mlp_2layer", &config, &error), TENON_OK);
    assert_int_equal(tenon_adapter_new(config, 4, 3, NULL, &adapter, &error), TENON_OK);
    assert_int_equal(tenon_adapter_reset_parameters(adapter, TENON_BF16, 1, &error), TENON_OK);
    assert_int_equal(save_trainer(&error), TENON_OK); /* what is read once, as the CPU quota, is read now */
    json_set_alloc_funcs(__wrap_malloc, free);
    fail_each_allocation(save_adapter);
    fail_each_allocation(save_trainer);
    json_set_alloc_funcs(malloc, free);
    tenon_adapter_free(adapter);
    tenon_config_free(config);
}

/* B141: a thousand failures in a row leave no descriptor and no file. */
static void failures_do_not_add_up(void **state)
{
    (void)state;
    scratch_safetensors("fails", "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,3]}}", "abc", 3);
    const int descriptors = count_descriptors(), files = scratch_count();
    for (int i = 0; i < 1000; i++) {
        tenon_file *file = NULL;
        assert_int_equal(tenon_file_open(scratch_path("fails"), NULL, &file, NULL), TENON_BAD_FILE);
        tenon_writer *writer = NULL;
        assert_int_equal(tenon_writer_new(scratch_path("never.npy"), &writer, NULL), TENON_OK);
        assert_int_equal(tenon_writer_commit(writer, NULL), TENON_INVALID);
        tenon_writer_free(writer);
    }
    assert_int_equal(count_descriptors(), descriptors);
    assert_int_equal(scratch_count(), files);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hostile_headers_allocate_little), cmocka_unit_test(reads_allocate_nothing),
        cmocka_unit_test(b116_large_file_small_tensor),    cmocka_unit_test(each_failure_is_told),
        cmocka_unit_test(failures_do_not_add_up),          cmocka_unit_test(each_failure_of_training_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
