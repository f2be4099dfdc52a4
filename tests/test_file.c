/* SPDX-License-Identifier: MIT */
/* Files: inputs that are not what they seem or change while they are read; outputs that appear whole or not at all. */
#include "core/file.h"
#include "scratch.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static tn_input *open_input(const char *path)
{
    tenon_error error;
    tn_input *input = NULL;
    if (tn_input_open(path, &input, &error) != TENON_OK) fail_msg("%s", error.message);
    return input;
}

static tn_output *open_output(const char *path)
{
    tenon_error error;
    tn_output *output = NULL;
    if (tn_output_open(path, &output, &error) != TENON_OK) fail_msg("%s", error.message);
    return output;
}

/* ---- inputs ---- */

static void reads_at_offsets(void **state)
{
    (void)state;
    tn_input *input = open_input(scratch_write("in", "0123456789", 10));
    char data[4] = "";
    tenon_error error;
    assert_int_equal(tn_input_size(input), 10);
    assert_int_equal(tn_input_read(input, 7, data, 3, &error), TENON_OK);
    assert_string_equal(data, "789");
    assert_int_equal(tn_input_read(input, 10, data, 0, &error), TENON_OK);
    assert_int_equal(tn_input_read(input, 8, data, 3, &error), TENON_BAD_FILE);
    expect_message(&error, "3 bytes wanted at byte 8", "ends at byte 10", NULL);
    assert_int_equal(tn_input_read(input, UINT64_MAX, data, 3, &error), TENON_BAD_FILE);
    assert_int_equal(tn_input_read(input, 1, data, SIZE_MAX, &error), TENON_BAD_FILE);
    tn_input_close(input);
    tn_input_close(NULL);
}

static void expect_no_input(const char *path, tenon_status status, const char *message)
{
    tenon_error error = {""};
    tn_input *input = NULL;
    assert_int_equal(tn_input_open(path, &input, &error), status);
    assert_null(input);
    expect_message(&error, message, NULL);
}

static void opens_regular_files_only(void **state)
{
    (void)state;
    expect_no_input(scratch_folder("folder"), TENON_INVALID, "is a folder");
    const char *pipe = scratch_path("pipe");
    assert_int_equal(mkfifo(pipe, 0666), 0);
    expect_no_input(pipe, TENON_INVALID, "is a pipe"); /* and does not wait for a writer */
    expect_no_input("/dev/null", TENON_INVALID, "is a device");
    expect_no_input(scratch_path("absent"), TENON_NOT_FOUND, "No such file");
    expect_no_input(scratch_path("folder/absent/x"), TENON_NOT_FOUND, "No such file");
    expect_no_input("", TENON_NOT_FOUND, "No such file");
    const char *loop = scratch_path("loop");
    assert_int_equal(symlink("loop", loop), 0);
    expect_no_input(loop, TENON_IO, "links");
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%.100s", scratch_path("socket"));
    const int listener = socket(AF_UNIX, SOCK_STREAM, 0);
    if (listener >= 0 && bind(listener, (struct sockaddr *)&address, sizeof address) == 0) {
        expect_no_input(scratch_path("socket"), TENON_INVALID, "is a socket");
    }
    if (listener >= 0) close(listener);
}

static void expect_changed(tn_input *input, const char *message)
{
    char data[4];
    tenon_error error = {""};
    assert_int_equal(tn_input_read(input, 0, data, 4, &error), TENON_BAD_FILE);
    expect_message(&error, message, NULL);
    tn_input_close(input);
}

