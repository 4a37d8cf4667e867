"""The two ways in which a run ends early; anything else that is raised is a bug of ours."""


class UserError(Exception):
    """Bad input, found before anything was written: one line that names the option and the choices; exit status 2."""


class CellError(Exception):
    """A cell that started and cannot finish, for a reason that one line can say: failure.json, exit status 1."""


def first_line(error: BaseException) -> str:
    """What an error of any library says, as one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
