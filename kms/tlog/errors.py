"""What can be wrong with a log.

TlogError
├── TreeError       a question about leaves that the tree does not have
├── TileError       a tile that is missing, too short or of a broken size
├── FormatError     bytes that do not follow their format
├── ProofError      a proof that does not lead to the root
└── SignatureError  a note that no known key signed, or that one signed wrongly
"""


class TlogError(Exception):
    """Root of all errors of this package."""


class TreeError(TlogError):
    """Asked for something outside the tree."""


class TileError(TlogError):
    """A tile is missing, too short for the tree, or not a sequence of hashes."""


class FormatError(TlogError):
    """Bytes that do not follow their format; the message says where."""


class ProofError(TlogError):
    """The proof does not show what it claims."""


class SignatureError(TlogError):
    """No known key signed the note, or one signed it wrongly."""