static void notices_changes(void **state)
{
    (void)state;
    const char *path = scratch_write("changing", "0123456789", 10);
    tn_input *input = open_input(path);
    assert_int_equal(truncate(path, 2), 0);
    expect_changed(input, "ended at byte 2 of 10");
    input = open_input(scratch_write("changing", "0123456789", 10));
    assert_int_equal(truncate(path, 5), 0);
    expect_changed(input, "from 10 to 5 bytes");
    input = open_input(scratch_write("changing", "0123456789", 10));
    assert_int_equal(truncate(path, 20), 0);
    expect_changed(input, "from 10 to 20 bytes");
    input = open_input(scratch_write("changing", "0123456789", 10));
    const struct timespec times[2] = {{0, UTIME_OMIT}, {1000, 1}};
    assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
    expect_changed(input, "was changed");
    /* A file that was replaced is still there for those who have it open. */
    input = open_input(scratch_write("changing", "0123456789", 10));
    assert_int_equal(rename(scratch_write("other", "abcdefghij", 10), path), 0);
    char data[11] = "";
    assert_int_equal(tn_input_read(input, 0, data, 10, NULL), TENON_OK);
    assert_string_equal(data, "0123456789");
    tn_input_close(input);
}

/* ---- outputs ---- */

static void appears_when_committed(void **state)
{
    (void)state;
    const char *path = scratch_path("out");
    const int before = scratch_count();
    tn_output *output = open_output(path);
    assert_int_equal(tn_output_write(output, 3, "def", 3, NULL), TENON_OK);
    assert_int_equal(tn_output_write(output, 0, "abc", 3, NULL), TENON_OK);
    assert_int_equal(access(path, F_OK), -1);
    assert_int_equal(tn_output_commit(output, NULL), TENON_OK);
    expect_content(path, "abcdef");
    assert_int_equal(tn_output_write(output, 0, "x", 1, NULL), TENON_INVALID);
    assert_int_equal(tn_output_commit(output, NULL), TENON_INVALID);
    tn_output_free(output);
    expect_content(path, "abcdef");
    assert_int_equal(scratch_count(), before + 1);
}

static void leaves_the_old_file_when_given_up(void **state)
{
    (void)state;
    const char *path = scratch_write("old", "old content", 11);
    const int before = scratch_count();
    tn_output *first = open_output(path), *second = open_output(path); /* two at once do not meet */
    assert_int_equal(tn_output_write(first, 0, "new", 3, NULL), TENON_OK);
    assert_int_equal(tn_output_write(second, 0, "newer", 5, NULL), TENON_OK);
    tn_output_free(first);
    expect_content(path, "old content");
    assert_int_equal(tn_output_commit(second, NULL), TENON_OK);
    tn_output_free(second);
    tn_output_free(NULL);
    expect_content(path, "newer");
    assert_int_equal(scratch_count(), before);
}

static mode_t mode_of(const char *path)
{
    struct stat status;
    assert_int_equal(stat(path, &status), 0);
    return status.st_mode & 07777;
}

static void commit_text(const char *path, const char *text)
{
    tn_output *output = open_output(path);
    assert_int_equal(tn_output_write(output, 0, text, strlen(text), NULL), TENON_OK);
    assert_int_equal(tn_output_commit(output, NULL), TENON_OK);
    tn_output_free(output);
}

static void c3_keeps_modes(void **state)
{
    (void)state;
    const mode_t mask = umask(027);
    const char *path = scratch_path("mode");
    commit_text(path, "1");
    assert_int_equal(mode_of(path), 0640);
    assert_int_equal(chmod(path, 0604), 0);
    commit_text(path, "2");
    assert_int_equal(mode_of(path), 0604);
    umask(mask);
}

/* C3: and, as far as one may, owner and group. */
static void c3_keeps_owners(void **state)
{
    (void)state;
    if (geteuid() != 0) skip();
    const char *path = scratch_write("owned", "1", 1);
    assert_int_equal(chown(path, 12345, 54321), 0);
    assert_int_equal(chmod(path, 0640), 0);
    commit_text(path, "2");
    struct stat status;
    assert_int_equal(stat(path, &status), 0);
    assert_int_equal(status.st_uid, 12345);
    assert_int_equal(status.st_gid, 54321);
    assert_int_equal(status.st_mode & 07777, 0640);
}

static void expect_no_output(const char *path, tenon_status status, const char *message)
{
    tenon_error error = {""};
    tn_output *output = NULL;
    const int before = scratch_count();
    assert_int_equal(tn_output_open(path, &output, &error), status);
    assert_null(output);
    expect_message(&error, message, NULL);
    assert_int_equal(scratch_count(), before);
}

