"""The configuration words of a chip as signals, one per field; choices and meanings are those of the protocol."""

from dataclasses import replace
from typing import Any, ClassVar

from ophyd import Component as Cpt
from ophyd import Device, Kind

from ..config.human import field_value
from ..protocol.chip_config import ConfigWord, GeneralConfig, OutputBlockConfig, PllConfig
from ..protocol.fields import NamedField
from .signals import Hardware, Scalar
from .text import Text, table


class FieldSignal(Hardware):
    """A field of a configuration word: a name of its table (or the code), else a number.

    A code without a name in the table reads as `code N`. Where the names are numbers (`phases`), a number is a name.
    """

    recorded = True

    def __init__(self, *, parent: "Word", attr_name: str, **kwargs: Any) -> None:
        self.field: NamedField = next(field for field in parent.WORD.TABLE if field.name == attr_name)
        default = self._named(getattr(parent.WORD(), attr_name))
        names = tuple(self.field.values.values())
        form: dict[str, Any] = {"choices": names} if names else {"limits": (0, self.field.bits.mask)}
        super().__init__(
            parent=parent, attr_name=attr_name, value=default, meaning=self.field.meaning, **form, **kwargs
        )

    def ask(self) -> Scalar:
        return self.of(self.parent.ask())

    def tell(self, value: Scalar) -> None:
        with self.root.exclusive():
            self.parent.tell(replace(self.parent.ask(), **{self.field.name: self.code(value)}))

    def of(self, word: ConfigWord) -> Scalar:
        """The field's value in a word, named."""
        return self._named(int(getattr(word, self.field.name)))

    def code(self, value: Scalar) -> int:
        """The number that stands in the word for a value."""
        return field_value(self.field, value)

    def _choice(self, value: Any) -> Scalar:
        try:
            return self._named(field_value(self.field, value))
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from None

    def _named(self, code: int) -> Scalar:
        return self.field.values.get(code, f"code {code}") if self.field.values else int(code)

    @property
    def source(self) -> str:
        shift, width = self.field.bits.shift, self.field.bits.width
        bits = f"{shift}" if width == 1 else f"{shift}-{shift + width - 1}"
        return f"SPIDR:chip{self.parent.parent.parent.index}:{self.parent.REGISTER}:bit {bits}"


class Word(Device):
    """A configuration word. Setting a field leaves the others as they are."""

    WORD: ClassVar[type[ConfigWord]] = ConfigWord
    REGISTER: ClassVar[str] = ""
    VERB: ClassVar[str] = ""

    @property
    def _chip(self) -> Any:
        return self.parent.parent.control

    def ask(self) -> Any:
        """The word, read from the chip."""
        return getattr(self._chip, self.VERB)()

    def tell(self, word: ConfigWord) -> None:
        """Set the word and read it back."""
        getattr(self._chip, f"set_{self.VERB}")(word)

    def refresh(self) -> None:
        """Ask the chip once, for all fields."""
        word = self.ask()
        for signal in self.fields():
            signal.note(signal.of(word))

    @property
    def last(self) -> Any:
        """The word as last seen."""
        return self.WORD(**{signal.field.name: signal.code(signal.last) for signal in self.fields()})

    def fields(self) -> list[FieldSignal]:
        """The signals of the word's fields."""
        return [getattr(self, name) for name in self.component_names]

    def __repr__(self) -> str:
        rows = [(self.REGISTER, "value", "range", "meaning")]
        rows += [(signal.attr_name, signal.shown, signal.range, signal.meaning) for signal in self.fields()]
        return table(rows)


def _field() -> Any:
    return Cpt(FieldSignal, kind=Kind.config)


class General(Word):
    """What the pixels measure, and how."""

    WORD, REGISTER, VERB = GeneralConfig, "GENCONFIG", "general_config"

    polarity = _field()
    mode = _field()
    gray_counter = _field()
    ack_command = _field()
    test_pulse = _field()
    fast_toa = _field()
    timer_overflow = _field()
    unused = _field()
    test_pulse_digital = _field()
    test_pulse_external = _field()
    toa_system_clock = _field()


class Pll(Word):
    """The clocks of the matrix. They decide the column phase of the times."""

    WORD, REGISTER, VERB = PllConfig, "PLLCONFIG", "pll_config"

    bypass = _field()
    run = _field()
    vcntrl_from_pll = _field()
    dual_edge = _field()
    divider = _field()
    phases = _field()
    pll_out = _field()


class OutputBlock(Word):
    """The links of the chip."""

    WORD, REGISTER, VERB = OutputBlockConfig, "OUTBLOCKCONFIG", "output_block_config"

    ports = _field()
    clock_source = _field()
    code_8b10b = _field()
    fast_clock_out = _field()
    clock_out = _field()


class ChipWords(Device):
    """The configuration words of a chip."""

    general = Cpt(General, "", kind=Kind.config)
    pll = Cpt(Pll, "", kind=Kind.config)
    output_block = Cpt(OutputBlock, "", kind=Kind.config)

    def refresh(self) -> None:
        """Ask the chip for the three words."""
        for word in self.words():
            word.refresh()

    def words(self) -> tuple[Word, ...]:
        """The three words."""
        return (self.general, self.pll, self.output_block)

    def summary(self) -> Text:
        """All fields with value, range and meaning. Asks the chip."""
        self.refresh()
        return Text(repr(self))

    def __repr__(self) -> str:
        return Text("\n\n".join(map(repr, self.words())))
