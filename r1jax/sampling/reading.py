"""Reading texts: prompts into the cache, and what the model thinks of a text.

Texts are read some at a time, in sizes from short ladders. D devices  R texts at a time
"""

from collections.abc import Sequence

import numpy as np
from jax.sharding import Mesh

from r1jax.architecture import ModelConfig
from r1jax.config import DraftsName
from r1jax.model.cache import Cache
from r1jax.model.params import Weights
from r1jax.sampling import slots
from r1jax.sampling.admission import Admission
from r1jax.sampling.requests import MOST_TOPS, Tops
from r1jax.sampling.sizes import ladder

LEAST = 16  # positions; below, what is saved is less than another program costs

Moves = list[list[tuple[int, int]]]  # of each device, (from, to) rows on it


class Reader:
    """most: texts at a time, on all devices. longest: positions that most texts fit in."""

    def __init__(
        self,
        model: ModelConfig,
        mesh: Mesh,
        most: int,
        longest: int,
        routing: bool,
        drafts: DraftsName = "none",
    ):
        self._model, self._devices = model, mesh.size
        self._routing, self._drafts = routing, drafts
        self._most, self._longest = -(-most // mesh.size), longest

    def length(self, longest: int) -> int:
        """Positions for texts of at most `longest` tokens."""
        return ladder(longest, LEAST, max(self._longest, longest))

    def read(
        self, weights: Weights | None, cache: Cache | None, found: Admission, length: int, per: int
    ) -> Cache | None:
        """The cache, of `per` slots a device, with all prompts that were admitted. length: as
        `length` says of the longest."""
        if any(found.shared):
            cache = slots.share(cache, *self._moves(found.shared, per), model=self._model)
        cache = self._extend(weights, cache, found, per)
        return self._prefill(weights, cache, found, length, per)

    def score(self, weights: Weights, texts: Sequence[Sequence[int]]) -> list[Tops]:
        """What the model thinks of all tokens of each text but the first."""
        found: list[Tops] = []
        at, n, k = 0, self._devices, min(MOST_TOPS, self._model.vocab)
        while at < len(texts):
            rows = n * self._at_once(-(-(len(texts) - at) // n))
            some = texts[at : at + rows]
            tokens = np.zeros((rows, self.length(max(map(len, some)))), np.int32)
            for row, text in enumerate(some):
                tokens[row, : len(text)] = text
            told = slots.score(weights, tokens, model=self._model, k=k)
            logp, token, best = (np.asarray(a) for a in told)
            for row, text in enumerate(some):
                mine = slice(0, len(text) - 1)
                found.append(Tops(logp[row, mine], token[row, mine], best[row, mine]))
            at += rows
        return found

    def _at_once(self, left: int) -> int:
        """Of so many texts a device: 1, 4, 16, ... or most."""
        return min(self._most, 4 ** -(-(left - 1).bit_length() // 2))

    def _prefill(self, weights, cache, found: Admission, length: int, per: int):
        """Prompts of which nothing is there."""
        n, at = self._devices, 0
        while (left := max(len(read) for read in found.read) - at) > 0:
            rows = self._at_once(left)
            tokens = np.zeros((n * rows, length), np.int32)
            moves: Moves = [[] for _ in range(n)]
            for d, read in enumerate(found.read):
                for row, (prefix, targets) in enumerate(read[at : at + rows]):
                    ids = np.frombuffer(prefix, np.int32)
                    tokens[d * rows + row, : len(ids)] = ids
                    moves[d] += [(row, target) for target in targets]
            fresh = slots.prefill(
                weights, tokens, model=self._model, routing=self._routing, drafts=self._drafts
            )
            cache = slots.place(cache, fresh, *self._moves(moves, per), model=self._model)
            at += rows
        return cache

    def _extend(self, weights, cache, found: Admission, per: int):
        """What prompts have behind a beginning that their rows hold."""
        n, at = self._devices, 0
        while (left := max(len(rest) for rest in found.rest) - at) > 0:
            rows = self._at_once(left)
            some = [rest[at : at + rows] for rest in found.rest]
            longest = max(len(p) // 4 - r.held for rest in some for p, r in rest)
            tokens = np.zeros((n * rows, self.length(longest)), np.int32)
            from_R, start_R = np.zeros((2, n * rows), np.int32)
            moves: Moves = [[] for _ in range(n)]
            for d, rest in enumerate(some):
                for row, (p, r) in enumerate(rest):
                    ids = np.frombuffer(p, np.int32)[r.held :]
                    tokens[d * rows + row, : len(ids)] = ids
                    from_R[d * rows + row], start_R[d * rows + row] = r.rows[0], r.held
                    moves[d] += [(row, target) for target in r.rows]
            fresh = slots.extend(weights, cache, from_R, tokens, start_R, model=self._model)
            cache = slots.place(cache, fresh, *self._moves(moves, per), model=self._model)
            at += rows
        return cache

    def _moves(self, moves: Moves, per: int) -> tuple[np.ndarray, ...]:
        """from_X, to_X, count_D."""
        from_to = np.zeros((2, self._devices, per), np.int32)
        for d, some in enumerate(moves):
            if some:
                from_to[:, d, : len(some)] = np.transpose(some)
        counts = np.array([len(some) for some in moves], np.int32)
        return from_to[0].reshape(-1), from_to[1].reshape(-1), counts
