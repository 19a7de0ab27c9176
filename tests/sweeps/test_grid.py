"""Grids: what they say, what they refuse, and which members they have."""

import dataclasses
import json
from pathlib import Path

import pytest

from experiments.ablate_reflection import DEFAULT
from r1jax.analysis.emergence.logs import Log
from r1jax.analysis.emergence.measure import _control as control_of
from r1jax.base import cached
from r1jax.checks import InputError
from r1jax.config_file import fields_of, save_config, with_fields
from r1jax.presets import r1_zero_tiny, tiny_base
from r1jax.sweeps.grid import CONTROLS, parse_grid, read_grid
from r1jax.sweeps.plan import check_folders, is_finished, parse_shard, plan, shard_of

ONE = [{"name": "one", "corpus": {"depth": 2}}]


def grid_of(seeds=None, **told):
    return parse_grid({"configuration": ONE, "controls": []} | told, Path("."), seeds)


def test_the_default_grid_has_eight_configurations_and_every_control():
    grid = read_grid(DEFAULT)
    controls = [one for one in grid.configurations if one.control]
    assert [one.control for one in controls] == list(CONTROLS)
    assert len(grid.configurations) - len(controls) >= 8
    assert all(one.why for one in grid.configurations)
    members = plan(grid, Path("runs/a"))
    assert len(members) >= 40 and len({m.cfg.out for m in members}) == len(members)
    assert len({m.seed for m in members}) == 5 and len({m.base_seed for m in members}) == 3
    assert {m.seed for m in members if m.configuration.control} == {0, 1, 2}
    # Every base that is to be made has its own recipe, and members of one recipe share it.
    for member in members:
        recipe = tiny_base(member.cfg.corpus, seed=member.base_seed)
        shipped = member.cfg.base == "embedded"
        assert shipped == (recipe == tiny_base()) == (member.recipe is None)
        assert shipped or (member.recipe, member.cfg.base) == (recipe, str(cached(recipe)))


def test_a_configuration_is_the_reference_but_for_its_fields():
    grid = grid_of(run={"steps": 7, "rl": {"kl-coef": 0}, "corpus": {"goes_on": 0.5}})
    cfg = grid.config(grid.configurations[0])
    want = with_fields(
        r1_zero_tiny(),
        {"steps": 7, "rl.kl_coef": 0.0, "corpus.goes_on": 0.5, "corpus.depth": 2},
    )
    assert cfg == want and type(cfg.rl.kl_coef) is float
    changed = {k for k, v in fields_of(cfg).items() if v != fields_of(r1_zero_tiny())[k]}
    assert changed == {"steps", "rl.kl_coef", "corpus.goes_on", "corpus.depth"}


def test_axes_are_every_combination_and_say_where_each_lies():
    axes = {"corpus": {"depth": [1, 2, 4]}, "rl": {"kl_coef": [0.0, 0.01]}}
    grid = grid_of(configuration=[], axes=axes)
    members = plan(grid, Path("out"))
    assert len(members) == 6 and members[0].configuration.name == "depth 1, kl_coef 0.0"
    assert members[0].folder == Path("out/depth_1_kl_coef_0.0-seed_0")
    told = [m.note()["axes"] for m in members]
    assert told == [{"corpus.depth": d, "rl.kl_coef": k} for d in (1, 2, 4) for k in (0.0, 0.01)]
    assert [m.cfg.corpus.depth for m in members] == [1, 1, 2, 2, 4, 4]


def test_members_say_what_the_verdict_reads():
    grid = grid_of(seeds=2, bases=2, controls=["random"], run={"corpus": {"goes_on": 0.5}})
    members = plan(grid, Path("out"))
    notes = [m.note() for m in members]
    assert [(n["configuration"], n["seed"], n["base_seed"], n["control"]) for n in notes] == [
        ("one", 0, 0, None), ("one", 1, 1, None), ("random", 0, 0, "random"),
        ("random", 1, 1, "random"),
    ]  # fmt: skip
    assert notes[0]["axes"] == {"corpus.depth": 2} and notes[2]["axes"] == {"corpus.depth": 0}
    assert members[2].cfg.reward.control == "random" and members[0].cfg.seed == 0


def test_controls_are_the_reference_with_one_thing_taken_away():
    reference = grid_of().reference
    grid = parse_grid({"configuration": ONE}, Path("."))
    for one in grid.configurations[1:]:
        before, after = fields_of(reference), fields_of(grid.config(one))
        changed = {k for k in after if after[k] != before[k]}
        learns = {"learn_from", "corpus.depth"}  # of the first, since none is the reference
        assert changed == (learns if one.control == "supervised" else set(CONTROLS[one.control][1]))


