"""Training data: sets of pictures or clips in memory, and random crops of them.

`pictures` and `clip_set` hold them, behind the interface of `crops`. `readers` and `clip_reader` read files, `clips`
the frames of videos. `loading` reads a set at once, `stream` replaces it shard by shard; `training_set` chooses.
"""
