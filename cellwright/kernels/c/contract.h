// C = A^T D summed over the long first axis of both: the weight gradients of a layer, once its time loop is over.
//
//     C[n / segment * M*ldc + m*ldc + n % segment] = sum over k < K of A[k*lda + m] * D[k*ldd + n]
//
// where the columns of C come in segments, each a matrix of its own (one segment of N columns is plain C[m*ldc + n]).
// Every element of C is summed in the same order whatever the tile, the thread and the team, so all team sizes give the
// same bits.
#ifndef CELLWRIGHT_CONTRACT_H
#define CELLWRIGHT_CONTRACT_H

#include "contract_plain.h"
#include "contract_thirds.h"

#define CONTRACT_JOBS 8   // most products that share D at once
#define CONTRACT_MOST 32  // most that are looked at together

// What a thread's share costs: its products, and the packing of what it reads.
static long contract_cost(long rows, long cols) { return rows * cols + 8 * (rows + cols); }

// Of the rows or columns from 0 to n, in units, those of a thread.
static void contract_share(long *from, long *to, long unit, int me, int team) {
    const long units = contract_up(*to, unit);
    *from = units * me / team * unit;
    *to = contract_min(units * (me + 1) / team * unit, *to);
}

static void contract_plain(const contract_job *job, real *scratch, int me, int team) {
    const long by_rows = contract_cost(contract_up(job->M, team), job->N);
    const long by_cols = contract_cost(job->M, contract_up(contract_up(job->N, VL), team) * VL);
    long m0 = 0, m1 = job->M, n0 = 0, n1 = job->N;
    if (by_rows < by_cols) contract_share(&m0, &m1, 1, me, team);
    else contract_share(&n0, &n1, VL, me, team);
    contract_part(job, m0, m1, n0, n1, scratch);
}

// Products that share D, in thirds. Where numbers are not finite, the share of a thread is done again, plainly.
static void contract_thirds(const contract_job *jobs, long count, real *scratch, int me, int team) {
    const long groups = contract_groups(jobs, count), rows = groups * PANEL, N = jobs->N;
    const long by_rows = contract_cost(contract_up(groups, team) * PANEL, N);
    const long by_cols = contract_cost(rows, contract_up(contract_up(N, PANEL), team) * PANEL);
    long m0 = 0, m1 = rows, n0 = 0, n1 = N;
    if (by_rows < by_cols) contract_share(&m0, &m1, PANEL, me, team);
    else contract_share(&n0, &n1, PANEL, me, team);
    if (!contract_thirds_part(jobs, groups, m0 / PANEL, m1 / PANEL, n0, n1, scratch)) return;
    for (const contract_job *job = jobs; job < jobs + count; job++) {
        const long all = contract_groups(job, 1) * PANEL;
        if (m0 < job->M && m1 > 0) contract_part(job, contract_max(m0, 0), contract_min(m1, job->M), n0, n1, scratch);
        m0 -= all, m1 -= all;
    }
}

// Whether two products in thirds share D.
static int contract_together(const contract_job *one, const contract_job *other) {
    return one->D == other->D && one->ldd == other->ldd && one->N == other->N;
}

// Of products in thirds number i and those after it that share D, up to CONTRACT_JOBS; none if one before took it.
static long contract_family(const contract_job *jobs, long count, long i, contract_job *shared) {
    long before = 0, found = 0;
    for (long j = 0; j < i; j++) before += contract_together(jobs + i, jobs + j);
    if (before % CONTRACT_JOBS) return 0;
    for (long j = i; j < count && found < CONTRACT_JOBS; j++)
        if (contract_together(jobs + i, jobs + j)) shared[found++] = jobs[j];
    return found;
}

// Which of the products are in thirds, the others are done; and the scratch that they need, done plainly.
typedef struct {
    contract_job parted[CONTRACT_MOST];
    long count, most;
} contract_plans;

static void contract_sort(contract_plans *plans, const contract_job *job, real *scratch, int me, int team) {
    plans->most = contract_max(plans->most, job->depth * (CONTRACT_COLS + job->high));
    if (contract_in_thirds(job)) plans->parted[plans->count++] = contract_thirds_plan(*job);
    else if (scratch) contract_plain(job, scratch, me, team);
}

// Products by every thread `me` of `team`, with scratch of its own; without it how many numbers it has to have. The
// team shares out C's columns, or its rows if that is less work, and no thread waits for another.
static long contract_jobs(const contract_job *jobs, long count, real *scratch, int me, int team) {
    contract_plans plans = {.count = 0};
    contract_job shared[CONTRACT_JOBS];
    if (scratch) scratch += (VB - (uintptr_t)scratch % VB) % VB / sizeof(real);
    for (const contract_job *job = jobs; job < jobs + count; job++) contract_sort(&plans, job, scratch, me, team);
    for (long i = 0; i < plans.count; i++) {
        const long found = contract_family(plans.parted, plans.count, i, shared);
        if (found && scratch) contract_thirds(shared, found, scratch, me, team);
        if (found) plans.most = contract_max(plans.most, contract_thirds_scratch(shared, found));
    }
    return contract_up(plans.most + VL, VL) * VL;
}

static long contract(const Block *b, long count, long K, real *scratch, int me, int team) {
    contract_job jobs[CONTRACT_MOST];
    long most = 0;
    for (; count > 0; count -= CONTRACT_MOST) {
        const long n = contract_min(count, CONTRACT_MOST);
        for (long i = 0; i < n; i++, b++)
            jobs[i] = contract_plan(b->a, b->lda, b->d, b->ldd, b->c, b->segment, b->segment, K, b->rows, b->columns);
        most = contract_max(most, contract_jobs(jobs, n, scratch, me, team));
    }
    return most;
}

#endif
