"""UDP sockets to ring and recording: one receive thread per chip, one writer thread. Understands no word."""
