/* SPDX-License-Identifier: MIT */
#include "names.h"

#include "paths.h"
#include "report.h"

#include <ctype.h>
#include <dirent.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_LINKS = 40, MAX_INDEX = 100 << 20 /* bytes, as the library has it */ };

/* What is done with a name; the table says so. */
typedef enum use { READ, READ_MODEL, WRITE, WRITE_FOLDER } use;

static const struct {
    const char *values;
    use what;
} uses[] = {{"@file", READ},           {"@model", READ_MODEL}, {"@output", WRITE},
            {"@folder", WRITE_FOLDER}, {"@file-", READ},       {"@output-", WRITE}};

typedef struct name {
    char option[48];
    const char *given; /* what stands behind the option */
    char *path;        /* the same, or a file in it */
    use what;
    bool exists, is_folder;
    dev_t device; /* of the file; of the deepest folder that exists where the file does not */
    ino_t inode;
    char *rest;   /* of a file that is not there: the name from that folder on */
    char *folder; /* that folder */
} name;

struct tn_names {
    name *list;
    size_t count;
    size_t named; /* the first of them, which the command line names */
};

/* ---- which file a name leads to ---- */

/* *at: a malloc'd path; becomes the text of the symbolic link that it names. False where it names none. */
static bool follow_link(char **at)
{
    char text[PATH_MAX];
    const ssize_t length = readlink(*at, text, sizeof text - 1);
    if (length <= 0) return false;
    text[length] = 0;
    char *slash = strrchr(*at, '/');
    if (slash) slash[slash == *at ? 1 : 0] = 0;
    char *next = text[0] == '/' ? strdup(text) : tn_paths_join(slash ? *at : ".", text);
    free(*at);
    *at = next;
    return true;
}

/* "a//b/./c/" becomes "a/b/c", in place. */
static void tidy(char *path)
{
    char *to = path;
    for (const char *from = path; *from; from++) {
        if (*from == '/' && (from[1] == '/' || (from[1] == '.' && (from[2] == '/' || !from[2])))) {
            from += from[1] == '.';
            continue;
        }
        *to++ = *from;
    }
    if (to - path > 1 && to[-1] == '/') to--;
    if (to == path && *path) to++; /* "/." */
    *to = 0;
}

/* The deepest folder on the way to `at` that exists, and the rest of the way. */
static bool identify_missing(name *n, const char *at)
{
    struct stat info = {.st_ino = 0};
    bool found = false;
    for (size_t rest = strlen(at); !found; rest--) {
        while (rest > 0 && at[rest - 1] != '/')
            rest--;
        free(n->folder);
        n->folder = rest > 1 ? strndup(at, rest - 1) : strdup(rest ? "/" : ".");
        if (!n->folder) return false;
        found = stat(n->folder, &info) == 0 || rest <= 1;
        if (found) n->rest = strdup(at + rest);
        if (rest == 0) break;
    }
    if (!n->rest) return false;
    n->device = info.st_dev;
    n->inode = info.st_ino;
    return true;
}

/* Fills in where the name leads; *counts: to something that can be lost or read. False: out of memory. */
static bool identify(name *n, bool *counts)
{
    struct stat info;
    char *at = strdup(n->path);
    if (at) tidy(at);
    for (int links = 0; at && links < MAX_LINKS && stat(at, &info) != 0 && follow_link(&at);)
        links++;
    if (!at) return false;
    bool good = true;
    n->exists = stat(at, &info) == 0;
    if (n->exists) {
        n->is_folder = S_ISDIR(info.st_mode);
        n->device = info.st_dev;
        n->inode = info.st_ino;
        *counts = n->is_folder || S_ISREG(info.st_mode);
    } else {
        good = identify_missing(n, at);
        *counts = n->what >= WRITE; /* a missing input is for its reader to name */
    }
    free(at);
    return good;
}

/* ---- the list ---- */

static void free_name(name *n)
{
    free(n->path);
    free(n->rest);
    free(n->folder);
}

/* Adds the path (taken; NULL: out of memory). */
static bool add(tn_names *names, const char *option, const char *given, char *path, use what)
{
    name n = {.given = given, .path = path, .what = what};
    bool counts = false;
    snprintf(n.option, sizeof n.option, "%s", option);
    bool good = path && identify(&n, &counts);
    if (good && counts && (names->count & (names->count - 1)) == 0) {
        name *larger = realloc(names->list, (names->count ? 2 * names->count : 1) * sizeof n);
        good = larger != NULL;
        if (larger) names->list = larger;
    }
    if (good && counts)
        names->list[names->count++] = n;
    else
        free_name(&n);
    return good;
}

