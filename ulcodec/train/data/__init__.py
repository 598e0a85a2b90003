"""Training pictures: `pictures` holds them in memory, `loading` reads them, `stream` replaces them shard by shard."""