static void replaces_regular_files_only(void **state)
{
    (void)state;
    expect_no_output("/dev/full", TENON_INVALID, "/dev/full: is a device");
    expect_no_output("/dev/null", TENON_INVALID, "is a device");
    expect_no_output(scratch_folder("target"), TENON_INVALID, "is a folder");
    expect_no_output("", TENON_INVALID, "not the name of a file");
    expect_no_output(scratch_path("target/"), TENON_INVALID, "not the name of a file");
    expect_no_output(scratch_path("nowhere/x"), TENON_NOT_FOUND, "No such file");
    const char *pipe = scratch_path("pipe2");
    assert_int_equal(mkfifo(pipe, 0666), 0);
    expect_no_output(pipe, TENON_INVALID, "is a pipe");
    const char *link = scratch_path("to-null");
    assert_int_equal(symlink("/dev/null", link), 0);
    expect_no_output(link, TENON_INVALID, "to-null: is a device");
    const char *loop = scratch_path("ring");
    assert_int_equal(symlink("ring", loop), 0);
    expect_no_output(loop, TENON_IO, "symbolic links");
}

static void writes_through_links(void **state)
{
    (void)state;
    scratch_folder("linked");
    const char *first = scratch_path("first"), *second = scratch_path("linked/second"),
               *end = scratch_path("linked/end");
    assert_int_equal(symlink("linked/second", first), 0);
    assert_int_equal(symlink("end", second), 0);
    commit_text(first, "made"); /* the end did not exist */
    expect_content(end, "made");
    commit_text(first, "again");
    expect_content(end, "again");
    struct stat status;
    assert_int_equal(lstat(first, &status), 0);
    assert_true(S_ISLNK(status.st_mode));
    char absolute[1024];
    snprintf(absolute, sizeof absolute, "%s", end);
    assert_int_equal(unlink(first), 0);
    assert_int_equal(symlink(absolute, first), 0);
    commit_text(first, "third");
    expect_content(end, "third");
}

static void says_when_the_disk_is_full(void **state)
{
    (void)state;
    const char *path = scratch_write("full", "old", 3);
    const int before = scratch_count();
    struct rlimit limit;
    getrlimit(RLIMIT_FSIZE, &limit);
    const struct rlimit tight = {1000, limit.rlim_max};
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &tight), 0);
    static char data[4000];
    tenon_error error = {""};
    tn_output *output = open_output(path);
    /* A short write first, then the reason. */
    assert_int_equal(tn_output_write(output, 0, data, sizeof data, &error), TENON_IO);
    expect_message(&error, "full: cannot write it: File too large", NULL);
    assert_int_equal(tn_output_write(output, UINT64_MAX, data, 1, &error), TENON_IO);
    tn_output_free(output);
    setrlimit(RLIMIT_FSIZE, &limit);
    expect_content(path, "old");
    assert_int_equal(scratch_count(), before);
}

/* The folder disappears, so the rename fails: the reason is told and the temporary file's name is not left anywhere. */
static void says_when_it_cannot_be_placed(void **state)
{
    (void)state;
    scratch_folder("gone");
    const char *path = scratch_path("gone/x");
    tn_output *output = open_output(path);
    assert_int_equal(mkdir(path, 0777), 0); /* a folder takes the name */
    assert_int_equal(tn_output_write(output, 0, "x", 1, NULL), TENON_OK);
    tenon_error error = {""};
    assert_int_equal(tn_output_commit(output, &error), TENON_IO);
    expect_message(&error, "cannot put it in place", NULL);
    tn_output_free(output);
    assert_int_equal(rmdir(path), 0);
    assert_int_equal(rmdir(scratch_path("gone")), 0); /* nothing was left in it */
}

static void long_names(void **state)
{
    (void)state;
    char name[256];
    memset(name, 'n', 255);
    name[255] = 0;
    const char *path = scratch_path(name);
    commit_text(path, "long");
    expect_content(path, "long");
    name[254] = '/';
    expect_no_input(scratch_path(name), TENON_NOT_FOUND, "...");
}