/* "-" is a stream; where the shell took it from a file, that file counts. */
static bool add_given(tn_names *names, const char *option, const char *path, const char *values)
{
    for (size_t i = 0; path && values && i < sizeof uses / sizeof *uses; i++) {
        if (strcmp(values, uses[i].values) != 0) continue;
        const char *stream = uses[i].what >= WRITE ? "/dev/stdout" : "/dev/stdin";
        return add(names, option, path, strdup(strcmp(path, "-") ? path : stream), uses[i].what);
    }
    return true;
}

/* As the sentences call it: "-o" rather than "--output". */
static void name_option(const tn_option *option, char text[48])
{
    if (option->letter)
        snprintf(text, 48, "-%c", option->letter);
    else
        snprintf(text, 48, "--%.40s", option->name);
}

bool tn_names_new(const tn_command *command, const void *settings, const char *const words[TN_MAX_ARGUMENTS],
                  tn_names **names, tenon_error *error)
{
    char text[48];
    tn_names *made = calloc(1, sizeof *made);
    bool good = made != NULL;
    for (int i = 0; good && command->arguments[i].name; i++)
        good = add_given(made, command->arguments[i].name, words[i], command->arguments[i].values);
    for (const tn_option *option = command->options; good && option->name; option++) {
        const char *path;
        if (option->kind != TN_STRING) continue;
        memcpy(&path, (const char *)settings + option->field, sizeof path);
        name_option(option, text);
        good = add_given(made, text, path, option->values);
    }
    if (good) {
        made->named = made->count;
        *names = made;
        return true;
    }
    tn_names_free(made);
    return tn_error(error, "out of memory");
}

bool tn_names_add(tn_names *names, const char *option, const char *folder, const char *file, tenon_error *error)
{
    return add(names, option, folder, tn_paths_join(folder, file), WRITE) || tn_error(error, "out of memory");
}

void tn_names_free(tn_names *names)
{
    if (!names) return;
    for (size_t i = 0; i < names->count; i++)
        free_name(&names->list[i]);
    free(names->list);
    free(names);
}

/* ---- what is read with a name ---- */

/* Would a reader of the whole folder take a file of this name? */
static bool takes(use what, const char *file)
{
    if (what == READ_MODEL)
        return tn_paths_has_suffix(file, ".safetensors") || tn_paths_has_suffix(file, ".index.json") ||
               !strcmp(file, "config.json");
    return tn_paths_is_shard_name(file);
}

static bool add_folder_files(tn_names *names, const name *of)
{
    DIR *listing = opendir(of->path);
    const struct dirent *entry;
    const name folder = *of; /* the list may move */
    bool good = true;
    while (good && listing && (entry = readdir(listing)))
        if (takes(folder.what, entry->d_name))
            good = add(names, folder.option, folder.given, tn_paths_join(folder.path, entry->d_name), folder.what);
    if (listing) closedir(listing);
    return good;
}

/* The shards of an index lie beside it. */
static bool add_shards(tn_names *names, const name *index, const char *path, json_t *weight_map)
{
    char *folder = strdup(path);
    char *slash = folder ? strrchr(folder, '/') : NULL;
    if (slash) slash[slash == folder ? 1 : 0] = 0;
    bool good = folder != NULL;
    const char *tensor, *before = "";
    json_t *value;
    json_object_foreach(weight_map, tensor, value)
    {
        const char *file = json_string_value(value);
        if (!good || !file || !strcmp(file, before)) continue; /* a shard's tensors mostly follow each other */
        before = file;
        good = add(names, index->option, index->given, tn_paths_join(slash ? folder : ".", file), index->what);
    }
    free(folder);
    return good;
}

/* An index that is a link has its shards beside the link or beside the file. One that cannot be read is for its reader
 * to say. */
static bool add_index_files(tn_names *names, const name *of)
{
    struct stat info;
    const name index = *of; /* the list may move */
    if (stat(index.path, &info) != 0 || info.st_size > MAX_INDEX) return true;
    json_t *root = json_load_file(index.path, 0, NULL);
    json_t *weight_map = json_object_get(root, "weight_map");
    char *real = realpath(index.path, NULL);
    bool good =
        add_shards(names, &index, index.path, weight_map) && (!real || add_shards(names, &index, real, weight_map));
    free(real);
    json_decref(root);
    return good;
}

/* Inputs stand for the files that are read with them; which matters only where an output is there already. */
static bool add_members(tn_names *names)
{
    bool any = false, good = true;
    for (size_t i = 0; i < names->count; i++)
        any = any || (names->list[i].what >= WRITE && names->list[i].exists && !names->list[i].is_folder);
    for (size_t i = 0; any && good && i < names->count; i++) { /* those that are added have their turn too */
        const name *n = &names->list[i];
        if (n->what >= WRITE) continue;
        if (n->is_folder)
            good = add_folder_files(names, n);
        else if (tn_paths_has_suffix(n->path, ".json"))
            good = add_index_files(names, n);
    }
    return good;
}

