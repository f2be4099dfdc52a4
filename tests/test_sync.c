/* SPDX-License-Identifier: MIT */
/* Outputs on file systems that cannot sync, and where syncing fails. Linked so that the library's fsync comes here (see
 * CMakeLists.txt). */
#include "scratch.h"
#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

static int file_number, folder_number; /* errno of a sync; 0: it works */
static int syncs;

int __real_fsync(int file);
int __wrap_fsync(int file);

int __wrap_fsync(int file)
{
    struct stat status;
    assert_int_equal(fstat(file, &status), 0);
    const int number = S_ISDIR(status.st_mode) ? folder_number : file_number;
    syncs++;
    if (number == 0) return __real_fsync(file);
    errno = number;
    return -1;
}

static tenon_status write_file(const char *path, const char *text, tenon_error *error)
{
    tenon_atomic_file *file = NULL;
    tenon_status status = tenon_atomic_file_new(path, &file, error);
    if (status == TENON_OK) status = tenon_atomic_file_write(file, text, strlen(text), error);
    if (status == TENON_OK) status = tenon_atomic_file_commit(file, error);
    tenon_atomic_file_free(file);
    return status;
}

/* C5: the file and its folder alike. */
static void c5_goes_on_where_nothing_can_be_synced(void **state)
{
    (void)state;
    static const int numbers[] = {EINVAL, ENOSYS, ENOTSUP, EOPNOTSUPP};
    const char *path = scratch_path("out");
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        for (int which = 1; which <= 3; which++) {
            char text[16];
            tenon_error error = {""};
            file_number = (which & 1) != 0 ? numbers[i] : 0;
            folder_number = (which & 2) != 0 ? numbers[i] : 0;
            snprintf(text, sizeof text, "%zu %d", i, which);
            syncs = 0;
            if (write_file(path, text, &error) != TENON_OK) fail_msg("%s", error.message);
            assert_int_equal(syncs, 2);
            expect_content(path, text);
        }
    }
    file_number = folder_number = 0;
}

static void says_when_a_sync_fails(void **state)
{
    (void)state;
    static const int numbers[] = {EIO, ENOSPC, EDQUOT};
    const char *path = scratch_write("old", "old", 3);
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        tenon_error error = {""};
        const int before = scratch_count();
        file_number = numbers[i];
        assert_int_equal(write_file(path, "new", &error), TENON_IO);
        expect_message(&error, "old: cannot put it in place: ", strerror(numbers[i]), NULL);
        expect_content(path, "old");
        assert_int_equal(scratch_count(), before);
        file_number = 0;
    }
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        tenon_error error = {""};
        folder_number = numbers[i];
        assert_int_equal(write_file(path, "new", &error), TENON_IO);
        expect_message(&error, "old: cannot sync its folder: ", strerror(numbers[i]), NULL);
        expect_content(path, "new"); /* in place, but perhaps not through a power cut */
        folder_number = 0;
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(c5_goes_on_where_nothing_can_be_synced),
        cmocka_unit_test(says_when_a_sync_fails),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
