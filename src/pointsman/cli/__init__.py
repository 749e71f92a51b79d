"""The command line: `pointsman demo | check | explain | route | serve | eval | synth | corpus | …`.

Exit codes: 0 fine, 1 the work found a failure, 2 bad usage or a bad policy file. Results go to stdout, the rest to
stderr. Heavy imports stand inside the commands that need them, so that `--help` answers at once.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, NoReturn, cast

import click
import msgspec

from pointsman import __version__, config
from pointsman.cli import evaluation, synthesis, training
from pointsman.config import Config
from pointsman.conversation import Conversation, read
from pointsman.decision import Decision, Reason
from pointsman.errors import PointsmanError

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

# Bad lines of a batch that are named on stderr; all of them stand in the output.
SHOWN = 20

_file = click.Path(dir_okay=True, path_type=Path)
_policy_file = click.option("-c", "--config", "path", type=_file, required=True, help="The policy file.")


class _Group(click.Group):
    """Errors of ours end a command with their text and exit code 2, without a traceback."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except PointsmanError as error:
            fail(str(error), code=2)
        except KeyboardInterrupt:
            sys.exit(130)
        except BrokenPipeError:
            # The reader of our output (`| head`) has seen enough.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(0)
        except OSError as error:
            # A full disk, most often.
            fail(f"cannot read or write {error.filename or 'the output'}: {error.strerror}", code=1)


def fail(message: str, *, code: int) -> NoReturn:
    click.echo(message, err=True)
    sys.exit(code)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="pointsman")
def main() -> None:
    """Policies in plain words decide which model does which work."""


@main.command()
@click.argument("path", metavar="FILE", type=_file)
@click.option("--no-env", is_flag=True, help="Leave ${VARIABLES} alone, for a machine that has no keys.")
def check(path: Path, *, no_env: bool) -> None:
    """Check a policy file; print every problem with its line."""
    loaded = config.load(path, env=None if no_env else os.environ)
    for warning in loaded.warnings:
        click.echo(f"warning: {warning.located(str(path))}", err=True)
    counted = f"{_count(len(loaded.policies), 'policy', 'policies')}, {_count(len(loaded.models), 'model', 'models')}"
    click.echo(f"{path}: fine ({counted}, config {loaded.digest})")


@main.command()
@_policy_file
@click.argument("text", required=False)
@click.option("--conversation", "source", type=click.File("rb"), help="A JSON file of messages; - is stdin.")
@click.option("--json", "as_json", is_flag=True, help="Print the decision as JSON.")
def explain(path: Path, text: str | None, source: IO[bytes] | None, as_json: bool) -> None:
    """Show how TEXT, or the newest user turn of a conversation, is routed: every policy's score, and why."""
    if (text is None) == (source is None):
        raise click.UsageError("give either TEXT or --conversation FILE")
    # No provider is called, so no key is needed.
    loaded = config.load(path, env=None)
    conversation = read(text) if source is None else _conversation(source)
    decision = asyncio.run(_decide(loaded, conversation))
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(decision)).decode())
        return
    from rich.console import Console  # noqa: PLC0415

    # For a file or a pipe nothing is cut off.
    Console(width=None if sys.stdout.isatty() else 240).print(_table(decision, loaded))
    click.echo(_verdict(decision))


async def _decide(loaded: Config, conversation: Conversation) -> Decision:
    from pointsman import router  # noqa: PLC0415

    async with router.build(loaded) as routing:
        return await routing.decide(conversation)


def _conversation(source: IO[bytes]) -> Conversation:
    try:
        value: object = msgspec.json.decode(source.read())
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        fail(f"{source.name}: is not valid JSON: {error}", code=2)
    except RecursionError:
        fail(f"{source.name}: is nested too deep", code=2)
    if isinstance(value, dict):
        value = cast("dict[str, object]", value).get("messages")
    if not isinstance(value, list):
        fail(f'{source.name}: holds no conversation; write [{{"role": "user", "content": "…"}}, …]', code=2)
    return read(cast("object", value))


