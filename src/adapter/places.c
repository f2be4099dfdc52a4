/* SPDX-License-Identifier: MIT */
#include "adapter/places.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_PATH = 512 };

/* What models put before a part; "module." and its like are no longer there. */
static const char *const prefixes[] = {"",
                                       "model.",
                                       "thinker.",
                                       "thinker.model.",
                                       "model.model.",
                                       "base_model.model.",
                                       "base_model.model.model.",
                                       "base_model.model.thinker."};

/* PEFT keeps a module that was trained as a whole beside the one that it was. */
#define TRAINED ".modules_to_save.default"

static bool join(char path[MAX_PATH], const char *first, const char *second, const char *third)
{
    tn_text text = {path, MAX_PATH, 0};
    path[0] = '\0';
    if (strlen(first) + strlen(second) + strlen(third) >= MAX_PATH) return false;
    tn_text_add(&text, "%s%s%s", first, second, third);
    return true;
}

/* ---- parts ---- */

/* True when a tensor has this name or begins with it and a dot. */
static bool is_there(const tn_names *names, const char *path)
{
    char inside[MAX_PATH];
    if (tn_names_find(names, "", path) != -1) return true;
    return join(inside, path, ".", "") && tn_names_begin(names, inside);
}

/* Where PEFT keeps what it trained of the part at `path`: ".modules_to_save.default" behind one of its modules. */
static void find_trained(char path[MAX_PATH], const tn_names *names)
{
    for (size_t end = strlen(path); end > 0; end--) {
        char whole[MAX_PATH], trained[MAX_PATH], rest[MAX_PATH];
        if (path[end] != '.' && path[end] != '\0') continue;
        memcpy(whole, path, sizeof whole);
        whole[end] = '\0';
        (void)join(rest, path + end, "", "");
        if (!join(trained, whole, TRAINED, rest) || !is_there(names, trained)) continue;
        memcpy(path, trained, sizeof trained);
        return;
    }
}

/* Counts the places of a part and leaves the first in `path`, the next in `second`. */
static int find_part(char path[MAX_PATH], const tn_names *names, const char *theirs, char second[MAX_PATH])
{
    int count = 0;
    for (size_t i = 0; i < sizeof prefixes / sizeof prefixes[0]; i++) {
        char found[MAX_PATH];
        if (!join(found, prefixes[i], theirs, "")) continue;
        find_trained(found, names);
        if (!is_there(names, found)) continue;
        memcpy(count == 0 ? path : second, found, sizeof found);
        count++;
    }
    if (count == 0) (void)join(path, theirs, "", "");
    return count;
}

/* The length of the longest beginning of `theirs`, up to a dot or its end, in which `prefix` (no dot at its end) ends.
 */
static size_t find_overlap(const char *prefix, size_t length, const char *theirs)
{
    for (size_t own = strlen(theirs); own > 0; own--) {
        if ((theirs[own] != '.' && theirs[own] != '\0') || own > length) continue;
        if (strncmp(prefix + length - own, theirs, own) != 0) continue;
        if (length == own || prefix[length - own - 1] == '.') return own;
    }
    return 0;
}

/* The same under the caller's prefix, which may end in the part's own name or its beginning. */
static int take_part(char path[MAX_PATH], const tn_names *names, const char *theirs, const char *prefix)
{
    size_t length = strlen(prefix);
    length -= length > 0 && prefix[length - 1] == '.';
    const size_t overlap = find_overlap(prefix, length, theirs);
    const char *rest = theirs + overlap;
    const bool dot = overlap == 0 && length > 0;
    char before[MAX_PATH];
    if (length < MAX_PATH) {
        memcpy(before, prefix, length);
        before[length] = '\0';
        (void)join(path, before, dot ? "." : "", rest);
    }
    return is_there(names, path);
}

/* ---- one scheme of names ---- */

typedef struct scheme {
    const tn_alias *names;
    int num_names;
    char paths[TN_MAX_NAMES][MAX_PATH], second[TN_MAX_NAMES][MAX_PATH];
    int found[TN_MAX_NAMES]; /* how many places each has */
    int64_t parameters;      /* that are there */
} scheme;

/* The name of the scheme that a parameter's name begins with, of several the longest; -1: there is none. */
static int find_name(const scheme *s, const char *parameter)
{
    int best = -1;
    size_t longest = 0;
    for (int i = 0; i < s->num_names; i++) {
        const size_t length = strlen(s->names[i].ours);
        if (strncmp(parameter, s->names[i].ours, length) != 0) continue;
        if (length > 0 && parameter[length] != '.' && parameter[length] != '\0') continue;
        if (best >= 0 && length <= longest) continue;
        best = i;
        longest = length;
    }
    return best;
}

/* The full name of a parameter in this scheme; false: it has none. */
static bool name_parameter(char full[MAX_PATH], const scheme *s, const char *parameter)
{
    const int at = find_name(s, parameter);
    if (at < 0) return false;
    const char *rest = parameter + strlen(s->names[at].ours);
    const bool dot = *rest != '\0' && *rest != '.' && s->paths[at][0] != '\0';
    return join(full, s->paths[at], dot ? "." : "", rest);
}

