/* SPDX-License-Identifier: MIT */
/* Which tensors of a checkpoint look like a connector. Names are gone through as a tree of modules: a small one is
 * tried against every type, whose parameters it must have exactly, and one with a word such as "projector" in its name
 * is noted in any case. Layers that repeat ("layers.7.mlp.") are not taken for connectors. */
#include "inspect.h"

#include "report.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_TENSORS = 2 * TN_GUESS_MODULES, MOST_CALLED = 512, DEEPEST = 64 };

/* ---- names ---- */

static int by_name(const void *a, const void *b)
{
    return strcmp(((const tn_named_tensor *)a)->name, ((const tn_named_tensor *)b)->name);
}

tn_named_tensor *tn_sort_tensors(const tenon_file *file)
{
    int64_t count = tenon_file_num_tensors(file);
    tn_named_tensor *list = calloc((size_t)count + 1, sizeof *list);
    for (int64_t i = 0; list && i < count; i++) {
        tenon_file_tensor tensor;
        tenon_file_tensor_init(&tensor);
        bool found = tenon_file_get_tensor(file, i, &tensor, NULL) == TENON_OK;
        list[i] = (tn_named_tensor){found ? tensor.name : "", i};
    }
    if (list) qsort(list, (size_t)count, sizeof *list, by_name);
    return list;
}

static const char *const words[] = {"projector",   "connector",  "merger",    "resampler",  "aligner", "abstractor",
                                    "adapter",     "adaptor",    "perceiver", "mm_proj",    "qformer", "vision_proj",
                                    "visual_proj", "modal_proj", "q_former",  "downsampler"};

static bool has_word(const char *name, size_t length)
{
    for (size_t w = 0; w < sizeof words / sizeof *words; w++) {
        size_t word = strlen(words[w]);
        for (size_t i = 0; i + word <= length; i++) {
            size_t same = 0;
            while (same < word && (name[i + same] | 0x20) == (words[w][same] | 0x20))
                same++;
            if (same == word) return true;
        }
    }
    return false;
}

/* A part of the prefix is a number. */
static bool is_numbered(const char *name, size_t length)
{
    for (size_t at = 0; at < length;) {
        size_t part = strcspn(name + at, "."), digits = strspn(name + at, "0123456789");
        if (part > 0 && digits >= part) return true;
        at += part + 1;
    }
    return false;
}

/* "2" before "10". */
static int by_number(const char *a, const char *b)
{
    while (*a && *b) {
        size_t digits_a = strspn(a, "0123456789"), digits_b = strspn(b, "0123456789");
        if (digits_a && digits_b && digits_a != digits_b) return digits_a < digits_b ? -1 : 1;
        if (*a != *b) return (unsigned char)*a < (unsigned char)*b ? -1 : 1;
        a++;
        b++;
    }
    return (*a != 0) - (*b != 0);
}

/* ---- modules: what has a weight and a bias ---- */

typedef struct module {
    char name[96];
    int64_t shape[2]; /* of the weight */
    bool weight, bias;
} module;

typedef struct modules {
    module list[TN_GUESS_MODULES];
    int count;
} modules;

static module *find_module(modules *m, const char *name, size_t length)
{
    for (int i = 0; i < m->count; i++)
        if (strlen(m->list[i].name) == length && !memcmp(m->list[i].name, name, length)) return &m->list[i];
    if (m->count == TN_GUESS_MODULES || length >= sizeof m->list[0].name) return NULL;
    module *added = &m->list[m->count++];
    *added = (module){.weight = false};
    memcpy(added->name, name, length);
    return added;
}

/* Takes the tensor "fc1.weight" or "fc1.bias" in; false: this is nothing that a linear layer has. */
static bool take_tensor(modules *m, const char *name, int ndim, const int64_t *shape)
{
    const char *dot = strrchr(name, '.');
    const char *last = dot ? dot + 1 : name;
    bool weight = !strcmp(last, "weight") && ndim == 2, bias = !strcmp(last, "bias") && ndim == 1;
    module *of = weight || bias ? find_module(m, name, dot ? (size_t)(dot - name) : 0) : NULL;
    if (!of) return false;
    if (weight) memcpy(of->shape, shape, sizeof of->shape);
    if (weight) of->weight = true;
    if (bias) of->bias = true;
    return true;
}

static bool modules_of_file(modules *m, const tenon_file *file, const tn_guess *g)
{
    m->count = 0;
    for (int64_t i = 0; i < g->count; i++) {
        tenon_file_tensor tensor;
        tenon_file_tensor_init(&tensor);
        if (tenon_file_get_tensor(file, g->tensors[i].index, &tensor, NULL) != TENON_OK ||
            !take_tensor(m, tensor.name + g->prefix, tensor.ndim, tensor.shape))
            return false;
    }
    /* In the order of numbers, which the file's names need not be in. */
    for (int i = 1; i < m->count; i++)
        for (int j = i; j > 0 && by_number(m->list[j].name, m->list[j - 1].name) < 0; j--) {
            module swap = m->list[j];
            m->list[j] = m->list[j - 1];
            m->list[j - 1] = swap;
        }
    return true;
}

