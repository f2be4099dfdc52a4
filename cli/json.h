/* SPDX-License-Identifier: MIT */
/* What JSON cannot say, said the same way by every subcommand: in results, logs, manifests and checkpoints.
 *
 *     NaN and the infinities    the strings "nan", "inf" and "-inf"
 *     bytes that are not UTF-8  \xNN, two hexadecimal digits for each byte; in such a text a backslash is two
 *
 * The functions that make a value return NULL only when memory ran out, and Jansson's setters then fail. */
#ifndef TN_CLI_JSON_H
#define TN_CLI_JSON_H

#include "tenon/tenon.h"

#include <jansson.h>
#include <stdio.h>

/* A number. */
json_t *tn_json_real(double value);

/* A number that tn_json_real wrote; `missing` for anything else. */
double tn_json_read_real(const json_t *value, double missing);

/* A text that may hold any bytes, such as the name of a file or a word of the command line; NULL becomes null. */
json_t *tn_json_text(const char *text);

/* The same as the text of a key, freed with free(). */
char *tn_json_key(const char *text);

/* "HxW" as [H, W]. */
json_t *tn_json_pair(int64_t height, int64_t width);

/* `object` (taken) with the members of `more` (taken); NULL where one of them is NULL. */
json_t *tn_json_joined(json_t *object, json_t *more);

/* How two values are told apart in a sentence: "--lr was 1 and is now 2" is {"was", "and is now", ""}. */
typedef struct tn_json_words {
    const char *first, *second, *last;
} tn_json_words;

/* Do both objects have the same members? The list gets up to eight of those that differ, `now` ones in their order,
 * then those that only `then` has: "--lr was 1 and is now 2, --seed was 0 and is now 4". */
bool tn_json_same(const json_t *then, const json_t *now, tn_json_words words, char *list, size_t size);

/* The config as a JSON object, or NULL. */
json_t *tn_json_config(const tenon_config *config);

/* The same as one line of text, for the caller to free; NULL: no memory. */
char *tn_config_text(const tenon_config *config);

/* Prints the object to standard output and frees it. Returns an exit code: NULL, which is a lack of memory, fails. */
int tn_print_json(json_t *object);

/* The same to another stream. */
int tn_print_json_to(FILE *stream, json_t *object);

#endif
