"""A whole run by `pointsman train encoder`: from a settings file to a folder that the router serves from."""

from __future__ import annotations

import _thread
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed; it is in the extra `train`")
pytest.importorskip("transformers", reason="transformers is not installed; it is in the extra `train`")
pytest.importorskip("onnx", reason="onnx is not installed; it is in the extra `train`")
pytest.importorskip("matplotlib", reason="matplotlib is not installed; it is in the extra `report`")

from click.testing import CliRunner, Result  # noqa: E402
from msgspec.structs import astuple, replace  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402

from pointsman import calibration, dataset  # noqa: E402
from pointsman.cli import main  # noqa: E402
from pointsman.conversation import Conversation  # noqa: E402
from pointsman.policy import Policy, PolicySet  # noqa: E402
from pointsman.routers.encoder import Encoder, read_card  # noqa: E402
from pointsman.training import checkpoint, loop  # noqa: E402
from pointsman.training.mixture import gather  # noqa: E402
from pointsman.training.network import Network  # noqa: E402
from pointsman.training.run import CALIBRATION, averaged  # noqa: E402
from pointsman.training.settings import Data  # noqa: E402
from tests.training.conftest import EXPORTING, IDS, asked, full_disk, put, row, turns  # noqa: E402

pytestmark = EXPORTING

SETTINGS = """
name = "tiny-1"
start = "start"
average = 0.75
note = "It knows hotels."
[data]
folders = ["data"]
apart = ["apart/bench.jsonl"]
[data.weights]
talk = 2
[plan]
steps = 6
batch = 4
rate = 1e-3
warmup = 2
[evaluation]
data = ["data/dev"]
every = 3
"""


@pytest.fixture
def home(tmp_path: Path, data: Path, tiny: Callable[..., Network], tokenizer: Tokenizer) -> Path:
    """A folder with settings, data and weights to begin with; one conversation is in data kept apart."""
    assert data.parent == tmp_path
    checkpoint.save(tiny(), tokenizer, tmp_path / "start")
    put(tmp_path / "apart" / "bench.jsonl", [row("hotel.book", f"{asked(IDS[0])} for me")])
    (tmp_path / "run.toml").write_text(SETTINGS)
    return tmp_path


def train(home: Path, *options: str, settings: str = "run.toml") -> Result:
    command = ["train", "encoder", str(home / settings), "--out", str(home / "out"), *options]
    return CliRunner().invoke(main, command)


def refused(home: Path, *options: str, settings: str = "run.toml") -> str:
    done = train(home, *options, settings=settings)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr
    assert not (home / "out").exists()
    return done.stderr


def edit(home: Path, old: str, new: str) -> None:
    text = (home / "run.toml").read_text()
    assert old in text
    (home / "run.toml").write_text(text.replace(old, new))


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


def test_a_run_gives_weights_with_their_card_and_says_how_it_goes(home: Path) -> None:
    done = train(home)
    assert done.exit_code == 0, done.stderr
    out = home / "out"
    size = (out / "encoder.onnx").stat().st_size / 1e6
    assert done.stdout == f"{out}: tiny-1, {size:.1f} MB\n"
    counted, third, sixth = done.stderr.splitlines()
    assert counted == ("85 labelled turns of 2 sources; 1 conversations left out that share text with data kept apart")
    assert third.startswith("step 3/6  loss ")
    assert sixth.startswith("step 6/6  loss ")
    assert "held turn" in third
    assert "held none" in third
    assert set(files(out)) == {"README.md", "card.json", "curve.svg", "encoder.onnx", "tokenizer.json"}

    card = read_card(out)
    assert (card.name, card.licence, card.source, card.dimension) == ("tiny-1", "Apache-2.0", "checkpoint start", 32)
    assert card.training.startswith("6 steps of 4 turns, rate 0.001, seed 0; averaged 75% to 25%")
    mixture = gather(
        Data(folders=(str(home / "data"),), apart=(str(home / "apart" / "bench.jsonl"),), weights={"talk": 2.0})
    )
    assert card.data == mixture.digest

    readme = (out / "README.md").read_text()
    assert "\nIt knows hotels.\n" in readme
    assert f"| data | `{mixture.digest}`, below |" in readme
    assert f"| single | 1 | 63 | 63 | 3 | 3 | {mixture.figures[0].sha256[:12]} |" in readme
    assert f"| talk | 2 | 11 | 22 | 11 | 1 | {mixture.figures[1].sha256[:12]} |" in readme
    assert "* Conversations left out, since they share text with bench.jsonl: 1." in readme
    points = loop.read_curve(home / "out.work")
    assert [point.step for point in points] == [3, 6]
    for point in points:
        figures = " | ".join(f"{value:.1f}" for value in point.figures.values())
        assert f"\n| {point.step} | {point.loss:.3f} | {figures} |\n" in readme
    assert (out / "curve.svg").read_text().count("held ") >= 2

    policies = PolicySet(Policy(id=id, description=" ".join(id.split("."))) for id in IDS)
    scores = Encoder.load(out).scores(Conversation(turns=turns("book hotel")), policies)
    assert sum(each.probability for each in scores.policies) + scores.other == pytest.approx(1)