/* ---- the check ---- */

static int compare_rest(const name *a, const name *b)
{
    return strcasecmp(a->rest ? a->rest : "", b->rest ? b->rest : "");
}

static int by_file(const void *left, const void *right)
{
    const name *a = left, *b = right;
    if (a->device != b->device) return a->device < b->device ? -1 : 1;
    if (a->inode != b->inode) return a->inode < b->inode ? -1 : 1;
    if (a->exists != b->exists) return a->exists ? -1 : 1;
    const int rest = compare_rest(a, b);
    if (rest != 0) return rest;
    return (a->what >= WRITE ? 0 : 1) - (b->what >= WRITE ? 0 : 1); /* outputs first */
}

/* Does a folder take "A" for "a"? Its own name in the other case tells, where it has letters. */
static bool ignores_case(const char *folder)
{
    struct stat real, other;
    char *path = realpath(folder, NULL);
    bool has_letter = false;
    for (char *c = path ? strrchr(path, '/') : NULL; c && *c; c++) {
        has_letter = has_letter || isalpha((unsigned char)*c);
        *c = (char)(islower((unsigned char)*c) ? toupper((unsigned char)*c) : tolower((unsigned char)*c));
    }
    bool ignores = has_letter && stat(folder, &real) == 0 && stat(path, &other) == 0 && real.st_dev == other.st_dev &&
                   real.st_ino == other.st_ino;
    free(path);
    return ignores;
}

static bool same_file(const name *a, const name *b)
{
    if (a->device != b->device || a->inode != b->inode || a->exists != b->exists || compare_rest(a, b) != 0)
        return false;
    return a->exists || !strcmp(a->rest, b->rest) || ignores_case(a->folder);
}

/* "-o out.npy", or "x/1.npy of --features x". */
static const char *describe(const name *n, char text[2200])
{
    if (!strcmp(n->given, n->path))
        snprintf(text, 2200, "%s %.1000s", n->option, n->path);
    else
        snprintf(text, 2200, "%.1000s of %s %.1000s", n->path, n->option, n->given);
    return text;
}

static bool collide(const name *output, const name *other, tenon_error *error)
{
    char first[2200], second[2200];
    describe(output, first);
    describe(other, second);
    if (output->is_folder)
        return tn_error(error, "%.1500s and %.1500s are the same folder; give %s another one", first, second,
                        output->option);
    return tn_error(error, "%.1500s and %.1500s are the same file, which %s; give %s another name", first, second,
                    other->what >= WRITE ? "cannot hold both" : "the run would overwrite", output->option);
}

/* The first `count` names, sorted so that those of one file follow each other, outputs first. One output named twice by
 * one option is for the subcommand to explain. */
static bool check_files(const tn_names *names, size_t count, tenon_error *error)
{
    if (count > 1) qsort(names->list, count, sizeof *names->list, by_file);
    for (size_t i = 0; i + 1 < count; i++) {
        const name *output = &names->list[i], *other = &names->list[i + 1];
        if (output->what < WRITE || !same_file(output, other)) continue;
        if (other->what >= WRITE && !strcmp(output->option, other->option) && !strcmp(output->path, other->path))
            continue;
        return collide(output, other, error);
    }
    return true;
}

/* A new file in a folder that is read as a whole would be an input of the next run. */
static bool check_folders(const tn_names *names, tenon_error *error)
{
    char first[2200], second[2200];
    for (size_t i = 0; i < names->count; i++) {
        const name *output = &names->list[i];
        if (output->what < WRITE || output->exists) continue;
        for (size_t j = 0; j < names->named; j++) {
            const name *folder = &names->list[j];
            if (folder->what >= WRITE || !folder->is_folder || folder->device != output->device ||
                folder->inode != output->inode || strchr(output->rest, '/') || !takes(folder->what, output->rest))
                continue;
            return tn_error(error,
                            "%.1500s lies in the folder %.1500s, where the next run would take it for an input; write "
                            "it to another folder",
                            describe(output, first), describe(folder, second));
        }
    }
    return true;
}

bool tn_names_check(tn_names *names, tenon_error *error)
{
    /* The names on the command line first, because they say most. */
    if (!check_files(names, names->named, error) || !check_folders(names, error)) return false;
    if (!add_members(names)) return tn_error(error, "out of memory");
    return check_files(names, names->count, error);
}

int tn_names_check_command(const tn_command *command, const void *settings, const char *const words[TN_MAX_ARGUMENTS])
{
    tn_names *names;
    tenon_error error;
    if (!tn_names_new(command, settings, words, &names, &error)) return tn_failed_error(&error);
    bool good = tn_names_check(names, &error);
    tn_names_free(names);
    return good ? -1 : tn_failed_error(&error);
}
