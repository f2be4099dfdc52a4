/* SPDX-License-Identifier: MIT */
#include "progress.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

enum { BAR = 24, SMALLEST_BAR = 8, LINE = 512 };

double tn_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* ---- what is said ---- */

/* The parts of a line, in the order in which they are shown. */
enum { COUNT, RATE, REMARK, LEFT, PARTS };

static void describe(const tn_progress *p, double now, const char *remark, char parts[PARTS][LINE])
{
    double elapsed = now - p->started;
    double rate = elapsed > 0 ? (double)(p->done - p->first) / elapsed : 0;
    double left = rate > 0 ? (double)(p->total - p->done) / rate : 0;
    int64_t seconds = left < 3599999 ? (int64_t)(left + 0.5) : 3599999;
    int percent = p->total ? (int)(100 * (double)p->done / (double)p->total) : 100;
    snprintf(parts[COUNT], LINE, "%3d%%  %" PRId64 "/%" PRId64 " %s", percent, p->done, p->total, p->unit);
    snprintf(parts[RATE], LINE, "  %.1f/s", rate);
    snprintf(parts[REMARK], LINE, "%s%s", remark ? "  " : "", remark ? remark : "");
    if (rate > 0)
        snprintf(parts[LEFT], LINE, "  %" PRId64 ":%02d:%02d left", seconds / 3600, (int)(seconds / 60 % 60),
                 (int)(seconds % 60));
    else
        parts[LEFT][0] = 0;
}

static size_t total_length(char parts[PARTS][LINE])
{
    size_t length = 0;
    for (int i = 0; i < PARTS; i++)
        length += strlen(parts[i]);
    return length;
}

/* Takes away what can be done without: the rate, then all but the first word of the remark, the time left, the rest of
 * the remark. False: nothing more can go. */
static bool shorten(char parts[PARTS][LINE])
{
    char *later = NULL;
    for (char *at = strstr(parts[REMARK] + (parts[REMARK][0] ? 2 : 0), "  "); at; at = strstr(at + 2, "  "))
        later = at;
    char *victim = parts[RATE][0] ? parts[RATE] : later ? later : parts[LEFT][0] ? parts[LEFT] : parts[REMARK];
    bool found = *victim != 0;
    *victim = 0;
    return found;
}

/* The line without a bar, in at most `columns` columns. */
static void compose(char line[LINE], char parts[PARTS][LINE], size_t columns)
{
    while (total_length(parts) > columns && shorten(parts)) {
    }
    line[0] = 0;
    for (int i = 0; i < PARTS; i++)
        strncat(line, parts[i], LINE - 1 - strlen(line));
    if (strlen(line) > columns) line[columns] = 0;
}

/* ---- where it is said ---- */

/* Asked each time: terminals are resized while programs run. */
static size_t terminal_columns(void)
{
    struct winsize window;
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &window) == 0 && window.ws_col > 0) return window.ws_col;
    const char *given = getenv("COLUMNS");
    long columns = given ? strtol(given, NULL, 10) : 0;
    return columns > 0 && columns < LINE ? (size_t)columns : 80;
}

static void draw_bar(const tn_progress *p, double now, const char *remark)
{
    char parts[PARTS][LINE], line[LINE], bar[BAR + 2] = "";
    size_t columns = terminal_columns() - 1; /* the last column makes some terminals go to the next line */
    if (columns >= LINE) columns = LINE - 1;
    describe(p, now, remark, parts);
    compose(line, parts, columns);
    size_t room = columns - strlen(line) > 0 ? columns - strlen(line) - 1 : 0;
    if (room > BAR) room = BAR;
    if (room >= SMALLEST_BAR) {
        double share = p->total ? (double)p->done / (double)p->total : 1;
        for (size_t i = 0; i < room; i++)
            bar[i] = i < (size_t)(share * (double)room) ? '#' : '.';
        bar[room] = ' ';
    }
    fprintf(stderr, "\r%s%s\033[K", bar, line);
    fflush(stderr);
}

static void print_line(const tn_progress *p, double now, const char *remark)
{
    char parts[PARTS][LINE], line[LINE];
    describe(p, now, remark, parts);
    compose(line, parts, LINE - 1);
    fprintf(stderr, "tenon: %s\n", line + strspn(line, " "));
}

static void show(tn_progress *p, const char *remark)
{
    double now = tn_seconds();
    bool is_last = p->kind == TN_PROGRESS_BAR && p->done == p->total;
    if (p->kind == TN_PROGRESS_NONE || (now - p->shown < p->interval && !is_last)) return;
    if (p->kind == TN_PROGRESS_BAR)
        draw_bar(p, now, remark);
    else
        print_line(p, now, remark);
    p->shown = now;
}

/* ---- the run ---- */

static bool can_erase(void)
{
    const char *terminal = getenv("TERM");
    return isatty(STDERR_FILENO) && terminal && *terminal && strcmp(terminal, "dumb") != 0;
}

void tn_progress_start(tn_progress *progress, const char *unit, int64_t done, int64_t total)
{
    const char *given = getenv("TENON_PROGRESS");
    double seconds = given && *given ? strtod(given, NULL) : 30, now = tn_seconds();
    *progress = (tn_progress){
        .unit = unit, .total = total, .done = done, .first = done, .started = now, .shown = now, .interval = seconds};
    if (!(seconds > 0)) return;
    progress->kind = can_erase() ? TN_PROGRESS_BAR : TN_PROGRESS_LINES;
    if (progress->kind == TN_PROGRESS_LINES) return;
    progress->interval = 0.1;
    draw_bar(progress, now, NULL);
}

void tn_progress_add(tn_progress *progress, int64_t more)
{
    progress->done += more;
    show(progress, NULL);
}

void tn_progress_set(tn_progress *progress, int64_t done, const char *remark)
{
    progress->done = done;
    show(progress, remark);
}

void tn_progress_end(tn_progress *progress)
{
    if (progress->kind == TN_PROGRESS_BAR) fprintf(stderr, "\r\033[K");
    progress->kind = TN_PROGRESS_NONE;
}
