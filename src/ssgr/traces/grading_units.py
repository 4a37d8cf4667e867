"""Units, currencies and times of day behind an answer: which are the same, and which are not."""

import re

_ALIASES = {
    "mm": "mm millimeter millimetre",
    "cm": "cm centimeter centimetre",
    "m": "m meter metre",
    "km": "km kilometer kilometre",
    "in": "in inch inches",
    "ft": "ft foot feet",
    "yd": "yd yard",
    "mi": "mi mile",
    "g": "g gm gram gramme",
    "kg": "kg kilogram",
    "lb": "lb lbs pound",
    "oz": "oz ounce",
    "s": "s sec second",
    "min": "min minute",
    "h": "h hr hour",
    "day": "day",
    "week": "week",
    "month": "month",
    "year": "year yr",
    "mph": "mph",
    "ml": "ml milliliter millilitre",
    "l": "l liter litre",
    "gal": "gal gallon",
    "degree": "degree deg",
    "percent": "percent",
    "dollar": "dollar usd",
    "cent": "cent",
    "euro": "euro eur",
    "am": "am",
    "pm": "pm",
}
_NAMES = {alias: name for name, aliases in _ALIASES.items() for alias in aliases.split()}
_NAMES |= {"miles per hour": "mph"}
_POWERS = {"square": "^2", "sq": "^2", "squared": "^2", "cubic": "^3", "cubed": "^3", "^2": "^2", "^3": "^3"}


def known_unit(text: str) -> str | None:
    """The name of the unit that the words write, such as `cm^2` for `square centimeters`; None for any other words."""
    words = re.findall(r"[a-z]+|\^[23]", text.lower().replace(".", ""))
    power = "".join(_POWERS[word] for word in words if word in _POWERS)
    words = [word for word in words if word not in _POWERS]
    unit = " ".join(words)
    name = _NAMES.get(unit) or _NAMES.get(unit.removesuffix("s"))
    return name + power if name else None


def units_agree(left: str | None, right: str | None) -> bool:
    """False where both are known and are two; an answer may leave its unit out, and other words say nothing."""
    left, right = known_unit(left or ""), known_unit(right or "")
    return left is None or right is None or left == right
