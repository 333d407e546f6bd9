"""Options: one tree from defaults, presets, files and the command line, and every mistake named."""

from dataclasses import dataclass, fields

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpidp.commandline import build_parser, parse, presets
from mpidp.config import GROUPS, KINDS, RunOptions, components, resolve
from mpidp.errors import UserError
from mpidp.models import MODELS
from mpidp.options import build, dashed, option
from mpidp.strategies import STRATEGIES


def config(*arguments):
    given, file, preset = parse([str(a) for a in arguments])
    return resolve(file | given, preset)


def refused(*arguments) -> str:
    with pytest.raises(UserError) as error:
        config(*arguments)
    text = str(error.value)
    assert "\n" not in text
    return text


def test_defaults_are_the_model_s():
    for name, model in MODELS.items():
        flat = config("--model", name).flat()
        for key, value in model.DEFAULTS.items():
            assert flat[key] == value


def test_what_the_user_says_wins(tmp_path):
    path = tmp_path / "options.toml"
    path.write_text('lr = 0.5\nbatch-size = 8\nsync = "averaging"\nperiod = 3\n')
    run = config("--preset", "diloco", "--config", path, "--batch-size", 12)
    assert (run.run.lr, run.run.batch_size, run.sync.period, run.sync.outer) == (0.5, 12, 3, "sgd")


def test_the_recorded_options_give_the_same_tree(tmp_path):
    for arguments in (
        ["--model", "linear"],
        ["--sync", "averaging", "--outer", "sgd", "--period", "7"],
        ["--sync", "server", "--servers", "3", "--size", "gpt2"],
        [
            "--model",
            "mlp",
            "--split",
            "dirichlet",
            "--alpha",
            "0.3",
            "--optimizer",
            "sgd",
            "--momentum",
            "0.9",
        ],
    ):
        one = config(*arguments)
        (tmp_path / "config.toml").write_text(one.to_toml())
        assert config("--config", tmp_path / "config.toml") == one


@pytest.mark.parametrize("name", presets())
def test_presets_are_whole(name):
    """Every option of a preset is used by what it chooses: given by hand, it would not be refused."""
    tree = config("--preset", name)
    _, _, preset = parse(["--preset", name])
    assert resolve(preset, {}) == tree


def test_gpt_sizes_are_recorded_in_full():
    flat = config("--size", "gpt2").flat()
    assert (flat["layers"], flat["heads"], flat["width"], flat["context"], flat["vocabulary"]) == (
        12,
        12,
        768,
        1024,
        50257,
    )


def test_a_length_in_steps_replaces_one_in_epochs_and_the_other_way_round():
    assert config("--model", "linear").run.epochs == 100
    assert config("--model", "linear", "--steps", 5).run.epochs is None
    assert config("--epochs", 2).run.steps is None
    assert "give one" in refused("--epochs", 2, "--steps", 5)


def test_options_are_refused_where_nothing_uses_them():
    assert "--sync averaging|streaming|elastic; this run has --sync allreduce" in refused("--period", 3)
    assert "--optimizer sgd; this run has --optimizer adamw" in refused("--momentum", 0.9)
    assert "--model gpt; this run has --model linear" in refused("--model", "linear", "--layers", 3)
    assert "--split dirichlet; this run has --split contiguous" in refused("--alpha", 3)
    assert "needs --checkpoint-every" in refused("--keep-checkpoints", 3)
    assert "--collective shared sends no messages" in refused("--collective", "shared", "--bucket-mib", 2)
    assert "used by --collective auto alone" in refused("--collective", "ring", "--calibration", "file")
    assert "used by --collective auto alone" in refused("--sync", "server", "--calibration", "file")
    assert "that rank alone: choose ring," in refused("--sync", "sharded", "--collective", "tree")


def test_a_default_of_one_choice_does_not_stand_in_the_way_of_another():
    """The GPT's defaults hold options of AdamW and of the cosine; with SGD and a constant rate they just go."""
    assert config("--optimizer", "sgd", "--schedule", "constant").run.optimizer == "sgd"


def test_names_are_suggested():
    assert "did you mean averaging?" in refused("--sync", "avereging")
    assert "did you mean --batch-size?" in refused("--batchsize", 3)
    assert "known: linear" in refused("--model", "transformer")


def test_toml_mistakes(tmp_path):
    path = tmp_path / "options.toml"
    for text, words in [
        ("lr = ", "not TOML"),
        ("rate = 3", "option rate"),
        ("[run]\nlr = 1", "option run"),
        ("lr = [1, 2]", "one value"),
        ('lr = "fast"', "--lr fast: must be a number"),
        ("lr = true", "--lr True: must be a number"),
        ("steps = 3.5", "--steps 3.5: must be a whole number"),
        ("nesterov = 1\noptimizer = 'sgd'", "true or false"),
        ("lr = inf", "finite"),
        ("lr = nan", "finite"),
    ]:
        path.write_text(text)
        assert words in refused("--config", path)
    path.write_bytes(b"\xff\xfe")
    assert "not TOML" in refused("--config", path)
    assert "a folder, not a file" in refused("--config", tmp_path)


@dataclass
class Ranges:
    a: int = option(1, minimum=1, maximum=3)
    b: float = option(0.5, above=0, below=1)
    c: str | None = option(None, choices=("x", "y"))


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("a", 0, "at least 1"),
        ("a", 4, "at most 3"),
        ("a", "2.5", "a whole number"),
        ("b", 0, "more than 0"),
        ("b", 10**400, "a finite number"),
        ("b", 1, "less than 1"),
        ("c", "z", "known: x, y"),
    ],
)
def test_ranges(name, value, words):
    with pytest.raises(UserError, match=words):
        build(Ranges, {name: value})


WORDS = [
    "--lr",
    "--steps",
    "--sync",
    "--model",
    "--config",
    "--data",
    "--batch-size",
    "3",
    "averaging",
    "linear",
]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(st.sampled_from(WORDS), st.text(max_size=6))))
def test_any_words_at_all_end_in_options_or_one_line(words):
    try:
        given, file, preset = parse([w for w in words if w not in ("-h", "--help")])
        resolve(file | given, preset)
    except UserError as error:
        assert str(error)


def test_every_option_has_help_and_one_meaning():
    """An option of several components, such as --dropout, must be of one type, for it is one flag."""
    kinds = {}
    for options in [RunOptions, *(o for kind in KINDS for o in components(kind).values())]:
        for f in fields(options):
            assert f.metadata["help"], f.name
            assert kinds.setdefault(f.name, f.type) == f.type
    assert {name for names in GROUPS.values() for name in names} == {f.name for f in fields(RunOptions)}
    help_text = build_parser().format_help()
    assert all(f"--{dashed(name)}" in help_text for name in kinds)


def test_no_component_takes_a_name_of_the_run_s():
    taken = {f.name for f in fields(RunOptions)} | {"config", "preset"}
    for kind in KINDS:
        for name, options in components(kind).items():
            assert not taken & {f.name for f in fields(options)}, (kind, name)


def test_conformance_cases_are_legal_options():
    for strategy in STRATEGIES.values():
        for case in strategy.cases:
            build(strategy.Options, {dashed(k): v for k, v in case.items()})
