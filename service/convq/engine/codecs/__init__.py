"""The picture formats of the protocol, a module each: what a file's header says, and the pixels behind it.

Every module walks the file's container itself, takes what the first picture needs and nothing else, and lets Pillow
unpack that. So metadata costs nothing, whatever it unpacks to; a file's later pages and frames are never looked at;
and depth, byte order, transparency and orientation are read here, where each combination is known to be right or is
refused by name.
"""
