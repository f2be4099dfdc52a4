/* SPDX-License-Identifier: MIT */
/* tenon: counts, initialises, inspects, runs, fits, compares and times connectors. This file finds the subcommand; each
 * has a folder of its own, with its option table. The command uses include/tenon/tenon.h and nothing else of the
 * library.
 */
#include "commands.h"
#include "help.h"
#include "ranks.h"
#include "report.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

const tn_command *const tn_commands[] = {&tn_command_tokens,
                                         &tn_command_init,
                                         &tn_command_inspect,
                                         &tn_command_run,
                                         &tn_command_fit,
                                         &tn_command_compare,
                                         &tn_command_families,
                                         &tn_command_extract,
                                         &tn_command_graft,
                                         &tn_command_bench,
                                         NULL};

static const tn_command *find_command(const char *name)
{
    for (size_t i = 0; tn_commands[i]; i++)
        if (!strcmp(tn_commands[i]->name, name)) return tn_commands[i];
    return NULL;
}

static int unknown_command(const char *name)
{
    enum { MOST = 16 };
    char list[256] = "";
    const char *names[MOST];
    size_t count = 0;
    for (; tn_commands[count] && count < MOST; count++) {
        size_t used = strlen(list);
        names[count] = tn_commands[count]->name;
        snprintf(list + used, sizeof list - used, count ? ", %s" : "%s", names[count]);
    }
    const char *nearest = tenon_nearest_name(name, names, count);
    if (nearest) return tn_usage(NULL, "unknown subcommand '%s' (did you mean '%s'?)", tn_name_text(name), nearest);
    return tn_usage(NULL, "unknown subcommand '%s'; the subcommands are %s", tn_name_text(name), list);
}

static int print_version(void)
{
    printf("tenon %s (library %s)\n%s, processes: %s\n", TENON_VERSION_STRING, tenon_version(), tenon_build_info(),
           tn_ranks_kind());
    return TN_EXIT_OK;
}

static int help(int argc, char **argv)
{
    if (argc == 0) {
        tn_help_overview();
        return TN_EXIT_OK;
    }
    const tn_command *command = find_command(argv[0]);
    if (!command) return unknown_command(argv[0]);
    tn_help_command(command);
    return TN_EXIT_OK;
}

/* `tenon --...`: version, help, and what scripts/make_cli_docs.sh and the completion ask for. */
static int global_option(int argc, char **argv)
{
    const char *word = argv[1];
    if (!strcmp(word, "--version") || !strcmp(word, "-V")) return print_version();
    if (!strcmp(word, "--help") || !strcmp(word, "-h")) return help(0, NULL);
    if (!strcmp(word, "--print-man")) {
        tn_help_man_page();
        return TN_EXIT_OK;
    }
    if (!strcmp(word, "--print-completion")) {
        tn_help_completion();
        return TN_EXIT_OK;
    }
    if (!strcmp(word, "--print-values") && argc == 3 && tn_help_values(argv[2])) return TN_EXIT_OK;
    static const char *const known[] = {"--version", "--help"};
    const char *nearest = tenon_nearest_name(word, known, sizeof known / sizeof *known);
    if (nearest) return tn_usage(NULL, "unknown option '%s' (did you mean %s?)", tn_name_text(word), nearest);
    return tn_usage(NULL, "unknown option '%s'; options of a subcommand come after its name", tn_name_text(word));
}

static int dispatch(int argc, char **argv)
{
    if (argc < 2) return tn_usage(NULL, "no subcommand given");
    if (argv[1][0] == '-') return global_option(argc, argv);
    if (!strcmp(argv[1], "help")) return help(argc - 2, argv + 2);
    const tn_command *command = find_command(argv[1]);
    if (!command) return unknown_command(argv[1]);
    tn_report_for(command);
    return command->run(command, argc - 2, argv + 2);
}

int main(int argc, char **argv)
{
    /* A file past the size limit is a failed write with a sentence, not the end of the process. */
    signal(SIGXFSZ, SIG_IGN);
    int code = dispatch(argc, argv);
    if (fflush(stdout) == 0 && !ferror(stdout)) return code;
    tn_failed("cannot write the result to standard output: %s", strerror(errno));
    /* For compare, 1 means a difference; trouble is 2. */
    bool is_compare = argc > 1 && !strcmp(argv[1], tn_command_compare.name);
    return is_compare ? TN_EXIT_USAGE : TN_EXIT_FAILURE;
}
