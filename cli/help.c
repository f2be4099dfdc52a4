/* SPDX-License-Identifier: MIT */
#include "help.h"

#include "commands.h"
#include "tenon/tenon.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WIDTH = 100, OPTION_COLUMN = 26 };

static const char about[] =
    "tenon counts, initialises, inspects, runs, fits, compares and times connectors: the layers between a vision "
    "encoder and a language model, which turn patch features (images, patches, width) into tokens (images, tokens, "
    "model width).";

static const char exit_codes[] = "0: done. 1: invalid data, a failure, or a difference. 2: invalid command line.";

/* Prints text from `column` on, broken at blanks, later lines indented to `indent`. */
static void print_wrapped(const char *text, int indent, int column)
{
    while (*text) {
        int length = (int)strcspn(text, " ");
        if (column > indent && column + 1 + length > WIDTH) {
            printf("\n%*s", indent, "");
            column = indent;
        } else if (column > indent) {
            putchar(' ');
            column++;
        }
        printf("%.*s", length, text);
        column += length;
        text += length;
        text += strspn(text, " ");
    }
    putchar('\n');
}

static void print_synopsis(const tn_command *command)
{
    printf("tenon %s", command->name);
    for (const tn_argument *argument = command->arguments; argument->name; argument++)
        printf(argument->optional ? " [%s]" : " %s", argument->name);
    printf(" [options]");
}

static void print_examples(const tn_command *command, const char *indent)
{
    for (const tn_example *example = command->examples; example->line; example++)
        printf("%s# %s\n%s%s\n", indent, example->says, indent, example->line);
}

void tn_help_overview(void)
{
    print_wrapped(about, 0, 0);
    printf("\nUsage: tenon SUBCOMMAND [arguments] [options]\n\nSubcommands:\n");
    for (size_t i = 0; tn_commands[i]; i++)
        printf("  %-10s %s\n", tn_commands[i]->name, tn_commands[i]->summary);
    printf("\n  tenon SUBCOMMAND --help   the options of one, with examples\n"
           "  tenon --version           versions, threading, CPU levels\n\nExit codes: %s\n",
           exit_codes);
}

/* Fills names[0..capacity) with the connector types of the registry and returns how many there are of those. */
static size_t list_types(const char **names, size_t capacity)
{
    size_t count = tenon_list_adapters(names, capacity);
    return count < capacity ? count : capacity;
}

/* The values that only the library knows, after a colon. */
static void append_known_values(char *text, size_t size, const char *values)
{
    const char *names[64];
    if (values && !strcmp(values, "@levels")) {
        size_t used = strlen(text);
        snprintf(text + used, size - used, ": %s", tenon_cpu_levels());
    } else if (values && !strcmp(values, "@types")) {
        size_t count = list_types(names, sizeof names / sizeof *names);
        for (size_t i = 0; i < count; i++) {
            size_t used = strlen(text);
            snprintf(text + used, size - used, i ? ", %s" : ": %s", names[i]);
        }
    }
}

static void print_option(const tn_option *option)
{
    char left[64];
    char text[1024];
    char letter[8] = "";
    if (option->letter) snprintf(letter, sizeof letter, "-%c, ", option->letter);
    int column =
        snprintf(left, sizeof left, "  %s--%s %s", letter, option->name, option->argument ? option->argument : "");
    printf("%-*s", OPTION_COLUMN, left);
    if (column >= OPTION_COLUMN) printf("\n%*s", OPTION_COLUMN, "");
    snprintf(text, sizeof text, "%s", option->help);
    append_known_values(text, sizeof text, option->values);
    size_t used = strlen(text);
    if (option->kind != TN_FLAG) snprintf(text + used, sizeof text - used, " (e.g. %s)", option->example);
    print_wrapped(text, OPTION_COLUMN, OPTION_COLUMN);
}

void tn_help_command(const tn_command *command)
{
    printf("Usage: ");
    print_synopsis(command);
    printf("\n\n");
    print_wrapped(command->description, 0, 0);
    if (command->arguments->name) printf("\nArguments:\n");
    for (const tn_argument *argument = command->arguments; argument->name; argument++) {
        printf("  %-*s", OPTION_COLUMN - 2, argument->name);
        print_wrapped(argument->help, OPTION_COLUMN, OPTION_COLUMN);
    }
    printf("\nOptions:\n");
    for (const tn_option *option = command->options; option->name; option++)
        print_option(option);
    printf("  %-*sprint this help\n\nExamples:\n", OPTION_COLUMN - 2, "-h, --help");
    print_examples(command, "  ");
    printf("\nExit codes: %s\n", command->exits);
}

/* ---- tenon.1 ---- */

/* Text with the characters that roff would read as requests or hyphens escaped. */
static void print_roff(const char *text)
{
    if (*text == '.' || *text == '\'') printf("\\&");
    for (; *text; text++) {
        if (*text == '-')
            printf("\\-");
        else if (*text == '\\')
            printf("\\e");
        else
            putchar(*text);
    }
}

static void man_option(const tn_option *option)
{
    printf(".TP\n\\fB");
    if (option->letter) printf("\\-%c\\fR, \\fB", option->letter);
    printf("\\-\\-");
    print_roff(option->name);
    printf("\\fR");
    if (option->argument) printf(" \\fI%s\\fR", option->argument);
    putchar('\n');
    print_roff(option->help);
    printf(".\n");
    if (option->kind != TN_FLAG) {
        printf("Example: \\fB");
        print_roff(option->example);
        printf("\\fR.\n");
    }
}

