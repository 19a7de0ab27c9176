"""When a run is evaluated."""


def evaluation_steps(total: int, every: int, dense: int) -> frozenset[int]:
    """The steps of a run of `total` at which the policy is evaluated, 0 and `total` among them.

    Each one up to `dense`, since what a base can already do RL may find fast; then, up to `every`,
    at twice the step each time; and all multiples of `every`. Only `total` itself depends on the
    run's length: one that is resumed with more steps keeps its plan. Raises ValueError unless
    total >= 0, every >= 1 and dense >= 0.
    """
    if total < 0 or every < 1 or dense < 0:
        raise ValueError(f"need total >= 0, every >= 1, dense >= 0: got {total}, {every}, {dense}")
    steps = {total, *range(dense + 1), *range(0, total, every)}
    step = dense
    while 0 < step < every:
        steps.add(step)
        step *= 2
    return frozenset(step for step in steps if step <= total)
