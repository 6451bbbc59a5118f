"""A configuration as YAML that a person likes to read: sections, a setting a line, its meaning and unit beside it.

Pixel matrices do not stand in it, only their digests: they are in the file beside. The last line but one is a checksum
of all values; whoever changes a value by hand deletes it. The last line, `...`, tells a whole file from a cut one.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from ophyd_timepix.protocol import PixelMatrix
from ophyd_timepix.protocol.chip_config import ConfigWord

from .dac_values import DacValues
from .errors import ConfigError
from .human import choices, word_fields

FORMAT: Final = "ophyd_timepix configuration"
VERSION: Final = 1
END: Final = "..."
_BREAKS: Final = frozenset("\n\r\x85\u2028\u2029")
"""What YAML takes for the end of a line: inside a value it is escaped."""
_MAX_TEXT: Final = 1_000_000
_MAX_QUOTE: Final = 80
_COMMENT_COLUMN: Final = 52
_WIDTH: Final = 140
_MARK: Final = "\0"
"""Between a line and its comment, until the comments are aligned; no text of a file can hold it."""
_HEX_FIELDS: Final = frozenset({"header_filter", "tdc"})
_FLAT_LIST_WIDTH: Final = 16

_HEAD: Final = f"""\
# Settings of a Timepix3 detector. Edit it as you like, then delete the line `checksum`.
# A section that is left out says nothing: what it is about stays as it is.
# Pixels (mask, threshold adjustment, test bits) are in the file {{matrix_file}} beside.

format: {FORMAT}
version: {VERSION}
"""


# --- to text ----------------------------------------------------------------------------------------------------------
def to_text(config: BaseModel, kind: str, matrix_file: str, checksum: str) -> str:
    """The whole file."""
    head = _HEAD.format(matrix_file=matrix_file) + f"kind: {kind}\n"
    body = ["", "board:", *_indented(_model_lines(config))] if kind == "board" else _section_lines(config)
    tail = f"\n# Of all values: delete this line after a change by hand.\nchecksum: {checksum}\n{END}\n"
    return head + "".join(_aligned(line) + "\n" for line in body) + tail


def _aligned(line: str) -> str:
    """Comments below each other; above their line where they are too long."""
    text, _, comment = line.partition(_MARK)
    if not comment:
        return text
    beside = f"{text:<{_COMMENT_COLUMN}}  # {comment}"
    return beside if len(beside) <= _WIDTH else f"{_indent_of(text)}# {comment}\n{text}"


def _indent_of(text: str) -> str:
    return " " * (len(text) - len(text.lstrip(" ")))


def _section_lines(config: BaseModel) -> Iterator[str]:
    """The fields of the outermost model, with an empty line before each section."""
    for name in type(config).model_fields:
        if isinstance(getattr(config, name), BaseModel):
            yield ""
        yield from _field_lines(config, name)


def _model_lines(model: BaseModel) -> Iterator[str]:
    for name in type(model).model_fields:
        yield from _field_lines(model, name)


def _field_lines(model: BaseModel, name: str) -> Iterator[str]:
    value, meaning = getattr(model, name), type(model).model_fields[name].description or ""
    if value is None:
        return
    if isinstance(value, PixelMatrix):
        yield f"# {value!r}".replace("PixelMatrix(", "").rstrip(")")
        yield f"{name}: {value.digest()}"
    elif isinstance(value, BaseModel | DacValues | ConfigWord):
        # The single DACs say more than the list of all.
        yield _line(f"{name}:", "" if isinstance(value, DacValues) else meaning)
        yield from _indented(_group_lines(value))
    elif isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
        yield f"{name}:"
        for number, item in enumerate(value):
            yield from [""] * bool(number)
            yield from _item_lines(item)
    elif isinstance(value, tuple):
        yield from _list_lines(name, value, meaning)
    else:
        yield _line(f"{name}: {hex(value) if name in _HEX_FIELDS else scalar(_plain(value))}", meaning)


def _group_lines(value: BaseModel | DacValues | ConfigWord) -> Iterator[str]:
    if isinstance(value, DacValues):
        for dac, code in value.by_dac().items():
            yield _line(f"{dac.name.lower()}: {code}", f"0 to {dac.max}: {dac.meaning}")
    elif isinstance(value, ConfigWord):
        texts = word_fields(value)
        for field in value.TABLE:
            yield _line(f"{field.name}: {_switch(texts[field.name])}", f"{field.meaning}: {choices(field)}")
    else:
        yield from _model_lines(value)


def _switch(text: int | str) -> str:
    """on and off without quotes: YAML takes them for booleans, and so they are read."""
    return str(text) if text in ("on", "off") else scalar(text)


def _item_lines(item: BaseModel) -> Iterator[str]:
    first, *others = _model_lines(item)
    yield "- " + first
    yield from _indented(others)


def _list_lines(name: str, values: tuple[object, ...], meaning: str) -> Iterator[str]:
    if not values or isinstance(values[0], tuple):
        yield _line(f"{name}: {scalar([list(v) if isinstance(v, tuple) else v for v in values])}", meaning)
        return
    yield _line(f"{name}: [", meaning)
    for start in range(0, len(values), _FLAT_LIST_WIDTH):
        yield "  " + ", ".join(map(str, values[start : start + _FLAT_LIST_WIDTH])) + ","
    yield "]"


def _indented(lines: Iterable[str]) -> Iterator[str]:
    return (f"  {line}" if line else "" for line in lines)


def _line(text: str, meaning: str) -> str:
    return f"{text}{_MARK}{meaning}" if meaning else text


def _plain(value: object) -> object:
    """A value as its model writes it: enumerations by name."""
    if isinstance(value, str):
        return str(value)
    return value.name.lower() if hasattr(value, "name") else value


def scalar(value: object) -> str:
    """A single value in YAML, on one line."""
    text = _dump(value, None)
    return text if not _BREAKS.intersection(text) else _dump(value, '"')


def _dump(value: object, style: str | None) -> str:
    text: str = yaml.safe_dump(value, default_flow_style=True, default_style=style, width=1 << 30, allow_unicode=True)
    return text.removesuffix("...\n").rstrip("\n")


# --- from text --------------------------------------------------------------------------------------------------------
class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice: which of the two would count?"""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
    for index, key in enumerate(keys):
        if key in keys[:index]:
            raise yaml.constructor.ConstructorError(
                "in a mapping", node.start_mark, f"{key!r} stands twice", node.value[index][0].start_mark
            )
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)

