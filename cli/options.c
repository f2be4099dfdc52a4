/* SPDX-License-Identifier: MIT */
#include "options.h"

#include "fields.h"
#include "help.h"
#include "report.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* strtoll and its kin skip blanks and take a sign; a number here is digits, or a minus and digits. */
static bool all_digits(const char *text)
{
    return *text && strspn(text, "0123456789") == strlen(text);
}

bool tn_parse_int(const char *text, int64_t *value)
{
    if (!all_digits(*text == '-' ? text + 1 : text)) return false;
    errno = 0;
    long long number = strtoll(text, NULL, 10);
    if (errno == ERANGE) return false;
    *value = number;
    return true;
}

static bool parse_uint(const char *text, uint64_t *value)
{
    if (!all_digits(text)) return false;
    errno = 0;
    unsigned long long number = strtoull(text, NULL, 10);
    if (errno == ERANGE) return false;
    *value = number;
    return true;
}

static bool parse_real(const char *text, double *value)
{
    if (!(*text >= '0' && *text <= '9') && *text != '.') return false;
    char *end;
    double number = strtod(text, &end);
    if (*end || !isfinite(number)) return false;
    *value = number;
    return true;
}

static bool parse_pair(const char *text, tn_pair *value)
{
    char height[24];
    size_t length = strcspn(text, "xX");
    tn_pair pair;
    if (length >= sizeof height || !text[length]) return false;
    memcpy(height, text, length);
    height[length] = 0;
    if (!tn_parse_int(height, &pair.height) || !tn_parse_int(text + length + 1, &pair.width)) return false;
    if (pair.height <= 0 || pair.width <= 0) return false;
    *value = pair;
    return true;
}

static int store_int(const tn_command *command, const tn_option *option, const char *text, int64_t *field)
{
    int64_t value;
    if (!tn_parse_int(text, &value))
        return tn_usage(command, "--%s takes a whole number%s, got '%s'", option->name,
                        all_digits(text) ? " below 2^63" : "", tn_name_text(text));
    if (value < option->minimum && option->minimum == 1)
        return tn_usage(command, "--%s must be positive (got %" PRId64 ")", option->name, value);
    if (value < option->minimum)
        return tn_usage(command, "--%s must be at least %" PRId64 " (got %" PRId64 ")", option->name, option->minimum,
                        value);
    *field = value;
    return -1;
}

/* "f32 bf16 f16" as "f32, bf16 or f16". */
static void list_words(char *list, size_t size, const char *words)
{
    size_t used = 0;
    for (const char *word = words; *word && used < size;) {
        int length = (int)strcspn(word, " ");
        const char *next = word + length + strspn(word + length, " ");
        const char *before = word == words ? "" : *next ? ", " : " or ";
        used += (size_t)snprintf(list + used, size - used, "%s%.*s", before, length, word);
        word = next;
    }
}

static bool is_word(const char *text, const char *words)
{
    for (const char *word = words; *word; word += strspn(word, " ")) {
        size_t length = strcspn(word, " ");
        if (strlen(text) == length && !strncmp(text, word, length)) return true;
        word += length;
    }
    return false;
}

bool tn_stream_is_closed(const char *word, int descriptor)
{
    return tn_is_stream(word) && fcntl(descriptor, F_GETFD) < 0;
}

/* Adds "FEATURES", "-o" or "--model" to a list. */
static void add_name(char *list, size_t size, const char *between, const tn_argument *argument, const tn_option *option)
{
    const size_t used = strlen(list);
    if (option && option->letter)
        snprintf(list + used, size - used, "%s-%c", between, option->letter);
    else
        snprintf(list + used, size - used, "%s%s%s", between, option ? "--" : "",
                 option ? option->name : argument->name);
}

static bool may_be_stream(const char *values)
{
    return values && (!strcmp(values, "@file-") || !strcmp(values, "@output-"));
}

