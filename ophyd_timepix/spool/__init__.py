"""Where received words rest: a RAM ring, the recording behind it, its index, and other recordings as sources.

The ring and the recording share one byte address: byte `o` of the recording lies at `ring[o mod size]` for as long as
the ring holds it. Understands chunks and bytes, not words; knows no socket and no process.
"""
