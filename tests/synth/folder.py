"""A small corpus folder, written by hand, for tests."""

import random
from pathlib import Path

DOMAINS = {
    "legal": ("review", "draft", "rights"),
    "writing": ("mail", "report"),
    "cooking": ("recipe", "plan"),
    "travel": ("visa", "packing"),
}

_WORDS = """
    harbour ledger violin glacier turbine orchard parcel lantern nephew quarry saddle thermos umbrella walnut zeppelin
    anchor basil copper dragonfly engine falcon gravel hinge igloo jacket kettle lemon mirror needle ostrich pepper
    quilt ribbon sailor tulip urchin velvet whistle yeast zebra almond bridge candle donkey easel fountain goblet
""".split()  # noqa: SIM905


def make(folder: Path) -> Path:
    """Write taxonomy, items, two sets and a split that holds travel and legal.rights out."""
    for name in ("taxonomy", "written", "sets"):
        (folder / name).mkdir(parents=True)
    for domain, actions in DOMAINS.items():
        (folder / "taxonomy" / f"{domain}.yaml").write_text(_taxonomy(domain, actions))
        (folder / "written" / f"{domain}.txt").write_text(_written(domain, actions))
    (folder / "sets" / "firm.yaml").write_text(
        "set: firm\nabout: Lawyers\npolicies:\n"
        "  read_it: {description: Read a contract for us, covers: [legal.review]}\n"
        "  write_it: {description: Draft a contract, covers: [legal.draft]}\n"
        "  mails: {description: Mails to clients, covers: [writing.mail]}\n"
        "unsure: [writing.report, legal.rights]\noutside: [cooking]\n"
    )
    (folder / "sets" / "home.yaml").write_text(
        "set: home\nabout: A family\npolicies:\n"
        "  kitchen: {description: Anything about food, covers: [cooking]}\n"
        "  journeys: {description: Journeys, covers: [travel]}\n"
        "  paperwork: {description: Letters and law, covers: [legal, writing]}\n"
    )
    (folder / "split.yaml").write_text("domains: [travel]\nactions: [legal.rights]\nsets: [home]\n")
    (folder / "sources.yaml").write_text("written: CC0-1.0\ntaxonomy: CC0-1.0\nsets: CC0-1.0\n")
    return folder


def _taxonomy(domain: str, actions: tuple[str, ...]) -> str:
    def hands(id: str, indent: str) -> str:
        return "".join(
            f"{indent}{hand}: {text}\n"
            for hand, text in {
                "names": f"[{id.replace('.', '_')}_desk, the_{id.rpartition('.')[2]}]",
                "noun": f"Matters of {id.replace('.', ' ')}",
                "terse": f"Desk of {id.replace('.', ' ')}",
                "imperative": f"Help people with {id.replace('.', ' ')}",
                "wordy": f"Whatever somebody wants to know or to have done about {id.replace('.', ' ')}",
                "except": f"All of {id.replace('.', ' ')} but not its neighbours",
            }.items()
        )

    text = f"domain: {domain}\n{hands(domain, '')}actions:\n"
    return text + "".join(f"  {action}:\n{hands(f'{domain}.{action}', '    ')}" for action in actions)


def _written(domain: str, actions: tuple[str, ...]) -> str:
    """Seven requests and a conversation for each action, of words that mean nothing together."""
    rng = random.Random(domain)

    def said(*known: str) -> str:
        return " ".join([*known, *rng.sample(_WORDS, 9)])

    text = ""
    for number, action in enumerate(actions):
        for _ in range(7):
            text += f"%% request {action} en command\n{said('do', action, domain)}\n\n"
        text += (
            f"%% conversation en\n%% user {action}\n{said('say', action, domain)}\n%% assistant\n{said()}\n"
            f"%% user {action} history\nand the other one?\n%% assistant\n{said()}\n"
            f"%% user {actions[number - 1]}\n{said('now', actions[number - 1])}\n%% assistant\n{said()}\n"
            f"%% user - closing\nthanks, bye\n\n"
        )
    return text
