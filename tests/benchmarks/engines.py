"""Do vLLM and the hf engine generate the same greedy tokens, and how fast is each? Needs a CUDA device.

    python tests/benchmarks/engines.py                                      # the bundled model
    python tests/benchmarks/engines.py model=hub model.path=DIR problems=math_train problems.path=FILE

Arguments are ssgr's own overrides. A pair of completions agrees where all tokens are equal, or where at the first
difference the two best logits of the model, computed in fp32, lie within 0.1 of each other: such a choice is decided
by rounding. Prints a table and the undecided cases, and writes JSON with --out FILE.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from ssgr import composition, stages
from ssgr.cell import describe
from ssgr.engines.base import ENGINES, Sampling
from ssgr.engines.vllm import close_server

NEAR = 0.1  # between the two best logits


def main() -> None:
    given = arguments(__doc__, problems=200, sampled=0)
    cell = describe(composed(["engine=vllm", "pruner=magnitude", *given.overrides]))
    subject = stages.load(cell)
    problems = cell.problems[: given.problems]
    prompts = [subject.template.prompt_ids(problem.question) for problem in problems]
    hf_options = composed(["engine=hf", *(word for word in given.overrides if not word.startswith("engine."))]).engine
    engines = {"vllm": subject.engine, "hf": ENGINES.get("hf")(hf_options, subject.loaded)}
    found, completions = {}, {}
    for name, engine in engines.items():
        engine.generate(prompts[:2], [0, 0], Sampling(0.0, 1.0, 4))  # starting and compiling are not generating
        completions[name], found[name] = timed(engine, prompts, Sampling(0.0, 1.0, given.tokens))
        if given.sampled:
            more = (prompts * (given.sampled // len(prompts) + 1))[: given.sampled]
            _, found[f"{name} sampled"] = timed(engine, more, Sampling(0.8, 0.95, given.tokens))
    found["agreement"] = agreement(subject.loaded, prompts, completions["vllm"], completions["hf"])
    close_server()
    show(found)
    if given.out:
        given.out.write_text(json.dumps(found, indent=2) + "\n")


def arguments(description: str, problems: int, sampled: int) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="ssgr's own, such as model=hub model.path=DIR")
    parser.add_argument("--problems", type=int, default=problems)
    parser.add_argument("--tokens", type=int, default=512, help="largest number of new tokens")
    parser.add_argument("--sampled", type=int, default=sampled, help="sample so many completions at T 0.8; 0: none")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def composed(overrides: list[str]):
    from hydra import compose, initialize_config_dir

    composition.register()
    with initialize_config_dir(str(composition.folder("conf")), version_base="1.3"):
        return composition.as_object(compose("config", overrides))


def timed(engine, prompts, sampling):
    torch.cuda.synchronize()
    started = time.perf_counter()
    made = engine.generate(prompts, list(range(len(prompts))), sampling)
    seconds = time.perf_counter() - started
    tokens = sum(len(generation.output_ids) for generation in made)
    return made, {"seconds": seconds, "tokens": tokens, "tokens_per_second": tokens / seconds, "rows": len(made)}


def agreement(loaded, prompts, ours, theirs):
    """Counts: equal throughout, differing at a near tie, differing for real; and the gaps of the differences."""
    equal, gaps = 0, []
    for prompt, one, two in zip(prompts, ours, theirs, strict=True):
        if one.output_ids == two.output_ids:
            equal += 1
            continue
        pairs = zip(one.output_ids, two.output_ids, strict=False)
        at = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one.output_ids), len(two.output_ids)))
        gaps.append(gap(loaded, [*prompt, *one.output_ids[:at]]))
    near = sum(found <= NEAR for found in gaps)
    return {"problems": len(prompts), "equal": equal, "near_ties": near, "different": len(gaps) - near, "gaps": gaps}


def gap(loaded, ids):
    """Between the two best logits of the next token, in fp32: weights are exact, sums are not rounded to bf16."""
    import copy

    if not hasattr(loaded, "exact"):
        loaded.exact = copy.deepcopy(loaded.model).float()
    with torch.inference_mode():
        logits = loaded.exact(torch.tensor([ids], device=loaded.device), logits_to_keep=1).logits[0, -1]
    best = logits.topk(2).values
    return float(best[0] - best[1])


def show(found):
    table = Table("", "rows", "tokens", "seconds", "tokens/s")
    for name, row in found.items():
        if name != "agreement":
            numbers = (row["rows"], row["tokens"], f"{row['seconds']:.1f}", f"{row['tokens_per_second']:,.0f}")
            table.add_row(name, *map(str, numbers))
    Console().print(table)
    both = found["agreement"]
    print(f"of {both['problems']} greedy completions {both['equal']} are equal, {both['near_ties']} differ first at a")
    print(f"near tie (two best fp32 logits within {NEAR}), {both['different']} differ: {both['gaps']}")


if __name__ == "__main__":
    main()
