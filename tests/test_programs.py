"""`python -m mpidp.generate` and `python -m mpidp.evaluate` on trained models."""

import json

import pytest

from tests.launch import run_alone, run_ranks
from tests.test_train import TINY_GPT, error_line, train


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    run_alone(train(*TINY_GPT, "--run-dir", folder / "gpt")).check()
    run_alone(
        train(
            "--model",
            "logistic",
            "--data",
            "synthetic-classes",
            "--epochs",
            2,
            "--run-dir",
            folder / "classes",
        )
    ).check()
    return folder


def generate(runs, *args):
    return run_alone(["-m", "mpidp.generate", "--run", runs / "gpt", *map(str, args)])


def test_text_goes_on_from_the_prompt_and_depends_on_the_seed_alone(runs):
    one, same, other = (
        generate(runs, "--prompt", "The é", "--tokens", 40, "--seed", s).check().stdout for s in (1, 1, 2)
    )
    assert one.startswith("The é") and one == same and one != other


def test_temperature_0_takes_the_likeliest(runs):
    texts = {generate(runs, "--tokens", 20, "--temperature", 0, "--seed", s).check().stdout for s in (1, 2)}
    assert len(texts) == 1


def test_no_tokens(runs):
    assert generate(runs, "--prompt", "ab", "--tokens", 0).check().stdout == "ab\n"


def test_mistakes_of_generate(runs, tmp_path):
    assert "--prompt is empty" in error_line(generate(runs, "--prompt", ""))
    assert "--temperature -1" in error_line(generate(runs, "--temperature", "-1"))
    assert "no such file" in error_line(run_alone(["-m", "mpidp.generate", "--run", tmp_path]))
    assert "was not trained on text" in error_line(
        run_alone(["-m", "mpidp.generate", "--run", runs / "classes"])
    )
    (tmp_path / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    assert "not a model that mpidp wrote" in error_line(
        run_alone(["-m", "mpidp.generate", "--run", tmp_path])
    )


@pytest.mark.parametrize("ranks", [1, 3])
def test_evaluate_gives_what_the_run_s_summary_says(runs, ranks):
    for name in ("gpt", "classes"):
        summary = json.loads((runs / name / "summary.json").read_text())
        finished = run_ranks(ranks, ["-m", "mpidp.evaluate", "--run", runs / name, "--json"]).check()
        facts = json.loads(finished.stdout)
        assert facts["loss"] == pytest.approx(summary["validation_loss"], rel=1e-5)
        assert facts.get("accuracy") == (summary["accuracy"] if name == "classes" else None)


def test_evaluate_on_other_data(runs, tmp_path):
    (tmp_path / "text.txt").write_text(
        "The for statement is used to iterate over the elements of a sequence.\n" * 30
    )
    other = [
        "-m",
        "mpidp.evaluate",
        "--run",
        runs / "gpt",
        "--data",
        tmp_path / "text.txt",
        "--part",
        "train",
        "--json",
    ]
    facts = json.loads(run_alone(other).check().stdout)
    assert facts["samples"] > 10 and 0 < facts["loss"] < 6


def test_mistakes_of_evaluate(runs, tmp_path):
    evaluate = ["-m", "mpidp.evaluate"]
    assert "required: --run" in error_line(run_ranks(2, evaluate))
    assert "no such file; a run writes it" in error_line(
        run_ranks(2, [*evaluate, "--run", tmp_path / "none"])
    )
    wrong = run_ranks(2, [*evaluate, "--run", runs / "gpt", "--data", "synthetic-classes"])
    assert "the model was trained on" in error_line(wrong)


@pytest.mark.parametrize("program", ["evaluate", "generate"])
def test_a_gpu_that_is_not_there(runs, program, has_device):
    if has_device:
        pytest.skip("there is a GPU here")
    line = error_line(run_alone(["-m", f"mpidp.{program}", "--run", runs / "gpt", "--device", "cuda"]))
    assert line.startswith("mpidp: error: --device cuda")
