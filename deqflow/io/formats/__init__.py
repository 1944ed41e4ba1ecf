"""Flow file formats, one module each: bytes to flow and validity, and back.

`decode` takes a file's bytes, never its name, so that no format can reach another file. It raises ValueError
with the reason where the bytes are not what the format says, and takes memory only for sizes that the bytes
can hold.
"""
