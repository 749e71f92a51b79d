"""The Schema-Guided Dialogue data: conversations with one or several services; the active intent is the policy.

Intents that a user cannot tell apart share a policy: the same intent of several providers (`Hotels_1`, `Hotels_4`), and
every search for films. A service that is not known here brings its own description, from `schema.json`.

The label of a user turn is the active intent of the frame that has just announced or accepted an intent, else of the
frame being acted on. Turns that only thank, refuse or say goodbye are closing, though the state still says an intent.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from pointsman.dataset import Example, Label, PolicyEntry, PolicySetFile
from pointsman.errors import DataError, Problem
from pointsman.evals.originals.original import Rebuilt, below, read_json, refuse, refused, shipped, tidy

_SPLITS = ("train", "dev", "test")
_MEND = "get the present state of google-research-datasets/dstc8-schema-guided-dialogue"

# By the service's name without its number. Services_1 to 4 are four trades, and stand with theirs.
_POLICIES = {
    ("Alarm", "GetAlarms"): "alarms.list",
    ("Alarm", "AddAlarm"): "alarms.set",
    ("Banks", "CheckBalance"): "banking.check_balance",
    ("Banks", "TransferMoney"): "banking.transfer_money",
    ("Buses", "FindBus"): "buses.find",
    ("Buses", "BuyBusTicket"): "buses.buy_ticket",
    ("Calendar", "GetEvents"): "calendar.events",
    ("Calendar", "GetAvailableTime"): "calendar.free_time",
    ("Calendar", "AddEvent"): "calendar.add_event",
    ("Events", "FindEvents"): "events.find",
    ("Events", "GetEventDates"): "events.dates",
    ("Events", "BuyEventTickets"): "events.buy_tickets",
    ("Flights", "SearchOnewayFlight"): "flights.search_oneway",
    ("Flights", "SearchRoundtripFlights"): "flights.search_roundtrip",
    ("Flights", "ReserveOnewayFlight"): "flights.reserve_oneway",
    ("Flights", "ReserveRoundtripFlights"): "flights.reserve_roundtrip",
    ("Homes", "FindApartment"): "homes.find",
    ("Homes", "FindHomeByArea"): "homes.find",
    ("Homes", "ScheduleVisit"): "homes.schedule_visit",
    ("Hotels", "SearchHotel"): "hotels.search",
    ("Hotels", "ReserveHotel"): "hotels.reserve",
    ("Hotels", "SearchHouse"): "hotels.search_house",
    ("Hotels", "BookHouse"): "hotels.book_house",
    ("Media", "FindMovies"): "movies.find",
    ("Media", "PlayMovie"): "movies.play",
    ("Media", "RentMovie"): "movies.rent",
    ("Messaging", "ShareLocation"): "messages.share_location",
    ("Movies", "FindMovies"): "movies.find",
    ("Movies", "GetTimesForMovie"): "movies.showtimes",
    ("Movies", "BuyMovieTickets"): "movies.buy_tickets",
    ("Music", "LookupSong"): "music.find_song",
    ("Music", "LookupMusic"): "music.find_song",
    ("Music", "PlaySong"): "music.play_song",
    ("Music", "PlayMedia"): "music.play_song",
    ("Payment", "MakePayment"): "payments.send",
    ("Payment", "RequestPayment"): "payments.request",
    ("RentalCars", "GetCarsAvailable"): "car_rental.search",
    ("RentalCars", "ReserveCar"): "car_rental.reserve",
    ("Restaurants", "FindRestaurants"): "restaurants.find",
    ("Restaurants", "ReserveRestaurant"): "restaurants.reserve",
    ("RideSharing", "GetRide"): "rides.book",
    ("Services_1", "FindProvider"): "salon.find",
    ("Services_1", "BookAppointment"): "salon.book",
    ("Services_2", "FindProvider"): "dentist.find",
    ("Services_2", "BookAppointment"): "dentist.book",
    ("Services_3", "FindProvider"): "doctor.find",
    ("Services_3", "BookAppointment"): "doctor.book",
    ("Services_4", "FindProvider"): "therapist.find",
    ("Services_4", "BookAppointment"): "therapist.book",
    ("Trains", "FindTrains"): "trains.find",
    ("Trains", "GetTrainTickets"): "trains.buy_tickets",
    ("Travel", "FindAttractions"): "attractions.find",
    ("Weather", "GetWeather"): "weather.forecast",
}

_ANNOUNCES = {"INFORM_INTENT", "AFFIRM_INTENT"}
_CLOSES = {"THANK_YOU", "GOODBYE", "NEGATE", "NEGATE_INTENT"}
_NO_INTENT = {"NONE", ""}


class _Action(msgspec.Struct, frozen=True):
    act: str


class _State(msgspec.Struct, frozen=True):
    active_intent: str = "NONE"


class _Frame(msgspec.Struct, frozen=True):
    service: str
    actions: list[_Action] | None = None
    state: _State | None = None

    @property
    def acts(self) -> set[str]:
        return {action.act for action in self.actions or ()}


class _Turn(msgspec.Struct, frozen=True):
    speaker: Literal["USER", "SYSTEM"]
    utterance: str
    frames: list[_Frame] = []


class _Dialogue(msgspec.Struct, frozen=True):
    dialogue_id: str
    turns: list[_Turn]


class _Intent(msgspec.Struct, frozen=True):
    name: str
    description: str = ""


class _Service(msgspec.Struct, frozen=True):
    service_name: str
    description: str = ""
    intents: list[_Intent] = []


def build(location: Path) -> Rebuilt:
    """Those of `train`, `dev` and `test` that the folder has."""
    root = _root(location)
    intents = _Intents(shipped("sgd"))
    problems: list[Problem] = []
    splits: dict[str, tuple[Example, ...]] = {}
    for split in _SPLITS:
        files = sorted((root / split).glob("dialogues_*.json"))
        if not files:
            continue
        try:
            intents.enter(root / split / "schema.json")
            splits[split] = _split(split, files, intents, problems)
        except DataError as error:
            problems.extend(error.problems)
    if problems:
        refuse(problems)
    return Rebuilt(taxonomy=intents.taxonomy, splits=splits)


def _root(location: Path) -> Path:
    """The folder of the splits: this one, or the nearest below."""
    if not location.is_dir():
        raise refused(location, "is no folder", f"{_MEND}, and give its folder")
    for file in below(location, "dialogues_*.json"):
        if file.parent.name in _SPLITS and file.parent != location:
            return file.parent.parent
    raise refused(location, "holds no train, dev or test folder with dialogues_*.json", f"{_MEND}, and give its folder")


def _split(split: str, files: Sequence[Path], intents: _Intents, problems: list[Problem]) -> tuple[Example, ...]:
    made: dict[str, Example] = {}
    for file in files:
        for at, dialogue in enumerate(read_json(file, list[_Dialogue], _MEND)):
            try:
                example = _example(split, dialogue, intents)
            except _BadDialogueError as error:
                place = Problem(path=f"[{at}]{error.path}", message=error.message, mend=_MEND, file=str(file))
                problems.append(place)
                continue
            if example.id in made:
                message = f"{dialogue.dialogue_id!r} is another conversation's too"
                problems.append(Problem(path=f"[{at}].dialogue_id", message=message, mend=_MEND, file=str(file)))
            elif example.turns:
                made[example.id] = example
    return tuple(made.values())


class _BadDialogueError(Exception):
    def __init__(self, path: str, message: str) -> None:
        self.path, self.message = path, message
        super().__init__(message)


def _example(split: str, dialogue: _Dialogue, intents: _Intents) -> Example:
    turns: list[Label] = []
    policy: str | None = None
    for at, turn in enumerate(dialogue.turns):
        if turn.speaker != "USER":
            continue
        if turn.frames and all(frame.actions is None for frame in turn.frames):
            raise _BadDialogueError(f".turns[{at}].frames", "have no actions, as in the data's first releases")
        acts = {act for frame in turn.frames for act in frame.acts}
        if acts and acts <= _CLOSES:
            turns.append(Label(index=at, policy=None, closing=True))
            continue
        policy = _policy(turn, at, intents) or policy
        turns.append(Label(index=at, policy=policy))
    return Example(
        id=f"sgd-{split}-{dialogue.dialogue_id}",
        source="sgd",
        policies=intents.name,
        messages=tuple(
            {"role": "user" if turn.speaker == "USER" else "assistant", "content": tidy(turn.utterance)}
            for turn in dialogue.turns
        ),
        turns=tuple(turns),
    )


def _policy(turn: _Turn, at: int, intents: _Intents) -> str | None:
    """The policy of a turn that does not close. None if no intent is active: what was asked before goes on."""
    announcing = [frame for frame in turn.frames if frame.acts & _ANNOUNCES]
    acted_on = [frame for frame in turn.frames if frame.acts - _CLOSES]
    for frame in [*announcing, *acted_on]:
        if frame.state and frame.state.active_intent not in _NO_INTENT:
            policy = intents.policy(frame.service, frame.state.active_intent)
            if policy is None:
                message = f"{frame.state.active_intent!r} of {frame.service!r} is in no schema.json"
                raise _BadDialogueError(f".turns[{at}]", message)
            return policy
    return None


# Intents --------------------------------------------------------------------------------------------------------------


class _Intents:
    """From a service's intent to a policy. Grows by the intents that are only in a `schema.json`."""

    def __init__(self, known: PolicySetFile) -> None:
        self.name = known.name
        self._policies = {entry.name: entry for entry in known.policies}
        self._domains = {entry.name: entry for entry in known.domains}
        self._schema: dict[tuple[str, str], tuple[_Service, _Intent]] = {}

    @property
    def taxonomy(self) -> PolicySetFile:
        """The whole set that is shipped, whichever splits there are, so that figures compare; then what was met."""
        return PolicySetFile(
            name=self.name, policies=tuple(self._policies.values()), domains=tuple(self._domains.values())
        )

    def enter(self, file: Path) -> None:
        """Learn of a split's services. Without a schema, the intents that are known here can still be had."""
        if file.exists():
            for service in read_json(file, list[_Service], _MEND):
                for intent in service.intents:
                    self._schema[service.service_name, intent.name] = (service, intent)

    def policy(self, service: str, intent: str) -> str | None:
        family = re.sub(r"_\d+$", "", service)
        known = _POLICIES.get((service, intent)) or _POLICIES.get((family, intent))
        if known or (service, intent) not in self._schema:
            return known
        domain, action = _snake(family), _snake(intent)
        if not (domain and action):
            return None
        described, wanted = self._schema[service, intent]
        name = f"{domain}.{action}"
        if name not in self._policies:
            said = tidy(wanted.description) or action.replace("_", " ")
            self._policies[name] = PolicyEntry(name=name, description=said)
        if domain not in self._domains:
            said = tidy(described.description) or domain.replace("_", " ")
            self._domains[domain] = PolicyEntry(name=domain, description=said)
        return name


def _snake(name: str) -> str:
    """`FindARide` as `find_a_ride`."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name)
    return re.sub(r"[^a-z0-9]+", "_", spaced.lower()).strip("_")