def test_supervised_learns_from_the_replies_of_the_reference_seed_by_seed(tmp_path):
    two = [*ONE, {"name": "As it is"}]
    grid = grid_of(configuration=two, controls=["supervised"], seeds=[4, 7], bases=2)
    *others, a, b = plan(grid, tmp_path)
    assert a.source == tmp_path / "as_it_is-seed_4" and b.source == tmp_path / "as_it_is-seed_7"
    assert all(member.source is None for member in others)
    (own,) = [m for m in others if m.folder == b.source]
    assert (b.cfg.base, b.recipe, b.base_seed) == (own.cfg.base, own.recipe, 1)
    assert b.note()["control"] == "supervised"
    for shard in (1, 2, 3):  # never apart
        names = {m.name for m in shard_of([*others, a, b], shard, 3)}
        assert (b.name in names) == (own.name in names)
    early = grid_of(controls=["supervised"], run={"stop_when_settled": True})
    assert plan(early, tmp_path)[0].cfg.stop_when_settled
    assert not plan(early, tmp_path)[1].cfg.stop_when_settled
    told = {"configuration": ONE, "run": {"log_replies": False}}
    kinds = [one.control for one in parse_grid(told, tmp_path).configurations]
    assert "supervised" not in kinds and "random" in kinds


def test_a_control_is_known_by_its_configuration_alone():
    """As the verdict reads a run that is of no sweep."""
    grid = parse_grid({"configuration": ONE}, Path("."))
    for one in grid.configurations:
        config = dataclasses.asdict(grid.config(one)) | {"base": "train"}
        known = one.control if one.control not in ("filler", "chance") else None
        assert control_of(Log("a", (), True, config=config)) == known


def test_where_form_does_not_pay_it_is_no_control():
    grid = parse_grid({"configuration": ONE, "run": {"reward": {"format": 0}}}, Path("."))
    assert "format" not in [one.control for one in grid.configurations]


def test_the_shipped_base_is_used_where_its_recipe_is_asked_for():
    configuration = [{"name": "as shipped", "steps": 3}, *ONE]
    members = plan(grid_of(configuration=configuration, bases=2, seeds=2), Path("out"))
    assert (members[0].cfg.base, members[0].recipe) == ("embedded", None)
    assert members[1].recipe == dataclasses.replace(tiny_base(), seed=1)  # another seed's
    assert members[2].recipe.corpus.depth == 2


def test_a_base_that_is_given_is_taken_as_it_is_and_has_no_controls_of_the_corpus(tmp_path):
    told = {"configuration": [{"name": "a", "steps": 3}], "run": {"base": "x.safetensors"}}
    grid = parse_grid(told, tmp_path)
    kinds = [one.control for one in grid.configurations if one.control]
    assert kinds == ["random", "format", "shuffled", "no_update", "supervised"]
    assert {m.cfg.base for m in plan(grid, tmp_path)} == {"x.safetensors"}
    assert all(m.recipe is None for m in plan(grid, tmp_path))


def test_a_grid_may_start_from_a_file(tmp_path):
    save_config(dataclasses.replace(r1_zero_tiny(), steps=9), tmp_path / "run.json")
    path = tmp_path / "grid.toml"
    path.write_text(
        'config = "run.json"\nseeds = [3, 8]\ncontrols = []\n'
        '[[configuration]]\nname = "a"\noptim.lr = 1e-4\n'
    )
    members = plan(read_grid(path), tmp_path)
    assert [(m.cfg.steps, m.cfg.optim.lr, m.seed) for m in members] == [(9, 1e-4, 3), (9, 1e-4, 8)]
    assert len(plan(read_grid(path, seeds=3), tmp_path)) == 3


