"""Named bit fields of a register or configuration word: the form in which this room's tables state them."""

from dataclasses import dataclass, field

from .words import Field


@dataclass(frozen=True)
class NamedField:
    """A bit field with its name, its meaning, and the names of its values where they have any."""

    name: str
    bits: Field
    meaning: str
    values: dict[int, str] = field(default_factory=dict, hash=False)

    def get(self, word: int) -> int:
        """The field's value in `word`."""
        return self.bits.get(word)

    def put(self, word: int, value: int) -> int:
        """`word` with the field set to `value`. Raises ValueError when it does not fit."""
        if not 0 <= value <= self.bits.mask:
            raise ValueError(f"{self.name} is 0 to {self.bits.mask} ({self.bits.width} bits), not {value}")
        return (word & ~(self.bits.mask << self.bits.shift)) | value << self.bits.shift


def bit_field(name: str, shift: int, width: int, meaning: str, values: dict[int, str] | None = None) -> NamedField:
    """A table entry: `width` bits from bit `shift` up."""
    return NamedField(name, Field(shift, width), meaning, values or {})
