"""Configuration words as people write them: field by field, with the names of the tables instead of codes.

A value that has a name stands as this name, one without as a number. Where the names are numbers themselves (`phases`:
16), a number means the name, so that nothing is read in two ways; codes without a name are then written `code 5`.
"""

from collections.abc import Mapping
from typing import Final, TypeVar

from ophyd_timepix.protocol.chip_config import ConfigWord
from ophyd_timepix.protocol.fields import NamedField

Word = TypeVar("Word", bound=ConfigWord)

_CODE: Final = "code "


def value_text(field: NamedField, value: int) -> int | str:
    """What stands in a file for a field's value."""
    name = field.values.get(value)
    if name is None:
        return f"{_CODE}{value}" if field.values else value
    return int(name) if name.isdecimal() else name


def field_value(field: NamedField, text: object) -> int:
    """The inverse. Raises ValueError that names the field and what it may be."""
    if isinstance(text, bool):
        # YAML 1.1 takes on and off for booleans.
        text = int(text)
    value = _parsed(field, text)
    if value is None or not 0 <= value <= field.bits.mask:
        raise ValueError(f"{field.name} ({field.meaning}) is {choices(field)}, not {text!r}")
    return value


def _parsed(field: NamedField, text: object) -> int | None:
    codes = {name: code for code, name in field.values.items()}
    if str(text) in codes:
        return codes[str(text)]
    if isinstance(text, str):
        number = text.removeprefix(_CODE)
        return int(number) if number != text and number.isdecimal() and number.isascii() else None
    names_are_numbers = any(name.isdecimal() for name in codes)
    return text if isinstance(text, int) and not names_are_numbers else None


def choices(field: NamedField) -> str:
    """What a field may be, for a person."""
    if field.values:
        return " | ".join(field.values.values())
    return f"0 to {field.bits.mask}"


def word_fields(word: ConfigWord) -> dict[str, int | str]:
    """All fields of a word, by name."""
    return {field.name: value_text(field, getattr(word, field.name)) for field in word.TABLE}


def as_word(kind: type[Word], value: object) -> Word:
    """A word from itself, its number or its fields. Raises ValueError that names the field."""
    if isinstance(value, kind):
        return kind.from_word(value.word)
    if isinstance(value, int) and not isinstance(value, bool):
        return kind.from_word(value)
    if not isinstance(value, Mapping):
        raise ValueError(f"{kind.__name__} is given by its fields or its word, not by {value!r}")
    names = [field.name for field in kind.TABLE]
    _same_names(names, value)
    return kind(**{field.name: field_value(field, value[field.name]) for field in kind.TABLE})


def _same_names(names: list[str], given: Mapping[object, object]) -> None:
    missing = [name for name in names if name not in given]
    unknown = [str(name) for name in given if name not in names]
    if missing or unknown:
        parts = [f"missing: {', '.join(missing)}"] * bool(missing) + [f"unknown: {', '.join(unknown)}"] * bool(unknown)
        raise ValueError("; ".join(parts))
