"""One cell, from problems to result.json: the one place that sees every room, stage after stage."""

import traceback

from ssgr import results, tracking
from ssgr.cache import locked
from ssgr.cell import Cell, describe
from ssgr.config import Config
from ssgr.errors import CellError, UserError
from ssgr.progress import say
from ssgr.results import Clock, Outcome


def run(config: Config) -> Outcome:
    """Runs or skips one cell. What goes wrong is part of the outcome, so that a sweep goes on."""
    clock, cell = Clock(), None
    try:
        cell = describe(config)
        return run_cell(cell, clock)
    except UserError as error:
        return results.outcome("refused", cell, str(error))
    except Exception as error:
        if not isinstance(error, CellError):  # a bug of ours, or of a library: one line would not do
            say(traceback.format_exc())
        line = results.write_failure(cell, clock.stage, error)
        return results.outcome("failed", cell, f"{clock.stage}: {line}")


def run_cell(cell: Cell, clock: Clock) -> Outcome:
    """Every stage of one cell. Raises UserError before its folder is touched, CellError where a stage cannot go on."""
    if outcome := results.dry_run(cell) or results.finished_before(cell):
        return outcome

    # Torch, transformers and lm-eval take seconds to import: only here is it sure that they are needed.
    from ssgr import report, stages

    subject = stages.load(cell)
    try:
        # What other cells can reuse comes first: it lies in the cache, and may still find that the input is bad.
        calibration = stages.calibrate(cell, subject, clock)
        before = stages.evaluate_dense(cell, subject, clock)
        with locked(results.lock_path(cell)):
            if outcome := results.finished_meanwhile(cell):
                return outcome
            results.open_folder(cell, calibration)
            with tracking.start(cell) as tracker:
                tracker.log_selection(calibration)
                pruning = stages.prune(cell, subject, calibration, tracker, clock)
                after = stages.evaluate_pruned(cell, subject, before, clock)
                stages.save_checkpoint(cell, subject)
                results.write_artefacts(cell, after.samples, after.divergence, pruning)
                result = results.write_result(
                    cell, subject.summary(), calibration, pruning, after.metrics, before.metrics, clock
                )
                tracker.log_result(result, after.samples)
            results.close_folder(cell)
    finally:
        subject.engine.close()
    report.closing(cell, subject, result, before, after)
    return results.outcome("finished", cell, result=result)
