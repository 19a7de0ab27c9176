"""A verdict in words: one sentence, what it rests on, what is missing, and what of R1."""

from collections.abc import Sequence

from r1jax.analysis.emergence.curves import published
from r1jax.analysis.emergence.intervals import Estimate
from r1jax.analysis.emergence.rules import UNDECIDED
from r1jax.analysis.emergence.show import number, share
from r1jax.analysis.emergence.verdict import Verdict, onset_over_seeds, share_over_runs

RISEN = ("spurious", "amplified", "emerged")
KINDS = ("existence", "quality", "shape", "coverage")
MEANS = {
    "absent": "reflection is absent",
    "extinct": "reflection was there and died out",
    "unchanged": "reflection is there, and did not rise threefold",
    "spurious": "reflection rose no more than under rewards that say nothing about answers",
    "amplified": "the base could reflect, and RL amplified it",
    "emerged": "reflection emerged: the base was never seen to do it",
    UNDECIDED: "the data cannot decide",
    "effective": "it pays: without it fewer answers are right",
    "confirmatory": "it confirms answers that are right already",
    "superficial": "it changes nothing",
    "harmful": "it does harm: without it more answers are right",
    "none": "there is none to judge",
    "sudden": "at a stroke",
    "gradual": "little by little",
    "sharpened": "no more questions are within reach than before",
    "expanded": "questions are solved that the base could not",
}


def paper_says() -> str:
    """What can and cannot be concluded from the curves that DeepSeek published."""
    p = published()
    return (
        f"DeepSeek reports that counts of ten reflective words rose {p.counts[0]:g}- to "
        f"{p.counts[1]:g}-fold, while its published mean length rose {p.length:.1f}-fold. If the "
        "counts are over as many replies at every step, there were at the end "
        f"{p.density[0]:.2f} to {p.density[1]:.2f} times as many of them per token as at the start "
        f"({p.late_density[0]:.2f} to {p.late_density[1]:.2f} from step 300 on): rarer, not more "
        "frequent. What the counts are divided by, the base's share, a control, seeds and what the "
        "words did for answers were not published, and the length limit was raised at step 8,200: "
        "so neither that reflection emerged nor that it was amplified can be concluded from them, "
        "only that replies became long and hold more such words."
    )


def sentence(verdict: Verdict) -> str:
    """The verdict in words, without what is undecided."""
    options = verdict.between.get("existence", ())
    rose = verdict.existence in RISEN or (len(options) > 1 and set(options) <= set(RISEN))
    if verdict.existence != UNDECIDED:
        said = MEANS[verdict.existence][0].upper() + MEANS[verdict.existence][1:]
    elif rose:
        said = f"Reflection rose; whether {' or '.join(options)}, the data cannot tell"
    else:
        said = "The data cannot say what became of reflection"
        said += f": {' or '.join(options)}" if len(options) > 1 else ""
    if verdict.quality not in ("none", UNDECIDED):
        said += f"; {MEANS[verdict.quality]}"
    if verdict.shape != "none" and verdict.existence not in ("absent", "unchanged", "extinct"):
        differs = verdict.shape == UNDECIDED
        how = "in ways that differ by seed" if differs else MEANS[verdict.shape]
        said += f". {'It' if rose else 'Where it rose it'} came {how}"
        if onset := onset_over_seeds(verdict, "reflection"):
            said += f", from step {onset[0]:.0f} ({onset[1]:.0f} to {onset[2]:.0f}) on"
    if verdict.coverage != UNDECIDED:
        said += f"; {MEANS[verdict.coverage]}"
    return said + "."


def together(missing: Sequence[str]) -> list[str]:
    """What several runs lack, once: "a, b: ..."."""
    names: dict[str, list[str]] = {}
    for text in missing:
        name, colon, what = text.partition(": ")
        names.setdefault(what if colon else text, []).append(name if colon else "")
    return [f"{', '.join(n)}: {what}" if any(n) else what for what, n in names.items()]


def note(verdict: Verdict, kind: str) -> str:
    """What a kind of verdict rests on, in a few numbers."""
    run = verdict.runs[0]
    if kind == "existence" and run.end is not None:
        start, end = (share(share_over_runs(verdict, which)) for which in ("start", "end"))
        return f"   {start if start != '—' else 'not known'} → {end} of replies"
    if kind == "quality" and (causes := verdict.judged[0].causes):
        ban = causes.effects.get("ban")
        return f"   a ban: {points(ban.difference)}" if ban else ""
    if kind == "shape" and run.shape is not None and verdict.shape != "none":
        return f"   over {run.shape.width:.0%} of the run"
    if kind == "coverage" and run.coverage is not None and run.coverage.sets.nscr.value is not None:
        sets = run.coverage.sets
        return f"   NSCR {number(sets.nscr)} at {sets.replies} replies a question"
    return ""


def points(effect: Estimate) -> str:
    low, value, high = (100 * (v or 0.0) for v in (effect.low, effect.value, effect.high))
    return f"{value:+.1f} points ({low:+.1f} to {high:+.1f})"