def _table(decision: Decision, loaded: Config) -> Table:
    from rich.table import Table  # noqa: PLC0415

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("", "policy", "probability", "score", "model", "nearest example"):
        table.add_column(heading, justify="right" if heading in ("probability", "score") else "left")
    for each in sorted(decision.scores, key=lambda score: -score.probability):
        models = loaded.policies[each.policy].models or loaded.default
        chosen = each.policy == decision.policy
        cells = (
            "→" if chosen else "",
            each.policy,
            f"{each.probability:6.1%}",
            f"{each.score:.3f}",
            models[0],
            each.example or "",
        )
        table.add_row(*map(_plain, cells), style="bold" if chosen else None)
    if decision.other is not None:
        mark = "" if decision.policy else "→"
        cells = (mark, "(none of them)", f"{decision.other:6.1%}", "", loaded.default[0])
        table.add_row(*map(_plain, cells), style="dim")
    if not any(each.example for each in decision.scores):
        table.columns.pop()
    return table


def _plain(text: str) -> Text:
    """Text as it is: no markup, no control characters."""
    from rich.text import Text  # noqa: PLC0415

    return Text("".join(letter if letter.isprintable() else "\ufffd" for letter in text))


def _verdict(decision: Decision) -> str:
    if decision.reason is Reason.NO_MATCH and not decision.scores:
        return f"default (no_match: there are no words of a user to read) → {decision.model}"
    sure = "" if decision.confidence is None else f", confidence {decision.confidence:.0%}"
    name = decision.policy or "default"
    spare = f", then {', '.join(decision.fallbacks)}" if decision.fallbacks else ""
    return f"{name} ({decision.reason.value}{sure}) → {decision.model}{spare}; {decision.elapsed_ms:.1f} ms"


@main.command()
@_policy_file
@click.argument("source", metavar="[INPUT]", type=click.File("rb"), default="-")
@click.option("-o", "--output", "target", type=_file, help="Where to write; stdout if not given.")
def route(path: Path, source: IO[bytes], target: Path | None) -> None:
    """Route a batch: JSON lines in, decisions as JSON lines out.

    A line is {"messages": [...]} (an "id" is kept), a list of messages, or a text. A line that cannot be read gives
    {"error": ...} in its place, and exit code 1 in the end. Blank lines are skipped.
    """
    loaded = config.load(path, env=None)
    # Opened last, so that a mistake on the command line empties no file.
    if target and target.exists() and target.samefile(source.name if Path(source.name).exists() else os.devnull):
        raise click.UsageError("the output is the input; write to another file")
    with target.open("wb") if target else click.open_file("-", "wb") as output:
        failed = asyncio.run(_route(loaded, source, output))
    if failed:
        fail(f"{_count(failed, 'line', 'lines')} could not be read", code=1)


async def _route(loaded: Config, source: IO[bytes], output: IO[bytes]) -> int:
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import Progress  # noqa: PLC0415

    from pointsman import router  # noqa: PLC0415

    # A batch has no caller who waits: no deadline to speak of.
    patient = msgspec.structs.replace(loaded, routing=msgspec.structs.replace(loaded.routing, deadline=60.0))
    failed = 0
    async with router.build(patient) as routing:
        with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
            task = progress.add_task("routing", total=_size(source))
            for number, line in enumerate(source, 1):
                progress.advance(task, len(line))
                if not line.strip():
                    continue
                made: Mapping[str, object]
                try:
                    id, conversation = _batch_line(line)
                except ValueError as error:
                    failed += 1
                    if failed <= SHOWN:
                        click.echo(f"{source.name}:{number}: {error}", err=True)
                    made = {"line": number, "error": str(error)}
                else:
                    decided = cast("dict[str, object]", msgspec.to_builtins(await routing.decide(conversation)))
                    made = ({"id": id} if id is not None else {}) | decided
                output.write(msgspec.json.encode(made) + b"\n")
    return failed


