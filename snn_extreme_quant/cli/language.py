"""``sxq generate`` and ``sxq lm-eval``: text from a SpikeGPT, and how well one predicts a text."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from snn_extreme_quant.data.growing_text import GrowingText
from snn_extreme_quant.errors import CheckpointError, ConfigError

from .classify import Native
from .output import AsJson, print_json, print_table
from .streams import note, quiet_onnxruntime, to_stderr

if TYPE_CHECKING:
    from snn_extreme_quant.data import TextTokens
    from snn_extreme_quant.models import SpikeGPT
    from snn_extreme_quant.training.run_folder import RunFolder

#: What ``sxq generate`` goes on with where nothing is named.
DEFAULT_MODEL = "tinyshakespeare-ternary"

__all__ = [
    "DEFAULT_MODEL",
    "generate",
    "language_folder",
    "lm_eval",
    "load_language_model",
    "run_of",
    "tokens_of",
    "told_of_texts",
]

Source = Annotated[
    Path,
    typer.Argument(metavar="MODEL", help="A shipped model, a folder of sxq train or sxq pack, or an exported file."),
]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads; all by default.")]


def generate(
    model: Source = Path(DEFAULT_MODEL),
    *,
    prompt: Annotated[str, typer.Option(help="What the text begins with.")] = "\n",
    tokens: Annotated[int, typer.Option("--tokens", "-n", min=1, help="How many to make.")] = 200,
    temperature: Annotated[float, typer.Option(help="0: the likeliest token.")] = 0.8,
    top_p: Annotated[float, typer.Option(help="Draw among the likeliest of this probability.")] = 0.95,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same text.")] = 0,
    threads: Threads = None,
    native: Annotated[Native, typer.Option(help="Native kernels for a file; 'auto' compiles nothing.")] = Native.auto,
    as_json: AsJson = False,
) -> None:
    """Go on with a text, token by token."""
    if not prompt:
        raise ConfigError("--prompt is empty; give a character at least, or leave it out for a line end.")
    with ExitStack() as stack:
        with to_stderr():
            file = _exported(model)
            writer = _of_folder(model, threads, stack) if file is None else _of_file(file, threads, native)
            words, given = writer.words, writer.words.encode(prompt).tolist()
        if unknown := words.unknown(prompt):
            note("note", f"the model's text had no {unknown!r}: it reads one token for all such characters")
        chosen = writer.run(given, tokens, temperature, top_p, seed)
        started = time.perf_counter()
        made = [next(chosen)]
        prefill = time.perf_counter() - started
        shown = _Shown(words, prompt, hidden=as_json)
        shown.update(made[0])
        for token in chosen:
            made.append(token)
            shown.update(token)
    seconds = time.perf_counter() - started - prefill
    shown.end()
    rate = (len(made) - 1) / seconds if len(made) > 1 else None
    if as_json:
        print_json({
            "model": str(model), "prompt": prompt, "text": words.decode(made), "prompt_tokens": len(given),
            "tokens": len(made), "prefill_seconds": prefill, "seconds": seconds, "tokens_per_second": rate,
            "firing_rate": writer.rate(), "runtime": writer.runtime,
            "temperature": temperature, "top_p": top_p, "seed": seed,
        })  # fmt: skip
    elif rate is not None:
        note("note", f"{len(made)} tokens, {rate:.1f} a second")


def _exported(model: Path) -> Path | None:
    """Return the file that a name, folder or path means; None for a folder without one, which is torch's.

    A shipped model's name means the model, unless a folder of that name is there.
    """
    from snn_extreme_quant.models import zoo

    if not model.exists() and str(model) in zoo.names():
        if str(model) not in zoo.names("language"):
            raise ConfigError(
                f"{model} is a SpikingBERT, which labels texts (sxq classify) and makes none. SpikeGPTs that come with"
                f" the package: {', '.join(zoo.names('language'))}."
            )
        return zoo.path(str(model)) / "model.onnx"
    if not model.exists() and model.suffix != ".onnx":
        raise CheckpointError(
            f"{model} is not there; name a folder of sxq train, a file that sxq export wrote, or a model that comes"
            f" with the package: {', '.join(zoo.names('language'))}."
        )
    if model.is_dir():
        return model / "model.onnx" if (model / "model.onnx").is_file() else None
    return model if model.is_file() or model.suffix == ".onnx" else None


class _Writer(NamedTuple):
    """What makes tokens: the model in torch, or its file."""

    words: TextTokens
    run: Callable[[list[int], int, float, float, int], Iterator[int]]
    rate: Callable[[], float | None]
    runtime: str


def _of_folder(folder: Path, threads: int | None, stack: ExitStack) -> _Writer:
    import torch

    from snn_extreme_quant.models.gpt.generation import generate as run
    from snn_extreme_quant.training.text_figures import counted_spikes

    gpt, words = load_language_model(folder, threads)
    spikes = stack.enter_context(counted_spikes(gpt))
    return _Writer(words, partial(run, gpt), lambda: spikes.rate, f"torch {torch.__version__}")


def _of_file(path: Path, threads: int | None, native: Native) -> _Writer:
    file = _opened(path, threads, native)
    return _Writer(file.tokens, file.generate, lambda: None, file.runtime)


def _opened(path: Path, threads: int | None, native: Native) -> Any:
    """Open a file that says what its tokens are."""
    from snn_extreme_quant.deploy.language.running import GptFile
    from snn_extreme_quant.deploy.runtime.native import native_ready

    quiet_onnxruntime()
    wanted = native_ready() if native is Native.auto else native is Native.yes
    file = GptFile(path, native=wanted, threads=threads)
    if file.tokens is None:
        raise ConfigError(
            f"{path} does not say what a token is; export it from a folder of sxq train, with sxq export."
        )
    return file


def lm_eval(
    model: Source,
    text: Annotated[Path, typer.Argument(metavar="TEXT", help="A file in UTF-8, or .gz of one.")],
    streams: Annotated[int, typer.Option(min=1, help="Parts of the text side by side, each from the start.")] = 16,
    last: Annotated[float, typer.Option(metavar="PART", help="Only the last part of the text, such as 0.1.")] = 1.0,
    threads: Threads = None,
    native: Annotated[Native, typer.Option(help="Native kernels for a file; 'auto' compiles nothing.")] = Native.auto,
    as_json: AsJson = False,
) -> None:
    """Measure how well a SpikeGPT, in torch or as a file, predicts a text: bits per character, perplexity."""
    if not 0.0 < last <= 1.0:
        raise ConfigError(f"--last {last}: use a part of the text, from above 0 to 1.")
    with to_stderr():
        from snn_extreme_quant.data import read_document

        file = _exported(model)
        measured = _by_torch(model, threads) if file is None else _by_file(file, threads, native)
        document = read_document(text)
        started = time.perf_counter()
        figures = measured(document[round(len(document) * (1.0 - last)) :], streams)
        seconds = time.perf_counter() - started
    counted = int(figures.pop("tokens"))
    if as_json:
        rates = {"firing_rate": None, **figures}
        print_json({"model": str(model), "tokens": counted, "streams": streams, "seconds": seconds, **rates})
        return
    rows = [(name.replace("_", " "), f"{value:.4f}") for name, value in figures.items()]
    print_table(("figure", "value"), [*rows, ("tokens", str(counted)), ("seconds", f"{seconds:.1f}")])


def _by_torch(model: Path, threads: int | None) -> Callable[[str, int], dict[str, float]]:
    from snn_extreme_quant.training.text_figures import text_figures

    return partial(text_figures, *load_language_model(model, threads))


def _by_file(path: Path, threads: int | None, native: Native) -> Callable[[str, int], dict[str, float]]:
    from snn_extreme_quant.deploy.language.measuring import file_figures

    return partial(file_figures, _opened(path, threads, native))


def language_folder(folder: Path) -> Path | None:
    """Return where in a folder of ``sxq train`` or ``save_pretrained`` a SpikeGPT is; None if it is none."""
    for place in (folder, folder / "best", folder / "last"):
        if (place / "config.json").is_file():
            named = '"snn_extreme_quant.spike_gpt"' in (place / "config.json").read_text(errors="replace")
            return place if named else None
    return None


def tokens_of(folder: Path) -> TextTokens | None:
    """Return what the tokens of a model's folder are; None if it does not say."""
    from snn_extreme_quant.data import TextTokens

    return TextTokens.load(folder) if (folder / "tokens.json").is_file() else None