def test_the_same_command_again_trains_nothing_and_gives_the_same(home: Path) -> None:
    first = train(home)
    assert first.exit_code == 0, first.stderr
    written, card = files(home / "out"), read_card(home / "out")
    state = (home / "out.work" / loop.STATE).stat().st_mtime_ns
    again = train(home)
    assert again.exit_code == 0, again.stderr
    assert again.stderr == f"{first.stderr.splitlines()[0]}\n"
    assert again.stdout == first.stdout
    assert (home / "out.work" / loop.STATE).stat().st_mtime_ns == state
    # A calibration is fitted anew, and sums may differ in their last bit.
    same = read_card(home / "out")
    assert astuple(same.calibration) == pytest.approx(astuple(card.calibration))
    assert replace(same, calibration=card.calibration) == card
    assert files(home / "out") | {"card.json": b""} == written | {"card.json": b""}


def test_the_same_run_elsewhere_gives_the_same_weights_and_another_seed_others(home: Path) -> None:
    results = [
        train(home, "--work", str(home / name), *options)
        for name, options in (("one", ()), ("two", ()), ("three", ("--seed", "7")))
    ]
    assert [done.exit_code for done in results] == [0, 0, 0], results[-1].stderr
    one, two, three = (
        (home / name / "checkpoint" / checkpoint.WEIGHTS).read_bytes() for name in ("one", "two", "three")
    )
    assert one == two != three


