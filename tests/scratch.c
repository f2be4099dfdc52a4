/* SPDX-License-Identifier: MIT */
/* Scratch files of the format tests. */
#include "scratch.h"

#include <dirent.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static char folder[256];

static int remove_entry(const char *path, const struct stat *status, int type, struct FTW *walk)
{
    (void)status;
    (void)type;
    (void)walk;
    return remove(path);
}

static void remove_folder(void)
{
    nftw(folder, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
}

static void make_folder(void)
{
    if (folder[0] != 0) return;
    const char *root = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/tenon-test-XXXXXX", root != NULL ? root : "/tmp");
    if (mkdtemp(folder) == NULL) fail_msg("cannot make %s", folder);
    atexit(remove_folder);
}

const char *scratch_path(const char *name)
{
    static char paths[8][768];
    static int next;
    make_folder();
    char *path = paths[next++ % 8];
    snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    return path;
}

const char *scratch_folder(const char *name)
{
    const char *path = scratch_path(name);
    mkdir(path, 0777);
    return path;
}

int scratch_count(void)
{
    make_folder();
    DIR *open = opendir(folder);
    int count = -2; /* "." and ".." */
    while (readdir(open) != NULL)
        count++;
    closedir(open);
    return count;
}

const char *scratch_write(const char *name, const void *data, size_t size)
{
    const char *path = scratch_path(name);
    FILE *out = fopen(path, "wb");
    if (out == NULL) fail_msg("cannot write %s", path);
    assert_int_equal(fwrite(data, 1, size, out), size);
    assert_int_equal(fclose(out), 0);
    return path;
}

static const char *write_parts(const char *name, const void *start, size_t start_size, const char *header,
                               size_t header_size, const void *data, size_t size)
{
    char *all = malloc(start_size + header_size + size + 1);
    assert_non_null(all);
    memcpy(all, start, start_size);
    memcpy(all + start_size, header, header_size);
    if (size > 0) memcpy(all + start_size + header_size, data, size);
    const char *path = scratch_write(name, all, start_size + header_size + size);
    free(all);
    return path;
}

const char *scratch_safetensors(const char *name, const char *header, const void *data, size_t size)
{
    unsigned char length[8];
    for (int i = 0; i < 8; i++)
        length[i] = (unsigned char)((uint64_t)strlen(header) >> 8 * i);
    return write_parts(name, length, sizeof length, header, strlen(header), data, size);
}

const char *scratch_npy(const char *name, int major, const char *header, const void *data, size_t size)
{
    unsigned char start[12] = {0x93, 'N', 'U', 'M', 'P', 'Y', (unsigned char)major, 0};
    const size_t length = strlen(header);
    for (int i = 0; i < 4; i++)
        start[8 + i] = (unsigned char)(length >> 8 * i);
    return write_parts(name, start, major == 1 ? 10 : 12, header, length, data, size);
}

static void check_message(const tenon_error *error, va_list wanted)
{
    for (const char *text = va_arg(wanted, const char *); text != NULL; text = va_arg(wanted, const char *)) {
        if (strstr(error->message, text) == NULL) fail_msg("no '%s' in the message: %s", text, error->message);
    }
    for (const char *c = error->message; *c != 0; c++)
        assert_true(*c >= 0x20 && *c < 0x7f);
}

void expect_message(const tenon_error *error, ...)
{
    va_list wanted;
    va_start(wanted, error);
    check_message(error, wanted);
    va_end(wanted);
}

void expect_refused(const char *path, tenon_status status, ...)
{
    tenon_error error = {""};
    tenon_file *file = (tenon_file *)(void *)&error;
    const tenon_status got = tenon_file_open(path, NULL, &file, &error);
    if (got != status) fail_msg("%s: status %d, expected %d; message: %s", path, got, status, error.message);
    assert_ptr_equal(file, &error); /* a failed call leaves its output alone */
    const char *slash = strrchr(path, '/');
    expect_message(&error, slash != NULL ? slash + 1 : path, NULL);
    va_list wanted;
    va_start(wanted, status);
    check_message(&error, wanted);
    va_end(wanted);
    assert_int_equal(tenon_file_open(path, NULL, &file, NULL), status);
}

tenon_file *open_file(const char *path, const tenon_file_options *options)
{
    tenon_error error;
    tenon_file *file = NULL;
    if (tenon_file_open(path, options, &file, &error) != TENON_OK) fail_msg("%s", error.message);
    return file;
}

void expect_tensor(const tenon_file *file, const char *name, DLDataType dtype, int ndim, const int64_t *shape,
                   const void *data, size_t size)
{
    tenon_error error;
    int64_t index = -1;
    if (tenon_file_find_tensor(file, name, &index, &error) != TENON_OK) fail_msg("%s", error.message);
    tenon_file_tensor tensor;
    tenon_file_tensor_init(&tensor);
    assert_int_equal(tenon_file_get_tensor(file, index, &tensor, &error), TENON_OK);
    assert_string_equal(tensor.name, name);
    assert_int_equal(tensor.dtype.code, dtype.code);
    assert_int_equal(tensor.dtype.bits, dtype.bits);
    assert_int_equal(tensor.ndim, ndim);
    for (int i = 0; i < ndim; i++)
        assert_int_equal(tensor.shape[i], shape[i]);
    unsigned char *read = malloc(size + 1);
    assert_non_null(read);
    read[size] = 0xa5;
    if (tenon_file_read(file, index, 0, ndim > 0 ? shape[0] : 1, read, size, &error) != TENON_OK) {
        fail_msg("%s", error.message);
    }
    assert_int_equal(read[size], 0xa5);
    if (size > 0) assert_memory_equal(read, data, size);
    free(read);
}

void expect_content(const char *path, const char *content)
{
    char read[256] = "";
    FILE *in = fopen(path, "rb");
    assert_non_null(in);
    read[fread(read, 1, sizeof read - 1, in)] = 0;
    fclose(in);
    assert_string_equal(read, content);
}