/* The same promises for a program's own files. */
static void writes_any_bytes(void **state)
{
    (void)state;
    const char *path = scratch_write("any", "old", 3);
    assert_int_equal(chmod(path, 0604), 0);
    tenon_error error = {""};
    tenon_atomic_file *file = NULL;
    assert_int_equal(tenon_atomic_file_new(scratch_folder("a folder"), &file, &error), TENON_INVALID);
    expect_message(&error, "is a folder", NULL);
    assert_int_equal(tenon_atomic_file_new(NULL, &file, &error), TENON_INVALID);
    assert_null(file);
    assert_int_equal(tenon_atomic_file_new(path, &file, &error), TENON_OK);
    assert_int_equal(tenon_atomic_file_write(file, "one, ", 5, &error), TENON_OK);
    assert_int_equal(tenon_atomic_file_write(file, NULL, 0, &error), TENON_OK);
    assert_int_equal(tenon_atomic_file_write(file, "two", 3, &error), TENON_OK);
    expect_content(path, "old");
    assert_int_equal(tenon_atomic_file_commit(file, &error), TENON_OK);
    assert_int_equal(tenon_atomic_file_write(file, "three", 5, &error), TENON_INVALID);
    expect_message(&error, "is closed", NULL);
    tenon_atomic_file_free(file);
    expect_content(path, "one, two");
    assert_int_equal(mode_of(path), 0604);
    const int before = scratch_count();
    assert_int_equal(tenon_atomic_file_new(path, &file, &error), TENON_OK);
    assert_int_equal(tenon_atomic_file_write(file, "lost", 4, &error), TENON_OK);
    tenon_atomic_file_free(file);
    tenon_atomic_file_free(NULL);
    expect_content(path, "one, two");
    assert_int_equal(scratch_count(), before);
}

/* ---- paths ---- */

static void expect_beside(const char *path, const char *name, const char *expected)
{
    char *beside = tn_path_beside(path, name);
    assert_string_equal(beside, expected);
    free(beside);
}

static void joins_paths(void **state)
{
    (void)state;
    expect_beside("a", "b", "./b");
    expect_beside("x/a", "b", "x/b");
    expect_beside("/a", "b", "/b");
    expect_beside("x/", "b", "x/b");
    assert_true(tn_is_folder("/"));
    assert_false(tn_is_folder("/dev/null"));
    assert_false(tn_is_folder(scratch_path("no such")));
}

/* ---- threads ---- */

static void *read_all(void *argument)
{
    char data[26];
    for (int i = 0; i < 200; i++) {
        if (tn_input_read(argument, 0, data, 26, NULL) != TENON_OK || memcmp(data, "abcdefghij", 10) != 0)
            return argument;
    }
    return NULL;
}

static void many_threads_read_one_file(void **state)
{
    (void)state;
    tn_input *input = open_input(scratch_write("shared", "abcdefghijklmnopqrstuvwxyz", 26));
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, read_all, input), 0);
    for (int i = 0; i < 4; i++) {
        void *result = NULL;
        pthread_join(threads[i], &result);
        assert_null(result);
    }
    tn_input_close(input);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_at_offsets),
        cmocka_unit_test(opens_regular_files_only),
        cmocka_unit_test(notices_changes),
        cmocka_unit_test(appears_when_committed),
        cmocka_unit_test(leaves_the_old_file_when_given_up),
        cmocka_unit_test(c3_keeps_modes),
        cmocka_unit_test(c3_keeps_owners),
        cmocka_unit_test(replaces_regular_files_only),
        cmocka_unit_test(writes_through_links),
        cmocka_unit_test(says_when_the_disk_is_full),
        cmocka_unit_test(says_when_it_cannot_be_placed),
        cmocka_unit_test(long_names),
        cmocka_unit_test(writes_any_bytes),
        cmocka_unit_test(joins_paths),
        cmocka_unit_test(many_threads_read_one_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
