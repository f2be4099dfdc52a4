/* SPDX-License-Identifier: MIT */
#include "report.h"

#include "fields.h"
#include "ranks.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const tn_command *current;

void tn_report_for(const tn_command *command)
{
    current = command;
}

void tn_print_safely(FILE *stream, const char *text)
{
    char shown[4 * TENON_ERROR_SIZE];
    while (*text) {
        size_t length = strcspn(text, "\\`");
        tenon_quote(shown, sizeof shown, text, length);
        fputs(shown, stream);
        text += length;
        if (*text) putc(*text++, stream);
    }
}

static void print_line(const char *prefix, const char *text, const char *suffix)
{
    char line[TENON_ERROR_SIZE];
    tn_fields_to_options(line, sizeof line, text, current);
    fprintf(stderr, "tenon: %s", prefix);
    tn_print_safely(stderr, line);
    fprintf(stderr, "%s\n", suffix);
}

int tn_failed(const char *format, ...)
{
    char text[TENON_ERROR_SIZE];
    va_list list;
    va_start(list, format);
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    print_line("", text, "");
    return TN_EXIT_FAILURE;
}

int tn_failed_error(const tenon_error *error)
{
    print_line("", error->message, "");
    return TN_EXIT_FAILURE;
}

int tn_failed_on_ranks(const tenon_error *error)
{
    int speaker = tn_ranks_first_failure(error->message[0] != 0);
    if (speaker != tn_ranks_index()) return TN_EXIT_FAILURE;
    if (tn_ranks_count() == 1) return tn_failed_error(error);
    return tn_failed("rank %d: %.3900s", speaker, error->message);
}

/* The ranks of one command have one command line, whose mistake is said once: by the lowest rank that found it. Those
 * that found none meet the others as they do after any failure before the first of their steps. The others wait in
 * tn_ranks_end until it is said, because mpirun ends all ranks once one of them has failed. */
static void say_once(const char *text, const char *help)
{
    char rank[32] = "";
    tn_ranks_start();
    (void)tn_ranks_agree(false);
    if (tn_ranks_index() > 0) snprintf(rank, sizeof rank, "rank %d: ", tn_ranks_index());
    if (tn_ranks_first_failure(true) == tn_ranks_index()) print_line(rank, text, help);
    tn_ranks_end();
}

int tn_usage(const tn_command *command, const char *format, ...)
{
    char text[TENON_ERROR_SIZE];
    char help[128];
    va_list list;
    va_start(list, format);
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    if (command)
        snprintf(help, sizeof help, "; see 'tenon %s --help'", command->name);
    else
        snprintf(help, sizeof help, "; see 'tenon help'");
    if (command && command->joins_ranks)
        say_once(text, help);
    else
        print_line("", text, help);
    return TN_EXIT_USAGE;
}

void tn_note(const char *format, ...)
{
    char text[TENON_ERROR_SIZE];
    va_list list;
    va_start(list, format);
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    print_line("note: ", text, "");
}

bool tn_error(tenon_error *error, const char *format, ...)
{
    va_list list;
    va_start(list, format);
    vsnprintf(error->message, sizeof error->message, format, list);
    va_end(list);
    return false;
}

enum { TEXT_SIZE = 256, TEXT_BUFFERS = 8 };

static char *next_text(void)
{
    static _Thread_local char buffers[TEXT_BUFFERS][TEXT_SIZE];
    static _Thread_local unsigned next;
    return buffers[next++ % TEXT_BUFFERS];
}

const char *tn_count_text(int64_t count)
{
    char digits[32];
    char *text = next_text();
    int length = snprintf(digits, sizeof digits, "%" PRId64, count);
    int first = count < 0 ? 1 : 0;
    int used = 0;
    for (int i = 0; i < length; i++) {
        if (i > first && (length - i) % 3 == 0) text[used++] = ',';
        text[used++] = digits[i];
    }
    text[used] = 0;
    return text;
}

const char *tn_bytes_text(double bytes)
{
    static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB", "PiB"};
    size_t unit = 0;
    while (bytes >= 1024 && unit + 1 < sizeof units / sizeof *units) {
        bytes /= 1024;
        unit++;
    }
    char *text = next_text();
    snprintf(text, TEXT_SIZE, unit == 0 ? "%.0f %s" : "%.1f %s", bytes, units[unit]);
    return text;
}

const char *tn_name_text(const char *name)
{
    char *text = next_text();
    tenon_quote(text, TEXT_SIZE, name, strlen(name));
    return text;
}

const char *tn_shape_text(int ndim, const int64_t *shape)
{
    char *text = next_text();
    size_t used = 1;
    text[0] = '(';
    for (int i = 0; i < ndim && used < TEXT_SIZE - 32; i++)
        used += (size_t)snprintf(text + used, TEXT_SIZE - used, "%s%" PRId64, i ? ", " : "", shape[i]);
    snprintf(text + used, TEXT_SIZE - used, ")");
    return text;
}

void tn_list_text(char *text, size_t size, char *const *names, size_t count)
{
    enum { MOST = 4 };
    size_t used = 0;
    text[0] = 0;
    for (size_t i = 0; i < count && i < MOST && used < size; i++)
        used += (size_t)snprintf(text + used, size - used, "%s%.80s", i ? ", " : "", names[i]);
    if (count > MOST && used < size) snprintf(text + used, size - used, " and %zu more", count - MOST);
}

const char *tn_dtype_text(DLDataType dtype)
{
    static const struct {
        uint8_t code;
        const char *letter;
    } kinds[] = {{kDLFloat, "f"}, {kDLBfloat, "bf"}, {kDLInt, "i"}, {kDLUInt, "u"}};
    char *text = next_text();
    snprintf(text, TEXT_SIZE, dtype.code == TN_DLPACK_BOOL ? "bool" : "dtype %u", dtype.code);
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (kinds[i].code == dtype.code) snprintf(text, TEXT_SIZE, "%s%u", kinds[i].letter, dtype.bits);
    return text;
}