_TROUBLE: Final = (yaml.YAMLError, ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError)
"""What PyYAML raises for broken text, and for text whose tags do not fit their values."""


def from_text(data: bytes) -> dict[str, Any]:
    """The values of a file, not validated yet. Raises ConfigError for what is cut or no YAML of this format."""
    if len(data) > _MAX_TEXT:
        raise ConfigError(f"it has {len(data)} bytes: a configuration has less than {_MAX_TEXT}")
    try:
        text = data.decode()
        values = yaml.load(text, _Loader)
    except _TROUBLE as error:
        raise ConfigError(f"it cannot be read as YAML ({_one_line(error)}); take a copy that was not damaged") from None
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise ConfigError(f"it is no configuration: the line `format: {FORMAT}` is not there")
    if values.get("version") != VERSION:
        raise ConfigError(f"it has the format version {values.get('version')!r}; this program reads version {VERSION}")
    if text.rstrip().rpartition("\n")[2] != END:
        raise ConfigError(
            f"it ends early: the last line, `{END}`, is not there; take a copy that is whole, "
            "or add the line if you wrote the file by hand"
        )
    return values


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def explain(error: ValidationError, model: type[BaseModel], prefix: str = "") -> str:
    """What is wrong with some values, for a person: each by its place, with its value and what it may be."""
    return "; ".join(_explain_one(details, model, prefix) for details in error.errors(include_url=False))


def _explain_one(details: Any, model: type[BaseModel], prefix: str) -> str:
    place = prefix + ".".join(map(str, details["loc"])) or "the values"
    kind, message = details["type"], details["msg"]
    if kind == "extra_forbidden":
        return f"{place} is no setting"
    if kind == "missing":
        return f"{place} is missing"
    if kind == "value_error":
        why = message.removeprefix("Value error, ")
        return f"{place}: {why}" if details["loc"] or prefix else why
    field = _field(model, details["loc"])
    what = f" ({field.description})" if field is not None and field.description else ""
    limits = _limits(field) if kind in _OUT_OF_LIMITS else ""
    why = f"it must be {limits}" if limits else f"{message[0].lower()}{message[1:]}"
    return f"{place}{what} cannot be {_short(details['input'])}: {why}"


_OUT_OF_LIMITS: Final = {"greater_than", "greater_than_equal", "less_than", "less_than_equal", "finite_number"}
_LIMITS: Final = {"gt": "more than", "ge": "at least", "lt": "less than", "le": "at most"}


def _limits(field: FieldInfo | None) -> str:
    """What a number may be, both ends."""
    told = [
        f"{words} {getattr(limit, name):,.10g}"
        for limit in (field.metadata if field is not None else ())
        for name, words in _LIMITS.items()
        if hasattr(limit, name)
    ]
    return " and ".join(told)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_QUOTE else f"{text[:_MAX_QUOTE]}..."


def _field(model: Any, place: tuple[int | str, ...]) -> FieldInfo | None:
    """The field at `place`: the innermost one that has a description."""
    found = None
    for name in place:
        fields: Mapping[str, FieldInfo] = getattr(model, "model_fields", {})
        if name in fields:
            field = fields[str(name)]
            found = field if field.description or found is None else found
            model = _inner_model(field.annotation)
    return found


def _inner_model(annotation: Any) -> Any:
    """The model in `Model`, `Model | None` and `tuple[Model, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inner = [_inner_model(part) for part in getattr(annotation, "__args__", ())]
    return next((model for model in inner if model is not None), None)
