/* SPDX-License-Identifier: MIT */
/* Files of tensors that come through a descriptor, and such that go out through one. */
#include "scratch.h"
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static const DLDataType f32 = {kDLFloat, 32, 1}, f16 = {kDLFloat, 16, 1};
static const char header[] = "{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }";
static const float three[3] = {1, -2, 3.5f};

typedef struct transfer {
    int descriptor;
    const char *data;
    size_t size;
} transfer;

static void *send_all(void *argument)
{
    const transfer *t = argument;
    for (size_t done = 0; done < t->size;) {
        const ssize_t put = write(t->descriptor, t->data + done, t->size - done < 7000 ? t->size - done : 7000);
        if (put < 0) break;
        done += (size_t)put;
    }
    close(t->descriptor);
    return NULL;
}

static char *read_whole(const char *path, size_t *size)
{
    FILE *in = fopen(path, "rb");
    assert_non_null(in);
    fseek(in, 0, SEEK_END);
    *size = (size_t)ftell(in);
    char *data = malloc(*size + 1);
    rewind(in);
    assert_int_equal(fread(data, 1, *size, in), *size);
    fclose(in);
    return data;
}

/* Opens what `path` holds through a pipe; the status is told. */
static tenon_status open_piped(const char *path, int flags, tenon_file **file, tenon_error *error)
{
    int ends[2];
    size_t size;
    char *data = read_whole(path, &size);
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(fcntl(ends[0], F_SETFL, flags), 0);
    transfer t = {ends[1], data, size};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, send_all, &t), 0);
    const tenon_status status = tenon_file_open_stream(ends[0], "standard input", NULL, file, error);
    pthread_join(thread, NULL);
    char rest;
    assert_true(status != TENON_OK || read(ends[0], &rest, 1) == 0); /* read to its end, and still open */
    close(ends[0]);
    free(data);
    return status;
}

static void reads_pipes(void **state)
{
    (void)state;
    tenon_error error = {""};
    tenon_file *file = NULL;
    const char *path = scratch_npy("a.npy", 1, header, three, sizeof three);
    for (int i = 0; i < 2; i++) {
        if (open_piped(path, i == 0 ? 0 : O_NONBLOCK, &file, &error) != TENON_OK) fail_msg("%s", error.message);
        assert_string_equal(tenon_file_kind(file), "npy");
        expect_tensor(file, "", f32, 1, (int64_t[]){3}, three, sizeof three);
        tenon_file_close(file);
    }
    static float many[300000];
    for (int i = 0; i < 300000; i++)
        many[i] = (float)i;
    path = scratch_safetensors("a.safetensors",
                               "{\"a\":{\"dtype\":\"F32\",\"shape\":[300000],\"data_offsets\":[0,1200000]}}", many,
                               sizeof many);
    if (open_piped(path, 0, &file, &error) != TENON_OK) fail_msg("%s", error.message);
    expect_tensor(file, "a", f32, 1, (int64_t[]){300000}, many, sizeof many);
    tenon_file_close(file);
}

static void reads_regular_files_in_place(void **state)
{
    (void)state;
    tenon_error error = {""};
    tenon_file *file = NULL;
    const char *path = scratch_npy("a.npy", 1, header, three, sizeof three);
    size_t size;
    char *npy = read_whole(path, &size);
    int descriptor = open(path, O_RDONLY);
    assert_int_equal(tenon_file_open_stream(descriptor, "standard input", NULL, &file, &error), TENON_OK);
    assert_int_equal(lseek(descriptor, 0, SEEK_CUR), 0);
    close(descriptor);
    assert_int_equal(truncate(path, 80), 0); /* in place, so that a change is noticed */
    float data[3];
    assert_int_equal(tenon_file_read(file, 0, 0, 3, data, sizeof data, &error), TENON_BAD_FILE);
    expect_message(&error, "standard input: ", NULL);
    tenon_file_close(file);
    char *late = malloc(size + 5);
    memcpy(late, "first", 5);
    memcpy(late + 5, npy, size);
    descriptor = open(scratch_write("late.npy", late, size + 5), O_RDONLY); /* from where the descriptor stands */
    assert_int_equal(lseek(descriptor, 5, SEEK_SET), 5);
    assert_int_equal(tenon_file_open_stream(descriptor, "standard input", NULL, &file, &error), TENON_OK);
    expect_tensor(file, "", f32, 1, (int64_t[]){3}, three, sizeof three);
    tenon_file_close(file);
    close(descriptor);
    free(late);
    free(npy);
}

static void expect_no_stream(int descriptor, tenon_status status, const char *words)
{
    tenon_error error = {""};
    tenon_file *file = NULL;
    assert_int_equal(tenon_file_open_stream(descriptor, "standard input", NULL, &file, &error), status);
    assert_null(file);
    expect_message(&error, "standard input", words, NULL);
    if (descriptor >= 0) close(descriptor);
}

