/* SPDX-License-Identifier: MIT */
/* Linux tells in /proc/self/cgroup which groups a process is in, and in /proc/self/mountinfo where the folders of the
 * groups are and which group each mount shows as its top:
 *
 *   0::/user.slice/job                                         version 2
 *   4:cpu,cpuacct:/docker/ab12                                 version 1
 *   33 24 0:29 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw
 *   35 24 0:31 /docker/ab12 /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu,cpuacct
 *
 * Nothing in these files is trusted: what does not parse, does not fit or cannot be opened is passed over. */
#include "core/quota.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { most_text = 4 << 20, most_path = 4096, most_mounts = 64 };

typedef struct search {
    const char *root;
    int64_t cores;              /* the least so far; 0: no limit */
    char version1[most_path];   /* the group of this process; "": none */
    char version2[most_path];   /* likewise */
    char folder[2 * most_path]; /* of the group at hand */
    char path[3 * most_path];   /* of the file at hand */
    char text[most_text];
} search;

/* ---- files ---- */

/* Up to `capacity` - 1 bytes of root/folder/name, with a 0 behind them. */
static bool read_text(search *s, const char *folder, const char *name, char *text, size_t capacity)
{
    const int length = snprintf(s->path, sizeof s->path, "%s%s/%s", s->root, folder, name);
    if (length < 0 || (size_t)length >= sizeof s->path) return false;
    const int file = open(s->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY); /* waits for no pipe */
    if (file < 0) return false;
    size_t used = 0;
    ssize_t count;
    while (used + 1 < capacity && (count = read(file, text + used, capacity - 1 - used)) > 0)
        used += (size_t)count;
    close(file);
    text[used] = 0;
    return used > 0;
}

/* Cuts the next line off *text; NULL: there is none. */
static char *next_line(char **text)
{
    char *line = *text;
    if (line == NULL || line[0] == 0) return NULL;
    char *end = strchr(line, '\n');
    if (end != NULL) *end = 0;
    *text = end != NULL ? end + 1 : NULL;
    return line;
}

/* A positive number, followed by `end` or by the end of the line. */
static bool read_number(const char **text, char end, int64_t *number)
{
    const char *c = *text;
    int64_t value = 0;
    for (; *c >= '0' && *c <= '9'; c++) {
        if (__builtin_mul_overflow(value, 10, &value) || __builtin_add_overflow(value, *c - '0', &value)) return false;
    }
    if (value == 0 || (*c != end && *c != '\n' && *c != 0)) return false;
    *text = *c != 0 ? c + 1 : c;
    *number = value;
    return true;
}

/* ---- limits ---- */

static void limit(search *s, int64_t quota, int64_t period)
{
    const int64_t cores = 1 + (quota - 1) / period;
    if (s->cores == 0 || cores < s->cores) s->cores = cores;
}

/* "150000 100000", or "max 100000": no limit. */
static void read_version2(search *s)
{
    char text[64];
    const char *at = text;
    int64_t quota, period;
    if (read_text(s, s->folder, "cpu.max", text, sizeof text) && read_number(&at, ' ', &quota) &&
        read_number(&at, '\n', &period))
        limit(s, quota, period);
}

/* A number each; a quota of -1: no limit. */
static void read_version1(search *s)
{
    char text[2][64];
    const char *at[2] = {text[0], text[1]};
    int64_t quota, period;
    if (read_text(s, s->folder, "cpu.cfs_quota_us", text[0], sizeof text[0]) && read_number(&at[0], '\n', &quota) &&
        read_text(s, s->folder, "cpu.cfs_period_us", text[1], sizeof text[1]) && read_number(&at[1], '\n', &period))
        limit(s, quota, period);
}

/* Where a group lies below the one that a mount shows as its top. A group that is not below it, as seen from within a
 * container, has a limit that the top has too. */
static const char *path_below(const char *top, const char *group)
{
    const size_t length = strcmp(top, "/") == 0 ? 0 : strlen(top);
    const bool is_below = strncmp(group, top, length) == 0 && (group[length] == '/' || group[length] == 0);
    return is_below && strstr(group, "/..") == NULL && strcmp(group, "/") != 0 ? group + length : "";
}

