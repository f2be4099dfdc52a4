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

/* ---- GGUF: its numbers, found by walking the header as far as it makes sense ---- */

enum { max_places = 512 };

typedef struct walk {
    const uint8_t *data;
    size_t size, at;
    size_t places[max_places]; /* where a number of 4 or 8 bytes begins */
    int bytes[max_places];
    int count;
} walk;

/* The number of that many bytes, noted; past the end it is 0. */
static uint64_t walk_number(walk *w, int bytes)
{
    uint64_t value = 0;
    if (w->size - w->at < (size_t)bytes) {
        w->at = w->size;
        return 0;
    }
    if (w->count < max_places) {
        w->places[w->count] = w->at;
        w->bytes[w->count++] = bytes;
    }
    for (int i = bytes - 1; i >= 0; i--)
        value = value << 8 | w->data[w->at + (size_t)i];
    w->at += (size_t)bytes;
    return value;
}

static void walk_over(walk *w, uint64_t bytes)
{
    w->at = bytes < w->size - w->at ? w->at + (size_t)bytes : w->size;
}

static void walk_value(walk *w, uint64_t type)
{
    static const int sizes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    if (type == 8) {
        walk_over(w, walk_number(w, 8));
    } else if (type == 9) {
        const uint64_t inner = walk_number(w, 4);
        for (uint64_t n = walk_number(w, 8); n > 0 && w->at < w->size && inner < 13 && inner != 9; n--)
            walk_value(w, inner);
    } else if (type < 13) {
        walk_over(w, (uint64_t)sizes[type]);
    }
}

static void walk_gguf(walk *w)
{
    walk_over(w, 4);
    walk_number(w, 4);
    const uint64_t tensors = walk_number(w, 8);
    for (uint64_t keys = walk_number(w, 8); keys > 0 && w->at < w->size; keys--) {
        walk_over(w, walk_number(w, 8));
        walk_value(w, walk_number(w, 4));
    }
    for (uint64_t i = 0; i < tensors && w->at < w->size; i++) {
        walk_over(w, walk_number(w, 8));
        for (uint64_t dims = walk_number(w, 4); dims > 0 && w->at < w->size; dims--)
            walk_number(w, 8);
        walk_number(w, 4);
        walk_number(w, 8);
    }
}

/* One of its numbers becomes another: near, small, a power of two, the largest. */
static void mutate_gguf(uint8_t *data, size_t size)
{
    static walk w;
    w = (walk){.data = data, .size = size};
    walk_gguf(&w);
    const size_t chosen = draw((size_t)w.count);
    uint64_t value = 0;
    for (int i = w.bytes[chosen] - 1; i >= 0; i--)
        value = value << 8 | data[w.places[chosen] + (size_t)i];
    switch (draw(4)) {
    case 0:
        value += draw(9) - 4;
        break;
    case 1:
        value = draw(48);
        break;
    case 2:
        value = (UINT64_C(1) << draw(64)) - draw(2);
        break;
    default:
        value *= (uint64_t)1 << (1 + draw(63));
    }
    for (int i = 0; i < w.bytes[chosen]; i++)
        data[w.places[chosen] + (size_t)i] = (uint8_t)(value >> 8 * i);
}

static size_t mutate(uint8_t *data, size_t size)
{
    if (size >= 24 && memcmp(data, "GGUF", 4) == 0 && draw(2) == 0) {
        mutate_gguf(data, size);
        return size;
    }
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