static void man_command(const tn_command *command)
{
    printf(".SS ");
    print_synopsis(command);
    putchar('\n');
    print_roff(command->description);
    putchar('\n');
    for (const tn_argument *argument = command->arguments; argument->name; argument++) {
        printf(".TP\n\\fI%s\\fR\n", argument->name);
        print_roff(argument->help);
        printf(".\n");
    }
    for (const tn_option *option = command->options; option->name; option++)
        man_option(option);
    printf(".PP\nExit codes: ");
    print_roff(command->exits);
    printf("\n.PP\n.nf\n");
    for (const tn_example *example = command->examples; example->line; example++) {
        printf("# ");
        print_roff(example->says);
        putchar('\n');
        print_roff(example->line);
        putchar('\n');
    }
    printf(".fi\n");
}

void tn_help_man_page(void)
{
    printf(".\\\" Made by scripts/make_cli_docs.sh from the option tables of the command; do not edit.\n"
           ".TH TENON 1 \"\" \"tenon " TENON_VERSION_STRING "\" \"User commands\"\n.SH NAME\n"
           "tenon \\- connectors between vision encoders and language models\n.SH SYNOPSIS\n"
           "\\fBtenon\\fR \\fISUBCOMMAND\\fR [\\fIarguments\\fR] [\\fIoptions\\fR]\n.SH DESCRIPTION\n");
    print_roff(about);
    printf("\n.PP\n\\fBtenon\\fR \\fISUBCOMMAND\\fR \\fB\\-\\-help\\fR prints the options of one subcommand,\n"
           "\\fBtenon \\-\\-version\\fR versions, threading and CPU levels.\n.SH SUBCOMMANDS\n");
    for (size_t i = 0; tn_commands[i]; i++)
        man_command(tn_commands[i]);
    printf(".SH EXIT STATUS\n");
    print_roff(exit_codes);
    printf("\nErrors are one line on standard error: what, where, what to do.\n.SH ENVIRONMENT\n"
           ".TP\n\\fBTENON_CPU\\fR\nThe highest CPU level to use where \\fB\\-\\-cpu\\fR is not given.\n"
           ".TP\n\\fBTENON_PROGRESS\\fR\nSeconds between the lines of progress where standard error is not a "
           "terminal; default 30. 0: neither lines nor a progress bar.\n");
}

/* ---- completion ---- */

static void completion_case(const tn_option *option)
{
    printf("        --%s%s%c)", option->name, option->letter ? "|-" : "", option->letter ? option->letter : ' ');
    if (!strncmp(option->values, "@file", 5) || !strcmp(option->values, "@model") ||
        !strncmp(option->values, "@output", 7))
        printf(" _tenon_files ;;\n");
    else if (!strcmp(option->values, "@folder"))
        printf(" COMPREPLY=($(compgen -d -- \"$current\")) ;;\n");
    else if (option->values[0] == '@')
        printf(" _tenon_words \"$(tenon --print-values %s 2>/dev/null)\" ;;\n", option->values + 1);
    else
        printf(" _tenon_words \"%s\" ;;\n", option->values);
}

static void completion_command(const tn_command *command)
{
    printf("_tenon_%s() {\n    case \"$previous\" in\n", command->name);
    for (const tn_option *option = command->options; option->name; option++)
        if (option->kind != TN_FLAG && option->values) completion_case(option);
    for (const tn_option *option = command->options; option->name; option++)
        if (option->kind != TN_FLAG && !option->values) printf("        --%s) ;;\n", option->name);
    printf("        *) _tenon_options \"");
    for (const tn_option *option = command->options; option->name; option++)
        printf("--%s ", option->name);
    printf("--help\" ;;\n    esac\n}\n\n");
}

void tn_help_completion(void)
{
    printf("# Bash completion of tenon. Made by scripts/make_cli_docs.sh from the option tables; do not edit.\n\n"
           "_tenon_words() {\n    COMPREPLY=($(compgen -W \"$1\" -- \"$current\"))\n}\n\n"
           "_tenon_files() {\n    COMPREPLY=($(compgen -f -- \"$current\"))\n}\n\n"
           "_tenon_options() {\n    if [[ $current == -* ]]; then _tenon_words \"$1\"; else _tenon_files; fi\n}\n\n");
    for (size_t i = 0; tn_commands[i]; i++)
        completion_command(tn_commands[i]);
    printf("_tenon() {\n    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]}\n"
           "    COMPREPLY=()\n    if ((COMP_CWORD == 1)); then\n        _tenon_words \"");
    for (size_t i = 0; tn_commands[i]; i++)
        printf("%s ", tn_commands[i]->name);
    printf("help --version\"\n        return\n    fi\n    case \"${COMP_WORDS[1]}\" in\n        help) _tenon_words \"");
    for (size_t i = 0; tn_commands[i]; i++)
        printf(i ? " %s" : "%s", tn_commands[i]->name);
    printf("\" ;;\n");
    for (size_t i = 0; tn_commands[i]; i++)
        printf("        %s) _tenon_%s ;;\n", tn_commands[i]->name, tn_commands[i]->name);
    printf("    esac\n}\n\ncomplete -o filenames -F _tenon tenon\n");
}

bool tn_help_values(const char *name)
{
    const char *names[64];
    if (!strcmp(name, "types")) {
        size_t count = list_types(names, sizeof names / sizeof *names);
        for (size_t i = 0; i < count; i++)
            puts(names[i]);
        return true;
    }
    if (strcmp(name, "levels")) return false;
    for (const char *c = tenon_cpu_levels(); *c; c++)
        putchar(*c == ',' ? '\n' : *c);
    putchar('\n');
    return true;
}
