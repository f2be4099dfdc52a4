/* SPDX-License-Identifier: MIT */
/* What run and fit say of a folder of shards: which of them are bad, and which files are passed over. */
#ifndef TN_CLI_SHARDS_H
#define TN_CLI_SHARDS_H

#include "tenon/tenon.h"

#include <jansson.h>

/* Says why a shard cannot be used, and enters it: bad is {name: reason}. */
bool tn_shards_set_bad(json_t *bad, const char *shard, const char *reason, tenon_error *error);

/* The sentence about all bad ones, of `count` shards. `state` is what they are: "could not be done". */
bool tn_shards_fail(const json_t *bad, const char *folder, size_t count, const char *state, const char *advice,
                    tenon_error *error);

/* Names as an array of JSON; NULL: no memory. */
json_t *tn_shards_names(char *const *names, size_t count);

/* The names of what is no shard in a folder, likewise, or NULL with a reason; and a note of them, where there are any.
 */
json_t *tn_shards_skipped(const char *folder, tenon_error *error);
void tn_shards_note_skipped(const char *folder, const json_t *skipped);

/* How many names there are among the keys of an object or the members of an array, and which: "a, b and 3 more". */
size_t tn_shards_text(const json_t *names, char *text, size_t size);

#endif
