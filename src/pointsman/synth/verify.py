"""Checks of a corpus: what a reader would be embarrassed to find in it later. Each gives Findings.

Duplicates, near and exact; texts of other data sets (contamination); languages that are not what the label says;
lengths; policy names in the text; personal data and keys; licences. Meaning (does the request belong to its policy?)
is a person's to judge: corpus/review holds those verdicts. Knows no file format.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeAlias, cast

import msgspec
import numpy as np
import numpy.typing as npt

from pointsman.overlap import Foreign, words
from pointsman.synth.corpus import Corpus

Floats: TypeAlias = npt.NDArray[np.float32]

Check = Literal[
    "duplicate", "near-duplicate", "contamination", "near-contamination", "language", "length", "name-in-text",
    "personal-data", "key", "licence",
]  # fmt: skip


Severity = Literal["error", "note"]


class Text(msgspec.Struct, frozen=True, kw_only=True):
    """A user turn to be checked: where it stands, and what is claimed of it."""

    file: str
    line: int
    item: str
    text: str
    work: str | None
    language: str
    first: bool
    """It opens its conversation, so that it must stand alone."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """Something to look at. Those of severity "error" fail a check; a "note" is counted and shown."""

    check: Check
    severity: Severity
    file: str
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.severity}: {self.check}: {self.message}"


def texts(corpus: Corpus) -> list[Text]:
    """All user turns."""
    return [
        Text(
            file=f"written/{item.domain}.txt",
            line=item.line,
            item=item.id,
            text=item.text(turn),
            work=turn.work,
            language=item.language,
            first=turn is item.turns[0],
        )
        for item in corpus.items
        for turn in item.turns
    ]


# Duplicates -----------------------------------------------------------------------------------------------------------

# "and for three people?" may be said twice in fifteen thousand turns; a sentence of eight words is not.
_SAID_ONCE = 8
_SHINGLE = 4
_ALIKE = 0.4
"""Share of common shingles (Jaccard) from which on two texts tell the same."""


def duplicates(these: Sequence[Text]) -> Iterator[Finding]:
    """Turns that say the same, word for word or nearly so."""
    first: dict[tuple[str, ...], Text] = {}
    for each in these:
        said = tuple(words(each.text))
        if len(said) >= _SAID_ONCE or (each.first and each.work and len(said) > 1):
            other = first.setdefault(said, each)
            if other is not each:
                yield _found("duplicate", "error", each, f"says the same as {other.file}:{other.line}")
    # Of a short turn ("and on the way back?") no share tells anything.
    spoken = [words(each.text) for each in these]
    shingles = [_shingles(said if len(said) >= _SAID_ONCE else ()) for said in spoken]
    holders: dict[int, list[int]] = defaultdict(list)
    for at, hashes in enumerate(shingles):
        for each in hashes:
            holders[each].append(at)
    common: Counter[tuple[int, int]] = Counter()
    for at_once in holders.values():
        # A shingle that many texts have tells nothing, and its pairs are many.
        if 1 < len(at_once) <= 8:
            common.update((a, b) for i, a in enumerate(at_once) for b in at_once[i + 1 :])
    for (a, b), count in sorted(common.items()):
        share = count / len(shingles[a] | shingles[b])
        same = these[a].item == these[b].item
        if share >= _ALIKE and not same and words(these[a].text) != words(these[b].text):
            where = f"{these[a].file}:{these[a].line}"
            yield _found("near-duplicate", "error", these[b], f"{share:.0%} of it stands at {where} too")


def _shingles(said: Sequence[str]) -> frozenset[int]:
    return frozenset(hash(tuple(said[at : at + _SHINGLE])) for at in range(len(said) - _SHINGLE + 1))


# Contamination --------------------------------------------------------------------------------------------------------


def contamination(these: Sequence[Text], foreign: Mapping[str, Iterable[str]]) -> Iterator[Finding]:
    """Turns that share eight words in a row, or all of their words, with a text of the `foreign` sources."""
    others = Foreign(foreign)
    for each in these:
        found = others.find(each.text)
        if found and found.words is None:
            severity = "error" if len(words(each.text)) >= _SAID_ONCE or each.first else "note"
            yield _found("contamination", severity, each, f"is a text of {found.source}")
        elif found and found.words:
            yield _found("contamination", "error", each, f'has "{" ".join(found.words)}" of {found.source}')


# Vectors --------------------------------------------------------------------------------------------------------------

_MEANS_THE_SAME = 0.9
_FOREIGN_MEANS_THE_SAME = 0.9
# Of turns shorter than this the vector says little but their length.
_ENOUGH = 5


def near_in_meaning(these: Sequence[Text], vectors: Floats, foreign: Mapping[str, Floats]) -> Iterator[Finding]:
    """First requests whose vector is nearly that of another one, or of a foreign text. `vectors` [n, d] are theirs.

    English ones alone: of other scripts the encoder sees little but that they are others.
    """
    kept = (each.first and each.language == "en" and len(words(each.text)) >= _ENOUGH for each in these)
    long = [at for at, keep in enumerate(kept) if keep]
    own = vectors[long]
    for start in range(0, len(long), 1024):
        cosines = cast("Floats", own[start : start + 1024] @ own.T)
        rows, columns = np.nonzero(cosines >= _MEANS_THE_SAME)
        for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
            a, b = these[long[start + row]], these[long[column]]
            if start + row < column and a.item != b.item:
                said = f"means nearly the same ({float(cosines[row, column]):.2f}) as {a.file}:{a.line}"
                yield _found("near-duplicate", "note", b, said)
    for source, others in foreign.items():
        nearest = cast("Floats", own @ others.T)
        for at, cosine in zip(long, nearest.max(axis=1).tolist(), strict=True):
            if cosine >= _FOREIGN_MEANS_THE_SAME:
                said = f"means nearly the same ({cosine:.2f}) as a text of {source}"
                yield _found("near-contamination", "note", these[at], said)


# The text itself ------------------------------------------------------------------------------------------------------

_LONGEST = 6_000
_SCRIPTS = {
    "ru": "\u0400-\u04ff", "uk": "\u0400-\u04ff", "bg": "\u0400-\u04ff", "sr": "\u0400-\u04ff", "el": "\u0370-\u03ff",
    "ar": "\u0600-\u06ff", "fa": "\u0600-\u06ff", "ur": "\u0600-\u06ff", "he": "\u0590-\u05ff", "hi": "\u0900-\u097f",
    "bn": "\u0980-\u09ff", "ta": "\u0b80-\u0bff", "th": "\u0e00-\u0e7f", "ko": "\uac00-\ud7af\u1100-\u11ff",
    "ja": "\u3040-\u30ff\u4e00-\u9fff", "zh": "\u4e00-\u9fff",
}  # fmt: skip


def lengths(these: Sequence[Text]) -> Iterator[Finding]:
    """Turns that are empty or far longer than the style sheet asks for."""
    for each in these:
        if not words(each.text) and not re.search(r"\S", each.text):
            yield _found("length", "error", each, "is empty")
        elif len(each.text) > _LONGEST:
            yield _found("length", "error", each, f"has {len(each.text)} letters; {_LONGEST} are enough")


def languages(these: Sequence[Text]) -> Iterator[Finding]:
    """Turns in another script than their language's (an error), and first requests that read as another one (a note).

    Which language, is told by py3langid (the extra `pointsman[synth]`), on prose of sixty letters or more.
    """
    identify = _identifier()
    for each in these:
        prose = "\n".join(line for line in each.text.split("\n") if not re.search(r"[{}<>=;|\\]|^\s*[\d$#>]", line))
        letters = [letter for letter in prose if letter.isalpha()]
        script = _SCRIPTS.get(each.language)
        if script and each.first and not re.search(f"[{script}]", each.text):
            yield _found("language", "error", each, f"has no letter of the script of {each.language!r}")
        elif identify and each.first and len(letters) >= 60:
            told, sure = identify(prose)
            if told != each.language and sure > 0.99:
                yield _found("language", "note", each, f"is labelled {each.language!r} and reads as {told!r}")


def _identifier() -> Callable[[str], tuple[str, float]] | None:
    try:
        from py3langid import langid  # noqa: PLC0415  # pyright: ignore[reportMissingTypeStubs]
    except ImportError:
        return None
    library: Any = langid
    made = library.LanguageIdentifier.from_model_file(library.MODEL_FILE, norm_probs=True)
    return cast("Callable[[str], tuple[str, float]]", made.classify)


def names_in_text(these: Sequence[Text]) -> Iterator[Finding]:
    """First requests that hold their policy's id (an error), or all the words of an action's name of two or more."""
    for each in these:
        if each.work is None or not each.first:
            continue
        name = each.work.rpartition(".")[2]
        if re.search(rf"\b{re.escape(each.work)}\b", each.text) or (
            "_" in name and re.search(rf"\b{name}\b", each.text)
        ):
            yield _found("name-in-text", "error", each, f"holds the name of its policy, {each.work}")
        elif "_" in name and " ".join(words(name.replace("_", " "))) in " ".join(words(each.text)):
            yield _found("name-in-text", "note", each, f'says "{name.replace("_", " ")}"')


_MAIL = re.compile(r"[\w.+-]+@([\w-]+\.)+[a-z]{2,}", re.IGNORECASE)
_OURS = re.compile(
    r"(^|[.@])example\.(com|org|net|edu)$|\.(example|test|invalid|local|internal|lan|localhost)$", re.IGNORECASE
)
_PERSONAL: Mapping[str, re.Pattern[str]] = {
    "a phone number": re.compile(r"(?<![\w.])\+\d{1,3}[ -]?\(?\d{2,4}\)?(?:[ -]?\d{2,4}){2,4}(?![\w.])"),
    "a US social security number": re.compile(r"(?<![\w-])(?!000|666|9\d\d)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\w-])"),
    "an IBAN": re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3,7}(?: ?[A-Z0-9]{1,3})?\b"),
    "a card number": re.compile(r"(?<![\d-])(?:\d[ -]?){13,19}(?![\d-])"),
}
_KEYS: Mapping[str, re.Pattern[str]] = {
    "a private key": re.compile(r"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----"),
    "an API key": re.compile(
        r"\b(?:sk|pk|rk)[-_](?:live|test|proj|ant)?[-_]?[A-Za-z0-9]{20,}|\bAKIA[A-Z0-9]{16}\b|\bgh[pousr]_[A-Za-z0-9]{30,}"
        r"|\bxox[abprs]-[A-Za-z0-9-]{20,}|\bAIza[\w-]{35}\b|\bglpat-[\w-]{20}"
    ),
    "a token": re.compile(r"\beyJ[\w-]{15,}\.[\w-]{15,}\.[\w-]{10,}"),
}


def personal_data(these: Sequence[Text]) -> Iterator[Finding]:
    """What looks like a real person's address or number, or like a key to something."""
    for each in these:
        for found in _MAIL.finditer(each.text):
            if not _OURS.search(found[0]):
                yield _found("personal-data", "error", each, f"a mail address at {found[0].rpartition('@')[2]}")
        for what, pattern in _PERSONAL.items():
            if any(_real(what, found[0]) for found in pattern.finditer(each.text)):
                yield _found("personal-data", "error", each, f"holds what looks like {what}")
        for what, pattern in _KEYS.items():
            if pattern.search(each.text):
                yield _found("key", "error", each, f"holds what looks like {what}")


