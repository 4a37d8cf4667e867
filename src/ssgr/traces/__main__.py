"""Trace stores from the command line.

python -m ssgr.traces list                              every store in the cache, and the one that the package ships
python -m ssgr.traces show STORE                        what it holds by pass rate and length, and the sizes of the bins
python -m ssgr.traces show STORE PROBLEM[/ROLLOUT]      one problem and one of its traces, readable
python -m ssgr.traces export STORE OUT                  SGLang's files: traces.jsonl and rac_manifest.json
python -m ssgr.traces keep STORE OUT.parquet            every outcome and the correct traces' ids in one small file
python -m ssgr.traces import FILE STORE                 a store from any of these files, from rows of traces, or a store
python -m ssgr.traces regrade STORE                     grades all traces again
python -m ssgr.traces plot STORE OUT.png                pass rate against length

STORE is a folder, the beginning of a key that `list` shows, or `bundled`.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from rich.text import Text

from ssgr.cache import cache_root, locked
from ssgr.errors import CellError, UserError
from ssgr.progress import say, track, written_or_said
from ssgr.traces.kept import KEPT
from ssgr.traces.problems import Fields, Problem
from ssgr.traces.prompts import PromptTemplate
from ssgr.traces.store import TraceStore
from ssgr.traces.stores import find_store, find_tokenizer, lock_of, stores_of, whole_view

if TYPE_CHECKING:
    from ssgr.traces.importing import Reading

NAMED = 10  # changed verdicts that are named


class Parser(argparse.ArgumentParser):
    """One line for a wrong option, not two."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (--help lists what there is)")


def parser() -> Parser:
    shape = argparse.RawDescriptionHelpFormatter
    found = Parser(prog="python -m ssgr.traces", description=__doc__, formatter_class=shape)
    commands = found.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    made = {name: commands.add_parser(name) for name in COMMANDS}
    for command in made.values():
        command.add_argument("--cache", help="the cache folder (default: $SSGR_CACHE, else ~/.cache/ssgr)")
    for name in ("show", "export", "keep", "regrade", "plot"):
        made[name].add_argument("store", metavar="STORE", help="a folder, the beginning of a key, or `bundled`")
    for name in ("show", "export", "import", "regrade"):
        made[name].add_argument("--tokenizer", type=Path, metavar="DIR", help="the folder of the traces' tokenizer")
    made["show"].add_argument("trace", nargs="?", metavar="PROBLEM[/ROLLOUT]")
    made["export"].add_argument("out", type=Path, metavar="OUT", help="a folder for traces.jsonl and rac_manifest.json")
    made["export"].add_argument("--correct", action="store_true", help="only correct traces")
    made["export"].add_argument(
        "--no-text", action="store_true", help="ids alone, without the text that they decode to"
    )
    made["keep"].add_argument("out", type=Path, metavar="OUT.parquet")
    made["plot"].add_argument("out", type=Path, metavar="OUT.png")
    _import_arguments(made["import"])
    return found


def _import_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "source", type=Path, metavar="FILE", help="jsonl, parquet, a kept file, a folder of SGLang, a store"
    )
    command.add_argument("target", type=Path, metavar="STORE", help="the folder of the new store")
    command.add_argument("--problems", type=Path, metavar="FILE", help="jsonl or parquet with questions and answers")
    command.add_argument("--question-field", default="problem", help="of --problems (default: problem)")
    command.add_argument("--answer-field", help="of --problems (default: answer, else the last box of the solution)")
    for name in ("solution", "level", "subject"):
        command.add_argument(f"--{name}-field", default=name, help=f"of --problems (default: {name})")
    command.add_argument("--think-end", metavar="TAG", help="the tag that ends the model's reasoning, such as </think>")
    command.add_argument("--instruction", help="what follows the question in a kept file's prompts (default: its own)")
    command.add_argument("--grade", action="store_true", help="grade, and say where the file's column differs")