/* ---- types ---- */

static bool set_widths(tenon_config *config, const char *type, int64_t in_dim, int64_t hidden_dim, int64_t *heads)
{
    *heads = 0;
    if (hidden_dim && tenon_type_has_option(type, "hidden_dim") &&
        tenon_config_set_int(config, "hidden_dim", hidden_dim, NULL) != TENON_OK)
        return false;
    if (!tenon_type_has_option(type, "pool_heads")) return true;
    for (*heads = 16; in_dim % *heads != 0; (*heads)--) {
    }
    return tenon_config_set_int(config, "pool_heads", *heads, NULL) == TENON_OK;
}

/* The modules of a type at these widths, in its order. */
static bool modules_of_type(modules *m, const char *type, int64_t in_dim, int64_t hidden_dim, int64_t out_dim,
                            int64_t *heads)
{
    tenon_config *config = NULL;
    tenon_adapter *adapter = NULL;
    m->count = 0;
    bool good = tenon_config_new(type, &config, NULL) == TENON_OK &&
                set_widths(config, type, in_dim, hidden_dim, heads) &&
                tenon_adapter_new(config, in_dim, out_dim, NULL, &adapter, NULL) == TENON_OK;
    for (int64_t i = 0; good && i < tenon_adapter_num_parameters(adapter); i++) {
        tenon_parameter parameter;
        tenon_parameter_init(&parameter);
        good = tenon_adapter_parameter(adapter, i, &parameter, NULL) == TENON_OK &&
               take_tensor(m, parameter.name, parameter.ndim, parameter.shape);
    }
    tenon_adapter_free(adapter);
    tenon_config_free(config);
    return good;
}

/* The file's module for each of the type's: by name (`by_name`, where all names are there), or in order, which tells
 * two apart but not more. */
static bool align(const modules *ours, modules *theirs, bool by_name, int place[TN_GUESS_MODULES])
{
    int named = 0;
    if (ours->count != theirs->count) return false;
    for (int i = 0; i < ours->count; i++) {
        place[i] = i;
        for (int j = 0; j < theirs->count; j++) {
            if (strcmp(ours->list[i].name, theirs->list[j].name) != 0) continue;
            place[i] = j;
            named++;
            break;
        }
    }
    if (by_name || named == ours->count) return named == ours->count;
    for (int i = 0; i < ours->count; i++)
        place[i] = i;
    return ours->count <= 2;
}

static bool is_same(const module *a, const module *b)
{
    return a->weight && b->weight && a->bias == b->bias && a->shape[0] == b->shape[0] && a->shape[1] == b->shape[1];
}

/* Where the file has other names: what each module is called there and here. */
static void note_names(tn_guess *g, const modules *ours, const modules *theirs, const int place[TN_GUESS_MODULES])
{
    bool same = true;
    for (int i = 0; i < ours->count; i++)
        same = same && !strcmp(ours->list[i].name, theirs->list[place[i]].name);
    for (int i = 0; i < ours->count && !same; i++) {
        struct tn_module_name *name = &g->renamed[g->num_renamed++];
        snprintf(name->from, sizeof name->from, "%s", theirs->list[place[i]].name);
        snprintf(name->to, sizeof name->to, "%.63s", ours->list[i].name);
    }
}

/* Does the group have exactly the parameters of this type, at some widths? */
static bool fits(tn_guess *g, const char *type, bool by_name, modules *theirs)
{
    modules ours;
    int place[TN_GUESS_MODULES];
    int64_t heads;
    if (!modules_of_type(&ours, type, 16, 0, 16, &heads) || !ours.count || !align(&ours, theirs, by_name, place))
        return false;
    const module *first = &theirs->list[place[0]], *last = &theirs->list[place[ours.count - 1]];
    int64_t in_dim = first->shape[1], out_dim = last->shape[0];
    int64_t hidden_dim = tenon_type_has_option(type, "hidden_dim") ? first->shape[0] : 0;
    if (in_dim < 1 || out_dim < 1 || !modules_of_type(&ours, type, in_dim, hidden_dim, out_dim, &heads)) return false;
    for (int i = 0; i < ours.count; i++)
        if (!is_same(&ours.list[i], &theirs->list[place[i]])) return false;
    if (g->num_types == 0) {
        g->in_dim = in_dim;
        g->out_dim = out_dim;
        g->hidden_dim = hidden_dim;
        g->heads = heads;
        note_names(g, &ours, theirs, place);
    }
    g->types[g->num_types++] = type;
    return true;
}

/* Types whose names the modules have, or else those that they are in order. Types that pool come last: nothing in the
 * tensors tells that they do. */
