/* SPDX-License-Identifier: MIT */
/* Ctrl-C and its kin: a command ends in order, and then as the signal would have ended it. */
#ifndef TN_CLI_INTERRUPT_H
#define TN_CLI_INTERRUPT_H

/* From here on SIGINT, SIGTERM and SIGHUP are only remembered; a second one ends the process at once. */
void tn_interrupt_install(void);

/* The signal that came, or 0. */
int tn_interrupt_signal(void);

/* At the end of a command that did not succeed: ends the process as the signal would have, if one came. */
void tn_interrupt_end(void);

#endif