def main(arguments: list[str] | None = None) -> int:
    """0; 1 where a store is damaged meanwhile; 2 with one line on standard error for what the user can set right."""
    try:
        options = parser().parse_args(arguments)
        COMMANDS[options.command](options, cache_root(options.cache))
        return 0
    except CellError as error:
        say(f"traces: {error}")
        return 1
    except (UserError, OSError) as error:
        say(f"traces: {error}")
        return 2
    except KeyboardInterrupt:
        say("traces: interrupted")
        return 130


def list_stores(options: argparse.Namespace, cache: Path) -> None:
    from ssgr.traces.showing import list_table

    folders = {folder.name: folder for folder in stores_of(cache)} | {"bundled": find_store("bundled", cache)}
    with track("reading stores", len(folders)) as bar:
        stores = []
        for name, folder in folders.items():
            stores.append((name, store := TraceStore.open(folder)))
            if store.damage:
                say(f"{store.damage}: what it held is left out")
            bar.advance()
    with written_or_said("the stores are as they were") as output:
        output.print(list_table(stores))


def show(options: argparse.Namespace, cache: Path) -> None:
    from ssgr.traces.showing import bins_table, problem_page, store_line
    from ssgr.traces.tables import render_table, selection_table

    store = opened(find_store(options.store, cache))
    if options.trace is not None:
        page = problem_page(store, options.trace, _template_if_any(store, options, cache))
        with written_or_said("the store is as it was") as output:
            output.print(page)
        return
    view = whole_view(store)
    with written_or_said("the store is as it was") as output:
        output.print(Text(store_line(store)))
        output.print(render_table(selection_table(view)))
        output.print(bins_table(view))


def export_store(options: argparse.Namespace, cache: Path) -> None:
    from ssgr.traces.interchange import export

    store = opened(find_store(options.store, cache))
    decode = None
    if not options.no_text:
        template = _template_if_any(store, options, cache)
        decode = template.tokenizer.decode if template else None
        if decode is None:
            say("without a tokenizer only texts that came with the traces are written (--tokenizer DIR, or --no-text)")
    made = export(store, options.out, decode, options.correct, with_text=not options.no_text)
    tokens = f"{made['num_prompt_tokens']:,} prompt and {made['num_decode_tokens']:,} generated tokens"
    print(f"{made['num_rows']:,} traces, {tokens} in {options.out}")


def keep_store(options: argparse.Namespace, cache: Path) -> None:
    from ssgr.traces.kept import keep

    out = options.out.expanduser()
    table = keep(opened(find_store(options.store, cache)), out)
    traces = len(table) - table.column("output_ids").null_count
    print(f"{len(table):,} rollouts, the ids of {traces:,} correct ones, {out.stat().st_size / 1e6:.2f} MB in {out}")


def import_store(options: argparse.Namespace, cache: Path) -> None:
    from ssgr.traces.importing import import_traces
    from ssgr.traces.verdicts import agreement_text

    source = options.source.expanduser()
    if not source.exists() and not source.suffix:
        source = find_store(str(options.source), cache)
    problems = _read_problems(options) if options.problems else None
    reading = _reading(options, source, problems, cache)
    target = options.target.expanduser()
    lock = lock_of(target)
    try:
        with locked(lock):
            found = import_traces(source, target, reading)
    finally:
        lock.unlink(missing_ok=True)  # a folder of the user's own needs none until somebody grades it again
    with written_or_said(f"the store lies in {target}") as output:
        output.print(Text(f"{found.traces:,} traces in {target}"))
        if found.graded:
            output.print(agreement_text(found.agreement))
        if (options.grade or problems) and found.unmatched:
            output.print(Text(f"{found.unmatched:,} traces of no question with a known answer stay as they came"))