static void find_types(tn_guess *g, const tenon_file *file)
{
    enum { MOST = 64 };
    const char *types[MOST];
    modules theirs;
    if (!modules_of_file(&theirs, file, g)) return;
    size_t count = tenon_list_adapters(types, MOST);
    for (int pass = 0; pass < 4; pass++) {
        bool by_name = pass < 2, pools = pass % 2 != 0;
        if (pass == 2 && g->num_types > 0) return;
        for (size_t i = 0; i < count && i < MOST && g->num_types < TN_GUESS_TYPES; i++)
            if (tenon_type_pools(types[i]) == pools) fits(g, types[i], by_name, &theirs);
    }
}

/* ---- the tree ---- */

typedef struct search {
    const tenon_file *file;
    tn_guess *best;
    int count;
    int64_t more;
} search;

static int rank(const tn_guess *g)
{
    return 2 * (g->num_types > 0) + g->is_called;
}

/* The best first, those of one rank in the order of their names. */
static void keep(search *s, const tn_guess *g)
{
    int at = s->count;
    while (at > 0 && rank(&s->best[at - 1]) < rank(g))
        at--;
    if (s->count == TN_GUESSES) s->more++;
    if (at == TN_GUESSES) return;
    int moved = (s->count == TN_GUESSES ? s->count - 1 : s->count) - at;
    memmove(&s->best[at + 1], &s->best[at], (size_t)moved * sizeof *g);
    s->best[at] = *g;
    if (s->count < TN_GUESSES) s->count++;
}

/* The end of the next part of a name after `prefix` bytes, its dot included; 0: the rest is one part. */
static size_t next_part(const char *name, size_t prefix)
{
    const char *dot = strchr(name + prefix, '.');
    return dot ? (size_t)(dot + 1 - name) : 0;
}

static bool share(const tn_named_tensor *tensors, int64_t count, size_t length)
{
    return length && !strncmp(tensors[0].name, tensors[count - 1].name, length);
}

/* True when the group is a guess, or too small to hold one. */
static bool try_group(search *s, const tn_named_tensor *tensors, int64_t count, size_t prefix, bool is_called)
{
    tn_guess g = {.tensors = tensors, .count = count, .prefix = prefix, .is_called = is_called};
    if (count <= MOST_TENSORS) find_types(&g, s->file);
    bool found = g.num_types ? is_called || !is_numbered(tensors[0].name, prefix) : is_called && count <= MOST_CALLED;
    if (found) keep(s, &g);
    return found || count == 1;
}

/* Goes through tensors [count] that share `prefix` bytes of their names, and the groups in them. */
static void walk(search *s, const tn_named_tensor *tensors, int64_t count, size_t prefix, bool is_called, int depth)
{
    size_t known = prefix, before = prefix, next;
    while ((next = next_part(tensors[0].name, prefix)) && share(tensors, count, next)) {
        before = prefix;
        prefix = next;
    }
    is_called = is_called || has_word(tensors[0].name + known, prefix - known);
    /* "proj.weight" and "proj.bias": a weight and a bias belong to a module that has a name. */
    bool single = count <= 2 && !strchr(tensors[0].name + prefix, '.');
    if (try_group(s, tensors, count, single ? before : prefix, is_called) || depth == DEEPEST) return;
    for (int64_t first = 0, end; first < count; first = end) {
        end = first + 1;
        next = next_part(tensors[first].name, prefix);
        while (next && end < count && !strncmp(tensors[first].name, tensors[end].name, next))
            end++;
        if (next) walk(s, tensors + first, end - first, prefix, is_called, depth + 1);
    }
}

int tn_guess_connectors(const tenon_file *file, const tn_named_tensor *tensors, tn_guess guesses[TN_GUESSES],
                        int64_t *more)
{
    search s = {.file = file, .best = guesses};
    int64_t count = tenon_file_num_tensors(file);
    if (count) walk(&s, tensors, count, 0, false, 0);
    /* Where something is called a connector and is one, modules that only have the shapes of one are none. */
    bool certain = s.count && guesses[0].is_called && guesses[0].num_types;
    int kept = 0;
    for (int i = 0; i < s.count; i++)
        if (!certain || guesses[i].is_called) guesses[kept++] = guesses[i];
    *more = kept < s.count ? 0 : s.more;
    return kept;
}

char *tn_guess_config(const tn_guess *guess)
{
    json_t *object = json_pack("{s:s, s:I}", "type", guess->types[0], "in_dim", (json_int_t)guess->in_dim);
    if (object && guess->hidden_dim) json_object_set_new(object, "hidden_dim", json_integer(guess->hidden_dim));
    if (object) json_object_set_new(object, "out_dim", json_integer(guess->out_dim));
    if (object && guess->heads && guess->heads != 16)
        json_object_set_new(object, "pool_heads", json_integer(guess->heads));
    char *text = object ? json_dumps(object, 0) : NULL;
    json_decref(object);
    return text;
}
