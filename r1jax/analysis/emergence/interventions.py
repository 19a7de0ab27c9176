"""The same questions drawn again, with reflection taken away, forced, or lied to.

Every condition draws with the same (question, sample, position) keys as `none`, so that where two
replies differ the condition did it:

    none             as it is
    ban              no reflective token can be drawn (`bans.py`); ban_wait: none with "wait"
    placebo          as many, about equally frequent other words cannot
    first_candidate  cut behind the first candidate answer, the thinking closed: the first try
    inject_wrong     begins with a wrong attempt, up to the place of its verdict
    flip_verdict     the first verdict says the opposite; what follows is drawn again
    force_KIND_N     N times (1, 2, 4), where it would close its thinking (or end), it may not:
                     KIND is 0 (nothing is put there: a token is drawn that does not close it),
                     wait, check, or neutral (a word that does not ask for anything)

The edited ones go on from their prefix as a longer prompt, within the same limit of tokens: a
reply that was long may be cut for it. (Read at once, a prefix leaves the cache as it was but for
rounding, which may tip a draw now and then in bfloat16.) A reply with nothing to edit stays as it
is under `none`.
"""

import dataclasses
import functools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import jax

from r1jax.analysis.emergence import bans, edits
from r1jax.analysis.emergence.causes import BAN, BAN_WAIT, NONE, PLACEBO
from r1jax.checks import InputError, check, near
from r1jax.data.conversation import Conversation
from r1jax.data.problems import Problem
from r1jax.model.params import Weights
from r1jax.sampling.engine import Request
from r1jax.sampling.lanes import Lanes

KINDS, TIMES = ("0", "wait", "check", "neutral"), (1, 2, 4)
FORCE = {f"force_{kind}_{n}": (kind, n) for kind in KINDS for n in TIMES}
EDITS = ("first_candidate", "inject_wrong", "flip_verdict")
EMBEDDED_ONLY = ("inject_wrong", "flip_verdict")  # in the words of its grammar
# Controls come before what they are controls of.
CONDITIONS = (NONE, PLACEBO, BAN, BAN_WAIT, *EDITS, *FORCE)

Bias = Mapping[int, float]


@dataclasses.dataclass(frozen=True)
class Reply:
    """tokens: what stands in place of a drawn reply, the one that ends it included. touched:
    whether the condition edited it; of a ban, whether it came out otherwise."""

    tokens: list[int]
    truncated: bool
    touched: bool = False


def chosen(names: str, form: str) -> list[str]:
    """The conditions in `names`, by commas; a name may be what several begin with (force,
    force_wait). In order, `none` first. "": all that a model asked by `form` can be put under."""
    able = [c for c in CONDITIONS if form == "embedded" or c not in EMBEDDED_ONLY]
    if not names:
        return able
    found = {NONE}
    for name in filter(None, (part.strip() for part in names.split(","))):
        some = [c for c in CONDITIONS if c == name or c.startswith(f"{name}_")]
        some = [name] if name in CONDITIONS else some
        check(
            bool(some),
            f"--conditions={name}: there are {', '.join(CONDITIONS)}{near(name, CONDITIONS)}",
        )
        unable = [c for c in some if c not in able]
        check(not unable, f"--conditions={name}: for the embedded countdown words only")
        found.update(some)
    return [c for c in CONDITIONS if c in found]


class Draws:
    """`samples` replies to each prompt, numbered question by question, drawn again and again from
    the keys of their question and sample. limit: tokens of a reply."""

    def __init__(
        self,
        engine: Lanes,
        weights: Weights,
        prompts: Sequence[Sequence[int]],
        samples: int,
        limit: int,
        key: jax.Array,
    ):
        self.prompts, self.limit = prompts, limit
        self.pairs = [(q, s) for q in range(len(prompts)) for s in range(samples)]
        self._draw = functools.partial(engine.generate, weights, key=key)

    def go_on(
        self,
        prefixes: Mapping[int, Sequence[int]],
        bias: Mapping[int, Bias] | None = None,
        most: int | None = None,
    ) -> dict[int, Reply]:
        """Of replies by number, that begin as given. bias: of each; most: tokens to be drawn."""
        room = {i: self.limit - len(prefix) for i, prefix in prefixes.items()}
        asked = [i for i in prefixes if room[i] > 0]
        requests = [
            Request(
                [*self.prompts[q], *prefixes[i]],
                q,
                s,
                max_tokens=min(room[i], most or room[i]),
                bias=(bias or {}).get(i, {}),
            )
            for i in asked
            for q, s in [self.pairs[i]]
        ]
        completions = self._draw(requests)[0] if requests else []
        drawn = dict(zip(asked, completions, strict=True))
        found = {}
        for i, prefix in prefixes.items():
            new = drawn.get(i)
            tokens = [*prefix, *(new.tokens.tolist() if new else [])][: self.limit]
            found[i] = Reply(tokens, new.truncated if new else True, touched=True)
        return found

    def free(self, bias: Bias | None = None) -> list[Reply]:
        """All of them, from the prompt."""
        whole = range(len(self.pairs))
        found = self.go_on({i: [] for i in whole}, dict.fromkeys(whole, bias or {}))
        return [found[i] for i in whole]


@dataclasses.dataclass(frozen=True)
class Words:
    """Of a vocabulary: the tokens that hold each reflective term, and what is forced, by kind."""

    by_term: Mapping[str, list[int]]
    forced: Mapping[str, str]

    @property
    def banned(self) -> list[int]:
        return sorted({i for ids in self.by_term.values() for i in ids})