/* "; only FEATURES and -o can be '-'", or nothing. */
static void list_streams(const tn_command *command, char *list, size_t size)
{
    list[0] = 0;
    for (const tn_argument *argument = command->arguments; argument->name; argument++)
        if (may_be_stream(argument->values)) add_name(list, size, *list ? " and " : "; only ", argument, NULL);
    for (const tn_option *option = command->options; option->name; option++)
        if (may_be_stream(option->values)) add_name(list, size, *list ? " and " : "; only ", NULL, option);
    const size_t used = strlen(list);
    if (used) snprintf(list + used, size - used, " can be '-'");
}

/* Where a file or a folder is named, "-" would become one of that name. `argument` or `option` is NULL. */
static int check_stream(const tn_command *command, const tn_argument *argument, const tn_option *option,
                        const char *text)
{
    static const char *const names[] = {"@file", "@model", "@output", "@folder"};
    const char *values = option ? option->values : argument->values;
    char list[128], name[64] = "";
    bool is_name = false;
    for (size_t i = 0; values && i < sizeof names / sizeof *names; i++)
        is_name = is_name || !strcmp(values, names[i]);
    if (!is_name || !tn_is_stream(text)) return -1;
    add_name(name, sizeof name, "", argument, option);
    list_streams(command, list, sizeof list);
    return tn_usage(command, "%s takes a %s, not '-'%s", name, !strcmp(values, "@folder") ? "folder" : "file", list);
}

/* Is `text` one of the option's words, or a CPU level? -1, or the exit code of a usage error. */
static int check_value(const tn_command *command, const tn_option *option, const char *text)
{
    tenon_error error;
    char list[256] = "";
    const char *words = option->values;
    if (!*text) return tn_usage(command, "--%s got an empty %s", option->name, option->argument);
    const int code = check_stream(command, NULL, option, text);
    if (code >= 0) return code;
    if (words && !strcmp(words, "@levels") && tenon_find_cpu_level(text, NULL, &error) != TENON_OK)
        return tn_usage(command, "%s", error.message);
    if (!words || words[0] == '@' || is_word(text, words)) return -1;
    list_words(list, sizeof list, words);
    return tn_usage(command, "--%s takes %s, got '%s'", option->name, list, tn_name_text(text));
}

static int store_mapping(const tn_command *command, const tn_option *option, const char *text, tn_mapping *mapping)
{
    const char *between = option->kind == TN_MAPPING ? "," : "", *ends = option->kind == TN_MAPPING ? "=," : "=";
    for (const char *pair = text, *next; pair; pair = *next ? next + 1 : NULL) {
        size_t length = strcspn(pair, between), old = strcspn(pair, ends);
        next = pair + length;
        if (!old || old == length)
            return tn_usage(command, "--%s takes %s, got '%.*s'", option->name, option->argument, (int)length, pair);
    }
    if (mapping->count == TN_MAX_MAPPINGS)
        return tn_usage(command, "--%s is given more than %d times; join pairs by commas", option->name,
                        TN_MAX_MAPPINGS);
    mapping->words[mapping->count++] = text;
    return -1;
}

/* Stores one value; -1, or the exit code of a usage error. */
static int store(const tn_command *command, const tn_option *option, const char *text, void *settings)
{
    void *field = (char *)settings + option->field;
    switch (option->kind) {
    case TN_FLAG:
        *(bool *)field = true;
        return -1;
    case TN_STRING:
        *(const char **)field = text;
        return check_value(command, option, text);
    case TN_INT:
        return store_int(command, option, text, field);
    case TN_UINT:
        if (parse_uint(text, field)) return -1;
        return tn_usage(command, "--%s takes a whole number from 0 to 2^64 - 1, got '%s'", option->name,
                        tn_name_text(text));
    case TN_REAL:
        if (parse_real(text, field)) return -1;
        return tn_usage(command, "--%s takes a number that is not negative, got '%s'", option->name,
                        tn_name_text(text));
    case TN_PAIR:
        if (parse_pair(text, field)) return -1;
        return tn_usage(command, "--%s takes two positive whole numbers as %s, got '%s'", option->name,
                        option->argument, tn_name_text(text));
    case TN_MAPPING:
    case TN_SETTING:
        return store_mapping(command, option, text, field);
    }
    return -1;
}

