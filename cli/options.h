/* SPDX-License-Identifier: MIT */
/* Options of a subcommand as one table: the parser, --help, the manual page and the shell completion all read it. */
#ifndef TN_CLI_OPTIONS_H
#define TN_CLI_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What an option's argument is, and the type of the field that takes it. */
typedef enum tn_option_kind {
    TN_FLAG,    /* no argument; bool */
    TN_STRING,  /* const char * */
    TN_INT,     /* int64_t, from `minimum` on */
    TN_UINT,    /* uint64_t */
    TN_REAL,    /* double, not negative */
    TN_PAIR,    /* tn_pair, "HxW", both positive */
    TN_MAPPING, /* tn_mapping, "OLD=NEW,OLD=NEW"; may be repeated */
    TN_SETTING  /* tn_mapping, "NAME=VALUE", the value with commas and all; may be repeated */
} tn_option_kind;

/* Rows x columns; 0 x 0 while not given. */
typedef struct tn_pair {
    int64_t height;
    int64_t width;
} tn_pair;

/* What was given with each use of an option, checked to be pairs. */
enum { TN_MAX_MAPPINGS = 64 };
typedef struct tn_mapping {
    const char *words[TN_MAX_MAPPINGS];
    int count;
} tn_mapping;

typedef struct tn_option {
    const char *name; /* without the dashes */
    char letter;      /* 'o' for -o as well; 0: none */
    tn_option_kind kind;
    const char *argument; /* as help shows it: "HxW"; NULL for a flag */
    const char *values;   /* the words that are allowed, or "@types", "@levels", or a name: "@file" and "@model" are
                             read, "@output" (a file or folder) and "@folder" written; "@file-" and "@output-" may be
                             "-", standard input or output; NULL: anything */
    int64_t minimum;      /* of a TN_INT */
    size_t field;         /* offset in the subcommand's settings */
    const char *help;     /* one sentence without its full stop */
    const char *example;  /* the option in use */
} tn_option;

/* A positional argument. */
typedef struct tn_argument {
    const char *name; /* "FEATURES" */
    bool optional;
    const char *values;
    const char *help;
} tn_argument;

/* Is it standard input or output? Is it, and is that closed? The next file to be opened would take its number. */
static inline bool tn_is_stream(const char *word)
{
    return word[0] == '-' && !word[1];
}
bool tn_stream_is_closed(const char *word, int descriptor);

typedef struct tn_example {
    const char *line;
    const char *says;
} tn_example;

enum { TN_MAX_ARGUMENTS = 2 };

typedef struct tn_command {
    const char *name;
    const char *summary;          /* half a line, for the list of subcommands */
    const char *description;      /* a paragraph */
    const tn_argument *arguments; /* ends with a NULL name, as do the next two */
    const tn_option *options;
    const tn_example *examples;
    const char *exits; /* what the exit codes mean here */
    int (*run)(const struct tn_command *command, int argc, char **argv);
    bool joins_ranks; /* under mpirun its processes do one thing together */
} tn_command;

/* The row that every subcommand has beside --help; `settings` is its struct, with a bool `json`. */
#define TN_OPTION_JSON(settings)                                                                                       \
    {                                                                                                                  \
        "json", 0, TN_FLAG, NULL, NULL, 0, offsetof(settings, json), "print the result as JSON", "--json"              \
    }

/* Parses argv[0..argc), the words after the subcommand, into `settings`, which holds the defaults already, and the
 * positional arguments into arguments[TN_MAX_ARGUMENTS] (NULL where absent). Returns -1 to go on, or the exit code
 * after printing help or a usage error. */
int tn_options_parse(const tn_command *command, int argc, char **argv, void *settings,
                     const char *arguments[TN_MAX_ARGUMENTS]);

/* Reads a whole decimal number that fits int64_t; false for anything else. */
bool tn_parse_int(const char *text, int64_t *value);

/* As many threads as the library takes. */
enum { TN_MOST_THREADS = 4096 };

/* Returns -1, or the exit code after saying that the number given with --option is larger than `most`. */
int tn_check_most(const tn_command *command, const char *option, int64_t value, int64_t most);

#endif
