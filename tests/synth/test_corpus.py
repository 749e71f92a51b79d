"""The corpus that is committed: as large as its card says, the data are what is written, the card is up to date."""

import gzip
import json
import re
from collections import Counter
from pathlib import Path

import pytest

from pointsman import dataset
from pointsman.synth import build, card, corpus, figures
from pointsman.synth.build import Parts
from pointsman.synth.catalogue import HANDS
from pointsman.synth.corpus import Corpus

FOLDER = Path(__file__).parents[2] / "corpus"

pytestmark = pytest.mark.skipif(
    not FOLDER.exists(), reason="the corpus is in the repository, not in the source package"
)


@pytest.fixture(scope="module")
def written() -> Corpus:
    return corpus.load(FOLDER)


@pytest.fixture(scope="module")
def built(written: Corpus) -> Parts:
    return build.built(written, build.Plan())


def test_it_has_the_breadth_that_a_router_needs(written: Corpus) -> None:
    measured = figures.measured(written)
    assert measured.domains >= 60
    assert measured.actions >= 400
    assert measured.sets >= 150
    assert measured.turns.distinct >= 8000
    assert measured.least_requests >= 10
    assert measured.least_conversations >= 2
    assert sum(count >= 20 for count in measured.languages.values()) >= 8
    sizes = [len(offer.entries) for offer in written.sets]
    assert min(sizes) >= 3
    assert max(sizes) <= build.LARGEST
    assert all(2 <= len(item.turns) <= 8 for item in written.items if not item.form)


def test_every_description_is_its_own(written: Corpus) -> None:
    said = Counter(work.descriptions[hand] for work in written.catalogue for hand in HANDS)
    assert [text for text, count in said.items() if count > 1 and len(text.split()) > 3] == []


def test_the_phase_two_is_as_large_as_the_papers(built: Parts) -> None:
    assert sum(part.turns for part in built["train"]) >= 43_442


def test_the_data_are_what_is_written(written: Corpus, tmp_path: Path) -> None:
    build.write(build.packed(written), tmp_path)
    made = {file.relative_to(tmp_path): _text(file) for file in tmp_path.rglob("*.json*")}
    committed = {file.relative_to(FOLDER / "data"): _text(file) for file in (FOLDER / "data").rglob("*.json*")}
    assert made.keys() == committed.keys(), "run `make corpus-data`"
    assert [str(name) for name in made if made[name] != committed[name]] == [], "run `make corpus-data`"


def _text(file: Path) -> bytes:
    # Packed bytes differ between versions of zlib.
    return gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()


def test_the_benchmark_reads_them() -> None:
    data = dataset.load(FOLDER / "data", split="heldout")
    assert {source.name for source in data.sources} == {"corpus", "teams"}
    assert len(data.taxonomies["corpus"].domains) >= 60


def test_the_card_is_up_to_date(written: Corpus, built: Parts) -> None:
    text = (FOLDER / "README.md").read_text()
    found = re.search(r"<!-- counts -->\n(.*?)<!-- /counts -->", text, re.DOTALL)
    assert found
    assert found[1] == card.counts(figures.measured(written), built, FOLDER), "run `make corpus-report`"


def test_every_domain_had_its_second_look(written: Corpus) -> None:
    looks = {entry["domain"]: entry for entry in json.loads((FOLDER / "review" / "second-look.json").read_text())}
    assert looks.keys() == set(written.catalogue.domains)
    for domain, look in looks.items():
        assert sum(look["reasons"].values()) >= max(look["rewritten"], look["relabelled"], look["dropped"]), domain