@pytest.mark.parametrize(
    "told, message",
    [
        ({"configuration": [{"name": "a", "corpus": {"dept": 2}}]},
         "configuration 'a': no field corpus.dept: did you mean corpus.depth?"),
        ({"configuration": [{"name": "a", "lr": 2}]}, "no field lr: did you mean optim.lr?"),
        ({"configuration": [{"name": "a", "corpus": 2}]},
         "no field corpus: it is a group of fields, such as corpus.tiers"),
        ({"configuration": [{"name": "a", "steps": "many"}]}, 'for field "steps"'),
        ({"configuration": [{"name": "a", "steps": True}]},
         '"steps" - should be "int" instead of value "True"'),
        ({"configuration": [{"name": "a", "rl": {"group": 1}}]},
         "configuration 'a': RLConfig.group=1"),
        ({"configuration": [{"name": "a", "seed": 2}]}, "seed is set by the sweep"),
        ({"configuration": [{"corpus": {"depth": 2}}]}, "a [[configuration]] has no name"),
        ({"configuration": [*ONE, {"name": "two", "corpus": {"depth": 2}}]},
         "configuration 'two' is 'one' again: no field differs"),
        ({"controls": ["no_trace"], "configuration": [
            {"name": "a", "corpus": {"reflective": 0, "practice": 0}}]},
         "control 'no_trace' is 'a' again"),
        ({"configuration": []}, "no [[configuration]] and no [axes]"),
        ({"controls": ["radom"]}, "controls: no control 'radom': did you mean random?"),
        ({"controls": "all"}, "controls must be a list of names"),
        ({"run": {"stepz": 1}}, "[run]: no field stepz: did you mean steps?"),
        ({"seeds": 0}, "no seeds"),
        ({"seeds": []}, "no seeds"),
        ({"seeds": [1, 1]}, "seed 1 is given twice"),
        ({"seeds": [-1]}, "a seed must lie between"),
        ({"seeds": "five"}, "seeds must be a number of them or a list, got 'five'"),
        ({"bases": 0}, "bases must be a positive number"),
        ({"control_seeds": 0}, "control_seeds must be a positive number"),
        ({"preset": "tini"}, "preset=tini: expected one of tiny"),
        ({"sedes": 5}, "no key sedes: did you mean seeds?"),
        ({"axes": {"steps": 3}}, "[axes] steps: expected a list of values"),
    ],
)  # fmt: skip
def test_bad_grids_are_one_line(told, message):
    with pytest.raises(InputError) as refusal:
        grid_of(**told)
    assert message in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_file_that_is_no_grid_is_named(tmp_path):
    path = tmp_path / "grid.toml"
    with pytest.raises(InputError, match=r"grid.toml: No such file"):
        read_grid(path)
    path.write_text("seeds = \n")
    with pytest.raises(InputError, match=r"grid.toml: .*line 1"):
        read_grid(path)
    path.write_text('[[configuration]]\nname = "a"\ncorpus.dept = 1\n')
    with pytest.raises(InputError, match=r"grid.toml: configuration 'a': no field corpus.dept"):
        read_grid(path)


def test_members_that_would_overwrite_each_other_are_named():
    two = [{"name": "Depth 2", "steps": 2}, {"name": "depth-2", "steps": 3}]
    with pytest.raises(InputError, match=r"'Depth 2' and 'depth-2' would lie in the same folders"):
        plan(grid_of(configuration=two), Path("out"))


# --- Shards


@pytest.mark.parametrize("n", [1, 2, 3, 7, 100])
def test_shards_are_a_partition(n):
    members = plan(read_grid(DEFAULT), Path("out"))
    shards = [shard_of(members, i, n) for i in range(1, n + 1)]
    found = [m.name for shard in shards for m in shard]
    assert sorted(found) == sorted(m.name for m in members)
    sizes = [len(shard) for shard in shards]
    assert max(sizes) - min(sizes) <= 1 + (n > 60)  # the two of a pair stay together
    assert parse_shard(f"{n}/{n}") == (n, n)


@pytest.mark.parametrize("text", ["2", "0/2", "3/2", "a/b", "1/0", "1/2/3"])
def test_bad_shards_are_one_line(text):
    with pytest.raises(InputError, match=f"--shard={text}: "):
        parse_shard(text)


# --- Folders that hold something


def begun(member, status="running", **changes):
    member.folder.mkdir(parents=True)
    cfg = dataclasses.replace(member.cfg, **changes)
    save_config(dataclasses.replace(cfg, resume="no"), member.folder / "config.json")
    (member.folder / "run.json").write_text(json.dumps({"status": status}))
    (member.folder / "metrics.jsonl").write_text("")


def test_nothing_is_overwritten(tmp_path):
    members = plan(grid_of(seeds=2), tmp_path)
    check_folders(members, resume=False)
    begun(members[0])
    with pytest.raises(InputError, match="one-seed_0 already holds a run: --resume goes on"):
        check_folders(members, resume=False)
    check_folders(members, resume=True)
    check_folders(members[1:], resume=False)  # another shard, in the same folder
    begun(members[1], steps=49)
    with pytest.raises(InputError, match="one-seed_1 was made with steps=49, and the grid says 60"):
        check_folders(members, resume=True)


def test_a_member_is_finished_with_its_report(tmp_path):
    (member,) = plan(grid_of(seeds=1), tmp_path)
    assert not is_finished(member)
    begun(member, "finished")
    assert not is_finished(member)
    (member.folder / "report.html").write_text("")
    assert is_finished(member)
    (member.folder / "run.json").write_text('{"status": "stopped"}')
    assert not is_finished(member)
