"""A training run's settings: what is right is read, and whatever is wrong is told with its place. Needs no torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pointsman.errors import ConfigError
from pointsman.training.settings import PUBLISHED, Data, Evaluation, Plan, Settings, load


def refused(file: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load(file)
    (problem,) = caught.value.problems
    assert str(caught.value) == problem.located(str(file))
    return str(caught.value)


def test_a_name_is_enough(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text('name = "mine-1"')
    assert load(tmp_path / "run.toml") == Settings(name="mine-1", start=PUBLISHED)


def test_every_key_is_read(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(
        """
        name = "mine_2.0+x"
        start = "/weights"
        average = 0.5
        licence = "MIT"
        note = "Fine."
        [data]
        folders = ["/a", "/b"]
        apart = ["/c"]
        weights = {a = 2, b = 0}
        skip_bad = true
        [plan]
        steps = 1
        batch = 2
        rate = 1
        warmup = 3
        seed = 4
        smoothing = 0
        strangers = 1
        laid = 2
        scale = 5
        none = -0.5
        [evaluation]
        data = ["/d"]
        policies = "/e"
        every = 6
        examples = 7
        """
    )
    plan = Plan(
        steps=1, batch=2, rate=1.0, warmup=3, seed=4, smoothing=0.0, strangers=1.0, laid=2, scale=5.0, none=-0.5
    )
    assert load(tmp_path / "run.toml") == Settings(
        name="mine_2.0+x",
        start="/weights",
        average=0.5,
        licence="MIT",
        note="Fine.",
        data=Data(folders=("/a", "/b"), apart=("/c",), weights={"a": 2.0, "b": 0.0}, skip_bad=True),
        plan=plan,
        evaluation=Evaluation(data=("/d",), policies="/e", every=6, examples=7),
    )


def test_paths_are_relative_to_the_file_and_not_to_where_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "run.toml").write_text(
        'name = "a"\nstart = "../begun"\n'
        '[data]\nfolders = ["../data", "/elsewhere"]\napart = ["held.jsonl"]\n'
        '[evaluation]\ndata = ["dev"]\npolicies = "../sets"\n'
    )
    monkeypatch.chdir(tmp_path)
    found = load(Path("runs/run.toml"))
    assert found.start == str(tmp_path / "begun")
    assert found.data.folders == (str(tmp_path / "data"), "/elsewhere")
    assert found.data.apart == (str(tmp_path / "runs" / "held.jsonl"),)
    assert found.evaluation.data == (str(tmp_path / "runs" / "dev"),)
    assert found.evaluation.policies == str(tmp_path / "sets")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "object missing required field `name`"),
        ("name = 1", "name: expected `str`, got `int`"),
        ('name = ""', "name: expected `str` matching regex"),
        ('name = "a b"', "name: expected `str` matching regex"),
        ('name = "../a"', "name: expected `str` matching regex"),
        ('name = "a\\n"', "name: expected `str` matching regex"),
        ('name = "a"\ncolour = "red"', "object contains unknown field `colour`"),
        ('name = "a"\n[plan]\nstep = 3', "plan: object contains unknown field `step`"),
        ('name = "a"\n[data.weight]\nx = 3', "data: object contains unknown field `weight`"),
        ('name = "a"\n[evaluation]\nevry = 3', "evaluation: object contains unknown field `evry`"),
        ('name = "a"\ndata = "folder"', "data: expected `object`, got `str`"),
        ('name = "a"\n[data]\nfolders = "one"', "data.folders: expected `array`, got `str`"),
        ('name = "a"\n[data]\nfolders = ["one", 2]', "data.folders[1]: expected `str`, got `int`"),
        ('name = "a"\n[data]\nskip_bad = 1', "data.skip_bad: expected `bool`, got `int`"),
        ('name = "a"\n[data.weights]\nx = -1', "data.weights: expected `float` >= 0.0"),
        ('name = "a"\n[data.weights]\nx = inf', "data.weights: expected `float` <= 1000000.0"),
        ('name = "a"\n[data.weights]\nx = "much"', "data.weights: expected `float`, got `str`"),
        ('name = "a"\naverage = 1.1', "average: expected `float` <= 1.0"),
        ('name = "a"\naverage = -0.1', "average: expected `float` >= 0.0"),
        ('name = "a"\n[plan]\nsteps = 0', "plan.steps: expected `int` >= 1"),
        ('name = "a"\n[plan]\nsteps = 10.5', "plan.steps: expected `int`, got `float`"),
        ('name = "a"\n[plan]\nsteps = true', "plan.steps: expected `int`, got `bool`"),
        ('name = "a"\n[plan]\nbatch = 0', "plan.batch: expected `int` >= 1"),
        ('name = "a"\n[plan]\nwarmup = 0', "plan.warmup: expected `int` >= 1"),
        ('name = "a"\n[plan]\nseed = "x"', "plan.seed: expected `int`, got `str`"),
        ('name = "a"\n[plan]\nrate = 0', "plan.rate: expected `float` > 0.0"),
        ('name = "a"\n[plan]\nrate = nan', "plan.rate: expected `float` > 0.0"),
        ('name = "a"\n[plan]\nrate = inf', "plan.rate: expected `float` <= 1.0"),
        ('name = "a"\n[plan]\nsmoothing = 2', "plan.smoothing: expected `float` <= 1.0"),
        ('name = "a"\n[plan]\nstrangers = -1', "plan.strangers: expected `float` >= 0.0"),
        ('name = "a"\n[plan]\nlaid = 1', "plan.laid: expected `int` >= 2"),
        ('name = "a"\n[plan]\nscale = inf', "plan.scale: expected `float` <= 1000.0"),
        ('name = "a"\n[plan]\nnone = nan', "plan.none: expected `float` >= -1.0"),
        ('name = "a"\n[evaluation]\nevery = 0', "evaluation.every: expected `int` >= 1"),
        ('name = "a"\n[evaluation]\nexamples = 0', "evaluation.examples: expected `int` >= 1"),
        ('name = "a"\n[data]\nfolders = ["a\\u0000b"]', "names a path that is none: embedded null byte"),
        ('name = "a"\nname = "b"', "is not TOML: "),
        ("name: a", "is not TOML: Expected '=' after a key"),
        ('{"name": "a"}', "is not TOML: Invalid statement (at line 1, column 1)"),
    ],
)
def test_a_bad_file_is_told_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "run.toml"
    file.write_text(text)
    assert refused(file).startswith(f"{file}: {said}")


def test_what_is_not_utf_8_or_nested_without_end_is_told(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_bytes('name = "café"'.encode("latin-1"))
    assert refused(file).startswith(f"{file}: is not TOML: 'utf-8' codec can't decode byte 0xe9")
    file.write_text(f"name = {'[' * 5000}")
    assert refused(file) == f"{file}: is nested too deep"


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    assert refused(tmp_path / "no.toml") == f"{tmp_path / 'no.toml'}: cannot be read: No such file or directory"
    assert refused(tmp_path) == f"{tmp_path}: cannot be read: Is a directory"


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False, timeout=60
    )


def test_reading_settings_and_data_loads_no_torch() -> None:
    done = run("import sys, pointsman.training.settings, pointsman.training.mixture; print('torch' in sys.modules)")
    assert (done.stdout, done.stderr) == ("False\n", "")


def test_without_torch_the_command_says_what_to_install_but_a_bad_file_first(tmp_path: Path) -> None:
    code = "import sys; sys.modules['torch'] = None; from pointsman.cli import main; main()"
    file = tmp_path / "run.toml"
    command = ("train", "encoder", str(file), "--out", str(tmp_path / "out"))
    missing = run(code, *command)
    assert missing.returncode == 2
    assert missing.stderr == f"{file}: cannot be read: No such file or directory\n"
    file.write_text('name = "a"')
    without = run(code, *command)
    assert without.returncode == 2
    assert without.stderr == "torch is not installed; pip install 'pointsman[train]'\n"
    assert not (tmp_path / "out").exists()
