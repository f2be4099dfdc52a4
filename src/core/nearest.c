/* SPDX-License-Identifier: MIT */
/* "Did you mean": the known name that is nearest to a misspelt one. */
#include "tenon/tenon.h"

#include <string.h>

enum { longest = 63 };

/* `length` bytes of a name. */
typedef struct span {
    const char *text;
    int length;
} span;

/* Letters of either case are one, as are '-' and '_'. */
static char fold(char c)
{
    if (c >= 'A' && c <= 'Z') return (char)(c - 'A' + 'a');
    return c == '-' ? '_' : c;
}

static int least_of(int a, int b)
{
    return a < b ? a : b;
}

/* Insertions, deletions, substitutions and swaps of neighbours that make a of b, both of at most `longest` bytes:
 * distance[i][j] is that of the first i bytes of a from the first j of b. */
static int edit_distance(span a, span b)
{
    int distance[longest + 1][longest + 1];
    for (int i = 0; i <= a.length; i++) {
        for (int j = 0; j <= b.length; j++) {
            distance[i][j] = i + j;
            if (i == 0 || j == 0) continue;
            const char x = fold(a.text[i - 1]), y = fold(b.text[j - 1]);
            int least = distance[i - 1][j - 1] + (x != y);
            least = least_of(least, least_of(distance[i - 1][j], distance[i][j - 1]) + 1);
            if (i > 1 && j > 1 && x == fold(b.text[j - 2]) && fold(a.text[i - 2]) == y) {
                least = least_of(least, distance[i - 2][j - 2] + 1);
            }
            distance[i][j] = least;
        }
    }
    return distance[a.length][b.length];
}

static bool is_boundary(span whole, int at)
{
    return at == 0 || at == whole.length || fold(whole.text[at]) == '_' || fold(whole.text[at - 1]) == '_';
}

/* The least distance of `part` from words of `whole` that stand together, as "window" in "pool_window". */
static int part_distance(span part, span whole)
{
    int least = longest;
    for (int first = 0; first < whole.length; first++) {
        for (int end = first + 3; end <= whole.length && is_boundary(whole, first); end++) {
            if (!is_boundary(whole, end)) continue;
            least = least_of(least, edit_distance(part, (span){whole.text + first, end - first}));
        }
    }
    return least;
}

static int name_distance(span a, span b)
{
    const int part = least_of(part_distance(a, b), part_distance(b, a));
    return least_of(edit_distance(a, b), 1 + part);
}

const char *tenon_nearest_name(const char *name, const char *const *names, size_t count)
{
    const char *nearest = NULL;
    const size_t length = strlen(name);
    if (length > longest) return NULL;
    int beyond = least_of(2 + (int)(length / 5), (int)length); /* one slip in a short name, more in a long one */
    for (size_t i = 0; i < count; i++) {
        if (strlen(names[i]) > longest) continue;
        const int distance = name_distance((span){name, (int)length}, (span){names[i], (int)strlen(names[i])});
        if (distance >= beyond) continue;
        beyond = distance;
        nearest = names[i];
    }
    return nearest;
}