def _reading(options: argparse.Namespace, source: Path, problems: dict[str, Problem] | None, cache: Path) -> "Reading":
    from ssgr.traces.importing import Reading
    from ssgr.traces.kept import INSTRUCTION, kept_manifest

    kept = kept_manifest(source)
    manifest = TraceStore.open(source).manifest if (source / "manifest.json").is_file() else kept or {}
    think_end = options.think_end or manifest.get("think_end")
    if options.grade and problems is None and not manifest:
        raise UserError("--grade needs the gold answers: name the file of the problems by --problems")
    template, folder = None, None
    if options.tokenizer is not None or (options.grade and manifest) or kept:
        instruction = options.instruction or manifest.get("instruction") or INSTRUCTION
        tokenizer = find_tokenizer(manifest, options.tokenizer, cache)
        template = PromptTemplate(tokenizer, instruction, think_end, manifest.get("enable_thinking"))
        folder = str(options.tokenizer.expanduser().resolve()) if options.tokenizer else None
    if options.grade and template is None:
        raise UserError("--grade reads texts: name the folder of the traces' tokenizer by --tokenizer")
    return Reading(problems, template, folder, think_end, options.grade)


def regrade_store(options: argparse.Namespace, cache: Path) -> None:
    from ssgr.traces.regrading import regrade
    from ssgr.traces.verdicts import changes_text

    folder = find_store(options.store, cache)
    if options.store == "bundled":
        raise UserError("STORE bundled: the package's own store is not changed; import it into a folder of your own")
    with locked(lock_of(folder)):
        store = opened(folder)
        if store.manifest.get(KEPT):
            raise UserError(
                f"STORE {options.store}: keeps the ids of its correct traces alone, so that only they could change"
            )
        found = regrade(store, _template(store, options, cache))
    with written_or_said(f"the store {folder} is graded") as output:
        output.print(Text(f"{found.traces:,} traces graded again: {len(found.changed):,} verdicts changed"))
        if found.other_answers:
            output.print(Text(f"{found.other_answers:,} answers are read otherwise, to the same verdict"))
        if found.ungraded:
            output.print(Text(f"{found.ungraded:,} traces of no question with a known answer stay as they were"))
        if found.changed:
            output.print(changes_text(found.changed, NAMED))


def plot(options: argparse.Namespace, cache: Path) -> None:
    from ssgr.traces.picture import plot_store

    store = opened(find_store(options.store, cache))
    plot_store(whole_view(store), store.manifest.get("model") or options.store, options.out.expanduser())
    print(options.out)


def opened(folder: Path) -> TraceStore:
    """The store; UserError, which names the file, where it is damaged, and where there is no trace in it."""
    store = TraceStore.open(folder)
    if store.damage or store.index.empty:
        a_part = store.damaged and store.damaged[0].parent.name == "traces"
        rest = "; without that file the rest can be read" if a_part else ""
        raise UserError(f"{store.damage}{rest}" if store.damage else f"{folder}: no trace in it")
    return store


def _template(store: TraceStore, options: argparse.Namespace, cache: Path) -> PromptTemplate:
    """What decodes the store's ids and knows where its reasoning ends; UserError where its tokenizer is not known."""
    tokenizer = find_tokenizer(store.manifest, options.tokenizer, cache)
    return PromptTemplate(tokenizer, "", store.manifest.get("think_end"), store.manifest.get("enable_thinking"))


def _template_if_any(store: TraceStore, options: argparse.Namespace, cache: Path) -> PromptTemplate | None:
    """What decodes the store's ids; None, which is said, where it does not say its tokenizer and none was named."""
    try:
        return _template(store, options, cache)
    except UserError as error:
        if options.tokenizer is not None:
            raise
        say(f"traces: {error}")
        return None


def _read_problems(options: argparse.Namespace) -> dict[str, Problem]:
    from ssgr.traces.questions import read_questions

    names = (options.question_field, options.answer_field, options.solution_field)
    return read_questions(options.problems, Fields(*names, options.level_field, options.subject_field))


COMMANDS = {
    "list": list_stores,
    "show": show,
    "export": export_store,
    "keep": keep_store,
    "import": import_store,
    "regrade": regrade_store,
    "plot": plot,
}

if __name__ == "__main__":
    sys.exit(main())
