"""Benchmark data rebuilt from its public originals, in the format of docs/reference/eval-data.md.

Nothing of an original is in this package: it is fetched from where its authors keep it, under their licence. What is
ours are the policies' descriptions (`policies/`), the mapping of labels, and what is put together out of single turns.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from pointsman import dataset
from pointsman.evals.originals import banking77, clinc150, mantis, sgd
from pointsman.evals.originals.fetch import fetched
from pointsman.evals.originals.original import Original, Rebuilt, refused

__all__ = ["ORIGINALS", "Original", "Rebuilt", "rebuild"]

_CLINC150 = Original(
    name="clinc150",
    licence="CC BY 3.0",
    citation=(
        "Larson et al. 2019: An Evaluation Dataset for Intent Classification and Out-of-Scope Prediction. EMNLP-IJCNLP."
    ),
    where="the GitHub repository clinc/oos-eval: data/data_full.json",
    build=clinc150.build,
)

ORIGINALS: Mapping[str, Original] = {
    original.name: original
    for original in (
        _CLINC150,
        msgspec.structs.replace(_CLINC150, name="clinc150-multi", build=clinc150.build_multi),
        Original(
            name="sgd",
            licence="CC BY-SA 4.0",
            citation=(
                "Rastogi et al. 2020: Towards Scalable Multi-Domain Conversational Agents: "
                "The Schema-Guided Dialogue Dataset. AAAI."
            ),
            where=(
                "the GitHub repository google-research-datasets/dstc8-schema-guided-dialogue: "
                "schema.json and dialogues_*.json of the folders train, dev and test"
            ),
            build=sgd.build,
        ),
        Original(
            name="mantis",
            licence="CC BY-SA (Stack Exchange)",
            citation=(
                "Penha, Balan and Hauff 2019: Introducing MANtIS: a novel Multi-Domain Information Seeking Dialogues "
                "Dataset. arXiv 1912.04639."
            ),
            where="the page of the GitHub repository Guzpenha/MANtIS: the complete JSON",
            build=mantis.build,
        ),
        Original(
            name="banking77",
            licence="CC BY 4.0",
            citation="Casanueva et al. 2020: Efficient Intent Detection with Dual Sentence Encoders. NLP for ConvAI.",
            where=(
                "the GitHub repository PolyAI-LDN/task-specific-datasets: "
                "train.csv and test.csv of the folder banking_data"
            ),
            build=banking77.build,
        ),
    )
}


def rebuild(name: str, location: str | Path, out: Path) -> tuple[Path, ...]:
    """Write `out/<split>/<name>.jsonl.gz` for every split, and the policy set; return the paths written.

    `location` is a file, a folder, a .zip or .tar.gz, or the http(s) address of one. Nothing is written if anything is
    wrong with the original. Raises DataError.
    """
    original = ORIGINALS.get(name)
    if original is None:
        raise refused(name, "is no original that can be rebuilt", f"there are {', '.join(ORIGINALS)}")
    with fetched(location) as place:
        rebuilt = original.build(place)
        if not any(rebuilt.splits.values()):
            raise refused(place, "holds no conversation", f"get {original.where}")
    written: list[Path] = []
    try:
        for split, examples in rebuilt.splits.items():
            if examples:
                written.append(out / split / f"{name}.jsonl.gz")
                dataset.dump(written[-1], examples)
        written.append(out / "policies" / f"{rebuilt.taxonomy.name}.json")
        dataset.dump_policies(written[-1].parent, rebuilt.taxonomy)
    except OSError as error:
        raise refused(written[-1], f"cannot be written: {error.strerror}", "give another folder") from None
    return tuple(written)