def words_of(
    conversation: Conversation, names: Sequence[str], where: str, neutral: str = ""
) -> Words:
    """neutral: the word that is forced as a control; "": the usual one. Raises InputError that
    names `where`, the model, if its vocabulary lacks what the conditions need."""
    embedded, tokenizer = conversation.form == "embedded", conversation.tokenizer
    forced = dict(edits.FORCED_EMBEDDED if embedded else edits.FORCED)
    forced |= {"neutral": neutral} if neutral else {}
    by_term: dict[str, list[int]] = {}
    if {BAN, BAN_WAIT, PLACEBO} & set(names):
        try:
            by_term = bans.reflective_tokens(tokenizer, embedded, where)
        except InputError as error:
            without = "leave out ban, placebo and ban_wait by --conditions"
            raise InputError(f"{error}, so there is nothing to ban: {without}") from None
        check(
            BAN_WAIT not in names or "wait" in by_term,
            f'{where}: no token of its vocabulary holds "wait": leave out ban_wait by --conditions',
        )
    for kind in {FORCE[name][0] for name in names if name in FORCE} - {"0"}:
        try:
            edits.forced(conversation, [], forced[kind])
        except InputError as error:
            raise InputError(f"{where}: to force {kind}: {error}") from None
    return Words(by_term, forced)


@dataclasses.dataclass
class Battery:
    """Draws conditions one by one. `drawn` (tokens under `none`) and `placebo` are known once that
    is drawn."""

    draws: Draws
    problems: Sequence[Problem]
    conversation: Conversation
    words: Words
    seed: int  # of the attempts that are injected
    placebo: list[int] = dataclasses.field(default_factory=list)
    drawn: Counter[int] = dataclasses.field(default_factory=Counter)

    def draw(self, names: Sequence[str]) -> Iterator[tuple[str, list[Reply]]]:
        """The replies of each condition, one by one, in the order of CONDITIONS. `none` is one."""
        none = [dataclasses.replace(r, touched=False) for r in self.draws.free()]
        self.drawn = Counter(t for reply in none for t in reply.tokens)
        yield NONE, none
        if PLACEBO in names:
            self.placebo = bans.placebo_tokens(
                self.conversation.tokenizer, self.words.banned, self.drawn
            )
            yield PLACEBO, self._banning(none, self.placebo)
        if BAN in names:
            yield BAN, self._banning(none, self.words.banned)
        if BAN_WAIT in names:
            yield BAN_WAIT, self._banning(none, self.words.by_term["wait"])
        for name in EDITS:
            if name in names:
                yield name, self._editing(none, name)
        for kind in KINDS:
            times = [n for n in TIMES if f"force_{kind}_{n}" in names]
            for n, replies in self._forcing(none, kind, times):
                yield f"force_{kind}_{n}", replies

    def _banning(self, none: list[Reply], tokens: Sequence[int]) -> list[Reply]:
        replies = self.draws.free(dict.fromkeys(tokens, bans.BANNED))
        return [
            dataclasses.replace(reply, touched=reply.tokens != before.tokens)
            for reply, before in zip(replies, none, strict=True)
        ]

    def _editing(self, none: list[Reply], name: str) -> list[Reply]:
        prefixes: dict[int, list[int]] = {}
        ended: dict[int, Reply] = {}
        for i, reply in enumerate(none):
            q, s = self.draws.pairs[i]
            problem = self.problems[q]
            if name == "first_candidate":
                found = edits.first_candidate(self.conversation, problem, reply.tokens)
                if found and found[1]:
                    prefixes[i] = found[0]
                elif found:
                    ended[i] = Reply(found[0], truncated=False, touched=True)
            elif name == "inject_wrong":
                if wrong := edits.injected(self.conversation, problem, q, s, self.seed):
                    prefixes[i] = wrong
            elif flipped := edits.flipped(self.conversation, problem, reply.tokens):
                prefixes[i] = flipped
        changed = ended | self.draws.go_on(prefixes)
        return [changed.get(i, reply) for i, reply in enumerate(none)]

    def _forcing(
        self, none: list[Reply], kind: str, times: Sequence[int]
    ) -> Iterator[tuple[int, list[Reply]]]:
        """(n, replies) of each n of `times`: the n-th is drawn on from the one before it."""
        replies = list(none)
        for n in range(1, max(times, default=0) + 1):
            stops = {}
            for i, reply in enumerate(replies):
                at = edits.stops_at(self.conversation, reply.tokens, reply.truncated)
                if at is not None:
                    stops[i] = at
            before = {i: replies[i].tokens[:at] for i, at in stops.items()}
            if kind == "0":
                ends = self.conversation.tokenizer.end_ids
                forbidden = {
                    i: dict.fromkeys((replies[i].tokens[at], *ends), bans.BANNED)
                    for i, at in stops.items()
                }
                one = self.draws.go_on(before, forbidden, most=1)
                begun = {i: reply.tokens for i, reply in one.items()}
            else:
                begun = {
                    i: [*some, *edits.forced(self.conversation, some, self.words.forced[kind])]
                    for i, some in before.items()
                }
            for i, reply in self.draws.go_on(begun).items():
                replies[i] = reply
            if n in times:
                yield n, list(replies)