def run_of(folder: Path) -> RunFolder | None:
    """Return the run that a model's folder is of; None if it is of none."""
    from snn_extreme_quant.training.run_folder import read_run

    return read_run(folder.parent, folder.name) if folder.name in ("best", "last") else None


def told_of_texts(folder: Path) -> dict[str, Any]:
    """Return what the run of a classifier's folder tells of its texts: names of the labels, and the longest text."""
    from snn_extreme_quant.data.tasks import LABEL_NAMES

    run = run_of(folder)
    if run is None:
        return {}
    return {"labels": run.task.labels or LABEL_NAMES.get(run.task.name), "max_tokens": run.max_tokens}


def load_language_model(folder: Path, threads: int | None) -> tuple[SpikeGPT, TextTokens]:
    """Load the model, and what its tokens are."""
    import torch

    from snn_extreme_quant.models.gpt.files import load_language_model as load

    if threads is not None:
        torch.set_num_threads(threads)
    inside = (folder, folder / "best", folder / "last")
    source = next((place for place in inside if (place / "config.json").is_file()), None)
    if source is None:
        raise CheckpointError(f"{folder} holds neither a model nor best/ or last/; name a folder of sxq train.")
    return load(source)


class _Shown:
    """Writes a text as it grows: whole characters alone, each token at the same cost."""

    def __init__(self, tokens: TextTokens, prompt: str, *, hidden: bool) -> None:
        self.text, self.hidden = GrowingText(tokens), hidden
        if not hidden:
            typer.echo(prompt, nl=False)

    def update(self, token: int) -> None:
        """Write what is new."""
        if not self.hidden:
            typer.echo(self.text.add(token), nl=False)

    def end(self) -> None:
        """Write what is left, and a line end."""
        if not self.hidden:
            typer.echo(self.text.rest())
