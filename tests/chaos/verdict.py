"""What was reported, what arrived where, and whether that is right. Pure."""

from __future__ import annotations

from typing import Any, NamedTuple

Count = dict[str, Any]
"""What `count.py` prints."""


class Found(NamedTuple):
    """Everything that was counted."""

    reported: dict[str, int]
    """By kind, as the ranks themselves have counted it."""
    asked: int
    """How many events the ranks were asked to report, together."""
    journal: Count
    observer: Count
    executors: Count
    """Of all Executors together."""
    executor_count: int
    outcome: dict[str, Any]
    """The last object of the last Executor."""


def problems(found: Found) -> list[str]:
    """What is wrong, in sentences; empty if all is well."""
    wrong = []
    total = sum(found.reported.values())
    if total != found.asked:
        wrong.append(f"the ranks have reported {total} events, and not {found.asked}")
    views = {"the journal": found.journal, "the observer": found.observer, "the Executors": found.executors}
    for name, view in views.items():
        if view["counters"] != {kind: count for kind, count in found.reported.items() if count}:
            wrong.append(f"{name}: {view['counters']} of the ranks' events, they have reported {found.reported}")
        for what, words in _NEVER.items():
            if view[what]:
                wrong.append(f"{name}: {view[what]} {words}")
        for stream, (first, last, distinct) in view["streams"].items():
            if (first, distinct) != (1, last):
                wrong.append(f"{name}: {distinct} events of {stream}, numbered {first} to {last}")
    if found.journal["torn"] or found.observer["torn"]:
        wrong.append(f"lines that are no JSON: journal {found.journal['torn']}, observer {found.observer['torn']}")
    if found.executors["torn"] > found.executor_count - 1:
        wrong.append(f"{found.executors['torn']} lines of {found.executor_count} Executors are no JSON")
    for name in ("the observer", "the Executors"):  # both end with the final state; what comes late is for the journal
        mine, journal = views[name]["punctual"], found.journal["punctual"]
        if mine["streams"] != journal["streams"]:
            wrong.append(f"{name} and the journal differ: {_difference(mine, journal)}")
        elif mine["content"] != journal["content"]:
            wrong.append(f"{name} and the journal have the same numbers, but not the same events")
    if found.observer["again"] or found.observer["marked"]:
        wrong.append(f"the observer was told of {found.observer['marked']} redeliveries")
    if found.outcome.get("state") != "COMPLETED":
        wrong.append(f"the execution ended {found.outcome.get('state')}: {found.outcome.get('reason')}")
    return wrong


_NEVER = {
    "twice": "events twice",
    "unmarked": "events again that are not marked redelivered",
    "counters_twice": "reports of ranks under two names",
    "counters_missing": "reports of ranks missing",
    "losses": "loss events",
    "missed": "ranges that could not be shown",
}


def _difference(one: dict[str, Any], other: dict[str, Any]) -> str:
    names = sorted(set(one["streams"]) | set(other["streams"]))
    pairs = [(name, one["streams"].get(name), other["streams"].get(name)) for name in names]
    return "; ".join(f"{name} {mine} and {theirs}" for name, mine, theirs in pairs if mine != theirs)


def table(found: Found) -> list[str]:
    """The figures, a line each."""
    reported = ", ".join(f"{kind} {count:,}" for kind, count in found.reported.items())
    journal, observer, executors = found.journal, found.observer, found.executors
    bookkeeping = journal["distinct"] - sum(journal["counters"].values())
    others = f"twice {journal['twice']}; and {bookkeeping} of other kinds, late {journal['late']}"
    rows = [
        ("reported by the ranks", sum(found.reported.values()), reported),
        ("journal, exported", _counters(journal), others),
        ("complete observer", _counters(observer), f"twice {observer['twice']}, missed {observer['missed']}"),
        (
            f"{found.executor_count} Executors", _counters(executors),
            f"twice within one {executors['twice']}; again {executors['again']:,}, unmarked {executors['unmarked']}",
        ),
    ]  # fmt: skip
    return [f"{name:<24}{count:>12,}   {words}" for name, count, words in rows]


def _counters(view: Count) -> int:
    return sum(view["counters"].values())
