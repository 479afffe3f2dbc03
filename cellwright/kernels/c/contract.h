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

#define CONTRACT_MOST 32  // most that are looked at together

// What a thread's share costs: its products, and the packing of what it reads.
static long contract_cost(long products, long rows, long cols) { return products + 8 * (rows + cols); }

// Of the rows or columns from 0 to n, in units, those of a thread.
static void contract_share(long *from, long *to, long unit, int me, int team) {
    const long units = contract_up(*to, unit);
    *from = units * me / team * unit;
    *to = contract_min(units * (me + 1) / team * unit, *to);
}

static void contract_plain(const contract_job *job, real *scratch, int me, int team) {
    const long rows = contract_up(job->M, team), cols = contract_up(contract_up(job->N, VL), team) * VL;
    const long by_rows = contract_cost(rows * job->N, rows, job->N);
    const long by_cols = contract_cost(job->M * cols, job->M, cols);
    long m0 = 0, m1 = job->M, n0 = 0, n1 = job->N;
    if (by_rows < by_cols) contract_share(&m0, &m1, 1, me, team);
    else contract_share(&n0, &n1, VL, me, team);
    contract_part(job, m0, m1, n0, n1, scratch);
}

// A family of which a thread does rows or columns.
static real contract_thirds_share(const contract_family *f, real *scratch, int me, int team) {
    const long panels = contract_up(f->N, PANEL), groups = f->groups;
    const long high = contract_up(groups, team), wide = contract_up(panels, team);  // most of a thread
    long all = 0;
    for (long g = 0; g < groups; g++) all += contract_work(f, 1, g);
    const int by_rows = contract_cost(all * high / groups, high * PANEL, f->N) <
                        contract_cost(all * wide / panels, groups * PANEL, wide * PANEL);
    const long units = by_rows ? groups : panels, first = contract_cut(f, by_rows, units, me, team);
    const long last = contract_cut(f, by_rows, units, me + 1, team);
    if (by_rows) return contract_thirds_part(f, first, last, 0, f->N, scratch);
    return contract_thirds_part(f, 0, groups, first * PANEL, contract_min(last * PANEL, f->N), scratch);
}

// How many columns of the same matrix as a product's A meet its D: its own, and those of others.
static long contract_rows_met(const contract_job *jobs, long count, const contract_job *one) {
    long rows = 0;
    for (const contract_job *job = jobs; job < jobs + count; job++) {
        const long apart = contract_apart_by(one->A, job->A), most = one->lda * (long)sizeof(real);
        const int same = job->D == one->D && job->N == one->N && job->lda == one->lda && -most < apart && apart < most;
        if (same && contract_in_thirds(job)) rows += job->M;
    }
    return rows;
}

// Of some products those in thirds, turned so that it takes least.
static long contract_parted(const contract_job *jobs, long count, contract_job *parted) {
    long found = 0;
    for (long i = 0; i < count; i++)
        if (contract_in_thirds(jobs + i))
            parted[found++] = contract_thirds_plan(jobs[i], contract_rows_met(jobs, count, jobs + i));
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

// The second half of k of a family, to a C of its own for each product, its rows one after the other.
static void contract_second(const contract_family *f, contract_family *second, real *C) {
    const long half = contract_half(f->K);
    *second = *f;
    second->D += half * f->ldd, second->K -= half;
    for (contract_job *job = second->jobs; job < second->jobs + f->count; job++) {
        job->A += half * job->lda, job->D += half * job->ldd, job->K -= half;
        job->C = C, job->ldc = job->segment, job->next = (job->exchanged ? job->N : job->M) * job->segment;
        C += contract_whole(job->M * job->N);
    }
}

static void contract_first(contract_family *f) {
    f->K = contract_half(f->K);
    for (long i = 0; i < f->count; i++) f->jobs[i].K = f->K;
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
static real contract_halves(const contract_family *first, const contract_family *second, const contract_room *r) {
    const int apart = r->team % 2 == 0, me = apart ? r->me / 2 : r->me, team = apart ? r->team / 2 : r->team;
    real odd = 0;
    for (int half = 0; half < 2; half++)
        if (!apart || r->me % 2 == half)
            odd += contract_thirds_share(half ? second : first, contract_own(r), me, team);
    return odd;
}

// A family; where numbers are not finite its products are done again, plainly.
static void contract_thirds(const contract_family *f, const contract_room *r) {
    contract_family first = *f, second;
    real odd = 0, *own = contract_own(r);
    const int halves = contract_in_halves(f);
    barrier(r->barrier, r->team);
    contract_second(f, &second, contract_common(r));
    if (halves) contract_first(&first);
    r->at[r->me] = halves ? contract_halves(&first, &second, r) : contract_thirds_share(f, own, r->me, r->team);
    barrier(r->barrier, r->team);
    for (int k = 0; k < r->team; k++) odd += r->at[k];
    for (long i = 0; i < f->count; i++)
        if (odd != odd) contract_plain(f->jobs + i, own, r->me, r->team);
        else if (halves) contract_add(f->jobs + i, second.jobs + i, r->me, r->team);
}

// What a family needs, each half of k by itself where there are halves.
static void contract_size_thirds(const contract_family *f, contract_room *r) {
    const long half = contract_in_halves(f) ? contract_half(f->K) : f->K;
    contract_family part = *f;
    long all = 0;
    for (long i = 0; i < f->count && half < f->K; i++) all += contract_whole(f->jobs[i].M * f->jobs[i].N);
    r->common = contract_max(r->common, all);
    for (long k = 0; k < f->K; k += half) {
        part.K = contract_min(half, f->K - k);
        r->own = contract_max(r->own, contract_thirds_scratch(&part));
    }
}

// What each thread has to have for itself and all in common.
static void contract_size(const contract_job *jobs, long count, contract_room *r) {
    contract_job parted[CONTRACT_MOST];
    contract_family f;
    char taken[CONTRACT_MOST] = {0};
    for (long i = 0; i < count; i++)
        r->own = contract_max(r->own, contract_whole(jobs[i].depth * (CONTRACT_COLS + jobs[i].high)));
    const long n = contract_parted(jobs, count, parted);
    while (contract_family_of(parted, n, taken, &f)) contract_size_thirds(&f, r);
}

// Products by every thread `me` of `team`; returns how many numbers of scratch the team needs, which is all it does
// without.
static long contract_jobs(const contract_job *jobs, long count, contract_room r) {
    contract_job parted[CONTRACT_MOST];
    contract_family f;
    char taken[CONTRACT_MOST] = {0};
    contract_size(jobs, count, &r);
    if (r.at) {
        r.at += (VB - (uintptr_t)r.at % VB) % VB / sizeof(real);
        for (const contract_job *job = jobs; job < jobs + count; job++)
            if (!contract_in_thirds(job)) contract_plain(job, contract_own(&r), r.me, r.team);
        const long n = contract_parted(jobs, count, parted);
        while (contract_family_of(parted, n, taken, &f)) contract_thirds(&f, &r);
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
