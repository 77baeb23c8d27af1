"""Answers about destruction and policy in, tables for people out. Pure; see `present`."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from retention.present import Answer, facts, line, print_values, size, table, when


def due(plan: Answer) -> list[Answer]:
    """The decisions of a plan that destroy something."""
    return [each for each in plan.get("decisions") or () if each["action"] != "keep"]


def print_plan(console: Console, plan: Answer, *, everything: bool = False) -> None:
    """What would be destroyed and why; with `everything` also what is kept."""
    decisions = plan.get("decisions") or ()
    shown = decisions if everything else due(plan)
    rows = [
        (
            each["class"],
            each["partition"],
            each.get("store", "live"),
            each["action"],
            size(each.get("rows")),
            each.get("reason", ""),
        )
        for each in shown
    ]
    headings = ("Class", "Partition", "Store", "Action", "Records", "Why")
    table(console, f"Plan of {when(plan.get('at'))}", headings, rows, (4,))
    count = len(due(plan))
    line(console, f"{count} partitions to be destroyed, {len(decisions) - count} to be kept")
    if decisions and not count:
        first = decisions[0]  # what is due first
        line(console, f"next: {first['class']} {first['partition']} stays: {first['reason']}")
    if plan.get("trusted") is False:
        line(console, "the clock is not trusted, so nothing is destroyed: see retention status")


def print_purges(console: Console, answer: Answer) -> None:
    """Purges, the newest first, with what each waits for."""
    purges = answer.get("purges") or ()
    rows = [
        (
            each["id"],
            each.get("class", ""),
            each.get("partition", ""),
            each.get("step", ""),
            size(each.get("destroyed")),
            size(each.get("preserved")),
            each.get("reason") or ", ".join(each.get("waiting") or ()),
        )
        for each in purges
    ]
    headings = ("Purge", "Class", "Partition", "State", "Destroyed", "Preserved", "Waits for")
    table(console, "Purges", headings, rows, (4, 5))
    if not rows:
        line(console, "Nothing was destroyed yet.")


def running(job: Answer) -> bool:
    """Whether a run of the purge has not ended yet."""
    return job.get("state") in ("waiting", "running")


def done(job: Answer) -> int:
    """Places a run has finished with."""
    return int(job.get("done") or 0)


def failures(job: Answer) -> bool:
    """Whether a run, or a place of it, did not do what it should."""
    states = {each.get("state") for each in job.get("outcomes") or ()}
    return job.get("state") == "failed" or bool(states & {"failed", "unsettled"})


def print_run(console: Console, job: Answer) -> None:
    """What became of each place of a run, and where its certificates are."""
    rows = [
        (
            each.get("class", ""),
            each.get("partition", ""),
            each.get("store", "live"),
            each.get("state", ""),
            each.get("purge") or "-",
            each.get("reason", ""),
        )
        for each in job.get("outcomes") or ()
    ]
    headings = ("Class", "Partition", "Store", "Outcome", "Purge", "Why")
    table(console, f"Run {job.get('job', '')}: {job.get('state', '')}", headings, rows)
    if job.get("stopped"):
        line(console, f"stopped: {job['stopped']}")
    destroyed = sum(row[3] == "destroyed" for row in rows)
    line(console, f"{destroyed} of {len(rows)} partitions destroyed")
    line(console, "next: certificates are pending until every disk was seen: purge status")


def print_policy(console: Console, answer: Answer) -> None:
    """The periods of a policy by class and purpose."""
    rows = []
    for name, terms in (answer.get("classes") or {}).items():
        for purpose, rule in terms["purposes"].items():
            force = "yes" if rule["in_force"] else "no"
            rows.append((name, purpose, rule["period"], force, rule["clock"], rule["basis"]))
    headings = ("Class", "Purpose", "Period", "In force", "From", "Basis")
    table(console, f"Policy {str(answer.get('digest', ''))[:16]}", headings, rows)
    for each in answer.get("notices") or ():
        state = "in force" if each["in_force"] else "not in force"
        until = each["to"] or "further notice"
        classes = ", ".join(each["classes"])
        line(console, f"notice {each['id']}: {each['from']} until {until}, {state}: {classes}")
    for name, period in (answer.get("periods") or {}).items():
        line(console, f"{name} is kept for {period['period']} ({period['purpose']})")


def print_report(console: Console, answer: Answer) -> None:
    """By class what there is and what is due, then the alarms."""
    rows = [
        (
            each["record_class"],
            each["period"],
            each["oldest_day"] or "-",
            each["oldest_retain_until"] or "-",
            *(size(each[name]) for name in ("open", "closed", "due", "overdue", "rows")),
        )
        for each in answer.get("classes") or ()
    ]
    headings = ("Class", "Period", "Oldest", "Until", "Open", "Closed", "Due", "Over", "Records")
    table(console, f"Retention at {when(answer.get('at'))}", headings, rows, range(4, 9))
    for each in answer.get("alarms") or ():
        line(console, f"{each['level'].upper()}: {each['text']}")
    if not answer.get("alarms"):
        line(console, "No alarm.")


def print_diff(console: Console, answer: Answer) -> None:
    """What a new policy changes."""
    rows = [
        (each["record_class"], each["old"] or "-", each["new"] or "-", each["change"])
        for each in answer["classes"]
    ]
    table(console, "Periods", ("Class", "Old", "New", "Change"), rows)
    for text in answer["terms"]:
        line(console, text)
    if answer["old"] == answer["new"]:
        line(console, "The policies are the same.")


def print_register(console: Console, lines: Sequence[Answer]) -> None:
    """The register of processing, one activity after the other."""
    for each in lines:
        line(console, f"{each['activity']}: {each['purpose']}")
        facts(
            console,
            (
                (f"  {name.replace('_', ' ')}", "; ".join(v) if isinstance(v, list) else v)
                for name, v in each.items()
                if name not in ("activity", "purpose") and v
            ),
        )
        line(console)


def print_certificate(console: Console, answer: Answer) -> None:
    """What a certificate states, field by field, and by whose key it is signed."""
    print_values(console, answer.get("certificate") or {})
    line(console, f"signed by {answer.get('key', '-')}")
