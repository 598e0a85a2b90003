"""Files, pictures and videos: everything that touches the disk, Pillow or PyAV, without torch.

`pictures` reads pictures into `Picture`, `picture_files` writes them; `metadata` and `colour` handle EXIF, XMP, ICC and
CICP. `video_source` reads videos and animations, `video_target` writes videos, and `clip_kinds` tells them from
pictures; `clip_files` writes short clips and contact sheets. `sources` reads folders, tar shards and URLs that
`locations` names; `places` finds, reads and writes the files of collections. `files` writes whole files or none,
`resampling` changes the resolution of pictures.

Import `Picture` from `picture`, `load_image` from `pictures`, `save_image` from `picture_files`, `atomic_write` from
`files`, `pictures_of` and `videos_of` from `sources`. A picture that cannot be read or written raises `ImageError`.
"""
