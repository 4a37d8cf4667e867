"""Web text behind this model's own prompts, inside its own tags: the model's format without its reasoning."""

from itertools import cycle

from ssgr.cache import content_hash
from ssgr.calibration import CalibrationRequest, CalibrationSet, source
from ssgr.calibration.budget import packed_set
from ssgr.calibration.completions import completed
from ssgr.calibration.documents import data_contents, data_name, drawn_rows, texts
from ssgr.calibration.windows import MORE_FILES
from ssgr.traces.selection import draw_order


@source("c4_chat", reads=frozenset({"problems"}), completions=True, contents=data_contents)
def c4_chat(request: CalibrationRequest) -> CalibrationSet:
    """Each document as the completion of one problem's prompt: the prompts in seeded order, over again at their end."""
    template, field = request.template, request.config.text_field
    problems = request.problems()
    order = draw_order(request.seed, "problems", [problem.problem_id for problem in problems])
    questions = [problems[i].question for i in order]
    decisive = [template.hash, template.think_end, content_hash(questions)]
    with drawn_rows(request, [field], *decisive) as rows:
        pairs = zip(cycle(questions), texts(rows, field), strict=False)
        pieces = (completed(template, question, document, None) for question, document in pairs)
        what = f"the documents of {data_name(request.config)} behind prompts hold"
        built = packed_set(request.config, pieces, what, MORE_FILES)
    built.problems = min(len(built.sequences), len(problems))
    return built
