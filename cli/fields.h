/* SPDX-License-Identifier: MIT */
/* Fields of the library as options of the command. A message of the library names the fields of configs, calls and
 * option structs in backquotes, `prefix_tokens=1`; its user has typed --prefix-tokens 1. */
#ifndef TN_CLI_FIELDS_H
#define TN_CLI_FIELDS_H

#include "options.h"
#include "tenon/tenon.h"

/* The option of this subcommand that sets the field, without its dashes; NULL when none does. */
const char *tn_field_option(const tn_command *command, const char *field);

/* Writes the message with this subcommand's options in place of the fields; a field that it has no option for, or all
 * of them where `command` is NULL, stays as it is. Cut to fit. */
void tn_fields_to_options(char *to, size_t capacity, const char *message, const tn_command *command);

/* For a message about a config in JSON: its fields are what the user wrote and are quoted, 'pool_window', save those of
 * the call that read it ("prefix", "config"). */
void tn_fields_of_json(tenon_error *error);

#endif