static void find_scheme(scheme *s, const tn_alias *list, const tn_names *names, const tn_expected *expected,
                        const char *prefix)
{
    s->names = list;
    s->parameters = 0;
    for (s->num_names = 0; list[s->num_names].ours != NULL && s->num_names < TN_MAX_NAMES; s->num_names++) {
        const int i = s->num_names;
        s->found[i] = prefix != NULL ? take_part(s->paths[i], names, list[i].theirs, prefix)
                                     : find_part(s->paths[i], names, list[i].theirs, s->second[i]);
    }
    for (int64_t p = 0; p < expected->count; p++) {
        char full[MAX_PATH];
        s->parameters += name_parameter(full, s, expected->parameters[p].name) && tn_names_find(names, "", full) != -1;
    }
}

/* ---- what a part must not hold ---- */

static const struct marker {
    const char *ending, *what, *advice;
} markers[] = {
    {".lora_A.default.weight", "a LoRA adapter that is not merged", "merge it with PEFT's merge_and_unload()"},
    {".lora_A.weight", "a LoRA adapter that is not merged", "merge it with PEFT's merge_and_unload()"},
    {".quant_state.bitsandbytes__nf4", "quantised by bitsandbytes (NF4)", NULL},
    {".quant_state.bitsandbytes__fp4", "quantised by bitsandbytes (FP4)", NULL},
    {".SCB", "quantised by bitsandbytes (INT8)", NULL},
    {".absmax", "quantised by bitsandbytes", NULL},
    {".qweight", "quantised (GPTQ or AWQ)", NULL},
    {".qzeros", "quantised (GPTQ or AWQ)", NULL},
    {".weight_packed", "quantised (compressed-tensors)", NULL},
    {".weight_scale_inv", "quantised in FP8 with scales", NULL},
    {".weight_scale", "quantised with scales", NULL},
    {".scales", "quantised with scales", NULL},
};

static bool ends_in(const char *name, const char *ending)
{
    const size_t length = strlen(name), own = strlen(ending);
    return length >= own && strcmp(name + length - own, ending) == 0;
}

static tenon_status check_part(const tn_names *names, const char *path, tenon_error *error)
{
    const size_t length = strlen(path);
    for (int64_t t = 0; t < names->count; t++) {
        const char *name = names->plain[t];
        if (strncmp(name, path, length) != 0 || name[length] != '.') continue;
        for (size_t m = 0; m < sizeof markers / sizeof markers[0]; m++) {
            if (!ends_in(name, markers[m].ending)) continue;
            return tn_fail(error, TENON_UNSUPPORTED, "%s: the connector is %s: tensor '%s'; %s", names->source,
                           markers[m].what, tn_quote(name).text,
                           markers[m].advice != NULL ? markers[m].advice
                                                     : "take the connector from the checkpoint before quantisation, "
                                                       "or dequantise it and save it as BF16");
        }
    }
    return TENON_OK;
}

static tenon_status check_scheme(const scheme *s, const tn_names *names, tenon_error *error)
{
    for (int i = 0; i < s->num_names; i++) {
        if (s->found[i] > 1) {
            return tn_fail(error, TENON_MISMATCH, "%s: '%s' is there %d times: '%s', '%s'%s; choose one with `prefix`",
                           names->source, s->names[i].theirs, s->found[i], tn_quote(s->paths[i]).text,
                           tn_quote(s->second[i]).text, s->found[i] > 2 ? ", ..." : "");
        }
        if (s->found[i] == 1) TN_TRY(check_part(names, s->paths[i], error));
    }
    return TENON_OK;
}

/* ---- the places ---- */

static tenon_status fail_memory(const tn_names *names, tenon_error *error)
{
    return tn_fail(error, TENON_NO_MEMORY, "%s: out of memory for names", names->source);
}

static tenon_status keep(tn_places *places, const scheme *s, const tn_names *names, const tn_expected *expected,
                         tenon_error *error)
{
    places->wanted = calloc((size_t)expected->count + 1, sizeof *places->wanted); /* never of size 0 */
    if (places->wanted == NULL) return fail_memory(names, error);
    places->count = expected->count;
    for (int64_t p = 0; p < expected->count; p++) {
        char full[MAX_PATH];
        const char *name = expected->parameters[p].name;
        places->wanted[p] = strdup(name_parameter(full, s, name) ? full : name);
        if (places->wanted[p] == NULL) return fail_memory(names, error);
    }
    for (int i = 0; i < s->num_names; i++) {
        if (s->found[i] == 0) continue;
        places->inside[places->num_inside] = strdup(s->paths[i]);
        if (places->inside[places->num_inside++] == NULL) return fail_memory(names, error);
    }
    return TENON_OK;
}

tenon_status tn_places_find(tn_places *places, const tn_family *family, const tn_names *names,
                            const tn_expected *expected, const char *prefix, tenon_error *error)
{
    *places = (tn_places){.wanted = NULL};
    scheme *tried = calloc(2, sizeof *tried);
    if (tried == NULL) return fail_memory(names, error);
    scheme *best = &tried[0], *next = &tried[1];
    find_scheme(best, family->names[0], names, expected, prefix);
    for (int i = 1; i < TN_MAX_SCHEMES && family->names[i] != NULL; i++) {
        find_scheme(next, family->names[i], names, expected, prefix);
        if (next->parameters <= best->parameters) continue;
        scheme *const worse = best;
        best = next;
        next = worse;
    }
    tenon_status status = check_scheme(best, names, error);
    if (status == TENON_OK) status = keep(places, best, names, expected, error);
    free(tried);
    return status;
}

void tn_places_free(tn_places *places)
{
    for (int64_t p = 0; p < places->count; p++)
        free(places->wanted[p]);
    for (int i = 0; i < places->num_inside; i++)
        free(places->inside[i]);
    free(places->wanted);
    *places = (tn_places){.wanted = NULL};
}
