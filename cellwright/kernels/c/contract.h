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

// Products that share D, in thirds, of which a thread does rows or columns.
static real contract_thirds_share(const contract_job *jobs, long count, real *scratch, int me, int team) {
    const long groups = contract_groups(jobs, count), rows = groups * PANEL, N = jobs->N;
    const long by_rows = contract_cost(contract_up(groups, team) * PANEL, N);
    const long by_cols = contract_cost(rows, contract_up(contract_up(N, PANEL), team) * PANEL);
    long m0 = 0, m1 = rows, n0 = 0, n1 = N;
    if (by_rows < by_cols) contract_share(&m0, &m1, PANEL, me, team);
    else contract_share(&n0, &n1, PANEL, me, team);
    return contract_thirds_part(jobs, groups, m0 / PANEL, m1 / PANEL, n0, n1, scratch);
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

// Of some products those in thirds, turned so that it takes least.
static long contract_parted(const contract_job *jobs, long count, contract_job *parted) {
    long found = 0;
    for (long i = 0; i < count; i++)
        if (contract_in_thirds(jobs + i)) parted[found++] = contract_thirds_plan(jobs[i]);
    return found;
}

// Scratch: a number for each thread, then what the team has in common, then what each thread has for itself.
typedef struct {
    real *at;
    long common, own;
    Barrier *barrier;
    int me, team;
} contract_room;

static long contract_whole(long n) { return contract_up(n, VL) * VL; }
static real *contract_common(const contract_room *r) { return r->at + contract_whole(r->team); }
static real *contract_own(const contract_room *r) { return contract_common(r) + r->common + r->me * r->own; }

// A product over the second half of k, to a C of its own, its rows one after the other.
static contract_job contract_second(const contract_job *job, real *C) {
    const long half = contract_half(job->K), rows = job->exchanged ? job->N : job->M;
    contract_job second = *job;
    second.A += half * job->lda, second.D += half * job->ldd, second.K -= half;
    second.C = C, second.ldc = job->segment, second.next = rows * job->segment;
    return second;
}

// Adds what the second halves of k gave, a thread its share of C's rows.
static void contract_add(const contract_job *job, const contract_job *second, int me, int team) {
    const long rows = job->exchanged ? job->N : job->M, columns = job->exchanged ? job->M : job->N;
    const long lines = rows * contract_up(columns, job->segment);
    for (long i = lines * me / team; i < lines * (me + 1) / team; i++) {
        real *to = job->C + i / rows * job->next + i % rows * job->ldc;
        const real *from = second->C + i * job->segment;
        for (long j = 0; j < job->segment; j++) to[j] += from[j];
    }
}

// Both halves of k, by threads that take turns; where they are odd in number, each does a share of both.
static real contract_halves(contract_job *first, const contract_job *second, long count, const contract_room *r) {
    const int apart = r->team % 2 == 0, me = apart ? r->me / 2 : r->me, team = apart ? r->team / 2 : r->team;
    real odd = 0;
    for (long i = 0; i < count; i++) first[i].K = contract_half(first[i].K);
    for (int half = 0; half < 2; half++)
        if (!apart || r->me % 2 == half)
            odd += contract_thirds_share(half ? second : first, count, contract_own(r), me, team);
    return odd;
}

// Products that share D, in thirds; where numbers are not finite they are done again, plainly.
static void contract_thirds(const contract_job *jobs, long count, const contract_room *r) {
    contract_job first[CONTRACT_JOBS], second[CONTRACT_JOBS];
    real odd = 0, *C = contract_common(r), *own = contract_own(r);
    const int halves = contract_in_halves(jobs);
    barrier(r->barrier, r->team);
    for (long i = 0; i < count; C += contract_whole(jobs[i].M * jobs[i].N), i++)
        first[i] = jobs[i], second[i] = contract_second(jobs + i, C);
    r->at[r->me] = halves ? contract_halves(first, second, count, r)
                          : contract_thirds_share(jobs, count, own, r->me, r->team);
    barrier(r->barrier, r->team);
    for (int k = 0; k < r->team; k++) odd += r->at[k];
    for (long i = 0; i < count; i++)
        if (odd != odd) contract_plain(jobs + i, own, r->me, r->team);
        else if (halves) contract_add(jobs + i, second + i, r->me, r->team);
}

// What products that share D need, each half of k by itself where there are halves.
static void contract_size_thirds(contract_job *shared, long count, contract_room *r) {
    const long K = shared->K, half = contract_in_halves(shared) ? contract_half(K) : K;
    long all = 0;
    for (long i = 0; i < count && half < K; i++) all += contract_whole(shared[i].M * shared[i].N);
    r->common = contract_max(r->common, all);
    for (long k = 0; k < K; k += half) {
        shared->K = contract_min(half, K - k);
        r->own = contract_max(r->own, contract_thirds_scratch(shared, count));
    }
}

// What each thread has to have for itself and all in common.
static void contract_size(const contract_job *jobs, long count, contract_room *r) {
    contract_job parted[CONTRACT_MOST], shared[CONTRACT_JOBS];
    for (long i = 0; i < count; i++)
        r->own = contract_max(r->own, contract_whole(jobs[i].depth * (CONTRACT_COLS + jobs[i].high)));
    const long n = contract_parted(jobs, count, parted);
    for (long i = 0, found; i < n; i++)
        if ((found = contract_family(parted, n, i, shared))) contract_size_thirds(shared, found, r);
}

// Products by every thread `me` of `team`; returns how many numbers of scratch the team needs, which is all it does
// without.
static long contract_jobs(const contract_job *jobs, long count, contract_room r) {
    contract_job parted[CONTRACT_MOST], shared[CONTRACT_JOBS];
    contract_size(jobs, count, &r);
    if (r.at) {
        r.at += (VB - (uintptr_t)r.at % VB) % VB / sizeof(real);
        for (const contract_job *job = jobs; job < jobs + count; job++)
            if (!contract_in_thirds(job)) contract_plain(job, contract_own(&r), r.me, r.team);
        const long n = contract_parted(jobs, count, parted);
        for (long i = 0, found; i < n; i++)
            if ((found = contract_family(parted, n, i, shared))) contract_thirds(shared, found, &r);
    }
    return contract_whole(r.team) + r.common + r.team * r.own + VL;
}

static long contract(const Block *b, long count, long K, real *scratch, Barrier *wait, int me, int team) {
    contract_job jobs[CONTRACT_MOST];
    long most = 0;
    for (; count > 0; count -= CONTRACT_MOST) {
        const long n = contract_min(count, CONTRACT_MOST);
        for (long i = 0; i < n; i++, b++)
            jobs[i] = contract_plan(b->a, b->lda, b->d, b->ldd, b->c, b->segment, b->segment, K, b->rows, b->columns);
        if (scratch && most) barrier(wait, team);  // the next ones lay scratch out in another way
        most = contract_max(most, contract_jobs(jobs, n, (contract_room){scratch, 0, 0, wait, me, team}));
    }
    return most;
}

#endif
