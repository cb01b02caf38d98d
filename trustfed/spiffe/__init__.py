"""SPIFFE and nothing else: IDs, bundles, SVIDs and their verification.

Pure: bytes, state and time in, a value or a refusal out. No I/O, no clock, no configuration, no randomness but that of
a signature. Every verification names the trust domain first and looks only in that domain's bundle.
"""
