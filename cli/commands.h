/* SPDX-License-Identifier: MIT */
/* The subcommands; main.c lists them. */
#ifndef TN_CLI_COMMANDS_H
#define TN_CLI_COMMANDS_H

#include "options.h"

extern const tn_command tn_command_tokens;
extern const tn_command tn_command_init;
extern const tn_command tn_command_inspect;
extern const tn_command tn_command_run;
extern const tn_command tn_command_compare;
extern const tn_command tn_command_bench;
extern const tn_command tn_command_fit;
extern const tn_command tn_command_extract;
extern const tn_command tn_command_graft;
extern const tn_command tn_command_families;

/* All of them, in the order help shows; ends with NULL. */
extern const tn_command *const tn_commands[];

#endif
