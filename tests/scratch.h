/* SPDX-License-Identifier: MIT */
/* A folder for the files of one test program, and checks on what opening or writing a file says. */
#ifndef TENON_TESTS_SCRATCH_H
#define TENON_TESTS_SCRATCH_H

#include "tenon/tenon.h"
#include "tests.h"

/* Made by the first call and emptied at exit. The path stays valid until the eighth next call. */
const char *scratch_path(const char *name);

const char *scratch_write(const char *name, const void *data, size_t size);

/* A safetensors file of this header (its length first, as the format has it) and `size` bytes of data. */
const char *scratch_safetensors(const char *name, const char *header, const void *data, size_t size);

/* An npy file of this version, header text (taken as it is) and data. */
const char *scratch_npy(const char *name, int major, const char *header, const void *data, size_t size);

/* How many entries the folder of scratch files has, hidden ones included. */
int scratch_count(void);

/* Opening the path fails with this status and a message that holds every one of the strings (a NULL ends them) and
 * names the file. */
void expect_refused(const char *path, tenon_status status, ...);

/* The message holds every one of the strings. */
void expect_message(const tenon_error *error, ...);

/* Opens; a failure ends the test with the message. */
tenon_file *open_file(const char *path, const tenon_file_options *options);

/* Reads the whole tensor and compares it, bit for bit, with what is expected. */
void expect_tensor(const tenon_file *file, const char *name, DLDataType dtype, int ndim, const int64_t *shape,
                   const void *data, size_t size);

/* The file holds this text, of less than 256 bytes. */
void expect_content(const char *path, const char *content);

/* A folder of that name among the scratch files. */
const char *scratch_folder(const char *name);

#endif
