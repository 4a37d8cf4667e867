"""One cell, from problems to result.json: the one place that sees every room, stage after stage."""

import traceback

from ssgr import results, resume, tracking
from ssgr.cell import Cell
from ssgr.errors import CellError, UserError
from ssgr.progress import say
from ssgr.results import Clock
from ssgr.resume import Outcome


def run(cell: Cell, wait: bool = True) -> Outcome:
    """Runs or skips one cell. What goes wrong is part of the outcome, so that a sweep goes on.

    Where another process works on the same cell: waits for it, or with wait=False says that it is busy.
    """
    clock = Clock()
    try:
        return run_cell(cell, clock, wait)
    except UserError as error:
        return resume.outcome("refused", cell, str(error))
    except resume.Busy:
        return resume.outcome("busy", cell)
    except Exception as error:
        if not isinstance(error, CellError | OSError):  # a bug of ours, or of a library: one line would not do
            say(traceback.format_exc())
        line = results.write_failure(cell, clock.stage, error)
        return resume.outcome("failed", cell, f"{clock.stage}: {line}")


def run_cell(cell: Cell, clock: Clock, wait: bool) -> Outcome:
    """Every stage of one cell. Raises UserError before its folder is touched, CellError where a stage cannot go on."""
    if cell.config.dry_run:
        return resume.planned(cell)
    if outcome := resume.finished_before(cell):
        tracking.catch_up(cell)
        return outcome
    if not wait:
        resume.refuse_busy(cell)

    # Torch, transformers and lm-eval take seconds to import: only here is it sure that they are needed.
    from ssgr import report, stages

    subject = stages.load(cell)
    try:
        # What other cells can reuse comes first: it lies in the cache, and may still find that the input is bad.
        calibration = stages.calibrate(cell, subject, clock)
        before = stages.evaluate_dense(cell, subject, clock)
        with resume.claimed(cell, wait):
            if outcome := resume.finished_meanwhile(cell):
                return outcome
            results.open_folder(cell, calibration)
            with tracking.start(cell) as tracker:
                pruning = stages.prune(cell, subject, calibration, tracker, clock)
                after = stages.evaluate_pruned(cell, subject, before, clock)
                result = results.conclude(cell, subject.summary(), calibration, pruning, after.metrics, before.metrics)
                stages.save_checkpoint(cell, subject, result)
                results.write_artefacts(cell, after.samples, after.divergence, pruning)
                result = results.write_result(cell, result, clock)
                tracker.log_finished(cell.folder)
            results.close_folder(cell)
    finally:
        subject.engine.close()
    report.closing(cell, subject, result, before, after)
    return resume.outcome("finished", cell, result=result)
