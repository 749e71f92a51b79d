"""The house is as its papers say: layers, imports, the generated reference, links, the README's own examples."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pointsman import config

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benches/**/*.md")])


def test_imports_go_downwards_only() -> None:
    tool = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([tool, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("package", "homes"),
    [
        ("torch", {"training"}),
        ("transformers", {"training"}),
        ("onnxruntime", {"routers/encoder.py", "training"}),
        ("tokenizers", {"routers/encoder.py", "training"}),
        ("aiohttp", {"upstreams/client.py"}),
        ("uvicorn", {"gateway/server.py", "gateway/protocol.py", "testing.py"}),
        ("yaml", {"config/document.py", "config/plano.py"}),
        ("matplotlib", {"evals/page", "synth/plots.py", "training/modelcard.py"}),
        ("py3langid", {"synth/verify.py"}),
        ("jinja2", {"evals/page"}),
    ],
)
def test_a_heavy_library_has_its_room(package: str, homes: set[str]) -> None:
    source = ROOT / "src" / "pointsman"
    pattern = re.compile(rf"^\s*(import|from) {package}\b", re.MULTILINE)
    found = {path.relative_to(source) for path in source.rglob("*.py") if pattern.search(path.read_text())}
    assert [path for path in found if homes.isdisjoint(map(str, (path, *path.parents)))] == []


def test_importing_the_library_loads_nothing_heavy() -> None:
    code = (
        "import sys, pointsman.router, pointsman.gateway.app, pointsman.cli\n"
        "heavy = ('torch', 'onnxruntime', 'tokenizers', 'rich', 'openai', 'matplotlib')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_the_reference_is_what_the_code_says() -> None:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    for name, page in generate.pages().items():
        committed = (ROOT / "docs" / "reference" / name).read_text()
        assert committed == page, f"run `python docs/generate.py`: {name} is out of date"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        if "://" not in target and not target.startswith("mailto:"):
            assert (page.parent / target).exists(), target


def test_the_readmes_policy_file_is_fine() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        loaded = config.loads(block, env={"OPENAI_API_KEY": "sk-1", "ANTHROPIC_API_KEY": "sk-2"})
        assert len(loaded.policies) > 1


def test_nothing_committed_names_a_machine() -> None:
    """Absolute paths of whoever wrote this must not travel with it."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)  # noqa: S607
    if listed.returncode:
        pytest.skip("not a git checkout")
    home = str(ROOT.parent) + os.sep
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if path.is_file() and path.stat().st_size < 1_000_000:
            assert home not in path.read_text(errors="ignore"), name


async def test_the_how_to_on_testing_works() -> None:
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/how-to/test-your-client.md").read_text(), re.DOTALL)
    names: dict[str, object] = {}
    exec(block, names)  # noqa: S102 - our own page
    await names["test_a_busy_model_is_replaced"]()  # type: ignore[operator]