def _batch_line(line: bytes) -> tuple[object, Conversation]:
    """The id and conversation of a line. Raises ValueError if it holds none."""
    try:
        value: object = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"is not valid JSON: {error}") from None
    except RecursionError:
        raise ValueError("is nested too deep") from None
    id: object = None
    if isinstance(value, dict):
        fields = cast("dict[str, object]", value)
        id, value = fields.get("id"), fields.get("messages")
    if not isinstance(value, list | str):
        raise ValueError('holds no conversation; write {"messages": [{"role": "user", "content": "…"}]}')
    return id, read(cast("object", value))


def _size(source: IO[bytes]) -> int | None:
    try:
        return os.fstat(source.fileno()).st_size or None
    except (OSError, ValueError):
        return None


@main.command()
@_policy_file
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8484, show_default=True, help="0: any free one.")
@click.option("--workers", type=click.IntRange(1, 256), default=1, show_default=True, help="Worker processes.")
def serve(path: Path, host: str, port: int, workers: int) -> None:
    """Serve a policy file as an OpenAI-compatible gateway.

    The file is read once; to serve another version of it, start anew. On SIGTERM open calls may go on for 30 seconds.
    """
    from pointsman.config.document import read as read_file  # noqa: PLC0415
    from pointsman.gateway import server  # noqa: PLC0415

    data = read_file(path)
    loaded = config.loads(data, env=os.environ, file=str(path))
    for warning in loaded.warnings:
        click.echo(f"warning: {warning.located(str(path))}", err=True)
    if not host:
        raise click.UsageError("--host needs an address; 0.0.0.0 is all of them")
    try:
        sock = server.listen(host, port)
    except OSError as error:
        fail(f"cannot listen on {host} port {port}: {error.strerror}; choose another with --port", code=1)
    if not loaded.gateway.keys and not host.startswith("127.") and host not in ("localhost", "::1"):
        click.echo("warning: others can reach this address and need no key; set `gateway.keys`", err=True)
    shown = f"[{host}]" if ":" in host else host
    counted = _count(len(loaded.policies), "policy", "policies")
    click.echo(f"serving {counted} on http://{shown}:{sock.getsockname()[1]}/v1 (config {loaded.digest})", err=True)
    try:
        server.serve(data, sock, workers=workers, beside=path.parent)
    except SystemExit:
        # uvicorn has an exit code of its own for this.
        fail("the gateway did not start; the log above says why", code=1)


@main.command()
@click.option("--seconds", type=float, default=60.0, hidden=True, help="Give up after this long.")
def demo(seconds: float) -> None:
    """Route real conversations through a gateway on this machine: no key, no network."""
    from pointsman import demo  # noqa: PLC0415

    try:
        asyncio.run(asyncio.wait_for(demo.run(), seconds))
    except TimeoutError:
        fail(f"the demo did not end within {seconds:g} s", code=1)


@main.command()
def schema() -> None:
    """Print the JSON Schema of a policy file, for editors."""
    click.echo(msgspec.json.format(msgspec.json.encode(config.schema()), indent=2).decode())


@main.command("import")
@click.argument("path", metavar="FILE", type=_file)
def import_(path: Path) -> None:
    """Convert a Plano or Arch gateway configuration to a policy file, on stdout.

    What has no counterpart, and what was renamed, is listed on stderr.
    """
    from pointsman.config import plano  # noqa: PLC0415
    from pointsman.config.document import read as read_file  # noqa: PLC0415

    converted = plano.convert(read_file(path), file=str(path))
    for problem in converted.dropped:
        click.echo(f"note: {problem.located(str(path))}", err=True)
    click.echo(converted.text, nl=False)


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


main.add_command(evaluation.evaluate)
main.add_command(evaluation.dataset)
main.add_command(synthesis.synth)
main.add_command(synthesis.corpus)
main.add_command(training.train)
main.add_command(training.calibrate)
