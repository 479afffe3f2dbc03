"""Frame: the part of a generated source that runs its passes over rows, columns and time."""

from __future__ import annotations

from cellwright.kernels.c.once import Once


def frame(counts: dict[str, int], sums: int, waits: bool, ahead: bool, once: Once) -> str:
    """The functions that run all stages.

    Args:
        counts: how many passes each has.
        sums: columns that are summed.
        waits: whether backward threads wait for each other between steps, where rows need not.
        ahead: whether the last pass of a step back may do the first one of the step before.
        once: what is there to do once.
    """
    parts = [_flat(stage, counts[stage], sums) for stage in ("before", "after") if counts[stage]]
    parts += [_forward(counts), _backward(counts, sums, waits, ahead, once.after), _main(once.before)]
    return "\n".join(parts)


def _calls(stage: str, count: int, wait: str = "") -> str:
    return " ".join(f"{stage}_{place}(a, t, r, keep); {wait}".rstrip() for place in range(count))


def _flat(stage: str, count: int, sums: int) -> str:
    flush = " flush(&a->c, me);" if sums and stage == "after" else ""
    return f"""// {stage.capitalize()} the time loop: all rows of the steps from t until `end`, a chunk at a time.
static void {stage}(const Args *a, long t, long end, long me, long team, const int keep) {{
    const long all = a->c.start[end] - a->c.start[t], last = all * (me + 1) / team;
    for (long b = all * me / team; b < last; b += CHUNK) {{
        const Range r = {{b, min_of(b + CHUNK, last), 0, 1, me * CHUNK - b, me}};
        {_calls(stage, count)}{flush}
    }}
}}
"""


HOISTED = """
        if (!c->columns) {{ {own_rows} }}
        else if (t % c->window == 0) {{
            before(a, t, min_of(t + c->window, c->T), me, team, keep);
            barrier(c->barrier, team);
        }}"""
WAIT = "if (c->columns) barrier(c->barrier, team);"
WAIT_FOR_ROWS = "if (c->columns && !goes_on_with_columns(c, t, team)) barrier(c->barrier, team);"
NOT_AHEAD = "if (t + 1 == c->T || !goes_ahead(c, t + 1)) "


def _forward(counts: dict[str, int]) -> str:
    early = HOISTED.format(own_rows=_calls("before", counts["before"])) if counts["before"] else ""
    return f"""// Threads take rows of their own and wait for nobody, or share columns with a barrier after every pass.
static void forward(const Args *a, long me, long team, const int keep) {{
    const Call *c = &a->c;
    enter(c, me, team);
    for (long t = 0; t < c->T; t++) {{
        const Range r = share(c, rows_at(c, t), me, team);
        begin(c, t, r, team);{early}
        {_calls("forward", counts["forward"], WAIT)}
        leave(c, t, r);
        settle(c, t, t + 1, team);
    }}
}}
"""


def _backward(counts: dict[str, int], sums: int, waits: bool, ahead: bool, once: bool) -> str:
    calls = _calls("backward", counts["backward"], WAIT)
    if not waits:
        calls = calls.removesuffix(WAIT) + WAIT_FOR_ROWS
    if ahead:
        calls = NOT_AHEAD + calls
    zero = "\n    memset(c->sum + 2 * me * c->sums, 0, 2 * c->sums * sizeof(real));" if sums else ""
    flushed = "\n        if ((t & 31) == 0) flush(c, me);" if sums else ""
    after = "\n    barrier(c->barrier, team);\n    after(a, 0, c->T, me, team, keep);" if counts["after"] else ""
    made = "\n    barrier(c->barrier, team);\n    once_after(a, me, team);" if once else ""
    return f"""static void backward(const Args *a, long me, long team, const int keep) {{
    const Call *c = &a->c;{zero}
    for (long t = c->T - 1; t >= 0; t--) {{
        const Range r = share(c, rows_at(c, t), me, team);
        enter_back(c, t, r, team);
        {calls}{flushed}
        begin_back(c, t, r, team);
        settle(c, t, t - 1, team);
    }}
    leave_back(c, me, team);{after}
    finish(c, me, team);{made}
}}
"""


ONCE = """
    if (c->once && c->job != BACKWARD) {
        once(a, me, team);
        barrier(c->barrier, team);
    }"""


def _main(once: bool) -> str:
    return f"""void run(const Args *a) {{
    const Call *c = &a->c;
    const int team = c->threads ? c->threads() : 1, me = c->thread ? c->thread() : 0;{ONCE if once else ""}
    if (c->packs) pack_weights(c, me, team);
    if (c->job == INFER) forward(a, me, team, 0);
    if (c->job == TRAIN) forward(a, me, team, 1);
    if (c->job == BACKWARD) backward(a, me, team, 1);
    if (c->thirds) core.release_tiles();
}}
"""
