/* SPDX-License-Identifier: MIT */
/* Shards that an index names and that were not downloaded. A program that wants a connector alone needs its shards
 * alone, so an absent one is an error only when one of its tensors is asked for. */
#include "formats/format.h"

#include "core/error.h"
#include <stdlib.h>
#include <string.h>

tenon_status tn_file_add_absent(tenon_file *file, const char *name, const char *reason, tenon_error *error)
{
    tn_absent_shard *grown = realloc(file->absent, ((size_t)file->num_absent + 1) * sizeof *grown);
    if (grown != NULL) file->absent = grown;
    char *copy = strdup(name), *why = strdup(reason);
    if (grown == NULL || copy == NULL || why == NULL) {
        free(copy);
        free(why);
        return tn_fail(error, TENON_NO_MEMORY, "%s: out of memory", tn_quote(file->path).text);
    }
    file->absent[file->num_absent++] = (tn_absent_shard){copy, why, 0};
    return TENON_OK;
}

/* "; it holds tensor 'a' and 5 others ('b', 'c', 'd', ...)". */
static void add_tensors(tn_text *text, const tenon_file *file, const tn_entry *wanted)
{
    enum { shown_at_most = 3 };
    const int64_t others = file->absent[wanted->absent - 1].num_tensors - 1;
    int shown = 0;
    tn_text_add(text, "; it holds tensor '%s'", tn_quote(wanted->name).text);
    if (others == 0) return;
    tn_text_add(text, " and %lld other%s (", (long long)others, others == 1 ? "" : "s");
    for (int64_t i = 0; i < file->num_entries && shown < shown_at_most; i++) {
        const tn_entry *entry = &file->entries[i];
        if (entry->absent != wanted->absent || entry == wanted) continue;
        tn_text_add(text, "%s'%s'", shown++ > 0 ? ", " : "", tn_quote(entry->name).text);
    }
    tn_text_add(text, "%s)", others > shown ? ", ..." : "");
}

/* "; 2 more shards are absent: 'x', 'y'". */
static void add_other_shards(tn_text *text, const tenon_file *file, int64_t named)
{
    enum { shown_at_most = 4 };
    const int64_t others = file->num_absent - 1;
    int shown = 0;
    if (others == 0) return;
    tn_text_add(text, "; %lld more shard%s absent: ", (long long)others, others == 1 ? " is" : "s are");
    for (int64_t i = 0; i < file->num_absent && shown < shown_at_most; i++) {
        if (i != named) tn_text_add(text, "%s'%s'", shown++ > 0 ? ", " : "", tn_quote(file->absent[i].name).text);
    }
    if (others > shown) tn_text_add(text, ", ...");
}

tenon_status tn_file_check_present(const tenon_file *file, const tn_entry *entry, tenon_error *error)
{
    if (entry->absent == 0) return TENON_OK;
    const tn_absent_shard *shard = &file->absent[entry->absent - 1];
    char lists[2048];
    tn_text text = {lists, sizeof lists, 0};
    add_tensors(&text, file, entry);
    add_other_shards(&text, file, entry->absent - 1);
    /* The index is the file's first input. */
    return tn_fail(error, TENON_NOT_FOUND, "%s: the shard '%s' %s%s", tn_quote(tn_input_path(file->inputs[0])).text,
                   tn_quote(shard->name).text, shard->reason, lists);
}
