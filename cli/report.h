/* SPDX-License-Identifier: MIT */
/* What the command says: errors as one line on stderr, results as text or JSON on stdout. */
#ifndef TN_CLI_REPORT_H
#define TN_CLI_REPORT_H

#include "options.h"
#include "tenon/tenon.h"

#include <stdio.h>

enum { TN_EXIT_OK = 0, TN_EXIT_FAILURE = 1, TN_EXIT_USAGE = 2 };

/* Sets the subcommand whose options the messages name, see fields.h; NULL: none yet. */
void tn_report_for(const tn_command *command);

/* Prints "tenon: what, where, what to do" and returns TN_EXIT_FAILURE. */
int tn_failed(const char *format, ...) TENON_PRINTF(1, 2);

/* The library's sentence, likewise. */
int tn_failed_error(const tenon_error *error);

/* The same for a failure of several ranks, which all call it: the lowest of those with something to say speaks, and
 * says which it is. An empty message: it was another rank that failed. */
int tn_failed_on_ranks(const tenon_error *error);

/* Prints "tenon: ...; see 'tenon NAME --help'" and returns TN_EXIT_USAGE. */
int tn_usage(const tn_command *command, const char *format, ...) TENON_PRINTF(2, 3);

/* Prints "tenon: note: ..." . */
void tn_note(const char *format, ...) TENON_PRINTF(1, 2);

/* Writes the sentence into *error and returns false, for functions that report through their caller. */
bool tn_error(tenon_error *error, const char *format, ...) TENON_PRINTF(2, 3);

/* 20979712 as "20,979,712" and 41959424 bytes as "40.0 MiB", in one of a few static buffers of the calling thread:
 * good for the arguments of one print call. */
const char *tn_count_text(int64_t count);
const char *tn_bytes_text(double bytes);

/* Prints text of which parts may come from files so that it cannot break the line or drive the terminal, uncut; see
 * tenon_quote. Backslashes and backquotes stay: they may be those of names that are quoted, or of JSON. */
void tn_print_safely(FILE *stream, const char *text);

/* A name from a file or a path, made safe to print and cut to fit, likewise; see tenon_quote. */
const char *tn_name_text(const char *name);

/* A shape as "(4, 729, 1152)", likewise. */
const char *tn_shape_text(int ndim, const int64_t *shape);

/* "a.pt, b.pt, c.pt, d.pt and 12 more", cut to fit. */
void tn_list_text(char *text, size_t size, char *const *names, size_t count);

/* DLPack 0.8 and later names it kDLBool. */
enum { TN_DLPACK_BOOL = 6 };

/* "f32", "bf16", "u8", ... */
const char *tn_dtype_text(DLDataType dtype);

#endif
