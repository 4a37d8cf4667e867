"""What prune_speed.py measured, as tables."""

from typing import Any

from rich.console import Console
from rich.table import Table

GB = 1e9
WIDE = 160
RATIOS = {"relative_error": "sinks too", "relative_error_without_sinks": "no sinks"}


def show(found: dict[str, Any]) -> None:
    """Whatever there is of it: a run that broke off has some."""
    if not found:
        return
    output = Console()
    if not output.is_terminal:  # a file has no edge at 80 columns
        output.width = WIDE
    output.print(runs(found))
    for line in comparisons(found):
        output.print(line, highlight=False)
    if any("stages" in row for row in found["runs"]):
        output.print(stages(found["runs"]))
    for part in found.get("quality", []):
        output.print(quality(part))
        for line in norms(part):
            output.print(line, highlight=False)


def runs(found: dict[str, Any]) -> Table:
    versions = ", ".join(f"{package} {number}" for package, number in found["versions"].items())
    title = f"{found['subject']} on {found['card']}: {found['blocks']} blocks, {found['prunable'] / 1e9:.3g}B prunable"
    title += f" weights; {found['tokens']:,} tokens in {found['sequences']} sequences\n{versions}"
    table = Table("", "pruner", "pattern", "seconds", "tokens/s", "peak GB", "GB before", title=title)
    for row in found["runs"]:
        part = row.get("measured_blocks", found["blocks"])
        path = row["path"] + (f" ({part} blocks, counted for all)" if part < found["blocks"] else "")
        sizes = [f"{row[key] / GB:.1f}" if row["peak_bytes"] else "" for key in ("peak_bytes", "bytes_before")]
        cells = (f"{row['seconds']:.2f}", f"{row['tokens_per_second']:,.0f}", *sizes)
        table.add_row(path, row["pruner"], row["pattern"], *cells)
    return table


def comparisons(found: dict[str, Any]) -> list[str]:
    """The ratios that the program is to keep, of what was measured."""
    seconds = {(row["path"], row["pruner"], row["pattern"]): row["seconds"] for row in found["runs"]}
    lines = []
    if "forward_seconds" in found:
        lines.append(f"one forward pass: {found['forward_seconds']:.2f} s")
    for (path, pruner, pattern), value in seconds.items():
        own = seconds.get(("ssgr", pruner, pattern))
        if path != "ssgr" and own:
            lines.append(f"{pruner} {pattern}: {path} takes {value / own:.1f} times as long as ssgr")
        elif path == "ssgr" and pruner == "wanda":
            lines.append(f"wanda {pattern}: {value / (2 * found['forward_seconds']):.2f} of two forward passes")
        elif path == "ssgr" and ":" in pattern and (path, pruner, "0.5") in seconds:
            lines.append(f"{pruner}: {pattern} takes {value / seconds[path, pruner, '0.5']:.2f} of 0.5's seconds")
    if many := found.get("many"):
        ratio = many["seconds"] / many["alone_seconds"]
        words = f"{len(many['answers'])} answers from one pass: {many['seconds']:.2f} s, {ratio:.2f} times one alone"
        lines.append(f"{words} ({' '.join(many['answers'][0])}, dense propagation: {many['alone_seconds']:.2f} s)")
    for row in found["runs"]:
        what = f"{row['path']} {row['pruner']} {row['pattern']}"
        if row.get("retried_factors"):
            lines.append(f"{what}: {len(row['retried_factors'])} factors failed at first: the JSON says which and how")
        if row.get("raised_damping"):
            lines.append(f"{what}: damping above 1 % for {', '.join(row['raised_damping'])}")
        if row.get("stages_missing"):
            lines.append(f"{what}: not timed, for they are no more: {', '.join(row['stages_missing'])}")
    return lines


def stages(rows: list[dict[str, Any]]) -> Table:
    measured = [row for row in rows if "stages" in row]
    names = list(dict.fromkeys(name for row in measured for name in row["stages"]))
    table = Table("", *names, "sum", title="seconds of the stages; of ssgr in a run of their own, which waits for each")
    for row in measured:
        cells = [f"{row['stages'][name]:.2f}" if name in row["stages"] else "" for name in names]
        total = f"{sum(row['stages'].values()):.2f}"
        table.add_row(f"{row['path']} {row['pruner']} {row['pattern']}", *cells, total)
    return table


def quality(part: dict[str, Any]) -> Table:
    title = (
        f"{part['pattern']}: relative_error of {part['blocks']} blocks, dense propagation, one fp64 Gram per linear;"
    )
    title += "\nratios to the first path's over the linears"
    heads = [f"{what},\n{name}" for name in RATIOS.values() for what in ("mean error", "mean ratio", "largest ratio")]
    table = Table("", *heads, "same fate", "sparsity", title=title)
    for path, row in part["paths"].items():
        cells = []
        for key in RATIOS:
            cells += [f"{row[key]:.6f}", f"{row[f'mean_ratio_{key}']:.5f}", f"{row[f'largest_ratio_{key}']:.5f}"]
        table.add_row(path, *cells, f"{row['mask_agreement']:.5f}", f"{row['sparsity']:.5f}")
    return table


def norms(part: dict[str, Any]) -> list[str]:
    """How far the sinks stand out at down_proj's input, where models have them."""
    rows = {row["name"]: row for row in part["linears"] if "down_proj" in row["name"]}
    if not rows:
        return []
    worst = max(rows.values(), key=lambda row: row["largest_norm"] / row["median_norm"])
    words = f"norms of the inputs of {worst['name']}: median {worst['median_norm']:.1f}"
    return [f"{words}, largest {worst['largest_norm']:.1f}"]
