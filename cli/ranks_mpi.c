/* SPDX-License-Identifier: MIT */
/* Ranks under mpirun. Sums are added up in the order of the ranks, so the same number of ranks gives the same bits.
 *
 * A large array goes round by round: each rank gets everyone's numbers of its part of the round, adds them up in
 * double, and hands the sums to all. What one rank sends and gets is 2 (K - 1) / K of the array, the least there is,
 * and memory is one round, however large the array. */
#include "ranks.h"

#include <limits.h>
#include <mpi.h>
#include <stdlib.h>

enum { ROUND = 1 << 22 }; /* numbers of a round: 16 MiB */

static int index_of_rank, number_of_ranks = 1;

/* Set by the launchers of Open MPI, Slurm and MPICH's kin. Without one, MPI is left alone: `tenon tokens` on a login
 * node should not wait for it. */
static bool was_launched(void)
{
    return getenv("OMPI_COMM_WORLD_SIZE") || getenv("PMIX_RANK") || getenv("PMI_RANK");
}

void tn_ranks_start(void)
{
    int given;
    if (!was_launched()) return;
    MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &given);
    MPI_Comm_rank(MPI_COMM_WORLD, &index_of_rank);
    MPI_Comm_size(MPI_COMM_WORLD, &number_of_ranks);
}

int tn_ranks_index(void)
{
    return index_of_rank;
}

int tn_ranks_count(void)
{
    return number_of_ranks;
}

void tn_ranks_end(void)
{
    int started;
    MPI_Initialized(&started);
    if (started) MPI_Finalize();
}

const char *tn_ranks_kind(void)
{
    return "MPI";
}

/* How a round of `count` numbers is shared: the parts follow each other. */
typedef struct parts {
    int *count, *first; /* [ranks] */
    int *mine, *at;     /* [ranks] the count of this rank's part, and where each rank's copy of it lies */
} parts;

static void share(const parts *p, int count)
{
    for (int r = 0; r < number_of_ranks; r++) {
        p->first[r] = (int)((int64_t)count * r / number_of_ranks);
        p->count[r] = (int)((int64_t)count * (r + 1) / number_of_ranks) - p->first[r];
    }
    for (int r = 0; r < number_of_ranks; r++) {
        p->mine[r] = p->count[index_of_rank];
        p->at[r] = r * p->count[index_of_rank];
    }
}

static void sum_round(const parts *p, float *copies, float *data, int count)
{
    share(p, count);
    MPI_Alltoallv(data, p->count, p->first, MPI_FLOAT, copies, p->mine, p->at, MPI_FLOAT, MPI_COMM_WORLD);
    const int mine = p->count[index_of_rank];
    float *sums = data + p->first[index_of_rank];
    for (int i = 0; i < mine; i++) {
        double sum = 0;
        for (int r = 0; r < number_of_ranks; r++)
            sum += copies[p->at[r] + i];
        sums[i] = (float)sum;
    }
    MPI_Allgatherv(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, data, p->count, p->first, MPI_FLOAT, MPI_COMM_WORLD);
}

int tn_ranks_sum(void *context, float *data, size_t count)
{
    const size_t ranks = (size_t)number_of_ranks;
    int *numbers = malloc(4 * ranks * sizeof *numbers);
    float *copies = malloc((ROUND + ranks * ranks) * sizeof *copies);
    const bool good = numbers && copies;
    (void)context;
    if (tn_ranks_first_failure(!good) < 0) {
        const parts p = {numbers, numbers + ranks, numbers + 2 * ranks, numbers + 3 * ranks};
        for (size_t first = 0; first < count; first += ROUND)
            sum_round(&p, copies, data + first, (int)(count - first < ROUND ? count - first : ROUND));
        free(numbers);
        free(copies);
        return 0;
    }
    free(numbers);
    free(copies);
    return 1;
}

void tn_ranks_sum_doubles(double *values, size_t count)
{
    if (number_of_ranks == 1) return;
    for (size_t i = 0; i < count; i++) {
        double sum = 0;
        for (int r = 0; r < number_of_ranks; r++) {
            double value = values[i];
            MPI_Bcast(&value, 1, MPI_DOUBLE, r, MPI_COMM_WORLD);
            sum += value;
        }
        values[i] = sum;
    }
}

void tn_ranks_broadcast(void *data, size_t bytes)
{
    for (size_t first = 0; number_of_ranks > 1 && first < bytes; first += INT_MAX) {
        const size_t left = bytes - first;
        MPI_Bcast((char *)data + first, left < INT_MAX ? (int)left : INT_MAX, MPI_BYTE, 0, MPI_COMM_WORLD);
    }
}

int tn_ranks_first_failure(bool failed)
{
    int mine = failed ? index_of_rank : INT_MAX, first = mine;
    if (number_of_ranks > 1) MPI_Allreduce(&mine, &first, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
    return first == INT_MAX ? -1 : first;
}

int tn_ranks_max(int value)
{
    int most = value;
    if (number_of_ranks > 1) MPI_Allreduce(&value, &most, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
    return most;
}
