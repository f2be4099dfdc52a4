/* SPDX-License-Identifier: MIT */
/* Runs a fuzz target without a fuzzer: every file of the folders given, and N deterministic mutations of each.
 *
 *     replay N FOLDER...
 */
#include "fuzz_file.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { max_input = 1 << 16 };

static uint64_t seed = 1;

/* Marsaglia's xorshift64*, below `limit`. */
static size_t draw(size_t limit)
{
    seed ^= seed >> 12;
    seed ^= seed << 25;
    seed ^= seed >> 27;
    return limit > 0 ? (size_t)((seed * UINT64_C(2685821657736338717)) >> 16) % limit : 0;
}

/* Replaces `cut` bytes at `at` by `count` bytes of `with`. */
static size_t splice(uint8_t *data, size_t size, size_t at, size_t cut, const void *with, size_t count)
{
    if (cut > size - at) cut = size - at;
    if (size - cut + count > max_input) return size;
    memmove(data + at + count, data + at + cut, size - at - cut);
    memcpy(data + at, with, count);
    return size - cut + count;
}

static size_t mutate(uint8_t *data, size_t size)
{
    static const char *const words[] = {"0",
                                        "1",
                                        "-1",
                                        "18446744073709551615",
                                        "9223372036854775807",
                                        "\"",
                                        "{",
                                        "}",
                                        "[",
                                        "]",
                                        ",",
                                        ":",
                                        "(",
                                        ")",
                                        "1e999",
                                        "..",
                                        "/",
                                        "\\u0000",
                                        "F8_E4M3",
                                        "BF16",
                                        "F64",
                                        "<f8",
                                        ">u2",
                                        "True",
                                        "null",
                                        "dtype",
                                        "shape",
                                        "data_offsets",
                                        "weight_map",
                                        "1.safetensors",
                                        "\xff\xff\xff\xff\xff\xff\xff\xff",
                                        "4294967296",
                                        "\x93NUMPY"};
    const char *word = words[draw(sizeof words / sizeof words[0])];
    const size_t at = draw(size + 1);
    uint8_t block[64];
    const size_t length = draw(sizeof block), from = draw(size + 1);
    switch (draw(7)) {
    case 0: /* a bit */
        if (at < size) data[at] ^= (uint8_t)(1u << draw(8));
        return size;
    case 1: /* a byte */
        if (at < size) data[at] = (uint8_t)draw(256);
        return size;
    case 2: /* the header's length, by a little */
        if (size > 8) data[8 * draw(2)] += (uint8_t)(draw(9) - 4);
        return size;
    case 3: /* a shorter file */
        return at;
    case 4: /* a word instead of some bytes */
        return splice(data, size, at, draw(8), word, strlen(word));
    case 5: /* a word, inserted */
        return splice(data, size, at, 0, word, strlen(word));
    default: /* a block of the file over or into another place */
        if (from + length > size) return size;
        memcpy(block, data + from, length);
        return splice(data, size, at, draw(2) * length, block, length);
    }
}

static void run_file(const char *path, long count)
{
    static uint8_t data[max_input], mutated[max_input];
    FILE *in = fopen(path, "rb");
    if (in == NULL) exit(1);
    const size_t size = fread(data, 1, sizeof data, in);
    fclose(in);
    LLVMFuzzerTestOneInput(data, size);
    for (long i = 0; i < count; i++) {
        memcpy(mutated, data, size);
        size_t now = size;
        for (size_t steps = 1 + draw(4); steps > 0; steps--)
            now = mutate(mutated, now);
        LLVMFuzzerTestOneInput(mutated, now);
    }
}

int main(int argc, char **argv)
{
    if (argc < 3) return 2;
    long files = 0;
    for (int i = 2; i < argc; i++) {
        struct dirent **names;
        const int count = scandir(argv[i], &names, NULL, alphasort);
        if (count < 0) return 1;
        for (int j = 0; j < count; j++) {
            char path[1024];
            struct stat status;
            snprintf(path, sizeof path, "%s/%s", argv[i], names[j]->d_name);
            free(names[j]);
            if (stat(path, &status) != 0 || !S_ISREG(status.st_mode)) continue;
            run_file(path, strtol(argv[1], NULL, 10));
            files++;
        }
        free(names);
    }
    printf("%ld files\n", files);
    return files > 0 ? 0 : 1;
}
