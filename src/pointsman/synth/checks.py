"""All checks of a corpus folder, with what they need from outside: the encoder, other data sets, the folder's files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias, cast

import numpy as np
import numpy.typing as npt

from pointsman.config import document
from pointsman.conversation import trim
from pointsman.overlap import user_turns
from pointsman.synth import verify
from pointsman.synth.corpus import Corpus
from pointsman.synth.verify import Finding

Floats: TypeAlias = npt.NDArray[np.float32]

TOKENS = 64
"""A text is compared by its first and last tokens, as many as the embedded router reads."""


def all_findings(
    corpus: Corpus, folder: Path, *, against: Sequence[Path] = (), vectors: bool = True
) -> Iterator[Finding]:
    """Every check. `against` are data folders or files whose user turns must not be in the corpus. Raises DataError."""
    these = verify.texts(corpus)
    foreign = user_turns(*against)
    yield from verify.duplicates(these)
    yield from verify.contamination(these, foreign)
    yield from verify.lengths(these)
    yield from verify.languages(these)
    yield from verify.names_in_text(these)
    yield from verify.personal_data(these)
    files = (each for kind in ("taxonomy", "written", "sets") for each in sorted((folder / kind).glob("*")))
    yield from verify.licences(_sources(folder), [each.relative_to(folder).as_posix() for each in files])
    if vectors:
        own = embedded([text.text if text.first else "" for text in these])
        others = {name: embedded(said) for name, said in foreign.items()}
        yield from verify.near_in_meaning(these, own, others)


def embedded(texts: Sequence[str]) -> Floats:
    """Unit vectors [n, d] by the embedded router's weights; zero for an empty text. 4 ms a text."""
    from pointsman.routers.encoder import Encoder  # noqa: PLC0415 - onnxruntime costs a second; most checks need none

    encoder = Encoder.load()
    zero = np.zeros(encoder.card.dimension, np.float32)
    vectors = [encoder.embed(trim(text, TOKENS, encoder.offsets)) if text else zero for text in texts]
    return np.stack(vectors) if vectors else np.zeros((0, encoder.card.dimension), np.float32)


def _sources(folder: Path) -> Mapping[str, str]:
    """`sources.yaml`: each folder's licence, by what it was taken from. Raises DataError if there is none."""
    file = folder / "sources.yaml"
    value = document.parse(document.read(file), file=str(file)).value
    entries = cast("dict[str, object]", value) if isinstance(value, dict) else {}
    return {name: str(licence) for name, licence in entries.items()}
