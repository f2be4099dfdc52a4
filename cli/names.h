/* SPDX-License-Identifier: MIT */
/* Every name that a run reads against every name that it writes, before anything is computed.
 *
 * Names are compared as files, not as text: by device and inode, so that other spellings, symbolic links, hard links
 * and the case of letters do not matter; a file that is not there yet by its folder's device and inode and its name,
 * at the end of its symbolic links. Devices and pipes are left out: they hold nothing that could be lost.
 *
 * Refused are an output that is an input, two outputs in one file, a folder that is both read and written, and a new
 * output in a folder that is read as a whole, where the next run would take it for an input. */
#ifndef TN_CLI_NAMES_H
#define TN_CLI_NAMES_H

#include "options.h"
#include "tenon/tenon.h"

typedef struct tn_names tn_names;

/* Takes what the command line names, by the table of the subcommand: `values` says which options and arguments are
 * names, and what is done with them. The strings are borrowed. On success the caller owns *names. */
bool tn_names_new(const tn_command *command, const void *settings, const char *const words[TN_MAX_ARGUMENTS],
                  tn_names **names, tenon_error *error);

/* Adds a file that the run itself makes in the folder that `option` ("--checkpoint") names. `file` is copied. */
bool tn_names_add(tn_names *names, const char *option, const char *folder, const char *file, tenon_error *error);

/* Says which two names collide, with their options. */
bool tn_names_check(tn_names *names, tenon_error *error);
void tn_names_free(tn_names *names);

/* All of it, for a subcommand that makes no files of its own accord. Returns -1 to go on, or the exit code after saying
 * what collides. */
int tn_names_check_command(const tn_command *command, const void *settings, const char *const words[TN_MAX_ARGUMENTS]);

#endif
