"""The small engine: one instruction after the other, with its memory on the chip (docs/micro.md)."""
