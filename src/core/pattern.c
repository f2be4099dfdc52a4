/* SPDX-License-Identifier: MIT */
/* Names and patterns. */
#include "tenon/tenon.h"

/* A '*' first stands for nothing; where the rest then does not match, the last '*' takes one character more. */
bool tenon_name_matches(const char *pattern, const char *name)
{
    const char *star = NULL, *retry = NULL;
    while (*name != '\0') {
        if (*pattern == '*') {
            star = pattern++;
            retry = name;
        } else if (*pattern == '?' || *pattern == *name) {
            pattern++;
            name++;
        } else if (star != NULL) {
            pattern = star + 1;
            name = ++retry;
        } else {
            return false;
        }
    }
    while (*pattern == '*')
        pattern++;
    return *pattern == '\0';
}