static void refuses_streams(void **state)
{
    (void)state;
    tenon_error error = {""};
    tenon_file *file = NULL;
    expect_no_stream(-1, TENON_IO, "Bad file descriptor");
    expect_no_stream(open(scratch_folder("folder"), O_RDONLY), TENON_INVALID, "is a folder");
    const int terminal = posix_openpt(O_RDWR | O_NOCTTY);
    if (terminal >= 0 && grantpt(terminal) == 0 && unlockpt(terminal) == 0) {
        expect_no_stream(open(ptsname(terminal), O_RDWR | O_NOCTTY), TENON_INVALID, "is a terminal");
        close(terminal);
    }
    expect_no_stream(open("/dev/null", O_RDONLY), TENON_BAD_FILE, "is empty");
    const char *path = scratch_write("index.json", "{\"weight_map\":{\"a\":\"1.safetensors\"}}", 36);
    assert_int_equal(open_piped(path, 0, &file, &error), TENON_INVALID);
    expect_message(&error, "standard input: is an index of shards", "name its file", NULL);
    assert_int_equal(open_piped(scratch_write("page", "<html>", 6), 0, &file, &error), TENON_BAD_FILE);
    expect_message(&error, "standard input: is an HTML page", NULL);
    char *folder = getenv("TMPDIR") != NULL ? strdup(getenv("TMPDIR")) : NULL;
    setenv("TMPDIR", "/no/such/folder", 1);
    assert_int_equal(open_piped(scratch_npy("a.npy", 1, header, three, 12), 0, &file, &error), TENON_NOT_FOUND);
    expect_message(&error, "/no/such/folder", "TMPDIR", NULL);
    if (folder != NULL) setenv("TMPDIR", folder, 1);
    if (folder == NULL) unsetenv("TMPDIR");
    free(folder);
    assert_null(file);
    assert_int_equal(tenon_file_open_stream(0, NULL, NULL, &file, &error), TENON_INVALID);
}

/* ---- out ---- */

static void writes_to_pipes(void **state)
{
    (void)state;
    static const char *const formats[] = {"npy", "safetensors"};
    for (int i = 0; i < 2; i++) {
        int ends[2];
        tenon_error error = {""};
        tenon_writer *writer = NULL;
        tenon_file *file = NULL;
        assert_int_equal(pipe(ends), 0);
        assert_int_equal(tenon_writer_new_stream(ends[1], "standard output", formats[i], &writer, &error), TENON_OK);
        assert_int_equal(tenon_writer_add(writer, "a", f32, 1, (int64_t[]){3}, NULL, &error), TENON_OK);
        assert_int_equal(tenon_writer_set_direct(writer, &error), TENON_OK); /* means nothing here */
        assert_int_equal(tenon_writer_write(writer, 0, three, 4, &error), TENON_OK);
        assert_int_equal(tenon_writer_write(writer, 0, three + 1, 8, &error), TENON_OK);
        assert_int_equal(tenon_writer_commit(writer, &error), TENON_OK);
        tenon_writer_free(writer);
        assert_int_equal(fcntl(ends[1], F_GETFD), 0); /* still the caller's */
        close(ends[1]);
        assert_int_equal(tenon_file_open_stream(ends[0], "a pipe", NULL, &file, &error), TENON_OK);
        assert_string_equal(tenon_file_kind(file), formats[i]);
        expect_tensor(file, i == 0 ? "" : "a", f32, 1, (int64_t[]){3}, three, sizeof three);
        tenon_file_close(file);
        close(ends[0]);
    }
}

static void says_what_a_stream_cannot(void **state)
{
    (void)state;
    int ends[2];
    tenon_error error = {""};
    tenon_writer *writer = NULL;
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(tenon_writer_new_stream(ends[1], "standard output", "pt", &writer, &error), TENON_INVALID);
    expect_message(&error, "standard output: 'pt' is no format", "npy or safetensors", NULL);
    assert_int_equal(tenon_writer_new_stream(ends[1], "standard output", NULL, &writer, &error), TENON_INVALID);
    assert_int_equal(tenon_writer_new_stream(-1, "standard output", "npy", &writer, &error), TENON_IO);
    assert_int_equal(tenon_writer_new_stream(ends[1], NULL, "npy", &writer, &error), TENON_INVALID);
    assert_null(writer);
    assert_int_equal(tenon_writer_new_stream(ends[1], "standard output", "safetensors", &writer, &error), TENON_OK);
    assert_int_equal(tenon_writer_add(writer, "small", f16, 1, (int64_t[]){2}, NULL, &error), TENON_OK);
    assert_int_equal(tenon_writer_add(writer, "large", f32, 1, (int64_t[]){3}, NULL, &error), TENON_OK);
    assert_int_equal(tenon_writer_write(writer, 0, three, 4, &error), TENON_INVALID);
    expect_message(&error, "tensor 'small' does not come next", NULL);
    assert_int_equal(tenon_writer_write(writer, 1, three, 12, &error), TENON_OK);
    assert_int_equal(tenon_writer_write(writer, 0, three, 4, &error), TENON_OK);
    assert_int_equal(tenon_writer_commit(writer, &error), TENON_OK);
    tenon_writer_free(writer);
    close(ends[0]);
    signal(SIGPIPE, SIG_IGN);
    assert_int_equal(tenon_writer_new_stream(ends[1], "standard output", "npy", &writer, &error), TENON_OK);
    assert_int_equal(tenon_writer_add(writer, NULL, f32, 1, (int64_t[]){3}, NULL, &error), TENON_OK);
    assert_int_equal(tenon_writer_write(writer, 0, three, 12, &error), TENON_IO);
    expect_message(&error, "standard output: cannot write it: Broken pipe", NULL);
    tenon_writer_free(writer);
    close(ends[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_pipes),
        cmocka_unit_test(reads_regular_files_in_place),
        cmocka_unit_test(refuses_streams),
        cmocka_unit_test(writes_to_pipes),
        cmocka_unit_test(says_what_a_stream_cannot),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
