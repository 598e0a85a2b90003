"""Training data: `pictures` holds pictures in memory, `loading` reads them, `stream` replaces them shard by shard.

`clips` reads videos.
"""
