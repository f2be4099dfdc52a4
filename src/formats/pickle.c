/* SPDX-License-Identifier: MIT */
/* Recognises Python pickles (pickletools.py lists the opcodes), so that they can be refused by name. From protocol 2 on
 * a pickle usually begins with the opcode PROTO; older ones and hand-made ones do not, so their opcodes are walked
 * over, with their arguments and without any meaning. */
#include "formats/format.h"

#include <string.h>

/* An opcode and the number of the protocol, little-endian arguments: what torch.save wrote first until version 1.6. */
#define TORCH_MAGIC "\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
#define TORCH_MAGIC_AS_TEXT "L119547037146038801333356L\n"

enum { proto = 0x80, stop = '.', max_protocol = 5, least_opcodes = 3 };

bool tn_is_torch_pickle(const tn_head *head)
{
    const size_t size = sizeof TORCH_MAGIC - 1;
    const bool has_proto = head->size > 2 + size && head->bytes[0] == proto && head->bytes[1] <= max_protocol;
    return (has_proto && memcmp(head->bytes + 2, TORCH_MAGIC, size) == 0) ||
           memcmp(head->bytes, TORCH_MAGIC_AS_TEXT, sizeof TORCH_MAGIC_AS_TEXT - 1) == 0;
}

/* strchr would find the terminating 0 as well. */
static bool is_one_of(const char *opcodes, unsigned char opcode)
{
    return opcode != 0 && strchr(opcodes, opcode) != NULL;
}

/* The place after the line at `at`, or after the head when the line goes on there. */
static size_t skip_line(const tn_head *head, size_t at)
{
    while (at < head->size && head->bytes[at] != '\n')
        at++;
    return at + 1;
}

/* The place after an argument whose length is its first `width` bytes. */
static size_t skip_counted(const tn_head *head, size_t at, size_t width)
{
    uint64_t length = 0;
    if (width > head->size - at) return head->size + 1;
    for (size_t i = width; i > 0; i--)
        length = length << 8 | head->bytes[at + i - 1];
    if (length > head->file_size - at - width) return 0;
    return length > head->size ? head->size + 1 : at + width + (size_t)length;
}

/* The place after the arguments of an opcode, which begin at `at`; 0 when there is no such opcode. */
static size_t skip_arguments(const tn_head *head, unsigned char opcode, size_t at)
{
    static const struct {
        const char *opcodes;
        size_t bytes;
    } fixed[] = {{"(012NQRabdelost)u]}\x81\x85\x86\x87\x88\x89\x8f\x90\x91\x92\x93\x94\x97\x98", 0},
                 {"Khq\x80\x82", 1},
                 {"M\x83", 2},
                 {"Jjr\x84", 4},
                 {"G\x95", 8}},
      counted[] = {{"UC\x8a\x8c", 1}, {"TXB\x8b", 4}, {"\x8d\x8e\x96", 8}};
    const unsigned char first = head->bytes[at];
    if (is_one_of("cgip", opcode) && first <= ' ') return 0;
    if (is_one_of("FIL", opcode) && !is_one_of("0123456789-+in", first)) return 0;
    if (opcode == 'S' && first != '\'' && first != '"') return 0;
    if (is_one_of("FILPSVgp", opcode)) return skip_line(head, at);
    if (opcode == 'c' || opcode == 'i') {
        return skip_line(head, skip_line(head, at));
    }
    for (size_t i = 0; i < sizeof fixed / sizeof fixed[0]; i++) {
        if (is_one_of(fixed[i].opcodes, opcode)) return at + fixed[i].bytes;
    }
    for (size_t i = 0; i < sizeof counted / sizeof counted[0]; i++) {
        if (is_one_of(counted[i].opcodes, opcode)) return skip_counted(head, at, counted[i].bytes);
    }
    return 0;
}

/* From opcode to opcode: up to STOP at the file's very end, or past the head after some more of them. */
static bool walks(const tn_head *head)
{
    size_t at = 0;
    int opcodes = 0;
    while (at < head->size) {
        const unsigned char opcode = head->bytes[at++];
        if (opcode == stop) return opcodes > 0 && at == head->file_size;
        at = skip_arguments(head, opcode, at);
        if (at == 0) return false;
        opcodes++;
    }
    return opcodes >= least_opcodes && head->file_size > head->size;
}

bool tn_is_pickle(const tn_head *head)
{
    if (head->size > 2 && head->bytes[0] == proto && head->bytes[1] <= max_protocol) return true;
    return head->last == stop && walks(head);
}
