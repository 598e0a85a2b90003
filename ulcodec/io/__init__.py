"""Files and pictures: everything that touches the disk or Pillow, without torch.

`pictures` reads pictures into `Picture`, `picture_files` writes them; `metadata` and `colour` handle EXIF, XMP, ICC and
CICP. `sources` reads folders, tar shards and URLs that `locations` names. `files` writes whole files or none.
"""