def test_options_stand_above_the_settings(home: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    put(other / "train" / "more.jsonl", [row(id, asked(id)) for id in IDS])
    (other / "policies").symlink_to(home / "data" / "policies")
    edit(home, "[data.weights]\ntalk = 2\n", "")
    done = train(
        home,
        *("--data", str(other), "--apart", str(home / "data" / "dev"), "--evaluate", str(other / "train")),
        *("--steps", "2", "--seed", str(10**30), "--threads", "1", "--device", "cpu"),
    )
    assert done.exit_code == 0, done.stderr
    counted, last = done.stderr.splitlines()
    assert counted == "12 labelled turns of 1 sources"
    assert last.startswith("step 2/2")
    assert "held turn" in last
    assert "more turn" in last
    assert f"2 steps of 4 turns, rate 0.001, seed {10**30}" in read_card(home / "out").training


def test_out_may_be_where_one_stands(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "here").mkdir()
    monkeypatch.chdir(home / "here")
    done = CliRunner().invoke(main, ["train", "encoder", "../run.toml", "--out", "."])
    assert done.exit_code == 0, done.stderr
    assert (home / "here" / "encoder.onnx").is_file()
    assert (home / "here.work" / loop.STATE).is_file()


def test_the_calibration_is_fitted_to_what_was_evaluated(home: Path) -> None:
    assert train(home).exit_code == 0
    encoder = Encoder.load(home / "out")
    assert encoder.calibration != CALIBRATION
    read = list(calibration.readings(encoder, dataset.load(home / "data" / "dev", policies=home / "data" / "policies")))
    assert len(read) == 72
    assert astuple(encoder.calibration) == pytest.approx(astuple(calibration.fit(read, CALIBRATION)))


def test_too_few_turns_leave_the_calibration_as_it_was_and_that_is_said(home: Path) -> None:
    put(home / "data" / "dev" / "held.jsonl.gz", [row(id, asked(id)) for id in IDS])
    done = train(home)
    assert done.exit_code == 0, done.stderr
    said = "the calibration stays as it was: 12 turns with a policy are too few; 30 are needed"
    assert done.stderr.splitlines()[-1].startswith(said)
    assert read_card(home / "out").calibration == CALIBRATION


def test_exported_weights_can_be_trained_on_and_bring_their_calibration(home: Path) -> None:
    assert train(home).exit_code == 0
    edit(home, 'start = "start"', 'start = "out"')
    edit(home, 'data = ["data/dev"]', "")
    done = train(home, "--work", str(home / "next"), "--out", str(home / "next-out"))
    assert done.exit_code == 0, done.stderr
    first, second = read_card(home / "out"), read_card(home / "next-out")
    assert second.source.endswith("read back from int8; checkpoint start")
    assert second.calibration == first.calibration != CALIBRATION


def test_bad_lines_are_counted_if_that_is_asked_for(home: Path) -> None:
    put(home / "data" / "train" / "bad.jsonl", ["{", row("hotel.find", "find me a hotel")])
    assert f"{home / 'data' / 'train' / 'bad.jsonl'}:1: is no labelled conversation" in refused(home)
    edit(home, "[data]\n", "[data]\nskip_bad = true\n")
    done = train(home)
    assert done.exit_code == 0, done.stderr
    assert done.stderr.splitlines()[0].endswith("; 1 bad lines left out")
    assert "* Lines left out, since they cannot be used: 1." in (home / "out" / "README.md").read_text()


@pytest.fixture
def heeds_sigint() -> Iterator[None]:
    """A suite in the background has SIGINT ignored, and a test that served in this process has set it aside."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeds_sigint")
def test_a_run_stopped_by_ctrl_c_ends_with_130_and_goes_on(home: Path) -> None:
    edit(home, "steps = 6", "steps = 3000")  # a minute, should the signal be lost
    edit(home, 'data = ["data/dev"]', "")

    def stop(beyond: int) -> None:
        until = time.monotonic() + 30
        while time.monotonic() < until:
            if any(point.step > beyond for point in loop.read_curve(home / "out.work")):
                _thread.interrupt_main()
                return
            time.sleep(0.02)

    done = 0
    for _ in range(2):
        watch = threading.Thread(target=stop, args=(done,))
        watch.start()
        result = train(home)
        watch.join()
        assert result.exit_code == 130, result.output
        assert not (home / "out").exists()
        state = torch.load(home / "out.work" / loop.STATE, weights_only=True)
        assert state["done"] >= (done // loop.EVERY + 1) * loop.EVERY
        done = state["done"]


# --- what is refused, and how


def test_bad_settings_end_with_2_and_say_where(home: Path) -> None:
    edit(home, "steps = 6", "steps = 0")
    assert refused(home) == f"{home / 'run.toml'}: plan.steps: expected `int` >= 1\n"
    missing = home / "no.toml"
    assert refused(home, settings="no.toml") == f"{missing}: cannot be read: No such file or directory\n"


def test_data_that_are_missing_end_with_2(home: Path) -> None:
    edit(home, 'folders = ["data"]', 'folders = ["nowhere"]')
    assert refused(home) == f"{home / 'nowhere'}: is not there; give a folder of .jsonl.gz files, or one file\n"
    edit(home, 'folders = ["nowhere"]', "")
    assert refused(home) == "data.folders: names no folder; name one, or give --data\n"
    said = refused(home, "--data", str(home / "data"), "--evaluate", str(home / "gone"))
    assert said.splitlines()[-1].startswith(f"{home / 'gone'}: is not there")
    said = refused(home, "--data", str(home / "data"), "--apart", str(home / "gone"))
    assert said == f"{home / 'gone'}: holds no .jsonl.gz or .jsonl file\n"


def test_weights_that_are_missing_end_with_2(home: Path) -> None:
    edit(home, 'start = "start"', 'start = "gone"')
    assert refused(home).startswith(f"{home / 'gone'} is neither a checkpoint")


def test_a_device_that_is_none_ends_with_2(home: Path) -> None:
    assert refused(home, "--device", "abacus") == "--device: there is no abacus; cpu or cuda\n"


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_cuda_where_there_is_none_ends_with_2(home: Path) -> None:
    assert refused(home, "--device", "cuda") == "--device: this machine has no CUDA device; leave it out\n"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("batch = 4", "batch = 5", "was made with another batch"),
        ("talk = 2", "talk = 3", "was made with other data"),
        ('start = "start"', 'start = "begun"', "was made with other starting weights"),
    ],
)
def test_a_run_that_was_changed_does_not_go_on_under_the_old_ones_name(
    home: Path, old: str, new: str, said: str
) -> None:
    assert train(home).exit_code == 0
    (home / "start").rename(home / "begun")
    (home / "start").symlink_to(home / "begun")
    edit(home, old, new)
    done = train(home)
    assert done.exit_code == 2
    assert done.stderr.splitlines()[-1].startswith(f"{home / 'out.work' / loop.STATE} {said}; give another --work")


def test_a_full_disk_ends_with_1_and_the_run_goes_on_where_there_is_room(home: Path) -> None:
    with full_disk(20_000):
        done = train(home)
    assert done.exit_code == 1
    said = f"cannot read or write {home / 'out.work' / loop.STATE}: could not be written whole"
    assert done.stderr.splitlines()[-1].startswith(said)
    assert train(home).exit_code == 0


# --- averaging


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_an_average_holds_each_weight_of_the_encoder_at_its_share(tiny: Callable[..., Network], share: float) -> None:
    network = tiny()
    original = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with torch.no_grad():
        for each in network.parameters():
            each.add_(1.0)
    for name, tensor in averaged(network, original, share).state_dict().items():
        # Heads, and what tells what was said before, are as trained: the original knows nothing of them.
        whole = not name.startswith("bert.") or "token_type" in name
        assert (tensor - original[name]).numpy() == pytest.approx(1.0 if whole else share, abs=1e-6)


def test_the_weights_exported_are_those_of_the_checkpoint_beside_them(home: Path) -> None:
    assert train(home).exit_code == 0
    kept, exported = (checkpoint.begin(str(home / name)) for name in ("out.work/checkpoint", "out"))
    for head in ("gate", "none"):
        assert torch.equal(getattr(kept.network, head).weight, getattr(exported.network, head).weight)
    state = torch.load(home / "out.work" / loop.STATE, weights_only=True)["network"]
    begun = checkpoint.begin(str(home / "start")).network.state_dict()
    name = "bert.encoder.layer.0.output.dense.weight"
    assert torch.allclose(kept.network.state_dict()[name], torch.lerp(begun[name], state[name], 0.75))
    assert not torch.equal(begun[name], state[name])
    assert json.loads((home / "out" / "card.json").read_bytes())["data"]