/* The row of "--name", "--name=value", "-o" or "-ovalue"; *value points at an attached value or is NULL. */
static const tn_option *find(const tn_command *command, const char *word, const char **value)
{
    *value = NULL;
    for (const tn_option *option = command->options; option->name; option++) {
        size_t length = strlen(option->name);
        if (word[1] == '-' && !strncmp(word + 2, option->name, length) &&
            (!word[2 + length] || word[2 + length] == '=')) {
            if (word[2 + length]) *value = word + 3 + length;
            return option;
        }
        if (word[1] != '-' && option->letter && word[1] == option->letter) {
            if (word[2]) *value = word + 2;
            return option;
        }
    }
    return NULL;
}

static int unknown_option(const tn_command *command, const char *word)
{
    enum { MOST = 64 };
    const char *names[MOST];
    char typed[64] = "";
    size_t count = 0;
    const char *name = word + strspn(word, "-");
    memcpy(typed, name, strcspn(name, "=") < sizeof typed ? strcspn(name, "=") : 0);
    for (const tn_option *option = command->options; option->name && count < MOST - 1; option++)
        names[count++] = option->name;
    names[count++] = "help";
    const char *nearest = tn_field_option(command, typed);
    if (!nearest) nearest = tenon_nearest_name(typed, names, count);
    return tn_usage(command, "unknown option '%s' for %s%s%s%s", tn_name_text(word), command->name,
                    nearest ? " (did you mean --" : "", nearest ? nearest : "", nearest ? "?)" : "");
}

/* Parses the option at argv[*at] and moves *at past it. */
static int parse_option(const tn_command *command, int argc, char **argv, int *at, void *settings)
{
    const char *word = argv[(*at)++];
    const char *value;
    const tn_option *option = find(command, word, &value);
    if (!option) return unknown_option(command, word);
    if (option->kind == TN_FLAG) {
        if (value) return tn_usage(command, "--%s takes no argument, got '%s'", option->name, tn_name_text(value));
    } else if (!value) {
        if (*at == argc) return tn_usage(command, "--%s needs its argument %s", option->name, option->argument);
        value = argv[(*at)++];
    }
    return store(command, option, value, settings);
}

int tn_check_most(const tn_command *command, const char *option, int64_t value, int64_t most)
{
    if (value <= most) return -1;
    return tn_usage(command, "--%s is at most %" PRId64 " (got %" PRId64 ")", option, most, value);
}

static int check_arguments(const tn_command *command, int given)
{
    int most = 0;
    for (const tn_argument *argument = command->arguments; argument->name; argument++) {
        if (most == given && !argument->optional)
            return tn_usage(command, "%s needs %s: %s", command->name, argument->name, argument->help);
        most++;
    }
    return -1;
}

int tn_options_parse(const tn_command *command, int argc, char **argv, void *settings,
                     const char *arguments[TN_MAX_ARGUMENTS])
{
    int given = 0;
    int most = 0;
    bool options_end = false;
    while (command->arguments[most].name)
        most++;
    for (int i = 0; i < TN_MAX_ARGUMENTS; i++)
        arguments[i] = NULL;
    for (int i = 0; i < argc;) {
        const char *word = argv[i];
        if (!options_end && !strcmp(word, "--")) {
            options_end = true;
            i++;
        } else if (!options_end && (!strcmp(word, "--help") || !strcmp(word, "-h"))) {
            tn_help_command(command);
            return TN_EXIT_OK;
        } else if (!options_end && word[0] == '-' && word[1] && !all_digits(word + 1)) {
            int code = parse_option(command, argc, argv, &i, settings);
            if (code >= 0) return code;
        } else {
            if (given == most)
                return tn_usage(command, "unexpected argument '%s' for %s", tn_name_text(word), command->name);
            const int code = check_stream(command, &command->arguments[given], NULL, word);
            if (code >= 0) return code;
            arguments[given++] = word;
            i++;
        }
    }
    return check_arguments(command, given);
}
