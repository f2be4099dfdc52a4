/* SPDX-License-Identifier: MIT */
/* Help, the manual page and the bash completion, all rendered from the option tables. */
#ifndef TN_CLI_HELP_H
#define TN_CLI_HELP_H

#include "options.h"

/* `tenon help`: what the subcommands are. */
void tn_help_overview(void);

/* `tenon NAME --help`. */
void tn_help_command(const tn_command *command);

/* tenon.1 and the completion script, to stdout. */
void tn_help_man_page(void);
void tn_help_completion(void);

/* The words that completion offers for "@types" or "@levels", one a line; false for any other name. */
bool tn_help_values(const char *name);

#endif