/* The limits of a group and of all around it, up to the mount's top. */
static void visit(search *s, const char *mount, const char *top, const char *group, void (*read_limit)(search *))
{
    const int length = snprintf(s->folder, sizeof s->folder, "%s%s", mount, path_below(top, group));
    if (length < 0 || (size_t)length >= sizeof s->folder) return;
    for (;;) {
        read_limit(s);
        char *last = strrchr(s->folder, '/');
        if (last == NULL || last < s->folder + strlen(mount)) return;
        *last = 0;
    }
}

/* ---- groups and mounts ---- */

/* Whether a list with commas between has this word. */
static bool has_word(const char *list, const char *word)
{
    const size_t length = strlen(word);
    for (const char *at = list; at != NULL; at = strchr(at, ',')) {
        at += *at == ',';
        if (strncmp(at, word, length) == 0 && (at[length] == ',' || at[length] == 0)) return true;
    }
    return false;
}

/* number:controllers:group */
static void read_groups(search *s)
{
    char *text = s->text, *line;
    if (!read_text(s, "/proc/self", "cgroup", s->text, sizeof s->text)) return;
    while ((line = next_line(&text)) != NULL) {
        char *controllers = strchr(line, ':'), *group = controllers != NULL ? strchr(controllers + 1, ':') : NULL;
        if (group == NULL || group[1] != '/' || strlen(group + 1) >= most_path) continue;
        *controllers++ = 0;
        *group++ = 0;
        if (has_word(controllers, "cpu")) strcpy(s->version1, group);
        if (controllers[0] == 0 && strcmp(line, "0") == 0) strcpy(s->version2, group);
    }
}

static bool is_octal(char c)
{
    return c >= '0' && c <= '7';
}

/* "\040" is a blank. In place. */
static void unescape(char *text)
{
    char *out = text;
    for (const char *in = text; *in != 0;) {
        if (in[0] == '\\' && is_octal(in[1]) && is_octal(in[2]) && is_octal(in[3])) {
            *out++ = (char)((in[1] - '0') * 64 + (in[2] - '0') * 8 + (in[3] - '0'));
            in += 4;
        } else {
            *out++ = *in++;
        }
    }
    *out = 0;
}

/* Cuts the next word off *text; "" at its end. */
static char *next_word(char **text)
{
    char *word = *text;
    const size_t length = strcspn(word, " ");
    *text = word + length + (word[length] != 0);
    word[length] = 0;
    return word;
}

/* number parent device top mount options ... - type source options. Returns whether it is one of groups. */
static bool read_mount(search *s, char *line)
{
    for (int i = 0; i < 3; i++)
        next_word(&line);
    char *top = next_word(&line), *mount = next_word(&line), *rest = strstr(line, " - ");
    if (top[0] != '/' || mount[0] != '/' || rest == NULL) return false;
    rest += strlen(" - ");
    const char *type = next_word(&rest);
    next_word(&rest);
    const char *options = next_word(&rest);
    const bool is_version2 = strcmp(type, "cgroup2") == 0;
    if (!is_version2 && (strcmp(type, "cgroup") != 0 || !has_word(options, "cpu"))) return false;
    unescape(top);
    unescape(mount);
    if (is_version2 && s->version2[0] != 0) visit(s, mount, top, s->version2, read_version2);
    if (!is_version2 && s->version1[0] != 0) visit(s, mount, top, s->version1, read_version1);
    return true;
}

static void read_mounts(search *s)
{
    char *text = s->text, *line;
    int mounts = 0;
    if (!read_text(s, "/proc/self", "mountinfo", s->text, sizeof s->text)) return;
    while (mounts < most_mounts && (line = next_line(&text)) != NULL)
        mounts += read_mount(s, line);
}

int64_t tn_cpu_quota(const char *root)
{
    search *s = malloc(sizeof *s);
    if (s == NULL) return 0;
    s->root = root;
    s->cores = 0;
    s->version1[0] = s->version2[0] = 0;
    read_groups(s);
    if (s->version1[0] != 0 || s->version2[0] != 0) read_mounts(s);
    const int64_t cores = s->cores;
    free(s);
    return cores;
}
