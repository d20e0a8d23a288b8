"""The ways in, without IO: proof of the sender, handshakes, and source profiles that map foreign payloads."""