def _real(what: str, text: str) -> bool:
    """Whether check digits, where there are some, are right, and a phone number is not one that is kept for fiction."""
    digits = [int(digit) for digit in text if digit.isdigit()]
    if what == "a card number":
        doubled = [digit if at % 2 == 0 else digit * 2 - 9 * (digit > 4) for at, digit in enumerate(reversed(digits))]
        return len(set(digits)) > 3 and sum(doubled) % 10 == 0 and digits[0] in (3, 4, 5, 6)
    if what == "an IBAN":
        packed = re.sub(r"\s", "", text)
        moved = packed[4:] + packed[:4]
        return 15 <= len(packed) <= 34 and int("".join(str(int(letter, 36)) for letter in moved)) % 97 == 1
    if what == "a phone number":
        return "555" not in text and "0123456" not in "".join(map(str, digits)) and len(set(digits)) > 4
    return True


_FREE = frozenset({"CC0-1.0"})


def licences(sources: Mapping[str, str], files: Iterable[str]) -> Iterator[Finding]:
    """Files that no source names, and sources under another licence than the corpus's. `sources`: folder to licence."""
    for folder, licence in sources.items():
        if licence not in _FREE:
            yield Finding(
                check="licence", severity="error", file=folder, line=1, message=f"{licence} cannot be given away as CC0"
            )
    for file in files:
        if not any(file.startswith(f"{folder}/") for folder in sources):
            yield Finding(check="licence", severity="error", file=file, line=1, message="comes from no known source")


def _found(check: Check, severity: str, text: Text, message: str) -> Finding:
    return Finding(
        check=check,
        severity="error" if severity == "error" else "note",
        file=text.file,
        line=text.line,
        message=message,
    )
